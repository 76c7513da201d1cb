"""The text of a protocol: the keys that its file may hold, and `extends` merged into one document.

Knows the shape of the file; which checks exist and what their parameters mean is the business of
:mod:`xaiseg.protocol`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xaiseg.errors import UsageError, did_you_mean
from xaiseg.protocol import CONDITIONS
from xaiseg.yamlfile import Place, YamlFile, read_yaml, where

MAX_EXTENDS: Final = 8
SENSES: Final = ("at_least", "at_most", "within")


class _Text(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DecisionText(_Text):
    """How intervals become verdicts."""

    confidence: float = Field(0.95, gt=0.5, lt=1, description="confidence of each one-sided bound")
    min_clusters: int = Field(5, ge=2, description="fewer clusters than this are INSUFFICIENT EVIDENCE by rule")
    looks: int = Field(1, ge=1, le=1000, description="how often this model may be judged on these cases; divides alpha")


class AssumeText(_Text):
    """What the sample size of the plan assumes."""

    value: float = Field(description="the value that the model is expected to reach")
    sd: float | None = Field(None, gt=0, description="standard deviation between clusters; only for means")


class SampleText(_Text):
    """A seeded sample that draws clusters first."""

    sample: int = Field(ge=1, description="number of cases")


class CheckText(_Text):
    """How a check is measured: its cases, and its own parameters beside them."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    cases: Literal["all"] | SampleText = Field("all", description="all cases, or {sample: n}")


class RequirementText(_Text):
    """One line of `requires:`; exactly one of at_least, at_most and within."""

    check: str = Field(min_length=1, description="id of a check that stands under `checks:`")
    metric: str = Field(min_length=1, description="name of one of its quantities")
    at_least: float | None = Field(None, description="the value must not lie below this")
    at_most: float | None = Field(None, description="the value must not lie above this")
    within: float | None = Field(None, gt=0, description="the value must lie between minus this and plus this")
    severity: Literal["gate", "warn", "info"] = Field("warn", description="a gate decides the verdict")
    why: str = Field("", description="the reason; compulsory for a gate")
    target: str = Field("", description="class or explanation method; empty = all")
    where: dict[str, str | int | float] = Field(
        default_factory=dict, description="factor: level; {level: mild} = every factor at its mild level"
    )
    stratum: str = Field("", description="a declared factor, or `each`; every one of its levels is bound")
    subject: str = Field(
        "reference", min_length=1, description="the reference, the name of a variant, or each = every variant by itself"
    )
    applies_when: str = Field("", description="a fact that must be true, e.g. `not lesion_always_present`")
    gate_when: str = Field("", description="a fact that raises the severity to gate")
    agreed_by: str | None = Field(None, description="who agreed the bound; null = a default floor")
    maps_to: dict[str, list[str | int | float]] = Field(default_factory=dict, description="guideline: items")
    assume: AssumeText | None = Field(None, description="for the sample size of the plan")

    @model_validator(mode="after")
    def _reads_as_a_sentence(self) -> RequirementText:
        bounds = {sense: getattr(self, sense) for sense in SENSES if getattr(self, sense) is not None}
        if len(bounds) != 1:
            raise ValueError(f"a requirement has exactly one of {', '.join(SENSES)}; this has {len(bounds)}")
        if not self.why.strip() and (self.severity == "gate" or self.gate_when):
            raise ValueError("a gate needs `why:`, one sentence for those who are refused by it")
        for condition in (self.applies_when, self.gate_when):
            name = condition.removeprefix("not ")
            if condition and name not in CONDITIONS:
                raise ValueError(f"'{name}' is not a fact that a condition may name; {did_you_mean(name, CONDITIONS)}")
        sense, bound = next(iter(bounds.items()))
        if self.assume is not None and not _good(self.assume.value, sense, bound):
            raise ValueError(f"assume.value {self.assume.value:g} does not meet {sense} {bound:g}; no sample shows it")
        return self


def _good(value: float, sense: str, bound: float) -> bool:
    if sense == "within":
        return abs(value) < bound
    return value > bound if sense == "at_least" else value < bound


