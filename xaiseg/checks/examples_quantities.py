"""Quantities of the check explanation.examples: the nearest training cases of each case, and the worth of concepts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg.checks.base import Quantity
from xaiseg.checks.quantities import UNIT_RANGE, fact, missing
from xaiseg.explainers.neighbours import UNUSUAL, Index, Neighbours, index_of, nearest_of
from xaiseg.explainers.pooling import Place, Pooled, Row

if TYPE_CHECKING:
    import pandas as pd

#: A box is not kept for these rows, and is not needed for the search.
_NOWHERE: Final = (0, 0, 1, 1)


@dataclass(frozen=True, eq=False)
class Compared:
    """The audited cases beside the training cases.

    Attributes:
        references: rows of the training cases, indexed by id.
        queries: rows of the audited cases, indexed by id.
        found: audited case -> its neighbours.
        index: what was searched, or None where there was nothing.
        reason: why nothing was found; "" otherwise.
    """

    references: pd.DataFrame
    queries: pd.DataFrame
    found: Mapping[str, Neighbours]
    index: Index | None = None
    reason: str = ""


def compared(table: pd.DataFrame, *, k: int, metric: Any) -> Compared:
    """Searches the training cases that lie nearest to each audited case.

    Args:
        table: rows of the check.
        k: neighbours a case.
        metric: "cosine" or "euclidean".
    """
    good = table[table["status"] == "ok"]
    references = good[good["kind"] == "reference"].set_index("reference")
    queries = good[good["kind"] == "query"].set_index("case")
    layers = set(references["layer"]) | set(queries["layer"])
    reason = ""
    if references.empty or queries.empty:
        told = table.loc[(table["kind"] == "layer") & (table["status"] != "ok"), "reason"]
        whose = "no training case" if references.empty else "no audited case"
        reason = str(told.iloc[0]) if references.empty and len(told) else f"{whose} has a predicted region"
    elif len(layers) > 1:
        reason = f"the automatic choice gave several layers ({', '.join(sorted(layers))}); name one as `layer`"
    if reason:
        return Compared(references, queries, {}, reason=reason)
    place = Place(str(references["layer"].iloc[0]), int(references["run"].iloc[0]), "")
    index = index_of(_pooled(references, "train/", place), metric)
    near = nearest_of(_pooled(queries, "test/", place), index, k=k)
    return Compared(references, queries, dict(zip(queries.index, near, strict=True)), index)


def _pooled(rows: pd.DataFrame, prefix: str, place: Place) -> Pooled:
    """The prefix keeps a training case apart from an audited one that happens to have its name."""
    held = tuple(
        Row(f"{prefix}{name}", 0, _NOWHERE, digest, cluster if isinstance(cluster, str) else None)
        for name, digest, cluster in zip(rows.index, rows["digest"], rows["cluster"], strict=True)
    )
    return Pooled(np.stack(list(rows["vector"])).astype(np.float32), held, place)


def own_id(row: Row) -> str:
    """The id of a training case as its data set has it.

    >>> own_id(Row("train/a/b", 0, None, ""))
    'a/b'
    """
    return row.id.partition("/")[2]


def examples_quantities(table: pd.DataFrame, params: Any) -> Iterator[Quantity]:
    """Novelty, outcomes and labels of the neighbours, and what concepts are worth."""
    held = compared(table, k=params.k, metric=params.metric)
    if held.reason:
        yield from (missing(name, held.reason) for name in (*_NOTES, "no_similar_case", "novelty_and_dice"))
    else:
        yield from _of_neighbours(held, params.good_dice)
    yield from _of_concepts(table)


_NOTES: Final = {
    "novelty": "Share of training cases whose nearest other training case is no farther away than that of this case; "
    "about 0.5 where audited and training cases are alike, 1 where none of them is near.",
    "neighbour_dice": "Mean Dice of the nearest training cases, on which the model was trained.",
    "same_outcome": "Share of the nearest training cases whose Dice lies on the same side of the declared limit; the "
    "null floor is what training cases drawn at random would share.",
    "same_label": "Share of the nearest training cases whose predicted region mostly has the same class by the "
    "reference; the null floor is that of training cases drawn at random.",
}


def _of_neighbours(held: Compared, good_dice: float) -> Iterator[Quantity]:
    names = [name for name, near in held.found.items() if near.rows]
    cases = np.array(names, dtype=object)
    rows = [held.references.loc[[own_id(row) for row in held.found[name].rows]] for name in names]
    novelty = np.array([held.found[name].percentile for name in names])
    dice = held.queries.loc[names, "dice"].to_numpy(dtype=np.float64)
    yield Quantity("novelty", "mean", cases, novelty, bounds=UNIT_RANGE, floor=0.5, note=_NOTES["novelty"])
    unusual = np.where(np.isnan(novelty), np.nan, novelty >= UNUSUAL)
    note = f"Share of images with a novelty of {UNUSUAL:g} or more; {1 - UNUSUAL:.0%} of images like the training's."
    yield Quantity("no_similar_case", "proportion", cases, unusual, bounds=UNIT_RANGE, floor=1 - UNUSUAL, note=note)
    near = np.array([each["dice"].astype(float).mean() for each in rows])
    yield _mean("neighbour_dice", cases, near)
    own, every = (_outcome(each["dice"], good_dice) for each in (held.queries.loc[names], held.references))
    yield _shared("same_outcome", cases, own, [_outcome(each["dice"], good_dice) for each in rows], every)
    labels = held.queries.loc[names, "label"].to_numpy(dtype=object)
    every = held.references["label"].to_numpy(dtype=object)
    yield _shared("same_label", cases, labels, [each["label"].to_numpy(dtype=object) for each in rows], every)
    yield _ranked(cases, novelty, dice)


def _outcome(dice: pd.Series[float], good: float) -> np.ndarray:
    """Good, bad or None, as objects."""
    values = dice.to_numpy(dtype=np.float64)
    return np.array([None if np.isnan(value) else bool(value >= good) for value in values], dtype=object)


def _mean(metric: str, cases: np.ndarray, values: np.ndarray, floor: float | None = None) -> Quantity:
    known = np.isfinite(values)
    if not known.any():
        return missing(metric, "no reference annotation")
    return Quantity(metric, "mean", cases[known], values[known], bounds=UNIT_RANGE, floor=floor, note=_NOTES[metric])


def _shared(metric: str, cases: np.ndarray, own: np.ndarray, near: list[np.ndarray], every: np.ndarray) -> Quantity:
    """Mean share of the neighbours that are like the case, and of all training cases as the floor."""
    values = np.array([_alike(one, others) for one, others in zip(own, near, strict=True)])
    chance = np.array([_alike(one, every) for one in own])
    known = chance[np.isfinite(values) & np.isfinite(chance)]
    return _mean(metric, cases, values, float(known.mean()) if len(known) else None)


def _alike(one: Any, others: np.ndarray) -> float:
    known = [other == one for other in others if other is not None and other == other]
    return float(np.mean(known)) if known and one is not None and one == one else float("nan")


def _ranked(cases: np.ndarray, novelty: np.ndarray, dice: np.ndarray) -> Quantity:
    """Rank correlation of novelty and Dice, as sums from which any resample of cases gives it."""
    from scipy.stats import rankdata

    known = np.isfinite(novelty) & np.isfinite(dice)
    if known.sum() < 3 or np.ptp(novelty[known]) == 0 or np.ptp(dice[known]) == 0:
        return missing("novelty_and_dice", "novelty or Dice does not vary")
    x, y = (rankdata(each[known]) / known.sum() - 0.5 for each in (novelty, dice))
    sums = np.stack([np.ones(len(x)), x, y, x * y, x * x, y * y], axis=1)
    note = "Rank correlation of an image's novelty with its Dice; below 0 = what is unlike the training cases fails."
    return Quantity(
        "novelty_and_dice", "statistic", cases[known], sums, function=correlation, bounds=(-1.0, 1.0), note=note
    )


def correlation(sums: np.ndarray) -> float:
    """Pearson's correlation from the sums of 1, x, y, x y, x x and y y; NaN where one does not vary.

    >>> correlation(np.array([2.0, 3.0, 5.0, 8.0, 5.0, 13.0]))
    1.0
    """
    n, x, y, xy, xx, yy = sums
    if n < 2:
        return float("nan")
    spread = (xx - x * x / n) * (yy - y * y / n)
    return float((xy - x * y / n) / np.sqrt(spread)) if spread > 1e-12 else float("nan")


def _of_concepts(table: pd.DataFrame) -> Iterator[Quantity]:
    """Facts about one set of training cases: they have no interval for other ones."""
    good = table[table["status"] == "ok"]
    for _, row in good[good["kind"] == "layer"].iterrows():
        unit, many = "logit", len(row["scores"])
        told = f"Mean over {many} training cases of the fall of the score (mean logit over the predicted region)"
        yield fact("concepts_error", row["error"], note="Share of the activations that the concepts do not hold.")
        yield fact("concepts_drop", float(np.mean(row["drops"])), unit=unit, note=f"{told} without all concepts.")
        yield fact("residual_drop", float(np.mean(row["residual"])), unit=unit, note=f"{told} without the rest.")
        yield fact("concepts_score", float(np.mean(row["scores"])), unit=unit, note=f"Mean score of {many} cases.")
    for _, row in good[good["kind"] == "concept"].iterrows():
        name = row["target"]
        note = "Fall of the score without the concept; mean over training cases."
        yield fact("concept_drop", float(np.mean(row["drops"])), unit="logit", target=name, note=note)
        yield fact("concept_share", row["share"], target=name, note="Share of the summed amounts of all concepts.")
        note = "Mean cosine with the matching concept of other random starts; below 0.9 it is named unstable."
        yield fact("concept_stability", row["stability"], target=name, note=note)
