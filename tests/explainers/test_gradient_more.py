"""Sampled gradients by their definitions, and captum's rules where they hold and where they cannot."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.explainers.toy_segmenters import BoxFilter, Linear, ToySegmenter, bright_square, small_unet
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Budget, Session, explain
from xaiseg.explainers.gradient import IntegratedGradientsParams
from xaiseg.explainers.gradient_more import DeepLiftParams, GradientShapParams, SmoothGradParams
from xaiseg.explainers.targets import Margin, Region
from xaiseg.seeds import generator

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION = Region(1, MASK)
OTHER = Region(1, ~MASK)


class Rectified(nn.Module):
    """Convolutions and ReLU modules, each executed once; nothing else bends."""

    def __init__(self, inplace=False):
        super().__init__()
        self.one = nn.Conv2d(1, 4, 3, padding=1)
        self.relu1 = nn.ReLU(inplace=inplace)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.relu2 = nn.ReLU(inplace=inplace)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        return self.head(self.relu2(self.two(self.relu1(self.one(x)))))


def rectified(seed=0, **options):
    torch.manual_seed(seed)
    return ToySegmenter(Rectified(**options).eval())


def slopes(subject, images, region=REGION):
    """Gradients of S by each image (N, C, H, W), one after another."""
    found = []
    for image in images:
        leaf = image[None].clone().requires_grad_(True)
        found.append(torch.autograd.grad(region.score(subject.forward(leaf)).sum(), leaf)[0][0])
    return torch.stack(found).double().numpy()


def test_smoothgrad_is_the_mean_gradient_over_noisy_copies_with_its_standard_error():
    subject, image = small_unet(3, channels=3), bright_square(channels=3)
    params = SmoothGradParams(samples=5, noise=0.2)
    found = explain(Session(subject, image, seed=4), "smoothgrad", [REGION], params=params)
    random, sd = generator(4, "smoothgrad"), 0.2 * (image.max() - image.min()).item()
    copies = [image + sd * torch.from_numpy(random.standard_normal(image.shape, dtype=np.float32)) for _ in range(5)]
    maps = slopes(subject, copies).sum(axis=1)
    np.testing.assert_allclose(found.values[0], maps.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.stderr[0], maps.std(axis=0, ddof=1) / np.sqrt(5), atol=1e-6)
    assert "5 copies with noise of 20%" in found.notes[0]
    assert (found.cost.forwards, found.cost.backwards) == (5, 5)


def test_without_noise_smoothgrad_is_saliency_and_has_no_spread():
    session = Session(small_unet(3), bright_square())
    found = explain(session, "smoothgrad", [REGION], params=SmoothGradParams(samples=3, noise=0.0))
    np.testing.assert_allclose(found.values, explain(session, "saliency", [REGION]).values, atol=1e-6)
    assert found.stderr.max() < 1e-6


@pytest.mark.parametrize("method", ["smoothgrad", "gradientshap"])
def test_samples_depend_on_the_seed_alone_and_serve_all_targets(method):
    subject, image = small_unet(3), bright_square()

    def run(seed, size, targets):
        session = Session(subject, image, seed=seed, budget=Budget(size))
        return explain(session, method, targets), session

    both, session = run(1, 3, [REGION, OTHER])
    for index, region in enumerate((REGION, OTHER)):
        alone, _ = run(1, 64, [region])
        np.testing.assert_allclose(both.values[index], alone.values[0], atol=1e-6)
        np.testing.assert_allclose(both.stderr[index], alone.stderr[0], atol=1e-6)
    other, _ = run(2, 3, [REGION])
    assert not np.allclose(other.values[0], both.values[0])
    assert session.backwards == 2 * {"smoothgrad": 25, "gradientshap": 32}[method]


def test_gradientshap_is_the_mean_over_random_points_of_the_path():
    subject, image = small_unet(3), bright_square()
    params = GradientShapParams(samples=6, noise=0.1)
    found = explain(Session(subject, image, seed=2), "gradientshap", [REGION], params=params)
    random, sd = generator(2, "gradientshap"), 0.1 * (image.max() - image.min()).item()
    start, maps = torch.full_like(image, image.mean().item()), []
    for _ in range(6):
        step = image + sd * torch.from_numpy(random.standard_normal(image.shape, dtype=np.float32)) - start
        point = start + float(random.uniform()) * step
        maps.append((slopes(subject, [point])[0] * step.numpy()).sum(axis=0))
    np.testing.assert_allclose(found.values[0], np.mean(maps, axis=0), atol=1e-6)
    np.testing.assert_allclose(found.stderr[0], np.std(maps, axis=0, ddof=1) / np.sqrt(6), atol=1e-6)


def test_gradientshap_is_exact_for_a_linear_model_as_captums_is():
    from captum.attr import GradientShap

    weights = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(0)) / 100
    subject, image = ToySegmenter(Linear(weights)), bright_square()
    found = explain(Session(subject, image), "gradientshap", [REGION])
    start = torch.full_like(image, image.mean().item())
    reference = GradientShap(lambda batch: REGION.score(subject.forward(batch))).attribute(image[None], start[None])
    np.testing.assert_allclose(found.values[0], reference[0, 0].detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(found.values[0], (weights * (image - start))[0].numpy(), atol=1e-6)
    assert found.completeness[0] < 1e-4
    assert found.stderr.max() < 1e-6


def test_gradientshap_comes_within_its_error_of_integrated_gradients():
    subject, image = small_unet(3), bright_square()
    exact = explain(
        Session(subject, image), "integrated-gradients", [REGION], params=IntegratedGradientsParams(64, 64)
    ).values
    found = explain(Session(subject, image), "gradientshap", [REGION], params=GradientShapParams(samples=128))
    away = np.abs(found.values - exact) / np.maximum(found.stderr, 1e-9)
    assert np.mean(away[np.abs(exact) > 1e-6] < 3) > 0.95


@pytest.mark.parametrize("inplace", [False, True])
def test_deeplift_is_captums_and_sums_to_the_change_of_the_score(inplace):
    from captum.attr import DeepLift

    subject, image = rectified(1, inplace=inplace), bright_square()
    found = explain(Session(subject, image), "deeplift", [REGION])
    start = torch.full_like(image, image.mean().item())

    class Scored(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = subject.network

        def forward(self, x):
            return REGION.score(subject.forward(x))

    leaf = image[None].clone().requires_grad_(True)
    with pytest.warns(UserWarning, match="hooks"):
        reference = DeepLift(Scored()).attribute(leaf, baselines=start[None])
    np.testing.assert_allclose(found.values[0], reference[0, 0].detach().numpy(), atol=1e-6)
    assert found.completeness[0] < 1e-3
    assert not np.allclose(found.values, explain(Session(subject, image), "integrated-gradients", [REGION]).values,
                           atol=1e-4 * np.abs(found.values).max())  # fmt: skip


def test_deeplift_of_one_rectifier_is_that_of_the_rescale_rule():
    """S = mean of relu(w x + b): each pixel carries delta out / delta in times its own delta in."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()).eval()
    network[0].weight.data.fill_(2.0)
    network[0].bias.data.fill_(-1.0)
    image = bright_square()
    whole = Region(1, np.ones((24, 32), dtype=bool))
    found = explain(Session(ToySegmenter(network), image), "deeplift", [whole], params=DeepLiftParams("blur"))
    start = Session(ToySegmenter(network), image).baseline("blur")
    before, after = torch.relu(2 * start - 1), torch.relu(2 * image - 1)
    np.testing.assert_allclose(found.values[0], ((after - before) / whole.mask.size)[0].numpy(), atol=1e-7)
    assert "blurred" in found.notes[0]


