"""Numbers as people read them: value and interval at the interval's precision, never "0.00", never NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence

from xaiseg.estimate import Estimate
from xaiseg.protocol import Requirement
from xaiseg.statistics.interval import Interval

#: Below this a number is rounding of the computer.
_NOISE: float = 1e-12
#: An end of an interval is 0 where it is less than this share of its width.
_NOUGHT: float = 1e-6


def decimals(lower: float | None, upper: float | None, value: float | None = None) -> int:
    """Decimals at which half the interval has two significant digits; without an interval three digits of the value.

    >>> decimals(0.741, 0.785), decimals(5.2, 31.0), decimals(None, None, 0.0412)
    (3, 0, 4)
    """
    if lower is not None and upper is not None and upper > lower:
        scale, digits = (upper - lower) / 2, 2
    elif value:
        scale, digits = abs(value), 3
    else:
        return 2
    return min(4, max(0, digits - 1 - math.floor(math.log10(scale))))


def number(value: float | None, places: int) -> str:
    """A number at a precision; what would round to zero but is none keeps a digit, below 0.0001 with its exponent.

    Ends of intervals that are next to nothing are zero before they come here, see :func:`range_text`.

    >>> number(0.0004, 2), number(-8.8e-6, 4), number(0.0, 2), number(-0.25, 2), number(None, 2), number(12.0, 0)
    ('0.0004', '−8.8e−6', '0', '−0.25', 'none', '12')
    >>> number(2.5e-18, 4)
    '0'
    """
    if value is None or not math.isfinite(value):
        return "none"
    if abs(value) < _NOISE:
        return "0"
    text = f"{abs(value):.{places}f}"
    if float(text) == 0:
        text = f"{float(f'{abs(value):.1g}'):.4f}".rstrip("0") if abs(value) >= 1e-4 else scientific(abs(value))
    return f"−{text}" if value < 0 else text


def scientific(value: float) -> str:
    """Two digits and an exponent.

    >>> scientific(0.00001234), scientific(-7e-10)
    ('1.2e−5', '−7e−10')
    """
    digits, _, exponent = f"{value:.1e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}".replace("-", "−")


def figure_of(estimate: Estimate, value: float | None, interval: Interval | None = None) -> str:
    """A value of an estimate, in per cent for proportions, at the precision of the interval."""
    lower, upper = (interval.lower, interval.upper) if interval else (None, None)
    return _figures(estimate, lower, upper, (value,))[0] + _suffix(estimate)


def value_text(estimate: Estimate) -> str:
    """The value of an estimate at its interval's precision.

    >>> value_text(Estimate("a", "c", "m", "fact", 3.0, None))
    '3'
    """
    return figure_of(estimate, estimate.value, estimate.interval)


def range_text(estimate: Estimate, interval: Interval | None) -> str:
    """The ends, as in "0.741 to 0.785" or "2.1 to 7.9 %"; "" without an interval.

    >>> range_text(Estimate("a", "c", "m", "proportion", 0.1, None), Interval(0.1, 2.7e-14, 0.43, 0.05, "m", 9, 9))
    '0 to 43 %'
    """
    if interval is None or (interval.lower is None and interval.upper is None):
        return ""
    lower, upper = interval.lower, interval.upper
    held = [lower, upper]
    if lower is not None and upper is not None:  # a quantile of Beta may be 1e-14, which nobody reads as more than 0
        held = [0.0 if abs(end) < _NOUGHT * (upper - lower) else end for end in (lower, upper)]
    ends = _figures(estimate, lower, upper, held)
    return " to ".join("open" if end == "none" else end for end in ends) + _suffix(estimate)


def both_text(estimate: Estimate, *, level: bool = True) -> str:
    """As in "0.763 (90 % interval 0.741 to 0.785)"; without ``level`` only the ends in brackets."""
    shown = range_text(estimate, estimate.interval)
    said = f"{100 * estimate.interval.level:g} % interval " if estimate.interval and level else ""
    return value_text(estimate) + (f" ({said}{shown})" if shown else "")


def bound_text(requirement: Requirement, kind: str) -> str:
    """The bound alone: "at most 10 %", "within ±0.10"."""
    bound = f"{100 * requirement.bound:g} %" if kind == "proportion" else f"{requirement.bound:g}"
    return f"within ±{bound}" if requirement.sense == "within" else f"{requirement.sense.replace('_', ' ')} {bound}"


def _figures(estimate: Estimate, lower: float | None, upper: float | None, values: Sequence[float | None]) -> list[str]:
    scale = 100.0 if estimate.kind == "proportion" else 1.0
    scaled = [None if value is None else scale * value for value in (lower, upper, *values)]
    if estimate.kind == "fact" and scaled[2] is not None and scaled[2].is_integer():
        return [number(value, 0) for value in scaled[2:]]
    places = decimals(scaled[0], scaled[1], scaled[2])
    return [number(value, places) for value in scaled[2:]]


def _suffix(estimate: Estimate) -> str:
    return " %" if estimate.kind == "proportion" else f" {estimate.unit}" if estimate.unit else ""


def large(count: float) -> str:
    """A large count in words.

    >>> large(980), large(1_240_000), large(21_300)
    ('980', '1.2 million', '21 thousand')
    """
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e4, "thousand")):
        if count >= size:
            scale = 1e3 if word == "thousand" else size
            return f"{count / scale:.2g} {word}" if count / scale < 100 else f"{count / scale:.0f} {word}"
    return f"{count:.0f}"
