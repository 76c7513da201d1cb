"""What must hold for every map of an activation or a gradient: mirror images, layouts of memory, random weights."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.explainers.toy_segmenters import ToySegmenter, bright_square
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.targets import Border, Margin, Region
from xaiseg.faithfulness.randomisation import randomised

CAMS = ("gradcam", "hirescam", "seg-xres-cam", "layercam", "xgradcam", "gradcam++", "eigencam", "seg-eigencam",
        "eigengradcam", "scorecam", "ablationcam")  # fmt: skip
GRADIENTS = ("saliency", "input-x-gradient", "integrated-gradients", "deeplift", "guided-backprop")
SAMPLED = ("smoothgrad", "gradientshap")
MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION = Region(1, MASK)


def segmenter(*, mirrored=False, channels=1):
    """ReLU modules, each executed once, on the image's own grid and on half of it."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(6, 1, 3, padding=1),
    ).eval()  # fmt: skip
    for part in network if mirrored else ():
        if isinstance(part, nn.Conv2d):  # kernels that equal their own mirror image
            part.weight.data = (part.weight.data + part.weight.data.flip(-1)) / 2
    return ToySegmenter(network, channels=channels)


@pytest.mark.parametrize("method", CAMS + GRADIENTS)
def test_maps_flip_with_the_image(method):
    subject, image = segmenter(mirrored=True), bright_square()
    there = explain(Session(subject, image), method, [REGION]).values[0]
    back = explain(Session(subject, image.flip(-1)), method, [Region(1, MASK[:, ::-1].copy())]).values[0]
    np.testing.assert_allclose(there, back[:, ::-1], atol=1e-5 * np.abs(there).max())
    assert there.any()


@pytest.mark.parametrize("method", CAMS + GRADIENTS + SAMPLED)
def test_maps_do_not_depend_on_the_layout_of_memory_and_repeat(method):
    subject, image = segmenter(channels=3), bright_square(channels=3)
    wide = torch.zeros(3, 24, 64)
    wide[:, :, ::2] = image
    layouts = [image, image, image[None].contiguous(memory_format=torch.channels_last)[0], wide[:, :, ::2]]
    maps = [explain(Session(subject, each, seed=1), method, [REGION]).values for each in layouts]
    np.testing.assert_array_equal(maps[1], maps[0])
    for each in maps[2:]:
        np.testing.assert_allclose(each, maps[0], atol=1e-5 * np.abs(maps[0]).max())


@pytest.mark.parametrize("method", CAMS + GRADIENTS + SAMPLED)
def test_a_network_with_random_weights_still_explains_the_frozen_region(method):
    subject, image = segmenter(), bright_square()
    session = Session(subject, image)
    twin = Session(randomised(subject, 0, 0), image, prediction=session.prediction)
    target = Margin(0, MASK) if method == "scorecam" else REGION  # its channels raise no score of the foreground here
    found, other = (explain(each, method, [target]).values[0] for each in (session, twin))
    assert np.isfinite(other).all()
    assert not np.allclose(found, other, atol=1e-3 * np.abs(found).max())


@pytest.mark.parametrize("method", [*CAMS, "saliency", "integrated-gradients", *SAMPLED])
def test_all_kinds_of_targets_are_explained_in_one_call_as_alone(method):
    subject, image = segmenter(), bright_square()
    targets = [REGION, REGION.as_probability(), Margin(0, MASK), Border(1, MASK)]
    together = explain(Session(subject, image), method, targets).values
    assert together.shape == (4, 24, 32)
    for index, target in enumerate(targets):
        alone = explain(Session(subject, image), method, [target]).values[0]
        np.testing.assert_allclose(together[index], alone, atol=1e-5 * np.abs(alone).max() + 1e-12)
