"""A quantised network on digit-serial units.

Every convolution stops at the digits that its output's format holds, or at fewer: then its last digits are zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiseg.errors import UsageError, did_you_mean
from xaiseg.hardware.convolution import Ready, convolve, ready_convolution, unit_of
from xaiseg.hardware.graph import Node
from xaiseg.hardware.quantise import IntegerConvolution, Quantised, Step, Watch, walk
from xaiseg.hardware.unit import Arithmetic, Unit


@dataclass(frozen=True)
class Deployed:
    """A network with its units, from :func:`deploy`.

    Attributes:
        network: the integers.
        ready: every convolution's unit and digits, by node name.
        fewer: digits that each convolution leaves out, by node name; 0 = the golden model.
    """

    network: Quantised
    ready: dict[str, Ready]
    fewer: dict[str, int]

    def __call__(self, *arguments: Tensor, watch: Watch | None = None) -> Tensor:
        """The network's answer.

        Args:
            arguments: the network's arguments, floating point.
            watch: sees every integer value, in floating point.

        Raises:
            UsageError: NaN or infinity where integers begin.
            InexactError: see :func:`xaiseg.hardware.exact.accumulate`.
        """
        with torch.inference_mode():
            return walk(self.network, arguments, self.steps(), dtype=torch.float32, watch=watch)

    def steps(self) -> Mapping[str, Step]:
        """What computes each kind of node, on integers in float32."""

        def convolution(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
            return _convolution(node, network, values[0], self.ready[node.name], self.fewer[node.name])

        return {**STEPS, "convolution": convolution}


def deploy(
    network: Quantised,
    *,
    arithmetic: Arithmetic = "twos_complement",
    delay: int = 2,
    fewer: int | Mapping[str, int] = 0,
) -> Deployed:
    """Gives every convolution its unit and as many digits as make it the golden model, or fewer.

    Args:
        network: from :func:`xaiseg.hardware.quantise.quantise`.
        arithmetic: an exact one, ``twos_complement`` or ``merged``.
        delay: of the unit.
        fewer: last digits that are left out, by every convolution that rounds its sums, or by module path; the others
            leave out none. A number for all does not bind a convolution that keeps all digits of its sums, as the head.

    Raises:
        UsageError: an arithmetic without a closed form, a convolution that the unit cannot compute, a path that is no
            convolution, or fewer digits than one, with the path.
    """
    paths = {node.name: node.path for node in network.folded.graph.nodes}
    left_out = _left_out(network, fewer, paths)
    units, full = {}, {}
    for name, held in network.convolutions.items():
        with _named(paths[name]):
            units[name] = _unit(held, network, arithmetic, delay)
        full[name] = units[name].total - (torch.zeros_like(held.exponents) if held.shifts is None else held.shifts)
    able = {paths[name]: (left_out[name], int(full[name].min()) - 1) for name in full}
    _check_left_out(able, for_all=isinstance(fewer, int))
    ready = {}
    for name, held in network.convolutions.items():
        with _named(paths[name]):
            ready[name] = ready_convolution(
                held.layer, units[name], digits=full[name] - left_out[name], bias=network.scheme.bias
            )
    return Deployed(network, ready, left_out)


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Names the convolution that a unit cannot compute."""
    try:
        yield
    except UsageError as error:
        raise UsageError("the unit cannot compute this convolution", where=path, got=error) from error


def _check_left_out(counts: Mapping[str, tuple[int, int]], *, for_all: bool) -> None:
    """Refuses more digits than a convolution can leave out; names the one that can leave out fewest.

    Args:
        counts: digits that are left out and the most that can be, by module path.
        for_all: whether one number was given for all.
    """
    strange = {path: most for path, (wanted, most) in counts.items() if wanted > most}
    if not strange:
        return
    path = min(strange, key=strange.__getitem__)
    most = strange[path]
    raise UsageError(
        "one digit at least must remain",
        where=path,
        got=f"digits: -{counts[path][0]}",
        allowed="full" if most == 0 else "-1" if most == 1 else f"-1 to -{most}",
        then="This one has the fewest digits; {module path: -2} leaves digits out of single ones" if for_all else None,
    )


