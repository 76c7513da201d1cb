"""The figures of one build beside the audited one: paired changes, shares that flip, lesions that come and go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg.checks.base import Quantity
from xaiseg.checks.quantities import UNIT_RANGE, case_means, failed_cases, missing

if TYPE_CHECKING:
    import pandas as pd

#: Column -> (unit, what it is).
_SCORES: Final = {
    "nll": ("nat", "negative log-likelihood of the pixels"),
    "brier": ("", "Brier score of the pixels"),
    "ece": ("", "calibration error, image by image"),
}


def paired_quantities(rows: pd.DataFrame, variant: str, params: Any, *, classes: int) -> Iterator[Quantity]:
    """All quantities of one variant.

    Args:
        rows: of the check ``equivalence.segmentation``: the variant's, and failed cases.
        variant: its name.
        params: of that check.
        classes: number of classes, the background among them.
    """
    found = rows[rows["status"] == "ok"]
    whole = found["object"] == ""
    pixels, masks = found[whole & (found["target"] == "")], found[whole & (found["target"] != "")]
    yield from _dice(masks, variant, params)
    yield from _borders(masks, variant)
    yield from _flips(pixels, variant)
    yield from _safe(pixels, variant)
    yield from _lesions(found[~whole], failed_cases(rows), variant, params)
    # The Brier score of all classes reaches 2, that of a foreground alone 1.
    yield from _calibration(pixels, variant, {"nll": None, "brier": 1.0 if classes == 2 else 2.0, "ece": 1.0})


def _none(metric: str, why: str, variant: str) -> Quantity:
    return replace(missing(metric, why), subject=variant)


def _dice(classes: pd.DataFrame, variant: str, params: Any) -> Iterator[Quantity]:
    change = classes["dice_variant"] - classes["dice"]
    cases, values = case_means(classes.assign(change=change), "change")
    if values.size:
        yield Quantity(
            "dice_change", "mean", cases, values, worst=-1.0, strata=True, bounds=(-1.0, 1.0), subject=variant,
            note="Dice of the variant minus Dice of the audited build, image by image.",
        )  # fmt: skip
        largest = classes.assign(change=change.abs()).groupby("case", sort=True)["change"].max().dropna()
        yield Quantity(
            "large_dice_changes", "proportion", largest.index.to_numpy(dtype=object),
            (largest.to_numpy(dtype=np.float64) > params.large).astype(np.float64), better="lower", worst=1.0,
            strata=True, bounds=UNIT_RANGE, subject=variant,
            note=f"Images whose Dice moves by more than {params.large:g}, either way.",
        )  # fmt: skip
    else:
        why = "no image has a reference mask and a prediction"
        yield from (_none(metric, why, variant) for metric in ("dice_change", "large_dice_changes"))
    cases, values = case_means(classes, "agreement")
    yield Quantity(
        "agreement", "mean", cases, values, better="higher", worst=0.0, bounds=UNIT_RANGE, subject=variant, strata=True,
        note="Dice of the two predictions; images that both leave empty are left out.",
    )  # fmt: skip


def _borders(classes: pd.DataFrame, variant: str) -> Iterator[Quantity]:
    largest = float(classes["diagonal"].max()) if len(classes) else 0.0
    cases, values = case_means(classes.assign(change=classes["hd95_variant"] - classes["hd95"]), "change")
    if values.size:
        yield Quantity(
            "hd95_change", "mean", cases, values, unit="px", worst=largest, bounds=(-largest, largest), subject=variant,
            note="HD95 to the reference mask, variant minus audited build.",
        )  # fmt: skip
    else:
        yield _none("hd95_change", "no image has a reference mask and a prediction", variant)
    cases, values = case_means(classes, "hd95_between")
    yield Quantity(
        "hd95_between", "mean", cases, values, unit="px", better="lower", worst=largest, bounds=(0.0, largest),
        subject=variant, note="HD95 between the two predictions; the diagonal where one of them is empty.",
    )  # fmt: skip


def _flips(pixels: pd.DataFrame, variant: str) -> Iterator[Quantity]:
    notes = {
        "flips": "Share of the pixels whose class changes.",
        "good_to_bad": "Share of the pixels that were right and are wrong.",
        "bad_to_good": "Share of the pixels that were wrong and are right.",
    }
    total = pixels["pixels"].to_numpy(dtype=np.float64)
    for metric, note in notes.items():
        values = pixels[metric].to_numpy(dtype=np.float64) / np.maximum(total, 1.0)
        known = np.isfinite(values)
        if not known.any():
            yield _none(metric, "no image has a reference mask", variant)
            continue
        worst = 0.0 if metric == "bad_to_good" else 1.0
        yield Quantity(
            metric, "mean", pixels["case"].to_numpy(dtype=object)[known], values[known], better="lower", worst=worst,
            bounds=UNIT_RANGE, subject=variant, note=note,
        )  # fmt: skip


def _safe(pixels: pd.DataFrame, variant: str) -> Iterator[Quantity]:
    held = pixels[pixels["safe"].notna()]
    if held.empty:
        why = "it needs scores of both builds and calibration images"
        yield from (_none(metric, why, variant) for metric in ("safe_pixels", "safe_flips"))
        return
    cases = held["case"].to_numpy(dtype=object)
    share = held["safe"].to_numpy(dtype=np.float64) / np.maximum(held["pixels"].to_numpy(dtype=np.float64), 1.0)
    yield Quantity(
        "safe_pixels", "mean", cases, share, better="higher", worst=0.0, bounds=UNIT_RANGE, subject=variant,
        note="Pixels whose margin is more than the largest change of a margin on calibration images.",
    )  # fmt: skip
    broken = held["safe_flips"].to_numpy(dtype=np.float64) > 0
    yield Quantity(
        "safe_flips", "proportion", cases, broken.astype(np.float64), better="lower", worst=1.0, bounds=UNIT_RANGE,
        subject=variant, note="Images in which any of these pixels changes after all.",
    )  # fmt: skip


def _lesions(objects: pd.DataFrame, failed: list[str], variant: str, params: Any) -> Iterator[Quantity]:
    words = {"vanished": "of the audited build that the variant does not show", "appeared": "of the variant alone"}
    for metric, what in words.items():
        held = objects[objects[metric].notna()]
        cases = [*held["case"], *failed]
        values = np.concatenate([held[metric].to_numpy(dtype=np.float64), np.ones(len(failed))])
        if not len(cases):
            yield _none(metric, "neither build shows a lesion in any image", variant)
            continue
        note = f"Components {what} (IoU >= {params.match_iou:g}, {params.min_component_px} pixels or more)."
        yield Quantity(
            metric, "proportion", cases, values, better="lower", of="lesion", bounds=UNIT_RANGE, subject=variant,
            note=f"{note} A failed image counts as one.",
        )  # fmt: skip


def _calibration(pixels: pd.DataFrame, variant: str, most: dict[str, float | None]) -> Iterator[Quantity]:
    for name, (unit, note) in _SCORES.items():
        largest = most[name]
        change = (pixels[f"{name}_variant"] - pixels[name]).to_numpy(dtype=np.float64)
        known = np.isfinite(change)
        if not known.any():
            yield _none(f"{name}_change", "it needs scores of both builds and reference masks", variant)
            continue
        bounds = None if largest is None else (-largest, largest)
        yield Quantity(
            f"{name}_change", "mean", pixels["case"].to_numpy(dtype=object)[known], change[known], unit=unit,
            worst=largest, bounds=bounds, subject=variant, note=f"Change of the {note}, variant minus audited build.",
        )  # fmt: skip
