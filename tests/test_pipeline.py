"""Whole audits: what the stages promise each other."""

from __future__ import annotations

import json

import pytest

import xaiseg
from tests.worlds import blob_world
from xaiseg.errors import UsageError
from xaiseg.judge import Verdict


def with_train(model, text: str):
    model.write_text(model.read_text(encoding="utf-8") + text, encoding="utf-8")
    return model


def finding(outcome, metric: str):
    return next(one for one in outcome.findings if one.requirement.metric == metric)


def test_clinical_runs_every_check_without_a_crash(tmp_path):
    model = blob_world(tmp_path / "world", n=24, size=32, empty=4)
    blob_world(tmp_path / "train", n=8, size=32, seed=9)
    with_train(model, f"  train: {{reader: folder, path: {(tmp_path / 'train' / 'data').as_posix()}}}\n")
    outcome = xaiseg.audit(model, "clinical", out=tmp_path / "run", pdf=False)
    assert not [one for one in outcome.findings if one.verdict is Verdict.ERROR]
    assert finding(outcome, "overlap_train_test").verdict is Verdict.PASS
    document = json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))
    assert document["errors"] == []
    # A network of blobs has no explanation of its own.
    assert {check["id"] for check in document["checks"] if not check["runs"]} == {
        "explanation.intrinsic",
        "performance.detection",
    }


def test_a_case_that_was_trained_on_fails_the_audit(tmp_path):
    model = blob_world(tmp_path / "world", n=24, size=32, empty=4)
    with_train(model, "  train: {reader: folder, path: data}\n")
    outcome = xaiseg.audit(model, "clinical", out=tmp_path / "run", pdf=False)
    assert finding(outcome, "overlap_train_test").verdict is Verdict.FAIL
    assert outcome.exit_code == 1


def test_a_crashed_check_is_never_green(tmp_path, monkeypatch):
    from xaiseg.checks.performance_segmentation import PerformanceSegmentation

    def crash(self, context, case):
        if case.id == "case0007":
            raise ZeroDivisionError("planted")
        yield from measure(self, context, case)

    measure = PerformanceSegmentation.measure
    monkeypatch.setattr(PerformanceSegmentation, "measure", crash)
    model = blob_world(tmp_path / "world", n=24, size=32, empty=4)
    outcome = xaiseg.audit(model, "clinical", out=tmp_path / "run", pdf=False)
    assert finding(outcome, "dice").verdict is Verdict.ERROR
    assert outcome.exit_code == 4
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "planted" in html
    assert "case0007" in html


def test_editing_a_bound_judges_again_without_measuring(tmp_path):
    model = blob_world(tmp_path / "world", n=44, size=32, empty=4)
    protocol = tmp_path / "mine.yaml"
    text = (
        "protocol: mine\nversion: 1.0.0\nas_of: 2026-11-24\npurpose: a test\nchecks:\n  performance.segmentation: {}\n"
        "requires:\n  - {check: performance.segmentation, metric: dice, at_least: 0.1, severity: gate, why: a test}\n"
    )
    protocol.write_text(text, encoding="utf-8")
    first = xaiseg.audit(model, protocol, out=tmp_path / "run", pdf=False)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "measurements").rglob("*.parquet")}
    protocol.write_text(text.replace("at_least: 0.1", "at_most: 0.1"), encoding="utf-8")
    second = xaiseg.audit(model, protocol, out=tmp_path / "run", pdf=False)
    assert (first.exit_code, second.exit_code) == (0, 1)
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "measurements").rglob("*.parquet")}
    assert any("POST HOC" in caveat for caveat in second.overall.caveats)


def test_an_unfinished_run_cannot_be_judged(tmp_path):
    from xaiseg import pipeline
    from xaiseg.plan import Options
    from xaiseg.protocol import load_protocol

    model = blob_world(tmp_path / "world", n=24, size=32)
    pipeline.draft(pipeline.open_model(model), load_protocol("base"), Options(out=tmp_path / "run")).write()
    with pytest.raises(UsageError, match="not measured yet"):
        pipeline.rejudge(tmp_path / "run")


def test_base_declares_no_gate_and_reads_measured(tmp_path):
    model = blob_world(tmp_path / "world", n=24, size=32, empty=4)
    outcome = xaiseg.audit(model, "base", out=tmp_path / "run", pdf=False)
    assert outcome.verdict is Verdict.MEASURED
    assert outcome.exit_code == 0


def test_a_limit_draws_whole_clusters_and_caps_the_gates(tmp_path):
    model = blob_world(tmp_path / "world", n=80, size=32, empty=4)
    outcome = xaiseg.audit(model, "clinical", out=tmp_path / "run", pdf=False, limit=9)
    assert all(one.verdict is not Verdict.PASS for one in outcome.findings if one.requirement.severity == "gate")
    document = json.loads((tmp_path / "run" / "plan.json").read_text(encoding="utf-8"))
    assert document["data"]["test"]["n_cases"] == 10


def test_against_a_former_run_stands_in_the_report(tmp_path):
    model = blob_world(tmp_path / "world", n=24, size=32, empty=4)
    xaiseg.audit(model, "base", out=tmp_path / "a", pdf=False)
    xaiseg.audit(model, "base", out=tmp_path / "b", pdf=False, seed=1, against=tmp_path / "a")
    assert "former" in (tmp_path / "b" / "report.html").read_text(encoding="utf-8").lower()


