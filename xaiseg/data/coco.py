"""The reader ``coco``: images/ and a COCO JSON file with polygons, run lengths or boxes.

Categories become classes by name. A segmentation model gets masks of class indices: crowds first, as 255 (ignore), then
the objects in the order of the file, later ones over earlier ones. Everything else gets boxes with their outlines.
Format: T.-Y. Lin et al., ECCV 2014, cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

import numpy as np

from xaiseg.data.base import Index, reader
from xaiseg.data.boxes import (
    Labelled,
    boxed_case,
    class_index,
    mapping_hint,
    polygon,
    refuse_corners,
    refuse_shares,
    with_boxes,
)
from xaiseg.data.case import Case, CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.files import Place, partners
from xaiseg.data.folder import load_mask
from xaiseg.data.pixels import IGNORE, SUFFIXES
from xaiseg.data.rle import decode_counts, polygon_to_mask, runs_to_mask
from xaiseg.data.sidecar import Rows, chosen, described, read_rows, require_columns, text
from xaiseg.errors import DataError, MissingFileError, NothingToAudit, UsageError

OWN_FIELDS: Final = ("id", "file_name", "width", "height")  # of an image; other fields are columns


@dataclass(frozen=True)
class Thing:
    """One annotation.

    Attributes:
        index: class index, or 255 for a crowd or a category to ignore.
        bbox: x, y, width, height in pixels, or None.
        outline: polygons or run lengths as in the file, or None.
        where: "annotation 17", for messages.
    """

    index: int
    bbox: Sequence[float] | None
    outline: Any
    where: str


@reader("coco")
class CocoReader:
    """A case is an image of the file; its id is ``file_name`` without suffix."""

    def index(self, entry: DataEntry, root: Path, spec: ImageSpec) -> Index:
        """Lists the images; fields of an image and the sidecars are its columns."""
        place = Place(root / (entry.path or "."), root)
        # Another entry's file, beside model.yaml, does not stand for one that is missing here.
        file = place.find(entry.annotations) if entry.annotations else place.base / "annotations.json"
        document = read_coco(file)
        images = images_of(document, file)
        rows, source = _rows(entry, place, file, images)
        require_columns(entry, {column for row in rows.values() for column in row}, source)
        things = _things(document, entry, spec, file)
        _refuse_corners(things, images, file)
        masks = _are_masks(things, spec)
        reader2 = partners(place, entry.masks_reader2, None, SUFFIXES)
        folder = place.folder(entry.images, "images")
        cases = [
            CaseRef(
                id=id,
                image=str(folder / images[id]["file_name"]),
                reference=str(file),
                reader2=reader2.of(id) if reader2 else None,
                extra={
                    "size": declared_size(images[id]),
                    "things": tuple(things.get(images[id]["id"], ())),
                    "masks": masks,
                },
                **described(entry, id, rows[id], source),
            )
            for id in chosen(entry, images, rows, source)
        ]
        lost = not_listed(folder, images.values())
        return Index(cases, entry.cluster, entry.path or str(file), unmatched=lost, filtered=len(images) - len(cases))

    def load(self, entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
        """Decodes the image; draws its annotations where a segmentation model needs masks."""
        path = Path(ref.image)
        image, shape = boxed_case(ref, entry, spec)
        refuse_other_size(ref.extra["size"], shape, path)
        things: Sequence[Thing] = ref.extra["things"]
        masks = ref.extra["masks"]
        drawn = [_outline(thing, shape, path) if masks or thing.bbox is None else None for thing in things]
        labelled = [_labelled(thing, mask, path) for thing, mask in zip(things, drawn, strict=True)]
        if not masks:
            return with_boxes(ref, image, labelled, path)
        reference, reader2 = _draw(things, drawn, shape, path), load_mask(ref.reader2, entry, spec, shape)
        boxes = np.array([(*one.xyxy, one.index) for one in labelled], dtype=np.float32).reshape(-1, 5)
        return Case(ref, image, reference, reader2, boxes, tuple(one.outline for one in labelled))


def read_coco(file: Path) -> Mapping[str, Any]:
    """A COCO document whose lists ``images``, ``annotations`` and ``categories`` have the fields that are needed.

    Raises:
        UsageError: the file is missing, no JSON, or lacks a list or a field.
    """
    if not file.is_file():
        raise MissingFileError("this file of annotations is missing", where=file)
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"this is no JSON ({error})", where=file) from error
    needed = {
        "images": ("id", "file_name"),
        "annotations": ("image_id", "category_id"),
        "categories": ("id", "name"),
    }
    for part, fields in needed.items():
        items = document.get(part) if isinstance(document, dict) else None
        if isinstance(document, dict) and "detection_categories" in document:
            raise UsageError("this file holds MegaDetector's predictions and no labels", where=file)
        if not isinstance(items, list):
            raise UsageError(f"this is no COCO file: it has no list '{part}'", where=file)
        for position, item in enumerate(items):
            lacking = [field for field in fields if not isinstance(item, dict) or field not in item]
            if lacking:
                raise UsageError(f"the field '{lacking[0]}' is missing", where=f"{file}: {part}[{position}]")
            for field in fields:
                if not isinstance(item[field], int | str):
                    raise UsageError(f"the field '{field}' is no number or text", where=f"{file}: {part}[{position}]")
    return dict(document)


def images_of(document: Mapping[str, Any], file: Path) -> dict[str, Mapping[str, Any]]:
    """The images by their id: ``file_name`` without suffix.

    Raises:
        UsageError: two have the same, or one leaves the folder of images.
        NothingToAudit: there is none.
    """
    images = {_id(image, file): image for image in document["images"]}
    if len(images) < len(document["images"]):
        raise UsageError("two images have the same file_name (without suffix)", where=file)
    if not images:
        raise NothingToAudit("this file lists no image", where=file)
    return images


def annotations_of(document: Mapping[str, Any], file: Path) -> dict[Any, list[tuple[str, Mapping[str, Any]]]]:
    """``id`` of an image -> its annotations, each after the words that name it in a message ("annotation 17").

    Raises:
        UsageError: an annotation of an unknown image, or an id that stands twice.
    """
    known = {image["id"] for image in document["images"]}
    if len(known) < len(document["images"]):
        raise UsageError("two images have the same id", where=file)
    ids = [item["id"] for item in document["annotations"] if isinstance(item.get("id"), int | str)]
    if len(set(ids)) < len(ids):
        twice = next(id for id, count in Counter(ids).items() if count > 1)
        raise UsageError("two annotations have the same id", where=file, got=twice, then="Number them anew")
    found: dict[Any, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    for position, item in enumerate(document["annotations"]):
        where, image = f"annotation {item.get('id', position)}", item["image_id"]
        if image not in known:
            # "1" is not 1, and nobody knows whether it is meant
            alike = str(image) in map(str, known)
            then = "An image has this id as a number and not as text, or the other way round" if alike else None
            raise UsageError("this image is not listed", where=f"{file}: {where}", got=image, then=then)
        found[image].append((where, item))
    return found


def image_rows(document: Mapping[str, Any], file: Path) -> Rows:
    """Columns that the images themselves have: fields besides COCO's own whose value is text or a number.

    >>> image_rows({"images": [{"id": 1, "file_name": "a.jpg", "group": "f1", "frame": 3}]}, Path("a.json"))
    {'a': {'group': 'f1', 'frame': '3'}}
    """
    return {_id(image, file): _columns(image) for image in document["images"]}


def _columns(image: Mapping[str, Any]) -> dict[str, str]:
    plain = (str, int, float, bool, type(None))
    return {name: text(value) for name, value in image.items() if name not in OWN_FIELDS and isinstance(value, plain)}


def _id(image: Mapping[str, Any], file: Path) -> str:
    name = image["file_name"]
    # Both grammars, so that a file written on Windows cannot leave the folder either.
    ways = (PurePosixPath(str(name)), PureWindowsPath(str(name)))
    if not isinstance(name, str) or not name or any(way.anchor or ".." in way.parts for way in ways):
        raise UsageError("file_name leaves the folder of images", where=file, got=name, allowed="a path below images/")
    return ways[0].with_suffix("").as_posix()


def not_listed(folder: Path, images: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Images that lie beside those of the file, which nobody says to be empty: they are no negatives."""
    listed = {(folder / image["file_name"]).as_posix() for image in images}
    beside = sorted({Path(name).parent for name in listed})
    there = (path for place in beside if place.is_dir() for path in sorted(place.iterdir()))
    return tuple(
        path.relative_to(folder).as_posix()
        for path in there
        if path.suffix.lower() in SUFFIXES and path.as_posix() not in listed
    )


