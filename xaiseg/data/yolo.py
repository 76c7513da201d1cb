"""The reader ``yolo``: images/ and labels/ with one text file an image, one object a line.

A line is ``class cx cy w h``, or the class and the corners of a polygon (four for oriented boxes), all as shares of the
image's sides. An empty file is a negative; a missing one is a failed case, since nobody knows what it would have said.
Class names come from data.yaml or classes.txt; without them the numbers are those of the model's classes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from xaiseg.data.base import Index, reader
from xaiseg.data.boxes import Labelled, boxed_case, class_index, mapping_hint, with_boxes
from xaiseg.data.case import Case, CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.files import Place, images_by_id, partners, without_image
from xaiseg.data.pixels import IGNORE, SUFFIXES
from xaiseg.data.sidecar import chosen, described, read_rows, require_columns
from xaiseg.errors import DataError, MissingFileError, UsageError

#: Shares may leave the image by this much: tools round to a few digits.
_ROUNDING: Final = 0.01
#: Text files that tools lay beside labels: names of classes, lists of images.
_LISTS: Final = ("classes", "train", "val", "test")


@reader("yolo")
class YoloReader:
    """A case is an image; its id is the stem of the file."""

    def index(self, entry: DataEntry, root: Path, spec: ImageSpec) -> Index:
        """Lists the images and reads the names of the classes; the labels are read with their images."""
        place = Place(root / (entry.path or "."), root)
        images = images_by_id(place.folder(entry.images, "images"), SUFFIXES)
        labels = partners(place, entry.annotations, "labels", (".txt",))
        if labels is None:
            raise MissingFileError(
                "this folder is missing", where=place.base / "labels", then="Name it under annotations:"
            )
        rows, source = read_rows(entry, place)
        require_columns(entry, {column for row in rows.values() for column in row}, source)
        table = _classes(entry, place, spec)
        cases = [
            CaseRef(
                id=id,
                image=str(images[id]),
                reference=labels.of(id),
                extra={"classes": table},
                **described(entry, id, rows.get(id, {}), source),
            )
            for id in chosen(entry, images, rows, source)
        ]
        lost = without_image(labels, images, but=_LISTS)
        return Index(
            cases, entry.cluster, entry.path or str(entry.images), unmatched=lost, filtered=len(images) - len(cases)
        )

    def load(self, entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
        """Decodes the image and reads its lines."""
        image, shape = boxed_case(ref, entry, spec)
        path = Path(str(ref.reference))
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            then = "An image without an object needs an empty file; a missing one is no negative"
            raise DataError("the image has no labels", where=path, then=then) from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the labels cannot be read ({error})", where=path) from error
        lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
        labelled = [_labelled(parts, ref.extra["classes"], shape, f"line {number}", path) for number, parts in lines]
        return with_boxes(ref, image, labelled, path)


def _classes(entry: DataEntry, place: Place, spec: ImageSpec) -> dict[int, int]:
    """Number in the label files -> class index of the model, or 255.

    Raises:
        UsageError: a name that is no class, or a number under ``labels:`` that is no class index.
    """
    table = {index: index for index in range(len(spec.classes))}
    found = class_names(place.base)
    if found is not None:
        names, source = found
        listed = {number: name for number, name in names.items() if number not in (entry.labels or {})}
        table = {number: class_index(name, spec, source, then=mapping_hint(number)) for number, name in listed.items()}
    for number, index in (entry.labels or {}).items():
        if not (index < len(spec.classes) or index == IGNORE):
            allowed = f"0 to {len(spec.classes) - 1}, or 255 to ignore"
            raise UsageError("this is no class index", where=f"labels: {number}", got=index, allowed=allowed)
        table[number] = index
    return table


def class_names(folder: Path) -> tuple[dict[int, str], Path] | None:
    """Number -> name from data.yaml (``names:``) or classes.txt, and the file.

    Looked for in the folder, the one above, and labels/, where LabelImg writes classes.txt.

    Raises:
        UsageError: the file has no usable names.
    """
    for place in (folder, folder.parent, folder / "labels"):
        if (place / "data.yaml").is_file():
            return _from_yaml(place / "data.yaml"), place / "data.yaml"
        if (place / "classes.txt").is_file():
            lines = (place / "classes.txt").read_text(encoding="utf-8-sig").splitlines()
            return dict(enumerate(line.strip() for line in lines if line.strip())), place / "classes.txt"
    return None


def _from_yaml(path: Path) -> dict[int, str]:
    from xaiseg.yamlfile import read_yaml

    names: Any = read_yaml(path).data.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(str(number).isdigit() for number in names):
        raise UsageError("this file lists no classes", where=path, allowed="names: [seal, boat] or names: {0: seal}")
    return {int(number): str(name) for number, name in names.items()}


def _labelled(parts: list[str], table: dict[int, int], shape: tuple[int, int], where: str, path: Path) -> Labelled:
    try:
        numbers = [float(part) for part in parts]
    except ValueError as error:
        raise DataError(f"{where} holds no numbers", where=path, got=" ".join(parts)[:60]) from error
    form = _form(numbers)
    if form != "box" and form != "polygon":
        raise DataError(f"{where} is no object: {form}", where=path, got=" ".join(parts)[:60],
                        allowed="class cx cy w h, or class x y x y x y ...")  # fmt: skip
    number = int(numbers[0])
    if number not in table:
        then = "Name the classes in data.yaml, or map the number under labels:"
        raise DataError(f"{where} has a class that is not known", where=path, got=number, allowed=sorted(table),
                        then=then)  # fmt: skip
    height, width = shape
    if form == "polygon":
        outline = np.asarray(numbers[1:], dtype=np.float32).reshape(-1, 2) * np.array([width, height], np.float32)
        low, high = outline.min(axis=0), outline.max(axis=0)
        return Labelled(
            (float(low[0]), float(low[1]), float(high[0]), float(high[1])), table[number], where, (outline,)
        )
    x, y, w, h = numbers[1:]
    _refuse_corner_shares(x, y, w, h, where, path)
    corners = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
    return Labelled(corners, table[number], where)


def _form(numbers: list[float]) -> str:
    """Either "box" or "polygon", else what is wrong."""
    if not all(math.isfinite(value) for value in numbers) or numbers[0] != int(numbers[0]) or numbers[0] < 0:
        return "the class is no whole number"
    if max(numbers[1:], default=0.0) > 1.5:
        return "shares of the sides are expected, these read like pixels"
    if len(numbers) == 6:
        return "six numbers are a prediction with its confidence, not a label"
    if len(numbers) == 5:
        return "box" if numbers[3] > 0 and numbers[4] > 0 else "it has no size"
    return "polygon" if len(numbers) >= 7 and len(numbers) % 2 else f"it has {len(numbers)} numbers"


def _refuse_corner_shares(x: float, y: float, w: float, h: float, where: str, path: Path) -> None:
    leaves = min(x - w / 2, y - h / 2) < -_ROUNDING or max(x + w / 2, y + h / 2) > 1 + _ROUNDING
    if leaves and w > x >= 0 and h > y >= 0 and max(w, h) <= 1 + _ROUNDING:
        raise DataError(
            f"{where} leaves the image and reads like corners x0, y0, x1, y1", where=path,
            got=f"{x:g} {y:g} {w:g} {h:g}", allowed="centre x, centre y, width, height",
        )  # fmt: skip
