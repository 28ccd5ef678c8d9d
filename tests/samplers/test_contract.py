"""What every registered sampler promises, plug-ins included, with its default arguments."""

import pytest
import torch
from torch import Tensor

from tests.samplers.targets import LEVEL, Gaussian
from tests.toys import QuadraticEnergy, half_square
from vaebm.noise import RowGenerators, generator_for
from vaebm.samplers import Sampler, samplers

B, D, K = 6, 4, 3
samplers.load_plugins()


@pytest.fixture(params=samplers.names())
def sampler(request: pytest.FixtureRequest) -> Sampler:
    return samplers[request.param]()


@pytest.fixture
def potential() -> QuadraticEnergy:
    """A potential with parameters of its own, as an energy network has."""
    return QuadraticEnergy(curvature=2.0, centre=0.5)


@pytest.fixture
def start() -> Tensor:
    return torch.randn(B, D)


def test_result_has_shape_and_dtype_of_the_start(
    sampler: Sampler, potential: QuadraticEnergy, start: Tensor
) -> None:
    for dtype in (torch.float32, torch.float64):
        state, _ = sampler.run(potential, start.to(dtype))
        assert (state.shape, state.dtype) == ((B, D), dtype)


def test_result_is_detached(sampler: Sampler, potential: QuadraticEnergy, start: Tensor) -> None:
    state, info = sampler.run(potential, start)
    tensors = [field for field in (state, *info) if field is not None]
    assert not any(tensor.requires_grad for tensor in tensors)


def test_chains_move(sampler: Sampler, potential: QuadraticEnergy, start: Tensor) -> None:
    state, _ = sampler.run(potential, start, generator=generator_for(1))
    assert (state != start).any(dim=1).all()


def test_same_generator_gives_the_same_result(
    sampler: Sampler, potential: QuadraticEnergy, start: Tensor
) -> None:
    states = [sampler.run(potential, start, generator=generator_for(1))[0] for _ in range(2)]
    assert torch.equal(*states)


def test_another_generator_gives_another_result(
    sampler: Sampler, potential: QuadraticEnergy, start: Tensor
) -> None:
    states = [sampler.run(potential, start, generator=generator_for(seed))[0] for seed in (1, 2)]
    assert not torch.equal(*states)


def test_given_generator_is_the_only_source_of_randomness(
    sampler: Sampler, potential: QuadraticEnergy, start: Tensor
) -> None:
    before = torch.get_rng_state()
    sampler.run(potential, start, generator=generator_for(1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rows", [range(3, 4), range(1, 4)])
def test_chain_does_not_depend_on_the_batch_when_rows_have_streams(
    sampler: Sampler, potential: QuadraticEnergy, start: Tensor, rows: range
) -> None:
    whole, _ = sampler.run(potential, start, generator=RowGenerators(7, range(B)))
    part, _ = sampler.run(
        potential, start[rows.start : rows.stop], generator=RowGenerators(7, rows)
    )
    torch.testing.assert_close(part, whole[rows.start : rows.stop])


def test_start_is_not_changed(sampler: Sampler, potential: QuadraticEnergy, start: Tensor) -> None:
    before = start.clone()
    sampler.run(potential, start)
    assert torch.equal(start, before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_result_is_the_same_without_gradients_around_it(
    sampler: Sampler, potential: QuadraticEnergy, start: Tensor, mode: type
) -> None:
    expected, _ = sampler.run(potential, start, generator=generator_for(1))
    with mode():
        state, _ = sampler.run(potential, start + 0, generator=generator_for(1))
    torch.testing.assert_close(state, expected)


def test_parameters_have_no_gradient_afterwards(
    sampler: Sampler, potential: QuadraticEnergy, start: Tensor
) -> None:
    sampler.run(potential, start)
    assert all(parameter.grad is None for parameter in potential.parameters())


def test_infos_are_stacked_over_steps(
    sampler: Sampler, potential: QuadraticEnergy, start: Tensor
) -> None:
    _, info = sampler.run(potential, start)
    fields = [field for field in info if field is not None]
    assert {field.shape for field in fields} == {(sampler.num_steps, B)}


def test_number_of_steps_can_be_given(
    sampler: Sampler, potential: QuadraticEnergy, start: Tensor
) -> None:
    _, info = sampler.run(potential, start, num_steps=K)
    assert info.potential.shape == info.grad_norm.shape == (K, B)


def test_infos_are_finite(sampler: Sampler, potential: QuadraticEnergy, start: Tensor) -> None:
    _, info = sampler.run(potential, start)
    assert all(field.isfinite().all() for field in info if field is not None)


def test_acceptance_is_a_probability_where_there_is_one(
    sampler: Sampler, potential: QuadraticEnergy, start: Tensor
) -> None:
    _, info = sampler.run(potential, start)
    if info.accept_prob is None:
        pytest.skip("this kernel has no acceptance test")
    assert 0 <= info.accept_prob.min() <= info.accept_prob.max() <= 1


def test_standard_normal_is_left_as_it_is(sampler: Sampler) -> None:
    chains = 2_000
    start = torch.randn(chains, 2, generator=generator_for(3))
    state, _ = sampler.run(half_square, start, generator=generator_for(4))
    # 5 standard errors of 2,000 chains' mean and variance, 0.11 and 0.16, and room for a bias.
    assert (state.mean(0).abs() < 0.15).all()
    assert ((state.var(0) - 1).abs() < 0.2).all()


def test_exact_draws_stay_exact_where_the_kernel_says_so(sampler: Sampler) -> None:
    if not sampler.leaves_target:
        pytest.skip("this kernel has a bias, and says so")
    target = Gaussian(condition=400)  # narrow enough for steps of the default size to fail it
    state, _ = sampler.run(target, target.draw(20_000, 5), generator=generator_for(6))
    assert target.p_value(state) > LEVEL


def test_chains_of_one_step_after_the_other_are_one_chain(
    sampler: Sampler, potential: QuadraticEnergy, start: Tensor
) -> None:
    *_, (last, _) = sampler.iterate(potential, start, num_steps=K, generator=generator_for(1))
    state, _ = sampler.run(potential, start, num_steps=K, generator=generator_for(1))
    assert torch.equal(last.state, state)
