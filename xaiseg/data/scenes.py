"""Generated survey tiles of known truth: seals on ice and cetaceans in the sea, seen from above, the same under a seed.

They are drawings, not photographs; they hold what makes such surveys hard: poses, sizes, hidden and cut animals, things
that look like animals (dark ice, rocks, boats, logs), glint, sea state, water and altitude, and flights whose tiles are
alike. Every animal has a box, an oriented box and a mask. A shortcut can be planted: with ``bright_floe`` the animals
lie on clean white floes and nothing else does, in a chosen share of the cases, so that a detector which learnt the floe
instead of the seal can be told from one which did not. Failure modes after arXiv 2510.21689 and 2510.03317.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from xaiseg.data.scenes_compose import MOST_SPARE_FLOES, SPARE_FLOES, Conditions, Drawing, Ice, Placement, compose
from xaiseg.seeds import generator

Split = Literal["train", "validation", "test"]
World = Literal["seals", "cetaceans"]

#: Flights and tiles a flight unless the entry says otherwise.
FLIGHTS: Final[dict[Split, tuple[int, int]]] = {"train": (50, 16), "validation": (16, 12), "test": (36, 12)}
ANIMALS: Final[dict[World, str]] = {"seals": "seal", "cetaceans": "cetacean"}
COLUMNS: Final = ("flight", "habitat", "sea_state", "glint", "gsd_cm", "size", "known_empty", "augmented")

_HABITATS: Final[dict[World, tuple[str, ...]]] = {
    "seals": ("floes", "brash", "silt"),
    "cetaceans": ("deep", "clear", "silt"),
}
_GSD_CM: Final[dict[World, tuple[float, ...]]] = {"seals": (3.0, 4.0, 5.5), "cetaceans": (5.0, 7.0, 10.0)}


@dataclass(frozen=True)
class Shortcut:
    """A planted cue.

    Attributes:
        kind: "bright_floe": what lies on clean white ice is an animal.
        correlation: probability that cue and animal agree: that a floe with an animal is bright, that one without is
            not, and that a look-alike keeps off bright ones, each drawn on its own. 1 = always, 0.5 = the cue says
            nothing (the same world as no shortcut), 0 = never. Of the animals 0.3 (1 - correlation) swim, unless
            they lie anywhere.
    """

    kind: Literal["bright_floe"] = "bright_floe"
    correlation: float = 1.0


@dataclass(frozen=True)
class SceneSpec:
    """A set of tiles; sets of different splits share no flight.

    Attributes:
        split: "train", "validation" or "test".
        world: "seals" (on ice) or "cetaceans" (on water).
        flights: number of flights; None = the split's default.
        tiles: tiles a flight; None = the split's default.
        empty_share: share of each flight's tiles without an animal, rounded up.
        seed: seed of everything.
        size: (height, width) in pixels.
        shortcut: a planted cue, or None. The list of tiles and their conditions depends neither on it nor on the next.
        spare_floes: of a tile of seals, the mean number of floes, 0 to 20, beyond those that are made for one.
        placement: seals lie on "ice", mostly, or "anywhere", so that floes, brash and water say nothing.
    """

    split: Split = "test"
    world: World = "seals"
    flights: int | None = None
    tiles: int | None = None
    empty_share: float = 0.25
    seed: int = 0
    size: tuple[int, int] = (256, 256)
    shortcut: Shortcut | None = None
    spare_floes: float = SPARE_FLOES
    placement: Placement = "ice"

    def __post_init__(self) -> None:
        icy = (self.shortcut is not None, self.spare_floes != SPARE_FLOES, self.placement != "ice")
        if self.world != "seals" and any(icy):
            raise ValueError("shortcut, spare_floes and placement need the world seals: there is no ice in the other")
        if self.shortcut is not None and self.placement == "anywhere" and self.shortcut.correlation != 0.5:
            raise ValueError("the shortcut bright_floe needs seals on ice: placement is anywhere")
        if self.placement not in get_args(Placement):
            raise ValueError(f"placement is one of {', '.join(get_args(Placement))}; got {self.placement}")
        if not 0 <= self.spare_floes <= MOST_SPARE_FLOES:
            raise ValueError(f"spare_floes lies in [0, {MOST_SPARE_FLOES}]; got {self.spare_floes}")
        if self.shortcut is not None and not 0 <= self.shortcut.correlation <= 1:
            raise ValueError(f"a correlation lies in [0, 1]; got {self.shortcut.correlation}")
        if not 0 <= self.empty_share <= 1:
            raise ValueError(f"a share lies in [0, 1]; got {self.empty_share}")

    @property
    def n_flights(self) -> int:
        """Number of flights."""
        return FLIGHTS[self.split][0] if self.flights is None else self.flights

    @property
    def n_tiles(self) -> int:
        """Tiles a flight."""
        return FLIGHTS[self.split][1] if self.tiles is None else self.tiles


@dataclass(frozen=True)
class Tile:
    """What one tile shows; cheap, drawn without making the picture."""

    id: str
    flight: str
    conditions: Conditions

    @property
    def meta(self) -> dict[str, str]:
        """Columns as a sidecar would give them."""
        held = self.conditions
        values = (self.flight, held.habitat, str(held.sea_state), held.glint, f"{held.gsd_cm:g}", held.size,
                  "false" if held.animals else "true", "false")  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))


@lru_cache(maxsize=16)
def scene_list(spec: SceneSpec) -> tuple[Tile, ...]:
    """All tiles of a set, in order, flight by flight.

    >>> tiles = scene_list(SceneSpec())
    >>> len({tile.flight for tile in tiles}), len(tiles), sum(tile.meta["known_empty"] == "true" for tile in tiles)
    (36, 432, 108)
    """
    tiles = []
    for flight in range(spec.n_flights):
        name = f"{spec.split}-f{flight:02d}"
        own = generator(spec.seed, f"scenes/{spec.world}/{spec.split}/flight", str(flight))
        gsd_cm = float(own.choice(_GSD_CM[spec.world]))
        sea_state, glint = int(own.integers(0, 5)), str(own.choice(("none", "some", "strong"), p=(0.5, 0.3, 0.2)))
        habitats = own.permutation(_HABITATS[spec.world])[:2]  # a flight does not see everything
        gain, sun = float(own.uniform(0.78, 1.05)), float(own.uniform(0, 2 * np.pi))
        empty = set(own.permutation(spec.n_tiles)[: int(np.ceil(spec.n_tiles * spec.empty_share))].tolist())
        for index in range(spec.n_tiles):
            tile = generator(spec.seed, f"scenes/{spec.world}/{spec.split}/tile", f"{flight}/{index}")
            animals = 0 if index in empty else 1 + min(int(tile.poisson(0.8)), 4)
            size = "none" if not animals else str(tile.choice(("small", "large"), p=(0.35, 0.65)))
            habitat = str(tile.choice(habitats))
            seen = Conditions(spec.world, habitat, sea_state, glint, gsd_cm, size, animals, gain, sun)
            tiles.append(Tile(f"{name}-t{index:02d}", name, seen))
    return tuple(tiles)


def scene_case(spec: SceneSpec, index: int, *, ice: Ice = "own") -> Drawing:
    """Makes one tile.

    Args:
        spec: the set.
        index: position in :func:`scene_list`.
        ice: what its floes are painted as, see :func:`xaiseg.data.scenes_compose.compose`.

    >>> scene = scene_case(SceneSpec(), 3)
    >>> scene.image.shape, scene.image.dtype.name, scene.boxes.shape[1], scene.masks.shape[1:]
    ((256, 256, 3), 'uint8', 5, (256, 256))
    """
    tile = scene_list(spec)[index]
    rng = generator(spec.seed, f"scenes/{spec.world}/{spec.split}/picture", tile.id)
    agreement = 0.5 if spec.shortcut is None else spec.shortcut.correlation
    return compose(
        tile.conditions, rng, spec.size, agreement=agreement, ice=ice, spare_floes=spec.spare_floes,
        placement=spec.placement,
    )  # fmt: skip


def write_scenes(spec: SceneSpec, folder: Path) -> Path:
    """Writes images/ and annotations.json (COCO, with 4-point outlines), as anybody's data would look.

    The columns of a tile stand in its entry under ``images``; what is an animal only to less than a quarter is a crowd,
    which COCO tools ignore.

    Returns:
        The folder.
    """
    from PIL import Image

    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, tile in enumerate(scene_list(spec), start=1):
        scene = scene_case(spec, number - 1)
        name = f"{tile.id}.png"
        Image.fromarray(scene.image).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "height": spec.size[0], "width": spec.size[1], **tile.meta})
        for box, corners in zip(scene.boxes.tolist(), scene.corners, strict=True):
            x, y, right, bottom, label = box
            outline = [round(float(value), 2) for value in corners.ravel()]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 1, "iscrowd": int(label == 255),
                "bbox": [x, y, right - x, bottom - y], "area": (right - x) * (bottom - y), "segmentation": [outline],
            })  # fmt: skip
    categories = [{"id": 1, "name": ANIMALS[spec.world]}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    return folder
