"""Gradient attributions through captum, on the score of a target.

Integrated gradients: M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from torch import Tensor

from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.replacement import DESCRIPTION, Replacement, replacement
from xaiseg.explainers.tap import evaluation_mode
from xaiseg.explainers.targets import Target

#: Where the score hardly moves between image and baseline, the error is stated against this many logits instead.
SMALLEST_CHANGE: Final = 1e-3


@dataclass(frozen=True)
class IntegratedGradientsParams:
    """Parameters of integrated gradients.

    Attributes:
        steps: Gauss-Legendre points on the path to begin with; doubled while the error is too large.
        max_steps: never more points than this.
        tolerance: completeness error that is small enough.
        baseline: where the path starts.
    """

    steps: int = 16
    max_steps: int = 64
    tolerance: float = 0.05
    baseline: Replacement = "mean"


@explainer(
    "integrated-gradients", needs={"forward", "gradients"}, unit="logit per pixel", params=IntegratedGradientsParams
)
def integrated_gradients(
    session: Session, targets: Sequence[Target], *, params: IntegratedGradientsParams
) -> Attribution:
    """The gradient integrated on the straight path from a baseline to the image, summed over the channels.

    The map sums to S(image) - S(baseline); the completeness error is the distance from that, as a share of it.
    """
    start = replacement(session.image, params.baseline)
    start_scores = session.scores([start], targets)[0]
    changes = [session.score(target) - float(s) for target, s in zip(targets, start_scores, strict=True)]
    found = [_one(session, target, start, change, params) for target, change in zip(targets, changes, strict=True)]
    errors = np.array([error for _, error, _ in found])
    notes = [f"the path starts at {DESCRIPTION[params.baseline]}"]
    notes += [f"{steps} steps, completeness error {error:.1%}" for _, error, steps in found]
    return Attribution(np.stack([values for values, _, _ in found]), completeness=errors, notes=tuple(notes))


def _one(
    session: Session, target: Target, start: Tensor, change: float, params: IntegratedGradientsParams
) -> tuple[np.ndarray, float, int]:
    """The map (H, W), its completeness error and the steps it took."""
    steps = params.steps
    while True:
        values = _integral(session, target, start, steps)
        error = abs(float(values.sum(dtype=np.float64)) - change) / max(abs(change), SMALLEST_CHANGE)
        if error <= params.tolerance or 2 * steps > params.max_steps:
            return values, error, steps
        steps *= 2


def _integral(session: Session, target: Target, start: Tensor, steps: int) -> np.ndarray:
    from captum.attr import IntegratedGradients

    def score(batch: Tensor) -> Tensor:
        return target.score(session.differentiable(batch))

    with evaluation_mode(session.subject.module):
        attributed = IntegratedGradients(score, multiply_by_inputs=True).attribute(
            session.image[None],
            baselines=start[None],
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=session.budget.batch_size,
        )
    session.backwards += steps
    summed: np.ndarray = attributed[0].sum(dim=0).detach().float().cpu().numpy()
    return summed
