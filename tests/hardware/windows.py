"""Random dot products, and a recurrence in fractions straight from its definition."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch

from xaiseg.hardware.digits import serial_digits
from xaiseg.hardware.recurrence import digit_planes
from xaiseg.hardware.unit import Unit


def windows(unit: Unit, count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(count, terms) inputs and weights over the unit's whole range."""
    random = np.random.default_rng(seed)
    low, high = unit.inputs
    top = unit.largest_weight
    inputs = random.integers(low, high + 1, (count, unit.terms))
    return inputs, random.integers(-top, min(top, 2 ** (unit.weight_bits - 1) - 1) + 1, (count, unit.terms))


def planes_of(inputs, weights, unit: Unit) -> torch.Tensor:
    """(bits, count) sums over terms of the weighted digits of (count, terms) operands."""
    x, w = torch.as_tensor(inputs), torch.as_tensor(weights)
    return (digit_planes(x, bits=unit.bits, signed=unit.signed) * w).sum(-1)


def slow_prefixes(
    inputs, weights, unit: Unit, *, digits: int, preloaded: int = 0, serial: int | None = None
) -> list[int]:
    """w[m] = 2^m (S[m] - z[m]) held as it is defined, digit by digit.

    S[m] is the sum as a fraction of 2^total, with the input digits that m digits can know; z[m] are the digits so far.
    """
    scale = 2**unit.total
    operands = [
        (serial_digits(x, bits=unit.bits, signed=unit.signed), unit.bits, w)
        for x, w in zip(inputs, weights, strict=True)
    ]
    if serial is not None:
        width = unit.bits + unit.weight_bits - 1
        operands.append((serial_digits(serial, bits=width, signed=True), unit.bits, 2 ** (unit.weight_bits - 1)))
    value, found = 0, []
    for m in range(1, digits + 1):
        seen = Fraction(preloaded)
        for operand, bits, w in operands:
            known = operand[: m + unit.silent]
            seen += sum(d * Fraction(2) ** (bits - 1 - place) for place, d in enumerate(known)) * w
        doubled = seen * 2**m / scale - 2 * value
        value = 2 * value + (doubled >= Fraction(1, 2)) - (doubled < -Fraction(1, 2))
        found.append(value)
    return found
