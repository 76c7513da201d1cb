from __future__ import annotations

import errno
import json

import numpy as np
import pyarrow as pa
import pytest

from xaiseg import run as run_module
from xaiseg.errors import UsageError
from xaiseg.run import SCHEMA, EvidenceItem, RunDirectory, chosen_kinds, plain, whole


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "a" / "table.parquet"
    with pytest.raises(ZeroDivisionError), whole(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert list(target.parent.iterdir()) == []
    with whole(target) as temporary:
        temporary.write_text("all")
        assert not target.exists()
    assert target.read_text() == "all"


def test_a_full_disk_is_one_clear_error_and_keeps_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "plan.json"
    target.write_text("before")

    def full(temporary, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_module, "_rename", full)
    with (
        pytest.raises(UsageError, match=r"No space left on device.*goes on where it stopped"),
        whole(target) as temporary,
    ):
        temporary.write_text("after")
    assert target.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_nan_never_reaches_json():
    assert plain({"a": np.float64("nan"), "b": (np.inf, np.int64(3)), "c": np.array([1.0, np.nan])}) == {
        "a": None,
        "b": [None, 3],
        "c": [1.0, None],
    }


def test_a_directory_without_a_plan_is_no_run(tmp_path):
    with pytest.raises(UsageError, match=r"holds no plan\.json"):
        RunDirectory.existing(tmp_path)


def test_another_schema_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"schema": "xaiseg-run/0"}))
    with pytest.raises(UsageError, match=SCHEMA):
        RunDirectory.existing(tmp_path).plan()


def test_a_table_does_not_show_its_shards(tmp_path):
    rows = [{"case": f"c{i:02d}", "value": float(i)} for i in range(20)]
    schema = pa.schema([("case", pa.string()), ("value", pa.float64())])
    orders = {"one": [rows], "many": [rows[15:], rows[:3], rows[3:15]]}
    frames = []
    for name, parts in orders.items():
        run = RunDirectory(tmp_path / name)
        for shard, part in enumerate(parts):
            run.write_table("performance.segmentation", shard, pa.Table.from_pylist(part, schema=schema))
        frames.append(run.table("performance.segmentation"))
    assert frames[0].equals(frames[1])


def test_the_union_of_the_shards_holds_the_global_choice():
    rng = np.random.default_rng(0)
    cases = [
        (f"c{i}", {"x": float(rng.random()), "y": float(rng.random())}, int(rng.integers(1 << 60))) for i in range(90)
    ]
    overall = chosen_kinds(cases, worst=3, random=4)
    union = []
    for start in range(0, 90, 16):
        shard = cases[start : start + 16]
        kept = chosen_kinds(shard, worst=3, random=4)
        union += [case for case in shard if case[0] in kept]
    assert chosen_kinds(union, worst=3, random=4) == overall
    worst = sorted(cases, key=lambda case: case[1]["x"])[:3]
    assert all("worst:x" in overall[case[0]] for case in worst)


def test_evidence_round_trip(tmp_path):
    run = RunDirectory(tmp_path)
    arrays = {"image": np.arange(12, dtype=np.uint8).reshape(3, 4), "map:cam": np.ones((64, 64), np.float16)}
    run.write_evidence(0, [EvidenceItem("a", (), {"x": 0.2}, 7, arrays)])
    run.write_evidence(1, [EvidenceItem("b", (), {"x": 0.1}, 9, arrays)])
    held = run.evidence(worst=1, random=1)
    assert {item.case: item.kind for item in held} == {"a": ("random",), "b": ("worst:x",)}
    assert np.array_equal(held[0].arrays["image"], arrays["image"])
    assert held[0].arrays["map:cam"].dtype == np.float16
