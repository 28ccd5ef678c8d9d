import math

import pytest
import torch
from torch import Tensor

from vaebm.errors import DataError
from vaebm.metrics import ClassCoverage, ModeCoverage

CENTERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def coverage(*batches: list[list[float]]) -> dict[str, Tensor]:
    metric = ModeCoverage(CENTERS, radius=0.25)
    for batch in batches:
        metric.update(torch.tensor(batch))
    return metric.compute()


def test_modes_counts_centres_with_a_sample_within_the_radius() -> None:
    assert coverage([[0.1, 0.0], [0.0, -0.1], [1.0, 0.2], [0.0, 0.7]])["modes"] == 2


def test_high_quality_is_the_share_of_samples_within_the_radius() -> None:
    assert coverage([[0.1, 0.0], [1.0, 1.1], [0.5, 0.5], [9.0, 9.0]])["high_quality"] == 0.5


def test_radius_itself_is_within() -> None:
    assert coverage([[0.25, 0.0]])["high_quality"] == 1


def test_mode_kl_is_zero_for_equal_counts() -> None:
    assert coverage(CENTERS.tolist())["mode_kl"] == 0


def test_mode_kl_is_log_m_for_a_single_mode() -> None:
    assert coverage([[0.0, 0.0]] * 3)["mode_kl"] == pytest.approx(math.log(4))


def test_mode_kl_of_a_hand_made_histogram_is_exact() -> None:
    kl = coverage([[0.0, 0.0]] * 2 + [[1.0, 0.0], [1.0, 1.0]])["mode_kl"]
    assert kl == pytest.approx(0.5 * math.log(2))  # ½ log(4/2) + 2 · ¼ log(4/4)


def test_mode_kl_ignores_samples_between_the_modes() -> None:
    assert coverage([*CENTERS.tolist(), [0.5, 0.5], [0.5, 0.0]])["mode_kl"] == 0


def test_without_a_good_sample_mode_kl_is_at_its_largest() -> None:
    figures = coverage([[9.0, 9.0]])
    assert figures["modes"] == figures["high_quality"] == 0
    assert figures["mode_kl"] == pytest.approx(math.log(4))


def test_samples_that_are_not_numbers_count_as_bad() -> None:
    assert coverage([[math.nan, 0.0], [0.0, 0.0]])["high_quality"] == 0.5


def test_two_updates_equal_one() -> None:
    first, second = [[0.1, 0.0], [1.0, 1.0]], [[0.5, 0.5]]
    assert coverage(first, second) == coverage(first + second)


def test_states_of_two_processes_add_up() -> None:
    metric, other = (ModeCoverage(CENTERS, radius=0.25) for _ in range(2))
    metric.update(torch.tensor([[0.0, 0.0]]))
    other.update(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]))
    metric.merge_state(other)
    assert metric.compute() == coverage([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])


def test_without_samples_there_is_a_data_error() -> None:
    metric = ModeCoverage(CENTERS, radius=0.25)
    metric.update(torch.zeros(0, 2))
    with pytest.raises(DataError, match="no samples"):
        metric.compute()


def test_centres_are_not_stored_in_checkpoints() -> None:
    assert not ModeCoverage(CENTERS, radius=0.25).state_dict()


def classes(reference: list[int], *batches: list[int]) -> dict[str, Tensor]:
    metric = ClassCoverage(torch.tensor(reference))
    for batch in batches:
        metric.update(torch.tensor(batch))
    return metric.compute()


def test_classes_of_samples_are_counted_over_batches() -> None:
    found = classes([5, 5, 5, 5], [0, 0, 1], [1, 3])
    assert found["modes"] == 3
    assert classes([1, 1], [1])["modes"] == 1


def test_divergence_of_classes_is_the_formula() -> None:
    found = classes([1, 2, 3, 4], [0, 0, 1, 3])["mode_kl"]
    expected = 0.5 * math.log(0.5 / 0.1) + 0.25 * math.log(0.25 / 0.2) + 0.25 * math.log(0.25 / 0.4)
    assert float(found) == pytest.approx(expected, rel=1e-12)
    assert float(classes([1, 3], [0, 1, 1, 1])["mode_kl"]) == pytest.approx(0, abs=1e-12)


def test_perfect_samples_have_the_bias_that_is_documented() -> None:
    draws = torch.randint(1000, (26_000,), generator=torch.Generator().manual_seed(0))
    found = classes([7] * 1000, draws.tolist())
    assert found["modes"] == 1000
    # 2n times the divergence is χ² with 999 degrees of freedom.
    assert float(found["mode_kl"]) == pytest.approx(999 / 52_000, abs=4 * math.sqrt(1998) / 52_000)


def test_class_states_of_two_processes_add_up() -> None:
    metric, other = (ClassCoverage(torch.tensor([5, 5, 5])) for _ in range(2))
    metric.update(torch.tensor([0, 1]))
    other.update(torch.tensor([1, 2, 2]))
    metric.merge_state(other)
    assert metric.compute() == classes([5, 5, 5], [0, 1, 1, 2, 2])


def test_classes_that_data_or_samples_lack_are_refused() -> None:
    with pytest.raises(DataError, match=r"^2 of 3 classes are not in the data$"):
        classes([0, 0, 1], [2])
    with pytest.raises(DataError, match="needs at least one sample"):
        classes([1, 1])
