"""Targets: the scalar that an explanation explains, as a function of the logits.

The region of a target is frozen from the unperturbed prediction: were it recomputed, hiding a pixel would move the
region and the score would no longer say what the model thought about that place.

Borders and the mean over a region follow Xplique (T. Fel et al., "Xplique: A Deep Learning Explainability Toolbox",
arXiv:2206.04394). Overlaps with a reference are in :mod:`xaiseg.explainers.soft_targets`, boxes in
:mod:`xaiseg.explainers.box_targets`, and what a user or a protocol may write in :mod:`xaiseg.explainers.target_spec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, Protocol, runtime_checkable

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


@runtime_checkable
class SpatialTarget(Target, Protocol):
    """A target on the image's grid: it has a place to outline and a unit to write beside the colours."""

    @property
    def class_index(self) -> int:
        """The class that it asks about."""

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, its place."""

    @property
    def unit(self) -> str:
        """Unit of S."""

    @property
    def meaning(self) -> str:
        """What S is, in words."""


def check_mask(mask: np.ndarray, *, empty: bool = False) -> None:
    """Refuses what is no mask.

    Args:
        mask: (H, W) bool.
        empty: whether it may hold no pixel.

    Raises:
        UsageError: not (H, W), not bool, or empty.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise UsageError(
            "a region must be a (H, W) mask of truth values", where="mask", got=f"{mask.shape} {mask.dtype}"
        )
    if not empty and not mask.any():
        raise UsageError("a region must hold at least one pixel", where="mask", got="an empty mask")


def check_fit(class_index: int, mask: np.ndarray, logits: Tensor) -> None:
    """Refuses logits (B, K, H, W) of another grid than the mask, or without the class.

    Raises:
        UsageError: the target does not fit the logits.
    """
    _, classes, height, width = logits.shape
    if (height, width) != mask.shape or not 0 <= class_index < classes:
        raise UsageError(
            "the region does not fit the logits",
            where="target",
            got=f"class {class_index} on {mask.shape}",
            allowed=f"a class below {classes} on {(height, width)}",
        )


def pixels_of(logits: Tensor, mask: np.ndarray) -> Tensor:
    """Logits (B, K, H, W) at the n pixels of a mask (H, W): (B, K, n) float32."""
    places = torch.from_numpy(np.flatnonzero(mask)).to(logits.device)
    return logits.flatten(2)[:, :, places].float()


@dataclass(frozen=True, eq=False)
class Region:
    """The mean score of one class over a frozen region: why is this region that class?

    With ``scale="logit"`` S is the mean logit z_c over the region, with ``scale="probability"`` the mean softmax
    probability. For a one-channel head, whose logits are (0, z), S is the mean of z for the foreground and of -z for
    the background: the constant 0 would say nothing.

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
        check_mask(self.mask)

    @property
    def name(self) -> str:
        """The class's name, or its index, and that it is a probability where it is one."""
        return self._place if self.scale == "logit" else f"probability of {self._place}"

    @property
    def _place(self) -> str:
        return self.label or f"class-{self.class_index}"

    @property
    def unit(self) -> str:
        """The scale."""
        return self.scale

    @property
    def meaning(self) -> str:
        """What S is, in words."""
        return f"mean {self.scale} of {self._place} over the region"

    @cached_property
    def _pixels(self) -> Tensor:
        with torch.inference_mode(False):  # the first use may be a forward without gradients, a later one a backward
            return torch.from_numpy(np.flatnonzero(self.mask))

    def score(self, logits: Tensor) -> Tensor:
        """S of each image: logits (B, K, H, W) -> (B,).

        Raises:
            UsageError: the logits have another grid than the mask, or lack the class.
        """
        check_fit(self.class_index, self.mask, logits)
        pixels = self._pixels.to(logits.device)
        if self.scale == "logit":
            own = logits[:, self.class_index].flatten(1)[:, pixels].float()
            if _is_constant(self.class_index, logits):
                own = -logits[:, 1].flatten(1)[:, pixels].float()
            return own.mean(dim=1)
        return logits.flatten(2)[:, :, pixels].float().softmax(dim=1)[:, self.class_index].mean(dim=1)

    def as_probability(self) -> Region:
        """The same region, scored by the mean probability: bounded, so that metrics of cases can be averaged."""
        return Region(self.class_index, self.mask, "probability", self.label)


