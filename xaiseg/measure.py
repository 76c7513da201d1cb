"""Stage 2: one shard of cases becomes rows, evidence and costs. Knows no threshold.

``measure_shard`` is the function that every engine calls; it is a pure function of the plan and the shard's number, so
serial, parallel and resumed runs write the same tables.
"""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import torch

from xaiseg.checks.base import Check, Row, check_params, get_check
from xaiseg.context import CaseContext, Counter, Predictor, Window
from xaiseg.data.case import Case, CaseRef, Dataset, ImageSpec
from xaiseg.data.readers import load_case, open_dataset
from xaiseg.errors import DataError, SubjectError
from xaiseg.evidence import gallery_arrays, window_arrays
from xaiseg.loading import load_subject, read_model_file
from xaiseg.run import COSTS, ERRORS, ONCE, EvidenceItem, RunDirectory, chosen_kinds
from xaiseg.seeds import derive_seed
from xaiseg.subject import Boxes, Prediction, Subject
from xaiseg.variants import Variant, load_variants

if TYPE_CHECKING:
    from xaiseg.data.entry import DataEntry

#: Gallery candidates kept by each shard; the report shows the best of them.
KEEP: Final = 6

ERROR_SCHEMA: Final = pa.schema([(name, pa.string()) for name in ("case", "check", "kind", "reason", "traceback")])
COST_SCHEMA: Final = pa.schema(
    [
        ("check", pa.string()),
        ("cases", pa.int64()),
        ("seconds", pa.float64()),
        ("forwards", pa.int64()),
        ("backwards", pa.int64()),
        ("note", pa.string()),
    ]
)


@dataclass
class Kit:
    """What a worker holds while it measures: the plan, the subject, the checks and the readers.

    Opened once a process; shards then follow one another.
    """

    run: RunDirectory
    plan: dict[str, Any]
    subject: Subject | None
    spec: ImageSpec
    entries: Mapping[str, DataEntry]
    datasets: Mapping[str, Dataset]
    checks: list[tuple[Check, Any]]
    sampled: Mapping[str, Mapping[str, float]]
    by_shard: Mapping[int, list[str]]
    refs: Mapping[str, CaseRef] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> Kit:
        """Reads the plan, loads the subject and fixes the number of threads."""
        run = RunDirectory.existing(path)
        plan = run.plan()
        torch.set_num_threads(plan["threads"])
        model = read_model_file(plan["model"]["path"])
        entries = {name: _entry(document) for name, document in plan["entries"].items()}
        spec = model.image_spec()
        root = Path(plan["data_root"])
        datasets = {name: open_dataset(name, entry, root=root, spec=spec) for name, entry in entries.items()}
        checks = [(get_check(item["id"]), check_params(item)) for item in plan["checks"] if item["runs"]]
        cases = run.cases()
        sampled = {
            check.id: {
                case: chance for case, chance in zip(cases["case"], cases[f"p:{check.id}"], strict=True) if chance > 0
            }
            for check, _ in checks
        }
        by_shard: dict[int, list[str]] = {}
        for case, shard in zip(cases["case"], cases["shard"], strict=True):
            by_shard.setdefault(int(shard), []).append(case)
        refs = {ref.id: ref for ref in datasets["test"].cases}
        subject = load_subject(model, device=plan["device"])
        kit = cls(run, plan, subject, spec, entries, datasets, checks, sampled, by_shard, refs)
        if any("variants" in check.needs for check, _ in checks):
            kit.variants = load_variants(model, datasets, kit.load, device=plan["device"], seed=plan["seed"])
        return kit

    def load(self, ref: CaseRef, entry: str = "test") -> Case:
        """Loads a case of a data entry."""
        return load_case(self.entries[entry], ref, self.spec)

    def load_test(self, name: str) -> Case:
        """Loads a case of the audited data by its id."""
        return self.load(self.refs[name])


def _entry(document: Mapping[str, Any]) -> DataEntry:
    from xaiseg.data.entry import DataEntry

    return DataEntry.model_validate(document)


