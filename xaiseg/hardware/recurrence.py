"""The residual recurrence on whole tensors of integers: oracle of the closed form, only path of the truncated unit.

Each step doubles the residual, adds one plane of weighted digits and subtracts the digit that it emits (M. D. Ercegovac
and T. Lang, "Digital Arithmetic", 2004, section 9.4). The carry-save residual and the cascade depend on the order of
their adders and stay in :mod:`xaiseg.hardware.online`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.unit import Unit

RECURRENT = ("twos_complement", "truncated", "merged")


def digit_planes(x: Tensor, *, bits: int, signed: bool = False) -> Tensor:
    """The digits of integers, most significant first; with ``signed`` two's complement.

    Args:
        x: any shape, integers of ``bits`` bits.
        bits: number of planes.
        signed: whether the leading bit counts negatively.

    Returns:
        (bits, ...) int64 in {-1, 0, 1}.

    >>> digit_planes(torch.tensor([5, 2]), bits=3).tolist()
    [[1, 0], [0, 1], [1, 0]]
    """
    places = torch.arange(bits - 1, -1, -1, device=x.device).view(-1, *[1] * x.ndim)
    planes = x.long() >> places & 1
    if signed:
        planes[0] = -planes[0]
    return planes


def residual_recurrence(planes: Tensor, unit: Unit, *, digits: int, preloaded: Tensor | None = None) -> Tensor:
    """The values of the leading digits of every sum, digit by digit.

    Args:
        planes: (R, ...) int64; plane r is the sum over terms of digit r of the input times the weight. R is
            ``unit.bits``, or more where a bias arrives digit by digit.
        unit: the unit, of an arithmetic in ``RECURRENT``.
        digits: digits to emit.
        preloaded: a bias in units of the exact sum's last digit that the residual holds from the start; integers that
            broadcast to the sums.

    Returns:
        (digits, ...) int64; row m - 1 is the integer that the first m digits stand for.

    Raises:
        UsageError: an arithmetic without such a recurrence, or more digits than the unit has.

    >>> planes = torch.tensor([[-6], [0], [6], [6]])
    >>> residual_recurrence(planes, Unit(1, bits=4, weight_bits=4), digits=7).flatten().tolist()
    [-1, -1, -2, -4, -7, -15, -30]
    """
    if unit.arithmetic not in RECURRENT:
        allowed = ", ".join(RECURRENT)
        raise UsageError(
            "this arithmetic has no vectorised recurrence",
            where="unit.arithmetic",
            got=unit.arithmetic,
            allowed=allowed,
            then="Use xaiseg.hardware.online on single sums, or the bounds of xaiseg.hardware.closed",
        )
    count = unit.checked_digits(digits)
    # A preloaded bias has its last bit this far below the residual's own.
    below = 0 if preloaded is None else unit.bits
    fraction = unit.fraction + below
    residual = torch.zeros_like(planes[0])
    if preloaded is not None:
        residual = residual + preloaded.long()
    value, values = torch.zeros_like(residual), []
    for step in range(count + unit.silent):
        residual = 2 * residual
        if step < len(planes):
            residual = residual + (planes[step] << below)
        if unit.arithmetic == "truncated":
            drop = max(0, fraction - truncated_fraction(unit, digits=count, step=step))
            residual = residual >> drop << drop
        if step >= unit.silent:
            half = 1 << (fraction - 1)
            digit = (residual >= half).long() - (residual < -half).long()
            residual = residual - (digit << fraction)
            value = 2 * value + digit
            values.append(value)
    return torch.stack(values)


def truncated_fraction(unit: Unit, *, digits: int, step: int) -> int:
    """Fraction bits that the truncated residual keeps in a step, counted from the first silent one.

    >>> truncated_fraction(Unit(9, "truncated", guard=1), digits=8, step=9)
    2
    """
    return digits + unit.silent + unit.guard - step
