"""Builds of the audited model: the verdict on each, in the order of model.yaml, and what of them stays in floats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from xaiseg.judge import Finding, Verdict

#: From worst to best; what does not apply counts for nothing.
WORST_FIRST: Final = (Verdict.FAIL, Verdict.ERROR, Verdict.INSUFFICIENT, Verdict.NOT_RUN, Verdict.PASS)
#: Parts in floating point that are named; the rest is counted.
NAMED: Final = 5
_STAYS: Final = " stays in floating point"


@dataclass(frozen=True)
class BuildVerdict:
    """The binding requirements on one build, counted.

    Attributes:
        name: of the build; "" stands for the binding requirements on no single build.
        verdict: of its worst gate; NOT_APPLICABLE when no gate asks anything of it.
        met, failed: gates.
        undecided: gates without an answer: insufficient evidence, not run or crashed.
    """

    name: str
    verdict: Verdict
    met: int
    failed: int
    undecided: int


def build_verdicts(plan: Mapping[str, Any], findings: Sequence[Finding]) -> tuple[BuildVerdict, ...]:
    """One row a build, and one for the gates on no single build; none where model.yaml names no builds.

    Args:
        plan: its ``variants`` are the builds.
        findings: all of them; only gates that apply are counted.
    """
    names = list(plan.get("variants") or ())
    if not names:
        return ()
    held: dict[str, list[Verdict]] = {name: [] for name in [*names, ""]}
    for finding in findings:
        if finding.requirement.severity == "gate" and finding.verdict in WORST_FIRST:
            held[build_of(plan, finding)].append(finding.verdict)
    return tuple(_counted(name, verdicts) for name, verdicts in held.items() if name or verdicts)


def build_of(plan: Mapping[str, Any], finding: Finding) -> str:
    """The build that a requirement is about, or "" for the audited model, the data, or builds in general."""
    subject = finding.requirement.subject
    return subject if subject in (plan.get("variants") or ()) else ""


def by_build(plan: Mapping[str, Any], findings: Sequence[Finding]) -> list[Finding]:
    """The findings build by build, otherwise in their order; those on no single build come first."""
    order = ["", *(plan.get("variants") or ())]
    return sorted(findings, key=lambda finding: order.index(build_of(plan, finding)))


def floating_parts(facts: Mapping[str, Any]) -> list[str]:
    """What of a build stays in floating point, by name, without the reasons.

    >>> floating_parts({"remains": ["gate.0 (Gate) stays in floating point: kept outside on request."]})
    ['gate.0 (Gate)']
    """
    return [sentence.partition(_STAYS)[0].rstrip(".") for sentence in facts.get("remains", ())]


def named_parts(parts: Sequence[str]) -> str:
    """The first parts by name and the number of the others.

    >>> named_parts(["a", "b"]), named_parts(list("abcdefg"))
    ('a; b', 'a; b; c; d; e; and 2 more')
    """
    more = len(parts) - NAMED
    return "; ".join([*parts[:NAMED], *([f"and {more} more"] if more > 0 else [])])


def _counted(name: str, verdicts: Sequence[Verdict]) -> BuildVerdict:
    worst = next((rank for rank in WORST_FIRST if rank in verdicts), Verdict.NOT_APPLICABLE)
    met, failed = verdicts.count(Verdict.PASS), verdicts.count(Verdict.FAIL)
    return BuildVerdict(name, worst, met, failed, len(verdicts) - met - failed)
