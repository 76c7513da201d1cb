"""Grouped units with their memories: the system model of arXiv:2610.11748, eq. 19 to 23.

The boundary is the system: units, on-chip memory, external traffic. It is a model of the paper's, fed with figures of
synthesis; nothing of it was measured. Its constants hold for the network of the paper, whose traffic they name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from xaiseg.errors import UsageError
from xaiseg.hardware.cost_rows import Shape
from xaiseg.hardware.costs import Constant, Cost
from xaiseg.hardware.grouped import CLOCK_MHZ, GroupedUnit, launches

MEBIBYTE: Final = 2**20


def _published(value: float, unit: str, what: str) -> Constant:
    return Constant(value, unit, "published", f"arXiv:2610.11748, eq. 19 to 23: {what}")


UNIT_MM2: Final = _published(0.858, "mm2", "area of one unit")
MEMORY_MIB: Final = _published(3.289, "MiB", "on-chip memory")
MEMORY_MM2: Final = _published(3.3, "mm2/MiB", "area of the memory")
CONTROL_MM2: Final = _published(0.30, "mm2", "area of the control")
FIXED_S: Final = _published(2.0e-3, "s", "time that does not shrink")
EXTERNAL_BYTES_S: Final = _published(3.2e9, "B/s", "external bandwidth")
READ_PJ: Final = _published(5.0, "pJ/B", "on-chip read")
WRITE_PJ: Final = _published(6.5, "pJ/B", "on-chip write")
LEAK_W: Final = _published(2e-3, "W/MiB", "leakage of the memory")
TRANSACTION_PJ: Final = _published(60, "pJ", "one output value handed over")
EXTERNAL_PJ: Final = _published(10, "pJ/bit", "external traffic")


@dataclass(frozen=True)
class Traffic:
    """Bytes that one image moves, in MiB. The defaults are those of the network of arXiv:2610.11748.

    Attributes:
        inputs: activations that units read; divided by the number of units that share them.
        weights: weights that they read.
        outputs: what they write.
        external: to and from outside the chip.
    """

    inputs: float = 242.4
    weights: float = 2.8
    outputs: float = 5.1
    external: float = 3.08


def system_cost(
    layers: Sequence[tuple[Shape, GroupedUnit]],
    *,
    units: int,
    workload: str,
    cycles: float,
    unit_joules: float,
    traffic: Traffic | None = None,
) -> Cost:
    """Latency and energy of one image on some units with their memories.

    Units in lockstep wait where a layer has no multiple of ``units`` channels. The paper finds the effective number of
    units from the cycles of early termination in each layer, which it does not publish; here they are those of all
    digits, and times of 8 units come out 1 % longer than published.

    Args:
        layers: shape and unit of each layer.
        units: units in lockstep, 1 to 8.
        workload: for the row.
        cycles: of one unit that does everything.
        unit_joules: energy of the units at that.
        traffic: None = ``Traffic()``.

    Raises:
        UsageError: another number of units than the model is for.
    """
    moved = Traffic() if traffic is None else traffic
    spread = _spread(units)
    detour = 1 + 0.08 * spread
    shapes = [shape for shape, _ in layers]
    external = moved.external * MEBIBYTE
    busy = cycles * detour / effective_units(layers, units=units)
    seconds = (busy + launches(shapes, units=units)) / CLOCK_MHZ.value / 1e6 + FIXED_S.value
    seconds += external / EXTERNAL_BYTES_S.value
    read = (moved.inputs / units + moved.weights) * MEBIBYTE
    memory = 1.08e-12 * (READ_PJ.value * read + WRITE_PJ.value * moved.outputs * MEBIBYTE)
    memory += LEAK_W.value * MEMORY_MIB.value * (1 + 0.09 * spread) * seconds
    joules = 1.10 * unit_joules * detour * (1 + 0.05 * spread) + memory
    windows = sum(shape.windows for shape in shapes)
    joules += 1e-12 * (TRANSACTION_PJ.value * windows + EXTERNAL_PJ.value * 8 * external)
    return Cost(
        design="grouped",
        workload=workload,
        technology="45 nm library",
        boundary="system",
        clock_mhz=CLOCK_MHZ.value,
        ops=2 * sum(shape.macs for shape in shapes),
        cycles=cycles,
        seconds=seconds,
        timing="latency",
        joules=joules,
        source="estimated",
        notes=("the system model of arXiv:2610.11748, eq. 19 to 23: memory traffic by a model, nothing measured",),
    )


def effective_units(layers: Sequence[tuple[Shape, GroupedUnit]], *, units: int) -> float:
    """How many of the units work on average: fewer than all where the last tile of channels is not full.

    >>> effective_units([(Shape("head", 16, 3, 1, 100, 4800), GroupedUnit(1))], units=8)
    3.0
    """
    alone = sum(shape.windows * unit.cycles for shape, unit in layers)
    return alone / sum(launches([shape], units=units) * unit.cycles for shape, unit in layers)


def system_mm2(units: int) -> float:
    """Area of some units with their memories in mm2; eq. 20.

    Raises:
        UsageError: another number of units than the model is for.

    >>> round(system_mm2(1), 1), round(system_mm2(8), 1)
    (13.0, 20.9)
    """
    spread = _spread(units)
    memory = MEMORY_MM2.value * MEMORY_MIB.value * (1 + 0.09 * spread)
    return 1.08 * (units * UNIT_MM2.value * (1 + 0.05 * spread) + memory + CONTROL_MM2.value)


def _spread(units: int) -> float:
    """How far the units lie apart, 0 to 1; wires get longer with it."""
    if not 1 <= units <= 8:
        raise UsageError("the model is not for so many units", where="units", got=units, allowed="1 to 8")
    return (units - 1) / 7
