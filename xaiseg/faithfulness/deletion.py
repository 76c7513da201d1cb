"""Deletion and insertion: hide, or show, what a map calls important, most important first, and watch the score.

V. Petsiuk, A. Das, K. Saenko, "RISE", BMVC 2018, for a dense target: the score is the mean probability over the frozen
region. Hiding the region itself always works, so two variants stand side by side: ``object`` ranks all pixels, and
``context`` ranks, hides and shows only pixels outside the region, where painting the predicted mask earns nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from xaiseg.explainers.base import Session
from xaiseg.explainers.replacement import Replacement
from xaiseg.explainers.targets import Region

Variant = Literal["object", "context"]
_Curve = TypeVar("_Curve")
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


@dataclass(frozen=True)
class Insertion:
    """The rise of the score under one map.

    Attributes:
        shares: (steps + 1,) share of the rankable pixels that is shown, from 0 to 1.
        relative: (steps + 1,) S / S0; the first point is the score with all rankable pixels hidden.
        area_under: the area under the curve, by the trapezoid rule: towards 1 when the first pixels bring the whole
            score back. Higher is better. It may exceed 1, and its floor depends on the first point, so compare maps of
            one image.
    """

    shares: np.ndarray
    relative: np.ndarray
    area_under: float


@dataclass(frozen=True)
class Curves:
    """Deletion and insertion of all maps of one image: variant -> name -> curve.

    Attributes:
        deletion: ``context`` is empty when the region fills the image.
        insertion: the same; both are empty where no insertion was asked for.
    """

    deletion: dict[Variant, dict[str, Deletion]]
    insertion: dict[Variant, dict[str, Insertion]]


@dataclass(frozen=True)
class _Order:
    """Which pixels of a variant may be touched, and the place of each in one map's order."""

    allowed: np.ndarray
    places: np.ndarray


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
    """Deletion alone; see :func:`curves`."""
    return curves(session, region, maps, ties=ties, steps=steps, baseline=baseline, window_px=window_px).deletion


def curves(
    session: Session,
    region: Region,
    maps: Mapping[str, np.ndarray],
    *,
    ties: np.ndarray,
    steps: int = 8,
    insertion_steps: int = 0,
    baseline: Replacement = "mean",
    insertion_baseline: Replacement = "blur",
    window_px: int | None = None,
) -> Curves:
    """Deletion and insertion of all maps of one image in both variants, as one batched stream of forwards.

    Args:
        session: the image and the model.
        region: the frozen region; the score is its mean probability whatever scale it has.
        maps: name -> (H, W), more important = higher.
        ties: (H, W) random field that orders equal values, the same for all maps, so that equal maps score equally.
        steps: points of each deletion curve after the first.
        insertion_steps: the same for insertion; 0 = no insertion.
        baseline: what hidden pixels show during deletion.
        insertion_baseline: what pixels show that are not yet shown; blurred as published, since an image of sharp
            patches on flat ground is unlike anything that the model has seen.
        window_px: see :func:`ranking`; None = a sixteenth of the shorter side.

    Raises:
        SubjectError: a score is not finite.
    """
    target = region.as_probability()
    window = window_px or max(1, round(min(region.mask.shape) * WINDOW_SHARE))
    allowed = {variant: each for variant, each in allowed_pixels(region).items() if each.any()}
    orders = [
        _Order(each, ranking(values, each, ties, window)) for each in allowed.values() for values in maps.values()
    ]
    wholes = list(allowed.values())
    image, inserting = session.image, insertion_steps > 0
    stream = [_deleting(image, session.baseline(baseline), wholes, orders, steps)]
    if inserting:
        stream.append(_inserting(image, session.baseline(insertion_baseline), wholes, orders, insertion_steps))
    scores = session.scores(chain(*stream), [target])[:, 0] / session.score(target)
    used = len(wholes) + len(orders) * (steps - 1)
    ends, inner = _split(scores[:used], len(wholes), len(maps))
    gone = np.column_stack([np.ones(len(orders)), inner, ends])
    shares = hidden_shares(steps)
    deleted = _by_variant(allowed, maps, [Deletion(shares, each, area_over(shares, each)) for each in gone])
    if not inserting:
        return Curves(deleted, {variant: {} for variant in VARIANTS})
    starts, inner = _split(scores[used:], len(wholes), len(maps))
    shown = np.column_stack([starts, inner, np.ones(len(orders))])
    steps_shown = hidden_shares(insertion_steps)
    found = [Insertion(steps_shown, each, 1.0 - area_over(steps_shown, each)) for each in shown]
    return Curves(deleted, _by_variant(allowed, maps, found))


def allowed_pixels(region: Region) -> dict[Variant, np.ndarray]:
    """The pixels that each variant ranks: (H, W) bool."""
    return {"object": np.ones_like(region.mask), "context": ~region.mask}


def _split(scores: np.ndarray, wholes: int, maps: int) -> tuple[np.ndarray, np.ndarray]:
    """The score with everything hidden for each order, and the inner points of its curve."""
    return scores[:wholes].repeat(maps), scores[wholes:].reshape(wholes * maps, -1)


def _by_variant(
    allowed: Mapping[Variant, np.ndarray], maps: Mapping[str, np.ndarray], found: Sequence[_Curve]
) -> dict[Variant, dict[str, _Curve]]:
    done: dict[Variant, dict[str, _Curve]] = {variant: {} for variant in VARIANTS}
    for index, variant in enumerate(allowed):
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


def _deleting(
    image: Tensor, fill: Tensor, wholes: Sequence[np.ndarray], orders: Sequence[_Order], steps: int
) -> Iterator[Tensor]:
    """First the images with everything hidden, one a variant (all maps end there), then every map's steps."""
    for whole in wholes:
        yield torch.where(torch.from_numpy(whole).to(image.device), fill, image)
    for order in orders:
        ranks = torch.from_numpy(order.places).to(image.device)
        for share in hidden_shares(steps)[1:-1]:
            yield torch.where(ranks < round(share * int(order.allowed.sum())), fill, image)


def _inserting(
    image: Tensor, fill: Tensor, wholes: Sequence[np.ndarray], orders: Sequence[_Order], steps: int
) -> Iterator[Tensor]:
    """The same for insertion: all maps begin with everything hidden."""
    for whole in wholes:
        yield torch.where(torch.from_numpy(whole).to(image.device), fill, image)
    for order in orders:
        ranks = torch.from_numpy(order.places).to(image.device)
        pixels = int(order.allowed.sum())
        for share in hidden_shares(steps)[1:-1]:
            waiting = (ranks >= round(share * pixels)) & (ranks < pixels)
            yield torch.where(waiting, fill, image)
