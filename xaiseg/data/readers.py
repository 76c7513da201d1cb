"""The front door of the data layer: open an entry, load a case, or take a folder as it stands."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from typing import Final

from xaiseg.data.base import READERS, Reader, list_digest
from xaiseg.data.case import Case, CaseRef, Dataset, ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.sidecar import read_sidecars
from xaiseg.errors import UsageError, did_you_mean

#: Module of each built-in reader; it is imported when it is asked for, so that extras stay optional.
BUILTIN: Final = {
    "folder": "xaiseg.data.folder",
    "coco": "xaiseg.data.coco",
    "nifti": "xaiseg.data.medical",
    "dicom": "xaiseg.data.medical",
    "phantom": "xaiseg.data.generated",
}


def get_reader(name: str) -> Reader:
    """The reader with this name; third parties register through the entry point ``xaiseg.readers``.

    Raises:
        UsageError: unknown name, with a hint.
    """
    if name in BUILTIN:
        import_module(BUILTIN[name])
    elif name not in READERS:
        for entry in entry_points(group="xaiseg.readers"):
            entry.load()
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
    )


def load_case(entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
    """Loads one case; the same reference always gives the same case.

    Raises:
        DataError: the case cannot be used, and why.
    """
    return get_reader(entry.reader).load(entry, ref, spec)


def entry_from_folder(path: Path) -> DataEntry:
    """The entry of ``--data NAME=DIR``: a folder as it stands.

    A folder with annotations.json and no masks/ is COCO, one whose images/ holds NIfTI or DICOM files is read as such.
    Clusters come from the column ``cluster``, else ``group``, of meta.csv (or of the images of a COCO file), else from
    the volume or the patient of a header, else every image stands for itself.

    Raises:
        UsageError: the folder is missing or has no images/, or a table cannot be read.
    """
    folder = Path(path).resolve()
    if not (folder / "images").is_dir():
        raise UsageError("this is no data folder", where=path, allowed="a folder with images/ and masks/")
    meta = folder / "meta.csv"
    columns = {column for row in read_sidecars([meta]).values() for column in row} if meta.is_file() else set()
    reader = _kind(folder)
    if reader == "coco":
        from xaiseg.data.coco import image_columns, read_coco

        columns |= image_columns(read_coco(folder / "annotations.json"))
    cluster = next((column for column in ("cluster", "group") if column in columns), None)
    return DataEntry(reader=reader, path=str(folder), cluster=cluster)


def _kind(folder: Path) -> str:
    if (folder / "annotations.json").is_file() and not (folder / "masks").is_dir():
        return "coco"
    names = [path.name.lower() for path in (folder / "images").iterdir()]
    for reader, suffixes in (("nifti", (".nii", ".nii.gz")), ("dicom", (".dcm", ".dicom"))):
        if any(name.endswith(suffixes) for name in names):
            return reader
    return "folder"
