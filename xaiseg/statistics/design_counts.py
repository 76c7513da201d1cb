"""Totals of a survey from tiles that were drawn with known probabilities and counted by a person.

The tiles and the animals on them are fixed, the draw alone is random; so neither the detector nor the animals need a
model. A detector that counts well makes the interval narrow, one that does not makes it wide: the total stays
unbiased. Drawn with replacement: Hansen and Hurwitz, Annals of Mathematical Statistics 14 (1943), with probabilities
from a detector's counts as in DISCount (Perez, Maji and Sheldon, AAAI 2024). Without: Horvitz and Thompson, JASA 47
(1952).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from xaiseg.statistics.clusters import MIN_CLUSTERS, cluster_mean
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.resampling import BOOTSTRAP_CLUSTERS, Studentised, studentised_mean

#: Share of the draws that go to any tile alike. A tile on which the detector is silent would else never be drawn, and
#: its animals never be counted; of 0.1, 0.25 and 0.5 the one that costs a good detector little and keeps the interval
#: of a poor one near its level in the simulations of docs/statistics.md.
RANDOM_SHARE: Final = 0.25


def draw_probabilities(counts: np.ndarray, *, random_share: float = RANDOM_SHARE) -> np.ndarray:
    """How likely one draw hits each tile: in proportion to the detector's count, and never below a floor.

    Args:
        counts: (N,) the detector's count of each tile, finite and >= 0.
        random_share: share of the draws that go to all tiles alike, in (0, 1]; the floor is ``random_share / N``.

    Returns:
        (N,) float64, sum 1. All alike when the detector is silent everywhere.

    Raises:
        ValueError: no tile, a count that is negative or not finite, or a share outside (0, 1].

    >>> draw_probabilities(np.array([0, 0, 3, 1]), random_share=0.5).tolist()
    [0.125, 0.125, 0.5, 0.25]
    """
    found = np.asarray(counts, dtype=np.float64)
    if found.ndim != 1 or not len(found) or not np.all(np.isfinite(found) & (found >= 0)):
        raise ValueError(f"counts are finite numbers (N,) of 0 or more, N >= 1; got shape {found.shape}")
    if not 0 < random_share <= 1:
        raise ValueError(f"random_share is above 0, at most 1; got {random_share}")
    alike = np.full(len(found), 1.0 / len(found))
    total = float(found.sum())
    return alike if total == 0 else random_share * alike + (1.0 - random_share) * found / total


def inclusion_probabilities(chances: np.ndarray, draws: int) -> np.ndarray:
    """How likely a tile is among the drawn ones at least once, with replacement: ``1 - (1 - p) ** draws``.

    Args:
        chances: (N,) probabilities of one draw.
        draws: number of draws.

    >>> inclusion_probabilities(np.array([0.5, 1.0]), 2).tolist()
    [0.75, 1.0]
    """
    certain = chances >= 1.0
    return np.where(certain, 1.0, -np.expm1(draws * np.log1p(-np.where(certain, 0.0, chances))))


@dataclass(frozen=True)
class Shares:
    """What each draw adds to the total.

    Attributes:
        added: (D,) float64; their sum is the estimate.
        left: (D,) float64 in [0, 1], what the draw leaves open of the variance: 1 with replacement, 1 - inclusion
            probability without, because a tile that is always drawn adds no error.
        tile: (D,) int64, which tile it drew.
    """

    added: np.ndarray
    left: np.ndarray
    tile: np.ndarray

    def __post_init__(self) -> None:
        shapes = [column.shape for column in (self.added, self.left, self.tile)]
        if self.added.ndim != 1 or len(set(shapes)) > 1:
            raise ValueError(f"shares are (D,); got {shapes}")
        if not np.all(np.isfinite(self.added) & (self.added >= 0) & (self.left >= 0) & (self.left <= 1)):
            raise ValueError("shares add finite numbers of 0 or more, with left in [0, 1]")

    @property
    def occupied(self) -> int:
        """Distinct tiles with an animal."""
        return len(np.unique(self.tile[self.added > 0]))


def with_replacement(counts: np.ndarray, chances: np.ndarray, times: np.ndarray) -> Shares:
    """Hansen and Hurwitz: a draw adds count / (draws x probability of one draw).

    Args:
        counts: (n,) animals on each drawn tile; 0 outside a stratum gives the stratum's total.
        chances: (n,) probability that one draw hits the tile, in (0, 1].
        times: (n,) int64, how often it was drawn, >= 1.

    Returns:
        The shares of all draws, those of one tile side by side.

    >>> with_replacement(np.array([6, 1]), np.array([0.75, 0.25]), np.array([1, 1])).added.tolist()
    [4.0, 2.0]
    """
    _check(counts, chances)
    if not np.all(times >= 1):
        raise ValueError("a drawn tile was drawn once or more")
    each = np.asarray(counts, dtype=np.float64) / (chances * int(times.sum()))
    return Shares(np.repeat(each, times), np.ones(int(times.sum())), np.repeat(np.arange(len(each)), times))


def without_replacement(counts: np.ndarray, chances: np.ndarray) -> Shares:
    """Horvitz and Thompson: a tile adds count / inclusion probability.

    Args:
        counts: (n,) animals on each drawn tile.
        chances: (n,) inclusion probability of the tile, in (0, 1].

    >>> without_replacement(np.array([2, 0]), np.array([0.5, 0.5])).added.tolist()
    [4.0, 0.0]
    """
    _check(counts, chances)
    added, left = np.asarray(counts, dtype=np.float64) / chances, 1.0 - np.asarray(chances, dtype=np.float64)
    return Shares(added, left, np.arange(len(added)))


def _check(counts: np.ndarray, chances: np.ndarray) -> None:
    if counts.shape != chances.shape or counts.ndim != 1 or not np.all((chances > 0) & (chances <= 1)):
        raise ValueError(
            f"counts and probabilities are (n,), the latter in (0, 1]; got {counts.shape}, {chances.shape}"
        )


def standard_error(shares: Shares) -> float:
    """Standard error of the total.

    ``D / (D - 1) x sum(left x (added - centre) ** 2)``, the root of it, with centre the mean weighted by ``left``. With
    replacement it is the unbiased one of Hansen and Hurwitz; for a simple random sample it is the textbook's with its
    finite population correction; for unequal probabilities without replacement it is Hajek's approximation (Annals of
    Mathematical Statistics 35, 1964), which needs no joint probabilities. NaN for fewer than two draws.

    >>> round(standard_error(without_replacement(np.array([2.0, 0.0]), np.array([0.5, 0.5]))), 6)
    2.828427
    """
    if len(shares.added) < 2:
        return float("nan")
    order = np.lexsort((shares.left, shares.added))  # sums do not depend on the order of the draws
    added, left = shares.added[order], shares.left[order]
    open_ = float(left.sum())
    centre = float((left * added).sum()) / open_ if open_ > 0 else 0.0
    squares = float((left * (added - centre) ** 2).sum())
    return float(np.sqrt(len(added) / (len(added) - 1) * squares))


def total_intervals(
    shares: Shares,
    *,
    alphas: Sequence[float],
    seen: float = 0.0,
    seed: int = 0,
    resamples: int = 2000,
    least: int = MIN_CLUSTERS,
) -> tuple[Interval, ...]:
    """Intervals of a total, in the order of ``alphas``.

    Bootstrap-t over draws from 20 on, below them Student's t, towards a side to which the draws are skewed the wider of
    both. Totals of rare animals are skewed: many draws add nothing and few add much. Student's t then misses the truth
    above its upper bound much too often; bootstrap-t sees the skewness and is wider on that side. Where no draw has
    shown a rare haul-out, no method can know of it: with animals on fewer than ``least`` distinct tiles there are no
    bounds at all, as below five clusters elsewhere, and docs/statistics.md shows what still goes wrong.

    Args:
        shares: what each draw adds.
        alphas: error probabilities of each bound.
        seen: animals that were counted on the drawn tiles, below which no total can lie.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        least: with fewer draws, or animals on fewer distinct tiles, there are no bounds.

    Returns:
        Intervals with n and n_clusters = draws; without bounds and with a reason when there are too few draws or tiles
        with animals, or no spread.

    >>> drawn = with_replacement(np.arange(40), np.full(40, 0.01), np.ones(40, dtype=np.int64))
    >>> (found,) = total_intervals(drawn, alphas=(0.05,))
    >>> round(found.value), found.lower < found.value < found.upper, found.method
    (1950, True, 'bootstrap-t over draws (2000)')
    """
    draws = len(shares.added)
    value = float(np.sort(shares.added).sum()) if draws else None
    error = standard_error(shares)
    reason = _no_bounds(shares, error, max(least, 3))
    if reason or value is None:
        return tuple(Interval(value, None, None, alpha, "", draws, draws, reason=reason) for alpha in alphas)
    mean = cluster_mean(shares.added, np.arange(draws), None, "case")
    student: Studentised = replace(studentised_mean(mean, seed, resamples), value=value, error=error)
    method = f"bootstrap-t over draws ({resamples})" if draws >= BOOTSTRAP_CLUSTERS else "t over draws"
    found = []
    for alpha in alphas:
        low, high = student.bounds(alpha, bootstrap_clusters=BOOTSTRAP_CLUSTERS) or (value, value)
        low, high = max(low, min(seen, value)), high
        found.append(Interval(value, low, high, alpha, method, draws, draws, sd=error * float(np.sqrt(draws))))
    return tuple(found)


def _no_bounds(shares: Shares, error: float, needed: int) -> str:
    """Why there are no bounds, or ""."""
    draws = len(shares.added)
    if draws < needed:
        return f"{draws} {'draw' if draws == 1 else 'draws'}; at least {needed} are needed"
    if not shares.left.any():
        return "every tile was counted: the total has no sampling error"
    if shares.occupied < needed:
        held = "tile holds" if shares.occupied == 1 else "tiles hold"
        return f"{shares.occupied} of the drawn {held} an animal; at least {needed} are needed"
    spread = 1e-12 * float(shares.added.sum())
    return "all draws agree exactly, so that the spread is not known" if error <= spread else ""
