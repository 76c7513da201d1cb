from __future__ import annotations

import numpy as np
import pytest

from xaiseg.detection.matching import THRESHOLDS, iou, match, share_inside


def oracle(boxes, scores, objects, regions, threshold):
    """COCO's own loop, step by step: (found, finder)."""

    def overlap(a, b, crowd):
        w = min(a[2], b[2]) - max(a[0], b[0])
        h = min(a[3], b[3]) - max(a[1], b[1])
        shared = max(w, 0) * max(h, 0)
        size = (a[2] - a[0]) * (a[3] - a[1])
        return shared / (size if crowd else size + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    everything = [(box, False) for box in objects] + [(box, True) for box in regions]
    finder = [-1] * len(everything)
    found = []
    for turn, index in enumerate(np.argsort(-scores, kind="stable")):
        best, least = -1, min(threshold, 1 - 1e-10)
        for place, (box, crowd) in enumerate(everything):
            if finder[place] >= 0 and not crowd:
                continue
            if best > -1 and not everything[best][1] and crowd:
                break
            value = overlap(boxes[index], box, crowd)
            if value < least:
                continue
            least, best = value, place
        if best > -1:
            finder[best] = turn
        found.append(-2 if best >= len(objects) else best)
    return found, finder[: len(objects)]


def some_boxes(rng, count):
    low = rng.integers(0, 30, (count, 2))
    return np.hstack([low, low + rng.integers(3, 14, (count, 2))]).astype(float)


@pytest.mark.parametrize("seed", range(40))
def test_matching_follows_the_loop_of_coco(seed):
    rng = np.random.default_rng(seed)
    objects, regions = some_boxes(rng, rng.integers(0, 8)), some_boxes(rng, rng.integers(0, 3))
    near = [box + rng.normal(0, 1.5, 4) for box in objects for _ in range(2)]
    boxes = np.array([*near, *some_boxes(rng, 4)])
    scores = rng.integers(0, 8, len(boxes)) / 8  # with ties
    held = match(boxes, scores, objects, regions, threshold=0.3)
    found, finder = oracle(boxes, scores, objects, regions, 0.3)
    assert held.found.tolist() == found
    assert held.finder.tolist() == finder
    for bit, threshold in enumerate(THRESHOLDS):
        found, _ = oracle(boxes, scores, objects, regions, threshold)
        assert [bool(row >> bit & 1) for row in held.hits] == [place >= 0 for place in found]
        assert [bool(row >> bit & 1) for row in held.void] == [place == -2 for place in found]


def test_a_higher_threshold_of_the_score_keeps_the_matches():
    rng = np.random.default_rng(3)
    objects = some_boxes(rng, 6)
    boxes = np.array([box + rng.normal(0, 2, 4) for box in objects for _ in range(3)])
    scores = rng.random(len(boxes))
    held = match(boxes, scores, objects)
    above = scores >= 0.5
    part = match(boxes[above], scores[above], objects)
    assert part.found.tolist() == held.found[: above.sum()].tolist()


def test_one_animal_is_found_once_and_the_second_box_is_false():
    held = match(np.array([[0, 0, 10, 10], [0, 0, 10, 9]]), np.array([0.5, 0.9]), np.array([[0, 0, 10, 10]]))
    assert held.found.tolist() == [0, -1]
    assert held.iou.tolist() == [0.9, 0.0]
    assert held.order.tolist() == [1, 0]


def test_a_crowd_takes_any_number_out_of_the_count():
    boxes = np.array([[0, 0, 4, 4], [4, 4, 8, 8], [30, 30, 34, 34]])
    held = match(boxes, np.array([0.9, 0.8, 0.7]), np.zeros((0, 4)), np.array([[0, 0, 20, 20]]))
    assert held.found.tolist() == [-2, -2, -1]
    assert held.iou.tolist() == [1.0, 1.0, 0.0]


def test_the_centre_rule_asks_where_the_detection_points():
    objects = np.array([[0, 0, 20, 4], [0, 10, 20, 14]])
    boxes = np.array([[8, 1, 11, 3], [8, 6, 11, 8], [0, 2, 20, 18]])
    held = match(boxes, np.array([0.9, 0.8, 0.7]), objects, rule="centre")
    assert held.found.tolist() == [0, -1, 1]  # small and inside; between; tall, its centre at y = 10
    assert match(boxes, np.array([0.9, 0.8, 0.7]), objects).found.tolist() == [-1, -1, -1]


def test_a_missed_object_knows_the_best_score_that_would_have_fit():
    objects = np.array([[0, 0, 10, 10], [40, 40, 50, 50]])
    boxes = np.array([[0, 0, 10, 10], [1, 0, 10, 10]])
    held = match(boxes, np.array([0.9, 0.3]), objects)
    assert held.near.tolist() == [0.9, 0.0]
    assert held.finder.tolist() == [0, -1]


def test_nothing_against_nothing():
    held = match(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 4)))
    assert len(held.found) == len(held.finder) == 0
    assert match(np.array([[0, 0, 1, 1]]), np.ones(1), np.zeros((0, 4))).found.tolist() == [-1]
    assert match(np.zeros((0, 4)), np.zeros(0), np.array([[0, 0, 1, 1]])).finder.tolist() == [-1]


def test_a_box_without_area_overlaps_nothing():
    flat = np.array([[3.0, 3, 3, 9]])
    assert iou(flat, flat).tolist() == [[0.0]]
    assert share_inside(flat, np.array([[0.0, 0, 9, 9]])).tolist() == [[0.0]]
