"""Does another build still find the same? Boxes above the operating threshold of both builds, image by image.

Each box of the audited model looks for its partner in the other build's answer, one to one as against a reference. So
boxes that vanish and boxes that are new are counted apart from those that only move. With reference boxes the animals
that both builds find are compared as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.quantities import UNIT_RANGE, failed_cases, missing
from xaiseg.detection.matching import IGNORE, Matches, match, reaches
from xaiseg.errors import SubjectError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case
    from xaiseg.subject import Boxes

ID: Final = "equivalence.detection"


@dataclass(frozen=True)
class Params:
    """How two builds are compared.

    Attributes:
        match_iou: a box of one build is there in the other when a box of the same class has at least this IoU with it.
        tight_iou: the same for boxes that hardly move.
        reference_iou: a reference box is found when a box has at least this IoU with it.
    """

    match_iou: float = 0.5
    tight_iou: float = 0.75
    reference_iou: float = 0.5

    def __post_init__(self) -> None:
        for name in ("match_iou", "tight_iou", "reference_iou"):
            if not 0 < getattr(self, name) <= 1:
                where, got = f"{ID}: {name}", getattr(self, name)
                raise UsageError("this parameter is out of range", where=where, got=got, allowed="above 0, at most 1")


@check(
    ID,
    question="Does the other build still find the same?",
    needs=("detector", "model", "variants"),
    params=Params,
    columns=[
        ("boxes", pa.int64()),  # of the audited model at the threshold
        ("boxes_variant", pa.int64()),
        ("false_before", pa.int64()),  # of them those that find no reference box
        ("false_after", pa.int64()),
        ("vanished", pa.bool_()),  # of a box of the audited model (object = "box-1", ...)
        ("tight", pa.bool_()),  # its partner has tight_iou with it
        ("shift_px", pa.float64()),  # distance of the centres
        ("score_change", pa.float64()),
        ("appeared", pa.bool_()),  # of a box of the variant (object = "new-1", ...)
        ("found_before", pa.bool_()),  # of a reference box (object = "animal-1", ...)
        ("found_after", pa.bool_()),
        ("boxes_kept", pa.float64()),  # share of boxes with a partner: the worst images for the gallery
    ],
    score="boxes_kept",
)
class EquivalenceDetection:
    """Rows for each variant (``subject``): the case, and each class's boxes of both builds and of the reference."""

    def measure(self, context: Context, case: Case) -> Iterable[Row]:
        """Matches the detections of every build with the audited model's."""
        first = context.detections()
        for name in context.variants:
            try:
                second = context.detections(name)
            except SubjectError as error:
                yield {"subject": name, "status": "failed", "reason": str(error)}
                continue
            for row in _rows(case, first, second, context):
                yield {"subject": name, **row}

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """The same figures for every variant."""
        table = tables.rows[ID]
        for name in tables.facts["variants"]:
            rows = table[(table["subject"] == name) | (table["status"] != "ok") & (table["subject"] == "reference")]
            for quantity in _quantities(rows, params):
                yield replace(quantity, subject=name)


def _rows(case: Case, first: Boxes, second: Boxes, context: Context) -> Iterator[Row]:
    threshold, params = context.facts["threshold"], context.params
    objects: list[Row] = []
    counts = {"boxes": 0, "boxes_variant": 0, "false_before": 0, "false_after": 0}
    for index, target in enumerate(context.facts["classes"]):
        (before, scores), (after, scores_after) = (_above(each, index, threshold) for each in (first, second))
        counts["boxes"] += len(before)
        counts["boxes_variant"] += len(after)
        pairs = match(after, scores_after, before, threshold=params.match_iou)
        mine = [*_before(pairs, before, after, scores, params), *_new(pairs)]
        if case.boxes is not None:
            truth, open_regions = (case.boxes[case.boxes[:, 4] == kind, :4] for kind in (index, IGNORE))
            tables = [
                match(held, own, truth, open_regions, threshold=params.reference_iou)
                for held, own in ((before, scores), (after, scores_after))
            ]
            for key, table in zip(("false_before", "false_after"), tables, strict=True):
                counts[key] += int((table.found == -1).sum())
            pairs_found = zip(*((table.finder >= 0).tolist() for table in tables), strict=True)
            mine += [{"found_before": old, "found_after": new} for old, new in pairs_found]
        objects += [{"target": target, **row} for row in mine]
    vanished = [row["vanished"] for row in objects if "vanished" in row]
    row: Row = dict(counts) if case.boxes is not None else {key: counts[key] for key in ("boxes", "boxes_variant")}
    yield row | {"boxes_kept": 1.0 - sum(vanished) / len(vanished) if vanished else None}
    numbers: dict[str, int] = {}
    for each in objects:
        word = "box" if "vanished" in each else "new" if "appeared" in each else "animal"
        numbers[word] = numbers.get(word, 0) + 1
        yield {"object": f"{word}-{numbers[word]}", **each}


