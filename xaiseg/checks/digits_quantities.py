"""The figures of ``equivalence.digits``: the curve over digits left out, and what the search recommends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from xaiseg.checks.base import Quantity
from xaiseg.checks.quantities import UNIT_RANGE, fact, missing

if TYPE_CHECKING:
    import pandas as pd

Way = Literal["higher", "lower", ""]

#: Level of the state that the search recommends; the others are numbers of digits.
RECOMMENDED: Final = "recommended"


def digit_quantities(rows: pd.DataFrame, names: Sequence[str]) -> Iterator[Quantity]:
    """All quantities.

    Args:
        rows: of the check, of variants, status "ok".
        names: variants that have any row, in the order of model.yaml.
    """
    if not names:
        yield missing("dice_change", "no variant runs on digit-serial units (hardware: msdf)")
    for name in names:
        own = rows[rows["subject"] == name]
        cases = own[own["factor"] == "fewer"]
        if cases.empty:
            yield replace(missing("dice_change", "no image gave an answer"), subject=name)
            continue
        for level in levels_of(cases):
            yield from _level(cases[cases["level"] == level], level, name)
        yield from _recommended(own, name)


def levels_of(cases: pd.DataFrame) -> list[str]:
    """Numbers of digits in order, then the recommended state."""
    return sorted(set(cases["level"]), key=lambda level: (level == RECOMMENDED, level.zfill(3)))


def _level(held: pd.DataFrame, level: str, name: str) -> Iterator[Quantity]:
    words = "the recommended digits" if level == RECOMMENDED else f"{level} fewer in every convolution that rounds"
    shares = held["flips"].to_numpy(dtype=np.float64) / np.maximum(held["pixels"].to_numpy(dtype=np.float64), 1.0)
    measured: tuple[tuple[str, Any, Way, float | None, tuple[float, float] | None, str], ...] = (
        ("dice_change", held["dice_variant"] - held["dice"], "", -1.0, (-1.0, 1.0), "Dice, minus the audited model's"),
        ("agreement", held["agreement"], "higher", 0.0, UNIT_RANGE, "Dice of the prediction and the audited model's"),
        ("flips", shares, "lower", 1.0, UNIT_RANGE, "Share of the pixels that change sides"),
        ("ece_change", held["ece_variant"] - held["ece"], "", 1.0, (-1.0, 1.0), "Calibration error, minus the model's"),
        ("digits", held["digits"], "lower", None, None, "Digits that a unit emits for one value, mean of all"),
    )
    for metric, column, better, worst, bounds, note in measured:
        values = np.asarray(column, dtype=np.float64)
        known = np.isfinite(values)
        if not known.any():
            why = "no image has what it needs: a reference mask, scores or an outline"
            yield replace(missing(metric, why, factor="fewer", level=level), subject=name)
            continue
        yield Quantity(
            metric, "mean", held["case"].to_numpy(dtype=object)[known], values[known], better=better, worst=worst,
            bounds=bounds, factor="fewer", level=level, subject=name, note=f"{note}; {words}.",
        )  # fmt: skip


def _recommended(own: pd.DataFrame, name: str) -> Iterator[Quantity]:
    layers = own[own["place"].notna()].sort_values("place")
    if layers.empty:
        return
    shorter = layers[layers["left_out"] > 0]
    note = f"Of {len(layers)} convolutions that round: those for which the search recommends fewer digits."
    yield replace(fact("layers_with_fewer_digits", len(shorter), of="layer", note=note), subject=name)
    for path, count in zip(shorter["target"], shorter["left_out"], strict=True):
        note = "Digits that the search recommends to leave out."
        yield replace(fact("fewer_digits", float(count), of="layer", target=str(path), note=note), subject=name)
