"""Does another build still explain itself the same? Its maps against the noise ceiling, and the worst of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.checks.equivalence_explanation import AUDITED, ID
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure
from xaiseg.reports.figures_equivalence import COLUMNS, builds
from xaiseg.reports.forest import ForestRow, forest
from xaiseg.reports.numbers import bound_text, number, value_text
from xaiseg.reports.palette import LOOKS, Look
from xaiseg.reports.readouts import MapRow, Tile, map_rows
from xaiseg.reports.words import listed

if TYPE_CHECKING:
    from xaiseg.estimate import Estimate
    from xaiseg.run import EvidenceItem

#: Measures of the table, and what they are called there; the ceiling of each stands beside it.
ROWS: Final = (
    ("spearman", "rank correlation ↑"),
    ("ssim", "structural similarity (SSIM) ↑"),
    ("top5_iou", "overlap of the highest 5 % ↑"),
    ("top10_iou", "overlap of the highest 10 % ↑"),
    ("peak_distance", "distance of the peaks, share of the diagonal ↓"),
    ("pointing_agreement", "both or neither point into the region ↑"),
)
#: Area over the deletion curve of each build's own map; the audited build's stands in the column of the ceiling.
OWN: Final = (("deletion", "own map, deletion, all pixels"), ("deletion_context", "own map, deletion, context"))
REPEAT: Final = "audited, again"
#: A rank correlation of a map with itself may fall short of 1 by this.
ROUNDING: Final = 1e-6
#: What a picture of maps shows at most, so that maps stay large enough to be read.
MOST_TILES: Final = 5


@figure(ID)
def equivalence_of_maps(view: View) -> Story:
    """Agreement beside its ceiling, the change of each own map's deletion score, the worst maps, and a table."""
    names = builds(view)
    methods = [name for name in view.params.get("methods", ()) if view.get("spearman_ceiling", target=name)]
    if not names or not methods:
        return Story(view.lead(absence(view)))
    plots = [_agreement(view, method, names) for method in methods] + [_deletion(view, methods, names)]
    maps = _maps(view, methods, names)
    tables = tuple(table for method in methods for table in _overview(view, method, names))
    return Story(view.lead(_answer(view, methods, names)), (*plots, *((maps,) if maps else ())), tables)


def _answer(view: View, methods: Sequence[str], names: Sequence[str]) -> str:
    """Agreement of every build beside that of the audited build with its own repeat, method by method."""
    said = []
    for method in methods:
        items = [(name, view.get("spearman", target=method, subject=name)) for name in names]
        ceiling = view.get("spearman_ceiling", target=method)
        shown = listed([f"{name} {value_text(item)}" for name, item in items if item], most=len(items))
        if ceiling is not None and shown:
            beside = f"the audited build with other masks {value_text(ceiling)}"
            beside = beside if _draws(view, method) else "it draws no masks, so its ceiling is 1"
            said.append(f"{method}: {shown}; {beside}")
    n = max((item.n for item in view.own() if item.metric == "spearman_ceiling"), default=0)
    return ". By ".join([f"rank agreement with the audited build's maps ({n} images)", *said]) + "."


def _draws(view: View, method: str) -> bool:
    """Whether a repeat with other masks gave another map anywhere."""
    ceiling = view.get("spearman_ceiling", target=method)
    return ceiling is not None and ceiling.value is not None and ceiling.value < 1.0 - ROUNDING


def _agreement(view: View, method: str, names: Sequence[str]) -> Plot:
    required = view.requirement("spearman_to_ceiling", target=method)
    rows = _rows(view, "spearman_to_ceiling", method, names)
    how = "0 = the build's map lies as far from the audited one as the audited build's own map with other masks does; "
    how += "right of it, nearer. "
    if not _draws(view, method):
        how = "This method draws no masks, so that a repeat is the same and its ceiling 1: no image lies right of 0. "
    if required is not None:
        how += f"Required: {bound_text(required, 'mean')}. "
    how += "Bars are 90 % intervals, with room for images that were not drawn."
    title = f"{method}: rank correlation with the audited build's map, minus the noise ceiling"
    alt = f"Agreement of {method} minus its noise ceiling: {_spoken(rows)}."
    return Plot(forest(rows, title=title, alt=alt, requirement=required, zero=True), "", how)


