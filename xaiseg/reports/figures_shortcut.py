"""Is it looking at the wrong thing? The effect of each edit beyond its sham, and pictures of telling objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.checks.pictures import pixels_of
from xaiseg.checks.shortcut_groups import grouped
from xaiseg.checks.shortcut_look import PIXELS
from xaiseg.estimate import Estimate
from xaiseg.judge import Verdict
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure, missing_note
from xaiseg.reports.forest import ForestRow, forest
from xaiseg.reports.numbers import both_text, number
from xaiseg.reports.readouts import PictureTile, picture_rows
from xaiseg.reports.words import capital, factor_level, listed, metric_name, plural
from xaiseg.seeds import derive_seed

if TYPE_CHECKING:
    import pandas as pd

#: Cases of which pictures are shown, drawn by seed.
_SHOWN: Final = 4
#: How the effects on objects begin.
_OF: Final = "of the objects that the model finds "
#: Members of a group of look-alikes that are shown.
_NEAREST: Final = 6
#: What rows of one metric are about, short enough for the axis.
_HEADS: Final[Mapping[str, str]] = {
    "removal_effect": "Gone with the object",
    "neighbour_effect": "Neighbours' confidence",
    "appearance": "Answers at the mark",
    "suppression": "Objects that vanish",
    "relative_confidence_drop": "Confidence that is lost",
    "persistent_confidence_drop": "Lost before four of five",
    "edge_loss": "Vanish at the edge",
    "hidden_loss": "Vanish partly hidden",
}
#: What a removed object leaves behind.
_FILLED: Final = {"mean": "filled with the mean colour", "telea": "filled from around it", "blur": "blurred"}
#: Neither an effect on being found nor told by both flip rates.
_APART: Final = ("neighbour_effect", "appearance", "relative_confidence_drop", "persistent_confidence_drop")
_PANELS: Final = ("as it is", "edit", "sham")
_HOW: Final = (
    "One line is one edit: what it changes beyond its sham, which makes the same seams and fillings where they cannot "
    "matter. 0 = the edit does no more than the sham. Bars are 90 % intervals."
)


@figure("shortcut.background")
def background(view: View) -> Story:
    """How many objects vanish before other backgrounds."""
    said = {"swap": "before other backgrounds", "blur": "before their own background, blurred"}
    answer = _said(view, "suppression", "vanish", said)
    share = view.get("relative_confidence_drop", factor="background", level="swap")
    if answer and share is not None and share.value is not None:
        answer += f"; before other backgrounds the confidence falls by {both_text(share)} of what it is"
    kept = view.get("persistent_confidence_drop", factor="background", level="swap")
    if answer and kept is not None and kept.value is not None:
        answer += f", by at least {both_text(kept)} before four of five"
    index = view.get("context_reliance")
    if answer and index is not None:
        answer += f"; the background takes away {both_text(index)} of what removing the object does"
    metrics = ("persistent_confidence_drop", "relative_confidence_drop", "suppression")
    return _story(view, answer, metrics, "found objects that vanished before another background")


@figure("shortcut.object")
def removal(view: View) -> Story:
    """How many answers go with their object."""
    levels = {kind: f"({_FILLED.get(kind, kind)})" for kind in view.params.get("fills", ())}
    answer = _said(view, "removal_effect", "are no longer found once they are removed", levels)
    lift = view.get("attribution_lift")
    if answer and lift is not None:
        answer += (
            f". Of the gradient {both_text(lift)} times as much lies on an object as its area would have by chance"
        )
    metrics = ("removal_effect", "neighbour_effect")
    return _story(view, answer, metrics, "answers that stayed although the object was gone")


@figure("shortcut.artefacts")
def marks(view: View) -> Story:
    """What appears at a mark, and what vanishes."""
    levels = {kind: f"for {kind}" for kind in view.params.get("marks", ())}
    answer = _said(view, "appearance", "", levels, of="answers an image that appear where a mark is: ")
    return _story(view, answer, ("appearance", "suppression"), "found objects that vanished beside a mark")


@figure("shortcut.position")
def position(view: View) -> Story:
    """What the edge costs, and what hiding a part does."""
    edge = _said(view, "edge_loss", "vanish at the edge", {"edge": ""})
    levels = {f"{100 * share:g} %": f"with {100 * share:g} % hidden" for share in view.params.get("hidden", ())}
    hidden = _said(view, "hidden_loss", "vanish", levels)
    answer = "; ".join(part for part in (edge, hidden) if part)
    return _story(view, answer, ("edge_loss", "hidden_loss"), "found objects that vanished at the edge or half hidden")


@figure("shortcut.lookalikes")
def lookalikes(view: View) -> Story:
    """The groups of false detections, in pictures."""
    rows = view.rows()
    groups = grouped(rows, SimpleNamespace(**view.params), _seed(view)) if rows is not None else None
    if groups is None:
        return Story(view.lead(absence(view)))
    total, count = len(groups.rows), len(groups.central)
    shares, pixels = _main(view, ("group_share",)), groups.rows["layer"].iloc[0] == PIXELS
    if count == 1:
        told = "colours and contrasts do" if pixels else f"the layer {groups.rows['layer'].iloc[0]} does"
        answer = f"{plural(total, 'look-alike')} that {told} not tell apart"
    else:
        said = [f"{both_text(item)} in {item.level}" for item in shares]
        answer = f"{plural(total, 'look-alike')} in {count} groups: {listed(said, most=8)}"
    bad = view.get("bad_boxes")
    if bad is not None:
        answer += f"; {both_text(bad)} of all false detections overlap an object and are bad boxes, not shown here"
    drawn = []
    for place, members in enumerate(groups.central, start=1):
        tiles = [_mistake(groups.rows.iloc[index]) for index in members[:_NEAREST]]
        drawn.append((f"group {place}: {len(members)} of {total}", tiles))
    one = "that are alike in colour and contrast" if pixels else "to which a layer of the network answers alike"
    how = (
        f"Each row is one group of look-alikes {one}: its members nearest to the middle of the group, with their "
        "surroundings. What they are is for a person to say. The groups were found in these data, and nothing "
        f"says {'what the model saw in them' if pixels else 'why the layer answers alike'}."
    )
    alt = f"Look-alikes in groups: {listed([name for name, _ in drawn])}."
    return Story(view.lead(f"{answer}."), (Plot(picture_rows(drawn, alt), "", how),))


def _mistake(row: pd.Series) -> PictureTile:
    return PictureTile(str(row["case"]), pixels_of(row), None, None, (f"score {number(float(row['score']), 2)}",))


def _said(view: View, metric: str, verb: str, levels: Mapping[str, str], *, of: str = _OF) -> str:
    """The values at each level as a clause, "" without any."""
    known = [(both_text(item), levels[item.level]) for item in _main(view, (metric,)) if item.level in levels]
    if not known:
        return ""
    first, *rest = known
    parts = [" ".join(filter(None, (first[0], verb, first[1]))), *(f"{value} {name}".strip() for value, name in rest)]
    return f"beyond the sham, {of}{listed(parts, most=6)}"


def _main(view: View, metrics: Sequence[str]) -> list[Estimate]:
    """Values over all cases, in the order of the metrics."""
    held = [item for item in view.own() if item.value is not None and not item.stratum]
    return [item for metric in metrics for item in held if item.metric == metric]


def _story(view: View, answer: str, metrics: Sequence[str], telling: str) -> Story:
    known = _main(view, metrics)
    if not known or not answer:
        return Story(view.lead(absence(view)))
    answer = view.lead(f"{answer}.") + missing_note(view, metrics)
    plots = [_effects(view, known, metrics)]
    pictures = _pictures(view, telling)
    return Story(answer, (*plots, *([pictures] if pictures else [])), tuple(_tables(view, known)))


def _effects(view: View, known: Sequence[Estimate], metrics: Sequence[str]) -> Plot:
    decided = next((metric for metric in metrics if view.requirement(metric) is not None), metrics[0])
    requirement = view.requirement(decided)
    several = len({item.metric for item in known}) > 1
    rows: list[ForestRow] = []
    for metric in dict.fromkeys(item.metric for item in known):
        if several:
            rows.append(ForestRow(_HEADS[metric], heading=True))
        for item in (one for one in known if one.metric == metric):
            name = ", ".join(part for part in (factor_level(item.factor, item.level), item.target) if part)
            rows.append(ForestRow.of(item, label_text=name))
    alt = "Effects beyond the sham: " + listed([f"{_short(item)} {both_text(item)}" for item in known], most=10)
    title = "difference from the sham"
    single = requirement if not several else None
    return Plot(forest(rows, title=title, alt=f"{alt}.", requirement=single, zero=True), _claim(view, decided), _HOW)


def _short(item: Estimate) -> str:
    return ", ".join(part for part in (factor_level(item.factor, item.level), item.target) if part)


def _claim(view: View, metric: str) -> str:
    """The claim that the section's requirement allows; none where it is not settled."""
    requirement, verdict = view.requirement(metric), view.settled(metric)
    if requirement is None or verdict is None:
        return ""
    relation = "within" if verdict is Verdict.PASS else "beyond"
    return f"{capital(metric_name(metric))}: {relation} the bound of {requirement.bound:g}."


