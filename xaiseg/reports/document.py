"""audit.json: everything that the report says, for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Overall
from xaiseg.run import plain
from xaiseg.statistics.interval import Interval

SCHEMA: Final = "xaiseg-audit/1"
#: Facts of the user's machine, which do not belong into a document that is passed on.
_PRIVATE: Final = ("path", "text")


def audit_document(
    plan: Mapping[str, Any],
    protocol: Mapping[str, Any],
    estimates: Sequence[Estimate],
    findings: Sequence[Finding],
    overall: Overall,
    errors: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """The audit as plain JSON data; a number that is undefined is null and has a reason.

    Args:
        plan: the run's plan.
        protocol: the protocol it was judged by.
        estimates: every number.
        findings: one a requirement.
        overall: the verdict.
        errors: failed images and crashed checks.
    """
    environment = dict(plan["environment"])
    run = {
        name: plan.get(name) for name in ("key", "created", "command", "seed", "limit", "batch", "threads", "device")
    }
    document = {
        "schema": SCHEMA,
        "tool": {"name": "xaiseg", "version": environment.get("xaiseg")},
        "run": run,
        "protocol": protocol,
        "model": {name: value for name, value in plan["model"].items() if name not in _PRIVATE},
        "data": plan["data"],
        "checks": plan["checks"],
        "environment": environment,
        "estimates": [_estimate(item) for item in estimates],
        "findings": [_finding(item) for item in findings],
        "overall": overall,
        "errors": [{name: row.get(name, "") for name in ("case", "check", "kind", "reason")} for row in errors],
        "assumptions": list(plan.get("assumptions", ())),
        "signatures": [],
    }
    written: dict[str, Any] = plain(document)
    return written


def _estimate(item: Estimate) -> dict[str, Any]:
    row: dict[str, Any] = plain(item)
    for name in ("interval", "detail", "dropped"):
        row[name] = _interval(getattr(item, name))
    if row["value"] is None and not row["reason"]:
        row["reason"] = "undefined on these data"
    return row


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else plain(interval) | {"level": round(interval.level, 9)}


def _finding(finding: Finding) -> dict[str, Any]:
    row: dict[str, Any] = plain(finding)
    return row | {"id": finding.requirement.id, "severity": finding.requirement.severity}
