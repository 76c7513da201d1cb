"""The reader ``phantom``: images that are made when they are loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xaiseg.data.base import Index, reader
from xaiseg.data.case import Case, CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry, PhantomEntry
from xaiseg.data.phantoms import PhantomSpec, phantom_case, phantom_list
from xaiseg.data.pixels import to_image
from xaiseg.data.sidecar import described, keep, require_columns
from xaiseg.errors import NothingToAudit

COLUMNS = ("patient", "device", "density", "lesion_kind")


@reader("phantom")
class PhantomReader:
    """A case is one generated image; nothing lies on disk."""

    def index(self, entry: DataEntry, root: Path, spec: ImageSpec) -> Index:
        """Lists patients and views without making a picture."""
        source = f"generated phantoms, split {_spec(entry).split}, seed {_spec(entry).seed}"
        require_columns(entry, COLUMNS, source)
        cases = [
            CaseRef(
                phantom.id,
                phantom.id,
                phantom.id,
                extra={"index": index},
                **described(entry, phantom.id, phantom.meta, source),
            )
            for index, phantom in enumerate(phantom_list(_spec(entry)))
            if keep(phantom.meta, entry.where)
        ]
        if not cases:
            raise NothingToAudit("no phantom is left", where=source, got=f"where: {dict(entry.where)}")
        return Index(cases, entry.cluster, source, generated=True)

    def load(self, entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
        """Makes the image and its mask."""
        pixels, mask, _ = phantom_case(_spec(entry), ref.extra["index"])
        return Case(ref, to_image(pixels, spec, Path(ref.id)), mask.astype(np.uint8))


def _spec(entry: DataEntry) -> PhantomSpec:
    wanted = entry.phantom or PhantomEntry()
    return PhantomSpec(wanted.split, wanted.patients, wanted.lesion_free, wanted.seed, wanted.size)
