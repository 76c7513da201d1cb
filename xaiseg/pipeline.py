"""The five stages in a row: what `xaiseg audit`, `judge` and `render` do, and `xaiseg.audit()` from Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaiseg.checks.base import get_check
from xaiseg.errors import CheckError, UsageError
from xaiseg.estimate import Estimate, estimate_run
from xaiseg.judge import Finding, Overall, Verdict, judge
from xaiseg.plan_document import protocol_document
from xaiseg.protocol import Protocol, load_protocol
from xaiseg.run import RunDirectory, plain
from xaiseg.sentences import refuse_unreachable

if TYPE_CHECKING:
    from xaiseg.modelfile import ModelFile
    from xaiseg.plan import Draft, Options

#: Told (stage, done, total) as work proceeds.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Audit:
    """The outcome of an audit.

    Attributes:
        run: the run directory.
        overall: the verdict of the audit.
        findings: one finding a requirement.
        estimates: every number with its interval.
        files: what was written, by name ("report.html", ...).
        warnings: what went less well, e.g. no PDF.
    """

    run: Path
    overall: Overall
    findings: tuple[Finding, ...]
    estimates: tuple[Estimate, ...]
    files: Mapping[str, Path] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst gate."""
        return self.overall.verdict

    @property
    def exit_code(self) -> int:
        """0 all gates pass, 1 a gate fails, 3 insufficient or not run, 4 a gate check crashed."""
        return self.overall.exit_code


def _silent(stage: str, done: int, total: int) -> None:
    """Progress for callers that want none."""


def open_model(
    path: str | Path,
    *,
    data: Mapping[str, str | Path] | None = None,
    data_root: str | Path | None = None,
    empty_share: float | None = None,
) -> ModelFile:
    """Reads model.yaml and applies ``--data NAME=DIR`` (:func:`in_place_of`), ``--data-root`` and ``--empty-share``."""
    from xaiseg.data.readers import entry_from_folder, in_place_of
    from xaiseg.modelfile import read_model_file

    model = read_model_file(path)
    if data_root is not None:
        model = model.override_data_root(Path(data_root))
    if empty_share is not None:
        model = model.with_empty_share(empty_share)
    for name, folder in (data or {}).items():
        model = model.with_data(name, in_place_of(model.data.get(name), entry_from_folder(Path(folder), name=name)))
    return model


def draft(model: ModelFile, protocol: Protocol, options: Options) -> Draft:
    """Plans without writing."""
    from xaiseg.plan import make_plan

    return make_plan(model, protocol, options)


def audit(
    model: str | Path,
    protocol: str | Path = "clinical",
    *,
    data: Mapping[str, str | Path] | None = None,
    data_root: str | Path | None = None,
    empty_share: float | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    engine: str = "serial",
    workers: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int = 1,
    against: str | Path | None = None,
    allow_insufficient: bool = False,
    pdf: bool = True,
    command: str = "",
    progress: Progress = _silent,
) -> Audit:
    """Audits a model: plan, measure, estimate, judge and render.

    Args:
        model: path of model.yaml.
        protocol: name of a shipped protocol or path of a protocol file.
        data: data entry -> folder with images/, masks/ and perhaps meta.csv, in place of the entry in model.yaml.
        data_root: folder that relative data paths of model.yaml start from.
        empty_share: share of images without an object in the survey that a detector is meant for.
        out: run directory; a run that is there and has the same key goes on.
        limit: audit whole clusters drawn at random up to this many cases; caps the gates at INSUFFICIENT.
        engine: "serial", or "processes" (a script that uses it needs the usual ``if __name__ == "__main__":``).
        workers: processes; None = one a core.
        seed: seed of everything.
        device: "auto", "cpu", "cuda", ...
        threads: threads of each worker.
        against: a former run to compare with.
        allow_insufficient: exit code 0 in place of 3.
        pdf: also write report.pdf.
        command: how it was called, for the report.
        progress: told (stage, done, total).

    Returns:
        The outcome; the documents lie in ``Audit.run``.

    Raises:
        UsageError: a file or an option is wrong.
        NothingToAudit: there is no case or no check.
    """
    from xaiseg.plan import Options

    opened = open_model(model, data=data, data_root=data_root, empty_share=empty_share)
    resolved = load_protocol(str(protocol))
    if against is not None:
        RunDirectory.existing(against).read_json("audit.json")  # before anything is measured
    said = command or f"xaiseg.audit({str(model)!r}, {str(protocol)!r}, seed={seed})"
    options = Options(
        out=Path(out) if out else None, limit=limit, seed=seed, device=device, threads=threads, command=said
    )
    with _threads(threads):
        progress("plan", 0, 1)
        run = draft(opened, resolved, options).write()
        progress("plan", 1, 1)
        measure(run, engine=engine, workers=workers, progress=progress)
    return conclude(run, resolved, allow_insufficient=allow_insufficient, against=against, pdf=pdf, progress=progress)


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Sets the threads of torch, and gives a caller's own number back: too many cost a factor of ten on two cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(run: RunDirectory, *, engine: str, workers: int | None = None, progress: Progress = _silent) -> None:
    """Runs the shards that are not done yet."""
    from xaiseg.engines import open_shards, run_shards

    total = run.plan()["shards"] + 1
    done = total - len(open_shards(run))
    progress("measure", done, total)
    for _ in run_shards(run, engine=engine, workers=workers):
        done += 1
        progress("measure", done, total)


