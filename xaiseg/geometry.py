"""How an image gets onto a network's grid and how the answer gets back; differentiable both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Placement:
    """Where an image lies on the network's grid, all in pixels.

    Attributes:
        image: (height, width) of the image.
        inner: (height, width) after resizing.
        outer: (height, width) of the network's grid.
        offset: (row, column) of the resized image on that grid.
    """

    image: tuple[int, int]
    inner: tuple[int, int]
    outer: tuple[int, int]
    offset: tuple[int, int]


def place(
    image: tuple[int, int],
    *,
    size: tuple[int, int] | None = None,
    resize: Literal["pad", "stretch", "none"] = "pad",
    multiple_of: int = 1,
    align: Literal["centre", "corner"] = "centre",
) -> Placement:
    """Chooses the placement of an image.

    Args:
        image: (height, width) of the image.
        size: (height, width) of the network's grid, or None for the image's own.
        resize: "pad" keeps the aspect and fills up the grid, "stretch" fills the grid, "none" leaves the image as it is
            (then ``size`` is ignored).
        multiple_of: the grid's sides are rounded up to a multiple of this.
        align: where a smaller image lies on the grid: in its centre or in its upper left corner.

    >>> place((100, 200), size=(64, 64), multiple_of=16)
    Placement(image=(100, 200), inner=(32, 64), outer=(64, 64), offset=(16, 0))
    >>> place((100, 200), multiple_of=16).outer
    (112, 208)
    """
    height, width = image
    if size is None or resize == "none":
        inner = target = image
    elif resize == "stretch":
        inner = target = size
    else:
        scale = min(size[0] / height, size[1] / width)
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        target = size
    outer = (_up(target[0], multiple_of), _up(target[1], multiple_of))
    free = (outer[0] - inner[0], outer[1] - inner[1])
    return Placement(image, inner, outer, (free[0] // 2, free[1] // 2) if align == "centre" else (0, 0))


def to_network(
    batch: Tensor, placement: Placement, *, fill: float, mode: Literal["bilinear", "nearest"] = "bilinear"
) -> Tensor:
    """Resizes (B, C, H, W) images and pads them with ``fill``; reducing with "bilinear" averages, as Pillow does."""
    if placement.inner != placement.image:
        if mode == "nearest":
            batch = F.interpolate(batch, placement.inner, mode="nearest-exact")
        else:
            batch = F.interpolate(batch, placement.inner, mode="bilinear", align_corners=False, antialias=True)
    if placement.outer == placement.inner:
        return batch
    top, left = placement.offset
    bottom = placement.outer[0] - placement.inner[0] - top
    right = placement.outer[1] - placement.inner[1] - left
    return F.pad(batch, (left, right, top, bottom), value=fill)


def to_image(logits: Tensor, placement: Placement) -> Tensor:
    """Maps (B, K, h, w) logits of the network's grid, or of a coarser one, to the image's own pixels (bilinear)."""
    if logits.shape[-2:] != placement.outer:
        logits = F.interpolate(logits, placement.outer, mode="bilinear", align_corners=False)
    top, left = placement.offset
    height, width = placement.inner
    logits = logits[..., top : top + height, left : left + width]
    if placement.inner != placement.image:
        logits = F.interpolate(logits, placement.image, mode="bilinear", align_corners=False)
    return logits


def boxes_to_image(xyxy: Tensor, placement: Placement) -> Tensor:
    """Boxes (..., 4) xyxy in pixels of the network's grid, in the image's own pixels; not clipped, differentiable.

    >>> from torch import tensor
    >>> boxes_to_image(tensor([0.0, 16.0, 64.0, 48.0]), place((100, 200), size=(64, 64)))
    tensor([  0.,   0., 200., 100.])
    """
    top, left = placement.offset
    down, along = (own / inner for own, inner in zip(placement.image, placement.inner, strict=True))
    return (xyxy - xyxy.new_tensor((left, top, left, top))) * xyxy.new_tensor((along, down, along, down))


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