def declared_size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """(H, W) that the file states of an image, or None."""
    return (image["height"], image["width"]) if "height" in image and "width" in image else None


def refuse_other_size(declared: tuple[int, int] | None, shape: tuple[int, int], path: Path) -> None:
    """Stops where a picture is not as large as the annotations say: their boxes are those of another one.

    Raises:
        DataError: another size (H, W).
    """
    if declared is not None and declared != shape:
        what = "the image has another size than the annotations say"
        raise DataError(what, where=path, got=_by(shape), allowed=_by(declared))


def _rows(entry: DataEntry, place: Place, file: Path, images: Mapping[str, Mapping[str, Any]]) -> tuple[Rows, Path]:
    """Columns of each image: its own fields, then those of the sidecars."""
    beside, source = read_rows(entry, place)
    own = {id: {**_columns(image), **beside.get(id, {})} for id, image in images.items()}
    return {**beside, **own}, source if beside else file


def _things(document: Mapping[str, Any], entry: DataEntry, spec: ImageSpec, file: Path) -> dict[Any, list[Thing]]:
    """Image id -> its annotations.

    Raises:
        UsageError: an annotation of an unknown image or of a category that is no class, or an id that stands twice.
    """
    names = {category["id"]: str(category["name"]) for category in document["categories"]}
    found: dict[Any, list[Thing]] = {}
    for image, items in annotations_of(document, file).items():
        found[image] = []
        for where, item in items:
            index = _class_index(item["category_id"], names, entry.labels or {}, spec, f"{file}: {where}")
            crowd = bool(item.get("iscrowd"))
            outline = item.get("segmentation") or None
            found[image].append(Thing(IGNORE if crowd else index, item.get("bbox") or None, outline, where))
    return found


