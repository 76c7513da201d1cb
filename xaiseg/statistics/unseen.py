"""Allowing for what no case has shown: clustering that cannot be estimated, failures that were not drawn."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np

from xaiseg.statistics.clusters import ClusterMean

Bounds = tuple[float | None, float | None]
#: Ends of an interval.
Ends = Literal["", "lower", "upper", "both"]

#: Weight, in clusters, of the assumption that what was not seen comes in whole clusters: the smallest of 1, 1.5 and 2
#: that held the error rates in the simulations of docs/statistics.md.
UNSEEN_CLUSTERS: Final = 2.0


def effective_size(mean: ClusterMean, evidence: int, *, at_least_deff_1: bool) -> float:
    """How many independent cases the data are worth.

    Korn and Graubard's number is variance / squared error. It is estimated from few clusters and much too large when
    none of those that would have shown the clustering was drawn. So it is mixed, in 1 / n, with the number that holds
    when cases of one cluster are all alike; that part weighs ``UNSEEN_CLUSTERS / (UNSEEN_CLUSTERS + evidence)``.

    Args:
        mean: the cluster sums.
        evidence: number of clusters that could show the clustering, >= 0.
        at_least_deff_1: never more than the number of cases (design effect >= 1).
    """
    if mean.variance <= 0.0:
        return mean.least
    inverse = mean.squares / mean.variance
    if at_least_deff_1:
        inverse = max(inverse, 1.0 / mean.most)
    share = UNSEEN_CLUSTERS / (UNSEEN_CLUSTERS + evidence)
    return 1.0 / ((1.0 - share) * inverse + share * max(inverse, 1.0 / mean.least))


def with_range_floor(
    pair: tuple[float, float] | None, value: float, size: float, alpha: float, possible: tuple[float, float] | None
) -> tuple[Bounds, str, Ends]:
    """Widens bounds so that they also allow for values which no case has shown yet, and clips them to what is possible.

    A share of the population of ``1 - alpha ** (1 / size)`` is missed by ``size`` independent draws with probability
    ``alpha`` (0.05: about 3 / size); it may lie at the end of the range.

    Args:
        pair: bounds from the spread of the data, or None where there is no spread.
        value: the estimate.
        size: number of independent draws, > 0.
        alpha: error probability of each bound.
        possible: (lowest, highest) possible value, each may be infinite, or None when not known.

    Returns:
        (bounds; None where there is neither spread nor a finite range), why one is None, at which ends the floor
        decided.

    >>> [round(bound, 3) for bound in with_range_floor(None, 0.9, 29, 0.05, (0.0, 1.0))[0]]
    [0.812, 0.91]
    """
    lowest, highest = possible or (-np.inf, np.inf)
    share = 1.0 - alpha ** (1.0 / size)
    floor = value - share * (value - lowest) if np.isfinite(lowest) else None
    ceiling = value + share * (highest - value) if np.isfinite(highest) else None
    lows = [bound for bound in (pair and pair[0], floor) if bound is not None]
    highs = [bound for bound in (pair and pair[1], ceiling) if bound is not None]
    low = max(min(lows), lowest) if lows else None
    high = min(max(highs), highest) if highs else None
    missing = low is None or high is None
    why = "all clusters agree exactly and the range of possible values is not known" if missing else ""
    below = floor is not None and (pair is None or floor < pair[0])
    above = ceiling is not None and (pair is None or ceiling > pair[1])
    ends: Ends = "both" if below and above else "lower" if below else "upper" if above else ""
    return (low, high), why, ends


def unseen_size(n_clusters: int) -> float:
    """Independent draws of a statistic for :func:`with_range_floor`, where what is inside a cluster is not known.

    >>> unseen_size(8)
    40.0
    """
    return n_clusters * (UNSEEN_CLUSTERS + n_clusters) / UNSEEN_CLUSTERS
