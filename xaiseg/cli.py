"""The command line: verbs, printing and exit codes; everything else is done elsewhere."""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer

from xaiseg import __version__
from xaiseg.cli_explain import explain
from xaiseg.cli_screen import screen
from xaiseg.cli_tiles import tiles
from xaiseg.cli_zoo import DeviceOption, SeedOption, zoo
from xaiseg.errors import UsageError, XaisegError, did_you_mean
from xaiseg.progress import Bars

if TYPE_CHECKING:
    from xaiseg.pipeline import Audit

app = typer.Typer(
    name="xaiseg",
    help="Audits segmentation and detection models; writes a report with a verdict that has intervals behind it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    epilog="Exit codes: 0 all gates pass, 1 a gate fails, 2 usage, 3 insufficient or not run, 4 a check crashed, "
    "5 nothing to audit.",
)
protocols = typer.Typer(name="protocol", help="Lists, shows, explains and checks protocols.", no_args_is_help=True)
app.add_typer(protocols)
app.add_typer(zoo)
app.command()(explain)
app.command()(tiles)
app.command()(screen)

#: Exit codes that are no verdict: Ctrl-C, and an error that nobody foresaw.
INTERRUPTED: Final = 130
INTERNAL: Final = 70

ModelFileArgument = Annotated[Path, typer.Argument(help="model.yaml", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="A run directory.", show_default=False)]
ProtocolOption = Annotated[
    str, typer.Option("--protocol", "-p", help="A shipped name (xaiseg protocol list) or a file.")
]
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", help="NAME=DIR with images/, masks/ and perhaps meta.csv.", metavar="NAME=DIR"),
]
RootOption = Annotated[Path | None, typer.Option("--data-root", help="Where relative data paths of model.yaml start.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="Run directory; the same command resumes it.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Audit about N cases; caps the gates.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads of each worker; part of the plan.")]
JsonOption = Annotated[str | None, typer.Option("--json", help="Also write audit.json here; - is standard output.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
PdfOption = Annotated[bool, typer.Option("--pdf/--no-pdf", help="Also write report.pdf.")]
EmptyOption = Annotated[
    float | None,
    typer.Option("--empty-share", help="Detectors: share of images without an animal in your survey, e.g. 0.99."),
]
AllowOption = Annotated[bool, typer.Option("--allow-insufficient", help="Exit 0 in place of 3.")]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and ends the process with the exit code of the verdict or the error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    trace = "--traceback" in given
    given = [argument for argument in given if argument != "--traceback"]
    try:
        code = app(args=given, prog_name="xaiseg", standalone_mode=False)
    except XaisegError as error:
        if trace:
            traceback.print_exc()
        _say(f"xaiseg: {error}", err=True)
        code = error.exit_code
    except typer.Exit as error:
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except _click_error() as error:
        error.show()
        code = error.exit_code
    except Exception as error:  # noqa: BLE001 - the last line of defence: said, never swallowed, never a verdict's code
        if trace:
            traceback.print_exc()
        hint = "" if trace else " Run it again with --traceback, and please report it."
        _say(f"xaiseg: unexpected {type(error).__name__}: {error}.{hint}", err=True)
        code = INTERNAL
    if code == INTERRUPTED:
        _say("xaiseg: interrupted. Run the same command again: it goes on where it stopped.", err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _click_error() -> type[Any]:
    # Typer carries its own copy of click in newer releases; the base class of its usage errors follows it.
    return next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def _say(text: str, *, err: bool = False) -> None:
    typer.echo(text, err=err)


def _version(wanted: bool) -> None:
    if wanted:
        _say(f"xaiseg {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    trace: Annotated[bool, typer.Option("--traceback", help="Print the whole traceback of an error.")] = False,
) -> None:
    """Options of every verb."""


def _pairs(data: list[str] | None) -> dict[str, Path]:
    from xaiseg.modelfile import DataName

    names, pairs = get_args(DataName), dict[str, Path]()
    for text in data or ():
        name, separator, folder = text.partition("=")
        if not separator or not name or not folder:
            raise UsageError("this is no pair", where="--data", got=text, allowed="NAME=DIR, e.g. test=images/")
        if name not in names:
            then = hint if (hint := did_you_mean(name, names)).endswith("?") else None
            raise UsageError("this is no entry of data", where="--data", got=name, allowed=", ".join(names), then=then)
        pairs[name] = Path(folder)
    return pairs


def _command() -> str:
    return shlex.join(["xaiseg", *sys.argv[1:]])


@app.command()
def audit(
    model: ModelFileArgument,
    protocol: ProtocolOption = "clinical",
    data: DataOption = None,
    data_root: RootOption = None,
    empty_share: EmptyOption = None,
    out: OutOption = None,
    limit: LimitOption = None,
    engine: Annotated[
        str, typer.Option("--engine", help="processes or serial; both give the same rows.")
    ] = "processes",
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default one a core.")] = None,
    threads: ThreadsOption = 1,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    against: Annotated[Path | None, typer.Option("--against", help="A former run to compare with.")] = None,
    allow_insufficient: AllowOption = False,
    pdf: PdfOption = True,
    json_to: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Audits a model and writes report.html, report.pdf, audit.json, junit.xml, summary.md and cases.csv."""
    from xaiseg import pipeline

    with Bars(quiet=quiet) as bars:
        outcome = pipeline.audit(
            model,
            protocol,
            data=_pairs(data),
            data_root=data_root,
            empty_share=empty_share,
            out=out,
            limit=limit,
            engine=engine,
            workers=workers,
            seed=seed,
            device=device,
            threads=threads,
            against=against,
            allow_insufficient=allow_insufficient,
            pdf=pdf,
            command=_command(),
            progress=bars.tell,
        )
    _finish(outcome, json_to=json_to, quiet=quiet)


def _finish(outcome: Audit, *, json_to: str | None, quiet: bool) -> None:
    """Prints the outcome in a few lines and leaves with its exit code."""
    if json_to:
        text = (outcome.run / "audit.json").read_text(encoding="utf-8")
        if json_to == "-":
            typer.echo(text, nl=False)
        else:
            try:
                Path(json_to).write_text(text, encoding="utf-8")
            except OSError as error:
                raise UsageError(f"cannot write: {error.strerror}", where=f"--json {json_to}") from error
    if not quiet:
        for line in _outcome_lines(outcome):
            _say(line, err=json_to == "-")
    raise typer.Exit(outcome.exit_code)


def _outcome_lines(outcome: Audit) -> list[str]:
    from xaiseg.reports.survey import total_words

    ranks = ("FAIL", "ERROR", "INSUFFICIENT EVIDENCE", "NOT RUN")
    gates = [finding for finding in outcome.findings if finding.requirement.severity == "gate"]
    gates = sorted((one for one in gates if one.verdict.value in ranks), key=lambda one: ranks.index(one.verdict.value))
    lines = [outcome.overall.headline, outcome.overall.sentence]
    lines += [f"note: {caveat}" for caveat in outcome.overall.caveats]
    lines += [f"  {finding.verdict.value}: {finding.sentence}: {finding.reason}" for finding in gates[:5]]
    lines += [f"  and {len(gates) - 5} more, see the report"] if len(gates) > 5 else []
    lines += [total] if (total := total_words(outcome.estimates)) else []
    lines += [f"note: {warning}" for warning in outcome.warnings]
    shown = [outcome.files[name] for name in ("report.html", "report.pdf", "audit.json") if name in outcome.files]
    lines += ["written: " + ", ".join(str(path) for path in shown)]
    meanings = {0: "no gate stands against it", 1: "a gate fails", 3: "evidence is missing", 4: "a check crashed"}
    meaning = meanings[outcome.exit_code]
    if outcome.exit_code == 0 and outcome.verdict.value not in ("PASS", "MEASURED"):
        meaning = "evidence is missing, which --allow-insufficient lets through"
    return [*lines, f"exit code {outcome.exit_code}: {meaning}"]


@app.command()
def plan(
    model: ModelFileArgument,
    protocol: ProtocolOption = "clinical",
    data: DataOption = None,
    data_root: RootOption = None,
    empty_share: EmptyOption = None,
    limit: LimitOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Does everything but run: what can be checked, why the rest cannot, what it costs, how many cases it needs."""
    from xaiseg import pipeline
    from xaiseg.plan import Options, describe_plan
    from xaiseg.protocol import load_protocol

    resolved = load_protocol(protocol)
    opened = pipeline.open_model(model, data=_pairs(data), data_root=data_root, empty_share=empty_share)
    drafted = pipeline.draft(opened, resolved, Options(limit=limit, seed=seed, device=device))
    for line in describe_plan(drafted, resolved):
        _say(line)


@app.command()
def judge(
    run: RunArgument,
    protocol: Annotated[str | None, typer.Option("--protocol", "-p", help="Another protocol: POST HOC.")] = None,
    allow_insufficient: AllowOption = False,
    pdf: PdfOption = True,
    json_to: JsonOption = None,
    quiet: QuietOption = False,
) -> None:
    """Decides a run again from its stored rows; never touches the model."""
    from xaiseg import pipeline

    outcome = pipeline.rejudge(run, protocol, allow_insufficient=allow_insufficient, pdf=pdf)
    _finish(outcome, json_to=json_to, quiet=quiet)


@app.command()
def render(run: RunArgument, pdf: PdfOption = True) -> None:
    """Draws the documents again from the run directory alone."""
    from xaiseg import pipeline
    from xaiseg.run import RunDirectory

    files, warnings = pipeline.render(RunDirectory.existing(run), pdf=pdf)
    for warning in warnings:
        _say(f"note: {warning}", err=True)
    for path in files.values():
        _say(str(path))


@app.command()
def diff(
    run_a: Annotated[Path, typer.Argument(help="The former run.")],
    run_b: Annotated[Path, typer.Argument(help="The newer run.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compares two audits: verdicts that changed, and numbers that moved beyond their intervals."""
    from xaiseg.comparing import compare, comparison_text
    from xaiseg.run import RunDirectory, plain

    documents = [RunDirectory.existing(path).read_json("audit.json") for path in (run_a, run_b)]
    found = compare(*documents)
    _say(json.dumps(plain(found), indent=1, allow_nan=False) if as_json else comparison_text(found))


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="model, protocol or audit.")] = "model",
) -> None:
    """Prints the JSON Schema of model.yaml, of protocol files or of audit.json, for editors and pipelines."""
    from xaiseg.schema import json_schema

    _say(json.dumps(json_schema(kind), indent=1))


@app.command()
def init(
    model: Annotated[str, typer.Argument(help="A model file, or the name of a zoo model.", show_default=False)],
    data: Annotated[
        Path, typer.Option("--data", help="A folder of images with masks or boxes, or a COCO file.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write.")] = Path("model.yaml"),
    trust: Annotated[bool, typer.Option("--trust", help="Allow formats that can execute code.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Writes model.yaml: guesses what it can, marks every guess, and draws a prediction against its reference."""
    from xaiseg.initialise import initialise

    for line in initialise(model, data, out=out, trust=trust, force=force):
        _say(line)


@protocols.command("list")
def protocol_list() -> None:
    """Lists the shipped protocols."""
    from xaiseg.protocol import load_protocol, shipped_protocols

    for name in sorted(shipped_protocols()):
        held = load_protocol(name)
        _say(f"{held.name} {held.version} ({held.as_of}): {held.purpose}")


@protocols.command("show")
def protocol_show(protocol: Annotated[str, typer.Argument(help="Name or file.")]) -> None:
    """Prints a protocol with everything that it extends, resolved."""
    from xaiseg.protocol import load_protocol, protocol_yaml

    _say(protocol_yaml(load_protocol(protocol)))


@protocols.command("explain")
def protocol_explain(protocol: Annotated[str, typer.Argument(help="Name or file.")]) -> None:
    """Prints each requirement as one English sentence with the sample size that it needs."""
    from xaiseg.protocol import load_protocol
    from xaiseg.sentences import explain_lines

    for line in explain_lines(load_protocol(protocol)):
        _say(line)


@protocols.command("check")
def protocol_check(protocol: Annotated[str, typer.Argument(help="Name or file.")]) -> None:
    """Checks a protocol file."""
    from xaiseg.protocol import check_protocol, load_protocol
    from xaiseg.sentences import refuse_unreachable

    problems = check_protocol(protocol)
    for problem in problems:
        _say(problem, err=True)
    if problems:
        raise typer.Exit(2)
    held = load_protocol(protocol)
    refuse_unreachable(held)
    _say(f"{protocol}: {len(held.checks)} checks, {len(held.requires)} requirements, sha256 {held.sha256}")
