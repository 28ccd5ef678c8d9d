"""The Inception score against its formula and against torch-fidelity."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.fidelity import SmallFeatures, published_figures
from vaebm.errors import DataError, UsageError
from vaebm.metrics import InceptionScore
from vaebm.noise import generator_for

pytest.importorskip("torch_fidelity")


def logits(count: int) -> Tensor:
    return 2 * torch.randn(count, 4, generator=generator_for(1), dtype=torch.float64)


def score(rows: Tensor, splits: int = 10, numbers: Tensor | None = None) -> tuple[float, float]:
    metric = InceptionScore(splits)
    metric.update(rows, torch.arange(len(rows)) if numbers is None else numbers)
    mean, std = metric.compute()
    return float(mean), float(std)


def test_one_part_is_the_formula_in_numpy() -> None:
    p = np.exp(logits(51).numpy())
    p /= p.sum(1, keepdims=True)
    expected = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert score(logits(51), 1) == (pytest.approx(expected, rel=1e-12), 0.0)


def test_equal_samples_have_score_one_and_sure_even_classes_their_number() -> None:
    assert score(torch.ones(20, 4))[0] == pytest.approx(1)
    assert score(100 * torch.eye(4).repeat(5, 1), 1)[0] == pytest.approx(4)


def test_it_equals_torch_fidelity() -> None:
    images = torch.rand(51, 3, 8, 8, generator=generator_for(2))
    rounded = images.mul(255).round() / 255
    expected = published_figures(images, images, fid=False, kid=False)
    found = score(SmallFeatures()(rounded).logits)
    assert found[0] == pytest.approx(expected["inception_score"], rel=1e-9)
    assert found[1] == pytest.approx(expected["inception_score_std"], rel=1e-6)


def test_order_and_batches_do_not_matter() -> None:
    rows, order = logits(51), torch.randperm(51)
    metric = InceptionScore()
    for chosen in order.split(20):
        metric.update(rows[chosen], chosen)
    assert float(metric.compute()[0]) == score(rows)[0]


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    score(logits(51))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(DataError, match=r"^9 samples cannot be cut in 10 parts$"):
        score(logits(9))
    with pytest.raises(DataError, match=r"^0 samples"):
        InceptionScore().compute()
    with pytest.raises(UsageError, match="splits is 0"):
        InceptionScore(0)
