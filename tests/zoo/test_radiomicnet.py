import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from xaiseg import zoo
from xaiseg.errors import UsageError
from xaiseg.zoo.radiomicnet import TAPS, RadiomicNet, RadiomicsGate, RadiomicsMLP
from xaiseg.zoo.radiomicnet_loss import (
    OBJECTIVE,
    WITHOUT_CONSISTENCY,
    boundary_weights,
    mean_entropy,
    prepare,
    radiomicnet_loss,
)
from xaiseg.zoo.radiomics import FEATURES, radiomic_features


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = zoo.build("radiomicnet-compact", 1, 1)
    images = (torch.rand(24, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)
    masks = torch.zeros(24, 32, 32, dtype=torch.uint8)
    masks[:, 8:20, 8:20] = 1
    prepare(network, images, masks)
    for gate in network.gates:
        nn.init.normal_(gate.mixing)
    return network.eval()


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(3))


def test_sizes_are_those_of_the_specification():
    assert count(RadiomicNet(3, 1)) == 3_269_497
    assert count(RadiomicsMLP()) == 3_040
    assert [count(RadiomicsGate(c)) for c in (16, 24, 32, 96)] == [1194, 1658, 2122, 7898]
    full = count(RadiomicNet(3, 1))
    assert count(RadiomicNet(3, 1, gates="no_rag")) == full - 12_872 - 3_040
    assert count(RadiomicNet(3, 1, gates="channel_only")) == full - sum(49 * c + 1 for c in (16, 24, 32, 96))
    spatial_only = count(RadiomicNet(3, 1, gates="spatial_only"))
    assert spatial_only == full - 12_872 - 3_040 + sum(49 * c + 1 for c in (16, 24, 32, 96))


@pytest.mark.parametrize("kind", ["full", "spatial_only", "channel_only"])
def test_a_gate_does_what_the_paper_writes(kind):
    torch.manual_seed(0)
    gate = RadiomicsGate(6, kind)
    skip, embedding = torch.randn(3, 6, 5, 7), torch.randn(3, 32)
    gamma = alpha_c = alpha_s = torch.ones(())
    if kind != "spatial_only":
        nn.init.constant_(gate.mixing, 0.7)
        gamma = 1 / (1 + torch.exp(torch.tensor(-0.7)))
        alpha_c = gate.channel(embedding).sigmoid()[:, :, None, None]
    if kind != "channel_only":
        alpha_s = gate.spatial(skip).sigmoid()
    # Equation 4 as printed, and the identity that follows from it.
    printed = skip * (gamma * alpha_c * alpha_s + (1 - gamma) * alpha_s)
    if kind == "spatial_only":
        printed = skip * alpha_s
    torch.testing.assert_close(gate(skip, embedding), printed)
    torch.testing.assert_close(gate(skip, embedding), skip * alpha_s * (1 - gamma * (1 - alpha_c)))
    assert bool((gate(skip, embedding).abs() <= skip.abs()).all())


def test_switches_cut_the_paths_that_they_name(image):
    for gates, reads_features, has_map in (
        ("full", True, True),
        ("no_rag", False, False),
        ("spatial_only", False, True),
        ("channel_only", True, False),
    ):
        torch.manual_seed(0)
        network = RadiomicNet(1, 1, width=0.35, bottleneck=False, decoder=(16, 16, 16, 16, 8), gates=gates).eval()
        with torch.no_grad():
            a, b = (network(image, torch.full((2, 13), value)) for value in (-1.0, 1.0))
        assert torch.equal(a, b) != reads_features
        read = network.intrinsic(image)
        assert any(name.startswith("alpha_s") for name in read) == has_map
        assert ("features" in read) == reads_features == bool(network.feature_names)
        if reads_features:
            assert network.gate_jacobian(read["features"])["alpha_c_4"].shape == (2, read["alpha_c_4"].shape[1], 13)
        else:
            with pytest.raises(UsageError, match="no path from features"):
                network.gate_jacobian(torch.zeros(1, 13))


