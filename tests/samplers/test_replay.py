"""The ring of persistent chains."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vaebm.errors import UsageError
from vaebm.noise import RowGenerators, generator_for
from vaebm.samplers.replay import ReplayBuffer

D = 2


def chains(*numbers: int) -> Tensor:
    """Chain states that carry a number each."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None].expand(-1, D).clone()


def stored(buffer: ReplayBuffer) -> list[int]:
    ring = buffer.state_dict()["ring"]
    assert isinstance(ring, Tensor)
    return ring[:, 0].int().tolist()


def filled(capacity: int, reuse_prob: float = 1.0, ramp_steps: int = 0) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, reuse_prob, ramp_steps)
    buffer.push(chains(*range(capacity)))
    return buffer


def test_new_buffer_is_empty() -> None:
    assert len(ReplayBuffer(5)) == 0


def test_length_counts_stored_chains_up_to_the_capacity() -> None:
    buffer, lengths = ReplayBuffer(5), []
    for _ in range(4):
        buffer.push(chains(0, 1))
        lengths.append(len(buffer))
    assert lengths == [2, 4, 5, 5]


def test_push_stores_chains_in_order() -> None:
    buffer = ReplayBuffer(5)
    buffer.push(chains(1, 2))
    buffer.push(chains(3))
    assert stored(buffer) == [1, 2, 3]


def test_push_replaces_the_oldest_chains_first() -> None:
    buffer, contents = ReplayBuffer(3), []
    for first in range(0, 10, 2):
        buffer.push(chains(first, first + 1))
        contents.append(sorted(stored(buffer)))
    assert contents == [[0, 1], [1, 2, 3], [3, 4, 5], [5, 6, 7], [7, 8, 9]]


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_push_keeps_the_last_rows_of_more_than_capacity(before: int) -> None:
    buffer = ReplayBuffer(3)
    buffer.push(chains(*range(100, 100 + before)))
    buffer.push(chains(0, 1, 2, 3, 4))
    assert sorted(stored(buffer)) == [2, 3, 4]


def test_push_stores_whole_states_bit_for_bit() -> None:
    buffer, state = ReplayBuffer(4), torch.randn(4, 7)
    buffer.push(state)
    ring = buffer.state_dict()["ring"]
    assert isinstance(ring, Tensor)
    assert torch.equal(ring, state)


def test_push_copies_the_states() -> None:
    buffer, state = ReplayBuffer(2), chains(1, 2)
    buffer.push(state)
    state.zero_()
    assert stored(buffer) == [1, 2]


def test_push_keeps_no_graph() -> None:
    buffer = ReplayBuffer(2)
    buffer.push(chains(1, 2).requires_grad_() * 2)
    ring = buffer.state_dict()["ring"]
    assert isinstance(ring, Tensor)
    assert not ring.requires_grad


def test_mix_leaves_fresh_chains_alone_when_nothing_is_stored() -> None:
    fresh = chains(-1, -2, -3)
    mixed = ReplayBuffer(5, 1.0, 0).mix(fresh, 0, generator=generator_for(0))
    assert torch.equal(mixed, chains(-1, -2, -3))


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.0), (10, 0.06), (50, 0.3), (100, 0.6), (1000, 0.6)]
)
def test_reuse_probability_grows_linearly_to_its_largest(step: int, expected: float) -> None:
    assert ReplayBuffer(5, 0.6, ramp_steps=100).reuse_prob_at(step) == pytest.approx(expected)


def test_reuse_probability_is_the_largest_at_once_without_a_ramp() -> None:
    assert ReplayBuffer(5, 0.6, ramp_steps=0).reuse_prob_at(0) == 0.6


@pytest.mark.parametrize(("step", "prob"), [(100, 0.6), (50, 0.3)])
def test_share_of_reused_rows_is_the_probability_of_reuse(step: int, prob: float) -> None:
    number = 10_000
    buffer = filled(number, reuse_prob=0.6, ramp_steps=100)
    mixed = buffer.mix(torch.full((number, D), -1.0), step, generator=generator_for(0))
    share = (mixed[:, 0] >= 0).float().mean()
    assert abs(share - prob) < 5 * (prob * (1 - prob) / number) ** 0.5


def test_mix_reuses_nothing_at_probability_zero() -> None:
    mixed = filled(50, reuse_prob=0.0).mix(chains(-1, -2), 10**6, generator=generator_for(0))
    assert torch.equal(mixed, chains(-1, -2))


def test_mixed_rows_are_stored_chains_or_the_fresh_ones_in_place() -> None:
    buffer = filled(50, reuse_prob=0.5)
    fresh = -1 - torch.arange(40.0)[:, None].expand(-1, D)
    mixed = buffer.mix(fresh, 0, generator=generator_for(0))
    kept = mixed[:, 0] < 0
    assert 0 < kept.sum() < 40
    assert torch.equal(mixed[kept], fresh[kept])
    assert set(mixed[~kept, 0].int().tolist()) <= set(range(50))
    assert torch.equal(mixed[:, 0], mixed[:, 1])


