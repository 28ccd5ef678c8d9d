"""Pictures: point clouds and energy surface of 2-D toys, grids of images."""

from collections.abc import Mapping
from math import ceil, sqrt
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from vaebm.models.base import Energy

Pixels = NDArray[np.uint8]


def to_uint8(images: Tensor) -> Pixels:
    """Images ``(N, C, H, W)`` in [0, 1] as bytes ``(N, H, W, C)``, rounded to the nearest."""
    scaled = images.detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    return scaled.movedim(1, -1).numpy()


def stretched(images: Tensor) -> Tensor:
    """Each image's lowest value to 0 and highest to 1, over all its colours and pixels.

    Args:
        images: Images, ``(N, C, H, W)``, of any range; one without contrast becomes 0.
    """
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp(min=1e-5)


def tile(images: Pixels, columns: int | None = None, gap: int = 1) -> Pixels:
    """Lay images out in rows.

    Args:
        images: Bytes, ``(N, H, W, C)``.
        columns: Images in a row; a square by default.
        gap: White pixels between images.

    Returns:
        One RGB image, ``(H', W', 3)``.
    """
    count, height, width = images.shape[:3]
    columns = columns or ceil(sqrt(count))
    rows = ceil(count / columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for index, image in enumerate(images):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def draw(panels: Mapping[str, Tensor], energy: Energy | None = None) -> Figure:
    """Draw samples side by side, of 2-D toys also the energy surface.

    Args:
        panels: Samples by title: images ``(N, C, H, W)`` in [0, 1] or points ``(N, 2)``.
        energy: Energy of points to draw as a surface; ignored for images.
    """
    toys = next(iter(panels.values())).ndim == 2
    surface = energy if toys else None
    count = len(panels) + (surface is not None)
    figure = Figure(figsize=(4 * count, 4.3), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    limit = _limit(panels) if toys else 0.0
    for axis, (title, samples) in zip(axes, panels.items(), strict=False):
        axis.set_title(f"{title}, {len(samples):,}" if toys else title)
        if toys:
            x, y = samples.detach().cpu().numpy().T
            axis.scatter(x, y, s=2, alpha=0.5, linewidths=0)
            axis.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        else:
            axis.imshow(tile(to_uint8(samples)), interpolation="nearest")
            axis.axis("off")
    if surface is not None:
        _draw_surface(figure, axes[-1], surface, limit)
    return figure


def _limit(panels: Mapping[str, Tensor]) -> float:
    """Half the side of the square that all panels share: the first panel's range and a margin."""
    return 1.15 * float(next(iter(panels.values())).abs().max())


@torch.no_grad()
def _draw_surface(figure: Figure, axis: Axes, energy: Energy, limit: float) -> None:
    device = next(energy.parameters()).device
    ticks = torch.linspace(-limit, limit, 200, device=device)
    surface = energy(torch.cartesian_prod(ticks, ticks)).view(200, 200).T.cpu()
    # A few far corners would take up the whole colour scale.
    low, high = surface.quantile(0.01), surface.quantile(0.99)
    extent = (-limit, limit, -limit, limit)
    picture = axis.imshow(
        surface.numpy(),
        extent=extent,
        origin="lower",
        vmin=float(low),
        vmax=float(high),
        cmap="viridis",
    )
    axis.set_title("energy E(x)")
    figure.colorbar(picture, ax=axis, shrink=0.8)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, and the folder that it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def pixels_of(figure: Figure) -> Pixels:
    """The picture as RGB bytes, ``(H, W, 3)``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
