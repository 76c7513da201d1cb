from __future__ import annotations

import numpy as np
import pytest

from xaiseg.detection.coco_measures import coco_measures
from xaiseg.detection.curves import (
    FROC_RATES,
    Pool,
    average_precision,
    final_recall,
    mean_over,
    precision_recall,
    sensitivity,
    steps_of,
)
from xaiseg.detection.matching import IGNORE, THRESHOLDS, match

# pycocotools 2.0.11 has the __array__ of NumPy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CLASSES = 3


def world(seed, images=30):
    """References (R, 5) and detections (N, 6) of images; some have no object, some a crowd, one class is rare."""
    rng = np.random.default_rng(seed)
    references, detections = [], []
    for image in range(images):
        count = 0 if image % 5 == 0 else int(rng.integers(1, 9))
        low, labels = rng.uniform(0, 400, (count, 2)), rng.choice(CLASSES, count, p=[0.6, 0.35, 0.05])
        boxes = np.hstack([low, low + rng.uniform(8, 60, (count, 2))])
        found = [boxes[i] + rng.normal(0, 3, 4) for i in range(count) if rng.random() < 0.8]
        kinds = [labels[i] for i in range(count)][: len(found)]
        wild = rng.uniform(0, 400, (4, 2))
        found = np.array([*found, *np.hstack([wild, wild + rng.uniform(8, 60, (4, 2))])])
        kinds = np.array([*kinds, *rng.integers(0, CLASSES, 4)])
        scores = rng.random(len(found)).round(2)  # with ties
        rows = np.column_stack((boxes, labels)) if count else np.zeros((0, 5))
        if image % 7 == 3:
            rows = np.vstack([rows, [0, 0, 200, 200, IGNORE]])
        references.append(rows.astype(np.float32).astype(np.float64))
        detections.append(np.column_stack((found, kinds, scores)).astype(np.float32).astype(np.float64))
    return references, detections


def pools(references, detections, *, bits=range(10), most=100):
    """One pool a class and threshold, by the slow way round: matched image by image."""
    held = []
    for label in range(CLASSES):
        tables = []
        for rows, found in zip(references, detections, strict=True):
            mine = found[found[:, 4] == label]
            mine = mine[np.argsort(-mine[:, 5], kind="stable")[:most]]
            real, ignored = rows[rows[:, 4] == label, :4], rows[rows[:, 4] == IGNORE, :4]
            tables.append((match(mine[:, :4], mine[:, 5], real, ignored), len(real)))
        image = np.concatenate([np.full(len(t.score), i) for i, (t, _) in enumerate(tables)]).astype(np.int64)
        score, hits, void = (
            np.concatenate([getattr(t, name) for t, _ in tables]) for name in ("score", "hits", "void")
        )
        objects = np.array([float(count) for _, count in tables])
        held.append([Pool(image, score, hits >> bit & 1 == 1, void >> bit & 1 == 1, objects) for bit in bits])
    return held


def over_all(held, of, images, weights=None):
    positions, ones = np.arange(images), np.ones(images) if weights is None else weights
    flat = [pool for each in held for pool in each]
    return mean_over(flat, of)(positions, np.zeros(images, np.int64), ones)(np.ones(1))


