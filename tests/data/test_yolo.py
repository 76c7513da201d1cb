from __future__ import annotations

import numpy as np
import pytest
from pictures import picture, save, write_csv

from xaiseg.data.case import ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.readers import entry_from_folder, in_place_of, load_case, open_dataset
from xaiseg.data.yolo import class_names
from xaiseg.errors import DataError, UsageError

SHAPE = (40, 80)
SPEC = ImageSpec(channels=1, classes=("seal", "boat"), task="detection")


def tiles(root, labels, *, names="names: [boat, seal]\n"):
    """images/ and labels/ of id -> text, None for an image without a file."""
    for id, text in labels.items():
        save(root / "images" / f"{id}.png", picture(shape=SHAPE))
        (root / "labels").mkdir(exist_ok=True)
        if text is not None:
            (root / "labels" / f"{id}.txt").write_text(text, encoding="utf-8")
    if names:
        (root / "data.yaml").write_text(names, encoding="utf-8")
    return entry_from_folder(root)


def only(entry):
    (ref,) = open_dataset("test", entry, root=".", spec=SPEC).cases
    return load_case(entry, ref, SPEC)


def failure(entry):
    with pytest.raises(DataError) as caught:
        only(entry)
    return str(caught.value)


def test_boxes_and_polygons_are_shares_of_the_sides(tmp_path):
    entry = tiles(tmp_path, {"a": "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.2 0.3 0.1 0.4 0.4 0.2 0.5\n"})
    assert entry.reader == "yolo"
    case = only(entry)
    assert case.boxes[0].tolist() == [30, 10, 50, 30, 0]  # 1 is the seal of data.yaml and class 0 of the model
    assert np.allclose(case.boxes[1], [8, 4, 32, 20, 1], atol=1e-5)
    assert case.outlines[0] == ()
    assert np.allclose(case.outlines[1][0], [[8, 8], [24, 4], [32, 16], [16, 20]], atol=1e-5)


def test_an_empty_file_is_a_negative_and_a_missing_one_a_failed_case(tmp_path):
    assert only(tiles(tmp_path / "a", {"a": ""})).boxes.shape == (0, 5)
    assert "a missing one is no negative" in failure(tiles(tmp_path / "b", {"b": None}, names="").model_copy(update={
        "reader": "yolo"}))  # fmt: skip


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 320 200 40 40", "these read like pixels"),
        ("1 0.5 0.5 0.2 0.2 0.93", "six numbers are a prediction with its confidence"),
        ("1 0.7 0.6 0.9 0.9", r"reads like corners x0, y0, x1, y1"),
        ("7 0.5 0.5 0.2 0.2", "a class that is not known. Got: 7. Allowed: [0, 1]"),
        ("seal 0.5 0.5 0.2 0.2", "holds no numbers"),
        ("0.5 0.5 0.5 0.2 0.2", "the class is no whole number"),
        ("1 0.5 0.5 0 0.2", "it has no size"),
        ("1 1.4 0.5 0.2 0.2", "lies mostly outside the image"),
        ("1 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.2 0.2", "line 1 and line 2 are the same box"),
    ],
)
def test_lines_that_are_no_objects(tmp_path, line, message):
    assert message in failure(tiles(tmp_path, {"a": line}))


def test_classes_go_by_name_number_or_labels(tmp_path):
    text = {"a": "1 0.5 0.5 0.25 0.5"}
    assert only(tiles(tmp_path / "a", text, names="")).boxes[0, 4] == 1  # the model's own numbers
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "classes.txt").write_text("boat\nseal\n", encoding="utf-8")
    assert only(tiles(tmp_path / "b", text, names="")).boxes[0, 4] == 0
    with pytest.raises(UsageError, match=r"the class 'seel' is no class.*did you mean 'seal'"):
        only(tiles(tmp_path / "c", text, names="names: {0: boat, 1: seel}\n"))
    ignored = tiles(tmp_path / "d", text, names="names: [boat, bird]\n").model_copy(update={"labels": {1: 255}})
    assert only(ignored).boxes[0, 4] == 255
    with pytest.raises(UsageError, match="lists no classes"):
        only(tiles(tmp_path / "e", text, names="nc: 2\n"))


