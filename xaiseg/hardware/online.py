"""Digit-serial units in plain Python integers, one digit a step: slow, and what everything else is held against.

M. D. Ercegovac and T. Lang, "Digital Arithmetic", 2004, chapter 9. The merged unit's structure is that of
arXiv:2610.11748; its selection rule is ours, exact, where the paper publishes none.
"""

from __future__ import annotations

from collections.abc import Sequence

from xaiseg.errors import UsageError
from xaiseg.hardware.digits import serial_digits
from xaiseg.hardware.unit import Unit

#: Digits that the serial-serial multiplier reads before it emits.
SERIAL_DELAY = 3

#: Integer bits, sign included, of the carry-save registers.
REGISTER = 3


def multiply_add(inputs: Sequence[int], weights: Sequence[int], unit: Unit, *, digits: int | None = None) -> list[int]:
    """The first digits of the sum of inputs[i] * weights[i], in any arithmetic.

    Args:
        inputs: serial operands, integers of ``unit.bits`` bits.
        weights: parallel operands, as many.
        unit: the unit; it has as many terms.
        digits: how many to emit; None = ``unit.total``, whose value is the sum itself.

    Raises:
        UsageError: operands out of range or of another number.

    >>> multiply_add([-5], [6], Unit(terms=1, bits=4, weight_bits=4, signed=True))
    [-1, 1, 0, 0, 1, -1, 0]
    """
    _check(inputs, weights, unit)
    count = unit.total if digits is None else unit.checked_digits(digits)
    serial = [serial_digits(x, bits=unit.bits, signed=unit.signed) for x in inputs]
    if unit.arithmetic == "cascade":
        return _cascade(serial, weights, unit)[:count]
    # One row a step: the digit that each operand brings, zeros after the last.
    rows = [*zip(*serial, strict=True), *[(0,) * unit.terms] * count]
    rows = rows[: count + unit.silent]
    if unit.arithmetic == "carry_save":
        return _carry_save(rows, weights, unit)
    return _assimilated([sum(d * w for d, w in zip(row, weights, strict=True)) for row in rows], unit, count)


def multiply_serial(x: int, y: int, *, bits: int, signed: bool = True, digits: int | None = None) -> list[int]:
    """The first digits of x * y where both operands arrive digit by digit; all 2 * bits digits give the product.

    The delay is 3. Residual in two's complement.

    >>> multiply_serial(3, -2, bits=4, digits=8)
    [0, 0, 0, 0, -1, 1, -1, 0]
    """
    return multiply_serial_truncated(x, y, bits=bits, guard=2 * bits, signed=signed, digits=digits)


def multiply_serial_truncated(
    x: int, y: int, *, bits: int, guard: int, signed: bool = True, digits: int | None = None
) -> list[int]:
    """The serial-serial multiplier whose residual is cut to ``count - j + guard`` fraction bits in step j.

    >>> multiply_serial_truncated(3, -2, bits=4, guard=1, digits=4)
    [0, 0, 0, 0]
    """
    count = 2 * bits if digits is None else digits
    rest = [0] * (count + 1)
    xs, ys = ([*serial_digits(v, bits=bits, signed=signed), *rest] for v in (x, y))
    fraction = bits + SERIAL_DELAY
    residual = x_seen = y_seen = 0
    emitted = []
    for step in range(count + SERIAL_DELAY):
        place = 2 ** (bits - 1 - step) if step < bits else 0
        y_next = y_seen + ys[step] * place
        value = _cut(
            2 * residual + x_seen * ys[step] + y_next * xs[step], fraction - (count - step + SERIAL_DELAY + guard)
        )
        x_seen, y_seen = x_seen + xs[step] * place, y_next
        digit = _selected(value, fraction) if step >= SERIAL_DELAY else 0
        emitted.append(digit)
        residual = value - (digit << fraction)
    return emitted[SERIAL_DELAY:]


def add_borrow_save(x: Sequence[int], y: Sequence[int]) -> list[int]:
    """The sum x + y in two rows of full adders on the digits' positive and negative halves; one leading digit more.

    Delay 2: a digit of the sum depends on its own place and the two below.

    >>> add_borrow_save([1, 1], [1, -1])
    [1, 0, 0]
    """
    width = len(x)
    upper, rest = [0] * (width + 1), [0] * (width + 1)  # place 0 is the leading one
    for place, (a, b) in enumerate(zip(x, y, strict=True), start=1):
        total = (a > 0) + (b > 0) - (a < 0)
        upper[place - 1] = int(total >= 1)
        rest[place] = 2 * upper[place - 1] - total
    borrowed, plus = [0] * (width + 2), [0] * (width + 1)
    for place in range(width, -1, -1):
        total = rest[place] + (place > 0 and y[place - 1] < 0) - upper[place]
        transfer = int(total >= 1)
        plus[place] = 2 * transfer - total
        borrowed[place] = transfer
    return [plus[place] - borrowed[place + 1] for place in range(width + 1)]