def pycoco(references, detections):
    """AP, AP50 and AR by pycocotools."""
    import contextlib
    import io

    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    from xaiseg.detection.coco_measures import _document, _results

    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = _document(references, CLASSES)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(_results(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0], evaluation.stats[1], evaluation.stats[8]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_ways_to_the_same_figures(seed):
    references, detections = world(seed)
    held = coco_measures(references, detections, CLASSES)
    assert np.allclose((held.ap, held.ap50, held.ar), pycoco(references, detections), atol=1e-6, rtol=0)
    mine = pools(references, detections)
    images = len(references)
    assert over_all(mine, average_precision, images) == pytest.approx(held.ap, abs=1e-6)
    assert over_all([each[:1] for each in mine], average_precision, images) == pytest.approx(held.ap50, abs=1e-6)
    assert over_all(mine, final_recall, images) == pytest.approx(held.ar, abs=1e-6)
    assert 0.05 < held.ap < held.ap50 < 0.9


def test_resampled_clusters_give_what_the_copied_images_give():
    references, detections = world(5)
    groups = np.arange(30) // 3
    drawn = np.random.default_rng(0).integers(0, 4, 10).astype(float)
    drawn[4] = 0.0
    copies = [image for image in range(30) for _ in range(int(drawn[groups[image]]))]
    # Equal scores of different images would be sorted otherwise among copies.
    untied = [
        np.column_stack((d[:, :5], d[:, 5] + 1e-4 * np.arange(len(d)) + 1e-7 * i)) for i, d in enumerate(detections)
    ]
    flat = [pool for each in pools(references, untied) for pool in each]
    fast = mean_over(flat, average_precision)(np.arange(30), groups, np.ones(30))(drawn)
    slow = coco_measures([references[i] for i in copies], [untied[i] for i in copies], CLASSES).ap
    assert fast == pytest.approx(slow, abs=1e-9)


def test_a_part_of_the_images_is_a_data_set_of_its_own():
    references, detections = world(6)
    part = np.array([1, 2, 8, 13, 22, 29])
    flat = [pool for each in pools(references, detections) for pool in each]
    held = mean_over(flat, average_precision)(part, np.zeros(6, np.int64), np.ones(6))(np.ones(1))
    alone = coco_measures([references[i] for i in part], [detections[i] for i in part], CLASSES).ap
    assert held == pytest.approx(alone, abs=1e-6)


def froc_by_thresholds(pool, rates):
    """Sensitivity from every threshold in turn."""
    best = np.zeros(len(rates))
    counted = ~pool.void
    for threshold in np.unique(pool.score):
        shown = counted & (pool.score >= threshold)
        false = (shown & ~pool.hit).sum() / len(pool.objects)
        recall = (shown & pool.hit).sum() / pool.objects.sum()
        best = np.where(false <= np.array(rates), np.maximum(best, recall), best)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_froc_is_the_best_recall_of_any_threshold_within_the_rate(seed):
    references, detections = world(seed)
    for each in pools(references, detections, bits=[0]):
        pool = each[0]
        images = len(references)
        steps = steps_of(pool, np.arange(images), np.zeros(images, np.int64), np.ones(images), false_first=True)
        assert np.allclose(sensitivity(steps, np.ones(1), FROC_RATES), froc_by_thresholds(pool, FROC_RATES))


def test_perfect_blind_and_empty():
    references = [np.array([[0.0, 0, 10, 10, 0]])] * 3
    perfect = [np.array([[0.0, 0, 10, 10, 0, 0.9]])] * 3
    nothing = [np.zeros((0, 6))] * 3
    assert coco_measures(references, perfect, 1).ap == pytest.approx(1.0)
    assert coco_measures(references, nothing, 1).ap == 0.0
    assert np.isnan(coco_measures([np.zeros((0, 5))] * 3, perfect, 1).ap)
    empty = Pool(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool), np.zeros(0, bool), np.ones(3))
    steps = steps_of(empty, np.arange(3), np.zeros(3, np.int64), np.ones(3))
    assert average_precision(steps, np.ones(1)) == 0.0
    assert sensitivity(steps, np.ones(1), (1.0,)).tolist() == [0.0]
    assert np.isnan(average_precision(steps, np.zeros(1)))


def test_the_curve_has_a_point_for_each_hit():
    references, detections = world(0)
    pool = pools(references, detections, bits=[0])[0][0]
    recall, precision, score = precision_recall(pool)
    assert (np.diff(recall) > 0).all()
    assert (np.diff(score) <= 0).all()
    for index in (0, len(score) // 2, len(score) - 1):
        shown = ~pool.void & (pool.score >= score[index])
        assert recall[index] <= (shown & pool.hit).sum() / pool.objects.sum() + 1e-12
    assert precision[-1] == pytest.approx((pool.hit & ~pool.void).sum() / (
        (~pool.void & (pool.score >= score[-1])).sum()))  # fmt: skip
    assert len(THRESHOLDS) == 10


def test_a_failed_image_counts_in_the_classes_that_there_are():
    """The third of three classes has no object: without the failure it is left out, and so it is with one."""
    none = np.zeros(0, np.int64)
    found = Pool(np.arange(9), np.ones(9), np.ones(9, bool), np.zeros(9, bool), np.ones(10), np.arange(10) < 9.0)
    absent = Pool(none, np.zeros(0), np.zeros(0, bool), np.zeros(0, bool), np.arange(10) // 9 * 1.0, np.zeros(10))
    alone, among = (over_all([each], average_precision, 10) for each in ([found], [found, absent, absent]))
    assert among == alone == pytest.approx(0.9, abs=0.01)
    assert over_all([[absent]], average_precision, 10) == 0.0, "where nothing else is known, a failure is a miss"
