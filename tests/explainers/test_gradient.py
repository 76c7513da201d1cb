import numpy as np
import pytest
import torch

from tests.explainers.toy_segmenters import BoxFilter, Linear, ToySegmenter, bright_square, small_unet
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Budget, Session, explain
from xaiseg.explainers.gradient import IntegratedGradientsParams, SaliencyParams
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


class Counted(torch.nn.Module):
    """Half of the answer comes from a count of bright pixels, which has no gradient."""

    def forward(self, x):
        bright = (x > 0.5).float().mean(dim=(1, 2, 3), keepdim=True)
        return 4 * (x.mean(dim=(1, 2, 3), keepdim=True) + bright).expand(-1, -1, *x.shape[-2:])


def test_an_answer_without_gradient_is_told_and_too_few_steps_are_not_blamed():
    stuck = explain(Session(ToySegmenter(Counted()), bright_square()), METHOD, [REGION])
    assert stuck.completeness[0] > 0.2
    assert "doubling the steps does not lower it" in stuck.notes[1]
    params = IntegratedGradientsParams(steps=2, tolerance=0.0, max_steps=4)
    few = explain(Session(small_unet(3), bright_square()), METHOD, [REGION], params=params)
    assert "doubling" not in few.notes[1]


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


def test_saliency_is_the_gradient_signed_or_in_magnitudes():
    subject, image = small_unet(2, channels=3), bright_square(channels=3)
    leaf = image[None].clone().requires_grad_(True)
    slope = torch.autograd.grad(REGION.score(subject.forward(leaf)).sum(), leaf)[0][0].numpy()
    signed = explain(Session(subject, image), "saliency", [REGION])
    sizes = explain(Session(subject, image), "saliency", [REGION], params=SaliencyParams(absolute=True))
    np.testing.assert_allclose(signed.values[0], slope.sum(axis=0), atol=1e-7)
    np.testing.assert_allclose(sizes.values[0], np.abs(slope).sum(axis=0), atol=1e-7)
    assert signed.values.min() < 0 <= sizes.values.min()
    assert ("signed" in signed.notes[0], "magnitudes" in sizes.notes[0]) == (True, True)
    assert (signed.cost.forwards, signed.cost.backwards) == (1, 1)


def test_saliency_agrees_with_finite_differences():
    subject, image = small_unet(2), bright_square()
    found = explain(Session(subject, image), "saliency", [REGION]).values[0]
    for i, j in ((9, 12), (7, 10), (15, 17)):
        ends = []
        for step in (1e-2, -1e-2):
            moved = image.clone()
            moved[0, i, j] += step
            ends.append(REGION.score(subject.forward(moved[None])).item())
        assert found[i, j] == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=0.1, abs=1e-5)


def test_input_x_gradient_is_exact_for_a_linear_model():
    weights = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(0)) / 100
    image = bright_square()
    found = explain(Session(ToySegmenter(Linear(weights)), image), "input-x-gradient", [REGION])
    np.testing.assert_allclose(found.values[0], (weights * image)[0].numpy(), atol=1e-6)
    assert "zeros" in found.notes[0]


@pytest.mark.parametrize("method", ["saliency", "input-x-gradient", METHOD, "smoothgrad", "gradientshap"])
def test_a_network_that_hands_on_no_gradient_is_one_clear_error(method):
    class Blind(ToySegmenter):
        def forward(self, batch):
            with torch.no_grad():
                return super().forward(batch)

    with pytest.raises(SubjectError, match=r"the score has no gradient.*such as occlusion"):
        explain(Session(Blind(small_unet().network), bright_square()), method, [REGION])


@pytest.mark.parametrize("method", ["saliency", "input-x-gradient", METHOD, "smoothgrad", "gradientshap"])
def test_gradients_that_are_not_finite_are_an_error(method):
    class Root(ToySegmenter):
        def forward(self, batch):
            return super().forward(batch) + torch.sqrt(batch * 0.0)

    with pytest.raises(SubjectError, match="not finite"):
        explain(Session(Root(small_unet().network), bright_square()), method, [REGION])


@pytest.mark.parametrize("method", ["saliency", "input-x-gradient", METHOD, "smoothgrad", "gradientshap"])
def test_modes_and_gradients_of_the_network_are_as_before_even_after_an_exception(method):
    subject = small_unet()
    subject.network.down[1].train()
    modes = [part.training for part in subject.network.modules()]
    explain(Session(subject, bright_square()), method, [REGION])
    with pytest.raises(UsageError, match="does not fit"):
        explain(Session(subject, bright_square()), method, [Region(1, np.ones((3, 3), dtype=bool))])
    assert [part.training for part in subject.network.modules()] == modes
    assert all(parameter.grad is None for parameter in subject.network.parameters())
