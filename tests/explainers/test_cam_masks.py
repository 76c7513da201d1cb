"""Score-CAM and Ablation-CAM: channel by channel, in closed form, and beside pytorch-grad-cam."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.explainers.test_cam import MASK, REGION, as_theirs, coarse, theirs
from tests.explainers.toy_segmenters import PixelNetwork, ToySegmenter, bright_square, small_unet
from xaiseg.explainers.base import Budget, Session, explain
from xaiseg.explainers.cam_masks import AblationCamParams, ScoreCamParams
from xaiseg.explainers.targets import Region

OTHER = Region(1, ~MASK)


@pytest.mark.parametrize(("method", "name"), [("scorecam", "ScoreCAM"), ("ablationcam", "AblationCAM")])
@pytest.mark.parametrize("layer", ["down.2", "bottom.2"])
def test_parity_with_pytorch_grad_cam_in_reference_mode(method, name, layer):
    subject, image = small_unet(2), bright_square()
    subject.network.head.bias.data += 5  # a positive score: divided by a negative one, its maps are clipped to nothing
    ours = coarse(method, subject, image, [REGION], layer, reference=True)[0]
    expected = theirs(name, subject, image, REGION, layer)
    assert expected.max() > 0
    np.testing.assert_allclose(as_theirs(ours, MASK.shape), expected, atol=1e-5)


def test_scorecam_weighs_channels_by_how_far_they_raise_the_score():
    subject, image = small_unet(2), bright_square()
    session = Session(subject, image)
    start = session.baseline("mean")
    activation = session.tap([REGION], "bottom.2").activation
    score = lambda each: REGION.score(subject.forward(each[None])).item()  # noqa: E731
    raised = []
    for channel in activation:
        up = nn.functional.interpolate(channel[None, None], MASK.shape, mode="bilinear", align_corners=False)[0]
        mask = (up - up.min()) / (up.max() - up.min() + 1e-8)
        raised.append(max(score(mask * image + (1 - mask) * start) - score(start), 0.0))
    weights = np.array(raised) / sum(raised)
    small = torch.from_numpy((weights[:, None, None] * activation.numpy()).sum(axis=0))
    expected = nn.functional.interpolate(small[None, None], MASK.shape, mode="bilinear")[0, 0].numpy()
    found = explain(session, "scorecam", [REGION], params=ScoreCamParams("bottom.2")).values[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_published_softmax_is_nearly_flat_for_a_mean_and_ours_is_not():
    session = Session(small_unet(2), bright_square())
    activation = session.tap([REGION], "down.2").activation.numpy().mean(axis=0)
    flat, ours = (
        explain(session, "scorecam", [REGION], params=ScoreCamParams("down.2", reference=reference)).values[0]
        for reference in (True, False)
    )
    assert np.corrcoef(flat.ravel(), activation.ravel())[0, 1] > 0.999
    assert np.corrcoef(ours.ravel(), activation.ravel())[0, 1] < 0.999


def test_a_score_that_no_channel_raises_gives_an_empty_map_with_a_word():
    class Constant:
        name = "constant"

        def score(self, logits):
            return logits.flatten(1).sum(dim=1) * 0 + 1

    found = explain(Session(small_unet(), bright_square()), "scorecam", [Constant()])
    assert not found.values.any()
    assert any("constant: no channel raises the score" in note for note in found.notes)
    assert "zero everywhere" in found.notes[-1]


def test_ablation_before_a_1x1_head_is_the_heads_weight_times_the_mean_activation_in_the_region():
    torch.manual_seed(0)
    network, image = PixelNetwork().eval(), bright_square()
    found = explain(Session(ToySegmenter(network), image), "ablationcam", [REGION], params=AblationCamParams("relu"))
    with torch.no_grad():
        activation = network.relu(network.features(image[None]))[0].numpy()
    head = network.head.weight[0, :, 0, 0].detach().numpy()
    weights = [head[k] * activation[k][MASK].mean() for k in range(4)]
    expected = sum(weights[k] * activation[k] for k in range(4))
    np.testing.assert_allclose(found.values[0], expected, atol=1e-6)
    assert "2 of 3 layer executions are those of the unperturbed image" in found.notes[1]


@pytest.mark.parametrize("layer", ["down.0", "down", "bottom.2", "fuse"])
def test_ablation_is_that_of_a_network_run_whole_channel_by_channel(layer):
    subject, image = small_unet(3), bright_square()
    part = subject.network.get_submodule(layer)
    session = Session(subject, image, budget=Budget(3))
    found = explain(session, "ablationcam", [REGION, OTHER], params=AblationCamParams(layer))
    tap = session.tap([REGION, OTHER], layer, gradients=False)
    for index, region in enumerate((REGION, OTHER)):
        expected = torch.zeros(tap.activation.shape[1:])
        for channel in range(len(tap.activation)):
            handle = part.register_forward_hook(lambda m, i, o, k=channel: o.index_fill(1, torch.tensor([k]), 0.0))
            with torch.no_grad():
                fallen = session.score(region) - region.score(subject.forward(image[None])).item()
            handle.remove()
            expected += fallen * tap.activation[channel]
        on_image = subject.to_image_grid(expected[None, None], MASK.shape)[0, 0].numpy()
        np.testing.assert_allclose(found.values[index], on_image, atol=1e-5 * np.abs(on_image).max())
    assert "are those of the unperturbed image" in found.notes[1]


def test_targets_share_the_forwards_and_the_batch_size_does_not_matter():
    maps = []
    for size in (1, 3, 64):
        session = Session(small_unet(3), bright_square(), budget=Budget(size))
        for method in ("scorecam", "ablationcam"):
            maps.append(explain(session, method, [REGION, OTHER]).values)
    for one, two in ((maps[0], maps[2]), (maps[2], maps[4]), (maps[1], maps[3]), (maps[3], maps[5])):
        np.testing.assert_allclose(one, two, atol=1e-5 * np.abs(one).max())
    found = explain(Session(small_unet(3), bright_square()), "scorecam", [REGION, OTHER])
    assert found.cost.forwards == 1 + 8 + 1  # the tap, a channel each, the baseline
    assert found.cost.backwards == 0


def test_reference_weights_say_so():
    session = Session(small_unet(), bright_square())
    for method, params in (
        ("scorecam", ScoreCamParams(reference=True)),
        ("ablationcam", AblationCamParams(reference=True)),
    ):
        assert any("as published" in note for note in explain(session, method, [REGION], params=params).notes)
