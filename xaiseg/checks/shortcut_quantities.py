"""Effects of edits: always the difference between an edit and its sham, within one object of one image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from xaiseg.checks.base import Quantity, Tables
from xaiseg.checks.quantities import UNIT_RANGE, fact, failed_cases, missing, reference_rows

if TYPE_CHECKING:
    import pandas as pd

#: A difference of two shares.
DIFFERENCE: Final = (-1.0, 1.0)
NOTHING: Final = "no object that the model finds could be edited so"
#: Of the drops of one object under several edits; with six of them the second smallest.
PERSISTENT: Final = 0.2
_PAIRED: Final = "edit minus sham, within one object"


def held_rows(tables: Tables, check: str) -> tuple[pd.DataFrame, bool]:
    """Rows with an answer, sorted by case and object, and whether any image failed."""
    table = tables.rows[check]
    rows = reference_rows(table).sort_values(["case", "object"], kind="stable")
    return rows, bool(failed_cases(table))


def left_out(tables: Tables, check: str) -> Iterator[Quantity]:
    """How many edits found no room or nothing to edit, reason by reason: nothing is dropped in silence."""
    table = tables.rows[check]
    absent = table[(table["status"] == "not_applicable") & (table["subject"] == "reference")]
    for reason, rows in absent.groupby("reason", sort=True):
        yield fact("left_out", len(rows), of="edit", level=str(reason), note="edits that were not made")


def reason_of(tables: Tables, check: str, level: str) -> str:
    """Why no object was edited so, where every image gives the same reason."""
    table = tables.rows[check]
    absent = table[(table["status"] == "not_applicable") & (table["level"] == level)]
    reasons = set(absent["reason"])
    return str(reasons.pop()) if len(reasons) == 1 else NOTHING


def objects(rows: pd.DataFrame, factor: str, level: str) -> pd.DataFrame:
    """The rows of objects under one edit."""
    return rows[(rows["factor"] == factor) & (rows["level"] == level) & (rows["object"] != "")]


def lost(rows: pd.DataFrame) -> np.ndarray:
    """(n,) float64 in {-1, 0, 1}: lost after the edit minus lost after its sham."""
    return np.asarray(rows["lost_edit"].to_numpy(dtype=np.float64) - rows["lost_sham"].to_numpy(dtype=np.float64))


def drop(rows: pd.DataFrame) -> np.ndarray:
    """(n,) float64: confidence after the sham minus confidence after the edit."""
    sham, edit = (rows[f"confidence_{name}"].to_numpy(dtype=np.float64) for name in ("sham", "edit"))
    return np.asarray(sham - edit)


def relative_drop(rows: pd.DataFrame) -> np.ndarray:
    """(n,) float64 in [-1, 1]: what :func:`drop` is of the confidence in the image as it is.

    Only objects that are found have such rows, so that their confidence is above 0.
    """
    clean = rows["confidence"].to_numpy(dtype=np.float64)
    return np.asarray(np.clip(drop(rows) / np.maximum(clean, np.finfo(np.float64).tiny), *DIFFERENCE))


def effects(
    rows: pd.DataFrame,
    failed: bool,
    metric: str,
    *,
    factor: str,
    level: str,
    better: Literal["higher", "lower", ""],
    note: str,
    worst: float | None,
    absent: str = NOTHING,
) -> Iterator[Quantity]:
    """What an edit does to objects: lost more often, less confident, and both flip rates for reading.

    Args:
        rows: rows of objects under this edit.
        failed: whether any image failed; then the effect has a value even without rows.
        metric: name of the effect on being found.
        factor: of the quantities.
        level: of the quantities.
        better: which direction of the effect is good.
        note: what the edit is.
        worst: what a failed image counts as.
        absent: why there are no rows, if there are none.

    Yields:
        For all objects together, then for each class where several have objects.
    """
    for target, held in _by_class(rows):
        yield from _effects(held, failed, metric, factor, level, target, better, note, worst, absent)


def _by_class(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """All objects together, then those of each class where several have objects."""
    classes = sorted(set(rows["target"]))
    for target in ("", *classes) if len(classes) > 1 else ("",):
        yield target, rows[rows["target"] == target] if target else rows


def _effects(
    rows: pd.DataFrame,
    failed: bool,
    metric: str,
    factor: str,
    level: str,
    target: str,
    better: Literal["higher", "lower", ""],
    note: str,
    worst: float | None,
    absent: str,
) -> Iterator[Quantity]:
    cases = rows["case"].to_numpy(dtype=object)
    if not len(cases) and not (failed and worst is not None):
        for name in (metric, "relative_confidence_drop", "confidence_drop"):
            yield missing(name, absent, factor=factor, level=level)
        return
    yield Quantity(
        metric, "mean", cases, lost(rows), better=better, of="object", worst=worst, factor=factor, level=level,
        weigh="case", bounds=DIFFERENCE, target=target, strata=True,
        note=f"{note}; share of the found objects that were edited, at most a few an image, that are lost, {_PAIRED}",
    )  # fmt: skip
    yield Quantity(
        "relative_confidence_drop", "mean", cases, relative_drop(rows), better=better, of="object", worst=worst,
        factor=factor, level=level, weigh="case", bounds=DIFFERENCE, target=target,
        note=f"{note}; share of the confidence in the edited objects that is lost, {_PAIRED}",
    )  # fmt: skip
    yield Quantity(
        "confidence_drop", "mean", cases, drop(rows), of="object", factor=factor, level=level, weigh="case",
        bounds=DIFFERENCE, target=target, note=f"{note}; confidence after the sham minus after the edit",
    )  # fmt: skip
    for column, name in (("lost_edit", level), ("lost_sham", f"{level}, sham")):
        yield Quantity(
            "flip_rate", "proportion", cases, rows[column].to_numpy(dtype=np.float64), of="object", factor=factor,
            level=name, weigh="case", bounds=UNIT_RANGE, target=target,
            note=f"{note}; share of the edited objects that are lost, unpaired",
        )  # fmt: skip


def persistent_drops(
    rows: pd.DataFrame, failed: bool, edits: int, *, factor: str, level: str, note: str, absent: str
) -> Iterator[Quantity]:
    """What most of several edits take from an object: the :data:`PERSISTENT` quantile of its :func:`relative_drop`.

    An edit that happens to hide an object costs any model confidence, but few edits do; what a model owes to something
    that all of them take away is lost nearly each time.

    Args:
        rows: rows of objects, one an edit.
        failed: whether any image failed; it counts as 1.
        edits: how many an object must have seen; of fewer the quantile is another number, and it is left out.
        factor: of the quantities.
        level: of the quantities.
        note: what the edits are.
        absent: why there are no rows, if there are none.

    Yields:
        One value an object; for all objects together, then for each class where several have objects.
    """
    for target, held in _by_class(rows):
        shares = held[["case", "object"]].assign(share=relative_drop(held))
        each = shares.groupby(["case", "object"], sort=True)["share"]
        kept = each.quantile(PERSISTENT)[each.size() >= edits]
        if not len(kept) and not failed:
            yield missing("persistent_confidence_drop", absent, target=target, factor=factor, level=level)
            continue
        yield Quantity(
            "persistent_confidence_drop", "mean", kept.index.get_level_values("case").to_numpy(dtype=object),
            kept.to_numpy(dtype=np.float64), better="lower", of="object", worst=1.0, factor=factor, level=level,
            weigh="case", bounds=DIFFERENCE, target=target,
            note=f"{note}; share of the confidence that four of five of them take away at least, {_PAIRED}",
        )  # fmt: skip


def change(
    rows: pd.DataFrame,
    metric: str,
    column: str,
    *,
    factor: str,
    level: str,
    note: str,
    better: Literal["lower", ""] = "",
    bounds: tuple[float, float] | None = None,
    worst: float | None = None,
    unit: str = "",
) -> Quantity:
    """The mean over images of ``<column>_edit`` minus ``<column>_sham``."""
    values = rows[f"{column}_edit"].to_numpy(dtype=np.float64) - rows[f"{column}_sham"].to_numpy(dtype=np.float64)
    return Quantity(
        metric, "mean", rows["case"].to_numpy(dtype=object), values, better=better, factor=factor, level=level,
        weigh="case", bounds=bounds, worst=worst, unit=unit, note=note,
    )  # fmt: skip
