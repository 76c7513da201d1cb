"""From a float network to digit-serial units, rung by rung, so that each cause of a difference has its own figure.

A  the network in floating point
B  batch normalisation folded
C  fake quantisation: values rounded to 8 bits at scales that may be any number, computed in floating point
D  integers with power-of-two scales: the golden model, in 64-bit integers
E  digit-serial units that emit every digit of their output's format: must be D, bit for bit

A to B is rounding of floats, B to C the loss of bits, C to D the price of powers of two. D to E must be nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn

from xaiseg.errors import XaisegError
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.folding import Convolution, by_output, float_convolution, float_values, per_output
from xaiseg.hardware.formats import PASSING, shared
from xaiseg.hardware.integer import run_integer
from xaiseg.hardware.quantise import Quantised
from xaiseg.hardware.unit import Arithmetic

RUNGS: Final[dict[str, str]] = {
    "A": "floating point",
    "B": "batch normalisation folded",
    "C": "fake quantisation, free scales",
    "D": "integers, power-of-two scales",
    "E": "digit-serial units, all digits of the output",
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
) -> tuple[Rung, ...]:
    """All rungs on the same images.

    Args:
        network: the network that was traced, in evaluation mode.
        integers: the same, quantised.
        arguments: the network's arguments.
        arithmetic: of the units; an exact one.

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
    different: list[str] = []
    paths = {node.name: node.path for node in graph.nodes}
    answers["E"] = deploy(integers, arithmetic=arithmetic)(
        *arguments,
        watch=lambda node, value: different.extend([] if torch.equal(golden[node.name], value.long()) else [node.name]),
    )
    if different or not torch.equal(answers["D"], answers["E"]):
        raise NotGoldenError(
            "the digit-serial network differs from the golden model",
            where=paths[different[0]] if different else "the answer",
            got=f"{len(different)} nodes with other integers",
            allowed="equality, bit for bit",
        )
    return tuple(
        Rung(
            name,
            answer,
            float((answer - answers[above]).abs().max()),
            flips(answer, answers[above]),
            flips(answer, answers["A"]),
        )
        for (name, answer), above in zip(answers.items(), "AABCD", strict=True)
    )


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
    graph, scheme = integers.folded.graph, integers.scheme
    group = shared(graph)

    def rounded(call: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
        held = integers.ranges[group[name]]
        form = replace(integers.formats[name], exponent=0)
        step = held.largest / form.high
        return lambda *values: torch.floor(call(*values) / step + 0.5).clamp(form.low, form.high) * step

    nodes = []
    for node in graph.nodes:
        call = node.call
        if node.kind == "convolution":
            convolution = integers.folded.convolutions[node.name]
            call = float_convolution(_fake_weights(convolution, scheme.weight_bits, scheme.per_channel))
            if node.rectifier is not None:
                call = _rectified(call, node.rectifier.ceiling)
        if node.name in group and node.kind not in PASSING:
            call = rounded(call, node.name)
        nodes.append(replace(node, call=call))
    with torch.inference_mode():
        return float_values(replace(graph, nodes=tuple(nodes)), arguments)[graph.output]


def _rectified(call: Callable[[Tensor], Tensor], ceiling: float) -> Callable[[Tensor], Tensor]:
    return lambda x: call(x).clamp(0, ceiling)


def _fake_weights(convolution: Convolution, bits: int, per_channel: bool) -> Convolution:
    """Weights rounded to multiples of the largest magnitude of their channel, or of all, over the largest integer."""
    magnitudes = by_output(convolution).abs().flatten(1).amax(1)
    magnitudes = magnitudes if per_channel else magnitudes.max().expand_as(magnitudes)
    step = per_output(convolution.geometry, magnitudes.clamp(min=2.0**-40) / (2 ** (bits - 1) - 1))
    return replace(convolution, weight=torch.floor(convolution.weight / step + 0.5) * step)
