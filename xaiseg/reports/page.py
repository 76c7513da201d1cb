"""What stands on the page, in order: everything read once and turned into words, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from xaiseg.checks.base import load_checks
from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Overall, Verdict
from xaiseg.reports.bounds import interval_mark, threshold_plot
from xaiseg.reports.cases import words_of
from xaiseg.reports.figures import Story, View, story
from xaiseg.reports.gallery import galleries, legend
from xaiseg.reports.methods import mapping, methods
from xaiseg.reports.palette import LOOKS, Look
from xaiseg.reports.svg import mark
from xaiseg.reports.words import (
    bound_text,
    capital,
    cluster_words,
    figure_of,
    label,
    metric_name,
    plural,
    range_text,
    short_reason,
    value_text,
)

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.run import RunDirectory

GATES_ON_PAGE_1: Final = 10
_UNITS: Final[Mapping[str, str]] = {"data set": "", "patient": "patient", "lesion": "lesion", "image": "image"}
ROLES: Final = ("Ran the audit", "Answers for the model", "Answers for the use")


@dataclass(frozen=True)
class Material:
    """Everything that the run directory holds, read once.

    Attributes:
        run: the run.
        plan, protocol: the plan, and the protocol that the run was judged by.
        estimates: by id.
        findings, overall, errors: as stored.
        cases: every case, worst first.
    """

    run: RunDirectory
    plan: Mapping[str, Any]
    protocol: Mapping[str, Any]
    estimates: Mapping[str, Estimate]
    findings: tuple[Finding, ...]
    overall: Overall
    errors: tuple[Mapping[str, str], ...]
    cases: pd.DataFrame


@dataclass(frozen=True)
class Line:
    """One requirement as a row.

    Attributes:
        look: of the verdict.
        mark: its drawing.
        sentence, reason: in words.
        value, spread: estimate and interval.
        drawing: the interval against its bound, or "".
        evidence: how many of what.
        anchor: where the number stands among the details, or "".
    """

    look: Look
    mark: Markup
    sentence: str
    reason: str
    value: str
    spread: str
    drawing: Markup
    evidence: str
    anchor: str


@dataclass(frozen=True)
class Detail:
    """One estimate as a row of a details table."""

    anchor: str
    name: str
    value: str
    drawn: str
    detail: str
    count: str
    remark: str
    id: str


@dataclass(frozen=True)
class Section:
    """One question of the report."""

    anchor: str
    check: str
    question: str
    told: Story
    lines: tuple[Line, ...]
    details: tuple[Detail, ...]


def page_context(material: Material, comparison: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Names and values of the template.

    Args:
        material: the run.
        comparison: a former audit compared with this one, or None.
    """
    plan, protocol, overall = material.plan, material.protocol, material.overall
    anchors = {name: f"e{index}" for index, name in enumerate(material.estimates)}
    lines = {f.requirement.id: _line(f, material, anchors) for f in material.findings}
    gates = [f for f in material.findings if f.requirement.severity == "gate"]
    others = [f for f in material.findings if f.requirement.severity != "gate"]
    scores = {name: str(check.score) for name, check in load_checks().items() if check.score}
    named = {name: metric_name(score).replace("excess context", "excess over the best baseline") for name, score in scores.items()}
    paragraphs, references = methods(plan, protocol, list(material.estimates.values()), material.findings)
    head, rows = mapping(material.findings)
    shown = galleries(material.run.evidence(), words=words_of(material.cases, plan["data"]["test"]["strata"]),
                      scores=named, seed=plan["seed"])  # fmt: skip
    return {
        "plan": plan, "protocol": protocol, "model": plan["model"], "overall": overall,
        "look": LOOKS[overall.verdict], "big_mark": mark(LOOKS[overall.verdict], 44),
        "facts": _facts(plan), "gates": [lines[f.requirement.id] for f in gates], "others": [lines[f.requirement.id] for f in others],
        "other_words": _advice(others), "key_numbers": [] if gates else _key_numbers(material, anchors),
        "threshold": threshold_plot(material.findings, material.estimates),
        "sections": [_section(item, material, lines, anchors) for item in plan["checks"] if item["runs"]],
        "not_run": [item for item in plan["checks"] if not item["runs"]],
        "galleries": shown, "legend": legend, "comparison": comparison,
        "failed": [row for row in material.errors if row.get("kind") != "crashed"],
        "crashed": [row for row in material.errors if row.get("kind") == "crashed"],
        "methods": paragraphs, "references": references, "mapping_head": head, "mapping": rows, "roles": ROLES,
        "software": sorted((name, value) for name, value in plan["environment"].items() if value is not None),
        "post_hoc": protocol.get("sha256") != plan["protocol"]["sha256"],
    }  # fmt: skip


