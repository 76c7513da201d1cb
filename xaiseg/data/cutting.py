"""What a tile holds of the annotations of a picture: boxes and polygons, cut at its border.

Polygons are cut by the algorithm of Sutherland and Hodgman (CACM 17, 1974), one side of the tile after the other; the
parts of a concave outline stay connected by lines along the border, which have no area.

Where tiles do not overlap an object counts in exactly one of them, the one that holds its centre: counting it where the
larger part lies would count an animal that a corner quarters nowhere, and one that a border halves twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from xaiseg.errors import UsageError

#: Where tiles overlap, an object of which a tile holds less than this share is a region to ignore: nobody could be
#: blamed for missing it.
LEAST_SHARE: Final = 0.5


def cut_things(
    things: Sequence[Mapping[str, Any]],
    top: int,
    left: int,
    shape: tuple[int, int],
    picture: tuple[int, int] | None = None,
) -> Iterator[dict[str, Any]]:
    """The annotations (COCO) of a picture that a tile holds, in pixels of the tile.

    Where there are polygons the share that counts is that of their area, and the box of an object that the border cuts
    is the one around what is left. Run lengths become boxes.

    Args:
        things: annotations with ``bbox`` (x, y, width, height), polygons, or both.
        top: first row of the tile.
        left: its first column.
        shape: (H, W) of the tile.
        picture: (H, W) of the picture, where no tiles overlap: an object counts in the tile with its centre and is a
            region to ignore in the others. Without, it counts where a tile holds half of it.

    Raises:
        UsageError: an annotation has neither a box nor polygons.

    >>> whole = {"category_id": 1, "bbox": [90, 10, 20, 10]}
    >>> [box["bbox"] for box in cut_things([whole], 0, 100, (100, 100))]
    [[0, 10, 10, 10]]
    >>> next(cut_things([whole], 0, 95, (9, 9)), None) is None
    True
    >>> [next(cut_things([whole], 0, x, (100, 100), (100, 200)))["iscrowd"] for x in (0, 100)]
    [1, 0]
    """
    for thing in things:
        outline = _outline(thing)
        x, y, width, height = thing.get("bbox") or _around(outline, thing)
        if width <= 0 or height <= 0:
            continue
        box = _overlap((x - left, y - top, x + width - left, y + height - top), shape)
        if box is None:
            continue
        whole = (x, y, x + width, y + height)
        owned = picture is not None and _holds(centre(whole, outline, picture), top, left, shape)
        share, parts = _area(box) / (width * height), []
        if outline:
            moved = [part - (left, top) for part in outline]
            parts = [part for part in (clipped(one, shape) for one in moved) if area(part) > 0]
            if not parts and not owned:
                continue  # a corner of the box, and nothing of the object
            share = sum(map(area, parts)) / sum(map(area, outline))
            if parts and not all(_is_inside(part, shape) for part in moved):
                box = _overlap(_extent(parts), shape) or box
        yield {
            "category_id": thing["category_id"],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "area": _area(box),
            "iscrowd": int(bool(thing.get("iscrowd")) or not (owned if picture else share >= LEAST_SHARE)),
            **({"segmentation": [part.round(2).ravel().tolist() for part in parts]} if parts else {}),
        }


def clipped(polygon: np.ndarray, shape: tuple[float, float]) -> np.ndarray:
    """The part of a polygon (P, 2) of x, y that lies in a tile (H, W); (0, 2) when there is none.

    >>> clipped(np.array([[-2.0, 1.0], [2.0, 1.0], [2.0, 3.0], [-2.0, 3.0]]), (10, 10)).tolist()
    [[0.0, 1.0], [2.0, 1.0], [2.0, 3.0], [0.0, 3.0]]
    """
    height, width = shape
    for axis, border, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        kept: list[np.ndarray] = []
        for one, other in zip(np.roll(polygon, 1, axis=0), polygon, strict=True):
            before, after = sign * (one[axis] - border), sign * (other[axis] - border)
            if (before < 0) != (after < 0):
                crossing = one + (other - one) * (before / (before - after))
                crossing[axis] = border  # rounding would leave it outside
                kept.append(crossing)
            if after >= 0:
                kept.append(other)
        polygon = np.array(kept, dtype=np.float64).reshape(-1, 2)
    return polygon


def area(polygon: np.ndarray) -> float:
    """Of a polygon (P, 2), by the shoelace formula; in square pixels.

    >>> area(np.array([[0, 0], [4, 0], [4, 2.5]]))
    5.0
    """
    x, y = polygon[:, 0], polygon[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def centre(
    box: tuple[float, float, float, float], outline: Sequence[np.ndarray], picture: tuple[int, int]
) -> tuple[float, float]:
    """x, y of a point of an object, in its middle.

    That of the box without an outline. Else the centroid of its largest polygon; where that lies outside a hollow one,
    the middle of the widest stretch on its height. What sticks out of the picture does not count.

    Args:
        box: corners x0, y0, x1, y1.
        outline: polygons (P, 2), or none.
        picture: (H, W).

    >>> centre((-10, 0, 30, 10), [], (100, 100))
    (15.0, 5.0)
    >>> horseshoe = np.array([[0.0, 0], [90, 0], [90, 9], [9, 9], [9, 51], [90, 51], [90, 60], [0, 60]])
    >>> centre((0, 0, 90, 60), [horseshoe], (100, 100))
    (4.5, 30.0)
    """
    x0, y0, x1, y1 = _overlap(box, picture) or box
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    corner = np.array([x0, y0])
    seen = [clipped(part - corner, (y1 - y0, x1 - x0)) + corner for part in outline]
    largest = max(seen, key=area, default=np.zeros((0, 2)))
    if not area(largest) > 0:
        return middle
    x, y = _centroid(largest)
    stretches = _stretches(largest, y)
    if not stretches or any(start <= x < stop for start, stop in stretches):
        return x, y
    start, stop = max(stretches, key=lambda stretch: stretch[1] - stretch[0])
    return (start + stop) / 2, y


def _centroid(polygon: np.ndarray) -> tuple[float, float]:
    """That of the area; of one that crosses itself so that it lies elsewhere, the middle of the extent."""
    origin = polygon[0]  # products of large numbers would lose digits
    one, other = polygon - origin, np.roll(polygon - origin, -1, axis=0)
    cross = one[:, 0] * other[:, 1] - other[:, 0] * one[:, 1]
    x, y = ((one + other) * cross[:, None]).sum(axis=0) / (3 * cross.sum()) + origin
    x0, y0, x1, y1 = _extent([polygon])
    return (float(x), float(y)) if x0 < x < x1 and y0 < y < y1 else ((x0 + x1) / 2, (y0 + y1) / 2)


def _stretches(polygon: np.ndarray, y: float) -> list[tuple[float, float]]:
    """From where to where a row lies inside a polygon."""
    pairs = zip(np.roll(polygon, 1, axis=0).tolist(), polygon.tolist(), strict=True)
    crossings = sorted(a[0] + (y - a[1]) * (b[0] - a[0]) / (b[1] - a[1]) for a, b in pairs if (a[1] > y) != (b[1] > y))
    return list(zip(crossings[::2], crossings[1::2], strict=True))


def _holds(point: tuple[float, float], top: int, left: int, shape: tuple[int, int]) -> bool:
    """Whether a tile holds a point; one on the border belongs to the tile that begins there."""
    return top <= point[1] < top + shape[0] and left <= point[0] < left + shape[1]


def _outline(thing: Mapping[str, Any]) -> list[np.ndarray]:
    """Its polygons (P, 2) that enclose something; none where one of them is no polygon, or they lie off the box."""
    held = thing.get("segmentation")
    parts = held if isinstance(held, list) else []
    if not all(isinstance(part, list) and len(part) % 2 == 0 and _numbers(part) for part in parts):
        return []
    found = [np.asarray(part, dtype=np.float64).reshape(-1, 2) for part in parts]
    found = [part for part in found if area(part) > 0]
    return found if found and (not thing.get("bbox") or _agree(_extent(found), thing["bbox"])) else []


def _agree(extent: tuple[float, float, float, float], bbox: Sequence[float]) -> bool:
    """Whether outline and box are of one thing: their intersection is half of their union."""
    x, y, width, height = bbox
    shared = min(extent[2], x + width) - max(extent[0], x), min(extent[3], y + height) - max(extent[1], y)
    both = max(shared[0], 0) * max(shared[1], 0)
    return both >= 0.5 * (_area(extent) + width * height - both)


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def _around(outline: Sequence[np.ndarray], thing: Mapping[str, Any]) -> tuple[float, float, float, float]:
    if not outline:
        where = f"annotation {thing.get('id')}"
        raise UsageError("an annotation has neither bbox nor polygons", where=where, then="Boxes are what is cut")
    x0, y0, x1, y1 = _extent(outline)
    return x0, y0, x1 - x0, y1 - y0


def _extent(parts: Sequence[np.ndarray]) -> tuple[float, float, float, float]:
    points = np.concatenate(parts)
    return *map(float, points.min(axis=0)), *map(float, points.max(axis=0))  # type: ignore[return-value]


def _is_inside(part: np.ndarray, shape: tuple[int, int]) -> bool:
    return bool((part >= 0).all() and (part <= (shape[1], shape[0])).all())


def _overlap(
    box: tuple[float, float, float, float], shape: tuple[float, float]
) -> tuple[float, float, float, float] | None:
    """Corners, cut at the border of a tile (H, W); None when nothing is left."""
    x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], shape[1]), min(box[3], shape[0])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
