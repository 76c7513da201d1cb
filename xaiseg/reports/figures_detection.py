"""Does it find the animals? Precision and recall, FROC, counts against the reference, and tables by group and size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from xaiseg.checks.detection_masks import FITS
from xaiseg.checks.detection_rows import ID, OWN_RULE, Found, gathered
from xaiseg.detection.curves import FROC_RATES, precision_recall
from xaiseg.detection.matching import reaches
from xaiseg.estimate import Estimate
from xaiseg.reports import svg
from xaiseg.reports.facts import cluster_words
from xaiseg.reports.figures import Plot, Story, Table, View, absence, colour_of, figure, missing_note
from xaiseg.reports.numbers import both_text, number
from xaiseg.reports.survey import collection_table, count_words, mistake_words, total_words, where_table
from xaiseg.reports.words import capital, group_name, plural

#: What no audit of tiles can see; it stands beside every count.
SEEN_ONLY: Final = (
    "Neither availability (animals in the water or out of sight) nor animals that the annotators missed as well are "
    "measured"
)
MOST_DOTS: Final = 1500
_UNLESS: Final = "; none where there is too little for one"


@figure(ID)
def detection(view: View) -> Story:
    """Recall and precision at the threshold, curves, counts."""
    rows, recall = view.rows(), view.get("recall")
    if rows is None or recall is None:
        return Story(view.lead(absence(view)))
    classes = list(view.plan["facts"]["classes"])
    held = gathered(rows, [], classes, float(view.plan["facts"]["threshold"]))
    plots = [_precision_recall(view, held), _froc(view), _counts(view, held)]
    tables = [where_table(view), collection_table(view), _groups(view), _sizes(view), _empty(view)]
    return Story(
        view.lead(_answer(view, held, recall)),
        tuple(plot for plot in plots if plot is not None),
        tuple(table for table in tables if table is not None),
    )


def _answer(view: View, held: Found, recall: Estimate) -> str:
    total, found = int(held.reference.sum()), int(held.right.sum())
    lost = recall.n_failed
    where = f" of the {plural(held.answered, 'image')} that gave an answer; with {lost} failed" if lost else ""
    said = f"at its threshold of {held.threshold:g} the model finds {found} of {plural(total, 'animal')}{where}: "
    said += f"{both_text(recall)} over {cluster_words(view.plan, recall.n_clusters)}"
    precision = view.get("precision")
    if precision is not None:
        wrong = mistake_words(view) or "no box above the threshold is wrong"
        said += f". Of its boxes {both_text(precision)} are right on these tiles; {wrong}"
    said = f"{said.rstrip('.')}. {_mask_words(view, held)}{count_words(view).rstrip('.')}"
    again = view.get("border_duplicates")
    if again is not None and again.value is not None:
        said += f". Where tiles overlap, {again.value:.0f} detections stood twice and were merged"
    said += f". {total_words(view.own())}. {SEEN_ONLY}."
    return said + missing_note(view, ("projected_precision", "false_positives_per_km2", "mask_recall"))


def _mask_words(view: View, held: Found) -> str:
    """How well instance masks fit, as one sentence; "" for a detector of boxes, or without outlines."""
    fitting, mean = view.get("mask_recall"), view.get("mask_iou")
    if fitting is None or fitting.value is None:
        return ""
    outlined = np.concatenate([flat.object_outlined for flat in held.flats])
    fits = np.concatenate([flat.object_mask_iou for flat in held.flats]) >= FITS
    found = np.concatenate([reaches(flat.object_score, held.threshold) for flat in held.flats])
    count = int((outlined & found & fits).sum())
    lost = f"; with {fitting.n_failed} failed" if fitting.n_failed else ""
    said = f"Masks: of {plural(int(outlined.sum()), 'animal')} with an outline {count} are found with a mask of IoU "
    said += f"{FITS:g} or more{lost}: {both_text(fitting)}"
    if mean is None or mean.value is None:
        return f"{said}. "
    return f"{said}; mean IoU of those found {both_text(mean)}. "


def _axes(x: svg.Axis, up: svg.Axis, height: float, ticks: Sequence[tuple[float, str]], title: str) -> list[str]:
    parts = [svg.line(x.start, up(t), x.stop, up(t), colour="line", width=0.8) for t in (0.25, 0.5, 0.75, 1.0)]
    parts += [svg.text(x.start - 6, up(t) + 4, f"{100 * t:.0f} %", size=11, anchor="end") for t in (0, 0.5, 1.0)]
    return [*parts, svg.ruler(x, height, ticks, title)]


def _precision_recall(view: View, held: Found) -> Plot | None:
    pool = held.pooled() if len(held.flats) > 1 else held.flats[0].pool(OWN_RULE)
    recall, precision, _ = precision_recall(pool)
    if len(recall) < 2:
        return None
    x, up, base = svg.Axis(0.0, 1.0, 46, 664), svg.Axis(0.0, 1.0, 190, 24), 194.0
    parts = _axes(x, up, base, [(t, f"{100 * t:.0f} %") for t in x.ticks()], "animals found (recall)")
    parts.append(svg.text(x.start + 6, 15, "boxes that are right (precision)", size=11, colour="muted"))
    marks = np.unique(np.linspace(0, len(recall) - 1, min(len(recall), 300)).astype(int))
    parts.append(svg.path([(x(recall[i]), up(precision[i])) for i in marks]))
    real, right, words = view.get("recall"), view.get("precision"), ""
    if real is not None and right is not None and real.value is not None and right.value is not None:
        for estimate, along in ((real, True), (right, False)):
            parts += _cross(estimate, x, up, (real.value, right.value), along=along)
        parts.append(svg.circle(x(real.value), up(right.value), 4.5, colour=colour_of(view.settled("recall"))))
        parts.append(svg.text(x(real.value) - 8, up(right.value) + 18, f"threshold {held.threshold:g}", bold=True,
                              anchor="end" if real.value > 0.25 else "start"))  # fmt: skip
        words = f" The dot is the frozen threshold, {held.threshold:g}, with the 90 % intervals of both; it may lie "
        words += "below the curve, which is drawn at the scores of the animals that are found."
    ap = view.get("ap50")
    alt = f"Precision against recall at {len(recall)} scores"
    alt += f"; AP50 {both_text(ap)}." if ap is not None else "."
    how = "Lower thresholds lie further right: more animals are found and more boxes are wrong." + words
    return Plot(svg.svg(680, base + 40, alt, parts), "", how)


def _cross(
    estimate: Estimate | None, x: svg.Axis, up: svg.Axis, centre: tuple[float, float], *, along: bool
) -> list[str]:
    """The interval of recall (along) or precision (up and down) through the operating point."""
    if estimate is None or estimate.interval is None or estimate.interval.lower is None:
        return []
    low, high = estimate.interval.lower, estimate.interval.upper or 1.0
    if along:
        return [svg.line(x(low), up(centre[1]), x(high), up(centre[1]), colour="accent", width=3)]
    return [svg.line(x(centre[0]), up(low), x(centre[0]), up(high), colour="accent", width=3)]


def _froc(view: View) -> Plot | None:
    items = [one for one in view.own() if one.metric == "froc" and one.factor and not one.target and not one.stratum]
    held = [(rate, one) for rate, one in zip(FROC_RATES, items, strict=False) if one.value is not None]
    if len(held) < 2:
        return None
    x, up, base = svg.Axis(-3.0, 3.0, 66, 644), svg.Axis(0.0, 1.0, 150, 24), 154.0
    ticks = [(math.log2(rate), one.level) for rate, one in held]
    parts = _axes(x, up, base, ticks, "false positives an image (each step doubles them)")
    parts.append(svg.text(x.start + 6, 15, "animals found (recall)", size=11, colour="muted"))
    for rate, one in held:
        if one.interval is not None and one.interval.lower is not None and one.interval.upper is not None:
            place = x(math.log2(rate))
            parts.append(
                svg.line(place, up(one.interval.lower), place, up(one.interval.upper), colour="accent", width=3)
            )
    points = [(x(math.log2(rate)), up(one.value or 0.0)) for rate, one in held]
    parts += [svg.path(points), *(svg.circle(px, py, 3.2, colour="ink") for px, py in points)]
    mean = view.get("froc")
    alt = (
        "Recall at "
        + ", ".join(f"{one.level}: {number(one.value, 2)}" for _, one in held)
        + " false positives an image."
    )
    how = "Read how many animals are found if you put up with so many wrong boxes an image; bars are 90 % intervals."
    claim = f"On average over these rates {both_text(mean)} of animals are found." if mean is not None else ""
    return Plot(svg.svg(680, base + 40, alt, parts), claim, how)


def _counts(view: View, held: Found) -> Plot | None:
    """Counts of every image and, beside them, of every cluster against the reference."""
    clusters = dict(zip(view.run.cases()["case"], view.run.cases()["cluster"], strict=True))
    names = np.array([str(clusters[case]) for case in held.cases[: held.answered]])
    groups, codes = np.unique(names, return_inverse=True)
    sums = [np.bincount(codes, values, len(groups)) for values in (held.reference, held.detected)]
    if not len(names):
        return None
    parts = _scatter(40, 320, held.reference, held.detected, "one dot is one image", jitter=True)
    parts += _scatter(
        390, 670, sums[0], sums[1], f"one dot is one of {cluster_words(view.plan, len(groups))}", jitter=False
    )
    bias = view.get("count_bias")
    alt = f"Detected against annotated animals, by image ({len(names)}) and by cluster ({len(groups)})"
    alt += f"; bias {both_text(bias)}." if bias is not None else "."
    how = "On the line the count is right; above it the model counts too many, below too few. Dots of images are moved "
    how += "a little, so that equal ones can be seen."
    return Plot(svg.svg(680, 262, alt, parts), "", how)


def _scatter(
    left: float, right: float, reference: np.ndarray, detected: np.ndarray, title: str, *, jitter: bool
) -> list[str]:
    top = max(1.0, float(reference.max(initial=0)), float(detected.max(initial=0))) * 1.06
    x, up = svg.Axis(0.0, top, left, right), svg.Axis(0.0, top, 218, 24)
    parts = [svg.line(x(0), up(0), x(top), up(top), colour="muted", width=1, dash="4 3")]
    ticks = [t for t in x.ticks(4) if float(t).is_integer()]
    parts += [svg.line(left, up(t), right, up(t), colour="line", width=0.8) for t in ticks]
    parts += [svg.text(left - 6, up(t) + 4, f"{t:.0f}", size=11, anchor="end") for t in ticks]
    step = max(1, math.ceil(len(reference) / MOST_DOTS))
    for index in range(0, len(reference), step):
        shift = (0.3 * (index * 0.618034 % 1 - 0.5), 0.3 * (index * 0.754878 % 1 - 0.5)) if jitter else (0.0, 0.0)
        place = x(reference[index] + shift[0]), up(detected[index] + shift[1])
        parts.append(svg.circle(*place, 2.6 if jitter else 4, colour="accent", opacity=0.45 if jitter else 0.7))
    parts.append(svg.text(left, 14, f"detected; {title}", size=11, colour="muted"))
    return [*parts, svg.ruler(x, 222, [(t, f"{t:.0f}") for t in ticks], "annotated animals")]


def _groups(view: View) -> Table | None:
    """Recall, precision, false positives and count bias in every declared group."""
    metrics = ("recall", "precision", "false_positives_per_image", "count_bias")
    held = {(one.stratum, one.metric): one for one in view.own() if one.stratum and not one.target and not one.factor}
    strata = list(dict.fromkeys(stratum for stratum, metric in held if metric == "recall"))
    if not strata:
        return None
    rows = []
    for stratum in strata:
        recall = held[stratum, "recall"]
        cells = [_cell(held.get((stratum, metric))) for metric in metrics]
        rows.append(
            (capital(group_name(stratum)), f"{recall.n} in {cluster_words(view.plan, recall.n_clusters)}", *cells)
        )
    head = ("group", "animals", "found", "boxes right", "false positives an image", "count bias")
    return Table(f"By declared group, with 90 % intervals{_UNLESS}", head, tuple(rows))


def _cell(one: Estimate | None) -> str:
    if one is None or one.value is None:
        return "–"
    return both_text(one, level=False)


def _sizes(view: View) -> Table | None:
    held = [one for one in view.own() if one.factor == "size" and not one.target and not one.stratum]
    if not any(one.value is not None for one in held):
        return None
    rows = tuple((one.level, str(one.n), _cell(one)) for one in held)
    return Table(f"By size of the animal (square root of its box area), with 90 % intervals{_UNLESS}",
                 ("size", "animals", "found"), rows)  # fmt: skip


def _empty(view: View) -> Table | None:
    names = (
        ("false positives on 1,000 known-empty tiles", "false_positives_per_1000_empty_tiles"),
        ("false positives a square kilometre of known-empty ground", "false_positives_per_km2"),
        ("precision at the survey's share of empty tiles", "projected_precision"),
    )
    rows = []
    for words, metric in names:
        one = next((item for item in view.own() if item.metric == metric and not item.target), None)
        if one is not None:
            rows.append((words, _cell(one), "; ".join(part for part in (one.note, one.reason) if part)))
    tiles = view.get("known_empty_tiles")
    count = int(tiles.value or 0) if tiles is not None else 0
    return Table(f"On mostly empty ground: {plural(count, 'known-empty tile')}", ("quantity", "value", "remark"),
                 tuple(rows)) if rows else None  # fmt: skip
