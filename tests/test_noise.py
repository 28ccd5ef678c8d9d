"""Random numbers that depend on nothing but a seed and a place."""

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Generator, Tensor

from vaebm.noise import RowGenerators, generator_for, standard_normal, uniform

Draw = Callable[..., Tensor]

N = 200_000
SIGMAS = 5  # a right answer fails once in two million draws of the seed


def draw(*place: int) -> Tensor:
    return torch.randn(4, generator=generator_for(*place))


def test_generator_for_does_not_depend_on_the_global_generator() -> None:
    torch.manual_seed(1)
    first = draw(3, 1, 4)
    torch.manual_seed(2)
    assert torch.equal(first, draw(3, 1, 4))


def test_generator_for_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw(3, 1, 4)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("place", "other"),
    list(combinations([(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 0, 0), (0, 0, 1), (2**32,)], 2)),
)
def test_generator_for_differs_by_place(place: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert not torch.equal(draw(*place), draw(*other))


def test_generator_for_takes_seeds_of_64_bits() -> None:
    assert not torch.equal(draw(2**64 - 1), draw(2**32 - 1))


def test_generators_of_neighbouring_places_are_uncorrelated() -> None:
    first, second = (torch.randn(N, generator=generator_for(0, step)) for step in (0, 1))
    assert abs((first * second).mean()) < SIGMAS / N**0.5


@pytest.mark.parametrize("function", [standard_normal, uniform])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_row_noise_is_the_same_at_every_batch_size(function: Draw, batch_size: int) -> None:
    whole = function(10, 2, 3, generator=RowGenerators(5, range(10)))
    for first in range(0, 10 - batch_size + 1, batch_size):
        rows = range(first, first + batch_size)
        part = function(batch_size, 2, 3, generator=RowGenerators(5, rows))
        assert torch.equal(part, whole[first : first + batch_size])


@pytest.mark.parametrize("function", [standard_normal, uniform])
def test_rows_are_distinct(function: Draw) -> None:
    rows = function(10, 4, generator=RowGenerators(5, range(10)))
    assert len(rows.unique(dim=0)) == 10


def test_rows_go_on_with_their_streams_at_the_next_draw() -> None:
    generator = RowGenerators(5, [0, 1])
    draws = [standard_normal(2, 3, generator=generator) for _ in range(2)]
    assert not torch.equal(*draws)


def test_rows_depend_on_the_seed() -> None:
    first, second = (standard_normal(2, 3, generator=RowGenerators(s, [0, 1])) for s in (5, 6))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("function", [standard_normal, uniform])
def test_wrong_number_of_rows_raises(function: Draw) -> None:
    with pytest.raises(ValueError, match="3 row generators for 4 rows"):
        function(4, 2, generator=RowGenerators(5, range(3)))


def test_row_generators_serve_a_plain_draw() -> None:
    draws = [torch.randn(4, 2, generator=RowGenerators(5, range(3))) for _ in range(2)]
    assert torch.equal(*draws)


def test_plain_draw_from_row_generators_depends_on_the_first_row() -> None:
    draws = [torch.randn(4, 2, generator=RowGenerators(5, [first, 9])) for first in (0, 1)]
    assert not torch.equal(*draws)


@pytest.mark.parametrize("function", [standard_normal, uniform])
@pytest.mark.parametrize("generator", [None, generator_for(0), RowGenerators(0, range(3))])
def test_noise_is_float32_of_the_asked_shape(function: Draw, generator: Generator | None) -> None:
    noise = function(3, 2, 4, generator=generator)
    assert (noise.shape, noise.dtype) == ((3, 2, 4), torch.float32)


def sources(rows: int) -> list[Generator]:
    return [generator_for(1), RowGenerators(1, range(rows))]


@pytest.mark.parametrize("generator", sources(100))
def test_standard_normal_has_the_moments_of_a_standard_normal(generator: Generator) -> None:
    noise = standard_normal(100, N // 100, generator=generator).double()
    # E x⁰..x⁴ = 0, 1, 0, 3; the variances of the averages are those of the powers over N.
    moments = torch.stack([noise.pow(k).mean() for k in (1, 2, 3, 4)])
    error = torch.tensor([1.0, 2.0, 15.0, 96.0], dtype=torch.float64).div(N).sqrt()
    expected = torch.tensor([0.0, 1.0, 0.0, 3.0], dtype=torch.float64)
    assert ((moments - expected).abs() < SIGMAS * error).all()


@pytest.mark.parametrize("generator", sources(100))
def test_uniform_has_the_moments_of_a_uniform(generator: Generator) -> None:
    noise = uniform(100, N // 100, generator=generator).double()
    assert abs(noise.mean() - 1 / 2) < SIGMAS * (1 / 12 / N) ** 0.5
    # Var (x − ½)² = 1/80 − 1/144 = 1/180
    assert abs(noise.sub(0.5).square().mean() - 1 / 12) < SIGMAS * (1 / 180 / N) ** 0.5


def test_uniform_is_in_the_unit_interval() -> None:
    noise = uniform(100, N // 100, generator=generator_for(2))
    assert 0 <= noise.min() < 1e-3
    assert 1 - 1e-3 < noise.max() < 1


def test_uniform_stays_below_one_at_the_far_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaebm.noise.standard_normal", lambda *a, **k: torch.tensor([[-40.0, 40]]))
    noise = uniform(1, 2, generator=None)
    assert (noise >= 0).all()
    assert (noise < 1).all()
