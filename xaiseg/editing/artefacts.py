"""Marks that no scene holds and that data sets often do: burnt-in text, a ruler, a border, calipers.

Each is drawn at the ends of the value range. Its sham puts pixels of the image's own background, from elsewhere,
exactly where the mark would have changed pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from xaiseg.editing.regions import bounds_of, free_place, moved
from xaiseg.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Mark:
    """A mark as it is drawn.

    Attributes:
        paint: (h, w) float32: 1 = highest value, 0 = lowest, NaN = the image shows through.
        framed: True when the mark runs around the whole image.
    """

    paint: np.ndarray
    framed: bool = False


@dataclass(frozen=True)
class Planted:
    """An image with a mark, and its sham.

    Attributes:
        edit: (C, H, W) float32 with the mark.
        sham: (C, H, W) float32 with background in its place.
        where: (H, W) bool, the area that the mark takes up: its enclosing rectangle, or the frame.
    """

    edit: np.ndarray
    sham: np.ndarray
    where: np.ndarray


#: (H, W) -> mark.
Draw = Callable[[tuple[int, int]], Mark]
REGISTRY: Final[dict[str, Draw]] = {}


def _artefact(name: str) -> Callable[[Draw], Draw]:
    def register(function: Draw) -> Draw:
        REGISTRY[name] = function
        return function

    return register


def plant(
    image: np.ndarray,
    kind: str,
    taken: np.ndarray,
    generator: np.random.Generator,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Planted | None:
    """Plants a mark on the background.

    Args:
        image: (C, H, W) float32.
        kind: a name of :data:`REGISTRY`.
        taken: (H, W) bool, what neither the mark nor the pixels of its sham may touch; a border may run over it.
        generator: draws both places.
        value_range: lowest and highest value.

    Returns:
        Image and sham, or None where there is no room for both.

    Raises:
        UsageError: an unknown kind.

    >>> made = plant(np.full((1, 64, 64), 0.5, np.float32), "text", np.zeros((64, 64), bool), np.random.default_rng(0))
    >>> bool((made.edit != made.sham).any()), bool((made.edit == made.sham)[:, ~made.where].all())
    (True, True)
    """
    if kind not in REGISTRY:
        raise UsageError(f"'{kind}' is not an artefact", where="artefact", then=did_you_mean(kind, REGISTRY))
    mark = REGISTRY[kind]((image.shape[1], image.shape[2]))
    if mark.framed:
        drawn = np.isfinite(mark.paint)
        return _framed(image, mark, value_range) if drawn.any() and not drawn.all() else None
    height, width = mark.paint.shape
    if height > image.shape[1] or width > image.shape[2]:
        return None
    corner = np.zeros(image.shape[1:], dtype=bool)
    corner[:height, :width] = True
    place = free_place(corner, taken, generator)
    if place is None:
        return None
    where = moved(corner, *place)
    source = free_place(corner, taken | where, generator)
    if source is None:
        return None
    edit, sham = image.copy(), image.copy()
    left, top, right, bottom = bounds_of(where)
    seen = np.isfinite(mark.paint)
    edit[:, top:bottom, left:right][:, seen] = _values(mark.paint, value_range)[seen]
    donor = image[:, source[0] : source[0] + height, source[1] : source[1] + width]
    sham[:, top:bottom, left:right][:, seen] = donor[:, seen]
    return Planted(edit, sham, where)


def _values(paint: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    low, high = value_range
    return np.asarray(low + paint * (high - low), dtype=np.float32)


def _framed(image: np.ndarray, mark: Mark, value_range: tuple[float, float]) -> Planted:
    """A frame; its sham is the image mirrored at the frame's inner edge."""
    seen = np.isfinite(mark.paint)
    left, top, right, bottom = bounds_of(~seen)
    pads = ((0, 0), (top, image.shape[1] - bottom), (left, image.shape[2] - right))
    sham = np.pad(image[:, top:bottom, left:right], pads, mode="symmetric")
    edit = np.where(seen, np.where(seen, _values(mark.paint, value_range), 0.0), image).astype(np.float32)
    return Planted(edit, np.ascontiguousarray(sham), seen)


@_artefact("text")
def _text(shape: tuple[int, int]) -> Mark:
    """A white time on a black plate."""
    from PIL import Image, ImageDraw, ImageFont

    size = max(10, round(0.055 * min(shape)))
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox("10:42:07")
    plate = Image.new("L", (round(right - left) + 6, round(bottom - top) + 6), 0)
    ImageDraw.Draw(plate).text((3 - left, 3 - top), "10:42:07", fill=255, font=font)
    return Mark((np.asarray(plate) > 127).astype(np.float32))


@_artefact("ruler")
def _ruler(shape: tuple[int, int]) -> Mark:
    """A white line with ticks, every fifth one longer; between them the image shows through."""
    length, step = max(20, round(0.4 * min(shape))), max(3, round(0.02 * min(shape)))
    paint = np.full((length, max(5, step * 2)), np.nan, dtype=np.float32)
    paint[:, 0] = 1.0
    for number, row in enumerate(range(0, length, step)):
        paint[row, : paint.shape[1] if number % 5 == 0 else paint.shape[1] // 2] = 1.0
    return Mark(paint)


@_artefact("calipers")
def _calipers(shape: tuple[int, int]) -> Mark:
    """Two white crosses and a dotted line between them, as a sonographer sets them around a lesion."""
    length, arm = max(16, round(0.2 * min(shape))), max(2, round(0.012 * min(shape)))
    paint = np.full((2 * arm + 1, length), np.nan, dtype=np.float32)
    paint[arm, arm : length - arm : 4] = 1.0
    for column in (arm, length - 1 - arm):
        paint[:, column] = 1.0
        paint[arm, column - arm : column + arm + 1] = 1.0
    return Mark(paint)


@_artefact("border")
def _border(shape: tuple[int, int]) -> Mark:
    """A black frame with a thin white line at its inner edge."""
    width = min(max(2, round(0.03 * min(shape))), min(shape) // 2)
    paint = np.full(shape, np.nan, dtype=np.float32)
    for depth in range(width):
        edge = 1.0 if depth == width - 1 else 0.0
        paint[[depth, -1 - depth], depth : shape[1] - depth] = edge
        paint[depth : shape[0] - depth, [depth, -1 - depth]] = edge
    return Mark(paint, framed=True)