@dataclass(frozen=True, eq=False)
class Margin:
    """The mean lead of one class over the best other class, or over one foil: why this class rather than that?

    S is the mean over the region of z_c - max over k != c of z_k, or of z_c - z_foil. For a one-channel head, whose
    logits are (0, z), the foreground's margin is the mean of z and the background's that of -z.

    Attributes:
        class_index: class c.
        mask: (H, W) bool, at least one pixel.
        foil: the class to be compared with, or None for the best other one at each pixel.
        label: name of the class.
        foil_label: name of the foil.

    >>> logits = torch.tensor([[[[1.0, 0.0]], [[2.0, 4.0]], [[0.0, 3.0]]]])
    >>> mask = np.array([[True, True]])
    >>> Margin(1, mask).score(logits), Margin(1, mask, foil=0).score(logits)
    (tensor([1.]), tensor([2.5000]))
    """

    class_index: int
    mask: np.ndarray
    foil: int | None = None
    label: str = ""
    foil_label: str = ""

    def __post_init__(self) -> None:
        check_mask(self.mask)
        if self.foil == self.class_index:
            got = self.foil_label or f"class {self.foil}"
            raise UsageError("a class has no margin over itself", where="foil", got=got, allowed="another class")

    @property
    def name(self) -> str:
        """The class, and what it is compared with."""
        foil = "rest" if self.foil is None else self.foil_label or f"class-{self.foil}"
        return f"{self.label or f'class-{self.class_index}'} over {foil}"

    @property
    def unit(self) -> str:
        """S is a difference of logits."""
        return "logit"

    @property
    def meaning(self) -> str:
        """What S is, in words."""
        foil = "the best other class" if self.foil is None else self.foil_label or f"class-{self.foil}"
        return f"mean lead of {self.label or f'class-{self.class_index}'} over {foil} in the region, logits"

    def score(self, logits: Tensor) -> Tensor:
        """S of each image: logits (B, K, H, W) -> (B,).

        Raises:
            UsageError: the logits have another grid than the mask, or lack a class.
        """
        check_fit(self.class_index if self.foil is None else max(self.class_index, self.foil), self.mask, logits)
        found = pixels_of(logits, self.mask)
        own = found[:, self.class_index]
        if self.foil is not None:
            return (own - found[:, self.foil]).mean(dim=1)
        others = torch.cat((found[:, : self.class_index], found[:, self.class_index + 1 :]), dim=1)
        best = others.amax(dim=1) if others.shape[1] > 1 else others[:, 0]  # with two classes S stays linear
        return (own - best).mean(dim=1)


@dataclass(frozen=True, eq=False)
class Border:
    """How sharply a class ends at the border of a region: why does it stop here?

    S is the sum of z_c over the inner border minus the sum over the outer border, divided by the number of pixels of
    both; see :func:`in_out_border`. For the background of a one-channel head z_c is -z, as for :class:`Region`.

    Attributes:
        class_index: class c.
        mask: (H, W) bool, the region; it must not fill the image.
        label: name of the class.

    >>> Border(0, np.array([[True, False, False]])).score(torch.tensor([[[[3.0, 1.0, 9.0]]]]))
    tensor([1.])
    """

    class_index: int
    mask: np.ndarray
    label: str = ""

    def __post_init__(self) -> None:
        check_mask(self.mask)
        if self.mask.all():
            raise UsageError("a region that fills the image has no border", where="mask", got="a full mask")

    @property
    def name(self) -> str:
        """The border of the class."""
        return f"border of {self.label or f'class-{self.class_index}'}"

    @property
    def unit(self) -> str:
        """S is a difference of logits."""
        return "logit"

    @property
    def meaning(self) -> str:
        """What S is, in words."""
        name = self.label or f"class-{self.class_index}"
        return f"sum of the logit of {name} inside minus outside along the border, per border pixel"

    @cached_property
    def _signs(self) -> Tensor:
        return torch.from_numpy(in_out_border(self.mask).astype(np.float32))

    def score(self, logits: Tensor) -> Tensor:
        """S of each image: logits (B, K, H, W) -> (B,).

        Raises:
            UsageError: the logits have another grid than the mask, or lack the class.
        """
        check_fit(self.class_index, self.mask, logits)
        signs = self._signs.to(logits.device)
        own = -logits[:, 1] if _is_constant(self.class_index, logits) else logits[:, self.class_index]
        return (own.float() * signs).sum(dim=(1, 2)) / signs.abs().sum()


def _is_constant(class_index: int, logits: Tensor) -> bool:
    """Whether a class is the background of a one-channel head, whose logits are (0, z)."""
    return class_index == 0 and logits.shape[1] == 2 and not bool(logits[:, 0].any())


def in_out_border(mask: np.ndarray) -> np.ndarray:
    """1 on pixels of a mask (H, W) that touch its outside, -1 on outer pixels that touch it, 0 elsewhere (int8).

    Pixels touch along edges and at corners; the edge of the image is no border.

    >>> in_out_border(np.array([[True, True, False, False]])).tolist()
    [[0, 1, -1, 0]]
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    square = np.ones((3, 3), dtype=bool)
    inner = mask & ~binary_erosion(mask, square, border_value=1)
    outer = binary_dilation(mask, square) & ~mask
    return np.asarray(inner.astype(np.int8) - outer.astype(np.int8))


def pixel(class_index: int, x: int, y: int, shape: tuple[int, int], *, label: str = "") -> Region:
    """The logit of one class at one pixel, as a region of one pixel.

    Args:
        class_index: class c.
        x: column, from 0.
        y: row, from 0.
        shape: (H, W) of the image.
        label: name of the class.

    Raises:
        UsageError: the pixel lies outside the image.

    >>> pixel(1, 2, 0, (1, 3), label="cyst").name
    'cyst at 2,0'
    """
    height, width = shape
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(
            "the pixel lies outside the image",
            where="target",
            got=f"x {x}, y {y}",
            allowed=f"x 0 to {width - 1}, y 0 to {height - 1}",
        )
    mask = np.zeros(shape, dtype=bool)
    mask[y, x] = True
    return Region(class_index, mask, label=f"{label or f'class-{class_index}'} at {x},{y}")


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
        raise UsageError("no such target", where="target", got=name, then=did_you_mean(name, ["pred", *classes]))
    region = predicted_region(prediction, classes, None if name == "pred" else list(classes).index(name))
    if region is None:
        found = [classes[index] for index in np.unique(prediction.labels)]
        raise UsageError(
            NO_FOREGROUND if name == "pred" else f"the prediction has no pixel of class '{name}'",
            where="target",
            got=name,
            allowed="a class that is predicted in this image: " + ", ".join(found),
        )
    return region
