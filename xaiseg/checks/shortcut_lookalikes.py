"""What does it mistake for an object? False detections, grouped by what a layer of the network answers to.

A false detection that overlaps an object is a bad box and is counted apart. Each of the others gives one vector: the
layer's activations averaged over its box, or how its pixels look where the detector shows no layer. Vectors that are
alike form a group, which is shown in pictures: a person can say what it is (dark ice, a rock, a boat), and which images
to collect. Groups are found in these data and prove nothing by themselves. Black ice and rocks were what a seal
detector mistook for seals (arXiv:2510.21689).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np
import pyarrow as pa
import torch

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.pictures import PICTURE_COLUMNS, shown
from xaiseg.checks.quantities import UNIT_RANGE, fact, missing, reference_rows
from xaiseg.checks.shortcut_asking import around
from xaiseg.checks.shortcut_groups import grouped
from xaiseg.checks.shortcut_look import PIXELS, look_of
from xaiseg.checks.shortcut_reading import BOX_IOU, ignored_boxes, things_of
from xaiseg.detection.matching import iou, match, reaches
from xaiseg.editing.regions import outlined
from xaiseg.errors import UsageError
from xaiseg.explainers.detection_level import fired_layer
from xaiseg.explainers.pooling import Example, Place, pool

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case
    from xaiseg.subject import Segmenter

ID: Final = "shortcut.lookalikes"
NONE: Final = "no false detection"
#: What a detector must offer for its layers to be read.
_READ: Final = frozenset({"forward", "gradients", "activations", "raw_boxes"})
#: Side of a picture's window, in lengths of the box.
_ROUND: Final = 3.0


@dataclass(frozen=True)
class Params:
    """How false detections are found and grouped.

    Attributes:
        match: "iou", or "centre": the centre of the detection lies in the reference box.
        match_iou: IoU from which on a detection is the object.
        touching: IoU with an object from which on a false detection is a bad box and no look-alike.
        most: look-alikes an image, by falling score.
        groups: groups at most.
        by: "layer", "pixels", or "auto": pixels where the detector shows no layer.
        layer: dotted name of the layer, or None for the one that feeds the finest level of the detector.
    """

    match: Literal["iou", "centre"] = "iou"
    match_iou: float = BOX_IOU
    touching: float = 0.1
    most: int = 10
    groups: int = 6
    by: Literal["auto", "layer", "pixels"] = "auto"
    layer: str | None = None

    def __post_init__(self) -> None:
        for wrong, name, allowed in (
            (self.match not in ("iou", "centre"), "match", "iou or centre"),
            (self.by not in ("auto", "layer", "pixels"), "by", "auto, layer or pixels"),
            (not 0 < self.match_iou <= 1, "match_iou", "above 0, at most 1"),
            (not 0 < self.touching <= 1, "touching", "above 0, at most 1"),
            (self.most < 1, "most", "1 or more"),
            (not 2 <= self.groups <= 20, "groups", "2 to 20"),
        ):
            if wrong:
                got = getattr(self, name)
                raise UsageError("this parameter is out of range", where=f"{ID}: {name}", got=got, allowed=allowed)


@check(
    ID,
    question="What does it mistake for an object?",
    needs=("detector", "reference"),
    params=Params,
    columns=[
        ("score", pa.float64()),
        ("overlap", pa.float64()),  # IoU with the object that it overlaps most
        ("box", pa.list_(pa.float32())),
        ("layer", pa.string()),
        ("vector", pa.list_(pa.float32())),
        *PICTURE_COLUMNS,
    ],
)
class ShortcutLookalikes:
    """One row a false detection that is shown at the operating threshold."""

    def forwards(self, params: Params) -> int:
        """The most forwards a case: candidates, the layer, and its activations."""
        return 3

    def measure(self, context: Context, case: Case) -> Iterator[Row]:
        """Reads the layer, or the pixels, at each false detection that overlaps no object."""
        params: Params = context.params
        every = list(_false(context, case))
        if not every:
            yield {"status": "not_applicable", "reason": NONE}
        bad = [one for one in every if one.overlap >= params.touching]
        for number, one in enumerate(bad, start=1):
            yield _row(context, f"bad box {number}", one)
        alike = [one for one in every if one.overlap < params.touching]
        false, more = alike[: params.most], alike[params.most :]
        if not false:
            return
        regions = tuple(outlined((), one.box, case.shape) for one in false)
        layer, vectors, why = _vectors(context, case, false, regions)
        if vectors is None:
            yield from (_row(context, f"look-alike {number}", one) for number, one in enumerate(false, start=1))
            yield {"status": "undefined", "reason": why}
            return
        for number, (one, region) in enumerate(zip(false, regions, strict=True), start=1):
            picture = shown([around(case.image, region, _ROUND)], context.facts["value_range"])
            found = {"layer": layer, "vector": vectors[number - 1].tolist()}
            yield _row(context, f"look-alike {number}", one) | found | picture
        for number, one in enumerate(more, start=params.most + 1):  # counted, and not grouped
            yield _row(context, f"look-alike {number}", one)

    def quantities(self, tables: Tables, params: Params) -> Iterable[Quantity]:
        """How many groups there are, how distinct, and how much of the false detections each holds."""
        rows = reference_rows(tables.rows[ID])
        if rows.empty:
            yield from (missing(name, NONE) for name in ("bad_boxes", "group_share"))
            return
        bad = (rows["overlap"] >= params.touching).to_numpy(dtype=np.float64)
        yield Quantity(
            "bad_boxes", "proportion", rows["case"].to_numpy(dtype=object), bad, of="detection", weigh="case",
            bounds=UNIT_RANGE, note=f"false detections that overlap an object by IoU >= {params.touching:g}",
        )  # fmt: skip
        found = grouped(rows, params, int(tables.facts.get("seed", 0)))
        if found is None:
            all_bad = "every false detection overlaps an object"
            yield missing("group_share", all_bad if bad.all() else "no layer was found whose answers could be grouped")
            return
        groups = len(found.central)
        yield fact("lookalikes", len(found.rows), of="detection", note="false detections that were grouped")
        yield fact("groups", groups, of="data set", note=_alike(found.rows))
        if np.isfinite(found.silhouette):
            yield fact("silhouette", found.silhouette, note="mean silhouette: 1 = groups far apart, 0 = touching")
        cases = found.rows["case"].to_numpy(dtype=object)
        for group in range(groups):
            yield Quantity(
                "group_share", "proportion", cases, (found.labels == group).astype(np.float64), of="detection",
                level=f"group {group + 1}", weigh="case", bounds=UNIT_RANGE,
                note="share of the look-alikes; the groups were found in these data",
            )  # fmt: skip


@dataclass(frozen=True)
class _False:
    """A detection that is shown and finds no object: class, corners (4,), score, and the best IoU with an object."""

    label: int
    box: np.ndarray
    score: float
    overlap: float


def _row(context: Context, name: str, one: _False) -> Row:
    return {
        "object": name, "target": context.facts["classes"][one.label], "score": one.score, "overlap": one.overlap,
        "box": one.box.astype(np.float32).tolist(),
    }  # fmt: skip


def _false(context: Context, case: Case) -> list[_False]:
    """False detections at the threshold, by falling score."""
    held, threshold, params = context.detections(), float(context.facts["threshold"]), context.params
    corners, scores = held.xyxy.numpy().astype(np.float64), held.scores.numpy().astype(np.float64)
    things, labels = things_of(case, boxes=True), held.labels.numpy()
    every = np.array([thing.boxes[0] for thing in things]).reshape(-1, 4)
    found: list[_False] = []
    for label in sorted(set(labels.tolist())):
        mine = np.flatnonzero(labels == label)
        targets = np.array([thing.boxes[0] for thing in things if thing.label == label]).reshape(-1, 4)
        table = match(
            corners[mine], scores[mine], targets, ignored_boxes(case), rule=params.match, threshold=params.match_iou
        )
        wrong = (table.found == -1) & reaches(table.score, threshold)
        for index in mine[table.order[wrong]]:
            overlap = float(iou(corners[index : index + 1], every).max(initial=0.0))
            found.append(_False(int(label), corners[index], float(scores[index]), overlap))
    return sorted(found, key=lambda one: -one.score)


def _vectors(
    context: Context, case: Case, false: Sequence[_False], regions: tuple[np.ndarray, ...]
) -> tuple[str, np.ndarray | None, str]:
    """What the vectors were read from, the vectors (N, D) or None, and why there are none."""
    params: Params = context.params
    readable = context.detector.info.offers >= _READ
    if params.by == "pixels" or (params.by == "auto" and not readable):
        low, high = (float(end) for end in context.facts["value_range"])
        return PIXELS, np.stack([look_of(case.image, one.box, (low, high)) for one in false]), ""
    if not readable:
        return (
            "",
            None,
            f"no layer to read: the detector shows no {', '.join(sorted(_READ - context.detector.info.offers))}",
        )
    layer, note = (params.layer, "") if params.layer else _layer(context, case)
    if layer is None:
        return "", None, f"no layer to read: {note}"
    # A detector has all of a segmenter that pooling uses: forward, module and the way from its grid to the image's.
    subject = cast("Segmenter", context.detector)
    pooled = pool(subject, [Example(case.id, case.image, regions)], place=Place(layer, 0, note), batch_size=1)
    context.count(forwards=1)
    return layer, np.asarray(pooled.vectors), ""


def _alike(rows: pd.DataFrame) -> str:
    of_pixels = rows["layer"].iloc[0] == PIXELS
    return f"of false detections that {'look alike' if of_pixels else 'a layer answers to alike'}"


def _layer(context: Context, case: Case) -> tuple[str | None, str]:
    """The layer that feeds the finest level, which is where small things are told apart."""
    subject = context.detector
    image = torch.as_tensor(case.image, dtype=torch.float32).to(subject.device)[None]
    with torch.no_grad():
        levels = subject.raw(image).level
    level = int(levels.min())
    first, count = int((levels == level).nonzero()[0]), int((levels == level).sum())
    leaf = image.clone().requires_grad_(True)
    assert subject.module is not None  # the check needs activations
    fired = fired_layer(
        subject.module, lambda: subject.forward(leaf), lambda answer: answer[:, first, 4:].sum(dim=1), count, level
    )
    context.count(forwards=2, backwards=1)
    return fired.layer, fired.note
