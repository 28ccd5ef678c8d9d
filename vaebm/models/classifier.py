"""A small image classifier, whose penultimate layer gives features for Fréchet distances."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from vaebm.noise import generator_for


class SmallClassifier(nn.Module):
    """A convolutional classifier of images of 8 to 32 pixels.

    Two convolutions of width 32 and 64, then halvings with a convolution each until 4 to 7 pixels
    are left, their average on a 4×4 grid, and two linear layers. It has neither batch norm nor
    dropout: its features are one function of the image, in training and in eval mode alike.

    Args:
        image_shape: Channels, height and width; height and width are at least 8.
        num_classes: Number of classes.

    Attributes:
        num_features: Dimension of `features`, 64.
    """

    num_features = 64

    def __init__(self, image_shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        layers: list[nn.Module] = [nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()]
        for _ in range((min(height, width) // 4).bit_length() - 1):
            layers += [nn.MaxPool2d(2), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.hidden = nn.Linear(64 * 16, self.num_features)
        self.linear = nn.Linear(self.num_features, num_classes)

    def features(self, image: Tensor) -> Tensor:
        """Activations of the penultimate layer.

        Args:
            image: Images, ``(B, C, H, W)`` in [0, 1].

        Returns:
            Features, ``(B, 64)``, not negative.
        """
        return F.relu(self.hidden(self.body(2 * image - 1)))

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of images ``(B, C, H, W)`` in [0, 1]."""
        logits: Tensor = self.linear(self.features(image))
        return logits


class FeatureExtractor(nn.Module):
    """A classifier seen as the map from images to its features.

    Args:
        classifier: The trained classifier.

    Attributes:
        num_features: Dimension of a feature vector.
    """

    def __init__(self, classifier: SmallClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.num_features = classifier.num_features

    def forward(self, image: Tensor) -> Tensor:
        """Features ``(B, num_features)`` of images ``(B, C, H, W)`` in [0, 1]."""
        return self.classifier.features(image)


def _shifted_batches(
    images: Tensor, labels: Tensor, batch_size: int, generator: Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, each batch shifted by at most one pixel each way."""
    height, width = images.shape[2:]
    padded = F.pad(images, [1, 1, 1, 1])
    for batch in torch.randperm(len(images), generator=generator).split(batch_size):
        top, left = torch.randint(3, (2,), generator=generator).tolist()
        chosen = batch.to(images.device)
        yield padded[chosen, :, top : top + height, left : left + width], labels[chosen]


def _seeded_classifier(
    image_shape: Sequence[int], num_classes: int, generator: Generator
) -> SmallClassifier:
    """A classifier whose initial weights depend on the generator alone."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the accelerators, which are not forked.
        torch.default_generator.set_state(generator.get_state())
        return SmallClassifier(image_shape, num_classes)


def train_classifier(
    images: Tensor, labels: Tensor, *, num_classes: int, epochs: int = 20, seed: int = 0
) -> SmallClassifier:
    """Train a `SmallClassifier` by cross-entropy: Adam, one learning-rate cycle, 1-pixel shifts.

    The global random state is neither read nor changed: one seed gives one extractor, whatever ran
    before, so that Fréchet distances of different runs can be compared.

    Args:
        images: Images, ``(N, C, H, W)`` in [0, 1]; their device is where training runs.
        labels: Classes in [0, num_classes), ``(N,)``.
        num_classes: Number of classes.
        epochs: Passes over the images.
        seed: Seed of the initial weights, the order and the shifts.

    Returns:
        The classifier, in eval mode and frozen.
    """
    batch_size = 64
    generator = generator_for(seed)
    # Lightning evaluates in inference mode, whose tensors no backward pass may save: hence clones.
    with torch.inference_mode(False), torch.enable_grad():
        images, labels = images.clone(), labels.clone()
        classifier = _seeded_classifier(images.shape[1:], num_classes, generator).to(images.device)
        optimizer = torch.optim.Adam(classifier.parameters())
        num_steps = epochs * -(-len(images) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps)
        for _ in range(epochs):
            for image, label in _shifted_batches(images, labels, batch_size, generator):
                optimizer.zero_grad()
                F.cross_entropy(classifier(image), label).backward()
                optimizer.step()
                schedule.step()
    return classifier.eval().requires_grad_(False)
