"""Convolutions of integers in floating point that are exact, by a bound from the weights.

A sum whose terms' magnitudes add up to at most 2^24 is exact in float32 in whatever order it is added. Layers beyond
that are split over input channels, and the parts are added in float64, exact to 2^53; where one input channel alone is
beyond it, as with 16 bits, the whole layer is computed in float64. Whatever the backend does is held
against a float64 convolution on a random crop, because algorithms that transform the data (Winograd, FFT) or shorten it
(TF32, bfloat16) are no sums of products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiseg.errors import UsageError, XaisegError
from xaiseg.hardware.crops import crop_agrees

#: Up to here every integer has a float32, and a float64.
FLOAT32_EXACT: Final = 2**24
FLOAT64_EXACT: Final = 2**53


class InexactError(XaisegError):
    """A backend's convolution of integers is not the sum of its products."""

    exit_code = 4


@dataclass(frozen=True)
class Layer:
    """A two-dimensional convolution of integers with zero padding, or a transposed one.

    Args:
        weight: (outputs, inputs / groups, kh, kw), transposed (inputs, outputs / groups, kh, kw); integers, any dtype.
        bias: (outputs,) integers in units of the sum, or None.
        stride: as in torch.
        padding: as in torch.
        dilation: as in torch.
        output_padding: as in torch; transposed only.
        groups: as in torch.
        transposed: see ``weight``.

    >>> Layer(torch.ones(4, 2, 3, 3)).terms
    18
    """

    weight: Tensor
    bias: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    output_padding: tuple[int, int] = (0, 0)
    groups: int = 1
    transposed: bool = False

    def __post_init__(self) -> None:
        if self.weight.ndim != 4 or not bool((self.weight == self.weight.round()).all()):
            allowed = "4 dimensions, integers"
            raise UsageError("the weights cannot be used", where="layer.weight", got=self.weight.shape, allowed=allowed)

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[0]

    @property
    def inputs(self) -> int:
        """Input channels of one group."""
        return self.weight.shape[0] // self.groups if self.transposed else self.weight.shape[1]

    @property
    def terms(self) -> int:
        """Most products in one output value, the bias not counted."""
        rows, columns = (_meeting(self, axis).sum(1).max() for axis in (0, 1))
        return self.inputs * int(rows) * int(columns)

    def by_output(self) -> Tensor:
        """The weights as (outputs, inputs / groups, kh, kw) for both kinds.

        >>> Layer(torch.ones(2, 3, 2, 2), transposed=True).by_output().shape
        torch.Size([3, 2, 2, 2])
        """
        if not self.transposed:
            return self.weight
        kernel = self.weight.shape[2:]
        grouped = self.weight.reshape(self.groups, self.inputs, -1, *kernel)
        return grouped.transpose(1, 2).reshape(-1, self.inputs, *kernel)


def layer_of(module: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor, *, bias: Tensor | None = None) -> Layer:
    """A module's geometry around integer weights of the same shape.

    Raises:
        UsageError: padding other than with zeros by numbers, or weights of another shape.

    >>> layer_of(nn.Conv2d(2, 4, 3, padding=1), torch.ones(4, 2, 3, 3)).padding
    (1, 1)
    """
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        got = f"padding={module.padding!r}, padding_mode={module.padding_mode!r}"
        raise UsageError("this padding is not modelled", where="module", got=got, allowed="zeros, given as numbers")
    if weight.shape != module.weight.shape:
        allowed = tuple(module.weight.shape)
        raise UsageError("the weights have another shape", where="weight", got=tuple(weight.shape), allowed=allowed)
    transposed = isinstance(module, nn.ConvTranspose2d)
    return Layer(
        weight,
        bias,
        stride=_pair(module.stride),
        padding=_pair(module.padding),
        dilation=_pair(module.dilation),
        output_padding=_pair(module.output_padding) if transposed else (0, 0),
        groups=module.groups,
        transposed=transposed,
    )


