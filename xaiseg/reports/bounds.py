"""Requirements against their bounds: one interval on its own axis for page 1, and all of them on one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Final

from markupsafe import Markup

from xaiseg.estimate import Estimate
from xaiseg.judge import Finding
from xaiseg.protocol import Requirement
from xaiseg.reports import svg
from xaiseg.reports.forest import ForestRow
from xaiseg.reports.marks import mark_shape
from xaiseg.reports.numbers import both_text, bound_text
from xaiseg.reports.palette import LOOKS
from xaiseg.reports.words import capital, listed, short_label, uncapital

_SIZE: Final = (128, 20)
_LABEL: Final = 262
#: Size of the text of labels in two lines.
_SMALL: Final = 10.0


def interval_mark(finding: Finding, estimate: Estimate | None) -> Markup:
    """One requirement on its own axis: bad side shaded, bound as a line, interval as a bar, estimate as a dot.

    Returns:
        SVG of 128 x 20 px, or an empty text where there is nothing to draw.
    """
    if estimate is None or estimate.value is None:
        return Markup("")
    requirement, look = finding.requirement, LOOKS[finding.verdict]
    width, height = _SIZE
    lower, upper = _ends(estimate)
    good = _good(requirement)
    axis = svg.Axis(*_span([estimate.value, lower, upper, *good], estimate.kind), 4, width - 4)
    parts = [svg.line(0, height / 2, width, height / 2, colour="line")]
    for bound, end in zip(good, (0, width), strict=True):
        if bound is not None:
            parts.insert(0, svg.shade(axis(bound), end, 2, height - 4))
            parts.append(svg.line(axis(bound), 1, axis(bound), height - 1, width=1.3))
    if estimate.interval is not None and (lower, upper) != (None, None):
        parts.append(svg.bar(axis, height / 2, lower, upper, colour=look.colour))
    parts.append(svg.circle(axis(estimate.value), height / 2, 3.7, colour=look.colour))
    alt = f"{both_text(estimate)}; bound {bound_text(requirement, estimate.kind)}: {look.word}"
    return svg.svg(width, height, alt, parts, style="fixed")


def threshold_plot(findings: Sequence[Finding], estimates: Mapping[str, Estimate]) -> Markup | None:
    """Every requirement on one axis: 0 is its bound, 100 % its ideal value, left of 0 the bad side.

    The room between bound and ideal (1 for "at least", 0 for "at most" and "within") is the unit, so that requirements
    on different things can be compared; values beyond the ends of the axis are cut.
    """
    rows = [_row(finding, estimates.get(finding.estimate_id or "")) for finding in findings]
    if not any(row.value is not None for row in rows):
        return None
    axis = svg.Axis(-100, 100, _LABEL + 22, 656)
    height = 10 + 22.0 * len(rows)
    parts = [svg.shade(axis.start, axis(0), 4, height - 4), svg.line(axis(0), 2, axis(0), height, width=1.4)]
    for index, row in enumerate(rows):
        y = 10 + 22 * (index + 0.5)
        parts += _label(row.label, y)
        if row.value is None:
            parts.append(svg.text(axis(0) + 8, y + 4, row.right, size=11.5, colour="muted"))
            continue
        parts.append(svg.line(axis.start, y, axis.stop, y, colour="line", width=0.6))
        if row.lower is not None and row.upper is not None:
            parts.append(svg.bar(axis, y, row.lower, row.upper, colour=row.colour))
        if row.look is not None:
            parts.append(mark_shape(row.look, axis(row.value), y, 12))
    ticks = [(-100.0, "−100 %"), (-50.0, "−50 %"), (0.0, "bound"), (50.0, "50 %"), (100.0, "ideal")]
    parts.append(
        svg.ruler(axis, height + 3, ticks, "distance to the bound, as a share of the room between bound and ideal")
    )
    words = [f"{row.label}: {LOOKS[f.verdict].word}" for row, f in zip(rows, findings, strict=True)]
    return svg.svg(680, height + 44, f"All {len(rows)} requirements: {listed(words, most=len(words))}.", parts)


def _label(words: str, y: float) -> list[str]:
    """A label in one line, or in two smaller ones where it is too long."""
    if svg.fitted(words, _LABEL) == words:
        return [svg.text(0, y + 4, words)]
    first, *more = wrap(words, int(_LABEL / (0.5 * _SMALL)))
    if not more:
        return [svg.text(0, y + 4, first, size=_SMALL)]
    second = svg.fitted(" ".join(more), _LABEL, size=_SMALL)
    return [svg.text(0, y - 1.5, first, size=_SMALL), svg.text(0, y + 8.5, second, size=_SMALL)]


def _row(finding: Finding, estimate: Estimate | None) -> ForestRow:
    look, requirement = LOOKS[finding.verdict], finding.requirement
    label = capital(short_label(replace(requirement, subject="reference")))
    if requirement.subject != "reference":
        # First, because a long label is cut at its end and builds must stay apart.
        label = f"{'each build' if requirement.subject == 'each' else requirement.subject}: {uncapital(label)}"
    if estimate is None or estimate.value is None:
        return ForestRow(label, right=look.word)
    lower, upper = _ends(estimate)
    shown = [_distance(requirement, value) for value in (estimate.value, lower, upper)]
    ends = [value for value in shown[1:] if value is not None]
    if requirement.sense == "within" and lower is not None and upper is not None:
        # Both ends count: the nearer bound decides, and 0 may lie inside.
        ends = [min(ends), 100.0 if lower <= 0 <= upper else max(ends)]
    least, most = (min(ends), max(ends)) if len(ends) == 2 else (None, None)
    return ForestRow(label, shown[0], least, most, "", look.colour, look)


def _distance(requirement: Requirement, value: float | None) -> float | None:
    """Per cent of the room between bound and ideal; a bound without room (at most 0) gives 100 or -100."""
    if value is None:
        return None
    bound = requirement.bound
    if requirement.sense == "at_least":
        room = 1.0 - bound if bound < 1.0 else abs(bound)
        return 100.0 * (value - bound) / room
    used = abs(value) if requirement.sense == "within" else value
    if bound <= 0:
        return 100.0 if used <= bound else -100.0
    return 100.0 * (bound - used) / bound


def _ends(estimate: Estimate) -> tuple[float | None, float | None]:
    return (estimate.interval.lower, estimate.interval.upper) if estimate.interval else (None, None)


def _good(requirement: Requirement) -> tuple[float | None, float | None]:
    """The lowest and the highest good value."""
    if requirement.sense == "within":
        return -requirement.bound, requirement.bound
    return (requirement.bound, None) if requirement.sense == "at_least" else (None, requirement.bound)


def _span(values: Sequence[float | None], kind: str) -> tuple[float, float]:
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    margin = 0.25 * (high - low) or max(abs(high), 1.0) * 0.25
    low, high = low - margin, high + margin
    return (max(0.0, low), min(1.0, high)) if kind == "proportion" and max(known) <= 1.0 else (low, high)