def test_guided_backprop_drops_negative_gradients_at_every_rectifier():
    subject, image = rectified(2), bright_square()
    net = subject.network
    found = explain(Session(subject, image), "guided-backprop", [REGION])
    with torch.no_grad():
        first = net.one(image[None])
        second = net.two(torch.relu(first))
    slope = torch.from_numpy(MASK / MASK.sum()).float()[None, None]
    for part, values in ((net.head, second), (net.two, first)):
        slope = F.conv_transpose2d(slope, part.weight, padding=part.padding)
        slope = torch.where((slope > 0) & (values > 0), slope, 0.0)
    slope = F.conv_transpose2d(slope, net.one.weight, padding=1)
    np.testing.assert_allclose(found.values[0], slope[0, 0].detach().numpy(), atol=1e-6)
    assert "fails the model randomisation sanity check" in found.notes[0]


@pytest.mark.parametrize("method", ["deeplift", "guided-backprop"])
def test_functional_rectifiers_are_one_clear_error(method):
    with pytest.raises(SubjectError, match=rf"{method} cannot see operations.*Relu \(1 times\).*integrated-gradients"):
        explain(Session(small_unet(), bright_square()), method, [REGION])


@pytest.mark.parametrize("seed", [0])
def test_reused_rectifiers_are_one_clear_error_of_deeplift_and_nothing_is_left_behind(seed):
    class Reused(Rectified):
        def forward(self, x):
            return self.head(self.relu1(self.two(self.relu1(self.one(x)))))

    torch.manual_seed(seed)
    network = Reused().train()
    with pytest.raises(SubjectError, match=r"deeplift: captum cannot pass through.*used more than once|executed more"):
        explain(Session(ToySegmenter(network), bright_square()), "deeplift", [REGION])
    for part in network.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
        assert not {"input", "output"} & set(part.__dict__)
        assert part.training
    assert explain(Session(ToySegmenter(network), bright_square()), "guided-backprop", [REGION]).values.any()


def test_deeplift_refuses_targets_that_bend():
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 1)).eval()
    session = Session(ToySegmenter(network, classes=("a", "b", "c")), bright_square())
    with pytest.raises(SubjectError, match=r"Softmax \(1 times\).*a target of logits"):
        explain(session, "deeplift", [REGION.as_probability()])
    with pytest.raises(SubjectError, match=r"Amax \(1 times\)"):
        explain(session, "deeplift", [Margin(1, MASK)])
    assert explain(session, "deeplift", [Margin(1, MASK, foil=0)]).completeness[0] < 1e-3


def test_activations_that_captum_does_not_know_are_named():
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.GELU(), nn.Conv2d(3, 1, 1)).eval()
    with pytest.raises(SubjectError, match=r"Gelu \(1 times\)"):
        explain(Session(ToySegmenter(network), bright_square()), "deeplift", [REGION])
    with pytest.raises(SubjectError, match="no ReLU module"):
        explain(Session(ToySegmenter(network), bright_square()), "guided-backprop", [REGION])


@pytest.mark.parametrize("method", ["smoothgrad", "gradientshap", "deeplift"])
def test_evidence_outside_the_receptive_field_is_exactly_zero(method):
    found = explain(Session(ToySegmenter(BoxFilter(2)), bright_square()), method, [REGION]).values[0]
    reach = np.zeros_like(MASK)
    reach[6:18, 8:20] = True
    assert (found[~reach] == 0).all()
    assert (found[reach] != 0).all()


def test_samples_and_noise_are_checked():
    for kind in (SmoothGradParams, GradientShapParams):
        with pytest.raises(UsageError, match="two samples"):
            kind(samples=1)
        with pytest.raises(UsageError, match="not negative"):
            kind(noise=-0.1)
