"""Integers that stand for real values: q / 2^exponent. Which values of a graph must share one exponent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.graph import Graph, Node

#: Kinds whose output keeps the format of what they read.
PASSING: Final = frozenset({"relu", "max_pool", "average_pool", "nearest", "bilinear", "concat", "flatten"})


@dataclass(frozen=True)
class Format:
    """A power-of-two scale without zero point.

    Attributes:
        exponent: an integer q stands for q / 2^exponent.
        signed: two's complement; otherwise natural numbers.
        bits: width.

    >>> Format(7, signed=False, bits=8).high, Format(7, signed=True, bits=8).low
    (255, -128)
    """

    exponent: int
    signed: bool
    bits: int

    @property
    def low(self) -> int:
        """The least integer."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest integer."""
        return int(2 ** (self.bits - 1 if self.signed else self.bits)) - 1


def quantised(x: Tensor, form: Format, *, where: str) -> Tensor:
    """Real values as integers: halves rounded up, kept in range.

    Args:
        x: any shape, floating point.
        form: the format.
        where: the module path that an error names.

    Returns:
        float64, the same shape.

    Raises:
        UsageError: NaN or infinity.

    >>> quantised(torch.tensor([0.25, -0.25, 9.0]), Format(1, True, 4), where="x").tolist()
    [1.0, 0.0, 7.0]
    """
    if not bool(torch.isfinite(x).all()):
        raise UsageError("activations hold NaN or infinity", where=where, allowed="finite numbers")
    return torch.floor(x.double() * 2.0**form.exponent + 0.5).clamp_(form.low, form.high)


def shared(graph: Graph) -> dict[str, str]:
    """The group of every integer value; values of one group share a format.

    Joined are the two ends of every node in ``PASSING``, so all parts of a concatenation. A convolution that only
    floating-point nodes read, as a head, keeps all digits of its sums and is in no group.

    >>> from xaiseg.hardware.graph import trace
    >>> from torch import nn
    >>> shared(trace(nn.Sequential(nn.Conv2d(1, 1, 1), nn.MaxPool2d(2), nn.Conv2d(1, 1, 1)).eval()))
    {'input_1.quantised': 'input_1.quantised', '_0': '_0', '_1': '_0'}
    """
    group: dict[str, str] = {}
    for node in graph.nodes:
        if node.kind in ("input", "outside") or keeps_all_digits(graph, node):
            continue
        group[node.name] = node.name
        if node.kind in PASSING:
            first, *others = (group[name] for name in (*node.inputs, node.name))
            group = {name: first if value in others else value for name, value in group.items()}
    return group


def keeps_all_digits(graph: Graph, node: Node) -> bool:
    """Whether a convolution's sums leave the integers unrounded."""
    return node.kind == "convolution" and all(other.kind == "outside" for other in graph.readers(node.name))