def test_features_are_those_of_the_image(network, image):
    with torch.no_grad():
        own = network(image)
        torch.testing.assert_close(own, network(image, radiomic_features(image)))
        assert not torch.allclose(own, network(image, radiomic_features(image) + 1000))


def test_the_last_two_steps_commute(network, image):
    """Upsampling before the 1 x 1 head, as the specification has it, gives the same logits."""
    with torch.no_grad():
        encoded = network.encode(image)
        normalised = network.normalised(radiomic_features(image))
        skips = network.gated(encoded, normalised)
        y = network.reduce(encoded[-1])
        for level in (3, 2, 1, 0):
            y = nn.functional.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)
            y = network.decoder[3 - level](torch.cat((y, skips[level]), dim=1))
        y = network.head(nn.functional.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False))
        torch.testing.assert_close(network(image), y, atol=1e-5, rtol=1e-4)


def test_taps_lie_where_the_specification_says(image):
    network = RadiomicNet(1, 1).eval()
    with torch.no_grad():
        *skips, deepest = network.encode(image)
    assert [skip.shape[1:] for skip in skips] == [(16, 32, 48), (24, 16, 24), (32, 8, 12), (96, 4, 6)]
    assert deepest.shape[1:] == (1280, 2, 3)
    assert len(skips) == len(TAPS)


def test_many_feature_vectors_share_one_encoded_image(network, image):
    normalised = torch.randn(5, 13, generator=torch.Generator().manual_seed(5))
    one = image[:1]
    with torch.no_grad():
        together = network.decode(network.encode(one), normalised)
        for row, own in zip(together, normalised, strict=True):
            torch.testing.assert_close(row[None], network.decode(network.encode(one), own[None]), atol=1e-5, rtol=1e-4)
        off = network.decode(network.encode(one), None)
        saved = [gate.mixing.clone() for gate in network.gates]
        for gate in network.gates:
            gate.mixing.fill_(-1e9)
        torch.testing.assert_close(network(one), off, atol=1e-5, rtol=1e-4)
        for gate, value in zip(network.gates, saved, strict=True):
            gate.mixing.copy_(value)


def test_the_jacobian_is_that_of_finite_differences(network, image):
    features = radiomic_features(image)
    jacobian = network.gate_jacobian(features)
    assert sorted(jacobian) == [f"alpha_c_{n}" for n in (1, 2, 3, 4)]
    r = network.normalised(features).double()
    double = zoo.build("radiomicnet-compact", 1, 1).double().eval()
    double.load_state_dict({name: value.double() for name, value in network.state_dict().items()})
    gate, step = double.gates[3], 1e-5
    with torch.no_grad():
        for index in (0, 7, 12):
            move = torch.zeros(13, dtype=torch.float64)
            move[index] = step
            slope = (gate.alpha_c(double.mlp(r + move)) - gate.alpha_c(double.mlp(r - move))) / (2 * step)
            torch.testing.assert_close(jacobian["alpha_c_4"][..., index].double(), slope, atol=1e-5, rtol=1e-3)


