"""The two-stage unit of arXiv:2610.11748: groups of lanes with a residual each, then one stage over the groups.

It is another micro-architecture than the unit that networks are deployed on here, and its figures are kept apart. Its
digits depend on both stages; its sums are exact. Structure, word lengths and delay are published; the selection rule is
exact and ours, because the gates that choose a digit are not published. All energies are those of the processing
element alone, in a 45 nm library at 500 MHz, from synthesis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.cost_rows import COMPUTE_ONLY, Shape
from xaiseg.hardware.costs import Constant, Cost

_PAPER: Final = "arXiv:2610.11748"

CLOCK_MHZ: Final = Constant(500, "MHz", "published", _PAPER)
DELAY: Final = Constant(2, "cycles", "published", f"{_PAPER}, eq. 9")
LANES: Final = Constant(64, "lanes a group", "published", _PAPER)

#: Energy of a cycle by groups in use and lanes of each.
CYCLE_PJ: Final[dict[tuple[int, int], Constant]] = {
    mode: Constant(value, "pJ", "published", f"{_PAPER}, 45 nm library, 500 MHz, processing element alone")
    for mode, value in {
        (1, 64): 14.97,
        (5, 32): 14.73,
        (5, 64): 15.24,
        (10, 64): 15.60,
        (19, 64): 16.29,
        (37, 64): 17.73,
        (55, 64): 19.10,
    }.items()
}


@dataclass(frozen=True)
class GroupedUnit:
    """Groups of lanes, as many as a window needs.

    Args:
        groups: groups in use, 1 to 64.
        lanes: products of a group, a power of two.
        bits: width of activations.
        weight_bits: width of weights.

    Raises:
        UsageError: a value out of range, or groups whose words the second stage may not hold: full ones of 32 lanes.

    >>> GroupedUnit(groups=5, lanes=32).cycles
    26
    """

    groups: int
    lanes: int = 64
    bits: int = 8
    weight_bits: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.groups <= 64:
            raise UsageError(
                "the unit has no such number of groups", where="groups", got=self.groups, allowed="1 to 64"
            )
        if self.lanes < 1 or self.lanes & (self.lanes - 1):
            raise UsageError("no such number of lanes", where="lanes", got=self.lanes, allowed="a power of two")
        # A digit can take away one half more than the rest of the step before, so words must not pass one half.
        width, top = self.weight_bits - 1, self.lanes * (2 ** (self.weight_bits - 1) - 1)
        words = self.groups * -((-(2 ** (width - 1)) - top) >> width)
        if words > (room := self.lanes << _log2(self.groups)):
            then = "Use 64 lanes, or a number of groups that is no power of two"
            raise UsageError("the second stage may overflow", where="groups", got=words, allowed=room, then=then)

    @property
    def digits(self) -> int:
        """Digits of the exact sum."""
        return self.bits + self.weight_bits + _log2(self.lanes) + _log2(self.groups)

    @property
    def cycles(self) -> int:
        """Cycles of a window that emits all its digits: eq. 9 of the paper."""
        return self.digits + int(DELAY.value)

    @property
    def cycle_pj(self) -> Constant:
        """Energy of a cycle; where the paper gives none, the line through its modes of 64 lanes."""
        mode = (self.groups, self.lanes)
        if mode in CYCLE_PJ:
            return CYCLE_PJ[mode]
        milliwatts = 7.44 + 0.0383 * self.groups  # our fit to the published modes; static power dominates
        note = f"line through the modes that {_PAPER} publishes, 7.44 + 0.0383 mW a group; none for {mode}"
        return Constant(milliwatts / CLOCK_MHZ.value * 1e3, "pJ", "estimated", note)


def grouped_unit(terms: int, *, bias_terms: int = 1, lanes: int = 64, bits: int = 8) -> GroupedUnit:
    """The unit for windows of ``terms`` products and the products that a bias adds.

    Args:
        terms: products of a window.
        bias_terms: from :func:`folded_bias`.
        lanes: products of a group.
        bits: width of activations and weights.

    Raises:
        UsageError: more products than 64 groups hold; the sum would need two passes and its sign would stay unknown.

    >>> grouped_unit(576).groups
    10
    """
    groups = -(-(terms + bias_terms) // lanes)
    if groups > 64:
        got, allowed = terms + bias_terms, f"at most {64 * lanes} products"
        raise UsageError("the window does not fit the unit", where="terms", got=got, allowed=allowed)
    return GroupedUnit(groups, lanes, bits, bits)


def folded_bias(bias: int) -> tuple[tuple[int, int], ...]:
    """A bias as products of a weight (-127 to 127) and an activation (0 to 127), the largest possible first.

    The unit adds no bias afterwards: a bias outside the stream of digits would leave the sign of the sum unknown.

    >>> folded_bias(-16130)
    ((-127, 127), (-1, 1))
    """
    found, rest, sign = [], abs(bias), 1 if bias >= 0 else -1
    while rest:
        beta, gamma = max(((min(127, rest // g), g) for g in range(1, min(127, rest) + 1)), key=lambda p: p[0] * p[1])
        found.append((sign * beta, gamma))
        rest -= beta * gamma
    return tuple(found)


def grouped_digits(planes: Tensor, unit: GroupedUnit) -> Tensor:
    """The digits that the two stages emit.

    Args:
        planes: (bits, groups, ...) integers; plane j of a group is the sum over its lanes of digit j of the input, most
            significant first, times the weight.
        unit: the unit, of as many groups.

    Returns:
        (digits, ...) int64 in {-1, 0, 1}; together they stand for the exact sum over all groups.

    Raises:
        UsageError: planes of another number of bits or groups.

    >>> grouped_digits(torch.tensor([[[0]], [[5]]]), GroupedUnit(1, lanes=4, bits=2, weight_bits=4)).flatten().tolist()
    [0, 0, 0, 0, 1, -1, 1, -1]
    """
    if tuple(planes.shape[:2]) != (unit.bits, unit.groups):
        allowed = f"({unit.bits}, {unit.groups}, ...)"
        raise UsageError("the planes do not fit the unit", where="planes", got=tuple(planes.shape), allowed=allowed)
    width = unit.weight_bits - 1  # a group keeps as many low bits and hands the rest on
    half = 1 << (unit.digits - unit.bits - width - 1)
    first = torch.zeros_like(planes[0].long())
    second, found = torch.zeros_like(first[0]), []
    for step in range(unit.digits):
        first = 2 * first + (planes[step].long() if step < unit.bits else 0)
        word = (first + (1 << width >> 1)) >> width
        first = first - (word << width)
        second = 2 * second + word.sum(0)
        digit = (second >= half).long() - (second < -half).long()
        second = second - 2 * half * digit
        found.append(digit)
    return torch.stack(found)


def grouped_cost(shape: Shape, unit: GroupedUnit, *, workload: str, mean_cycles: float | None = None) -> Cost:
    """One convolution on one unit, which computes one output value after another.

    Args:
        shape: of the convolution.
        unit: from :func:`grouped_unit`.
        workload: for the row.
        mean_cycles: cycles of a window where early termination shortens it; None = all digits.

    >>> shape = Shape("conv", inputs=16, outputs=16, taps=9, places=100, macs=230400)
    >>> grouped_cost(shape, GroupedUnit(5, lanes=32), workload="one layer").cycles
    41600
    """
    cycles = shape.windows * (unit.cycles if mean_cycles is None else mean_cycles)
    energy = unit.cycle_pj
    return Cost(
        design="grouped",
        workload=workload,
        technology="45 nm library",
        boundary="PE",
        clock_mhz=CLOCK_MHZ.value,
        ops=2 * shape.macs,
        cycles=cycles,
        seconds=cycles / CLOCK_MHZ.value / 1e6,
        timing="compute-only",
        joules=cycles * energy.value * 1e-12,
        source="estimated",
        notes=(COMPUTE_ONLY, f"energy of a cycle {energy.source}: {energy.note}"),
    )


def launches(shapes: Sequence[Shape], *, units: int) -> int:
    """How often a window is started when ``units`` units compute as many output channels of one pixel together.

    >>> launches([Shape("conv", 16, 16, 9, 100, 230400)], units=8)
    200
    """
    return sum(-(-shape.outputs // units) * shape.places for shape in shapes)


def _log2(count: int) -> int:
    """ceil(log2(count))."""
    return (count - 1).bit_length()
