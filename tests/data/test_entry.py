from __future__ import annotations

import pytest
from pydantic import ValidationError

from xaiseg.data.entry import DataEntry


def test_phantoms_have_patients_unless_the_entry_says_otherwise():
    entry = DataEntry(reader="phantom")
    assert entry.cluster == "patient"
    assert entry.phantom.split == "test"
    assert DataEntry(reader="phantom", cluster="device").cluster == "device"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pth": "d"}, "Extra inputs"),
        ({}, "needs `path:` or `images:`"),
        ({"path": "d", "phantom": {}}, "belongs to the reader phantom"),
        ({"path": "d", "window": (5, 5)}, "low < high"),
        ({"path": "d", "strata": ("device", "case")}, "cannot be called 'case'"),
        ({"path": "d", "strata": ("p:device",)}, "cannot be called 'p:device'"),
        ({"path": "d", "window": (float("nan"), 5)}, "low < high"),
        ({"path": "d", "labels": {3: 256}}, "less than or equal to 255"),
        ({"path": "d", "labels": {3: -1}}, "greater than or equal to 0"),
        ({"path": "d", "annotations": "a.json"}, "belongs to the readers coco"),
        ({"reader": "coco", "path": "d", "masks": "m"}, "takes its masks from `annotations:`"),
        ({"reader": "phantom", "phantom": {"split": "tset"}}, "'train', 'validation' or 'test'"),
        ({"reader": "phantom", "phantom": {"size": (8, 8)}}, "greater than or equal to 32"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        DataEntry(**fields)


def test_one_sidecar_or_several():
    assert DataEntry(path="d").sidecars is None
    assert DataEntry(path="d", meta="a.csv").sidecars == ("a.csv",)
    assert DataEntry(path="d", meta=("a.csv", "b.parquet")).sidecars == ("a.csv", "b.parquet")
