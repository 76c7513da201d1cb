import socket

import pytest
import segmentation_models_pytorch as smp
import torch

from xaiseg import zoo

NAMES = {
    "unet": (smp.Unet, {"decoder_channels": (64, 64, 48, 24, 8)}),
    "unetplusplus": (smp.UnetPlusPlus, {"decoder_channels": (48, 48, 32, 24, 8)}),
    "deeplabv3plus": (smp.DeepLabV3Plus, {"decoder_channels": 96}),
    "fpn": (smp.FPN, {"decoder_pyramid_channels": 128, "decoder_segmentation_channels": 64}),
}


@pytest.mark.parametrize("name", NAMES)
def test_weights_load_in_the_library_and_answer_the_same(name):
    torch.manual_seed(0)
    ours = zoo.build(name, 2, 3).eval()
    kind, options = NAMES[name]
    theirs = kind("mobilenet_v2", encoder_weights=None, in_channels=2, classes=3, **options).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.rand(1, 2, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))


@pytest.mark.parametrize("name", NAMES)
def test_building_reaches_for_no_network(name, monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    zoo.build(name, 1, 1)


def test_all_four_have_one_encoder():
    shapes = [
        {key: value.shape for key, value in zoo.build(name, 1, 1).state_dict().items() if key.startswith("encoder.")}
        for name in NAMES
    ]
    assert all(shape == shapes[0] for shape in shapes)
    assert shapes[0]


@pytest.mark.parametrize("name", NAMES)
def test_they_expose_nothing_intrinsic(name):
    assert zoo.build(name, 1, 1).intrinsic(torch.zeros(1, 1, 32, 32)) == {}