def _class_index(
    category: Any, names: Mapping[Any, str], labels: Mapping[int, int], spec: ImageSpec, where: str
) -> int:
    if category in labels:
        if not (labels[category] < len(spec.classes) or labels[category] == IGNORE):
            allowed = f"0 to {len(spec.classes) - 1}, or 255 to ignore"
            raise UsageError(
                "this is no class index", where=f"labels: {category}", got=labels[category], allowed=allowed
            )
        return labels[category]
    if category not in names:
        raise UsageError("this category is not listed", where=where, got=category)
    name = names[category]
    return class_index(name, spec, where, word="category", then=mapping_hint(category))


def _refuse_corners(things: Mapping[Any, Sequence[Thing]], images: Mapping[str, Mapping[str, Any]], file: Path) -> None:
    """Refuses boxes that are corners or shares; where the file states no sizes, each image tells when it is loaded."""
    sizes = {image["id"]: declared_size(image) for image in images.values()}
    refuse_odd_boxes(((thing.bbox, sizes[id]) for id, each in things.items() for thing in each), file)


def refuse_odd_boxes(boxes: Iterable[tuple[Sequence[Any] | None, tuple[int, int] | None]], file: Path) -> None:
    """Refuses boxes that are corners, or shares of the sides, as far as all of them together tell.

    Args:
        boxes: ``bbox`` of every annotation, or None, and the (H, W) of its image, or None where nobody states it.
        file: for the message.

    Raises:
        UsageError: they are not x, y, width, height in pixels.
    """
    known = [(numbers, size) for bbox, size in boxes if bbox is not None and (numbers := _numbers(bbox)) is not None]
    sized = [(numbers, size) for numbers, size in known if size is not None]
    refuse_corners([numbers for numbers, _ in sized], [size for _, size in sized], file)
    refuse_shares([numbers for numbers, _ in known], file)


