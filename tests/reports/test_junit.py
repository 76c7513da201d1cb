from __future__ import annotations

from xml.etree import ElementTree

import pytest

from xaiseg.judge import Finding, Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports.junit import junit_xml

WORDS = {
    Verdict.PASS: None,
    Verdict.FAIL: ("failure", "fail"),
    Verdict.INSUFFICIENT: ("failure", "insufficient"),
    Verdict.NOT_RUN: ("failure", "insufficient"),
    Verdict.ERROR: ("error", "error"),
    Verdict.NOT_APPLICABLE: ("skipped", None),
}


def finding(verdict, severity="gate", sentence="Dice < 1 & more"):
    return Finding(Requirement("a.b", "m", 0.5, "at_least", severity=severity), verdict, sentence, "why \x00 not")


@pytest.mark.parametrize("verdict", WORDS)
def test_only_a_pass_is_green(verdict):
    root = ElementTree.fromstring(junit_xml([finding(verdict)], name="n", created="2026-11-24T00:00:00"))
    (case,) = root.iter("testcase")
    assert case.attrib["name"] == "Dice < 1 & more"
    held = [(child.tag, child.get("type")) for child in case]
    assert held == ([] if WORDS[verdict] is None else [WORDS[verdict]])


def test_counts_and_gates_alone():
    rows = [finding(verdict) for verdict in WORDS] + [finding(Verdict.FAIL, "warn")]
    suite = ElementTree.fromstring(junit_xml(rows, name="n", created="t")).find("testsuite")
    assert {key: suite.attrib[key] for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "6", "failures": "3", "errors": "1", "skipped": "1",
    }  # fmt: skip


def test_the_run_has_one_case_a_gate(rendered, material):
    root = ElementTree.parse(rendered.path / "junit.xml").getroot()
    gates = [f for f in material.findings if f.requirement.severity == "gate"]
    assert [case.attrib["name"] for case in root.iter("testcase")] == [f.sentence for f in gates]
