"""What a training of the compact detector minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiseg.zoo.detector_assign import IGNORED, assign

if TYPE_CHECKING:
    from xaiseg.zoo.detector_compact import Dense

#: Weight of the boxes against the scores.
BOX_WEIGHT: Final = 2.0


def detection_loss(dense: Dense, truth: Tensor, labels: Tensor) -> Tensor:
    """Quality focal loss of the scores plus generalised IoU loss of the boxes, per cell that answers for an object.

    The score's target is the overlap of the cell's box with its object (Li et al., arXiv 2006.04388), so that scores
    rank boxes by how well they fit. Boxes: Rezatofighi et al., arXiv 1902.09630.

    Args:
        dense: of :meth:`xaiseg.zoo.detector_compact.DetectorCompact.dense`.
        truth: (B, G, 4) boxes, xyxy pixels of the batch.
        labels: (B, G) class index; 255 = a region to ignore; -1 = nothing, filled up.
    """
    from torchvision.ops import generalized_box_iou_loss

    logits, boxes = dense.logits.float(), dense.boxes.float()
    answers, overlap = assign(logits, boxes, dense.centres, dense.strides, truth, labels)
    image, cell = torch.nonzero(answers >= 0, as_tuple=True)
    which = answers[image, cell]
    target = torch.zeros_like(logits)
    target[image, cell, labels[image, which].long()] = overlap[image, cell]
    scores = quality_focal(logits, target)[answers != IGNORED].sum()
    fit: Tensor = generalized_box_iou_loss(boxes[image, cell], truth[image, which], reduction="sum")
    # A box that is no number answers for nothing; without this it would leave no trace in the loss.
    total: Tensor = (scores + BOX_WEIGHT * fit) / max(1, len(which)) + 0 * boxes.sum()
    return total


def quality_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy with targets in [0, 1], weighted by the square of the error; the shape of the logits.

    >>> float(quality_focal(torch.zeros(1), torch.full((1,), 0.5)))
    0.0
    """
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (logits.sigmoid() - target).square() * entropy
