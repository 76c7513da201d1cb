from __future__ import annotations

import json
import math

from xaiseg.estimate import Estimate
from xaiseg.reports.document import audit_document
from xaiseg.schema import json_schema
from xaiseg.statistics.interval import Interval


def load(rendered):
    def refuse(name):
        raise AssertionError(f"{name} in JSON")

    text = (rendered.path / "audit.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=refuse)


def test_fits_its_schema(rendered):
    import jsonschema

    jsonschema.validate(load(rendered), json_schema("audit"))


def test_says_what_the_run_says(rendered, material):
    audit = load(rendered)
    assert [row["id"] for row in audit["estimates"]] == list(material.estimates)
    assert [row["verdict"] for row in audit["findings"]] == [f.verdict.value for f in material.findings]
    assert audit["overall"]["exit_code"] == material.overall.exit_code
    assert len(audit["errors"]) == 2


def test_keeps_the_machine_to_itself(rendered):
    assert "/home/somebody" not in (rendered.path / "audit.json").read_text(encoding="utf-8")


def test_every_null_value_has_a_reason(rendered):
    rows = load(rendered)["estimates"]
    assert [row for row in rows if row["value"] is None]
    assert all(row["reason"] for row in rows if row["value"] is None)


def test_nan_becomes_null_with_a_reason(material):
    hollow = Estimate("a/b", "a", "b", "mean", math.nan, Interval(math.nan, math.inf, None, 0.05, "m", 0, 0))
    row = audit_document(material.plan, material.protocol, [hollow], [], material.overall, [])["estimates"][0]
    assert row["value"] is None
    assert row["interval"]["lower"] is None
    assert row["reason"] == "undefined on these data"
    assert row["interval"]["level"] == 0.9
