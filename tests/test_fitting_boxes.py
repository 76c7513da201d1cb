import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from xaiseg.data.case import Case, CaseRef
from xaiseg.detection.curves import Pool
from xaiseg.errors import NothingToAudit, SubjectError, UsageError
from xaiseg.fitting import train
from xaiseg.fitting_boxes import BoxScore, BoxTask, average_precision_of, pools_of, rates_at, score_of
from xaiseg.subject import Boxes
from xaiseg.zoo.augmentation import Augmentation
from xaiseg.zoo.detector_compact import DetectorCompact
from xaiseg.zoo.recipe import Recipe

SMALL = Recipe(size=32, epochs=2, images_per_epoch=8, batch=4, bfloat16=False, augmentation=Augmentation(blur_px=0))


def cases(count, seed, size=(40, 52)):
    """Bright rectangles on a dark ground, one or two an image; the last image is empty."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        image, boxes = rng.uniform(0, 0.2, (3, *size)).astype(np.float32), []
        for _ in range(0 if index == count - 1 else 1 + index % 2):
            x, y = rng.integers(2, size[1] - 18), rng.integers(2, size[0] - 14)
            image[:, y : y + 10, x : x + 14] = 0.9
            boxes.append([x, y, x + 14, y + 10, 0])
        boxes = np.array(boxes, np.float32).reshape(-1, 5)
        yield Case(CaseRef(f"{seed}-{index}", ""), image, boxes=boxes)


def run(out, recipe=SMALL, build=lambda: DetectorCompact(3, 1), **options):
    options = {"log": lambda line: None, "seed": 1, "task": BoxTask(), "classes": 1, **options}
    return train(build, cases(9, 0), cases(5, 1), recipe=recipe, out=out, **options)


def test_a_training_is_the_same_under_a_seed_and_goes_on_after_an_interruption(tmp_path):
    whole = load_file(run(tmp_path / "whole").weights)

    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "halves", log=interrupt)
    lines = []
    resumed = load_file(run(tmp_path / "halves", log=lines.append).weights)
    assert lines[0] == "resumed after epoch 1"
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "other", log=interrupt)
    with pytest.raises(UsageError, match="another training"):
        run(tmp_path / "other", start="0123")


def test_pictures_and_boxes_share_the_networks_grid():
    held = BoxTask().pictures(cases(9, 0), SMALL, "train")
    assert held.images.shape == (9, 3, 32, 32)
    assert held.boxes.shape == (9, 2, 4)
    for image, boxes, labels in zip(held.images.float() / 255, held.boxes, held.labels, strict=True):
        for (left, top, right, bottom), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            if label == 0:
                assert (
                    float(image[:, round(top) + 2 : round(bottom) - 1, round(left) + 2 : round(right) - 1].min()) > 0.7
                )
                assert (right - left) / (bottom - top) == pytest.approx(1.4, rel=0.03)  # sides are whole pixels
    assert held.labels[-1].tolist() == [-1, -1]


def test_what_cannot_be_trained_is_refused(tmp_path):
    bare = Case(CaseRef("x", ""), np.zeros((3, 8, 8), np.float32))
    empty = [Case(case.ref, case.image, boxes=case.boxes[:0]) for case in cases(3, 0)]
    other = [Case(case.ref, case.image, boxes=case.boxes + np.float32(4)) for case in cases(3, 0)]
    held_out = list(cases(3, 1))
    for own, error, message in (
        ([bare], UsageError, "no boxes"),
        ([], NothingToAudit, "no case"),
        (empty, UsageError, "at least one object"),
        (other, UsageError, "class that the model does not have"),
        (held_out, UsageError, "in the training and in the validation part"),
    ):
        with pytest.raises(error, match=message):
            train(lambda: DetectorCompact(3, 1), own, held_out, recipe=SMALL, out=tmp_path, task=BoxTask(), classes=1)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_stops_without_weights(tmp_path):
    def broken():
        network = DetectorCompact(3, 1)
        torch.nn.init.constant_(network.box.bias, float("nan"))
        return network

    with pytest.raises(SubjectError, match=r"step 1, cases 0-\d, .*the loss is no number"):
        run(tmp_path, build=broken)
    assert list(tmp_path.iterdir()) == []


def slow_match(found, truths, label):
    """COCO's rule in plain loops: (score, hit) of each detection that counts, and the number of objects."""
    rows, count = [], 0
    for boxes, truth in zip(found, truths, strict=True):
        objects = [box for box in truth.tolist() if box[4] == label]
        regions = [box for box in truth.tolist() if box[4] == 255]
        count += len(objects)
        free = list(objects)
        own = [(s, b) for s, b, k in zip(boxes.scores.tolist(), boxes.xyxy.tolist(), boxes.labels.tolist(), strict=True)
               if k == label]  # fmt: skip
        for score, box in sorted(own, key=lambda pair: -pair[0]):

            def both(other, box=box):
                width, height = (
                    min(box[2], other[2]) - max(box[0], other[0]),
                    min(box[3], other[3]) - max(box[1], other[1]),
                )
                return max(width, 0) * max(height, 0)

            def area(box):
                return (box[2] - box[0]) * (box[3] - box[1])

            fits = [(both(o) / (area(box) + area(o) - both(o)), o) for o in free]
            best = max(fits, key=lambda pair: pair[0], default=(0, None))
            if best[0] >= 0.5:
                free.remove(best[1])
                rows.append((score, True))
            elif not any(both(region) / area(box) >= 0.5 for region in regions):
                rows.append((score, False))
    return sorted(rows, reverse=True), count


