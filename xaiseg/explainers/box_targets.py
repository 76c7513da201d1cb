"""Targets of detectors: how much of a detection is still there, as a function of what is detected now.

The similarity is D-RISE's (V. Petsiuk et al., "Black-box Explanation of Object Detectors via Saliency Maps",
arXiv:2006.03204): overlap x objectness x cosine of the class vectors, at the best of the present detections. Where
nothing is detected S is 0: such an answer is information, so it is neither dropped nor undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.subject import Boxes

#: Which factors enter S. The overlap always does: it says that the same object is meant.
BoxKind = Literal["box", "where", "is", "what"]
_FACTORS: Final[dict[str, tuple[bool, bool]]] = {  # objectness, class
    "box": (True, True),
    "where": (False, False),
    "is": (True, False),
    "what": (False, True),
}


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (N, 4) and (M, 4), xyxy in pixels: (N, M).

    A box from 0 to 2 is two pixels wide. Boxes without an area overlap with nothing.

    >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 5.0, 9.0]]))
    tensor([[0.3333, 0.0000]])
    """
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=-1) for boxes in (first, second)]
    return _share(shared, areas[0][:, None] + areas[1][None] - shared)


def mask_iou(first: Tensor, second: Tensor) -> Tensor:
    """Soft intersection over union of a mask (H, W) and masks (M, H, W), values in [0, 1]: (M,).

    The sum of the minima over the sum of the maxima, which is 1 for equal masks, soft ones too.

    >>> mask_iou(torch.tensor([[1.0, 0.5]]), torch.tensor([[[1.0, 0.5]], [[1.0, 0.0]], [[0.0, 0.0]]]))
    tensor([1.0000, 0.6667, 0.0000])
    """
    own, others = first.float(), second.float()
    return _share(torch.minimum(own, others).sum(dim=(1, 2)), torch.maximum(own, others).sum(dim=(1, 2)))


