"""What generated survey tiles are painted with: smooth noise, a canvas of layers, water, loose ice and floes.

Lengths are metres until :class:`Canvas` turns them into pixels, so that a flight at another altitude shows the same
world at another size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

#: Water by habitat, RGB in [0, 1]: clear glacial water, deep water, silt from a river.
WATERS: Final[dict[str, tuple[float, float, float]]] = {
    "clear": (0.16, 0.42, 0.43),
    "deep": (0.08, 0.22, 0.27),
    "silt": (0.37, 0.40, 0.37),
}
BRIGHT: Final = (0.90, 0.93, 0.95)
DULL: Final = (0.50, 0.48, 0.45)
GLOW: Final = (0.42, 0.72, 0.70)


def smooth_noise(rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Smooth noise (H, W) float32 of about unit variance: a coarse grid of normal values, enlarged.

    Args:
        rng: seeded generator.
        cells: rows and columns of the coarse grid.
        size: (H, W) in pixels.

    >>> smooth_noise(np.random.default_rng(0), (4, 4), (16, 24)).shape
    (16, 24)
    """
    from PIL import Image

    if 0 in size:  # a window beyond the border
        return np.zeros(size, np.float32)
    grid = (min(max(2, cells[0]), size[0]), min(max(2, cells[1]), size[1]))
    coarse = Image.fromarray(rng.standard_normal(grid, dtype=np.float32))
    return np.asarray(coarse.resize((size[1], size[0]), Image.Resampling.BICUBIC)) * np.float32(1.3)


@dataclass(frozen=True)
class Floe:
    """A piece of ice that can carry something.

    Attributes:
        y, x: centre, pixels.
        radius: mean radius, pixels.
        bright: clean white ice, else grey and dirty.
    """

    y: float
    x: float
    radius: float
    bright: bool


