"""What the check ``explanation`` and :func:`xaiseg.evaluate` share: metrics of maps, under the same names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from torch import Tensor

from xaiseg.errors import SubjectError
from xaiseg.explainers.bank import MaskBank
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.masks import Design
from xaiseg.explainers.replacement import Replacement
from xaiseg.explainers.targets import Region, Target
from xaiseg.faithfulness.complexity import complexity, sparseness
from xaiseg.faithfulness.infidelity import drops, infidelity, sensitivity_n, unexplained
from xaiseg.faithfulness.localisation import pointing_game, relevance_mass, relevance_rank
from xaiseg.faithfulness.sensitivity import max_sensitivity
from xaiseg.seeds import derive_seed

#: Masks that are taken from a bank which a method has filled further, so that all cases rest on as many.
FIRST_MASKS: Final = 256
#: A correlation over fewer masks says nothing, so a bank that holds fewer counts as empty.
FEWEST_MASKS: Final = 32


@dataclass(frozen=True)
class Versus:
    """A map's score beside that of the best of its rivals.

    Attributes:
        value: the map's score.
        excess: how much better it is than the best rival, in the score's unit; above 0 = better, whichever way the
            score counts.
        best: the rival; "" where none has a score.
    """

    value: float
    excess: float | None
    best: str


def versus(
    scores: Mapping[str, float], name: str, rivals: Iterable[str], *, higher_is_better: bool = True
) -> Versus | None:
    """Compares one map with its rivals; None where the map has no score (missing or NaN).

    >>> versus({"map": 0.2, "random": 0.5, "mask": 0.9}, "map", ["random", "mask"], higher_is_better=False)
    Versus(value=0.2, excess=0.3, best='random')
    """
    known = {key: value for key, value in scores.items() if not math.isnan(value)}
    if name not in known:
        return None
    sign = 1.0 if higher_is_better else -1.0
    able = [rival for rival in rivals if rival in known]
    if not able:
        return Versus(known[name], None, "")
    best = max(able, key=lambda rival: sign * known[rival])
    return Versus(known[name], sign * (known[name] - known[best]), best)


def described(values: np.ndarray, mask: np.ndarray) -> dict[str, float | None]:
    """Where a map lies and how spread out it is; None where a number is undefined.

    Args:
        values: (H, W), at least two pixels.
        mask: (H, W) bool, the region.

    Returns:
        ``pointing_game`` (0 or 1), ``relevance_mass``, ``relevance_rank``, ``complexity`` (as a share of the largest
        possible one, ln(H W)) and ``sparseness``, all in [0, 1].

    >>> found = described(np.array([[0.0, 2.0]]), np.array([[False, True]]))
    >>> found["pointing_game"], found["complexity"], found["sparseness"]
    (1.0, 0.0, 0.5)
    """
    hit, spread = pointing_game(values, mask), complexity(values)
    return {
        "pointing_game": None if hit is None else float(hit),
        "relevance_mass": relevance_mass(values, mask),
        "relevance_rank": relevance_rank(values, mask),
        "complexity": None if spread is None or values.size < 2 else spread / math.log(values.size),
        "sparseness": sparseness(values),
    }


@dataclass(frozen=True)
class FromBank:
    """What a mask bank says of maps: name -> number, NaN where it is undefined.

    Attributes:
        masks: how many masks.
        infidelity: in squares of S, unscaled.
        unexplained: scaled infidelity as a share, see :func:`~xaiseg.faithfulness.infidelity.unexplained`.
        sensitivity_n: the correlation.
    """

    masks: int
    infidelity: dict[str, float]
    unexplained: dict[str, float]
    sensitivity_n: dict[str, float]


def from_bank(bank: MaskBank, target: Target, maps: Mapping[str, np.ndarray], masks: int) -> FromBank:
    """Infidelity and sensitivity-n of all maps from the same masks."""
    found = drops(bank, target, maps, masks)
    shares = unexplained(found.predicted, found.observed)
    columns = (
        infidelity(found.predicted, found.observed),
        np.full(len(maps), np.nan) if shares is None else shares,
        sensitivity_n(found.predicted, found.observed),
    )
    raw, share, correlation = (dict(zip(maps, column.tolist(), strict=True)) for column in columns)
    return FromBank(masks, raw, share, correlation)


def bank_for(
    session: Session, target: Target, wanted: int, *, grid: int, baseline: Replacement
) -> tuple[MaskBank, int] | None:
    """A bank for the metrics of masks, and how many of its masks to use; None where none is there and none is wanted.

    What any method of the session has run for the target is used first. Grids come before segments, whose cells
    follow the image, and fuller banks before others.

    Args:
        session: the session in which the methods ran.
        target: the explained target.
        wanted: masks to run where no method has run as many; 0 = only those that are there.
        grid: cells a side of a new bank.
        baseline: what hidden cells of a new bank show.
    """
    filled = [bank for bank in session.banks if bank.held(target) >= FEWEST_MASKS]
    if not filled:
        # The design that sampled methods use by default.
        return (session.bank(Design("sobol", grid, 0.5, 4), baseline), wanted) if wanted else None
    best = max(filled, key=lambda bank: (bank.design.segments is None, bank.held(target)))
    held = best.held(target)
    # All subsets of the segments are run already where they were enumerated: there are no more.
    count = held if best.design.sampling == "subsets" else max(min(held, FIRST_MASKS), wanted)
    return best, count


def steadiness(
    session: Session, method: str, region: Region, params: Any, original: np.ndarray, *, radius: float, samples: int
) -> float | None:
    """Max-sensitivity of a method around the image of a session, which counts the forwards and backwards.

    Args:
        session: image, model, seed.
        method: a registered name.
        region: the frozen region.
        params: the method's parameters.
        original: (H, W), its map of the image itself.
        radius: share of the declared range.
        samples: nearby images.

    Returns:
        See :func:`~xaiseg.faithfulness.sensitivity.max_sensitivity`; None also where a nearby image has no map.
    """
    low, high = session.subject.info.value_range

    def other(image: Tensor) -> np.ndarray:
        near = Session(session.subject, image, seed=session.seed, budget=session.budget, prediction=session.prediction)
        try:
            first: np.ndarray = explain(near, method, [region], params=params).values[0]
            return first
        finally:
            session.forwards += near.forwards
            session.backwards += near.backwards

    seed = derive_seed(session.seed, "max-sensitivity")
    try:
        return max_sensitivity(
            other, session.image, radius=radius * (high - low), samples=samples, seed=seed, original=original
        )
    except SubjectError:
        return None
