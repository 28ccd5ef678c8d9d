"""The kernel distance against its formula and against torch-fidelity."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.fidelity import SmallFeatures, published_figures
from vaebm.errors import DataError, UsageError
from vaebm.metrics import KernelDistance
from vaebm.noise import generator_for

pytest.importorskip("torch_fidelity")


def features(count: int, seed: int) -> Tensor:
    return torch.randn(count, 6, generator=generator_for(seed), dtype=torch.float64) + seed / 4


def distance(real: Tensor, fake: Tensor, **options: int) -> tuple[float, float]:
    metric = KernelDistance(real, **options)
    metric.update(fake, torch.arange(len(fake)))
    mean, std = metric.compute()
    return float(mean), float(std)


def test_one_subset_of_everything_is_the_formula_in_numpy() -> None:
    x, y = features(40, 1).numpy(), features(40, 2).numpy()

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 6 + 1) ** 3

    off = ~np.eye(40, dtype=bool)
    expected = kernel(x, x)[off].mean() + kernel(y, y)[off].mean() - 2 * kernel(x, y).mean()
    found = distance(features(40, 1), features(40, 2), subsets=1, subset_size=40)
    assert found == (pytest.approx(expected, rel=1e-9), 0.0)


def test_it_is_zero_on_average_where_both_sides_are_alike() -> None:
    real = torch.randn(800, 6, generator=generator_for(1))
    fake = torch.randn(800, 6, generator=generator_for(2))
    assert abs(distance(real, fake, subset_size=200)[0]) < 0.05
    assert distance(real, fake + 1, subset_size=200)[0] > 1


def test_it_equals_torch_fidelity() -> None:
    real, fake = (torch.rand(n, 3, 8, 8, generator=generator_for(n)) for n in (61, 51))
    expected = published_figures(fake, real, fid=False, isc=False, kid_subset_size=30)
    rounded = [SmallFeatures()(x.mul(255).round() / 255).pooled for x in (real, fake)]
    found = distance(*rounded, subset_size=30)
    assert found[0] == pytest.approx(expected["kid"], rel=1e-9)
    assert found[1] == pytest.approx(expected["kid_std"], rel=1e-9)


def test_order_and_batches_do_not_matter() -> None:
    real, fake, order = features(51, 1), features(51, 2), torch.randperm(51)
    metric = KernelDistance(real, subset_size=20)
    for chosen in order.split(20):
        metric.update(fake[chosen], chosen)
    assert float(metric.compute()[0]) == distance(real, fake, subset_size=20)[0]


@pytest.mark.parametrize(("num_real", "num_fake"), [(9, 20), (20, 9), (20, 0)])
def test_fewer_images_than_a_subset_are_refused(num_real: int, num_fake: int) -> None:
    metric = KernelDistance(features(num_real, 1), subset_size=10)
    if num_fake:
        metric.update(features(num_fake, 2), torch.arange(num_fake))
    with pytest.raises(DataError, match=r"^[09] (real|generated) images make no subset of 10:"):
        metric.compute()


def test_numbers_that_make_no_sense_are_refused() -> None:
    for options in ({"subsets": 0}, {"subset_size": 1}):
        with pytest.raises(UsageError, match="needs subsets ≥ 1 and subset_size ≥ 2"):
            KernelDistance(features(20, 1), **options)
