import math

import pytest
import torch
from detector_cells import grid, iou, problem

from xaiseg.zoo.detector_assign import BACKGROUND, IGNORED, OVERLAP, REACH, TOP, assign, inside, pairwise_iou


def slow_assign(logits, boxes, centres, strides, truth, labels):
    """One image, straight from the definition."""
    cells, wants = len(centres), {}
    for g, (box, label) in enumerate(zip(truth, labels, strict=True)):
        if label in (-1, 255):
            continue
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        near = [n for n in range(cells)
                if max(abs(centres[n][0] - x), abs(centres[n][1] - y)) / strides[n] <= REACH]  # fmt: skip
        overlap = {n: iou(box, boxes[n]) for n in near}
        count = max(1, int(sum(sorted(overlap.values(), reverse=True)[:TOP])))
        cost = {n: math.log1p(math.exp(-logits[n][int(label)])) - OVERLAP * math.log(overlap[n] + 1e-7) for n in near}
        for n in sorted(near, key=cost.get)[:count]:
            wants.setdefault(n, []).append((cost[n], g))
    answers = []
    for n in range(cells):
        if n in wants:
            answers.append(min(wants[n])[1])
        else:
            hidden = any(
                label == 255 and box[0] <= centres[n][0] < box[2] and box[1] <= centres[n][1] < box[3]
                for box, label in zip(truth, labels, strict=True)
            )
            answers.append(IGNORED if hidden else BACKGROUND)
    return answers


@pytest.mark.parametrize("seed", range(8))
def test_assignment_is_what_the_definition_says(seed):
    held = problem(seed)
    answers, overlap = assign(*held)
    logits, boxes, centres, strides, truth, labels = (value.tolist() for value in held)
    for image in range(2):
        expected = slow_assign(logits[image], boxes[image], centres, strides, truth[image], labels[image])
        assert answers[image].tolist() == expected
        for n, answer in enumerate(expected):
            gained = iou(truth[image][answer], boxes[image][n]) if answer >= 0 else 0.0
            assert overlap[image, n].item() == pytest.approx(gained, abs=1e-5)


def test_every_object_alone_gets_a_cell_however_small():
    centres, strides = grid()
    boxes = torch.cat((centres - 400, centres - 390), dim=1)[None]  # predictions that fit nothing
    for x, y in ((0.0, 0.0), (31.0, 12.5), (63.9, 63.9)):
        truth = torch.tensor([[[x - 1, y - 1, x + 1, y + 1]]])
        answers, _ = assign(torch.zeros(1, len(centres), 1), boxes, centres, strides, truth, torch.zeros(1, 1))
        assert int((answers == 0).sum()) == 1


def test_an_image_without_objects_is_background():
    centres, strides = grid()
    boxes = torch.cat((centres - 4, centres + 4), dim=1)[None]
    answers, overlap = assign(
        torch.zeros(1, len(centres), 1), boxes, centres, strides, torch.zeros(1, 1, 4), -torch.ones(1, 1)
    )
    assert (answers == BACKGROUND).all()
    assert (overlap == 0).all()


def test_points_and_overlaps():
    boxes = torch.tensor([[[0.0, 0, 4, 4], [2, 2, 6, 8]]])
    assert inside(torch.tensor([[1.0, 1], [3, 3], [4, 4]]), boxes).tolist() == [
        [[True, True, False], [False, True, True]]
    ]
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(2, 4, 2, generator=generator) * 5
    many = torch.cat((low, low + 1 + 4 * torch.rand(2, 4, 2, generator=generator)), dim=2)
    found = pairwise_iou(many[:1], many[1:])
    for g in range(4):
        for n in range(4):
            assert found[0, g, n].item() == pytest.approx(iou(many[0, g].tolist(), many[1, n].tolist()), abs=1e-6)
