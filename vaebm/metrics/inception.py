"""The Inception network of the published FID, IS and KID."""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vaebm.checkpoints.reading import load_data
from vaebm.errors import DataError, UsageError


class ImageFeatures(NamedTuple):
    """What an extractor makes of B images.

    Attributes:
        pooled: Features for Fréchet and kernel distances, ``(B, D)``.
        logits: Logits of classes for the Inception score, ``(B, C)``, if it has classes.
    """

    pooled: Tensor
    logits: Tensor | None = None


IMAGES_AT_ONCE = 10  # on a CPU: a batch of 100 takes 1.9 GB more, and 1.4 times as long


class InceptionFeatures(nn.Module):
    """Inception v3 with the weights of the first FID, as torch-fidelity has it.

    Images are rounded to bytes and enlarged to 299×299 pixels as TensorFlow 1 did; grey ones become
    RGB. Runs in float32 whatever the precision around it.

    Args:
        weights: File with the weights; None takes torch's usual cache, and downloads them there if
            they are not there.

    Raises:
        UsageError: If there is no such file, or torch-fidelity is not installed.
        DataError: If the file is damaged or of another network, or cannot be downloaded.

    References:
        GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
        (Heusel et al., 2017).
    """

    num_features = 2048

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        library = fidelity("feature_extractor_inceptionv3")
        path = find_weights(weights, library.URL_INCEPTION_V3)
        load_data(path)  # torch-fidelity would run what a file that is no plain data says
        try:
            self.network: nn.Module = library.FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048", "logits_unbiased"],
                feature_extractor_weights_path=str(path),
            )
        except (RuntimeError, TypeError) as error:
            raise DataError(f"{path} holds no weights of the Inception network") from error

    @torch.no_grad()
    def forward(self, image: Tensor) -> ImageFeatures:
        """Features of images.

        Args:
            image: Images, ``(B, 3, H, W)`` or ``(B, 1, H, W)`` in [0, 1].
        """
        pixels = image.float().clamp(0, 1).mul(255).round().byte()
        with torch.autocast(image.device.type, enabled=False):
            at_once = IMAGES_AT_ONCE if image.device.type == "cpu" else max(len(image), 1)
            parts = [self.network(part) for part in pixels.expand(-1, 3, -1, -1).split(at_once)]
        return ImageFeatures(*(torch.cat(part) for part in zip(*parts, strict=True)))


def fidelity(module: str) -> Any:
    """Import a module of torch-fidelity.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        return import_module(f"torch_fidelity.{module}")
    except ImportError as error:
        text = "FID, IS and KID need torch-fidelity: pip install 'vaebm[fid]'"
        raise UsageError(text) from error


def find_weights(path: str | None, url: str) -> Path:
    """The file with the weights, downloaded if need be.

    Args:
        path: The file; None is that in torch's cache.
        url: Where to download it.

    Raises:
        UsageError: If there is no such file.
        DataError: If it cannot be downloaded.
    """
    if path is not None:
        if not Path(path).is_file():
            raise UsageError(f"there is no file {path} with the Inception weights")
        return Path(path)
    cached = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not cached.exists():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(cached), progress=False)
        except Exception as error:  # network and disk each have errors of their own
            raise DataError(
                f"the Inception weights cannot be downloaded ({error}): put {url} at {cached}, or "
                "name the file by the option weights"
            ) from error
    return cached
