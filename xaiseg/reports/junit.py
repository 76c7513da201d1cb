"""junit.xml: one test case a gate, so that a pipeline cannot show an undecided gate green."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree

from xaiseg.judge import Finding, Verdict

#: Verdict -> (element, type); PASS has none.
_SAID: Final = {
    Verdict.FAIL: ("failure", "fail"),
    Verdict.INSUFFICIENT: ("failure", "insufficient"),
    Verdict.NOT_RUN: ("failure", "insufficient"),
    Verdict.ERROR: ("error", "error"),
    Verdict.NOT_APPLICABLE: ("skipped", ""),
}
#: Characters that XML 1.0 cannot hold, not even escaped.
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(findings: Sequence[Finding], *, name: str, created: str) -> str:
    """The gates as JUnit XML.

    Args:
        findings: all findings; only gates are written.
        name: of the suite.
        created: ISO time of the plan.
    """
    gates = [finding for finding in findings if finding.requirement.severity == "gate"]
    kinds = [_SAID.get(finding.verdict, ("", ""))[0] for finding in gates]
    counts = {"tests": len(gates), "failures": kinds.count("failure"), "errors": kinds.count("error")}
    attributes = {key: str(value) for key, value in {**counts, "skipped": kinds.count("skipped")}.items()}
    attributes |= {"name": _clean(name), "timestamp": created}
    root = ElementTree.Element("testsuites", {key: attributes[key] for key in ("name", "tests", "failures", "errors")})
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    for finding in gates:
        requirement = finding.requirement
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _clean(requirement.check), "name": _clean(finding.sentence), "time": "0"}
        )
        element, kind = _SAID.get(finding.verdict, ("", ""))
        if element:
            said = ". ".join(part for part in (finding.reason, finding.more) if part)
            held = ElementTree.SubElement(case, element, {"message": _clean(f"{finding.verdict.value}: {said}")})
            if kind:
                held.set("type", kind)
            held.text = _clean(f"{finding.sentence}\n{said}\nwhy: {requirement.why}\nid: {requirement.id}")
    ElementTree.indent(root, " ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
