"""Serial, parallel, killed and resumed runs write the same tables."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.worlds import blob_world, forward_only
from xaiseg import pipeline
from xaiseg import run as run_module
from xaiseg.engines import open_shards, run_shards
from xaiseg.errors import UsageError
from xaiseg.plan import Options
from xaiseg.protocol import load_protocol
from xaiseg.run import RunDirectory


def planned(model: Path, protocol: Path | str, out: Path) -> RunDirectory:
    opened = pipeline.open_model(model)
    return pipeline.draft(opened, load_protocol(str(protocol)), Options(out=out, seed=5)).write()


def finish(run: RunDirectory, engine: str = "serial", workers: int | None = None) -> None:
    for _ in run_shards(run, engine=engine, workers=workers):
        pass


def tables(run: RunDirectory) -> dict[str, list]:
    """All measured rows and evidence, as plain comparable values; costs are left out."""
    checks = [item["id"] for item in run.plan()["checks"] if item["runs"]]
    held = {
        check: run.table(check).to_json(orient="records", double_precision=15)
        for check in checks
        if run.has_table(check)
    }
    held["errors"] = [(row["case"], row["check"], row["reason"]) for row in run.errors()]
    held["evidence"] = [
        (item.case, item.kind, {name: array.tobytes() for name, array in item.arrays.items()})
        for item in run.evidence()
    ]
    return held


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return blob_world(tmp_path_factory.mktemp("world"), n=52, size=40, empty=6, dark=4)


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory) -> dict[str, list]:
    run = planned(world, "clinical", tmp_path_factory.mktemp("runs") / "undisturbed")
    finish(run)
    return tables(run)


@pytest.mark.subprocess
def test_a_pool_of_processes_writes_the_same_rows(world, undisturbed, tmp_path):
    run = planned(world, "clinical", tmp_path / "run")
    finish(run, "processes", workers=2)
    assert tables(run) == undisturbed


def test_a_resumed_run_writes_the_same_rows(world, undisturbed, tmp_path):
    run = planned(world, "clinical", tmp_path / "run")
    for count, _ in enumerate(run_shards(run, engine="serial")):
        if count == 1:
            break
    assert 0 < len(open_shards(run)) < run.plan()["shards"] + 1
    finish(run)
    assert tables(run) == undisturbed


class Killed(BaseException):
    """Stands for a kill: nothing in the package may catch it."""


def test_a_fault_at_each_write_point_loses_nothing(tmp_path, monkeypatch):
    """The process dies right before its n-th rename, for every n there is; the next start ends with the same tables."""
    world = blob_world(tmp_path / "world", n=18, size=32, empty=2)
    protocol = forward_only(tmp_path)
    rename = run_module._rename
    written: list[str] = []

    def counting(temporary: Path, path: Path) -> None:
        written.append(path.name)
        rename(temporary, path)

    monkeypatch.setattr(run_module, "_rename", counting)
    clean = planned(world, protocol, tmp_path / "clean")
    finish(clean)
    expected, points = tables(clean), len(written)
    assert {"plan.json", "cases.parquet", "index.json", "shard-00001.parquet", "once.parquet"} <= set(written)
    for point in range(points):
        out = tmp_path / f"killed-{point}"
        written.clear()

        def dying(temporary: Path, path: Path, point: int = point) -> None:
            if len(written) == point:
                raise Killed
            counting(temporary, path)

        monkeypatch.setattr(run_module, "_rename", dying)
        with pytest.raises(Killed):
            finish(planned(world, protocol, out))
        monkeypatch.setattr(run_module, "_rename", counting)
        run = planned(world, protocol, out)
        finish(run)
        assert tables(run) == expected
        assert not list(out.rglob("*.tmp"))


@pytest.mark.subprocess
def test_five_kills_lose_nothing(world, undisturbed, tmp_path):
    """SIGKILL (TerminateProcess on Windows) at five moments; the sixth start finishes the run."""
    out = tmp_path / "run"
    code = (
        "import sys; from pathlib import Path; from tests.test_engines import planned, finish\n"
        "finish(planned(Path(sys.argv[1]), 'clinical', Path(sys.argv[2])))"
    )
    repository = Path(__file__).resolve().parents[1]
    done = 0
    codes = []
    for kill in range(5):
        process = subprocess.Popen([sys.executable, "-c", code, str(world), str(out)], cwd=repository)
        wanted = kill + 1
        while process.poll() is None and len(list(out.glob("costs/*.parquet"))) < wanted:
            time.sleep(0.02)
        time.sleep(0.03 * kill)  # into the middle of the next shard, a little further each time
        process.kill()
        codes.append(process.wait())
        done = len(list(out.glob("costs/*.parquet")))
    run = planned(world, "clinical", out)
    assert 0 < done <= run.plan()["shards"] + 1
    assert codes[0] != 0, "the first kill came after the end"  # five shards were still to come
    finish(run)
    assert tables(run) == undisturbed


def test_an_existing_run_of_another_model_is_left_alone(world, tmp_path):
    other = blob_world(tmp_path / "other", n=8, size=32, name="other")
    planned(world, forward_only(tmp_path), tmp_path / "run")
    before = (tmp_path / "run" / "plan.json").read_text()
    with pytest.raises(UsageError, match="holds another run"):
        planned(other, forward_only(tmp_path), tmp_path / "run")
    assert (tmp_path / "run" / "plan.json").read_text() == before


def test_an_unknown_engine_has_a_hint(world, tmp_path):
    run = planned(world, forward_only(tmp_path), tmp_path / "run")
    with pytest.raises(UsageError, match="did you mean 'processes'"):
        finish(run, "proceses")
