"""Overlap, lesions and borders of two binary masks: pure functions on bool arrays (H, W).

The four cases of empty masks are named, never averaged away: see :attr:`Overlap.presence`. Two conventions are shared
with MONAI 1.6, which is the oracle of the tests: a border pixel is a mask pixel with a 4-neighbour outside the mask
(outside the image counts as outside), and HD95 is the larger of the two directed 95th percentiles (linear
interpolation). Where one mask is empty MONAI returns NaN or infinity; the check then takes the worst finite value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

#: Label of pixels that the reference readers left open; they count for nothing.
IGNORE: Final = 255

Presence = Literal["both", "reference_only", "prediction_only", "neither"]


@dataclass(frozen=True)
class Overlap:
    """Pixel counts of two masks.

    Attributes:
        reference: pixels of the reference mask.
        prediction: pixels of the predicted mask.
        both: pixels of both.
    """

    reference: int
    prediction: int
    both: int

    @property
    def presence(self) -> Presence:
        """Which of the two masks hold anything."""
        if self.reference:
            return "both" if self.prediction else "reference_only"
        return "prediction_only" if self.prediction else "neither"

    @property
    def dice(self) -> float | None:
        """Dice similarity coefficient in [0, 1]; None when both masks are empty (a correct negative)."""
        total = self.reference + self.prediction
        return 2.0 * self.both / total if total else None

    @property
    def iou(self) -> float | None:
        """Intersection over union in [0, 1]; None when both masks are empty."""
        union = self.reference + self.prediction - self.both
        return self.both / union if union else None

    @property
    def area_bias(self) -> float | None:
        """(prediction - reference) / reference, from -1 upwards; None without a reference."""
        return (self.prediction - self.reference) / self.reference if self.reference else None


@dataclass(frozen=True)
class Lesions:
    """Components of the reference (lesions) against components of the prediction.

    Attributes:
        areas: (n,) int64, pixels of each lesion.
        best_iou: (n,) float64, IoU with the predicted component that fits the lesion best.
        found: (n,) bool, ``best_iou >= match_iou``.
        n_prediction: predicted components that are large enough to count.
        n_false: those of them that fit no lesion.
    """

    areas: np.ndarray
    best_iou: np.ndarray
    found: np.ndarray
    n_prediction: int
    n_false: int


def class_masks(reference: np.ndarray, labels: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and predicted mask of one class; ignored pixels belong to neither.

    Args:
        reference: (H, W) uint8 class indices, 255 = ignore.
        labels: (H, W) class indices.
        index: the class.

    >>> ref, pred = class_masks(np.array([[1, 255, 0]]), np.array([[1, 1, 1]]), 1)
    >>> ref.tolist(), pred.tolist()
    ([[True, False, False]], [[True, False, True]])
    """
    return reference == index, (labels == index) & (reference != IGNORE)


