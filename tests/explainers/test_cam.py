import numpy as np
import pytest
import torch
from torch import nn

from tests.explainers.toy_segmenters import PixelNetwork, ToySegmenter, bright_square, small_unet
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.cam import HiResCamParams
from xaiseg.explainers.targets import Region

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION = Region(1, MASK)


def test_before_a_1x1_head_the_map_is_weight_times_activation_on_the_region():
    torch.manual_seed(0)
    network = PixelNetwork().eval()
    image = bright_square()
    found = explain(Session(ToySegmenter(network), image), "hirescam", [REGION], params=HiResCamParams("relu"))
    with torch.no_grad():
        activation = network.relu(network.features(image[None]))[0]
        weighted = (network.head.weight[0] * activation).sum(0).numpy() / MASK.sum()
    np.testing.assert_allclose(found.values[0], np.where(MASK, weighted, 0.0), atol=1e-6)


def test_the_map_sums_to_the_score_minus_the_bias_where_the_rest_is_affine():
    torch.manual_seed(1)
    network = PixelNetwork().eval()
    session = Session(ToySegmenter(network), bright_square())
    found = explain(session, "hirescam", [REGION], params=HiResCamParams("relu"))
    assert found.values.sum() == pytest.approx(session.score(REGION) - network.head.bias.item(), abs=1e-5)


def test_parity_with_pytorch_grad_cam_at_the_same_layer():
    from pytorch_grad_cam import HiResCAM

    subject, image = small_unet(), bright_square()

    class Target:
        def __call__(self, logits):  # pytorch-grad-cam passes (K, H, W)
            return REGION.score(logits[None])[0]

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = subject.network

        def forward(self, x):
            return subject.forward(x)

    with HiResCAM(Wrapped().eval(), [subject.network.bottom[2]]) as cam:
        theirs = cam(image[None], targets=[Target()])[0]
    tap = Session(subject, image).tap([REGION], "bottom.2")
    coarse = (tap.gradients[0] * tap.activation).sum(0)
    # It clips negative values and rescales to [0, 1] before and after it resizes.
    clipped = rescaled(coarse.clamp(min=0))
    resized = nn.functional.interpolate(clipped[None, None], (24, 32), mode="bilinear")[0, 0]
    assert theirs.max() > 0
    np.testing.assert_allclose(rescaled(resized).numpy(), theirs, atol=1e-5)
    ours = explain(Session(subject, image), "hirescam", [REGION], params=HiResCamParams("bottom.2")).values[0]
    expected = nn.functional.interpolate(coarse[None, None], (24, 32), mode="bilinear")[0, 0]
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-7)


def rescaled(values):
    return (values - values.min()) / (values.max() - values.min())


def test_the_layer_is_the_last_one_on_the_coarsest_grid_and_is_named():
    found = explain(Session(small_unet(), bright_square()), "hirescam", [REGION])
    assert found.notes[0].startswith("layer bottom.2 (12 x 16)")
    assert (found.cost.forwards, found.cost.backwards) == (1, 1)


def test_a_coarse_head_is_not_chosen_although_it_is_the_last_coarse_layer():
    # As in FCN: everything is coarse, a 3 x 3 convolution, a 1 x 1 head, then only resizing.
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=4, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 1, 1),
        nn.Upsample(scale_factor=4, mode="bilinear"),
    ).eval()  # fmt: skip
    found = explain(Session(ToySegmenter(network), bright_square()), "hirescam", [REGION])
    assert found.notes[0].startswith("layer 1 (6 x 8)")


def test_a_network_that_mixes_no_pixels_gets_a_map_with_a_warning():
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 1, 1)).eval()
    found = explain(Session(ToySegmenter(network), bright_square()), "hirescam", [REGION])
    assert "can only repeat the predicted region" in found.notes[0]


def test_global_pooling_branches_are_passed_over():
    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(1, 4, 3, padding=1, stride=2)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.gate = nn.Conv2d(4, 4, 1)
            self.out = nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1)

        def forward(self, x):
            deep = self.features(x)
            return self.out(deep * torch.sigmoid(self.gate(self.pool(deep))))

    found = explain(Session(ToySegmenter(Squeeze().eval()), bright_square()), "hirescam", [REGION])
    assert found.notes[0].startswith("layer features (12 x 16)")


