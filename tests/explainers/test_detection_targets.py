import numpy as np
import pytest
import torch

from xaiseg.errors import UsageError
from xaiseg.explainers.box_targets import box_target
from xaiseg.explainers.detection_targets import (
    ASKS,
    SIDES,
    Candidate,
    CandidateTarget,
    DetectedObject,
    ObjectTarget,
    nearest_candidate,
)
from xaiseg.explainers.targets import SpatialTarget
from xaiseg.subject import Boxes

FOUND = Boxes(
    torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 0.0, 6.0, 4.0]]),
    torch.tensor([0.8, 0.6]),
    torch.tensor([0, 1]),
    torch.tensor([[0.8, 0.2, 0.1], [0.0, 0.6, 0.3]]),
)


def thing(**changes):
    values = {
        "xyxy": FOUND.xyxy[0],
        "classes": torch.tensor([0.8, 0.2, 0.1]),
        "class_index": 0,
        "label": "seal 0",
        "shape": (8, 10),
        "origin": "detection 0",
        "score": 0.8,
        "candidate": Candidate(3, 1, 0.8, 1.0),
    }
    return DetectedObject(**{**values, **changes})


@pytest.mark.parametrize("question", ["box", "where", "is", "what"])
def test_an_object_is_scored_as_the_detection_that_it_is(question):
    nothing = Boxes(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    target = ObjectTarget(thing(), question)
    expected = box_target(FOUND, 0, classes=3, kind=question).score([FOUND, nothing])
    assert target.score([FOUND, nothing]).tolist() == expected.tolist()
    assert expected[1] == 0.0
    assert isinstance(target, SpatialTarget)
    assert ASKS[question] in target.meaning
    assert (target.unit, target.class_index) == ("similarity", 0)


def test_a_candidate_is_read_where_it_stands_and_has_a_gradient():
    raw = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
    row = raw[:, 3].detach()
    expected = {
        "box": row[:, 4],
        "is": row[:, 4:].max(dim=1).values,
        "what": row[:, 4] - torch.maximum(row[:, 5], row[:, 6]),
        **{side: row[:, place] for place, side in enumerate(("left", "top", "right", "bottom"))},
    }
    assert set(expected) == set(ASKS) - {"where", "mask"}
    for question, value in expected.items():
        target = ObjectTarget(thing(), question).raw()
        found = target.score(raw)
        torch.testing.assert_close(found.detach(), value)
        (slope,) = torch.autograd.grad(found.sum(), raw)
        assert slope[:, 3].any()
        assert not slope[:, [0, 1, 2, 4]].any()
        assert target.unit == ("pixel" if question in SIDES else "logit")
        assert "candidate 3 (level 1)" in target.meaning
    middle = thing(class_index=1)
    torch.testing.assert_close(
        CandidateTarget(middle, "what").score(raw).detach(), row[:, 5] - torch.maximum(row[:, 4], row[:, 6])
    )


def test_names_tell_the_questions_of_one_object_apart():
    names = {ObjectTarget(thing(), question).name for question in ASKS}
    assert len(names) == len(ASKS)
    assert ObjectTarget(thing()).name == "seal 0"


def test_questions_without_an_answer_are_refused():
    with pytest.raises(UsageError, match=r"no such question.*where"):
        ObjectTarget(thing(), "why")
    with pytest.raises(UsageError, match=r"number of the raw answer.*such as odam"):
        ObjectTarget(thing(), "left").score([FOUND])
    with pytest.raises(UsageError, match=r"no gradient at the image itself.*left, top"):
        ObjectTarget(thing(), "where").raw()
    with pytest.raises(UsageError, match="one class"):
        ObjectTarget(thing(classes=torch.ones(1)), "what").raw()
    with pytest.raises(UsageError, match="shows no candidates"):
        ObjectTarget(thing(candidate=None)).raw()
    for raw in (torch.zeros(1, 3, 7), torch.zeros(1, 9, 6), torch.zeros(9, 7)):
        with pytest.raises(UsageError, match="does not fit the raw answer"):
            ObjectTarget(thing()).raw().score(raw)


def test_the_mask_holds_the_pixels_whose_centres_lie_in_the_box():
    box = torch.tensor([1.4, 2.0, 3.6, 4.5])
    expected = np.zeros((8, 10), dtype=bool)
    for y in range(8):
        for x in range(10):
            expected[y, x] = 1.4 <= x + 0.5 < 3.6 and 2.0 <= y + 0.5 < 4.5
    np.testing.assert_array_equal(thing(xyxy=box).mask, expected)
    tiny = thing(xyxy=torch.tensor([9.6, 7.6, 9.9, 7.9])).mask
    assert np.argwhere(tiny).tolist() == [[7, 9]]


def test_a_missed_object_gets_the_candidate_that_could_have_found_it():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.0], [1.0, 0.0, 4.0, 4.0], [20.0, 0.0, 30.0, 9.0]])
    scores = torch.tensor([[0.1, 0.9], [0.4, 0.0], [0.3, 0.0], [0.95, 0.95]])
    level = torch.tensor([0, 0, 1, 1])
    own = torch.tensor([0.0, 0.0, 4.0, 4.0])
    # Three overlap by 0.75 or more; of class 0 the second scores best. The fourth scores higher and lies elsewhere.
    assert nearest_candidate(own, 0, boxes, scores, level) == Candidate(1, 0, pytest.approx(0.4), pytest.approx(0.75))
    assert nearest_candidate(own, 1, boxes, scores, level).index == 0
    far = torch.tensor([3.0, 3.0, 9.0, 9.0])
    found = nearest_candidate(far, 0, boxes, scores, level)
    assert (found.index, found.iou) == (2, pytest.approx(1 / 47))  # the smallest of the three
