"""From a float network to digit-serial units, rung by rung, so that each cause of a difference has its own figure.

A  the network in floating point
B  batch normalisation folded
C  fake quantisation: values rounded to 8 bits at scales that may be any number, computed in floating point
D  integers with power-of-two scales: the golden model, in 64-bit integers
E  digit-serial units that emit every digit of their output's format: must be D, bit for bit
F  the same units with fewer digits, where a network has any

A to B is rounding of floats, B to C the loss of bits, C to D the price of powers of two. D to E must be nothing.
E to F is the price of the digits that are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from xaiseg.errors import XaisegError
from xaiseg.hardware.deployed import Deployed, deploy
from xaiseg.hardware.folding import Convolution, by_output, float_convolution, float_values, per_output
from xaiseg.hardware.formats import PASSING, Format, shared
from xaiseg.hardware.graph import Graph
from xaiseg.hardware.integer import run_integer
from xaiseg.hardware.quantise import Quantised
from xaiseg.hardware.unit import Arithmetic

RUNGS: Final[dict[str, str]] = {
    "A": "floating point",
    "B": "batch normalisation folded",
    "C": "fake quantisation, free scales",
    "D": "integers, power-of-two scales",
    "E": "digit-serial units, all digits of the output",
    "F": "digit-serial units, fewer digits",
}


class NotGoldenError(XaisegError):
    """The digit-serial network is not the golden model."""

    exit_code = 4


@dataclass(frozen=True)
class Rung:
    """One form of the network.

    Attributes:
        name: key of ``RUNGS``.
        answer: the network's answer.
        largest: largest difference to the rung above, in the answer's units; 0 for the first.
        flips: share of decisions that differ from the rung above, 0 to 1.
        flips_from_float: share of decisions that differ from rung A.
    """

    name: str
    answer: Tensor
    largest: float
    flips: float
    flips_from_float: float


def climb(
    network: nn.Module,
    integers: Quantised,
    arguments: tuple[Tensor, ...],
    *,
    arithmetic: Arithmetic = "twos_complement",
    full: Deployed | None = None,
    fewer: Deployed | None = None,
) -> tuple[Rung, ...]:
    """All rungs on the same images.

    Args:
        network: the network that was traced, in evaluation mode.
        integers: the same, quantised.
        arguments: the network's arguments.
        arithmetic: of the units; an exact one.
        full: rung E, the integers on units with all digits; None = deployed here with ``arithmetic``.
        fewer: rung F, the same with fewer digits; None = no such rung.

    Raises:
        NotGoldenError: rung E differs from rung D in any value of any node.
    """
    graph = integers.folded.graph
    golden: dict[str, Tensor] = {}
    with torch.inference_mode():
        answers = {
            "A": network(*arguments),
            "B": float_values(graph, arguments)[graph.output],
            "C": fake_quantised(integers, arguments),
            "D": run_integer(integers, *arguments, watch=lambda node, value: golden.update({node.name: value})),
        }
    units = full if full is not None else deploy(integers, arithmetic=arithmetic)
    answers["E"] = _golden_answer(units, arguments, golden, answers["D"])
    if fewer is not None:
        answers["F"] = fewer(*arguments)
    return tuple(
        Rung(
            name,
            answer,
            float((answer - answers[above]).abs().max()),
            flips(answer, answers[above]),
            flips(answer, answers["A"]),
        )
        for (name, answer), above in zip(answers.items(), "AABCDE", strict=False)
    )


def _golden_answer(
    units: Deployed, arguments: tuple[Tensor, ...], golden: dict[str, Tensor], expected: Tensor
) -> Tensor:
    """The answer of the digit-serial network, which must be the golden model in every integer of every node."""
    different: list[str] = []
    answer = units(
        *arguments,
        watch=lambda node, value: different.extend([] if torch.equal(golden[node.name], value.long()) else [node.path]),
    )
    if different or not torch.equal(expected, answer):
        raise NotGoldenError(
            "the digit-serial network differs from the golden model",
            where=different[0] if different else "the answer",
            got=f"{len(different)} nodes with other integers",
            allowed="equality, bit for bit",
        )
    return answer


def flips(first: Tensor, second: Tensor) -> float:
    """The share of pixels that two answers decide differently: by sign for one channel, else by the largest one.

    >>> flips(torch.tensor([[[[1.0, -1.0]]]]), torch.tensor([[[[2.0, 3.0]]]]))
    0.5
    """
    if first.shape[1] == 1:
        return float(((first > 0) != (second > 0)).double().mean())
    return float((first.argmax(1) != second.argmax(1)).double().mean())


def fake_quantised(integers: Quantised, arguments: tuple[Tensor, ...]) -> Tensor:
    """Rung C: the ranges of ``integers``, at scales that need not be powers of two, computed in floating point."""
    with torch.inference_mode():
        return float_values(fake_graph(integers), arguments)[integers.folded.graph.output]


def fake_graph(integers: Quantised) -> Graph:
    """The network of rung C as a graph whose nodes round what they compute."""
    graph, scheme = integers.folded.graph, integers.scheme
    steps = free_steps(integers)

    def rounded(call: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
        return lambda *values: freely_rounded(call(*values), integers.formats[name], steps[name])

    nodes = []
    for node in graph.nodes:
        call = node.call
        if node.kind == "convolution":
            convolution = integers.folded.convolutions[node.name]
            call = float_convolution(_fake_weights(convolution, scheme.weight_bits, scheme.per_channel))
            if node.rectifier is not None:
                call = _rectified(call, node.rectifier.ceiling)
        if node.name in steps and node.kind not in PASSING:
            call = rounded(call, node.name)
        nodes.append(replace(node, call=call))
    return replace(graph, nodes=tuple(nodes))


def free_steps(integers: Quantised) -> dict[str, float]:
    """What one integer of each node is worth in rung C, by node name."""
    group = shared(integers.folded.graph)
    return {name: integers.ranges[of].largest / integers.formats[name].high for name, of in group.items()}


def freely_rounded(x: Tensor, form: Format, step: float) -> Tensor:
    """Values at a scale of any size: halves rounded up, kept within the integers of ``form``.

    >>> freely_rounded(torch.tensor([0.2, 9.0]), Format(0, signed=True, bits=4), 0.3).tolist()
    [0.30000001192092896, 2.1000001430511475]
    """
    return torch.floor(x / step + 0.5).clamp(form.low, form.high) * step


def _rectified(call: Callable[[Tensor], Tensor], ceiling: float) -> Callable[[Tensor], Tensor]:
    return lambda x: call(x).clamp(0, ceiling)


def _fake_weights(convolution: Convolution, bits: int, per_channel: bool) -> Convolution:
    """Weights rounded to multiples of the largest magnitude of their channel, or of all, over the largest integer."""
    magnitudes = by_output(convolution).abs().flatten(1).amax(1)
    magnitudes = magnitudes if per_channel else magnitudes.max().expand_as(magnitudes)
    step = per_output(convolution.geometry, magnitudes.clamp(min=2.0**-40) / (2 ** (bits - 1) - 1))
    return replace(convolution, weight=torch.floor(convolution.weight / step + 0.5) * step)
