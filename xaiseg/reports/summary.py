"""summary.md: the verdict and its requirements as Markdown, for the page of a pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Overall, Verdict
from xaiseg.reports.builds import build_verdicts, by_build
from xaiseg.reports.facts import cluster_words
from xaiseg.reports.numbers import both_text
from xaiseg.reports.palette import LOOKS
from xaiseg.reports.words import capital, plural, short_reason

_SIGNS: Final[Mapping[Verdict, str]] = {
    Verdict.PASS: "✅",
    Verdict.FAIL: "❌",
    Verdict.ERROR: "⚠️",
    Verdict.INSUFFICIENT: "🔶",
    Verdict.NOT_RUN: "⚪",
    Verdict.NOT_APPLICABLE: "➖",
    Verdict.MEASURED: "➖",
}


def summary_markdown(
    plan: Mapping[str, Any],
    protocol: Mapping[str, Any],
    findings: Sequence[Finding],
    overall: Overall,
    estimates: Mapping[str, Estimate],
    errors: Sequence[Mapping[str, str]],
) -> str:
    """The audit in one screen of Markdown."""
    test = plan["data"]["test"]
    lines = [
        f"## {_SIGNS[overall.verdict]} {escaped(plan['model']['name'])}: {overall.headline}",
        "",
        escaped(overall.sentence),
        "",
    ]
    lines += [f"- {escaped(capital(caveat))}" for caveat in overall.caveats]
    facts = (
        f"{plural(test['n_cases'], 'image')} of {cluster_words(plan, test['n_clusters'])}, protocol {protocol['name']} "
    )
    facts += f"{protocol['version']} (`{protocol['sha256'][:12]}`), exit code {overall.exit_code}"
    lines += [f"- {escaped(facts)}".replace("\\`", "`"), ""]
    lines += _builds(plan, findings)
    ordered = by_build(plan, findings)
    for severity, title in (("gate", "Gates"), ("warn", "Advisory"), ("info", "Information")):
        lines += _table([f for f in ordered if f.requirement.severity == severity], title, estimates)
    if errors:
        lines += [f"{plural(len(errors), 'error')}:", ""]
        lines += [f"- {escaped(row['check'] or row['case'])}: {escaped(row['reason'])}" for row in errors[:10]]
        lines += [f"- and {len(errors) - 10} more, see report.html"] if len(errors) > 10 else []
    return "\n".join(lines).rstrip() + "\n"


def _builds(plan: Mapping[str, Any], findings: Sequence[Finding]) -> list[str]:
    """The verdict on each build; nothing where there are none."""
    rows = build_verdicts(plan, findings)
    if not rows:
        return []
    lines = ["| Build | verdict | gates met | not met | undecided |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        word = f"{_SIGNS[row.verdict]} {LOOKS[row.verdict].word}"
        name = escaped(row.name) if row.name else "audited model and data"
        lines.append(f"| {name} | {word} | {row.met} | {row.failed} | {row.undecided} |")
    return [*lines, ""]


def _table(findings: Sequence[Finding], title: str, estimates: Mapping[str, Estimate]) -> list[str]:
    if not findings:
        return []
    lines = [f"| {title} | verdict | estimate | reason |", "| --- | --- | --- | --- |"]
    for finding in findings:
        estimate = estimates.get(finding.estimate_id or "")
        value = both_text(estimate) if estimate is not None and estimate.value is not None else ""
        reason = ". ".join(part for part in (short_reason(finding, estimate), capital(finding.more)) if part)
        word = f"{_SIGNS[finding.verdict]} {LOOKS[finding.verdict].word}"
        lines.append("| " + " | ".join([escaped(finding.sentence), word, escaped(value), escaped(reason)]) + " |")
    return [*lines, ""]


def escaped(text: str) -> str:
    r"""Text that Markdown shows as it is; file names are hostile.

    >>> escaped("<script> a|b [x](y)")
    '&lt;script&gt; a\\|b \\[x\\](y)'
    """
    flat = " ".join(text.split())
    flat = flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|!#])", r"\\\1", flat)
