import itertools
import math

import numpy as np
import pytest
import torch

from tests.toys import BrightBlobs
from xaiseg.errors import UsageError
from xaiseg.explainers.box_targets import BoxTarget, RawOutput, box_iou, box_target, class_cosine, mask_iou
from xaiseg.subject import Boxes

#: Two objects of two classes: the first is the same in all scenes below.
FOUND = Boxes(
    torch.tensor([[0.0, 0.0, 4.0, 4.0], [10.0, 10.0, 14.0, 12.0]]),
    torch.tensor([0.8, 0.6]),
    torch.tensor([0, 1]),
    class_scores=torch.tensor([[0.8, 0.2], [0.0, 0.6]]),
)
NOTHING = Boxes(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2))
KINDS = ("box", "where", "is", "what")


def slow_iou(a, b):
    """Counts unit cells, for boxes of whole numbers."""
    cells = [{(x, y) for x in range(int(c[0]), int(c[2])) for y in range(int(c[1]), int(c[3]))} for c in (a, b)]
    union = len(cells[0] | cells[1])
    return len(cells[0] & cells[1]) / union if union else 0.0


def slow_cosine(p, q):
    norm = math.hypot(*p) * math.hypot(*q)
    return sum(a * b for a, b in zip(p, q, strict=True)) / norm if norm else 0.0


def slow_score(kind, box, classes, found):
    best = 0.0
    for j in range(len(found.scores)):
        value = slow_iou(box.tolist(), found.xyxy[j].tolist())
        if kind in ("box", "is"):
            value *= found.scores[j].item()
        if kind in ("box", "what"):
            value *= slow_cosine(classes.tolist(), found.class_scores[j].tolist())
        best = max(best, value)
    return best


def test_the_overlap_counts_cells_and_has_no_plus_one():
    rng = np.random.default_rng(0)
    corner, side = rng.integers(0, 6, (12, 2)), rng.integers(0, 5, (12, 2))
    boxes = torch.tensor(np.concatenate((corner, corner + side), axis=1), dtype=torch.float32)
    found = box_iou(boxes, boxes)
    for i, j in itertools.product(range(12), repeat=2):
        assert found[i, j].item() == pytest.approx(slow_iou(boxes[i].tolist(), boxes[j].tolist()), abs=1e-6)
    # Side by side, sharing an edge only: with a +1 they would overlap.
    assert box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[2.0, 0.0, 4.0, 2.0]])).item() == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_is_that_of_its_definition(kind):
    rng = np.random.default_rng(1)
    scenes = [FOUND, NOTHING]
    for count in (1, 3, 6):
        corner, side = rng.integers(0, 10, (count, 2)), rng.integers(1, 6, (count, 2))
        xyxy = torch.tensor(np.concatenate((corner, corner + side), axis=1), dtype=torch.float32)
        classes = torch.tensor(rng.random((count, 2)), dtype=torch.float32)
        scenes.append(Boxes(xyxy, classes.amax(1), classes.argmax(1), classes))
    for index in (0, 1):
        target = box_target(FOUND, index, classes=2, kind=kind)
        expected = [slow_score(kind, target.xyxy, target.classes, scene) for scene in scenes]
        assert target.score(scenes).tolist() == pytest.approx(expected, abs=1e-6)


def test_closed_forms_of_the_unperturbed_image_and_of_a_shifted_box():
    first = {kind: box_target(FOUND, 0, classes=2, kind=kind).score([FOUND]).item() for kind in KINDS}
    assert first == pytest.approx({"box": 0.8, "where": 1.0, "is": 0.8, "what": 1.0})
    shifted = Boxes(torch.tensor([[2.0, 0.0, 6.0, 4.0]]), torch.tensor([0.5]), torch.tensor([1]), torch.eye(2)[1:])
    cosine = 0.2 / math.hypot(0.8, 0.2)
    moved = {kind: box_target(FOUND, 0, classes=2, kind=kind).score([shifted]).item() for kind in KINDS}
    third = 1 / 3  # 2 x 4 shared of 6 x 4
    assert moved == pytest.approx(
        {"box": third * 0.5 * cosine, "where": third, "is": third * 0.5, "what": third * cosine}
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_no_detection_scores_zero_wherever_it_stands_in_the_batch(kind, place):
    scenes = [FOUND, FOUND]
    scenes.insert(place, NOTHING)
    found = box_target(FOUND, 1, classes=2, kind=kind).score(scenes)
    assert found.shape == (3,)
    assert found[place].item() == 0.0
    assert torch.isfinite(found).all()
    assert (found > 0).sum() == 2


def test_the_best_detection_of_the_right_label_counts_though_another_overlaps_more():
    both = Boxes(
        torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0]]), torch.tensor([0.9, 0.9]), torch.tensor([1, 0])
    )
    target = BoxTarget(torch.tensor([0.0, 0.0, 4.0, 4.0]), torch.tensor([1.0, 0.0]))
    assert target.score([both]).item() == pytest.approx(0.75 * 0.9)


