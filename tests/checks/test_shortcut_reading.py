"""Objects and answers, against loops that follow their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.checks.shortcut_worlds import tile
from xaiseg.checks.shortcut_reading import Thing, ignored_pixels, occupied, read_boxes, read_masks, things_of
from xaiseg.data.case import Case, CaseRef
from xaiseg.errors import DataError
from xaiseg.subject import Boxes, Prediction

NONE = np.zeros((0, 4))


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def random_boxes(rng, count):
    corner = rng.uniform(0, 30, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(8, 22, (count, 2))], axis=1)


def test_pixels_that_the_mask_leaves_open_count_for_nothing():
    reference = np.zeros((60, 60), np.uint8)
    reference[5:55, 5:55] = 255
    reference[20:30, 20:30] = 1
    case = Case(CaseRef("a", "a"), np.zeros((1, 60, 60), np.float32), reference)
    labels = np.zeros((60, 60), np.int64)
    labels[10:50, 10:50] = 1
    things = things_of(case, boxes=False)
    got = read_masks(Prediction(labels, None), things, None, None, ignored_pixels(case))
    assert (got.answers[0].overlap, got.answers[0].found, got.false) == (1.0, True, 0.0)
    assert read_masks(Prediction(labels, None), things, None, None).answers[0].found is False
    assert ignored_pixels(replace(case, reference=(reference == 1).astype(np.uint8))) is None


def test_an_outline_that_draws_nothing_gives_way_to_its_box():
    line = np.array([[20.0, 20], [20, 20], [20, 20]], np.float32)
    boxes = np.array([[20, 20, 40, 40, 0], [11.5, 20, 12.5, 40, 0], [70, 70, 80, 80, 0]], np.float32)
    case = Case(CaseRef("a", "a"), np.zeros((1, 60, 60), np.float32), boxes=boxes, outlines=((line,), (), ()))
    found = things_of(case, boxes=True)
    assert [int(thing.region.sum()) for thing in found] == [400, 1]
    far = line + np.array([[0, 0], [0, 5], [9000, 0]], np.float32)
    with pytest.raises(DataError, match="a: an outline cannot be drawn"):
        things_of(replace(case, outlines=((far,), (), ())), boxes=True)


@pytest.mark.parametrize("seed", range(8))
def test_boxes_are_matched_one_to_one_by_score(seed):
    rng = np.random.default_rng(seed)
    found, truth = random_boxes(rng, 9), random_boxes(rng, 4)
    scores, labels = rng.random(9).astype(np.float32), rng.integers(0, 2, 9)
    kinds = rng.integers(0, 2, 4)
    region = np.zeros((60, 60), bool)
    things = [Thing(int(kind), region, (box,)) for kind, box in zip(kinds, truth, strict=True)]
    held = Boxes(torch.tensor(found), torch.tensor(scores), torch.tensor(labels))
    got = read_boxes(held, things, NONE, 0.5, "iou", 0.3, None)
    taken, false = {}, 0
    corners = held.xyxy.numpy()
    for index in np.argsort(-scores):
        best = [(iou(corners[index], truth[j]), j) for j in range(4) if kinds[j] == labels[index] and j not in taken]
        overlap, j = max(best, default=(0.0, -1))
        if overlap >= 0.3:
            taken[j] = (float(scores[index]), overlap)
        elif scores[index] >= 0.5:
            false += 1
    for j, answer in enumerate(got.answers):
        score, overlap = taken.get(j, (0.0, 0.0))
        assert answer.confidence == pytest.approx(score)
        assert answer.overlap == pytest.approx(overlap)
        assert answer.found == (score >= 0.5 and j in taken)
    assert got.false == false
    assert got.claim is None


def test_what_lies_in_an_ignored_region_is_not_false():
    held = Boxes(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([0.9]), torch.tensor([0]))
    assert read_boxes(held, [], NONE, 0.5, "iou", None, None).false == 1
    assert read_boxes(held, [], np.array([[0.0, 0, 20, 20]]), 0.5, "iou", None, None).false == 0


def test_a_claim_is_a_shown_box_with_its_centre_in_the_place():
    where = np.zeros((20, 20), bool)
    where[8:12, 8:12] = True
    boxes = torch.tensor([[0.0, 0, 20, 20], [0.0, 0, 6, 6]])
    for score, expected in ((0.9, 1.0), (0.4, 0.0)):
        held = Boxes(boxes, torch.tensor([score, 0.9]), torch.tensor([0, 0]))
        assert read_boxes(held, [], NONE, 0.5, "iou", None, where).claim == expected


def test_a_partly_hidden_object_is_found_by_its_whole_or_its_visible_part():
    region = np.zeros((30, 30), bool)
    region[10:20, 10:20] = True
    hidden = region.copy()
    hidden[:, 14:] = False
    thing = Thing(0, region, (np.array([10.0, 10, 20, 20]),)).without(hidden)
    for box in ([10.0, 10, 20, 20], [14.0, 10, 20, 20]):
        held = Boxes(torch.tensor([box]), torch.tensor([0.8]), torch.tensor([0]))
        (answer,) = read_boxes(held, [thing], NONE, 0.5, "iou", 0.9, None).answers
        assert (answer.found, answer.overlap) == (True, 1.0)
    assert thing.without(region) is thing


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scored", [True, False])
def test_components_are_compared_with_each_object(seed, scored):
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    probabilities = ndimage.gaussian_filter(rng.random((3, 30, 40)), (0, 2, 2))
    probabilities /= probabilities.sum(axis=0)
    labels = probabilities.argmax(axis=0).astype(np.uint8)
    reference = np.zeros((30, 40), np.uint8)
    reference[3:12, 4:15], reference[15:25, 20:35] = 1, 2
    case = Case(CaseRef("a", "a"), np.zeros((1, 30, 40), np.float32), reference)
    things = things_of(case, boxes=False)
    assert [thing.label for thing in things] == [1, 2]
    held = Prediction(labels, probabilities if scored else None)
    got = read_masks(held, things, 0.2, reference == 1)
    for thing, answer in zip(things, got.answers, strict=True):
        numbers, count = ndimage.label(labels == thing.label, structure=np.ones((3, 3)))
        overlaps = [0.0]
        for number in range(1, count + 1):
            part = numbers == number
            overlaps.append((part & thing.region).sum() / (part | thing.region).sum())
        assert answer.overlap == pytest.approx(max(overlaps))
        assert answer.found == (max(overlaps) >= 0.2)
        expected = probabilities[thing.label] if scored else labels == thing.label
        assert answer.confidence == pytest.approx(expected[thing.region].mean())
    assert got.false == pytest.approx(((labels > 0) & (reference == 0)).mean())
    assert got.claim == pytest.approx((labels[reference == 1] > 0).mean())


def test_objects_are_boxes_with_their_outlines_or_components():
    case = tile("a", [(10, 10), (40, 50)])
    diamond = np.array([[14.0, 10], [18, 14], [14, 18], [10, 14]], np.float32)
    drawn = Case(case.ref, case.image, boxes=case.boxes, outlines=((diamond,), ()))
    first, second = things_of(drawn, boxes=True)
    assert first.region.sum() < 0.7 * 64
    assert second.region.sum() == 64
    assert first.boxes[0].tolist() == [10, 10, 18, 18]
    ignored = case.boxes.copy()
    ignored[0, 4] = 255
    (left,) = things_of(Case(case.ref, case.image, boxes=ignored), boxes=True)
    assert left.boxes[0].tolist() == [50, 40, 58, 48]
    assert occupied(Case(case.ref, case.image, boxes=ignored), [left]).sum() == 128


def test_moving_an_object_moves_its_boxes():
    (thing,) = things_of(tile("a"), boxes=True)
    there = thing.at(-3, 5)
    assert there.boxes[0].tolist() == [41, 25, 49, 33]
    assert np.argwhere(there.region).min(axis=0).tolist() == [25, 41]


def test_a_case_without_its_reference_fails():
    bare = Case(CaseRef("a", "a"), np.zeros((1, 8, 8), np.float32))
    with pytest.raises(DataError, match="no reference boxes"):
        things_of(bare, boxes=True)
    with pytest.raises(DataError, match="no reference mask"):
        things_of(bare, boxes=False)
