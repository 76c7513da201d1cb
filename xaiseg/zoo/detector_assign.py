"""Which cell of a detector answers for which object: SimOTA, after Ge et al.: YOLOX, arXiv 2107.08430."""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

#: A cell may answer for an object whose centre is at most this many cells away, to either side.
REACH: Final = 1.5
#: Weight of the overlap against the class in the cost.
OVERLAP: Final = 3.0
#: Overlaps that are summed to say how many cells answer for an object.
TOP: Final = 10

BACKGROUND: Final = -1
IGNORED: Final = -2


@torch.no_grad()
def assign(
    logits: Tensor, boxes: Tensor, centres: Tensor, strides: Tensor, truth: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Gives each object the cells that already fit it best, and each cell at most one object.

    An object's candidates are the cells within :data:`REACH` cells of its centre; there is always one where the centre
    lies in the image. It gets as many as the sum of their :data:`TOP` best overlaps says, at least one, those of least
    cost: -log(score) - 3 log(IoU). A cell that two objects want goes to the one with the lower cost.

    Args:
        logits: (B, N, K), one a class.
        boxes: (B, N, 4) predicted boxes, xyxy pixels.
        centres: (N, 2) x, y of the cells, pixels.
        strides: (N,) side of the cells, pixels.
        truth: (B, G, 4) boxes, xyxy pixels.
        labels: (B, G) class index; 255 = a region to ignore; -1 = nothing, filled up.

    Returns:
        (B, N) int64: the object that a cell answers for, -1 background, -2 ignored (its centre lies in a region to
        ignore); and (B, N) the overlap of the cell's predicted box with that object, 0 elsewhere.
    """
    cells = logits.shape[1]
    objects = (labels >= 0) & (labels < 255)
    middle = (truth[..., :2] + truth[..., 2:]) / 2
    away = (centres - middle.unsqueeze(2)).abs().amax(dim=-1) / strides  # (B, G, N), in cells
    candidate = (away <= REACH) & objects.unsqueeze(2)
    overlap = pairwise_iou(truth, boxes) * candidate
    classes = labels.clamp(0, logits.shape[2] - 1).long()
    kind = classes.unsqueeze(1).expand(-1, cells, -1)
    cost = -F.logsigmoid(logits.float()).gather(2, kind).transpose(1, 2) - OVERLAP * (overlap + 1e-7).log()
    cost = cost.masked_fill(~candidate, torch.inf)
    count = overlap.topk(min(TOP, cells), dim=2).values.sum(dim=2).int().clamp(min=1)
    rank = cost.argsort(dim=2, stable=True).argsort(dim=2)
    wanted = (rank < count.unsqueeze(2)) & candidate
    cost = cost.masked_fill(~wanted, torch.inf)
    best, found = cost.min(dim=1)
    ignored = (inside(centres, truth) & (labels == 255).unsqueeze(2)).any(dim=1)
    background = torch.where(ignored, IGNORED, BACKGROUND)
    answers = torch.where(best < torch.inf, found, background)
    gained = overlap.gather(1, found.unsqueeze(1)).squeeze(1)
    return answers, torch.where(answers >= 0, gained, 0.0)


def pairwise_iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU (B, G, N) of boxes (B, G, 4) and (B, N, 4), xyxy.

    >>> box = torch.tensor([[[0.0, 0.0, 2.0, 2.0]]])
    >>> round(float(pairwise_iou(box, box + torch.tensor([1.0, 0, 1, 0]))), 4)
    0.3333
    """
    one, other = one.unsqueeze(2), other.unsqueeze(1)
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    both = (high - low).clamp(min=0).prod(dim=-1)
    either = (one[..., 2:] - one[..., :2]).prod(dim=-1) + (other[..., 2:] - other[..., :2]).prod(dim=-1) - both
    return both / either.clamp(min=1e-6)


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points (N, 2) lie within which boxes (B, G, 4): (B, G, N) bool."""
    low, high = boxes[..., :2].unsqueeze(2), boxes[..., 2:].unsqueeze(2)
    return ((points >= low) & (points < high)).all(dim=-1)
