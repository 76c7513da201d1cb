"""Are the confidences honest? Reliability diagrams with counts, for the whole image and around the lesion."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.reports import svg
from xaiseg.reports.figures import Plot, Story, View, absence, figure
from xaiseg.reports.numbers import both_text, large, number

if TYPE_CHECKING:
    import pandas as pd

_SIDE: Final = 210.0
_POOLS: Final = (("region_", "around reference or prediction"), ("", "whole image"))


@figure("calibration.pixels")
def calibration(view: View) -> Story:
    """Two reliability diagrams: where it matters, and where background dilutes it."""
    near, whole, rows = view.get("ece_region_image"), view.get("ece_image"), view.rows()
    if rows is None or (near is None and whole is None):
        return Story(view.lead(absence(view)))
    said = []
    for item, where in ((near, "around the lesion"), (whole, "over the whole image")):
        if item is not None:
            floor = f", chance alone would show {number(item.floor, 3)}" if item.floor is not None else ""
            said.append(f"the mean calibration error {where} is {both_text(item)}{floor}")
    gap = view.get("region_signed_gap")
    if gap is not None and gap.value is not None and gap.interval is not None:
        said.append(_direction(both_text(gap), gap.interval.lower, gap.interval.upper))
    rows = rows[rows["target"] != "top-label"]
    return Story(view.lead("; ".join(said) + "."), (_diagrams(rows),))


def _direction(words: str, lower: float | None, upper: float | None) -> str:
    if lower is not None and lower > 0:
        return f"around the lesion it is overconfident by {words}"
    if upper is not None and upper < 0:
        return f"around the lesion it is underconfident by {words}"
    return f"no lean to over- or underconfidence around the lesion is shown ({words})"


def _diagrams(rows: pd.DataFrame) -> Plot:
    parts, alts = [], []
    for index, (prefix, where) in enumerate(_POOLS):
        sums = _pooled(rows, prefix)
        if sums is None:
            continue
        drawn, alt = _diagram(70 + 320.0 * index, sums, where)
        parts += drawn
        alts.append(alt)
    how = "Each dot is a bin of pixels; on the diagonal the model is as often right as it says. Below the diagonal it "
    how += "claims too much. Columns count pixels on a logarithmic scale: read dots over short columns with care."
    return Plot(svg.svg(680, 348, " ".join(alts), parts), "", how)


def _pooled(rows: pd.DataFrame, prefix: str) -> np.ndarray | None:
    """(3, B): count, sum of probabilities, sum of positives over all images; None without pixels."""
    held = rows[rows[f"{prefix}count"].notna()]
    if held.empty:
        return None
    sums = [np.sum(np.stack(held[f"{prefix}{name}"].to_list()), axis=0) for name in ("count", "sum_p", "sum_y")]
    stacked = np.array(sums, dtype=np.float64)
    return stacked if stacked[0].sum() else None


def _diagram(left: float, sums: np.ndarray, where: str) -> tuple[list[str], str]:
    count, sum_p, sum_y = sums
    x, y = svg.Axis(0, 1, left, left + _SIDE), svg.Axis(0, 1, 24 + _SIDE, 24)
    parts = [svg.text(left, 13, f"share that is right, {where}", bold=True)]
    for tick in (0, 0.5, 1):
        parts.append(svg.line(left, y(tick), left + _SIDE, y(tick), colour="line", width=0.8))
        parts.append(svg.text(left - 6, y(tick) + 4, f"{tick:g}", size=11, anchor="end"))
    parts.append(svg.line(x(0), y(0), x(1), y(1), colour="muted", dash="4 3"))
    known = np.flatnonzero(count)
    confidence, rate = sum_p[known] / count[known], sum_y[known] / count[known]
    parts.append(svg.path([(x(p), y(r)) for p, r in zip(confidence, rate, strict=True)], colour="accent"))
    for p, r in zip(confidence, rate, strict=True):
        parts.append(svg.line(x(p), y(p), x(p), y(r), colour="second", width=1.6))
        parts.append(svg.circle(x(p), y(r), 3.4, colour="accent"))
    parts += _columns(x, count, 24 + _SIDE + 8)
    parts.append(svg.ruler(x, 24 + _SIDE + 56, [(t, f"{t:g}") for t in (0, 0.5, 1)], "confidence of the model"))
    worst = int(np.argmax(np.abs(confidence - rate)))
    error = float(np.abs(sum_p - sum_y).sum() / count.sum())
    alt = (
        f"Reliability {where}: pooled error {number(error, 3)} over {large(count.sum())} pixels; the widest gap is at "
    )
    alt += f"confidence {confidence[worst]:.2f}, where {100 * rate[worst]:.0f} % are right."
    return parts, alt


def _columns(x: svg.Axis, count: np.ndarray, top: float) -> list[str]:
    """How many pixels each bin holds, logarithmic, with the largest in words."""
    height, most = 44.0, math.log10(max(count.max(), 10.0))
    width = (x.stop - x.start) / len(count)
    parts = []
    for index, value in enumerate(count):
        tall = height * math.log10(max(value, 1.0)) / most
        parts.append(svg.rect(x.start + index * width + 0.5, top + height - tall, width - 1, tall, colour="line"))
    parts.append(svg.text(x.stop, top - 14, f"{large(count.sum())} pixels", size=11, anchor="end", colour="muted"))
    return parts
