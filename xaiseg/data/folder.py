"""The reader ``folder``: images/ and masks/ with the same stems, and perhaps sidecar tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xaiseg.data.base import Index, reader
from xaiseg.data.case import Case, CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.files import Place, images_by_id, partners, without_image
from xaiseg.data.pixels import SUFFIXES, read_pixels, to_image, to_mask
from xaiseg.data.sidecar import chosen, described, read_rows, require_columns
from xaiseg.errors import DataError


@reader("folder")
class FolderReader:
    """A case is an image; its id is the stem of the file."""

    def index(self, entry: DataEntry, root: Path, spec: ImageSpec) -> Index:
        """Lists the images, joins the sidecars and applies ``where``."""
        place = Place(root / (entry.path or "."), root)
        images = images_by_id(place.folder(entry.images, "images"), SUFFIXES)
        masks = partners(place, entry.masks, "masks", SUFFIXES)
        reader2 = partners(place, entry.masks_reader2, None, SUFFIXES)
        rows, source = read_rows(entry, place)
        require_columns(entry, {column for row in rows.values() for column in row}, source)
        cases = [
            CaseRef(
                id=id,
                image=str(images[id]),
                reference=masks.of(id) if masks else None,
                reader2=reader2.of(id) if reader2 else None,
                **described(entry, id, rows.get(id, {}), source),
            )
            for id in chosen(entry, images, rows, source)
        ]
        lost = without_image(masks, images)
        return Index(
            cases, entry.cluster, entry.path or str(entry.images), unmatched=lost, filtered=len(images) - len(cases)
        )

    def load(self, entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
        """Decodes image and masks."""
        path = Path(ref.image)
        image = to_image(read_pixels(path, max_pixels=spec.max_pixels), spec, path, window=entry.window)
        shape = image.shape[1], image.shape[2]
        reference = load_mask(ref.reference, entry, spec, shape)
        return Case(ref, image, reference, load_mask(ref.reader2, entry, spec, shape))


def load_mask(path: str | None, entry: DataEntry, spec: ImageSpec, shape: tuple[int, int]) -> np.ndarray | None:
    """The class indices (H, W) uint8 of a mask file, or None without a path.

    Raises:
        DataError: the mask is missing, damaged, of another size, or holds values that are no class.
    """
    if path is None:
        return None
    file = Path(path)
    if not file.is_file():
        raise DataError("the image has no mask", where=file, then="An image without a lesion needs an empty mask")
    pixels = read_pixels(file, max_pixels=spec.max_pixels, index_colours=True)
    return to_mask(pixels, spec, file, shape=shape, labels=entry.labels)
