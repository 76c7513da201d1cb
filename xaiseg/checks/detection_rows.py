"""The rows of performance.detection as flat arrays, from which its quantities are formed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.detection.curves import Pool

if TYPE_CHECKING:
    import pandas as pd

ID: Final = "performance.detection"
#: Bit of an IoU threshold of COCO that stands for the rule of the check itself.
OWN_RULE: Final = -1


@dataclass(frozen=True)
class Flat:
    """All images of one class.

    Attributes:
        image: (D,) int64, position of each detection's image.
        score, found, hits, void, rank: (D,) of each detection, as in the match table; rank within its image.
        object_image: (R,) int64, position of each object's image.
        object_size, object_score: (R,) float64.
        object_outlined: (R,) bool, the reference has an outline of it and no box alone.
        object_mask_iou: (R,) float64, IoU of that outline and the mask of the detection that found the object; 0 where
            it has no mask, was not found at any score, or has no outline.
        objects: (M,) float64, number of objects in each image.
    """

    image: np.ndarray
    score: np.ndarray
    found: np.ndarray
    hits: np.ndarray
    void: np.ndarray
    rank: np.ndarray
    object_image: np.ndarray
    object_size: np.ndarray
    object_score: np.ndarray
    object_outlined: np.ndarray
    object_mask_iou: np.ndarray
    objects: np.ndarray

    def pool(self, bit: int, most: int | None = None) -> Pool:
        """The detections as the curves want them: at COCO's IoU of this bit, or by the check's rule.

        Args:
            bit: position in :data:`~xaiseg.detection.matching.THRESHOLDS`, or :data:`OWN_RULE`.
            most: detections an image that count, or None for all.
        """
        if bit == OWN_RULE:
            hit, void = self.found >= 0, self.found == -2
        else:
            hit, void = (self.hits >> bit & 1) == 1, (self.void >> bit & 1) == 1
        keep = slice(None) if most is None else self.rank < most
        seen = np.bincount(self.object_image, minlength=len(self.objects)).astype(np.float64)
        return Pool(self.image[keep], self.score[keep], hit[keep], void[keep], self.objects, seen)


@dataclass(frozen=True)
class Found:
    """What was measured, for one target.

    Attributes:
        cases: (M,) ids: the images that gave an answer, then those that failed.
        answered: number of images that gave an answer.
        threshold: the frozen operating threshold.
        flats: one a class, in the order of ``classes``.
        classes: their names.
        reference, detected, false, right: (answered,) float64 counts at the threshold, over the classes.
        km2: (answered,) float64, ground area, NaN where unknown.
        least: objects that a failed image counts for at least: 1, or 0 where there is no object of this class at all.
        has_masks: the subject draws a mask of each detection.
    """

    cases: np.ndarray
    answered: int
    threshold: float
    flats: tuple[Flat, ...]
    classes: tuple[str, ...]
    reference: np.ndarray
    detected: np.ndarray
    false: np.ndarray
    right: np.ndarray
    km2: np.ndarray
    least: float = 1.0
    has_masks: bool = False

    @property
    def failed(self) -> np.ndarray:
        """Ids of the images that failed."""
        return self.cases[self.answered :]

    @property
    def missed(self) -> float:
        """Objects that a failed image counts as missed: as many as the fullest image has, since nobody saw it."""
        return max(self.least, float(self.reference.max(initial=0.0)))

    @property
    def alarms(self) -> float:
        """False detections that a failed image counts as: the most of any image, at least one."""
        return max(1.0, float(self.false.max(initial=0.0)))

    def pooled(self) -> Pool:
        """The detections of all classes together, by the check's rule."""
        parts = [flat.pool(OWN_RULE) for flat in self.flats]
        joined = [np.concatenate([getattr(part, name) for part in parts]) for name in ("image", "score", "hit", "void")]
        answered = (np.arange(len(self.cases)) < self.answered).astype(np.float64)
        return Pool(joined[0], joined[1], joined[2], joined[3], self._objects(), answered=answered)

    def _objects(self) -> np.ndarray:
        total = np.sum([flat.objects for flat in self.flats], axis=0)
        total[self.answered :] = self.missed  # not the fullest image of each class
        return np.asarray(total)


