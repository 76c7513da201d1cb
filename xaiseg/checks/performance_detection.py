"""Does it find the animals? Detections matched with the reference boxes, image by image and class by class.

The match table of every image is kept (scores, overlaps, sizes, what was missed), so that any threshold, any resample
and any stratum is computed later without the model. Matching is that of COCO: greedy by descending score, one to one;
regions to ignore take detections out of the count. Measures follow Metrics Reloaded (Maier-Hein, Reinke et al., Nature
Methods 2024): recall and precision at the frozen threshold, FROC, average precision, and what surveys need: counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from xaiseg.checks import detection_counts, detection_masks, detection_quantities
from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.detection_rows import ID, gathered
from xaiseg.checks.quantities import fact, failed_cases, reference_rows
from xaiseg.detection.matching import IGNORE, ON_ANIMAL, Matches, iou, match, reaches
from xaiseg.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case
    from xaiseg.subject import Boxes


@dataclass(frozen=True)
class Params:
    """How boxes are compared.

    Attributes:
        match: "iou", or "centre": the centre of the detection lies in the reference box.
        match_iou: overlap of the rule "iou".
        sizes: edges of the size strata, square root of the box area in pixels, rising.
        max_detections: detections an image and class that enter AP and AR, as in COCO.
        empty_share: share of tiles without an animal in the survey that the model is meant for; precision is projected
            to it. None = that of model.yaml.
        least_empty_tiles: known-empty tiles without which no verdict hangs on false positives.
    """

    match: Literal["iou", "centre"] = "iou"
    match_iou: float = 0.5
    sizes: tuple[float, ...] = (16.0, 32.0, 96.0)
    max_detections: int = 100
    empty_share: float | None = None
    least_empty_tiles: int = 60

    def __post_init__(self) -> None:
        rising = all(one < other for one, other in zip((0.0, *self.sizes), self.sizes, strict=False))
        wrong = [
            (self.match not in ("iou", "centre"), "match", self.match, "iou or centre"),
            (not 0 < self.match_iou <= 1, "match_iou", self.match_iou, "above 0, at most 1"),
            (not rising, "sizes", self.sizes, "rising numbers above 0"),
            (self.max_detections < 1, "max_detections", self.max_detections, "1 or more"),
            (not 0 <= (self.empty_share or 0) < 1, "empty_share", self.empty_share, "0 or more, below 1"),
            (self.least_empty_tiles < 1, "least_empty_tiles", self.least_empty_tiles, "1 or more"),
        ]
        for is_wrong, name, got, allowed in wrong:
            if is_wrong:
                raise UsageError("this parameter is out of range", where=f"{ID}: {name}", got=got, allowed=allowed)


_FLOATS, _WHOLE = pa.list_(pa.float64()), pa.list_(pa.int64())


@check(
    ID,
    question="Does it find the animals?",
    needs=("detector", "reference"),
    params=Params,
    columns=[
        ("n_reference", pa.int64()),
        ("n_found", pa.int64()),
        ("n_detected", pa.int64()),
        ("n_false", pa.int64()),
        ("right", pa.float64()),
        ("height", pa.int64()),
        ("width", pa.int64()),
        ("km2", pa.float64()),
        ("score", _FLOATS),  # of each detection, falling
        ("size", _FLOATS),  # of each detection, square root of the area in pixels
        ("iou", _FLOATS),  # with the object it found
        ("found", _WHOLE),  # which object; -1 = false, -2 = in an ignored region
        ("hits", _WHOLE),  # bit t: it finds an object at the t-th IoU of COCO
        ("void", _WHOLE),  # bit t: it lies in an ignored region at that IoU
        ("merged", _WHOLE),  # of each detection: how often other tiles of the image saw it again; null without tiles
        ("box", pa.list_(pa.float32())),  # corners of the detections, one after the other
        ("reference_size", _FLOATS),
        ("reference_score", _FLOATS),  # of the detection that found the object; 0 = missed at any threshold
        ("reference_near", _FLOATS),  # the best score of any detection that would fit it
        ("reference_box", pa.list_(pa.float32())),
        ("reference_outlined", pa.list_(pa.bool_())),  # the reference has polygons of it, not a box alone
        # IoU of those polygons and the mask of the detection that found the object, at any score; NaN where nothing
        # found it or it has no outline. Null where the subject drew no masks in this image.
        ("mask_iou", _FLOATS),
        ("ignored_box", pa.list_(pa.float32())),
    ],
    score="right",
)
class PerformanceDetection:
    """One row a case and class."""

    def measure(self, context: Context, case: Case) -> Iterable[Row]:
        """Matches the detections with the reference, class by class."""
        if case.boxes is None:
            raise DataError("the image has no reference boxes", where=case.id)
        threshold = float(context.facts["threshold"])
        for index, name in enumerate(context.facts["classes"]):
            found, table, objects = _matched(case.boxes, context.detections(), index, context.params)
            _offer(context, found, table, objects, threshold, case.boxes)
            again = _again(context.detections(), index, table.order)
            fits = detection_masks.mask_columns(case, context.detections(), index, table)
            yield {"target": name, "merged": again, **_row(case, found, table, objects, threshold), **fits}

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """Overall and, with several classes, for each class of which there is an object or a detection."""
        table = tables.rows[ID]
        rows, failed = reference_rows(table), failed_cases(table)
        every = tuple(tables.facts["classes"])
        classes, pooled = _seen(rows, every, rows["n_detected"]), _seen(rows, every, rows["score"].map(len))
        for target in ("", *classes) if len(every) > 1 else ("",):
            own = (target,) if target else pooled or every
            least = 0.0 if target and not rows.loc[rows["target"] == target, "n_reference"].any() else 1.0
            held = gathered(rows, failed, own, float(tables.facts["threshold"]), least=least)
            yield from detection_quantities.quantities(held, target, params)
            yield from detection_masks.quantities(held, target, params)
            yield from detection_counts.quantities(held, target, params, tables)
        if len(every) > 1:
            lacking = [name for name in every if name not in classes]
            note = "classes of which no image has an object and none is detected at the threshold: nothing is said"
            more = f": {', '.join(lacking[:3])}{' and others' if len(lacking) > 3 else ''}" if lacking else ""
            yield fact("classes_not_seen", len(lacking), of="class", note=note + more)


def _seen(rows: pd.DataFrame, classes: tuple[str, ...], detections: pd.Series) -> tuple[str, ...]:
    """The classes of which there is an object or one of the detections, of which ``detections`` counts those of a row.

    A detector may know eighty others. What it scores low is no row of its own, but counts in curves over all classes.
    """
    there = (rows["n_reference"] > 0) | (detections > 0)
    named = set(rows.loc[there.astype(bool), "target"])
    return tuple(name for name in classes if name in named)


def _matched(reference: np.ndarray, boxes: Boxes, index: int, params: Params) -> tuple[np.ndarray, Matches, np.ndarray]:
    """Corners of the detections (N, 4) of one class by descending score, their match table, and the objects (R, 4)."""
    mine = (boxes.labels == index).numpy()
    corners = boxes.xyxy.numpy()[mine].astype(np.float64)
    objects = reference[reference[:, 4] == index, :4].astype(np.float64)
    table = match(
        corners, boxes.scores.numpy()[mine], objects, reference[reference[:, 4] == IGNORE, :4], rule=params.match,
        threshold=params.match_iou,
    )  # fmt: skip
    return corners[table.order], table, objects


def _again(boxes: Boxes, index: int, order: np.ndarray) -> list[int] | None:
    """How often other tiles saw each detection of one class again, in the order of its table; None without tiles."""
    if boxes.merged is None:
        return None
    return [int(value) for value in boxes.merged[boxes.labels == index].numpy()[order]]


def _row(case: Case, found: np.ndarray, table: Matches, objects: np.ndarray, threshold: float) -> Row:
    shown = reaches(table.score, threshold)
    n_found, n_false = int((shown & (table.found >= 0)).sum()), int((shown & (table.found == -1)).sum())
    spacing = case.ref.spacing_mm
    scores = np.where(table.finder >= 0, np.append(table.score, 0.0)[table.finder], 0.0)
    assert case.boxes is not None
    return {
        "n_reference": len(objects),
        "n_found": n_found,
        "n_detected": n_found + n_false,
        "n_false": n_false,
        "right": float(n_found - len(objects) - n_false),  # 0 when all is right, below for each miss and false one
        "height": case.shape[0],
        "width": case.shape[1],
        "km2": case.shape[0] * case.shape[1] * spacing[0] * spacing[1] * 1e-12 if spacing else None,
        "score": table.score.tolist(),
        "size": _sizes(found).tolist(),
        "iou": table.iou.tolist(),
        "found": table.found.tolist(),
        "hits": table.hits.tolist(),
        "void": table.void.tolist(),
        "box": found.astype(np.float32).ravel().tolist(),
        "reference_size": _sizes(objects).tolist(),
        "reference_score": scores.tolist(),
        "reference_near": table.near.tolist(),
        "reference_box": objects.astype(np.float32).ravel().tolist(),
        "ignored_box": case.boxes[case.boxes[:, 4] == IGNORE, :4].ravel().tolist(),
    }


def _sizes(boxes: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(np.clip((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 0.0, None)))


def _offer(
    context: Context, found: np.ndarray, table: Matches, objects: np.ndarray, threshold: float, reference: np.ndarray
) -> None:
    """Places for the galleries: what was found, false, on an animal and wrong all the same, missed, nearly detected."""
    shown = reaches(table.score, threshold)
    real = reference[reference[:, 4] != IGNORE, :4]
    on_animal = iou(found, real).max(axis=1, initial=0.0) >= ON_ANIMAL
    for box, score, object_, is_shown, on in zip(
        found, table.score.tolist(), table.found.tolist(), shown, on_animal, strict=True
    ):
        if is_shown and object_ != -2:
            context.window("found" if object_ >= 0 else "second" if on else "false", -score, box)
    sizes = _sizes(objects).tolist()
    for box, size, finder, near in zip(objects, sizes, table.finder.tolist(), table.near.tolist(), strict=True):
        if finder >= 0 and shown[finder]:
            continue
        if near > 0.0 and not reaches(np.array(near), threshold):
            context.window("near", -near, box)
        else:
            context.window("missed", -size, box)


def case_summary(tables: Tables) -> pd.DataFrame:
    """What went wrong in each case, worst first.

    Args:
        tables: the rows of this check.

    Returns:
        DataFrame with columns case, score (missed objects and false detections; NaN where the image failed) and what.
        Failed cases stand first, then those with the most errors.
    """
    import pandas as pd

    table = tables.rows[ID]
    lost = table[table["case"].isin(failed_cases(table))].drop_duplicates("case").sort_values("case")
    lines = [(case, math.nan, f"failed: {reason}") for case, reason in zip(lost["case"], lost["reason"], strict=True)]
    rows = reference_rows(table)
    rows = rows[~rows["case"].isin(lost["case"])]
    sums = rows.groupby("case", sort=True)[["n_reference", "n_found", "n_false"]].sum().astype(int)
    wrong = sums["n_reference"] - sums["n_found"] + sums["n_false"]
    for case in wrong.sort_values(ascending=False, kind="stable").index:
        reference, found, false = (int(value) for value in sums.loc[case])
        lines.append((case, float(wrong[case]), "; ".join(_what(reference, found, false))))
    return pd.DataFrame(lines, columns=["case", "score", "what"])


def _what(reference: int, found: int, false: int) -> Iterator[str]:
    if found < reference:
        yield f"missed {reference - found} of {reference}"
    if false:
        yield f"{false} false"
    if found == reference and not false:
        yield f"all {reference} found" if reference else "correct negative"
