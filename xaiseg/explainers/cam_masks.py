"""Class activation maps whose weights come from forward passes: Score-CAM and Ablation-CAM.

Score-CAM: H. Wang et al., arXiv:1910.01279. Ablation-CAM: S. Desai, H. G. Ramaswamy, WACV 2020. Their published weights
were made for the score of an image's class. Where S is a mean over a region, a softmax of scores that differ by little
gives every channel nearly the same weight (and of scores that are sums, one channel all), and a division by S turns the
map over where S is negative. The default here avoids both; ``reference=True`` gives the published weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xaiseg.errors import SubjectError
from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.cam import CamParams, on_image, weighted
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.replay import Recorded, ablated, record
from xaiseg.explainers.tap import Tap, evaluation_mode
from xaiseg.explainers.targets import Target

#: Replayed layers are trusted when the scores of two channels are this close to those of the whole network.
AGREEMENT: Final = 1e-4
PROBES: Final = 2


@dataclass(frozen=True)
class ScoreCamParams(CamParams):
    """Parameters of Score-CAM.

    Attributes:
        reference: weights as published (softmax of the scores, masks on black); the baseline is then not used.
        baseline: what is shown where a channel's mask is 0.
    """

    reference: bool = False
    baseline: Replacement = "mean"


@dataclass(frozen=True)
class AblationCamParams(CamParams):
    """Parameters of Ablation-CAM.

    Attributes:
        reference: weights as published, (S - S_k) / S.
    """

    reference: bool = False


@explainer(
    "scorecam", needs={"scores", "forward", "gradients", "activations"}, unit="activation, weighted",
    params=ScoreCamParams,
)  # fmt: skip
def scorecam(session: Session, targets: Sequence[Target], *, params: ScoreCamParams) -> Attribution:
    """Score-CAM: a channel weighs as much as the score rises when its activation, as a mask, uncovers the image.

    The weights are max(S_k - S_b, 0), S_b the score of the baseline, divided by their sum. One forward a channel.
    """
    tap = session.tap(targets, params.layer, token_grid=params.token_grid, gradients=False)
    hidden = torch.zeros_like(session.image) if params.reference else session.baseline(params.baseline)
    scores = session.scores(_uncovered(session, tap, hidden, params.reference), targets).T
    if params.reference:
        raised = np.exp(scores - scores.max(axis=1, keepdims=True))
        notes = ["weights as published: a softmax of the scores; masked on black"]
    else:
        raised = (scores - session.scores([hidden], targets).T).clip(min=0)
        notes = [f"masked on {DESCRIPTION[params.baseline]}"]
        notes += [
            f"{target.name}: no channel raises the score above that of the baseline"
            for target, row in zip(targets, raised, strict=True)
            if not row.any()
        ]
    weights = raised / np.maximum(raised.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return on_image(session, tap, _sum(weights, tap), *notes)


def _sum(weights: np.ndarray, tap: Tap) -> Tensor:
    return weighted(torch.from_numpy(weights.astype(np.float32)).to(tap.activation.device), tap.activation)


def _uncovered(session: Session, tap: Tap, hidden: Tensor, reference: bool) -> Iterator[Tensor]:
    """The image seen through each channel of the layer, scaled to [0, 1] on the image's grid."""
    size = (session.image.shape[1], session.image.shape[2])
    for channel in tap.activation:
        coarse = channel[None, None]
        if reference:  # as published: corners on corners
            coarse = F.interpolate(coarse, size=tap.grid, mode="bilinear", align_corners=True)
        mask = session.subject.to_image_grid(coarse, size)[0]
        mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
        yield mask * session.image + (1 - mask) * hidden


@explainer(
    "ablationcam", needs={"scores", "forward", "gradients", "activations"}, unit="logit x activation",
    params=AblationCamParams,
)  # fmt: skip
def ablationcam(session: Session, targets: Sequence[Target], *, params: AblationCamParams) -> Attribution:
    """Ablation-CAM: a channel weighs as much as the score falls when it is set to zero at the layer.

    The layers before it are not executed again: see :mod:`xaiseg.explainers.replay`.
    """
    tap = session.tap(targets, params.layer, token_grid=params.token_grid, gradients=False)
    scores, note = _ablated(session, tap, targets)
    whole = np.array([session.score(target) for target in targets])[:, None]
    falls = whole - scores.T
    notes = [note]
    if params.reference:
        with np.errstate(divide="ignore", invalid="ignore"):
            falls = falls / whole
        notes.append("weights as published: divided by the score, which turns the map over where it is negative")
    return on_image(session, tap, _sum(falls, tap), *notes)


def _ablated(session: Session, tap: Tap, targets: Sequence[Target]) -> tuple[np.ndarray, str]:
    """S (C, T) with each channel of the layer set to zero in turn, and how it was computed."""
    module = session.subject.module
    assert module is not None  # the tap has been opened on it
    size, channels = session.budget.batch_size, list(range(len(tap.activation)))
    with torch.inference_mode(), evaluation_mode(module):
        recorded = record(module, tap.layer, tap.run, lambda: session.differentiable(session.image[None]))

        def scores(some: Sequence[int], short: bool) -> np.ndarray:
            with ablated(recorded, some, tap.layout.channel_axis, short=short):
                logits = session.differentiable(session.image[None].expand(len(some), -1, -1, -1))
            return torch.stack([target.score(logits) for target in targets], dim=1).cpu().double().numpy()

        found = [scores(channels[:PROBES], False)]
        short = _agrees(found[0], lambda: scores(channels[:PROBES], True))
        found += [scores(channels[start : start + size], short) for start in range(PROBES, len(channels), size)]
    return np.concatenate(found), _how(recorded, len(channels), short)


def _agrees(whole: np.ndarray, tail: Callable[[], np.ndarray]) -> bool:
    try:
        return bool(np.abs(tail() - whole).max() <= AGREEMENT * max(1.0, float(np.abs(whole).max())))
    except (RuntimeError, SubjectError):  # shapes that do not fit, for a network that cannot be replayed
        return False


def _how(recorded: Recorded, channels: int, short: bool) -> str:
    if not short:
        return f"{channels} channels; the whole network is run for each, since its layers cannot be replayed"
    kept = f"{recorded.calls} of {recorded.total} layer executions are those of the unperturbed image"
    return f"{channels} channels; {kept}, checked on {min(PROBES, channels)} channels"
