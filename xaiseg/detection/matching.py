"""Which detection found which object: one greedy one-to-one match an image and class, as COCO does it.

Detections take their turn by descending score; each takes the free object with which it overlaps most, if that is
enough. So the table of all detections also answers for every higher threshold: those above it match the same objects.
Regions to ignore (crowds, ``difficult``, class 255) take any number of detections out of the count; there the overlap
is the share of the detection that lies in the region. Source: T.-Y. Lin and P. Dollár, COCO API, ``cocoeval.py``
(2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

#: IoU thresholds over which COCO averages.
THRESHOLDS: Final = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
#: Class index of a region to ignore.
IGNORE: Final = 255
#: A false box that overlaps an animal at least this much sits on it: a second box, or one that fits badly. From TIDE
#: (D. Bolya et al., ECCV 2020), where 0.1 parts localisation errors from background.
ON_ANIMAL: Final = 0.1
Rule = Literal["iou", "centre"]


@dataclass(frozen=True)
class Matches:
    """The match table of one image and class; N detections by descending score, R objects.

    Attributes:
        order: (N,) int64, position of each detection among those given.
        score: (N,) float64.
        found: (N,) int64, the object that the detection found by the rule; -1 = none (false), -2 = ignored.
        iou: (N,) float64, IoU with that object (or share in the ignored region); 0 where there is none.
        hits: (N,) int64, bit t is set where the detection finds an object at IoU ``THRESHOLDS[t]``.
        void: (N,) int64, bit t is set where it lies in an ignored region at that IoU.
        finder: (R,) int64, the detection (row of this table) that found each object by the rule; -1 = missed.
        near: (R,) float64, the highest score of any detection that would fit the object; 0 where there is none.
    """

    order: np.ndarray
    score: np.ndarray
    found: np.ndarray
    iou: np.ndarray
    hits: np.ndarray
    void: np.ndarray
    finder: np.ndarray
    near: np.ndarray


def reaches(scores: np.ndarray, threshold: float) -> np.ndarray:
    """Which scores stand at an operating threshold, in float32, as detectors answer: there 0.7 is 0.7 on both sides.

    >>> reaches(np.float32([0.7, 0.69]).astype(np.float64), 0.7).tolist()
    [True, False]
    """
    return np.asarray(np.asarray(scores, dtype=np.float32) >= np.float32(threshold))


def match(
    boxes: np.ndarray,
    scores: np.ndarray,
    objects: np.ndarray,
    regions: np.ndarray | None = None,
    *,
    rule: Rule = "iou",
    threshold: float = 0.5,
) -> Matches:
    """Matches detections of one class with the objects of one image.

    Args:
        boxes: (N, 4) corners of the detections in pixels.
        scores: (N,) in [0, 1].
        objects: (R, 4) corners of the objects.
        regions: (C, 4) corners of regions to ignore, or None.
        rule: "iou": at least ``threshold``; "centre": the detection's centre lies in the object's box.
        threshold: IoU of the rule "iou", in (0, 1].

    Returns:
        The table; ``hits`` and ``void`` always go by IoU.

    >>> found = match(np.array([[0, 0, 4, 4], [9, 9, 12, 12]]), np.array([0.4, 0.9]), np.array([[0, 0, 4, 5]]))
    >>> found.score.tolist(), found.found.tolist(), found.finder.tolist()
    ([0.9, 0.4], [-1, 0], [1])
    """
    held = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    targets = np.asarray(objects, dtype=np.float64).reshape(-1, 4)
    ignored = np.zeros((0, 4)) if regions is None else np.asarray(regions, dtype=np.float64).reshape(-1, 4)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    held, score = held[order], np.asarray(scores, dtype=np.float64)[order]
    overlap = np.concatenate((iou(held, targets), share_inside(held, ignored)), axis=1)
    count = len(targets)
    hits, void = np.zeros(len(held), np.int64), np.zeros(len(held), np.int64)
    for bit, needed in enumerate(THRESHOLDS):
        taken = _greedy(overlap, count, needed)
        hits |= ((taken >= 0) & (taken < count)).astype(np.int64) << bit
        void |= (taken >= count).astype(np.int64) << bit
    if rule == "centre":
        inside = np.concatenate((_holds_centre(targets, held), _holds_centre(ignored, held)), axis=1)
        fits, needed = np.where(inside, overlap, -1.0), 0.0
    else:
        fits, needed = overlap, threshold
    taken = _greedy(fits, count, needed)
    finder = np.full(count, -1, np.int64)
    real = (taken >= 0) & (taken < count)
    finder[taken[real]] = np.flatnonzero(real)
    value = np.where(taken >= 0, np.take_along_axis(overlap, np.maximum(taken, 0)[:, None], 1)[:, 0], 0.0) if (
        overlap.shape[1]
    ) else np.zeros(len(held))  # fmt: skip
    near = np.where(fits[:, :count] >= needed, score[:, None], 0.0).max(axis=0, initial=0.0)
    return Matches(order, score, np.where(taken >= count, -2, taken), value, hits, void, finder, near)


def _greedy(overlap: np.ndarray, count: int, needed: float) -> np.ndarray:
    """For each row in turn the free column of the largest value that is enough; -1 = none.

    Columns from ``count`` on are regions to ignore: they come second and are never used up. Of equal values the last
    column wins, as in COCO's loop.
    """
    least = min(needed, 1 - 1e-10)
    taken = np.full(len(overlap), -1, np.int64)
    if not overlap.size:
        return taken
    free = overlap.copy()
    for row in np.flatnonzero((overlap >= least).any(axis=1)):
        for first, last in ((0, count), (count, overlap.shape[1])):
            part = free[row, first:last]
            if len(part) and part.max() >= least:
                column = last - 1 - int(part[::-1].argmax())
                taken[row] = column
                if column < count:
                    free[:, column] = -1.0
                break
    return taken


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of boxes.

    Args:
        first: (N, 4) corners.
        second: (M, 4) corners.

    Returns:
        (N, M) float64 in [0, 1].

    >>> iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    shared = _shared(first, second)
    union = _area(first)[:, None] + _area(second)[None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def share_inside(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The share of each first box that lies in each second box, (N, M) float64: the overlap with a crowd.

    >>> share_inside(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 9, 9]])).tolist()
    [[0.5]]
    """
    shared = _shared(first, second)
    area = np.broadcast_to(_area(first)[:, None], shared.shape)
    return np.asarray(np.divide(shared, area, out=np.zeros_like(shared), where=area > 0))


def _shared(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    return np.asarray(np.prod(np.clip(high - low, 0.0, None), axis=2), dtype=np.float64)


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), dtype=np.float64)


def _holds_centre(targets: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(N, M) bool: the centre of each of the N boxes lies in each of the M targets."""
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    across = (x[:, None] >= targets[None, :, 0]) & (x[:, None] <= targets[None, :, 2])
    return np.asarray(across & (y[:, None] >= targets[None, :, 1]) & (y[:, None] <= targets[None, :, 3]))
