"""Average precision, average recall and FROC from cached match tables, for any weights of groups of images.

Only detections that find something change recall, and precision is best just there; so a table is reduced to its hits
and to the number of false detections between them, group by group. A resample of whole clusters is then one sparse
product and a few running sums: no box and no model is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import sparse

#: Recalls at which COCO reads the precision.
RECALLS: Final = np.linspace(0.0, 1.0, 101)
#: False positives an image at which FROC reads the sensitivity (Setio et al., LUNA16, 2017).
FROC_RATES: Final = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Pool:
    """The detections of one class in all images.

    Attributes:
        image: (D,) int64, position of the image that each detection lies in.
        score: (D,) float64.
        hit: (D,) bool: it finds an object.
        void: (D,) bool: it lies in an ignored region and does not count.
        objects: (M,) float64, number of objects in each image; one that failed has as many as the fullest, all missed.
        seen: (M,) float64, those among them that are annotated; None = all.
        answered: (M,) float64, 1, or 0 where an image failed and could show no false detection; None = all 1.
    """

    image: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    void: np.ndarray
    objects: np.ndarray
    seen: np.ndarray | None = None
    answered: np.ndarray | None = None


@dataclass(frozen=True)
class Steps:
    """A pool reduced to its hits, by descending score.

    Attributes:
        group: (J,) int64, group of each hit.
        weight: (J,) float64, weight of its image.
        false: (J, G) sparse, weighted false detections between the hit before and this one, by group.
        objects: (G,) weighted objects.
        images: (G,) weighted images that gave an answer.
        seen: (G,) weighted objects that are annotated.
    """

    group: np.ndarray
    weight: np.ndarray
    false: sparse.csr_array
    objects: np.ndarray
    images: np.ndarray
    seen: np.ndarray


def steps_of(
    pool: Pool, positions: np.ndarray, groups: np.ndarray, weights: np.ndarray, *, false_first: bool = False
) -> Steps:
    """Reduces a pool.

    Args:
        pool: the detections.
        positions: (n,) positions of the images that count.
        groups: (n,) int64 group of each of them.
        weights: (n,) float64.
        false_first: among equal scores false detections come first, as one threshold cannot tell them apart; COCO keeps
            the order of the images instead.
    """
    count = int(groups.max()) + 1
    group_of, weight_of = np.full(len(pool.objects), -1, np.int64), np.zeros(len(pool.objects))
    group_of[positions], weight_of[positions] = groups, weights
    keep = ~pool.void & (group_of[pool.image] >= 0)
    image, hit, score = pool.image[keep], pool.hit[keep], pool.score[keep]
    order = np.lexsort((hit, -score)) if false_first else np.argsort(-score, kind="stable")
    image, hit = image[order], hit[order]
    before = np.cumsum(hit) - hit  # hits that come before: the number of the step that a false detection falls into
    hits = int(hit.sum())
    counts = ~hit & (before < hits)  # what follows the last hit changes nothing
    shape = (hits, count)
    cells = (weight_of[image[counts]], (before[counts], group_of[image[counts]]))
    return Steps(
        group=group_of[image[hit]],
        weight=weight_of[image[hit]],
        false=sparse.csr_array(sparse.coo_array(cells, shape=shape)),
        objects=np.bincount(groups, weights * pool.objects[positions], count),
        images=np.bincount(groups, weights * (1.0 if pool.answered is None else pool.answered[positions]), count),
        seen=np.bincount(groups, weights * (pool.objects if pool.seen is None else pool.seen)[positions], count),
    )


def running(steps: Steps, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Hits up to each step, false detections before it, and objects, under weights (G,) of the groups."""
    hits = np.cumsum(steps.weight * drawn[steps.group])
    return hits, np.cumsum(steps.false @ drawn), float(steps.objects @ drawn)


def average_precision(steps: Steps, drawn: np.ndarray) -> float:
    """COCO's AP of one class at one IoU: the mean of the best precision at 101 recalls; NaN without objects.

    Source: T.-Y. Lin and P. Dollár, COCO API, ``cocoeval.py`` (2014).

    >>> pool = Pool(np.array([0, 0, 1]), np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1], bool), np.zeros(3, bool),
    ...             np.array([1.0, 1.0]))
    >>> round(average_precision(steps_of(pool, np.arange(2), np.zeros(2, int), np.ones(2)), np.ones(1)), 4)
    0.835
    """
    hits, false, objects = running(steps, drawn)
    if objects <= 0:
        return float("nan")
    if not len(hits):
        return 0.0
    best = np.maximum.accumulate((hits / (hits + false + np.spacing(1)))[::-1])[::-1]
    places = np.searchsorted(hits / objects, RECALLS, side="left")
    return float(best[places[places < len(best)]].sum() / len(RECALLS))


def final_recall(steps: Steps, drawn: np.ndarray) -> float:
    """The recall of all detections together; NaN without objects."""
    objects = float(steps.objects @ drawn)
    return float(np.sum(steps.weight * drawn[steps.group])) / objects if objects > 0 else float("nan")


def sensitivity(steps: Steps, drawn: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """Recall at the lowest threshold with at most ``rates`` false detections an image; (len(rates),), NaN = undefined.

    >>> pool = Pool(np.array([0, 0, 1]), np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1], bool), np.zeros(3, bool),
    ...             np.array([1.0, 1.0]))
    >>> steps = steps_of(pool, np.arange(2), np.zeros(2, int), np.ones(2), false_first=True)
    >>> sensitivity(steps, np.ones(1), (0.25, 0.5)).tolist()
    [0.5, 1.0]
    """
    hits, false, objects = running(steps, drawn)
    images = float(steps.images @ drawn)
    if objects <= 0 or images <= 0:
        return np.full(len(rates), np.nan)
    reached = np.searchsorted(false, np.asarray(rates) * images * (1 + 1e-12), side="right")
    return np.concatenate(([0.0], hits))[reached] / objects


def mean_over(
    pools: Sequence[Pool], of: Callable[[Steps, np.ndarray], float], *, false_first: bool = False
) -> Callable[[np.ndarray, np.ndarray, np.ndarray], Callable[[np.ndarray], float]]:
    """The mean of ``of`` over classes and thresholds, prepared for resampling.

    Classes without an annotated object are left out, as in COCO: a failed image has missed objects of each class that
    there is, and no class of its own.

    Args:
        pools: one a class and threshold.
        of: e.g. :func:`average_precision`.
        false_first: see :func:`steps_of`.

    Returns:
        (positions, groups, weights) -> function of the (G,) weights of the groups.
    """

    def prepare(positions: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> Callable[[np.ndarray], float]:
        held = [steps_of(pool, positions, groups, weights, false_first=false_first) for pool in pools]

        def value(drawn: np.ndarray) -> float:
            there = [steps for steps in held if steps.seen @ drawn > 0] or held
            parts = np.array([of(steps, drawn) for steps in there])
            parts = parts[np.isfinite(parts)]
            return float(parts.mean()) if len(parts) else float("nan")

        return value

    return prepare


def precision_recall(pool: Pool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The curve of all images: recall, precision and score at each hit, by descending score."""
    images = len(pool.objects)
    steps = steps_of(pool, np.arange(images), np.zeros(images, np.int64), np.ones(images), false_first=True)
    hits, false, objects = running(steps, np.ones(1))
    counted = ~pool.void & pool.hit
    score = np.sort(pool.score[counted])[::-1]
    return hits / max(objects, 1.0), hits / (hits + false), score
