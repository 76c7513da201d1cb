"""Two audits side by side."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.audit_documents import audit
from xaiseg.comparing import compare, comparison_text, difference_interval
from xaiseg.errors import UsageError


def changed(document, **changes):
    """A copy in which some estimates have another value; intervals keep their width."""
    new = copy.deepcopy(document)
    for row in new["estimates"]:
        if row["metric"] in changes:
            shift = changes[row["metric"]] - row["value"]
            row["value"] += shift
            if row["interval"] is not None:
                row["interval"]["lower"] += shift
                row["interval"]["upper"] += shift
    return new


def move(comparison, metric):
    return next(one for one in comparison.estimates if one.id.endswith(metric))


def test_an_audit_compared_with_itself_has_not_moved():
    found = compare(audit(), audit())
    assert found.findings == ()
    assert all(one.difference == 0 and one.moved is False for one in found.estimates if one.after is not None)
    assert found.sentence.startswith("The verdict stays PASS; 0 requirements read worse and 0 better")


def test_a_number_moves_when_its_difference_excludes_zero():
    old = audit()
    half = old["estimates"][0]["interval"]["upper"] - old["estimates"][0]["value"]
    limit = half * math.sqrt(2)  # two equal symmetric intervals
    value = old["estimates"][0]["value"]
    assert move(compare(old, changed(old, dice=value + 0.99 * limit)), "dice").moved is False
    up = move(compare(old, changed(old, dice=value + 1.01 * limit)), "dice")
    assert (up.moved, up.direction) == (True, "better")
    assert up.interval == pytest.approx((0.01 * limit, 2.01 * limit))
    down = move(compare(old, changed(old, dice=value - 1.01 * limit)), "dice")
    assert (down.moved, down.direction) == (True, "worse")


def test_a_fact_moves_when_it_is_another_one():
    old = audit()
    assert move(compare(old, changed(old, overlap=2.0)), "overlap").direction == "worse"


def test_the_interval_of_a_difference_covers_what_it_says():
    draw = np.random.default_rng(4)
    inside = []
    for _ in range(3000):
        a, b = draw.normal(0.6, 0.03), draw.normal(0.7, 0.05)
        lower, upper = difference_interval(
            a, (a - 1.645 * 0.03, a + 1.645 * 0.03), b, (b - 1.645 * 0.05, b + 1.645 * 0.05)
        )
        inside.append(lower <= 0.1 <= upper)
    assert np.mean(inside) == pytest.approx(0.90, abs=0.02)


def test_intervals_at_different_levels_are_not_compared():
    new = audit()
    new["estimates"][0]["interval"]["alpha"] = 0.01
    assert move(compare(audit(), new), "dice").moved is None


@pytest.mark.parametrize(
    ("before", "after", "direction"),
    [("PASS", "FAIL", "worse"), ("FAIL", "PASS", "better"), ("PASS", "NOT RUN", "worse"),
     ("INSUFFICIENT EVIDENCE", "PASS", "better"), ("FAIL", "ERROR", "better")],
)  # fmt: skip
def test_verdicts_that_changed(before, after, direction):
    old, new = audit(), audit()
    old["findings"][0]["verdict"], new["findings"][0]["verdict"] = before, after
    (change,) = compare(old, new).findings
    assert (change.before, change.after, change.direction) == (before, after, direction)


def test_requirements_that_came_went_or_were_bounded_anew():
    old, new = audit(), audit()
    new["findings"][0]["requirement"]["bound"] = 0.6
    gone = new["findings"].pop(1)
    new["findings"].append(gone | {"id": "other"})
    ways = {change.id: change.direction for change in compare(old, new).findings}
    assert ways == {old["findings"][0]["id"]: "changed", old["findings"][1]["id"]: "gone", "other": "new"}


def test_notes_say_what_is_not_the_same():
    old, new = audit(), audit()
    assert "same cases" in " ".join(compare(old, new).notes)
    new["protocol"]["sha256"] = "other"
    new["data"]["test"]["list_sha256"] = "other"
    said = " ".join(compare(old, new).notes)
    assert "protocols differ" in said
    assert "audited cases differ" in said


def test_parts_of_one_list_are_not_the_same_cases():
    for runs in (
        ({"limit": 20, "seed": 0}, {"limit": None, "seed": 0}),
        ({"limit": 9, "seed": 0}, {"limit": 9, "seed": 1}),
    ):
        old, new = (audit() | {"run": run} for run in runs)
        assert "audited cases differ" in " ".join(compare(old, new).notes)
    old, new = (audit() | {"run": {"limit": None, "seed": seed}} for seed in (0, 1))
    assert "same cases" in " ".join(compare(old, new).notes), "without a limit the seed draws no cases"


def test_the_text_names_what_moved_and_what_is_lacking():
    old = audit()
    new = changed(old, dice=0.2)
    new["findings"][0]["verdict"] = "FAIL"
    new["overall"] = new["overall"] | {"verdict": "FAIL", "headline": "FAIL"}
    lost = new["estimates"].pop()
    text = comparison_text(compare(old, new))
    assert text.splitlines()[0].startswith("The verdict changed from PASS to FAIL")
    assert "PASS > FAIL  Mean Dice is at least 0.70" in text
    assert "worse   performance.segmentation/dice: 0.8 (" in text
    assert f"Only the former audit holds: {lost['id']}" in text


def test_a_document_of_another_version_is_refused():
    with pytest.raises(UsageError, match="newer audit is of another version"):
        compare(audit(), audit() | {"schema": "xaiseg-audit/9"})


def test_a_comparison_is_plain_data():
    from xaiseg.run import plain

    found = replace(compare(audit(), audit()), notes=("x",))
    assert json.loads(json.dumps(plain(found), allow_nan=False))["notes"] == ["x"]
