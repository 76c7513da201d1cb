"""Intervals of rates: events of clustered units over their exposure, such as false alarms a tile or a square kilometre.

Independent events get exactly the Poisson interval. Where events cluster, events and exposure are divided by the design
effect, as Korn and Graubard do for proportions, with the same allowance for clustering that too few events could show
(see :mod:`xaiseg.statistics.proportions`). No interval has zero width: without an event the upper bound is about
3 / exposure, with the clusters counted as one unit each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xaiseg.statistics.clusters import MIN_CLUSTERS, Weigh, checked, sorted_rows, too_few_clusters
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.quantiles import t_quantile
from xaiseg.statistics.unseen import UNSEEN_CLUSTERS


def rate_intervals(
    events: np.ndarray,
    exposure: np.ndarray,
    clusters: np.ndarray,
    *,
    alphas: Sequence[float],
    weights: np.ndarray | None = None,
    weigh: Weigh = "case",
    min_clusters: int = MIN_CLUSTERS,
) -> tuple[Interval, ...]:
    """Intervals of sum(events) / sum(exposure).

    Args:
        events: (n,) counts >= 0.
        exposure: (n,) > 0, e.g. 1 a tile or its square kilometres.
        clusters: (n,) hashables.
        alphas: error probabilities of each bound.
        weights: (n,) sampling weights or None.
        weigh: "case", or "cluster": the units of a cluster are divided by the cluster's exposure.
        min_clusters: below it there are no bounds.

    Returns:
        One interval an alpha; ``deff`` = n / effective number of units, as used.

    Raises:
        ValueError: negative counts, an exposure that is not positive, lengths that differ, weights <= 0.

    Source: Garwood, Biometrika 28 (1936); Korn and Graubard, Survey Methodology 24 (1998).

    >>> (found,) = rate_intervals(np.zeros(100), np.ones(100), np.arange(100), alphas=(0.05,))
    >>> found.value, round(found.upper, 4)
    (0.0, 0.03)
    """
    pairs, w = checked(np.column_stack((events, exposure)), clusters, weights)
    n = len(pairs)
    if n == 0:
        return tuple(Interval(None, None, None, alpha, "", 0, 0, reason="no defined value") for alpha in alphas)
    if (pairs[:, 0] < 0).any() or (pairs[:, 1] <= 0).any():
        raise ValueError("a rate needs counts >= 0 and exposures > 0")
    rows, starts = sorted_rows(np.column_stack((pairs, w)), clusters)
    sizes = np.diff(starts, append=n)
    w = rows[:, 2]
    if weigh == "cluster":
        w = w / np.repeat(np.add.reduceat(w * rows[:, 1], starts), sizes)
    counts, mass = np.add.reduceat(w * rows[:, 0], starts), np.add.reduceat(w * rows[:, 1], starts)
    k, total, rate = len(starts), float(mass.sum()), float(counts.sum() / mass.sum())
    if k < min_clusters:
        reason = too_few_clusters(k, min_clusters)
        return tuple(Interval(rate, None, None, alpha, "", n, k, reason=reason) for alpha in alphas)
    squares = float(np.sum((counts - rate * mass) ** 2)) * k / (k - 1)
    poisson = float(np.sum(w * w * rows[:, 0]))
    size = _size(n, squares / poisson if poisson > 0 else 1.0, mass, int(np.sum(counts > 0)))
    independent = bool((sizes == 1).all()) and weights is None
    method = "Poisson" if independent else "Poisson, design effect by cluster"
    sd = float(np.sqrt(squares)) / total * float(np.sqrt(k))
    found = []
    for alpha in alphas:
        used = _used(size, k, alpha)
        # The exposure of the sample, in its own units, that the effective number of units amounts to.
        worth = float(rows[:, 1].sum()) * used / n
        low, high = _garwood(rate * worth, worth, alpha)
        found.append(Interval(rate, low, high, alpha, method, n, k, sd=sd, deff=n / used))
    return tuple(found)


def _size(n: int, effect: float, mass: np.ndarray, informative: int) -> float:
    """Independent units that the data are worth, between the observed design effect and one unit a cluster."""
    inverse = max(1.0, effect) / n
    least = float(mass.sum()) ** 2 / float(np.sum(mass**2))
    share = UNSEEN_CLUSTERS / (UNSEEN_CLUSTERS + informative)
    return 1.0 / ((1.0 - share) * inverse + share * max(inverse, 1.0 / least))


def _used(size: float, k: int, alpha: float) -> float:
    """The size with Korn and Graubard's factor for a design effect that was estimated from k clusters."""
    if size <= k:
        return size
    return max(size * (t_quantile(1.0 - alpha, size - 1.0) / t_quantile(1.0 - alpha, k - 1)) ** 2, float(k))


def _garwood(events: float, exposure: float, alpha: float) -> tuple[float, float]:
    from scipy.special import gammaincinv

    lower = 0.0 if events <= 0 else float(gammaincinv(events, alpha)) / exposure
    return lower, float(gammaincinv(events + 1.0, 1.0 - alpha)) / exposure
