"""NVAE: a hierarchical VAE of images whose generator is a map of noise."""

from collections.abc import Sequence
from copy import copy
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vaebm.distributions import DiagonalNormal, PixelLikelihood, density_of
from vaebm.errors import UsageError
from vaebm.models.base import VAE, Decoded, ElboTerms, models
from vaebm.models.cells import operators_of
from vaebm.models.fold import folded
from vaebm.models.layers import SpectralPenalty, weight_matrices
from vaebm.models.pixels import PixelKind, colours_and_side, num_outputs, pixels_of, quantise
from vaebm.models.tower import Encoder, Generator, Plan, check_plan


class Latents(NamedTuple):
    """One latent group of a pass: z = f(sample of `posterior` with noise eps), f the flows.

    Attributes:
        posterior: q before the flows.
        prior: p given the groups above.
        eps: Noise, ``(B, L, h, w)``.
        z: Latents, ``(B, L, h, w)``.
        flows: Whether there are flows between the posterior's sample and z.
    """

    posterior: DiagonalNormal
    prior: DiagonalNormal
    eps: Tensor
    z: Tensor
    flows: bool

    @property
    def log_ratio(self) -> Tensor:
        """Log q(z) − log p(z) per element; the flows' log-determinant is 0."""
        return self.posterior.log_prob_of_noise(self.eps) - self.prior.log_prob(self.z)

    @property
    def kl(self) -> Tensor:
        """KL(q ‖ p) per element, exact without flows and `log_ratio` with them."""
        return self.log_ratio if self.flows else self.posterior.kl(self.prior)


class Inferred(NamedTuple):
    """What the encoder makes of an image.

    Attributes:
        latents: Each group's latents, top-down.
        likelihood: p(x|z) at them.
    """

    latents: list[Latents]
    likelihood: PixelLikelihood


class Generated(NamedTuple):
    """What the generator makes of noise.

    Attributes:
        z: Latents of each group, top-down, ``(B, L, h, w)``.
        log_pz: log p(z) in nats, ``(B,)``.
        likelihood: p(x|z).
    """

    z: list[Tensor]
    log_pz: Tensor
    likelihood: PixelLikelihood