def test_the_same_audit_twice_gives_the_same_report(tmp_path):
    model = blob_world(tmp_path / "world", n=24, size=32, empty=4)
    documents = []
    for name in ("a", "b"):
        xaiseg.audit(model, "clinical", out=tmp_path / name, pdf=False, command="same")
        document = json.loads((tmp_path / name / "audit.json").read_text(encoding="utf-8"))
        documents.append({key: document[key] for key in ("estimates", "findings", "overall", "errors")})
    assert documents[0] == documents[1]


def test_a_folder_of_predictions_is_no_model_for_new_images(tmp_path):
    model = blob_world(tmp_path / "world", n=44, size=32, empty=4)
    text = model.read_text(encoding="utf-8").replace(
        'source: {torch: "builder.py:build"}', "source: {predictions: data/masks}"
    )
    text = text.replace(
        "{kind: logits, activation: sigmoid, threshold: {value: 0.5, chosen_on: default}}", "{kind: labels}"
    )
    model.write_text(text, encoding="utf-8")
    outcome = xaiseg.audit(model, "clinical", out=tmp_path / "run", pdf=False)
    assert finding(outcome, "dice").verdict is Verdict.PASS
    assert finding(outcome, "dice_drop").verdict is Verdict.NOT_RUN
    assert not any("failed" in caveat for caveat in outcome.overall.caveats)


def test_coming_back_to_the_first_protocol_is_no_new_look(tmp_path):
    from xaiseg import pipeline

    model = blob_world(tmp_path / "world", n=44, size=32, empty=4)
    other = tmp_path / "other.yaml"
    other.write_text(
        "protocol: other\nversion: 1.0.0\nas_of: 2026-11-24\npurpose: a test\nchecks:\n  performance.segmentation: {}\n"
        "requires:\n  - {check: performance.segmentation, metric: dice, at_least: 0.1, severity: gate, why: a test}\n",
        encoding="utf-8",
    )
    first = xaiseg.audit(model, "clinical", out=tmp_path / "run", pdf=False)
    second = pipeline.rejudge(tmp_path / "run", other, pdf=False)
    third = pipeline.rejudge(tmp_path / "run", pdf=False)
    assert finding(first, "dice").verdict is finding(third, "dice").verdict is Verdict.PASS
    assert finding(second, "dice").verdict is Verdict.INSUFFICIENT  # a second look, where the protocol allows one


def test_mended_masks_and_an_edited_builder_are_another_run(tmp_path):
    from xaiseg import pipeline
    from xaiseg.plan import Options
    from xaiseg.protocol import load_protocol

    model = blob_world(tmp_path / "world", n=12, size=32)

    def key() -> str:
        drafted = pipeline.draft(pipeline.open_model(model), load_protocol("base"), Options())
        return drafted.document["key"]

    first = key()
    assert key() == first
    mask = tmp_path / "world" / "data" / "masks" / "case0003.png"
    mask.write_bytes((mask.parent / "case0010.png").read_bytes())
    second = key()
    builder = tmp_path / "world" / "builder.py"
    builder.write_text(builder.read_text(encoding="utf-8").replace("-10.0", "-9.0"), encoding="utf-8")
    assert len({first, second, key()}) == 3


def test_a_crash_reaches_the_checks_that_read_it(tmp_path, monkeypatch):
    from xaiseg.checks.performance_segmentation import PerformanceSegmentation

    def crash(self, context, case):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(PerformanceSegmentation, "measure", crash)
    model = blob_world(tmp_path / "world", n=24, size=32)
    protocol = tmp_path / "gap.yaml"
    protocol.write_text(
        "protocol: gap\nversion: 1.0.0\nas_of: 2026-11-24\npurpose: a test\n"
        "checks:\n  performance.segmentation: {}\n  subgroups.declared: {}\n"
        "requires:\n  - {check: subgroups.declared, metric: dice_gap, at_most: 0.2, severity: gate, why: a test}\n",
        encoding="utf-8",
    )
    assert xaiseg.audit(model, protocol, out=tmp_path / "run", pdf=False).exit_code == 4


@pytest.mark.parametrize("column", ["group", "patient"])
def test_a_group_column_that_repeats_and_is_not_declared_caps_the_gates(tmp_path, column):
    model = blob_world(tmp_path / "world", n=60, size=32, empty=4)
    model.write_text(model.read_text(encoding="utf-8").replace(", cluster: group", ""), encoding="utf-8")
    meta = tmp_path / "world" / "data" / "meta.csv"
    meta.write_text(meta.read_text(encoding="utf-8").replace("id,group", f"id,{column}"), encoding="utf-8")
    outcome = xaiseg.audit(model, "clinical", out=tmp_path / "run", pdf=False)
    assert finding(outcome, "dice").verdict is Verdict.INSUFFICIENT


def test_against_a_place_that_is_no_run_is_said_before_anything_is_measured(tmp_path):
    model = blob_world(tmp_path / "world", n=12, size=32)
    with pytest.raises(UsageError, match="no run directory"):
        xaiseg.audit(model, "base", out=tmp_path / "run", against=tmp_path / "nowhere", pdf=False)
    assert not (tmp_path / "run").exists()


def test_files_of_no_case_are_said_before_and_in_the_report(tmp_path):
    model = blob_world(tmp_path / "world", n=12, size=32)
    (tmp_path / "world" / "data" / "masks" / "lost.png").write_bytes(b"")
    outcome = xaiseg.audit(model, "base", out=tmp_path / "run", pdf=False)
    (estimate,) = [one for one in outcome.estimates if one.metric == "unmatched_files"]
    assert estimate.value == 1
    assert "1 file belongs to no case and was not audited" in (tmp_path / "run" / "report.html").read_text("utf-8")
