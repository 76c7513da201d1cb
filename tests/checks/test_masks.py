from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from scipy import ndimage

from xaiseg.checks import masks


def blobs(seed: int, shape=(48, 60), share=0.15) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 3)
    return smooth > np.quantile(smooth, 1 - share)


def slow_border(mask):
    """Mask pixels with a 4-neighbour outside the mask or the image."""
    height, width = mask.shape
    out = []
    for i, j in zip(*np.nonzero(mask), strict=True):
        around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        if any(not (0 <= a < height and 0 <= b < width) or not mask[a, b] for a, b in around):
            out.append((i, j))
    return out


def slow_distances(first, second, spacing=(1.0, 1.0)):
    borders = slow_border(first), slow_border(second)
    found = []
    for own, other in (borders, borders[::-1]):
        found.append([min(math.hypot((a - c) * spacing[0], (b - d) * spacing[1]) for c, d in other) for a, b in own])
    return found


def slow_components(mask):
    """Sets of pixels joined through their eight neighbours."""
    left, parts = set(zip(*map(list, np.nonzero(mask)), strict=True)), []
    while left:
        todo, part = [left.pop()], set()
        while todo:
            i, j = todo.pop()
            part.add((i, j))
            for near in itertools.product((i - 1, i, i + 1), (j - 1, j, j + 1)):
                if near in left:
                    left.remove(near)
                    todo.append(near)
        parts.append(part)
    return parts


def test_counts_match_a_slow_loop():
    first, second = blobs(1), blobs(2)
    pairs = list(zip(first.ravel(), second.ravel(), strict=True))
    both = sum(a and b for a, b in pairs)
    either = sum(a or b for a, b in pairs)
    found = masks.overlap(first, second)
    assert found == masks.Overlap(int(first.sum()), int(second.sum()), both)
    assert found.dice == pytest.approx(2 * both / (first.sum() + second.sum()))
    assert found.iou == pytest.approx(both / either)
    assert found.dice == pytest.approx(2 * found.iou / (1 + found.iou))


def test_the_four_cases_of_empty_masks():
    full, empty = np.ones((2, 3), bool), np.zeros((2, 3), bool)
    assert (masks.overlap(full, full).presence, masks.overlap(full, full).dice) == ("both", 1.0)
    missed = masks.overlap(full, empty)
    assert (missed.presence, missed.dice, missed.iou, missed.area_bias) == ("reference_only", 0.0, 0.0, -1.0)
    alarm = masks.overlap(empty, full)
    assert (alarm.presence, alarm.dice, alarm.iou, alarm.area_bias) == ("prediction_only", 0.0, 0.0, None)
    right = masks.overlap(empty, empty)
    assert (right.presence, right.dice, right.iou) == ("neither", None, None)


def test_ignored_pixels_belong_to_neither_mask():
    reference = np.array([[1, 255, 0, 2]], np.uint8)
    first, second = masks.class_masks(reference, np.ones((1, 4), np.uint8), 1)
    assert first.tolist() == [[True, False, False, False]]
    assert second.tolist() == [[True, False, True, True]]


def test_the_union_box_holds_both_masks_and_nothing_more():
    first, second = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    first[2, 3], second[6, 1] = True, True
    assert masks.union_box(first, second) == (slice(2, 7), slice(1, 4))
    box = masks.union_box(np.zeros_like(first), np.zeros_like(first))
    assert first[box].size == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 1.5)])
def test_border_distances_match_a_slow_loop(seed, spacing):
    first, second = blobs(seed, (20, 24), 0.3), blobs(seed + 50, (20, 24), 0.3)
    there, back = masks.border_distances(first, second, spacing=spacing)
    slow_there, slow_back = slow_distances(first, second, spacing)
    assert sorted(there) == pytest.approx(sorted(slow_there))
    assert sorted(back) == pytest.approx(sorted(slow_back))
    expected = max(np.quantile(slow_there, 0.95), np.quantile(slow_back, 0.95))
    assert masks.hd95(there, back) == pytest.approx(expected)
    near = sum(d <= 2 for d in slow_there + slow_back)
    assert masks.nsd(there, back, tolerance=2.0) == pytest.approx(near / (len(slow_there) + len(slow_back)))