@dataclass
class Canvas:
    """A picture in work: (3, H, W) float32 RGB, and where something lies on the water.

    Attributes:
        size: (H, W) in pixels.
        gsd_cm: ground sample distance, centimetres a pixel.
        water: colour of the water.
        sun: direction from which the light comes, radians.
    """

    size: tuple[int, int]
    gsd_cm: float
    water: tuple[float, float, float]
    sun: float
    pixels: np.ndarray = field(init=False)
    land: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = np.empty((3, *self.size), np.float32)
        self.pixels[:] = _colour(self.water)
        self.land = np.zeros(self.size, np.float32)

    @cached_property
    def _rows(self) -> np.ndarray:
        return np.arange(self.size[0], dtype=np.float32)[:, None]

    @cached_property
    def _columns(self) -> np.ndarray:
        return np.arange(self.size[1], dtype=np.float32)[None, :]

    def px(self, metres: float) -> float:
        """Metres on the ground as pixels."""
        return metres * 100.0 / self.gsd_cm

    def window(self, y: float, x: float, reach: float) -> tuple[slice, slice]:
        """The part of the canvas within ``reach`` pixels of a point; empty when it lies outside."""
        top, left = max(0, int(y - reach)), max(0, int(x - reach))
        return slice(top, max(top, int(y + reach) + 2)), slice(left, max(left, int(x + reach) + 2))

    def offsets(self, where: tuple[slice, slice], y: float, x: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows (h, 1) and columns (1, w) of a window, counted from a point."""
        return self._rows[where[0]] - np.float32(y), self._columns[:, where[1]] - np.float32(x)

    def paint(self, where: tuple[slice, slice], alpha: np.ndarray, colour: np.ndarray, *, solid: bool = False) -> None:
        """Lays a colour (3, h, w) or (3, 1, 1) over a window, as opaque as ``alpha`` (h, w) says.

        Args:
            where: as :meth:`window` gives it.
            alpha: opacity in [0, 1].
            colour: RGB.
            solid: it lies on the water or swims in it, so that no glint is drawn over it.
        """
        view = self.pixels[:, where[0], where[1]]
        view += alpha * (colour - view)
        if solid:
            np.maximum(self.land[where], alpha, out=self.land[where])

    def add_water(self, rng: np.random.Generator, sea_state: int) -> None:
        """Depth, swell and, from sea state 3 on, white caps."""
        height, width = self.size
        shade = np.float32(0.05) * smooth_noise(rng, (4, 4), self.size)
        swell = smooth_noise(rng, (int(height / self.px(0.35)), int(width / self.px(0.9))), self.size)
        shade += np.float32(0.012 + 0.03 * sea_state) * swell
        if sea_state:
            shade += np.float32(0.012 * sea_state) * smooth_noise(rng, (height // 2, width // 3), self.size)
        self.pixels *= 1 + shade
        if sea_state >= 3:
            ruffled = swell + np.float32(0.8) * smooth_noise(rng, (height // 2, width // 4), self.size)
            caps = np.clip((ruffled - np.float32(4.3 - 0.35 * sea_state)) * 2, 0, 1)
            self.paint((slice(None), slice(None)), caps * np.float32(0.8), _colour((0.86, 0.90, 0.91)))

    def add_brash(self, rng: np.random.Generator, share: float) -> None:
        """Loose pieces of ice of two sizes over about this share of the water."""
        if share <= 0:
            return
        height, width = self.size
        for cell, part in ((self.px(0.16), 0.55), (self.px(0.42), 0.45)):
            cells = int(height / max(cell, 2)), int(width / max(cell, 2))
            pieces = smooth_noise(rng, cells, self.size)
            level = np.float32(_level(share * part))
            alpha = np.clip((pieces - level) * np.float32(3.5), 0, 1)
            tone = np.float32(0.66) + np.float32(0.12) * (pieces - level)
            dirt = np.float32(0.12) * np.abs(smooth_noise(rng, (cells[0] // 2, cells[1] // 2), self.size))
            colour = (np.minimum(tone, np.float32(0.92)) - dirt) * _colour((0.97, 1.0, 1.02))
            self.paint((slice(None), slice(None)), alpha, colour, solid=True)

    def add_floe(self, rng: np.random.Generator, floe: Floe) -> None:
        """One floe with the glow of the ice under water around it."""
        where = self.window(floe.y, floe.x, 1.6 * floe.radius)
        shape = self.blob(rng, where, (floe.y, floe.x), floe.radius, corners=int(rng.integers(9, 15)), rough=0.17)
        if not shape.size:
            return
        edge = np.float32(max(1.5, 0.14 * floe.radius))
        glow = np.float32(0.55) * np.exp(-np.clip(shape, 0, None) / edge)
        self.paint(where, glow, _colour(GLOW) if floe.bright else np.float32(0.7) * _colour(GLOW))
        cells = max(3, int(2 * floe.radius / self.px(0.25)))
        ridges = smooth_noise(rng, (cells, cells), shape.shape)
        blocks = np.clip(3 * smooth_noise(rng, (5, 6), shape.shape), -1, 1)
        tone = 1 + np.float32(0.035) * ridges + np.float32(0.05) * blocks
        tone -= np.float32(0.25) * np.clip(1 + shape / edge, 0, 1)  # the rim slopes into the water
        colour = _colour(BRIGHT if floe.bright else DULL) * tone
        if not floe.bright or rng.random() < 0.25:
            streaks = np.clip(smooth_noise(rng, (cells, max(2, cells // 3)), shape.shape) - np.float32(0.6), 0, 1)
            colour = colour + np.float32(0.6) * streaks * (_colour((0.24, 0.21, 0.18)) - colour)
        self.paint(where, np.clip(0.5 - shape, 0, 1), colour, solid=True)

    def blob(
        self,
        rng: np.random.Generator,
        where: tuple[slice, slice],
        centre: tuple[float, float],
        radius: float,
        *,
        corners: int,
        rough: float,
        turn: float = 0.0,
        flat: float = 1.0,
    ) -> np.ndarray:
        """Distance (h, w) in pixels to the border of an uneven polygon, negative inside."""
        dy, dx = self.offsets(where, *centre)
        cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        u, v = dx * cosine + dy * sine, (dy * cosine - dx * sine) / np.float32(flat)
        knots = (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) * (2 * np.pi / corners)
        reach = _polygon(knots, np.clip(rng.normal(1.0, rough, corners), 0.55, 1.5))
        turns = np.arctan2(v, u) * np.float32(len(reach) / (2 * np.pi))
        distance = np.hypot(u, v) - np.float32(radius) * reach[turns.astype(np.int32) % len(reach)]
        return np.asarray(distance * np.float32(min(flat, 1.0) ** 0.5))

    def add_glint(self, rng: np.random.Generator, strength: float) -> None:
        """Sunlight on the water: a bright band in which single pixels saturate."""
        if strength <= 0:
            return
        height, width = self.size
        band = np.clip(smooth_noise(rng, (3, 3), self.size) + np.float32(0.4), 0, 1.6) * (1 - self.land)
        sparks = np.clip(smooth_noise(rng, (height, width), self.size) - np.float32(1.9), 0, 1)
        self.pixels += np.float32(0.10 * strength) * band + np.float32(1.1 * strength) * band * sparks

    def finish(self, rng: np.random.Generator, gain: float, noise_sd: float) -> np.ndarray:
        """The camera: gain, noise and eight bits; (H, W, 3) uint8."""
        noise = rng.standard_normal((3, *self.size), dtype=np.float32)
        pixels = self.pixels * np.float32(255 * gain) + np.float32(255 * noise_sd) * noise
        return np.ascontiguousarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def _colour(rgb: tuple[float, float, float]) -> np.ndarray:
    return np.array(rgb, dtype=np.float32)[:, None, None]


def _polygon(angles: np.ndarray, radii: np.ndarray, steps: int = 1024) -> np.ndarray:
    """Distance from the centre to the border of a polygon at evenly spaced directions (steps,) float32."""
    x, y = radii * np.cos(angles), radii * np.sin(angles)
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    # The side through two corners is the line a cos + b sin = 1 / r.
    cross = x * next_y - next_x * y
    a, b = (next_y - y) / cross, (x - next_x) / cross
    turn = (np.arange(steps) + 0.5) * (2 * np.pi / steps)
    side = (np.searchsorted(np.sort(angles % (2 * np.pi)), turn) - 1) % len(angles)
    order = np.argsort(angles % (2 * np.pi))
    a, b = a[order][side], b[order][side]
    return np.asarray(1 / (a * np.cos(turn) + b * np.sin(turn)), dtype=np.float32)


def _level(share: float) -> float:
    """The level that about this share of smooth noise exceeds."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(1 - min(share, 0.9))
