"""Converted models against what the published code recorded, in float64 and float32."""

from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vaebm.stage
from tests.official_files import FIXTURES, load, needs_fixtures
from vaebm.convert import load_energy, load_nvae, without_duplicates
from vaebm.metrics.importance import importance_log_likelihood
from vaebm.models import NVAE
from vaebm.models.layers import weight_matrices
from vaebm.models.pixels import quantise
from vaebm.models.recalibrate import recalibrate_batch_norm
from vaebm.official.arguments import model_arguments, stage_arguments
from vaebm.official.names import official_names
from vaebm.official.weights import load_weights
from vaebm.spaces import NoiseSpace
from vaebm.vae_stage import VAEStage, balance, group_weights

pytestmark = needs_fixtures

CHECKPOINT = "nvae_tiny/checkpoint.pt"
DOUBLE = {"rtol": 1e-9, "atol": 1e-9}
SINGLE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def vae() -> NVAE:
    return load_nvae(FIXTURES / CHECKPOINT)


@pytest.fixture(scope="module")
def generator_io() -> dict[str, Any]:
    return load("nvae_tiny/io.pt")


@pytest.fixture(scope="module")
def encoder_io() -> dict[str, Any]:
    return load("nvae_tiny/enc_io.pt")


@pytest.fixture(scope="module")
def training_io() -> dict[str, Any]:
    return load("nvae_tiny/train_io.pt")


@pytest.fixture(params=["single", "double"])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