def test_columns_that_are_known_by_name_need_no_declaration(tmp_path):
    tiles(tmp_path, {f"t{index:02d}": "" for index in range(14)})
    rows = [{"id": f"t{index:02d}", "glint": ("", "none", "some")[min(index, 2)], "gsd_cm": str(1.2 + index / 100),
             "spacing_mm": str(12 + index / 10) if index else "", "habitat": "ice"} for index in range(14)]  # fmt: skip
    write_csv(tmp_path / "meta.csv", rows)
    entry = entry_from_folder(tmp_path)
    assert entry.strata == ("glint",), "fourteen values of gsd_cm are no groups, and one of habitat parts nothing"
    first, second = open_dataset("test", entry, root=".", spec=SPEC).cases[:2]
    assert (first.spacing_mm, second.spacing_mm) == (None, (12.1, 12.1))


def test_another_folder_keeps_what_is_said_of_labels_and_pixels(tmp_path):
    tiles(tmp_path, {"a": "", "b": ""})
    rows = [{"id": "a", "camera": "x", "habitat": "ice"}, {"id": "b", "camera": "x", "habitat": "rock"}]
    write_csv(tmp_path / "meta.csv", rows)
    new = entry_from_folder(tmp_path)
    old = DataEntry(reader="yolo", path="old", labels={0: 1}, window=(7000, 9000), strata=("camera", "lens"))
    kept = in_place_of(old, new)
    assert (kept.labels, kept.window, kept.strata) == ({0: 1}, (7000, 9000), ("camera", "habitat"))
    assert kept.path == new.path
    assert in_place_of(old.model_copy(update={"reader": "coco"}), new).labels is None, "other numbers mean other things"
    assert in_place_of(None, new) is new


def test_regions_to_ignore_may_coincide(tmp_path):
    entry = tiles(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2"})
    held = only(entry.model_copy(update={"labels": {0: 255}}))
    assert held.boxes[:, 4].tolist() == [255, 255]


def test_names_beside_the_labels_are_found(tmp_path):
    tiles(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"}, names="")
    (tmp_path / "labels" / "classes.txt").write_text("rock\nseal\n", encoding="utf-8")
    names, source = class_names(tmp_path)
    assert (names, source) == ({0: "rock", 1: "seal"}, tmp_path / "labels" / "classes.txt")
    assert only(DataEntry(reader="yolo", path=str(tmp_path), labels={0: 255})).boxes[0, 4] == 255


def test_sidecars_give_clusters(tmp_path):
    entry = tiles(tmp_path, {"a": "", "b": ""})
    rows = [{"id": "a", "group": "f1", "known_empty": "true", "habitat": "ice"},
            {"id": "b", "group": "f2", "known_empty": "", "habitat": "rock"}]  # fmt: skip
    write_csv(tmp_path / "meta.csv", rows)
    entry = entry_from_folder(tmp_path)
    one, two = open_dataset("test", entry, root=".", spec=SPEC).cases
    assert (one.cluster, two.cluster) == ("f1", "f2")
    assert (one.strata, two.strata) == ({"habitat": "ice"}, {"habitat": "rock"})
    assert (one.survey, two.survey) == ({"known_empty": "true"}, {})


def test_labels_without_an_image_are_named(tmp_path):
    entry = tiles(tmp_path, {"a": "", "b": ""})
    for name in ("lost.txt", "classes.txt"):
        (tmp_path / "labels" / name).write_text("seal\nboat\n", encoding="utf-8")
    assert open_dataset("test", entry, root=".", spec=SPEC).unmatched == ("labels/lost.txt",)


def test_a_tile_declared_empty_that_has_boxes_fails_everywhere(tmp_path):
    entry = tiles(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n"}, names="")
    write_csv(tmp_path / "meta.csv", [{"id": "a", "known_empty": "true"}])
    assert "known_empty and the image has boxes. Got: 1" in failure(entry)
