"""Whole audits of detectors."""

from __future__ import annotations

import json

import numpy as np
import pytest

import xaiseg
from tests.detection_worlds import survey
from xaiseg import pipeline
from xaiseg.errors import UsageError
from xaiseg.judge import Verdict
from xaiseg.plan import Options
from xaiseg.protocol import load_protocol
from xaiseg.run import RunDirectory


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survey")
    outcome = xaiseg.audit(survey(folder / "world"), "ecology", out=folder / "run", pdf=False)
    return outcome, RunDirectory(folder / "run")


def estimate(run, metric, **more):
    wanted = {"metric": metric, "level": "", "stratum": "", **more}
    return next(one for one in run.estimates() if all(getattr(one, k) == v for k, v in wanted.items()))


def test_ecology_runs_and_finds_what_was_planted(audited):
    outcome, run = audited
    assert not [one for one in outcome.findings if one.verdict is Verdict.ERROR]
    recall = estimate(run, "recall")
    assert recall.interval.lower < 0.9 < recall.interval.upper
    assert estimate(run, "known_empty_tiles").value == 72
    alarms = estimate(run, "false_positives_per_1000_empty_tiles")
    assert alarms.interval.lower < 100 < alarms.interval.upper
    assert estimate(run, "recall", stratum="habitat=ice").n_clusters == 12
    assert estimate(run, "false_positives_per_km2").value == pytest.approx(
        alarms.value / 1000 / (64 * 96 * 0.04**2 * 1e-6)
    )
    not_run = {item["id"]: item["reason"] for item in run.plan()["checks"] if not item["runs"]}
    assert not_run["performance.segmentation"] == "it is for segmentation models"


def test_the_report_shows_curves_counts_and_windows(audited):
    _, run = audited
    html = (run.path / "report.html").read_text(encoding="utf-8")
    assert json.loads((run.path / "audit.json").read_text(encoding="utf-8"))["errors"] == []
    for words in ("Does it find the animals?", "false positives an image", "Nearly detected", "Missed", "availability"):
        assert words in html, words
    assert "the figure of performance.detection failed" not in html


def test_page_one_answers_what_an_ecologist_asks(audited):
    _, run = audited
    html = (run.path / "report.html").read_text(encoding="utf-8")
    first, _, rest = html.partition("</section>")
    for words in ("Is the count usable?", "Where not?", "What does it take for a seal?", "not agreed by anybody"):
        assert words in first, words
    for words in ("What to collect next", "Knows the animals", "Detected where there is none"):
        assert words in rest, words
    assert "clinician" not in html
    assert "reference readers" not in html


def test_evidence_holds_native_windows_of_each_kind(audited):
    _, run = audited
    kinds = {name.partition(":")[2] for item in run.evidence() for name in item.arrays if name.startswith("window:")}
    assert kinds == {"found", "false", "missed", "near"}
    for item in run.evidence():
        for name, values in item.arrays.items():
            if name.startswith("window:"):
                kind = name.partition(":")[2]
                assert values.shape == (64, 96)  # the tile is smaller than a window, so it is shown whole
                assert item.arrays[f"scale:{kind}"].tolist() == [1.0]
                x0, y0, x1, y1 = item.arrays[f"object:{kind}"]
                assert 0 <= x0 < x1 <= 96
                assert 0 <= y0 < y1 <= 64


def test_detections_are_written_in_megadetectors_format(audited):
    from xaiseg.data.megadetector import read_batch

    _, run = audited
    batch = read_batch(run.path / "detections.json")
    assert batch.categories == ("seal",)
    assert len(batch.images) == 120
    table = run.table("performance.detection")
    assert sum(len(found.scores) for found in batch.images.values()) == sum(map(len, table["score"]))


def test_an_image_that_fails_alone_is_no_empty_image(tmp_path):
    model = survey(tmp_path / "world", flights=6, tiles=4, empty=1)
    (tmp_path / "world" / "data" / "images" / "t0005.png").write_bytes(b"cut short")
    outcome = xaiseg.audit(model, "ecology", out=tmp_path / "run", pdf=False)
    run = RunDirectory(tmp_path / "run")
    assert estimate(run, "recall").n_failed == 1
    assert any(one.verdict is Verdict.INSUFFICIENT for one in outcome.findings)
    document = json.loads((tmp_path / "run" / "detections.json").read_text(encoding="utf-8"))
    (lost,) = [image for image in document["images"] if image["file"] == "t0005.png"]
    assert lost["detections"] is None
    assert lost["failure"]
    assert np.isfinite(estimate(run, "ap50").value)


def test_the_share_of_empty_tiles_is_an_option_and_part_of_the_plan(audited, tmp_path):
    _, run = audited
    assert "--empty-share" in estimate(run, "projected_precision").reason
    again = xaiseg.audit(run.plan()["model"]["path"], "ecology", out=tmp_path / "run", pdf=False, empty_share=0.99)
    other = RunDirectory(again.run)
    assert estimate(other, "projected_precision").value < estimate(other, "precision").value
    assert other.plan()["key"] != run.plan()["key"]
    with pytest.raises(UsageError, match="no share of empty images"):
        xaiseg.audit(run.plan()["model"]["path"], "ecology", out=tmp_path / "no", empty_share=1.0)


def test_another_size_of_a_pixel_or_another_word_of_the_table_is_another_run(tmp_path):
    path = survey(tmp_path / "world", flights=6)
    file = tmp_path / "world" / "data" / "annotations.json"
    document, keys = json.loads(file.read_text(encoding="utf-8")), set()
    for column, value in (("gsd_cm", 1.2), ("gsd_cm", 2.4), ("augmented", True)):
        document["images"][0][column] = value
        file.write_text(json.dumps(document), encoding="utf-8")
        opened = pipeline.open_model(path)
        opened = opened.with_data("test", opened.data["test"].model_copy(update={"spacing_mm": None}))
        keys.add(pipeline.draft(opened, load_protocol("ecology"), Options()).document["key"])
    assert len(keys) == 3


def test_what_was_left_out_and_put_together_is_said(tmp_path):
    path = survey(tmp_path / "world", flights=8)
    file = tmp_path / "world" / "data" / "annotations.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    for number, image in enumerate(document["images"]):
        image["augmented"] = number % 8 == 1
        image["flight"] = "" if number % 8 == 0 else image["group"]
    file.write_text(json.dumps(document), encoding="utf-8")
    opened = pipeline.open_model(path, data={"test": file.parent})
    said = pipeline.draft(opened, load_protocol("ecology"), Options()).document["assumptions"]
    assert "Images whose flight is blank (5) are taken together as one." in said
    assert (
        "Of the images that are listed only those with augmented = false are audited (`where:`), 5 are left out."
        in said
    )


@pytest.mark.parametrize(
    ("column", "flights", "repeated"), [("Flight", 2, True), ("flight", 2, True), ("Flight", 99, False)]
)
def test_a_column_of_flights_that_nobody_named_is_noticed_with_capitals_too(tmp_path, column, flights, repeated):
    path = survey(tmp_path / "world", flights=6)
    names = sorted(file.stem for file in (tmp_path / "world" / "data" / "images").iterdir())
    rows = [f"{name},F{number % flights}" for number, name in enumerate(names)]
    (tmp_path / "world" / "data" / "meta.csv").write_text("\n".join([f"id,{column}", *rows]), encoding="utf-8")
    opened = pipeline.open_model(path)
    opened = opened.with_data("test", opened.data["test"].model_copy(update={"cluster": None}))
    facts = pipeline.draft(opened, load_protocol("ecology"), Options()).document["facts"]
    assert facts["cluster_repeated"] is repeated
