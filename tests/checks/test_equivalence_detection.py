"""Boxes of two builds side by side, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.checks.fake import FakeContext, frame, quantities, tables
from xaiseg.checks.base import get_check
from xaiseg.checks.equivalence_detection import ID, Params
from xaiseg.data.case import Case, CaseRef
from xaiseg.errors import SubjectError, UsageError
from xaiseg.subject import Boxes

A, B, C = (0, 0, 10, 10), (20, 20, 30, 30), (40, 0, 50, 10)


def boxes(*found):
    """(corners, score) or (corners, score, class)."""
    xyxy = torch.tensor([each[0] for each in found], dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor([each[2] if len(each) > 2 else 0 for each in found], dtype=torch.int64)
    return Boxes(xyxy, torch.tensor([each[1] for each in found], dtype=torch.float32), labels)


def case(*objects, name="a"):
    held = np.array([[*each, 0] for each in objects], np.float32).reshape(-1, 5)
    return Case(CaseRef(name, name, cluster=name), np.zeros((1, 64, 64), np.float32), boxes=held)


class Context(FakeContext):
    def detections(self, subject="reference"):
        found = self.boxes if subject == "reference" else self.others[subject]
        if isinstance(found, Exception):
            raise found
        return found


def measure(image, first, second, *, classes=("seal",), params=None):
    context = Context(
        boxes=first, params=params or Params(), case=image.id, variants={"v": SimpleNamespace()}, others={"v": second}
    )
    context.facts = {**context.facts, "threshold": 0.5, "classes": list(classes)}
    return [{"case": image.id, **row} for row in get_check(ID).measure(context, image)]


def held(rows, *cases):
    return {
        key[1:]: quantity for key, quantity in quantities(ID, tables({ID: rows}, cases, variants={"v": {}})).items()
    }


def test_boxes_that_stay_move_vanish_and_appear():
    image = case(A, B)
    moved = (1, 0, 11, 10)  # IoU 90 / 110 with A
    before = boxes((A, 0.9), (B, 0.8), (C, 0.4))
    after = boxes((moved, 0.7), (C, 0.6), (B, 0.3))
    rows = measure(image, before, after)
    frame(ID, rows)
    whole, *objects = rows
    assert {key: whole[key] for key in ("boxes", "boxes_variant", "false_before", "false_after", "boxes_kept")} == {
        "boxes": 2, "boxes_variant": 2, "false_before": 0, "false_after": 1, "boxes_kept": 0.5,
    }  # fmt: skip
    first, second = (row for row in objects if "vanished" in row)
    assert (first["object"], first["vanished"], first["tight"], first["shift_px"]) == ("box-1", False, True, 1.0)
    assert first["score_change"] == pytest.approx(-0.2)
    assert (second["object"], second["vanished"], second["tight"]) == ("box-2", True, False)
    assert [row["appeared"] for row in objects if "appeared" in row] == [False, True]
    assert [(row["found_before"], row["found_after"]) for row in objects if "found_before" in row] == [
        (True, True), (True, False),
    ]  # fmt: skip
    found = held(rows, image)
    assert found["vanished",].values.tolist() == [0.0, 1.0]
    assert found["appeared",].values.tolist() == [0.0, 1.0]
    assert found["loose",].values.tolist() == [0.0, 1.0]
    assert found["recall_change",].values.tolist() == [0.0, -1.0]
    assert found["false_change",].values.tolist() == [1.0]
    assert found["count_change",].values.tolist() == [0.0]
    assert found["shift_px",].values.tolist() == [1.0]
    assert measure(image, before, after, params=Params(tight_iou=0.9))[1]["tight"] is False


def test_a_box_of_another_class_is_no_partner():
    image = case(A)
    rows = measure(image, boxes((A, 0.9)), boxes((A, 0.9, 1)), classes=("seal", "rock"))
    assert [row["vanished"] for row in rows if "vanished" in row] == [True]
    assert [(row["target"], row["appeared"]) for row in rows if "appeared" in row] == [("rock", True)]


def test_nothing_found_by_either_build_is_no_agreement():
    image = case()
    found = held(measure(image, boxes(), boxes()), image)
    assert "neither build finds anything" in found["vanished",].missing
    assert "no reference boxes" in found["recall_change",].missing
    assert found["count_change",].values.tolist() == [0.0]


def test_without_reference_boxes_the_builds_are_compared_with_each_other():
    image = Case(CaseRef("a", "a", cluster="a"), np.zeros((1, 64, 64), np.float32))
    found = held(measure(image, boxes((A, 0.9)), boxes((A, 0.9))), image)
    assert found["vanished",].values.tolist() == [0.0]
    assert "no reference boxes" in found["false_change",].missing


def test_a_build_that_fails_is_a_failed_row_that_counts_as_a_lost_and_a_new_box():
    image = case(A)
    rows = measure(image, boxes((A, 0.9)), SubjectError("NaN"))
    assert [(row["subject"], row["status"]) for row in rows] == [("v", "failed")]
    found = held(rows, image)
    assert found["vanished",].values.tolist() == found["appeared",].values.tolist() == [1.0]
    assert "failed in a build: 1" in found["count_change",].withheld


@pytest.mark.parametrize("name", ["match_iou", "tight_iou", "reference_iou"])
def test_parameters_out_of_range_are_refused(name):
    with pytest.raises(UsageError, match=f"{ID}: {name}: this parameter is out of range"):
        Params(**{name: 0.0})