@models.register
class NVAE(VAE):
    """NVAE: z₁, ..., z_G top-down with p(z_g | z_<g) = N(μ_g, σ_g²), and p(x|z) of the pixels.

    A learned constant and the latents pass residual cells, group by group; a bottom-up network
    gives the posterior the image. Every mean and log σ is softly clamped to ±5, and σ is at least
    0.01. Noise is ordered group by group, top-down, pixels last: z_g = μ_g + σ_g ε_g.

    Args:
        image_shape: Colours, height and width; the sides are equal and a power of two times the
            lowest resolution.
        likelihood: Of pixels: ``gaussian`` on 2x − 1 (VAEBM), ``logistic_mixture``, discretised
            (NVAE), or ``bernoulli`` for binary images, whose samples pass no gradient.
        num_mixtures: Components of the logistic mixture.
        num_x_bits: Bits of a pixel's value; `elbo` quantises images to them.
        border: Pixels at each side that are padding and that the ELBO leaves out.
        encoder_channels: Width of the encoder at full resolution.
        decoder_channels: Width of the generator at full resolution.
        num_blocks: Halvings of the resolution between the image and the highest latent scale.
        num_preprocess_cells: Cells of each of them in the encoder.
        num_postprocess_cells: Cells of each of them in the generator.
        groups_per_scale: Latent groups at each resolution, from the lowest (top) to the highest.
        latent_channels: Channels of every latent group.
        encoder_cells: Cells of each group in the encoder.
        decoder_cells: Cells of each group in the generator.
        num_flows: Pairs of autoregressive flow cells on each group's posterior.
        squeeze_excitation: Gate the channels of every cell.
        residual_posterior: Parametrise the posterior relative to the prior.
        architecture: Name of the cells' operators, one of NVAE's tables.
        recompute: Gradient checkpointing: less memory for about a third more time.

    Raises:
        UsageError: If the sizes do not fit together.

    References:
        NVAE: A Deep Hierarchical Variational Autoencoder (Vahdat, Kautz, 2020).
        VAEBM (Xiao, Kreis, Kautz, Vahdat, 2021), whose VAE has the Gaussian likelihood.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (3, 32, 32),
        *,
        likelihood: PixelKind = "gaussian",
        num_mixtures: int = 10,
        num_x_bits: int = 8,
        border: int = 0,
        encoder_channels: int = 128,
        decoder_channels: int = 128,
        num_blocks: int = 1,
        num_preprocess_cells: int = 2,
        num_postprocess_cells: int = 2,
        groups_per_scale: Sequence[int] = (30,),
        latent_channels: int = 20,
        encoder_cells: int = 2,
        decoder_cells: int = 2,
        num_flows: int = 0,
        squeeze_excitation: bool = True,
        residual_posterior: bool = True,
        architecture: str = "res_mbconv",
        recompute: bool = False,
    ) -> None:
        plan = Plan(
            *colours_and_side(image_shape),
            outputs=num_outputs(likelihood, image_shape[0], num_mixtures),
            encoder_channels=encoder_channels,
            decoder_channels=decoder_channels,
            num_blocks=num_blocks,
            num_preprocess_cells=num_preprocess_cells,
            num_postprocess_cells=num_postprocess_cells,
            groups_per_scale=tuple(groups_per_scale),
            latent_channels=latent_channels,
            encoder_cells=encoder_cells,
            decoder_cells=decoder_cells,
            num_flows=num_flows,
            squeeze_excitation=squeeze_excitation,
            operators=operators_of(architecture),
            recompute=recompute,
        )
        check_plan(plan)
        if not 1 <= num_x_bits <= 8:
            raise UsageError(f"num_x_bits is {num_x_bits}, but 1 to 8 are due")
        if not 0 <= 2 * border < plan.image_size:
            raise UsageError(f"border is {border}, which leaves nothing of the image")
        super().__init__([*((latent_channels, side, side) for side in plan.sides), image_shape])
        self.likelihood = likelihood
        self.num_x_bits = num_x_bits
        self.border = border
        self.num_flows = num_flows
        self.residual_posterior = residual_posterior
        self.encoder = Encoder(plan)
        self.generator = Generator(plan)
        self.spectral = SpectralPenalty(weight_matrices(self, nn.Conv2d))
        self.to(memory_format=torch.channels_last)  # convolutions are a fifth faster

    @property
    def data_dim(self) -> int:
        """Values of an image that the ELBO counts: all but the border."""
        colours, height, width = self.image_shape
        return colours * (height - 2 * self.border) * (width - 2 * self.border)

    def generate(self, eps: Tensor, *, temperature: float = 1.0) -> Generated:
        """Latents and pixel distribution of given noise.

        Args:
            eps: Noise, ``(B, D)``.
            temperature: Factor on the scale of every latent group; 1 is the model itself.
        """
        noise, z, log_pz = self.split(eps), [], []

        def draw(group: int, features: Tensor, raw_prior: Tensor) -> Tensor:
            prior = DiagonalNormal.from_raw(raw_prior, temperature)
            z.append(prior.sample(noise[group]))
            log_pz.append(prior.log_prob_of_noise(noise[group]).flatten(1).sum(1))
            return z[-1]

        pixels = pixels_of(self.likelihood, self.num_x_bits, self.generator(len(eps), draw))
        return Generated(z, torch.stack(log_pz).sum(0), pixels)

    def decode(self, eps: Tensor, *, temperature: float = 1.0) -> Decoded:
        """Map noise to images; see `NoiseDecoder.decode`.

        As in the published chains, `log_joint` bounds a Gaussian's pixel scale below by
        exp(−2) + 0.01, while the sample does not.
        """
        generated = self.generate(eps, temperature=temperature)
        image = generated.likelihood.sample(self.split(eps)[-1])
        log_px = generated.likelihood.floored().log_prob(image).flatten(1).sum(1)
        return Decoded(image, generated.likelihood.mean, generated.log_pz + log_px)

    @torch.no_grad()
    def for_chains(self) -> Self:
        """The generator alone, with folded weights; see `VAE.for_chains` and `folded`."""
        twin = copy(self)
        twin._modules = {"generator": folded(self.generator)}
        return twin

    def joint_state(self, eps: Tensor) -> Tensor:
        """(z, x) of noise; see `VAE.joint_state`."""
        z, _, likelihood = self.generate(eps)
        x = density_of(likelihood).sample(self.split(eps)[-1])
        return torch.cat([part.flatten(1) for part in (*z, x)], dim=1)

    def decode_joint(self, state: Tensor) -> Decoded:
        """Decode given latents; see `VAE.decode_joint`. No pixel scale is bounded."""
        *z, x = self.split(state)
        log_p = []

        def draw(group: int, features: Tensor, raw_prior: Tensor) -> Tensor:
            log_p.append(DiagonalNormal.from_raw(raw_prior).log_prob(z[group]).flatten(1).sum(1))
            return z[group]

        raw = self.generator(len(state), draw)
        density = density_of(pixels_of(self.likelihood, self.num_x_bits, raw))
        log_p.append(density.log_prob(x).flatten(1).sum(1))
        return Decoded(self.clamp(x), density.mean, torch.stack(log_p).sum(0))

    def infer(self, image: Tensor, *, noise: Tensor | None = None) -> Inferred:
        """Latents of the posterior and the pixel distribution that they give.

        Args:
            image: Images, ``(B, C, H, W)`` in [0, 1], quantised already.
            noise: Posterior noise, ``(B, latent_dim)``; drawn afresh if not given.
        """
        features, latents = self.encoder(image), []
        eps = self.split_latents(noise) if noise is not None else None

        def draw(group: int, context: Tensor, raw_prior: Tensor) -> Tensor:
            raw = self.encoder.posterior(group, features[group], context)
            raw = raw + raw_prior if self.residual_posterior else raw
            posterior = DiagonalNormal.from_raw(raw)
            prior = DiagonalNormal.from_raw(raw_prior)
            own = torch.randn_like(posterior.mean) if eps is None else eps[group]
            z: Tensor = self.encoder.flows[group](posterior.sample(own))
            latents.append(Latents(posterior, prior, own, z, self.num_flows > 0))
            return z

        return Inferred(
            latents, pixels_of(self.likelihood, self.num_x_bits, self.generator(len(image), draw))
        )

    def elbo(self, image: Tensor, *, noise: Tensor | None = None) -> ElboTerms:
        """The evidence lower bound of images; see `VAE.elbo`.

        Images are quantised to `num_x_bits` first, as those of the training are.
        """
        image = quantise(image, self.num_x_bits)
        latents, pixels = self.infer(image, noise=noise)
        kl = torch.stack([group.kl.flatten(1).sum(1) for group in latents], dim=1)
        return ElboTerms(self._log_px(pixels, image), kl)

    def log_weight(self, image: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """Logarithm of the importance weight p(x, z) / q(z|x); see `VAE.log_weight`."""
        image = quantise(image, self.num_x_bits)
        latents, pixels = self.infer(image, noise=noise)
        ratios = [group.log_ratio.flatten(1).sum(1) for group in latents]
        return self._log_px(pixels, image) - torch.stack(ratios).sum(0)

    def _log_px(self, pixels: PixelLikelihood, image: Tensor) -> Tensor:
        log_px = pixels.log_prob(image)
        rows = slice(self.border, image.shape[-1] - self.border)
        return log_px[..., rows, rows].flatten(1).sum(1)

    def reconstruct(self, image: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """The decoder's mean at a posterior sample; see `VAE.reconstruct`."""
        return self.infer(quantise(image, self.num_x_bits), noise=noise).likelihood.mean

    def penalty(self) -> Tensor:
        """Spectral norms of all convolutions plus the largest scale of each batch norm."""
        norms: Tensor = self.spectral(weight_matrices(self, nn.Conv2d))
        return norms + self.batch_norm_penalty()

    def batch_norm_penalty(self) -> Tensor:
        """R_bn = Σ over all batch norms of max |weight|."""
        total = self.generator.constant.new_zeros(())
        for norm in self.modules():
            if isinstance(norm, _BatchNorm):
                total = total + norm.weight.abs().max()
        return total
