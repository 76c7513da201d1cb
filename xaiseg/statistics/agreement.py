"""How much alike the cases of one cluster are."""

from __future__ import annotations

import numpy as np

from xaiseg.statistics.clusters import sorted_rows


def icc_deff(values: np.ndarray, clusters: np.ndarray) -> tuple[float | None, float]:
    """Intraclass correlation and design effect of a mean over cases.

    One-way analysis of variance: ICC(1) = (MSB - MSW) / (MSB + (m0 - 1) MSW) with m0 the mean cluster size corrected
    for unequal sizes. It may be slightly negative. deff = 1 + (m - 1) max(ICC, 0) with m = sum of squared sizes / n.

    Args:
        values: (n,) float, without NaN.
        clusters: (n,) hashables.

    Returns:
        (ICC or None when it cannot be estimated: one cluster, no cluster of two, or no variance; deff >= 1).

    Source: Donner, International Statistical Review 54 (1986).

    >>> icc_deff(np.array([1.0, 1.0, 3.0, 3.0]), np.array(["a", "a", "b", "b"]))
    (1.0, 2.0)
    """
    rows, starts = sorted_rows(np.asarray(values, dtype=np.float64)[:, None], clusters)
    y, n, k = rows[:, 0], len(rows), len(starts)
    if k < 2 or n <= k:
        return None, 1.0
    sizes = np.diff(starts, append=n).astype(np.float64)
    means = np.add.reduceat(y, starts) / sizes
    inside = np.add.reduceat((y - np.repeat(means, sizes.astype(np.int64))) ** 2, starts)
    means, inside, sizes = np.column_stack((means, inside, sizes))[np.lexsort((sizes, inside, means))].T
    between = float(np.sum(sizes * (means - np.sum(sizes * means) / n) ** 2)) / (k - 1)
    within = float(np.sum(inside)) / (n - k)
    m0 = (n - float(np.sum(sizes**2)) / n) / (k - 1)
    total = between + (m0 - 1.0) * within
    if total <= 1e-24 * max(1.0, float(np.max(np.abs(y))) ** 2):
        return None, 1.0
    icc = (between - within) / total
    return icc, 1.0 + (float(np.sum(sizes**2)) / n - 1.0) * max(icc, 0.0)
