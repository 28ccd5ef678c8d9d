from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from vaebm.errors import DataError, UsageError
from vaebm.metrics import FrechetDistance

SHAPE = (1, 2, 3)


class Pixels(nn.Flatten):
    """An extractor whose features are the pixels."""

    num_features = 6


def images(count: int, seed: int) -> Tensor:
    generator = Generator().manual_seed(seed)
    mixing = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    return (torch.randn(count, 6, generator=generator).double() @ mixing + seed).view(-1, *SHAPE)


def frechet(
    real: Tensor, fake: Tensor, extractor: nn.Module | None = None, **kwargs: Any
) -> Tensor:
    metric = FrechetDistance(extractor or Pixels(), **kwargs)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return metric.compute()


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def formula(real: Tensor, fake: Tensor) -> float:
    first, second = real.flatten(1).numpy(), fake.flatten(1).numpy()
    cov1, cov2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = symmetric_root(cov1)
    shift = first.mean(0) - second.mean(0)
    cross = np.trace(symmetric_root(root @ cov2 @ root))
    return float(shift @ shift + np.trace(cov1) + np.trace(cov2) - 2 * cross)


def test_distance_equals_the_formula_in_numpy() -> None:
    real, fake = images(200, 1), images(100, 2)
    assert frechet(real, fake).item() == pytest.approx(formula(real, fake), rel=1e-9)


def test_identical_sets_have_distance_zero() -> None:
    assert frechet(images(50, 1), images(50, 1)).item() == pytest.approx(0, abs=1e-9)


def test_a_shift_has_its_squared_length_as_distance() -> None:
    shift = torch.linspace(-1, 2, 6, dtype=torch.float64).view(SHAPE)
    distance = frechet(images(50, 1), images(50, 1) + shift)
    assert distance.item() == pytest.approx(shift.square().sum().item(), rel=1e-9)


def test_distance_is_float64_for_float32_images() -> None:
    assert frechet(images(9, 1).float(), images(9, 2).float()).dtype == torch.float64


def test_two_updates_equal_one() -> None:
    metric = FrechetDistance(Pixels())
    for batch in images(50, 1).split(20):
        metric.update(batch, real=True)
    for batch in images(50, 2).split(30):
        metric.update(batch, real=False)
    torch.testing.assert_close(metric.compute(), frechet(images(50, 1), images(50, 2)))


def test_states_of_two_processes_add_up() -> None:
    metric, other = (FrechetDistance(Pixels()) for _ in range(2))
    metric.update(images(50, 1)[:20], real=True)
    other.update(images(50, 1)[20:], real=True)
    other.update(images(50, 2), real=False)
    metric.merge_state(other)
    torch.testing.assert_close(metric.compute(), frechet(images(50, 1), images(50, 2)))


def test_reset_can_keep_the_real_images() -> None:
    metric = FrechetDistance(Pixels(), reset_real_features=False)
    metric.update(images(50, 1), real=True)
    metric.update(images(50, 3), real=False)
    metric.reset()
    metric.update(images(50, 2), real=False)
    torch.testing.assert_close(metric.compute(), frechet(images(50, 1), images(50, 2)))


@pytest.mark.parametrize(("num_real", "num_fake"), [(1, 5), (5, 1), (0, 5)])
def test_fewer_than_two_images_are_a_data_error(num_real: int, num_fake: int) -> None:
    with pytest.raises(DataError, match=r"2 (real|fake) images or more"):
        frechet(images(num_real, 1), images(num_fake, 2))


def test_features_that_are_not_finite_are_a_data_error() -> None:
    with pytest.raises(DataError, match="fake images are not finite"):
        frechet(images(5, 1), images(5, 2) * torch.nan)


def test_batch_norms_of_the_extractor_do_not_see_the_batch() -> None:
    extractor = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6)).train()
    distance = frechet(images(50, 1).float(), images(50, 2).float(), extractor, image_shape=SHAPE)
    expected = formula(images(50, 1), images(50, 2)) / (1 + 1e-5)  # variance 1, and its ε
    assert distance.item() == pytest.approx(expected, rel=1e-5)


def test_extractor_itself_is_left_as_it_was() -> None:
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).train()
    FrechetDistance(extractor, image_shape=SHAPE)
    assert extractor.training
    assert extractor[1].weight.requires_grad
    assert extractor[1].weight.dtype == torch.float32


def test_extractor_stays_outside_the_state_dict_and_parameters() -> None:
    metric = FrechetDistance(nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), image_shape=SHAPE)
    assert [*metric.parameters(), *metric.state_dict()] == []


def test_extractor_without_num_features_needs_an_image_shape() -> None:
    with pytest.raises(UsageError, match="give an image_shape"):
        FrechetDistance(nn.Flatten())


def test_extractor_must_give_a_vector_for_each_image() -> None:
    with pytest.raises(UsageError, match=r"features are \(B, D\)"):
        FrechetDistance(nn.Identity(), image_shape=SHAPE)
