"""Are probabilities honest? Reliability histograms and what follows from them.

Conventions, printed in every report: bins are [a, b), the last one is closed, so that p = 1 lies in it; equal width;
the L1 norm; a bin's confidence is its true mean of p, not its centre; calibration is that of the positive class
(marginal), or of the top label where so named. Counts are int64 and sums float64, whatever type the probabilities
have: float32 counters stop at 2^24 pixels.

The null floor answers "what would a calibrated subject show by chance on these images?". Pixels of one image are not
independent, so the floor is made from whole clusters: the residual P - Y of each cluster and bin, freed of the gap of
the other clusters, adds up at random, and the expected absolute value of that sum (half-normal) is the floor of the
pooled error. For the mean of per-image errors the floor is what remains when only the pooled gap is repaired.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

#: Probabilities are kept this far from 0 and 1 before a logarithm is taken.
NLL_CLIP: Final = 1e-7
#: Softmax in float32 may end this far above 1.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True)
class Histogram:
    """Reliability histogram of one class.

    Attributes:
        count: (B,) int64, pixels a bin.
        sum_p: (B,) float64, sum of the probabilities.
        sum_y: (B,) int64, pixels of the class.
    """

    count: np.ndarray
    sum_p: np.ndarray
    sum_y: np.ndarray

    def stacked(self) -> np.ndarray:
        """(3, B) float64: count, sum_p, sum_y; histograms of images add up."""
        return np.stack([self.count.astype(np.float64), self.sum_p, self.sum_y.astype(np.float64)])


def histogram(probabilities: np.ndarray, positive: np.ndarray, *, bins: int = 15) -> Histogram:
    """Counts pixels, probabilities and positives by bin.

    Args:
        probabilities: (N,) any float type, in [0, 1].
        positive: (N,) bool.
        bins: number of equally wide bins.

    Raises:
        ValueError: NaN or values outside [0, 1], which would pass as well-behaved numbers otherwise.

    >>> histogram(np.array([0.05, 0.95, 1.0]), np.array([False, True, True]), bins=10).count.tolist()
    [1, 0, 0, 0, 0, 0, 0, 0, 0, 2]
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.size and not (p.min() >= 0.0 and p.max() <= 1.0 + _ROUNDING):
        raise ValueError(f"probabilities must lie in [0, 1]; they span {p.min():g} to {p.max():g}")
    code = np.minimum((p * bins).astype(np.intp), bins - 1)
    return Histogram(
        np.bincount(code, minlength=bins),
        np.bincount(code, weights=p, minlength=bins),
        np.bincount(code[positive], minlength=bins),
    )


def expected_calibration_error(stacked: np.ndarray) -> float:
    """Marginal ECE: sum of |sum_p - sum_y| over bins / number of pixels, in [0, 1]; NaN without pixels.

    Args:
        stacked: (..., 3, B) as :meth:`Histogram.stacked` makes them, summed over images; several classes are averaged,
            those without pixels left out.

    >>> expected_calibration_error(histogram(np.full(4, 0.75), np.array([True, True, False, False])).stacked())
    0.25
    """
    classes = stacked.reshape(-1, 3, stacked.shape[-1])
    totals = classes[:, 0].sum(axis=1)
    if not totals.any():
        return math.nan
    gaps = np.abs(classes[:, 1] - classes[:, 2]).sum(axis=1)
    return float((gaps[totals > 0] / totals[totals > 0]).mean())


def signed_gap(stacked: np.ndarray) -> float:
    """Mean probability minus rate, in [-1, 1]: above 0 the class is predicted too confidently (too large).

    >>> signed_gap(histogram(np.full(4, 0.75), np.array([True, True, False, False])).stacked())
    0.25
    """
    total = stacked[0].sum()
    return float((stacked[1].sum() - stacked[2].sum()) / total) if total else math.nan


def brier_score(probabilities: np.ndarray, positive: np.ndarray) -> float:
    """Mean of (p - y)^2 of the positive class, in [0, 1].

    >>> brier_score(np.array([0.5, 1.0]), np.array([True, True]))
    0.125
    """
    miss = 1.0 - _likelihood(probabilities, positive)
    return float(miss @ miss / miss.size)


def negative_log_likelihood(probabilities: np.ndarray, positive: np.ndarray) -> tuple[float, int]:
    """Mean of -ln(probability of what was true), and how many pixels were clipped at 1e-7.

    >>> negative_log_likelihood(np.array([1.0, 1.0]), np.array([True, False]))[1]
    1
    """
    return mean_log_loss(_likelihood(probabilities, positive))


def mean_log_loss(likelihood: np.ndarray) -> tuple[float, int]:
    """Mean of -ln(likelihood), clipped at 1e-7, and the number of clipped values.

    Args:
        likelihood: (N,) float64 probability given to the true class.
    """
    clipped = int(np.count_nonzero(likelihood < NLL_CLIP))
    return float(-np.log(np.maximum(likelihood, NLL_CLIP)).mean()), clipped


def _likelihood(probabilities: np.ndarray, positive: np.ndarray) -> np.ndarray:
    p = np.asarray(probabilities, dtype=np.float64)
    return np.where(positive, p, 1.0 - p)


def pooled_floor(stacked: np.ndarray, clusters: Sequence[str] | np.ndarray) -> float | None:
    """Expected pooled ECE of a calibrated subject on these images.

    Args:
        stacked: (n, 3, B) histograms of n images.
        clusters: (n,) cluster of each image.

    Returns:
        sqrt(2/pi) * sum over bins of the standard deviation of the summed residual, / number of pixels; None with fewer
        than two clusters.
    """
    _, number = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    if number.size == 0 or number.max() == 0:
        return None
    sums = np.zeros((int(number.max()) + 1, *stacked.shape[1:]))
    np.add.at(sums, number, stacked)
    count, gap = sums[:, 0], sums[:, 1] - sums[:, 2]
    # Each cluster against the gap of all the others: its own share in the pooled gap would hide part of its spread.
    others = (gap.sum(axis=0) - gap) / np.maximum(count.sum(axis=0) - count, 1.0)
    spread = np.sqrt(((gap - others * count) ** 2).sum(axis=0))
    return float(math.sqrt(2.0 / math.pi) * spread.sum() / count.sum())


def image_floor(stacked: np.ndarray) -> float | None:
    """Mean per-image ECE that remains when the pooled gap of each bin is repaired; None without images.

    Args:
        stacked: (n, 3, B) histograms of n images, each with at least one pixel.
    """
    if not len(stacked):
        return None
    count, gap = stacked[:, 0], stacked[:, 1] - stacked[:, 2]
    pooled = gap.sum(axis=0) / np.maximum(count.sum(axis=0), 1.0)
    return float((np.abs(gap - pooled * count).sum(axis=1) / count.sum(axis=1)).mean())
