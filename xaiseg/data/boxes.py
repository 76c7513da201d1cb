"""Reference boxes as every reader must deliver them: inside the image, corners told from sizes, nothing twice.

A box that sticks out a little was drawn by a hand that slipped, and is cut. One that lies mostly outside, or that would
fit if its numbers were read in the other order, is a mistake of the file and is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from xaiseg.data.case import Case, CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.pixels import IGNORE, read_pixels, to_image
from xaiseg.errors import DataError, UsageError, did_you_mean

#: A box may stick out of its image by this many pixels without being counted as sticking out.
SLACK: Final = 2.0
#: From this share of sticking boxes on, a file whose boxes would all fit as corners is taken for a file of corners.
_CONFUSED: Final = 0.1


@dataclass(frozen=True)
class Labelled:
    """One annotation of an image.

    Attributes:
        xyxy: corners in pixels as the file gives them, x0 < x1 and y0 < y1.
        index: class index, or 255 for a region to ignore.
        outline: polygons, each (P, 2) float32; empty where there is a box alone.
        where: "annotation 17" or "line 3", for messages.
    """

    xyxy: tuple[float, float, float, float]
    index: int
    where: str
    outline: tuple[np.ndarray, ...] = ()


def boxed_case(ref: CaseRef, entry: DataEntry, spec: ImageSpec) -> tuple[np.ndarray, tuple[int, int]]:
    """The decoded image (C, H, W) of a case and its (H, W).

    Raises:
        DataError: it cannot be decoded or does not fit the model.
    """
    path = Path(ref.image)
    image = to_image(read_pixels(path, max_pixels=spec.max_pixels), spec, path, window=entry.window)
    return image, (image.shape[1], image.shape[2])


def with_boxes(ref: CaseRef, image: np.ndarray, labelled: Sequence[Labelled], path: Path) -> Case:
    """A case of boxes that were checked against the image and cut at its border.

    Raises:
        DataError: a box lies mostly outside, or two boxes of one class are the same: one of them could only be missed.
    """
    shape = image.shape[1], image.shape[2]
    rows = [(*inside(one, shape, path), one.index) for one in labelled]
    counted = [position for position, row in enumerate(rows) if row[4] != IGNORE]  # regions to ignore may coincide
    twice = repeated([(*rows[position][:4], rows[position][4]) for position in counted])
    if twice is not None:
        first, second = (labelled[counted[position]].where for position in twice)
        raise DataError(f"{first} and {second} are the same box", where=path, then="Remove one of them")
    boxes = np.array(rows, dtype=np.float32).reshape(-1, 5)
    return Case(ref, image, boxes=boxes, outlines=tuple(one.outline for one in labelled))


def repeated(rows: Sequence[tuple[float, ...]]) -> tuple[int, int] | None:
    """Positions of the first two equal rows, or None.

    >>> repeated([(0, 0, 1, 1, 0), (2, 2, 3, 3, 0), (0, 0, 1, 1, 0)])
    (0, 2)
    """
    seen: dict[tuple[float, ...], int] = {}
    for position, row in enumerate(rows):
        if row in seen:
            return seen[row], position
        seen[row] = position
    return None


def inside(one: Labelled, shape: tuple[int, int], path: Path) -> tuple[float, float, float, float]:
    """The corners, cut at the border of an image (H, W).

    Raises:
        DataError: less than half of the box lies in the image; where x0, y0, width, height read as corners would fit,
            the message says so.
    """
    x0, y0, x1, y1 = one.xyxy
    height, width = shape
    cut = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    area = max(cut[2] - cut[0], 0.0) * max(cut[3] - cut[1], 0.0)
    if not area >= 0.5 * (x1 - x0) * (y1 - y0) > 0.0:
        numbers = ", ".join(f"{value:g}" for value in one.xyxy)
        as_corners = x1 - x0 > x0 >= 0 and y1 - y0 > y0 >= 0 and x1 - x0 <= width and y1 - y0 <= height
        raise DataError(
            f"the box of {one.where} lies mostly outside the image", where=path, got=f"corners {numbers}",
            allowed=f"0, 0 to {width}, {height}",
            then="Its third and fourth number read like the far corner instead of the size" if as_corners
            else "Is it the box of another image, or of the image at another size?",
        )  # fmt: skip
    return cut


def refuse_corners(boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]], source: object) -> None:
    """Refuses a file of x, y, width, height whose numbers are corners: a tenth sticks out, and all fit as corners.

    Args:
        boxes: x, y, width, height in pixels.
        sizes: (H, W) of the image of each box.
        source: for the message.

    Raises:
        UsageError: they are corners.

    >>> refuse_corners([(5, 5, 20, 20)], [(100, 100)], "a.json")
    >>> refuse_corners([(50, 60, 90, 80)], [(100, 100)], "a.json")
    Traceback (most recent call last):
    xaiseg.errors.UsageError: a.json: the boxes read like corners x0, y0, x1, y1. Got: 50, 60, 90, 80. ...
    """
    sticking, example = 0, ""
    for (x, y, w, h), (height, width) in zip(boxes, sizes, strict=True):
        if not (w > x >= 0 and h > y >= 0 and w <= width + SLACK and h <= height + SLACK):
            return
        if x + w > width + SLACK or y + h > height + SLACK:
            sticking += 1
            example = example or ", ".join(f"{value:g}" for value in (x, y, w, h))
    if sticking and sticking >= _CONFUSED * len(boxes):
        raise UsageError(
            "the boxes read like corners x0, y0, x1, y1", where=source, got=example, allowed="x, y, width, height",
            then="Subtract the first two numbers from the last two",
        )  # fmt: skip


def refuse_shares(boxes: Sequence[Sequence[float]], source: object) -> None:
    """Refuses a file of boxes in pixels whose numbers are shares of the sides: none of many exceeds 1.

    Raises:
        UsageError: they are shares.

    >>> refuse_shares([(0.5, 0.5, 0.1, 0.1)] * 3, "a.json")
    Traceback (most recent call last):
    xaiseg.errors.UsageError: a.json: the boxes read like shares of width and height. Got: 0.5, 0.5, 0.1, 0.1. ...
    """
    if boxes and all(max(box) <= 1 for box in boxes):
        raise UsageError(
            "the boxes read like shares of width and height", where=source,
            got=", ".join(f"{value:g}" for value in boxes[0]), allowed="x, y, width, height in pixels",
            then="Multiply them by the sides of their image",
        )  # fmt: skip


def class_index(name: str, spec: ImageSpec, where: object, *, word: str = "class", then: str = "") -> int:
    """The index of a class by its name.

    Raises:
        UsageError: no such class, with a hint.
    """
    if name in spec.classes:
        return spec.classes.index(name)
    hint = did_you_mean(name, spec.classes)
    raise UsageError(
        f"the {word} '{name}' is no class of the model", where=where, allowed=_few(spec.classes),
        then=" ".join(part for part in (hint if hint.endswith("?") else "", then) if part) or None,
    )  # fmt: skip


def _few(classes: Sequence[str]) -> str:
    """Class names with their numbers, the first of many."""
    shown = ", ".join(f"{number} {name}" for number, name in enumerate(classes[:8]))
    return shown + (f" and {len(classes) - 8} more" if len(classes) > 8 else "")


def mapping_hint(number: object) -> str:
    """What to write where the labels use another name than the model."""
    said = f"labels: {{{number}: N}} below the data in model.yaml, with N the number of the class that it is"
    return f"Rename it, or write {said}, or 255 to leave it out"


def polygon(numbers: Sequence[float]) -> np.ndarray:
    """x, y, x, y, ... as (P, 2) float32.

    Raises:
        ValueError: fewer than three corners, an odd number of values, or a value that is no number.

    >>> polygon([0, 0, 4, 0, 4, 2]).tolist()
    [[0.0, 0.0], [4.0, 0.0], [4.0, 2.0]]
    """
    if len(numbers) < 6 or len(numbers) % 2 or not all(math.isfinite(value) for value in numbers):
        raise ValueError("a polygon needs x, y of three corners or more")
    return np.asarray(numbers, dtype=np.float32).reshape(-1, 2)
