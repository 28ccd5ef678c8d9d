"""The Inception network from files in the published format, and everything that can be wrong."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.fidelity import random_inception
from vaebm.errors import DataError, UsageError
from vaebm.metrics import InceptionFeatures

library = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def weights() -> Iterator[str]:
    with random_inception() as path:
        yield str(path)


def test_features_are_those_of_the_library(weights: str) -> None:
    pixels = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    network = library.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], weights
    )
    expected = network(pixels)
    found = InceptionFeatures(weights)(pixels / 255)
    assert [value.shape for value in found] == [(2, 2048), (2, 1008)]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
    grey = InceptionFeatures(weights)(pixels[:, :1] / 255)
    assert torch.equal(grey.pooled, network(pixels[:, :1].expand(-1, 3, -1, -1))[0])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(InceptionFeatures(weights)(pixels / 255).pooled, expected[0])


def test_network_is_frozen(weights: str) -> None:
    network = InceptionFeatures(weights)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.network.training


def test_usual_cache_is_looked_up(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub/checkpoints/weights-inception-2015-12-05-6726825d.pth"
    cached.parent.mkdir(parents=True)
    cached.symlink_to(weights)
    InceptionFeatures()


def test_without_network_one_line_names_the_file_and_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(library, "URL_INCEPTION_V3", "http://127.0.0.1:9/inception.pth")
    place = tmp_path / "hub/checkpoints/inception.pth"
    message = r"^the Inception weights cannot be downloaded \([^\n]*refused[^\n]*\): put "
    with pytest.raises(
        DataError, match=message + f"http://127.0.0.1:9/inception.pth at {place}, or"
    ):
        InceptionFeatures()


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^there is no file {tmp_path / 'no.pth'} with the Inc"):
        InceptionFeatures(str(tmp_path / "no.pth"))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for content in ({"fc.weight": torch.zeros(1)}, [1, 2]):
        torch.save(content, path)
        with pytest.raises(DataError, match=f"^{path} holds no weights of the Inception network$"):
            InceptionFeatures(str(path))


class Evil:
    """Touches a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("executed"),)


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        write({"fc.weight": Evil()}, tmp_path / "weights.pth")
        with pytest.raises(DataError, match="is refused"):
            InceptionFeatures(str(tmp_path / "weights.pth"))
    assert not (tmp_path / "executed").exists()
