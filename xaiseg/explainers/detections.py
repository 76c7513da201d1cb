"""A session on a detector: every method that needs nothing but predictions explains its boxes.

D-RISE: V. Petsiuk et al., "Black-box Explanation of Object Detectors via Saliency Maps", CVPR 2021. All objects of an
image share one set of masked forwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import SubjectError
from xaiseg.explainers.base import Budget, Session
from xaiseg.explainers.targets import Target
from xaiseg.subject import Boxes, Detector, Prediction, Segmenter


class DetectionTarget(Protocol):
    """A scalar S of detections."""

    @property
    def name(self) -> str:
        """A short name for files and tables."""

    def score(self, detections: Sequence[Boxes]) -> Tensor:
        """S of each image: B detections -> (B,)."""


class DetectionSession(Session):
    """One image under explanation by a detector; targets are :class:`DetectionTarget`.

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
        self._detector = detector
        self._detections: Boxes | None = None

    @property
    def detections(self) -> Boxes:
        """Detections of the unperturbed image; one forward, once."""
        if self._detections is None:
            self._detections = self._detect([self.image])[0]
        return self._detections

    @property
    def logits(self) -> Tensor:
        """Refuses: a detector gives boxes."""
        raise SubjectError("a detector has no logits of pixels", where=self._detector.info.name)

    @property
    def prediction(self) -> Prediction:
        """Refuses: a detector gives boxes."""
        raise SubjectError("a detector has no labels of pixels", where=self._detector.info.name)

    def score(self, target: Target) -> float:
        """S of the unperturbed image."""
        return float(cast("DetectionTarget", target).score([self.detections])[0])

    def _scored(self, images: list[Tensor], targets: Sequence[Target]) -> Tensor:
        found = self._detect(images)
        return torch.stack([cast("DetectionTarget", target).score(found) for target in targets], dim=1)

    def _detect(self, images: list[Tensor]) -> list[Boxes]:
        self.forwards += len(images)
        with torch.inference_mode():
            return self._detector.predict(images, batch_size=self.budget.batch_size)
