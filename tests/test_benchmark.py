"""`vaebm benchmark`: the baseline does the same work, and figures are what they are called."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.test_fold import nvae
from vaebm.adam_bound import bound_gradients
from vaebm.benchmark.baseline import Baseline, Swish
from vaebm.benchmark.clock import Timing, by_turns
from vaebm.benchmark.machine import ConvolutionCalls, flops_of
from vaebm.benchmark.memory import peak_bytes, weight_bytes
from vaebm.benchmark.scaling import fewer_groups, growth
from vaebm.cli import main
from vaebm.config_files import shipped_configs, vae_of_sibling
from vaebm.ebm_stage import EBMStage
from vaebm.models import NVAE, ResidualEnergy
from vaebm.samplers import LangevinSampler
from vaebm.spaces import NoiseSpace

CPU = torch.device("cpu")
SMALL = ["--batch_size=2", "--num_steps=2", "--rounds=1", "--trainer.accelerator=cpu"]


def stage_on_nvae() -> EBMStage:
    torch.manual_seed(1)
    energy, sampler = ResidualEnergy(3, 8, [1, 1], [0]), LangevinSampler(5, step_size=0.05)
    return EBMStage(
        energy, sampler, NoiseSpace(), vae=nvae("res_mbconv"), lr=1e-3, seed=3, data_init_batches=0
    )


def trained(stage: EBMStage, iterations: int) -> tuple[Tensor, Tensor]:
    """The losses of a training, and the weights after it."""
    optimizer, losses = stage.train().make_optimizer(), []
    generator = torch.Generator().manual_seed(0)
    for index in range(iterations):
        optimizer.zero_grad()
        image = torch.rand(4, *stage.vae.image_shape, generator=generator).to(stage.device)
        losses.append(stage.training_step(image, index))
        losses[-1].backward()
        bound_gradients(optimizer)
        optimizer.step()
    weights = torch.cat([parameter.flatten() for parameter in stage.energy.parameters()])
    return torch.stack(losses).detach(), weights.detach()


@pytest.mark.filterwarnings("ignore:You are trying to .self.log")
def test_a_training_is_the_same_as_the_straightforward_one() -> None:
    stage = stage_on_nvae()
    plain = Baseline.of(stage)
    before = torch.cat([p.detach().flatten() for p in stage.energy.parameters()])
    losses, weights = trained(stage, 20)
    plain_losses, plain_weights = trained(plain, 20)
    assert (weights - before).abs().max() > 1e-2
    torch.testing.assert_close(losses, plain_losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights, plain_weights, rtol=0, atol=1e-5)


def test_the_baseline_takes_gradients_of_weights_in_its_chains_and_drops_them() -> None:
    plain = Baseline.of(stage_on_nvae())
    start = plain.space.start(plain.decoder, 2, generator=None)
    with plain.frozen_potential() as potential:
        plain.sampler.run(potential, start, num_steps=1)
        assert all(p.grad is not None for p in plain.energy.parameters())
    assert all(p.grad is None for p in plain.energy.parameters())
    assert not any(isinstance(m, nn.SiLU) for m in plain.modules())


def test_swish_has_the_values_and_gradients_of_silu() -> None:
    features = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(Swish()(features), nn.functional.silu(features))
    assert torch.autograd.gradcheck(Swish(), (features,))


def test_the_decoder_costs_the_published_operations() -> None:
    """26.7 GFLOP an image at 30 groups; counted at 2 and 3, since each adds the same."""
    costs = []
    for groups in (2, 3):
        vae = NVAE(groups_per_scale=[groups]).eval().requires_grad_(False)
        costs.append(flops_of(lambda vae=vae: vae.decode(torch.zeros(1, vae.noise_dim))) / 1e9)
    assert costs[0] + 28 * (costs[1] - costs[0]) == pytest.approx(26.7, rel=0.01)


def test_convolutions_are_noted_forward_and_backward() -> None:
    conv = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1))
    image = torch.rand(2, 2, 8, 8)
    with ConvolutionCalls() as noted:
        conv(image).square().sum().backward()
    assert sum(noted.calls.values()) == 6
    assert sorted(noted.calls.values()) == [1, 1, 2, 2]  # the last two convolutions are alike
    assert noted.seconds(CPU) > 0


def test_the_peak_of_memory_counts_what_is_alive_at_once() -> None:
    def work() -> Tensor:
        large = torch.zeros(3000)  # 12,000 bytes
        view = large[:10]
        del large
        small = torch.zeros(1000)
        del view
        return torch.cat([small, small])

    # Large and small together, then 4,000 and the result's 8,000.
    assert peak_bytes(work, CPU) == 16_000
    layer = nn.Linear(10, 10)
    tied = nn.Linear(10, 10, bias=False)
    tied.weight = layer.weight
    assert weight_bytes(layer, tied) == 4 * 110


def test_times_are_medians_of_turns() -> None:
    ticks = {"a": iter([9.0, 1.0, 5.0, 3.0]), "b": iter([9.0, 2.0, 2.0, 8.0])}
    order: list[str] = []

    def timer(name: str) -> float:
        order.append(name)
        return next(ticks[name])

    times = by_turns({name: lambda name=name: timer(name) for name in ticks}, 3)
    assert times == {"a": Timing(3.0, 1.0, 5.0), "b": Timing(2.0, 2.0, 8.0)}
    assert "".join(order) == "abababab"


def test_growth_is_a_line_with_what_it_leaves() -> None:
    fit = growth({1: 5.0, 2: 7.0, 3: 9.0})
    assert (fit.slope, fit.intercept) == (pytest.approx(2), pytest.approx(3))
    assert fit.residuals == pytest.approx([0, 0, 0])
    bent = growth({0: 0.0, 1: 2.0, 2: 1.0})  # 0.5 x + 0.5
    assert bent.residuals == pytest.approx([-1, 1, -1 / 3])


def test_groups_are_dropped_at_all_scales() -> None:
    stage = stage_on_nvae()
    assert fewer_groups(stage) == [(1, 1), (1, 2)]


@pytest.mark.parametrize("name", [name for name in shipped_configs() if "_ebm" in name])
def test_every_shipped_config_of_stage_2_finds_its_vae(name: str) -> None:
    vae = vae_of_sibling(name)
    assert vae is not None
    assert vae["class_path"].startswith("vaebm.models.")


def test_benchmark_writes_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["benchmark", "--config", "gaussians25_ebm", "--compile=false", *SMALL]
    assert main([*command, "--output", "new/speed.json"]) == 0
    figures: dict[str, Any] = json.loads(Path("new/speed.json").read_text())
    printed, errors = capfd.readouterr()
    assert "ours, float32" in printed
    assert "self.log" not in errors
    assert Path("new/speed.png").stat().st_size > 1000
    assert (figures["batch_size"], figures["num_steps"], figures["rounds"]) == (2, 2, 1)
    for work in ("step", "iteration"):
        times = figures["seconds"][work]
        for name in ("fp32", "bf16"):
            expected = times["baseline"]["median"] / times[name]["median"]
            assert figures["ratio"][f"{work}_{name}"] == pytest.approx(expected)
    assert figures["memory_ratio"] == pytest.approx(
        figures["memory"]["fp32"] / figures["memory"]["baseline"]
    )
    assert figures["peak_share"] == {}  # no convolution
    assert set(figures["scaling"]) == {"steps", "batch"}
    assert "compiled" not in figures["seconds"]["step"]
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config", "gaussians25_vae"], "times stage 2, not VAEStage"),
        (["--config", "gaussians25_ebm", "--rounds=0"], "--rounds is 0, but at least 1 is due"),
        (["--config", "gaussians25_ebm", "--output=."], "is a folder, but a file is due"),
        (["--config", "gaussians25_ebm", "--output=file/x.json"], "is a file, but a folder is due"),
        (["--config", "own_ebm.yaml"], "needs a trained VAE"),
        ([], "needs a model"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_one_line(
    args: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("own_ebm.yaml").write_text(shipped_configs()["gaussians25_ebm.yaml"].read_text())
    assert main(["benchmark", *args]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("vaebm: error: ")
    assert message in error