class ProtocolText(_Text):
    """The keys of a protocol file."""

    protocol: str = Field(min_length=1, description="its name")
    version: str = Field(min_length=1, description="its version, e.g. 1.0.0")
    as_of: str = Field("", description="date of the guidelines that `maps_to` names, e.g. 2026-11-24")
    extends: str = Field("", description="one protocol on which this builds: a shipped name or a relative path")
    purpose: str = Field("", description="what the audited model is used for")
    decision: DecisionText = Field(default_factory=DecisionText)
    strata: list[str] = Field(
        default_factory=list, description="factors that `stratum: each` asks for besides the declared ones"
    )
    checks: dict[str, CheckText | None] = Field(default_factory=dict, description="check id: how it is measured")
    requires: list[RequirementText] = Field(default_factory=list)
    use: list[str] = Field(default_factory=list, description="sentences for page 1: may be used for")
    not_for: list[str] = Field(default_factory=list, description="sentences for page 1: not for")
    cannot_tell: list[str] = Field(default_factory=list, description="sentences for page 1: this audit cannot tell")


_NAMES: Final[Mapping[type[BaseModel], str]] = {
    ProtocolText: "a protocol",
    RequirementText: "a requirement",
    DecisionText: "decision",
    AssumeText: "assume",
    SampleText: "cases",
}


@dataclass(frozen=True)
class Merged:
    """A protocol document with its parents merged in.

    Attributes:
        data: plain data under the keys of :class:`ProtocolText`; `extends` is gone.
        places: place in ``data`` -> ``file:line``.
        problems: everything that is wrong, in the order of the file.
    """

    data: dict[str, Any] = field(default_factory=dict)
    places: Mapping[Place, str] = field(default_factory=dict)
    problems: tuple[UsageError, ...] = ()

    def at(self, *place: str | int) -> str:
        """``file:line`` of a place, or of the nearest thing that holds it."""
        while place and place not in self.places:
            place = place[:-1]
        return self.places.get(place, "")


def read_merged(path: Path, label: str, *, find: Callable[[str, Path], tuple[Path, str]]) -> Merged:
    """Reads a protocol file and the chain that it extends.

    Args:
        path: the file.
        label: how messages name it.
        find: (what `extends` says, folder of the file) -> (path, label).

    Raises:
        UsageError: a file of the chain cannot be read as YAML, or the chain is a circle. Mistakes in the keys do not
            raise: they stand in ``problems``.
    """
    chain: list[Merged] = []
    seen: list[Path] = []
    while True:
        resolved = path.resolve()
        if resolved in seen or len(seen) >= MAX_EXTENDS:
            raise UsageError(
                "`extends` runs in a circle" if resolved in seen else "`extends` is too deep",
                where=label,
                got=" > ".join(item.name for item in [*seen, resolved]),
                allowed=f"a chain of at most {MAX_EXTENDS} files",
            )
        seen.append(resolved)
        file = read_yaml(path)
        chain.append(_checked(file, label))
        parent = file.data.get("extends")
        if not isinstance(parent, str) or not parent:
            break
        path, label = find(parent, path.parent)
    merged = chain.pop()
    while chain:
        merged = _merge(merged, chain.pop())
    return merged


