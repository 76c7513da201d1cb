"""What a folder says of the pictures that are cut: its labels, checked as the reader checks them, and its table.

A cut made of wrong labels looks right: an annotation without its picture would leave a tile that counts as empty, and a
box that lies elsewhere would vanish. So everything is refused here that the reader ``coco`` would refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from xaiseg.data.boxes import Labelled, inside
from xaiseg.data.coco import (
    OWN_FIELDS,
    annotations_of,
    corners_of,
    declared_size,
    images_of,
    not_listed,
    outline_of,
    read_coco,
    refuse_odd_boxes,
    refuse_other_size,
)
from xaiseg.data.cutting import cut_things
from xaiseg.data.files import images_by_id
from xaiseg.data.pixels import SUFFIXES
from xaiseg.data.readers import labels_beside, labels_in
from xaiseg.data.sidecar import CLUSTER_COLUMNS, TRUTH, WORDS, read_sidecars, spelled, text
from xaiseg.errors import DataError, UsageError

#: Columns of meta.csv that are about the draw of a picture and not about its tiles.
_OF_THE_DRAW: Final = ("count", "probability", "draw_probability", "drawn", "draws")


@dataclass(frozen=True)
class Source:
    """A folder of pictures.

    Attributes:
        folder: where the pictures lie.
        file: the COCO file, or None without labels.
        images: of the COCO file, or one with ``id`` and ``file_name`` for each picture.
        things: ``id`` of an image -> its annotations, each after the words that name it in a message.
        categories: of the COCO file.
        unlisted: pictures that lie beside those of the COCO file, and that it does not list.
    """

    folder: Path
    file: Path | None
    images: Sequence[Mapping[str, Any]]
    things: Mapping[Any, Sequence[tuple[str, Mapping[str, Any]]]]
    categories: Sequence[Any] = ()
    unlisted: tuple[str, ...] = ()

    def of(self, image: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The annotations of an image."""
        return [item for _, item in self.things.get(image["id"], ())]


def open_source(source: Path) -> Source:
    """The pictures of a folder, and their annotations where it has labels.

    Raises:
        UsageError: the folder is missing, its labels are of another kind or contradict themselves, or two pictures
            would give tiles of one name.
        NothingToAudit: there is no picture.
    """
    if not source.is_dir():
        raise UsageError("this folder is missing", where=source)
    folder = source / "images" if (source / "images").is_dir() else source
    found = labels_in(source) or labels_beside(folder)
    if (source / "masks").is_dir() or (found is not None and found[0] != "coco"):
        got = "masks/" if found is None or found[0] == "coco" else found[0]
        raise UsageError("labels of this kind are not cut", where=source, got=got, allowed="boxes in COCO's format",
                         then="Convert them, or move them away to cut the pictures alone")  # fmt: skip
    if found is None:
        names = [path.name for path in images_by_id(folder, SUFFIXES).values()]
        return Source(folder, None, [{"id": name, "file_name": name} for name in names], {})
    file = source / (found[1] or "annotations.json")
    document = read_coco(file)
    images = list(images_of(document, file).values())
    _refuse_equal_names(images, file)
    lost = not_listed(folder, images)
    return Source(folder, file, images, annotations_of(document, file), document["categories"], lost)


def tile_stem(image: Mapping[str, Any]) -> str:
    """How the names of the tiles of a picture begin.

    >>> tile_stem({"file_name": "flight1/a.png"})
    'flight1_a'
    """
    return _id(image).replace("/", "_")


def _id(image: Mapping[str, Any]) -> str:
    return Path(str(image["file_name"])).with_suffix("").as_posix()


def _refuse_equal_names(images: Sequence[Mapping[str, Any]], file: Path) -> None:
    """The tiles of one picture would be written over those of the other, and lie there under both labels."""
    seen: dict[str, str] = {}
    for image in images:
        name, before = str(image["file_name"]), seen.get(tile_stem(image))
        if before is not None:
            raise UsageError("two pictures give tiles of the same name", where=file, got=f"{before}, {name}",
                             then="Rename one of them")  # fmt: skip
        seen[tile_stem(image)] = name


def refuse_wrong_labels(source: Source, sizes: Sequence[tuple[int, int]]) -> None:
    """Stops where the reader would, before a tile is written.

    Args:
        source: with labels; without, nothing is checked.
        sizes: (H, W) of the pictures, in the order of ``source.images``.

    Raises:
        UsageError: the boxes are corners or shares of the sides.
        DataError: a picture has another size than is stated, an annotation has no box and no outline with pixels, or
            its box or outline is none or lies mostly outside the picture.
    """
    if source.file is None:
        return
    for image, size in zip(source.images, sizes, strict=True):
        refuse_other_size(declared_size(image), size, source.folder / image["file_name"])
    pairs = [(source.of(image), size) for image, size in zip(source.images, sizes, strict=True)]
    refuse_odd_boxes(((thing.get("bbox") or None, size) for things, size in pairs for thing in things), source.file)
    for image, size in zip(source.images, sizes, strict=True):
        for where, thing in source.things.get(image["id"], ()):
            _refuse_wrong(thing, where, size, source.file, source.folder / image["file_name"])


def _refuse_wrong(thing: Mapping[str, Any], where: str, size: tuple[int, int], file: Path, picture: Path) -> None:
    outline = outline_of(thing.get("segmentation") or None, where, file)
    if thing.get("bbox"):
        inside(Labelled(corners_of(thing["bbox"], where, file), 0, where, outline), size, picture)
    elif next(cut_things([thing], 0, 0, size), None) is None:
        raise DataError(f"the outline of {where} lies outside the image", where=picture)


def described(source: Path, images: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is known of each picture and true of its tiles; the cluster, and the ground, where nobody names it.

    As where the folder is read uncut: fields of the COCO file, and those of meta.csv in their place.

    Raises:
        UsageError: meta.csv names a picture that is not there, or cannot be read.
    """
    meta = source / "meta.csv"
    held = read_sidecars([meta]) if meta.is_file() else {}
    stems = [_id(image) for image in images]
    if lost := [id for id in held if id not in stems]:
        raise UsageError("the sidecar names pictures that are not there", where=meta, got=", ".join(lost[:3]))
    columns = {column for row in held.values() for column in row} | {column for image in images for column in image}
    found = []
    for image, stem in zip(images, stems, strict=True):
        row = _true_of_tiles({**image, **held.get(stem, {})})
        if not any(spelled(name, columns) for name in CLUSTER_COLUMNS):
            row["group"] = stem.replace("/", "_")
        if len(images) == 1 and not row.get("footprint"):
            row["footprint"] = "disjoint"
        found.append(row)
    return found


def _true_of_tiles(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a picture that its tiles share; columns of a known name get it as it is written in the manual.

    >>> _true_of_tiles({"id": 1, "Footprint": "overlapping", "Known_Empty": "no", "drawn": 2, "habitat": "ice"})
    {'footprint': 'overlapping', 'habitat': 'ice'}
    """
    kept = {
        column: value
        for column, value in fields.items()
        if column not in OWN_FIELDS and column.strip().lower() not in _OF_THE_DRAW
    }
    for name in WORDS:
        # What a tile says of itself must not stand beside another spelling of it.
        own = spelled(name, kept)
        others = {column for column in kept if column.strip().lower() == name} - {own}
        kept = {name if column == own else column: value for column, value in kept.items() if column not in others}
    if TRUTH.get(text(kept.get("known_empty")).lower()) is False:
        del kept["known_empty"]  # a tile of a picture with animals may well have none
    return kept
