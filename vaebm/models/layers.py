"""Building blocks that several networks share."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import groupby, pairwise
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vaebm.distributions import at_least_float32


def mlp(widths: Sequence[int], activation: Callable[[], nn.Module] = nn.SiLU) -> nn.Sequential:
    """A stack of linear layers, an activation after each but the last.

    Args:
        widths: Layer widths from input to output.
        activation: Makes the activation module.
    """
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), activation()]
    return nn.Sequential(*layers[:-1])


def float32_linear(layer: nn.Module, features: Tensor) -> Tensor:
    """A linear layer in float32 or wider, also under autocast.

    Energies need it: bf16 would round them to three digits, and their differences along a chain to
    nothing.
    """
    kind = features.device.type
    # The meta device has no autocast.
    with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
        output: Tensor = layer(at_least_float32(features))
    return output


def weight_matrices(module: nn.Module, *kinds: type[nn.Linear | nn.Conv2d]) -> dict[str, Tensor]:
    """The effective weights of all layers below `module` as matrices ``(O, I·k·k)``, by name.

    Args:
        module: The network.
        *kinds: Layers that count; linear and convolution layers by default.
    """
    return {
        name: layer.weight.flatten(1)
        for name, layer in module.named_modules()
        if isinstance(layer, kinds or (nn.Linear, nn.Conv2d))
    }


class LogWeightNorm(nn.Module):
    """Weight normalisation with a learned logarithmic length for each output channel.

    W_o = exp(s_o) · V_o / (‖V_o‖₂ + 1e-5), a parametrization of a convolution's weight V. It starts
    where W is nearly V: s_o = log(‖V_o‖₂ + 1e-2).

    Args:
        weight: The weight V at construction, ``(O, I, k, k)``.
        gain: Factor on the initial lengths.

    References:
        NVAE: A Deep Hierarchical Variational Autoencoder (Vahdat, Kautz, 2020).
    """

    def __init__(self, weight: Tensor, gain: float = 1.0) -> None:
        super().__init__()
        length = channel_norms(weight.detach())
        self.log_weight_norm = nn.Parameter((length + 1e-2).log() + log(gain))

    def forward(self, weight: Tensor) -> Tensor:
        """The normalised weight W, shaped like V."""
        return weight * (self.log_weight_norm.exp() / (channel_norms(weight) + 1e-5))


def channel_norms(weight: Tensor) -> Tensor:
    """Euclidean norm of each output channel's weights, ``(O, 1, 1, 1)``."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True)
    return norms


def wn_conv(
    channels_in: int,
    channels_out: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """A weight-normalised convolution that keeps the image size, up to the stride.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        kernel_size: Side of the kernel, odd.
        stride: Step of the kernel.
        dilation: Distance of the kernel's entries.
        bias: Add a bias.
    """
    padding = dilation * (kernel_size - 1) // 2
    conv = nn.Conv2d(
        channels_in, channels_out, kernel_size, stride, padding, dilation=dilation, bias=bias
    )
    parametrize.register_parametrization(conv, "weight", LogWeightNorm(conv.weight))
    return conv


class SqueezeExcitation(nn.Module):
    """A gate for each channel: x · σ(W₂ relu(W₁ mean(x) + b₁) + b₂), the mean over positions.

    Args:
        channels: Channels of the features; a sixteenth of them, at least 4, are hidden units.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def gates(self, features: Tensor) -> Tensor:
        """Gates ``(B, C, 1, 1)`` of features ``(B, C, H, W)``."""
        hidden = F.relu(self.squeeze(features.mean((2, 3))))
        gates: Tensor = self.excite(hidden).sigmoid()
        return gates[:, :, None, None]

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, C, H, W)`` times their gates."""
        return features * self.gates(features)


@contextmanager
def cached_weights(*modules: nn.Module) -> Iterator[None]:
    """Compute parametrized weights once, for a time in which they do not change.

    Torch finds a cached weight by the layer that it was first made for, which a copy of the layer
    shares with it: where there are copies, nothing is cached.
    """
    layers = [layer for module in modules for layer in module.modules()]
    # Every parametrized layer has a class of its own, and its copies have the same one.
    kinds = [type(layer) for layer in layers if parametrize.is_parametrized(layer)]
    with parametrize.cached() if len(kinds) == len(set(kinds)) else nullcontext():
        yield


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Switch off the gradients of a module's parameters and its training mode for a while."""
    training = module.training
    required = [p for p in module.parameters() if p.requires_grad]
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        module.train(training)
        for parameter in required:
            parameter.requires_grad_(True)


class SpectralPenalty(nn.Module):
    """Sum of the largest singular values of a network's layers, by power iteration.

    R = Σ_l u_lᵀ W_l v_l with v ← norm(Wᵀu), u ← norm(Wv): 40 iterations at the first call and 4 at
    each later one. Matrices of one shape are iterated together. The vectors are buffers, so that a
    resumed run goes on where it stopped; no gradient passes through them.

    Args:
        matrices: The matrices at construction, by name, each ``(O, I)``.

    References:
        NVAE: A Deep Hierarchical Variational Autoencoder (Vahdat, Kautz, 2020), section 3.2.
    """

    first_iterations = 40
    later_iterations = 4
    started: Tensor

    def __init__(self, matrices: dict[str, Tensor]) -> None:
        super().__init__()
        names = sorted(matrices, key=lambda name: matrices[name].shape)  # stable: keeps the order
        groups = groupby(names, key=lambda name: matrices[name].shape)
        self.stacks = {f"u_{rows}x{columns}": list(g) for (rows, columns), g in groups}
        for key, members in self.stacks.items():
            vectors = torch.randn(len(members), len(matrices[members[0]]))
            self.register_buffer(key, F.normalize(vectors, dim=1, eps=1e-3))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, matrices: dict[str, Tensor]) -> Tensor:
        """The penalty of the matrices as they are now, a scalar ≥ 0."""
        iterations = self.later_iterations if self.started else self.first_iterations
        # Autocast would round each product to bf16 and stall the iteration.
        with torch.autocast(self.started.device.type, enabled=False):
            norms = [
                self._norms(
                    self.get_buffer(key),
                    at_least_float32(torch.stack([matrices[name] for name in members])),
                    iterations,
                )
                for key, members in self.stacks.items()
            ]
        self.started.fill_(True)
        return torch.cat(norms).sum()

    @staticmethod
    def _norms(u: Tensor, stack: Tensor, iterations: int) -> Tensor:
        """Largest singular values ``(n,)`` of matrices ``(n, O, I)``; moves u ``(n, O)``."""
        with torch.no_grad():
            column = u[:, :, None]
            for _ in range(iterations):
                v = F.normalize(stack.mT @ column, dim=1, eps=1e-3)
                new = F.normalize(stack @ v, dim=1, eps=1e-3)
                column = torch.where(new.any(1, keepdim=True), new, column)  # zero: no direction
            u.copy_(column.squeeze(2))
        # `column` and not `u`: the buffer changes again before a second call's backward pass.
        return (column.mT @ (stack @ v)).flatten()