def test_errors_are_exact():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = PixelNetwork()
            self.aux = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            self.aux(x)
            return self.main(x)

    session = Session(ToySegmenter(Auxiliary().eval()), bright_square())
    with pytest.raises(
        UsageError, match=r"does not reach the target.*Got: aux.*one of main\.features, main\.relu, main\.head"
    ):
        explain(session, "hirescam", [REGION], params=HiResCamParams("aux"))
    with pytest.raises(UsageError, match=r"did you mean 'main\.relu'"):
        explain(session, "hirescam", [REGION], params=HiResCamParams("main.rely"))
    with pytest.raises(UsageError, match="not executed as a single layer"):
        explain(session, "hirescam", [REGION], params=HiResCamParams("main"))

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.layer(x).detach() + x[:, :1]

    with pytest.raises(SubjectError, match="no layer of the network reaches the target"):
        explain(Session(ToySegmenter(Detached().eval()), bright_square()), "hirescam", [REGION])


def test_hooks_are_gone_and_modes_and_gradients_are_as_before_even_after_an_exception():
    subject = small_unet()
    network = subject.network
    network.down[1].train()
    network.head.weight.requires_grad_(False)
    modes = [part.training for part in network.modules()]
    broken = Region(1, np.ones((3, 3), dtype=bool))
    for region, outcome in ((REGION, None), (broken, UsageError)):
        session = Session(subject, bright_square())
        if outcome:
            with pytest.raises(outcome):
                explain(session, "hirescam", [region])
        else:
            explain(session, "hirescam", [region])
        assert not any(part._forward_hooks or part._backward_hooks for part in network.modules())
        assert [part.training for part in network.modules()] == modes
        assert not network.head.weight.requires_grad
        assert all(parameter.grad is None for parameter in network.parameters())


def test_several_targets_share_one_forward_and_the_tap_is_reused():
    other = Region(1, ~MASK)
    session = Session(small_unet(), bright_square())
    both = explain(session, "hirescam", [REGION, other])
    assert (session.forwards, session.backwards) == (1, 2)
    explain(session, "hirescam", [REGION, other])
    assert (session.forwards, session.backwards) == (1, 2)
    for index, region in enumerate((REGION, other)):
        single = explain(Session(small_unet(), bright_square()), "hirescam", [region])
        np.testing.assert_allclose(both.values[index], single.values[0], atol=1e-7)


def test_a_layer_that_is_executed_twice_says_so_and_frozen_weights_do_not_matter():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(x)))

    network = Twice().eval().requires_grad_(False)
    found = explain(
        Session(ToySegmenter(network), bright_square()), "hirescam", [REGION], params=HiResCamParams("layer")
    )
    assert "executed 2 times" in found.notes[0]
    assert found.values.any()


def test_a_gradient_that_is_not_finite_is_an_error():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3, padding=1)
            self.last = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.last(torch.sqrt(self.layer(x) * 0.0))

    with pytest.raises(SubjectError, match="not finite"):
        explain(Session(ToySegmenter(Root().eval()), bright_square()), "hirescam", [REGION])


def test_the_map_flips_with_the_image():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)).eval()
    for layer in (network[0], network[2]):  # kernels that equal their own mirror image
        layer.weight.data = (layer.weight.data + layer.weight.data.flip(-1)) / 2
    image = bright_square()
    there = explain(Session(ToySegmenter(network), image), "hirescam", [REGION]).values[0]
    flipped = Region(1, MASK[:, ::-1].copy())
    back = explain(Session(ToySegmenter(network), image.flip(-1)), "hirescam", [flipped]).values[0]
    np.testing.assert_allclose(there, back[:, ::-1], atol=1e-6)


def test_a_network_that_pads_and_resizes_gets_its_map_back_on_the_images_own_pixels():
    from xaiseg.adapters import wrap_module
    from xaiseg.modelfile import InputSpec

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    subject = wrap_module(network, InputSpec(size=(64, 64), resize="pad"))
    mask = np.zeros((32, 64), dtype=bool)
    mask[2:8, 2:8] = True  # in a corner of a wide image, which the square grid shifts down by 16 px
    image = torch.rand(1, 32, 64, generator=torch.Generator().manual_seed(0))
    values = explain(Session(subject, image), "hirescam", [Region(1, mask)]).values[0]
    reach = np.zeros_like(mask)
    reach[1:9, 1:9] = True
    assert (values[~reach] == 0).all()
    assert (values[mask] != 0).any()
