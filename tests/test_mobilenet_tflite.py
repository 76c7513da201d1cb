import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from benchmarks.mobilenet_tflite import state_of


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(0)
    convolutions = [one for one in mobilenet_v2().features.modules() if isinstance(one, nn.Conv2d)]
    return [
        (
            rng.normal(0, 0.1, tuple(one.weight.shape)).astype(np.float32),
            rng.normal(0, 1, one.out_channels).astype(np.float32),
        )
        for one in convolutions
    ]


def test_normalisation_only_adds_the_bias(layers):
    network = mobilenet_v2().features
    network.load_state_dict(state_of(layers), strict=False)
    network.eval()
    image = torch.rand(1, 3, 32, 32)
    weight, bias = (torch.from_numpy(held) for held in layers[0])
    by_hand = nn.functional.relu6(nn.functional.conv2d(image, weight, bias, stride=2, padding=1))
    torch.testing.assert_close(network[0](image), by_hand)


def test_every_layer_has_its_place(layers):
    state = state_of(layers)
    own = {name for name in mobilenet_v2().features.state_dict() if not name.endswith("num_batches_tracked")}
    assert set(state) == own


def test_other_networks_are_refused(layers):
    with pytest.raises(ValueError, match=r"0\.0: .* in MobileNetV2"):
        state_of([(layers[0][0][:8], layers[0][1][:8]), *layers[1:]])
    with pytest.raises(ValueError, match="51 convolutions in the file, 52"):
        state_of(layers[:-1])
