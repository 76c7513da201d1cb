"""Targets of a detector: one object, and the question that is asked about it.

An object is a detection, or a box of the user's own where the detector missed something. Methods that only predict
score the finished detections of a perturbed image against it (:class:`ObjectTarget`, D-RISE's similarity). Methods that
need a gradient read one candidate of the raw answer instead (:class:`CandidateTarget`): suppression has no gradient,
and the candidate behind the object, frozen, needs no matching (ODAM: C. Zhao, A. B. Chan, ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.explainers.box_targets import BoxKind, BoxTarget
from xaiseg.subject import Boxes

#: One side of the box, as the raw answer states it.
Side = Literal["left", "top", "right", "bottom"]
Question = BoxKind | Side | Literal["mask"]
SIDES: Final[tuple[str, ...]] = get_args(Side)
#: What is asked -> the question in words.
ASKS: Final[dict[str, str]] = {
    "box": "why this detection?",
    "where": "why here?",
    "is": "why is there an object?",
    "what": "why is it of this class?",
    "mask": "why this outline?",
    **{side: f"why does the box end here on its {side} side?" for side in SIDES},
}
_SIMILARITY: Final = {
    "box": "IoU x score x cosine",
    "where": "IoU",
    "is": "IoU x score",
    "what": "IoU x cosine",
    "mask": "IoU of instance masks x score x cosine",
}


@dataclass(frozen=True)
class Candidate:
    """One candidate of the raw answer, frozen.

    Attributes:
        index: which, from 0.
        level: pyramid level, 0 for the finest.
        score: its score for the object's class on the unperturbed image, in [0, 1].
        iou: overlap of its box with the object's.
    """

    index: int
    level: int
    score: float
    iou: float


@dataclass(frozen=True, eq=False)
class DetectedObject:
    """What is explained: a detection, or a box of the user's own.

    Attributes:
        xyxy: (4,) float32, pixels of the image.
        classes: (K,) float32 class vector; one-hot for a box of the user's own.
        class_index: its class.
        label: for files and tables: "seal 0".
        shape: (H, W) of the image.
        origin: where it comes from, in words.
        score: of the detection, or None for a box of the user's own.
        candidate: the candidate behind it, or None where the subject shows none.
        instance: (H, W) its instance mask, or None.
        role: "true positive", "false positive" or "false negative" where a reference says so, or "".
        remark: what a reader must know about the choice of this object, or "".
    """

    xyxy: Tensor
    classes: Tensor
    class_index: int
    label: str
    shape: tuple[int, int]
    origin: str
    score: float | None = None
    candidate: Candidate | None = None
    instance: Tensor | None = None
    role: str = ""
    remark: str = ""

    @property
    def caption(self) -> str:
        """What it is, for a picture: "false positive, score 0.40"."""
        score = "not detected" if self.score is None else f"score {self.score:.2f}"
        return f"{self.role}, {score}" if self.role else score

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) bool: the pixels whose centres lie in the box; of a smaller box the pixel at its centre."""
        height, width = self.shape
        left, top, right, bottom = self.xyxy.tolist()
        x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
        inside = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None]
        if not inside.any():
            row, column = int((top + bottom) / 2), int((left + right) / 2)
            inside[min(max(row, 0), height - 1), min(max(column, 0), width - 1)] = True
        return np.asarray(inside)

    @property
    def facts(self) -> dict[str, Any]:
        """The object for a manifest."""
        held = self.candidate
        return {
            "box": [round(each, 2) for each in self.xyxy.tolist()],
            "origin": self.origin,
            "role": self.role or None,
            "detection_score": self.score,
            "candidate": None if held is None else vars(held),
            **({"remark": self.remark} if self.remark else {}),
        }


@dataclass(frozen=True, eq=False)
class _Asked:
    """An object and a question: what both readings of it share."""

    object: DetectedObject
    question: Question = "box"

    def __post_init__(self) -> None:
        if self.question not in ASKS:
            raise UsageError("no such question", where="target", got=self.question, allowed=", ".join(ASKS))

    @property
    def name(self) -> str:
        """The object's label, and the question unless it is the whole detection."""
        return self.object.label if self.question == "box" else f"{self.object.label} {self.question}"

    @property
    def class_index(self) -> int:
        """The object's class."""
        return self.object.class_index

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, the object's box."""
        return self.object.mask

    @property
    def xyxy(self) -> tuple[float, float, float, float]:
        """The object's box in pixels, to be drawn."""
        left, top, right, bottom = self.object.xyxy.tolist()
        return left, top, right, bottom