def test_detectors_without_class_vectors_get_one_hot_ones_and_zero_vectors_have_no_direction():
    plain = Boxes(FOUND.xyxy, FOUND.scores, FOUND.labels)
    target = box_target(plain, 1, classes=2)
    assert target.classes.tolist() == [0.0, 1.0]
    assert target.score([plain]).item() == pytest.approx(0.6)
    assert class_cosine(torch.zeros(2), torch.eye(2)).tolist() == [0.0, 0.0]


def test_masks_are_compared_softly_and_in_place_of_boxes():
    rng = np.random.default_rng(4)
    own, others = rng.random((3, 4)), rng.random((5, 3, 4))
    others[0], others[1] = own, 0.0
    expected = [np.minimum(own, each).sum() / np.maximum(own, each).sum() for each in others]
    found = mask_iou(torch.from_numpy(own), torch.from_numpy(others))
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert found[:2].tolist() == pytest.approx([1.0, 0.0])
    image = torch.zeros(1, 12, 12)
    image[0, 2:6, 2:6], image[0, 8:11, 1:3] = 0.9, 0.7
    detector = BrightBlobs()
    whole = detector.predict([image])[0]
    targets = [box_target(whole, index, classes=1, masks=True) for index in (0, 1)]
    cut = image.clone()
    cut[0, 2:6, 4:6] = 0.0  # half of the first object is gone
    scenes = detector.predict([image, cut, torch.zeros_like(image)])
    assert targets[0].score(scenes).tolist() == pytest.approx([0.9, 0.45, 0.0])
    assert targets[1].score(scenes).tolist() == pytest.approx([0.7, 0.7, 0.0])


def test_raw_outputs_are_indexed_and_differentiable():
    raw = torch.randn(2, 5, 4, requires_grad=True)
    target = RawOutput((3, 2), "car")
    score = target.score(raw)
    assert score.tolist() == raw[:, 3, 2].tolist()
    score.sum().backward()
    assert raw.grad.nonzero().tolist() == [[0, 3, 2], [1, 3, 2]]
    for index in ((5, 0), (0,), (-1, 0)):
        with pytest.raises(UsageError, match="outside the raw answer"):
            RawOutput(index).score(raw)


def test_gradients_are_finite_where_nothing_overlaps():
    xyxy = torch.tensor([[50.0, 50.0, 50.0, 60.0]], requires_grad=True)
    scene = Boxes(xyxy, torch.tensor([0.5]), torch.tensor([0]), torch.zeros(1, 2))
    box_target(FOUND, 0, classes=2).score([scene]).sum().backward()
    assert torch.isfinite(xyxy.grad).all()


def test_what_cannot_be_a_target_is_refused():
    with pytest.raises(UsageError, match=r"no such detection.*below 2"):
        box_target(FOUND, 2, classes=2)
    with pytest.raises(UsageError, match="gives no instance masks"):
        box_target(FOUND, 0, classes=2, masks=True)
    with pytest.raises(UsageError, match="no such target"):
        box_target(FOUND, 0, classes=2, kind="why")
    with pytest.raises(UsageError, match="another length"):
        box_target(FOUND, 0, classes=3)
    with pytest.raises(UsageError, match="a label is no class"):
        box_target(Boxes(FOUND.xyxy, FOUND.scores, FOUND.labels), 0, classes=1)
    with pytest.raises(UsageError, match="needs a box"):
        BoxTarget(torch.zeros(3), torch.zeros(2))
    masked = BoxTarget(FOUND.xyxy[0], torch.ones(2), mask=torch.ones(4, 4))
    with pytest.raises(UsageError, match="the detections have none"):
        masked.score([FOUND])
