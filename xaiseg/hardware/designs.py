"""Cycles of one output value in the designs that are compared, and the accelerators that hold many of them.

``mma`` is the unit that this package simulates: after its silent steps it emits a digit a cycle. The others are
models of what it is compared with; each docstring says whose formula it is. The grouped unit of arXiv:2610.11748 is
another micro-architecture and stays apart, in :mod:`xaiseg.hardware.grouped`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from xaiseg.errors import UsageError, did_you_mean
from xaiseg.hardware.costs import Boundary, Constant

#: Delays of an online multiplier by a parallel weight and of an online adder at radix 2: M. D. Ercegovac and T. Lang,
#: "Digital Arithmetic", 2004, chapter 9.
MULTIPLIER_DELAY: Final = Constant(2, "cycles", "published", "Ercegovac and Lang 2004, chapter 9")
ADDER_DELAY: Final = Constant(2, "cycles", "published", "Ercegovac and Lang 2004, chapter 9")


@dataclass(frozen=True)
class Window:
    """One output value, or the part of it that is computed at once.

    Attributes:
        taps: kernel taps that meet in it.
        inputs: input channels that are added at once.
        digits: digits that a digit-serial unit emits.
        silent: cycles before its first digit: 2 or 1 of ``twos_complement``, 0 of ``merged``.
        bits: width of activations.
        lanes: multipliers of a bit-parallel block.
    """

    taps: int
    inputs: int
    digits: int
    silent: int = 2
    bits: int = 8
    lanes: int = 9

    @property
    def terms(self) -> int:
        """Products in the sum."""
        return self.taps * self.inputs


Cycles = Callable[[Window], int]
DESIGNS: Final[dict[str, Cycles]] = {}


def design(name: str) -> Callable[[Cycles], Cycles]:
    """Registers the cycles of one window under a design's name.

    >>> sorted(DESIGNS)
    ['bit_parallel', 'bit_serial', 'cascade', 'mma']
    """

    def registered(cycles: Cycles) -> Cycles:
        if name in DESIGNS:
            raise ValueError(f"the design {name!r} is registered twice")
        DESIGNS[name] = cycles
        return cycles

    return registered


def window_cycles(name: str, window: Window) -> int:
    """Cycles of one window in a design.

    Raises:
        UsageError: no such design.

    >>> window_cycles("mma", Window(9, 16, digits=8)), window_cycles("cascade", Window(9, 16, digits=8))
    (10, 26)
    """
    if name not in DESIGNS:
        raise UsageError(
            "no such design", where="design", got=name, allowed=", ".join(DESIGNS), then=did_you_mean(name, DESIGNS)
        )
    return DESIGNS[name](window)


@design("mma")
def _mma(window: Window) -> int:
    """Silent steps and digits, whatever the number of products."""
    return window.silent + window.digits


@design("cascade")
def _cascade(window: Window) -> int:
    """Multipliers, a tree of online adders over the taps, one over the channels.

    The formula is recalled from ECHO, USEFUSE and DSLR-CNN, whose texts were not read: a model.
    """
    levels = _log2(window.taps) + _log2(window.inputs)
    return int(MULTIPLIER_DELAY.value + ADDER_DELAY.value * levels) + window.digits


@design("bit_serial")
def _bit_serial(window: Window) -> int:
    """Least significant bit first: one bit of every activation a cycle, then the levels of the adder tree; ours."""
    return window.bits + _log2(window.terms)


@design("bit_parallel")
def _bit_parallel(window: Window) -> int:
    """As many products a cycle as the block has multipliers; ours."""
    return -(-window.terms // window.lanes)


@dataclass(frozen=True)
class Accelerator:
    """Blocks that compute windows in parallel.

    Attributes:
        name: in a report.
        technology: chip or library.
        boundary: what ``power_w`` covers.
        clock_mhz: of the blocks.
        outputs: output channels at once, in lockstep.
        pixels: output pixels at once, in lockstep.
        inputs: input channels that one window adds at once; None = all of them.
        lanes: multipliers of a bit-parallel block.
        power_w: by design; a design without a power has no energy.
    """

    name: str
    technology: str
    boundary: Boundary
    clock_mhz: Constant
    outputs: Constant
    pixels: Constant
    inputs: Constant | None
    lanes: Constant
    power_w: Mapping[str, Constant]

    def __post_init__(self) -> None:
        for name in ("outputs", "pixels", "inputs", "lanes"):
            held = getattr(self, name)
            if held is not None and (held.value < 1 or held.value != int(held.value)):
                raise UsageError("no such number", where=name, got=held.value, allowed="a whole number, 1 or more")
        if self.clock_mhz.value <= 0:
            raise UsageError("no such clock", where="clock_mhz", got=self.clock_mhz.value, allowed="above 0")

    def constants(self) -> dict[str, Constant]:
        """Every constant under its name, for a table.

        >>> ZYNQ_7020.constants()["clock_mhz"].source
        'published'
        """
        names = ("clock_mhz", "outputs", "pixels", "inputs", "lanes")
        held = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return held | {f"power_w of {name}": power for name, power in self.power_w.items()}


#: The accelerator of arXiv:2606.25562 as far as it is published. Nothing says how its 16 blocks are shared out, nor
#: how many input channels a block adds at once, nor what the compared designs draw.
ZYNQ_7020: Final = Accelerator(
    name="16 blocks on a Zynq-7020",
    technology="Zynq-7020",
    boundary="board",
    clock_mhz=Constant(100, "MHz", "published", "arXiv:2606.25562"),
    outputs=Constant(
        16, "channels", "estimated", "arXiv:2606.25562 publishes 16 blocks; that each serves one output is our reading"
    ),
    pixels=Constant(1, "pixels", "estimated", "not published; all 16 blocks are counted as output channels"),
    inputs=Constant(
        16, "channels", "estimated", "not published; the published gain over cascaded units fits 8 to 16 at 8 digits"
    ),
    lanes=Constant(9, "multipliers", "estimated", "not published; one for each tap of a 3 x 3 kernel"),
    power_w={"mma": Constant(3.5, "W", "published", "arXiv:2606.25562 as quoted by arXiv:2610.11748, table 7")},
)


def _log2(count: int) -> int:
    """ceil(log2(count))."""
    return (count - 1).bit_length()