def gathered(
    rows: pd.DataFrame, failed: Sequence[str], classes: Sequence[str], threshold: float, *, least: float = 1.0
) -> Found:
    """Flattens the rows of these classes; a failed image counts as the fullest one, with all of its objects missed."""
    chosen = rows[rows["target"].isin(classes)]
    answered = sorted(set(chosen["case"]))
    cases = np.array([*answered, *failed], dtype=object)
    place = {case: position for position, case in enumerate(answered)}
    flats = tuple(_flat(chosen[chosen["target"] == name], place, len(cases), least) for name in classes)
    sums = chosen.groupby("case", sort=True)[["n_reference", "n_detected", "n_false", "n_found"]].sum()
    reference, detected, false, right = sums.to_numpy(dtype=np.float64).T if len(sums) else np.zeros((4, 0))
    km2 = chosen.groupby("case", sort=True)["km2"].first().to_numpy(dtype=np.float64)
    return Found(
        cases, len(answered), threshold, flats, tuple(classes), reference, detected, false, right, km2, least,
        has_masks="mask_iou" in chosen and bool(chosen["mask_iou"].notna().any()),
    )  # fmt: skip


def _flat(rows: pd.DataFrame, place: dict[str, int], images: int, least: float) -> Flat:
    positions = np.array([place[case] for case in rows["case"]], dtype=np.int64)
    counts = np.array([len(scores) for scores in rows["score"]], dtype=np.int64)
    sizes = np.array([len(found) for found in rows["reference_size"]], dtype=np.int64)
    objects = np.zeros(images)
    objects[positions] = sizes
    objects[len(place) :] = max(least, float(objects.max(initial=0.0)))
    outlined, fits = _masks(rows, sizes)
    return Flat(
        image=np.repeat(positions, counts),
        score=_joined(rows["score"], np.float64),
        found=_joined(rows["found"], np.int64),
        hits=_joined(rows["hits"], np.int64),
        void=_joined(rows["void"], np.int64),
        rank=_joined([np.arange(count) for count in counts], np.int64),
        object_image=np.repeat(positions, sizes),
        object_size=_joined(rows["reference_size"], np.float64),
        object_score=_joined(rows["reference_score"], np.float64),
        object_outlined=outlined,
        object_mask_iou=fits,
        objects=objects,
    )


def _masks(rows: pd.DataFrame, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which objects have an outline, and how well it is met; rows of runs from before masks were measured have none."""
    if "mask_iou" not in rows:
        return np.zeros(sizes.sum(), dtype=bool), np.zeros(sizes.sum())
    fits = [np.zeros(size) if one is None else one for one, size in zip(rows["mask_iou"], sizes, strict=True)]
    return _joined(rows["reference_outlined"], bool), np.nan_to_num(_joined(fits, np.float64))


def _joined(lists: Iterable[np.ndarray], kind: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, kind), *(np.asarray(one, dtype=kind) for one in lists)])


def box_rows(rows: pd.DataFrame, classes: Sequence[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """References (R, 5) and detections (N, 6) of each image, sorted by case, as COCO's evaluation wants them."""
    from xaiseg.detection.matching import IGNORE

    index = {name: position for position, name in enumerate(classes)}
    references, detections = [], []
    for _, group in rows.groupby("case", sort=True):
        real, found = [], []
        for name, box, score, reference in zip(
            group["target"], group["box"], group["score"], group["reference_box"], strict=True
        ):
            if name not in index:
                continue
            found.append(_with(box, index[name], np.asarray(score, dtype=np.float64)))
            real.append(_with(reference, index[name]))
        ignored = [] if not real else [_with(group["ignored_box"].iloc[0], IGNORE)]
        references.append(np.concatenate([np.zeros((0, 5)), *real, *ignored]))
        detections.append(np.concatenate([np.zeros((0, 6)), *found]))
    return references, detections


def _with(box: np.ndarray, label: int, score: np.ndarray | None = None) -> np.ndarray:
    corners = np.asarray(box, dtype=np.float64).reshape(-1, 4)
    columns = [corners, np.full((len(corners), 1), float(label))]
    return np.concatenate(columns if score is None else [*columns, score[:, None]], axis=1)
