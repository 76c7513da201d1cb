"""A mean over clustered cases as a ratio of cluster sums; the common ground of means and proportions.

With case weights ``a`` the mean is ``sum(a * y) / sum(a)``. ``weigh="case"`` takes ``a`` = the sampling weights (or 1);
``weigh="cluster"`` divides them by their sum in the cluster, so that every cluster counts once. Everything that follows
needs only the cluster sums, so it resamples clusters and never cases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Weigh = Literal["cluster", "case"]

#: Fewer clusters give no bounds.
MIN_CLUSTERS: Final = 5


@dataclass(frozen=True)
class ClusterMean:
    """A weighted mean and what its error is made of; K clusters, sorted so that the order of rows has no influence.

    Attributes:
        value: the mean.
        residual: (K,) cluster sum of ``a * (y - value)``.
        mass: (K,) cluster sum of ``a``.
        sizes: (K,) cases of each cluster.
        variance: weighted population variance of the cases.
        most: Kish's effective number of cases, ``sum(a)**2 / sum(a**2)``; n for equal weights.
        least: the same of whole clusters, ``sum(mass)**2 / sum(mass**2)``; K for equal masses.
    """

    value: float
    residual: np.ndarray
    mass: np.ndarray
    sizes: np.ndarray
    variance: float
    most: float
    least: float

    @property
    def n_clusters(self) -> int:
        """Number of clusters, K."""
        return len(self.mass)

    @property
    def error(self) -> float:
        """Linearised (Taylor) standard error of the mean between clusters, with the factor K / (K - 1)."""
        k = self.n_clusters
        return float(np.sqrt(k / (k - 1) * self.squares)) if k > 1 else float("nan")

    @property
    def squares(self) -> float:
        """Squared standard error without the factor K / (K - 1)."""
        return float(np.sum(self.residual**2) / np.sum(self.mass) ** 2)


def checked(values: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights as float64, checked.

    Args:
        values: (n,) or (n, d), finite.
        clusters: (n,) hashables.
        weights: (n,) positive sampling weights (1 / inclusion probability), or None for ones.

    Raises:
        ValueError: lengths that differ, NaN or infinity among the values, weights that are not positive numbers.
    """
    y = np.asarray(values, dtype=np.float64)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(y) != len(clusters) or w.shape != (len(y),):
        raise ValueError(f"{len(y)} values need as many clusters and weights; got {len(clusters)} and {len(w)}")
    if not np.all(np.isfinite(y)):
        raise ValueError(f"values must be finite numbers; {np.sum(~np.isfinite(y))} are NaN or infinite")
    if not np.all(np.isfinite(w) & (w > 0)):
        raise ValueError("weights must be positive numbers")
    return y, w


def cluster_codes(clusters: np.ndarray) -> np.ndarray:
    """Numbers the clusters 0, 1, ... in order of appearance.

    Args:
        clusters: (n,) hashables; 1 and "1" are two clusters.

    Returns:
        (n,) int64.

    >>> cluster_codes(np.array(["b", "a", "b"])).tolist()
    [0, 1, 0]
    """
    known: dict[object, int] = {}
    return np.array(
        [known.setdefault(cluster, len(known)) for cluster in np.asarray(clusters).tolist()], dtype=np.int64
    )


def sorted_rows(columns: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows in an order that depends on their content alone (within each cluster), and the first row of each cluster.

    Floating-point sums depend on the order of their terms; sorting first makes every later number the same, bit for
    bit, whatever the order of the rows.

    Args:
        columns: (n, d) float64.
        clusters: (n,) hashables.

    Returns:
        (columns sorted by cluster, then by content; (K,) int64 start of each cluster).
    """
    codes = cluster_codes(clusters)
    order = np.lexsort((*columns.T, codes))
    return columns[order], np.flatnonzero(np.diff(codes[order], prepend=-1))


def cluster_mean(values: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None, weigh: Weigh) -> ClusterMean:
    """Forms the cluster sums of a mean.

    Args:
        values: (n,) finite numbers, n >= 1.
        clusters: (n,) hashables.
        weights: (n,) sampling weights or None.
        weigh: "cluster" or "case".

    Raises:
        ValueError: as :func:`checked`, no value at all, or an unknown ``weigh``.

    >>> cluster_mean(np.array([0.0, 1.0, 1.0]), np.array(["a", "a", "b"]), None, "cluster").value
    0.75
    """
    y, w = checked(values, clusters, weights)
    if weigh not in ("cluster", "case"):
        raise ValueError(f"weigh must be 'cluster' or 'case'; got {weigh!r}")
    if len(y) == 0:
        raise ValueError("a mean needs at least one value")
    rows, starts = sorted_rows(np.column_stack((y, w)), clusters)
    y, w = rows[:, 0], rows[:, 1]
    sizes = np.diff(starts, append=len(y))
    a = w / np.repeat(np.add.reduceat(w, starts), sizes) if weigh == "cluster" else w
    sums = np.column_stack((np.add.reduceat(a * y, starts), np.add.reduceat(a, starts), np.add.reduceat(a * a, starts)))
    squares = np.add.reduceat(a * y * y, starts)
    order = np.lexsort((squares, sizes, sums[:, 2], sums[:, 1], sums[:, 0]))
    sums, sizes = sums[order], sizes[order]
    total, mass = float(np.sum(sums[:, 1])), sums[:, 1]
    value = float(np.sum(sums[:, 0])) / total
    spread = np.add.reduceat(a * (y - value) ** 2, starts)[order]
    return ClusterMean(
        value=value,
        residual=sums[:, 0] - value * mass,
        mass=mass,
        sizes=sizes,
        variance=float(np.sum(spread)) / total,
        most=total**2 / float(np.sum(sums[:, 2])),
        least=total**2 / float(np.sum(mass**2)),
    )


def too_few_clusters(k: int, needed: int) -> str:
    """Why there are no bounds.

    >>> too_few_clusters(1, 5)
    '1 cluster; at least 5 are needed'
    """
    return f"{k} {'cluster' if k == 1 else 'clusters'}; at least {needed} are needed"
