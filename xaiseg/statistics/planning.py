"""How much evidence a requirement needs: before the run, and after it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal

import numpy as np

from xaiseg.statistics.clusters import MIN_CLUSTERS
from xaiseg.statistics.equivalence import Sense, decide
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.means import BOOTSTRAP_CLUSTERS, MIN_CASES_PER_CLUSTER
from xaiseg.statistics.quantiles import clopper_pearson, t_quantile

Kind = Literal["mean", "proportion", "statistic"]

#: Above it a value "sits on the bound" and no realistic number of cases will decide.
MOST: Final = 10_000
#: More clusters than so many times those at hand are no plan.
HOPELESS: Final = 10


def clusters_for_mean(
    bound: float,
    assumed: float,
    sd: float,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    bounds: tuple[float, float] | None = None,
    minimum: int = MIN_CLUSTERS,
) -> int:
    """Clusters needed to show that a mean lies on the good side of a bound, by the one-sided t test.

    Args:
        bound: the requirement.
        assumed: the assumed true mean; its side of the bound is the good one.
        sd: assumed standard deviation between cluster means, > 0.
        alpha: error probability of the bound.
        power: probability of passing, in (0, 1).
        bounds: range of possible values; the bound must then also clear the share that may not have been seen.
        minimum: smallest answer.

    Raises:
        ValueError: numbers out of range.

    >>> clusters_for_mean(0.70, 0.80, 0.20)
    27
    """
    gap = abs(assumed - bound)
    if not gap > 0 or not sd > 0 or not 0 < power < 1:
        raise ValueError(f"needed: assumed != bound, sd > 0, 0 < power < 1; got {assumed=}, {sd=}, {power=}")
    from scipy.special import nctdtr

    def enough(n: int) -> bool:
        return float(nctdtr(n - 1, gap / sd * math.sqrt(n), t_quantile(1.0 - alpha, n - 1))) <= 1.0 - power

    floor = 0
    if bounds is not None:
        reach = assumed - bounds[0] if assumed > bound else bounds[1] - assumed
        floor = math.ceil(math.log(alpha) / math.log1p(-gap / reach)) if gap < reach < math.inf else 0
    return max(_least(enough, 2), floor, minimum)


def n_for_proportion(bound: float, misses: int, alpha: float = 0.05) -> int:
    """Least number of independent cases so that ``misses`` of them still show a proportion of at most ``bound``.

    Args:
        bound: largest allowed proportion, in (0, 1).
        misses: events among the cases, >= 0.
        alpha: error probability of the Clopper-Pearson bound.

    Raises:
        ValueError: a bound outside (0, 1) or negative misses.

    >>> [n_for_proportion(0.10, misses) for misses in (0, 1, 2)]
    [29, 46, 61]
    """
    if not 0 < bound < 1 or misses < 0:
        raise ValueError(f"the bound must lie between 0 and 1 and misses be >= 0; got {bound} and {misses}")
    from scipy.special import bdtr

    return _least(lambda n: float(bdtr(misses, n, bound)) <= alpha, misses + 1)


def clusters_for_proportion(bound: float, assumed: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Independent cases (clusters of one) needed to show that a proportion lies on the good side of a bound.

    Args:
        bound: the requirement, in (0, 1).
        assumed: the true proportion that is assumed; its side of the bound is the good one.
        alpha: error probability of the Clopper-Pearson bound.
        power: probability of passing.

    Returns:
        The least number; the binomial power has steps, so a slightly larger one may fall short again.

    Raises:
        ValueError: assumed = bound, or numbers out of range.

    >>> clusters_for_proportion(0.10, 0.03), clusters_for_proportion(0.90, 0.97)
    (76, 76)
    """
    if assumed > bound:  # a recall of at least 0.9 is a miss rate of at most 0.1
        bound, assumed = 1.0 - bound, 1.0 - assumed
    if not 0 < bound < 1 or not 0 <= assumed < bound or not 0 < power < 1:
        raise ValueError(f"needed: 0 < bound < 1, assumed on one side of it, 0 < power < 1; got {bound=}, {assumed=}")
    from scipy.special import bdtr

    start, stop = n_for_proportion(bound, 0, alpha), 1024
    while True:
        n = np.arange(start, max(stop, start + 1))
        allowed = _most_misses(n, bound, alpha)
        reached = np.flatnonzero(bdtr(allowed, n, assumed) >= power)
        if len(reached):
            return int(n[reached[0]])
        start, stop = int(n[-1]) + 1, 4 * int(n[-1])


