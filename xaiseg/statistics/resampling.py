"""Resampling of whole clusters: studentised bootstrap, delete-one jackknife, statistics of pooled counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from xaiseg.statistics.clusters import MIN_CLUSTERS, ClusterMean, Weigh, checked, sorted_rows, too_few_clusters
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.quantiles import t_quantile
from xaiseg.statistics.unseen import unseen_size, with_range_floor

#: Clusters from which on bootstrap-t decides alone; below, Student's t on cluster means.
BOOTSTRAP_CLUSTERS: Final = 20

_CHUNK_VALUES = 4_000_000  # counts held at once: 32 MB, whatever the number of clusters


@dataclass(frozen=True)
class Studentised:
    """A value, its standard error and the bootstrap distribution of its studentised error.

    Attributes:
        value: the estimate.
        error: its standard error between clusters; 0 when they agree exactly.
        n_clusters: K.
        skewness: bias-corrected skewness of the clusters' influences.
        replicates: (B,) sorted ``(value* - value) / error*``.
        centred: (B,) sorted ``(value* - mean of value*) / error*``, for statistics whose resampled values are biased;
            each bound is then the wider of the two. None for means, which are not.
    """

    value: float
    error: float
    n_clusters: int
    skewness: float
    replicates: np.ndarray
    centred: np.ndarray | None = None

    def bounds(self, alpha: float, *, bootstrap_clusters: int) -> tuple[float, float] | None:
        """One-sided bounds, each at ``1 - alpha``; None when there is no spread.

        From ``bootstrap_clusters`` on, bootstrap-t. Below, Student's t; where the sample is skewed towards the bound by
        more than half the standard error of a normal sample's skewness, the wider of t and bootstrap-t. Its quantiles
        are taken at alpha * (1 - 2 / K), because its error on skewed data exceeds alpha by a term in 1 / K. With
        ``centred`` the bounds are never narrower than t.
        """
        if self.error <= 0.0:
            return None
        k = self.n_clusters
        tail = alpha * (1.0 - 2.0 / k)
        drawn = [self.replicates] if self.centred is None else [self.replicates, self.centred]
        high = max(float(np.quantile(one, 1.0 - tail, method="higher")) for one in drawn)
        low = min(float(np.quantile(one, tail, method="lower")) for one in drawn)
        t = t_quantile(1.0 - alpha, k - 1)
        if k < bootstrap_clusters:
            limit = _skewness_limit(k)
            high = max(t, high) if self.skewness < -limit else t
            low = min(-t, low) if self.skewness > limit else -t
        elif self.centred is not None:
            high, low = max(t, high), min(-t, low)
        return min(self.value, self.value - high * self.error), max(self.value, self.value - low * self.error)


def resampled_counts(n_clusters: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each cluster is drawn when K - 1 of K are drawn with replacement, in blocks of replicates.

    K - 1 draws make the variance of the resampled mean unbiased (McCarthy and Snowden, 1985).

    Yields:
        (b, K) float64 counts with rows that sum to K - 1.

    >>> sum(len(block) for block in resampled_counts(5, 0, 100))
    100
    """
    rng = np.random.default_rng(seed)
    block = max(1, min(resamples, _CHUNK_VALUES // n_clusters))
    for start in range(0, resamples, block):
        b = min(block, resamples - start)
        draws = rng.integers(0, n_clusters, size=(b, n_clusters - 1))
        draws += n_clusters * np.arange(b)[:, None]
        yield np.bincount(draws.ravel(), minlength=b * n_clusters).reshape(b, n_clusters).astype(np.float64)


def studentised_mean(mean: ClusterMean, seed: int, resamples: int) -> Studentised:
    """Bootstrap-t of a ratio of cluster sums with its linearised standard error.

    A resample without any spread would be infinitely far away; its error is taken as at least error / sqrt(K).
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), 12.5; Field and Welsh, JRSS B 69 (2007).
    """
    z, v, k = mean.residual, mean.mass, mean.n_clusters
    if mean.error <= 1e-12 * max(1.0, abs(mean.value)):
        return Studentised(mean.value, 0.0, k, 0.0, np.zeros(1))
    drawn = k - 1
    columns = np.column_stack((z, v, z * z, z * v, v * v))
    floor = mean.error / np.sqrt(k)
    parts = []
    for counts in resampled_counts(k, seed, resamples):
        sz, sv, szz, szv, svv = (counts @ columns).T
        shift = sz / sv
        squares = np.maximum(szz - 2.0 * shift * szv + shift**2 * svv, 0.0)
        parts.append(shift / np.maximum(np.sqrt(drawn / (drawn - 1) * squares) / sv, floor))
    return Studentised(mean.value, mean.error, k, _skewness(z), np.sort(np.concatenate(parts)))


def jackknife(sums: np.ndarray, function: Callable[[np.ndarray], float]) -> tuple[float, np.ndarray]:
    """Delete-one-cluster jackknife of a function of summed contributions.

    Args:
        sums: (K, d) cluster sums, K >= 2.
        function: maps (d,) to a number.

    Returns:
        (standard error, (K,) influences ``(K - 1) * (mean of the leave-one-out values - value without the cluster)``).

    >>> error, _ = jackknife(np.array([[1.0, 1.0], [3.0, 1.0]]), lambda s: s[0] / s[1])
    >>> error
    1.0
    """
    k = len(sums)
    total = sums.sum(axis=0)
    without = np.array([function(total - row) for row in sums], dtype=np.float64)
    influence = (k - 1) * (without.mean() - without)
    return float(np.sqrt(np.sum(influence**2) / (k * (k - 1)))), influence


def statistic_intervals(
    contributions: np.ndarray,
    function: Callable[[np.ndarray], float],
    clusters: np.ndarray,
    *,
    alphas: Sequence[float],
    weights: np.ndarray | None = None,
    weigh: Weigh = "case",
    seed: int = 0,
    resamples: int = 2000,
    min_clusters: int = MIN_CLUSTERS,
    bootstrap_clusters: int = BOOTSTRAP_CLUSTERS,
    bounds: tuple[float, float] | None = None,
) -> tuple[Interval, ...]:
    """:func:`statistic_interval` at several ``alphas`` from one set of replicates, in the order given."""
    sums = _weighted_sums(contributions, clusters, weights, weigh)
    n, k = len(contributions), len(sums)
    value = float(function(sums.sum(axis=0))) if n else float("nan")
    reason, student = "", None
    if not np.isfinite(value):
        reason = "the statistic is undefined on these data" if n else "no defined value"
    elif k < max(min_clusters, 3):
        reason = too_few_clusters(k, max(min_clusters, 3))
    else:
        student, reason = _studentised_statistic(sums, function, value, seed, resamples)
    bootstrap = f"cluster bootstrap-t, jackknife influences ({resamples})"
    method = bootstrap if k >= bootstrap_clusters else "delete-one-cluster jackknife, t"
    known = value if np.isfinite(value) else None
    if reason or student is None:
        return tuple(Interval(known, None, None, alpha, "", n, k, reason=reason) for alpha in alphas)
    size = unseen_size(k) if student.error > 0.0 else float(k)
    sd = student.error * float(np.sqrt(k))
    result = []
    for alpha in alphas:
        spread = student.bounds(alpha, bootstrap_clusters=bootstrap_clusters)
        pair, why, floored = with_range_floor(spread, value, size, alpha, bounds)
        how = f"{method}, range floor" if floored else method
        result.append(Interval(known, *pair, alpha, how, n, k, sd=sd, reason=why, floored=floored))
    return tuple(result)


def statistic_interval(
    contributions: np.ndarray,
    function: Callable[[np.ndarray], float],
    clusters: np.ndarray,
    *,
    alpha: float = 0.05,
    weights: np.ndarray | None = None,
    weigh: Weigh = "case",
    seed: int = 0,
    resamples: int = 2000,
    min_clusters: int = MIN_CLUSTERS,
    bootstrap_clusters: int = BOOTSTRAP_CLUSTERS,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Interval of a function of summed contributions: pooled ECE, F1, a ratio.

    Args:
        contributions: (n, d) finite rows, e.g. (tp, fp, fn) of each image.
        function: maps the (d,) weighted sum to a number; NaN = undefined. Called resamples + K + 1 times.
        clusters: (n,) hashables.
        alpha: error probability of each bound.
        weights: (n,) sampling weights or None.
        weigh: "case", or "cluster": each cluster's rows are divided by the cluster's total weight.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        min_clusters: below it there are no bounds.
        bootstrap_clusters: from it on bootstrap-t, below it the delete-one-cluster jackknife with t.
        bounds: (lowest, highest) possible value; used as in ``mean_interval``.

    The bootstrap studentises with jackknife influences, which stay fixed: a replicate costs one call of ``function``.
    A statistic such as ECE is biased upwards, and its resampled values more so. The difference moves the bound that it
    would make less favourable and never the other one: the lower bound is corrected for the bias, the upper one is not.
    No bound is narrower than that of the jackknife with t, since a kink such as ECE's deceives the bootstrap.
    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), 2.7 and 5.2.

    >>> rows = np.array([[2.0, 3.0]] * 10 + [[1.0, 3.0]] * 10)
    >>> found = statistic_interval(rows, lambda s: s[0] / s[1], np.arange(20))
    >>> found.value, found.lower < 0.5 < found.upper
    (0.5, True)
    """
    return statistic_intervals(
        contributions,
        function,
        clusters,
        alphas=(alpha,),
        weights=weights,
        weigh=weigh,
        seed=seed,
        resamples=resamples,
        min_clusters=min_clusters,
        bootstrap_clusters=bootstrap_clusters,
        bounds=bounds,
    )[0]


def _weighted_sums(
    contributions: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None, weigh: Weigh
) -> np.ndarray:
    rows, w = checked(contributions, clusters, weights)
    if rows.ndim != 2:
        raise ValueError(f"contributions must be (n, d); got shape {rows.shape}")
    if len(rows) == 0:
        return rows
    ordered, starts = sorted_rows(np.column_stack((rows, w)), clusters)
    weight = ordered[:, -1:]
    sums: np.ndarray = np.add.reduceat(ordered[:, :-1] * weight, starts, axis=0)
    if weigh == "cluster":
        sums = sums / np.add.reduceat(weight, starts, axis=0)
    return sums[np.lexsort(sums.T[::-1])]


def _studentised_statistic(
    sums: np.ndarray, function: Callable[[np.ndarray], float], value: float, seed: int, resamples: int
) -> tuple[Studentised | None, str]:
    k, drawn = len(sums), len(sums) - 1
    error, influence = jackknife(sums, function)
    if not np.isfinite(error):
        return None, "the statistic is undefined when one cluster is left out"
    if error <= 1e-12 * max(1.0, abs(value)):
        return Studentised(value, 0.0, k, 0.0, np.zeros(1)), ""
    columns = np.column_stack((influence, influence**2))
    values, errors = [], []
    for counts in resampled_counts(k, seed, resamples):
        values.append(np.array([function(row) for row in (counts @ sums) * (k / drawn)], dtype=np.float64))
        first, second = (counts @ columns).T
        spread = np.sqrt(np.maximum(second - first**2 / drawn, 0.0) / (drawn * (drawn - 1)))
        errors.append(np.maximum(spread, error / np.sqrt(k)))
    replicates, scale = np.concatenate(values), np.concatenate(errors)
    defined = np.isfinite(replicates)
    if defined.mean() < 0.99:
        return None, f"the statistic is undefined in {1.0 - defined.mean():.0%} of the resamples"
    replicates, scale = replicates[defined], scale[defined]
    plain, centred = np.sort((replicates - value) / scale), np.sort((replicates - replicates.mean()) / scale)
    return Studentised(value, error, k, _skewness(influence), plain, centred), ""


def _skewness(z: np.ndarray) -> float:
    k = len(z)
    centred = z - z.mean()
    second = float(np.mean(centred**2))
    if k < 3 or second <= 0.0:
        return 0.0
    third = float(np.mean(centred**3))
    return float(third / second**1.5 * np.sqrt(k * (k - 1)) / (k - 2))


def _skewness_limit(k: int) -> float:
    """Half the standard error of the skewness of k normal values."""
    return 0.5 * float(np.sqrt(6.0 * k * (k - 1) / ((k - 2) * (k + 1) * (k + 3))))
