"""What every layer of a network in integers loses: all that came before it included, and by itself.

The accumulated error of a value is its difference to the float network's. The local error is what the layer makes of
the float network's own input, rounded to the input's format: it belongs to this layer alone, and tells a layer that
destroys from one that only passes on what others destroyed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xaiseg.hardware.deployed import Deployed
from xaiseg.hardware.folding import float_values
from xaiseg.hardware.formats import quantised
from xaiseg.hardware.graph import Graph, Node
from xaiseg.hardware.integer import STEPS, run_integer
from xaiseg.hardware.ladder import fake_graph, free_steps, freely_rounded
from xaiseg.hardware.quantise import Quantised, Step, real_values

See = Callable[[Node, Tensor], None]


@dataclass(frozen=True)
class Form:
    """One form of a network, whose values can be looked at.

    Attributes:
        integers: the network.
        run: (arguments, see): runs the whole network; ``see`` gets every integer node and what it stands for.
        alone: (node, its inputs in floating point): the inputs rounded to their formats, then this node alone.
        ends: the least and the largest number that each rounded node can hold, by node name.
        free: whether scales may be any number.
        deployed: its units, or None.
    """

    integers: Quantised
    run: Callable[[tuple[Tensor, ...], See], None]
    alone: Callable[[Node, tuple[Tensor, ...]], Tensor]
    ends: Mapping[str, tuple[float, float]]
    free: bool = False
    deployed: Deployed | None = None


@dataclass(frozen=True)
class LayerErrors:
    """A layer on one batch.

    Attributes:
        layer: its name, see :func:`layer_names`.
        signal: sum of the squares of the float network's values.
        noise: sum of the squares of the accumulated errors.
        local: sum of the squares of the local errors.
        values: how many values that is.
        saturated: values at an end of the format while the float value lies beyond it.
        alive: for each channel 0; 1 = only the float network has values other than zero; 2 = only the integers; 3 =
            both.
    """

    layer: str
    signal: float
    noise: float
    local: float
    values: int
    saturated: int
    alive: tuple[int, ...]


@dataclass(frozen=True)
class LayerFacts:
    """What is fixed about a layer.

    Attributes:
        layer: its name.
        place: order in which layers are computed, from 0.
        operator: in the user's words, "Conv2d".
        exponent: an integer q stands for q / 2^exponent; of a convolution that keeps all digits the smallest of its
            channels; None at scales of any size.
        digits: fewest and most digits that its channels emit, or None without units.
        total: digits of the exact sum, or None.
        fewer: digits that are left out.
        chunks: float32 convolutions that its sum takes; 1 = exact in one piece; None without units.
        bound: largest magnitude of a partial sum; up to 2^24 float32 is exact.
    """

    layer: str
    place: int
    operator: str
    exponent: int | None
    digits: tuple[int, int] | None = None
    total: int | None = None
    fewer: int = 0
    chunks: int | None = None
    bound: int | None = None


def digit_form(deployed: Deployed) -> Form:
    """The form on digit-serial units."""
    network = deployed.network

    def run(arguments: tuple[Tensor, ...], see: See) -> None:
        deployed(*arguments, watch=lambda node, value: see(node, real_values(node.name, value, network)))

    return Form(network, run, _alone(network, deployed.steps(), torch.float32), _ends(network), deployed=deployed)


def golden_form(integers: Quantised) -> Form:
    """The golden model, in 64-bit integers."""

    def run(arguments: tuple[Tensor, ...], see: See) -> None:
        run_integer(integers, *arguments, watch=lambda node, value: see(node, real_values(node.name, value, integers)))

    return Form(integers, run, _alone(integers, STEPS, torch.int64), _ends(integers))


def fake_form(integers: Quantised) -> Form:
    """Fake quantisation at scales of any size."""
    graph, steps = fake_graph(integers), free_steps(integers)
    nodes = {node.name: node for node in graph.nodes}

    def run(arguments: tuple[Tensor, ...], see: See) -> None:
        values = float_values(graph, arguments)
        for node in graph.nodes:
            if node.kind not in ("input", "outside"):
                see(node, values[node.name])

    def alone(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
        rounded = (
            freely_rounded(x, integers.formats[name], steps[name]) if name in steps else x
            for name, x in zip(node.inputs, inputs, strict=True)
        )
        return nodes[node.name].call(*rounded)

    ends = {
        name: (integers.formats[name].low * step, integers.formats[name].high * step) for name, step in steps.items()
    }
    return Form(integers, run, alone, ends, free=True)


def _alone(network: Quantised, steps: Mapping[str, Step], dtype: torch.dtype) -> Callable[..., Tensor]:
    def alone(node: Node, inputs: tuple[Tensor, ...]) -> Tensor:
        if node.kind == "quantise":
            value = quantised(inputs[0], network.formats[node.name], where=node.path)
        else:
            rounded = (
                quantised(x, network.formats[name], where=node.path).to(dtype)
                for name, x in zip(node.inputs, inputs, strict=True)
            )
            value = steps[node.kind](node, network, tuple(rounded))
        return real_values(node.name, value, network)

    return alone


def _ends(network: Quantised) -> dict[str, tuple[float, float]]:
    return {
        name: (form.low * 2.0**-form.exponent, form.high * 2.0**-form.exponent)
        for name, form in network.formats.items()
    }


def layer_errors(form: Form, arguments: tuple[Tensor, ...]) -> tuple[LayerErrors, ...]:
    """The errors of every layer that holds integers, in the order of computation.

    Args:
        form: of the network.
        arguments: of the network: a batch.

    Raises:
        UsageError: NaN or infinity where integers begin.
    """
    graph = form.integers.folded.graph
    found: list[LayerErrors] = []
    names = layer_names(graph)
    with torch.inference_mode():
        exact = float_values(graph, arguments)

        def see(node: Node, value: Tensor) -> None:
            alone = form.alone(node, tuple(exact[name] for name in node.inputs))
            found.append(_errors(names[node.name], exact[node.name], value, alone, form.ends.get(node.name)))

        form.run(arguments, see)
    return tuple(found)


def _errors(layer: str, exact: Tensor, found: Tensor, alone: Tensor, ends: tuple[float, float] | None) -> LayerErrors:
    saturated = 0
    if ends is not None:
        # A free scale's end is a float32 product: it may lie one rounding below its float64 value.
        low, high = (torch.tensor(end, dtype=torch.float32, device=exact.device) for end in ends)
        beyond = (exact > high) & (found >= high) | (exact < low) & (found <= low)
        saturated = int(beyond.sum())
    live = [(x != 0).transpose(0, 1).flatten(1).any(1).long() for x in (exact, found)]
    return LayerErrors(
        layer,
        _power(exact),
        _power(found - exact),
        _power(alone - exact),
        exact.numel(),
        saturated,
        tuple((live[0] + 2 * live[1]).tolist()),
    )


def _power(x: Tensor) -> float:
    return float(x.double().square().sum())


def layer_facts(form: Form) -> tuple[LayerFacts, ...]:
    """What is fixed about every layer that holds integers, in the order of computation."""
    integers, graph = form.integers, form.integers.folded.graph
    names = layer_names(graph)
    found: list[LayerFacts] = []
    for node in graph.nodes:
        if node.name not in names:
            continue
        exponent = None if form.free else _exponent(integers, node.name)
        facts = LayerFacts(names[node.name], len(found), node.operator, exponent)
        if form.deployed is not None and node.name in form.deployed.ready:
            ready, fewer = form.deployed.ready[node.name], form.deployed.fewer[node.name]
            facts = replace(
                facts,
                digits=(int(ready.digits.min()), int(ready.digits.max())),
                total=ready.unit.total,
                fewer=fewer,
                chunks=len(ready.exact.chunks),
                bound=ready.exact.bound,
            )
        found.append(facts)
    return tuple(found)


def _exponent(integers: Quantised, name: str) -> int:
    if name in integers.formats:
        return integers.formats[name].exponent
    return int(integers.convolutions[name].exponents.min())


def layer_names(graph: Graph) -> dict[str, str]:
    """A unique name of every node that holds integers, by node name.

    A module that is called once has its path, as model.yaml names it; everything else its place in the computation and
    the path of the code that it stands in.
    """
    kept = [node for node in graph.nodes if node.kind not in ("input", "outside")]
    calls = Counter(node.path for node in kept if node.module is not None)
    return {
        node.name: node.path
        if node.module is not None and calls[node.path] == 1
        else f"{node.name} in {node.path}"
        if node.path and node.kind != "quantise"
        else node.name
        for node in kept
    }


def decibels(signal: float, noise: float) -> float:
    """Ratio of two powers in dB; NaN without signal or without noise.

    >>> decibels(100.0, 1.0), decibels(1.0, 0.0)
    (20.0, nan)
    """
    return 10.0 * math.log10(signal / noise) if signal > 0 and noise > 0 else math.nan