def test_border_distances_do_not_depend_on_cropping():
    first, second = blobs(3), blobs(4)
    box = masks.union_box(first, second)
    whole, cropped = masks.border_distances(first, second), masks.border_distances(first[box], second[box])
    assert masks.hd95(*whole) == masks.hd95(*cropped)
    assert [part.tolist() for part in whole] == [part.tolist() for part in cropped]


def test_border_distances_refuse_an_empty_mask():
    with pytest.raises(ValueError, match="not empty"):
        masks.border_distances(np.ones((2, 2), bool), np.zeros((2, 2), bool))


def test_a_shift_by_two_pixels_is_within_two_pixels():
    square = np.zeros((20, 30), bool)
    square[5:12, 6:15] = True
    there, back = masks.border_distances(square, np.roll(square, 2, axis=1))
    assert masks.hd95(there, back) == pytest.approx(2.0)
    assert masks.nsd(there, back, tolerance=2.0) == 1.0
    assert masks.nsd(there, back, tolerance=1.9) < 1.0


@pytest.mark.parametrize("seed", range(6))
def test_monai_agrees_on_dice_hd95_and_nsd(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the oracle's own imports warn; they are no concern of ours
        import torch
        from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

        first, second = blobs(seed), blobs(seed + 100)
        one_hot = [torch.from_numpy(np.stack([~m, m])[None].astype(np.float32)) for m in (second, first)]
        dice = compute_dice(*one_hot, include_background=False).item()
        hd95 = compute_hausdorff_distance(*one_hot, include_background=False, percentile=95).item()
        nsd = compute_surface_dice(*one_hot, class_thresholds=[2.0], include_background=False).item()
    there, back = masks.border_distances(first, second)
    assert masks.overlap(first, second).dice == pytest.approx(dice, abs=1e-6)
    assert masks.hd95(there, back) == pytest.approx(hd95, abs=1e-5)
    assert masks.nsd(there, back, tolerance=2.0) == pytest.approx(nsd, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("match_iou", [0.1, 0.4])
def test_lesions_match_a_slow_loop(seed, match_iou):
    first, second = blobs(seed, share=0.1), blobs(seed, share=0.06) | (blobs(seed + 9, share=0.03))
    lesions, predicted = slow_components(first), slow_components(second)
    best = sorted(max((len(a & b) / len(a | b) for b in predicted), default=0.0) for a in lesions)
    false = sum(all(len(a & b) / len(a | b) < match_iou for a in lesions) for b in predicted)
    found = masks.match_lesions(masks.components(first), masks.components(second), match_iou=match_iou)
    assert sorted(found.best_iou) == pytest.approx(best)
    assert sorted(found.areas) == sorted(map(len, lesions))
    assert found.found.tolist() == (found.best_iou >= match_iou).tolist()
    assert (found.n_prediction, found.n_false) == (len(predicted), false)


def test_touching_corners_are_one_component():
    assert masks.components(np.eye(4, dtype=bool))[1] == 1


def test_one_component_may_find_two_lesions_that_it_joins():
    lesions = np.zeros((3, 9), bool)
    lesions[:, :4], lesions[:, 5:] = True, True
    found = masks.match_lesions(masks.components(lesions), masks.components(np.ones((3, 9), bool)), match_iou=0.4)
    assert found.found.tolist() == [True, True]
    assert (found.n_prediction, found.n_false) == (1, 0)


def test_specks_below_the_smallest_size_are_not_false_but_may_find():
    lesion, speck = np.zeros((6, 6), bool), np.zeros((6, 6), bool)
    lesion[0, :2] = True
    speck[0, :2], speck[5, 5] = True, True
    found = masks.match_lesions(masks.components(lesion), masks.components(speck), match_iou=0.5, min_component_px=3)
    assert found.found.tolist() == [True]
    assert (found.n_prediction, found.n_false) == (0, 0)


def test_nothing_against_nothing():
    empty = masks.components(np.zeros((0, 0), bool))
    found = masks.match_lesions(empty, empty, match_iou=0.1)
    assert (found.areas.size, found.n_prediction, found.n_false) == (0, 0, 0)
    lost = masks.match_lesions(masks.components(np.ones((2, 2), bool)), (np.zeros((2, 2), np.int32), 0), match_iou=0.1)
    assert lost.found.tolist() == [False]
    assert lost.best_iou.tolist() == [0.0]
