from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import shortcut_truth
from benchmarks.shortcut_rates import Row
from benchmarks.shortcut_truth import Truth, confidences, main, rank_agreement, read_truths, table, tiles, write_truths
from xaiseg.data.scenes import SceneSpec
from xaiseg.subject import Boxes

ROW = Row(201, 0.5, "AP50 0.5", 0.05, 0.04, 0.06, 300, 36, 0.12, "PASS")


class Fixed:
    """Finds the same boxes in every image, the surer the brighter the image."""

    def predict(self, images):
        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 9, 10], [40, 40, 50, 50]])
        return [Boxes(boxes, torch.tensor([0.5, 1.0, 0.9]) * image.mean(), torch.zeros(3).long()) for image in images]


def test_the_confidence_in_a_box_is_that_of_the_surest_detection_that_fits():
    images = [np.full((64, 64, 3), 255, np.uint8), np.zeros((64, 64, 3), np.uint8)]
    boxes = np.array([[0, 0, 10, 10], [40, 44, 50, 54], [20, 20, 30, 30]], np.float32)
    held = confidences(Fixed(), boxes, images)
    np.testing.assert_allclose(held, [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # the second overlaps by 0.43


def test_tiles_hold_seals_on_ice_in_three_paints(monkeypatch):
    monkeypatch.setattr(shortcut_truth, "WORLD", SceneSpec(seed=901, flights=2, tiles=4))
    tiles.cache_clear()
    made = tiles()
    tiles.cache_clear()
    assert made
    for boxes, images in made:
        assert boxes.shape[1] == 4
        assert len(boxes) > 0
        assert len(images) == 3
        assert images[0].mean() > images[1].mean()


def test_the_interval_of_a_rank_correlation():
    order = list(range(29))
    rho, lower, upper = rank_agreement(order, [*order[1:], order[0]])
    assert rho == pytest.approx(1 - 6 * (28**2 + 28) / (29 * (29**2 - 1)))
    assert lower < rho < upper < 1
    assert rank_agreement(order, order)[0] == pytest.approx(1.0)


def test_the_table_sets_truth_beside_the_audit():
    rows = [replace(ROW, seed=200 + n, drop=0.01 * n, verdict="PASS" if n < 5 else "FAIL") for n in range(8)]
    lines = table([Truth(row.seed, 0.5, 100, 0.02 * n, 0.5 - 0.01 * n) for n, row in enumerate(rows)], rows)
    assert lines[1].startswith("ice              0.5 flagged          3  0.12 (0.10 to 0.14)")
    assert lines[2].startswith("ice              0.5 cleared          5  0.04 (0.00 to 0.08)")
    assert any(line.startswith("rank correlation with the audit, without a shortcut (8), dull: 1.00") for line in lines)


def test_worlds_are_lines_of_their_own():
    rows = [replace(ROW, seed=seed, world=world) for world, seed in (("ice", 201), ("neutral", 201), ("neutral", 202))]
    truths = [Truth(201, 0.5, 90, 0.1, 0.2), *(Truth(seed, 0.5, 90, 0.01, 0.02, "neutral") for seed in (201, 202))]
    lines = table(truths, rows)
    assert [line.split()[:4] for line in lines[1:3]] == [
        ["ice", "0.5", "cleared", "1"],
        ["neutral", "0.5", "cleared", "2"],
    ]
    assert "0.20 (0.20 to 0.20)" in lines[1]
    assert "0.02 (0.02 to 0.02)" in lines[2]


def test_rows_read_back_and_show_needs_no_training(tmp_path, capsys):
    path = tmp_path / "rows.json"
    assert read_truths(path) == []
    made = [Truth(202, 0.5, 90, 0.1, 0.2), Truth(201, 1.0, 80, 0.9, 0.8)]
    write_truths(made, path)
    assert read_truths(path) == made[::-1]
    with pytest.raises(SystemExit):
        main(["--rows", str(path)])
    assert "--out is needed" in capsys.readouterr().err
