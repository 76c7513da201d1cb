"""What stands on the page, in order: everything read once and turned into words, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from xaiseg.checks.base import OTHER_TASK, load_checks
from xaiseg.checks.detection_rows import ID as SURVEY
from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Overall, Verdict
from xaiseg.reports.bounds import interval_mark, threshold_plot
from xaiseg.reports.builds import BuildVerdict, build_of, build_verdicts, by_build
from xaiseg.reports.cases import words_of
from xaiseg.reports.facts import cluster_words, plan_facts
from xaiseg.reports.figures import Story, View, plain_story, story
from xaiseg.reports.gallery import galleries, legend
from xaiseg.reports.gallery_boxes import box_legend, window_rows
from xaiseg.reports.marks import mark
from xaiseg.reports.methods import mapping, methods
from xaiseg.reports.numbers import figure_of, range_text, value_text
from xaiseg.reports.palette import LOOKS, Look
from xaiseg.reports.survey import survey_answers
from xaiseg.reports.words import capital, group_name, label, metric_name, plural, short_reason

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.run import RunDirectory

GATES_ON_PAGE_1: Final = 10
#: Groups whose reasons a section spells out one by one.
MOST_NAMED: Final = 4
_UNITS: Final[Mapping[str, str]] = {"data set": ""}
ROLES: Final = ("Ran the audit", "Answers for the model", "Answers for the use")
#: Who knows the animals looks at the pictures before anybody answers for the use.
SURVEY_ROLES: Final = (ROLES[0], "Knows the animals: looked at the pictures above", *ROLES[1:])


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
        sentence: the requirement.
        brief, reason: why this verdict, in few words and in full.
        value, spread: estimate and interval.
        drawing: the interval against its bound, or "".
        evidence: how many of what.
        anchor: where the number stands among the details, or "".
        build: the build that it is required of, or "".
    """

    look: Look
    mark: Markup
    sentence: str
    brief: str
    reason: str
    value: str
    spread: str
    drawing: Markup
    evidence: str
    anchor: str
    build: str


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
    ordered = by_build(plan, material.findings)
    gates = [f for f in ordered if f.requirement.severity == "gate"]
    others = [f for f in ordered if f.requirement.severity != "gate"]
    scores = {name: str(check.score) for name, check in load_checks().items() if check.score}
    named = {
        name: metric_name(score).replace("excess context", "excess over the best baseline")
        for name, score in scores.items()
    }
    paragraphs, references = methods(plan, protocol, list(material.estimates.values()), material.findings)
    head, rows = mapping(material.findings)
    evidence, threshold = material.run.evidence(), float((plan["model"].get("threshold") or {}).get("value", 0.5))
    shown = galleries(evidence, words=words_of(material.cases, plan["data"]["test"]["strata"]), scores=named,
                      seed=plan["seed"], threshold=threshold)  # fmt: skip
    warnings: list[str] = []
    sections = [_section(item, material, lines, anchors, warnings) for item in plan["checks"] if item["runs"]]
    redone = next((section for section in sections if section.check == "provenance"), None)
    return {
        "plan": plan, "protocol": protocol, "model": plan["model"], "overall": overall,
        "look": LOOKS[overall.verdict], "big_mark": mark(LOOKS[overall.verdict], 44),
        "facts": plan_facts(plan), "builds": _builds(material), "gates": [lines[f.requirement.id] for f in gates],
        "others": [lines[f.requirement.id] for f in others],
        "other_words": _advice(others), "key_numbers": [] if gates else _key_numbers(material, anchors),
        "threshold": threshold_plot(ordered, material.estimates),
        "sections": [section for section in sections if section is not redone], "redone": redone, "warnings": warnings,
        "not_run": [item for item in plan["checks"] if not item["runs"] and item["reason"] not in OTHER_TASK.values()],
        "galleries": shown, "legend": legend, "box_legend": box_legend,
        "windows": window_rows(evidence, threshold), "boxes": plan["model"].get("task") == "detection",
        "comparison": comparison, "answers": _answers(material),
        "failed": [row for row in material.errors if row.get("kind") != "crashed"],
        "crashed": [row for row in material.errors if row.get("kind") == "crashed"],
        "methods": paragraphs, "references": references, "mapping_head": head, "mapping": rows,
        "roles": SURVEY_ROLES if plan["model"].get("task") == "detection" else ROLES,
        "software": sorted((name, value) for name, value in plan["environment"].items() if value is not None),
        "post_hoc": protocol.get("sha256") != plan["protocol"]["sha256"],
    }  # fmt: skip


def _line(finding: Finding, material: Material, anchors: Mapping[str, str]) -> Line:
    estimate = material.estimates.get(finding.estimate_id or "")
    held = estimate is not None and estimate.value is not None
    return Line(
        look=LOOKS[finding.verdict],
        mark=mark(LOOKS[finding.verdict]),
        sentence=finding.sentence,
        brief=_brief(finding, estimate),
        reason=_reason(finding, estimate),
        value=value_text(estimate) if held and estimate is not None else "",
        spread=range_text(estimate, estimate.interval) if estimate is not None else "",
        drawing=interval_mark(finding, estimate),
        evidence=_evidence(estimate, material.plan) if estimate is not None else "",
        anchor=anchors.get(finding.estimate_id or "", ""),
        build=build_of(material.plan, finding),
    )


