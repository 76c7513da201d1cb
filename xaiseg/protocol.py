"""Protocols: what is measured, what is required and why, fixed and hashed before the data are read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from xaiseg.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from xaiseg.protocol_file import Merged


@dataclass(frozen=True)
class Decision:
    """How intervals become verdicts: each one-sided bound holds with ``confidence``; ``looks`` divides alpha."""

    confidence: float = 0.95
    min_clusters: int = 5
    looks: int = 1

    @property
    def alpha(self) -> float:
        """Error probability of one bound at one look."""
        return round(1.0 - self.confidence, 12) / self.looks  # 1 - 0.95 is 0.050000000000000044


@dataclass(frozen=True)
class Requirement:
    """One line of ``requires:``.

    Attributes:
        check, metric: what is bounded.
        bound: the number.
        sense: "at_least" (not below), "at_most" (not above) or "within" (between -bound and +bound; decided by two
            one-sided tests).
        severity: "gate", "warn" or "info".
        why: compulsory for a gate.
        target: class or explanation method, "" = all.
        where: factor -> level, e.g. {"blur_px": "1"}; {"level": "mild"} = every factor at its mild level.
        stratum: name of a declared factor, or "each" for every declared factor; it then binds each of their levels.
        subject: "reference", a variant, or "each" for every variant by itself.
        applies_when: name of a fact that must be true ("readers_see_maps", "not lesion_always_present"), or "".
        gate_when: name of a fact that raises the severity to gate, or "".
        agreed_by: who agreed the bound, or None = a default floor.
        maps_to: {"future-ai": [...], "claim-2024": [...], "eu-ai-act": [...]}.
        assume: {"value", "sd"} for the sample size of the plan.
        source: "file:line".
    """

    check: str
    metric: str
    bound: float
    sense: Literal["at_least", "at_most", "within"]
    severity: Literal["gate", "warn", "info"] = "warn"
    why: str = ""
    target: str = ""
    where: Mapping[str, str] = field(default_factory=dict)
    stratum: str = ""
    subject: str = "reference"
    applies_when: str = ""
    gate_when: str = ""
    agreed_by: str | None = None
    maps_to: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    assume: Mapping[str, float] = field(default_factory=dict)
    source: str = ""

    @property
    def id(self) -> str:
        """check/metric/target/where/stratum/subject, unique in a protocol; the reference is not named."""
        where = ",".join(f"{k}={v}" for k, v in self.where.items())
        subject = "" if self.subject == "reference" else self.subject
        return "/".join(part for part in (self.check, self.metric, self.target, where, self.stratum, subject) if part)


@dataclass(frozen=True)
class CheckPlan:
    """How a check is measured: its parameters and its cases ("all", or a seeded sample of ``sample`` cases)."""

    check: str
    params: Any
    sample: int | None = None


@dataclass(frozen=True)
class Protocol:
    """A resolved protocol.

    Attributes:
        name, version, as_of, purpose, use, not_for: as written; ``use``/``not_for``/``cannot_tell`` are lists of
            sentences for page 1.
        decision: the decision rule.
        checks: check id -> plan, in order.
        requires: requirements in order.
        strata: factors that the protocol requires model.yaml to declare.
        sha256: digest of the resolved text.
        resolved: the resolved document (plain data), ``extends`` merged.
        source: path or shipped name.
    """

    name: str
    version: str
    as_of: str
    purpose: str
    decision: Decision
    checks: Mapping[str, CheckPlan]
    requires: tuple[Requirement, ...]
    strata: tuple[str, ...] = ()
    use: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    cannot_tell: tuple[str, ...] = ()
    sha256: str = ""
    resolved: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


#: Facts of a run that `applies_when` and `gate_when` may name, each also with "not " before it.
CONDITIONS: Final = (
    "lesion_always_present", "readers_see_maps", "generated", "cluster_declared", "has_train_list", "task_is_detection",
)  # fmt: skip


def shipped_protocols() -> dict[str, Path]:
    """The protocols that come with the package: name -> file, in a wheel as in a checkout.

    >>> "clinical" in shipped_protocols()
    True
    """
    package = Path(str(resources.files("xaiseg")))
    folder = package / "protocols"
    if not folder.is_dir():
        folder = package.parent / "protocols"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_protocol(name_or_path: str | Path) -> Protocol:
    """Loads, merges and checks a protocol.

    Args:
        name_or_path: name of a shipped protocol ("clinical") or path of a YAML or JSON file.

    Raises:
        UsageError: the first mistake, with file and line.

    >>> load_protocol("base").requires
    ()
    """
    return _first(_read(str(name_or_path)))


def protocol_from_document(document: Mapping[str, Any]) -> Protocol:
    """The protocol that a run was planned with.

    Args:
        document: "resolved" as in :class:`Protocol`, and "source".

    Raises:
        UsageError: this version of the package does not know one of its checks or parameters.
    """
    from xaiseg.protocol_file import Merged

    return _first(_build(Merged(dict(document["resolved"])), str(document["source"])))


def _first(built: Protocol | list[UsageError]) -> Protocol:
    if isinstance(built, Protocol):
        return built
    raise built[0]


def check_protocol(name_or_path: str | Path) -> list[str]:
    """Everything that is wrong with a protocol, as messages with file and line; empty when it is fine."""
    try:
        built = _read(str(name_or_path))
        return [] if isinstance(built, Protocol) else [str(problem) for problem in built]
    except UsageError as error:
        return [str(error)]


def protocol_yaml(protocol: Protocol) -> str:
    """The resolved protocol as YAML; loading it gives the same digest."""
    from io import StringIO

    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 120
    text = StringIO()
    yaml.dump(dict(protocol.resolved), text)
    return text.getvalue()


def _find(name: str, folder: Path | None = None) -> tuple[Path, str]:
    """Path and label of a protocol; a relative path starts at ``folder``."""
    shipped = shipped_protocols()
    if name in shipped:
        return shipped[name], f"protocols/{name}.yaml"
    path = Path(name) if folder is None else folder / name
    if not path.is_file():
        raise UsageError(f"'{name}' is neither a shipped protocol nor a file", then=did_you_mean(name, shipped))
    return path, str(path)


def _read(name: str) -> Protocol | list[UsageError]:
    from xaiseg.protocol_file import read_merged

    path, label = _find(name)
    return _build(read_merged(path, label, find=_find), label)


def _build(merged: Merged, source: str) -> Protocol | list[UsageError]:
    if merged.problems:
        return list(merged.problems)
    checks, problems = _check_plans(merged)
    requires = tuple(_requirement(merged, index) for index in range(len(merged.data.get("requires", []))))
    listed = merged.data.get("checks", {})
    for requirement in requires:
        if requirement.check not in listed:
            what = f"the check '{requirement.check}' is required, but does not stand under `checks:`"
            hint = did_you_mean(requirement.check, listed) if listed else None
            problems.append(UsageError(what, where=requirement.source, then=hint))
    return problems or _protocol(merged, checks, requires, source)


def _check_plans(merged: Merged) -> tuple[dict[str, CheckPlan], list[UsageError]]:
    from xaiseg.checks.base import load_checks

    registry = load_checks()
    plans: dict[str, CheckPlan] = {}
    problems: list[UsageError] = []
    for name, raw in merged.data.get("checks", {}).items():
        if name not in registry:
            hint = did_you_mean(name, registry)
            problems.append(UsageError(f"'{name}' is not a check", where=merged.at("checks", name), then=hint))
            continue
        given = dict(raw or {})
        cases = given.pop("cases", "all")
        params, wrong = _params(merged, name, registry[name].params, given)
        problems += wrong
        if not wrong:
            plans[name] = CheckPlan(name, params, None if cases == "all" else int(cases["sample"]))
    return plans, problems


def _params(merged: Merged, check: str, params: type, given: Mapping[str, Any]) -> tuple[Any, list[UsageError]]:
    """The check's parameters from plain data, or what is wrong with them. Lists become tuples."""
    from pydantic import TypeAdapter, ValidationError

    known = [field.name for field in dataclasses.fields(params)]
    unknown = [
        UsageError(
            f"'{name}' is not a parameter of {check}",
            where=merged.at("checks", check, name),
            then=did_you_mean(name, ["cases", *known]),
        )
        for name in given
        if name not in known
    ]
    if unknown:
        return None, unknown
    try:
        # By way of JSON, because strict JSON takes a list for a tuple and a whole number for a float, and no more.
        return TypeAdapter(params).validate_json(json.dumps(given), strict=True), []
    except ValidationError as error:
        return None, [_param_problem(merged, check, item) for item in error.errors(include_url=False)]
    except UsageError as error:
        first = next(iter(given), "")
        return None, [UsageError(f"{check}: {error}", where=merged.at("checks", check, first))]


