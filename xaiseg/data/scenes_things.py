"""Animals and what is mistaken for them, painted from above: seals, cetaceans, dark ice, rocks, boats, logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from xaiseg.data.scenes_canvas import Canvas, smooth_noise

#: Half width of a body along its axis, both as shares of half the length: tail at -1, snout at +1.
_SEAL: Final = (
    (-1.0, -0.97, -0.86, -0.78, -0.5, 0.0, 0.25, 0.5, 0.68, 0.8, 0.93, 1.0),
    (0.0, 0.15, 0.10, 0.08, 0.23, 0.34, 0.34, 0.27, 0.19, 0.19, 0.12, 0.0),
)
_CETACEAN: Final = (
    (-1.0, -0.98, -0.88, -0.80, -0.5, -0.1, 0.25, 0.6, 0.85, 1.0),
    (0.0, 0.28, 0.16, 0.045, 0.09, 0.17, 0.20, 0.17, 0.10, 0.0),
)
_HULL: Final = ((-1.0, -0.98, -0.5, 0.2, 0.7, 1.0), (0.0, 0.24, 0.29, 0.30, 0.19, 0.0))
_COATS: Final = ((0.20, 0.17, 0.15), (0.31, 0.27, 0.22), (0.40, 0.33, 0.24), (0.48, 0.46, 0.43))
_SKINS: Final = ((0.13, 0.15, 0.17), (0.22, 0.25, 0.27), (0.34, 0.37, 0.38))
_DECKS: Final = ((0.88, 0.88, 0.86), (0.80, 0.35, 0.12), (0.55, 0.57, 0.60), (0.20, 0.28, 0.42))


@dataclass(frozen=True)
class Pose:
    """Where a body lies.

    Attributes:
        y, x: centre, pixels.
        length: snout to tail, pixels.
        heading: radians; 0 looks right, pi / 2 looks down.
        bend: sideways bow of the axis, as a share of half the length.
        wide: factor on the width.
    """

    y: float
    x: float
    length: float
    heading: float = 0.0
    bend: float = 0.0
    wide: float = 1.0


Where = tuple[slice, slice]


def seal(canvas: Canvas, rng: np.random.Generator, pose: Pose, *, swims: bool) -> np.ndarray:
    """Paints a harbour seal; returns the mask (H, W) of what can be seen of it."""
    where, along, across, half, edge = _body(canvas, pose, _SEAL)
    alpha = np.clip(np.float32(0.5) - edge / np.float32(1.1), 0, 1)
    coat = np.array(_COATS[int(rng.integers(len(_COATS)))], np.float32)[:, None, None] * rng.uniform(0.85, 1.15)
    spots = np.clip(smooth_noise(rng, (14, 14), alpha.shape) - np.float32(0.5), 0, 1)
    colour = coat * _round(canvas, pose, across, half) * (1 - np.float32(rng.uniform(0.1, 0.6)) * spots)
    if swims:  # the head is above the water, the rest shines through it
        depth = np.clip(np.float32(0.5) - along * np.float32(1.4), 0, 1)
        alpha *= 1 - np.float32(rng.uniform(0.3, 0.6)) * depth
    else:
        _shadow(canvas, pose, _SEAL)
    canvas.paint(where, alpha, colour, solid=True)
    return _mask(canvas, where, edge)


def cetacean(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> np.ndarray:
    """Paints a cetacean below the surface, deeper ones paler; returns its mask (H, W)."""
    where, along, across, half, edge = _body(canvas, pose, _CETACEAN)
    swept = np.abs(along - np.float32(0.42) + np.float32(0.6) * np.abs(across)) - np.float32(0.07)
    fins = np.maximum(swept, np.abs(across) - np.float32(0.42)) * np.float32(pose.length / 2)
    edge = np.minimum(edge, fins)
    depth = float(rng.uniform(0.0, 1.0))
    alpha = np.clip(np.float32(0.5) - edge / np.float32(1.0 + 2.0 * depth), 0, 1) * np.float32(0.95 - 0.45 * depth)
    skin = np.array(_SKINS[int(rng.integers(len(_SKINS)))], np.float32)[:, None, None]
    colour = skin * _round(canvas, pose, across, half)
    if depth < 0.25:  # the back breaks the surface
        foam = np.clip(smooth_noise(rng, (12, 12), alpha.shape) - np.float32(0.9), 0, 1)
        colour = colour + foam * np.clip(np.float32(1.0) - np.abs(along - np.float32(0.3)) * 2, 0, 1)
    canvas.paint(where, alpha, colour, solid=True)
    return _mask(canvas, where, edge)


def dark_ice(canvas: Canvas, rng: np.random.Generator, y: float, x: float, metres: float) -> np.ndarray:
    """Clear or dirty ice, as dark and as long as a seal; returns its mask (H, W)."""
    tone = ((0.16, 0.17, 0.18), (0.27, 0.23, 0.19), (0.13, 0.20, 0.22))[int(rng.integers(3))]
    return _lump(canvas, rng, (y, x), metres, tone, rough=0.25, flat=rng.uniform(0.35, 0.75), facets=0.25)


def rock(canvas: Canvas, rng: np.random.Generator, y: float, x: float, metres: float) -> np.ndarray:
    """An angular stone; returns its mask (H, W)."""
    tone = ((0.30, 0.29, 0.28), (0.22, 0.21, 0.20), (0.36, 0.31, 0.26))[int(rng.integers(3))]
    return _lump(canvas, rng, (y, x), 0.8 * metres, tone, rough=0.18, flat=rng.uniform(0.6, 1.0), facets=0.5)


def boat(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> np.ndarray:
    """A kayak or a skiff; returns its mask (H, W)."""
    where, along, across, _, edge = _body(canvas, pose, _HULL)
    deck = np.array(_DECKS[int(rng.integers(len(_DECKS)))], np.float32)[:, None, None]
    pit = (np.abs(across) < 0.6 * 0.3 * pose.wide) & (along > -0.45) & (along < 0.25)
    colour = np.where(pit, np.float32(0.35) * deck, deck) * (1 - np.float32(0.25) * (edge > -1.2))
    canvas.paint(where, np.clip(np.float32(0.5) - edge, 0, 1), colour, solid=True)
    return _mask(canvas, where, edge)


def log(canvas: Canvas, rng: np.random.Generator, pose: Pose) -> np.ndarray:
    """A drifting trunk; returns its mask (H, W)."""
    where, _, across, half, edge = _body(canvas, pose, ((-1.0, -0.98, 0.98, 1.0), (0.0, 0.07, 0.055, 0.0)))
    bark = np.array((0.33, 0.25, 0.18), np.float32)[:, None, None] * _round(canvas, pose, across, half)
    canvas.paint(where, np.clip(np.float32(0.5) - edge, 0, 1) * np.float32(0.9), bark, solid=True)
    return _mask(canvas, where, edge)


def chunk(canvas: Canvas, rng: np.random.Generator, y: float, x: float, radius: float) -> np.ndarray:
    """A block of ice that hides what lies under it; returns its mask (H, W)."""
    where = canvas.window(y, x, 1.6 * radius)
    shape = canvas.blob(rng, where, (y, x), radius, corners=8, rough=0.15)
    tone = np.float32(rng.uniform(0.66, 0.92)) * (1 + np.float32(0.05) * smooth_noise(rng, (4, 4), shape.shape))
    canvas.paint(where, np.clip(0.5 - shape, 0, 1), tone * np.ones((3, 1, 1), np.float32), solid=True)
    return _mask(canvas, where, shape)


def body_area(world: str) -> float:
    """Area of a body whose half length is 1 and whose width is the usual one; the bend does not change it.

    >>> 0.8 < body_area("seals") < 1.0
    True
    """
    knots, half = _SEAL if world == "seals" else _CETACEAN
    return float(2 * np.trapezoid(np.maximum(half, 0), knots))


def oriented_box(mask: np.ndarray, heading: float) -> np.ndarray:
    """The four corners (4, 2) float32 x, y of the smallest box along ``heading`` around a mask; pixels.

    >>> oriented_box(np.ones((2, 4), bool), 0.0).tolist()
    [[0.0, 0.0], [4.0, 0.0], [4.0, 2.0], [0.0, 2.0]]
    """
    y, x = np.nonzero(mask)
    axis = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
    points = axis @ np.stack((x + 0.5, y + 0.5))
    half = 0.5 * np.abs(axis).sum(axis=1)  # a pixel is a square of side 1
    low, high = points.min(axis=1) - half, points.max(axis=1) + half
    corners = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]])
    return np.asarray(corners @ axis, dtype=np.float32)


def _body(
    canvas: Canvas, pose: Pose, outline: tuple[Sequence[float], Sequence[float]]
) -> tuple[Where, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A window, positions along and across the axis, the half width there, and the distance to the skin in pixels."""
    where = canvas.window(pose.y, pose.x, 0.56 * pose.length * (1 + abs(pose.bend)))
    dy, dx = canvas.offsets(where, pose.y, pose.x)
    scale = np.float32(2 / pose.length)
    cosine, sine = np.float32(np.cos(pose.heading)) * scale, np.float32(np.sin(pose.heading)) * scale
    along = dx * cosine + dy * sine
    across = dy * cosine - dx * sine
    across = across - np.float32(pose.bend) * (np.float32(0.33) - along * along)
    half = np.interp(along.ravel(), *outline, left=-0.5, right=-0.5).reshape(along.shape).astype(np.float32)
    half *= np.float32(pose.wide)
    return where, along, across, half, (np.abs(across) - half) / scale


