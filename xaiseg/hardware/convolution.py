"""Whole convolutions in the closed form: one integer convolution and one rounding a layer, whatever the digits.

The digit-serial oracle does ``terms * digits`` steps an output value instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.exact import Exact, Layer, accumulate, exact_convolution, largest_sums
from xaiseg.hardware.recurrence import digit_planes
from xaiseg.hardware.unit import EXACT, Arithmetic, Unit

#: How the bias enters: it lies in the residual from the start, or it is one more term of weight one, digit by digit.
Bias = Literal["preloaded", "serial"]


@dataclass(frozen=True)
class Ready:
    """A convolution with a fixed number of digits, from :func:`ready_convolution`.

    Attributes:
        unit: the arithmetic.
        digits: (outputs,) int64, digits of each output channel.
        seen: the numbers of leading input digits that the channels know: one convolution of all channels for each.
        exact: the convolution, scaled so that the last digit weighs 1, with half a digit added.
        clamps: whether a sum may reach the largest value that its digits can write.
    """

    unit: Unit
    digits: Tensor
    seen: tuple[int, ...]
    exact: Exact
    clamps: bool


def unit_of(
    layer: Layer,
    *,
    arithmetic: Arithmetic = "twos_complement",
    bits: int = 8,
    weight_bits: int = 8,
    signed: bool = False,
    bias: Bias = "preloaded",
    delay: int = 2,
    guard: int = 1,
) -> Unit:
    """The unit that computes one output value of a layer.

    A serial bias is one more term. A preloaded one adds leading digits only where the layer's largest sum needs them.

    >>> unit_of(Layer(torch.ones(1, 4, 3, 3), torch.ones(1)), bias="serial").terms
    37
    """
    unit = Unit(layer.terms, arithmetic, bits, weight_bits, signed, delay, guard)
    if layer.bias is None:
        return unit
    if bias == "serial":
        return replace(unit, terms=layer.terms + 1)
    needed = int(largest_sums(layer, largest_input=_largest(unit)).max()) // 2 ** (bits + weight_bits - 1) + 1
    return replace(unit, terms=max(layer.terms, needed))


def ready_convolution(layer: Layer, unit: Unit, *, digits: int | Tensor, bias: Bias = "preloaded") -> Ready:
    """Makes a layer ready for :func:`convolve`.

    Args:
        layer: integer weights and bias.
        unit: from :func:`unit_of`; ``twos_complement`` or ``merged``.
        digits: digits that are emitted, for all channels or (outputs,) for each. ``unit.total - r`` digits are the sum
            divided by 2^r, rounded half up, if they are at least ``unit.bits - unit.silent``.
        bias: see ``Bias``.

    Raises:
        UsageError: an arithmetic without a closed form, digits or weights out of range, a sum too large for its digits.

    >>> layer = Layer(torch.full((1, 1, 1, 1), 100))
    >>> ready_convolution(layer, unit_of(layer), digits=8).digits.tolist()
    [8]
    """
    if unit.arithmetic not in EXACT:
        then = "Use leading_sums with enclosure, or plane_sums with residual_recurrence"
        raise UsageError(
            "no closed form", where="unit.arithmetic", got=unit.arithmetic, allowed=", ".join(EXACT), then=then
        )
    counts = torch.as_tensor(digits, device=layer.weight.device).expand(layer.outputs).long()
    known = _known_bias(layer, unit, counts, bias)
    shifts = unit.total - counts
    half = torch.where(shifts > 0, 2 ** (shifts - 1).clamp(min=0), 0)
    numbers = tuple(sorted({unit.seen(count) for count in counts.tolist()}))
    # The same convolution serves every number: only what its inputs know differs.
    exact = exact_convolution(known, inputs=unit.inputs, scale=torch.exp2(-shifts.double()), offset=half)
    largest = largest_sums(known, largest_input=_largest(unit)) + half
    return Ready(unit, counts, numbers, exact, bool((largest >= 2**unit.total).any()))


def convolve(x: Tensor, ready: Ready, *, seed: int = 0) -> Tensor:
    """The integers that the leading digits of every output value stand for.

    Args:
        x: (B, C, H, W) floating point tensor that holds integers of ``unit.bits`` bits.
        ready: from :func:`ready_convolution`.
        seed: chooses the crops that are held against float64.

    Returns:
        (B, outputs, H', W') float32 (float64 where float32 does not hold a layer's sums) that holds integers; channel c
        in units of 2^(unit.total - digits[c]) of the sum.

    Raises:
        UsageError: an input out of range.
        InexactError: see :func:`xaiseg.hardware.exact.accumulate`.

    >>> layer = Layer(torch.full((1, 1, 1, 1), 100))
    >>> convolve(torch.full((1, 1, 1, 1), 200.0), ready_convolution(layer, unit_of(layer), digits=8)).item()
    156.0
    """
    unit = ready.unit
    found = torch.empty(())
    for place, number in enumerate(ready.seen):
        sums = accumulate(_cleared(x, unit.bits - number), ready.exact, seed=seed).floor_()
        if place == 0:
            found = sums
        else:
            chosen = torch.tensor([unit.seen(count) == number for count in ready.digits.tolist()], device=x.device)
            found = torch.where(chosen.view(-1, 1, 1), sums, found)
    if ready.clamps:
        most = (torch.exp2(ready.digits.double()) - 1).view(-1, 1, 1).to(found.dtype)
        found = found.clamp(-most, most)
    return found


def leading_sums(
    x: Tensor, layer: Layer, unit: Unit, *, digits: int, bias: Bias = "preloaded", seed: int = 0
) -> Tensor:
    """The sums of products of the input digits that the first digits can know, bias included: what bounds start from.

    Args:
        x: (B, C, H, W) floating point tensor that holds integers.
        layer: integer weights and bias.
        unit: any arithmetic.
        digits: digits emitted.
        bias: see ``Bias``.
        seed: chooses the crop that is held against float64.

    Returns:
        (B, outputs, H', W') int64.

    >>> layer = Layer(torch.full((1, 1, 1, 1), 100))
    >>> leading_sums(torch.full((1, 1, 1, 1), 255.0), layer, unit_of(layer), digits=1).item()
    22400
    """
    counts = torch.full((layer.outputs,), digits, device=layer.weight.device)
    exact = exact_convolution(_known_bias(layer, unit, counts, bias), inputs=unit.inputs)
    return accumulate(_cleared(x, unit.bits - unit.seen(digits)), exact, seed=seed).long()


def plane_sums(x: Tensor, layer: Layer, unit: Unit, *, bias: Bias = "preloaded", seed: int = 0) -> Tensor:
    """One convolution for each digit of the inputs: what :func:`xaiseg.hardware.recurrence.residual_recurrence` reads.

    Args:
        x: (B, C, H, W) tensor that holds integers.
        layer: integer weights and bias. A preloaded bias is left out: the recurrence takes it.
        unit: any arithmetic.
        bias: see ``Bias``.
        seed: chooses the crops that are held against float64.

    Returns:
        (R, B, outputs, H', W') int64; R is ``unit.bits``, with a serial bias the number of its digits.

    >>> layer = Layer(torch.full((1, 1, 1, 1), 100))
    >>> plane_sums(torch.full((1, 1, 1, 1), 5), layer, unit_of(layer, bits=3)).flatten().tolist()
    [100, 0, 100]
    """
    exact = exact_convolution(replace(layer, bias=None), inputs=(-1, 1))
    planes = digit_planes(x, bits=unit.bits, signed=unit.signed)
    sums = torch.stack([accumulate(plane.float(), exact, seed=seed).long() for plane in planes])
    if layer.bias is None or bias == "preloaded":
        return sums
    width = unit.bits + unit.weight_bits - 1
    rest = sums.new_zeros(width - unit.bits, *sums.shape[1:])
    weighted = digit_planes(layer.bias, bits=width, signed=True) << (unit.weight_bits - 1)
    return torch.cat((sums, rest)) + weighted[:, None, :, None, None]


def _largest(unit: Unit) -> int:
    return max(-unit.inputs[0], unit.inputs[1])


def _cleared(x: Tensor, unseen: int) -> Tensor:
    """Integers in floating point without their last digits."""
    return x if unseen == 0 else torch.floor(x * 2.0**-unseen) * 2.0**unseen


def _known_bias(layer: Layer, unit: Unit, counts: Tensor, bias: Bias) -> Layer:
    """The layer with the part of its bias that ``counts`` digits of each output channel can know."""
    for count in sorted(set(counts.tolist())):
        unit.checked_digits(count)
    width = unit.bits + unit.weight_bits - 1  # digits of a serial bias: as many as of a product
    _check(layer, unit, bias, width)
    if layer.bias is None or bias == "preloaded" or unit.arithmetic == "cascade":
        return layer
    unseen = (width - counts - unit.silent).clamp(min=0)
    return replace(layer, bias=layer.bias.long() >> unseen << unseen)


def _check(layer: Layer, unit: Unit, bias: Bias, width: int) -> None:
    serial = bias == "serial" and layer.bias is not None
    needed = layer.terms + int(serial)
    if unit.terms < needed:
        raise UsageError("the layer has more terms", where="unit.terms", got=unit.terms, allowed=f"{needed} or more")
    top, largest = unit.largest_weight, int(layer.weight.abs().max())
    if largest > top:
        raise UsageError("a weight is out of range", where="layer.weight", got=largest, allowed=f"-{top} to {top}")
    if layer.bias is not None and serial and int(layer.bias.abs().max()) >= 2 ** (width - 1):
        allowed, got = f"less than 2^{width - 1}", int(layer.bias.abs().max())
        raise UsageError("a serial bias is too large", where="layer.bias", got=got, allowed=allowed)
    most = int(largest_sums(layer, largest_input=_largest(unit)).max())
    if most >= 2**unit.total:
        then = "Use unit_of, or a unit of more terms"
        raise UsageError("the digits cannot hold the sum", where="layer", got=most, allowed="< 2^total", then=then)
