"""What would the build cost on digit-serial hardware? Cycles, time and energy by layer and by image, from a model.

Every figure names its boundary (a processing element, a board), its technology and where its constants come from; the
time is compute-only, since memory traffic is not modelled. An energy that may decide anything is a user's own
measurement: of it the upper end of its interval counts. Sums that stop early are counted on images: what that saves in
energy follows the mean over units, what it saves in time the slowest unit of each group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import torch

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.quantities import UNIT_RANGE, fact, missing
from xaiseg.errors import UsageError
from xaiseg.hardware.cost_rows import measured_cost, network_costs
from xaiseg.hardware.costs import Constant, Cost, given
from xaiseg.hardware.deployed import Deployed
from xaiseg.hardware.designs import DESIGNS, ZYNQ_7020, Accelerator
from xaiseg.hardware.stopping_network import run_stopping
from xaiseg.hardware.termination import Policy
from xaiseg.variants import IntegerBuild

if TYPE_CHECKING:
    from xaiseg.data.case import Case, Dataset

ID: Final = "hardware.cost"
#: Measurements of an energy from which on its mean has an interval.
LEAST_RUNS: Final = 3
_BLOCKS: Final = ("clock_mhz", "outputs", "pixels", "inputs", "lanes")


@dataclass(frozen=True)
class Params:
    """The accelerator, and what the user measured. 0 leaves a number at the published accelerator's.

    Attributes:
        clock_mhz: of the blocks.
        outputs, pixels, inputs: output channels, output pixels and input channels at once.
        lanes: multipliers of a bit-parallel block.
        power_w: watts by design, measured by the user.
        designs: which of ``xaiseg.hardware.designs.DESIGNS`` are computed.
        measured_mj: variant -> measured energies of one image in mJ, three or more.
        cpu_runs: timed forwards of the float network on this machine; 0 = none, so that two runs give the same rows.
    """

    clock_mhz: float = 0.0
    outputs: int = 0
    pixels: int = 0
    inputs: int = 0
    lanes: int = 0
    power_w: Mapping[str, float] = field(default_factory=dict)
    designs: tuple[str, ...] = tuple(DESIGNS)
    measured_mj: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    cpu_runs: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "measured_mj", {name: tuple(runs) for name, runs in self.measured_mj.items()})
        strange = sorted({*self.designs, *self.power_w} - set(DESIGNS))
        if strange:
            raise UsageError("no such design", where=f"{ID}: designs", got=strange[0], allowed=", ".join(DESIGNS))
        for name, runs in self.measured_mj.items():
            if len(runs) < LEAST_RUNS or min(runs) <= 0:
                allowed = f"{LEAST_RUNS} energies or more, above 0"
                raise UsageError("this is no measurement", where=f"{ID}: measured_mj", got=f"{name}: {list(runs)}",
                                 allowed=allowed)  # fmt: skip
        if negative := next((name for name in (*_BLOCKS, "cpu_runs") if getattr(self, name) < 0), None):
            got = getattr(self, negative)
            raise UsageError("this parameter is out of range", where=f"{ID}: {negative}", got=got, allowed="0 or more")

    def accelerator(self) -> Accelerator:
        """The published accelerator with the user's numbers in place of its own."""
        base = ZYNQ_7020

        def own(name: str, unit: str, otherwise: Constant) -> Constant:
            value = getattr(self, name)
            return given(value, unit) if value else otherwise

        inputs = given(self.inputs, "channels") if self.inputs else base.inputs
        power = {name: given(watts, "W") for name, watts in self.power_w.items()}
        return replace(
            base,
            name="the user's accelerator" if power or any(getattr(self, name) for name in _BLOCKS) else base.name,
            clock_mhz=own("clock_mhz", "MHz", base.clock_mhz),
            outputs=own("outputs", "channels", base.outputs),
            pixels=own("pixels", "pixels", base.pixels),
            inputs=inputs,
            lanes=own("lanes", "multipliers", base.lanes),
            power_w={**base.power_w, **power},
        )