def _param_problem(merged: Merged, check: str, item: Any) -> UsageError:
    name = ".".join(str(part) for part in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    what = f"{check} {name}: {message}" if name else f"{check}: {message}"
    got = None if isinstance(item["input"], dict) else repr(item["input"])
    return UsageError(what, where=merged.at("checks", check, *item["loc"]), got=got)


def _requirement(merged: Merged, index: int) -> Requirement:
    raw = dict(merged.data["requires"][index])
    sense: Literal["at_least", "at_most", "within"] = next(
        sense for sense in ("at_least", "at_most", "within") if raw.get(sense) is not None
    )
    bound = float(raw[sense])
    plain = {name: raw[name] for name in _AS_WRITTEN if raw.get(name) is not None}
    return Requirement(
        bound=bound,
        sense=sense,
        where={factor: _text(level) for factor, level in (raw.get("where") or {}).items()},
        maps_to={guide: tuple(_text(item) for item in items) for guide, items in (raw.get("maps_to") or {}).items()},
        assume={name: float(value) for name, value in (raw.get("assume") or {}).items() if value is not None},
        source=merged.at("requires", index),
        **plain,
    )


_AS_WRITTEN: Final = (
    "check",
    "metric",
    "severity",
    "why",
    "target",
    "stratum",
    "subject",
    "applies_when",
    "gate_when",
    "agreed_by",
)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _protocol(
    merged: Merged, checks: Mapping[str, CheckPlan], requires: tuple[Requirement, ...], label: str
) -> Protocol:
    data = merged.data
    bare = Protocol(
        name=data["protocol"],
        version=data["version"],
        as_of=data.get("as_of", ""),
        purpose=data.get("purpose", ""),
        decision=Decision(**data.get("decision", {})),
        checks=checks,
        requires=requires,
        strata=tuple(data.get("strata", [])),
        use=tuple(data.get("use", [])),
        not_for=tuple(data.get("not_for", [])),
        cannot_tell=tuple(data.get("cannot_tell", [])),
        source=label,
    )
    resolved = _resolved(bare)
    canonical = json.dumps(resolved, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return dataclasses.replace(bare, resolved=resolved, sha256=hashlib.sha256(canonical.encode()).hexdigest())


def _resolved(protocol: Protocol) -> dict[str, Any]:
    """The protocol as plain data in the form of its file, with every default written out."""
    document: dict[str, Any] = {"protocol": protocol.name}
    document |= {name: getattr(protocol, name) for name in ("version", "as_of", "purpose")}
    document["decision"] = dataclasses.asdict(protocol.decision)
    document["strata"] = list(protocol.strata)
    document["checks"] = {
        name: {"cases": "all" if plan.sample is None else {"sample": plan.sample}, **dataclasses.asdict(plan.params)}
        for name, plan in protocol.checks.items()
    }
    document["requires"] = [_resolved_requirement(requirement) for requirement in protocol.requires]
    document |= {name: list(getattr(protocol, name)) for name in ("use", "not_for", "cannot_tell")}
    # JSON and back: tuples become lists, as a reader of the file would find them.
    plain: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    return plain


def _resolved_requirement(requirement: Requirement) -> dict[str, Any]:
    document = {name: getattr(requirement, name) for name in _AS_WRITTEN if getattr(requirement, name)}
    document |= {requirement.sense: requirement.bound, "agreed_by": requirement.agreed_by}
    for name in ("where", "maps_to", "assume"):
        value = getattr(requirement, name)
        document |= {name: dict(value)} if value else {}
    return document
