"""The interval: two one-sided bounds, the method that made them, or the reason why there are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Interval:
    """Value and bounds of one quantity.

    ``lower`` and ``upper`` are each a one-sided bound at ``1 - alpha``; together they are the two-sided interval at
    ``1 - 2 * alpha`` that is drawn beside a requirement.

    Attributes:
        value: the point estimate, or None when nothing could be averaged.
        lower: one-sided lower bound, or None with a reason.
        upper: one-sided upper bound, or None with a reason.
        alpha: error probability of each bound.
        method: e.g. "cluster bootstrap-t (2000)".
        n: number of defined values.
        n_clusters: number of clusters that hold them.
        sd: standard deviation of the values that the method averages (cluster means or cases), or None.
        icc: intraclass correlation, or None.
        deff: design effect, or None.
        reason: why there are no bounds; empty otherwise.
        floored: the ends that are as far as they are for values which no case has shown: "", "lower", "upper", "both".
    """

    value: float | None
    lower: float | None
    upper: float | None
    alpha: float
    method: str
    n: int
    n_clusters: int
    sd: float | None = None
    icc: float | None = None
    deff: float | None = None
    reason: str = ""
    floored: Literal["", "lower", "upper", "both"] = ""

    @property
    def level(self) -> float:
        """Two-sided level of [lower, upper], e.g. 0.90."""
        return 1.0 - 2.0 * self.alpha
