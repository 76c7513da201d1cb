"""The readers ``phantom`` and ``scene``: images that are made when they are loaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from xaiseg.data.base import Index, reader
from xaiseg.data.case import Case, CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry, PhantomEntry, SceneEntry
from xaiseg.data.phantoms import PhantomSpec, phantom_case, phantom_list
from xaiseg.data.pixels import to_image
from xaiseg.data.scenes import ANIMALS, SceneSpec, Shortcut, scene_case, scene_list
from xaiseg.data.scenes import COLUMNS as SCENE_COLUMNS
from xaiseg.data.scenes_compose import SPARE_FLOES, Drawing
from xaiseg.data.sidecar import chosen, described, require_columns
from xaiseg.errors import UsageError, did_you_mean

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


@reader("scene")
class SceneReader:
    """A case is one generated survey tile with its boxes; nothing lies on disk."""

    def index(self, entry: DataEntry, root: Path, spec: ImageSpec) -> Index:
        """Lists flights and tiles without making a picture."""
        made = scene_spec(entry)
        source = _scene_source(made)
        _animal_index(made, spec, source)
        require_columns(entry, SCENE_COLUMNS, source)
        tiles = scene_list(made)
        positions = {tile.id: index for index, tile in enumerate(tiles)}
        rows = {tile.id: tile.meta for tile in tiles}
        cases = [
            CaseRef(id, id, extra={"index": positions[id]}, **described(entry, id, rows[id], source))
            for id in chosen(entry, positions, rows, source)
        ]
        return Index(cases, entry.cluster, source, generated=True)

    def load(self, entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
        """Makes the tile; an animal that is nearly hidden is an ignored region (255).

        A segmenter, whose first class is the background, gets a mask as well.
        """
        made = scene_spec(entry)
        scene = _drawn(made, ref.extra["index"])
        animal = _animal_index(made, spec, _scene_source(made))
        boxes = scene.boxes.copy()
        boxes[boxes[:, 4] == 0, 4] = animal
        mask = None
        if spec.task == "segmentation" and animal > 0:  # class 0 as an object: a detector
            mask = np.where(scene.masks.any(axis=0), animal, 0).astype(np.uint8)
        pixels = to_image(scene.image, spec, Path(ref.id), window=entry.window)
        return Case(ref, pixels, mask, boxes=boxes, outlines=tuple((each,) for each in scene.corners.copy()))


@lru_cache(maxsize=512)
def _drawn(made: SceneSpec, index: int) -> Drawing:
    """A tile, kept: it is hashed, audited and a background of others, and drawing it takes as long as detecting on it.

    The default set of 432 tiles takes about 130 MB. Readers copy what they hand out.
    """
    return scene_case(made, index)


def scene_spec(entry: DataEntry) -> SceneSpec:
    """The set of tiles that an entry names.

    >>> scene_spec(DataEntry(reader="scene", scene={"flights": 3})).n_flights
    3
    """
    wanted = entry.scene or SceneEntry()
    cue = None if wanted.shortcut is None else Shortcut(wanted.shortcut.kind, wanted.shortcut.correlation)
    return SceneSpec(wanted.split, wanted.world, wanted.flights, wanted.tiles, wanted.empty_share, wanted.seed,
                     wanted.size, cue, wanted.spare_floes, wanted.placement)  # fmt: skip


def _scene_source(made: SceneSpec) -> str:
    cue = "" if made.shortcut is None else f", {made.shortcut.kind} planted at {made.shortcut.correlation:g}"
    ice = "" if made.spare_floes == SPARE_FLOES else f", {made.spare_floes:g} spare floes a tile"
    ice += ", seals anywhere" if made.placement == "anywhere" else ""
    return f"generated {made.world}, split {made.split}, seed {made.seed}{cue}{ice}"


def _animal_index(made: SceneSpec, spec: ImageSpec, source: str) -> int:
    animal = ANIMALS[made.world]
    if animal not in spec.classes:
        raise UsageError(f"the model has no class '{animal}'", where=source, got=", ".join(spec.classes),
                         then=did_you_mean(animal, spec.classes))  # fmt: skip
    return spec.classes.index(animal)
