from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.toys import BrightBlobs
from xaiseg.context import CaseContext, Counter, Predictor
from xaiseg.data.case import Case, CaseRef, Dataset
from xaiseg.errors import CheckError, SubjectError
from xaiseg.evidence import WINDOW_SIDE, gallery_arrays, window_arrays
from xaiseg.subject import Boxes

PLAN = {"seed": 0, "facts": {}}


def tile(name, bright=1, shape=(40, 60)):
    image = np.full((1, *shape), 0.1, np.float32)
    for index in range(bright):
        image[0, 5:15, 5 + 15 * index : 15 + 15 * index] = 0.9
    boxes = np.array([[5 + 15 * i, 5, 15 + 15 * i, 15, 0] for i in range(bright)], np.float32).reshape(-1, 5)
    return Case(CaseRef(name, name), image, boxes=boxes)


def context_of(predictor, subject, case):
    return CaseContext("c", None, PLAN, subject, case, predictor, {}, lambda ref, entry: case)


def test_detections_are_held_and_counted():
    subject, counter = BrightBlobs(), Counter()
    predictor = Predictor(subject, 2)
    cases = {name: tile(name, bright) for name, bright in (("a", 2), ("b", 0), ("c", 1))}
    assert predictor.fill(cases, counter) == {}
    assert counter.forwards == 3
    context = context_of(predictor, subject, cases["a"])
    assert len(context.detections().scores) == 2
    assert len(predictor.held("b").scores) == 0
    (again,) = context.detect([cases["c"].image])
    assert again.xyxy.tolist() == [[5, 5, 15, 15]]
    assert context.counter.forwards == 1
    assert context.detector is subject
    with pytest.raises(CheckError, match="no prediction is held"):
        context.prediction()
    with pytest.raises(CheckError, match="needs a segmentation model"):
        context.predict([cases["a"].image])


class Fragile(BrightBlobs):
    """Fails on bright images, answers NaN where one corner is set, and a foreign class where another is."""

    def _detect(self, image: np.ndarray) -> Boxes:
        if image[-1, -1] == 0.75:
            raise RuntimeError("too bright")
        found = super()._detect(image)
        if image[-1, -1] == 0.25:
            return Boxes(torch.full_like(found.xyxy, float("nan")), found.scores, found.labels)
        return Boxes(found.xyxy, found.scores, found.labels + 7) if image[-1, -1] == 0.3 else found


def test_an_image_that_fails_alone_fails_alone():
    cases = {name: tile(name) for name in "abcde"}
    for name, mark in (("b", 0.75), ("c", 0.25), ("d", 0.3)):
        cases[name].image[0, -1, -1] = mark
    predictor = Predictor(Fragile(), 8)
    failed = predictor.fill(cases, Counter())
    assert {name: str(error).split(".")[0] for name, error in failed.items()} == {
        "b": "RuntimeError: too bright",
        "c": "c: a detection holds NaN or infinity",
        "d": "d: a detection has a class that model",
    }
    assert all(isinstance(error, SubjectError) for error in failed.values())
    assert predictor.held("b") is None
    assert len(predictor.held("a").scores) == len(predictor.held("e").scores) == 1


@pytest.mark.parametrize(
    "masks",
    [torch.zeros(1, 40, 60, dtype=torch.bool), torch.zeros(2, 20, 30, dtype=torch.bool), torch.zeros(2, 40, 60)],
)
def test_masks_that_do_not_fit_the_image_fail_it(masks):
    class Other(BrightBlobs):
        def _detect(self, image: np.ndarray) -> Boxes:
            return replace(super()._detect(image), masks=masks)

    subject = Other()
    failed = Predictor(subject, 2).fill({"a": tile("a", 2)}, Counter())
    assert str(failed["a"]).startswith("a: the masks do not fit")
    assert str(failed["a"]).endswith("Allowed: torch.bool (2, 40, 60).")


