"""The golden model: a quantised network in 64-bit integers, straight from the definitions.

Nothing here is shared with the digit-serial path but the integers themselves: convolutions are windows and one integer
matrix product, a transposed one spreads its input with zeros first, steps up repeat or weigh integers, and every
division is a shift that rounds halves up.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiseg.hardware.exact import Layer
from xaiseg.hardware.graph import Node
from xaiseg.hardware.quantise import Quantised, Step, Watch, walk


def run_integer(network: Quantised, *arguments: Tensor, watch: Watch | None = None) -> Tensor:
    """The network's answer in 64-bit integers.

    Args:
        network: from :func:`xaiseg.hardware.quantise.quantise`.
        arguments: the network's arguments, floating point.
        watch: sees every integer value, int64.

    Raises:
        UsageError: NaN or infinity where integers begin.
    """
    with torch.inference_mode():
        return walk(network, arguments, STEPS, dtype=torch.int64, watch=watch)


def half_up(sums: Tensor, shifts: Tensor) -> Tensor:
    """Integers divided by 2^shifts, halves rounded up.

    >>> half_up(torch.tensor([-6, -2, 2, 6]), torch.tensor(2)).tolist()
    [-1, 0, 1, 2]
    """
    half = torch.where(shifts > 0, torch.ones_like(shifts) << (shifts - 1).clamp(min=0), 0)
    return (sums + half) >> shifts


def integer_sums(x: Tensor, layer: Layer) -> Tensor:
    """The sums of a convolution of integers.

    Args:
        x: (B, C, H, W) int64.
        layer: integer weights and bias.

    Returns:
        (B, outputs, H', W') int64.

    >>> integer_sums(torch.ones(1, 1, 2, 2).long(), Layer(torch.full((1, 1, 2, 2), 3))).item()
    12
    """
    stride, rows = layer.stride, layer.by_output().long()
    sides = [(pad, pad) for pad in layer.padding]
    if layer.transposed:
        x, rows, stride = _spread(x, layer.stride), rows.flip(2, 3), (1, 1)
        reach = [layer.dilation[axis] * (rows.shape[2 + axis] - 1) for axis in (0, 1)]
        sides = [
            (far - pad, far - pad + more)
            for far, pad, more in zip(reach, layer.padding, layer.output_padding, strict=True)
        ]
    x = F.pad(x, (*sides[1], *sides[0]))
    for axis in (0, 1):
        reach_px = layer.dilation[axis] * (rows.shape[2 + axis] - 1) + 1
        x = x.unfold(2 + axis, reach_px, stride[axis])
    windows = x[..., :: layer.dilation[0], :: layer.dilation[1]]  # (B, C, H', W', kh, kw)
    count, _, height, width = windows.shape[:4]
    grouped = windows.reshape(count, layer.groups, layer.inputs, height, width, -1)
    columns = grouped.permute(1, 2, 5, 0, 3, 4).flatten(3).flatten(1, 2)  # (groups, inputs * taps, places)
    sums = _product(rows.reshape(layer.groups, -1, columns.shape[1]), columns)
    found = sums.reshape(layer.outputs, count, height, width).transpose(0, 1)
    return found if layer.bias is None else found + layer.bias.view(-1, 1, 1)


def _product(rows: Tensor, columns: Tensor) -> Tensor:
    """A product of integer matrices.

    Accelerators have none in int64. There float64 is as exact: magnitudes add up to less than 2^53.
    """
    if rows.device.type == "cpu":
        return rows @ columns
    return (rows.double() @ columns.double()).long()


def _spread(x: Tensor, stride: tuple[int, int]) -> Tensor:
    """The input's pixels ``stride`` apart, zeros between them."""
    height, width = ((size - 1) * step + 1 for size, step in zip(x.shape[2:], stride, strict=True))
    found = x.new_zeros(*x.shape[:2], height, width)
    found[:, :, :: stride[0], :: stride[1]] = x
    return found


def _convolution(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    held = network.convolutions[node.name]
    (x,) = values
    x = x[:, :, None, None] if held.linear else x
    sums = integer_sums(x, held.layer)
    if held.shifts is not None:
        sums = _kept(half_up(sums, held.shifts.view(-1, 1, 1)), node, network)
    elif node.rectifier is not None:
        sums = _rectified_sums(sums, node, held.exponents)
    return sums[:, :, 0, 0] if held.linear else sums


def _rectified_sums(sums: Tensor, node: Node, exponents: Tensor) -> Tensor:
    """Unrounded sums behind a rectifier: its ceiling in units of each channel's sums."""
    assert node.rectifier is not None  # asked for only where there is one
    sums = sums.clamp(min=0)
    if math.isinf(node.rectifier.ceiling):
        return sums
    most = torch.floor(node.rectifier.ceiling * torch.exp2(exponents.double()) + 0.5).long()
    return torch.minimum(sums, most.view(-1, 1, 1))


def _kept(x: Tensor, node: Node, network: Quantised) -> Tensor:
    """Integers within their format, and within the rectifier that was joined to their node or is the node itself."""
    form = network.formats[node.name]
    rectifier = node.operation if node.kind == "relu" else node.rectifier
    if rectifier is None:
        return x.clamp(form.low, form.high)
    most = form.high
    if math.isfinite(rectifier.ceiling):
        most = min(most, math.floor(rectifier.ceiling * 2.0**form.exponent + 0.5))
    return x.clamp(0, most)


def _relu(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    return _kept(values[0], node, network)


def _windows(node: Node, x: Tensor, outside: int) -> Tensor:
    """(B, C, H', W', kh * kw) of a pooling; pixels outside the image hold ``outside``."""
    operation = node.operation
    down, right = operation.padding
    x = F.pad(x, (right, right, down, down), value=outside)
    x = x.unfold(2, operation.kernel[0], operation.stride[0]).unfold(3, operation.kernel[1], operation.stride[1])
    return x.flatten(4)


def _max_pool(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    return _windows(node, values[0], network.formats[node.name].low).amax(4)


def _average_pool(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    windows = _windows(node, values[0], 0)
    return half_up(windows.sum(4), torch.tensor(windows.shape[4].bit_length() - 1, device=windows.device))


def _nearest(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    factor = node.operation.factor
    return values[0].repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def _bilinear(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    """Output pixel i lies at (2 i + 1 - f) / (2 f) of the input: weights are multiples of 1 / (2 f)."""
    (x,), factor = values, node.operation.factor
    for axis in (2, 3):
        size, device = x.shape[axis], x.device
        place = (2 * torch.arange(size * factor, device=device) + 1 - factor).clamp(min=0)
        left = place // (2 * factor)
        share = (place - 2 * factor * left).view(-1, *[1] * (3 - axis))
        right = (left + 1).clamp(max=size - 1)
        x = x.index_select(axis, left) * (2 * factor - share) + x.index_select(axis, right) * share
    return half_up(x, torch.tensor(2 * ((2 * factor).bit_length() - 1), device=x.device))


def _concat(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(values, 1)


def _add(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    exponents = [network.formats[name].exponent for name in node.inputs]
    finest = max(exponents)
    first, second = (value << (finest - exponent) for value, exponent in zip(values, exponents, strict=True))
    shift = torch.tensor(finest - network.formats[node.name].exponent, device=first.device)
    return _kept(half_up(first + second, shift), node, network)


def _flatten(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    return values[0].flatten(1)


STEPS: Final[dict[str, Step]] = {
    "convolution": _convolution,
    "relu": _relu,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "nearest": _nearest,
    "bilinear": _bilinear,
    "concat": _concat,
    "add": _add,
    "flatten": _flatten,
}
