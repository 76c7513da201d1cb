"""Does it work? Overlap, borders, lesions and areas of the predicted masks against the reference, on the native grid.

The metrics follow Metrics Reloaded (Maier-Hein, Reinke et al., Nature Methods 2024): an overlap metric, a border
metric with its tolerance, lesions counted as components, and the area. Empty masks are four cases: both empty is a
correct negative and never enters Dice; reference only is a miss (Dice 0, NSD 0, HD95 = image diagonal); prediction
only is a false alarm with the same worst values. A failed image counts as Dice 0, as one missed lesion and as one
lesion-free image with a false component, since nobody knows which of them it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from xaiseg.checks import masks
from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.quantities import UNIT_RANGE, case_means, fact, failed_cases, missing, reference_rows, targets
from xaiseg.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case

ID = "performance.segmentation"


@dataclass(frozen=True)
class Params:
    """How masks are compared.

    Attributes:
        tolerance_px: NSD tolerance in pixels.
        tolerance_mm: NSD tolerance in millimetres, used where the spacing is known.
        match_iou: a lesion is found when a predicted component has at least this IoU with it.
        min_component_px: smaller predicted components are not counted as false ones.
    """

    tolerance_px: float = 2.0
    tolerance_mm: float = 2.0
    match_iou: float = 0.1
    min_component_px: int = 1

    def __post_init__(self) -> None:
        wrong = [
            (self.tolerance_px < 0, "tolerance_px", self.tolerance_px, "0 or more"),
            (self.tolerance_mm < 0, "tolerance_mm", self.tolerance_mm, "0 or more"),
            (not 0 < self.match_iou <= 1, "match_iou", self.match_iou, "above 0, at most 1"),
            (self.min_component_px < 1, "min_component_px", self.min_component_px, "1 or more"),
        ]
        for is_wrong, name, got, allowed in wrong:
            if is_wrong:
                raise UsageError("this parameter is out of range", where=f"{ID}: {name}", got=got, allowed=allowed)


@check(
    ID,
    question="Does it work?",
    needs=("segmenter", "reference"),
    params=Params,
    columns=[
        ("presence", pa.string()),
        ("dice", pa.float64()),
        ("iou", pa.float64()),
        ("nsd", pa.float64()),
        ("nsd_mm", pa.float64()),
        ("hd95", pa.float64()),
        ("hd95_mm", pa.float64()),
        ("diagonal", pa.float64()),
        ("diagonal_mm", pa.float64()),
        ("area_reference", pa.int64()),
        ("area_prediction", pa.int64()),
        ("area_bias", pa.float64()),
        ("n_reference", pa.int64()),
        ("n_prediction", pa.int64()),
        ("n_found", pa.int64()),
        ("n_false", pa.int64()),
        ("dice_readers", pa.float64()),
        ("nsd_readers", pa.float64()),
        ("area", pa.int64()),
        ("found", pa.bool_()),
        ("best_iou", pa.float64()),
    ],
    score="dice",
)
class PerformanceSegmentation:
    """One row a case and foreground class, and one a lesion (``object`` = "lesion-1", ...)."""

    def measure(self, context: Context, case: Case) -> Iterable[Row]:
        """Compares the prediction with the reference, class by class."""
        if case.reference is None:
            raise DataError("the image has no reference mask", where=case.id)
        if (case.reference == masks.IGNORE).all():
            raise DataError("the reference ignores every pixel", where=case.id)  # nobody knows that it is lesion-free
        labels = context.prediction().labels
        for index, name in enumerate(context.facts["classes"][1:], start=1):
            for row in _class_rows(case, labels, index, context.params):
                yield {"target": name, **row}

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """Overall and, with several foreground classes, for each class."""
        table = tables.rows[ID]
        rows = reference_rows(table)
        failed = failed_cases(table)
        for target in targets(tables.facts["classes"]):
            chosen = rows if not target else rows[rows["target"] == target]
            images, lesions = chosen[chosen["object"] == ""], chosen[chosen["object"] != ""]
            yield from _overlaps(images, target)
            yield from _borders(images, target, params)
            yield from _lesions(images, lesions, failed, target, params)
            yield from _areas(images, target)
            yield from _readers(images, target)
        yield _poor_patients(rows[rows["object"] == ""], failed, tables)


def _class_rows(case: Case, labels: np.ndarray, index: int, params: Params) -> Iterator[Row]:
    assert case.reference is not None
    reference, prediction = masks.class_masks(case.reference, labels, index)
    box = masks.union_box(reference, prediction)
    reference, prediction = reference[box], prediction[box]
    counts = masks.overlap(reference, prediction)
    lesions = masks.match_lesions(
        masks.components(reference), masks.components(prediction), match_iou=params.match_iou,
        min_component_px=params.min_component_px,
    )  # fmt: skip
    yield {
        "presence": counts.presence,
        "dice": counts.dice,
        "iou": counts.iou,
        **_border_columns(case, reference, prediction, params),
        "area_reference": counts.reference,
        "area_prediction": counts.prediction,
        "area_bias": counts.area_bias,
        "n_reference": int(lesions.areas.size),
        "n_prediction": lesions.n_prediction,
        "n_found": int(lesions.found.sum()),
        "n_false": lesions.n_false,
        **_reader_columns(case, index, params),
    }
    columns = (lesions.areas.tolist(), lesions.found.tolist(), lesions.best_iou.tolist())
    for number, (area, found, best) in enumerate(zip(*columns, strict=True), start=1):
        yield {"object": f"lesion-{number}", "area": area, "found": found, "best_iou": best}


def _border_columns(case: Case, reference: np.ndarray, prediction: np.ndarray, params: Params) -> Row:
    """NSD and HD95 in px, and in mm where the spacing is known; the worst values when one mask is empty."""
    spacing = case.ref.spacing_mm
    height, width = case.shape
    diagonal = math.hypot(height, width)
    diagonal_mm = math.hypot(height * spacing[0], width * spacing[1]) if spacing else None
    row: Row = {"diagonal": diagonal, "diagonal_mm": diagonal_mm}
    present = reference.any(), prediction.any()
    if not any(present):
        return row
    if not all(present):
        worst_mm = {"nsd_mm": 0.0, "hd95_mm": diagonal_mm} if spacing else {}
        return row | {"nsd": 0.0, "hd95": diagonal} | worst_mm
    there, back = masks.border_distances(reference, prediction)
    row |= {"nsd": masks.nsd(there, back, tolerance=params.tolerance_px), "hd95": masks.hd95(there, back)}
    if spacing:
        if spacing[0] == spacing[1]:
            there, back = there * spacing[0], back * spacing[0]
        else:
            there, back = masks.border_distances(reference, prediction, spacing=spacing)
        row |= {"nsd_mm": masks.nsd(there, back, tolerance=params.tolerance_mm), "hd95_mm": masks.hd95(there, back)}
    return row


def _reader_columns(case: Case, index: int, params: Params) -> Row:
    """Agreement of the second reader with the reference: the ceiling for any model."""
    if case.reader2 is None or case.reference is None:
        return {}
    reference, second = masks.class_masks(case.reference, case.reader2, index)
    reference = reference & (case.reader2 != masks.IGNORE)  # what the second reader left open is no disagreement
    box = masks.union_box(reference, second)
    reference, second = reference[box], second[box]
    counts = masks.overlap(reference, second)
    if counts.presence != "both":
        return {"dice_readers": counts.dice, "nsd_readers": counts.dice}
    there, back = masks.border_distances(reference, second)
    return {"dice_readers": counts.dice, "nsd_readers": masks.nsd(there, back, tolerance=params.tolerance_px)}


def _overlaps(images: pd.DataFrame, target: str) -> Iterator[Quantity]:
    note = "correct negatives (both masks empty) are counted apart"
    for metric in ("dice", "iou"):
        cases, values = case_means(images, metric)
        yield Quantity(
            metric, "mean", cases, values, better="higher", worst=0.0, target=target, strata=True, note=note,
            bounds=UNIT_RANGE,
        )  # fmt: skip
    for presence in ("both", "reference_only", "prediction_only", "neither"):
        count = int((images["presence"] == presence).sum())
        yield fact(f"masks_{presence}", count, of="image", target=target, note="images by class and empty mask")


def _borders(images: pd.DataFrame, target: str, params: Params) -> Iterator[Quantity]:
    spaced = int(images["diagonal_mm"].notna().sum())
    why_not = f"millimetres need the pixel spacing, which is known for {spaced} of {len(images)} masks"
    for suffix, unit, tolerance in (("", "px", params.tolerance_px), ("_mm", "mm", params.tolerance_mm)):
        nsd, hd95 = f"nsd{suffix}", f"hd95{suffix}"
        if suffix and spaced < len(images):
            yield missing(nsd, why_not, target=target)
            yield missing(hd95, why_not, target=target)
            continue
        note = f"tolerance {tolerance:g} {unit}" + ("" if suffix else "; on a pixel grid this is information")
        cases, values = case_means(images, nsd)
        yield Quantity(
            nsd, "mean", cases, values, better="higher", worst=0.0, target=target, strata=True, note=note,
            bounds=UNIT_RANGE,
        )  # fmt: skip
        # A failed image has no known size, so it takes the largest diagonal that was seen.
        diagonal = float(images[f"diagonal{suffix}"].max()) if len(images) else None
        cases, values = case_means(images, hd95)
        yield Quantity(
            hd95, "mean", cases, values, unit=unit, better="lower", worst=diagonal, target=target,
            note="95th percentile; the image diagonal where one mask is empty",
            bounds=None if diagonal is None else (0.0, diagonal),
        )  # fmt: skip


def _lesions(
    images: pd.DataFrame, lesions: pd.DataFrame, failed: list[str], target: str, params: Params
) -> Iterator[Quantity]:
    rule = f"found = a predicted component with IoU >= {params.match_iou:g}"
    yield Quantity(
        "missed_lesions", "proportion", lesions["case"].to_numpy(dtype=object),
        1.0 - lesions["found"].to_numpy(dtype=np.float64), better="lower", of="lesion", worst=1.0, target=target,
        strata=True, note=f"{rule}; a failed image counts as one missed lesion", bounds=UNIT_RANGE,
    )  # fmt: skip
    sums = images.groupby("case", sort=True)[["n_reference", "n_found", "n_prediction", "n_false"]].sum()
    cases, counts = sums.index.to_numpy(dtype=object), sums.to_numpy(dtype=np.float64)
    reference, found, predicted, false = counts.T
    yield Quantity(
        "lesion_precision", "statistic", cases, np.stack([predicted - false, predicted], axis=1), better="higher",
        of="component", target=target, function=_ratio, weigh="case", note=rule, bounds=UNIT_RANGE,
    )  # fmt: skip
    missed_images = np.tile([0.0, 0.0, 1.0], (len(failed), 1))
    outcomes = np.concatenate([np.stack([found, false, reference - found], axis=1), missed_images])
    yield Quantity(
        "lesion_f1", "statistic", [*cases, *failed], outcomes, better="higher", of="lesion", target=target,
        function=_f1, weigh="case", note=f"{rule}; a failed image counts as one missed lesion", bounds=UNIT_RANGE,
    )  # fmt: skip
    yield Quantity(
        "false_components", "mean", cases, false, better="lower", worst=max(1.0, float(false.max(initial=0.0))),
        target=target, note="predicted components that fit no lesion, an image",
    )  # fmt: skip
    yield _false_alarms(cases, reference == 0, predicted > 0, target)


def _false_alarms(cases: np.ndarray, free: np.ndarray, alarm: np.ndarray, target: str) -> Quantity:
    if not free.any():
        return missing("false_component_images", "no lesion-free images in the data", target=target)
    return Quantity(
        "false_component_images", "proportion", cases[free], alarm[free].astype(np.float64), better="lower", worst=1.0,
        target=target, strata=True, note="lesion-free images with any predicted component", bounds=UNIT_RANGE,
    )  # fmt: skip


def _ratio(total: np.ndarray) -> float:
    return float(total[0] / total[1]) if total[1] else math.nan


def _f1(total: np.ndarray) -> float:
    found, false, missed = total
    return float(2 * found / (2 * found + false + missed)) if total.any() else math.nan


def _areas(images: pd.DataFrame, target: str) -> Iterator[Quantity]:
    cases, values = case_means(images, "area_bias")
    # A bias may point either way; a failed image makes it worse, whichever way that is.
    worst = math.copysign(1.0, float(values.mean())) if values.size else -1.0
    yield Quantity(
        "area_bias", "mean", cases, values, worst=worst, target=target, strata=True,
        note="(predicted - reference) / reference area, images with a reference mask",
    )  # fmt: skip


def _readers(images: pd.DataFrame, target: str) -> Iterator[Quantity]:
    """The second reader's agreement with the reference, and the model's distance to it, image by image."""
    if not images["dice_readers"].notna().any():
        for metric in ("dice_readers", "dice_minus_readers", "nsd_minus_readers"):
            yield missing(metric, "ceiling unknown: the data hold no second reader", target=target)
        return
    cases, values = case_means(images, "dice_readers")
    yield Quantity("dice_readers", "mean", cases, values, better="higher", target=target, bounds=UNIT_RANGE)
    for metric in ("dice", "nsd"):
        paired = images.assign(difference=images[metric] - images[f"{metric}_readers"])
        cases, values = case_means(paired, "difference")
        yield Quantity(
            f"{metric}_minus_readers", "mean", cases, values, better="higher", worst=-1.0, target=target,
            note="model minus second reader, both against the reference, paired by image; above 0 is a warning",
            bounds=(-1.0, 1.0),
        )  # fmt: skip


def _poor_patients(images: pd.DataFrame, failed: list[str], tables: Tables) -> Quantity:
    cases, values = case_means(images, "dice")
    names, values = [*cases, *failed], np.concatenate([values, np.zeros(len(failed))])
    members: dict[str, list[int]] = {}
    for position, cluster in enumerate(tables.clusters(names)):
        members.setdefault(cluster, []).append(position)
    poor = [float(values[positions].mean() < 0.5) for positions in members.values()]
    note = "mean Dice of the patient's images; a failed image counts as 0"
    if not tables.facts.get("cluster_declared", True):
        note += "; no patients are declared, so that each image stands for one"
    return Quantity(
        "patients_dice_below_0.5", "proportion", [names[positions[0]] for positions in members.values()],
        np.array(poor), better="lower", of="patient", note=note, bounds=UNIT_RANGE,
    )  # fmt: skip


def case_summary(tables: Tables) -> pd.DataFrame:
    """What went wrong in each case, worst first.

    Args:
        tables: the rows of this check.

    Returns:
        DataFrame with columns case, score (mean Dice over classes; NaN where the image failed or both masks are empty)
        and what. Failed cases stand first, then the lowest scores; correct negatives stand last.
    """
    import pandas as pd

    table = tables.rows[ID]
    lost = table[table["case"].isin(failed_cases(table))].drop_duplicates("case").sort_values("case")
    lines = [(case, math.nan, f"failed: {reason}") for case, reason in zip(lost["case"], lost["reason"], strict=True)]
    rows = reference_rows(table)
    rows = rows[(rows["object"] == "") & ~rows["case"].isin(lost["case"])]
    rows = rows.assign(bias=rows["area_bias"].where(rows["presence"] == "both"))
    sums = rows.groupby("case", sort=True).agg(
        dice=("dice", "mean"), lowest=("dice", "min"), bias=("bias", "mean"), lesions=("n_reference", "sum"),
        found=("n_found", "sum"), false=("n_false", "sum"),
    ).astype({"lesions": int, "found": int, "false": int})  # fmt: skip
    sums = sums.sort_values("dice", kind="stable", na_position="last")
    lines += [(case, row[0], _what(*row[1:])) for case, *row in sums.itertuples()]
    return pd.DataFrame(lines, columns=["case", "score", "what"])


def _what(lowest: float, bias: float, lesions: int, found: int, false: int) -> str:
    """One phrase a problem, over the classes of one case."""
    said = []
    if found < lesions:
        said.append("missed lesion" if lesions == 1 else f"missed {lesions - found} of {lesions} lesions")
    if false:
        said.append("false component" if false == 1 else f"{false} false components")
    if math.isfinite(bias) and round(100 * abs(bias)):
        said.append(f"{'over' if bias > 0 else 'under'}segmented {100 * bias:+.0f} %")
    if said:
        return "; ".join(said)
    if not lesions:
        return "correct negative"
    return "nothing" if lowest == 1.0 else "border only"
