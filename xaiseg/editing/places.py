"""The same object elsewhere in the image, and the object partly hidden."""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np

from xaiseg.editing.regions import bounds_of

Side = Literal["left", "top", "right", "bottom"]
SIDES: Final[tuple[Side, ...]] = get_args(Side)
_STEPS: Final[dict[Side, tuple[int, int]]] = {"left": (0, -1), "top": (-1, 0), "right": (0, 1), "bottom": (1, 0)}


def distances(region: np.ndarray) -> dict[Side, int]:
    """How many pixels lie between the region and each edge of the image.

    >>> distances(np.array([[False, True, False, False]]))
    {'left': 1, 'top': 0, 'right': 2, 'bottom': 0}
    """
    left, top, right, bottom = bounds_of(region)
    return {"left": left, "top": top, "right": region.shape[1] - right, "bottom": region.shape[0] - bottom}


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The image (C, H, W) moved by whole pixels; what comes in is the image mirrored at its edge.

    >>> shifted(np.array([[[1.0, 2.0, 3.0]]]), 0, -1).tolist()
    [[[2.0, 3.0, 3.0]]]
    """
    height, width = image.shape[1:]
    pads = ((0, 0), (max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0)))
    whole = np.pad(image, pads, mode="symmetric")
    top, left = max(-down, 0), max(-right, 0)
    return np.ascontiguousarray(whole[:, top : top + height, left : left + width])


def edge_shifts(region: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """How to move the image so that the region touches its nearest edge, and the sham of that.

    The sham moves the image just as far, in the one of the three other directions that leaves the region furthest from
    any edge. It mirrors as much of the image and costs as much of it.

    Returns:
        (down, right) of the edit and of the sham, or None where the region touches an edge already, or where the sham
        would bring it nearer to an edge than half the way.

    >>> region = np.zeros((20, 40), bool); region[9:11, 5:8] = True
    >>> edge_shifts(region)
    ((0, -5), (0, 5))
    """
    away = distances(region)
    nearest = min(SIDES, key=lambda side: away[side])
    reach = away[nearest]
    if reach == 0:
        return None
    steps = {side: (_STEPS[side][0] * reach, _STEPS[side][1] * reach) for side in SIDES}

    def left_over(side: Side) -> int:
        down, right = steps[side]
        after = {"left": right, "top": down, "right": -right, "bottom": -down}
        return min(away[edge] + after[edge] for edge in SIDES)

    sham = max((side for side in SIDES if side != nearest), key=left_over)
    return None if left_over(sham) < (reach + 1) // 2 else (steps[nearest], steps[sham])


def hidden_part(region: np.ndarray, side: Side, share: float) -> np.ndarray:
    """The part (H, W) of a region that something which comes in from one side hides.

    Args:
        region: (H, W) bool, not empty.
        side: where it comes from.
        share: of the region's pixels, in (0, 1); as many whole rows or columns are hidden as come nearest to it, and
            never none or all where the region has two or more.

    >>> hidden_part(np.array([[True, True, True, True]]), "left", 0.25).tolist()
    [[True, False, False, False]]
    """
    axis = 0 if side in ("left", "right") else 1
    counts = region.sum(axis=axis)
    lines = np.flatnonzero(counts)
    ordered = lines if side in ("left", "top") else lines[::-1]
    sums = np.cumsum(counts[ordered]) / counts.sum()
    number = int(np.argmin(np.abs(sums - share))) + 1
    hidden = np.zeros(counts.shape, dtype=bool)
    hidden[ordered[: min(number, max(len(ordered) - 1, 1))]] = True
    return np.asarray(region & (hidden[None, :] if axis == 0 else hidden[:, None]))