def more_needed(interval: Interval, bound: float, sense: Sense, kind: Kind, *, least: int = 0) -> int | None:
    """About how many more clusters would decide, if estimate and spread stay as they are.

    Args:
        interval: the interval that could not decide.
        bound: the requirement.
        sense: "at_least", "at_most" or "within".
        kind: of the quantity. A proportion's effective number of cases grows with the clusters; else the distance from
            the estimate to each end shrinks with 1 / sqrt(clusters), and where the end allows for values that no case
            has shown with their possible share, about 1 / clusters, until the spread alone is wider.

        least: clusters without which nothing is decided.

    Returns:
        The number; 0 when it is decided already; None when more than 10,000 are needed ("sits on the bound") or nothing
        was measured.

    >>> more_needed(Interval(0.75, 0.69, 0.81, 0.05, "", 40, 40, sd=0.2), 0.70, "at_least", "mean")
    18
    """
    if decide(interval.lower, interval.upper, bound, sense) != "insufficient":
        return 0
    if interval.value is None or interval.n_clusters == 0:
        return None
    start = max(interval.n_clusters + 1, _rule_clusters(interval, kind), least)

    def decided(k: int) -> bool:
        return decide(*_projected(interval, kind, k), bound, sense) != "insufficient"

    if decided(start):
        return start - interval.n_clusters
    most = interval.n_clusters + MOST
    return _least(decided, start, most) - interval.n_clusters if decided(most) else None


def _rule_clusters(interval: Interval, kind: Kind) -> int:
    """Clusters without which the rules give no bounds."""
    if interval.lower is not None or interval.upper is not None:
        return 0
    small = kind == "mean" and interval.n < MIN_CASES_PER_CLUSTER * interval.n_clusters
    return BOOTSTRAP_CLUSTERS if small else MIN_CLUSTERS


def _projected(interval: Interval, kind: Kind, k: int) -> tuple[float | None, float | None]:
    """Bounds at k clusters with today's estimate and spread; None where the spread is unknown."""
    value, now = interval.value, interval.n_clusters
    if value is None:
        return None, None
    if kind == "proportion":
        size = (interval.n / interval.deff if interval.deff else now) * k / now
        return clopper_pearson(value * size, size, interval.alpha)
    half = t_quantile(1.0 - interval.alpha, k - 1) * interval.sd / math.sqrt(k) if interval.sd else None
    if interval.lower is None or interval.upper is None:
        return (None, None) if half is None else (value - half, value + half)
    unseen = (1.0 - interval.alpha ** (1.0 / k)) / (1.0 - interval.alpha ** (1.0 / now))

    def width(wide: float, end: str) -> float:
        return max(wide * unseen, half or 0.0) if interval.floored in (end, "both") else wide * math.sqrt(now / k)

    return value - width(value - interval.lower, "lower"), value + width(interval.upper - value, "upper")


def _most_misses(n: np.ndarray, bound: float, alpha: float) -> np.ndarray:
    """Largest number of misses whose Clopper-Pearson bound is still at most ``bound``; n is large enough for 0."""
    from scipy.special import bdtr, bdtrik

    guess = np.floor(bdtrik(alpha, n, bound))
    guess = np.where(bdtr(guess + 1.0, n, bound) <= alpha, guess + 1.0, guess)
    return np.asarray(np.where(bdtr(guess, n, bound) > alpha, guess - 1.0, guess))


def _least(enough: Callable[[int], bool], start: int, most: int | None = None) -> int:
    """Least integer >= start for which ``enough`` holds; it must stay true once it is."""
    low, high = start - 1, start
    while not enough(high):
        low, high = high, 2 * high if most is None else min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
