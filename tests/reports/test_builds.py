"""The verdict on each build: the worst of its own gates, and nothing of its neighbours'."""

from __future__ import annotations

from dataclasses import replace

import pytest

from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports.builds import build_verdicts, by_build, floating_parts
from xaiseg.reports.html import report_html
from xaiseg.reports.page import page_context
from xaiseg.reports.summary import summary_markdown

PLAN = {"variants": {"eight": {}, "six": {}, "plain": {}}}


def found(metric: str, subject: str, verdict: Verdict, severity: str = "gate") -> Finding:
    requirement = Requirement("equivalence.segmentation", metric, 0.01, "within", subject=subject, severity=severity)
    return Finding(requirement, verdict, f"{metric} of {subject} is small", "it is so", f"{metric}/{subject}")


FINDINGS = [
    found("dice_change", "eight", Verdict.PASS),
    found("dice_change", "six", Verdict.INSUFFICIENT),
    found("vanished", "eight", Verdict.PASS),
    found("vanished", "six", Verdict.FAIL),
    found("loose", "each", Verdict.NOT_APPLICABLE),
    found("hd95_change", "eight", Verdict.FAIL, "warn"),
    found("images_failed", "reference", Verdict.NOT_RUN),
]


def test_each_build_is_judged_by_its_own_gates_alone():
    rows = {row.name: row for row in build_verdicts(PLAN, FINDINGS)}
    assert list(rows) == ["eight", "six", "plain", ""]
    assert (rows["eight"].verdict, rows["eight"].met, rows["eight"].failed) == (Verdict.PASS, 2, 0)
    assert (rows["six"].verdict, rows["six"].met, rows["six"].failed, rows["six"].undecided) == (Verdict.FAIL, 0, 1, 1)
    assert (rows["plain"].verdict, rows["plain"].met) == (Verdict.NOT_APPLICABLE, 0)
    assert (rows[""].verdict, rows[""].undecided) == (Verdict.NOT_RUN, 1)
    assert build_verdicts({"variants": {}}, FINDINGS) == ()


@pytest.mark.parametrize("worst", [Verdict.FAIL, Verdict.ERROR, Verdict.INSUFFICIENT, Verdict.NOT_RUN])
def test_one_gate_that_is_not_met_is_enough(worst):
    (row,) = build_verdicts({"variants": {"a": {}}}, [found("m", "a", Verdict.PASS)] * 9 + [found("n", "a", worst)])
    assert row.verdict is worst
    assert (row.met, row.failed, row.undecided) == (9, int(worst is Verdict.FAIL), int(worst is not Verdict.FAIL))


def test_requirements_stand_build_by_build_in_their_own_order():
    order = [(f.requirement.subject, f.requirement.metric) for f in by_build(PLAN, FINDINGS)]
    assert order == [
        ("each", "loose"), ("reference", "images_failed"), ("eight", "dice_change"), ("eight", "vanished"),
        ("eight", "hd95_change"), ("six", "dice_change"), ("six", "vanished"),
    ]  # fmt: skip


def test_parts_in_floating_point_are_named():
    told = ["a.b (Gate) stays in floating point: kept outside on request.", "Something else."]
    assert floating_parts({"remains": told}) == ["a.b (Gate)", "Something else"]
    assert floating_parts({}) == []


def test_page_1_and_summary_show_the_verdict_on_each_build(material):
    estimate = Estimate("x", "equivalence.segmentation", "dice_change", "mean", 0.0, None)
    estimates = {**material.estimates, **{f.estimate_id: replace(estimate, id=f.estimate_id) for f in FINDINGS}}
    changed = replace(material, plan={**material.plan, **PLAN}, findings=tuple(FINDINGS), estimates=estimates)
    html = report_html(page_context(changed))
    page_1 = html[: html.index("<nav")]
    table = page_1[page_1.index("Verdict by build") :]
    assert 'not met</b></td><th scope="row"><b>six</b></th><td>0</td><td>1</td><td>1</td>' in table
    assert table.index("build eight</th>") < table.index("vanished of eight") < table.index("build six</th>")
    text = summary_markdown(changed.plan, material.protocol, FINDINGS, material.overall, estimates, [])
    assert "| six | ❌ not met | 0 | 1 | 1 |" in text
    assert "| audited model and data | ⚪ not run | 0 | 0 | 1 |" in text


def test_without_builds_there_is_no_such_table(html):
    assert "Verdict by build" not in html
    assert 'class="group"' not in html
