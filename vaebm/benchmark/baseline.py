"""Stage 2 as it is written down, without any of our speed-ups: what they are measured against."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Self

import torch
from torch import Tensor, nn

from vaebm.ebm_stage import EBMStage
from vaebm.models.base import VAE
from vaebm.samplers.base import Potential


class Baseline(EBMStage):
    """The same training with chains that compute everything anew in every step.

    The VAE is the live one with its encoder, weights are normalised and batch norms applied in each
    step, swish is a function of single products and sums, images lie channel by channel, the
    energy's weights get gradients during the chains too, and data and samples pass the energy one
    after the other. Chains and losses are those of `EBMStage` up to rounding.
    """

    @classmethod
    def of(cls, stage: EBMStage) -> Self:
        """The baseline of a stage, with copies of its networks as they are now.

        Args:
            stage: The stage; not changed.
        """
        twin = cls(**deepcopy(stage.init_args))
        for network in (twin.vae, twin.energy):
            replace_silu(network)
            network.to(memory_format=torch.contiguous_format)
        return twin

    @property
    def decoder(self) -> VAE:
        """The VAE itself."""
        return self.vae

    @contextmanager
    def frozen_potential(self) -> Iterator[Potential]:
        """U of the live networks; weights get gradients, which are thrown away after the chain."""
        self.energy.eval()
        yield KeepingGradients(self.space.potential(self.vae, self.energy))
        self.energy.train(self.training).zero_grad()

    def energies(self, image: Tensor) -> Tensor:
        """E of data and of samples, one after the other."""
        return torch.cat([super(Baseline, self).energies(half) for half in image.chunk(2)])


class KeepingGradients:
    """A potential whose gradient is taken by ``backward()``, with respect to all there is.

    Args:
        potential: U.
    """

    def __init__(self, potential: Potential) -> None:
        self.potential = potential

    def __call__(self, state: Tensor) -> Tensor:
        """U ``(B,)`` at states ``(B, D)``."""
        return self.potential(state)

    @torch.enable_grad()
    def value_and_grad(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """U and its gradient."""
        state = state.detach().clone().requires_grad_()
        value = self.potential(state)
        value.sum().backward()
        assert state.grad is not None
        return value.detach(), state.grad


class Swish(nn.Module):
    """x σ(x), step by step."""

    def forward(self, features: Tensor) -> Tensor:
        """Features of any shape to features of the same shape."""
        output: Tensor = SwishFunction.apply(features)
        return output


class SwishFunction(torch.autograd.Function):
    """Swish with the textbook derivative, which computes the sigmoid again."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """The product with the sigmoid."""
        ctx.save_for_backward(features)
        return features * features.sigmoid()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """dL/dx = dL/dy · σ(x) (1 + x (1 − σ(x)))."""
        (grad,), (features,) = grads, ctx.saved_tensors
        gate = features.sigmoid()
        slope: Tensor = gate * (1 + features * (1 - gate))
        return grad * slope


def replace_silu(network: nn.Module) -> None:
    """Put `Swish` in the place of torch's fused activation, everywhere in a network."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.SiLU):
                setattr(module, name, Swish())
