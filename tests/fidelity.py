"""torch-fidelity's own figures, and a small network that both sides can use."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from vaebm.metrics import ImageFeatures
from vaebm.noise import generator_for

NAMES = {
    "fid": "frechet_inception_distance",
    "inception_score": "inception_score_mean",
    "inception_score_std": "inception_score_std",
    "kid": "kernel_inception_distance_mean",
    "kid_std": "kernel_inception_distance_std",
}


class SmallFeatures(nn.Module):
    """Six features and four classes of images of 3×8×8 pixels, in float64."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(192, 10, generator=generator_for(7), dtype=torch.float64)
        self.register_buffer("weight", weight / 5)

    def forward(self, image: Tensor) -> ImageFeatures:
        """Features of images in [0, 1]."""
        values = (image.flatten(1).double() @ self.weight).tanh()
        return ImageFeatures(values[:, :6], 3 * values[:, 6:])


class Bytes(Dataset[Tensor]):
    """Images as torch-fidelity takes them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.clamp(0, 1).mul(255).round().byte()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def published_figures(samples: Tensor, real: Tensor, **options: Any) -> dict[str, float]:
    """What torch-fidelity says, by our names; `SmallFeatures` unless options name a network."""
    library = pytest.importorskip("torch_fidelity")

    class Small(library.FeatureExtractorBase):  # type: ignore[misc,name-defined]
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.network = SmallFeatures()

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("pooled", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "pooled"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            found = self.network(image / 255)._asdict()
            return tuple(found[name] for name in self.features_list)

    if "small" not in library.registry.FEATURE_EXTRACTORS_REGISTRY:
        library.register_feature_extractor("small", Small)
    found = library.calculate_metrics(
        input1=Bytes(samples),
        input2=Bytes(real),
        **{"feature_extractor": "small", "isc": True, "fid": True, "kid": True} | options,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )
    return {ours: found[theirs] for ours, theirs in NAMES.items() if theirs in found}


@contextmanager
def random_inception() -> Iterator[Path]:
    """A file of random weights in the format of the published ones."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        network = module.FeatureExtractorInceptionV3
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(network, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        weights = network("inception-v3-compat", ["2048"]).state_dict()
        patch.undo()
        # Larger than at the start of a training: else all images have the same features.
        weights = {k: v * (3 if k.endswith("conv.weight") else 1) for k, v in weights.items()}
        path = Path(folder) / "inception.pth"
        torch.save(weights, path)
        yield path
