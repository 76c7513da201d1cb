"""From whatever a network answers to logits (B, K, H, W): one meaning for every kind of head.

K is the number of classes. What a head's channels mean:

============  ==========  ======================================================================================
channels      activation  meaning
============  ==========  ======================================================================================
1, K = 2      any         z of the foreground; becomes (0, z)
2, K = 2      sigmoid     independent channels; the foreground's decides: (0, z of channel 1)
K             softmax     as they are
K > 2         sigmoid     independent channels that include the background; the largest decides: as they are
K - 1 > 1     sigmoid     independent foreground channels (multi-label); (0, z1, ...): the largest decides where its
                          probability is above one half, else the background
============  ==========  ======================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import SubjectError

#: Probabilities are kept this far from 0 and 1 before they become logits.
CLIP: Final = 1e-6
#: Logit of the class that a labels-only subject names; the others have 0.
LABEL_LOGIT: Final = 20.0


def pick_tensor(output: Any, *, key: str | None = None, index: int | None = None) -> Tensor:
    """The tensor of a dict or tuple output: ``key`` or ``index``, else "out", "logits", or the first tensor.

    Raises:
        SubjectError: the output holds no such tensor.

    >>> pick_tensor({"aux": torch.zeros(1), "out": torch.ones(2)})
    tensor([1., 1.])
    """
    if isinstance(output, Mapping):
        names = [key] if key is not None else [*(n for n in ("out", "logits") if n in output), *output]
        names = names if index is None else list(output)[index : index + 1]
        found = next((output[name] for name in names if isinstance(output.get(name), Tensor | np.ndarray)), None)
        if found is None:
            got = ", ".join(map(str, output))
            raise SubjectError(f"the output is a dict without a tensor '{key or 'out'}'", where="output.key", got=got)
        output = found
    elif isinstance(output, Sequence):
        parts = list(output) if index is None else list(output[index : index + 1])
        found = next((part for part in parts if isinstance(part, Tensor | np.ndarray)), None)
        if found is None:
            raise SubjectError("the output is a tuple without that tensor", where="output.index", got=len(output))
        output = found
    elif key is not None or index is not None:
        raise SubjectError("the output is one tensor, not a dict or tuple", where="output", then="Remove key and index")
    if isinstance(output, np.ndarray):
        output = torch.from_numpy(np.ascontiguousarray(output))
    if not isinstance(output, Tensor):
        raise SubjectError("the output is no tensor", got=type(output).__name__)
    return output


def to_logits(
    raw: Tensor,
    *,
    classes: int,
    kind: Literal["logits", "probabilities", "labels"] = "logits",
    activation: Literal["sigmoid", "softmax"] | None = None,
) -> Tensor:
    """Logits (B, K, H, W) whose softmax gives the subject's probabilities; differentiable for logits.

    Args:
        raw: (B, channels, H, W), or (B, H, W) for labels and one-channel heads.
        classes: K.
        kind: what the values are.
        activation: how the channels relate; None = sigmoid for one channel, softmax for more.

    Raises:
        SubjectError: the shape does not fit the classes, or a value cannot be what ``kind`` says.

    >>> to_logits(torch.full((1, 1, 1, 1), 2.0), classes=2).flatten()
    tensor([0., 2.])
    """
    if raw.ndim == 3:
        raw = raw.unsqueeze(1)
    if raw.ndim != 4:
        allowed = "(batch, channels, height, width)"
        raise SubjectError("the output has no image shape", where="output", got=tuple(raw.shape), allowed=allowed)
    if kind == "labels":
        return _from_labels(raw, classes)
    raw = raw.float()
    if not torch.isfinite(raw).all():
        raise SubjectError("the output holds NaN or infinite values", where="output", got=_nan_share(raw))
    channels = raw.shape[1]
    foreground_only = channels == classes - 1 and (classes == 2 or activation == "sigmoid")
    if channels != classes and not foreground_only:
        raise SubjectError(
            "the output does not fit the classes",
            where="output",
            got=f"{channels} channels, shape {tuple(raw.shape)}",
            allowed=f"{classes} channels for {classes} classes" + (", or 1 for two classes" if classes == 2 else ""),
            then="Check classes and output in model.yaml",
        )
    independent = activation == "sigmoid" or foreground_only
    if kind == "probabilities":
        raw = _from_probabilities(raw, independent=independent)
    if foreground_only:
        return torch.cat((torch.zeros_like(raw[:, :1]), raw), dim=1)
    if independent and classes == 2:
        return torch.cat((torch.zeros_like(raw[:, :1]), raw[:, 1:]), dim=1)
    return raw


def _from_probabilities(raw: Tensor, *, independent: bool) -> Tensor:
    low, high = float(raw.detach().min()), float(raw.detach().max())
    if low < -1e-3 or high > 1 + 1e-3:
        got = f"{low:.3g} to {high:.3g}"
        then = "Set output: kind: logits, or divide by the largest value"
        raise SubjectError(
            "the output holds no probabilities", where="output.kind", got=got, allowed="0 to 1", then=then
        )
    clipped = raw.clamp(CLIP, 1 - CLIP)
    return torch.logit(clipped) if independent else clipped.log()


def _from_labels(raw: Tensor, classes: int) -> Tensor:
    if raw.shape[1] != 1:
        got, allowed = tuple(raw.shape), "(batch, height, width)"
        raise SubjectError("labels have one channel", where="output.kind", got=got, allowed=allowed)
    labels = raw[:, 0].long()
    if (labels != raw[:, 0]).any() or labels.min() < 0 or labels.max() >= classes:
        values = torch.unique(raw)[:6].tolist()
        allowed = f"whole numbers 0 to {classes - 1}"
        raise SubjectError("labels lie outside the classes", where="output", got=values, allowed=allowed)
    return LABEL_LOGIT * torch.nn.functional.one_hot(labels, classes).permute(0, 3, 1, 2).float()


def _nan_share(raw: Tensor) -> str:
    return f"{int((~torch.isfinite(raw)).sum())} of {raw.numel()} values, shape {tuple(raw.shape)}"
