"""Single windows of a deployed network through the residual recurrence: do its digits give the network's integers?

The closed form computes whole layers; the recurrence emits digit after digit, as the unit does. Both must agree on the
values that real images bring.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xaiseg.hardware.convolution import Bias
from xaiseg.hardware.deployed import Deployed, limited
from xaiseg.hardware.exact import Layer
from xaiseg.hardware.recurrence import digit_planes, residual_recurrence
from xaiseg.hardware.unit import Unit
from xaiseg.seeds import generator


@dataclass(frozen=True)
class Sample:
    """Sampled output values of one convolution.

    Attributes:
        path: the module.
        windows: how many values were computed digit by digit.
        different: how many of them are not the network's.
    """

    path: str
    windows: int
    different: int


def sampled_windows(
    deployed: Deployed, arguments: tuple[Tensor, ...], *, count: int = 32, seed: int = 0
) -> tuple[Sample, ...]:
    """Compares ``count`` output values of every convolution with the recurrence.

    Args:
        deployed: from :func:`xaiseg.hardware.deployed.deploy`.
        arguments: the network's arguments.
        count: values a convolution, drawn with replacement over images, channels and places.
        seed: of the draw.
    """
    network, values = deployed.network, dict[str, Tensor]()
    deployed(*arguments, watch=lambda node, value: values.update({node.name: value}))
    samples = []
    for node in network.folded.graph.nodes:
        if node.name not in network.convolutions:
            continue
        held, ready = network.convolutions[node.name], deployed.ready[node.name]
        x, found = values[node.inputs[0]], values[node.name]
        if held.linear:
            x, found = x[:, :, None, None], found[:, :, None, None]
        random = generator(seed, "hardware.sampled", node.name)
        places = torch.stack([torch.as_tensor(random.integers(size, size=count)) for size in found.shape])
        windows, weights = operands(x, held.layer, places.to(x.device))
        bias = None if held.layer.bias is None else held.layer.bias[places[1]]
        rows = prefixes(windows, weights, bias, ready.unit, network.scheme.bias)
        expected = rows.gather(0, (ready.digits[places[1]] - 1)[None])[0] << deployed.fewer[node.name]
        expected = limited(expected.view(-1, 1).double(), node, network, channels=places[1])[:, 0]
        samples.append(Sample(node.path, count, int((expected != found[tuple(places)].double()).sum())))
    return tuple(samples)


def operands(x: Tensor, layer: Layer, places: Tensor) -> tuple[Tensor, Tensor]:
    """(count, terms) int64 inputs and weights of output values at places (4, count): image, channel, row, column."""
    image, channel, row, column = places
    weights = layer.by_output().long()[channel]
    group = channel // (layer.outputs // layer.groups)
    channels = group[:, None] * layer.inputs + torch.arange(layer.inputs, device=x.device)
    taps = []
    for i in range(weights.shape[2]):
        rows, inside_rows = _input_places(layer, 0, row, i, x.shape[2])
        for j in range(weights.shape[3]):
            columns, inside = _input_places(layer, 1, column, j, x.shape[3])
            met = x[image[:, None], channels, rows[:, None], columns[:, None]].long()
            taps.append(met * (inside & inside_rows)[:, None])
    return torch.stack(taps, 2).flatten(1), weights.flatten(1)


def _input_places(layer: Layer, axis: int, place: Tensor, tap: int, size: int) -> tuple[Tensor, Tensor]:
    """The input row or column that meets a tap, and whether there is one."""
    step, pad, reach = layer.stride[axis], layer.padding[axis], tap * layer.dilation[axis]
    if layer.transposed:
        moved = place + pad - reach
        found, met = moved.div(step, rounding_mode="floor"), moved % step == 0
    else:
        found = place * step - pad + reach
        met = torch.ones_like(found, dtype=torch.bool)
    return found.clamp(0, size - 1), met & (found >= 0) & (found < size)


def prefixes(windows: Tensor, weights: Tensor, bias: Tensor | None, unit: Unit, mode: Bias) -> Tensor:
    """(total, count): the value of every prefix of every sum."""
    planes = (digit_planes(windows, bits=unit.bits, signed=unit.signed) * weights).sum(-1)
    if bias is None or mode == "preloaded":
        return residual_recurrence(planes, unit, digits=unit.total, preloaded=bias)
    width = unit.bits + unit.weight_bits - 1
    rest = planes.new_zeros(width - unit.bits, planes.shape[1])
    late = digit_planes(bias, bits=width, signed=True) << (unit.weight_bits - 1)
    return residual_recurrence(torch.cat((planes, rest)) + late, unit, digits=unit.total)
