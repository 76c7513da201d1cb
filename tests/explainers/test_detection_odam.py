import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.explainers.test_detection_level import grey, target_at
from tests.explainers.toy_pyramid import Pyramid, subject
from tests.explainers.toy_segmenters import bright_square, small_unet
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.detection_odam import CUT, OdamParams, gaussian
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.targets import predicted_region


def slow_gaussian(values, width):
    """Each cell is the weighted sum of all cells within reach, cell by cell."""
    rows, columns = values.shape
    reach = math.ceil(CUT * width)
    line = {d: math.exp(-(d**2) / (2 * width**2)) for d in range(-reach, reach + 1)}
    total = sum(line.values())
    found = np.zeros_like(values)
    for y in range(rows):
        for x in range(columns):
            for v in range(rows):
                for u in range(columns):
                    if abs(v - y) <= reach and abs(u - x) <= reach:
                        found[y, x] += values[v, u] * line[v - y] * line[u - x] / total**2
    return found


@pytest.mark.parametrize("width", [0.4, 1.0, 2.3])
def test_the_smoothing_is_its_definition(width):
    values = np.random.default_rng(0).normal(size=(2, 5, 7))
    found = gaussian(torch.from_numpy(values), width).numpy()
    for channel in range(2):
        np.testing.assert_allclose(found[channel], slow_gaussian(values[channel], width), atol=1e-12)


def test_odam_is_its_definition_on_the_level_that_fired():
    session = DetectionSession(subject(Pyramid()), grey())
    target = target_at(session, 27)  # a cell of 8 x 8 px: its side is one cell of the level
    found = explain(session, "odam", [target], params=OdamParams(smoothing=0.5))
    network = session.detector.module
    fine = network.fine(session.image[None]).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(network.heads[0](fine)[0, 0, 27 // 8, 27 % 8], fine)
    expected = np.zeros((8, 8))
    for k in range(6):
        expected += slow_gaussian(slope[0, k].double().numpy(), 0.5) * fine[0, k].detach().double().numpy()
    expected = torch.from_numpy(np.maximum(expected, 0))[None, None]
    expected = F.interpolate(expected, (64, 64), mode="bilinear")[0, 0].numpy()
    np.testing.assert_allclose(found.values[0], expected, atol=1e-5)
    assert found.values.max() > 0
    assert any("smoothed over 0.5 cells" in note for note in found.notes)
    assert found.notes[0] == "layer fine.1 (8 x 8): it feeds level 0, the one that fired"


def test_without_smoothing_and_with_signs_it_is_hirescam():
    session = DetectionSession(subject(Pyramid()), grey())
    target = target_at(session, 27)
    plain = explain(session, "odam", [target], params=OdamParams(smoothing=0, signed=True)).values
    np.testing.assert_allclose(plain, explain(session, "hirescam", [target]).values, atol=1e-7)
    assert plain.min() < 0
    cut = explain(session, "odam", [target], params=OdamParams(smoothing=0)).values
    assert cut.min() == 0.0


def test_a_map_belongs_to_its_object_where_grad_cam_lights_up_its_twin():
    image = torch.zeros(1, 64, 64)
    image[0, 16:24, 16:24] = image[0, 48:56, 40:48] = 1.0
    session = DetectionSession(subject(Pyramid()), image)
    target = target_at(session, 2 * 8 + 2)
    odam, grad = (np.abs(explain(session, name, [target]).values[0]) for name in ("odam", "gradcam"))
    twin = (slice(48, 56), slice(40, 48))
    assert odam[twin].max() == 0.0
    assert grad[twin].max() > 0.1 * grad.max()


def test_regions_of_segmenters_have_odam_too_and_shares_are_not_negative():
    segmenter = small_unet()
    segmenter.network.head.bias.data += 5
    session = Session(segmenter, bright_square())
    region = predicted_region(session.prediction, segmenter.info.classes)
    assert explain(session, "odam", [region]).values.shape == (1, 24, 32)
    with pytest.raises(UsageError, match=r"odam\.smoothing"):
        OdamParams(smoothing=-1)
