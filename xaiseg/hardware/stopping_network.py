"""A deployed network whose units stop early: its answer, and what each convolution saves in energy and in time.

A unit that stops saves energy at once. Time is saved only when all units of a lockstep group have stopped, so the two
are counted apart: the mean over units, and the slowest of each group. The units add all input channels at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.convolution import Ready
from xaiseg.hardware.cost_rows import NetworkCost
from xaiseg.hardware.costs import Cost, total
from xaiseg.hardware.deployed import STEPS, Deployed, limited
from xaiseg.hardware.designs import ZYNQ_7020, Accelerator
from xaiseg.hardware.graph import Node
from xaiseg.hardware.integer import half_up
from xaiseg.hardware.quantise import Quantised, walk
from xaiseg.hardware.termination import RULES, Policy, Stopped, closed_prefixes, known_sums, stop


@dataclass(frozen=True)
class LayerStops:
    """Where the sums of one convolution stopped, over all images.

    Attributes:
        path: the module.
        windows: output values.
        cycles_full: cycles of all of them with every digit, silent steps at the start included.
        cycles: the same where each stopped: what energy follows.
        lockstep_full: cycles of the groups with every digit.
        lockstep: the same until the slowest unit of each group stopped: what time follows.
        rules: output values by the rule that stopped them.
    """

    path: str
    windows: int
    cycles_full: int
    cycles: int
    lockstep_full: int
    lockstep: int
    rules: dict[str, int]

    @property
    def saved(self) -> float:
        """Share of the units' cycles that is saved, 0 to 1."""
        return 1 - self.cycles / self.cycles_full

    @property
    def saved_time(self) -> float:
        """Share of the groups' cycles that is saved, 0 to 1."""
        return 1 - self.lockstep / self.lockstep_full


