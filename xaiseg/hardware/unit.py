"""The dot-product unit that is modelled, with its arithmetic by name.

Two micro-architectures are kept apart. ``twos_complement``, ``carry_save``, ``truncated`` and ``cascade`` are the
online units of M. D. Ercegovac and T. Lang, "Digital Arithmetic", 2004, chapter 9: they read ``delay`` digits, then
emit one a step. ``merged`` is the merged multiply-add of M. Usman et al. as far as arXiv:2606.25562 and
arXiv:2610.11748 publish it: it emits from the first step on, hence one leading digit more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from xaiseg.errors import UsageError

Arithmetic = Literal["twos_complement", "carry_save", "truncated", "merged", "cascade"]

#: What each arithmetic is, and what is known of its leading digits: the words of a report.
ARITHMETICS: Final[dict[str, str]] = {
    "twos_complement": "online multiply-add, residual in two's complement: leading digits exact",
    "carry_save": "online multiply-add, residual in carry-save form: leading digits within 3/4 of the last one",
    "truncated": "online multiply-add, residual cut to fewer and fewer bits: leading digits bounded",
    "merged": "merged multiply-add with exact selection: leading digits exact",
    "cascade": "online multipliers and a tree of online adders: leading digits within one of the last one",
}

#: Arithmetics whose leading digits are one function of the operands.
EXACT: Final = ("twos_complement", "merged")


@dataclass(frozen=True)
class Unit:
    """A sum of ``terms`` products of a serial operand (activation) and a parallel one (weight).

    Args:
        terms: products in the sum; a bias that is fed digit by digit counts as one more.
        arithmetic: one of ``ARITHMETICS``.
        bits: width of the serial operands, 1 to 16.
        weight_bits: width of the parallel operands, 2 to 16; they are signed.
        signed: whether serial operands are two's complement; otherwise they are natural numbers.
        delay: serial digits that an online unit reads before it emits: 2, or 1 with two's complement alone.
        guard: further bits of the truncated residual, 0 or more; other arithmetics ignore it.

    Raises:
        UsageError: a value out of range, or a delay that the arithmetic cannot have.

    >>> Unit(terms=9).total, Unit(terms=9, arithmetic="merged").total
    (19, 20)
    """

    terms: int
    arithmetic: Arithmetic = "twos_complement"
    bits: int = 8
    weight_bits: int = 8
    signed: bool = False
    delay: int = 2
    guard: int = 1

    def __post_init__(self) -> None:
        if self.arithmetic not in get_args(Arithmetic):
            raise _refused("arithmetic", self.arithmetic, ", ".join(get_args(Arithmetic)))
        delays = (1, 2) if self.arithmetic == "twos_complement" else (2,)
        if self.delay not in delays:
            raise _refused("delay", self.delay, f"{delays} with {self.arithmetic}")
        for name, low, high in (("terms", 1, 2**20), ("bits", 1, 16), ("weight_bits", 2, 16), ("guard", 0, 32)):
            if not low <= (value := getattr(self, name)) <= high:
                raise _refused(name, value, f"{low} to {high}")

    @property
    def growth(self) -> int:
        """Leading digits that the number of terms may need: ceil(log2(terms))."""
        return (self.terms - 1).bit_length()

    @property
    def silent(self) -> int:
        """Steps without a digit at the start; the first m digits know the first m + silent digits of the operands."""
        return 0 if self.arithmetic == "merged" else self.delay

    @property
    def fraction(self) -> int:
        """Fraction bits of the residual: one digit weighs 2^fraction of its integer units."""
        return self.weight_bits - 1 + self.growth + (1 if self.arithmetic == "merged" else self.delay)

    @property
    def total(self) -> int:
        """Digits of the exact sum; the last one weighs 1 in integer units."""
        return self.bits + self.fraction - self.silent

    @property
    def largest_weight(self) -> int:
        """Largest magnitude of a parallel operand; the merged unit refuses the most negative number."""
        return (1 << (self.weight_bits - 1)) - (1 if self.arithmetic == "merged" else 0)

    @property
    def inputs(self) -> tuple[int, int]:
        """The least and the largest serial operand."""
        return (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1) if self.signed else (0, 2**self.bits - 1)

    def seen(self, digits: int) -> int:
        """How many leading digits of the operands the first ``digits`` digits of the sum are held against.

        Those of a cascade are held against the whole sum, since its bound needs no less.

        >>> Unit(terms=9).seen(4), Unit(terms=9).seen(12)
        (6, 8)
        """
        return self.bits if self.arithmetic == "cascade" else min(self.bits, digits + self.silent)

    def checked_digits(self, digits: int) -> int:
        """Returns ``digits`` where the unit can emit so many.

        Raises:
            UsageError: fewer than 1 or more than ``total``.

        >>> Unit(terms=9).checked_digits(8)
        8
        """
        if not 1 <= digits <= self.total:
            raise _refused("digits", digits, f"1 to {self.total}, the digits of the exact sum")
        return digits


def _refused(name: str, got: object, allowed: str) -> UsageError:
    return UsageError(f"the unit has no such {name}", where=f"unit.{name}", got=got, allowed=allowed)