def _deletion(view: View, methods: Sequence[str], names: Sequence[str]) -> Plot:
    rows: list[ForestRow] = []
    for method in methods:
        rows += [ForestRow(method, heading=True), *_rows(view, "deletion_change", method, names)]
    held = [view.requirement("deletion_change", target=method) for method in methods]
    required = held[0] if all(held) else None
    shown = _spoken([row for row in rows if not row.heading])
    how = "Every build's own map is tested on the build itself: how much its score falls while pixels are hidden, most "
    how += "important first. Left of 0 the build's map fits the build less than the audited map fits the audited build."
    bounds = [f"{method} {bound_text(each, 'mean')}" for method, each in zip(methods, held, strict=True) if each]
    how += f" Required: {listed(bounds, most=len(bounds))}." if bounds else ""
    title = "area over the deletion curve, build minus audited build"
    picture = forest(rows, title=title, alt=f"Change of the deletion score: {shown}.", requirement=required, zero=True)
    return Plot(picture, "", how)


def _spoken(rows: Sequence[ForestRow]) -> str:
    """Every row in words: none is left to the eye alone."""
    return listed([f"{row.label} {row.right}" for row in rows], most=len(rows))


def _rows(view: View, metric: str, method: str, names: Sequence[str]) -> list[ForestRow]:
    found = [(name, view.get(metric, target=method, subject=name)) for name in names]
    return [
        ForestRow.of(item, label_text=name, look=_look(view, metric, method, name))
        for name, item in found
        if item is not None
    ]


def _look(view: View, metric: str, method: str, name: str) -> Look | None:
    """The mark of the verdict on this build's maps, where something is required of them."""
    for finding in view.findings:
        wanted = finding.requirement
        if (wanted.metric, wanted.subject) == (metric, name) and wanted.target in ("", method):
            return LOOKS[finding.verdict]
    return None


def _overview(view: View, method: str, names: Sequence[str]) -> tuple[Table, ...]:
    """Measures by builds, the audited build's repeat first; wide ones are divided."""
    caption = f"{method}: likeness to the audited build's map, and the deletion score of each build's own map, means "
    caption += f"over images; intervals stand in the details. “{REPEAT}” is its map with other masks, the noise "
    caption += "ceiling. ↑ higher is more alike, ↓ lower"
    found = []
    for start in range(0, len(names), COLUMNS):
        part = names[start : start + COLUMNS]
        rows = []
        for metric, words in (*ROWS, *OWN):
            own = metric if (metric, words) in OWN else f"{metric}_ceiling"
            items = [view.get(own, target=method), *(view.get(metric, target=method, subject=name) for name in part)]
            if any(items):
                rows.append((words, *map(_cell, items)))
        found.append(Table(caption, ("measure", REPEAT, *part), tuple(rows)))
    return tuple(found)


def _cell(item: Estimate | None) -> str:
    if item is None or item.value is None:
        return "none"
    return f"{number(100 * item.value, 0)} %" if item.kind == "proportion" else number(item.value, 2)


def _maps(view: View, methods: Sequence[str], names: Sequence[str]) -> Plot | None:
    """The audited map beside every build's: the worst case, and one drawn at random to judge it against."""
    drawn, said = [], []
    for words, item in _chosen(view):
        for method in methods:
            tiles = [
                Tile(name, values.astype(np.float32), 0.0, 0.0, signed=True)
                for name in (AUDITED, *names)
                if (values := item.arrays.get(f"map:{method}: {name}")) is not None
            ]
            if tiles:
                image, prediction = item.arrays["image"], item.arrays.get("prediction")
                drawn.append(MapRow(method, image, prediction, tuple(tiles[:MOST_TILES])))
        said.append(f"{words} ({item.case})")
    if not drawn:
        return None
    how = (
        f"From above: {'; then '.join(said)}. The outline is the audited build's prediction, whose region is explained "
    )
    how += "for every build. Orange speaks for it, blue against it; each map has its own scale, printed below it."
    return Plot(map_rows(drawn), "", how)


def _chosen(view: View) -> list[tuple[str, EvidenceItem]]:
    """The case with the lowest agreement below its ceiling, and the first of those drawn at random, where kept."""
    held = [item for item in view.run.evidence() if _has_maps(item)]
    if not held:
        return []
    worst = min(held, key=lambda item: (item.scores.get(view.check, math.inf), item.case))
    found = [("the case that agrees least", worst)]
    others = sorted((item for item in held if item is not worst and "random" in item.kind), key=lambda item: item.draw)
    return found + [("one drawn at random", item) for item in others[:1]]


def _has_maps(item: EvidenceItem) -> bool:
    return "image" in item.arrays and any(name.endswith(f": {AUDITED}") for name in item.arrays)
