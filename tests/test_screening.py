"""From unlabelled tiles to a total in animals: draw, annotate, audit."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import xaiseg
from tests.detection_worlds import survey
from xaiseg.cli import main
from xaiseg.errors import DataError, UsageError
from xaiseg.run import RunDirectory
from xaiseg.screening import Screening, draw_tiles, screen
from xaiseg.statistics.design_counts import draw_probabilities, inclusion_probabilities

COUNTS_ONLY = """protocol: counts-only
version: 1.0.0
as_of: 2026-11-29
purpose: tests
checks:
  performance.detection: {}
requires:
  - check: performance.detection
    metric: animals_total
    at_least: 10
    severity: gate
    why: enough animals
    agreed_by: tests
"""


@pytest.fixture
def protocol(tmp_path) -> Path:
    path = tmp_path / "counts-only.yaml"
    path.write_text(COUNTS_ONLY, encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A survey of 120 tiles with a habitat column in meta.csv; the model's folder, and tiles/ without labels."""
    folder = tmp_path_factory.mktemp("world")
    survey(folder, dim=0.3)
    (folder / "tiles").mkdir()
    document = json.loads((folder / "data" / "annotations.json").read_text(encoding="utf-8"))
    with (folder / "tiles" / "meta.csv").open("w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["id", "flight", "habitat"])
        for image in document["images"]:
            shutil.copy(folder / "data" / "images" / image["file_name"], folder / "tiles")
            table.writerow([Path(image["file_name"]).stem, image["group"], image["habitat"]])
    return folder


def annotate(world: Path, folder: Path) -> int:
    """What a person does: COCO boxes of the copied tiles alone; returns all animals of the survey."""
    document = json.loads((world / "data" / "annotations.json").read_text(encoding="utf-8"))
    there = {path.name for path in (folder / "images").iterdir()}
    images = [{key: image[key] for key in ("id", "file_name", "width", "height")} for image in document["images"]]
    images = [image for image in images if image["file_name"] in there]
    ids = {image["id"] for image in images}
    boxes = [one for one in document["annotations"] if one["image_id"] in ids]
    held = {"images": images, "annotations": boxes, "categories": document["categories"]}
    (folder / "annotations.json").write_text(json.dumps(held), encoding="utf-8")
    return len(document["annotations"])


def detections(path: Path) -> int:
    """The toy detector of the survey from its definition: regions above 0.35 whose mean is 0.5 or more."""
    pixels = np.asarray(Image.open(path), dtype=np.float64) / 255
    regions, count = ndimage.label(pixels > 0.35)
    return int(sum(pixels[regions == index].mean() >= 0.5 for index in range(1, count + 1)))


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def estimate(path: Path, metric: str, **more: str):
    wanted = {"metric": metric, "target": "", "factor": "", "level": "", "stratum": "", **more}
    return next(one for one in RunDirectory(path).estimates() if all(getattr(one, k) == v for k, v in wanted.items()))


def test_from_tiles_to_a_total_in_animals(capsys, world, protocol, tmp_path):
    model, sidecar, drawn = world / "model.yaml", tmp_path / "screen.csv", tmp_path / "drawn"
    code, out, err = run(capsys, "screen", model, "--data", f"tiles={world / 'tiles'}", "--draws", 90, "--out", sidecar,
                         "--copy-to", drawn, "--disjoint")  # fmt: skip
    assert code == 0, err
    assert "not animals" in out.splitlines()[0]
    assert f"--data test={drawn}" in out.splitlines()[-1]
    rows = rows_of(sidecar)
    assert {path.stem for path in (drawn / "images").iterdir()} == {row["id"] for row in rows}
    truth = annotate(world, drawn)
    code, out, err = run(capsys, "audit", model, "--protocol", protocol, "--data", f"test={drawn}", "--no-pdf",
                         "--engine", "serial", "--out", tmp_path / "run")  # fmt: skip
    assert code == 0, err
    total = estimate(tmp_path / "run", "animals_total")
    counts = {path.stem: 0 for path in (drawn / "images").iterdir()}
    document = json.loads((drawn / "annotations.json").read_text(encoding="utf-8"))
    names = {image["id"]: Path(image["file_name"]).stem for image in document["images"]}
    for box in document["annotations"]:
        counts[names[box["image_id"]]] += 1
    slow = sum(int(row["drawn"]) * counts[row["id"]] / float(row["draw_probability"]) for row in rows) / 90
    assert total.value == pytest.approx(slow)
    assert total.interval.lower < truth < total.interval.upper
    assert total.interval.method == "bootstrap-t over draws (2000)"
    assert total.n == 90
    parts = [estimate(tmp_path / "run", "animals_total", factor="habitat", level=name) for name in ("ice", "rock")]
    assert sum(part.value for part in parts) == pytest.approx(total.value)
    assert estimate(tmp_path / "run", "animals_total_cv").value == pytest.approx(
        total.interval.sd / total.value / 90**0.5
    )
    said = next(line for line in out.splitlines() if "animals in the surveyed area" in line)
    assert f"counts stand for {round(total.value)}" in said
    assert "other figures describe these tiles alone" in said
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "animals in the surveyed area" in html
    assert "90 draws" in html


def test_tiles_drawn_by_the_detector_settle_no_other_requirement(world, protocol, tmp_path):
    plan = Screening(90, disjoint=True)
    screen(world / "model.yaml", world / "tiles", plan=plan, out=tmp_path / "s.csv", copy_to=tmp_path / "drawn")
    annotate(world, tmp_path / "drawn")
    said = protocol.read_text(encoding="utf-8")
    protocol.write_text(said + said[said.index("  - check") :].replace("animals_total", "recall").replace("10", "0.1"))
    data = {"test": tmp_path / "drawn"}
    total, recall = xaiseg.audit(world / "model.yaml", protocol, data=data, out=tmp_path / "r", pdf=False).findings
    assert total.verdict.value == "PASS"
    assert recall.verdict.value == "INSUFFICIENT EVIDENCE"
    assert recall.leans == "pass"
    assert "no fair sample" in recall.reason


def test_a_random_sample_gives_the_horvitz_thompson_total(world, protocol, tmp_path):
    plan = Screening(60, "random", disjoint=True, seed=3)
    screen(world / "model.yaml", world / "tiles", plan=plan, out=tmp_path / "s.csv", copy_to=tmp_path / "drawn")
    rows = rows_of(tmp_path / "s.csv")
    assert len(rows) == 60
    assert {(row["probability"], row["drawn"], row["draws"]) for row in rows} == {("0.5", "1", "60")}
    assert "draw_probability" not in rows[0]
    truth = annotate(world, tmp_path / "drawn")
    xaiseg.audit(world / "model.yaml", protocol, data={"test": tmp_path / "drawn"}, out=tmp_path / "run", pdf=False)
    total = estimate(tmp_path / "run", "animals_total")
    boxes = len(json.loads((tmp_path / "drawn" / "annotations.json").read_text(encoding="utf-8"))["annotations"])
    assert total.value == pytest.approx(2 * boxes)
    assert total.interval.lower < truth < total.interval.upper
    assert total.note.startswith("Horvitz-Thompson total over 60 draws")
    assert "these tiles alone" not in total.note


def test_the_sidecar_holds_what_was_drawn_and_the_list_holds_all(world, tmp_path):
    lines = screen(world / "model.yaml", world / "tiles", plan=Screening(40, seed=5), out=tmp_path / "s.csv")
    rows, listed = rows_of(tmp_path / "s.csv"), rows_of(tmp_path / "s-tiles.csv")
    counts = np.array([detections(world / "tiles" / f"{row['id']}.png") for row in listed])
    assert [int(row["count"]) for row in listed] == counts.tolist()
    chances = dict(zip([row["id"] for row in listed], draw_probabilities(counts), strict=True))
    assert len(listed) == 120
    assert sum(int(row["drawn"]) for row in listed) == 40 == sum(int(row["drawn"]) for row in rows)
    for row in rows:
        assert float(row["draw_probability"]) == pytest.approx(chances[row["id"]], rel=1e-12)
        inside = inclusion_probabilities(np.array([chances[row["id"]]]), 40)[0]
        assert float(row["probability"]) == pytest.approx(inside, rel=1e-12)
        assert row["habitat"] in ("ice", "rock")
        assert row["flight"].startswith("flight ")
    assert "footprint" not in rows[0]
    assert any("no total in animals" in line for line in lines)
    again = screen(world / "model.yaml", world / "tiles", plan=Screening(40, seed=5), out=tmp_path / "t.csv")
    assert rows_of(tmp_path / "t.csv") == rows
    assert again[0] == lines[0]
    screen(world / "model.yaml", world / "tiles", plan=Screening(40, seed=6), out=tmp_path / "u.csv")
    assert rows_of(tmp_path / "u.csv") != rows


def test_the_detector_sees_the_pixels_as_in_the_audit(world, tmp_path):
    """With a window twice as wide every animal is too dark to be found."""
    text = (world / "model.yaml").read_text(encoding="utf-8")
    wide = world / "wide.yaml"
    wide.write_text(text.replace("path: data,", "path: data, window: [0, 510],"), encoding="utf-8")
    assert "window" in wide.read_text(encoding="utf-8")
    counts = []
    for model in (world / "model.yaml", wide):
        screen(model, world / "tiles", plan=Screening(5), out=tmp_path / f"{model.stem}.csv")
        counts.append(sum(int(row["count"]) for row in rows_of(tmp_path / f"{model.stem}-tiles.csv")))
    assert counts[0] > 50
    assert counts[1] == 0


def test_a_sample_is_never_drawn_again_over_the_old_one(world, tmp_path):
    (tmp_path / "s.csv").write_text("id\n", encoding="utf-8")
    with pytest.raises(UsageError, match="there already"):
        screen(world / "model.yaml", world / "tiles", plan=Screening(5), out=tmp_path / "s.csv")
    assert (tmp_path / "s.csv").read_text(encoding="utf-8") == "id\n"
    with pytest.raises(UsageError, match="folder is missing"):
        screen(world / "model.yaml", world / "tiles", plan=Screening(5), out=tmp_path / "none" / "s.csv")


def test_tiles_that_cannot_be_read_are_named_and_never_drawn(world, tmp_path):
    tiles = tmp_path / "tiles"
    shutil.copytree(world / "tiles", tiles)
    for path in sorted(tiles.glob("*.png"))[:100]:
        path.write_bytes(b"broken")
    (tiles / "meta.csv").unlink()
    lines = screen(world / "model.yaml", tiles, plan=Screening(200), out=tmp_path / "s.csv")
    listed = rows_of(tmp_path / "s-tiles.csv")
    lost = [row for row in listed if row["failed"]]
    assert len(lost) == 100
    assert {(row["count"], row["chance"], row["drawn"]) for row in lost} == {("", "0.0", "0")}
    assert sum(float(row["chance"]) for row in listed) == pytest.approx(1.0)
    assert lines[1].startswith("100 tiles could not be read and no total will hold: t0000")
    screen(world / "model.yaml", tiles, plan=Screening(200, disjoint=True), out=tmp_path / "d.csv")
    assert {row["footprint"] for row in rows_of(tmp_path / "d.csv")} == {""}  # so that the audit forms no total
    for path in tiles.glob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match="no tile could be read"):
        screen(world / "model.yaml", tiles, plan=Screening(5), out=tmp_path / "t.csv")


