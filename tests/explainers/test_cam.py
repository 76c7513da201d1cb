"""The one-pass maps: by their definitions cell by cell, in closed form, and beside pytorch-grad-cam and captum."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.explainers.toy_segmenters import PixelNetwork, ToySegmenter, bright_square, small_unet
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Session, explain, get_explainer
from xaiseg.explainers.cam import CamParams, SegXResCamParams
from xaiseg.explainers.targets import Region

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION = Region(1, MASK)
ONE_PASS = ("gradcam", "hirescam", "seg-xres-cam", "layercam", "xgradcam", "gradcam++")


class Coarse(ToySegmenter):
    """Leaves maps on the grid of the layer, so that they can be compared before anything resizes them."""

    def to_image_grid(self, maps, size):
        return maps


class Loud:
    """A score with large gradients, beside which the constants that guard divisions elsewhere vanish."""

    name = "loud"

    def score(self, logits):
        return 1e4 * REGION.score(logits)


def coarse(method, subject, image, targets, layer, **params):
    kind = get_explainer(method)
    session = Session(Coarse(subject.network, channels=len(image)), image)
    return kind.function(session, targets, params=kind.params(layer=layer, **params)).values


def theirs(name, subject, image, target, layer, **options):
    """The map of pytorch-grad-cam: clipped at 0, rescaled to [0, 1], resized, rescaled again."""
    import pytorch_grad_cam

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = subject.network

        def forward(self, x):
            return subject.forward(x)

    with getattr(pytorch_grad_cam, name)(Wrapped().eval(), [subject.network.get_submodule(layer)], **options) as cam:
        found = cam(image[None], targets=[lambda logits: target.score(logits[None])[0]])
    # Its context swallows an IndexError, after which there would be no map.
    assert found.shape == (1, *image.shape[1:])
    return found[0]


def as_theirs(maps, size):
    """What it does to a raw map (h, w)."""
    clipped = rescaled(torch.as_tensor(maps).clamp(min=0))
    return rescaled(nn.functional.interpolate(clipped[None, None], size, mode="bilinear")[0, 0]).numpy()


def rescaled(values):
    return (values - values.min()) / (1e-7 + (values - values.min()).max())


def slow(method, activation, slopes, pool=2):
    """Cell by cell, from the definitions; (C, h, w) each, float64."""
    channels, rows, columns = activation.shape
    found = np.zeros((rows, columns))
    for k in range(channels):
        a, g = activation[k], slopes[k]
        for i in range(rows):
            for j in range(columns):
                top, left = i // pool * pool, j // pool * pool
                weight = {
                    "gradcam": lambda g=g: g.mean(),
                    "hirescam": lambda g=g, i=i, j=j: g[i, j],
                    "seg-xres-cam": lambda g=g, t=top, f=left: g[t : t + pool, f : f + pool].mean(),
                    "layercam": lambda g=g, i=i, j=j: max(g[i, j], 0),
                    "xgradcam": lambda a=a, g=g: (g * a).sum() / (a.sum() + 1e-7),
                    "gradcam++": lambda a=a, g=g: sum(
                        x * x**2 / (2 * x**2 + a.sum() * x**3) for x in g.ravel() if x > 0
                    ),
                }[method]()
                found[i, j] += weight * a[i, j]
    return found


@pytest.mark.parametrize("method", ONE_PASS)
def test_maps_are_those_of_their_definitions(method):
    subject, image = small_unet(1), bright_square(12, 18, 3, 5, 5)
    region = Region(1, (image[0] > 0.6).numpy())
    tap = Session(subject, image).tap([region], "bottom.2")
    assert tap.activation.shape == (8, 6, 9)
    for pool in (2, 4) if method == "seg-xres-cam" else (2,):  # 4 leaves smaller blocks at two edges
        expected = slow(method, tap.activation.double().numpy(), tap.gradients[0].double().numpy(), pool)
        options = {"pool": pool} if method == "seg-xres-cam" else {}
        found = coarse(method, subject, image, [region], "bottom.2", **options)[0]
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
        assert np.abs(expected).max() > 0


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("gradcam", "GradCAM"),
        ("hirescam", "HiResCAM"),
        ("layercam", "LayerCAM"),
        ("xgradcam", "XGradCAM"),
        ("gradcam++", "GradCAMPlusPlus"),
    ],
)
@pytest.mark.parametrize("layer", ["down.2", "bottom.2"])
def test_parity_with_pytorch_grad_cam(method, name, layer):
    subject, image = small_unet(2), bright_square()
    target = Loud() if method == "gradcam++" else REGION
    ours = coarse(method, subject, image, [target], layer)[0]
    expected = theirs(name, subject, image, target, layer)
    assert expected.max() > 0
    np.testing.assert_allclose(as_theirs(ours, MASK.shape), expected, atol=1e-5)


def test_parity_with_their_own_segmentation_target_which_is_a_sum():
    from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

    subject, image = small_unet(2), bright_square()

    class Sum:
        def score(self, logits):
            return SemanticSegmentationTarget(1, MASK.astype(np.float32))(logits[0])[None]

    for method, name in (("gradcam", "GradCAM"), ("hirescam", "HiResCAM")):
        ours = coarse(method, subject, image, [REGION], "bottom.2")[0]
        np.testing.assert_allclose(
            as_theirs(ours, MASK.shape), theirs(name, subject, image, Sum(), "bottom.2"), atol=1e-5
        )


class OneConvolution(nn.Module):
    """The network of captum's tests: a 3 x 3 convolution of ones, a ReLU, a linear layer; the logit at every pixel."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3)
        self.relu1 = nn.ReLU()
        self.fc1 = nn.Linear(8, 1, bias=False)
        nn.init.constant_(self.conv1.weight, 1.0)
        self.conv1.bias.data = torch.tensor([-50.0, -75.0])
        self.fc1.weight.data = torch.tensor([[1.0] * 5 + [-1.0] * 3])

    def forward(self, x):
        z = self.fc1(self.relu1(self.conv1(x)).flatten(1))
        return z[:, :, None, None].expand(-1, 1, *x.shape[-2:])


