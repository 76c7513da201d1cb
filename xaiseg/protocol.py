"""Protocols: what is measured, what is required and why, fixed and hashed before the data are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Decision:
    """How intervals become verdicts: each one-sided bound holds with ``confidence``; ``looks`` divides alpha."""

    confidence: float = 0.95
    min_clusters: int = 5
    looks: int = 1

    @property
    def alpha(self) -> float:
        """Error probability of one bound at one look."""
        return (1.0 - self.confidence) / self.looks


@dataclass(frozen=True)
class Requirement:
    """One line of ``requires:``.

    Attributes:
        check, metric: what is bounded.
        bound: the number; at_least=True means the value must not lie below it, False not above it.
        severity: "gate", "warn" or "info".
        why: compulsory for a gate.
        target: class or explanation method, "" = all.
        where: factor -> level, e.g. {"blur_px": "1"}; {"level": "mild"} = every factor at its mild level.
        stratum: name of a declared factor; the requirement then binds each of its levels.
        subject: "reference" or a variant.
        applies_when: name of a fact that must be true ("readers_see_maps"), or "".
        gate_when: name of a fact that raises the severity to gate, or "".
        agreed_by: who agreed the bound, or None = a default floor.
        maps_to: {"future-ai": [...], "claim-2024": [...], "eu-ai-act": [...]}.
        assume: {"value", "sd"} for the sample size of the plan.
        source: "file:line".
    """

    check: str
    metric: str
    bound: float
    at_least: bool
    severity: Literal["gate", "warn", "info"] = "warn"
    why: str = ""
    target: str = ""
    where: Mapping[str, str] = field(default_factory=dict)
    stratum: str = ""
    subject: str = "reference"
    applies_when: str = ""
    gate_when: str = ""
    agreed_by: str | None = None
    maps_to: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    assume: Mapping[str, float] = field(default_factory=dict)
    source: str = ""

    @property
    def id(self) -> str:
        """check/metric/target/where/stratum, unique in a protocol."""
        where = ",".join(f"{k}={v}" for k, v in self.where.items())
        return "/".join(part for part in (self.check, self.metric, self.target, where, self.stratum) if part)


@dataclass(frozen=True)
class CheckPlan:
    """How a check is measured: its parameters and its cases ("all", or a seeded sample of ``sample`` cases)."""

    check: str
    params: Any
    sample: int | None = None


@dataclass(frozen=True)
class Protocol:
    """A resolved protocol.

    Attributes:
        name, version, as_of, purpose, use, not_for: as written; ``use``/``not_for``/``cannot_tell`` are lists of
            sentences for page 1.
        decision: the decision rule.
        checks: check id -> plan, in order.
        requires: requirements in order.
        strata: factors that the protocol requires model.yaml to declare.
        sha256: digest of the resolved text.
        resolved: the resolved document (plain data), ``extends`` merged.
        source: path or shipped name.
    """

    name: str
    version: str
    as_of: str
    purpose: str
    decision: Decision
    checks: Mapping[str, CheckPlan]
    requires: tuple[Requirement, ...]
    strata: tuple[str, ...] = ()
    use: tuple[str, ...] = ()
    not_for: tuple[str, ...] = ()
    cannot_tell: tuple[str, ...] = ()
    sha256: str = ""
    resolved: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