def _left_out(network: Quantised, fewer: int | Mapping[str, int], paths: Mapping[str, str]) -> dict[str, int]:
    """Digits that each convolution leaves out, by node name."""
    if isinstance(fewer, int):
        found = {name: 0 if held.shifts is None else fewer for name, held in network.convolutions.items()}
    else:
        known = {paths[name]: name for name in network.convolutions}
        if strange := sorted(set(fewer) - set(known)):
            hint = did_you_mean(strange[0], known)
            raise UsageError("the network has no such convolution", where="digits", got=strange[0], then=hint)
        found = {name: fewer.get(paths[name], 0) for name in network.convolutions}
    if negative := next((name for name, count in found.items() if count < 0), None):
        what = "a unit cannot emit more digits than its output's format holds"
        raise UsageError(
            what, where=paths[negative], got=f"{-found[negative]} more", allowed="0 fewer, or more of them"
        )
    return found


def _unit(held: IntegerConvolution, network: Quantised, arithmetic: Arithmetic, delay: int) -> Unit:
    scheme = network.scheme
    return unit_of(
        held.layer,
        arithmetic=arithmetic,
        bits=scheme.bits,
        weight_bits=scheme.weight_bits,
        signed=held.source.signed,
        bias=scheme.bias,
        delay=delay,
    )


def _convolution(node: Node, network: Quantised, x: Tensor, ready: Ready, fewer: int) -> Tensor:
    held = network.convolutions[node.name]
    found = convolve(x[:, :, None, None] if held.linear else x, ready)
    # Digits that were not emitted are zeros, so the integer keeps its place in the output's format.
    found = limited(found if fewer == 0 else found * 2.0**fewer, node, network)
    return found[:, :, 0, 0] if held.linear else found


def limited(x: Tensor, node: Node, network: Quantised, *, channels: Tensor | None = None) -> Tensor:
    """Integers of a node within its format and its rectifier.

    Args:
        x: (B, C, ...) integers in floating point.
        node: a convolution, a sum or a rectifier.
        network: its network.
        channels: (B,) the output channel of each row, where x is (B, 1) values of several channels; None = all in
            order.

    Returns:
        the same shape: float32 in a format, else the dtype of x.
    """
    rectifier = node.operation if node.kind == "relu" else node.rectifier
    if node.name not in network.formats:  # all digits: units differ by channel
        if rectifier is None:
            return x
        exponents = network.convolutions[node.name].exponents.double()
        most = torch.floor(rectifier.ceiling * torch.exp2(exponents) + 0.5)
        shape = (-1, *[1] * (x.ndim - 2)) if channels is None else (-1, 1)
        most = most if channels is None else most[channels]
        return torch.minimum(x.double().clamp(min=0), most.view(shape))
    form = network.formats[node.name]
    if rectifier is None:
        return x.clamp(form.low, form.high).float()
    return x.clamp(0, math.floor(min(form.high, rectifier.ceiling * 2.0**form.exponent + 0.5))).float()


def _relu(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    return limited(values[0], node, network)


def _max_pool(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    held = node.operation
    return F.max_pool2d(values[0], held.kernel, held.stride, held.padding)


def _average_pool(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    held = node.operation
    return torch.floor(F.avg_pool2d(values[0].double(), held.kernel, held.stride) + 0.5).float()


def _step_up(mode: str) -> Callable[[Node, Quantised, tuple[Tensor, ...]], Tensor]:
    def step(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
        # Weights are multiples of a power of two, so float64 holds every sum.
        found = F.interpolate(values[0].double(), scale_factor=float(node.operation.factor), mode=mode)
        return torch.floor(found + 0.5).float()

    return step


def _concat(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(values, 1)


def _add(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    target = network.formats[node.name].exponent
    # In units of the output; float64 holds the sum while exponents lie less than 36 bits apart.
    parts = (
        value.double() * 2.0 ** (target - network.formats[name].exponent)
        for value, name in zip(values, node.inputs, strict=True)
    )
    total = sum(parts, torch.zeros((), dtype=torch.float64, device=values[0].device))
    return limited(torch.floor(total + 0.5), node, network)


def _flatten(node: Node, network: Quantised, values: tuple[Tensor, ...]) -> Tensor:
    return values[0].flatten(1)


STEPS: Final[Mapping[str, Step]] = {
    "relu": _relu,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "nearest": _step_up("nearest"),
    "bilinear": _step_up("bilinear"),
    "concat": _concat,
    "add": _add,
    "flatten": _flatten,
}
