"""Does it work? Every case as a dot, the share of cases below each Dice, and found lesions by size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.judge import Verdict
from xaiseg.reports import svg
from xaiseg.reports.facts import cluster_words
from xaiseg.reports.figures import Plot, Story, View, absence, colour_of, figure, missing_note
from xaiseg.reports.numbers import both_text, bound_text, number
from xaiseg.reports.words import plural

if TYPE_CHECKING:
    import pandas as pd

#: More dots than this only blacken the paper; then every k-th case by rank is drawn.
MOST_DOTS: Final = 1200


@figure("performance.segmentation")
def performance(view: View) -> Story:
    """Dice by case, and lesions by size."""
    rows, mean = view.rows(), view.get("dice")
    if rows is None or mean is None:
        return Story(view.lead(absence(view)))
    values = _case_values(rows)
    failed = mean.n_failed
    below = int((values < 0.5).sum()) + failed
    answer = f"mean Dice is {both_text(mean)} over {cluster_words(view.plan, mean.n_clusters)}; "
    answer += f"{below} of {plural(len(values) + failed, 'image')} {'falls' if below == 1 else 'fall'} below 0.5"
    missed = view.get("missed_lesions")
    lesions = rows[(rows["object"] != "") & rows["area"].notna()]
    if missed is not None:
        answer += f", and {both_text(missed)} of lesions are missed"
        if missed.weigh == "cluster":  # each patient weighs the same, so the share is not that of all lesions
            lost = int((~lesions["found"].astype(bool)).sum())
            answer += (
                f" on average over {cluster_words(view.plan, missed.n_clusters)} ({lost} of {len(lesions)} in all)"
            )
    absent = missing_note(view, ("false_component_images", "dice_minus_readers"))
    plots = [_strip(view, values, failed)]
    if len(lesions) > 1:
        plots.append(_by_size(view, lesions))
    return Story(view.lead(f"{answer}.{absent}"), tuple(plots))


def _case_values(rows: pd.DataFrame) -> np.ndarray:
    """Mean Dice over the classes of each case that has one, sorted."""
    whole = rows[(rows["object"] == "") & rows["dice"].notna()]
    return np.sort(whole.groupby("case")["dice"].mean().to_numpy(dtype=np.float64))


def _strip(view: View, values: np.ndarray, failed: int) -> Plot:
    mean, requirement = view.get("dice"), view.requirement("dice")
    assert mean is not None
    axis = svg.Axis(0.0, 1.0, 46, 664)
    top, base = 74.0, 176.0
    parts = []
    if requirement is not None and requirement.sense == "at_least":
        parts.append(svg.shade(axis.start, axis(requirement.bound), 22, 44))
        parts.append(svg.line(axis(requirement.bound), 18, axis(requirement.bound), 66))
        words = f"mean {bound_text(requirement, mean.kind)}"
        parts.append(svg.text(axis(requirement.bound) - 5, 14, words, size=11, anchor="end"))
    step = max(1, math.ceil(len(values) / MOST_DOTS))
    for index, value in enumerate(values[::step]):
        parts.append(svg.circle(axis(value), 27 + 34 * (index * 0.618034 % 1.0), 2.4, colour="accent", opacity=0.5))
    for index in range(min(failed, 60)):
        parts.append(svg.circle(axis(0), 27 + 34 * (index * 0.618034 % 1.0), 3, colour="fail", hollow=True))
    colour = colour_of(view.settled("dice"))
    if mean.value is not None:
        if mean.interval is not None and mean.interval.lower is not None:
            parts.append(svg.bar(axis, 44, mean.interval.lower, mean.interval.upper, colour=colour, width=9))
        parts.append(svg.line(axis(mean.value), 20, axis(mean.value), 68, width=2.2))
        parts.append(svg.text(axis(mean.value) + 5, 14, f"mean {number(mean.value, 2)}", bold=True))
    parts += _cumulative(axis, np.concatenate([np.zeros(failed), values]), top, base)
    total = len(values) + failed
    parts.append(svg.ruler(axis, base, [(t, f"{t:.1f}") for t in axis.ticks()], f"Dice per image ({total} images)"))
    lowest, middle = (values[0], np.median(values)) if len(values) else (0.0, 0.0)
    alt = f"Dice of {total} images from {lowest:.2f} to {values[-1] if len(values) else 0:.2f}, median {middle:.2f}; "
    alt += f"mean {both_text(mean)}."
    how = "One dot is one image; the thick bar is the interval of the mean. The curve shows which share of the images "
    how += "has at most that Dice." + (" Hollow dots are failed images, which count as 0." if failed else "")
    how += f" Every {step}th image by rank is drawn." if step > 1 else ""
    return Plot(svg.svg(680, base + 40, alt, parts), _strip_claim(view, values, failed), how)


def _strip_claim(view: View, values: np.ndarray, failed: int) -> str:
    verdict, requirement = view.settled("dice"), view.requirement("dice")
    if verdict is None or requirement is None:
        return ""
    share = (int((values < requirement.bound).sum()) + failed) / max(1, len(values) + failed)
    stands = "meets" if verdict is Verdict.PASS else "fails"
    return f"The mean {stands} its bound; {100 * share:.0f} % of single images lie below {requirement.bound:g}."


def _cumulative(axis: svg.Axis, values: np.ndarray, top: float, base: float) -> list[str]:
    """The share of images at or below each value, as a line of at most 200 points."""
    up = svg.Axis(0.0, 1.0, base, top + 12)
    parts = [svg.line(axis.start, up(t), axis.stop, up(t), colour="line", width=0.8) for t in (0.5, 1.0)]
    parts += [svg.text(axis.start - 6, up(t) + 4, f"{100 * t:.0f} %", size=11, anchor="end") for t in (0, 0.5, 1.0)]
    marks = np.unique(np.linspace(0, len(values) - 1, min(len(values), 200)).astype(int))
    points = [(axis(0.0), up(0.0))] + [(axis(values[i]), up((i + 1) / len(values))) for i in marks]
    parts.append(svg.path([*points, (axis(1.0), up(1.0))]))
    parts.append(svg.text(axis.start + 6, up(1.0) + 15, "share of images at or below", size=11, colour="muted"))
    return parts


def _by_size(view: View, lesions: pd.DataFrame) -> Plot:
    """Best IoU of each lesion against its area on a logarithmic axis."""
    area = np.log10(np.maximum(lesions["area"].to_numpy(dtype=np.float64), 1.0))
    iou = lesions["best_iou"].fillna(0.0).to_numpy(dtype=np.float64)
    found = lesions["found"].eq(True).to_numpy()
    axis = svg.Axis(math.floor(area.min() * 5) / 5, math.ceil(area.max() * 5 + 0.01) / 5, 46, 664)
    up = svg.Axis(0.0, 1.0, 150, 14)
    parts = [svg.line(46, up(t), 664, up(t), colour="line", width=0.8) for t in (0, 0.5, 1)]
    parts += [svg.text(40, up(t) + 4, f"{t:g}", size=11, anchor="end") for t in (0, 0.5, 1)]
    order = np.argsort(area)[:: max(1, math.ceil(len(area) / MOST_DOTS))]
    shown = np.union1d(order, np.flatnonzero(~found)[:MOST_DOTS])
    for index in shown:
        x, y = axis(area[index]), up(iou[index])
        if found[index]:
            parts.append(svg.circle(x, y, 2.6, colour="accent", opacity=0.5))
        else:
            parts.append(svg.rect(x - 3.2, y - 3.2, 6.4, 6.4, colour="fail"))
    ticks = [(math.log10(v), f"{v:g}") for v in _round_areas(axis)]
    parts.append(svg.ruler(axis, 154, ticks, f"area of the lesion in px ({len(area)} lesions, logarithmic)"))
    parts.append(svg.text(52, 11, "IoU with the best predicted component", size=11, colour="muted"))
    lost = int((~found).sum())
    alt = f"IoU of {len(area)} lesions against their area; {lost} missed."
    return Plot(svg.svg(680, 194, alt, parts), _size_claim(area, found), "One dot is one lesion; squares were missed.")


def _round_areas(axis: svg.Axis) -> list[float]:
    """1, 2 and 5 times the powers of ten within the axis."""
    powers = range(math.floor(axis.low), math.ceil(axis.high) + 1)
    return [f * 10.0**p for p in powers for f in (1, 2, 5) if axis.holds(math.log10(f * 10.0**p))]


def _size_claim(area: np.ndarray, found: np.ndarray) -> str:
    """Where the missed lesions lie, said only when there are enough of them."""
    lost = area[~found]
    if len(lost) < 5:
        return ""
    small = float((lost <= np.median(area)).mean())
    return f"{100 * small:.0f} % of the {len(lost)} missed lesions are smaller than the median lesion."
