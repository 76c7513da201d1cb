"""What the first digits of a sum are worth, without a loop over digits.

With S the sum of the products in which each input is replaced by its leading digits, an exact unit's first m digits are
worth floor(2^-(total - m) S + 1/2), kept within m digits: the residual stays within half a digit, and selection rounds
half up, so no digit depends on how the earlier ones were found. Hence full precision is the exact sum, and stopping
r digits early is a division by 2^r, rounded half up. Other arithmetics leave a choice between few neighbours.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.recurrence import truncated_fraction
from xaiseg.hardware.unit import EXACT, Unit


def rounded(sums: Tensor, *, shift: int) -> Tensor:
    """Integers divided by 2^shift, halves rounded up (towards plus infinity).

    >>> rounded(torch.tensor([-6, -2, 2, 6]), shift=2).tolist()
    [-1, 0, 1, 2]
    """
    return (sums + (1 << shift >> 1)) >> shift


def seen_inputs(x: Tensor, unit: Unit, *, digits: int) -> Tensor:
    """The inputs as the first digits of the sum know them: later digits are cleared.

    >>> seen_inputs(torch.tensor([255, 7]), Unit(1), digits=2).tolist()
    [240, 0]
    """
    unseen = unit.bits - unit.seen(digits)
    return x.long() >> unseen << unseen


def leading(sums: Tensor, unit: Unit, *, digits: int) -> Tensor:
    """The integer that the first digits stand for, in an exact arithmetic.

    Args:
        sums: integers of any shape: sums of products of :func:`seen_inputs`, bias included.
        unit: the unit, ``twos_complement`` or ``merged``.
        digits: digits emitted; all ``unit.total`` give the sum itself.

    Raises:
        UsageError: another arithmetic, or more digits than the unit has.

    >>> leading(torch.tensor([-30]), Unit(1, bits=4, weight_bits=4), digits=5).tolist()
    [-7]
    """
    if unit.arithmetic not in EXACT:
        raise UsageError(
            "the leading digits are no function of the sum in this arithmetic",
            where="unit.arithmetic",
            got=unit.arithmetic,
            allowed=", ".join(EXACT),
            then="Use enclosure, or the digit-serial oracle on single sums",
        )
    most = 2 ** unit.checked_digits(digits) - 1
    return rounded(sums.long(), shift=unit.total - digits).clamp(-most, most)


def enclosure(sums: Tensor, unit: Unit, *, digits: int, preloaded: bool = False) -> tuple[Tensor, Tensor]:
    """The least and the largest integer that the first digits can stand for, in any arithmetic.

    Args:
        sums: integers of any shape, as for :func:`leading`.
        unit: the unit.
        digits: digits emitted.
        preloaded: whether the residual held a bias from the start, which a truncated one may lose bits of.

    Raises:
        UsageError: more digits than the unit has.

    >>> [bound.tolist() for bound in enclosure(torch.tensor([-30]), Unit(1, "carry_save", 4, 4), digits=5)]
    [[-8], [-7]]
    """
    if unit.arithmetic in EXACT:
        value = leading(sums, unit, digits=digits)
        return value, value
    most = 2 ** unit.checked_digits(digits) - 1
    one = 1 << (unit.total - digits)
    below, above = _slack(unit, digits, preloaded, upto=digits)
    # Integers z with sums / one - below <= z <= sums / one + above; the slack is a fraction of the last digit.
    low = -((-(sums.long() - int(below * one))).div(one, rounding_mode="floor"))
    high = (sums.long() + int(above * one)).div(one, rounding_mode="floor")
    return low.clamp(-most, most), high.clamp(-most, most)


def first_negative(sums: Tensor, unit: Unit, *, digits: int) -> Tensor:
    """At which digit the running value turns negative, so that a ReLU can stop the unit: its output is 0.

    Sound for a complete sum only: every input channel and the bias must be in the stream.

    Args:
        sums: (unit.bits, ...) integers; row k - 1 uses the first k digits of every input.
        unit: the unit, ``twos_complement`` or ``merged``.
        digits: digits that would be emitted otherwise.

    Returns:
        (...) int64: 1 to ``digits``, or 0 where no prefix is negative.

    >>> first_negative(torch.tensor([[-48], [-48], [-36], [-30]]), Unit(1, bits=4, weight_bits=4), digits=7).tolist()
    [1]
    """
    found = torch.zeros_like(sums[0], dtype=torch.int64)
    for count in range(unit.checked_digits(digits), 0, -1):
        negative = leading(sums[unit.seen(count) - 1], unit, digits=count) < 0
        found = torch.where(negative, count, found)
    return found


def stops_soundly(unit: Unit, *, digits: int, preloaded: bool = False) -> bool:
    """Whether a negative running value proves, by the bounds, that the whole sum is not positive.

    True for all arithmetics but a truncated one with few guard bits: cutting bits lowers the residual.

    Args:
        unit: the unit.
        digits: digits that it emits.
        preloaded: whether the residual held a bias from the start.

    >>> stops_soundly(Unit(9, "truncated", guard=1), digits=8), stops_soundly(Unit(9, "truncated", guard=4), digits=8)
    (False, True)
    """
    if unit.arithmetic in EXACT:
        return True
    for count in range(1, unit.checked_digits(digits) + 1):
        # Input digits that are still unseen may raise the sum by a quarter of the last digit.
        unseen = Fraction(int(unit.seen(count) < unit.bits), 4)
        if _slack(unit, digits, preloaded, upto=count)[0] + unseen > 1:
            return False
    return True


def _slack(unit: Unit, digits: int, preloaded: bool, *, upto: int) -> tuple[Fraction, Fraction]:
    """How far the first ``upto`` of ``digits`` digits may lie below and above the prefix sum, in their last one."""
    if unit.arithmetic == "carry_save":
        return Fraction(3, 4), Fraction(3, 4)
    if unit.arithmetic == "cascade":  # the digits that follow are worth less than one of the last
        rest = 1 - Fraction(1, 1 << (unit.total - upto))
        return rest, rest
    lost = Fraction(0)
    for step in range(upto + unit.silent):
        # Doubling leaves zeros at the end: from the first step on below a preloaded bias, else after the last input.
        present = unit.fraction + (unit.bits - step - 1 if preloaded else -max(0, step + 1 - unit.bits))
        kept = truncated_fraction(unit, digits=digits, step=step)
        if kept < present:
            lost += (Fraction(1, 2**kept) - Fraction(1, 2**present)) * 2 ** (upto + unit.silent - 1 - step)
    return Fraction(1, 2) + lost, Fraction(1, 2)
