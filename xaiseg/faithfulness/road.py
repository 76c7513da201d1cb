"""ROAD, remove and debias: hide what a map calls important, and fill the hole from around it.

Y. Rong, T. Leemann et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022. A hole
that shows one colour tells the model where it is; one that is filled from its surroundings tells it little. Pixels are
removed most relevant first (MoRF) and least relevant first (LeRF), and half the difference of both scores counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.explainers.base import Session
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.deletion import VARIANTS, Variant, allowed_pixels, ranking
from xaiseg.faithfulness.imputation import Mode, impute
from xaiseg.seeds import generator

PERCENTILES: Final = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0)

#: Standard deviation of the noise in filled pixels, as a share of the declared range.
NOISE_SHARE: Final = 0.01


@dataclass(frozen=True)
class Road:
    """ROAD of one map.

    Attributes:
        percentiles: (P,) at percentile p about 100 - p percent of the rankable pixels are removed.
        most: (P,) S / S0 with the most relevant pixels removed; lower is better.
        least: (P,) S / S0 with the least relevant pixels removed; higher is better.
        combined: the mean over percentiles of (least - most) / 2; higher is better, near 0 for a random map.
    """

    percentiles: np.ndarray
    most: np.ndarray
    least: np.ndarray
    combined: float


def removed(pixels: int, percentile: float) -> int:
    """How many pixels lie at or above a percentile of distinct values.

    >>> removed(101, 90.0)
    11
    """
    return pixels - math.ceil((pixels - 1) * percentile / 100.0 - 1e-9)


def road(
    session: Session,
    region: Region,
    maps: Mapping[str, np.ndarray],
    *,
    ties: np.ndarray,
    percentiles: Sequence[float] = PERCENTILES,
    mode: Mode = "exact",
    noise: float = NOISE_SHARE,
    window_px: int = 1,
    variants: Sequence[Variant] = VARIANTS,
) -> dict[Variant, dict[str, Road]]:
    """ROAD of all maps of one image in both variants, as one batched stream of forwards.

    Args:
        session: the image and the model.
        region: the frozen region; the score is its mean probability whatever scale it has.
        maps: name -> (H, W), more important = higher.
        ties: (H, W) random field that orders equal values.
        percentiles: above 0 and below 100.
        mode: see :mod:`xaiseg.faithfulness.imputation`.
        noise: share of the declared range. One field, seeded by the session, serves all maps.
        window_px: see :func:`~xaiseg.faithfulness.deletion.ranking`; 1 as published.
        variants: ``object``: all pixels are ranked; ``context``: those outside the region.

    Returns:
        variant -> name -> scores; ``context`` is empty when the region fills the image.

    Raises:
        UsageError: no percentile, or one out of range.
        SubjectError: a score is not finite.
    """
    if not percentiles or not all(0.0 < each < 100.0 for each in percentiles):
        got = list(percentiles)
        raise UsageError("these are no percentiles", where="road", got=got, allowed="above 0 and below 100")
    target = region.as_probability()
    allowed = {name: each for name, each in allowed_pixels(region).items() if name in variants and each.any()}
    orders = [(ranking(values, each, ties, window_px), each) for each in allowed.values() for values in maps.values()]
    low, high = session.subject.info.value_range
    field = generator(session.seed, "road noise").standard_normal(session.image.shape) * noise * (high - low)
    scores = session.scores(_stream(session.image, orders, percentiles, mode, field), [target])[:, 0]
    relative = (scores / session.score(target)).reshape(len(orders), len(percentiles), 2)
    places = np.asarray(percentiles, dtype=np.float64)
    found = [Road(places, each[:, 0], each[:, 1], float((each[:, 1] - each[:, 0]).mean() / 2)) for each in relative]
    done: dict[Variant, dict[str, Road]] = {variant: {} for variant in VARIANTS}
    for index, variant in enumerate(allowed):
        done[variant] = dict(zip(maps, found[index * len(maps) :], strict=False))
    return done


def _stream(
    image: Tensor,
    orders: Sequence[tuple[np.ndarray, np.ndarray]],
    percentiles: Sequence[float],
    mode: Mode,
    noise: np.ndarray,
) -> Iterator[Tensor]:
    """For each map and percentile the image without its most, and without its least relevant pixels."""
    values = image.cpu().numpy()
    for ranks, allowed in orders:
        pixels = int(allowed.sum())
        for percentile in percentiles:
            count = removed(pixels, percentile)
            for hidden in (ranks < count, (ranks >= pixels - count) & allowed):
                yield torch.from_numpy(impute(values, hidden, mode=mode, noise=noise)).to(image.device)