def class_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of a class vector (K,) with others (M, K): (M,); 0 for a vector of zeros.

    >>> class_cosine(torch.tensor([1.0, 0.0]), torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    tensor([1., 0., 0.])
    """
    return _share((first * second).sum(dim=1), first.norm() * second.norm(dim=1))


def _share(part: Tensor, whole: Tensor) -> Tensor:
    # The divisor is made safe before the division: a NaN that is masked afterwards would come back with the gradient.
    safe = torch.where(whole > 0, whole, torch.ones_like(whole))
    return torch.where(whole > 0, part / safe, torch.zeros_like(part))


@dataclass(frozen=True, eq=False)
class BoxTarget:
    """A detection of the unperturbed image, frozen; S says how much of it the detections of another image hold.

    ===== ================= =============================
    kind  S, best over j    asks
    ===== ================= =============================
    box   IoU O cos         why this detection?
    where IoU               why here?
    is    IoU O             why is there an object?
    what  IoU cos           why is it of this class?
    ===== ================= =============================

    O is the score of detection j, cos the cosine of the class vectors. A detector without class vectors has one-hot
    ones, so that cos is 1 for the same label and 0 for another.

    Attributes:
        xyxy: (4,) float32, pixels.
        classes: (K,) float32 class vector.
        kind: which factors enter.
        mask: (H, W) in [0, 1]; with one, S uses the soft IoU of masks in place of that of boxes.
        label: name for files and tables.

    >>> found = Boxes(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([0.8]), torch.tensor([1]))
    >>> target = box_target(found, 0, classes=2)
    >>> nothing = Boxes(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    >>> target.score([found, nothing])
    tensor([0.8000, 0.0000])
    """

    xyxy: Tensor
    classes: Tensor
    kind: BoxKind = "box"
    mask: Tensor | None = None
    label: str = "box"

    def __post_init__(self) -> None:
        if self.kind not in _FACTORS:
            raise UsageError("no such target", where="kind", got=self.kind, allowed=", ".join(_FACTORS))
        if self.xyxy.shape != (4,) or self.classes.ndim != 1:
            raise UsageError(
                "a box target needs a box (4,) and a class vector (K,)",
                where="target",
                got=f"{tuple(self.xyxy.shape)}, {tuple(self.classes.shape)}",
            )

    @property
    def name(self) -> str:
        """The label, and the kind unless it is the whole detection."""
        return self.label if self.kind == "box" else f"{self.label} {self.kind}"

    @property
    def unit(self) -> str:
        """S has no unit; it lies in [0, 1]."""
        return "similarity"

    def score(self, detections: Sequence[Boxes]) -> Tensor:
        """S of each image: B detections -> (B,) in [0, 1].

        Raises:
            UsageError: a target with a mask meets detections without.
        """
        return torch.stack([self._best(found) for found in detections])

    def _best(self, found: Boxes) -> Tensor:
        if len(found.scores) == 0:
            return torch.zeros((), device=found.scores.device)
        objectness, classes = _FACTORS[self.kind]
        similarity = self._overlap(found)
        if objectness:
            similarity = similarity * found.scores.float()
        if classes:
            own = self.classes.to(similarity.device)
            similarity = similarity * class_cosine(own, class_vectors(found, len(own)))
        return similarity.amax()

    def _overlap(self, found: Boxes) -> Tensor:
        if self.mask is None:
            return box_iou(self.xyxy.to(found.xyxy.device)[None], found.xyxy)[0]
        if found.masks is None:
            raise UsageError("the target has a mask, the detections have none", where="target", got=self.name)
        return mask_iou(self.mask.to(found.masks.device), found.masks)


@dataclass(frozen=True, eq=False)
class RawOutput:
    """One number of a detector's raw answer, before non-maximum suppression: differentiable, and nothing to match.

    Take the anchor or query that produced a detection, and of it the class logit or one coordinate (ODAM: C. Zhao,
    A. B. Chan, ICLR 2023).

    Attributes:
        index: place in the raw answer of one image, e.g. (anchor, 5 + class).
        label: name for files and tables.
        unit: "logit" of a class, or "pixel" for a coordinate.

    >>> RawOutput((1, 0)).score(torch.tensor([[[0.0], [7.0]], [[0.0], [9.0]]]))
    tensor([7., 9.])
    """

    index: tuple[int, ...]
    label: str = "raw"
    unit: Literal["logit", "pixel"] = "logit"

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    def score(self, raw: Tensor) -> Tensor:
        """S of each image: raw answers (B, ...) -> (B,).

        Raises:
            UsageError: the index lies outside.
        """
        shape = tuple(raw.shape[1:])
        fits = len(self.index) == len(shape) and all(0 <= i < n for i, n in zip(self.index, shape, strict=True))
        if not fits:
            raise UsageError("the index lies outside the raw answer", where="index", got=self.index, allowed=shape)
        place: tuple[slice | int, ...] = (slice(None), *self.index)
        return raw[place].float()


def box_target(
    found: Boxes, index: int, *, classes: int, kind: BoxKind = "box", masks: bool = False, label: str = ""
) -> BoxTarget:
    """The target of one detection of the unperturbed image.

    Args:
        found: its detections.
        index: which of them.
        classes: number of classes, for detectors that give no class vectors.
        kind: which factors enter.
        masks: compare instance masks in place of boxes.
        label: name; default box-INDEX.

    Raises:
        UsageError: no such detection, or masks are asked for and there are none.
    """
    if not 0 <= index < len(found.scores):
        raise UsageError("there is no such detection", where="target", got=index, allowed=f"below {len(found.scores)}")
    if masks and found.masks is None:
        raise UsageError("the detector gives no instance masks", where="target", got=f"detection {index}")
    mask = found.masks[index].detach() if masks and found.masks is not None else None
    vector = class_vectors(found, classes)[index].detach()
    return BoxTarget(found.xyxy[index].detach().float(), vector, kind, mask, label or f"box-{index}")


def class_vectors(found: Boxes, classes: int) -> Tensor:
    """(N, K) float32: the detector's class scores, or one-hot labels where it gives none.

    Raises:
        UsageError: the detections have another number of classes.
    """
    if found.class_scores is None:
        if len(found.labels) and int(found.labels.max()) >= classes:
            raise UsageError("a label is no class", where="classes", got=int(found.labels.max()), allowed=classes)
        return torch.nn.functional.one_hot(found.labels, classes).to(found.scores.device, torch.float32)
    if found.class_scores.shape[1] != classes:
        raise UsageError(
            "the class vectors have another length", where="classes", got=found.class_scores.shape[1], allowed=classes
        )
    return found.class_scores.float()
