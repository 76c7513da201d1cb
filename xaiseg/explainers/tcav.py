"""TCAV: does the target's score rise along a concept that a user shows by example?

A concept is a set of images. A linear classifier separates the layer's activations of the concept's images from those
of random images; the normal of its boundary is the concept's direction v (concept activation vector). With G the
gradient of the target by the layer, v . sum of G over the grid is the score's slope when v is added everywhere; the
TCAV score is the share of cases whose slope is positive. B. Kim et al., ICML 2018, arXiv:1711.11279.

This is not a call of captum.concept.TCAV: that flattens the grid (so that a concept has a place, and images one size),
takes the score from an index of the output and not from a target with its own frozen region a case, and keeps
activations and vectors in files. Here the activations are averaged over the image, and nothing is written. With the
same vector both give the same score.

Two tests, and a concept counts as significant only where both say so (the larger p-value, then Holm over concepts):

- against random vectors, as published: scores of vectors from bootstrapped concept images against each random set,
  and scores of random sets against each other, by Welch's test. Alone it takes too much for real, because all vectors
  of a concept share its few images: in simulations without any effect it rejects 16 to 27 % of concepts at 5 %.
- over images: the mean slope times the image's activations, concept images against random images, by Welch's test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Final

import numpy as np
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.explainers.base import Cost, Session
from xaiseg.explainers.pooling import Example, Place, Pooled, as_tensor, find_layer, pool, region_weights, require
from xaiseg.explainers.targets import Target
from xaiseg.seeds import generator
from xaiseg.statistics.multiplicity import holm
from xaiseg.subject import Segmenter

#: Fewer random sets than this are said to be few.
ENOUGH_SETS: Final = 10
#: A classifier that is right less often on images that it has not seen has found no concept.
TELLS_APART: Final = 0.7
FEW_CASES: Final = 10


@dataclass(frozen=True, eq=False)
class ConceptScore:
    """One concept's answer.

    Attributes:
        name: of the concept.
        score: mean over the runs of the share of cases with a positive slope, in [0, 1]; NaN with a reason.
        runs: (R,) score with each random set.
        accuracy: mean share of images outside the bootstrap that the classifier places rightly, each side counting
            half; NaN where there was none.
        p_random: against the scores of random vectors, two-sided.
        p_images: concept images against random images, two-sided.
        significant: whether the larger of both is rejected by Holm's procedure over the concepts.
        reason: why there is no score; "" where there is one.
        notes: what a reader must know.
    """

    name: str
    score: float
    runs: np.ndarray
    accuracy: float
    p_random: float
    p_images: float
    significant: bool = False
    reason: str = ""
    notes: tuple[str, ...] = ()

    @property
    def p(self) -> float:
        """The larger of the two p-values."""
        return max(self.p_random, self.p_images)


@dataclass(frozen=True, eq=False)
class Tcav:
    """Answers of all concepts.

    Attributes:
        concepts: in the order given.
        random: (R,) scores of random vectors.
        alpha: family-wise error of ``significant``.
        place: the layer.
        notes: what a reader must know.
        cost: passes, counted in images.
    """

    concepts: tuple[ConceptScore, ...]
    random: np.ndarray
    alpha: float
    place: Place
    notes: tuple[str, ...]
    cost: Cost


def tcav(
    subject: Segmenter,
    cases: Sequence[tuple[Tensor | np.ndarray, Target]],
    concepts: Mapping[str, Sequence[Example]],
    randoms: Sequence[Sequence[Example]],
    *,
    layer: str | None = None,
    token_grid: tuple[int, int] | None = None,
    seed: int = 0,
    alpha: float = 0.05,
    batch_size: int = 8,
) -> Tcav:
    """Scores concepts for a target by the directions that their images take in a layer.

    Args:
        subject: the audited model; it must offer gradients.
        cases: images (C, H, W), each with its own target.
        concepts: name -> at least 2 images that show it; with ``regions`` each region counts as one.
        randoms: at least 2 sets of at least 2 images that do not; 20 sets or more are recommended.
        layer: dotted name, or None for the automatic choice on the first case.
        token_grid: (h, w) that a transformer's tokens lie on.
        seed: of the bootstrap.
        alpha: family-wise error over the concepts.
        batch_size: images a forward pass.

    Raises:
        UsageError: no case, no concept, too few sets or images.
        SubjectError: the subject does not offer gradients, or they are not finite.
    """
    require(subject, "tcav")
    _check(cases, concepts, randoms)
    place = find_layer(subject, cases[0][0], layer, token_grid=token_grid)
    slopes, backwards = _slopes(subject, cases, place)
    pools = {name: pool(subject, shown, place=place, batch_size=batch_size) for name, shown in concepts.items()}
    others = [pool(subject, shown, place=place, batch_size=batch_size) for shown in randoms]
    sets = [_vectors(each, f"random set {number + 1}") for number, each in enumerate(others)]
    rng = generator(seed, "tcav", "random")
    # Neighbours in a ring: as many vectors as sets, and no pair twice.
    pairs = [_run(sets[n], sets[(n + 1) % len(sets)], slopes, rng)[0] for n in range(len(sets))]
    unlike = _unique(others)
    found = []
    for name, pooled in pools.items():
        own = _vectors(pooled, f"concept {name}")
        rng = generator(seed, "tcav", name)
        runs = [_run(own, other, slopes, rng) for other in sets]
        found.append(_scored(name, runs, np.array(pairs), slopes, own, unlike))
    rejected = iter(holm([each.p for each in found if not each.reason], alpha))
    judged = tuple(each if each.reason else replace(each, significant=next(rejected)) for each in found)
    images = sum(len(shown) for shown in [*concepts.values(), *randoms]) + len(cases) + 1
    notes = (place.note, *_doubts(len(cases), len(sets)))
    return Tcav(judged, np.array(pairs), alpha, place, notes, Cost(images, backwards))


def _check(
    cases: Sequence[object], concepts: Mapping[str, Sequence[Example]], randoms: Sequence[Sequence[Example]]
) -> None:
    for where, count, least in (
        ("cases", len(cases), 1),
        ("concepts", len(concepts), 1),
        ("randoms", len(randoms), 2),
    ):
        if count < least:
            raise UsageError("there is too little to test", where=where, got=count, allowed=f"{least} or more")


def _doubts(cases: int, sets: int) -> list[str]:
    found = []
    if sets < ENOUGH_SETS:
        found.append(f"{sets} random sets are few: with fewer than {ENOUGH_SETS} the test can hardly reject")
    if cases < FEW_CASES:
        found.append(f"{cases} cases: each score is a multiple of 1/{cases}")
    return found


def _slopes(
    subject: Segmenter, cases: Iterable[tuple[Tensor | np.ndarray, Target]], place: Place
) -> tuple[np.ndarray, int]:
    """(N, C) float64 gradient of each case's score, summed over the cells that show the image."""
    found = []
    names = dict(subject.module.named_modules()) if subject.module is not None else {}
    layer = place.layer if place.layer in names else None  # a network of one layer has no name within itself
    for image, target in cases:
        session = Session(subject, as_tensor(subject, image))
        slopes = session.tap([target], layer, token_grid=place.token_grid).gradients[0]
        everywhere = np.ones(tuple(session.image.shape[1:]), dtype=bool)
        inside = region_weights(subject, [everywhere], (slopes.shape[1], slopes.shape[2]))[0] > 0
        found.append(slopes[:, inside].double().sum(dim=1).cpu().numpy())
    return np.stack(found), len(found)


