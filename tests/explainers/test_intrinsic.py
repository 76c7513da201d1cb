from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.explainers.toy_gates import NAMES, IntrinsicToy, MapsOnly, ToyGates
from tests.explainers.toy_segmenters import bright_square, small_unet
from xaiseg.adapters import NetworkSegmenter, module_network
from xaiseg.errors import SubjectError
from xaiseg.explainers.intrinsic import (
    FeatureGated,
    foreground_dice,
    identity_residual,
    importance,
    knock_outs,
    loss,
    open_gates,
    read_outs,
    responses,
    slopes,
)
from xaiseg.modelfile import InputSpec, OutputSpec
from xaiseg.zoo.radiomicnet import RadiomicNet
from xaiseg.zoo.radiomics import FEATURES, radiomic_features
from xaiseg.zoo.recipe import segmentation_loss

BRIGHT = NAMES.index("brightness")


def square(height=24, width=32):
    mask = np.zeros((height, width), np.uint8)
    mask[8:16, 10:18] = 1
    return mask


def opened(network=None, reference=True, **options):
    subject = IntrinsicToy(network or ToyGates())
    return open_gates(subject, bright_square(), square() if reference else None, **options)


def answer(network, r, spatial=None):
    """(H, W) foreground probability under standardised features r (n,), straight from the network."""
    with torch.no_grad():
        encoded = network.encode(bright_square()[None])
        row = None if r is None else torch.as_tensor(r, dtype=torch.float32)[None]
        return network.decode(encoded, row, spatial)[0, 0].double().sigmoid().numpy()


def own(network):
    return network.normalised(network.raw(bright_square()[None]))[0].numpy()