@dataclass(frozen=True, eq=False)
class ObjectTarget(_Asked):
    """S says how much of an object the detections of another image hold; for methods that only predict.

    Attributes:
        object: see :class:`DetectedObject`.
        question: "box", "where", "is" or "what" (see :class:`~xaiseg.explainers.box_targets.BoxTarget`), or "mask": as
            "box", with the overlap of instance masks. A side of the box has no S in detections, where nothing may be
            found.

    >>> square = DetectedObject(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.ones(1), 0, "seal 0", (4, 4), "a detection")
    >>> found = Boxes(torch.tensor([[0.0, 0.0, 2.0, 1.0]]), torch.tensor([0.8]), torch.tensor([0]))
    >>> ObjectTarget(square, "where").score([found]), ObjectTarget(square).score([found])
    (tensor([0.5000]), tensor([0.4000]))
    """

    @property
    def unit(self) -> str:
        """S has no unit; it lies in [0, 1]."""
        return "similarity"

    @property
    def meaning(self) -> str:
        """What S is, in words."""
        return f"{_SIMILARITY.get(self.question, 'none')} with the best of the detections: {ASKS[self.question]}"

    def score(self, detections: Sequence[Boxes]) -> Tensor:
        """S of each image: B detections -> (B,) in [0, 1]; 0 where nothing is detected.

        Raises:
            UsageError: a side of the box was asked for.
        """
        return self.similarity.score(detections)

    @cached_property
    def similarity(self) -> BoxTarget:
        """D-RISE's similarity with this object.

        Raises:
            UsageError: a side of the box was asked for, or a mask where there is none.
        """
        if self.question in SIDES:
            raise UsageError(
                "a side of the box is a number of the raw answer, not of the detections",
                where="target",
                got=self.name,
                allowed="box, where, is, what, mask for a method that only predicts",
                then="Explain a side by a method that needs a gradient, such as odam",
            )
        instance = self.object.instance if self.question == "mask" else None
        if self.question == "mask" and instance is None:
            raise UsageError("this object has no instance mask", where="target", got=self.name,
                             allowed="a detection of a model that gives masks")  # fmt: skip
        kind = "box" if self.question == "mask" else cast(BoxKind, self.question)
        return BoxTarget(self.object.xyxy, self.object.classes, kind, instance, label=self.object.label)

    def raw(self) -> CandidateTarget:
        """The same question about the candidate behind the object.

        Raises:
            UsageError: the subject shows no candidates, or the question has no gradient.
        """
        return CandidateTarget(self.object, self.question)


@dataclass(frozen=True, eq=False)
class CandidateTarget(_Asked):
    """S is read off one candidate of the raw answer; for methods that need a gradient.

    ====================== ================================================
    question               S
    ====================== ================================================
    box                    logit of the object's class
    is                     the largest logit of any class
    what                   logit of the class - the largest other logit
    left top right bottom  that coordinate of the candidate's box, pixels
    ====================== ================================================

    The overlap has its maximum, 1, at the image itself and no slope there: "where" is asked side by side, and the
    outline of a mask by methods that only predict.

    Attributes:
        object: one with a candidate.
        question: see the table.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.object.candidate is None:
            raise UsageError(
                "the detector shows no candidates before suppression, so nothing of it has a gradient",
                where="target",
                got=self.name,
            )
        if self.question in ("where", "mask"):
            raise UsageError(
                "the overlap has no gradient at the image itself, where it is 1",
                where="target",
                got=self.name,
                allowed="box, is, what, or one side: " + ", ".join(SIDES),
                then=f"Ask for a side, or explain '{self.question}' by a method that only predicts, such as rise",
            )
        if self.question == "what" and len(self.object.classes) < 2:
            raise UsageError(
                "the detector has one class, so there is no other to tell it from",
                where="target",
                got=self.name,
                allowed="box, is, or one side: " + ", ".join(SIDES),
            )

    @property
    def candidate(self) -> Candidate:
        """The candidate that S is read off."""
        return cast(Candidate, self.object.candidate)

    @property
    def unit(self) -> str:
        """Pixels for a side of the box, else a logit."""
        return "pixel" if self.question in SIDES else "logit"

    @property
    def meaning(self) -> str:
        """What S is, in words."""
        read = {"box": "logit of its class", "is": "largest logit", "what": "lead of its class over the best other one"}
        return (
            f"{read.get(self.question, f'{self.question} side')} at candidate {self.candidate.index} "
            f"(level {self.candidate.level}) before suppression: {ASKS[self.question]}"
        )

    def score(self, raw: Tensor) -> Tensor:
        """S of each image: raw answers (B, N, 4 + K) as of ``Detector.forward`` -> (B,), differentiable.

        Raises:
            UsageError: the raw answer has no such candidate, or another number of classes.
        """
        own, classes = self.candidate.index, len(self.object.classes)
        if raw.ndim != 3 or own >= raw.shape[1] or raw.shape[2] != 4 + classes:
            raise UsageError(
                "the candidate does not fit the raw answer",
                where=f"target {self.name}",
                got=tuple(raw.shape),
                allowed=f"(B, more than {own}, {4 + classes})",
            )
        row = raw[:, own].float()
        if self.question in SIDES:
            return row[:, SIDES.index(self.question)]
        logits = row[:, 4:]
        if self.question == "is":
            return logits.amax(dim=1)
        mine = logits[:, self.class_index]
        if self.question == "box":
            return mine
        others = [index for index in range(classes) if index != self.class_index]
        return mine - logits[:, others].amax(dim=1)


def nearest_candidate(xyxy: Tensor, class_index: int, boxes: Tensor, scores: Tensor, level: Tensor) -> Candidate:
    """The candidate that could have found a box: of those that overlap it by half or more the best of its class.

    Where none overlaps by half, the one with the largest overlap.

    Args:
        xyxy: (4,) pixels.
        class_index: its class.
        boxes: (N, 4) of all candidates, pixels.
        scores: (N, K) in [0, 1].
        level: (N,) pyramid level.

    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [9.0, 9.0, 12.0, 12.0]])
    >>> scores, level = torch.tensor([[0.1], [0.3], [0.9]]), torch.tensor([0, 0, 1])
    >>> nearest_candidate(torch.tensor([0.0, 0.0, 4.0, 4.0]), 0, boxes, scores, level).index
    1
    """
    from xaiseg.explainers.box_targets import box_iou

    overlap = box_iou(xyxy.to(boxes.device)[None], boxes)[0]
    own = scores[:, class_index]
    near = overlap >= 0.5
    index = int(torch.where(near, own, own.new_tensor(-1.0)).argmax() if bool(near.any()) else overlap.argmax())
    return Candidate(index, int(level[index]), float(own[index]), float(overlap[index]))