def _vectors(pooled: Pooled, where: str) -> np.ndarray:
    """(n, C) float64 without the regions that have no vector."""
    kept = pooled.vectors[[not row.reason for row in pooled.rows]].astype(np.float64)
    if len(kept) < 2:
        raise UsageError(
            "a set needs at least 2 images", where=where, got=len(kept), allowed="2 or more; 20 are better"
        )
    return kept


def _unique(pools: Sequence[Pooled]) -> np.ndarray:
    """Vectors of all random images, each once: sets drawn from one heap share images."""
    found = {
        (row.digest, row.box): vector
        for pooled in pools
        for row, vector in zip(pooled.rows, pooled.vectors.astype(np.float64), strict=True)
        if not row.reason
    }
    return np.array(list(found.values()))


def concept_vector(shown: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The direction of a concept: normal of the boundary of a logistic regression.

    Activations are centred and brought to a mean variance of 1, so that the unit of the layer does not matter.

    Args:
        shown: (n, C) activations of the concept's images.
        others: (m, C) activations of other images.

    Returns:
        (C,) float64 of length 1, pointing to the concept; zero where all activations agree.

    >>> concept_vector(np.array([[2.0, 1.0], [3.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    return _boundary(shown, others)[0]


def _boundary(shown: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, float]:
    """Normal v of length 1 and the offset b: the concept lies where x . v > b."""
    from sklearn.linear_model import LogisticRegression

    rows = np.concatenate((shown, others))
    centre = rows.mean(axis=0)
    # One scale for all channels: one of its own would let channels that hardly vary decide.
    scale = float(np.sqrt(np.square(rows - centre).mean())) or 1.0
    labels = np.repeat([1, 0], [len(shown), len(others)])
    model = LogisticRegression(max_iter=1000).fit((rows - centre) / scale, labels)
    normal = model.coef_[0] / scale
    length = float(np.linalg.norm(normal)) or 1.0
    return normal / length, float(normal @ centre - model.intercept_[0]) / length


def _run(shown: np.ndarray, others: np.ndarray, slopes: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Score and accuracy of one vector, from bootstrapped images; the accuracy is that on images left out."""
    first, second = rng.integers(len(shown), size=len(shown)), rng.integers(len(others), size=len(others))
    normal, offset = _boundary(shown[first], others[second])
    left = np.delete(shown, first, axis=0) @ normal > offset
    right = np.delete(others, second, axis=0) @ normal <= offset
    accuracy = (left.mean() + right.mean()) / 2 if len(left) and len(right) else np.nan
    return float((slopes @ normal > 0).mean()), float(accuracy)


def _scored(
    name: str,
    runs: Sequence[tuple[float, float]],
    pairs: np.ndarray,
    slopes: np.ndarray,
    own: np.ndarray,
    unlike: np.ndarray,
) -> ConceptScore:
    scores, accuracies = np.array(runs).T
    if not slopes.any():
        none = "the score does not depend on the layer: every slope is zero"
        return ConceptScore(name, np.nan, scores * np.nan, np.nan, np.nan, np.nan, reason=none)
    seen = accuracies[np.isfinite(accuracies)]
    accuracy = float(seen.mean()) if len(seen) else float("nan")
    notes = []
    if not accuracy >= TELLS_APART:
        said = "cannot be checked on other images" if np.isnan(accuracy) else f"is right on {accuracy:.0%} of them"
        notes.append(f"the layer hardly tells the concept from random images: the classifier {said}")
    along = slopes.mean(axis=0)
    p_images = _welch(own @ along, unlike @ along)
    return ConceptScore(name, float(scores.mean()), scores, accuracy, _welch(scores, pairs), p_images,
                        notes=tuple(notes))  # fmt: skip


def _welch(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value that two samples have the same mean.

    Two constant samples leave no spread to test with; then that of the best permutation.
    """
    from scipy.stats import t

    span = max(np.abs(first).max(), np.abs(second).max())
    apart = first.mean() - second.mean()
    parts = [float(sample.var(ddof=1)) / len(sample) for sample in (first, second)]
    if max(np.ptp(first), np.ptp(second)) <= 1e-9 * span:
        total = len(first) + len(second)
        return 1.0 if abs(apart) <= 1e-9 * span else min(1.0, 2 / comb(total, len(first)))
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(sample) - 1) for part, sample in zip(parts, (first, second), strict=True)
    )
    return float(2 * t.sf(abs(apart) / sum(parts) ** 0.5, freedom))
