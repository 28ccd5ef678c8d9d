"""The Inception score."""

import torch
from torch import Tensor

from vaebm.errors import DataError, UsageError
from vaebm.metrics.inception import fidelity
from vaebm.metrics.numbered_rows import NumberedRows


class InceptionScore(NumberedRows):
    """IS = exp(mean_x KL(p(y|x) ‖ mean_x p(y|x))), the mean over parts of the samples.

    p(y|x) are class probabilities. Computed by torch-fidelity, in float64. The samples are shuffled
    and cut in parts as there, by a seed of their own: torchmetrics shuffles by the global random
    state, so that evaluating would change a training, and by the order in which processes come.

    Args:
        splits: Parts; 10 is usual.

    References:
        Improved Techniques for Training GANs (Salimans et al., 2016).
    """

    higher_is_better = True

    def __init__(self, splits: int = 10) -> None:
        super().__init__()
        if splits < 1:
            raise UsageError(f"splits is {splits}, but at least 1 is due")
        self.splits = splits

    def compute(self) -> tuple[Tensor, Tensor]:
        """The mean over the parts and their standard deviation, scalars.

        Raises:
            DataError: If there are fewer samples than parts.
        """
        logits = self.ordered() if len(self.rows) else torch.empty(0, 0)
        if len(logits) < self.splits:
            raise DataError(f"{len(logits)} samples cannot be cut in {self.splits} parts")
        figures = fidelity("metric_isc").isc_features_to_metric(logits, self.splits)
        mean, std = (figures[f"inception_score_{name}"] for name in ("mean", "std"))
        return torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