def _builds(material: Material) -> list[tuple[BuildVerdict, Look, Markup]]:
    """The verdict on each build with its look and its mark."""
    rows = build_verdicts(material.plan, material.findings)
    return [(row, LOOKS[row.verdict], mark(LOOKS[row.verdict])) for row in rows]


def _reason(finding: Finding, estimate: Estimate | None) -> str:
    """The reason in full; of many groups the worst alone, since the section lists them all in a table."""
    many = len(finding.members) > MOST_NAMED
    said = short_reason(finding, estimate) if many else capital(finding.reason)
    return ". ".join(part for part in (said, capital(finding.more)) if part)


def _brief(finding: Finding, estimate: Estimate | None) -> str:
    """What page 1 says below a requirement: nothing that the numbers beside it say already."""
    if len(finding.members) > 1:
        said = short_reason(finding, estimate)
    elif finding.verdict in (Verdict.PASS, Verdict.FAIL):
        said = finding.requirement.why
    elif finding.verdict is Verdict.INSUFFICIENT and finding.more and not finding.capped:
        said = ""
    else:
        said = finding.reason
    return ". ".join(capital(part) for part in (said.rstrip("."), finding.more) if part)


def _evidence(item: Estimate, plan: Mapping[str, Any], *, stratum: bool = True) -> str:
    """How many of what, as in "139 lesions, 90 patients", with the group that they belong to."""
    if item.kind == "fact":
        return "count"
    if item.of == "cluster":
        return cluster_words(plan, item.n_clusters)
    if item.kind == "total":
        return plural(item.n, "draw")
    clusters = cluster_words(plan, item.n_clusters)
    # A statistic is formed from the contributions of images, whatever it describes.
    word = "image" if item.kind == "statistic" else _UNITS.get(item.of, item.of)
    counted = plural(item.n, word) if word else ""
    where = f"{group_name(item.stratum)}: " if item.stratum and stratum else ""
    return where + (clusters if not counted or counted == clusters else f"{counted}, {clusters}")


def _advice(findings: Sequence[Finding]) -> str:
    """The advisory requirements in one sentence, for page 1."""
    advisory = [f for f in findings if f.requirement.severity == "warn"]
    if not advisory:
        return ""
    counts = {look.word: sum(LOOKS[f.verdict] is look for f in advisory) for look in LOOKS.values()}
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return (
        f"Besides, {plural(len(advisory), 'requirement')} only {'advises' if len(advisory) == 1 else 'advise'}: {said}."
    )


def _key_numbers(material: Material, anchors: Mapping[str, str]) -> list[Detail]:
    """What a protocol without gates shows on page 1: the first estimates with intervals of each check."""
    ranked = sorted(material.estimates.values(), key=lambda item: not item.check.startswith("performance."))
    held = [
        i for i in ranked if i.value is not None and i.interval is not None and not (i.stratum or i.target or i.factor)
    ]
    return [_detail(item, material.plan, anchors) for item in held[:GATES_ON_PAGE_1]]


def _section(
    item: Mapping[str, Any],
    material: Material,
    lines: Mapping[str, Line],
    anchors: Mapping[str, str],
    warnings: list[str],
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
        told=_told(view, warnings),
        lines=tuple(lines[f.requirement.id] for f in chosen),
        details=_details(own, material.plan, anchors),
    )


def _answers(material: Material) -> tuple[tuple[str, str], ...]:
    """What an audit of a survey detector answers on page 1; none for other audits."""
    item = next((one for one in material.plan["checks"] if one["id"] == SURVEY and one["runs"]), None)
    if item is None:
        return ()
    chosen = tuple(finding for finding in material.findings if finding.requirement.check == SURVEY)
    return survey_answers(View(SURVEY, item["params"], material.estimates, chosen, material.plan, material.run))


def _told(view: View, warnings: list[str]) -> Story:
    """The story of a check; a figure that fails costs its picture, never the report, and is said."""
    try:
        return story(view)
    except Exception as error:  # noqa: BLE001 - it becomes a warning, and the plain story takes its place
        warnings.append(f"the figure of {view.check} failed: {type(error).__name__}: {error}")
        return plain_story(view)


def _details(items: Sequence[Estimate], plan: Mapping[str, Any], anchors: Mapping[str, str]) -> tuple[Detail, ...]:
    """A row each; what a remark says in the words of a row above is left out: notes until another comes, reasons of
    the row before.
    """
    rows, note, remark = [], "", ""
    for item in items:
        row = _detail(replace(item, note="") if item.note == note else item, plan, anchors)
        rows.append(replace(row, remark="") if row.remark == remark else row)
        note, remark = item.note or note, row.remark
    return tuple(rows)


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
        count=", ".join([_evidence(item, plan, stratum=False) if not item.missing else "", *lost]).strip(", "),
        remark=remark,
        id=item.id.removeprefix(f"{item.check}/"),
    )
