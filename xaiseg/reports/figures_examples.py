"""What is this case like? The nearest training cases as pictures, and the concepts of the layer with their worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg.checks.examples_quantities import Compared, compared, own_id
from xaiseg.estimate import Estimate
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure
from xaiseg.reports.numbers import both_text, number
from xaiseg.reports.readouts import PictureTile, picture_rows
from xaiseg.reports.words import plural
from xaiseg.seeds import derive_seed

if TYPE_CHECKING:
    import pandas as pd

#: Cases whose neighbours are drawn: the most unusual ones, and some at random to judge them against the usual.
_UNUSUAL: Final = 2
_RANDOM: Final = 2
_SHOWN: Final = 5

#: Rows of the table of neighbours: metric, words, what its null floor is.
_NUMBERS: Final = (
    ("no_similar_case", "images without a similar training case", "if they were like the training cases"),
    ("novelty", "novelty: share of training cases with a nearer neighbour than the image", "if they were like them"),
    ("same_label", "nearest training cases with the same class by the reference", "training cases at random"),
    ("same_outcome", "nearest training cases with an outcome as good or bad", "training cases at random"),
    ("neighbour_dice", "mean Dice of the nearest training cases", ""),
    ("novelty_and_dice", "rank correlation of novelty and Dice", ""),
)
_NOT_WHY: Final = (
    "Near means that the layer answers alike. It does not mean that the cases are alike to a physician, nor that a "
    "near case is why the model answers so."
)


@figure("explanation.examples")
def explanation_examples(view: View) -> Story:
    """Neighbours of unusual and of random cases, concepts with their strongest places, and both in numbers."""
    if not view.run.has_table(view.check):
        return Story(view.lead(absence(view)))
    table = view.run.table(view.check)
    held = compared(table, k=int(view.params["k"]), metric=view.params["metric"])
    good = table[table["status"] == "ok"]
    plots = [each for each in (_neighbours(view, held), _concept_pictures(view, good)) if each]
    tables = [each for each in (_numbers(view, held), _concepts(good)) if each.rows]
    if not plots and not tables:
        return Story(view.lead(absence(view)))
    return Story(view.lead(_answer(view, held, good)), tuple(plots), tuple(tables))


def _answer(view: View, held: Compared, rows: pd.DataFrame) -> str:
    said = []
    unusual = view.get("no_similar_case")
    if unusual is not None:
        expected = "about 5 % of images like the training's would"
        said.append(
            f"{both_text(unusual)} of {plural(unusual.n, 'image')} have no similar case among "
            f"{plural(len(held.references), 'training case')} ({expected})."
        )
    elif held.reason:
        said.append(f"no neighbours: {held.reason}.")
    layer = rows[rows["kind"] == "layer"]
    if len(layer):
        row = layer.iloc[0]
        count = int((rows["kind"] == "concept").sum())
        fall, score = float(np.mean(row["drops"])), float(np.mean(row["scores"]))
        said.append(
            f"Taking all {count} concepts of the layer {row['layer']} away lowers the score of training cases by "
            f"{number(fall, 2)} of {number(score, 2)} logits on average."
        )
    return " ".join(said)


def _neighbours(view: View, held: Compared) -> Plot | None:
    cases = _chosen(view, held)
    if not cases:
        return None
    rows: list[tuple[str, Sequence[PictureTile]]] = []
    for case, why in cases:
        near, query = held.found[case], held.queries.loc[[case]].iloc[0]
        tiles = [_tile(f"{case}", query, _facts(query))]
        for row, distance in list(zip(near.rows, near.distances, strict=True))[:_SHOWN]:
            name = own_id(row)
            other = held.references.loc[[name]].iloc[0]
            tiles.append(_tile(name, other, (f"distance {number(distance, 4)}", *_facts(other)[:1])))
        novelty = f"novelty {number(near.percentile, 2)}" if np.isfinite(near.percentile) else "novelty unknown"
        rows.append((f"{case}: {why}, {novelty}", tiles))
    how = (
        "The first picture of a row is the audited image with the predicted outline, the others are the training cases "
        f"that the layer {held.index.place.layer if held.index else ''} answers to most alike, nearest first, with "
        f"what the model predicts there. {_NOT_WHY}"
    )
    alt = f"Nearest training cases of {plural(len(rows), 'image')}: {'; '.join(heading for heading, _ in rows)}."
    return Plot(picture_rows(rows, alt), "", how)


def _chosen(view: View, held: Compared) -> list[tuple[str, str]]:
    """The most unusual cases, then some of the others at random."""
    known = [case for case, near in held.found.items() if near.rows]
    ordered = sorted(known, key=lambda case: (-np.nan_to_num(held.found[case].percentile), case))
    first, rest = ordered[:_UNUSUAL], ordered[_UNUSUAL:]
    seed = int(view.plan.get("seed", 0))
    drawn = sorted(rest, key=lambda case: derive_seed(seed, "examples in the report", case))[:_RANDOM]
    return [*((case, "among the most unusual") for case in first), *((case, "drawn at random") for case in drawn)]


def _tile(title: str, row: pd.Series, below: tuple[str, ...], box: Any = None) -> PictureTile:
    width = int(row["picture_width"])
    pixels, region = (np.asarray(row[name], dtype=np.uint8).reshape(-1, width) for name in ("picture", "region"))
    # Masks of the report are class indices, in which 255 means "ignore".
    return PictureTile(title, pixels, (region > 127).astype(np.uint8), box, below)


def _facts(row: pd.Series) -> tuple[str, ...]:
    dice = row["dice"]
    label = row["label"] if isinstance(row["label"], str) else "no reference"
    return (f"Dice {number(float(dice), 2)}" if np.isfinite(dice) else label, f"reference: {label}")


def _concept_pictures(view: View, rows: pd.DataFrame) -> Plot | None:
    shown = rows[rows["kind"] == "exemplar"]
    drawn: list[tuple[str, Sequence[PictureTile]]] = []
    for _, concept in rows[rows["kind"] == "concept"].iterrows():
        own = shown[shown["target"] == concept["target"]].sort_values("level")
        tiles = [
            _tile(str(row["reference"]), row, (f"amount {number(float(row['share']), 2)}",), tuple(row["box"]))
            for _, row in own.iterrows()
        ]
        fall = number(float(np.mean(concept["drops"])), 3)
        doubt = ", unstable" if concept["stability"] < 0.9 else ""
        if tiles:
            drawn.append((f"{concept['target']}: without it the score falls by {fall} logit{doubt}", tiles))
    if not drawn:
        return None
    how = (
        "Each row is a direction of the layer, with the places in training cases (yellow boxes) where it is strongest. "
        "A direction has no name: you give it one, or none. The fall of the score says whether the model uses it; "
        "it was taken away from the layer, not from the image. Blue is the predicted outline."
    )
    alt = f"Where {plural(len(drawn), 'concept')} of the layer are strongest: {'; '.join(head for head, _ in drawn)}."
    return Plot(picture_rows(drawn, alt), "", how)


def _numbers(view: View, held: Compared) -> Table:
    rows = []
    for metric, words, floor in _NUMBERS:
        item = view.get(metric)
        if item is not None:
            rows.append((words, both_text(item, level=False), _floor(item, floor)))
    caption = "The audited images among the training cases, with 90 % intervals, and what would be expected"
    return Table(caption, ("", "value", "expected"), tuple(rows))


def _floor(item: Estimate, words: str) -> str:
    if item.floor is None:
        return ""
    share = f"{number(100 * item.floor, 0)} %" if item.kind == "proportion" else number(item.floor, 2)
    return f"{share} {words}".strip()


def _concepts(rows: pd.DataFrame) -> Table:
    found = []
    for _, row in rows[rows["kind"] == "concept"].iterrows():
        stable = number(float(row["stability"]), 2) + (" (unstable)" if row["stability"] < 0.9 else "")
        found.append((row["target"], f"{number(100 * float(row['share']), 0)} %", stable, _spread(row["drops"])))
    layer = rows[rows["kind"] == "layer"]
    for _, row in layer.iterrows():
        found.append(("all of them", "100 %", "", _spread(row["drops"])))
        found.append((f"the rest ({number(100 * float(row['error']), 0)} % of the activations)", "", "",
                      _spread(row["residual"])))  # fmt: skip
    many = len(layer.iloc[0]["scores"]) if len(layer) else 0
    caption = (
        "Concepts of the layer: share of the summed amounts; stability, the mean cosine with the same concept from "
        "other random starts; fall of the score without it, in logits, as mean (lowest to highest) over "
        f"{plural(many, 'training case')}"
    )
    return Table(caption, ("", "share", "stability", "fall of the score"), tuple(found))


def _spread(drops: Any) -> str:
    values = np.asarray(drops, dtype=np.float64)
    return f"{number(values.mean(), 3)} ({number(values.min(), 3)} to {number(values.max(), 3)})"
