import json
from dataclasses import replace

import pytest

from benchmarks.shortcut_rates import CLEAN, CORRELATIONS, Row, main, one, protocol, read_rows, table, write_rows
from xaiseg.protocol import load_protocol

ROW = Row(101, 1.0, "AP50 0.5", 0.9, 0.85, 0.95, 200, 30, 0.4, "FAIL")


@pytest.mark.parametrize(
    ("correlation", "verdict", "called", "is_right"),
    [
        (1.0, "FAIL", "flagged", True),
        (1.0, "PASS", "cleared", False),
        (0.75, "INSUFFICIENT EVIDENCE", "neither", False),
        (0.5, "PASS", "cleared", True),
        (0.5, "FAIL", "flagged", False),
        (0.5, "INSUFFICIENT EVIDENCE", "neither", False),
        (0.5, "NOT RUN", "neither", False),
    ],
)
def test_an_audit_that_cannot_tell_is_never_right(correlation, verdict, called, is_right):
    row = replace(ROW, correlation=correlation, verdict=verdict)
    assert (row.called, row.is_right) == (called, is_right)


def test_twenty_nine_of_twenty_nine_show_nine_in_ten():
    rows = [replace(ROW, seed=seed) for seed in range(101, 130)]
    line = table(rows)[1]
    assert "29 of 29: 1.00 (0.902 to 1.000)" in line


def test_a_miss_and_an_undecided_one_stand_in_the_table():
    rows = [ROW, replace(ROW, seed=102, verdict="PASS"), replace(ROW, seed=103, verdict="INSUFFICIENT EVIDENCE")]
    assert table(rows)[1].split()[:5] == ["1", "3", "1", "1", "1"]
    assert "1 of 3: 0.33" in table(rows)[1]


def test_the_bound_is_that_of_the_shipped_protocol():
    shipped = load_protocol("ecology")
    (own,) = protocol().requires
    (theirs,) = [held for held in shipped.requires if held.check == "shortcut.background"]
    assert (own.bound, own.sense, own.metric, own.where) == (theirs.bound, theirs.sense, theirs.metric, theirs.where)
    assert own.severity == "gate"
    assert list(protocol().checks) == ["shortcut.background"]
    assert protocol().checks["shortcut.background"].params == shipped.checks["shortcut.background"].params


def test_rows_read_back_in_order(tmp_path):
    path = tmp_path / "rows.json"
    assert read_rows(path) == []
    write_rows([replace(ROW, seed=102), replace(ROW, correlation=0.5), ROW], path)
    assert read_rows(path) == [replace(ROW, correlation=0.5), ROW, replace(ROW, seed=102)]
    assert not path.with_suffix(".tmp").exists()


def test_only_what_is_missing_is_trained(tmp_path, capsys):
    path = tmp_path / "rows.json"
    write_rows([replace(ROW, seed=seed, correlation=each) for seed in (101, 102) for each in CORRELATIONS], path)
    main(["--out", str(tmp_path), "--rows", str(path), "--seeds", "101", "102"])
    assert "101" not in {held.name for held in tmp_path.iterdir()}
    assert capsys.readouterr().out.count("of 2: ") == len(CORRELATIONS)


def test_the_committed_rows_were_judged_by_one_bound():
    rows = read_rows()
    assert len({(row.seed, row.correlation, row.world) for row in rows}) == len(rows)
    assert {row.bound for row in rows} <= {protocol().requires[0].bound}


def test_one_training_is_audited_in_its_own_world(tmp_path, monkeypatch):
    import benchmarks.shortcut_rates as rates
    from xaiseg import zoo
    from xaiseg.training import train_zoo

    tiny = replace(zoo.recipe_of("detector-compact", "brief"), images_per_epoch=16, batch=8)
    monkeypatch.setattr(zoo, "recipe_of", lambda name, which: tiny)
    monkeypatch.setattr(rates, "EPOCHS", 1)
    monkeypatch.setattr(
        rates, "train_zoo", lambda name, data, **given: train_zoo(name, f"{data},flights=3,tiles=4", **given)
    )
    for world, correlation, name in (("ice", 0.9, "101-0.9"), ("neutral", CLEAN, "101-0.5-neutral")):
        row = one(101, correlation, world, tmp_path)
        assert row.bound == protocol().requires[0].bound
        assert (row.seed, row.correlation, row.world) == (101, correlation, world)
        assert row.called in ("flagged", "cleared", "neither")
        model = (tmp_path / name / "model.yaml").read_text(encoding="utf-8")
        assert f"correlation: {correlation}" in model
        assert ("placement: anywhere" in model) == (world == "neutral")
        assert not (tmp_path / name / "report").exists()
        json.dumps(row.__dict__)


def test_a_world_has_its_own_correlations(tmp_path, capsys):
    for wrong in (["--world", "neutral", "--correlations", "0.9"], ["--correlations", "0.57"]):
        with pytest.raises(SystemExit):
            main(["--out", str(tmp_path), "--rows", str(tmp_path / "rows.json"), *wrong])
        assert "correlations of the world" in capsys.readouterr().err


def test_the_worlds_are_shown_apart(tmp_path, capsys):
    path = tmp_path / "rows.json"
    write_rows([replace(ROW, seed=331, world="neutral"), replace(ROW, seed=201)], path)
    assert [row.world for row in read_rows(path)] == ["ice", "neutral"]
    for more in ([], ["--world", "neutral"], ["--world", "neutral", "--seeds", "201", "229"]):
        main(["--show", "--rows", str(path), *more])
        assert capsys.readouterr().out.count("of 1: ") == (more[-2:] != ["201", "229"])