def _round(canvas: Canvas, pose: Pose, across: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Light on a round body: brightest on the side of the sun, dark at the other edge."""
    side = np.clip(across / np.maximum(half, np.float32(0.02)), -1, 1)
    lit = np.float32(np.sin(canvas.sun - pose.heading))
    return np.asarray(np.float32(1.12) - np.float32(0.35) * side * side + np.float32(0.22) * lit * side)


def _shadow(canvas: Canvas, pose: Pose, outline: tuple[Sequence[float], Sequence[float]]) -> None:
    away = canvas.px(0.09)
    moved = Pose(pose.y - away * np.sin(canvas.sun), pose.x - away * np.cos(canvas.sun), pose.length, pose.heading,
                 pose.bend, pose.wide)  # fmt: skip
    where, *_, edge = _body(canvas, moved, outline)
    shade = np.float32(0.45) * np.clip(np.float32(0.5) - edge / np.float32(2.5), 0, 1)
    canvas.paint(where, shade, np.float32(0.35) * canvas.pixels[:, where[0], where[1]])


def _lump(
    canvas: Canvas,
    rng: np.random.Generator,
    centre: tuple[float, float],
    metres: float,
    tone: tuple[float, float, float],
    *,
    rough: float,
    flat: float,
    facets: float,
) -> np.ndarray:
    radius = canvas.px(metres) / 2
    where = canvas.window(*centre, 1.6 * radius)
    shape = canvas.blob(rng, where, centre, radius, corners=int(rng.integers(7, 12)), rough=rough,
                        turn=rng.uniform(0, np.pi), flat=flat)  # fmt: skip
    light = 1 + np.float32(facets * 0.6) * np.sign(smooth_noise(rng, (5, 5), shape.shape))
    light = light + np.float32(0.12) * smooth_noise(rng, (14, 14), shape.shape)
    colour = np.array(tone, np.float32)[:, None, None] * light
    canvas.paint(where, np.clip(np.float32(0.5) - shape / np.float32(1.2), 0, 1), colour, solid=True)
    return _mask(canvas, where, shape)


def _mask(canvas: Canvas, where: Where, edge: np.ndarray) -> np.ndarray:
    mask = np.zeros(canvas.size, dtype=bool)
    mask[where] = edge < 0
    return mask
