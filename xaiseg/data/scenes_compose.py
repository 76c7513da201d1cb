"""Where things lie on a generated tile, and the truth about them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from xaiseg.data import scenes_things as things
from xaiseg.data.scenes_canvas import WATERS, Canvas, Floe
from xaiseg.data.scenes_things import Pose

Ground = Literal["bright floe", "dull floe", "water"]
#: What the ice of a tile is painted as: as it was drawn, all of it white, all of it dull, or as the water below.
Ice = Literal["own", "bright", "dull", "none"]
#: Where seals lie: mostly on ice, or anywhere, so that floes, brash and water say nothing.
Placement = Literal["ice", "anywhere"]

#: Less of an animal than this is an ignored region: neither a hit nor a miss.
VISIBLE: Final = 0.25
#: Floes that a tile has on average beyond those made for an animal; with so few of them any floe hints at a seal.
SPARE_FLOES: Final = 1.1
MOST_SPARE_FLOES: Final = 20
_BRASH: Final = {"floes": 0.05, "brash": 0.32, "silt": 0.16}
_GLINT: Final = {"none": 0.0, "some": 0.5, "strong": 1.0}
_LENGTH_M: Final = {
    ("seals", "small"): (0.85, 1.2),
    ("seals", "large"): (1.35, 1.85),
    ("cetaceans", "small"): (1.4, 2.0),
    ("cetaceans", "large"): (2.3, 3.4),
}


@dataclass(frozen=True)
class Conditions:
    """What is known of a tile before it is drawn.

    Attributes:
        world: "seals" or "cetaceans".
        habitat: seals: floes, brash, silt; cetaceans: deep, clear, silt.
        sea_state: 0 (glass) to 4 (white caps).
        glint: none, some or strong.
        gsd_cm: ground sample distance, centimetres a pixel.
        size: none, small or large animals.
        animals: how many.
        gain: of the camera.
        sun: direction of the light, radians.
    """

    world: Literal["seals", "cetaceans"]
    habitat: str
    sea_state: int
    glint: str
    gsd_cm: float
    size: str
    animals: int
    gain: float
    sun: float


@dataclass(frozen=True)
class Drawing:
    """A tile and all that is true of it; N animals in the order of painting.

    Attributes:
        image: (H, W, 3) uint8.
        boxes: (N, 5) float32: x, y, right, bottom in pixels around what can be seen, and 0, or 255 where less than a
            quarter can be seen.
        masks: (N, H, W) bool: the pixels that can be seen.
        corners: (N, 4, 2) float32 x, y: box along the body.
        visible: (N,) float32: share of the body that is neither hidden nor cut by the border.
        grounds: what each animal lies on.
        lookalikes: kind and box (x, y, right, bottom) of what is no animal but looks like one.
    """

    image: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray
    corners: np.ndarray
    visible: np.ndarray
    grounds: tuple[Ground, ...]
    lookalikes: tuple[tuple[str, tuple[float, float, float, float]], ...]


def compose(
    tile: Conditions, rng: np.random.Generator, size: tuple[int, int], *, agreement: float, ice: Ice = "own",
    spare_floes: float = SPARE_FLOES, placement: Placement = "ice",
) -> Drawing:  # fmt: skip
    """Draws a tile.

    Args:
        tile: its conditions.
        rng: seeded generator.
        size: (H, W) in pixels.
        agreement: probability that a floe is bright exactly when it carries an animal; 0.5 = no relation.
        ice: "bright", "dull" and "none" draw one tile three times: nothing but the paint of its floes differs. That
            tile is not the one of "own", whose floes are painted from the same random numbers as all else.
        spare_floes: how many floes there are on average, where there is room, beyond those that are made for an animal.
        placement: "ice", or "anywhere": each place of the tile is as likely to hold an animal, or what looks like one,
            whatever lies there; no floe is made for an animal, none swims, and blocks of ice lie over some of them in
            open water too.
    """
    water = {"floes": "clear", "brash": "deep"}.get(tile.habitat, tile.habitat)
    canvas = Canvas(size, tile.gsd_cm, _varied(rng, WATERS[water]), tile.sun)
    canvas.add_water(rng, tile.sea_state if tile.world == "cetaceans" else tile.sea_state // 2)
    painter = _Painter(canvas, rng, tile, agreement, ice, spare_floes, placement, np.zeros_like(canvas.land))
    if tile.world == "seals":
        painter.ice()
    for _ in range(int(rng.poisson(0.9 if tile.animals else 1.6))):
        painter.add_lookalike()
    for _ in range(tile.animals):
        painter.add_animal()
    canvas.add_glint(rng, _GLINT[tile.glint])
    return painter.drawing(canvas.finish(rng, tile.gain, noise_sd=0.012))


@dataclass
class _Painter:
    """Adds things one after another and keeps what can be seen of the animals."""

    canvas: Canvas
    rng: np.random.Generator
    tile: Conditions
    agreement: float
    paint: Ice
    spare_floes: float
    placement: Placement
    floes: np.ndarray  # (H, W) opacity of all floes, whether they are painted or not
    free: list[Floe] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)
    plan: list[tuple[Ground, Floe | None]] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    grounds: list[Ground] = field(default_factory=list)
    lookalikes: list[tuple[str, np.ndarray]] = field(default_factory=list)

    def ice(self) -> None:
        """Plans on which floe each seal lies, unless that is anywhere, and paints all ice."""
        rng = self.rng
        self.canvas.add_brash(rng, _BRASH[self.tile.habitat] * rng.uniform(0.5, 1.3))
        for _ in range(self.tile.animals if self.placement == "ice" else 0):
            self.plan.append(self._ground_of_animal())
        for _ in range(int(rng.poisson(self.spare_floes))):
            floe = self._new_floe(bright=rng.random() >= self.agreement)
            if floe is not None:
                self.free.append(floe)
        floes = {id(floe): floe for _, floe in self.plan if floe is not None} | {id(floe): floe for floe in self.free}
        for floe in floes.values():
            self._add_floe(floe)

    def _add_floe(self, floe: Floe) -> None:
        canvas, rng = self.canvas, self.rng
        pixels, land = canvas.pixels.copy(), canvas.land
        if self.paint != "own":
            (rng,) = rng.spawn(1)  # how many numbers a floe takes depends on its colour
            floe = replace(floe, bright=self.paint != "dull")
        canvas.land = np.zeros_like(land)  # so that it holds this floe alone
        canvas.add_floe(rng, floe)
        self.floes = np.maximum(self.floes, canvas.land)
        if self.paint == "none":
            canvas.pixels, canvas.land = pixels, land
        else:
            canvas.land = np.maximum(land, canvas.land)

    def _ground_of_animal(self) -> tuple[Ground, Floe | None]:
        # In the water is "not on a bright floe", so its share shrinks as cue and animal agree.
        if self.rng.random() < 0.3 * (1 - self.agreement):
            return "water", None
        bright = bool(self.rng.random() < self.agreement)
        name: Ground = "bright floe" if bright else "dull floe"
        shared = [floe for ground, floe in self.plan if ground == name and floe is not None]
        if shared and self.rng.random() < 0.6:
            return name, shared[-1]
        floe = self._new_floe(bright=bright)
        if floe is None and not shared:
            return "water", None
        return name, floe or shared[-1]

    def _new_floe(self, *, bright: bool) -> Floe | None:
        """A floe that does not lie over another one: grounds must stay what they are said to be."""
        height, width = self.canvas.size
        others = [floe for _, floe in self.plan if floe is not None] + self.free
        radius = self.canvas.px(float(np.clip(self.rng.lognormal(0.5, 0.3), 1.0, 2.6)))
        for shrink in (1.0, 1.0, 0.9, 0.8, 0.8, 0.7, 0.6, 0.6):
            reach = max(radius * shrink, self.canvas.px(0.9))
            floe = Floe(self.rng.uniform(0, height), self.rng.uniform(0, width), reach, bright)
            apart = (np.hypot(floe.y - o.y, floe.x - o.x) > 1.25 * (floe.radius + o.radius) for o in others)
            if all(apart):
                return floe
        return None

    def add_lookalike(self) -> None:
        """One thing that is no animal."""
        rng, canvas = self.rng, self.canvas
        metres = float(rng.uniform(0.8, 1.9) if self.tile.world == "seals" else rng.uniform(1.4, 3.2))
        kinds, odds = (
            (("dark_ice", "rock", "boat"), (0.5, 0.3, 0.2))
            if self.tile.world == "seals"
            else (("rock", "boat", "log"), (0.35, 0.3, 0.35))
        )
        kind = str(rng.choice(kinds, p=odds))
        afloat = kind in ("boat", "log") or self.tile.world == "cetaceans" or self.placement == "anywhere"
        floe = None if afloat else self._ground_of_lookalike()
        y, x = self._spot(floe, canvas.px(metres))
        if kind == "dark_ice":
            mask = things.dark_ice(canvas, rng, y, x, metres)
        elif kind == "rock":
            mask = things.rock(canvas, rng, y, x, metres)
        else:
            length = canvas.px(metres * (1.8 if kind == "boat" else 1.3))
            pose = Pose(y, x, length, float(rng.uniform(0, 2 * np.pi)), wide=float(rng.uniform(0.7, 1.2)))
            mask = (things.boat if kind == "boat" else things.log)(canvas, rng, pose)
        self.lookalikes.append((kind, mask))

    def _ground_of_lookalike(self) -> Floe | None:
        """A bright floe as often as cue and animal disagree, else a dull one or the water."""
        rng = self.rng
        bright = bool(rng.random() >= self.agreement)
        if not bright and rng.random() < 0.4:
            return None
        floes = [floe for _, floe in self.plan if floe is not None and floe.bright == bright]
        floes += [floe for floe in self.free if floe.bright == bright]
        if floes:
            return floes[int(rng.integers(len(floes)))]
        floe = self._new_floe(bright=bright)
        if floe is not None:
            self.free.append(floe)
            self._add_floe(floe)
        return floe

    def add_animal(self) -> None:
        """One animal on its planned ground, or anywhere, now and then with a block of ice over a part of it."""
        rng, canvas, tile = self.rng, self.canvas, self.tile
        ground, floe = self.plan[len(self.poses)] if self.plan else ("water", None)
        length = canvas.px(float(rng.uniform(*_LENGTH_M[tile.world, tile.size])))
        y, x = self._spot(floe, length)
        ground = ground if self.placement == "ice" else self._ground_at(y, x)
        pose = Pose(y, x, length, float(rng.uniform(0, 2 * np.pi)), float(np.clip(rng.normal(0, 0.18), -0.4, 0.4)),
                    float(np.clip(rng.normal(1, 0.08), 0.8, 1.2)))  # fmt: skip
        if tile.world == "seals":
            mask = things.seal(canvas, rng, pose, swims=floe is None and self.placement == "ice")
        else:
            mask = things.cetacean(canvas, rng, pose)
        self._hide(mask)
        self.masks.append(mask)
        self.poses.append(pose)
        self.grounds.append(ground)
        if (floe is not None or self.placement == "anywhere") and rng.random() < 0.2:
            away, side = rng.uniform(0.2, 0.6) * length, float(rng.choice((-1.0, 1.0)))
            y, x = y + side * away * np.sin(pose.heading), x + side * away * np.cos(pose.heading)
            self._hide(things.chunk(canvas, rng, y, x, rng.uniform(0.2, 0.34) * length))

    def _ground_at(self, y: float, x: float) -> Ground:
        """What lies at a place; brash is water with ice in it."""
        if self.floes[int(y), int(x)] < 0.5:
            return "water"
        nearest = min(self.free, key=lambda floe: np.hypot(floe.y - y, floe.x - x) / floe.radius)
        return "bright floe" if nearest.bright else "dull floe"

    def _hide(self, over: np.ndarray) -> None:
        for mask in self.masks:
            mask &= ~over

    def _spot(self, floe: Floe | None, length: float) -> tuple[float, float]:
        """A place on a floe, or in open water or anywhere at all, away from what is there already."""
        height, width = self.canvas.size
        y = x = 0.0
        for _ in range(12):
            if floe is None:
                y, x = self.rng.uniform(0, height), self.rng.uniform(0, width)
                # Where a floe lies stays taken when it is not painted, so that all else is drawn in the same places.
                solid = max(self.canvas.land[int(y), int(x)], self.floes[int(y), int(x)])
                clear = solid < 0.4 or self.placement == "anywhere"
            else:
                reach, angle = 0.5 * floe.radius * self.rng.random() ** 0.5, self.rng.uniform(0, 2 * np.pi)
                y, x = floe.y + reach * np.sin(angle), floe.x + reach * np.cos(angle)
                clear = 0 <= y < height and 0 <= x < width
            if clear and all(np.hypot(y - a, x - b) > 0.5 * (length + other) for a, b, other in self.taken):
                break
        y, x = float(np.clip(y, 0, height - 1)), float(np.clip(x, 0, width - 1))
        self.taken.append((y, x, length))
        return y, x

    def drawing(self, image: np.ndarray) -> Drawing:
        """The truth: what can be seen of each animal; one that is hidden altogether is left out."""
        bodies = [_area(self.tile.world, pose) for pose in self.poses]
        share = [min(1.0, float(mask.sum()) / body) for mask, body in zip(self.masks, bodies, strict=True)]
        seen = [index for index, mask in enumerate(self.masks) if mask.sum() >= 4]
        boxes = [[*_box(self.masks[i]), 0.0 if share[i] >= VISIBLE else 255.0] for i in seen]
        corners = [things.oriented_box(self.masks[i], self.poses[i].heading) for i in seen]
        return Drawing(
            image=image,
            boxes=np.array(boxes, np.float32).reshape(-1, 5),
            masks=np.array([self.masks[i] for i in seen], bool).reshape(-1, *self.canvas.size),
            corners=np.array(corners, np.float32).reshape(-1, 4, 2),
            visible=np.array([share[i] for i in seen], np.float32),
            grounds=tuple(self.grounds[i] for i in seen),
            lookalikes=tuple((kind, _box(mask)) for kind, mask in self.lookalikes if mask.any()),
        )


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1


def _area(world: str, pose: Pose) -> float:
    """Pixels of a body that is neither hidden nor cut."""
    return things.body_area(world) * pose.wide * (pose.length / 2) ** 2


def _varied(rng: np.random.Generator, colour: tuple[float, float, float]) -> tuple[float, float, float]:
    shade = rng.uniform(0.82, 1.18) * rng.normal(1.0, 0.04, 3)
    red, green, blue = (float(np.clip(value * factor, 0.02, 0.9)) for value, factor in zip(colour, shade, strict=True))
    return red, green, blue
