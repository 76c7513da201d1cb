"""A random crop of a convolution's output, computed anew in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiseg.seeds import generator

if TYPE_CHECKING:
    from xaiseg.hardware.exact import Layer

#: Output pixels a side.
SIDE: Final = 4


def crop_agrees(x: Tensor, found: Tensor, layer: Layer, reference: Tensor, offset: Tensor | None, *, seed: int) -> bool:
    """Whether the inputs of a random crop are integers, and the crop is their float64 convolution, value for value.

    Args:
        x: (B, C, H, W) the whole input.
        found: (B, outputs, H', W') the whole output.
        layer: the geometry.
        reference: its weights, float64.
        offset: (outputs,) float64, or None.
        seed: chooses image and place.

    >>> from xaiseg.hardware.exact import Layer
    >>> x, w = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3)
    >>> crop_agrees(x, torch.full((1, 1, 6, 6), 9.0), Layer(w), w.double(), None, seed=0)
    True
    """
    random = generator(seed, "hardware.crop")
    image = int(random.integers(len(x)))
    spans = []
    for size in found.shape[2:]:
        first = int(random.integers(max(1, size - SIDE + 1)))
        spans.append((first, min(size, first + SIDE)))
    places = [_inputs(layer, axis, span, x.shape[2 + axis]) for axis, span in enumerate(spans)]
    patch = x[image : image + 1]
    for axis, place in enumerate(places):
        patch = _cut_out(patch, 2 + axis, place)
    patch = patch.double()
    if layer.transposed:
        grown = F.conv_transpose2d(patch, reference, offset, layer.stride, 0, 0, layer.groups, layer.dilation)
        for axis, ((first, last), (start, _)) in enumerate(zip(spans, places, strict=True)):
            grown = grown.narrow(2 + axis, first + layer.padding[axis] - start * layer.stride[axis], last - first)
    else:
        grown = F.conv2d(patch, reference, offset, layer.stride, 0, layer.dilation, layer.groups)
    (top, bottom), (left, right) = spans
    whole = torch.equal(patch, patch.round())
    return whole and torch.equal(grown[0], found[image, :, top:bottom, left:right].double())


def _inputs(layer: Layer, axis: int, span: tuple[int, int], size: int) -> tuple[int, int]:
    """The input places that outputs ``span`` can depend on; places outside the image hold zeros."""
    step, pad = layer.stride[axis], layer.padding[axis]
    reach = layer.dilation[axis] * (layer.weight.shape[2 + axis] - 1)
    first, last = span
    if not layer.transposed:
        return first * step - pad, (last - 1) * step - pad + reach + 1
    # One place more on either side, so that the patch's own output spans the crop.
    return (first + pad - reach) // step - 1, (last - 1 + pad) // step + 2


def _cut_out(x: Tensor, dim: int, place: tuple[int, int]) -> Tensor:
    """Places ``first`` to ``last`` of a dimension; those that do not exist are zeros."""
    size, (first, last) = x.shape[dim], place
    low, high = (min(max(0, edge), size) for edge in place)
    before = min(max(0, -first), last - first)
    sides = (before, last - first - before - (high - low))
    return F.pad(x.narrow(dim, low, high - low), (*[0, 0] * (x.ndim - 1 - dim), *sides))
