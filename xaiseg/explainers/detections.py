"""A session on a detector: detections are scored as they are, candidates before suppression where a gradient is needed.

D-RISE: V. Petsiuk et al., "Black-box Explanation of Object Detectors via Saliency Maps", CVPR 2021. All objects of an
image share one set of masked forwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Budget, Session
from xaiseg.explainers.box_targets import RawOutput
from xaiseg.explainers.detection_level import Fired, fired_layer
from xaiseg.explainers.detection_targets import SIDES, CandidateTarget
from xaiseg.explainers.tap import Tap, evaluation_mode
from xaiseg.explainers.targets import Target
from xaiseg.subject import Boxes, Detector, Prediction, RawBoxes, Segmenter


class DetectionTarget(Protocol):
    """A scalar S of detections."""

    @property
    def name(self) -> str:
        """A short name for files and tables."""

    def score(self, detections: Sequence[Boxes]) -> Tensor:
        """S of each image: B detections -> (B,)."""


class DetectionSession(Session):
    """One image under explanation by a detector.

    Targets are scalars of detections, or of candidates (:class:`~xaiseg.explainers.detection_targets.CandidateTarget`,
    :class:`~xaiseg.explainers.box_targets.RawOutput`), which are read off the raw answer.

    A masked image without any detection has a score like any other (of a box target: 0) and stays among the masks.

    Args:
        detector: the audited model.
        image: (C, H, W) float32 in its declared range.
        seed: for explainers that sample.
        budget: images a pass.
        dataset_mean: see :class:`~xaiseg.explainers.base.Session`.
    """

    def __init__(
        self,
        detector: Detector,
        image: Tensor | np.ndarray,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        dataset_mean: Tensor | np.ndarray | None = None,
    ) -> None:
        # Explainers that need only scores never touch what a detector lacks; the others are refused by their needs.
        super().__init__(cast("Segmenter", detector), image, seed=seed, budget=budget, dataset_mean=dataset_mean)
        self.detector = detector
        self._detections: Boxes | None = None
        self._candidates: RawBoxes | None = None
        self._raw: Tensor | None = None
        self._fired: dict[tuple[int, bool], Fired] = {}

    @property
    def detections(self) -> Boxes:
        """Detections of the unperturbed image; one forward, once."""
        if self._detections is None:
            self._detections = self._detect([self.image])[0]
        return self._detections

    @property
    def candidates(self) -> RawBoxes | None:
        """All candidates of the unperturbed image, one forward, once; None where the subject shows none."""
        if self._candidates is None and "raw_boxes" in self.detector.info.offers:
            self.forwards += 1
            with torch.inference_mode(False), torch.no_grad(), evaluation_mode(self.detector.module):
                self._candidates = self.detector.raw(self.image[None])
        return self._candidates

    @property
    def logits(self) -> Tensor:
        """Refuses: a detector gives boxes."""
        raise SubjectError("a detector has no logits of pixels", where=self.detector.info.name)

    @property
    def prediction(self) -> Prediction:
        """Refuses: a detector gives boxes."""
        raise SubjectError("a detector has no labels of pixels", where=self.detector.info.name)

    def score(self, target: Target | DetectionTarget) -> float:
        """S of the unperturbed image."""
        if isinstance(target, CandidateTarget | RawOutput):
            if self._raw is None:
                self._raw = self._answers([self.image])
            return float(target.score(self._raw)[0])
        return float(cast("DetectionTarget", target).score([self.detections])[0])

    def fired(self, target: CandidateTarget) -> Fired:
        """The layer that fed the level which the candidate lies on; one forward and one backward, once a level."""
        # Class and box have branches of their own in most heads, and so perhaps layers of their own.
        key = (target.candidate.level, target.question in SIDES)
        if key not in self._fired:
            module, candidates = self.detector.module, self.candidates
            if module is None or candidates is None:
                raise SubjectError("this subject shows no network", where="activations", got=self.detector.info.name)
            leaf = self.image[None].clone().requires_grad_(True)
            count = int((candidates.level == target.candidate.level).sum())
            self._fired[key] = fired_layer(
                module, lambda: self.differentiable(leaf), target.score, count, target.candidate.level
            )
            self.backwards += 1
        return self._fired[key]

    def tap(
        self,
        targets: Sequence[Target],
        layer: str | None = None,
        *,
        token_grid: tuple[int, int] | None = None,
        gradients: bool = True,
    ) -> Tap:
        """See :meth:`Session.tap`; without a layer, the one that fed the level on which the targets fired.

        Raises:
            UsageError: the targets fired on different levels.
        """
        asked = [target for target in targets if isinstance(target, CandidateTarget)]
        if layer is not None or len(asked) < len(targets):
            return super().tap(targets, layer, token_grid=token_grid, gradients=gradients)
        found = {self.fired(target) for target in asked}
        if len(found) > 1:
            raise UsageError(
                "the targets fired on different levels",
                where="layer",
                got=", ".join(sorted(str(each.layer) for each in found)),
                then="Explain them by xaiseg.explainers.detection.explain_objects, or name a layer",
            )
        (one,) = found
        tap = super().tap(targets, one.layer, token_grid=token_grid, gradients=gradients)
        return dataclasses.replace(tap, note=one.note if one.layer else f"{tap.note}; {one.note}")

    def _scored(self, images: list[Tensor], targets: Sequence[Target]) -> Tensor:
        raw = [isinstance(target, CandidateTarget | RawOutput) for target in targets]
        # Each answer costs a forward of its own, and most calls need one of them.
        found = self._detect(images) if not all(raw) else []
        answers = self._answers(images) if any(raw) else None
        columns = [
            target.score(answers) if own and answers is not None else cast("DetectionTarget", target).score(found)
            for own, target in zip(raw, targets, strict=True)
        ]
        return torch.stack(columns, dim=1)

    def _detect(self, images: list[Tensor]) -> list[Boxes]:
        self.forwards += len(images)
        with torch.inference_mode():
            return self.detector.predict(images, batch_size=self.budget.batch_size)

    def _answers(self, images: list[Tensor]) -> Tensor:
        # Not inference mode: networks keep grids of anchors, which must be of use in a later backward pass.
        with torch.inference_mode(False), torch.no_grad(), evaluation_mode(self.detector.module):
            return self.differentiable(torch.stack(images))
