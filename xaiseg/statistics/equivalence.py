"""From bounds to a decision: the guard band, and equivalence."""

from __future__ import annotations

from typing import Literal

from xaiseg.statistics.interval import Interval

Sense = Literal["at_least", "at_most", "within"]
Decision = Literal["pass", "fail", "insufficient"]


def decide(lower: float | None, upper: float | None, bound: float, sense: Sense) -> Decision:
    """Decides by guard band: pass or fail only when the whole interval lies on one side.

    Args:
        lower: one-sided lower bound, or None when there is none.
        upper: one-sided upper bound, or None.
        bound: what is required; >= 0 for "within".
        sense: "at_least" (not below), "at_most" (not above) or "within" (from -bound to bound).

    Raises:
        ValueError: an unknown sense, or a negative bound for "within".

    Source: ILAC-G8:09/2019, guard band of the width of the one-sided interval. "within" passes by two one-sided tests.

    >>> decide(0.71, 0.80, 0.70, "at_least"), decide(0.60, 0.80, 0.70, "at_least"), decide(None, None, 0.7, "at_most")
    ('pass', 'insufficient', 'insufficient')
    """
    if sense not in ("at_least", "at_most", "within"):
        raise ValueError(f"sense must be at_least, at_most or within; got {sense!r}")
    if sense == "within" and bound < 0:
        raise ValueError(f"the bound of 'within' must not be negative; got {bound}")
    floor = bound if sense == "at_least" else -bound if sense == "within" else None
    ceiling = bound if sense in ("at_most", "within") else None
    above = floor is None or (lower is not None and lower >= floor)
    below = ceiling is None or (upper is not None and upper <= ceiling)
    if above and below:
        return "pass"
    too_low = floor is not None and upper is not None and upper < floor
    too_high = ceiling is not None and lower is not None and lower > ceiling
    return "fail" if too_low or too_high else "insufficient"


def tost(interval: Interval, margin: float) -> bool:
    """Whether a paired difference is equivalent to zero: both one-sided bounds lie within the margin.

    Args:
        interval: interval of the differences; each bound is one of the two one-sided tests at its alpha.
        margin: largest difference that does not matter, > 0, fixed before measuring.

    Raises:
        ValueError: a margin that is not positive.

    Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15 (1987).

    >>> tost(Interval(0.0, -0.01, 0.02, 0.05, "", 30, 30), 0.03)
    True
    """
    if not margin > 0:
        raise ValueError(f"the margin must be positive; got {margin}")
    return decide(interval.lower, interval.upper, margin, "within") == "pass"