@dataclass
class _Shard:
    """What accumulates while one shard is measured."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    errors: list[Row] = field(default_factory=list)
    costs: dict[str, Row] = field(default_factory=dict)
    evidence: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    windows: dict[str, dict[str, Window]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()  # of model and data: reports say where below them, and not where on this computer

    def fail(self, case: str, check: str, kind: str, error: BaseException) -> Row:
        """Notes a failed image or a crashed check and returns the row that stands for it."""
        reason = self.said(error)
        trace = "".join(traceback.format_exception(error)) if kind == "crashed" else ""
        self.errors.append({"case": case, "check": check, "kind": kind, "reason": reason, "traceback": trace})
        return {"case": case, "status": kind, "reason": reason}

    def said(self, error: BaseException) -> str:
        """The words of an error, with paths below the folders."""
        text = str(error) or type(error).__name__
        for folder in self.folders:
            text = text.replace(f"{folder}/", "")
        return text

    def spend(self, check: str, seconds: float, counter: Counter, cases: int = 1) -> None:
        """Adds to the costs of a check."""
        empty: Row = {"check": check, "cases": 0, "seconds": 0.0, "forwards": 0, "backwards": 0, "note": ""}
        cost = self.costs.setdefault(check, empty)
        cost["cases"] += cases
        cost["seconds"] += seconds
        cost["forwards"] += counter.forwards
        cost["backwards"] += counter.backwards


def _folders(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """Where model and data lie, the longest first."""
    root = Path(plan["data_root"])
    places = [root / str(entry.get("path") or ".") for entry in plan["entries"].values()]
    places += [root, Path(plan["model"]["path"]).parent]
    found = {str(place) for given in places for place in (given, given.resolve())} - {"/", "."}
    return tuple(sorted(found, key=lambda name: (-len(name), name)))


def measure_shard(kit: Kit, shard: int) -> None:
    """Measures the cases of one shard and writes its tables; the costs last, which marks the shard as done."""
    found = _Shard({check.id: [] for check, _ in kit.checks}, folders=_folders(kit.plan))
    cases: dict[str, Case | DataError] = {}
    started = time.perf_counter()
    for name in kit.by_shard[shard]:
        try:
            cases[name] = kit.load_test(name)
        except DataError as error:
            cases[name] = error
            found.fail(name, "", "failed", error)
    found.spend("load", time.perf_counter() - started, Counter(), len(cases))
    predictor = _predict(kit, cases, found)
    others = _predict_variants(kit, cases, found)
    for (check, params), (name, case) in itertools.product(kit.checks, list(cases.items())):
        if name in kit.sampled[check.id]:
            _measure_case(kit, check, params, name, case, predictor, others, found)
    for check, _ in kit.checks:
        if hasattr(check, "measure"):
            kit.run.write_table(check.id, shard, to_table(check, found.rows[check.id]))
    kit.run.write_evidence(shard, _evidence(kit, cases, predictor, found))
    _close(kit, shard, found, predictor.note)


def _predict(kit: Kit, cases: dict[str, Case | DataError], found: _Shard) -> Predictor:
    """Predicts all images of the shard in batches; an image that fails alone fails alone."""
    predictor = Predictor(kit.subject, kit.plan["batch"])
    if kit.subject is not None:
        started, counter = time.perf_counter(), Counter()
        loaded = {name: case for name, case in cases.items() if isinstance(case, Case)}
        for name, error in predictor.fill(loaded, counter).items():
            cases[name] = DataError(str(error))
            found.fail(name, "", "failed", error)
        found.spend("predict", time.perf_counter() - started, counter, len(loaded))
    return predictor


def _predict_variants(
    kit: Kit, cases: Mapping[str, Case | DataError], found: _Shard
) -> dict[str, tuple[Variant, Predictor]]:
    """The same images by every other build; a build that fails on an image says so when it is asked for it."""
    others = {}
    loaded = {name: case for name, case in cases.items() if isinstance(case, Case)}
    for name, variant in kit.variants.items():
        started, counter = time.perf_counter(), Counter()
        predictor = Predictor(variant.subject, kit.plan["batch"])
        predictor.fill(loaded, counter)
        others[name] = (variant, predictor)
        found.spend(f"predict {name}", time.perf_counter() - started, counter, len(loaded))
    return others


def _measure_case(
    kit: Kit,
    check: Check,
    params: Any,
    name: str,
    case: Case | DataError,
    predictor: Predictor,
    others: Mapping[str, tuple[Variant, Predictor]],
    found: _Shard,
) -> None:
    measure: Callable[..., Iterable[Row]] | None = getattr(check, "measure", None)
    if measure is None:
        return
    rows = found.rows[check.id]
    if isinstance(case, DataError):
        rows.append({"case": name, "status": "failed", "reason": found.said(case)})
        return
    maps = found.evidence.setdefault(name, {})
    context = CaseContext(
        check.id, params, kit.plan, kit.subject, case, predictor, maps, kit.load, kit.datasets, others
    )
    torch.manual_seed(derive_seed(kit.plan["seed"], check.id, name))
    started = time.perf_counter()
    try:
        rows += [{"case": name, **row} for row in measure(context, case)]
    except (DataError, SubjectError) as error:
        rows.append(found.fail(name, check.id, "failed", error))
    except Exception as error:  # noqa: BLE001 - kept with its traceback; a crashed check is an ERROR in the report
        rows.append(found.fail(name, check.id, "crashed", error))
    found.windows.setdefault(name, {}).update({f"{check.id}#{kind}": w for kind, w in context.windows.items()})
    found.spend(check.id, time.perf_counter() - started, context.counter)


def measure_once(kit: Kit) -> None:
    """Runs the ``measure_once`` of each check that has one; its rows are written like a shard."""
    found = _Shard()
    for check, params in kit.checks:
        measure: Callable[..., Iterable[Row]] | None = getattr(check, "measure_once", None)
        if measure is None:
            continue
        others = {name: (variant, Predictor(None, 1)) for name, variant in kit.variants.items()}
        context = CaseContext(
            check.id, params, kit.plan, kit.subject, None, Predictor(None, 1), {}, kit.load, others=others
        )
        started = time.perf_counter()
        try:
            rows = [{"case": "", **row} for row in measure(context, kit.datasets)]
        except Exception as error:  # noqa: BLE001 - kept with its traceback; a crashed check is an ERROR in the report
            rows = [found.fail("", check.id, "crashed", error)]
        found.spend(check.id, time.perf_counter() - started, context.counter, 0)
        kit.run.write_table(check.id, ONCE, to_table(check, rows))
    _close(kit, ONCE, found, "")


def _close(kit: Kit, shard: int | str, found: _Shard, note: str) -> None:
    kit.run.write_table(ERRORS, shard, pa.Table.from_pylist(found.errors, schema=ERROR_SCHEMA))
    costs = [cost | {"note": note} for cost in found.costs.values()]
    kit.run.write_table(COSTS, shard, pa.Table.from_pylist(costs, schema=COST_SCHEMA))


_DEFAULTS: Final[Mapping[str, str]] = {
    "object": "", "subject": "reference", "target": "", "factor": "", "level": "", "status": "ok", "reason": ""
}  # fmt: skip


def to_table(check: Check, rows: Sequence[Row]) -> pa.Table:
    """Rows as a table in the check's schema; key columns that a row leaves out take their defaults.

    Raises:
        ValueError: a row has a column that the check did not declare.
    """
    names = set(check.schema.names)
    for row in rows:
        unknown = set(row) - names
        if unknown:
            raise ValueError(f"check {check.id!r} measured undeclared columns {sorted(unknown)}")
    return pa.Table.from_pylist([{**_DEFAULTS, **row} for row in rows], schema=check.schema)


def _evidence(
    kit: Kit, cases: Mapping[str, Case | DataError], predictor: Predictor, found: _Shard
) -> list[EvidenceItem]:
    """The shard's candidates for the galleries: its worst cases by each check's score and its smallest hashes.

    The places that a check offered by :meth:`CaseContext.window` are ranked the same way, as "<check>#<kind>".
    """
    loaded = {name: case for name, case in cases.items() if isinstance(case, Case)}
    scores: dict[str, dict[str, float]] = {
        name: {kind: window.rank for kind, window in found.windows.get(name, {}).items()} for name in loaded
    }
    for check, _ in kit.checks:
        for row in found.rows.get(check.id, ()) if check.score else ():
            value = row.get(check.score or "")
            if value is not None and np.isfinite(value) and row["case"] in scores:
                held = scores[row["case"]]
                held[check.id] = min(float(value), held.get(check.id, np.inf))
    draws = {name: derive_seed(kit.plan["seed"], "gallery", name) for name in loaded}
    kinds = chosen_kinds([(name, scores[name], draws[name]) for name in loaded], worst=KEEP, random=KEEP)
    return [
        EvidenceItem(
            name,
            tuple(kinds[name]),
            scores[name],
            draws[name],
            _arrays(kit, loaded[name], predictor.held(name), found, kinds[name]),
        )
        for name in sorted(kinds)
    ]


def _arrays(
    kit: Kit, case: Case, answer: Prediction | Boxes | None, found: _Shard, kinds: Sequence[str]
) -> dict[str, np.ndarray]:
    """The whole picture where the case was chosen as a case, and the windows that it was chosen for."""
    arrays: dict[str, np.ndarray] = {}
    if any("#" not in kind for kind in kinds):
        arrays = gallery_arrays(case, answer, found.evidence.get(case.id, {}), kit.spec.value_range)
    for name, window in found.windows.get(case.id, {}).items():
        if f"worst:{name}" in kinds and (answer is None or isinstance(answer, Boxes)):
            arrays |= window_arrays(window.kind, window.xyxy, case, answer, kit.spec.value_range)
    return arrays
