import numpy as np
import pytest
import torch

from xaiseg.errors import UsageError
from xaiseg.explainers.targets import (
    Border,
    Margin,
    Region,
    SpatialTarget,
    in_out_border,
    named_region,
    pixel,
    predicted_region,
)
from xaiseg.subject import Prediction

CLASSES = ("background", "cyst", "tumour")
LABELS = np.array([[0, 1, 1], [0, 2, 0]], dtype=np.uint8)


def test_the_score_is_the_mean_over_the_region_by_the_definition():
    logits = torch.randn(2, 3, 4, 5)
    mask = np.random.default_rng(0).random((4, 5)) > 0.5
    by_hand = [np.mean([logits[b, 2, i, j].item() for i, j in np.argwhere(mask)]) for b in range(2)]
    assert Region(2, mask).score(logits).tolist() == pytest.approx(by_hand, abs=1e-6)
    probabilities = torch.softmax(logits.double(), dim=1)
    by_hand = [np.mean([probabilities[b, 2, i, j].item() for i, j in np.argwhere(mask)]) for b in range(2)]
    assert Region(2, mask).as_probability().score(logits).tolist() == pytest.approx(by_hand, abs=1e-6)


def test_a_one_channel_head_scores_its_own_logit():
    z = torch.randn(1, 1, 2, 2)
    logits = torch.cat((torch.zeros_like(z), z), dim=1)
    region = Region(1, np.ones((2, 2), dtype=bool))
    assert region.score(logits).item() == pytest.approx(z.mean().item(), abs=1e-6)
    assert region.as_probability().score(logits).item() == pytest.approx(torch.sigmoid(z).mean().item(), abs=1e-6)


def test_the_predicted_region_is_the_largest_foreground_class_or_the_one_asked_for():
    assert predicted_region(Prediction(LABELS), CLASSES).name == "cyst"
    tumour = predicted_region(Prediction(LABELS), CLASSES, 2)
    assert tumour.mask.tolist() == [[False, False, False], [False, True, False]]
    assert predicted_region(Prediction(np.zeros((2, 2), dtype=np.uint8)), CLASSES) is None


def test_names_of_targets():
    assert named_region("pred", Prediction(LABELS), CLASSES).name == "cyst"
    assert named_region("tumour", Prediction(LABELS), CLASSES).mask.sum() == 1
    with pytest.raises(UsageError, match="did you mean 'tumour'"):
        named_region("tumor", Prediction(LABELS), CLASSES)
    empty = Prediction(np.zeros((2, 2), dtype=np.uint8))
    with pytest.raises(UsageError, match="no foreground"):
        named_region("pred", empty, CLASSES)
    with pytest.raises(UsageError, match=r"no pixel of class 'cyst'.*background"):
        named_region("cyst", empty, CLASSES)


def test_regions_that_cannot_be_scored_are_refused():
    with pytest.raises(UsageError, match="at least one pixel"):
        Region(1, np.zeros((2, 2), dtype=bool))
    with pytest.raises(UsageError, match="truth values"):
        Region(1, np.ones((2, 2)))
    with pytest.raises(UsageError, match="does not fit the logits"):
        Region(1, np.ones((2, 2), dtype=bool)).score(torch.zeros(1, 2, 3, 3))
    with pytest.raises(UsageError, match="does not fit the logits"):
        Region(2, np.ones((2, 2), dtype=bool)).score(torch.zeros(1, 2, 2, 2))


def test_the_mean_over_a_zone_is_that_of_xplique_on_its_3x3_toy():
    channels = torch.tensor(
        [
            [[0, 0, 1.0], [0, 0, 1.0], [1.0, 1.0, 1.0]],
            [[0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 1.0]],
            [[0, 0, 0], [0, 0, 0], [1.0, 0, 0]],
        ]
    )
    logits = torch.cat((channels, channels.mean(dim=0, keepdim=True)))[None]
    bottom = np.zeros((3, 3), dtype=bool)
    bottom[2] = True
    assert Region(0, channels[0].numpy() > 0).score(logits).item() == pytest.approx(1.0)
    assert Region(3, bottom).score(logits).item() == pytest.approx(7 / 9)


def test_the_margin_is_the_mean_lead_over_the_best_other_class_or_over_a_foil():
    logits = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    mask = np.random.default_rng(2).random((3, 5)) > 0.4
    for foil in (None, 0):
        by_hand = []
        for b in range(2):
            leads = []
            for i, j in np.argwhere(mask):
                z = logits[b, :, i, j].tolist()
                leads.append(z[2] - (max(z[0], z[1], z[3]) if foil is None else z[foil]))
            by_hand.append(np.mean(leads))
        assert Margin(2, mask, foil).score(logits).tolist() == pytest.approx(by_hand, abs=1e-6)


def test_a_one_channel_head_has_the_margin_z_for_the_foreground_and_minus_z_for_the_background():
    z = torch.randn(1, 1, 2, 2)
    logits = torch.cat((torch.zeros_like(z), z), dim=1)
    mask = np.ones((2, 2), dtype=bool)
    assert Margin(1, mask).score(logits).item() == pytest.approx(z.mean().item(), abs=1e-6)
    assert Margin(0, mask).score(logits).item() == pytest.approx(-z.mean().item(), abs=1e-6)


