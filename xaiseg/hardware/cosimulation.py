"""Windows of a deployed network through the unit in Verilog: the last rung of the ladder.

A whole network is out of a clock-by-clock simulator's reach, so a few output values of every convolution are drawn,
and not at random alone: the values at which roundings, limits and stops could go wrong have strata of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.convolution import Ready, leading_sums
from xaiseg.hardware.deployed import Deployed, limited
from xaiseg.hardware.graph import Node
from xaiseg.hardware.quantise import IntegerConvolution
from xaiseg.hardware.rtl import VERILOG, Signals, simulate
from xaiseg.hardware.sampled import operands, prefixes
from xaiseg.hardware.unit import Unit
from xaiseg.seeds import generator

#: Kinds of windows, with what they are by the exact sum behind the output value.
STRATA: Final[dict[str, str]] = {
    "random": "any, drawn with replacement",
    "saturated": "the rounded sum lies beyond what the output's format or ceiling holds",
    "tie": "the sum lies half way between two output values",
    "near_zero": "the smallest magnitudes that are not 0",
    "largest": "the largest magnitudes",
}


@dataclass(frozen=True)
class Cosimulated:
    """Windows of one convolution in Verilog, against the recurrence and the network.

    Attributes:
        path: the module.
        unit: the arithmetic.
        strata: windows of each kind; a kind that a layer does not have counts 0.
        digits: digits compared with the recurrence.
        digits_differ: how many of them are others.
        values_differ: windows whose digits do not give the network's integer.
        clocks: simulated, all windows together.
        clocks_differ: windows with another start-up, number of digits or number of clocks than silent + digits.
        ended: windows whose running value turns negative, by the recurrence.
        ended_differ: windows in which END rose in another clock, or where only one of the two ends.
        seconds: taken by compilation and simulation.
    """

    path: str
    unit: Unit
    strata: dict[str, int]
    digits: int
    digits_differ: int
    values_differ: int
    clocks: int
    clocks_differ: int
    ended: int
    ended_differ: int
    seconds: float

    @property
    def equal(self) -> bool:
        """Whether no digit, value, clock or END differs."""
        return not (self.digits_differ or self.values_differ or self.clocks_differ or self.ended_differ)


@dataclass(frozen=True)
class _Layer:
    """One convolution with what it read and gave; values of a linear layer have places (0, 0)."""

    node: Node
    held: IntegerConvolution
    ready: Ready
    x: Tensor
    found: Tensor


def cosimulate(
    deployed: Deployed,
    arguments: tuple[Tensor, ...],
    *,
    windows: int = 40,
    seed: int = 0,
    verilog: Path = VERILOG,
    timeout_s: float = 300,
) -> tuple[Cosimulated, ...]:
    """Compares output values of every convolution, digit by digit and clock by clock, with the unit in Verilog.

    Args:
        deployed: from :func:`xaiseg.hardware.deployed.deploy`.
        arguments: the network's arguments.
        windows: output values a convolution. Each of the ``STRATA`` gets a fifth as far as the layer has such values,
            ``random`` what is left.
        seed: of the draw.
        verilog: see :func:`xaiseg.hardware.rtl.simulate`.
        timeout_s: for each compilation and each simulation, seconds.

    Raises:
        UsageError: Icarus Verilog is not installed, or no windows.
        SimulationError: see :func:`xaiseg.hardware.rtl.simulate`.
    """
    if windows < 1:
        raise UsageError("there is nothing to compare", where="windows", got=windows, allowed="1 or more")
    network, values = deployed.network, dict[str, Tensor]()
    deployed(*arguments, watch=lambda node, value: values.update({node.name: value}))
    results = []
    for node in network.folded.graph.nodes:
        if node.name not in network.convolutions:
            continue
        held = network.convolutions[node.name]
        x, found = (
            value[:, :, None, None] if held.linear else value for value in (values[node.inputs[0]], values[node.name])
        )
        layer = _Layer(node, held, deployed.ready[node.name], x, found)
        places, strata = _drawn(layer, deployed, windows, generator(seed, "hardware.cosimulation", node.name))
        results.append(_compared(layer, deployed, places, strata, verilog, timeout_s))
    return tuple(results)


def _drawn(
    layer: _Layer, deployed: Deployed, windows: int, random: np.random.Generator
) -> tuple[Tensor, dict[str, int]]:
    """(4, windows) places of output values: image, channel, row, column; and how many of each stratum."""
    share = windows // len(STRATA)
    chosen = {
        name: torch.as_tensor(random.choice(values, size=min(share, len(values)), replace=False))
        for name, values in _candidates(layer, deployed, share).items()
    }
    left = windows - sum(len(places) for places in chosen.values())
    chosen = {"random": torch.as_tensor(random.integers(layer.found.numel(), size=left)), **chosen}
    flat = torch.cat([chosen[name] for name in STRATA]).long()
    places = torch.stack(torch.unravel_index(flat.to(layer.x.device), layer.found.shape))
    return places, {name: len(chosen[name]) for name in STRATA}


def _candidates(layer: _Layer, deployed: Deployed, share: int) -> dict[str, np.ndarray]:
    """Flat indices of the output values of each stratum but the random one."""
    unit, node, network = layer.ready.unit, layer.node, deployed.network
    sums = leading_sums(layer.x, layer.held.layer, unit, digits=unit.total, bias=network.scheme.bias)
    shifts = (unit.total - layer.ready.digits).view(-1, 1, 1)
    half = (1 << shifts) >> 1
    free = ((sums + half >> shifts) << deployed.fewer[node.name]).double()
    held = limited(free, node, network).double()
    rectified = node.rectifier is not None
    sizes = sums.abs().flatten()
    rising = sizes.argsort(stable=True)
    found = {
        # Behind a rectifier, what rises to 0 is no limit.
        "saturated": ((free > held) | ((free < held) & (not rectified))).flatten().nonzero()[:, 0],
        "tie": ((sums & (1 << shifts) - 1 == half) & (shifts > 0)).flatten().nonzero()[:, 0],
        "near_zero": rising[sizes[rising] > 0][:share],
        "largest": rising.flip(0)[:share],
    }
    return {name: indices.cpu().numpy() for name, indices in found.items()}


def _compared(
    layer: _Layer, deployed: Deployed, places: Tensor, strata: dict[str, int], verilog: Path, timeout_s: float
) -> Cosimulated:
    node, unit, network = layer.node, layer.ready.unit, deployed.network
    inputs, weights = _met(*operands(layer.x, layer.held.layer, places), layer.held.layer.terms)
    channels, biases = places[1], layer.held.layer.bias
    bias = None if biases is None else biases[channels]
    counts = layer.ready.digits[channels]
    serial = bias if network.scheme.bias == "serial" else None
    preloaded = bias if network.scheme.bias == "preloaded" else None
    signals = simulate(
        inputs, weights, unit, digits=counts, preloaded=preloaded, serial=serial, verilog=verilog, timeout_s=timeout_s
    )
    rows = prefixes(inputs, weights, bias, unit, network.scheme.bias).T.cpu()
    digits_differ, ended, ended_differ = _against(signals, rows, counts.cpu(), unit)
    whole = _value(signals) << deployed.fewer[node.name]
    answer = limited(whole.view(-1, 1).double().to(channels.device), node, network, channels=channels)[:, 0].double()
    late = (signals.silent != unit.silent) | (signals.emitted != counts.cpu())
    return Cosimulated(
        path=node.path,
        unit=unit,
        strata=strata,
        digits=int(counts.sum()),
        digits_differ=digits_differ,
        values_differ=int((answer != layer.found[tuple(places)].double()).sum()),
        clocks=int(signals.clocks.sum()),
        clocks_differ=int((late | (signals.clocks != unit.silent + counts.cpu())).sum()),
        ended=ended,
        ended_differ=ended_differ,
        seconds=signals.seconds,
    )


def _met(inputs: Tensor, weights: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """(count, terms) operands: of a transposed layer's taps only some meet an input, the others came as zeros."""
    order = (inputs == 0).int().argsort(dim=1, stable=True)[:, :terms]
    return (inputs.gather(1, order), weights.gather(1, order)) if inputs.shape[1] > terms else (inputs, weights)


def _against(signals: Signals, rows: Tensor, counts: Tensor, unit: Unit) -> tuple[int, int, int]:
    """Digits that differ from those of prefix values (count, total), windows that end, and ends that differ."""
    due = torch.arange(rows.shape[1]) < counts[:, None]
    expected = torch.diff(rows, dim=1, prepend=torch.zeros_like(rows[:, :1]))
    expected[:, 1:] -= rows[:, :-1]  # z_m = Z_m - 2 Z_(m-1)
    got = torch.zeros_like(expected)
    width = min(got.shape[1], signals.digits.shape[1])
    got[:, :width] = signals.digits[:, :width]
    negative = (rows < 0) & due
    clock = torch.where(negative.any(1), negative.int().argmax(1) + 1 + unit.silent, 0)
    return int(((got != expected) & due).sum()), int((clock > 0).sum()), int((clock != signals.ended).sum())


def _value(signals: Signals) -> Tensor:
    """(count,) the integers that the digits stand for."""
    value = torch.zeros_like(signals.emitted)
    for place, digit in enumerate(signals.digits.unbind(1)):
        value = torch.where(place < signals.emitted, 2 * value + digit, value)
    return value
