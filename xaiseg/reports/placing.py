"""Labels of points, set apart: no label covers another or a point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

#: Width of a letter as a share of the size of the text; wide enough for the fonts of the reports.
_LETTER: Final = 0.56
_GAP: Final = 8.0
#: Half of the room that a point keeps free.
_POINT: Final = 4.0

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Spot:
    """Where a label stands.

    Attributes:
        x, y: start of its base line, px.
        anchor: "start" right of its point, "end" left of it.
        moved: whether it stands off the height of its point, so that a line must lead to it.
    """

    x: float
    y: float
    anchor: str
    moved: bool


def apart(points: Sequence[tuple[float, float]], words: Sequence[str], frame: Box, *, size: float = 12) -> list[Spot]:
    """Places for labels, each as near to the height of its point as the labels before it allow.

    Args:
        points: (x, y) px, each with a label.
        words: the labels.
        frame: left, top, right and bottom of the room, px.
        size: of the text, px.

    Returns:
        a place for each label; where the frame is full, beside its point.
    """
    taken: list[Box] = [(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    found: dict[int, Spot] = {}
    for index in sorted(range(len(points)), key=lambda each: points[each][1]):
        width = _LETTER * size * len(words[index])
        spots = list(_candidates(points[index], frame, size))
        free = [spot for spot in spots if _is_free(extent(spot, width, size), taken, frame)]
        found[index] = free[0] if free else spots[0]
        taken.append(extent(found[index], width, size))
    return [found[index] for index in range(len(points))]


def extent(spot: Spot, width: float, size: float) -> Box:
    """What a label covers: left, top, right, bottom."""
    left = spot.x if spot.anchor == "start" else spot.x - width
    return left, spot.y - 0.8 * size, left + width, spot.y + 0.25 * size


def _candidates(point: tuple[float, float], frame: Box, size: float) -> Iterator[Spot]:
    """Right and left of the point, then further and further above and below."""
    x, y = point
    base, step = y + size / 3, size + 1.5
    for distance in range(int((frame[3] - frame[1]) / step) + 1):
        for sign in (1, -1) if distance else (1,):
            shifted = base + sign * distance * step
            yield Spot(x + _GAP, shifted, "start", distance > 0)
            yield Spot(x - _GAP, shifted, "end", distance > 0)


def _is_free(box: Box, taken: Sequence[Box], frame: Box) -> bool:
    inside = frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
    return inside and not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken
    )
