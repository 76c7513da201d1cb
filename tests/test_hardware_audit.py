"""An audit of other builds from end to end: the same rows by every way, a build that breaks, a report that names it."""

from pathlib import Path

import pytest

from tests.test_engines import finish, planned, tables
from tests.test_variants import BLOCK
from tests.worlds import blob_world
from xaiseg import pipeline
from xaiseg.errors import UsageError

PROTOCOL = """protocol: builds
version: 1.0.0
as_of: 2026-11-29
checks:
  performance.segmentation: {}
  equivalence.segmentation: {}
requires:
  - {check: equivalence.segmentation, metric: dice_change, subject: each, within: 0.5, severity: gate, why: a test}
  - {check: equivalence.segmentation, metric: vanished, subject: each, at_most: 0.5, severity: gate, why: a test}
"""
FRAGILE = """
def fragile(x):
    import numpy as np
    found = 20 * (x - 0.5)
    found[x.mean(axis=(1, 2, 3)) > 0.24] = np.nan
    return found
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    path = blob_world(folder, n=30, size=32, empty=4, per_patient=1)
    blob_world(folder / "more", n=8, size=32, empty=0, seed=5)
    (folder / "block.py").write_text(BLOCK + FRAGILE)
    path.write_text(
        path.read_text()
        + "  calibration: {reader: folder, path: more/data, cluster: group}\n"
        + "variants:\n  good: {bits: 8}\n"
        + '  silent: {source: {python: "block.py:constant"}}\n'
        + '  fragile: {source: {python: "block.py:fragile"}}\n'
    )
    (folder / "builds.yaml").write_text(PROTOCOL)
    return path


@pytest.fixture(scope="module")
def audited(world, tmp_path_factory):
    run = planned(world, world.parent / "builds.yaml", tmp_path_factory.mktemp("runs") / "serial")
    finish(run)
    return run


@pytest.mark.subprocess
def test_two_processes_write_the_same_rows(world, audited, tmp_path):
    run = planned(world, world.parent / "builds.yaml", tmp_path / "run")
    finish(run, "processes", workers=2)
    assert tables(run) == tables(audited)


@pytest.fixture(scope="module")
def concluded(audited):
    return pipeline.rejudge(audited.path, pdf=False)


def test_each_build_has_its_verdict_and_failures_are_its_own(audited, concluded):
    findings = {(f.requirement.subject, f.requirement.metric): f.verdict.value for f in concluded.findings}
    assert findings["good", "dice_change"] == findings["good", "vanished"] == "PASS"
    assert findings["silent", "dice_change"] == findings["silent", "vanished"] == "FAIL"
    assert findings["fragile", "dice_change"] != "PASS"
    rows = audited.table("equivalence.segmentation")
    failed = rows[rows["status"] == "failed"]
    assert set(failed["subject"]) == {"fragile"}
    assert 0 < len(failed) < 30
    assert failed["reason"].str.contains("NaN").all()
    held = {
        item.subject: item.n_failed for item in concluded.estimates if item.metric == "dice_change" and not item.stratum
    }
    assert held == {"good": 0, "silent": 0, "fragile": len(failed)}


def test_a_requirement_on_a_build_that_there_is_not_is_refused_before_anything_is_measured(world, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(PROTOCOL.replace("subject: each", "subject: god", 1))
    with pytest.raises(UsageError, match=r"names a variant that model.yaml does not have.*god.*did you mean 'good'"):
        planned(world, path, tmp_path / "run")


def test_the_report_names_the_builds(concluded):
    html = concluded.files["report.html"].read_text()
    for words in (
        "Does the other build still segment the same?",
        "variant silent",
        "8 images of calibration",
        "Another build: python block.py:constant.",
        "Integers on digit-serial units",
    ):
        assert words in html


def test_a_section_that_was_measured_otherwise_says_so(audited, tmp_path):
    path = tmp_path / "later.yaml"
    path.write_text(PROTOCOL.replace("equivalence.segmentation: {}", "equivalence.segmentation: {large: 0.1}"))
    later = pipeline.rejudge(audited.path, str(path), pdf=False)
    assert {f.verdict.value for f in later.findings} == {"NOT RUN"}
    assert "there is nothing to show: it was measured with other parameters" in later.files["report.html"].read_text()
    pipeline.rejudge(audited.path, pdf=False)