def test_alpha_c_is_not_linear_in_the_features(network):
    r = torch.randn(1, 13, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        a, b, middle = (network.gates[0].alpha_c(network.mlp(x)) for x in (r, -r, torch.zeros(1, 13)))
    assert float(((a + b) / 2 - middle).abs().max()) > 1e-3


def test_losses_follow_their_equations():
    generator = torch.Generator().manual_seed(0)
    network = zoo.build("radiomicnet-compact", 1, 1)
    with torch.no_grad():
        network.positive_weight.fill_(4.0)
        network.contrast_range.copy_(torch.tensor([10.0, 30.0]))
    z = torch.randn(2, 1, 12, 14, generator=generator)
    masks = torch.zeros(2, 12, 14, dtype=torch.uint8)
    masks[0, 2:9, 3:11] = 1
    masks[1, 5:7, 5:8] = 1
    masks[:, 0] = 255
    features = torch.zeros(2, 13)
    features[:, 0] = torch.tensor([20.0, 99.0])
    bce, boundary, weights_sum, dice, consistency, pixels = 0.0, 0.0, 0.0, [], [], 0
    for image in range(2):
        mask = masks[image].numpy()
        p = 1 / (1 + np.exp(-z[image, 0].double().numpy()))
        inside, valid = mask == 1, mask != 255
        square = np.ones((3, 3), bool)
        # Beyond the image: no lesion for the dilation, lesion for the erosion, so that its border is no boundary.
        band = ndimage.binary_dilation(inside, square, 3) ^ ndimage.binary_erosion(inside, square, 3, border_value=1)
        weight = np.where(band, 3.0, 1.0) * valid
        plain = -np.where(inside, np.log(p), np.log(1 - p))
        bce += (np.where(inside, 4.0, 1.0) * plain)[valid].sum()
        pixels += valid.sum()
        boundary += (weight * plain).sum()
        weights_sum += weight.sum()
        dice.append(1 - (2 * p[inside].sum() + 1) / (p[valid].sum() + inside.sum() + 1))
        entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))[valid].mean()
        consistency.append((entropy - min(1.0, (float(features[image, 0]) - 10) / 20)) ** 2)
    expected = 0.5 * bce / pixels + 0.5 * np.mean(dice) + 0.1 * boundary / weights_sum
    without = WITHOUT_CONSISTENCY.loss(network, z, masks, features)
    assert float(without) == pytest.approx(expected, rel=1e-5)
    assert float(radiomicnet_loss(network, z, masks, features)) == pytest.approx(
        expected + 0.05 * np.mean(consistency), rel=1e-5
    )


def test_entropy_and_weights_at_their_ends():
    sure = torch.tensor([[[-200.0, 200.0]]], requires_grad=True)
    entropy = mean_entropy(sure, torch.ones(1, 1, 2, dtype=torch.bool))
    entropy.sum().backward()
    assert float(entropy.detach()) == 0.0
    assert bool(torch.isfinite(sure.grad).all())
    assert float(boundary_weights(torch.full((1, 4, 4), 255, dtype=torch.uint8)).sum()) == 0.0


def test_statistics_come_from_the_training_images():
    generator = torch.Generator().manual_seed(4)
    images = (torch.rand(40, 1, 32, 32, generator=generator) ** 2 * 255).to(torch.uint8)
    masks = torch.zeros(40, 32, 32, dtype=torch.uint8)
    masks[:, :4, :4] = 1
    masks[:, -1] = 255
    network = zoo.build("radiomicnet-compact", 1, 1)
    features = OBJECTIVE.prepare(network, images, masks)
    assert features.shape == (40, len(FEATURES))
    normalised = network.normalised(features)
    torch.testing.assert_close(normalised.mean(dim=0), torch.zeros(13), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalised.std(dim=0, correction=0), torch.ones(13), atol=1e-2, rtol=0)
    expected = np.quantile(features[:, 0].numpy(), [0.01, 0.99])
    np.testing.assert_allclose(network.contrast_range.numpy(), expected, rtol=1e-4)
    assert float(network.positive_weight) == 10.0  # (31 * 32 - 16) / 16 = 61, clipped


def test_constant_training_images_are_no_division_by_zero():
    network = zoo.build("radiomicnet-compact", 1, 1)
    images = torch.full((4, 1, 32, 32), 90, dtype=torch.uint8)
    features = prepare(network, images, torch.zeros(4, 32, 32, dtype=torch.uint8))
    assert bool(torch.isfinite(network.normalised(features)).all())
    assert bool(torch.isfinite(network.eval()(torch.zeros(1, 1, 32, 32))).all())


def test_bad_input_is_named(network):
    with pytest.raises(UsageError, match="multiples of 32"):
        network(torch.zeros(1, 1, 40, 64))
    with pytest.raises(UsageError, match="grey or RGB"):
        RadiomicNet(2, 1)
    with pytest.raises(UsageError, match=r"finite|NaN"):
        network(torch.full((1, 1, 32, 32), float("nan")))