def requirement_key(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two requirements the same one, so that a later one replaces the earlier."""
    conditions = ",".join(f"{factor}={level}" for factor, level in sorted((raw.get("where") or {}).items()))
    parts = [str(raw.get(name) or "") for name in ("check", "metric", "target", "stratum")]
    return (*parts, conditions, str(raw.get("subject") or "reference"))


def _checked(file: YamlFile, label: str) -> Merged:
    places = {(): label, **{place: where(label, file.lines, place) for place in file.lines}}
    try:
        ProtocolText.model_validate(file.data)
    except ValidationError as error:
        items = [item for item in error.errors(include_url=False) if not _echo(item)]
        # In the order of the file; what is missing comes last, as it is mostly the key that another line misspells.
        items.sort(key=lambda item: (item["type"] == "missing", file.lines.get(_place(item["loc"], places), 0)))
        found = [_problem(item, places) for item in items]
        return Merged(file.data, places, tuple(found))
    return Merged(file.data, places, tuple(_duplicates(file.data, places)))


def _echo(item: Any) -> bool:
    """`cases` is text or a mapping: what the branch that was not meant says is no news."""
    is_mapping = isinstance(item["input"], dict)
    return "cases" in item["loc"] and item["type"] == ("literal_error" if is_mapping else "model_type")


def _problem(item: Any, places: Mapping[Place, str]) -> UsageError:
    place = _place(item["loc"], places)
    at = places[place]
    last = str(item["loc"][-1]) if item["loc"] else ""
    if item["type"] == "extra_forbidden":
        holder = _holder(item["loc"][:-1])
        what = f"'{last}' is not a key of {_NAMES[holder]}"
        return UsageError(what, where=at, then=did_you_mean(last, holder.model_fields))
    if item["type"] == "missing":
        return UsageError(f"the key '{last}' is missing", where=at)
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "value_error":
        return UsageError(message, where=at)
    key = ".".join(str(part) for part in place)
    allowed = "all | {sample: n}" if "cases" in place else None
    return UsageError(f"'{key}': {_lower(message)}", where=at, got=repr(item["input"]), allowed=allowed)


def _place(loc: Place, places: Mapping[Place, str]) -> Place:
    """The place that pydantic means; it adds the branch of a union, so only steps that lead somewhere count."""
    place: Place = ()
    for part in loc:
        place = (*place, part) if (*place, part) in places else place
    return place


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _holder(loc: Place) -> type[BaseModel]:
    for part, holder in (("assume", AssumeText), ("cases", SampleText)):
        if part in loc:
            return holder
    holders: dict[str | int, type[BaseModel]] = {"requires": RequirementText, "decision": DecisionText}
    return holders.get(loc[0], ProtocolText) if loc else ProtocolText


def _duplicates(data: Mapping[str, Any], places: Mapping[Place, str]) -> list[UsageError]:
    first: dict[tuple[str, ...], str] = {}
    problems = []
    for index, raw in enumerate(data.get("requires", [])):
        key, at = requirement_key(raw), places["requires", index]
        if key in first:
            what = f"the requirement on {raw['check']} {raw['metric']} stands twice, first at {first[key]}"
            problems.append(UsageError(what, where=at, then="Keep one of them, or give them different strata"))
        first.setdefault(key, at)
    return problems


def _merge(parent: Merged, child: Merged) -> Merged:
    """Scalars override; decision and check parameters merge key by key; requirements by their key; lists append."""
    problems = (*parent.problems, *child.problems)
    if problems:
        return Merged(child.data, child.places, problems)
    data = {**parent.data, **child.data}
    data.pop("extends", None)
    data["decision"] = _part(parent, "decision") | _part(child, "decision")
    old, new = _part(parent, "checks"), _part(child, "checks")
    data["checks"] = {name: {**(old.get(name) or {}), **(new.get(name) or {})} for name in {**old, **new}}
    for name in ("strata", "use", "not_for", "cannot_tell"):
        data[name] = list(dict.fromkeys([*parent.data.get(name, []), *child.data.get(name, [])]))
    places = {**parent.places, **child.places}
    places = {place: at for place, at in places.items() if place[:1] != ("requires",)}
    requires = _requirements(parent, child)
    data["requires"] = [raw for raw, _, _ in requires]
    for index, (_, origin, old_index) in enumerate(requires):
        for place, at in origin.places.items():
            if place[:2] == ("requires", old_index):
                places["requires", index, *place[2:]] = at
    return Merged(data, places)


def _part(merged: Merged, name: str) -> dict[str, Any]:
    return merged.data.get(name) or {}


def _requirements(parent: Merged, child: Merged) -> list[tuple[Mapping[str, Any], Merged, int]]:
    """Requirements in order; a child's stands where the parent's of the same key stood."""
    result: dict[tuple[str, ...], tuple[Mapping[str, Any], Merged, int]] = {}
    for origin in (parent, child):
        for index, raw in enumerate(origin.data.get("requires", [])):
            result[requirement_key(raw)] = (raw, origin, index)
    return list(result.values())
