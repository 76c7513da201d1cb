import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import nn

from tests.explainers.toy_segmenters import Linear, ToySegmenter, bright_square, small_unet
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Session
from xaiseg.explainers.context import _answer, channel_context, class_context, context_radius, region_context
from xaiseg.explainers.targets import Region

ZERO = {"baseline": "dataset-mean"}
SQUARE = np.zeros((24, 32), dtype=bool)
SQUARE[10:14, 8:12] = True
PATCH = np.zeros((24, 32), dtype=bool)
PATCH[11:13, 20:22] = True


class Gated(nn.Module):
    """Lesion where the image is bright inside the square, but only while the whole patch is bright too."""

    def forward(self, x):
        shown = x[:, :, 11:13, 20:22].amin(dim=(2, 3), keepdim=True) > 0.5
        bright = torch.where(torch.from_numpy(SQUARE), x - 0.5, torch.full_like(x, -0.5))
        return torch.where(shown, bright, torch.full_like(x, -1.0)) * 8


def gated_session():
    image = torch.full((1, 24, 32), 0.2)
    image[0, SQUARE | PATCH] = 1.0
    return Session(ToySegmenter(Gated()), image, dataset_mean=torch.zeros(1, 1, 1))


def test_the_radius_reaches_exactly_to_the_patch_that_gates_the_class():
    found = context_radius(gated_session(), **ZERO)
    distance = distance_transform_edt(~SQUARE)
    needed = int(np.ceil(distance[PATCH].max()))
    assert found.radius_px == needed
    by_radius = dict(zip(found.radii_px.tolist(), found.dice.tolist(), strict=True))
    assert by_radius[needed] == 1.0
    assert by_radius[needed - 1] == 0.0
    np.testing.assert_allclose(found.shares, [(distance <= radius).mean() for radius in found.radii_px])


def test_the_largest_radius_is_enough_even_where_a_pixel_flipped():
    assert _answer({0: 0.5, 3: 0.99}, 1.0) == 3
    assert _answer({0: 1.0, 3: 0.99}, 1.0) == 0
    assert _answer({0: 0.9, 1: 0.99, 3: 1.0}, 0.95) == 1


def test_a_prediction_that_needs_no_context_has_radius_zero():
    class Bright(nn.Module):
        def forward(self, x):
            return (x - 0.5) * 8

    session = Session(ToySegmenter(Bright()), bright_square(), dataset_mean=torch.zeros(1, 1, 1))
    found = context_radius(session, 1, **ZERO)
    assert found.radius_px == 0
    assert (found.dice == 1).all()


def test_evidence_of_the_gated_class_lies_in_the_patch():
    session = gated_session()
    target = Region(1, SQUARE)
    rest = ~(SQUARE | PATCH)
    regions = {"object": SQUARE, "patch": PATCH, "rest": rest}
    table = region_context(session, [target], regions, **ZERO)
    assert table.removed == ("object", "patch", "rest")
    np.testing.assert_allclose(table.falls[:, 0], [8.0, 12.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(table.shares, [16 / 768, 4 / 768, 748 / 768])


def test_the_class_matrix_is_the_definition():
    subject, image = small_unet(outputs=3), bright_square()
    subject = ToySegmenter(subject.network, classes=("background", "a", "b"))
    subject.network.head.bias.data = torch.tensor([0.0, 0.02, 0.05])
    session = Session(subject, image)
    labels = session.prediction.labels
    present = np.unique(labels)
    table = class_context(session)
    assert table.removed == table.targets == tuple(("background", "a", "b")[k] for k in present)
    fill = session.baseline("mean")
    for row, removed in enumerate(present):
        changed = torch.where(torch.from_numpy(labels == removed), fill, image)
        for column, target in enumerate(present):
            scores = [
                subject.forward(each[None])[0, target][torch.from_numpy(labels == target)].mean()
                for each in (image, changed)
            ]
            assert table.falls[row, column] == pytest.approx((scores[0] - scores[1]).item(), abs=1e-5)


def test_channels_of_a_linear_model_are_worth_their_contribution():
    weights = torch.randn(3, 24, 32, generator=torch.Generator().manual_seed(1)) / 100
    image = bright_square(channels=3)
    session = Session(ToySegmenter(Linear(weights), channels=3), image)
    table = channel_context(session, [Region(1, SQUARE)], names=("t1", "t2", "flair"))
    expected = (weights * (image - image.mean(dim=(1, 2), keepdim=True))).sum(dim=(1, 2))
    np.testing.assert_allclose(table.falls[:, 0], expected, atol=1e-5)
    assert table.removed == ("t1", "t2", "flair")
    with pytest.raises(UsageError, match="do not fit the channels"):
        channel_context(session, [Region(1, SQUARE)], names=("t1",))


def test_a_class_that_is_not_predicted_and_empty_regions_are_the_callers_errors():
    empty = Session(ToySegmenter(Gated()), torch.zeros(1, 24, 32))
    with pytest.raises(UsageError, match="no foreground"):
        context_radius(empty)
    with pytest.raises(UsageError, match="does not hold the class"):
        context_radius(gated_session(), 7)
    with pytest.raises(UsageError, match="no such Dice"):
        context_radius(gated_session(), enough=0)
    for region in (np.zeros((24, 32), dtype=bool), np.ones((3, 3), dtype=bool), np.ones((24, 32))):
        with pytest.raises(UsageError, match="region organ"):
            region_context(gated_session(), [Region(1, SQUARE)], {"organ": region})
