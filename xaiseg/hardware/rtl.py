"""Sums of products through the Verilog units of this package, simulated clock by clock in Icarus Verilog.

The units lie in ``xaiseg/hardware/verilog``. A testbench feeds them vectors from a file and writes digits and clocks;
nothing here computes a digit.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import UsageError, XaisegError
from xaiseg.hardware.recurrence import digit_planes
from xaiseg.hardware.unit import Unit

#: Folder of the Verilog files: two units and their testbench.
VERILOG: Final = Path(__file__).parent / "verilog"

#: Arithmetics that have a unit in Verilog.
BUILT: Final = ("twos_complement", "merged", "carry_save")

_BENCH: Final = "msdf_testbench"

#: Warnings that mean an error in the files; others differ by the compiler's version.
_WARNINGS: Final = ("-Wimplicit", "-Wportbind", "-Wselect-range")


class SimulationError(XaisegError):
    """The Verilog does not compile, its simulation fails or never ends, or what comes out are no digits."""


@dataclass(frozen=True)
class Signals:
    """What the simulated unit put out for each sum.

    Attributes:
        digits: (count, most) int64 in {-1, 0, 1}, most significant first; a sum with fewer digits ends in zeros.
        emitted: (count,) int64, digits of each sum.
        silent: (count,) int64, clocks before the first digit; the first clock takes the operands' first digits.
        clocks: (count,) int64, clocks up to the last digit.
        ended: (count,) int64, the clock in which the running value turned negative (END); 0 = never.
        seconds: taken by compilation and simulation.
    """

    digits: Tensor
    emitted: Tensor
    silent: Tensor
    clocks: Tensor
    ended: Tensor
    seconds: float


def simulate(
    inputs: Tensor,
    weights: Tensor,
    unit: Unit,
    *,
    digits: int | Tensor | None = None,
    preloaded: Tensor | None = None,
    serial: Tensor | None = None,
    verilog: Path = VERILOG,
    timeout_s: float = 300,
) -> Signals:
    """Runs sums of products through the unit in Verilog.

    Args:
        inputs: (count, terms) integers of ``unit.bits`` bits. A unit of more terms has more leading digits.
        weights: (count, terms) integers.
        unit: of an arithmetic in ``BUILT``.
        digits: digits to emit, for all sums or (count,) for each; None = ``unit.total``.
        preloaded: (count,) a bias in the residual from the start, in units of the exact sum's last digit.
        serial: (count,) a bias that is one more term, digit by digit.
        verilog: folder of other files with the same names, parameters and ports.
        timeout_s: for compiling and for simulating, seconds each.

    Raises:
        UsageError: Icarus Verilog is not installed, the arithmetic has no unit, or operands are out of range.
        SimulationError: the files do not compile, the simulation fails or takes too long, or a digit is undefined.

    >>> unit = Unit(1, bits=4, weight_bits=4, signed=True)
    >>> found = simulate(torch.tensor([[-5]]), torch.tensor([[6]]), unit)
    >>> found.digits.tolist(), found.silent.item(), found.clocks.item(), found.ended.item()
    ([[-1, 1, 0, 0, 1, -1, 0]], 2, 9, 3)
    """
    counts = _checked(inputs, weights, unit, digits, int(serial is not None))
    _check_biases(weights, unit, preloaded, serial)
    parameters = {
        "VECTORS": len(inputs),
        "TERMS": inputs.shape[1],
        "BITS": unit.bits,
        "WEIGHT_BITS": unit.weight_bits,
        "SIGNED": int(unit.signed),
        "CARRY_SAVE": int(unit.arithmetic == "carry_save"),
        "MERGED": int(unit.arithmetic == "merged"),
        "DELAY": unit.delay,
        "GROWTH": unit.growth,
        "PRELOADED": int(preloaded is not None),
        "SERIAL": int(serial is not None),
    }
    began = time.perf_counter()
    with TemporaryDirectory(prefix="xaiseg-rtl-") as folder:
        (Path(folder) / "vectors.hex").write_text(_vectors(inputs, weights, unit, counts, preloaded, serial))
        text = _run(Path(folder), parameters, verilog, timeout_s)
    return _signals(text, len(inputs), time.perf_counter() - began)


def _checked(inputs: Tensor, weights: Tensor, unit: Unit, digits: int | Tensor | None, serial: int) -> Tensor:
    """(count,) digits of each sum, of operands that the unit can take beside ``serial`` biases."""
    if unit.arithmetic not in BUILT:
        allowed = ", ".join(BUILT)
        raise UsageError(
            "this arithmetic has no unit in Verilog", where="unit.arithmetic", got=unit.arithmetic, allowed=allowed
        )
    most = unit.terms - serial
    if inputs.ndim != 2 or inputs.shape != weights.shape or not 1 <= inputs.shape[1] <= most or not len(inputs):
        got, allowed = (tuple(inputs.shape), tuple(weights.shape)), f"(count, 1 to {most}) twice"
        raise UsageError("the operands do not match the unit", where="inputs, weights", got=got, allowed=allowed)
    _within(inputs, "inputs", *unit.inputs)
    _within(weights, "weights", -unit.largest_weight, 2 ** (unit.weight_bits - 1) - 1)
    counts = torch.as_tensor(unit.total if digits is None else digits).long().cpu().expand(len(inputs))
    for count in sorted(set(counts.tolist())):
        unit.checked_digits(count)
    return counts


def _check_biases(weights: Tensor, unit: Unit, preloaded: Tensor | None, serial: Tensor | None) -> None:
    if unit.arithmetic == "carry_save" and (preloaded is not None or serial is not None):
        raise UsageError("the carry-save unit has no bias", where="preloaded, serial", allowed="None")
    if serial is not None:
        half = 2 ** (unit.bits + unit.weight_bits - 2)
        _within(serial, "serial", -half, half - 1, what="a bias is out of range")
    if preloaded is not None:
        # Also for prefixes of the inputs, so the largest input stands for each of them.
        largest = max(-unit.inputs[0], unit.inputs[1])
        bound = int((weights.long().abs().sum(1) * largest + preloaded.long().abs()).max())
        if bound > 2**unit.total:
            what = "the unit's digits cannot hold the sum"
            raise UsageError(what, where="preloaded", got=bound, allowed=2**unit.total, then="Use a unit of more terms")


def _within(values: Tensor, name: str, low: int, high: int, *, what: str = "an operand is out of range") -> None:
    if int(values.min()) < low or int(values.max()) > high:
        got = f"{int(values.min())} to {int(values.max())}"
        raise UsageError(what, where=name, got=got, allowed=f"{low} to {high}")


def _vectors(
    inputs: Tensor, weights: Tensor, unit: Unit, counts: Tensor, preloaded: Tensor | None, serial: Tensor | None
) -> str:
    """One hexadecimal word a sum, fields as the testbench takes them apart: the last one lowest."""
    nothing = torch.zeros(len(inputs), dtype=torch.int64)
    late = unit.bits + unit.weight_bits - 1  # digits of a serial bias
    width = unit.fraction + 3 + (0 if preloaded is None else unit.bits)
    planes = digit_planes(inputs, bits=unit.bits).movedim(0, 1)  # a sign is no bit: the unit counts it negatively
    fields = [
        _bits(counts, 8),
        _bits(nothing if serial is None else serial, late).flip(1),
        _bits(nothing if preloaded is None else preloaded, width),
        planes.flatten(1),
        _bits(weights, unit.weight_bits).flatten(1),
    ]
    rising = torch.cat([field.cpu() for field in fields], 1).numpy().astype(np.uint8)
    places = rising.shape[1]
    packed = np.packbits(np.pad(rising, ((0, 0), (0, -places % 8)))[:, ::-1], axis=1)
    width = (places + 3) // 4  # a byte may have one hexadecimal digit too many for the testbench's word
    return "\n".join(row.tobytes().hex()[-width:] for row in packed) + "\n"


def _bits(values: Tensor, width: int) -> Tensor:
    """(..., width) bits of integers in two's complement, the lowest first."""
    return values.long()[..., None] >> torch.arange(width, device=values.device) & 1