def _facts(plan: Mapping[str, Any]) -> list[str]:
    """Model, data and threshold in one line each."""
    model, test = plan["model"], plan["data"]["test"]
    threshold = model.get("threshold") or {}
    facts = [f"Version {model['version']}" if model.get("version") else "Version not stated"]
    if model.get("weights_sha256"):
        facts.append(f"weights sha256 {model['weights_sha256'][:8]}…{model['weights_sha256'][-4:]}")
    if model.get("parameters"):
        facts.append(f"{model['parameters']:,} parameters".replace(",", " "))
    facts.append(f"{plural(test['n_cases'], 'image')} of {cluster_words(plan, test['n_clusters'])}")
    chosen = {"val": "validation data", "test": "the audited data", "default": "nothing: the default"}
    on = chosen.get(str(threshold.get("chosen_on")), "unknown data")
    facts.append(f"operating threshold {threshold.get('value', 0.5):g}, chosen on {on}")
    return facts


def _line(finding: Finding, material: Material, anchors: Mapping[str, str]) -> Line:
    estimate = material.estimates.get(finding.estimate_id or "")
    held = estimate is not None and estimate.value is not None
    reason = ". ".join(part for part in (short_reason(finding, estimate), capital(finding.more)) if part)
    if held and len(finding.members) <= 1 and finding.verdict in (Verdict.PASS, Verdict.FAIL) and estimate is not None:
        # The numbers stand beside it; the line says the bound and why it stands there.
        reason = capital(finding.requirement.why or bound_text(finding.requirement, estimate.kind))
    return Line(
        look=LOOKS[finding.verdict],
        mark=mark(LOOKS[finding.verdict]),
        sentence=finding.sentence,
        reason=reason,
        value=value_text(estimate) if held and estimate is not None else "",
        spread=range_text(estimate, estimate.interval) if estimate is not None else "",
        drawing=interval_mark(finding, estimate),
        evidence=_evidence(estimate, material.plan) if estimate is not None else "",
        anchor=anchors.get(finding.estimate_id or "", ""),
    )


def _evidence(item: Estimate, plan: Mapping[str, Any]) -> str:
    """ "139 lesions of 90 patients"."""
    if item.kind == "fact":
        return "a count"
    clusters = cluster_words(plan, item.n_clusters)
    word = _UNITS.get(item.of, item.of)
    counted = plural(item.n, word) if word else ""
    where = f"{item.stratum.replace('=', ' ')}: " if item.stratum else ""
    return where + (clusters if not counted or counted == clusters else f"{counted}, {clusters}")


def _advice(findings: Sequence[Finding]) -> str:
    """The advisory requirements in one sentence, for page 1."""
    advisory = [f for f in findings if f.requirement.severity == "warn"]
    if not advisory:
        return ""
    counts = {look.word: sum(LOOKS[f.verdict] is look for f in advisory) for look in LOOKS.values()}
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"Besides, {plural(len(advisory), 'requirement')} only {'advises' if len(advisory) == 1 else 'advise'}: {said}."


def _key_numbers(material: Material, anchors: Mapping[str, str]) -> list[Detail]:
    """What a protocol without gates shows on page 1: the first estimates with intervals of each check."""
    ranked = sorted(material.estimates.values(), key=lambda item: not item.check.startswith("performance."))
    held = [i for i in ranked if i.value is not None and i.interval is not None and not (i.stratum or i.target or i.factor)]
    return [_detail(item, material.plan, anchors) for item in held[:GATES_ON_PAGE_1]]


def _section(
    item: Mapping[str, Any], material: Material, lines: Mapping[str, Line], anchors: Mapping[str, str]
) -> Section:
    check = item["id"]
    grouped = any(other["id"] == "subgroups.declared" and other["runs"] for other in material.plan["checks"])
    chosen = tuple(f for f in material.findings if _home(f, grouped=grouped) == check)
    view = View(check, item["params"], material.estimates, chosen, material.plan, material.run)
    own = [estimate for estimate in material.estimates.values() if estimate.check == check]
    known = load_checks().get(check)
    return Section(
        anchor=f"check-{check.replace('.', '-')}",
        check=check,
        question=known.question if known is not None else check,
        told=story(view),
        lines=tuple(lines[f.requirement.id] for f in chosen),
        details=tuple(_detail(estimate, material.plan, anchors) for estimate in own),
    )


def _home(finding: Finding, *, grouped: bool) -> str:
    """The section that answers for a requirement: those on groups belong to the question for whom it works."""
    on_groups = grouped and finding.requirement.stratum and finding.requirement.check.startswith("performance.")
    return "subgroups.declared" if on_groups else finding.requirement.check


def _detail(item: Estimate, plan: Mapping[str, Any], anchors: Mapping[str, str]) -> Detail:
    lost = [f"{count} {word}" for count, word in ((item.n_undefined, "undefined"), (item.n_failed, "failed")) if count]
    floor = f"null floor {figure_of(item, item.floor, item.interval)}" if item.floor is not None else ""
    remark = "; ".join(part for part in (item.reason, item.note, floor) if part)
    return Detail(
        anchor=anchors[item.id],
        name=capital(label(item)),
        value="not measured" if item.missing else "undefined" if item.value is None else value_text(item),
        drawn=range_text(item, item.interval),
        detail=range_text(item, item.detail),
        count=", ".join([_evidence(item, plan) if not item.missing else "", *lost]).strip(", "),
        remark=remark,
        id=item.id,
    )
