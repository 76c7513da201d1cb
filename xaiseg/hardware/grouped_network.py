"""A quantised network on the two-stage units of arXiv:2610.11748, with their rules of early termination.

The paper does not say which product lies in which lane, and digits depend on it. Here lanes are filled channel by
channel, within a channel tap by tap, and the products of the bias follow. Sums and masks do not depend on that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.convolution import plane_sums
from xaiseg.hardware.cost_rows import Shape
from xaiseg.hardware.costs import Cost, total
from xaiseg.hardware.deployed import STEPS
from xaiseg.hardware.exact import Layer
from xaiseg.hardware.graph import Node
from xaiseg.hardware.grouped import DELAY, GroupedUnit, folded_bias, grouped_cost, grouped_digits, grouped_unit
from xaiseg.hardware.quantise import Quantised, walk
from xaiseg.hardware.recurrence import digit_planes
from xaiseg.hardware.stopping_network import is_decision, rounded_values
from xaiseg.hardware.termination import RULES, Policy, Stopped, digit_prefixes, stop
from xaiseg.hardware.unit import Unit


@dataclass(frozen=True)
class GroupedStops:
    """Where the sums of one convolution stopped on one two-stage unit, over all images.

    Attributes:
        path: the module.
        unit: groups and lanes in use.
        windows: output values.
        cycles: of all of them, delays included; one unit has no lockstep, so energy and time both follow them.
        rules: output values by the rule that stopped them.
    """

    path: str
    unit: GroupedUnit
    windows: int
    cycles: int
    rules: dict[str, int]

    @property
    def saved(self) -> float:
        """Share of the cycles that is saved, 0 to 1."""
        return 1 - self.cycles / (self.windows * self.unit.cycles)


def run_grouped(
    network: Quantised, arguments: tuple[Tensor, ...], policy: Policy, *, lanes: int = 64
) -> tuple[Tensor, tuple[GroupedStops, ...]]:
    """The answer of a network on two-stage units that stop by a policy.

    Every sum emits all its digits unless a rule stops it, and is rounded to the output's format afterwards.

    Args:
        network: from :func:`xaiseg.hardware.quantise.quantise`, 8 bits.
        arguments: the network's arguments.
        policy: the rules; see :func:`xaiseg.hardware.stopping_network.run_stopping`.
        lanes: products of a group.

    Returns:
        the answer and one row for each convolution.

    Raises:
        UsageError: other widths than 8 bits, a convolution that does not fit the unit, with its path.
    """
    widths = (network.scheme.bits, network.scheme.weight_bits)
    if widths != (8, 8):
        raise UsageError("the unit has other widths", where="network.scheme", got=widths, allowed="8 and 8 bits")
    rows: list[GroupedStops] = []

    def convolution(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
        linear = network.convolutions[node.name].linear
        stopped, unit = _stopped(node, network, values[0][:, :, None, None] if linear else values[0], policy, lanes)
        counts = Counter(RULES[code] for code in stopped.rules.flatten().tolist())
        windows = stopped.digits.numel()
        cycles = int(stopped.digits.sum()) + int(DELAY.value) * windows
        rows.append(GroupedStops(node.path, unit, windows, cycles, dict(counts)))
        return rounded_values(stopped.values, node, network)

    with torch.inference_mode():
        answer = walk(network, arguments, {**STEPS, "convolution": convolution}, dtype=torch.float32)
    return answer, tuple(rows)


def grouped_stopping_cost(shapes: Sequence[Shape], stops: Sequence[GroupedStops], *, workload: str) -> Cost:
    """One image on one two-stage unit that stops early.

    Args:
        shapes: from :func:`xaiseg.hardware.cost_rows.graph_shapes`, of one image.
        stops: from :func:`run_grouped` of the same network; means over its images are put on one.
        workload: for the row.

    Raises:
        UsageError: rows of another network.
    """
    paths = [[shape.path for shape in shapes], [row.path for row in stops]]
    if paths[0] != paths[1]:
        raise UsageError("the rows are those of another network", where="stops", got=paths[1], allowed=paths[0])
    return total(
        [
            grouped_cost(shape, row.unit, workload=workload, mean_cycles=row.cycles / row.windows)
            for shape, row in zip(shapes, stops, strict=True)
        ]
    )


def group_planes(x: Tensor, layer: Layer, unit: GroupedUnit, *, signed: bool) -> Tensor:
    """The digits of the inputs, weighted and added in each group of lanes.

    Args:
        x: (B, C, H, W) tensor that holds integers.
        layer: integer weights and bias.
        unit: whose groups hold all products of a window and of the bias.
        signed: whether inputs are two's complement.

    Returns:
        (bits, groups, B, outputs, H', W') int64, as :func:`xaiseg.hardware.grouped.grouped_digits` reads them.

    >>> layer = Layer(torch.tensor([[[[3]], [[-2]]]]))
    >>> x = torch.tensor([1, 1]).view(1, 2, 1, 1)
    >>> group_planes(x, layer, GroupedUnit(1, bits=2), signed=False).flatten().tolist()
    [0, 1]
    """
    group = _lanes(layer).div(unit.lanes, rounding_mode="floor")
    mine = torch.stack([group == number for number in range(unit.groups)])
    weight = (layer.by_output()[:, None] * mine).flatten(0, 1)  # (outputs * groups, inputs, kh, kw)
    if layer.transposed:
        weight = weight.reshape(layer.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    bare = Unit(layer.terms, "merged", unit.bits, unit.weight_bits, signed)
    sums = plane_sums(x, replace(layer, weight=weight, bias=None), bare)
    count, size = sums.shape[1], sums.shape[3:]
    planes = sums.view(unit.bits, count, layer.outputs, unit.groups, *size).movedim(3, 1)
    if layer.bias is not None:
        planes = planes + _bias_planes(layer, unit)[:, :, None, :, None, None]
    return planes


def _stopped(node: Node, network: Quantised, x: Tensor, policy: Policy, lanes: int) -> tuple[Stopped, GroupedUnit]:
    held = network.convolutions[node.name]
    products = [] if held.layer.bias is None else [len(folded_bias(bias)) for bias in held.layer.bias.tolist()]
    try:
        unit = grouped_unit(held.layer.terms, bias_terms=max(products, default=0), lanes=lanes)
    except UsageError as error:
        raise UsageError("the unit cannot compute this convolution", where=node.path, got=error) from error
    planes = group_planes(x, held.layer, unit, signed=held.source.signed)
    places = torch.arange(unit.bits - 1, -1, -1, device=x.device).view(-1, *[1] * (planes.ndim - 2))
    stopped = stop(
        digit_prefixes(grouped_digits(planes, unit)),
        policy,
        total=unit.digits,
        sums=(planes.sum(1) << places).sum(0),
        digits=unit.digits,
        rectified=node.rectifier is not None,
        head=is_decision(node, network),
    )
    return stopped, unit


def _lanes(layer: Layer) -> Tensor:
    """(inputs, kh, kw) int64: the lane of each weight. Taps of a transposed kernel that never meet share one."""
    places, counts = [], []
    for axis in (0, 1):
        size = layer.weight.shape[2 + axis]
        step = layer.stride[axis] if layer.transposed else 1
        ways = [tap * layer.dilation[axis] % step for tap in range(size)]
        places.append(torch.tensor([ways[:tap].count(way) for tap, way in enumerate(ways)]))
        counts.append(int(places[-1].max()) + 1)
    taps = places[0][:, None] * counts[1] + places[1]
    channels = torch.arange(layer.inputs) * (counts[0] * counts[1])
    return (channels[:, None, None] + taps).to(layer.weight.device)


def _bias_planes(layer: Layer, unit: GroupedUnit) -> Tensor:
    """(bits, groups, outputs): the digits of the products of each bias, in the lanes behind those of the window."""
    assert layer.bias is not None  # asked for only where there is one
    planes = torch.zeros(unit.bits, unit.groups, layer.outputs, dtype=torch.int64)
    for output, bias in enumerate(layer.bias.tolist()):
        for place, (beta, gamma) in enumerate(folded_bias(int(bias)), start=layer.terms):
            planes[:, place // unit.lanes, output] += beta * digit_planes(torch.tensor(gamma), bits=unit.bits)
    return planes.to(layer.weight.device)