def test_mix_draws_without_replacement() -> None:
    mixed = filled(50).mix(torch.full((50, D), -1.0), 0, generator=generator_for(0))
    assert sorted(mixed[:, 0].int().tolist()) == list(range(50))


def test_mix_draws_every_stored_chain_equally_often() -> None:
    buffer, generator, repeats = filled(5), generator_for(0), 4_000
    draws = [buffer.mix(chains(-1), 0, generator=generator)[0, 0] for _ in range(repeats)]
    shares = torch.stack(draws).int().bincount(minlength=5) / repeats
    assert ((shares - 0.2).abs() < 5 * (0.2 * 0.8 / repeats) ** 0.5).all()


def test_mix_reuses_no_more_chains_than_are_stored() -> None:
    mixed = filled(3).mix(torch.full((8, D), -1.0), 0, generator=generator_for(0))
    assert sorted(mixed[:, 0].int().tolist()) == [-1] * 5 + [0, 1, 2]


def test_mix_changes_neither_the_fresh_chains_nor_the_ring() -> None:
    buffer, fresh = filled(4), chains(-1, -2)
    buffer.mix(fresh, 0, generator=generator_for(0)).zero_()
    assert torch.equal(fresh, chains(-1, -2))
    assert stored(buffer) == [0, 1, 2, 3]


@pytest.mark.parametrize("rows", [False, True])
def test_mix_is_a_function_of_its_generator(rows: bool) -> None:
    buffer, fresh = filled(50, reuse_prob=0.5), torch.full((8, D), -1.0)
    generators = [RowGenerators(0, range(8)) if rows else generator_for(0) for _ in range(2)]
    first, second = (buffer.mix(fresh, 0, generator=generator) for generator in generators)
    assert torch.equal(first, second)


def test_reused_chains_take_the_dtype_of_the_fresh_ones() -> None:
    mixed = filled(4).mix(chains(-1, -2).double(), 0, generator=generator_for(0))
    assert mixed.dtype == torch.float64


def resumed(buffer: ReplayBuffer) -> ReplayBuffer:
    other = ReplayBuffer(buffer.capacity, buffer.reuse_prob, buffer.ramp_steps)
    other.load_state_dict(buffer.state_dict())
    return other


@pytest.mark.parametrize("pushed", [0, 1, 3, 4, 5, 7, 8, 11])
def test_resumed_buffer_goes_on_as_the_first_one_would(pushed: int) -> None:
    buffer = ReplayBuffer(4, reuse_prob=0.5, ramp_steps=0)
    for number in range(pushed):
        buffer.push(chains(number))
    other = resumed(buffer)
    for number in range(3):
        mixed = [
            b.mix(chains(-1, -2, -3), 0, generator=generator_for(number)) for b in (buffer, other)
        ]
        assert torch.equal(*mixed)
        for each in (buffer, other):
            each.push(chains(50 + number))
        assert stored(other) == stored(buffer)


def test_state_dict_survives_a_file_of_plain_data(tmp_path: Path) -> None:
    buffer = filled(4)
    buffer.push(chains(9))
    torch.save(buffer.state_dict(), tmp_path / "chains.pt")
    other = ReplayBuffer(4)
    other.load_state_dict(torch.load(tmp_path / "chains.pt", weights_only=True))
    assert stored(other) == stored(buffer) == [9, 1, 2, 3]


def test_state_dict_holds_only_stored_chains() -> None:
    buffer = ReplayBuffer(1000)
    buffer.push(chains(1, 2))
    ring = buffer.state_dict()["ring"]
    assert isinstance(ring, Tensor)
    assert ring.untyped_storage().nbytes() == 2 * D * 4


def test_state_dict_does_not_change_with_later_pushes() -> None:
    buffer = filled(3)
    state = buffer.state_dict()
    buffer.push(chains(7, 8, 9))
    assert isinstance(state["ring"], Tensor)
    assert state["ring"][:, 0].tolist() == [0, 1, 2]


def test_loading_replaces_what_was_stored() -> None:
    buffer = filled(3)
    buffer.load_state_dict(ReplayBuffer(3).state_dict())
    assert len(buffer) == 0


def test_loading_refuses_another_capacity() -> None:
    with pytest.raises(UsageError, match="capacity 3, the buffer's is 4"):
        ReplayBuffer(4).load_state_dict(filled(3).state_dict())


@pytest.mark.parametrize(
    "kwargs",
    [{"reuse_prob": 1.5}, {"reuse_prob": -0.1}, {"capacity": 0}, {"ramp_steps": -1}],
)
def test_bad_arguments_raise(kwargs: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ReplayBuffer(**kwargs)  # type: ignore[arg-type]
