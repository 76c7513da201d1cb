"""Published costs of digit-serial accelerators, and what the cost model gives for the same workloads.

Only what was read in a paper, or quoted by a paper that was read, stands here; ``NOT_PUBLISHED`` names what was looked
for and not found. Nothing is filled in. Rows of other boards and chips that these papers quote are left out where it
is not clear what their power covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from xaiseg.hardware.cost_rows import Shape
from xaiseg.hardware.costs import Constant, Cost, total
from xaiseg.hardware.designs import Window, window_cycles
from xaiseg.hardware.grouped import GroupedUnit, grouped_cost, grouped_unit
from xaiseg.hardware.grouped_system import system_cost, system_mm2

MERGED: Final = "arXiv:2606.25562"
GROUPED: Final = "arXiv:2610.11748"
MIXED: Final = "arXiv:2606.31514"

#: The residual U-Net of arXiv:2610.11748 for 4 x 192 x 192 images: input and output channels, side of the output,
#: side of the kernel, lanes and groups of the unit.
_GROUPED_LAYERS: Final = (
    (4, 16, 96, 3, 64, 1),
    (16, 16, 96, 3, 32, 5),
    (16, 32, 48, 3, 32, 5),
    (32, 32, 48, 3, 64, 5),
    (32, 64, 24, 3, 64, 5),
    (64, 64, 24, 3, 64, 10),
    (64, 128, 12, 3, 64, 10),
    (128, 128, 12, 3, 64, 19),
    (128, 256, 12, 3, 64, 19),
    (256, 256, 12, 3, 64, 37),
    (384, 384, 24, 3, 64, 55),
    (384, 64, 24, 3, 64, 55),
    (128, 128, 48, 3, 64, 19),
    (128, 32, 48, 3, 64, 19),
    (64, 64, 96, 3, 64, 10),
    (64, 16, 96, 3, 64, 10),
    (32, 16, 192, 3, 64, 5),
    (16, 3, 192, 1, 64, 1),
)

GROUPED_WORKLOAD: Final = "residual U-Net of arXiv:2610.11748, 4 x 192 x 192"

#: The board of arXiv:2606.25562. Operations follow from the published GOPS/W and energy; the network is not named.
MERGED_BOARD: Final = Cost(
    design=MERGED,
    workload="a frame of a U-Net that is not described",
    technology="Zynq-7020",
    boundary="board",
    clock_mhz=100,
    ops=15.14e9 * 0.1862,
    cycles=None,
    seconds=53.25e-3,
    timing="latency",
    joules=186.2e-3,
    source="published",
    notes=(f"quoted by {GROUPED}, table 7",),
)
MERGED_WATTS: Final = Constant(3.50, "W", "published", f"{MERGED}, quoted by {GROUPED}, table 7")
MERGED_EFFICIENCY: Final = Constant(15.14, "GOPS/W", "published", f"{MERGED}, abstract")
CPU_EFFICIENCY: Final = Constant(1.93, "GOPS/W", "published", f"{MERGED}, abstract; its processor is not described")

#: What was looked for in the papers and not found; no figure here stands in for it.
NOT_PUBLISHED: Final = (
    f"{MERGED}: cycle formula, digits that are emitted, tile of input channels, size of the U-Net",
    f"{MERGED}: look-up tables, registers, memories and multipliers in use; power of each compared design",
    f"{MERGED}: the bit-serial and bit-parallel designs behind the gains of 4.36 and 1.07, so these are not reproduced",
    "the cascaded designs (ECHO, USEFUSE, DSLR-CNN): their texts; the formula of their cycles is recalled",
    f"{GROUPED}: the gates that choose a digit, and which product lies in which lane",
)


@dataclass(frozen=True)
class Reproduction:
    """A figure of the cost model beside the published one.

    Attributes:
        name: what it is.
        ours: of the cost model.
        published: None where no paper gives it.
        unit: of both.
        note: the origin of the published one, and why they differ if they do.
    """

    name: str
    ours: float
    published: float | None
    unit: str
    note: str


def grouped_layers() -> tuple[tuple[Shape, GroupedUnit], ...]:
    """The layers of arXiv:2610.11748 with the units that its table gives them.

    >>> sum(shape.macs for shape, _ in grouped_layers())
    2162294784
    """
    found = []
    for number, (inputs, outputs, side, kernel, lanes, groups) in enumerate(_GROUPED_LAYERS, start=1):
        taps, places = kernel**2, side**2
        shape = Shape(f"layer {number}", inputs, outputs, taps, places, inputs * outputs * taps * places)
        found.append((shape, GroupedUnit(groups, lanes)))
    return tuple(found)


def grouped_image() -> Cost:
    """All layers of arXiv:2610.11748 on one unit, every digit emitted.

    >>> round(grouped_image().cycles / 1e6, 2)
    74.19
    """
    return total([grouped_cost(shape, unit, workload=GROUPED_WORKLOAD) for shape, unit in grouped_layers()])


def reproductions() -> tuple[Reproduction, ...]:
    """Every published figure that the cost model reaches, beside it."""
    return (*_grouped(), *_system(), *_mixed(), *_merged())


def _grouped() -> list[Reproduction]:
    image, layers = grouped_image(), grouped_layers()
    assert image.cycles is not None  # the model knows them all
    assert image.seconds is not None
    assert image.joules is not None
    macs = sum(shape.macs for shape, _ in layers)
    same = sum(grouped_unit(shape.terms, lanes=unit.lanes) == unit for shape, unit in layers)
    lengths = [unit.cycles for _, unit in layers]
    rounded = "the paper's modes are rounded to 0.01 pJ"
    return [
        Reproduction("multiply-adds of the residual U-Net", macs, 2_162_294_784, "", GROUPED),
        Reproduction("groups of its layers found by the rule", same, 18, "layers", GROUPED),
        Reproduction("shortest window", min(lengths), 24, "cycles", GROUPED),
        Reproduction("longest window", max(lengths), 30, "cycles", GROUPED),
        Reproduction("cycles, all digits", image.cycles / 1e6, 74.19, "10^6", GROUPED),
        Reproduction("time, all digits, compute-only", image.seconds * 1e3, 148.4, "ms", GROUPED),
        Reproduction("energy, all digits, unit alone", image.joules * 1e3, 1.179, "mJ", f"{GROUPED}; {rounded}"),
    ]


def _system() -> list[Reproduction]:
    layers, found = grouped_layers(), []
    for units, milliseconds, area, energy in ((1, 99.8, 13.0, 3.30), (8, 16.6, 20.9, 1.67)):
        cost = system_cost(layers, units=units, workload=GROUPED_WORKLOAD, cycles=45.71e6, unit_joules=0.726e-3)
        assert cost.seconds is not None
        assert cost.joules is not None
        note = f"{GROUPED}, cycles and energy of its units at skip 8, prune 9"
        late = "; the paper's effective units are not published" if units > 1 else ""
        found += [
            Reproduction(f"system of {units}: time", cost.seconds * 1e3, milliseconds, "ms", note + late),
            Reproduction(f"system of {units}: area", system_mm2(units), area, "mm2", note),
            Reproduction(f"system of {units}: energy", cost.joules * 1e3, energy, "mJ", note),
        ]
    return found


def _mixed() -> list[Reproduction]:
    """Layers of 2 to 7 bits against 8: cycles of a window are its delay and its digits."""
    found = []
    for network, bits, gain, gops, per_watt, per_watt_gain in (
        ("VGG-16", 5.64, 1.326, 19.86, 29.51, 1.8210),
        ("ResNet-18", 6.04, 1.260, 18.86, 26.40, 1.6290),
    ):
        for delay in (1.5, 2):  # the paper gives gains, not its delay
            ours = (delay + 8) / (delay + bits)
            found.append(
                Reproduction(f"{network}: gain over 8 bits, delay {delay:g}", ours, gain, "", f"{MIXED}; average bits")
            )
        note = f"{MIXED}; no figure of its own: both networks must imply the same"
        found += [
            Reproduction(f"{network}: implied speed at 8 bits", gops / gain, None, "GOPS", note),
            Reproduction(
                f"{network}: implied power at 8 bits", gops / gain / (per_watt / per_watt_gain), None, "W", note
            ),
            Reproduction(f"{network}: implied power", gops / per_watt, None, "W", note),
        ]
    return found


def _merged() -> list[Reproduction]:
    found = []
    for inputs in (8, 16):
        window = Window(taps=9, inputs=inputs, digits=8, silent=2)
        gain = window_cycles("cascade", window) / window_cycles("mma", window)
        note = f"{MERGED}; digits, channels and delay of the paper are not published; ours is 2"
        found.append(Reproduction(f"cascade over merged, 8 digits, {inputs} channels", gain, 2.52, "", note))
    board, giga = MERGED_BOARD, 1e9
    assert board.seconds is not None
    assert board.ops is not None
    quoted = f"{MERGED}, quoted by {GROUPED}"
    at_unet = 96.192167936
    apart = "the paper's own quotient, across technologies: the two energies stand in no table of ours"
    return [
        *found,
        Reproduction("board: power times time", MERGED_WATTS.value * board.seconds * 1e3, 186.2, "mJ", quoted),
        Reproduction("board: implied speed", board.ops / board.seconds / giga, None, "GOPS", quoted),
        Reproduction("board: implied operations a frame", board.ops / giga, None, "GOP", quoted),
        Reproduction("96.19 GOP at the board's efficiency", at_unet / MERGED_EFFICIENCY.value, None, "J", MERGED),
        Reproduction("96.19 GOP at the processor's efficiency", at_unet / CPU_EFFICIENCY.value, None, "J", MERGED),
        Reproduction("board over processor", MERGED_EFFICIENCY.value / CPU_EFFICIENCY.value, None, "", apart),
    ]
