"""Kernel distance (KID) between two sets of images."""

import torch
from torch import Tensor

from vaebm.errors import DataError, UsageError
from vaebm.metrics.inception import fidelity
from vaebm.metrics.numbered_rows import NumberedRows


class KernelDistance(NumberedRows):
    """Squared maximum mean discrepancy of features, unbiased, the mean over random subsets.

    MMD² = E k(x, x') + E k(y, y') − 2 E k(x, y) with k(x, y) = (x·y / D + 1)³. Computed by
    torch-fidelity, in float64, with its choice of subsets, which does not touch the global random
    state and is the same for any number of processes.

    Args:
        real: Features of real images, ``(N, D)``.
        subsets: Number of subsets.
        subset_size: Images of either side in a subset.

    References:
        Demystifying MMD GANs (Bińkowski, Sutherland, Arbel, Gretton, 2018).
    """

    higher_is_better = False

    def __init__(self, real: Tensor, subsets: int = 100, subset_size: int = 1000) -> None:
        super().__init__()
        if subsets < 1 or subset_size < 2:
            raise UsageError("a kernel distance needs subsets ≥ 1 and subset_size ≥ 2")
        self.real = real.detach().cpu().double()
        self.subsets = subsets
        self.subset_size = subset_size

    def compute(self) -> tuple[Tensor, Tensor]:
        """The mean over the subsets and their standard deviation, scalars.

        Raises:
            DataError: If either side has fewer images than a subset.
        """
        fake = self.ordered() if len(self.rows) else torch.empty(0, 0)
        for side, rows in (("real", self.real), ("generated", fake)):
            if len(rows) < self.subset_size:
                raise DataError(
                    f"{len(rows)} {side} images make no subset of {self.subset_size}: lower "
                    "kid_subset_size or take more"
                )
        figures = fidelity("metric_kid").kid_features_to_metric(
            fake,
            self.real,
            kid_subsets=self.subsets,
            kid_subset_size=self.subset_size,
            verbose=False,
        )
        mean, std = (figures[f"kernel_inception_distance_{name}"] for name in ("mean", "std"))
        return torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
