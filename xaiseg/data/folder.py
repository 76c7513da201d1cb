"""The reader ``folder``: images/ and masks/ with the same stems, and perhaps sidecar tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xaiseg.data.base import Index, reader
from xaiseg.data.case import Case, CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.pixels import SUFFIXES, read_pixels, to_image, to_mask
from xaiseg.data.sidecar import Rows, described, keep, read_sidecars, require_columns, wanted_columns
from xaiseg.errors import DataError, NothingToAudit, UsageError


@reader("folder")
class FolderReader:
    """A case is an image; its id is the stem of the file."""

    def index(self, entry: DataEntry, root: Path, spec: ImageSpec) -> Index:
        """Lists the images, joins the sidecars and applies ``where``."""
        base = root / (entry.path or ".")
        images = _files(_folder(entry.images, root, base / "images"))
        masks = _masks(entry.masks, root, base / "masks")
        reader2 = _masks(entry.masks_reader2, root, None)
        rows, source = _rows(entry, root, base)
        require_columns(entry, sorted({column for row in rows.values() for column in row}), source)
        chosen = _join(entry, images, rows, source)
        if not chosen:
            raise NothingToAudit("no image is left", where=source, got=f"where: {dict(entry.where)}")
        cases = [
            CaseRef(
                id=id,
                image=str(images[id]),
                reference=_partner(masks, id),
                reader2=_partner(reader2, id),
                **described(entry, id, rows.get(id, {}), source),
            )
            for id in chosen
        ]
        return Index(cases, entry.cluster, entry.path or str(entry.images))

    def load(self, entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
        """Decodes image and masks."""
        path = Path(ref.image)
        image = to_image(read_pixels(path, max_pixels=spec.max_pixels), spec, path)
        shape = image.shape[1], image.shape[2]
        reference = _load_mask(ref.reference, entry, spec, shape)
        return Case(ref, image, reference, _load_mask(ref.reader2, entry, spec, shape))


def _folder(named: str | None, root: Path, otherwise: Path) -> Path:
    folder = root / named if named else otherwise
    if not folder.is_dir():
        raise UsageError("this folder is missing", where=folder, then="Check path:, images: and the data root")
    return folder


def _files(folder: Path) -> dict[str, Path]:
    """Stem -> image file, sorted.

    Raises:
        NothingToAudit: there is none.
        UsageError: two files share a stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise UsageError("two files have the same id", where=folder, got=f"{found[path.stem].name}, {path.name}")
        found[path.stem] = path
    if not found:
        raise NothingToAudit("this folder holds no image", where=folder, allowed=", ".join(SUFFIXES))
    return found


def _masks(named: str | None, root: Path, otherwise: Path | None) -> tuple[Path, dict[str, Path]] | None:
    """The folder of masks and its files, or None when there is none and none was named."""
    if named is None and (otherwise is None or not otherwise.is_dir()):
        return None
    folder = _folder(named, root, otherwise or root)
    paths = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES)
    return folder, {path.stem: path for path in paths}


def _partner(masks: tuple[Path, dict[str, Path]] | None, id: str) -> str | None:
    """The mask of an image. One that is missing keeps its expected name, so that loading the case says so."""
    if masks is None:
        return None
    folder, files = masks
    return str(files.get(id, folder / f"{id}.png"))


def _load_mask(path: str | None, entry: DataEntry, spec: ImageSpec, shape: tuple[int, int]) -> np.ndarray | None:
    if path is None:
        return None
    file = Path(path)
    if not file.is_file():
        raise DataError("the image has no mask", where=file, then="An image without a lesion needs an empty mask")
    pixels = read_pixels(file, max_pixels=spec.max_pixels, index_colours=True)
    return to_mask(pixels, spec, file, shape=shape, labels=entry.labels)


def _rows(entry: DataEntry, root: Path, base: Path) -> tuple[Rows, Path]:
    """Sidecar rows, and the file or folder that messages name. Sidecars lie beside the data or below the root."""
    if entry.sidecars is None:
        meta = base / "meta.csv"
        return (read_sidecars([meta]), meta) if meta.is_file() else ({}, base)
    paths = [base / name if (base / name).is_file() else root / name for name in entry.sidecars]
    return read_sidecars(paths), paths[0]


def _join(entry: DataEntry, images: dict[str, Path], rows: Rows, source: Path) -> list[str]:
    """Ids that stay. A row without its image is an error; an image without a row only where a column is needed."""
    lost = [id for id in rows if id not in images and keep(rows[id], entry.where)]
    if lost:
        raise UsageError("the sidecar names images that are not there", where=source, got=", ".join(lost[:3]))
    if entry.where:
        return [id for id in images if id in rows and keep(rows[id], entry.where)]
    bare = [id for id in images if id not in rows] if wanted_columns(entry) else []
    if bare:
        raise UsageError("these images have no row in the sidecar", where=source, got=", ".join(bare[:3]))
    return list(images)