def compact(gates="full"):
    """A narrow RadiomicNet with standardised features, on the device and in the mode of an audit."""
    torch.manual_seed(3)
    network = RadiomicNet(1, 1, width=0.5, bottleneck=False, decoder=(16, 8, 8, 8, 8), gates=gates).eval()
    features = radiomic_features(torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    network.get_buffer("feature_mean").copy_(features.mean(dim=0))
    network.get_buffer("feature_sd").copy_(features.std(dim=0).clamp(min=1e-3))
    return network


# --- the protocol, and the network of the zoo that keeps it ---


def test_networks_keep_the_protocol_by_their_shape_alone():
    assert isinstance(ToyGates(), FeatureGated)
    assert isinstance(compact(), FeatureGated)
    assert not isinstance(MapsOnly(), FeatureGated)
    assert open_gates(IntrinsicToy(MapsOnly()), bright_square()) is None


@pytest.mark.parametrize("gates", ["full", "spatial_only", "channel_only", "no_rag"])
def test_radiomicnet_decodes_what_it_encodes(gates):
    network = compact(gates)
    x = torch.rand(2, 1, 64, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        r = network.normalised(radiomic_features(x)) if network.feature_names else None
        torch.testing.assert_close(network.decode(network.encode(x), r), network(x))
    assert network.feature_names == (FEATURES if gates in ("full", "channel_only") else ())


def test_one_image_decoded_under_many_features_is_each_of_them_decoded_alone():
    network = compact()
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    features = radiomic_features(x) + 5 * torch.randn(5, 13, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together = network.decode(network.encode(x), network.normalised(features))
        alone = torch.cat([network(x, row[None]) for row in features])
        assert together.std(dim=0).max() > 1e-6  # the features do reach the answer
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_without_features_radiomicnet_answers_as_with_gamma_0():
    network = compact()
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        without = network.decode(network.encode(x), None)
        assert not torch.allclose(without, network(x))
        for gate in network.gates:
            gate.mixing.fill_(-60.0)
        torch.testing.assert_close(without, network(x))


def test_a_constant_image_has_read_outs_and_importances():
    subject = IntrinsicToy(compact())
    gated = open_gates(subject, torch.full((1, 32, 32), 0.5))
    by_loss, by_answer = importance(gated)
    assert by_loss is None
    assert np.isfinite(by_answer).all()
    assert all(torch.isfinite(values).all() for values in read_outs(subject, torch.full((1, 32, 32), 0.5)).values())


# --- read-outs ---


def test_read_outs_are_maps_and_vectors():
    read = read_outs(IntrinsicToy(MapsOnly()), bright_square())
    assert {name: tuple(values.shape) for name, values in read.items()} == {"attention_1": (12, 16), "bend_1": (3,)}


def test_a_subject_without_read_outs_says_so():
    with pytest.raises(SubjectError, match="no explanation of its own"):
        read_outs(small_unet(), bright_square())


def test_read_outs_that_are_not_finite_are_refused(monkeypatch):
    monkeypatch.setattr(MapsOnly, "intrinsic", lambda self, x: {"bad": x / 0})
    with pytest.raises(SubjectError, match="not finite"):
        read_outs(IntrinsicToy(MapsOnly()), bright_square())


@pytest.mark.parametrize("resize", ["pad", "stretch"])
def test_a_network_on_its_own_grid_is_opened_on_that_grid_and_answers_on_the_images(resize):
    network = module_network(compact(), multiple_of=32)
    network = replace(network, offers=network.offers | {"intrinsic"})
    spec = InputSpec(size=(64, 64), resize=resize)
    classes = ("background", "lesion")
    subject = NetworkSegmenter(network, name="r", classes=classes, spec=spec, output=OutputSpec())
    image = bright_square(40, 28)
    gated = open_gates(subject, image)
    held = subject.decide(subject.predict([image])[0])
    np.testing.assert_allclose(gated.probability, held.probabilities[1], atol=1e-6)
    assert gated.probability.shape == (40, 28)
    read = read_outs(subject, image)
    assert {name: tuple(v.shape) for name, v in read.items() if v.ndim == 2} == {
        f"alpha_s_{gate}": (64 >> gate, 64 >> gate) for gate in (1, 2, 3, 4)
    }
    torch.testing.assert_close(read["features"], radiomic_features(subject.to_network_grid(image[None]))[0])


def test_a_network_that_offers_no_read_outs_is_not_asked_for_any():
    classes = ("background", "lesion")
    spec = InputSpec(multiple_of=32)
    subject = NetworkSegmenter(module_network(compact()), name="r", classes=classes, spec=spec, output=OutputSpec())
    with pytest.raises(SubjectError, match="no explanation of its own"):
        subject.intrinsic(bright_square(32, 32)[None])


# --- what the features do ---


def test_the_networks_own_answer_is_what_the_subject_predicts():
    gated = opened()
    subject = gated.subject
    held = subject.decide(subject.predict([bright_square()])[0])
    np.testing.assert_allclose(gated.probability, held.probabilities[1], atol=1e-6)
    assert (gated.labels == held.labels).all()
    assert 0 < gated.labels.mean() < 0.5


def test_gradients_are_those_of_finite_differences():
    by_loss, by_answer = importance(opened(ToyGates()))
    network, r = ToyGates().double(), own(ToyGates()).astype(np.float64)
    reference = torch.from_numpy(square().astype(np.int64))[None]

    def both(row):
        with torch.no_grad():
            z = network.decode(network.encode(bright_square().double()[None]), torch.from_numpy(row)[None])
            logits = torch.cat((torch.zeros_like(z), z), dim=1)
            return np.array([float(loss(logits, reference)), float(z.sigmoid().mean())])

    for index in range(len(NAMES)):
        step = 1e-4 * np.eye(len(NAMES))[index]
        expected = (both(r + step) - both(r - step)) / 2e-4
        assert by_loss[index] == pytest.approx(expected[0], rel=1e-3, abs=1e-9)
        assert by_answer[index] == pytest.approx(expected[1], rel=1e-3, abs=1e-9)
    assert np.flatnonzero(by_loss).tolist() == [BRIGHT]


def test_the_loss_is_that_of_the_trainings():
    logits = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = (torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.6).to(torch.uint8)
    masks[0, :2] = 255
    binary = torch.cat((torch.zeros_like(logits), logits), dim=1)
    torch.testing.assert_close(loss(binary, masks.long()), segmentation_loss(logits, masks))
    several = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    masks[1, 3:] = 2
    torch.testing.assert_close(loss(several, masks.long()), segmentation_loss(several, masks))


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_responses_are_the_change_of_one_feature_at_a_time(batch):
    network, levels = ToyGates(), (-2.0, 0.0, 1.0)
    found = responses(opened(network, batch=batch), levels)
    before = answer(network, own(network))
    for index in range(len(NAMES)):
        for step, level in enumerate(levels):
            r = own(network)
            r[index] = level
            after = answer(network, r)
            assert found[index][step].probability == pytest.approx(np.abs(after - before).mean(), abs=1e-6)
            dice = foreground_dice(after >= 0.5, square()) - foreground_dice(before >= 0.5, square())
            assert found[index][step].dice == pytest.approx(dice)
            assert (found[index][step].probability > 1e-3) == (index == BRIGHT)


def test_without_features_and_without_gamma_is_the_same():
    gated = opened(ToyGates())
    off = next(gated.variants(None))
    silent = ToyGates(mixing=-60.0)
    before, after = (answer(net, own(net)) for net in (ToyGates(), silent))
    assert off.probability == pytest.approx(np.abs(after - before).mean(), abs=1e-6)
    assert off.probability > 1e-3
    assert next(opened(silent).variants(None)).probability == 0.0


def test_without_a_reference_there_is_no_loss_and_no_dice():
    gated = opened(reference=False)
    by_loss, by_answer = importance(gated)
    assert by_loss is None
    assert np.argmax(np.abs(by_answer)) == BRIGHT
    assert responses(gated, (0.0,))[0][0].dice is None


# --- what the maps do ---


def test_a_flattened_map_is_its_mean_and_the_other_gates_stay():
    network = ToyGates()
    found = knock_outs(opened(network))
    with torch.no_grad():
        mean = network.spatial(network.encode(bright_square()[None])[0]).mean()
    before = answer(network, own(network))
    after = answer(network, own(network), {1: mean.expand(1, 1, 24, 32)})
    assert found[1].probability == pytest.approx(np.abs(after - before).mean(), abs=1e-6)
    assert found[1].probability > 0.01
    assert found[2].probability == 0.0  # it was flat before


def test_knock_outs_need_no_features():
    subject = IntrinsicToy(compact("spatial_only"))
    gated = open_gates(subject, bright_square(32, 32))
    assert gated.normalised is None
    assert set(knock_outs(gated)) == {1, 2, 3, 4}
    assert identity_residual(gated) < 1e-5
    assert slopes(gated) == {}


def test_read_outs_give_the_gated_skips_and_a_network_that_lies_is_caught():
    assert identity_residual(opened()) < 1e-6
    assert identity_residual(open_gates(IntrinsicToy(compact()), bright_square(32, 32))) < 1e-5
    assert identity_residual(opened(ToyGates(lie=0.1))) == pytest.approx(0.1 / 1.1, rel=1e-3)


def test_slopes_are_mean_absolute_derivatives_of_the_channel_values():
    found = slopes(opened())["alpha_c_1"]
    network, step = ToyGates(), np.zeros(len(NAMES), np.float32)
    step[BRIGHT] = 1e-2
    with torch.no_grad():
        up, down = (network.alpha_c(torch.from_numpy(own(network) + s)[None]) for s in (step, -step))
    assert found[BRIGHT] == pytest.approx(float(((up - down) / 2e-2).abs().mean()), rel=1e-3)
    assert np.flatnonzero(found).tolist() == [BRIGHT]


def test_modes_of_the_network_are_left_as_they_were():
    network = ToyGates()
    network.add_module("drop", nn.Dropout())
    subject = IntrinsicToy(network)
    network.drop.train()
    importance(open_gates(subject, bright_square(), square()))
    assert network.drop.training
    assert not network.features.training


def test_dice_needs_foreground_in_the_reference():
    nothing = np.zeros((2, 2), np.uint8)
    assert foreground_dice(nothing, nothing) is None
    assert foreground_dice(nothing, None) is None
    assert foreground_dice(nothing, np.array([[1, 0], [0, 0]])) == 0.0
    assert foreground_dice(np.array([[2, 1], [0, 0]]), np.array([[1, 0], [255, 2]])) == pytest.approx(2 / 4)
