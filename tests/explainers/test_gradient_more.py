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
    with pytest.raises(
        SubjectError, match=r"deeplift cannot pass .* more than once\. Got: relu1 \(2 times\)\. Allowed"
    ):
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
    for method in ("deeplift", "guided-backprop"):
        with pytest.raises(SubjectError, match=rf"{method} cannot see .*Gelu \(1 times\) in 1\."):
            explain(Session(ToySegmenter(network), bright_square()), method, [REGION])


class Gated(nn.Module):
    """Two branches of the image that meet in ``how``."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.one, self.two = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(1, 3, 3, padding=1)
        self.relu, self.gate = nn.ReLU(), nn.Sigmoid()
        self.head = nn.Conv2d(3, 1, 1)

    def forward(self, x):
        return self.head(self.how(self.relu(self.one(x)), self.gate(self.two(x))))


def gated(how):
    torch.manual_seed(0)
    return ToySegmenter(Gated(how).eval())


def attention(a, b):
    weights = a.flatten(2).transpose(1, 2) @ b.flatten(2)
    return (b.flatten(2) @ weights).reshape(a.shape)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        (lambda a, b: a * b, r"product of two activations \(1 times\) in a function call"),
        (lambda a, b: a * a + b, r"product of two activations \(1 times\)"),
        (lambda a, b: a / (1 + b), r"division by an activation"),
        (lambda a, b: a + 1 / (1 + b), r"Reciprocal"),
        (lambda a, b: a + b**2, r"Pow"),
        (attention, r"product of two activations \(2 times\)"),
        (lambda a, b: F.instance_norm(a) + b, r"normalisation by the image's own statistics"),
        (lambda a, b: F.group_norm(a, 1) + b, r"NativeGroupNorm"),
        (lambda a, b: torch.where(a > 0.1, a, b), r"Where"),
        (lambda a, b: F.conv2d(a, b[:, :, :3, :3].mean(dim=0, keepdim=True).expand(3, 3, 3, 3), padding=1), r"product"),
    ],
)
def test_deeplift_refuses_whatever_is_not_linear_between_its_modules(how, what):
    with pytest.raises(SubjectError, match=rf"deeplift cannot see operations.*{what}.*integrated-gradients"):
        explain(Session(gated(how), bright_square()), "deeplift", [REGION])


@pytest.mark.parametrize(
    "how",
    [
        lambda a, b: a + b,
        lambda a, b: torch.cat((a, b), dim=1)[:, ::2] * torch.tensor(0.5) / 3,
        lambda a, b: F.interpolate(F.avg_pool2d(a, 2), scale_factor=2, mode="bilinear") - b,
        lambda a, b: (
            (torch.randn(3, 3, generator=torch.Generator().manual_seed(0)) @ a.flatten(2)).reshape(a.shape) + b
        ),
        lambda a, b: F.pad(a, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1] + b.permute(0, 1, 3, 2).transpose(2, 3),
        lambda a, b: F.batch_norm(a, torch.ones(3), torch.full((3,), 2.0)) + F.dropout(b, 0.5, training=False),
    ],
)
def test_deeplift_passes_what_is_linear_and_adds_up(how):
    found = explain(Session(gated(how), bright_square()), "deeplift", [REGION])
    assert found.completeness[0] < 1e-3
    assert "use integrated-gradients" not in " ".join(found.notes)


def test_dropout_and_identity_behind_an_activation_do_not_hide_it():
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Dropout(), nn.Identity(), nn.Conv2d(3, 1, 1)
    ).eval()
    session = Session(ToySegmenter(network), bright_square())
    assert explain(session, "deeplift", [REGION]).completeness[0] < 1e-3
    assert explain(session, "guided-backprop", [REGION]).notes[1] == "guided at 1 module: 1"


def test_a_subclass_that_captum_does_not_hook_is_refused():
    class Own(nn.ReLU):
        pass

    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), Own(), nn.Conv2d(3, 1, 1)).eval()
    with pytest.raises(SubjectError, match=r"deeplift cannot see.*Relu \(1 times\) in 1\."):
        explain(Session(ToySegmenter(network), bright_square()), "deeplift", [REGION])


def test_a_large_completeness_error_is_said_loudly(monkeypatch):
    from xaiseg.explainers import gradient_more

    monkeypatch.setattr(gradient_more, "_check_deeplift", lambda session, target: None)
    subject = gated(lambda a, b: a * a * b * 40)
    found = explain(Session(subject, bright_square()), "deeplift", [REGION])
    assert found.completeness[0] > 0.05
    assert "its sizes mean little; use integrated-gradients" in found.notes[1]


def test_what_captum_says_of_a_network_is_put_into_our_words():
    class OneAtATime(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.relu = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()

        def forward(self, x):
            return self.relu(self.one(x)).reshape(1, 1, 24, 32)  # captum passes image and baseline as a batch of two

    session = Session(ToySegmenter(OneAtATime().eval()), bright_square())
    with pytest.raises(
        SubjectError, match=r"deeplift: the rules .* Got: toy, RuntimeError of captum.*Allowed:.*Use int"
    ):
        explain(session, "deeplift", [REGION])


@pytest.mark.parametrize("inplace", [False, True])
def test_guided_backprop_is_captums_where_all_rectifiers_are_relu(inplace):
    from captum.attr import GuidedBackprop

    subject, image = rectified(2, inplace=inplace), bright_square()
    found = explain(Session(subject, image), "guided-backprop", [REGION])

    class Scored(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = subject.network

        def forward(self, x):
            return REGION.score(subject.forward(x))

    with pytest.warns(UserWarning, match="hooks"):
        reference = GuidedBackprop(Scored()).attribute(image[None].clone().requires_grad_(True))
    np.testing.assert_allclose(found.values[0], reference[0, 0].detach().numpy(), atol=1e-7)
    assert found.notes[1] == "guided at 2 modules: relu1, relu2"
    assert not any(part._forward_pre_hooks for part in subject.network.modules())


def test_relu6_is_guided_as_relu_is_where_it_stays_below_its_ceiling():
    plain, capped = rectified(2), rectified(2)
    capped.network.relu1, capped.network.relu2 = nn.ReLU6(), nn.ReLU6(inplace=True)
    maps = [explain(Session(each, bright_square()), "guided-backprop", [REGION]).values for each in (plain, capped)]
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-7)
    slope = explain(Session(capped, bright_square()), "saliency", [REGION]).values
    assert not np.allclose(maps[1], slope, atol=1e-3 * np.abs(slope).max())


@pytest.mark.parametrize(
    ("activation", "what"),
    [(nn.Hardswish(), "Hardswish"), (nn.GELU(), "Gelu"), (nn.SiLU(), "Silu"), (nn.LeakyReLU(), "LeakyRelu"),
     (nn.Hardtanh(0.0, 6.0), "Hardtanh"), (nn.ELU(), "Elu")],
)  # fmt: skip
def test_guided_backprop_refuses_other_rectifiers_and_names_their_modules(activation, what):
    subject = rectified(2)
    subject.network.relu1 = activation
    with pytest.raises(SubjectError, match=rf"guided-backprop cannot see.*{what} \(1 times\) in relu1\..*saliency"):
        explain(Session(subject, bright_square()), "guided-backprop", [REGION])


def test_guided_backprop_says_what_it_passes_as_a_plain_gradient():
    found = explain(Session(gated(lambda a, b: a * b), bright_square()), "guided-backprop", [REGION])
    expected = "guided at 1 module: relu; passed as in a plain gradient: Sigmoid, product of two activations"
    assert found.notes[1] == expected
    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Sigmoid()).eval()
    with pytest.raises(SubjectError, match="no ReLU module on the way to the target"):
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
