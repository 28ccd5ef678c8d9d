"""Batch-norm statistics of a generator's own samples."""

import pytest
import torch
from torch import nn

from tests.models.test_nvae import LATENTS, NOISE, nvae
from vaebm.models.recalibrate import recalibrate_batch_norm


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: b.clone() for n, b in module.named_buffers() if "running" in n}


def test_statistics_approach_those_of_samples() -> None:
    vae = nvae()
    seen: list[torch.Tensor] = []
    norm = vae.generator.groups[1].cells[0].ops[0].norm
    batches = [torch.randn(16, NOISE) for _ in range(100)]
    recalibrate_batch_norm(vae, batches)
    handle = norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        vae.decode(torch.randn(500, NOISE))
    handle.remove()
    mean = seen[0].mean((0, 2, 3))
    spread = seen[0].std((0, 2, 3))
    assert ((norm.running_mean - mean).abs() < 0.1 * spread).all()


def test_only_the_generator_changes_and_modes_stay() -> None:
    vae = nvae()
    before = statistics(vae.encoder), statistics(vae.generator)
    recalibrate_batch_norm(vae, [torch.randn(4, NOISE)], temperature=0.7)
    for name, value in statistics(vae.encoder).items():
        assert torch.equal(value, before[0][name])
    changed = [not torch.equal(v, before[1][n]) for n, v in statistics(vae.generator).items()]
    assert all(changed)
    assert not vae.training
    assert not any(m.training for m in vae.modules())


def test_temperature_matters() -> None:
    results = []
    for temperature in (0.5, 1.0):
        torch.manual_seed(0)
        vae = nvae()
        recalibrate_batch_norm(vae, [torch.ones(4, NOISE) * torch.arange(4.0)[:, None]],
                               temperature=temperature)  # fmt: skip
        results.append(torch.cat([v.flatten() for v in statistics(vae.generator).values()]))
    assert not torch.equal(*results)


def test_modes_are_restored_after_an_error() -> None:
    vae = nvae()
    with pytest.raises(ValueError, match="is due"):
        recalibrate_batch_norm(vae, [torch.zeros(1, LATENTS)])
    assert not any(module.training for module in vae.modules())