def add_transfer(x: Sequence[int], y: Sequence[int]) -> list[int]:
    """The sum x + y by transfer digits that are chosen with a look at the place below; one leading digit more.

    Delay 2, the same sums as :func:`add_borrow_save`, other digits.

    >>> add_transfer([1, 1], [1, -1])
    [1, 0, 0]
    """
    transfers, rests = [], []
    for place, (a, b) in enumerate(zip(x, y, strict=True)):
        below = (x[place + 1], y[place + 1]) if place + 1 < len(x) else (0, 0)
        total, calm = a + b, min(below) >= 0
        transfer = int(total == 2 or (total == 1 and calm)) - int(total == -2 or (total == -1 and not calm))
        transfers.append(transfer)
        rests.append(total - 2 * transfer)
    return [a + b for a, b in zip([0, *rests], [*transfers, 0], strict=True)]


def _check(inputs: Sequence[int], weights: Sequence[int], unit: Unit) -> None:
    if not len(inputs) == len(weights) == unit.terms:
        got = (len(inputs), len(weights))
        raise UsageError("the operands do not match the unit's terms", where="inputs", got=got, allowed=unit.terms)
    top = unit.largest_weight
    if any(not -top <= w <= top for w in weights):
        raise UsageError("a weight is out of range", where="weights", got=list(weights), allowed=f"-{top} to {top}")


def _selected(value: int, fraction: int) -> int:
    """The digit nearest to value / 2^fraction; halves go up."""
    half = 1 << (fraction - 1)
    return int(value >= half) - int(value < -half)


def _cut(value: int, drop: int) -> int:
    """Clears the lowest ``drop`` bits; two's complement, so towards minus infinity."""
    return value >> drop << drop if drop > 0 else value


def _assimilated(planes: Sequence[int], unit: Unit, count: int) -> list[int]:
    """Residual in two's complement, entire or truncated: w <- 2 w + plane - digit."""
    residual, emitted = 0, []
    for step, plane in enumerate(planes):
        value = 2 * residual + plane
        if unit.arithmetic == "truncated":
            value = _cut(value, unit.fraction - (count - step + unit.silent + unit.guard))
        digit = _selected(value, unit.fraction) if step >= unit.silent else 0
        emitted.append(digit)
        residual = value - (digit << unit.fraction)
    return emitted[unit.silent :]


def _carry_save(rows: Sequence[Sequence[int]], weights: Sequence[int], unit: Unit) -> list[int]:
    """Residual as a sum word and a carry word; digits are selected from their leading bits alone.

    One row of full adders a term, which runs for a digit 0 and after the last digit too; a weight is subtracted as its
    complement and a carry. Other orders of the adders would emit other digits of the same sum.
    """
    fraction = unit.fraction
    width = fraction + REGISTER
    mask, low = 2**width - 1, 2 ** (fraction - 2) - 1
    total = carry = 0
    emitted = []
    for step, row in enumerate(rows):
        total, carry = total << 1 & mask, carry << 1 & mask
        for digit, w in zip(row, weights, strict=True):
            addend = (0, w, ~w)[digit] & mask
            total, carry = total ^ carry ^ addend, (total & carry | total & addend | carry & addend) << 1 & mask
            carry |= int(digit < 0)
        if step < unit.silent:
            continue
        quarters = _signed((total >> (fraction - 2)) + (carry >> (fraction - 2)), REGISTER + 2)
        emitted.append(int(quarters >= 2) - int(quarters <= -3))
        total = ((quarters - 4 * emitted[-1]) % 2 ** (REGISTER + 2)) << (fraction - 2) | total & low
        carry &= low
    return emitted


def _signed(word: int, width: int) -> int:
    """A word of ``width`` bits as two's complement."""
    word %= 2**width
    return word - 2**width if word >= 2 ** (width - 1) else word


def _cascade(serial: Sequence[Sequence[int]], weights: Sequence[int], unit: Unit) -> list[int]:
    """One serial-parallel multiplier a term, then levels of borrow-save adders; an odd one is added to zero."""
    one = Unit(terms=1, bits=unit.bits, weight_bits=unit.weight_bits)
    level = [
        _assimilated([w * d for d in operand] + [0] * (one.total + one.silent - unit.bits), one, one.total)
        for operand, w in zip(serial, weights, strict=True)
    ]
    for _ in range(unit.growth):
        if len(level) % 2:
            level.append([0] * len(level[0]))
        level = [add_borrow_save(a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0]
