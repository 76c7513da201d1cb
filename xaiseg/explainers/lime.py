"""LIME on segments: the reference library's regression, fed with masks of the bank.

M. T. Ribeiro, S. Singh, C. Guestrin, "Why Should I Trust You?", KDD 2016; lime_base and the defaults of lime_image:
cosine distance, kernel width 0.25, ridge penalty 1. With half of the segments hidden at random the cosine distance
hardly varies, so its weights are almost constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from xaiseg.errors import UsageError
from xaiseg.explainers.bank import Responses
from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.masks import Design
from xaiseg.explainers.regression import ridge
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.stopping import CellMap, painted
from xaiseg.explainers.superpixels import Cut, segments_of
from xaiseg.explainers.targets import Target

#: Penalty of lime_base's regression on weighted rows.
PENALTY: Final = 1.0


@dataclass(frozen=True)
class LimeParams:
    """Parameters of LIME.

    Attributes:
        masks: forwards besides the image itself.
        kernel_width: weight of a mask = sqrt(exp(-distance^2 / width^2)).
        cut: "slic" superpixels, "grid" rectangles, or "given" ``segments``.
        segments: with cut "given": the user's own segments.
        count: at most this many superpixels or rectangles.
        baseline: what hidden segments show.
    """

    masks: int = 1000
    kernel_width: float = 0.25
    cut: Cut = "slic"
    segments: Segments | None = None
    count: int = 64
    baseline: Replacement = "mean"

    def __post_init__(self) -> None:
        if self.masks < 8:
            raise UsageError("too few masks", where="lime.masks", got=self.masks, allowed="8 or more")
        if self.kernel_width <= 0:
            raise UsageError("no kernel", where="lime.kernel_width", got=self.kernel_width, allowed="above 0")


@explainer(
    "lime", needs={"scores"}, unit="logit per segment", params=LimeParams, forwards=lambda params: params.masks + 2
)
def lime(session: Session, targets: Sequence[Target], *, params: LimeParams) -> Attribution:
    """Coefficients of lime's local line, constant within each segment."""
    segments = segments_of(session, params.cut, params.count, params.segments)
    bank = session.bank(Design("bernoulli", segments=segments), params.baseline)
    responses = bank.responses(targets, params.masks)
    whole, _ = bank.ends(targets)
    values, variances, fits = local_line(responses, whole, params.kernel_width)
    maps, errors = painted(bank, CellMap(values[None], variances[None], np.zeros(1, dtype=np.int64)))
    note = f"{params.masks:,} masks of {segments.count} segments; a hidden segment shows {DESCRIPTION[params.baseline]}"
    told = [
        f"{target.name}: the line explains R² = {fit:.2f} of the score"
        for target, fit in zip(targets, fits, strict=True)
    ]
    return Attribution(maps.astype(np.float32), stderr=errors.astype(np.float32), notes=(note, *told))


def local_line(
    responses: Responses, whole: np.ndarray, kernel_width: float
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """lime_base on the masks, the unmasked image first as lime has it.

    Args:
        responses: n masks of d segments and their scores (n, T).
        whole: (T,) S of the image.
        kernel_width: see :class:`LimeParams`.

    Returns:
        Coefficients (d, T), their squared standard errors (d, T), and R² of each target.
    """
    from lime.lime_base import LimeBase

    rows = np.concatenate([np.ones((1, responses.rows.shape[1])), responses.rows.astype(np.float64)])
    scores = np.concatenate([whole[None], responses.scores])
    weights = np.sqrt(np.exp(-(cosine_distances(rows) ** 2) / kernel_width**2))
    base = LimeBase(lambda _: weights, random_state=0)
    values = np.zeros((rows.shape[1], scores.shape[1]))
    fits = []
    for target in range(scores.shape[1]):
        _, pairs, fit, _ = base.explain_instance_with_data(
            rows, scores, weights, target, num_features=rows.shape[1], feature_selection="none"
        )
        places, coefficients = zip(*pairs, strict=True)
        values[list(places), target] = coefficients
        fits.append(float(fit))
    return values, _variances(rows, scores, weights), fits


def cosine_distances(rows: np.ndarray) -> np.ndarray:
    """(n,) cosine distance of masks of 0 and 1 to the mask that shows everything; 1 for the empty mask.

    >>> cosine_distances(np.array([[1.0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])).tolist()
    [0.0, 0.5, 1.0]
    """
    return np.asarray(1.0 - np.sqrt(rows.sum(axis=1) / rows.shape[1]))


def _variances(rows: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What our own regression says of the same line's errors; the penalty is stated in its unit."""
    root = np.sqrt(weights * len(rows) / weights.sum())[:, None]
    centred = root * (rows - weights @ rows / weights.sum())
    largest = float(np.linalg.eigvalsh(centred.T @ centred)[-1]) or 1.0
    share = PENALTY * len(rows) / weights.sum() / largest
    return ridge(rows, scores, penalties=[share], weights=weights).variances
