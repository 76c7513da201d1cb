"""Objects of a reference, and what a model's answer to one image says of them.

For a detector: boxes matched one to one with all objects of the image. For a segmenter: components of the predicted
class, and the mean probability over the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from xaiseg.checks import masks
from xaiseg.data.case import Case
from xaiseg.detection.matching import IGNORE, match, reaches
from xaiseg.editing.regions import bounds_of, moved, outlined
from xaiseg.errors import DataError
from xaiseg.subject import Boxes, Prediction

#: IoU from which on a box, or a predicted component, is the object, where the protocol does not say.
BOX_IOU: Final = 0.5
COMPONENT_IOU: Final = 0.1


@dataclass(frozen=True, eq=False)
class Thing:
    """An object of the reference.

    Attributes:
        label: class index.
        region: (H, W) bool, its pixels: from its polygons where they are given, since an enclosing box is half ground.
        boxes: each (4,) corners in pixels; a detection that fits any of them finds the object.
    """

    label: int
    region: np.ndarray
    boxes: tuple[np.ndarray, ...]

    def at(self, down: int, right: int) -> Thing:
        """The object in an image that was moved by whole pixels."""
        step = np.array([right, down, right, down], dtype=np.float64)
        return Thing(self.label, moved(self.region, down, right), tuple(box + step for box in self.boxes))

    def without(self, hidden: np.ndarray) -> Thing:
        """The object when some of its pixels are hidden: what fits the whole or the visible part finds it."""
        seen = self.region & ~hidden
        if not seen.any():
            return self
        return replace(self, boxes=(*self.boxes, np.array(bounds_of(seen), dtype=np.float64)))


@dataclass(frozen=True)
class Answer:
    """What a model says of one object."""

    confidence: float
    overlap: float
    found: bool


@dataclass(frozen=True)
class Reading:
    """One image: the answer to each object, what is no object, and what lies at the place of the edit."""

    answers: tuple[Answer, ...]
    false: float
    claim: float | None


def things_of(case: Case, *, boxes: bool) -> tuple[Thing, ...]:
    """The objects of a case that lie in the image: its boxes, or the components of each class of its mask.

    Raises:
        DataError: the case has no reference of that kind, or an outline lies far outside the image.
    """
    if boxes:
        if case.boxes is None:
            raise DataError("the image has no reference boxes", where=case.id)
        outlines = case.outlines or ((),) * len(case.boxes)
        try:
            found = [
                Thing(int(box[4]), outlined(polygons, box[:4], case.shape), (box[:4].astype(np.float64),))
                for box, polygons in zip(case.boxes, outlines, strict=True)
                if box[4] != IGNORE
            ]
        except ValueError as error:
            raise DataError(f"an outline cannot be drawn ({error})", where=case.id) from error
        return tuple(thing for thing in found if thing.region.any())
    if case.reference is None:
        raise DataError("the image has no reference mask", where=case.id)
    found = []
    for label in (int(value) for value in np.unique(case.reference) if value not in (0, masks.IGNORE)):
        numbers, count = masks.components(case.reference == label)
        regions = (numbers == number for number in range(1, count + 1))
        found += [Thing(label, region, (np.array(bounds_of(region), dtype=np.float64),)) for region in regions]
    return tuple(found)


def ignored_pixels(case: Case) -> np.ndarray | None:
    """(H, W) bool, or None where the mask leaves nothing open."""
    ignored = None if case.reference is None else case.reference == masks.IGNORE
    return ignored if ignored is not None and ignored.any() else None


def ignored_boxes(case: Case) -> np.ndarray:
    """(C, 4) regions that count neither as objects nor as false."""
    return np.zeros((0, 4)) if case.boxes is None else case.boxes[case.boxes[:, 4] == IGNORE, :4].astype(np.float64)


def occupied(case: Case, things: Sequence[Thing]) -> np.ndarray:
    """(H, W) bool: objects and what is ignored, where no sham may be."""
    found = np.zeros(case.shape, dtype=bool)
    for thing in things:
        found |= thing.region
    if case.boxes is not None:
        for box in ignored_boxes(case):
            found |= outlined((), box, case.shape)
    return found if case.reference is None else found | (case.reference == masks.IGNORE)


def read_boxes(
    held: Boxes,
    things: Sequence[Thing],
    ignored: np.ndarray,
    threshold: float,
    rule: Literal["iou", "centre"],
    least: float | None,
    where: np.ndarray | None,
) -> Reading:
    """Detections against objects: the score of the box that finds each, 0 where none does.

    Args:
        held: detections down to the subject's score floor.
        things: the objects.
        ignored: (C, 4) regions to ignore.
        threshold: from this score on a detection is shown.
        rule: see :class:`Asked`.
        least: IoU of the rule "iou".
        where: (H, W) bool or None: is the centre of a detection that is shown there?
    """
    corners, scores = held.xyxy.numpy().astype(np.float64), held.scores.numpy().astype(np.float64)
    labels = held.labels.numpy()
    best = [Answer(0.0, 0.0, found=False)] * len(things)
    false = 0
    for label in sorted({*map(int, labels), *(thing.label for thing in things)}):
        mine, own = labels == label, [i for i, thing in enumerate(things) if thing.label == label]
        variants = max((len(things[i].boxes) for i in own), default=1)
        for variant in range(variants):
            targets = [things[i].boxes[min(variant, len(things[i].boxes) - 1)] for i in own]
            table = match(
                corners[mine], scores[mine], np.array(targets).reshape(-1, 4), ignored, rule=rule,
                threshold=BOX_IOU if least is None else least,
            )  # fmt: skip
            if variant == 0:
                false += int((reaches(table.score, threshold) & (table.found == -1)).sum())
            for index, finder in zip(own, table.finder.tolist(), strict=True):
                score = float(table.score[finder]) if finder >= 0 else 0.0
                if score > best[index].confidence:
                    best[index] = Answer(
                        score, float(table.iou[finder]), found=bool(reaches(np.array(score), threshold))
                    )
    claim = None if where is None else _centre_in(corners[reaches(scores, threshold)], where)
    return Reading(tuple(best), float(false), claim)


def _centre_in(corners: np.ndarray, where: np.ndarray) -> float:
    columns = ((corners[:, 0] + corners[:, 2]) / 2).astype(np.intp).clip(0, where.shape[1] - 1)
    rows = ((corners[:, 1] + corners[:, 3]) / 2).astype(np.intp).clip(0, where.shape[0] - 1)
    return float(where[rows, columns].any())


def read_masks(
    held: Prediction,
    things: Sequence[Thing],
    least: float | None,
    where: np.ndarray | None,
    ignored: np.ndarray | None = None,
) -> Reading:
    """Predicted components against objects, with the mean probability over each object.

    Args:
        held: labels and probabilities; without probabilities the confidence is the share of the object that has its
            label.
        things: the objects.
        least: IoU from which on the component that fits best finds the object.
        where: (H, W) bool or None: which share of it is predicted foreground?
        ignored: (H, W) bool or None: pixels that the reference leaves open count for nothing.
    """
    answers = []
    labels = held.labels if ignored is None else np.where(ignored, 0, held.labels)
    numbered = {label: masks.components(labels == label)[0] for label in {thing.label for thing in things}}
    sizes = {label: np.bincount(numbers.ravel())[1:] for label, numbers in numbered.items()}
    covered = np.zeros(labels.shape, dtype=bool)
    for thing in things:
        numbers, region = numbered[thing.label], thing.region
        covered |= region
        shared = np.bincount(numbers[region])[1:]
        union = sizes[thing.label][: len(shared)] + int(region.sum()) - shared
        overlap = float((shared / union).max()) if len(shared) else 0.0
        map_ = labels == thing.label if held.probabilities is None else held.probabilities[thing.label]
        confidence = float(map_[region].mean()) if region.any() else 0.0
        answers.append(Answer(confidence, overlap, found=overlap >= (COMPONENT_IOU if least is None else least)))
    foreground = labels > 0
    false = float((foreground & ~covered).mean())
    return Reading(tuple(answers), false, None if where is None else float(foreground[where].mean()))
