"""Where things are: regions (H, W) of truth values, and room for an equal region on the background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xaiseg.data.rle import polygon_to_mask


def outlined(polygons: Sequence[np.ndarray], box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The region of an object: its polygons, or its box where there are none or where they draw no pixel.

    Args:
        polygons: each (P, 2) x, y in pixels; what lies outside the image is cut off.
        box: (4,) left, top, right, bottom in pixels.
        shape: (H, W).

    Returns:
        (H, W) bool, with a pixel at least of every box that meets the image.

    Raises:
        ValueError: a polygon lies far outside the image.

    >>> outlined((), np.array([1, 0, 3, 1]), (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    region = np.zeros(shape, dtype=bool)
    for polygon in polygons:
        region |= polygon_to_mask([float(value) for value in np.asarray(polygon).ravel()], shape)
    if not region.any():
        left, top, right, bottom = (max(round(float(value)), 0) for value in box)
        region[top:bottom, left:right] = True
    meets = box[0] < shape[1] and box[1] < shape[0] and box[2] > 0 and box[3] > 0
    if not region.any() and meets:  # narrower than a pixel
        row, column = int((box[1] + box[3]) / 2), int((box[0] + box[2]) / 2)
        region[min(max(row, 0), shape[0] - 1), min(max(column, 0), shape[1] - 1)] = True
    return region


def bounds_of(region: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a region, right and bottom outside.

    Raises:
        ValueError: the region is empty.

    >>> bounds_of(np.array([[False, False, False], [False, True, True]]))
    (1, 1, 3, 2)
    """
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not len(rows):
        raise ValueError("an empty region has no bounds")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def widened(region: np.ndarray, margin_px: float) -> np.ndarray:
    """The region and all pixels within ``margin_px`` of it.

    >>> widened(np.array([[True, False, False]]), 1).tolist()
    [[True, True, False]]
    """
    from scipy.ndimage import distance_transform_edt

    if margin_px <= 0 or not region.any():
        return region
    return np.asarray(distance_transform_edt(~region) <= margin_px)


def moved(region: np.ndarray, down: int, right: int) -> np.ndarray:
    """The region moved by whole pixels; what leaves the image is cut off.

    >>> moved(np.array([[True, False], [True, False]]), 1, 1).tolist()
    [[False, False], [False, True]]
    """
    height, width = region.shape
    found = np.zeros_like(region)
    rows, columns = np.nonzero(region)
    rows, columns = rows + down, columns + right
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found[rows[inside], columns[inside]] = True
    return found


def free_place(region: np.ndarray, taken: np.ndarray, generator: np.random.Generator) -> tuple[int, int] | None:
    """Where an equal region finds room, drawn evenly from all places that have it.

    Args:
        region: (H, W) bool, not empty.
        taken: (H, W) bool, what the moved region may not touch.
        generator: of the draw.

    Returns:
        How far down and to the right to move the region, or None where there is no room.

    >>> free_place(np.array([[True, False, False]]), np.array([[True, True, False]]), np.random.default_rng(0))
    (0, 2)
    """
    from scipy.signal import fftconvolve

    left, top, right, bottom = bounds_of(region)
    shape = region[top:bottom, left:right].astype(np.float64)
    touched = fftconvolve(taken.astype(np.float64), shape[::-1, ::-1], mode="valid")
    free = np.flatnonzero(touched < 0.5)
    if not len(free):
        return None
    row, column = divmod(int(free[generator.integers(len(free))]), touched.shape[1])
    return row - top, column - left