@check(
    ID,
    question="What would the build cost on hardware?",
    needs=("model", "variants"),
    params=Params,
    columns=[
        ("kind", pa.string()),  # image | layer | constant | stop
        ("macs", pa.int64()),
        ("terms", pa.int64()),  # products in one sum
        ("windows", pa.int64()),  # sums of an image
        ("digits", pa.int64()),  # emitted, the most of any channel
        ("digits_total", pa.int64()),  # of the exact sum
        ("cycles", pa.float64()),
        ("seconds", pa.float64()),
        ("joules", pa.float64()),
        ("gops", pa.float64()),
        ("value", pa.float64()),  # of a constant
        ("unit", pa.string()),
        ("technology", pa.string()),
        ("boundary", pa.string()),
        ("timing", pa.string()),
        ("source", pa.string()),
        ("note", pa.string()),
        ("saved", pa.float64()),  # share of all units' cycles that stopping early saves
        ("saved_time", pa.float64()),  # share of the groups' cycles
    ],
)
class HardwareCost:
    """Rows of one image's cost a variant, a design (``level``) and a layer (``target``); and of early stops a case."""

    def measure(self, context: Context, case: Case) -> Iterable[Row]:
        """Lets the sums of every digit-serial build stop early: what each rule that changes no mask saves."""
        accelerator = context.params.accelerator()
        for name, (build, deployed) in _serial(context).items():
            arguments = _arguments(build, case)
            for rule, policy in (("end", Policy(head=False)), ("end_and_head", Policy())):
                _, stops = run_stopping(deployed, arguments, policy, accelerator=accelerator)
                context.count(forwards=1)
                full, held = (sum(getattr(row, part) for row in stops) for part in ("cycles_full", "cycles"))
                groups, slowest = (sum(getattr(row, part) for row in stops) for part in ("lockstep_full", "lockstep"))
                yield {
                    "subject": name, "factor": "rule", "level": rule, "kind": "stop", "saved": 1 - held / full,
                    "saved_time": 1 - slowest / groups,
                }  # fmt: skip

    def measure_once(self, context: Context, datasets: Mapping[str, Dataset]) -> Iterable[Row]:
        """The cost of one image of the size of the first audited one."""
        case = context.load(datasets["test"].cases[0])
        params = context.params
        accelerator = params.accelerator()
        for name, constant in accelerator.constants().items():
            yield {
                "kind": "constant", "target": name, "value": constant.value, "unit": constant.unit,
                "source": constant.source, "note": constant.note,
            }  # fmt: skip
        for name, (build, deployed) in _serial(context).items():
            arguments = _arguments(build, case)
            workload = f"{context.facts['name']} {arguments[0].shape[-2]} x {arguments[0].shape[-1]}"
            found = network_costs(
                deployed, arguments, workload=workload, accelerator=accelerator, designs=params.designs
            )
            macs = sum(layer.shape.macs for layer in found.layers)
            for design, cost in found.image.items():
                yield {"subject": name, "kind": "image", "macs": macs, **_cost(design, cost)}
            for layer in found.layers:
                size = {"macs": layer.shape.macs, "terms": layer.shape.terms, "windows": layer.shape.windows}
                size |= {"digits": layer.most_digits, "digits_total": layer.total}
                for design, cost in layer.costs.items():
                    row = {"subject": name, "kind": "layer", "target": layer.shape.path}
                    yield row | size | _cost(design, cost)
            if params.cpu_runs:
                yield {
                    "subject": name,
                    "kind": "image",
                    "macs": macs,
                    **_timed(build, arguments, macs, workload, params),
                }

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """Facts of the model, means of early stops, and the user's own measurement."""
        rows = tables.ok(ID)
        for name in tables.facts["variants"]:
            held = rows[rows["subject"] == name]
            quantities = [*_image(held[held["kind"] == "image"]), *_stops(held[held["kind"] == "stop"])]
            quantities.append(_measured(params.measured_mj.get(name)))
            for quantity in quantities:
                yield replace(quantity, subject=name)


def _serial(context: Context) -> dict[str, tuple[IntegerBuild, Deployed]]:
    """Builds on digit-serial units."""
    builds = {name: variant.build for name, variant in context.variants.items()}
    return {
        name: (build, build.deployed)
        for name, build in builds.items()
        if build is not None and build.deployed is not None
    }


def _arguments(build: IntegerBuild, case: Case) -> tuple[torch.Tensor, ...]:
    return build.arguments(build.to_grid(torch.as_tensor(case.image)[None]))


def _cost(design: str, cost: Cost) -> Row:
    return {
        "factor": "design", "level": design, "cycles": cost.cycles, "seconds": cost.seconds, "joules": cost.joules,
        "gops": cost.gops, "technology": cost.technology, "boundary": cost.boundary, "timing": cost.timing,
        "source": cost.source, "note": "; ".join(cost.notes),
    }  # fmt: skip


def _timed(build: IntegerBuild, arguments: tuple[torch.Tensor, ...], macs: int, workload: str, params: Params) -> Row:
    def call() -> object:
        return build.network(*arguments)

    machine = "this machine's processor"
    return _cost("cpu", measured_cost(call, macs=macs, workload=workload, technology=machine, runs=params.cpu_runs))


def _image(rows: Any) -> Iterator[Quantity]:
    """Facts about one image, by design."""
    if rows.empty:
        yield missing("cycles", "the build does not run on digit-serial units")
        return
    for row in rows.to_dict("records"):
        place = {"factor": "design", "level": row["level"]}
        said = f"{row['timing']}, {row['technology']}, {row['source']}"
        figures = (
            ("cycles", row["cycles"], 1.0, "", f"One image; {said}."),
            ("compute_ms", row["seconds"], 1e3, "ms", f"One image; {said}."),
            ("gops", row["gops"], 1.0, "GOPS", f"Two operations a multiply-add; {said}."),
            ("energy_mj", row["joules"], 1e3, "mJ", f"Power times that time; {row['boundary']}, {said}."),
        )
        for metric, value, scale, unit, note in figures:
            if value is not None and math.isfinite(value):
                yield fact(metric, value * scale, unit=unit, of="image", note=note, **place)


def _stops(rows: Any) -> Iterator[Quantity]:
    notes = {
        "saved": "Cycles of all units that early stops save: what energy follows if one that stops draws nothing.",
        "saved_time": "Cycles of the groups in lockstep that early stops save: what time follows.",
    }
    for rule, held in rows.groupby("level", sort=True):
        for metric, note in notes.items():
            yield Quantity(
                metric, "mean", held["case"].to_numpy(dtype=object), held[metric].to_numpy(dtype=np.float64),
                factor="rule", level=str(rule), bounds=UNIT_RANGE, note=note,
            )  # fmt: skip


def _measured(runs: tuple[float, ...] | None) -> Quantity:
    """The upper end of the one-sided 95 % interval of the user's mean: what may be held against a bound."""
    if not runs:
        return missing("measured_energy_mj", f"no energy was measured; give {ID}: measured_mj in the protocol")
    from scipy.stats import t

    mean, sd = float(np.mean(runs)), float(np.std(runs, ddof=1))
    upper = mean + float(t.ppf(0.95, len(runs) - 1)) * sd / math.sqrt(len(runs))
    note = f"Upper end of the one-sided 95 % interval of {len(runs)} measurements of the user, mean {mean:.4g} mJ."
    return fact("measured_energy_mj", upper, unit="mJ", better="lower", of="image", note=note)
