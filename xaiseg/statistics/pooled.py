"""Intervals of statistics that are no function of sums, such as average precision: whole clusters are weighted anew.

A statistic is prepared once on the cases and then answers for any weights of the clusters; leaving a cluster out is
weight 0, drawing it twice is weight 2. So a replicate costs a few vector operations on cached match tables, and no
model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from xaiseg.statistics.clusters import MIN_CLUSTERS, Weigh
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.resampling import statistic_intervals

#: (groups (n,), weights (n,)) of the cases -> function of the (G,) weights of the groups.
Prepare = Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], float]]
#: More clusters than this are joined at random, so that preparing and leaving out stay cheap. Groups of independent
#: clusters are independent, and with hundreds of them nothing is lost.
MOST_GROUPS: Final = 400


def pooled_intervals(
    prepare: Prepare,
    clusters: np.ndarray,
    *,
    alphas: Sequence[float],
    weights: np.ndarray | None = None,
    weigh: Weigh = "case",
    seed: int = 0,
    resamples: int = 2000,
    min_clusters: int = MIN_CLUSTERS,
    bounds: tuple[float, float] | None = None,
) -> tuple[Interval, ...]:
    """Intervals by :func:`~xaiseg.statistics.resampling.statistic_interval` of a statistic of weighted clusters.

    Below 20 clusters the delete-one-cluster jackknife with t, above resampled clusters.

    Args:
        prepare: see :data:`Prepare`; NaN = undefined.
        clusters: (n,) cluster of each case, as text.
        alphas: error probabilities of each bound.
        weights: (n,) sampling weights or None.
        weigh: "case", or "cluster": each cluster's weights are divided by their sum.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        min_clusters: below it there are no bounds.
        bounds: (lowest, highest) possible value.

    >>> def mean_of(values):
    ...     def prepare(groups, weights):
    ...         sums = np.bincount(groups, weights * values), np.bincount(groups, weights)
    ...         return lambda drawn: float(drawn @ sums[0] / (drawn @ sums[1]))
    ...     return prepare
    >>> names = np.array([f"flight {i // 2}" for i in range(20)])
    >>> (found,) = pooled_intervals(mean_of(np.arange(20.0)), names, alphas=(0.05,))
    >>> found.value, found.n, found.n_clusters, found.method
    (9.5, 20, 10, 'delete-one-cluster jackknife, t')
    """
    n = len(clusters)
    if n == 0:
        return tuple(Interval(None, None, None, alpha, "", 0, 0, reason="no defined value") for alpha in alphas)
    _, codes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    held = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    if weigh == "cluster":
        held = held / np.bincount(codes, held)[codes]
    k = int(codes.max()) + 1
    groups = codes
    if k > MOST_GROUPS:
        groups = (np.random.default_rng(seed).permutation(k) % MOST_GROUPS)[codes]
    count = min(k, MOST_GROUPS)
    found = statistic_intervals(
        np.eye(count), prepare(groups, held), np.arange(count), alphas=alphas, weigh="case", seed=seed,
        resamples=resamples, min_clusters=min_clusters, bounds=bounds,
    )  # fmt: skip
    joined = f", clusters joined at random into {count} groups" if k > count else ""
    return tuple(replace(one, n=n, n_clusters=k, method=one.method + joined) for one in found)