def test_wrong_use_is_said(capsys, world, tmp_path):
    with pytest.raises(UsageError, match="more draws without replacement than tiles"):
        draw_tiles(np.zeros(3), Screening(4, "random"))
    for wrong in ({"draws": 0}, {"draws": 1, "design": "best"}, {"draws": 1, "random_share": 0.0}):
        with pytest.raises(UsageError, match="out of range"):
            Screening(**wrong)
    tiles = tmp_path / "tiles"
    shutil.copytree(world / "tiles", tiles)
    (tiles / "meta.csv").write_text("id,count\n" + "".join(f"{path.stem},1\n" for path in tiles.glob("*.png")))
    with pytest.raises(UsageError, match=r"meta.csv has a column .* Got: count"):
        screen(world / "model.yaml", tiles, plan=Screening(5), out=tmp_path / "s.csv")
    said = "id,Footprint\n" + "".join(f"{path.stem},overlapping\n" for path in tiles.glob("*.png"))
    (tiles / "meta.csv").write_text(said, encoding="utf-8")
    with pytest.raises(UsageError, match=r"meta.csv has a column .* Got: Footprint"):
        screen(world / "model.yaml", tiles, plan=Screening(5, disjoint=True), out=tmp_path / "s.csv")
    base = ("screen", world / "model.yaml", "--draws", 5, "--out", tmp_path / "x.csv")
    assert run(capsys, *base, "--data", f"{world / 'tiles'}")[2].count("tiles=DIR") == 1
    assert "detector or random" in run(capsys, *base, "--data", f"tiles={world / 'tiles'}", "--design", "best")[2]
    assert not (tmp_path / "x.csv").exists()


def test_a_segmenter_cannot_screen(tmp_path):
    from tests.worlds import blob_world

    model = blob_world(tmp_path / "world", n=4, size=32, empty=0)
    with pytest.raises(UsageError, match="screening needs a detector"):
        screen(model, tmp_path, plan=Screening(5), out=tmp_path / "s.csv")


def test_draws_follow_their_probabilities():
    counts = np.array([0.0, 1.0, 3.0])
    hits = np.array([draw_tiles(counts, Screening(50, seed=seed))[1] for seed in range(200)])
    expected = 10_000 * draw_probabilities(counts)
    assert np.all(np.abs(hits.sum(axis=0) - expected) < 4 * np.sqrt(expected))
