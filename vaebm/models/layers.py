"""Building blocks that several networks share."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def weight_matrices(module: nn.Module) -> dict[str, Tensor]:
    """The weights of all linear and convolution layers below `module` as matrices, by name."""
    return {
        name: layer.weight.flatten(1)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


class SpectralPenalty(nn.Module):
    """Sum of the largest singular values of a network's layers, by power iteration.

    R = Σ_l u_lᵀ W_l v_l with v ← norm(Wᵀu), u ← norm(Wv): 40 iterations at the first call and 4 at
    each later one. The vectors are buffers, so that a resumed run goes on where it stopped; no
    gradient passes through them.

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
        for name, matrix in matrices.items():
            vector = F.normalize(torch.randn(len(matrix)), dim=0, eps=1e-3)
            self.register_buffer(self._key(name), vector)
        self.register_buffer("started", torch.tensor(False))

    @staticmethod
    def _key(name: str) -> str:
        return "u_" + name.replace(".", "/")  # a buffer's name has no dots

    def forward(self, matrices: dict[str, Tensor]) -> Tensor:
        """The penalty of the matrices as they are now, a scalar ≥ 0."""
        matrices = {name: at_least_float32(matrix) for name, matrix in matrices.items()}
        iterations = self.later_iterations if self.started else self.first_iterations
        # Autocast would round each product to bf16 and stall the iteration.
        with torch.autocast(self.started.device.type, enabled=False):
            norms = [self._norm(name, matrix, iterations) for name, matrix in matrices.items()]
        self.started.fill_(True)
        return torch.stack(norms).sum()

    def _norm(self, name: str, matrix: Tensor, iterations: int) -> Tensor:
        u = self.get_buffer(self._key(name))
        with torch.no_grad():
            for _ in range(iterations):
                v = F.normalize(matrix.T @ u, dim=0, eps=1e-3)
                new_u = F.normalize(matrix @ v, dim=0, eps=1e-3)
                u.copy_(torch.where(new_u.any(), new_u, u))  # a zero matrix has no direction
        # Clones: the buffer changes again before a second call's backward pass could read it.
        return u.clone() @ (matrix @ v)
