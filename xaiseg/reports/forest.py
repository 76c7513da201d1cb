"""Intervals in rows on one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from xaiseg.estimate import Estimate
from xaiseg.protocol import Requirement
from xaiseg.reports import svg
from xaiseg.reports.marks import mark_shape
from xaiseg.reports.numbers import range_text, value_text
from xaiseg.reports.palette import Look
from xaiseg.reports.words import label

WIDTH: Final = 680
_ROW: Final = 22
_LABEL: Final = 200
_RIGHT: Final = 170


@dataclass(frozen=True)
class ForestRow:
    """One row.

    Attributes:
        label: on the left.
        value, lower, upper: on the axis; None = nothing to draw.
        right: the same in words, on the right.
        colour: name of a colour.
        look: mark of a verdict in place of a dot.
        heading: a bold label without numbers.
    """

    label: str
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    right: str = ""
    colour: str = "accent"
    look: Look | None = None
    heading: bool = False

    @classmethod
    def of(cls, item: Estimate, *, label_text: str = "", colour: str = "accent", look: Look | None = None) -> ForestRow:
        """A row of an estimate; proportions are drawn in per cent."""
        scale = 100.0 if item.kind == "proportion" else 1.0
        ends = (item.interval.lower, item.interval.upper) if item.interval else (None, None)
        value, lower, upper = (None if v is None else scale * v for v in (item.value, *ends))
        shown = range_text(item, item.interval)
        words = f"{value_text(item)} ({shown})" if shown else value_text(item)
        if not shown and item.reason:
            words = "too few clusters" if "needed" in item.reason else "no interval"
        return cls(label_text or label(item), value, lower, upper, words, colour, look)


def forest(
    rows: Sequence[ForestRow],
    *,
    title: str,
    alt: str,
    requirement: Requirement | None = None,
    scale: float = 1.0,
    span: tuple[float, float] | None = None,
    zero: bool = False,
) -> Markup:
    """Draws rows of intervals below one another.

    Args:
        rows: from top to bottom.
        title: of the axis.
        alt: alternative text.
        requirement: its bound is drawn and its bad side shaded.
        scale: the bound is multiplied by it (100 where the rows are in per cent).
        span: ends of the axis; None = what the rows need.
        zero: draw a thin line at 0.
    """
    bounds = _bounds(requirement, scale)
    low, high = span or _span(rows, [b for b in bounds if b is not None])
    axis = svg.Axis(low, high, _LABEL + 8, WIDTH - _RIGHT - 8)
    height = 8 + _ROW * len(rows)
    parts = _shaded(axis, bounds, height)
    if zero and axis.holds(0.0):
        parts.append(svg.line(axis(0), 4, axis(0), height, colour="muted", dash="2 3"))
    for index, row in enumerate(rows):
        parts += _draw(row, axis, 8 + _ROW * (index + 0.5))
    parts.append(svg.ruler(axis, height + 3, axis.labels(5), title))
    return svg.svg(WIDTH, height + 44, alt, parts)


def _bounds(requirement: Requirement | None, scale: float) -> tuple[float | None, float | None]:
    """The lowest and the highest good value."""
    if requirement is None:
        return None, None
    bound = scale * requirement.bound
    if requirement.sense == "within":
        return -bound, bound
    return (bound, None) if requirement.sense == "at_least" else (None, bound)


def _shaded(axis: svg.Axis, bounds: tuple[float | None, float | None], height: float) -> list[str]:
    parts = []
    for bound, end in zip(bounds, (axis.start, axis.stop), strict=True):
        if bound is not None:
            parts.append(svg.shade(axis(bound), end, 4, height - 4))
            parts.append(svg.line(axis(bound), 4, axis(bound), height, width=1.3))
    return parts


def _draw(row: ForestRow, axis: svg.Axis, y: float) -> list[str]:
    size = 12.0
    parts = [svg.text(0, y + 4, svg.fitted(row.label, _LABEL, size=size), bold=row.heading)]
    if row.value is not None:
        if row.lower is not None or row.upper is not None:
            parts.append(svg.bar(axis, y, row.lower, row.upper, colour=row.colour))
        if row.look is not None:
            parts.append(mark_shape(row.look, axis(row.value), y, 11))
        else:
            hollow = row.lower is None and row.upper is None
            parts.append(svg.circle(axis(row.value), y, 3.8, colour=row.colour, hollow=hollow))
    if row.right:
        parts.append(
            svg.text(WIDTH - _RIGHT, y + 4, svg.fitted(row.right, _RIGHT, size=11.5), size=11.5, colour="muted")
        )
    return parts


def _span(rows: Sequence[ForestRow], more: Sequence[float]) -> tuple[float, float]:
    """Room for every interval and bound, with a margin; never empty."""
    values = [v for row in rows for v in (row.value, row.lower, row.upper) if v is not None] + list(more)
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.06 * (high - low) or max(abs(high), 1.0) * 0.1
    # Quantities that cannot be negative start at 0 rather than just below it.
    start = 0.0 if 0 <= low < 3 * margin else low - margin
    return start, high + margin
