"""The front door of the data layer: open an entry, load a case, or take a folder as it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Final

from xaiseg.data.base import READERS, Reader, list_digest
from xaiseg.data.case import Case, CaseRef, Dataset, ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.pixels import IGNORE, SUFFIXES
from xaiseg.data.sidecar import CLUSTER_COLUMNS, TRUTH, keep, read_sidecars, spelled
from xaiseg.errors import DataError, UsageError, did_you_mean
from xaiseg.parameters import load_entry_points

Row = Mapping[str, str]

#: Module of each built-in reader; it is imported when it is asked for, so that extras stay optional.
BUILTIN: Final = {
    "folder": "xaiseg.data.folder",
    "coco": "xaiseg.data.coco",
    "yolo": "xaiseg.data.yolo",
    "voc": "xaiseg.data.voc",
    "nifti": "xaiseg.data.medical",
    "dicom": "xaiseg.data.medical",
    "phantom": "xaiseg.data.generated",
    "scene": "xaiseg.data.generated",
}

#: Other names that tools give a COCO file; Roboflow writes it among the images.
_COCO_NAMES: Final = ("_annotations.coco.json", "images/_annotations.coco.json")
#: What every aerial survey is asked about (Hodgson et al., PLoS ONE 2013): columns that need no declaration.
_SURVEY_STRATA: Final = ("habitat", "sea_state", "glint", "gsd_cm")
#: A column with more values than this holds measurements and no groups.
_MOST_LEVELS: Final = 12
#: More JSON files than this are one an image, and not looked into.
_MOST_JSON: Final = 8


def get_reader(name: str) -> Reader:
    """The reader with this name; third parties register through the entry point ``xaiseg.readers``.

    Raises:
        UsageError: unknown name, with a hint.
    """
    if name in BUILTIN:
        import_module(BUILTIN[name])
    elif name not in READERS:
        load_entry_points("xaiseg.readers")
    if name not in READERS:
        raise UsageError(f"'{name}' is not a reader", then=did_you_mean(name, [*BUILTIN, *READERS]))
    return READERS[name]


def open_dataset(name: str, entry: DataEntry, *, root: Path, spec: ImageSpec) -> Dataset:
    """Lists the cases of an entry without decoding a pixel.

    Args:
        name: test, train, ...
        entry: from model.yaml or :func:`entry_from_folder`.
        root: relative paths of the entry start here.
        spec: what the subject expects.

    Raises:
        UsageError: files or columns do not fit the entry, or an id stands twice.
        NothingToAudit: there is no case.
    """
    root = Path(root).resolve()
    index = get_reader(entry.reader).index(entry, root, spec)
    cases = tuple(sorted(index.cases, key=lambda case: case.id))
    for one, other in pairwise(cases):
        if one.id == other.id:
            raise UsageError(f"the id '{one.id}' stands twice", where=index.source, got=f"{one.image}, {other.image}")
    return Dataset(
        name=name,
        reader=entry.reader,
        cases=cases,
        cluster_column=index.cluster_column,
        strata=entry.strata,
        list_sha256=list_digest(cases, root),
        source=index.source,
        generated=index.generated,
        unmatched=tuple(index.unmatched),
        filtered=index.filtered,
    )


def load_case(entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
    """Loads one case; the same reference always gives the same case.

    Raises:
        DataError: the case cannot be used, and why; also where it is declared to be empty and has boxes.
    """
    case = get_reader(entry.reader).load(entry, ref, spec)
    if ref.survey.get("known_empty") == "true" and case.boxes is not None and (case.boxes[:, 4] != IGNORE).any():
        count = int((case.boxes[:, 4] != IGNORE).sum())
        what = "the sidecar says known_empty and the image has boxes"
        raise DataError(what, where=ref.id, got=count, then="Correct the sidecar or the boxes")
    return case


def entry_from_folder(path: Path, *, name: str = "test") -> DataEntry:
    """The entry of ``--data NAME=DIR``: a folder as it stands.

    Without masks/, a folder with a COCO file (annotations.json, _annotations.coco.json, or the only one of its JSON
    files and those in annotations/ that has COCO's lists) is COCO, one with labels/*.txt is YOLO, and one with XML
    files in annotations/, Annotations/, labels/ or images/ is Pascal VOC. One whose images/ holds NIfTI or DICOM files
    is read as such. Clusters come from the first of :data:`CLUSTER_COLUMNS` that meta.csv (or the images of a COCO
    file) has, else from the volume or the patient of a header, else every image stands for itself. Columns habitat,
    sea_state, glint and gsd_cm of meta.csv are strata where they have two to :data:`_MOST_LEVELS` values, and a column
    spacing_mm is the size of a pixel. Capital letters do not matter. Images whose cluster is blank are one cluster.
    Augmented copies are left out of what is tested, unless all are.

    Boxes may also lie among their images, in a folder without images/, and a COCO file may be named itself.

    Raises:
        UsageError: the folder is missing or has no image, or a table cannot be read.
    """
    file, folder = None, Path(path).resolve()
    if folder.is_file() and folder.suffix.lower() == ".json":
        file, folder = folder.name, folder.parent
        if not (folder / "images").is_dir() and not _holds_images(folder) and (folder.parent / "images").is_dir():
            file, folder = f"{folder.name}/{file}", folder.parent  # annotations/instances_default.json
    images = None if (folder / "images").is_dir() else "."
    if not folder.is_dir() or (images and not _holds_images(folder)):
        allowed = "a folder with images/ and masks/ or labels, a folder of images with their labels, or a COCO file"
        raise UsageError("this is no data folder", where=path, allowed=allowed)
    reader, annotations = ("coco", file) if file else _kind(folder) if images is None else _kind_beside(folder)
    sidecar, rows = _tables(folder, reader, annotations)
    columns = {column for row in rows for column in row}
    known = (spelled(own, columns) for own in CLUSTER_COLUMNS)
    named = [own for own in known if own]
    cluster = next((own for own in named if any(row.get(own) for row in rows)), named[0] if named else None)
    copies = spelled("augmented", columns) if name == "test" else None
    words = {TRUTH.get(row.get(copies, "").lower(), False) for row in rows} if copies else set()
    where = {copies: False} if copies and words == {True, False} else {}
    left = [row for row in rows if keep(row, where)]
    return DataEntry(
        reader=reader, path=str(folder), images=images, cluster=cluster, annotations=annotations,
        strata=_strata(sidecar), spacing_mm=spelled("spacing_mm", columns), where=where,
        unnamed="one" if cluster and not all(row.get(cluster) for row in left) else "refuse",
    )  # fmt: skip


def _tables(folder: Path, reader: str, annotations: str | None) -> tuple[Sequence[Row], Sequence[Row]]:
    """The rows of meta.csv, and what is known of each image: these and, of a COCO file, the fields of its images."""
    meta = folder / "meta.csv"
    sidecar = read_sidecars([meta]) if meta.is_file() else {}
    if reader != "coco":
        return (rows := list(sidecar.values())), rows
    from xaiseg.data.coco import image_rows, read_coco

    file = folder / (annotations or "annotations.json")
    own = image_rows(read_coco(file), file)
    return list(sidecar.values()), [{**row, **sidecar.get(id, {})} for id, row in own.items()]


def _strata(sidecar: Sequence[Row]) -> tuple[str, ...]:
    """Columns of a survey that part its images into at least two groups and at most :data:`_MOST_LEVELS`."""
    columns = (spelled(name, {column for row in sidecar for column in row}) for name in _SURVEY_STRATA)
    levels = {column: {row.get(column, "") for row in sidecar} - {""} for column in columns if column}
    return tuple(column for column, held in levels.items() if 1 < len(held) <= _MOST_LEVELS)


def in_place_of(old: DataEntry | None, new: DataEntry) -> DataEntry:
    """An entry of ``--data NAME=DIR`` with what model.yaml says of pixels and labels, which another folder shares.

    Taken over are ``window``, for the same kind of annotations ``labels``, and ``strata`` that the new folder's
    meta.csv has. Files, filters, clusters and the size of a pixel belong to the old folder.
    """
    if old is None:
        return new
    meta = Path(str(new.path)) / "meta.csv"
    known = {column for row in read_sidecars([meta]).values() for column in row} if meta.is_file() else set()
    strata = dict.fromkeys([*(name for name in old.strata if name in known), *new.strata])
    labels = old.labels if old.reader == new.reader else None
    return new.model_copy(update={"window": old.window, "labels": labels, "strata": tuple(strata)})


def _kind(folder: Path) -> tuple[str, str | None]:
    """The reader of a folder, and its annotations where they have another name than the reader expects."""
    if not (folder / "masks").is_dir():
        found = labels_in(folder)
        if found is not None:
            return found
    names = [path.name.lower() for path in (folder / "images").iterdir()]
    for reader, suffixes in (("nifti", (".nii", ".nii.gz")), ("dicom", (".dcm", ".dicom"))):
        if any(name.endswith(suffixes) for name in names):
            return reader, None
    return "folder", None


def _holds_images(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())


def _kind_beside(folder: Path) -> tuple[str, str | None]:
    """The reader of a folder in which labels lie among the images.

    Raises:
        UsageError: there are images and no labels.
    """
    found = labels_in(folder) or labels_beside(folder)
    if found is not None:
        return found
    then = "Put a COCO file (annotations.json), YOLO .txt or Pascal VOC .xml files there"
    raise UsageError("this folder holds images and no labels", where=folder, then=then)


def labels_beside(folder: Path) -> tuple[str, str] | None:
    """YOLO or VOC labels that lie among the images of a folder."""
    for reader, suffix in (("yolo", ".txt"), ("voc", ".xml")):
        if any(path.with_suffix(suffix).is_file() for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
            return reader, "."
    return None


def labels_in(folder: Path) -> tuple[str, str | None] | None:
    """COCO, YOLO or VOC labels of a folder without masks."""
    from xaiseg.data.voc import FOLDERS

    if (folder / "annotations.json").is_file():
        return "coco", None
    usual = [name for name in _COCO_NAMES if (folder / name).is_file()]
    if usual:
        return "coco", usual[0]
    there = [*sorted(folder.glob("*.json")), *sorted((folder / "annotations").glob("*.json"))]
    fits = [path for path in there if _looks_like_coco(path)] if len(there) <= _MOST_JSON else []
    if len(fits) == 1:
        return "coco", fits[0].relative_to(folder).as_posix()
    if any((folder / "labels").glob("*.txt")):
        return "yolo", None
    return ("voc", None) if any(any((folder / name).glob("*.xml")) for name in FOLDERS) else None


def _looks_like_coco(path: Path) -> bool:
    """Whether a JSON file has COCO's three lists, so that a file of predictions is not taken for labels."""
    import json

    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and {"images", "annotations", "categories"} <= set(document)
