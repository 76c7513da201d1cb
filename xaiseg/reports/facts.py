"""Facts of the plan in words: who the independent units are, and what was audited."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xaiseg.judge import unit
from xaiseg.reports.words import plural


def plan_facts(plan: Mapping[str, Any]) -> list[str]:
    """Model, data and threshold, a few words each."""
    model, test = plan["model"], plan["data"]["test"]
    facts = [f"Version {model['version']}" if model.get("version") else "Version not stated"]
    if model.get("weights_sha256"):
        facts.append(f"weights sha256 {model['weights_sha256'][:8]}…{model['weights_sha256'][-4:]}")
    if model.get("parameters"):
        facts.append(f"{model['parameters']:,} parameters".replace(",", " "))
    facts.append(f"{plural(test['n_cases'], 'image')} of {cluster_words(plan, test['n_clusters'])}")
    facts.append(f"operating threshold {threshold_words(model)}")
    return facts


def threshold_words(model: Mapping[str, Any]) -> str:
    """The operating threshold and where it comes from.

    >>> threshold_words({"threshold": {"value": 0.4, "chosen_on": "val"}})
    '0.4, chosen on validation data'
    """
    held = model.get("threshold") or {}
    source = {"val": "chosen on validation data", "test": "chosen on the audited data", "default": "the default"}
    return f"{held.get('value', 0.5):g}, {source.get(str(held.get('chosen_on')), 'chosen on unknown data')}"


def cluster_words(plan: Mapping[str, Any], count: int) -> str:
    """A number of independent units in words.

    >>> cluster_words({"data": {"test": {"cluster_column": "patient_id"}}}, 98)
    '98 patients'
    """
    return f"{count} {unit(_unit_facts(plan), count)}"


def cluster_word(plan: Mapping[str, Any]) -> str:
    """The independent unit in the plural, as in "patients"."""
    return unit(_unit_facts(plan), 2)


def _unit_facts(plan: Mapping[str, Any]) -> dict[str, Any]:
    column = plan["data"]["test"].get("cluster_column")
    return {"cluster_column": column, "cluster_declared": column is not None}