def _are_masks(things: Mapping[Any, Sequence[Thing]], spec: ImageSpec) -> bool:
    """Whether the data are masks: not for a detector, whose class 0 is an object, nor when there are boxes alone."""
    listed = [thing for each in things.values() for thing in each]
    if spec.task == "detection" or any(thing.index == 0 for thing in listed):
        return False
    return not listed or any(thing.outline is not None for thing in listed)


def _outline(thing: Thing, shape: tuple[int, int], path: Path) -> np.ndarray | None:
    """The mask (H, W) bool of one annotation, or None when it has a box alone."""
    outline = thing.outline
    if outline is None:
        return None
    try:
        if isinstance(outline, Mapping):
            if tuple(outline["size"]) != shape:
                raise ValueError(f"the run lengths are of an image of {_by(outline['size'])}, not {_by(shape)}")
            counts = outline["counts"]
            return runs_to_mask(decode_counts(counts) if isinstance(counts, str) else counts, shape)
        mask = np.zeros(shape, dtype=bool)
        for polygon in outline:
            mask |= polygon_to_mask(polygon, shape)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise DataError(f"the outline of {thing.where} cannot be drawn ({error})", where=path) from error
    return mask


def _labelled(thing: Thing, drawn: np.ndarray | None, path: Path) -> Labelled:
    """Corners, class and polygons of one annotation; without a box, that of its outline."""
    outline = outline_of(thing.outline, thing.where, path)
    if thing.bbox is None:
        if drawn is None or not drawn.any():
            raise DataError(f"{thing.where} has neither a box nor an outline with pixels", where=path)
        rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
        corners = float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
        return Labelled(corners, thing.index, thing.where, outline)
    return Labelled(corners_of(thing.bbox, thing.where, path), thing.index, thing.where, outline)


def outline_of(outline: Any, where: str, path: Path) -> tuple[np.ndarray, ...]:
    """The polygons (P, 2) of a ``segmentation``; none of run lengths, or where it is None.

    Raises:
        DataError: one of them is no polygon.
    """
    try:
        parts = [] if isinstance(outline, Mapping) or not outline else list(outline)
        return tuple(polygon(part) for part in parts)
    except (ValueError, TypeError) as error:
        raise DataError(f"the outline of {where} cannot be drawn ({error})", where=path) from error


def corners_of(bbox: Sequence[Any], where: str, path: Path) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a ``bbox``.

    Args:
        bbox: x, y, width, height.
        where: "annotation 17".
        path: the file that the message names.

    Raises:
        DataError: it has not four finite numbers, or no size.

    >>> corners_of([2, 3, 10, 20], "annotation 17", Path("a.json"))
    (2.0, 3.0, 12.0, 23.0)
    """
    numbers = _numbers(bbox)
    if numbers is None or min(numbers[2:]) <= 0:
        allowed = "x, y, width, height with a positive size"
        raise DataError(f"the box of {where} is no box", where=path, got=bbox, allowed=allowed)
    x, y, width, height = numbers
    return x, y, x + width, y + height


def _numbers(bbox: Sequence[Any]) -> list[float] | None:
    if not isinstance(bbox, list | tuple):
        return None
    numbers = [float(value) for value in bbox if isinstance(value, int | float) and math.isfinite(value)]
    return numbers if len(numbers) == len(bbox) == 4 else None


def _draw(
    things: Sequence[Thing], outlines: Sequence[np.ndarray | None], shape: tuple[int, int], path: Path
) -> np.ndarray:
    """Class indices (H, W) uint8: what is ignored first, then the objects in order."""
    mask = np.zeros(shape, dtype=np.uint8)
    pairs = list(zip(things, outlines, strict=True))
    for thing, outline in sorted(pairs, key=lambda pair: pair[0].index != IGNORE):
        if outline is None:
            raise DataError(f"{thing.where} has a box but no outline", where=path, then="Draw it, or remove it")
        mask[outline] = thing.index
    return mask


def _by(size: Sequence[int]) -> str:
    return " x ".join(str(side) for side in size)
