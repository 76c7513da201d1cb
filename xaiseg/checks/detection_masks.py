"""Instance masks against the outlines of the objects that were found: a detector may box an animal and mask nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg.checks.base import Quantity, Row
from xaiseg.checks.detection_quantities import FAILED, rule_of, with_failed
from xaiseg.checks.detection_rows import Found
from xaiseg.checks.masks import overlap
from xaiseg.checks.quantities import UNIT_RANGE, missing
from xaiseg.data.rle import polygon_to_mask
from xaiseg.detection.matching import Matches, reaches
from xaiseg.errors import DataError

if TYPE_CHECKING:
    from xaiseg.data.case import Case
    from xaiseg.subject import Boxes

#: A mask fits from this IoU on, as a match of COCO's segmentation task does.
FITS: Final = 0.5
NO_OUTLINES: Final = "the subject draws masks, the reference has boxes alone: masks are not measured"


def mask_columns(case: Case, boxes: Boxes, index: int, table: Matches) -> Row:
    """The columns ``reference_outlined`` and ``mask_iou`` of one class, in the order of its objects.

    Args:
        case: with boxes.
        boxes: all detections of the image.
        index: the class.
        table: match table of this class.

    Raises:
        DataError: an outline cannot be drawn.
    """
    assert case.boxes is not None
    outlines = case.outlines or ((),) * len(case.boxes)
    mine = [polygons for polygons, box in zip(outlines, case.boxes, strict=True) if box[4] == index]
    fits = None
    if boxes.masks is not None:
        place = np.flatnonzero(boxes.labels.numpy() == index)[table.order]
        fits = [
            mask_iou(polygons, boxes.masks[int(place[finder])].numpy(), case.id)
            if polygons and finder >= 0 else math.nan
            for polygons, finder in zip(mine, table.finder.tolist(), strict=True)
        ]  # fmt: skip
    return {"reference_outlined": [bool(polygons) for polygons in mine], "mask_iou": fits}


def mask_iou(polygons: Sequence[np.ndarray], mask: np.ndarray, where: str = "") -> float:
    """IoU of an outline and a mask; 0 where either has no pixel.

    The outline is drawn within its own bounds alone, so that many animals in a large image cost little.

    Args:
        polygons: each (P, 2) x, y in pixels; what any of them covers is the object.
        mask: (H, W) bool.
        where: the case, for the message.

    Raises:
        DataError: a polygon cannot be drawn.

    >>> square = np.array([[0, 0], [2, 0], [2, 2], [0, 2]], np.float32)
    >>> mask_iou([square], np.array([[True, False, False], [True, False, False], [False, False, False]]))
    0.5
    """
    rows, columns = _window(polygons, mask.shape)
    shape = rows.stop - rows.start, columns.stop - columns.start
    drawn = np.zeros(shape, dtype=bool)
    try:
        for polygon in polygons:
            moved = np.asarray(polygon, dtype=np.float64) - (columns.start, rows.start)
            drawn |= polygon_to_mask(moved.ravel().tolist(), shape)
    except ValueError as error:
        raise DataError(f"the outline of an object cannot be drawn ({error})", where=where) from error
    counts = overlap(drawn, mask[rows, columns])
    outside = int(np.count_nonzero(mask)) - counts.prediction
    return counts.both / max(1, counts.reference + counts.prediction + outside - counts.both)


def _window(polygons: Sequence[np.ndarray], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns that hold the polygons; the whole image where one of them leaves it, or is none."""
    corners = np.concatenate([np.asarray(polygon, dtype=np.float64).reshape(-1, 2) for polygon in polygons])
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0)) + 1
    if not ((low >= 0).all() and (high <= (shape[1], shape[0])).all()):  # NaN too
        return slice(0, shape[0]), slice(0, shape[1])
    return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def quantities(held: Found, target: str, params: Any) -> Iterator[Quantity]:
    """How well masks fit, at the frozen threshold; nothing where the subject draws none."""
    if not held.has_masks:
        return
    images = np.concatenate([flat.object_image for flat in held.flats])
    outlined = np.concatenate([flat.object_outlined for flat in held.flats])
    if len(images) and not outlined.any():
        yield missing("mask_recall", NO_OUTLINES, target=target)
        yield missing("mask_iou", NO_OUTLINES, target=target)
        return
    found = np.concatenate([reaches(flat.object_score, held.threshold) for flat in held.flats])
    fits = np.concatenate([flat.object_mask_iou for flat in held.flats])
    fullest = max(held.least, float(np.bincount(images[outlined], minlength=1).max()))
    right = (found & (fits >= FITS))[outlined]
    cases, values = with_failed(held, held.cases[images[outlined]], right, fullest)
    said = f"score >= {held.threshold:g}, {rule_of(params)}"
    yield Quantity(
        "mask_recall", "proportion", cases, values, better="higher", of="object", target=target, strata=True,
        weigh="case", bounds=UNIT_RANGE,
        note=f"{said}, and the mask has IoU >= {FITS:g} with the outline; of objects with an outline; {FAILED}",
    )  # fmt: skip
    both = outlined & found
    yield Quantity(
        "mask_iou", "mean", held.cases[images[both]], fits[both], better="higher", of="object", target=target,
        weigh="case", bounds=UNIT_RANGE,
        note=f"{said}; found objects with an outline alone, an empty mask is 0: missed objects are left out",
    )  # fmt: skip