def test_literal_values_of_captums_layer_grad_cam():
    from captum.attr import LayerGradCam

    subject = ToySegmenter(OneConvolution().eval())
    image = torch.arange(16.0).reshape(1, 4, 4)
    whole = Region(1, np.ones((4, 4), dtype=bool))
    for layer, expected in (("conv1", [[11.25, 13.5], [20.25, 22.5]]), ("relu1", [[0.0, 4.0], [28.0, 32.5]])):
        np.testing.assert_allclose(coarse("gradcam", subject, image, [whole], layer)[0], expected, atol=0.01)
        reference = LayerGradCam(lambda x: whole.score(subject.forward(x)), subject.network.get_submodule(layer))
        found = reference.attribute(image[None])[0, 0].detach().numpy()
        np.testing.assert_allclose(coarse("gradcam", subject, image, [whole], layer)[0], found, atol=1e-5)
    tap = Session(subject, image).tap([whole], "conv1")
    channels = tap.gradients[0].mean(dim=(1, 2), keepdim=True) * tap.activation
    np.testing.assert_allclose(channels, [[[-3.75, 3], [23.25, 30]], [[15, 10.5], [-3, -7.5]]], atol=0.01)


def test_one_pool_size_gives_hirescam_and_another_grad_cam():
    subject, image = small_unet(), bright_square()
    session = Session(subject, image)
    fine = explain(session, "seg-xres-cam", [REGION], params=SegXResCamParams(pool=1)).values
    np.testing.assert_allclose(fine, explain(session, "hirescam", [REGION]).values, atol=1e-7)
    for pool in (16, 999):
        whole = explain(session, "seg-xres-cam", [REGION], params=SegXResCamParams(pool=pool)).values
        np.testing.assert_allclose(whole, explain(session, "gradcam", [REGION]).values, atol=1e-7)
    assert session.forwards == 1
    with pytest.raises(UsageError, match="at least one cell"):
        SegXResCamParams(pool=0)


def test_the_mean_over_the_grid_lights_up_places_that_the_region_does_not_depend_on():
    """Why HiResCAM is the default: by Grad-CAM the twin of the region counts as much as the region."""
    torch.manual_seed(0)
    network = PixelNetwork().eval()
    image = bright_square(24, 32, 8, 2) + bright_square(24, 32, 8, 20) - 0.1
    left = np.zeros((24, 32), dtype=bool)
    left[8:16, 2:10] = True
    session = Session(ToySegmenter(network), image)
    params = CamParams("relu")
    right = np.s_[8:16, 20:28]
    fine = explain(session, "hirescam", [Region(1, left)], params=CamParams("relu")).values[0]
    spread = explain(session, "gradcam", [Region(1, left)], params=params).values[0]
    assert (fine[right] == 0).all()
    assert spread[right].sum() == pytest.approx(spread[left].sum(), rel=0.05)


def test_nothing_is_clipped_and_maps_scale_with_the_score():
    subject, image = small_unet(2), bright_square()
    for method in ("gradcam", "hirescam", "xgradcam"):
        there = explain(Session(subject, image), method, [REGION]).values
        against = explain(Session(subject, image), method, [Negative()]).values
        assert there.min() < 0 < there.max()
        np.testing.assert_allclose(against, -there, atol=1e-7)


class Negative:
    name = "against"

    def score(self, logits):
        return -REGION.score(logits)


def test_all_one_pass_methods_share_one_forward_and_one_backward_a_target():
    session = Session(small_unet(), bright_square())
    targets = [REGION, Region(1, ~MASK)]
    for method in ONE_PASS:
        assert explain(session, method, targets).values.shape == (2, 24, 32)
    assert (session.forwards, session.backwards) == (1, 2)


def test_methods_that_divide_by_activations_warn_of_negative_ones():
    session = Session(small_unet(2), bright_square())
    for method in ("xgradcam", "gradcam++"):
        params = CamParams("fuse")
        assert any("assumes activations of 0 or more" in note for note in explain(session, method, [REGION],
                   params=params).notes)  # fmt: skip
        assert not any("assumes" in note for note in explain(session, method, [REGION]).notes)


def test_before_a_1x1_head_the_map_is_weight_times_activation_on_the_region():
    torch.manual_seed(0)
    network = PixelNetwork().eval()
    image = bright_square()
    found = explain(Session(ToySegmenter(network), image), "hirescam", [REGION], params=CamParams("relu"))
    with torch.no_grad():
        activation = network.relu(network.features(image[None]))[0]
        weighted = (network.head.weight[0] * activation).sum(0).numpy() / MASK.sum()
    np.testing.assert_allclose(found.values[0], np.where(MASK, weighted, 0.0), atol=1e-6)


def test_the_map_sums_to_the_score_minus_the_bias_where_the_rest_is_affine():
    torch.manual_seed(1)
    network = PixelNetwork().eval()
    session = Session(ToySegmenter(network), bright_square())
    found = explain(session, "hirescam", [REGION], params=CamParams("relu"))
    assert found.values.sum() == pytest.approx(session.score(REGION) - network.head.bias.item(), abs=1e-5)


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
