"""Coverage of known modes: centres of toys, classes of images."""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from vaebm.errors import DataError


class ModeCoverage(Metric):
    """How samples spread over known modes.

    Every sample belongs to its nearest centre, and is of high quality if it lies within a radius of
    it. With n_m high-quality samples at centre m of M, p_m = n_m / Σ n:

    * ``modes`` is the number of centres with n_m > 0;
    * ``high_quality`` is Σ n over the number of samples;
    * ``mode_kl`` is the plug-in estimate Σ_m p_m log(M p_m) of the divergence from p to uniform
      modes, in nats, which n perfect samples overestimate by about (M − 1) / 2n.

    Args:
        centers: Centres of the modes, ``(M, 2)``, all of the same weight.
        radius: Largest distance of a high-quality sample, in units of the samples.

    References:
        VEEGAN: Reducing Mode Collapse in GANs using Implicit Variational Learning
        (Srivastava et al., 2017), which counts samples within three standard deviations.
    """

    is_differentiable = False
    full_state_update = False

    centers: Tensor
    hits: Tensor
    total: Tensor

    def __init__(self, centers: Tensor, radius: float) -> None:
        super().__init__()
        self.register_buffer("centers", centers.detach().clone(), persistent=False)
        self.radius = radius
        zeros = torch.zeros(len(centers), dtype=torch.long)
        self.add_state("hits", zeros, dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, samples: Tensor) -> None:
        """Add samples.

        Args:
            samples: Samples, ``(N, 2)``.
        """
        offsets = samples.to(self.centers)[:, None] - self.centers
        distance, nearest = offsets.norm(dim=2).min(1)
        chosen = nearest[distance <= self.radius]
        self.hits = self.hits + chosen.bincount(minlength=len(self.centers))
        self.total = self.total + len(samples)

    def compute(self) -> dict[str, Tensor]:
        """The three figures over all samples.

        Returns:
            ``modes``, ``high_quality`` and ``mode_kl``, scalars. Without any high-quality sample
            ``mode_kl`` is log M, its largest value.

        Raises:
            DataError: If there was no sample.
        """
        if not self.total:
            raise DataError("no samples, so no mode coverage")
        found = self.hits.sum()
        share = self.hits.double() / found.clamp(min=1)
        log_modes = math.log(len(self.hits))
        return {
            "modes": (self.hits > 0).sum(),
            "high_quality": found.double() / self.total,
            # xlogy is 0 at 0, the limit of p log p.
            "mode_kl": log_modes + torch.special.xlogy(share, share).sum(),
        }


class ClassCoverage(Metric):
    """How samples spread over classes, each of which is a mode.

    With p_m the share of samples of class m and q_m that of the data: ``modes`` is the number of
    classes that samples have, and ``mode_kl`` the plug-in estimate Σ_m p_m log(p_m / q_m) of the
    divergence, in nats, which n perfect samples of M classes overestimate by about (M − 1) / 2n.

    Args:
        reference: Counts of the classes in the data, ``(M,)``, each at least 1.

    References:
        Unrolled Generative Adversarial Networks (Metz, Poole, Pfau, Sohl-Dickstein, 2017).
    """

    is_differentiable = False
    full_state_update = False

    log_reference: Tensor
    hits: Tensor

    def __init__(self, reference: Tensor) -> None:
        super().__init__()
        if int(reference.min()) < 1:
            missing = int((reference < 1).sum())
            raise DataError(f"{missing} of {len(reference)} classes are not in the data")
        logs = (reference.double() / reference.sum()).log()
        self.register_buffer("log_reference", logs, persistent=False)
        zeros = torch.zeros(len(reference), dtype=torch.long)
        self.add_state("hits", zeros, dist_reduce_fx="sum")

    def update(self, classes: Tensor) -> None:
        """Add samples.

        Args:
            classes: Classes in [0, M), ``(N,)``.
        """
        self.hits = self.hits + classes.bincount(minlength=len(self.hits))

    def compute(self) -> dict[str, Tensor]:
        """``modes`` and ``mode_kl``, scalars.

        Raises:
            DataError: If there are no samples.
        """
        if not int(self.hits.sum()):
            raise DataError("mode coverage needs at least one sample")
        share = self.hits.double() / self.hits.sum()
        terms = torch.special.xlogy(share, share) - share * self.log_reference
        return {"modes": (self.hits > 0).sum(), "mode_kl": terms.sum()}
