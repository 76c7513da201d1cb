"""Outlines of COCO files as masks: run lengths and polygons, drawn pixel for pixel as the reference does.

Source: T.-Y. Lin and P. Dollár, COCO API, ``maskApi.c`` (2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

_FINE: Final = 5  # the reference draws polygons on a grid that is finer by this factor


def decode_counts(text: str) -> list[int]:
    """Run lengths of a compressed RLE string.

    Each number is written in groups of five bits, least significant first, one character from code 48 on a group, with
    bit 6 set where more follow; from the fourth number on it is the difference to the number two before.

    Raises:
        ValueError: a character that cannot occur, or a string that ends inside a number.

    >>> decode_counts("06g2")
    [0, 6, 87]
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"the run lengths hold the character {character!r}")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the run lengths end inside a number")
    return counts


def runs_to_mask(counts: Sequence[int] | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) bool from run lengths down the columns, background first.

    Raises:
        ValueError: the runs do not fill the shape.

    >>> runs_to_mask([1, 2, 1], (2, 2)).astype(int).tolist()
    [[0, 1], [1, 0]]
    """
    runs = np.asarray(counts, dtype=np.int64)
    if (runs < 0).any() or runs.sum() != shape[0] * shape[1]:
        raise ValueError(f"the run lengths do not fill {shape[0]} x {shape[1]} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.asarray(flat.reshape(shape[1], shape[0]).T)


def polygon_to_mask(corners: Sequence[float], shape: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) bool from the corners x, y, x, y, ... of a polygon in pixels; what lies outside is cut off.

    Raises:
        ValueError: fewer than three corners, an odd number of values, or corners that are no numbers near the image.

    >>> polygon_to_mask([1, 0, 3, 0, 3, 2, 1, 2], (2, 4)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    height, width = shape
    points = np.asarray(corners, dtype=np.float64)
    if points.ndim != 1 or len(points) < 6 or len(points) % 2:
        raise ValueError("a polygon needs x, y of three corners or more")
    if not (np.abs(points) <= 10 * max(shape)).all():  # NaN too
        raise ValueError("the corners of the polygon lie far outside the image")
    x, y = _boundary((_FINE * points.reshape(-1, 2) + 0.5).astype(np.int64))
    # Where the boundary steps to the next fine column in the middle of a pixel column, the fill toggles below it.
    step = np.flatnonzero(np.diff(x))
    column = (np.minimum(x[step], x[step + 1]) + 0.5) / _FINE - 0.5
    row = (np.minimum(y[step], y[step + 1]) + 0.5) / _FINE - 0.5
    inside = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    toggles = column[inside].astype(np.int64) * height + np.ceil(np.clip(row[inside], 0, height)).astype(np.int64)
    return runs_to_mask(np.diff(np.sort(toggles), prepend=0, append=height * width), shape)


def _boundary(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All points x, y of the closed polygon on the fine grid, in order; corners (n, 2) int64.

    Both ends of an edge belong to it. It is drawn from its lower end, so that two polygons share it exactly.
    """
    start, end = corners, np.roll(corners, -1, axis=0)
    span = np.abs(end - start)
    flat = span[:, 0] >= span[:, 1]  # one point a column, else one point a row
    length = span.max(axis=1)
    main = np.where(flat, 0, 1)
    each = np.arange(len(corners))
    backwards = start[each, main] > end[each, main]
    first = np.where(backwards[:, None], end, start)
    last = np.where(backwards[:, None], start, end)
    slope = (last[each, 1 - main] - first[each, 1 - main]) / np.maximum(length, 1)
    edge = np.repeat(each, length + 1)
    walked = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - (length + 1), length + 1)
    along = np.where(backwards[edge], length[edge] - walked, walked)
    across = (first[edge, 1 - main[edge]] + slope[edge] * along + 0.5).astype(np.int64)
    along = along + first[edge, main[edge]]
    return np.where(flat[edge], along, across), np.where(flat[edge], across, along)
