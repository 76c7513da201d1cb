"""Numbers as strings of digits -1, 0, 1, most significant first: z_1 .. z_T stands for the sum of z_t 2^(T - t).

A. Avizienis, "Signed-digit number representations for fast parallel arithmetic", 1961; the conversion follows M. D.
Ercegovac and T. Lang, "On-the-fly conversion of redundant into conventional representations", 1987.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xaiseg.errors import UsageError

#: The signs in which digit strings are written.
SIGNS = {"-": -1, "0": 0, "+": 1}


def serial_digits(value: int, *, bits: int, signed: bool = False) -> list[int]:
    """The bits of a number as digits; with ``signed`` two's complement, whose leading bit counts negatively.

    Raises:
        UsageError: the number has more bits.

    >>> serial_digits(-5, bits=4, signed=True), serial_digits(5, bits=4)
    ([-1, 0, 1, 1], [0, 1, 0, 1])
    """
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if not low <= value <= high:
        raise UsageError("the number has more bits", where="value", got=value, allowed=f"{low} to {high}")
    found = [value >> (bits - 1 - place) & 1 for place in range(bits)]
    return [-found[0], *found[1:]] if signed else found


def value_of(digits: Iterable[int]) -> int:
    """The integer that a string of digits stands for; its last digit weighs 1.

    >>> value_of([1, 0, -1])
    3
    """
    value = 0
    for digit in digits:
        value = 2 * value + digit
    return value


def converted(digits: Sequence[int]) -> list[int]:
    """The values of all prefixes, as the on-the-fly converter holds them: no digit ever starts a carry.

    Two registers hold Z and Z - 1; each new digit is appended to one of them as a plain bit.

    >>> converted([-1, 1, 0])
    [-1, -1, -2]
    """
    value, less = 0, -1
    held = []
    for digit in digits:
        value, less = (
            value << 1 | digit if digit >= 0 else less << 1 | 1,
            value << 1 if digit > 0 else less << 1 | (1 if digit == 0 else 0),
        )
        held.append(value)
    return held


def written(digits: Iterable[int]) -> str:
    """Digits as signs.

    >>> written([0, 1, -1])
    '0+-'
    """
    names = {digit: sign for sign, digit in SIGNS.items()}
    return "".join(names[int(digit)] for digit in digits)


def read(signs: str) -> list[int]:
    """The digits of a string such as ``0+-``.

    Raises:
        UsageError: another sign.

    >>> read("0+-")
    [0, 1, -1]
    """
    if unknown := set(signs) - set(SIGNS):
        raise UsageError("no such digit", where="signs", got="".join(sorted(unknown)), allowed="-, 0, +")
    return [SIGNS[sign] for sign in signs]
