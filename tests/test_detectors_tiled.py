"""Tiles: nothing is lost at a border, nothing counts twice, and what would have is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

import xaiseg
from tests.detection_worlds import survey
from tests.toys import BrightBlobs
from xaiseg.detectors_tiled import TiledDetector, windows
from xaiseg.errors import UsageError
from xaiseg.modelfile import parse_model
from xaiseg.modelfile_parts import TileSpec
from xaiseg.run import RunDirectory

TILE = TileSpec(size=(64, 64), overlap=24)


def scene(seed, *, shape=(150, 230), count=14):
    """Bright rectangles of at most 20 px that touch nowhere, each of another brightness."""
    rng = np.random.default_rng(seed)
    image, taken = np.zeros(shape, np.float32), np.zeros(shape, bool)
    while count:
        h, w = (int(side) for side in rng.integers(4, 21, 2))
        y, x = int(rng.integers(0, shape[0] - h)), int(rng.integers(0, shape[1] - w))
        if not taken[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2].any():
            taken[y : y + h, x : x + w] = True
            image[y : y + h, x : x + w] = 0.6 + 0.02 * count
            count -= 1
    return image


def rows(boxes):
    return sorted((*(round(value, 3) for value in box), round(score, 4)) for box, score in zip(
        boxes.xyxy.tolist(), boxes.scores.tolist(), strict=True))  # fmt: skip


def seen_again(image, tile):
    """From the definition: for each blob, the number of tiles in which a part of it lies, less one."""
    regions, count = ndimage.label(image > 0.5)
    places = windows(image.shape, tile)
    return [
        sum((regions[w.top : w.bottom, w.left : w.right] == index).any() for w in places) - 1
        for index in range(1, count + 1)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_tiles_find_what_the_whole_image_shows_and_count_what_stood_twice(seed):
    image = scene(seed)
    whole = BrightBlobs().predict([torch.from_numpy(image)[None]])[0]
    tiled = TiledDetector(BrightBlobs(), TILE).predict([torch.from_numpy(image)[None]], batch_size=3)[0]
    assert rows(tiled) == rows(whole)
    assert int(tiled.merged.sum()) == sum(seen_again(image, TILE)) > 0


def test_without_merging_animals_would_count_twice():
    image = scene(1)
    inner = BrightBlobs()
    alone = [
        inner.predict([torch.from_numpy(image[w.top : w.bottom, w.left : w.right])[None]])[0]
        for w in windows(image.shape, TILE)
    ]
    tiled = TiledDetector(inner, TILE).predict([torch.from_numpy(image)[None]])[0]
    assert sum(len(boxes.scores) for boxes in alone) == len(tiled.scores) + int(tiled.merged.sum())


def test_every_pixel_is_seen_and_tiles_never_leave_the_image():
    for shape in ((64, 64), (65, 64), (30, 200), (333, 217)):
        seen = np.zeros(shape, int)
        for w in windows(shape, TILE):
            assert w.bottom - w.top == min(64, shape[0])
            assert w.right - w.left == min(64, shape[1])
            seen[w.top : w.bottom, w.left : w.right] += 1
        assert seen.min() >= 1


def test_a_batch_is_of_tiles_so_memory_does_not_grow_with_the_image():
    sizes = []

    class Counting(BrightBlobs):
        def predict(self, images, *, batch_size=8):
            sizes.append((len(images), max(image.shape[-1] for image in images)))
            return super().predict(images, batch_size=batch_size)

    images = [torch.from_numpy(scene(2))[None], torch.from_numpy(scene(3, shape=(60, 60), count=2))[None]]
    first, second = TiledDetector(Counting(), TILE).predict(images, batch_size=4)
    assert max(count for count, _ in sizes) <= 4
    assert max(width for _, width in sizes) == 64
    assert rows(second) == rows(BrightBlobs().predict(images[1:])[0])
    assert len(first.scores) == 14


def test_neighbours_in_one_tile_stay_two_and_other_classes_too():
    from xaiseg.detectors_tiled import Window, merge
    from xaiseg.subject import Boxes

    places = [Window(0, 0, 64, 64), Window(0, 40, 64, 104)]
    close = torch.tensor([[42.0, 10, 56, 30], [44.0, 12, 58, 32]])
    left = Boxes(close, torch.tensor([0.9, 0.8]), torch.tensor([0, 0]))
    right = Boxes(close + 0.5, torch.tensor([0.7, 0.6]), torch.tensor([0, 1]))
    found = merge([left, right], places, 0.5)
    assert found.labels.tolist() == [0, 0, 1]
    assert found.merged.tolist() == [1, 0, 0]


def test_a_speck_in_the_next_tile_does_not_stand_for_a_cut_animal():
    from xaiseg.detectors_tiled import Window, merge
    from xaiseg.subject import Boxes

    places = [Window(0, 0, 128, 128), Window(0, 64, 128, 192)]
    cut = Boxes(torch.tensor([[90.0, 10, 128, 40]]), torch.tensor([0.9]), torch.tensor([0]))
    speck = Boxes(torch.tensor([[100.0, 15, 106, 20]]), torch.tensor([0.002]), torch.tensor([0]))
    found = merge([cut, speck], places, 0.5)
    assert found.xyxy.tolist() == [[90, 10, 128, 40], [100, 15, 106, 20]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.002])
    counted = Boxes(speck.xyxy, torch.tensor([0.6]), speck.labels)
    assert merge([cut, counted], places, 0.5).xyxy.tolist() == [[100, 15, 106, 20]], "what counts goes by the rule"


def test_a_wide_box_around_two_does_not_take_the_score_of_one():
    from xaiseg.detectors_tiled import Window, merge
    from xaiseg.subject import Boxes

    places = [Window(0, 0, 200, 200), Window(0, 140, 200, 340)]
    cut = Boxes(torch.tensor([[179.0, 50, 200, 80]]), torch.tensor([0.9]), torch.tensor([0]))
    both = torch.tensor([[180.0, 50, 215, 80], [217, 50, 250, 80], [178, 48, 252, 82]])
    right = Boxes(both, torch.tensor([0.95, 0.9, 0.08]), torch.zeros(3, dtype=torch.long))
    found = merge([cut, right], places, 0.5)
    assert found.xyxy.tolist() == both.tolist()
    assert found.scores.tolist() == pytest.approx([0.95, 0.9, 0.08])
    assert found.merged.tolist() == [1, 0, 0]


def test_a_cut_box_gives_way_to_the_whole_one_and_keeps_the_better_score():
    from xaiseg.detectors_tiled import Window, merge
    from xaiseg.subject import Boxes

    places = [Window(0, 0, 64, 64), Window(0, 40, 64, 104)]
    cut = Boxes(torch.tensor([[50.0, 10, 64, 20]]), torch.tensor([0.9]), torch.tensor([0]))
    whole = Boxes(torch.tensor([[50.0, 10, 72, 20]]), torch.tensor([0.4]), torch.tensor([0]))
    found = merge([cut, whole], places, 0.5)
    assert found.xyxy.tolist() == [[50, 10, 72, 20]]
    assert found.scores.tolist() == pytest.approx([0.9])
    assert found.merged.tolist() == [0]  # only one of the two would have been counted


def test_an_image_without_detections():
    found = TiledDetector(BrightBlobs(), TILE).predict([torch.zeros(1, 150, 150)])[0]
    assert found.xyxy.shape == (0, 4)
    assert found.merged.shape == (0,)


HEAD = "name: m\ntask: detection\nclasses: [seal]\nsource: {onnx: m.onnx}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "input: {tile: {size: [64, 64], overlap: 40}}\n", "the overlap 40 is more than half of the tile"),
        (HEAD + "input: {tile: {size: [64, 64], overlpa: 4}}\n", "did you mean 'overlap'"),
        (
            HEAD.replace("onnx: m.onnx", "predictions: m.json") + "input: {tile: {size: [640, 640]}}\n",
            "input.tile is for",
        ),
        ("name: m\nclasses: [b, f]\nsource: {onnx: m.onnx}\ninput: {tile: {size: [640, 640]}}\n", "input.tile is for"),
    ],
)
def test_what_cannot_be_tiled_is_said(tmp_path, text, words):
    with pytest.raises(UsageError, match=words):
        parse_model(text, path=tmp_path / "model.yaml")


def test_an_audit_in_tiles_says_what_stood_twice(tmp_path):
    model = survey(tmp_path / "world", flights=8)
    text = model.read_text(encoding="utf-8").replace(
        "range: [0, 1]}", "range: [0, 1], tile: {size: [48, 48], overlap: 22}}"
    )
    model.write_text(text, encoding="utf-8")
    xaiseg.audit(model, "ecology", out=tmp_path / "run", pdf=False)
    run = RunDirectory(tmp_path / "run")
    again = next(one for one in run.estimates() if one.metric == "border_duplicates")
    assert again.value > 0
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"{again.value:.0f} detections stood twice and were merged" in html
