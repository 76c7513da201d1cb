"""Stage 1: what will be measured, on which cases, with which batch and threads - fixed before any result is seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xaiseg.checks.base import OTHER_TASK, Check, get_check
from xaiseg.checks.detection_counts import known_empty
from xaiseg.context import stored_answers
from xaiseg.data.case import SURVEY
from xaiseg.errors import DataError, MissingFileError, NothingToAudit, SubjectError, UsageError, did_you_mean
from xaiseg.plan_document import plan_document
from xaiseg.protocol import Protocol
from xaiseg.run import RunDirectory, plain
from xaiseg.statistics.sampling import limit_clusters, sample_cases
from xaiseg.subject import Detector, Segmenter, Subject

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case, CaseRef, Dataset, ImageSpec
    from xaiseg.modelfile import ModelFile

SHARD_CASES: Final = 16


@dataclass(frozen=True)
class Options:
    """What the caller of an audit chooses besides model and protocol.

    Attributes:
        out: run directory; None = runs/<model>-<protocol>-<key8>.
        limit: draw whole clusters until this many cases are in; caps the gates.
        seed: seed of everything.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        threads: threads of each worker. One by default, so that serial and parallel runs give the same rows.
        batch: images a forward pass; None lets the plan choose.
        command: how the audit was called, for the report.
    """

    out: Path | None = None
    limit: int | None = None
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    batch: int | None = None
    command: str = ""


@dataclass(frozen=True)
class Draft:
    """A plan that is not written yet: the document, the case table and where it would go."""

    document: dict[str, Any]
    cases: pd.DataFrame
    out: Path
    notes: tuple[str, ...] = field(default=())

    def write(self) -> RunDirectory:
        """Writes the plan, or takes up the run that is there when it has the same key.

        Raises:
            UsageError: the directory holds a run of another model, of other data or of other parameters.
        """
        run = RunDirectory(self.out)
        if self.out.exists() and not self.out.is_dir():
            raise UsageError("this is a file, not a directory", where=self.out, then="Choose another --out")
        if (self.out / "plan.json").is_file():
            held = run.plan()
            if held["key"] != self.document["key"]:
                raise UsageError(
                    "this directory holds another run",
                    where=self.out,
                    got=f"{held['model']['name']}, key {held['key'][:8]}",
                    allowed=f"{self.document['model']['name']}, key {self.document['key'][:8]}",
                    then="Choose another --out, or delete the directory",
                )
            run.sweep()
            return run
        # A kill between the two files of a plan leaves the first one alone.
        held_names = {path.name for path in self.out.iterdir()} if self.out.exists() else set()
        if any(name != "cases.parquet" and not name.endswith(".tmp") for name in held_names):
            raise UsageError(
                "this directory is not empty and holds no run", where=self.out, then="Choose another --out"
            )
        import pyarrow as pa

        run.sweep()
        run.write_cases(pa.Table.from_pandas(self.cases, preserve_index=False))
        run.write_json("plan.json", self.document)
        return run


def make_plan(model: ModelFile, protocol: Protocol, options: Options) -> Draft:
    """Plans an audit: opens the data, loads the subject once, tries one prediction, matches needs with offers.

    Raises:
        UsageError: something in the files or options is wrong.
        SubjectError: the first images cannot be predicted at all.
        NothingToAudit: no case or no check is left.
    """
    from xaiseg.loading import load_subject
    from xaiseg.sentences import refuse_unreachable

    refuse_unreachable(protocol)
    spec = model.image_spec()
    if "test" not in model.data:
        raise UsageError(
            "model.yaml names no test data", where=model.path, then="Add data: test: or use --data test=DIR"
        )
    datasets = {name: _opened(name, model, spec) for name in model.data}
    _check_subjects(protocol, model)
    device = choose_device(options.device)
    subject = load_subject(model, device=device)
    first = _try_subject(model, datasets["test"], subject)
    cases = _case_table(datasets["test"], protocol, options)
    checks = _match_checks(protocol, subject, datasets, first, cases, model.variants)
    variants = _try_variants(model, datasets, checks, first, options, device)
    if not any(check["runs"] for check in checks):
        then = checks[0]["reason"] if checks else "It lists no checks"
        raise NothingToAudit("no check of this protocol can run", where=protocol.source, then=then)
    document = plan_document(model, protocol, options, datasets, subject, checks, cases, first, device, variants)
    out = options.out or Path("runs") / f"{_slug(model.name)}-{_slug(protocol.name)}-{document['key'][:8]}"
    return Draft(document, cases, out)


def _opened(name: str, model: ModelFile, spec: ImageSpec) -> Dataset:
    """An entry of ``data:``; the message of a reader names a file and not the entry that it was read for."""
    from xaiseg.data.readers import open_dataset

    try:
        return open_dataset(name, model.data[name], root=model.data_root, spec=spec)
    except (UsageError, NothingToAudit) as error:
        if len(model.data) == 1:
            raise
        then = f"It belongs to data: {name} in {model.path.name}"
        if isinstance(error, MissingFileError):
            then += f"; --data-root and --data {name}=DIR name another place"
        raise type(error)(str(error), then=then) from error


def _check_subjects(protocol: Protocol, model: ModelFile) -> None:
    """Refuses a requirement on a variant that model.yaml does not name, before hours are spent."""
    known = {"reference", "each", *model.variants}
    for requirement in protocol.requires:
        if requirement.subject not in known:
            raise UsageError(
                "a requirement names a variant that model.yaml does not have", where=protocol.source,
                got=f"subject: {requirement.subject} ({requirement.check} {requirement.metric})",
                then=did_you_mean(requirement.subject, known),
            )  # fmt: skip


def choose_device(wish: str) -> str:
    """The device named, or for "auto" CUDA where there is one, else the CPU.

    Raises:
        UsageError: the device is not available.
    """
    import torch

    if wish == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=wish)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError("this device is not available", where="--device", got=f"{wish} ({reason})") from error
    return wish


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in text.lower()).strip("-")[:40]


def _try_subject(model: ModelFile, dataset: Dataset, subject: Subject) -> Case:
    """Predicts one of the first images, so that a model that cannot work fails before anything is measured."""
    from xaiseg.data.readers import load_case
    from xaiseg.detection_file import DetectionFile

    if isinstance(subject, DetectionFile):
        subject.refuse_shared([ref.id for ref in dataset.cases])
    problems: list[Exception] = []
    for ref in dataset.cases[:8]:
        try:
            case = load_case(model.data["test"], ref, model.image_spec())
        except DataError as error:
            problems.append(error)
            continue
        try:
            _predict_one(subject, case)
        except SubjectError as error:
            problems.append(error)
            continue
        return case
    raise next((p for p in problems if isinstance(p, SubjectError)), problems[0])


def _predict_one(subject: Subject, case: Case) -> None:
    import torch

    if getattr(subject, "by_case", False):
        stored_answers(subject, [case.id], [case.shape])
    else:
        subject.predict([torch.as_tensor(case.image)], batch_size=1)


def _try_variants(
    model: ModelFile,
    datasets: Mapping[str, Dataset],
    checks: Sequence[Mapping[str, Any]],
    first: Case,
    options: Options,
    device: str,
) -> dict[str, Any]:
    """Builds the variants and lets each predict once, where a check will compare them; what the plan keeps of each."""
    if not any("variants" in get_check(item["id"]).needs for item in checks if item["runs"]):
        return {}
    from xaiseg.data.readers import load_case
    from xaiseg.variants import load_variants

    def load(ref: CaseRef, entry: str) -> Case:
        return load_case(model.data[entry], ref, model.image_spec())

    found = load_variants(model, datasets, load, device=device, seed=options.seed)
    for name, variant in found.items():
        try:
            _predict_one(variant.subject, first)
        except SubjectError as error:
            where = model.where("variants", name)
            raise UsageError("the variant cannot predict the first image", where=where, got=error) from error
    return {name: variant.facts() for name, variant in found.items()}


def _case_table(dataset: Dataset, protocol: Protocol, options: Options) -> pd.DataFrame:
    """One row a case: case, cluster, shard, strata, survey columns, and for each check the chance of being drawn."""
    import pandas as pd

    pairs = [(ref.id, ref.cluster) for ref in dataset.cases]
    if options.limit is not None:
        kept = limit_clusters(pairs, options.limit, seed=options.seed)
        pairs = [pair for pair in pairs if pair[0] in kept]
    if not pairs:
        raise NothingToAudit("there is no case to audit", where=dataset.source)
    refs = {ref.id: ref for ref in dataset.cases}
    frame = pd.DataFrame({"case": [case for case, _ in pairs], "cluster": [cluster for _, cluster in pairs]})
    frame["shard"] = [index // SHARD_CASES for index in range(len(pairs))]
    for factor in dataset.strata:
        frame[factor] = [refs[case].strata.get(factor, "") for case, _ in pairs]
    for column in SURVEY:
        if any(refs[case].survey.get(column) for case, _ in pairs):
            frame[f"survey:{column}"] = [refs[case].survey.get(column, "") for case, _ in pairs]
    suffixes = [Path(refs[case].image).suffix for case, _ in pairs]
    if any(suffixes):
        frame["image:file"] = [case + suffix for (case, _), suffix in zip(pairs, suffixes, strict=True)]
    for name, planned in protocol.checks.items():
        size = planned.sample if planned.sample is not None else len(pairs)
        drawn = sample_cases(pairs, size, seed=options.seed, purpose=name)
        frame[f"p:{name}"] = [drawn.get(case, 0.0) for case, _ in pairs]
    return frame


def _match_checks(
    protocol: Protocol,
    subject: Subject,
    datasets: Mapping[str, Dataset],
    first: Case,
    cases: pd.DataFrame,
    variants: Collection[str],
) -> list[dict[str, Any]]:
    """Which checks run, and in words why the others cannot."""
    # A folder of predictions is no model: it answers for its own cases and for no other image.
    offered = set(subject.info.offers) | (set() if getattr(subject, "by_case", False) else {"model"})
    offered |= (
        {"segmenter"} if isinstance(subject, Segmenter) else {"detector"} if isinstance(subject, Detector) else set()
    )
    offered |= {"reference"} if first.reference is not None or first.boxes is not None else set()
    offered |= {"train_list"} if "train" in datasets else set()
    offered |= {"variants"} if variants else set()
    planned: list[dict[str, Any]] = []
    for name, plan in protocol.checks.items():
        check = get_check(name)
        lacking = sorted(check.needs - offered)
        unread = [other for other in check.reads if other not in protocol.checks]
        reason = _why_not(lacking) if lacking else ""
        reason = reason or (f"it reads {', '.join(unread)}, which the protocol leaves out" if unread else "")
        planned.append(
            {
                "id": name,
                "question": check.question,
                "params": plain(plan.params),
                "sample": plan.sample,
                "cases": int((cases[f"p:{name}"] > 0).sum()),
                "runs": not reason,
                "reason": reason,
                "forwards": _forwards(check, plan.params) if "model" in offered else None,
            }
        )
    return planned


#: Needs that have words of their own; the first of them speaks.
_WHY_NOT: Final = {
    **OTHER_TASK,
    "model": "it needs the model itself; stored predictions cannot be asked about changed images",
    "variants": "model.yaml names no variants; add e.g. variants: {msdf8: {hardware: msdf, bits: 8}}",
}


def _why_not(lacking: list[str]) -> str:
    """A check of the other task is not lacking anything that somebody could supply."""
    known = next((name for name in _WHY_NOT if name in lacking), None)
    return _WHY_NOT[known] if known else f"the subject or the data do not offer {', '.join(lacking)}"


def _forwards(check: Check, params: Any) -> int | None:
    """Forwards a case, where the check can say it beforehand."""
    count = getattr(check, "forwards", None)
    return int(count(params)) if count is not None else None


def describe_plan(draft: Draft, protocol: Protocol) -> list[str]:
    """What `xaiseg plan` prints: the cases, each check with its cost or why it cannot run, and the sizes needed."""
    from xaiseg.sentences import explain_lines

    document = draft.document
    test = document["data"]["test"]
    lines = [
        f"{document['model']['name']} under {protocol.name} {protocol.version} (sha256 {protocol.sha256[:12]})",
        f"{test['n_cases']} cases in {test['n_clusters']} clusters, {document['shards']} shards",
        f"batch {document['batch']}, {document['threads']} thread a worker, {document['device']}",
        f"would go to {draft.out}",
        *document["assumptions"],
        "",
    ]
    for item in document["checks"]:
        cost = "" if item["forwards"] is None else f", about {item['forwards'] * item['cases']} forwards"
        state = f"{item['cases']} cases{cost}" if item["runs"] else f"NOT RUN: {item['reason']}"
        lines.append(f"{item['id']:<26} {state}")
    return [*lines, *_empty_tiles(draft), "", *explain_lines(protocol)]


def _empty_tiles(draft: Draft) -> list[str]:
    """Whether there are tiles enough that are known to be empty, where a check that runs wants some; else nothing."""
    wanted = [item for item in draft.document["checks"] if item["runs"] and "least_empty_tiles" in item["params"]]
    if not wanted:
        return []
    least, drawn = wanted[0]["params"]["least_empty_tiles"], draft.cases[draft.cases[f"p:{wanted[0]['id']}"] > 0]
    survey = {name: drawn[f"survey:{name}"].to_numpy() for name in SURVEY if f"survey:{name}" in drawn}
    count = int(known_empty(survey, len(drawn)).sum())
    if count >= least:
        return []
    found = "none of the images is" if not count else "1 image is" if count == 1 else f"{count} images are"
    needed = f"{least} are needed for a verdict on false alarms and on precision where most tiles are empty"
    return ["", f"{found} known to be empty (column known_empty) and not augmented; {needed}"]
