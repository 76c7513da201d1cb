"""The reader ``phantom``: images that are made when they are loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xaiseg.data.base import Index, reader
from xaiseg.data.case import Case, CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry, PhantomEntry
from xaiseg.data.phantoms import PhantomSpec, phantom_case, phantom_list
from xaiseg.data.pixels import to_image
from xaiseg.data.sidecar import chosen, described, require_columns

COLUMNS = ("patient", "device", "density", "lesion_kind")


@reader("phantom")
class PhantomReader:
    """A case is one generated image; nothing lies on disk."""

    def index(self, entry: DataEntry, root: Path, spec: ImageSpec) -> Index:
        """Lists patients and views without making a picture."""
        made = _spec(entry)
        source = f"generated phantoms, split {made.split}, seed {made.seed}"
        require_columns(entry, COLUMNS, source)
        positions = {phantom.id: index for index, phantom in enumerate(phantom_list(made))}
        rows = {phantom.id: phantom.meta for phantom in phantom_list(made)}
        cases = [
            CaseRef(id, id, id, extra={"index": positions[id]}, **described(entry, id, rows[id], source))
            for id in chosen(entry, positions, rows, source)
        ]
        return Index(cases, entry.cluster, source, generated=True)

    def load(self, entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
        """Makes the image and its mask."""
        pixels, mask, _ = phantom_case(_spec(entry), ref.extra["index"])
        return Case(ref, to_image(pixels, spec, Path(ref.id), window=entry.window), mask.astype(np.uint8))


def _spec(entry: DataEntry) -> PhantomSpec:
    wanted = entry.phantom or PhantomEntry()
    return PhantomSpec(wanted.split, wanted.patients, wanted.lesion_free, wanted.seed, wanted.size)