@dataclass(frozen=True)
class Exact:
    """A convolution made ready by :func:`exact_convolution`.

    Attributes:
        layer: what is computed.
        inputs: least and largest input for which the bound holds.
        bound: largest magnitude of any partial sum, in integers.
        chunks: (first, last + 1) input channels of every group, one convolution each.
        weights: what each chunk multiplies with, scaled: float32, or float64 in one chunk where float32 holds no
            input channel's sum.
        offset: (outputs,) float64, scaled, added to every output; None = nothing.
        reference: all weights in float64, scaled: what a crop is held against.
    """

    layer: Layer
    inputs: tuple[int, int]
    bound: int
    chunks: tuple[tuple[int, int], ...]
    weights: tuple[Tensor, ...]
    offset: Tensor | None
    reference: Tensor


def largest_sums(layer: Layer, *, largest_input: int) -> Tensor:
    """(outputs,) int64: the largest magnitude that each output channel's sum can take, bias included.

    >>> largest_sums(Layer(torch.tensor([[[[3.0, -4.0]]]]), torch.tensor([5])), largest_input=10).tolist()
    [75]
    """
    sums = _magnitudes(layer).sum(1).amax(1) * largest_input
    return sums if layer.bias is None else sums + layer.bias.long().abs()


def exact_convolution(
    layer: Layer, *, inputs: tuple[int, int], scale: Tensor | None = None, offset: Tensor | None = None
) -> Exact:
    """Makes a layer ready: bound, chunks over input channels, scaled weights.

    Args:
        layer: the convolution; its bias is added.
        inputs: least and largest input, (0, 255) for 8 bits.
        scale: (outputs,) float64 powers of two that multiply the sums; powers of two cost no exactness. None = 1.
        offset: (outputs,) int64 added to the sums before they are scaled. None = 0.

    Raises:
        UsageError: a sum may pass float64's bound.

    >>> exact_convolution(Layer(torch.ones(4, 2, 3, 3)), inputs=(0, 255)).bound
    4590
    """
    device = layer.weight.device
    largest_input = max(-inputs[0], inputs[1])
    total = torch.zeros(layer.outputs, dtype=torch.int64, device=device)
    for part in (layer.bias, offset):
        total = total if part is None else total + part.long()
    bound = int((largest_sums(layer, largest_input=largest_input) + total.abs()).max())
    if bound > FLOAT64_EXACT:
        raise UsageError("the sum may pass what float64 holds exactly", where="layer", got=bound, allowed="2^53")
    chunks = _chunks(layer, largest_input, bound)
    scales = torch.ones(layer.outputs, dtype=torch.float64, device=device) if scale is None else scale
    reference = layer.weight.double() * _per_output(layer, scales)
    dtype = torch.float64 if len(chunks) == 1 and bound > FLOAT32_EXACT else torch.float32
    weights = tuple(_chunk(layer, reference, a, b).to(dtype).contiguous() for a, b in chunks)
    held = total.double() * scales if bool(total.any()) else None
    return Exact(layer, inputs, bound, chunks, weights, held, reference)


def accumulate(x: Tensor, exact: Exact, *, seed: int = 0) -> Tensor:
    """The sums of every output, exact.

    Args:
        x: (B, C, H, W) floating point tensor that holds integers.
        exact: from :func:`exact_convolution`.
        seed: chooses the crop that is held against float64.

    Returns:
        (B, outputs, H', W'): float32 where one chunk of float32 does, else float64.

    Raises:
        UsageError: an input out of range.
        InexactError: the backend's convolution is not the sum of its products.

    >>> exact = exact_convolution(Layer(torch.ones(1, 2, 3, 3)), inputs=(0, 7))
    >>> accumulate(torch.full((1, 2, 3, 3), 7.0), exact).item()
    126.0
    """
    low, high = (float(value) for value in torch.aminmax(x))
    if not (exact.inputs[0] <= low and high <= exact.inputs[1]):  # NaN fails too
        allowed = f"{exact.inputs[0]} to {exact.inputs[1]}"
        raise UsageError("an input is out of range", where="x", got=f"{low:g} to {high:g}", allowed=allowed)
    values = x.to(exact.weights[0].dtype)
    if len(exact.chunks) == 1:
        found = _convolution(values, exact.weights[0], exact.layer, exact.offset)
    else:
        groups = values.reshape(len(values), exact.layer.groups, -1, *values.shape[2:])
        parts = (
            _convolution(groups[:, :, a:b].flatten(1, 2), weight, exact.layer, None).double()
            for (a, b), weight in zip(exact.chunks, exact.weights, strict=True)
        )
        found = sum(parts, torch.zeros((), dtype=torch.float64, device=x.device))
        found = found if exact.offset is None else found + exact.offset.view(-1, 1, 1)
    if not crop_agrees(values, found, exact.layer, exact.reference, exact.offset, seed=seed):
        raise InexactError(
            "the convolution differs from float64 on a crop",
            where=f"a layer of {exact.layer.terms} products on {x.device}",
            allowed="equality",
            then="Turn off TF32, bfloat16 and cudnn.benchmark for convolutions; inputs must be integers",
        )
    return found