def _run(folder: Path, parameters: Mapping[str, int], verilog: Path, timeout_s: float) -> str:
    """Compiles and simulates in a folder that holds the vectors; what the testbench wrote."""
    for tool in ("iverilog", "vvp"):
        if shutil.which(tool) is None:
            then = "Install Icarus Verilog: `apt-get install iverilog` or `brew install icarus-verilog`"
            raise UsageError("the simulator is not installed", where=tool, allowed="a program on PATH", then=then)
    files = sorted(str(path.resolve()) for path in verilog.glob("*.v"))
    given = [f"-P{_BENCH}.{name}={value}" for name, value in parameters.items()]
    _call(
        ["iverilog", "-g2005", *_WARNINGS, "-s", _BENCH, "-o", "unit.vvp", *given, *files], folder, verilog, timeout_s
    )
    _call(["vvp", "-n", "unit.vvp"], folder, verilog, timeout_s)
    return (folder / "results.txt").read_text()


def _call(command: Sequence[str], folder: Path, verilog: Path, timeout_s: float) -> None:
    """Runs a tool; anything that it says, warnings included, is an error."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        then = "Give fewer windows, or more seconds as timeout_s"
        what = f"{command[0]} did not end within {timeout_s:g} s"
        raise SimulationError(what, where=verilog, then=then) from error
    said = (done.stdout + done.stderr).strip()
    if done.returncode or said:
        raise SimulationError(f"{command[0]} failed", where=verilog, got=said[:2000] or f"exit code {done.returncode}")


def _signals(text: str, count: int, seconds: float) -> Signals:
    lines = [line.split() for line in text.splitlines()]
    try:
        rows = [[int(ones, 16), int(minus_ones, 16), *map(int, rest)] for ones, minus_ones, *rest in lines]
        ones, minus_ones, emitted, silent, clocks, ended = torch.tensor(rows, dtype=torch.int64).unbind(1)
    except ValueError as error:  # Verilog writes x for a bit without a value
        raise SimulationError("the unit put out an undefined digit", where="results.txt", got=error) from error
    if len(rows) != count:
        raise SimulationError("sums are missing", where="results.txt", got=len(rows), allowed=count)
    places = emitted[:, None] - 1 - torch.arange(int(emitted.max()))
    shifts, there = places.clamp(min=0), places >= 0
    digits = ((ones[:, None] >> shifts & 1) - (minus_ones[:, None] >> shifts & 1)) * there
    return Signals(digits, emitted, silent, clocks, ended, seconds)
