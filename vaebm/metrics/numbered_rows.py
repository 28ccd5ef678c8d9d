"""Rows that several processes collect, put in one order."""

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class NumberedRows(Metric):
    """Base of metrics that need all rows: one for each sample, in the order of sample numbers.

    Metrics that choose subsets would else depend on the number of processes.
    """

    is_differentiable = False
    full_state_update = False

    rows: list[Tensor]
    numbers: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("numbers", [], dist_reduce_fx="cat")

    def update(self, rows: Tensor, numbers: Tensor) -> None:
        """Add rows.

        Args:
            rows: Rows, ``(B, D)``.
            numbers: Number of each row in the whole set, ``(B,)``.
        """
        self.rows.append(rows.detach())
        self.numbers.append(numbers.to(rows.device))

    def ordered(self) -> Tensor:
        """All rows, ``(N, D)`` in float64, on the CPU."""
        rows: Tensor = dim_zero_cat(self.rows)
        order: Tensor = dim_zero_cat(self.numbers).argsort()
        return rows[order].cpu().double()
