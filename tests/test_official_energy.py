"""Energy networks and their training against what the published code recorded."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.official_energy import OfficialEnergy
from tests.official_files import FIXTURES, load, needs_fixtures
from vaebm.convert import energy_of, load_energy, load_nvae
from vaebm.ebm_stage import EBMStage
from vaebm.models import ResidualEnergy
from vaebm.official.energy import energy_names
from vaebm.samplers import LangevinSampler
from vaebm.spaces import NoiseSpace

pytestmark = needs_fixtures

CHECKPOINT = "ebm_cifar32_tiny.pt"
DOUBLE = {"rtol": 1e-9, "atol": 1e-9}
SINGLE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def io() -> dict[str, Any]:
    return load("ebm_cifar32_tiny_io.pt")


@pytest.fixture(scope="module")
def training_io() -> dict[str, Any]:
    return load("ebm_cifar32_tiny_train_io.pt")


@pytest.fixture(params=[torch.float32, torch.float64], ids=["single", "double"], scope="module")
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def closeness(dtype: torch.dtype) -> dict[str, float]:
    return SINGLE if dtype == torch.float32 else DOUBLE


def at(recorded: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """The recorded values of one precision."""
    return recorded if dtype == torch.float32 else recorded["f64"]


def energy_and_gradient(energy: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    image = image.clone().requires_grad_()
    value = energy(image)
    return value.detach(), torch.autograd.grad(value.sum(), image)[0]


def test_energies_and_their_gradients_are_those_recorded(
    io: dict[str, Any], dtype: torch.dtype
) -> None:
    energy = load_energy(FIXTURES / CHECKPOINT).to(dtype)
    value, gradient = energy_and_gradient(energy, io["x"].to(dtype))
    torch.testing.assert_close(value, at(io, dtype)["energy"], **closeness(dtype))
    torch.testing.assert_close(gradient, at(io, dtype)["grad_x"], **closeness(dtype))


def test_interpreter_of_the_other_tests_gives_what_is_recorded(io: dict[str, Any]) -> None:
    weights = {name: w.double() for name, w in load(CHECKPOINT)["model"].items()}
    energy = OfficialEnergy(weights, "cifar32")
    value, gradient = energy_and_gradient(energy, io["x"].double())
    torch.testing.assert_close(value, io["f64"]["energy"], **DOUBLE)
    torch.testing.assert_close(gradient, io["f64"]["grad_x"], **DOUBLE)
    assert energy.used == set(weights)


# Initialisation by data


def initialised(io: dict[str, Any], dtype: torch.dtype) -> ResidualEnergy:
    """The recorded new network, after its initialisation."""
    recorded = io["data_init"]
    energy = energy_of({"model": recorded["raw_state"]}, "raw").to(dtype)
    energy.initialise(recorded["images"].to(dtype))
    return energy


def test_initialisation_by_data_gives_the_weights_recorded(
    io: dict[str, Any], dtype: torch.dtype
) -> None:
    recorded, energy = io["data_init"], initialised(io, dtype)
    single = dtype == torch.float32
    expected = recorded["state_after"] if single else io["f64"]["data_init_state_after"]
    own, names = energy.state_dict(), energy_names(energy)
    assert len(expected) == 30
    for ours, theirs in names.items():
        value = expected.get(theirs, recorded["raw_state"][theirs].to(dtype))
        torch.testing.assert_close(own[ours], value, **closeness(dtype))


def test_energies_after_initialisation_by_data_are_those_recorded(
    io: dict[str, Any], dtype: torch.dtype
) -> None:
    recorded, energy = io["data_init"], initialised(io, dtype)
    single = dtype == torch.float32
    expected = recorded["energy_of_init_batch"] if single else io["f64"]["data_init_energy"]
    torch.testing.assert_close(energy(recorded["images"].to(dtype)), expected, **closeness(dtype))


# The spectral penalty


def set_directions(energy: ResidualEnergy, recorded: list[dict[str, Any]]) -> None:
    """Start the power iterations from recorded vectors, one row for each layer of a shape."""
    assert len(recorded) == len(energy.spectral.stacks)
    for entry in recorded:
        u = F.normalize(entry["u"].to(energy.conv1.weight.dtype), dim=1, eps=1e-3)
        directions(energy, entry).copy_(u)


def directions(energy: ResidualEnergy, entry: dict[str, Any]) -> Tensor:
    rows, columns = entry["shape"]
    return energy.spectral.get_buffer(f"u_{rows}x{columns}")


@pytest.fixture
def penalised(io: dict[str, Any]) -> ResidualEnergy:
    energy = load_energy(FIXTURES / CHECKPOINT)
    set_directions(energy, io["spectral"]["uv0"])
    return energy


@pytest.mark.parametrize("call", ["first", "second"])
def test_spectral_penalty_of_both_calls_is_that_recorded(
    penalised: ResidualEnergy, io: dict[str, Any], call: str
) -> None:
    for _ in range(["first", "second"].index(call) + 1):
        penalty = penalised.penalty()
    torch.testing.assert_close(penalty, io["spectral"][f"loss_{call}"], rtol=1e-6, atol=0)
    for entry in io["spectral"][f"uv_{call}"]:
        torch.testing.assert_close(directions(penalised, entry), entry["u"], **SINGLE)


def test_spectral_penalty_of_four_iterations_is_that_recorded_in_double(
    penalised: ResidualEnergy, io: dict[str, Any]
) -> None:
    penalised.double()
    set_directions(penalised, io["spectral"]["uv0"])
    penalised.spectral.started.fill_(True)
    expected = io["f64"]["spectral_4iters_from_uv0"]
    torch.testing.assert_close(penalised.penalty(), expected, rtol=1e-9, atol=0)


def test_spectral_penalty_of_many_iterations_is_the_recorded_sum_of_singular_values(
    penalised: ResidualEnergy, io: dict[str, Any]
) -> None:
    penalised.double()
    for _ in range(300):
        penalty = penalised.penalty()
    assert penalty.item() == pytest.approx(io["f64"]["spectral_exact_svd"], rel=1e-9)


def test_gradients_of_the_spectral_penalty_are_those_recorded(
    penalised: ResidualEnergy, io: dict[str, Any]
) -> None:
    penalised.penalty()
    penalised.penalty().backward()
    parameters = dict(penalised.named_parameters())
    ours = {theirs: parameters[name].grad for name, theirs in energy_names(penalised).items()}
    for theirs, expected in io["spectral"]["grad_second"].items():
        torch.testing.assert_close(ours[theirs], expected, **SINGLE)


# Chains


def test_chain_on_both_published_networks_is_that_recorded(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    io = load("nvae_tiny/io.pt")
    recorded = io["langevin_0.01"]
    start, *noise = [
        flat(z, x).to(dtype)
        for z, x in zip(
            [io["eps"], *recorded["noise_z"]], [io["eps_x"], *recorded["noise_x"]], strict=True
        )
    ]
    source = iter(noise)
    monkeypatch.setattr("vaebm.samplers.langevin.standard_normal", lambda *_, **__: next(source))
    vae = load_nvae(FIXTURES / "nvae_tiny/checkpoint.pt").to(dtype)
    energy, space = load_energy(FIXTURES / CHECKPOINT).to(dtype), NoiseSpace("joint")
    sampler = LangevinSampler(len(noise), step_size=recorded["step_size"])
    end, info = sampler.run(space.potential(vae, energy), start)
    expected = at(recorded, dtype)
    torch.testing.assert_close(info.potential, expected["potential"], **closeness(dtype))
    mean = (expected["final_mu"] + 1) / 2
    torch.testing.assert_close(space.image(vae, end, mean=True), mean, **closeness(dtype))
    *z, x = recorded["eps_final"]
    torch.testing.assert_close(end.float(), flat(z, x), **SINGLE)


def flat(z: list[Tensor], x: Tensor) -> Tensor:
    """Noise of all groups, then of the pixels, as one row per image."""
    return torch.cat([part.flatten(1) for part in (*z, x)], dim=1)


# Training


class Replay:
    """The published training run through our stage: same weights, images and noise."""

    def __init__(
        self, io: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = io["opt"]
        self.io, self.dtype = io, dtype
        self.energy = energy_of({"model": io["state_before"]}, "before").to(dtype)
        set_directions(self.energy, io["iterations"][0]["spectral_uv_init_raw"])
        self.stage = EBMStage(
            self.energy,
            LangevinSampler(options["num_steps"], step_size=options["step_size"]),
            NoiseSpace(prior="joint"),
            vae=load_nvae(FIXTURES / "nvae_tiny/checkpoint.pt").to(dtype),
            lr=options["lr"],
            weight_decay=options["wd"],
            spectral_weight=options["alpha_s"],
            contrast="sample",
            gradient_bound=True,
            data_init_batches=0,
        )
        self.noise = [
            noise.to(dtype) for iteration in io["iterations"] for noise in draws(iteration)
        ]
        for module in ("vaebm.spaces", "vaebm.samplers.langevin"):
            monkeypatch.setattr(f"{module}.standard_normal", self.draw)
        self.logged: list[dict[str, Any]] = []
        monkeypatch.setattr(self.stage, "log", lambda name, value, **_: self.log({name: value}))
        monkeypatch.setattr(self.stage, "log_dict", self.log)
        monkeypatch.setattr(self.stage, "clip_gradients", lambda *_: None)  # the trainer's, of none
        self.before_bound: dict[str, Tensor] = {}
        self.after_bound: dict[str, Tensor] = {}
        self.run()

    def draw(self, *shape: int, **_: Any) -> Tensor:
        noise = self.noise.pop(0)
        assert noise.shape == shape
        return noise

    def log(self, values: dict[str, Any]) -> None:
        self.logged[-1].update(values)

    def gradients(self) -> dict[str, Tensor]:
        """The gradients as they are, by published names."""
        parameters = dict(self.energy.named_parameters())
        names = energy_names(self.energy)
        return {names[name]: p.grad.clone() for name, p in parameters.items() if p.grad is not None}

    def run(self) -> None:
        """All iterations."""
        optimizer = self.stage.make_optimizer()
        for number, images in enumerate(self.io["images"]):
            self.logged.append({})
            optimizer.zero_grad()
            self.stage.training_step(images.to(self.dtype), number).backward()
            self.before_bound = self.gradients()
            self.stage.configure_gradient_clipping(optimizer)
            self.after_bound = self.gradients()
            optimizer.step()
        assert not self.noise


def draws(iteration: dict[str, Any]) -> list[Tensor]:
    """All noise of an iteration: the chains' start, then each step's, groups before pixels."""
    pairs = [(iteration["eps_z"], iteration["eps_x"])]
    pairs += [(step["noise_z"], step["noise_x"]) for step in iteration["steps"]]
    return [flat(z, x) for z, x in pairs]


@pytest.fixture(scope="module")
def replay(training_io: dict[str, Any], dtype: torch.dtype) -> Replay:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return Replay(training_io, dtype, monkeypatch)


def test_energy_gap_of_every_iteration_is_that_recorded(replay: Replay) -> None:
    gaps = [values["train/energy_gap"].item() for values in replay.logged]
    # Only float32 was recorded, so that both precisions are compared at its accuracy.
    assert gaps == pytest.approx(replay.io["loss_first_saved"], rel=1e-5)


@pytest.mark.parametrize("when", ["before", "after"])
def test_gradients_of_the_last_iteration_are_those_recorded(replay: Replay, when: str) -> None:
    ours = replay.before_bound if when == "before" else replay.after_bound
    expected = replay.io[f"grads_{when}_clip"]
    assert set(ours) == set(expected)
    for name, gradient in expected.items():
        limit = 1e-4 * gradient.abs().max().item()
        torch.testing.assert_close(ours[name].float(), gradient, rtol=1e-4, atol=limit)


def test_bound_of_the_last_iteration_cuts_gradients(replay: Replay) -> None:
    changed = [n for n, g in replay.before_bound.items() if not g.equal(replay.after_bound[n])]
    assert changed


def test_weights_after_training_are_those_recorded(replay: Replay) -> None:
    expected = at(replay.io, replay.dtype)["state_after"]
    own = replay.energy.state_dict()
    for ours, theirs in energy_names(replay.energy).items():
        torch.testing.assert_close(own[ours], expected[theirs], **closeness(replay.dtype))
