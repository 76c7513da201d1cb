"""What a computation costs, with the origin of every number and the boundary within which it holds.

A figure without its boundary misleads: 1.2 mJ of a processing element in a 45 nm library and 186 mJ of a whole board do
not belong into one table. So every cost names boundary, technology, clock and workload, and :func:`ratio` refuses to
divide costs that do not share what their quotient would need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from xaiseg.errors import UsageError

#: Where a number comes from.
Source = Literal["published", "measured", "estimated", "user"]

#: What a power or an energy covers: one processing element, the accelerator without its memory, with it, or all.
Boundary = Literal["PE", "accelerator", "system", "board"]

#: ``compute-only``: cycles without memory traffic over the clock; ``latency``: what a clock on the wall shows.
Timing = Literal["compute-only", "latency"]

Quantity = Literal["cycles", "seconds", "joules", "gops", "gops_per_watt"]

#: Quantities that belong to one workload; the others are rates.
_EXTENSIVE: Final = ("cycles", "seconds", "joules")


@dataclass(frozen=True)
class Constant:
    """A number of the cost model.

    Args:
        value: finite, 0 or more.
        unit: as written in a report, "MHz".
        source: see ``Source``.
        note: the citation, or how it was found; never empty.

    Raises:
        UsageError: a value out of range, no such source, no note.

    >>> Constant(100, "MHz", "published", "arXiv:2606.25562").value
    100
    """

    value: float
    unit: str
    source: Source
    note: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value >= 0):
            raise UsageError("no such constant", where=self.note, got=self.value, allowed="a finite number, 0 or more")
        if self.source not in get_args(Source):
            allowed = ", ".join(get_args(Source))
            raise UsageError("no such source", where="source", got=self.source, allowed=allowed)
        if not self.note.strip():
            raise UsageError("a constant needs a note that says where it comes from", where="note", got="nothing")


def given(value: float, unit: str, *, note: str = "given by the user") -> Constant:
    """A constant of the user's own.

    >>> given(3.2, "W").source
    'user'
    """
    return Constant(value, unit, "user", note)


@dataclass(frozen=True)
class Cost:
    """What one design needs for one workload.

    Attributes:
        design: "mma", "cascade", "bit_serial", "bit_parallel", "grouped", "cpu", or a published design's name.
        workload: what is computed, "unet-compact 128 x 128".
        technology: chip or library, "Zynq-7020".
        boundary: what ``joules`` covers.
        clock_mhz: None where it is not known.
        ops: arithmetic operations, two for each multiply-add; None where they are not known.
        cycles: None where they are not known.
        seconds: see ``timing``; None where they are not known.
        timing: what ``seconds`` are.
        joules: None where no power is known.
        source: of the figures as a whole; what a model computes is ``estimated`` whatever its constants are.
        notes: what the figures leave out, and the sources of their constants.
    """

    design: str
    workload: str
    technology: str
    boundary: Boundary
    clock_mhz: float | None
    ops: float | None
    cycles: float | None
    seconds: float | None
    timing: Timing
    joules: float | None
    source: Source
    notes: tuple[str, ...] = ()

    @property
    def gops(self) -> float | None:
        """10^9 operations a second."""
        return None if self.ops is None or not self.seconds else self.ops / self.seconds / 1e9

    @property
    def gops_per_watt(self) -> float | None:
        """10^9 operations a joule."""
        return None if self.ops is None or not self.joules else self.ops / self.joules / 1e9


@dataclass(frozen=True)
class Ratio:
    """A quotient of two costs, or why there is none.

    Attributes:
        value: first over second; None = refused.
        reason: why it is None; "" otherwise.
    """

    value: float | None
    reason: str = ""


def ratio(first: Cost, second: Cost, quantity: Quantity) -> Ratio:
    """The first cost's quantity over the second's, where both mean the same.

    Args:
        first: numerator.
        second: denominator.
        quantity: cycles, seconds, joules, gops or gops_per_watt.

    Raises:
        UsageError: no such quantity.

    >>> zynq = Cost("mma", "a", "Zynq-7020", "board", 100, 2e9, 1e6, 0.01, "compute-only", 0.035, "estimated")
    >>> ratio(zynq, zynq, "joules").value
    1.0
    """
    if quantity not in get_args(Quantity):
        allowed = ", ".join(get_args(Quantity))
        raise UsageError("no such quantity", where="quantity", got=quantity, allowed=allowed)
    for name in ("technology", "boundary"):
        if (a := getattr(first, name)) != (b := getattr(second, name)):
            return Ratio(None, f"{first.design} and {second.design} differ in {name}: {a} against {b}")
    if quantity in _EXTENSIVE and first.workload != second.workload:
        return Ratio(None, f"{quantity} belong to a workload: {first.workload} against {second.workload}")
    if quantity in ("seconds", "gops") and first.timing != second.timing:
        return Ratio(None, f"{first.timing} against {second.timing}: one leaves memory traffic out")
    a, b = getattr(first, quantity), getattr(second, quantity)
    if a is None or not b:
        return Ratio(None, f"{quantity} of {first.design if a is None else second.design} are not known")
    return Ratio(a / b)


def total(costs: Sequence[Cost]) -> Cost:
    """The cost of parts that follow one another.

    A figure that one part lacks is None in the sum.

    Raises:
        UsageError: no parts, or parts of different designs, workloads, technologies, boundaries, clocks or timings.

    >>> part = Cost("mma", "a", "Zynq-7020", "board", 100, 4, 50, 5e-7, "compute-only", None, "estimated")
    >>> total([part, part]).cycles
    100
    """
    kinds = {(c.design, c.workload, c.technology, c.boundary, c.clock_mhz, c.timing, c.source) for c in costs}
    if len(kinds) != 1:
        raise UsageError("only costs of one kind can be added", where="costs", got=sorted(map(str, kinds)))
    (kind,) = kinds
    design, workload, technology, boundary, clock, timing, source = kind
    ops, cycles, seconds, joules = (
        None if any(part is None for part in parts) else sum(parts)
        for parts in zip(*((c.ops, c.cycles, c.seconds, c.joules) for c in costs), strict=True)
    )
    notes = tuple(dict.fromkeys(note for cost in costs for note in cost.notes))
    return Cost(design, workload, technology, boundary, clock, ops, cycles, seconds, timing, joules, source, notes)
