"""Deletion: hide what a map calls important, most important first, and watch the score fall.

V. Petsiuk, A. Das, K. Saenko, "RISE", BMVC 2018, for a dense target: the score is the mean probability over the frozen
region. Hiding the region itself always works, so two variants stand side by side: ``object`` ranks all pixels, and
``context`` ranks and hides only pixels outside the region, where painting the predicted mask earns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from xaiseg.explainers.base import Session
from xaiseg.explainers.replacement import Replacement, replacement
from xaiseg.explainers.targets import Region

Variant = Literal["object", "context"]
VARIANTS: Final[tuple[Variant, ...]] = ("object", "context")

#: Maps are averaged over windows of this share of the shorter side before pixels are ranked.
WINDOW_SHARE: Final = 1 / 16

#: Values closer than this share of the largest one are ties: float noise must not decide an order.
TIE_SHARE: Final = 1e-6


@dataclass(frozen=True)
class Deletion:
    """The fall of the score under one map.

    Attributes:
        shares: (steps + 1,) share of the rankable pixels that is hidden, from 0 to 1.
        relative: (steps + 1,) S / S0, the score as a share of the unperturbed one.
        area_over: the area between the curve and 1, by the trapezoid rule: 0 when hiding changes nothing, towards 1
            when the first pixels take the whole score, negative when hiding raises it. Higher is better.
    """

    shares: np.ndarray
    relative: np.ndarray
    area_over: float


def hidden_shares(steps: int) -> np.ndarray:
    """Shares (k / steps)² for k = 0 ... steps: dense at the start, where curves fall.

    >>> hidden_shares(4).tolist()
    [0.0, 0.0625, 0.25, 0.5625, 1.0]
    """
    return np.linspace(0.0, 1.0, steps + 1) ** 2


def deletions(
    session: Session,
    region: Region,
    maps: Mapping[str, np.ndarray],
    *,
    ties: np.ndarray,
    steps: int = 8,
    baseline: Replacement = "mean",
    window_px: int | None = None,
) -> dict[Variant, dict[str, Deletion]]:
    """Deletion of all maps of one image in both variants, as one batched stream of forwards.

    Args:
        session: the image and the model.
        region: the frozen region; the score is its mean probability whatever scale it has.
        maps: name -> (H, W), more important = higher.
        ties: (H, W) random field that orders equal values, the same for all maps, so that equal maps score equally.
        steps: points of each curve after the first.
        baseline: what hidden pixels show.
        window_px: see :func:`ranking`; None = a sixteenth of the shorter side.

    Returns:
        variant -> name -> curve; ``context`` is empty when the region fills the image.
    """
    target = region.as_probability()
    window = window_px or max(1, round(min(region.mask.shape) * WINDOW_SHARE))
    allowed: dict[Variant, np.ndarray] = {"object": np.ones_like(region.mask), "context": ~region.mask}
    variants = [variant for variant in VARIANTS if allowed[variant].any()]
    orders = [
        (allowed[variant], ranking(values, allowed[variant], ties, window))
        for variant in variants
        for values in maps.values()
    ]
    fill = replacement(session.image, baseline)
    stream = _stream(session.image, fill, [allowed[variant] for variant in variants], orders, steps)
    scores = session.scores(stream, [target])[:, 0] / session.score(target)
    ends = scores[: len(variants)].repeat(len(maps))
    inner = scores[len(variants) :].reshape(len(orders), steps - 1)
    curves = np.column_stack([np.ones(len(orders)), inner, ends])
    shares = hidden_shares(steps)
    found = [Deletion(shares, curve, area_over(shares, curve)) for curve in curves]
    done: dict[Variant, dict[str, Deletion]] = {variant: {} for variant in VARIANTS}
    for index, variant in enumerate(variants):
        done[variant] = dict(zip(maps, found[index * len(maps) :], strict=False))
    return done


def area_over(shares: np.ndarray, relative: np.ndarray) -> float:
    """The area between a curve and 1, by the trapezoid rule.

    >>> area_over(np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.0, 0.0]))
    0.75
    """
    fallen = 1.0 - relative
    return float(np.diff(shares) @ (fallen[1:] + fallen[:-1]) / 2.0)


def ranking(values: np.ndarray, allowed: np.ndarray, ties: np.ndarray, window_px: int) -> np.ndarray:
    """The place of each allowed pixel in the order of hiding: 0 = first; pixels not allowed come last.

    Values are first averaged over square windows, over allowed pixels alone. Otherwise a map of fine noise would win:
    single pixels replaced all over the image destroy its texture wherever they lie, which says nothing about the model.

    Args:
        values: (H, W).
        allowed: (H, W) bool.
        ties: (H, W) random field.
        window_px: side of the windows; 1 = no averaging.

    >>> ranking(np.array([[1.0, 3.0, 2.0]]), np.array([[True, True, False]]), np.zeros((1, 3)), 1).tolist()
    [[1, 0, 2]]
    """
    smooth, field = (smoothed(each, allowed, window_px) for each in (values, ties))
    largest = float(np.abs(smooth).max())
    coarse = np.round(smooth / (largest * TIE_SHARE)) if largest > 0 else smooth
    order = np.lexsort((-field.ravel(), -coarse.ravel(), ~allowed.ravel()))
    places = np.empty(order.size, dtype=np.int64)
    places[order] = np.arange(order.size)
    return places.reshape(values.shape)


def smoothed(values: np.ndarray, allowed: np.ndarray, window_px: int) -> np.ndarray:
    """The mean over a window around each pixel of the allowed pixels in it, and 0 where a pixel is not allowed."""
    if window_px == 1:
        return np.where(allowed, values, 0.0)
    from scipy.ndimage import uniform_filter

    weight = allowed.astype(np.float64)
    total = uniform_filter(np.where(allowed, values, 0.0).astype(np.float64), window_px, mode="constant")
    mass = uniform_filter(weight, window_px, mode="constant")
    return np.where(allowed, total / np.maximum(mass, 1.0 / window_px**2), 0.0)


def _stream(
    image: Tensor,
    fill: Tensor,
    wholes: list[np.ndarray],
    orders: list[tuple[np.ndarray, np.ndarray]],
    steps: int,
) -> Iterator[Tensor]:
    """First the images with everything hidden, one a variant (all maps end there), then every map's steps."""
    for whole in wholes:
        yield torch.where(torch.from_numpy(whole).to(image.device), fill, image)
    for allowed, places in orders:
        ranks = torch.from_numpy(places).to(image.device)
        for share in hidden_shares(steps)[1:-1]:
            yield torch.where(ranks < round(share * int(allowed.sum())), fill, image)
