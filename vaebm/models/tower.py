"""The two halves of NVAE: the bottom-up encoder and the top-down generator."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from vaebm.errors import UsageError
from vaebm.models.cells import UP, Architecture, Cell
from vaebm.models.flows import FlowCell
from vaebm.models.layers import wn_conv

# What a latent group is drawn from: (group, its features s, raw prior parameters) -> z.
Draw = Callable[[int, Tensor, Tensor], Tensor]


class Plan(NamedTuple):
    """Sizes of an NVAE; `NVAE` explains the fields that carry its arguments' names."""

    image_channels: int
    image_size: int
    outputs: int
    encoder_channels: int
    decoder_channels: int
    num_blocks: int
    num_preprocess_cells: int
    num_postprocess_cells: int
    groups_per_scale: tuple[int, ...]
    latent_channels: int
    encoder_cells: int
    decoder_cells: int
    num_flows: int
    squeeze_excitation: bool
    operators: Architecture
    recompute: bool

    @property
    def vanilla(self) -> bool:
        """Whether there is one latent group in all, and therefore no towers."""
        return sum(self.groups_per_scale) == 1

    @property
    def multipliers(self) -> list[int]:
        """Width of each group's features relative to the full resolution, top-down."""
        scales = range(len(self.groups_per_scale) - 1, -1, -1)
        pairs = zip(scales, self.groups_per_scale, strict=True)
        return [2 ** (self.num_blocks + scale) for scale, number in pairs for _ in range(number)]

    @property
    def sides(self) -> list[int]:
        """Height and width of each group, top-down."""
        return [self.image_size // multiplier for multiplier in self.multipliers]

    def cells(
        self, operators: Sequence[str], width_in: int, width_out: int, count: int, stride: int
    ) -> list[nn.Module]:
        """A cell that changes resolution, where the widths differ, and `count` ones after it."""
        places = [(width_in, width_out, stride)] if width_in != width_out else []
        places += [(width_out, width_out, 1)] * count
        gate = self.squeeze_excitation
        return [Cell(operators, *place, squeeze_excitation=gate) for place in places]

    def run(self, cells: nn.Module, features: Tensor) -> Tensor:
        """Apply cells, without storing what is inside them if `recompute`."""
        if not (self.recompute and torch.is_grad_enabled()):
            return cells(features)  # type: ignore[no-any-return]
        contexts = lambda: (nullcontext(), frozen_statistics(cells))  # noqa: E731
        result: Tensor = checkpoint(cells, features, use_reentrant=False, context_fn=contexts)
        return result


def check_plan(plan: Plan) -> None:
    """Refuse sizes that do not fit together.

    Raises:
        UsageError: If one is out of range or they disagree.
    """
    for name, value in plan._asdict().items():
        least = 0 if name in ("num_flows", "num_blocks") else 1
        if type(value) is int and value < least:
            raise UsageError(f"{name} is {value}, but at least {least} is due")
    if not plan.groups_per_scale or min(plan.groups_per_scale) < 1:
        raise UsageError(
            f"groups_per_scale is {list(plan.groups_per_scale)}, but one positive number for each "
            "latent scale is due"
        )
    if plan.image_size % plan.multipliers[0]:
        raise UsageError(
            f"an image of side {plan.image_size} cannot be halved {plan.num_blocks} times before "
            f"and {len(plan.groups_per_scale) - 1} times between the latent scales"
        )
    if plan.vanilla and plan.encoder_channels != plan.decoder_channels:
        raise UsageError("NVAE with one latent group in all needs encoder_ = decoder_channels")


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep running statistics as they are: the second pass of a checkpoint must not count twice."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in kept:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count


class Encoder(nn.Module):
    """Bottom-up network: features of an image for every latent group, and the posterior heads.

    Args:
        plan: The sizes.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        widths = [multiplier * plan.encoder_channels for multiplier in plan.multipliers]
        contexts = [multiplier * plan.decoder_channels for multiplier in plan.multipliers]
        self.stem = wn_conv(plan.image_channels, plan.encoder_channels, 3)
        self.preprocess = nn.Sequential(*self._preprocess())
        self.tower = nn.ModuleList(self._tower(widths))
        self.top = nn.Sequential(nn.ELU(), wn_conv(widths[0], widths[0]), nn.ELU())
        self.combiners = nn.ModuleList(map(wn_conv, contexts[1:], widths[1:]))
        self.posteriors = nn.ModuleList(wn_conv(w, 2 * plan.latent_channels, 3) for w in widths)
        self.flows = nn.ModuleList(nn.Sequential(*self._flows()) for _ in widths)

    def _preprocess(self) -> Iterator[nn.Module]:
        plan, width = self.plan, self.plan.encoder_channels
        for _ in range(plan.num_blocks):
            count = plan.num_preprocess_cells - 1
            yield from plan.cells(plan.operators.preprocess, width, width, count, 1)
            yield from plan.cells(plan.operators.preprocess, width, 2 * width, 0, 2)
            width *= 2

    def _tower(self, widths: list[int]) -> Iterator[nn.Module]:
        """A block of cells for each group, bottom-up."""
        plan, upwards = self.plan, list(reversed(widths))
        for below, width in pairwise([upwards[0], *upwards] if not plan.vanilla else []):
            cells = plan.cells(plan.operators.encoder, below, width, plan.encoder_cells, 2)
            yield nn.Sequential(*cells)

    def _flows(self) -> Iterator[nn.Module]:
        for _ in range(self.plan.num_flows):
            yield FlowCell(self.plan.latent_channels, reverse=False)
            yield FlowCell(self.plan.latent_channels, reverse=True)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of images ``(B, C, H, W)`` in [0, 1], one a group, top-down."""
        features = self.plan.run(self.preprocess, self.stem(2 * image - 1))
        stored = []
        for block in self.tower:
            features = self.plan.run(block, features)
            stored.append(features)
        return [self.top(features), *reversed(stored[:-1])]

    def posterior(self, group: int, features: Tensor, context: Tensor) -> Tensor:
        """Raw posterior parameters ``(B, 2L, h, w)`` of a group.

        Args:
            group: The group, top-down.
            features: This group's features of the image.
            context: The generator's features of the groups above; the first group has none.
        """
        if group:
            features = features + self.combiners[group - 1](context)
        raw: Tensor = self.posteriors[group](features)
        return raw


class LatentGroup(nn.Module):
    """One step of the top-down walk: cells, the prior's parameters, and how z joins the features.

    Args:
        plan: The sizes.
        above: Width of the features of the group above; None for the first group.
        width: Width of this group's features.
    """

    def __init__(self, plan: Plan, above: int | None, width: int) -> None:
        super().__init__()
        self.plan = plan
        latent = plan.latent_channels
        if above is None:
            self.cells, self.prior = nn.Sequential(), None
        else:
            cells = plan.cells(plan.operators.decoder, above, width, plan.decoder_cells, UP)
            self.cells = nn.Sequential(*cells)
            self.prior = nn.Sequential(nn.ELU(), wn_conv(width, 2 * latent))
        self.merge = wn_conv(latent if plan.vanilla else width + latent, width)

    def forward(self, group: int, features: Tensor, draw: Draw) -> Tensor:
        """The features ``(B, C, h, w)`` after this group."""
        features = self.plan.run(self.cells, features) if len(self.cells) else features
        z = draw(group, features, self._raw_prior(features))
        joined: Tensor = self.merge(z if self.plan.vanilla else torch.cat([features, z], dim=1))
        return joined

    def _raw_prior(self, features: Tensor) -> Tensor:
        """Raw means and log scales ``(B, 2L, h, w)``; zeros for the first group."""
        if self.prior is not None:
            raw: Tensor = self.prior(features)
            return raw
        batch, _, *sides = features.shape
        return features.new_zeros(batch, 2 * self.plan.latent_channels, *sides)


class Generator(nn.Module):
    """Top-down network: from a learned constant through all latent groups to the image's head.

    Args:
        plan: The sizes.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        widths = [multiplier * plan.decoder_channels for multiplier in plan.multipliers]
        side = plan.sides[0]
        self.constant = nn.Parameter(torch.rand(widths[0], side, side))
        # A single group does not look at the constant, which published files hold all the same.
        self.constant.requires_grad_(not plan.vanilla)
        self.groups = nn.ModuleList(
            LatentGroup(plan, above, width)
            for above, width in zip([None, *widths], widths, strict=False)
        )
        self.postprocess = nn.Sequential(*self._postprocess(widths[-1]))
        self.head = nn.Sequential(nn.ELU(), wn_conv(plan.decoder_channels, plan.outputs, 3))

    def _postprocess(self, width: int) -> Iterator[nn.Module]:
        plan, count = self.plan, self.plan.num_postprocess_cells - 1
        for _ in range(plan.num_blocks):
            width //= 2
            yield from plan.cells(plan.operators.postprocess, 2 * width, width, count, UP)

    def forward(self, batch_size: int, draw: Draw) -> Tensor:
        """The walk: raw parameters of p(x|z), ``(B, outputs, H, W)``.

        Args:
            batch_size: Images B.
            draw: Gives each group's latents: of the prior, of a posterior or of given noise.
        """
        features = self.constant.expand(batch_size, -1, -1, -1)
        for index, group in enumerate(self.groups):
            features = group(index, features, draw)
        raw: Tensor = self.head(self.plan.run(self.postprocess, features))
        return raw
