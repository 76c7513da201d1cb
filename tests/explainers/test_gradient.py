import numpy as np
import pytest
import torch

from tests.explainers.toy_segmenters import BoxFilter, Linear, ToySegmenter, bright_square, small_unet
from xaiseg.explainers.base import Budget, Session, explain
from xaiseg.explainers.gradient import IntegratedGradientsParams
from xaiseg.explainers.targets import Region

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION = Region(1, MASK)
METHOD = "integrated-gradients"


def test_a_linear_model_gives_weight_times_difference_from_the_baseline():
    weights = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(0)) / 100
    image = bright_square()
    found = explain(Session(ToySegmenter(Linear(weights)), image), METHOD, [REGION])
    np.testing.assert_allclose(found.values[0], (weights * (image - image.mean()))[0].numpy(), atol=1e-6)
    assert found.completeness[0] < 1e-4
    assert found.cost.backwards == 16


def test_evidence_outside_the_receptive_field_is_exactly_zero():
    radius = 2
    found = explain(Session(ToySegmenter(BoxFilter(radius)), bright_square()), METHOD, [REGION]).values[0]
    reach = np.zeros_like(MASK)
    reach[8 - radius : 16 + radius, 10 - radius : 18 + radius] = True
    assert (found[~reach] == 0).all()
    assert (found[reach] != 0).all()


def test_the_sum_is_the_change_of_score_and_steps_double_until_it_is():
    session = Session(small_unet(3), bright_square())
    strict = explain(session, METHOD, [REGION], params=IntegratedGradientsParams(steps=2, tolerance=0.0, max_steps=64))
    assert "64 steps" in strict.notes[1]
    assert strict.cost.backwards == 2 + 4 + 8 + 16 + 32 + 64
    start = torch.full_like(session.image, session.image.mean().item())
    change = session.score(REGION) - session.scores([start], [REGION])[0, 0]
    assert abs(strict.values.sum() - change) / abs(change) == pytest.approx(strict.completeness[0], abs=1e-4)
    assert strict.completeness[0] < 0.05


def test_parity_with_captum_and_independence_of_the_batch_size():
    from captum.attr import IntegratedGradients

    subject, image = small_unet(), bright_square()
    params = IntegratedGradientsParams(steps=16, max_steps=16)
    ours = explain(Session(subject, image, budget=Budget(3)), METHOD, [REGION], params=params).values[0]
    reference = IntegratedGradients(lambda batch: REGION.score(subject.forward(batch))).attribute(
        image[None], baselines=torch.full_like(image, image.mean().item())[None], n_steps=16, method="gausslegendre"
    )
    np.testing.assert_allclose(ours, reference[0].sum(0).detach().numpy(), atol=1e-5)
    large = explain(Session(subject, image, budget=Budget(64)), METHOD, [REGION], params=params).values[0]
    np.testing.assert_allclose(ours, large, atol=1e-6)


def test_channels_are_summed_and_the_baseline_is_the_mean_of_each():
    subject, image = small_unet(channels=3), bright_square(channels=3)
    found = explain(Session(subject, image), METHOD, [REGION])
    assert found.values.shape == (1, 24, 32)
    assert "mean of the image, channel by channel" in found.notes[0]
    blurred = explain(Session(subject, image), METHOD, [REGION], params=IntegratedGradientsParams(baseline="blur"))
    assert "blurred" in blurred.notes[0]
    assert not np.allclose(blurred.values, found.values)
