"""Naming the culprits among many: Holm's step-down procedure on p-values or on bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xaiseg.statistics.interval import Interval

#: (k, lower, upper): one-sided bounds at alpha / k.
Rung = tuple[int, float | None, float | None]


def holm(pvalues: Sequence[float], alpha: float = 0.05) -> list[bool]:
    """Which hypotheses are rejected with a family-wise error of at most ``alpha``.

    Args:
        pvalues: one a hypothesis, in [0, 1].
        alpha: family-wise error probability.

    Returns:
        For each hypothesis, in the order given, whether it is rejected.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).

    >>> holm([0.01, 0.04, 0.03])
    [True, False, False]
    """
    rejected = [False] * len(pvalues)
    for place, index in enumerate(sorted(range(len(pvalues)), key=lambda i: pvalues[i])):
        if pvalues[index] > alpha / (len(pvalues) - place):
            break
        rejected[index] = True
    return rejected


def ladder_alphas(alpha: float, members: int) -> tuple[float, ...]:
    """Error probabilities alpha / k for k = 1 ... members, for ``mean_intervals`` and its siblings.

    >>> ladder_alphas(0.06, 3)
    (0.06, 0.03, 0.02)
    """
    return tuple(alpha / k for k in range(1, members + 1))


def interval_ladder(intervals: Sequence[Interval]) -> tuple[Rung, ...]:
    """Rungs from intervals that were made at :func:`ladder_alphas`, in that order.

    >>> interval_ladder([Interval(0.5, 0.4, 0.6, 0.05, "", 30, 30), Interval(0.5, 0.3, 0.7, 0.025, "", 30, 30)])
    ((1, 0.4, 0.6), (2, 0.3, 0.7))
    """
    return tuple((k, interval.lower, interval.upper) for k, interval in enumerate(intervals, start=1))


def holm_reject(
    ladders: Sequence[Sequence[Rung]], is_bad: Callable[[float | None, float | None], bool]
) -> tuple[int, ...]:
    """Holm's procedure with bounds in place of p-values.

    With m members left, those whose bounds at alpha / m are bad are rejected; what is left is tested again with its
    smaller number, until nothing more is rejected.

    Args:
        ladders: a ladder a member that holds at least k = 1 ... number of members; an empty ladder (a member without
            bounds) is never rejected but counts as a member.
        is_bad: whether (lower, upper) lie wholly on the bad side.

    Returns:
        Indices of the rejected members, ascending.

    Raises:
        ValueError: a ladder that lacks a rung.

    >>> one = [(1, 0.1, 0.5), (2, 0.05, 0.55)]
    >>> two = [(1, 0.1, 0.68), (2, 0.05, 0.75)]
    >>> holm_reject([one, two], lambda lower, upper: upper is not None and upper < 0.7)
    (0, 1)
    """
    rungs = [{k: (lower, upper) for k, lower, upper in ladder} for ladder in ladders]
    left = set(range(len(ladders)))
    while left:
        k = len(left)
        lacking = [index for index in left if rungs[index] and k not in rungs[index]]
        if lacking:
            raise ValueError(f"the ladder of member {min(lacking)} has no bounds at alpha / {k}")
        bad = {index for index in left if rungs[index] and is_bad(*rungs[index][k])}
        if not bad:
            break
        left -= bad
    return tuple(index for index in range(len(ladders)) if index not in left)