def flat(tensors: list[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise of several groups as one row per image."""
    return torch.cat([tensor.flatten(1) for tensor in tensors], dim=1).to(dtype)


def at(
    precision: str, vae: NVAE, io: dict[str, Any]
) -> tuple[NVAE, dict[str, Any], dict[str, Any]]:
    """Model and recorded values of one precision, and how close they must be."""
    if precision == "double":
        return vae.double(), {**io, **io["f64"]}, DOUBLE
    return vae, io, SINGLE


def chain_noise(io: dict[str, Any], like: NVAE) -> Tensor:
    return flat([*io["eps"], io["eps_x"]], next(like.parameters()).dtype)


def test_latents_and_pixel_distribution_are_those_recorded(
    vae: NVAE, generator_io: dict[str, Any]
) -> None:
    generated = vae.generate(chain_noise(generator_io, vae))
    for ours, theirs in zip(generated.z, generator_io["z"], strict=True):
        torch.testing.assert_close(ours, theirs, **SINGLE)
    for ours, name in (
        (generated.likelihood.normal.mean, "mu"),
        (generated.likelihood.normal.scale, "sigma"),
        (generated.likelihood.floored().normal.scale, "sigma1"),
    ):
        torch.testing.assert_close(ours, generator_io[name], **SINGLE)


def test_decoded_image_is_that_recorded(vae: NVAE, generator_io: dict[str, Any]) -> None:
    decoded = vae.decode(chain_noise(generator_io, vae))
    torch.testing.assert_close(decoded.image, generator_io["x"], **SINGLE)
    torch.testing.assert_close(decoded.mean, (generator_io["mu"] + 1) / 2, **SINGLE)


def test_pixel_parameters_are_those_recorded_in_double(
    vae: NVAE, generator_io: dict[str, Any]
) -> None:
    normal = vae.double().generate(chain_noise(generator_io, vae)).likelihood.normal
    mean, log_scale = generator_io["f64"]["logits"].chunk(2, dim=1)
    torch.testing.assert_close(normal.mean, 5 * (mean / 5).tanh(), **DOUBLE)
    torch.testing.assert_close(normal.scale, (5 * (log_scale / 5).tanh()).exp() + 0.01, **DOUBLE)


def test_log_densities_are_those_recorded(
    vae: NVAE, generator_io: dict[str, Any], precision: str
) -> None:
    vae, io, close = at(precision, vae, generator_io)
    eps = chain_noise(io, vae)
    torch.testing.assert_close(vae.generate(eps).log_pz, io["log_p_z"], **close)
    expected = io["log_p_z"] + io["log_p_x_given_z"]
    torch.testing.assert_close(vae.decode(eps).log_joint, expected, **close)


def test_latents_at_a_temperature_are_those_recorded(
    vae: NVAE, generator_io: dict[str, Any]
) -> None:
    generated = vae.generate(chain_noise(generator_io, vae), temperature=0.7)
    recorded = generator_io["t0.7"]
    for ours, theirs in zip(generated.z, recorded["z"], strict=True):
        torch.testing.assert_close(ours, theirs, **SINGLE)
    torch.testing.assert_close(generated.log_pz, recorded["log_p_z"], **SINGLE)


def test_gradients_of_the_log_densities_are_those_recorded(
    vae: NVAE, generator_io: dict[str, Any]
) -> None:
    eps = chain_noise(generator_io, vae).requires_grad_()
    (ours,) = torch.autograd.grad(-vae.decode(eps).log_joint.sum(), eps)
    pairs = zip(generator_io["grad_neg_log_p_z"], generator_io["grad_neg_log_p_x"], strict=True)
    expected = flat([first + second for first, second in pairs])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("prior", ["noise", "joint"])
def test_gradients_of_whole_potentials_are_those_recorded(
    vae: NVAE, generator_io: dict[str, Any], precision: str, prior: Literal["noise", "joint"]
) -> None:
    vae, io, close = at(precision, vae, generator_io)
    eps = chain_noise(io, vae).requires_grad_()
    energy = load_energy(FIXTURES / "ebm_cifar32_tiny.pt").to(eps.dtype)
    value = NoiseSpace(prior).potential(vae, energy)(eps)
    names = (
        ("paper_potential", "paper_grad") if prior == "noise" else ("potential", "grad_potential")
    )
    torch.testing.assert_close(value, io[names[0]], **close)
    (ours,) = torch.autograd.grad(value.sum(), eps)
    scale = ours.abs().max().item() if precision == "single" else 1.0
    for part, theirs in zip(vae.split(ours), io[names[1]], strict=True):
        torch.testing.assert_close(part, theirs, rtol=close["rtol"], atol=close["atol"] * scale)


def test_bound_is_that_recorded(vae: NVAE, encoder_io: dict[str, Any], precision: str) -> None:
    vae, io, close = at(precision, vae, encoder_io)
    dtype = next(vae.parameters()).dtype
    terms = vae.elbo(io["image"].to(dtype), noise=flat(io["noise"], dtype))
    torch.testing.assert_close(terms.kl, io["kl_all"], **close)
    torch.testing.assert_close(terms.log_px, -io["nvae_recon"], **close)


def test_importance_weight_is_that_recorded(
    vae: NVAE, encoder_io: dict[str, Any], precision: str
) -> None:
    vae, io, close = at(precision, vae, encoder_io)
    dtype = next(vae.parameters()).dtype
    weight = vae.log_weight(io["image"].to(dtype), noise=flat(io["noise"], dtype))
    expected = -io["nvae_recon"] - io["log_q"] + io["log_p"]
    torch.testing.assert_close(weight, expected, **close)


def test_quantised_image_is_that_recorded(vae: NVAE, encoder_io: dict[str, Any]) -> None:
    ours = quantise(encoder_io["image"], vae.num_x_bits)
    assert torch.equal(ours, encoder_io["image_quantised"])


def test_importance_bound_is_that_recorded(
    vae: NVAE, encoder_io: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = encoder_io["iw"]
    draws = iter([flat(recorded["noise"][start : start + 3]) for start in range(0, 15, 3)])
    monkeypatch.setattr("vaebm.metrics.importance.standard_normal", lambda *_, **__: next(draws))
    bound = importance_log_likelihood(vae, encoder_io["image"], recorded["K"], generator=None)
    torch.testing.assert_close(-bound.mean(), recorded["neg_log_p"], **SINGLE)
    bits = 1 / (torch.log(torch.tensor(2.0)) * vae.data_dim)
    torch.testing.assert_close(bits.item(), recorded["bpd_coeff"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_prior_samples_are_those_recorded(
    vae: NVAE, encoder_io: dict[str, Any], temperature: float
) -> None:
    recorded = encoder_io[f"prior_t{temperature}"]
    eps = F.pad(flat(recorded["noise"]), (0, 3 * 32 * 32))
    mean, _ = recorded["logits"].chunk(2, dim=1)
    expected = (5 * (mean / 5).tanh() + 1) / 2
    torch.testing.assert_close(vae.decode(eps, temperature=temperature).mean, expected, **SINGLE)


def test_recalibrated_statistics_are_those_recorded(vae: NVAE, encoder_io: dict[str, Any]) -> None:
    recorded, names = encoder_io["bn_recal"], official_names(vae)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    noise = [F.pad(flat(recorded["noise"][i : i + 3]), (0, 3 * 32 * 32)) for i in range(0, 9, 3)]
    recalibrate_batch_norm(vae, noise, temperature=recorded["t"])
    after = vae.state_dict()
    for ours, theirs in names.items():
        if theirs in recorded["stats_after"]:
            torch.testing.assert_close(after[ours], recorded["stats_after"][theirs], **SINGLE)
        elif "num_batches" not in ours:
            assert torch.equal(after[ours], before[ours]), ours
    eps = F.pad(flat(encoder_io["prior_t0.7"]["noise"]), (0, 3 * 32 * 32))
    mean, _ = recorded["logits_after"].chunk(2, dim=1)
    expected = (5 * (mean / 5).tanh() + 1) / 2
    torch.testing.assert_close(vae.decode(eps, temperature=0.7).mean, expected, **SINGLE)


# Training


class Recorded:
    """The published training run replayed: same weights, images and noise."""

    def __init__(self, io: dict[str, Any], dtype: torch.dtype) -> None:
        args = load(CHECKPOINT)["args"]
        self.io, self.dtype = io, dtype
        self.vae = NVAE(**model_arguments(args))
        self.names = official_names(self.vae)
        load_weights(self.vae, self.names, without_duplicates(io["state_before"]))
        self.vae.to(dtype).train()
        self.noise = list(io["noise"])
        settings = {**stage_arguments(args), "lr": io["lr"], "lr_final": None, "warmup_portion": 0}
        self.stage = VAEStage(self.vae, **settings)
        self.step = io["global_step0"]
        self.logged: dict[str, Any] = {}
        self.start_vectors()

    def start_vectors(self) -> None:
        """Give the power iteration the recorded directions."""
        first = self.noise[3:]
        count = next(i for i, tensor in enumerate(first) if tensor.ndim != 2)
        drawn = {
            (u.shape[1], v.shape[1]): u
            for u, v in zip(first[:count:2], first[1:count:2], strict=True)
        }
        del self.noise[3 : 3 + count]
        order = [key for key in self.io["state_before"] if key in set(self.names.values())]
        theirs = {self.conv_key(name): name for name in weight_matrices(self.vae, torch.nn.Conv2d)}
        rank: dict[tuple[int, int], int] = {}
        for key in (key for key in order if key in theirs):
            shape = tuple(self.io["state_before"][key].flatten(1).shape)
            row = rank[shape] = rank.get(shape, -1) + 1
            stack = f"u_{shape[0]}x{shape[1]}"
            place = self.vae.spectral.stacks[stack].index(theirs[key])
            u = F.normalize(drawn[shape][row], dim=0, eps=1e-3)
            self.vae.spectral.get_buffer(stack)[place] = u

    def conv_key(self, name: str) -> str:
        """The published name of a convolution's weight."""
        plain = f"{name}.weight"
        return self.names.get(plain) or self.names[f"{name}.parametrizations.weight.original"]

    def loss(self, number: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
        """The loss of one recorded step."""
        noise = flat([self.noise.pop(0) for _ in range(3)], self.dtype)
        monkeypatch.setattr(vaebm.stage, "standard_normal", lambda *_, **__: noise)
        monkeypatch.setattr(VAEStage, "global_step", self.step + number)
        monkeypatch.setattr(self.stage, "total_steps", lambda: self.io["num_total_iter"])
        monkeypatch.setattr(self.stage, "training_generator", lambda _: None)
        monkeypatch.setattr(
            self.stage, "log", lambda name, value, **_: self.logged.update({name: value})
        )
        return self.stage.training_step(self.io["images"][number].to(self.dtype), 0)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["single", "double"])
def recorded(request: pytest.FixtureRequest, training_io: dict[str, Any]) -> Recorded:
    return Recorded(training_io, request.param)


def test_first_loss_and_its_parts_are_those_recorded(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = recorded.io["step0"]
    loss = recorded.loss(0, monkeypatch)
    # Only float32 was recorded, so that both precisions are compared at its accuracy.
    torch.testing.assert_close(loss.float(), step["loss"], rtol=1e-5, atol=0)
    assert recorded.stage.kl_weight() == pytest.approx(step["kl_coeff"], rel=1e-12)
    expected = step["wdn_coeff"] * (step["norm_loss"] + step["bn_loss"])
    torch.testing.assert_close(
        recorded.logged["train/penalty"].float(), expected, rtol=1e-5, atol=0
    )
    torch.testing.assert_close(recorded.vae.batch_norm_penalty().float(), step["bn_loss"])


def test_spectral_vectors_after_the_first_step_are_those_recorded(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.loss(0, monkeypatch)
    for (rows, columns), (u, _) in recorded.io["step0"]["spectral_uv_after"].items():
        ours = recorded.vae.spectral.get_buffer(f"u_{rows}x{columns}").float()
        closest = (ours @ u.T).max(0).values  # the stacks' order differs
        torch.testing.assert_close(closest, torch.ones(len(u)), rtol=1e-4, atol=0)


def test_balance_coefficients_are_those_recorded(training_io: dict[str, Any]) -> None:
    step = training_io["step0"]
    weights = group_weights([(4, 16, 16)] * 3)
    torch.testing.assert_close(weights, step["alpha_i"])
    torch.testing.assert_close(balance(step["kl_all"], weights), step["kl_coeffs"])


def rounding_alone(training_io: dict[str, Any]) -> set[str]:
    """Parameters whose true gradient is zero, since a batch norm follows, and what they feed."""
    names = set()
    for key in training_io["state_before"]:
        _, _, rest = key.partition("._ops.")
        if rest.startswith("0.conv_0.") and not rest.endswith(".weight"):
            names.add(key)
        if rest.startswith("1.bn_act.running_mean"):
            names.add(key)
        first = 1 if key.startswith("post_process.0") else 0  # behind the up-sampler
        if rest in (f"0.conv.{first}.bn.bias", f"0.conv.{first + 1}.conv.1.running_mean"):
            names.add(key)
    return names


def test_gradients_of_the_first_step_are_those_recorded(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.loss(0, monkeypatch).backward()
    norms, skipped = recorded.io["step0"]["grad_norms"], rounding_alone(recorded.io)
    for ours, parameter in recorded.vae.named_parameters():
        theirs = recorded.names[ours]
        if theirs not in skipped:
            assert parameter.grad is not None
            assert parameter.grad.norm().item() == pytest.approx(float(norms[theirs]), rel=1e-4)


def test_weights_after_all_steps_are_those_recorded(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = recorded.stage.make_optimizer()
    for number in range(3):
        optimizer.zero_grad()
        recorded.loss(number, monkeypatch).backward()
        optimizer.step()
    state, skipped = load(CHECKPOINT)["state_dict"], rounding_alone(recorded.io)
    own = recorded.vae.state_dict()
    compared = [pair for pair in recorded.names.items() if pair[1] not in skipped]
    assert len(compared) > 300
    for ours, theirs in compared:
        expected, value = state[theirs].double(), own[ours].double()
        # Adamax turns the rounding of a tiny gradient into a whole step: in float32 that moves
        # single entries, so that the tensor as a whole is compared.
        assert (value - expected).norm() <= 1e-4 * expected.norm(), theirs
        if recorded.dtype == torch.float64:
            limit = 1e-4 * expected.abs().max().item()
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=limit)
