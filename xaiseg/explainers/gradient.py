"""Gradient attributions through captum, on the score of a target. Channels are summed, so that a map is (H, W).

Saliency: K. Simonyan, A. Vedaldi, A. Zisserman, "Deep Inside Convolutional Networks", arXiv:1312.6034. Input x
gradient: A. Shrikumar et al., arXiv:1605.01713. Integrated gradients: M. Sundararajan, A. Taly, Q. Yan, "Axiomatic
Attribution for Deep Networks", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import SubjectError
from xaiseg.explainers.base import Attribution, NoParams, Session, explainer
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.tap import evaluation_mode
from xaiseg.explainers.targets import Target

NEEDS: Final = frozenset({"forward", "gradients"})
#: Where the score hardly moves between image and baseline, the error is stated against this many logits instead.
SMALLEST_CHANGE: Final = 1e-3


def scored(session: Session, target: Target) -> Callable[[Tensor], Tensor]:
    """S of images (B, C, H, W) -> (B,), with a graph; see :func:`score_of` for its error."""
    return lambda batch: score_of(session, target, session.differentiable(batch))


def score_of(session: Session, target: Target, logits: Tensor) -> Tensor:
    """S of logits (B, K, H, W) -> (B,), with a graph.

    Raises:
        SubjectError: the network hands on no gradient.
    """
    found = target.score(logits)
    if not found.requires_grad:
        raise SubjectError(
            "the score has no gradient: the network computes without recording one, or detaches its answer",
            where=session.subject.info.name,
            then="Use a method that needs no gradient, such as occlusion",
        )
    return found


def summed(attributed: Tensor) -> np.ndarray:
    """Attributions (C, H, W) as a map (H, W) float32."""
    found: np.ndarray = attributed.detach().float().sum(dim=0).cpu().numpy()
    return found


def completeness_error(values: np.ndarray, change: float) -> float:
    """How far a map's sum is from S(image) - S(baseline), as a share of that change.

    >>> completeness_error(np.array([1.0, 0.5]), 2.0)
    0.25
    """
    return abs(float(values.sum(dtype=np.float64)) - change) / max(abs(change), SMALLEST_CHANGE)


@dataclass(frozen=True)
class SaliencyParams:
    """Parameters of saliency.

    Attributes:
        absolute: sum the magnitudes of the channels in place of the signed gradients; says where a change matters,
            not in which direction.
    """

    absolute: bool = False


@explainer("saliency", needs=NEEDS, unit="logit per unit of brightness", params=SaliencyParams)
def saliency(session: Session, targets: Sequence[Target], *, params: SaliencyParams) -> Attribution:
    """The gradient of the score by the pixels: which small change of brightness moves it, and which way."""
    from captum.attr import Saliency

    def one(target: Target, image: Tensor) -> Tensor:
        found: Tensor = Saliency(scored(session, target)).attribute(image, abs=params.absolute)
        return found

    note = "magnitudes, summed over channels" if params.absolute else "signed, summed over channels"
    return Attribution(np.stack([_captum(session, target, one) for target in targets]), notes=(note,))


@explainer("input-x-gradient", needs=NEEDS, unit="logit per pixel", params=NoParams)
def input_x_gradient(session: Session, targets: Sequence[Target], *, params: NoParams) -> Attribution:
    """Image times gradient: a first-order estimate of what each pixel adds beside a black one (value 0)."""
    from captum.attr import InputXGradient

    def one(target: Target, image: Tensor) -> Tensor:
        found: Tensor = InputXGradient(scored(session, target)).attribute(image)
        return found

    notes = ("compared with an image of zeros; it depends on how the values of the image are coded",)
    return Attribution(np.stack([_captum(session, target, one) for target in targets]), notes=notes)


def _captum(session: Session, target: Target, attribute: Callable[[Target, Tensor], Tensor]) -> np.ndarray:
    """A map (H, W) of one backward pass."""
    with evaluation_mode(session.subject.module), torch.enable_grad():
        found = attribute(target, session.image[None].clone().requires_grad_(True))
    session.backwards += 1
    return summed(found[0])


#: A completeness error that keeps more than this share when the steps are doubled does not come from too few steps.
STUCK: Final = 0.8
NO_GRADIENT: Final = (
    ": doubling the steps does not lower it, so a part of the answer has no gradient (counted features, rounding) or "
    "jumps, and the map says nothing of that part"
)


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


def _most(params: IntegratedGradientsParams) -> int:
    """Image, baseline, and every number of steps that may be tried."""
    steps, most = params.steps, params.steps
    while 2 * steps <= params.max_steps:
        steps *= 2
        most += steps
    return most + 2


@explainer(
    "integrated-gradients", needs=NEEDS, unit="logit per pixel", params=IntegratedGradientsParams, forwards=_most
)
def integrated_gradients(
    session: Session, targets: Sequence[Target], *, params: IntegratedGradientsParams
) -> Attribution:
    """The gradient integrated on the straight path from a baseline to the image, summed over the channels.

    The map sums to S(image) - S(baseline); the completeness error is the distance from that, as a share of it.
    """
    start = session.baseline(params.baseline)
    start_scores = session.scores([start], targets)[0]
    changes = [session.score(target) - float(s) for target, s in zip(targets, start_scores, strict=True)]
    found = [_one(session, target, start, change, params) for target, change in zip(targets, changes, strict=True)]
    errors = np.array([error for _, error, _, _ in found])
    notes = [f"the path starts at {DESCRIPTION[params.baseline]}"]
    notes += [f"{steps} steps, completeness error {error:.1%}{why}" for _, error, steps, why in found]
    return Attribution(np.stack([values for values, *_ in found]), completeness=errors, notes=tuple(notes))


def _one(
    session: Session, target: Target, start: Tensor, change: float, params: IntegratedGradientsParams
) -> tuple[np.ndarray, float, int, str]:
    """The map (H, W), its completeness error, the steps it took, and a word where more of them would not help."""
    steps, errors = params.steps, list[float]()
    while True:
        values = _integral(session, target, start, steps)
        errors.append(completeness_error(values, change))
        if errors[-1] <= params.tolerance or 2 * steps > params.max_steps:
            stuck = errors[-1] > params.tolerance and len(errors) > 1 and errors[-1] > STUCK * errors[-2]
            return values, errors[-1], steps, NO_GRADIENT if stuck else ""
        steps *= 2


def _integral(session: Session, target: Target, start: Tensor, steps: int) -> np.ndarray:
    from captum.attr import IntegratedGradients

    with evaluation_mode(session.subject.module), torch.enable_grad():
        attributed = IntegratedGradients(scored(session, target), multiply_by_inputs=True).attribute(
            session.image[None],
            baselines=start[None],
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=session.budget.batch_size,
        )
    session.backwards += steps
    return summed(attributed[0])
