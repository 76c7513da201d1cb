import numpy as np
import pytest
import torch

from tests.toys import BrightBlobs
from xaiseg.errors import SubjectError
from xaiseg.explainers.base import Budget, explain
from xaiseg.explainers.box_targets import box_target
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.masks import Design
from xaiseg.explainers.occlusion import OcclusionParams
from xaiseg.explainers.rise import RidgeParams
from xaiseg.explainers.shapley import KernelShapParams

ZERO = "dataset-mean"


def two_objects(seed=0, batch=8):
    """Two bright squares, each inside one cell of a 4 x 4 grid; black around them and behind masks."""
    image = torch.zeros(1, 32, 32)
    image[0, 2:6, 2:6] = 0.8
    image[0, 17:23, 9:15] = 0.6
    session = DetectionSession(BrightBlobs(), image, seed=seed, budget=Budget(batch), dataset_mean=torch.zeros(1, 1, 1))
    order = session.detections.scores.argsort(descending=True).tolist()
    return session, [box_target(session.detections, index, classes=1) for index in order]


CELLS = (np.arange(32) // 8)[:, None] * 4 + np.arange(32) // 8


def test_each_object_owns_its_score_and_nothing_else():
    session, targets = two_objects()
    params = KernelShapParams(256, "given", Segments.of(CELLS), baseline=ZERO)
    found = explain(session, "kernelshap", targets, params=params)
    expected = np.zeros((2, 32, 32))
    expected[0, :8, :8] = 0.8
    expected[1, 16:24, 8:16] = 0.6
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert found.cost.forwards <= 256 + 2 + 1  # both objects share the masks


def test_occlusion_of_a_box_is_its_closed_form():
    session, targets = two_objects()
    found = explain(session, "occlusion", targets, params=OcclusionParams(4, ZERO))
    np.testing.assert_allclose(found.values[0], np.where(CELLS == 0, 0.8, 0.0), atol=1e-6)
    np.testing.assert_allclose(found.values[1], np.where(CELLS == 9, 0.6, 0.0), atol=1e-6)


def test_masks_without_any_detection_are_kept_even_the_first():
    session, targets = two_objects()
    design = Design("subsets", segments=Segments.of(CELLS // 4))  # four rows
    found = session.bank(design, ZERO).responses(targets, 14)
    # Rows 0 and 2 hold the objects; the second mask shows row 1 alone and has no detection.
    np.testing.assert_allclose(found.scores[:, 0], 0.8 * found.rows[:, 0], atol=1e-6)
    np.testing.assert_allclose(found.scores[:, 1], 0.6 * found.rows[:, 2], atol=1e-6)
    black = DetectionSession(BrightBlobs(), torch.zeros(1, 32, 32))
    assert black.scores([black.image], targets).tolist() == [[0.0, 0.0]]


def test_ridge_finds_both_objects_from_shared_masks():
    session, targets = two_objects(batch=64)
    found = explain(session, "ridge", targets, params=RidgeParams(512, baseline=ZERO, agreement=2))
    assert np.isfinite(found.values).all()
    for values, inside in zip(found.values, (CELLS == 0, CELLS == 9), strict=True):
        assert inside.ravel()[values.argmax()]
    assert found.cost.forwards == 512


def test_methods_that_need_more_are_refused():
    session, targets = two_objects()
    with pytest.raises(SubjectError, match="hirescam needs"):
        explain(session, "hirescam", targets)
    with pytest.raises(SubjectError, match="no logits"):
        _ = session.logits
    with pytest.raises(SubjectError, match="no labels"):
        _ = session.prediction
