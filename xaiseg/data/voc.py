"""The reader ``voc``: images/ and one Pascal VOC XML file an image, in annotations/, Annotations/, labels/ or images/.

Coordinates are taken as they stand, in pixels from the upper left corner; the one pixel by which files that count
from 1 differ is not corrected. Objects marked ``difficult`` are regions to ignore. A file without objects is a
negative.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from xaiseg.data.base import Index, reader
from xaiseg.data.boxes import Labelled, boxed_case, class_index, with_boxes
from xaiseg.data.case import Case, CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.files import Place, images_by_id, partners, without_image
from xaiseg.data.pixels import IGNORE, SUFFIXES
from xaiseg.data.sidecar import chosen, described, read_rows, require_columns
from xaiseg.errors import DataError, UsageError

#: Where the XML files may lie below the folder.
FOLDERS: Final = ("annotations", "Annotations", "labels", "images")
_MOST_BYTES: Final = 20_000_000


@reader("voc")
class VocReader:
    """A case is an image; its id is the stem of the file."""

    def index(self, entry: DataEntry, root: Path, spec: ImageSpec) -> Index:
        """Lists the images and looks for classes that the model does not have."""
        place = Place(root / (entry.path or "."), root)
        images = images_by_id(place.folder(entry.images, "images"), SUFFIXES)
        beside = next((name for name in FOLDERS if any((place.base / name).glob("*.xml"))), None)
        labels = partners(place, entry.annotations, beside, (".xml",))
        if labels is None:
            where = place.base / FOLDERS[0]
            raise UsageError("there are no XML files", where=where, then="Name their folder under annotations:")
        rows, source = read_rows(entry, place)
        require_columns(entry, {column for row in rows.values() for column in row}, source)
        ids = chosen(entry, images, rows, source)
        _refuse_unknown([labels.files[id] for id in ids if id in labels.files], spec)
        cases = [
            CaseRef(id, str(images[id]), labels.of(id), **described(entry, id, rows.get(id, {}), source)) for id in ids
        ]
        lost = without_image(labels, images)
        return Index(
            cases, entry.cluster, entry.path or str(entry.images), unmatched=lost, filtered=len(images) - len(cases)
        )

    def load(self, entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
        """Decodes the image and reads its objects."""
        image, (height, width) = boxed_case(ref, entry, spec)
        path = Path(str(ref.reference))
        if not path.is_file():
            then = "An image without an object needs a file without objects; a missing one is no negative"
            raise DataError("the image has no annotation", where=path, then=then)
        document = _parsed(path)
        said = [_number(document, f"size/{side}", path, 0.0) for side in ("width", "height")]
        if all(said) and said != [width, height]:
            raise DataError(
                "the image has another size than the annotation says", where=path, got=f"{width} x {height}",
                allowed=f"{said[0]:g} x {said[1]:g}",
            )  # fmt: skip
        labelled = [_labelled(item, f"object {i}", spec, path) for i, item in enumerate(document.iter("object"), 1)]
        return with_boxes(ref, image, labelled, path)


def _parsed(path: Path) -> ET.Element:
    """The root element.

    Raises:
        DataError: no VOC file, or one that declares entities, which could grow without end.
    """
    try:
        data = path.read_bytes()
        if len(data) > _MOST_BYTES or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise DataError("this XML file declares a document type or is too large", where=path)
        root = ET.fromstring(data)
    except (ET.ParseError, OSError, ValueError, LookupError) as error:
        raise DataError(f"this is no XML ({error})", where=path) from error
    if root.tag != "annotation":
        raise DataError("this is no Pascal VOC file", where=path, got=f"<{root.tag}>", allowed="<annotation>")
    return root


def object_names(path: Path) -> list[str]:
    """What the objects of a file are called.

    Raises:
        DataError: this is no VOC file.
    """
    return [_name(item) for item in _parsed(path).iter("object")]


def _refuse_unknown(paths: list[Path], spec: ImageSpec) -> None:
    """Stops at the first class name that the model lacks; files that cannot be read fail their own cases later."""
    for path in paths:
        try:
            names = object_names(path)
        except DataError:
            continue
        for name in names:
            class_index(name, spec, path, then="Rename it in the files or in classes:")


def _labelled(item: ET.Element, where: str, spec: ImageSpec, path: Path) -> Labelled:
    corners = [_number(item, f"bndbox/{name}", path) for name in ("xmin", "ymin", "xmax", "ymax")]
    x0, y0, x1, y1 = corners
    if not (x1 > x0 and y1 > y0):
        numbers = ", ".join(f"{value:g}" for value in corners)
        then = "They read like x, y, width, height" if min(x1, y1) > 0 else None
        raise DataError(
            f"the box of {where} has no size", where=path, got=numbers, allowed="xmin < xmax, ymin < ymax", then=then
        )
    ignored = (item.findtext("difficult") or "0").strip() == "1"
    index = IGNORE if ignored else class_index(_name(item), spec, path)
    return Labelled((x0, y0, x1, y1), index, where)


def _name(item: ET.Element) -> str:
    return (item.findtext("name") or "").strip()


def _number(item: ET.Element, tag: str, path: Path, otherwise: float | None = None) -> float:
    text = item.findtext(tag)
    try:
        return float(text) if text is not None else float(otherwise)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise DataError(f"the field {tag} is no number", where=path, got=text) from error