def _convolution(x: Tensor, weight: Tensor, layer: Layer, offset: Tensor | None) -> Tensor:
    """One convolution by an algorithm that adds products."""
    bias = None if offset is None else offset.to(x.dtype)
    # NNPACK and cuDNN's search may choose Winograd, whose transforms round.
    with (
        torch.backends.nnpack.flags(enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        if layer.transposed:
            return F.conv_transpose2d(
                x, weight, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
            )
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _meeting(layer: Layer, axis: int) -> Tensor:
    """(ways, taps) of 0 and 1: which taps of the kernel meet in one output value.

    All of them do in a plain convolution; in a transposed one those whose shifts agree modulo the stride.
    """
    taps = torch.arange(layer.weight.shape[2 + axis], device=layer.weight.device)
    if not layer.transposed:
        return torch.ones_like(taps)[None]
    ways = torch.arange(layer.stride[axis], device=taps.device)
    return (taps * layer.dilation[axis] % layer.stride[axis] == ways[:, None]).long()


def _magnitudes(layer: Layer) -> Tensor:
    """(outputs, inputs, ways) int64: the sum of weights' magnitudes of an input channel in one output value."""
    rows, columns = _meeting(layer, 0), _meeting(layer, 1)
    magnitudes = layer.by_output().long().abs()[:, :, None, None] * (rows[:, None, :, None] * columns[:, None, :])
    return magnitudes.sum((4, 5)).flatten(2)


def _chunks(layer: Layer, largest_input: int, bound: int) -> tuple[tuple[int, int], ...]:
    """Runs of input channels, as long as float32 is exact for the sums of each; one run where it cannot be."""
    if bound <= FLOAT32_EXACT:
        return ((0, layer.inputs),)
    each = _magnitudes(layer).transpose(1, 2).flatten(0, 1) * largest_input  # (outputs and ways to meet, inputs)
    if int(each.max()) > FLOAT32_EXACT:
        return ((0, layer.inputs),)
    chunks, first = [], 0
    held = torch.zeros_like(each[:, 0])
    for channel in range(layer.inputs):
        held = held + each[:, channel]
        if int(held.max()) > FLOAT32_EXACT:
            chunks.append((first, channel))
            first, held = channel, each[:, channel]
    return (*chunks, (first, layer.inputs))


def _chunk(layer: Layer, weight: Tensor, first: int, last: int) -> Tensor:
    """The weights of some input channels of every group."""
    if not layer.transposed:
        return weight[:, first:last]
    return weight.reshape(layer.groups, layer.inputs, *weight.shape[1:])[:, first:last].flatten(0, 1)


def _per_output(layer: Layer, values: Tensor) -> Tensor:
    """(outputs,) values in a shape that broadcasts against the layer's weights."""
    if not layer.transposed:
        return values.view(-1, 1, 1, 1)
    grouped = values.view(layer.groups, 1, -1).expand(-1, layer.inputs, -1)
    return grouped.flatten(0, 1)[:, :, None, None]


def _pair(value: object) -> tuple[int, int]:
    a, b = value if isinstance(value, tuple) else (value, value)
    return int(a), int(b)