def _above(boxes: Boxes, index: int, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) boxes of a class at the operating threshold and (N,) their scores."""
    scores = np.asarray(boxes.scores, dtype=np.float64)
    chosen = (np.asarray(boxes.labels) == index) & reaches(scores, threshold)
    return np.asarray(boxes.xyxy, dtype=np.float64)[chosen], scores[chosen]


def _before(pairs: Matches, before: np.ndarray, after: np.ndarray, scores: np.ndarray, params: Params) -> Iterator[Row]:
    """One row a box of the audited model."""
    for number, row in enumerate(pairs.finder.tolist()):
        if row < 0:
            yield {"vanished": True, "tight": False}
            continue
        old, new = before[number], after[pairs.order[row]]
        shift = math.hypot(*((new[:2] + new[2:]) / 2 - (old[:2] + old[2:]) / 2))
        yield {
            "vanished": False, "tight": bool(pairs.iou[row] >= params.tight_iou), "shift_px": shift,
            "score_change": float(pairs.score[row] - scores[number]),
        }  # fmt: skip


def _new(pairs: Matches) -> Iterator[Row]:
    """One row a box of the variant."""
    for partner in pairs.found.tolist():
        yield {"appeared": partner < 0}


def _quantities(rows: pd.DataFrame, params: Params) -> Iterator[Quantity]:
    found, failed = rows[rows["status"] == "ok"], failed_cases(rows)
    images = found[found["object"] == ""]
    partner = f"a box of the same class with IoU >= {params.match_iou:g}"
    yield _share(found, failed, "vanished", f"Boxes of the audited model without a partner in the build: {partner}.")
    yield _share(found, failed, "appeared", "Boxes of the build without a partner in the audited model's.")
    loose = found.assign(loose=1.0 - found["tight"].astype("float64"))
    yield _share(loose, failed, "loose", f"Boxes of the audited model without a partner at IoU {params.tight_iou:g}.")
    yield from _shifts(found)
    cases = images["case"].to_numpy(dtype=object)
    change = (images["boxes_variant"] - images["boxes"]).to_numpy(dtype=np.float64)
    note = "Boxes of the build minus boxes of the audited model, an image."
    withheld = _withheld(failed)
    yield Quantity("count_change", "mean", cases, change, strata=True, note=note, withheld=withheld)
    yield from _against_reference(found, images, withheld)


def _withheld(failed: Sequence[str]) -> str:
    """Why no verdict may hang on a mean that has no worst value: nobody knows what a failed image changed."""
    return f"images that failed in a build: {len(failed)}; no change of theirs is known" if failed else ""


def _share(found: pd.DataFrame, failed: list[str], metric: str, note: str) -> Quantity:
    held = found[found[metric].notna()]
    cases = [*held["case"], *failed]
    values = np.concatenate([held[metric].to_numpy(dtype=np.float64), np.ones(len(failed))])
    if not cases:
        return missing(metric, "neither build finds anything at the threshold")
    return Quantity(
        metric, "proportion", cases, values, better="lower", of="box", bounds=UNIT_RANGE,
        note=f"{note} A failed image counts as one.",
    )  # fmt: skip


def _shifts(found: pd.DataFrame) -> Iterator[Quantity]:
    held = found[found["shift_px"].notna()]
    cases = held["case"].to_numpy(dtype=object)
    notes = {
        "shift_px": ("px", "Distance of the centres of two partners."),
        "score_change": ("", "Score of the build minus score of the audited model, of two partners."),
    }
    for metric, (unit, note) in notes.items():
        bounds = (-1.0, 1.0) if metric == "score_change" else None
        values = held[metric].to_numpy(dtype=np.float64)
        yield Quantity(metric, "mean", cases, values, unit=unit, of="box", bounds=bounds, note=note)


def _against_reference(found: pd.DataFrame, images: pd.DataFrame, withheld: str) -> Iterator[Quantity]:
    animals = found[found["found_after"].notna()]
    if animals.empty:
        yield missing("recall_change", "there are no reference boxes")
    else:
        change = animals["found_after"].astype("float64") - animals["found_before"].astype("float64")
        yield Quantity(
            "recall_change", "mean", animals["case"].to_numpy(dtype=object), change.to_numpy(), worst=-1.0,
            bounds=(-1.0, 1.0), of="animal", strata=True, note="Share of animals found, build minus audited model.",
        )  # fmt: skip
    held = images[images["false_after"].notna()]
    if held.empty:
        yield missing("false_change", "there are no reference boxes")
        return
    values = (held["false_after"] - held["false_before"]).to_numpy(dtype=np.float64)
    note = "False boxes of the build minus those of the audited model, an image."
    yield Quantity("false_change", "mean", held["case"].to_numpy(dtype=object), values, note=note, withheld=withheld)
