import pytest
import torch
from torch import Generator, Tensor

from vaebm.models.classifier import FeatureExtractor, SmallClassifier, train_classifier


def blobs(count: int = 256, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy 8×8 images with a bright left or right half."""
    generator = Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    images = 0.5 * torch.rand(count, 1, 8, 8, generator=generator)
    images[..., :4] += 0.5 * (1 - labels).view(-1, 1, 1, 1)
    images[..., 4:] += 0.5 * labels.view(-1, 1, 1, 1)
    return images, labels


def trained(seed: int = 0, epochs: int = 1) -> SmallClassifier:
    return train_classifier(*blobs(), num_classes=2, epochs=epochs, seed=seed)


def first_weight(classifier: SmallClassifier) -> Tensor:
    return next(classifier.parameters())


def test_training_learns_separable_classes() -> None:
    images, labels = blobs(seed=1)
    assert (trained(epochs=5)(images).argmax(1) == labels).float().mean() > 0.98


def test_same_seed_gives_the_same_classifier_whatever_ran_before() -> None:
    first = trained().state_dict()
    torch.manual_seed(99)
    torch.testing.assert_close(trained().state_dict(), first, rtol=0, atol=0)


def test_other_seed_gives_another_classifier() -> None:
    assert not torch.equal(first_weight(trained(0)), first_weight(trained(1)))


def test_training_leaves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    trained()
    assert torch.equal(torch.get_rng_state(), before)


def test_training_works_in_inference_mode() -> None:
    with torch.inference_mode():
        inside = trained()
    torch.testing.assert_close(inside.state_dict(), trained().state_dict())


def test_trained_classifier_is_frozen_and_in_eval_mode() -> None:
    classifier = trained()
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (3, 32, 32), (1, 28, 20)])
def test_features_and_logits_have_their_shapes_for_any_image(shape: tuple[int, ...]) -> None:
    classifier = SmallClassifier(shape, num_classes=7)
    image = torch.rand(2, *shape)
    assert classifier.features(image).shape == (2, classifier.num_features)
    assert classifier(image).shape == (2, 7)


def test_extractor_gives_the_features() -> None:
    classifier = trained()
    images, _ = blobs(4)
    extractor = FeatureExtractor(classifier)
    assert extractor.num_features == 64
    assert torch.equal(extractor(images), classifier.features(images))


@pytest.mark.slow
def test_digits_are_classified_with_98_percent() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits = datasets.load_digits()
    order = torch.randperm(1797, generator=Generator().manual_seed(0))
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[order, None]
    labels = torch.tensor(digits.target, dtype=torch.long)[order]
    classifier = train_classifier(images[:1400], labels[:1400], num_classes=10)
    assert (classifier(images[1400:]).argmax(1) == labels[1400:]).float().mean() >= 0.98
