"""Fréchet distance between two sets of images, in the features of any network."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from vaebm.errors import DataError, UsageError


class _FrozenFeatures(nn.Module):
    """A private copy of an extractor in eval mode, outside the module tree, with float64 results.

    Inside the tree its weights would enter the state dict and parameters of whatever owns the
    metric; in training mode batch norms would use the statistics of the batch.
    """

    def __init__(self, extractor: nn.Module, image_shape: Sequence[int] | None) -> None:
        super().__init__()
        self._extractor = (copy.deepcopy(extractor).eval().requires_grad_(False),)
        self.num_features = self._count_features(image_shape)

    def _count_features(self, image_shape: Sequence[int] | None) -> int:
        num_features = getattr(self._extractor[0], "num_features", None)
        if num_features is not None:
            return int(num_features)
        if image_shape is None:
            raise UsageError("the extractor has no attribute num_features: give an image_shape")
        features: Tensor = self(torch.zeros(1, *image_shape))
        return features.shape[1]

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self._extractor[0].to(image.device)(image)
        if features.ndim != 2:
            raise UsageError(f"features are (B, D), but the extractor gave {tuple(features.shape)}")
        return features.double()


class FrechetDistance(FrechetInceptionDistance):
    """Fréchet distance of images in the features of a network.

    d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), where μ and Σ are the mean and covariance of the
    features of real and generated images. The unit is that of the features squared, so only
    distances of one extractor can be compared. Statistics are float64 and summed over processes.

    The metric works on its own frozen copy of the extractor: it sees no later training, and has
    neither parameters nor a state dict.

    Args:
        extractor: Maps images ``(B, C, H, W)`` in [0, 1] to features ``(B, D)``.
        image_shape: Shape of one image (C, H, W), needed if the extractor has no attribute
            `num_features`.
        reset_real_features: Whether `reset` forgets the real images too.

    References:
        GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
        (Heusel et al., 2017).
    """

    def __init__(
        self,
        extractor: nn.Module,
        image_shape: Sequence[int] | None = None,
        *,
        reset_real_features: bool = True,
    ) -> None:
        features = _FrozenFeatures(extractor, image_shape)
        super().__init__(feature=features, reset_real_features=reset_real_features)

    def update(self, images: Tensor, real: bool) -> None:
        """Add images.

        Args:
            images: Images, ``(B, C, H, W)`` in [0, 1], given to the extractor unchanged.
            real: Whether they are real or generated.
        """
        super().update(images, real)

    def compute(self) -> Tensor:
        """The distance d² of all images added so far, a float64 scalar ≥ 0.

        Raises:
            DataError: If either side has fewer than two images, or features that are not finite.
        """
        for side in ("real", "fake"):
            count = int(getattr(self, f"{side}_features_num_samples"))
            if count < 2:
                raise DataError(f"a Fréchet distance needs 2 {side} images or more, not {count}")
            if not getattr(self, f"{side}_features_cov_sum").isfinite().all():
                raise DataError(f"features of {side} images are not finite")
        distance: Tensor = super().compute()
        return distance.clamp(min=0)  # rounding can leave −1e-16 for equal sets
