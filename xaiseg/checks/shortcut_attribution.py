"""How much of a gradient lies on the object, for its size. It describes; it never flags, since it is no experiment."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xaiseg.checks.shortcut_reading import BOX_IOU, Thing
from xaiseg.detection.matching import iou
from xaiseg.faithfulness.localisation import locate
from xaiseg.subject import Detector, Subject


def attribution_lift(subject: Subject, image: np.ndarray, thing: Thing) -> float | None:
    """The object's share of the gradient's size over its share of the image's area.

    The gradient is that of the logit of the best candidate whose box fits the object, or of the mean logit of its class
    over it, by the image's pixels; its size is summed over the channels. 1 = no more than by chance; 20, for an object
    on a twentieth of the image, = the object alone.

    Args:
        subject: offers "forward" and "gradients", a detector "raw_boxes" as well.
        image: (C, H, W) in the declared range.
        thing: the object.

    Returns:
        The lift, or None where no candidate fits the object or the gradient is 0 everywhere.
    """
    leaf = torch.as_tensor(image, dtype=torch.float32).to(subject.device)[None].clone().requires_grad_(True)
    with torch.enable_grad():
        score = _candidate(subject, leaf, thing) if isinstance(subject, Detector) else _region(subject, leaf, thing)
        if score is None:
            return None
        (gradient,) = torch.autograd.grad(score, leaf)
    inside = locate(gradient[0].abs().sum(dim=0).cpu().numpy(), thing.region).inside
    return None if inside is None else inside / float(thing.region.mean())


def _candidate(subject: Detector, leaf: Tensor, thing: Thing) -> Tensor | None:
    answer = subject.forward(leaf)[0]
    boxes = answer[:, :4].detach().cpu().numpy().astype(np.float64)
    fits = np.flatnonzero(iou(boxes, np.asarray(thing.boxes[:1])).max(axis=1) >= BOX_IOU)
    if not len(fits):
        return None
    logits = answer[torch.from_numpy(fits).to(answer.device), 4 + thing.label]
    return logits.max()


def _region(subject: Subject, leaf: Tensor, thing: Thing) -> Tensor:
    logits = subject.forward(leaf)[0, thing.label]
    return logits[torch.from_numpy(thing.region).to(logits.device)].mean()
