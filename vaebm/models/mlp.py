"""VAE and energy for 2-D toys, made of linear layers."""

from torch import Tensor

from vaebm.distributions import DiagonalNormal
from vaebm.models.base import Energy, models
from vaebm.models.layers import SpectralPenalty, float32_linear, mlp, weight_matrices
from vaebm.models.vector import VectorVAE


@models.register
class MLPVAE(VectorVAE):
    """A VAE of points: z ~ N(0, I), x | z ~ N(μ(z), σ(z)²).

    Points are used as they are: no clamp, no rescaling. The likelihood is a diagonal Gaussian, so
    p_θ(x) is a mixture of Gaussians that `vaebm.metrics` can integrate on a grid.

    Args:
        data_dim: Dimension of a point.
        latent_dim: Dimension of z.
        width: Units of each hidden layer.
        depth: Hidden layers of encoder and decoder.
    """

    def __init__(
        self, data_dim: int = 2, latent_dim: int = 20, width: int = 256, depth: int = 4
    ) -> None:
        super().__init__([[latent_dim], [data_dim]])
        hidden = [width] * depth
        self.encoder = mlp([data_dim, *hidden, 2 * latent_dim])
        self.decoder = mlp([latent_dim, *hidden, 2 * data_dim])

    def posterior(self, image: Tensor) -> DiagonalNormal:
        """q(z|x) of points ``(B, data_dim)``."""
        return DiagonalNormal.from_raw(self.encoder(image))

    def likelihood(self, z: Tensor) -> DiagonalNormal:
        """p(x|z) of latents ``(B, latent_dim)``."""
        return DiagonalNormal.from_raw(self.decoder(z))


@models.register
class MLPEnergy(Energy):
    """An energy of points, E(x) a stack of linear layers.

    A network at its default initialisation cannot resolve features much smaller than 1 within
    minutes of training. The first layer therefore starts at s times the usual weights and biases:
    its units are s times as steep and still spread over the same region, while one step of the
    optimiser moves them no further. About 0.6 / (standard deviation of the smallest feature) is
    right. (A factor on the input would multiply the learning rate too, and gather all units at the
    origin: six times the likelihood gap on 25 Gaussians.)

    Args:
        data_dim: Dimension of a point.
        width: Units of each hidden layer.
        depth: Hidden layers.
        input_scale: Factor s on the first layer's initial weights and biases.
    """

    def __init__(
        self, data_dim: int = 2, width: int = 256, depth: int = 4, input_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.net = mlp([data_dim, *[width] * depth, 1])
        for parameter in self.net[0].parameters():
            parameter.data *= input_scale
        self.spectral = SpectralPenalty(weight_matrices(self.net))

    def forward(self, image: Tensor) -> Tensor:
        """Energies ``(B,)`` of points ``(B, data_dim)``."""
        *hidden, last = self.net
        for layer in hidden:
            image = layer(image)
        return float32_linear(last, image).squeeze(1)

    def penalty(self) -> Tensor:
        """Sum of the layers' spectral norms."""
        norms: Tensor = self.spectral(weight_matrices(self.net))
        return norms