#: The class map of Xplique's tests: three diagonal bands on 5 x 5 pixels.
BANDS = np.array([[0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 2], [1, 1, 1, 2, 2], [1, 1, 2, 2, 2]])


def test_borders_are_those_of_xplique_on_its_5x5_toys():
    assert in_out_border(BANDS == 1).tolist() == [
        [0, -1, -1, 1, 0],
        [-1, -1, 1, 1, 1],
        [-1, 1, 1, 1, -1],
        [1, 1, 1, -1, -1],
        [0, 1, -1, -1, 0],
    ]
    zone = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]], dtype=bool)
    assert in_out_border(zone).tolist() == [
        [0, 0, -1, -1, -1],
        [0, -1, -1, 1, 1],
        [0, -1, 1, 1, 0],
        [-1, -1, 1, 0, 0],
        [-1, 1, 1, 0, 0],
    ]


def test_the_border_is_that_of_its_definition_and_single_pixels_and_holes_have_one():
    mask = np.random.default_rng(0).random((7, 9)) > 0.5
    mask[3, 4], mask[2:5, 3:6][0] = True, False
    slow = np.zeros(mask.shape, dtype=int)
    for i, j in np.ndindex(*mask.shape):
        around = mask[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        if mask[i, j] and not around.all():
            slow[i, j] = 1
        if not mask[i, j] and around.any():
            slow[i, j] = -1
    np.testing.assert_array_equal(in_out_border(mask), slow)
    logits = torch.randn(2, 3, 7, 9)
    by_hand = [(logits[b, 1].double().numpy() * slow).sum() / (slow != 0).sum() for b in range(2)]
    assert Border(1, mask).score(logits).tolist() == pytest.approx(by_hand, abs=1e-6)
    one_channel = torch.cat((torch.zeros(2, 1, 7, 9), logits[:, 1:2]), dim=1)
    back = Border(0, mask).score(one_channel).tolist()
    assert back == pytest.approx([-value for value in by_hand], abs=1e-6), "the constant 0 would say nothing"
    lone = np.zeros((3, 3), dtype=bool)
    lone[1, 1] = True
    assert in_out_border(lone).tolist() == [[-1, -1, -1], [-1, 1, -1], [-1, -1, -1]]


def test_one_pixel_is_a_region_of_one_pixel():
    logits = torch.randn(1, 2, 3, 4)
    assert pixel(1, 3, 2, (3, 4)).score(logits).item() == logits[0, 1, 2, 3].item()
    for x, y in ((4, 0), (-1, 0), (0, 3)):
        with pytest.raises(UsageError, match=r"outside the image.*x 0 to 3, y 0 to 2"):
            pixel(1, x, y, (3, 4))


@pytest.mark.parametrize("kind", [Region, Margin, Border])
def test_all_targets_are_differentiable_spatial_and_name_their_unit(kind):
    mask = np.zeros((3, 4), dtype=bool)
    mask[1:, 1:3] = True
    target = kind(1, mask, label="cyst")
    logits = torch.randn(2, 3, 3, 4, dtype=torch.bfloat16, requires_grad=True)
    score = target.score(logits)
    assert score.dtype == torch.float32
    score.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.any()
    assert isinstance(target, SpatialTarget)
    assert (target.unit, "cyst" in target.name, "cyst" in target.meaning) == ("logit", True, True)
    with pytest.raises(UsageError, match="does not fit the logits"):
        target.score(torch.zeros(1, 1, 3, 4))


def test_margins_and_borders_that_cannot_be_are_refused():
    mask = np.ones((2, 2), dtype=bool)
    with pytest.raises(UsageError, match="no margin over itself"):
        Margin(1, mask, foil=1)
    with pytest.raises(UsageError, match="does not fit the logits"):
        Margin(0, mask, foil=5).score(torch.zeros(1, 2, 2, 2))
    with pytest.raises(UsageError, match="fills the image has no border"):
        Border(1, mask)
    with pytest.raises(UsageError, match="at least one pixel"):
        Border(1, ~mask)


def test_the_background_of_a_one_channel_head_is_asked_by_its_margin():
    z = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    score = Region(0, mask).score(torch.cat((torch.zeros_like(z), z), dim=1))
    torch.testing.assert_close(score, -z[:, 0, 1, 2])
    score.sum().backward()
    assert float(z.grad[0, 0, 1, 2]) == -1.0
    two = torch.cat((z.detach() + 1, z.detach()), dim=1)
    torch.testing.assert_close(Region(0, mask).score(two), two[:, 0, 1, 2])


def test_a_region_first_used_without_gradients_can_be_differentiated_later():
    region = Region(1, np.array([[True, False]]))
    with torch.inference_mode():
        region.score(torch.zeros(1, 2, 1, 2))
    z = torch.zeros(1, 2, 1, 2, requires_grad=True)
    region.score(z).sum().backward()
    assert float(z.grad[0, 1, 0, 0]) == 1.0