def test_masks_reach_a_check_as_they_are():
    subject, case = BrightBlobs(), tile("a", 2)
    predictor = Predictor(subject, 2)
    assert predictor.fill({"a": case}, Counter()) == {}
    masks = context_of(predictor, subject, case).detections().masks
    assert masks.dtype is torch.bool
    assert masks.sum(dim=(1, 2)).tolist() == [100, 100]


def test_a_segmenter_is_no_detector():
    class Mute:
        info = None

    with pytest.raises(CheckError, match="needs a detector"):
        Predictor(Mute(), 1).detect([np.zeros((1, 4, 4), np.float32)], Counter())


def test_the_lowest_rank_of_a_window_stays():
    context = context_of(Predictor(None, 1), None, tile("a"))
    context.window("missed", 2.0, (0, 0, 4, 4))
    context.window("missed", 1.0, (5, 5, 9, 9))
    context.window("missed", 3.0, (1, 1, 2, 2))
    assert context.windows["missed"].xyxy == (5, 5, 9, 9)


def test_a_window_shows_native_pixels_and_moves_with_its_boxes():
    rng = np.random.default_rng(0)
    case = Case(
        CaseRef("a", "a"), rng.random((3, 300, 400), np.float32),
        boxes=np.array([[190, 140, 210, 156, 0], [5, 5, 9, 9, 0]], np.float32),
    )  # fmt: skip
    found = Boxes(torch.tensor([[192.0, 141, 212, 157]]), torch.tensor([0.6]), torch.tensor([0]))
    arrays = window_arrays("missed", (190, 140, 210, 156), case, found, (0.0, 1.0))
    picture = arrays["window:missed"]
    assert picture.shape == (WINDOW_SIDE, WINDOW_SIDE, 3)
    left, top = 200 - WINDOW_SIDE // 2, 148 - WINDOW_SIDE // 2
    native = (case.image[:, top : top + WINDOW_SIDE, left : left + WINDOW_SIDE] * 255).round().astype(np.uint8)
    assert (picture == np.moveaxis(native, 0, -1)).all()
    assert arrays["object:missed"].tolist() == [190 - left, 140 - top, 210 - left, 156 - top]
    assert arrays["near-reference:missed"][:, :4].tolist() == [[190 - left, 140 - top, 210 - left, 156 - top]]
    assert np.allclose(arrays["near-prediction:missed"], [[192 - left, 141 - top, 212 - left, 157 - top, 0, 0.6]])
    large = window_arrays("found", (0, 0, 400, 300), case, found, (0.0, 1.0))
    assert large["window:found"].shape == (216, 288, 3)
    assert large["scale:found"].tolist() == pytest.approx([0.72])


def test_the_picture_of_a_detectors_case_has_boxes_on_its_own_grid():
    case = tile("a", 2, shape=(600, 1024))
    found = BrightBlobs().predict([torch.from_numpy(case.image)])[0]
    arrays = gallery_arrays(case, found, {}, (0.0, 1.0))
    assert arrays["image"].shape == (300, 512)
    assert arrays["boxes:reference"][0].tolist() == [2.5, 2.5, 7.5, 7.5, 0]
    assert arrays["boxes:prediction"].shape == (2, 6)
    assert "prediction" not in arrays


def test_answers_leave_the_graph():
    class Live(BrightBlobs):
        def predict(self, images, *, batch_size=8):
            scale: Tensor = torch.ones(1, requires_grad=True)
            return [Boxes(b.xyxy * scale, b.scores, b.labels) for b in super().predict(images)]

    (found,) = Predictor(Live(), 1).detect([tile("a").image], Counter())
    assert not found.xyxy.requires_grad


def test_a_check_may_list_the_cases_of_any_entry():
    case = tile("a")
    empty = Dataset("backgrounds", "folder", (case.ref,), None, (), "", "here")
    predictor = Predictor(BrightBlobs(), 1)
    context = CaseContext("c", None, PLAN, None, case, predictor, {}, lambda ref, entry: case, {"backgrounds": empty})
    assert context.listed("backgrounds") == (case.ref,)
    assert context.listed() == ()
