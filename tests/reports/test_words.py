from __future__ import annotations

from xaiseg.judge import Finding, Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports.facts import cluster_word, cluster_words, plan_facts
from xaiseg.reports.words import short_label, short_reason


def test_requirements_over_groups_name_the_worst_alone(material):
    (finding,) = [f for f in material.findings if f.requirement.stratum]
    said = short_reason(finding, material.estimates[finding.estimate_id])
    assert said.startswith(f"Worst of {len(finding.members)}")
    assert len(said) < 100 < len(finding.reason)
    one = Finding(Requirement("c", "m", 0.5, "at_least"), Verdict.PASS, "S", "it is so", "x", ("x",))
    assert short_reason(one, None) == "It is so"


def test_labels_differ_between_requirements(material):
    labels = [short_label(finding.requirement) for finding in material.findings]
    assert len(set(labels)) == len(labels)


def test_units_without_a_declared_column_are_images():
    plan = {"data": {"test": {"cluster_column": None}}}
    assert cluster_words(plan, 1) == "1 image"
    assert cluster_word(plan) == "images"


def test_facts_of_page_1(material):
    facts = plan_facts(material.plan)
    assert facts[1] == "weights sha256 8c0e8c0e…8c0e"
    assert facts[2] == "123 456 parameters"
