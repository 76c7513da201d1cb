"""A small audit.json document, built from the house's own dataclasses."""

from __future__ import annotations

from typing import Any

from xaiseg.estimate import Estimate
from xaiseg.judge import judge
from xaiseg.protocol import CheckPlan, Decision, Protocol, Requirement
from xaiseg.run import plain
from xaiseg.statistics.interval import Interval

SEG = "performance.segmentation"


def audit() -> dict[str, Any]:
    """Two gates, both met; estimates of kind mean, fact and one without a value."""
    requires = (
        Requirement(SEG, "dice", 0.7, "at_least", "gate", "Because.", agreed_by="Dr A", maps_to={"future-ai": ("G4",)}),
        Requirement("data.integrity", "overlap", 0.0, "at_most", "gate", "Memory.", agreed_by="Dr A"),
    )
    interval = Interval(0.8, 0.76, 0.84, 0.05, "cluster bootstrap-t (2000)", 90, 40, sd=0.2, icc=0.1, deff=1.2)
    estimates = [
        Estimate(f"{SEG}/dice", SEG, "dice", "mean", 0.8, interval, interval, better="higher", n=90, n_clusters=40),
        Estimate("data.integrity/overlap", "data.integrity", "overlap", "fact", 0.0, None, better="lower", n=1),
        Estimate(f"{SEG}/nsd_mm", SEG, "nsd_mm", "mean", None, None, missing=True, reason="no spacing"),
    ]
    checks = {name: CheckPlan(name, None) for name in (SEG, "data.integrity")}
    protocol = Protocol("mine", "1.0.0", "", "", Decision(), checks, requires, sha256="abc")
    findings, overall = judge(protocol, estimates, facts={"cluster_declared": True}, crashed={}, not_run={})
    rows = [plain(one) | {"id": one.requirement.id, "severity": one.requirement.severity} for one in findings]
    numbers = [plain(one) for one in estimates]
    for row, one in zip(numbers, estimates, strict=True):
        for name in ("interval", "detail", "dropped"):
            held = getattr(one, name)
            row[name] = None if held is None else row[name] | {"level": held.level}
    return {
        "schema": "xaiseg-audit/1",
        "tool": {"name": "xaiseg", "version": "0.1.0"},
        "protocol": {"name": "mine", "version": "1.0.0", "sha256": "abc", "resolved": {}},
        "model": {"name": "m", "weights_sha256": "w"},
        "data": {"test": {"list_sha256": "l"}},
        "environment": {},
        "estimates": numbers,
        "findings": rows,
        "overall": plain(overall),
        "errors": [],
        "assumptions": [],
        "signatures": [],
    }
