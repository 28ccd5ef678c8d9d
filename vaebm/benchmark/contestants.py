"""What is compared: the baseline, and stage 2 in float32, in bf16 and compiled."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import NamedTuple
from warnings import catch_warnings, simplefilter

import torch
from torch import Generator, Tensor

from vaebm.adam_bound import bound_gradients
from vaebm.benchmark.baseline import Baseline
from vaebm.benchmark.clock import Work
from vaebm.ebm_stage import EBMStage
from vaebm.models.base import VAE

Precision = Callable[[], AbstractContextManager[object]]


class Contestant(NamedTuple):
    """One way to do the same work.

    Attributes:
        stage: Stage 2, on its device.
        precision: Makes the context that networks run in, as Lightning's precision does.
    """

    stage: EBMStage
    precision: Precision = nullcontext

    def langevin_step(self, batch_size: int) -> Work:
        """One step of the chains: decode, energy, gradient, update."""
        return self.chain(batch_size, 1)

    def chain(self, batch_size: int, num_steps: int) -> Work:
        """Steps of chains from the prior."""
        start = self.start(batch_size)
        generator = Generator(start.device).manual_seed(1)

        @torch.no_grad()
        def work() -> Tensor:
            with self.precision():
                return self.stage.run_chains(start, generator, num_steps)[0]

        return work

    def start(self, batch_size: int) -> Tensor:
        """States ``(B, D)`` of chains at their start."""
        generator = Generator(self.stage.device).manual_seed(0)
        with self.precision(), torch.no_grad():
            return self.stage.space.start(self.stage.decoder, batch_size, generator=generator)

    def iteration(self, batch_size: int) -> Work:
        """One step of the training: chains, losses, gradients, Adam."""
        stage, optimizer = self.stage.train(), self.stage.make_optimizer()
        generator = Generator(stage.device).manual_seed(2)
        shape = (batch_size, *stage.vae.image_shape)
        images = torch.rand(shape, generator=generator, device=stage.device)

        def work() -> Tensor:
            optimizer.zero_grad()
            with self.precision(), catch_warnings():
                simplefilter("ignore")  # there is no trainer to log to
                loss = stage.training_step(images, 0)
            loss.backward()
            if stage.gradient_bound:
                bound_gradients(optimizer)
            optimizer.step()
            return loss.detach()

        return work

    def samples(self, batch_size: int) -> Work:
        """Samples as `vaebm sample` draws them."""
        generator = Generator(self.stage.device).manual_seed(3)

        def work() -> Tensor:
            with self.precision():
                return self.stage.sample(batch_size, generator=generator)

        return work


def contestants(stage: EBMStage, *, compile: bool) -> dict[str, Contestant]:
    """All ways to do the work of a stage, by name.

    Args:
        stage: Stage 2; not changed. The VAE is shared except with the baseline.
        compile: Compare a compiled one as well.
    """
    device = stage.device

    def half() -> AbstractContextManager[object]:
        return torch.autocast(device.type, dtype=torch.bfloat16)

    found = {
        "baseline": Contestant(Baseline.of(stage).to(device)),
        "fp32": Contestant(variant(stage)),
        "bf16": Contestant(variant(stage), half),
    }
    if compile:
        found["compiled"] = Contestant(variant(stage, compile=True))
    return found


def variant(stage: EBMStage, *, vae: VAE | None = None, compile: bool = False) -> EBMStage:
    """A stage of the same networks whose training does not change the given one's.

    Args:
        stage: The stage.
        vae: Another VAE instead of the stage's own.
        compile: Compile its chains.
    """
    own = {key: deepcopy(value) for key, value in stage.init_args.items() if key != "vae"}
    twin = type(stage)(**{**own, "vae": vae or stage.vae, "compile": compile})
    return twin.to(stage.device)
