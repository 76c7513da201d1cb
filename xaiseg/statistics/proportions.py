"""Intervals of proportions and rates: none has zero width.

Where events are rare, a design effect is hardly known: with no event at all nothing tells whether events come one by
one or in whole clusters, and one event in a cluster of many tells little. There the plain Korn-Graubard method calls
far too many models good (up to 19 % instead of 5 %). So 1 / n is mixed with that of "all cases of a cluster alike",
whose weight is 2 / (2 + x), x = the number of clusters with an event (or with a non-event, whichever is smaller). At
x = 0 the clusters count as one case each. Undercoverage with estimated design effects: Franco, Little, Louis and
Slud, Journal of Survey Statistics and Methodology 7 (2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xaiseg.statistics.agreement import icc_deff
from xaiseg.statistics.clusters import MIN_CLUSTERS, ClusterMean, Weigh, cluster_mean, too_few_clusters
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.quantiles import clopper_pearson, normal_quantile, t_quantile
from xaiseg.statistics.unseen import effective_size


def proportion_interval(
    events: np.ndarray,
    clusters: np.ndarray,
    *,
    alpha: float = 0.05,
    weights: np.ndarray | None = None,
    weigh: Weigh = "case",
    min_clusters: int = MIN_CLUSTERS,
) -> Interval:
    """Interval of a proportion of clustered events after Korn and Graubard.

    Clopper-Pearson at the effective number of cases n / deff, deff >= 1, times the square of the ratio of t quantiles
    (degrees of freedom n / deff - 1 and K - 1; a factor <= 1). Independent cases, one in each cluster, get exactly
    Clopper-Pearson.

    Rare events: see above.

    Args:
        events: (n,) 0 or 1 (or bool).
        clusters: (n,) hashables.
        alpha: error probability of each bound.
        weights: (n,) sampling weights or None.
        weigh: "case": share of cases; "cluster": mean over clusters of the cluster's share.
        min_clusters: below it there are no bounds.

    Returns:
        The interval; ``deff`` = n / effective number, as used.

    Raises:
        ValueError: values other than 0 and 1, lengths that differ, weights <= 0.

    Source: Korn and Graubard, Survey Methodology 24 (1998).

    >>> round(proportion_interval(np.zeros(29), np.arange(29)).upper, 4)
    0.0981
    """
    return proportion_intervals(
        events, clusters, alphas=(alpha,), weights=weights, weigh=weigh, min_clusters=min_clusters
    )[0]


def proportion_intervals(
    events: np.ndarray,
    clusters: np.ndarray,
    *,
    alphas: Sequence[float],
    weights: np.ndarray | None = None,
    weigh: Weigh = "case",
    min_clusters: int = MIN_CLUSTERS,
) -> tuple[Interval, ...]:
    """:func:`proportion_interval` at several ``alphas``, in the order given."""
    y = np.asarray(events, dtype=np.float64)
    if not np.all((y == 0.0) | (y == 1.0)):
        raise ValueError("events must be 0 or 1")
    if len(y) == 0:
        return tuple(Interval(None, None, None, alpha, "", 0, 0, reason="no defined value") for alpha in alphas)
    mean = cluster_mean(y, clusters, weights, weigh)
    k, n = mean.n_clusters, len(y)
    if k < min_clusters:
        reason = too_few_clusters(k, min_clusters)
        return tuple(Interval(mean.value, None, None, alpha, "", n, k, reason=reason) for alpha in alphas)
    size = effective_size(mean, _informative(mean), at_least_deff_1=True)
    independent = bool(np.all(mean.sizes == 1)) and weights is None
    method = "Clopper-Pearson" if independent else "Korn-Graubard"
    icc, _ = icc_deff(y, clusters)
    sd = mean.error * float(np.sqrt(k)) if k > 1 else None
    result = []
    for alpha in alphas:
        used = size if size <= k else max(size * _t_factor(size, k, alpha), min(size, mean.least))
        low, high = clopper_pearson(mean.value * used, used, alpha)
        result.append(Interval(mean.value, low, high, alpha, method, n, k, sd=sd, icc=icc, deff=n / used))
    return tuple(result)


def rate_interval(events: int, exposure: float, *, alpha: float = 0.05) -> tuple[float, float, float]:
    """Exact Poisson interval of a rate: (value, lower, upper), each bound one-sided at ``1 - alpha``.

    Args:
        events: number of independent events, >= 0.
        exposure: images, hours or square kilometres, > 0.
        alpha: error probability of each bound.

    Raises:
        ValueError: negative events or an exposure that is not positive.

    Source: Garwood, Biometrika 28 (1936). Without an event the upper bound is -ln(alpha) / exposure, about 3 / n.

    >>> [round(bound, 4) for bound in rate_interval(0, 100)]
    [0.0, 0.0, 0.03]
    """
    if events < 0 or not exposure > 0:
        raise ValueError(f"a rate needs events >= 0 and exposure > 0; got {events} and {exposure}")
    from scipy.special import gammaincinv

    lower = 0.0 if events == 0 else float(gammaincinv(events, alpha)) / exposure
    return events / exposure, lower, float(gammaincinv(events + 1.0, 1.0 - alpha)) / exposure


def wilson(successes: float, n: float, alpha: float = 0.05) -> tuple[float, float]:
    """Wilson's score bounds, each at ``1 - alpha``: for drawing only, never for a gate.

    Args:
        successes: number of events in [0, n].
        n: number of trials, > 0.
        alpha: error probability of each bound.

    >>> [round(bound, 3) for bound in wilson(5, 10)]
    [0.269, 0.731]
    """
    if not 0 <= successes <= n or n <= 0:
        raise ValueError(f"wilson needs 0 <= successes <= n and n > 0; got {successes} of {n}")
    z2 = normal_quantile(1.0 - alpha) ** 2
    p = successes / n
    centre = p + z2 / (2.0 * n)
    half = float(np.sqrt(z2 * (p * (1.0 - p) / n + z2 / (4.0 * n * n))))
    return max(0.0, (centre - half) / (1.0 + z2 / n)), min(1.0, (centre + half) / (1.0 + z2 / n))


def _informative(mean: ClusterMean) -> int:
    """Number of clusters with an event, or with a non-event, whichever is smaller."""
    share = mean.residual / mean.mass + mean.value
    return int(min(np.sum(share > 1e-9), np.sum(share < 1.0 - 1e-9)))


def _t_factor(size: float, n_clusters: int, alpha: float) -> float:
    return (t_quantile(1.0 - alpha, size - 1.0) / t_quantile(1.0 - alpha, n_clusters - 1)) ** 2