def _tables(view: View, known: Sequence[Estimate]) -> list[Table]:
    """Both flip rates and the confidence beside each effect; and what was left out."""
    rows = []
    for item in known:
        place = {"target": item.target, "factor": item.factor, "level": item.level}
        sham = {**place, "level": f"{item.level}, sham"}
        held = [view.get("flip_rate", **place), view.get("flip_rate", **sham), view.get("confidence_drop", **place)]
        if held[0] is not None and item.metric not in _APART:
            cells = (*(both_text(one) if one is not None else "" for one in (*held[:2], item, held[2])), str(item.n))
            rows.append((_short(item), *cells))
    found = []
    if rows:
        head = ("edit", "lost after the edit", "lost after the sham", "beyond the sham", "confidence drop", "trials")
        found.append(Table("What the edits and their shams do to objects that the model finds.", head, tuple(rows)))
    absent = [(item.level, number(item.value or 0.0, 0)) for item in view.own() if item.metric == "left_out"]
    if absent:
        found.append(Table("Edits that were not made.", ("reason", "how many"), tuple(absent)))
    return found


def _pictures(view: View, telling: str) -> Plot | None:
    rows = view.rows()
    held = rows[rows["picture"].notna()] if rows is not None else None
    if held is None or held.empty:
        return None
    cases = [str(case) for case in held["case"]]
    order = sorted(range(len(held)), key=lambda index: derive_seed(_seed(view), view.check, cases[index]))
    drawn = [_row(held.iloc[index]) for index in order[:_SHOWN]]
    threshold = (view.plan.get("model", {}).get("threshold") or {}).get("value")
    found = threshold is not None and view.plan["model"].get("task") == "detection"
    lost = f" Found = a box that fits, of a confidence of {threshold:g} or more; 0 = no box that fits." if found else ""
    alt = f"Telling objects, as they are, edited and in the sham: {listed([name for name, _ in drawn])}."
    how = (
        f"{plural(len(drawn), 'image')} of {len(held)} with {telling}, drawn at random: the surroundings of the object "
        f"as they are, in the edit, and in the sham.{lost}"
    )
    return Plot(picture_rows(drawn, alt, abreast=2), "", how)


def _seed(view: View) -> int:
    return int(view.plan.get("seed", 0))


def _row(row: pd.Series) -> tuple[str, list[PictureTile]]:
    panels = np.split(pixels_of(row), len(_PANELS))
    scores = (row["confidence"], row["confidence_edit"], row["confidence_sham"])
    tiles = [
        PictureTile(name, pixels, None, None, (f"confidence {number(float(score), 2)}",))
        for name, pixels, score in zip(_PANELS, panels, scores, strict=True)
    ]
    return f"{row['case']}, {row['object']}: {factor_level(row['factor'], row['level'])}", tiles