def conclude(
    run: RunDirectory,
    protocol: Protocol,
    *,
    allow_insufficient: bool = False,
    against: str | Path | None = None,
    pdf: bool = True,
    progress: Progress = _silent,
) -> Audit:
    """Estimates, judges and renders a measured run; never touches the model."""
    plan = run.plan()
    not_run = unmeasured(plan, protocol)
    progress("estimate", 0, 1)
    estimates, crashed = estimate_run(run, protocol, skip=not_run)
    progress("estimate", 1, 1)
    looks = _count_look(run, protocol)
    findings, overall = judge(
        protocol,
        estimates,
        facts={
            **plan["facts"],
            "looks_taken": looks,
            "n_clusters": plan["data"]["test"]["n_clusters"],
            "n_failed": sum(row["kind"] == "failed" and not row["check"] for row in run.errors()),
        },
        crashed=crashed,
        not_run=not_run,
        allow_insufficient=allow_insufficient,
    )
    run.write_json("crashed.json", crashed)
    run.save_estimates(estimates)
    run.save_findings(findings, overall)
    run.write_json("judged.json", protocol_document(protocol) | {"looks_taken": looks, "unmeasured": not_run})
    files, warnings = render(run, pdf=pdf, against=against, progress=progress)
    return Audit(run.path, overall, tuple(findings), tuple(estimates), files, warnings)


def render(
    run: RunDirectory, *, pdf: bool = True, against: str | Path | None = None, progress: Progress = _silent
) -> tuple[Mapping[str, Path], tuple[str, ...]]:
    """Draws the documents again from the run directory alone."""
    from xaiseg.reports import render as draw

    progress("render", 0, 1)
    drawn = draw(run.path, pdf=pdf, against=Path(against) if against else None)
    progress("render", 1, 1)
    return drawn.files, drawn.warnings


def rejudge(
    path: str | Path, protocol: str | Path | None = None, *, allow_insufficient: bool = False, pdf: bool = True
) -> Audit:
    """Decides a run again, under the protocol it was planned with or another one.

    Raises:
        UsageError: the run is not complete.
    """
    from xaiseg.engines import open_shards
    from xaiseg.protocol import protocol_from_document

    run = RunDirectory.existing(path)
    missing = len(open_shards(run))
    if missing:
        raise UsageError(
            f"{missing} shards of this run are not measured yet",
            where=run.path,
            then=f"Go on with: {run.plan()['command']}",
        )
    resolved = load_protocol(str(protocol)) if protocol else protocol_from_document(run.plan()["protocol"])
    refuse_unreachable(resolved)
    return conclude(run, resolved, allow_insufficient=allow_insufficient, pdf=pdf)


def unmeasured(plan: Mapping[str, Any], protocol: Protocol) -> dict[str, str]:
    """Checks of a protocol whose rows this run does not hold, or holds with other parameters, and why."""
    planned = {item["id"]: item for item in plan["checks"]}
    again = f"Measure it with: xaiseg audit {plan['model']['path']} --protocol {protocol.source}"
    reasons: dict[str, str] = {}
    for name, wanted in protocol.checks.items():
        held = planned.get(name)
        if held is None:
            reasons[name] = f"this run did not measure it. {again}"
        elif not held["runs"]:
            reasons[name] = held["reason"]
        elif held["params"] != plain(wanted.params) or held["sample"] != wanted.sample:
            reasons[name] = f"it was measured with other parameters. {again}"
    for name in protocol.checks:
        unread = [other for other in get_check(name).reads if other in reasons]
        if unread and name not in reasons:
            reasons[name] = f"it reads {unread[0]}: {reasons[unread[0]]}"
    return reasons


def _count_look(run: RunDirectory, protocol: Protocol) -> int:
    """Notes that this run was judged under this protocol, and returns its place among the protocols that judged it.

    Judging again under a protocol that was there before is no new look.

    Raises:
        CheckError: looks.json is damaged.
    """
    held = run.read_json("looks.json") if (run.path / "looks.json").is_file() else []
    if not isinstance(held, list):
        raise CheckError("looks.json is damaged", where=run.path)
    looks: Sequence[str] = held if protocol.sha256 in held else [*held, protocol.sha256]
    if looks is not held:
        run.write_json("looks.json", looks)
    return looks.index(protocol.sha256) + 1