def run_stopping(
    deployed: Deployed, arguments: tuple[Tensor, ...], policy: Policy, *, accelerator: Accelerator = ZYNQ_7020
) -> tuple[Tensor, tuple[LayerStops, ...]]:
    """The answer of a network whose units stop by a policy.

    Args:
        deployed: the network on units; a unit stops at its channel's digits at the latest.
        arguments: the network's arguments.
        policy: the rules. ``end`` is for convolutions that a rectifier follows, ``head`` for one whose single channel
            is the network's answer; of that answer only the sign remains.
        accelerator: its output channels and neighbouring pixels (row by row) at once are a lockstep group.

    Returns:
        the answer and one row for each convolution.

    Raises:
        UsageError: NaN or infinity where integers begin, or a weight that no digit has.
    """
    rows: list[LayerStops] = []

    def convolution(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
        held, ready = network.convolutions[node.name], deployed.ready[node.name]
        x = values[0][:, :, None, None] if held.linear else values[0]
        stopped = _stopped(node, network, x, ready, policy)
        last = ready.digits.view(-1, 1, 1).expand_as(stopped.digits)
        rows.append(_row(node.path, stopped, last, ready.unit.silent, accelerator))
        return rounded_values(stopped.values, node, network)

    with torch.inference_mode():
        answer = walk(deployed.network, arguments, {**STEPS, "convolution": convolution}, dtype=torch.float32)
    return answer, tuple(rows)


def rounded_values(sums: Tensor, node: Node, network: Quantised) -> Tensor:
    """What a convolution hands on: its sums in the output's format, halves up, within the rectifier.

    Args:
        sums: (B, outputs, H, W) int64.
        node: the convolution.
        network: its network.

    Returns:
        the same shape, or (B, outputs) of a linear layer; integers in floating point.
    """
    held = network.convolutions[node.name]
    found = sums if held.shifts is None else half_up(sums, held.shifts.view(-1, 1, 1))
    found = limited(found.double(), node, network)
    return found[:, :, 0, 0] if held.linear else found


def is_decision(node: Node, network: Quantised) -> bool:
    """Whether a convolution's sign is all that the network decides by."""
    alone = network.convolutions[node.name].layer.outputs == 1
    return alone and node.name == network.folded.graph.output and node.rectifier is None


def stopping_cost(costs: NetworkCost, stops: Sequence[LayerStops]) -> Cost:
    """One image on units that stop early, for the design ``mma``.

    Layers whose input channels come in rounds save nothing: no round but the last knows the sign of the sum.

    Args:
        costs: of the same network, from :func:`xaiseg.hardware.cost_rows.network_costs` with the design ``mma``.
        stops: from :func:`run_stopping` with the same accelerator; shares over its images are put on one.

    Raises:
        UsageError: rows of another network.
    """
    paths = [[layer.shape.path for layer in costs.layers], [row.path for row in stops]]
    if paths[0] != paths[1]:
        raise UsageError("the rows are those of another network", where="stops", got=paths[1], allowed=paths[0])
    at_once = costs.accelerator.inputs
    parts = []
    for layer, row in zip(costs.layers, stops, strict=True):
        cost = layer.costs["mma"]
        if at_once is None or at_once.value >= layer.shape.inputs:
            assert cost.cycles is not None  # the model knows both
            assert cost.seconds is not None
            time, energy = row.lockstep / row.lockstep_full, row.cycles / row.cycles_full
            joules = None if cost.joules is None else cost.joules * energy
            cost = replace(cost, cycles=cost.cycles * time, seconds=cost.seconds * time, joules=joules)
        parts.append(cost)
    note = "time: the slowest unit of each group; energy: as if a unit that stopped drew nothing, the most to be saved"
    return replace(whole := total(parts), notes=(*whole.notes, note))


def _stopped(node: Node, network: Quantised, x: Tensor, ready: Ready, policy: Policy) -> Stopped:
    held, unit = network.convolutions[node.name], ready.unit
    known = known_sums(x, held.layer, unit, bias=network.scheme.bias)
    return stop(
        closed_prefixes(known, unit),
        policy,
        total=unit.total,
        sums=known[-1],
        digits=ready.digits.view(-1, 1, 1),
        rectified=node.rectifier is not None,
        head=is_decision(node, network),
    )


def _row(path: str, stopped: Stopped, last: Tensor, silent: int, accelerator: Accelerator) -> LayerStops:
    counts = torch.bincount(stopped.rules.flatten(), minlength=len(RULES)).tolist()
    windows = last.numel()
    size = {"outputs": int(accelerator.outputs.value), "pixels": int(accelerator.pixels.value)}
    groups, slowest = (lockstep(digits, **size) for digits in (last, stopped.digits))
    return LayerStops(
        path,
        windows,
        cycles_full=int(last.sum()) + silent * windows,
        cycles=int(stopped.digits.sum()) + silent * windows,
        lockstep_full=int(groups.sum()) + silent * groups.numel(),
        lockstep=int(slowest.sum()) + silent * slowest.numel(),
        rules={rule: count for rule, count in zip(RULES, counts, strict=True) if count},
    )


def lockstep(digits: Tensor, *, outputs: int, pixels: int) -> Tensor:
    """The digits of the slowest unit of each lockstep group.

    Args:
        digits: (B, C, H, W) int64, 1 or more.
        outputs: channels of a group; the last group of an image may have fewer.
        pixels: neighbouring pixels of a group, row by row; likewise.

    Returns:
        (B, ceil(C / outputs), ceil(H W / pixels)) int64.

    >>> lockstep(torch.tensor([3, 1, 2, 2, 5]).view(1, 5, 1, 1), outputs=2, pixels=1).flatten().tolist()
    [3, 2, 5]
    """
    flat = digits.flatten(2)
    padded = F.pad(flat, (0, -flat.shape[2] % pixels, 0, -flat.shape[1] % outputs))
    count, channels, places = padded.shape
    return padded.view(count, channels // outputs, outputs, places // pixels, pixels).amax((2, 4))
