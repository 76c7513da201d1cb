"""Does the Verilog do what the simulator does? Windows of every convolution, digit by digit and clock by clock.

The last rung of the ladder. A whole network is out of a clock-by-clock simulator's reach, so output values of the first
audited image are drawn from every convolution, among them ties, limits and the largest sums. It needs Icarus Verilog.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import torch

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.quantities import fact, missing
from xaiseg.errors import UsageError
from xaiseg.hardware.cosimulation import Cosimulated, cosimulate

if TYPE_CHECKING:
    from xaiseg.data.case import Dataset

ID: Final = "equivalence.rtl"
NO_ICARUS: Final = "Icarus Verilog is not installed; install it (apt-get install iverilog) and audit into a new --out"
_COUNTS: Final = ("digits", "digits_differ", "values_differ", "clocks", "clocks_differ", "ended", "ended_differ")


@dataclass(frozen=True)
class Params:
    """How much is simulated.

    Attributes:
        windows: output values of each convolution.
    """

    windows: int = 10

    def __post_init__(self) -> None:
        if self.windows < 1:
            raise UsageError("no such number of windows", where=f"{ID}: windows", got=self.windows, allowed="1 or more")


@check(
    ID,
    question="Does the Verilog do what the simulator does?",
    needs=("model", "variants"),
    params=Params,
    columns=[("windows", pa.int64()), *((name, pa.int64()) for name in _COUNTS)],
)
class EquivalenceRtl:
    """One row a variant and convolution (``target``)."""

    def measure_once(self, context: Context, datasets: Mapping[str, Dataset]) -> Iterable[Row]:
        """Simulates windows of the first audited image in Icarus."""
        case = context.load(datasets["test"].cases[0])
        for name, variant in context.variants.items():
            build = variant.build
            if build is None or build.deployed is None:
                continue
            if shutil.which("iverilog") is None or shutil.which("vvp") is None:
                yield {"subject": name, "status": "not_applicable", "reason": NO_ICARUS}
                continue
            arguments = build.arguments(build.to_grid(torch.as_tensor(case.image)[None]))
            found = cosimulate(build.deployed, arguments, windows=context.params.windows, seed=context.seed)
            for layer in found:
                yield {"subject": name, "target": layer.path, **_counts(layer)}

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """Sums over the convolutions of each build."""
        table = tables.rows[ID]
        for name in tables.facts["variants"]:
            for quantity in _sums(table[table["subject"] == name]):
                yield replace(quantity, subject=name)


def _counts(layer: Cosimulated) -> Row:
    windows = sum(layer.strata.values())
    return {"windows": windows} | {name: getattr(layer, name) for name in _COUNTS}


def _sums(rows: Any) -> Iterator[Quantity]:
    held = rows[rows["status"] == "ok"]
    if held.empty:
        reasons = rows.loc[rows["status"] != "ok", "reason"].tolist()
        yield missing("differences", reasons[0] if reasons else "the build does not run on digit-serial units")
        return
    differ = int(held[[name for name in _COUNTS if name.endswith("_differ")]].to_numpy().sum())
    note = f"Digits, values, clocks and ENDs of {int(held['windows'].sum())} windows of {len(held)} convolutions."
    yield fact("differences", differ, better="lower", of="window", note=note)
    yield fact("digits_compared", int(held["digits"].sum()), of="digit", note="Digits that the Verilog emitted.")
    yield fact("clocks_simulated", int(held["clocks"].sum()), of="clock", note="Clocks of all windows together.")
