"""Which operators of a traced network have an integer form, and with what numbers.

Each has one entry in ``OPERATORS``: a function of the arguments by name that answers an :class:`Operation`, or says in
one clause why these arguments are not modelled.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import nn

Kind = Literal[
    "input",
    "outside",
    "quantise",
    "convolution",
    "norm",
    "relu",
    "max_pool",
    "average_pool",
    "nearest",
    "bilinear",
    "concat",
    "add",
    "flatten",
    "identity",
]
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Operation:
    """An operator and its numbers.

    Attributes:
        kind: what is computed.
        kernel: rows and columns of a pooling window.
        stride: of a pooling window.
        padding: of a maximum; averages have none.
        factor: by which a step up multiplies the sides.
        ceiling: largest value that a rectifier lets pass.
    """

    kind: Kind
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    factor: int = 1
    ceiling: float = math.inf


#: Positional arguments of functions and methods whose signature Python cannot read.
POSITIONAL: Final[dict[object, tuple[str, ...]]] = {
    **dict.fromkeys((torch.cat, torch.concat), ("tensors", "dim")),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), ("input", "other")),
    **dict.fromkeys((torch.flatten, "flatten"), ("input", "start_dim", "end_dim")),
    **dict.fromkeys((torch.relu, "relu", "relu_", "contiguous"), ("input",)),
}

Reader = Callable[[Arguments], "Operation | str"]
OPERATORS: Final[dict[object, Reader]] = {}

#: Operators that run in floating point beside the integer part without being asked for: gates.
GATES: Final[frozenset[object]] = frozenset(
    {nn.Sigmoid, torch.sigmoid, F.sigmoid, "sigmoid", torch.mul, operator.mul, operator.imul, "mul"}
)
_BY_IMAGE: Final = "its mean and deviation come from each image, so it cannot be folded into a convolution"
#: Why some operators can never become integers here; of all others it is said that they have no integer form.
REASONS: Final[dict[object, str]] = dict.fromkeys(
    (nn.GroupNorm, nn.InstanceNorm2d, nn.LayerNorm, F.group_norm, F.instance_norm, F.layer_norm), _BY_IMAGE
)


def operation(*keys: object) -> Callable[[Reader], Reader]:
    """Registers a reader under module types, functions and names of methods.

    >>> OPERATORS[nn.ReLU]({}).kind
    'relu'
    """

    def registered(reader: Reader) -> Reader:
        for key in keys:
            if key in OPERATORS:
                raise ValueError(f"{key!r} is registered twice")
            OPERATORS[key] = reader
        return reader

    return registered


@operation(nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
def _convolution(arguments: Arguments) -> Operation | str:
    return Operation("convolution")


@operation(nn.BatchNorm2d, nn.BatchNorm1d)
def _norm(arguments: Arguments) -> Operation | str:
    return Operation("norm")


@operation(nn.ReLU, F.relu, torch.relu, "relu", "relu_")
def _relu(arguments: Arguments) -> Operation | str:
    return Operation("relu")


@operation(nn.ReLU6, F.relu6)
def _relu6(arguments: Arguments) -> Operation | str:
    return Operation("relu", ceiling=6.0)


@operation(nn.Identity, nn.Dropout, nn.Dropout2d, F.dropout, F.dropout2d, "contiguous")
def _identity(arguments: Arguments) -> Operation | str:
    if arguments.get("training") is True:
        return "it drops values at random: evaluation mode is needed"
    return Operation("identity")


@operation(torch.flatten, nn.Flatten, "flatten")
def _flatten(arguments: Arguments) -> Operation | str:
    if arguments.get("start_dim", 0) != 1 or arguments.get("end_dim", -1) != -1:
        return "only all dimensions after the first are flattened"
    return Operation("flatten")


@operation(operator.add, operator.iadd, torch.add, "add", "add_")
def _add(arguments: Arguments) -> Operation | str:
    return Operation("add") if arguments.get("alpha", 1) == 1 else "a sum with a factor is not modelled"


@operation(torch.cat, torch.concat)
def _concat(arguments: Arguments) -> Operation | str:
    return Operation("concat") if arguments.get("dim", 0) == 1 else "only channels (dim=1) are joined"


@operation(nn.MaxPool2d, F.max_pool2d)
def _max_pool(arguments: Arguments) -> Operation | str:
    if arguments.get("ceil_mode") or arguments.get("return_indices") or pair(arguments.get("dilation", 1)) != (1, 1):
        return "ceil_mode, return_indices and dilation are not modelled"
    kernel = pair(arguments["kernel_size"])
    stride = pair(arguments.get("stride") or kernel)
    return Operation("max_pool", kernel, stride, pair(arguments.get("padding", 0)))


@operation(nn.AvgPool2d, F.avg_pool2d)
def _average_pool(arguments: Arguments) -> Operation | str:
    kernel = pair(arguments["kernel_size"])
    if not is_power_of_two(kernel[0] * kernel[1]):
        return "the window of a mean must hold a power of two of pixels"
    if pair(arguments.get("padding", 0)) != (0, 0) or arguments.get("ceil_mode") or arguments.get("divisor_override"):
        return "padding, ceil_mode and divisor_override of a mean are not modelled"
    return Operation("average_pool", kernel, pair(arguments.get("stride") or kernel))


@operation(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, F.interpolate)
def _step_up(arguments: Arguments) -> Operation | str:
    factor, mode = arguments.get("scale_factor"), arguments.get("mode", "nearest")
    factors = {float(value) for value in factor} if isinstance(factor, tuple | list) else {float(factor or 0)}
    if len(factors) != 1 or not (value := factors.pop()).is_integer() or value < 1:
        instead = ": write scale_factor=2, say, in place of size" if arguments.get("size") is not None else ""
        return f"a step up needs one whole scale_factor{instead}"
    if mode == "nearest":
        return Operation("nearest", factor=int(value))
    if mode != "bilinear" or arguments.get("align_corners") or arguments.get("antialias"):
        return "only mode nearest, and bilinear without align_corners and antialias, are modelled"
    if not is_power_of_two(int(value)):
        return "a bilinear step up needs a power of two"
    return Operation("bilinear", factor=int(value))


def is_power_of_two(value: int) -> bool:
    """Whether a positive integer is a power of two.

    >>> [n for n in range(1, 9) if is_power_of_two(n)]
    [1, 2, 4, 8]
    """
    return value & (value - 1) == 0


def pair(value: object) -> tuple[int, int]:
    """One number for both axes, or one for each.

    >>> pair(2), pair((2, 3))
    ((2, 2), (2, 3))
    """
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return int(first), int(second)
