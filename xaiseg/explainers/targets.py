"""Targets: the scalar that an explanation explains, as a function of the logits.

The region of a target is frozen from the unperturbed prediction: were it recomputed, hiding a pixel would move the
region and the score would no longer say what the model thought about that place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import UsageError, did_you_mean
from xaiseg.subject import Prediction

#: Reason of a case that has nothing to explain.
NO_FOREGROUND: Final = "the prediction has no foreground"


class Target(Protocol):
    """A scalar S of the logits; explainers differentiate or perturb it, metrics watch it fall."""

    @property
    def name(self) -> str:
        """A short name for files and tables."""

    def score(self, logits: Tensor) -> Tensor:
        """S of each image: logits (B, K, H, W) -> (B,), differentiable."""


@dataclass(frozen=True, eq=False)
class Region:
    """The mean score of one class over a frozen region: why is this region that class?

    With ``scale="logit"`` S is the mean logit z_c over the region (for a one-channel head, whose logits are (0, z),
    the foreground's S is the mean of z); with ``scale="probability"`` it is the mean softmax probability.

    Attributes:
        class_index: class c.
        mask: (H, W) bool, at least one pixel.
        scale: "logit" for explanations, "probability" for metrics.
        label: name of the class, for files and tables.

    >>> logits = torch.tensor([[[[0.0, 0.0]], [[2.0, 4.0]]]])
    >>> Region(1, np.array([[True, False]])).score(logits)
    tensor([2.])
    """

    class_index: int
    mask: np.ndarray
    scale: Literal["logit", "probability"] = "logit"
    label: str = ""

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.mask.dtype != np.bool_:
            raise UsageError(
                "a region must be a (H, W) mask of truth values",
                where="mask",
                got=f"{self.mask.shape} {self.mask.dtype}",
            )
        if not self.mask.any():
            raise UsageError("a region must hold at least one pixel", where="mask", got="an empty mask")

    @property
    def name(self) -> str:
        """The class's name, or its index."""
        return self.label or f"class-{self.class_index}"

    @cached_property
    def _pixels(self) -> Tensor:
        return torch.from_numpy(np.flatnonzero(self.mask))

    def score(self, logits: Tensor) -> Tensor:
        """S of each image: logits (B, K, H, W) -> (B,).

        Raises:
            UsageError: the logits have another grid than the mask, or lack the class.
        """
        _, classes, height, width = logits.shape
        if (height, width) != self.mask.shape or not 0 <= self.class_index < classes:
            raise UsageError(
                "the region does not fit the logits",
                where="target",
                got=f"class {self.class_index} on {self.mask.shape}",
                allowed=f"a class below {classes} on {(height, width)}",
            )
        pixels = self._pixels.to(logits.device)
        if self.scale == "logit":
            return logits[:, self.class_index].flatten(1)[:, pixels].float().mean(dim=1)
        return logits.flatten(2)[:, :, pixels].float().softmax(dim=1)[:, self.class_index].mean(dim=1)

    def as_probability(self) -> Region:
        """The same region, scored by the mean probability: bounded, so that metrics of cases can be averaged."""
        return Region(self.class_index, self.mask, "probability", self.label)


def predicted_region(prediction: Prediction, classes: Sequence[str], class_index: int | None = None) -> Region | None:
    """The region that the model itself calls a class.

    Args:
        prediction: the unperturbed prediction.
        classes: names; index 0 is the background.
        class_index: the class, or None for the foreground class with the largest predicted area.

    Returns:
        The region, or None when the class (or any foreground) is not predicted.

    >>> labels = np.array([[0, 1], [0, 2], [0, 2]], dtype=np.uint8)
    >>> predicted_region(Prediction(labels), ("background", "cyst", "tumour")).name
    'tumour'
    """
    areas = np.bincount(prediction.labels.ravel(), minlength=len(classes))
    if class_index is None:
        class_index = 1 + int(np.argmax(areas[1:]))
    if areas[class_index] == 0:
        return None
    return Region(class_index, prediction.labels == class_index, label=classes[class_index])


def named_region(name: str, prediction: Prediction, classes: Sequence[str]) -> Region:
    """The region that a user names: ``pred`` (the largest predicted foreground class) or the name of a class.

    Raises:
        UsageError: no such class, or the prediction does not hold it.
    """
    if name != "pred" and name not in classes:
        raise UsageError("no such target", where="--target", got=name, then=did_you_mean(name, ["pred", *classes]))
    region = predicted_region(prediction, classes, None if name == "pred" else list(classes).index(name))
    if region is None:
        found = [classes[index] for index in np.unique(prediction.labels)]
        raise UsageError(
            NO_FOREGROUND if name == "pred" else f"the prediction has no pixel of class '{name}'",
            where="--target",
            got=name,
            allowed="a class that is predicted in this image: " + ", ".join(found),
        )
    return region
