"""Intervals of means whose independent unit is the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from xaiseg.statistics.agreement import icc_deff
from xaiseg.statistics.clusters import MIN_CLUSTERS, ClusterMean, Weigh, cluster_mean, too_few_clusters
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.resampling import BOOTSTRAP_CLUSTERS as BOOTSTRAP_CLUSTERS
from xaiseg.statistics.resampling import studentised_mean
from xaiseg.statistics.unseen import effective_size, with_range_floor

#: Cases that the median cluster must hold where there are fewer than BOOTSTRAP_CLUSTERS.
MIN_CASES_PER_CLUSTER: Final = 20


def mean_interval(
    values: np.ndarray,
    clusters: np.ndarray,
    *,
    alpha: float = 0.05,
    weights: np.ndarray | None = None,
    weigh: Weigh = "cluster",
    seed: int = 0,
    resamples: int = 2000,
    min_clusters: int = MIN_CLUSTERS,
    min_cases_per_cluster: int = MIN_CASES_PER_CLUSTER,
    bootstrap_clusters: int = BOOTSTRAP_CLUSTERS,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Interval of a mean of clustered values.

    Args:
        values: (n,) finite numbers.
        clusters: (n,) hashables.
        alpha: error probability of each bound.
        weights: (n,) sampling weights (1 / inclusion probability) or None.
        weigh: "cluster": mean over clusters of the cluster's (weighted) mean; "case": (weighted) mean of the values.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        min_clusters: below it there are no bounds.
        min_cases_per_cluster: what the median cluster must hold while there are fewer than ``bootstrap_clusters``.
        bootstrap_clusters: from it on bootstrap-t; below it t on cluster means, widened to bootstrap-t where the
            cluster means are skewed towards the bound.
        bounds: (lowest, highest) possible value, each may be infinite. Where given, the interval also allows for values
            that no case has shown yet: with n independent cases a share ``1 - alpha ** (1 / n)`` of the population may
            lie at the end of the range. Without it no method can protect against a failure that was not seen.

    Returns:
        The interval; without bounds and with a reason when the clusters are too few or too small, or when they all
        agree exactly and no range is known. ``sd`` is the standard error times sqrt(K).

    Raises:
        ValueError: NaN or infinite values, a value outside ``bounds``, lengths that differ, weights <= 0.

    >>> found = mean_interval(np.linspace(0.6, 1.0, 30), np.arange(30))
    >>> round(found.value, 2), 0.75 < found.lower < 0.77, found.method
    (0.8, True, 'cluster bootstrap-t (2000)')
    """
    return mean_intervals(
        values,
        clusters,
        alphas=(alpha,),
        weights=weights,
        weigh=weigh,
        seed=seed,
        resamples=resamples,
        min_clusters=min_clusters,
        min_cases_per_cluster=min_cases_per_cluster,
        bootstrap_clusters=bootstrap_clusters,
        bounds=bounds,
    )[0]


def mean_intervals(
    values: np.ndarray,
    clusters: np.ndarray,
    *,
    alphas: Sequence[float],
    weights: np.ndarray | None = None,
    weigh: Weigh = "cluster",
    seed: int = 0,
    resamples: int = 2000,
    min_clusters: int = MIN_CLUSTERS,
    min_cases_per_cluster: int = MIN_CASES_PER_CLUSTER,
    bootstrap_clusters: int = BOOTSTRAP_CLUSTERS,
    bounds: tuple[float, float] | None = None,
) -> tuple[Interval, ...]:
    """:func:`mean_interval` at several ``alphas`` from one set of replicates, in the order given."""
    if len(values) == 0:
        return tuple(Interval(None, None, None, alpha, "", 0, 0, reason="no defined value") for alpha in alphas)
    mean = cluster_mean(values, clusters, weights, weigh)
    y = np.asarray(values, dtype=np.float64)
    if bounds is not None and (y.min() < bounds[0] or y.max() > bounds[1]):
        raise ValueError(f"values must lie within {bounds}; got {y.min():g} to {y.max():g}")
    k = mean.n_clusters
    bootstrap = k >= bootstrap_clusters
    method = f"cluster bootstrap-t ({resamples})" if bootstrap else "t on cluster means"
    icc, deff = icc_deff(y, clusters)
    sd = mean.error * float(np.sqrt(k)) if k > 1 else None
    reason = _too_few(mean, max(min_clusters, 3), None if bootstrap else min_cases_per_cluster, bootstrap_clusters)
    if reason:
        blank = Interval(mean.value, None, None, 0.0, "", len(y), k, sd=sd, icc=icc, deff=deff, reason=reason)
        return tuple(replace(blank, alpha=alpha) for alpha in alphas)
    student = studentised_mean(mean, seed, resamples)
    size = effective_size(mean, k, at_least_deff_1=False) if student.error > 0.0 else mean.least
    result = []
    for alpha in alphas:
        spread = student.bounds(alpha, bootstrap_clusters=bootstrap_clusters)
        pair, why, floored = with_range_floor(spread, mean.value, size, alpha, bounds)
        how = f"{method}, range floor" if floored else method
        held = Interval(mean.value, *pair, alpha, how, len(y), k, sd=sd, icc=icc, deff=deff, reason=why)
        result.append(replace(held, floored=floored))
    return tuple(result)


def _too_few(mean: ClusterMean, min_clusters: int, min_cases: int | None, bootstrap_clusters: int) -> str:
    k = mean.n_clusters
    if k < min_clusters:
        return too_few_clusters(k, min_clusters)
    median = float(np.median(mean.sizes))
    if min_cases is not None and median < min_cases:
        return (
            f"{k} clusters with a median of {median:g} {'case' if median == 1 else 'cases'}; needed are "
            f"{bootstrap_clusters} clusters, or {min_cases} cases in the median cluster"
        )
    return ""
