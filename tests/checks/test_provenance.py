from __future__ import annotations

import pytest
from fake import FakeContext, quantities, tables

from xaiseg.checks.base import get_check
from xaiseg.checks.provenance import ID


def rows_for(provenance):
    return [
        {"case": "", **row} for row in get_check(ID).measure_once(FakeContext(facts={"provenance": provenance}), {})
    ]


def test_items_are_listed_as_they_are_and_the_unknown_ones_stay_in_the_list():
    rows = rows_for({"torch": "2.9", "weights sha256": None, "onnx": "None", "seed": 0})
    assert [(row["item"], row["value"]) for row in rows] == [
        ("torch", "2.9"), ("weights sha256", None), ("onnx", None), ("seed", "0"),
    ]  # fmt: skip
    found = quantities(ID, tables({ID: rows}, []))["provenance_complete",]
    assert found.kind == "fact"
    assert found.values == pytest.approx([0.5])
    assert "onnx" in found.note
    assert "weights sha256" in found.note


def test_a_full_list_is_complete():
    found = quantities(ID, tables({ID: rows_for({"torch": "2.9"})}, []))["provenance_complete",]
    assert found.values.tolist() == [1.0]


def test_without_a_list_the_quantity_is_missing():
    assert quantities(ID, tables({ID: rows_for({})}, []))["provenance_complete",].missing
