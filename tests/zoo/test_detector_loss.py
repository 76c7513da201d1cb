import math

import pytest
import torch
from detector_cells import problem
from torchvision.ops import generalized_box_iou

from xaiseg.zoo.detector_assign import assign
from xaiseg.zoo.detector_compact import Dense
from xaiseg.zoo.detector_loss import BOX_WEIGHT, detection_loss, quality_focal


def slow_loss(dense, truth, labels):
    answers, _ = assign(dense.logits, dense.boxes, dense.centres, dense.strides, truth, labels)
    scores = fit = count = 0.0
    for image in range(len(answers)):
        for cell, answer in enumerate(answers[image].tolist()):
            if answer == -2:
                continue
            for kind, z in enumerate(dense.logits[image, cell].tolist()):
                y = 0.0
                if answer >= 0 and kind == int(labels[image, answer]):
                    one, other = dense.boxes[image, cell], truth[image, answer]
                    low, high = torch.maximum(one[:2], other[:2]), torch.minimum(one[2:], other[2:])
                    both = float((high - low).clamp(min=0).prod())
                    y = both / (float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()) - both)
                p = 1 / (1 + math.exp(-z))
                scores += (p - y) ** 2 * -(y * math.log(p) + (1 - y) * math.log(1 - p))
            if answer >= 0:
                count += 1
                fit += 1 - float(generalized_box_iou(dense.boxes[image, cell][None], truth[image, answer][None]))
    return (scores + BOX_WEIGHT * fit) / max(1, count)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_what_the_definition_says(seed):
    logits, boxes, centres, strides, truth, labels = problem(seed)
    dense = Dense(logits, boxes, centres, strides)
    assert float(detection_loss(dense, truth, labels)) == pytest.approx(slow_loss(dense, truth, labels), rel=1e-4)


def test_regions_to_ignore_cost_nothing():
    logits, boxes, centres, strides, truth, _ = problem(0)
    truth[:] = torch.tensor([0.0, 0.0, 64.0, 64.0])
    labels = torch.full(truth.shape[:2], 255.0)
    high = Dense(logits + 5, boxes, centres, strides)
    assert float(detection_loss(high, truth, labels)) == 0
    assert float(detection_loss(high, truth, -torch.ones_like(labels))) > 1


def test_the_loss_is_finite_without_objects_and_for_sure_and_wrong_scores():
    logits, boxes, centres, strides, truth, labels = problem(0)
    logits = (80 * logits).requires_grad_()
    loss = detection_loss(Dense(logits, boxes, centres, strides), truth, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_a_box_that_is_no_number_is_seen():
    logits, boxes, centres, strides, truth, labels = problem(0)
    boxes[0, 3, 1] = float("nan")
    assert torch.isnan(detection_loss(Dense(logits, boxes, centres, strides), truth, labels))


def test_quality_focal_is_least_at_the_target():
    target = torch.tensor(0.7)
    scores = torch.linspace(0.05, 0.95, 19)
    losses = torch.stack([quality_focal(torch.logit(score), target) for score in scores])
    assert float(scores[losses.argmin()]) == pytest.approx(0.7)
