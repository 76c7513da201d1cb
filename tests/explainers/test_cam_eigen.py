"""Principal components of a layer: by a whole singular value decomposition, and beside pytorch-grad-cam."""

import numpy as np
import pytest
import torch

from tests.explainers.test_cam import MASK, REGION, as_theirs, coarse, theirs
from tests.explainers.toy_segmenters import bright_square, small_unet
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.cam_eigen import first_component
from xaiseg.explainers.targets import Region


def slow(features):
    """Centre the columns, decompose, project on the first right vector, largest magnitude positive."""
    rows = features.reshape(len(features), -1).T.astype(np.float64)
    rows = rows - rows.mean(axis=0)
    _, values, right = np.linalg.svd(rows, full_matrices=False)
    found = rows @ right[0]
    found = -found if abs(found.min()) > abs(found.max()) else found
    return found.reshape(features.shape[1:]), values[0] ** 2 / (values**2).sum()


@pytest.mark.parametrize("shape", [(5, 6, 7), (40, 3, 4), (12, 3, 4), (1, 5, 5), (6, 1, 5)])
def test_the_component_is_that_of_a_full_decomposition_on_either_side(shape):
    features = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found, share = first_component(torch.from_numpy(features))
    expected, expected_share = slow(features)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5 * np.abs(expected).max())
    assert share == pytest.approx(expected_share, rel=1e-6)


def test_constant_features_have_no_component():
    found, share = first_component(torch.ones(3, 4, 4))
    assert not found.any()
    assert share == 0.0


@pytest.mark.parametrize(
    ("method", "name"),
    [("eigencam", "EigenCAM"), ("eigengradcam", "EigenGradCAM"), ("seg-eigencam", "SegEigenCAM")],
)
@pytest.mark.parametrize("layer", ["down.2", "bottom.2"])
def test_parity_with_pytorch_grad_cam_up_to_the_sign(method, name, layer):
    subject, image = small_unet(2), bright_square()
    ours = coarse(method, subject, image, [REGION], layer)[0]
    expected = theirs(name, subject, image, REGION, layer)
    both = [as_theirs(sign * ours, MASK.shape) for sign in (1, -1)]
    if method == "seg-eigencam":  # here it fixes the sign by the rule that we use
        both = both[:1]
    assert min(np.abs(each - expected).max() for each in both) < 1e-5


def test_eigencam_is_the_same_for_all_targets_says_so_and_runs_no_backward():
    session = Session(small_unet(), bright_square())
    found = explain(session, "eigencam", [REGION, Region(1, ~MASK)])
    np.testing.assert_array_equal(found.values[0], found.values[1])
    assert "class-agnostic" in found.notes[1]
    assert "of the variance" in found.notes[2]
    assert (session.forwards, session.backwards) == (1, 0)


def test_eigencam_takes_the_tap_that_other_methods_have_opened():
    session = Session(small_unet(), bright_square())
    explain(session, "hirescam", [REGION])
    alone = explain(Session(small_unet(), bright_square()), "eigencam", [REGION])
    np.testing.assert_array_equal(explain(session, "eigencam", [REGION]).values, alone.values)
    assert (session.forwards, session.backwards) == (1, 1)


def test_seg_eigencam_differs_by_target():
    session = Session(small_unet(), bright_square())
    found = explain(session, "seg-eigencam", [REGION, Region(1, ~MASK)])
    assert not np.allclose(found.values[0], found.values[1])
    assert sum("of the variance" in note for note in found.notes) == 2