def detections(seed, images=12):
    """Boxes near the objects, some twice, some nowhere, with distinct scores."""
    rng = np.random.default_rng(seed)
    found, truths = [], []
    scores = iter(rng.permutation(np.linspace(0.02, 0.99, 40 * images)))
    for _ in range(images):
        count = int(rng.integers(0, 5))
        corner = rng.uniform(0, 80, (count, 2))
        truth = np.concatenate(
            (corner, corner + rng.uniform(8, 30, (count, 2)), rng.choice((0, 1, 255), (count, 1))), 1
        )
        near = np.repeat(truth, 2, axis=0)
        near = near[rng.random(len(near)) < 0.8]
        near[:, :4] += rng.normal(0, 3, (len(near), 4))
        stray = rng.uniform(0, 60, (int(rng.integers(0, 4)), 2))
        stray = np.concatenate((stray, stray + 20, rng.choice((0.0, 1.0), (len(stray), 1))), axis=1)
        boxes = np.concatenate((near, stray))
        labels = np.where(boxes[:, 4] == 255, 0, boxes[:, 4]).astype(np.int64)
        own = np.array([next(scores) for _ in boxes], np.float32)
        found.append(Boxes(torch.from_numpy(boxes[:, :4]), torch.from_numpy(own), torch.from_numpy(labels)))
        truths.append(truth)
    return found, truths


@pytest.mark.parametrize("seed", range(4))
def test_matches_are_those_of_plain_loops(seed):
    found, truths = detections(seed)
    for label, pool in enumerate(pools_of(found, truths, 2)):
        rows, count = slow_match(found, truths, label)
        mine = sorted(zip(pool.score[~pool.void].tolist(), pool.hit[~pool.void].tolist(), strict=True), reverse=True)
        assert mine == [(pytest.approx(score), hit) for score, hit in rows]
        assert pool.objects.sum() == count


def test_average_precision_is_that_of_pycocotools(capsys):
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    found, truths = detections(7, images=30)
    annotations, results = [], []
    for image, (boxes, truth) in enumerate(zip(found, truths, strict=True), start=1):
        for left, top, right, bottom, label in truth.tolist():
            for kind in (0, 1) if label == 255 else (label,):
                box = [left, top, right - left, bottom - top]
                more = {"bbox": box, "area": box[2] * box[3], "iscrowd": int(label == 255)}
                annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": int(kind), **more})
        for box, score, label in zip(boxes.xyxy.tolist(), boxes.scores.tolist(), boxes.labels.tolist(), strict=True):
            size = [box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": image, "category_id": label, "bbox": [*box[:2], *size], "score": score})
    truth = coco.COCO()
    truth.dataset = {"images": [{"id": i + 1} for i in range(30)], "annotations": annotations,
                     "categories": [{"id": 0}, {"id": 1}]}  # fmt: skip
    truth.createIndex()
    run = evaluation.COCOeval(truth, truth.loadRes(results), "bbox")
    run.params.iouThrs = np.array([0.5])
    run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
    run.evaluate()
    run.accumulate()
    capsys.readouterr()
    expected = [float(run.eval["precision"][0, :, label, 0, -1].mean()) for label in (0, 1)]
    pools = pools_of(found, truths, 2)
    assert [average_precision_of([pool]) for pool in pools] == pytest.approx(expected, abs=1e-6)
    assert score_of(pools).ap50 == pytest.approx(np.mean(expected), abs=1e-6)


def test_rates_and_the_best_threshold():
    void = np.array([False, False, False, True, False])
    scores, hits = np.array([0.9, 0.8, 0.3, 0.3, 0.2]), np.array([True, False, True, False, False])
    matches = [Pool(np.zeros(5, int), scores, hits, void, np.array([4.0]))]
    assert rates_at(matches, 0.3) == (0.5, pytest.approx(2 / 3))
    assert rates_at(matches, 0.95) == (0.0, 1.0)
    score = score_of(matches)
    assert (score.threshold, score.recall) == (0.3, 0.5)
    assert score.f1 == pytest.approx(2 * 0.5 * (2 / 3) / (0.5 + 2 / 3))
    assert score_of(matches, thresholds=(0.5, 0.85)).threshold == 0.85


def test_nothing_found_is_a_score_of_zero():
    empty = Boxes(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    score = score_of(pools_of([empty], [np.array([[0, 0, 5, 5, 0.0]])], 1))
    assert score == BoxScore(0.0, 0.5, 0.0, 1.0, 0.0)
    assert "AP50 0.0000" in str(score)
