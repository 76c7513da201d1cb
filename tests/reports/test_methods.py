from __future__ import annotations

import re

from xaiseg.reports.methods import GUIDELINES, mapping, methods


def text_of(material, plan=None, protocol=None):
    return methods(
        plan or material.plan, protocol or material.protocol, list(material.estimates.values()), material.findings
    )


def test_every_reference_is_cited_and_every_citation_has_one(material):
    paragraphs, references = text_of(material)
    cited = {int(n) for group in re.findall(r"\[([\d, ]+)\]", " ".join(paragraphs)) for n in group.split(",")}
    assert cited == set(range(1, len(references) + 1))
    order = [int(n) for group in re.findall(r"\[([\d, ]+)\]", " ".join(paragraphs)) for n in group.split(",")]
    assert list(dict.fromkeys(order)) == sorted(cited), "numbered in the order of citation"


def test_says_what_was_done(material):
    words = " ".join(text_of(material)[0])
    test = material.plan["data"]["test"]
    for said in (
        f"{test['n_cases']} images of {test['n_clusters']} patients",
        "fixed and hashed before the data were read",
        "hirescam",
        "one-sided 95 %",
        "seed 7",
        "0.5, chosen on validation data",
    ):
        assert said in words


def test_post_hoc_and_limits_are_confessed(material):
    words = " ".join(text_of(material, {**material.plan, "limit": 50}, {**material.protocol, "sha256": "f" * 64})[0])
    assert "post hoc" in words
    assert "before the data were read" not in words
    assert "about 50 images in all" in words


def test_checks_that_did_not_run_are_not_claimed(material):
    checks = [{**item, "runs": item["id"] == "data.integrity"} for item in material.plan["checks"]]
    words = " ".join(text_of(material, {**material.plan, "checks": checks})[0])
    assert "duplicates" in words
    assert "Dice" not in words
    assert "deletion" not in words


def test_mapping_lists_each_requirement_with_its_items(material):
    head, rows = mapping(material.findings)
    assert head == ("requirement", *GUIDELINES.values())
    assert len(rows) == len(material.findings)
    assert {len(row) for row in rows} == {4}
    assert "G4" in rows[0][1]