def union_box(first: np.ndarray, second: np.ndarray) -> tuple[slice, slice]:
    """The smallest box that holds both masks; an empty box when both are empty.

    >>> union_box(np.eye(4, dtype=bool), np.zeros((4, 4), dtype=bool))
    (slice(0, 4, None), slice(0, 4, None))
    """
    either = first | second
    rows, columns = np.flatnonzero(either.any(axis=1)), np.flatnonzero(either.any(axis=0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def overlap(reference: np.ndarray, prediction: np.ndarray) -> Overlap:
    """Counts of two bool masks of one shape.

    >>> overlap(np.array([True, True, False]), np.array([True, False, False])).dice
    0.6666666666666666
    """
    both = int(np.count_nonzero(reference & prediction))
    return Overlap(int(np.count_nonzero(reference)), int(np.count_nonzero(prediction)), both)


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """8-connected components.

    Returns:
        (H, W) int32 numbers from 1 (0 = outside), and how many there are.

    >>> components(np.eye(3, dtype=bool))[1]
    1
    """
    from scipy import ndimage

    numbers, count = ndimage.label(mask, structure=np.ones((3, 3), dtype=bool))
    return numbers, int(count)


def match_lesions(
    reference: tuple[np.ndarray, int],
    prediction: tuple[np.ndarray, int],
    *,
    match_iou: float,
    min_component_px: int = 1,
) -> Lesions:
    """Says which lesions were found and which predicted components are false.

    A lesion is found when any predicted component reaches ``match_iou`` with it; a predicted component is false when it
    reaches ``match_iou`` with no lesion. One component may find several lesions that it joins.

    Args:
        reference: numbers and count of the reference components, as :func:`components` returns them.
        prediction: the same of the predicted ones, on the same grid.
        match_iou: in (0, 1].
        min_component_px: smaller predicted components are not counted as false (they may still find a lesion).

    >>> one = components(np.array([[True, True, False, True]]))
    >>> match_lesions(one, components(np.array([[True, False, False, False]])), match_iou=0.1).found.tolist()
    [True, False]
    """
    (numbers_r, n), (numbers_p, m) = reference, prediction
    joint = np.bincount(numbers_r.ravel().astype(np.int64) * (m + 1) + numbers_p.ravel(), minlength=(n + 1) * (m + 1))
    table = joint.reshape(n + 1, m + 1)
    areas, sizes = table[1:].sum(axis=1), table[:, 1:].sum(axis=0)
    both = table[1:, 1:]
    iou = both / np.maximum(areas[:, None] + sizes[None, :] - both, 1)
    fits = iou >= match_iou
    counted = sizes >= min_component_px
    return Lesions(
        areas=areas,
        best_iou=iou.max(axis=1) if m else np.zeros(n),
        found=fits.any(axis=1),
        n_prediction=int(counted.sum()),
        n_false=int((counted & ~fits.any(axis=0)).sum()),
    )


def border_distances(
    reference: np.ndarray, prediction: np.ndarray, *, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Distances between the borders of two masks, neither of them empty.

    Args:
        reference: (H, W) bool.
        prediction: (H, W) bool.
        spacing: (row, column) size of a pixel; the distances have its unit.

    Returns:
        For each border pixel of the reference the distance to the predicted border, and the other way round.

    Raises:
        ValueError: a mask is empty.

    >>> square = np.zeros((5, 9), dtype=bool); square[1:4, 1:4] = True
    >>> there, back = border_distances(square, np.roll(square, 2, axis=1))
    >>> float(there.max()), float(back.max())
    (2.0, 2.0)
    """
    from scipy import ndimage

    if not reference.any() or not prediction.any():
        raise ValueError("border distances need two masks that are not empty")
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (reference, prediction)]
    to_reference, to_prediction = (ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges)
    return to_prediction[edges[0]], to_reference[edges[1]]


def nsd(there: np.ndarray, back: np.ndarray, *, tolerance: float) -> float:
    """Normalised surface distance: the share of border pixels within the tolerance, in [0, 1] (Nikolov et al. 2018).

    Args:
        there: distances from the reference border, as :func:`border_distances` returns them.
        back: distances from the predicted border.
        tolerance: in the unit of the distances.

    >>> nsd(np.array([0.0, 3.0]), np.array([1.0, 1.0]), tolerance=2.0)
    0.75
    """
    near = np.count_nonzero(there <= tolerance) + np.count_nonzero(back <= tolerance)
    return float(near / (there.size + back.size))


def hd95(there: np.ndarray, back: np.ndarray) -> float:
    """The larger of the two directed 95th percentiles of the border distances.

    >>> hd95(np.array([0.0, 2.0]), np.array([1.0]))
    1.9
    """
    return max(_percentile95(there), _percentile95(back))


def _percentile95(values: np.ndarray) -> float:
    # As np.quantile(values, 0.95), without its 50 microseconds of argument handling.
    place = 0.95 * (values.size - 1)
    low = int(place)
    part = np.partition(values, (low, min(low + 1, values.size - 1)))
    return float(part[low] + (place - low) * (part[min(low + 1, values.size - 1)] - part[low]))
