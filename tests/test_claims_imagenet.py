"""Weights out of real 8-bit files: their shapes, an encoder that computes the folded network, a bird seen as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.claims.imagenet import Folded, convolutions, encoder_input, encoder_units, initialise
from tests.conftest import REPOSITORY
from xaiseg.errors import UsageError
from xaiseg.zoo.radiomicnet import RadiomicNet

MODELS = REPOSITORY.parent / "shared" / "models"
NAMES = ("mobilenet_v2_1.0_224_quant", "tf2_mobilenet_v2_1.0_224_ptq")
#: Indices of the birds among the 1001 classes, whose first is "background".
BIRDS = {*range(8, 26), *range(81, 102), *range(128, 148)}
#: Expansion, output channels, repeats of MobileNetV2's blocks: table 2 of arXiv:1801.04381.
TABLE = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))


def existing(path: Path) -> Path:
    if not path.is_file():
        pytest.skip(f"no real weights at {path}")
    return path


@pytest.fixture(params=NAMES)
def path(request) -> Path:
    return existing(MODELS / "mobilenet_imagenet_tflite" / f"{request.param}.tflite")


@pytest.fixture
def better() -> Path:
    return existing(MODELS / "mobilenet_imagenet_tflite" / f"{NAMES[1]}.tflite")


def pictures(channels: int) -> list[np.ndarray]:
    """Smooth random pictures of several sizes."""
    rng = np.random.default_rng(3)
    coarse = [torch.from_numpy(rng.random((1, channels, 6, 6), np.float32)) for _ in range(3)]
    sizes = ((128, 128), (96, 150), (200, 140))
    return [
        nn.functional.interpolate(x, size, mode="bilinear")[0].numpy() for x, size in zip(coarse, sizes, strict=True)
    ]


def shapes_of_the_paper() -> list[tuple[int, ...]]:
    found, before = [(32, 3, 3, 3)], 32
    for expansion, after, repeats in TABLE:
        for _ in range(repeats):
            wide = expansion * before
            found += [(wide, before, 1, 1)] * (expansion > 1) + [(wide, 1, 3, 3), (after, wide, 1, 1)]
            before = after
    return [*found, (1280, 320, 1, 1)]


def folded_network(layers: list[Folded], x: torch.Tensor) -> torch.Tensor:
    """MobileNetV2 without batch norm, written from the paper's table: relu6 but after a block's last convolution."""
    remaining = iter(layers)

    def conv(y: torch.Tensor, stride: int = 1) -> torch.Tensor:
        layer = next(remaining)
        weight = torch.from_numpy(layer.weight)
        groups = y.shape[1] // weight.shape[1]
        padding = weight.shape[-1] // 2
        return nn.functional.conv2d(y, weight, torch.from_numpy(layer.bias), stride, padding, groups=groups)

    x = conv(x, 2).clamp(0, 6)
    for (expansion, _, repeats), first in zip(TABLE, (1, 2, 2, 2, 1, 2, 1), strict=True):
        for index in range(repeats):
            wide = conv(x).clamp(0, 6) if expansion > 1 else x
            y = conv(conv(wide, first if index == 0 else 1).clamp(0, 6))
            x = x + y if index else y
    return conv(x).clamp(0, 6)


def test_the_52_convolutions_have_the_papers_shapes_and_the_53rd_classifies(path):
    layers = convolutions(path)
    expected = shapes_of_the_paper()
    assert len(expected) == 52
    assert [layer.weight.shape for layer in layers] == [*expected, (1001, 1280, 1, 1)]
    assert all(layer.bias.shape == layer.weight.shape[:1] for layer in layers)
    assert all(layer.weight.dtype == layer.bias.dtype == np.float32 for layer in layers)


def test_batch_norm_adds_the_folded_bias_and_nothing_else(better):
    images = pictures(1)
    network = initialise(RadiomicNet(1, 1), better, images).eval()
    layers, units, seen = convolutions(better), encoder_units(network.encoder), {}
    for index in (0, 26, 51):
        for part, module in enumerate(units[index]):
            module.register_forward_hook(lambda _, __, output, key=(index, part): seen.update({key: output}))
    with torch.no_grad():
        network.encoder(encoder_input(images))
    for index in (0, 26, 51):
        expected = seen[index, 0] + torch.from_numpy(layers[index].bias)[:, None, None]
        assert expected.std() > 0.1
        assert (seen[index, 1] - expected).abs().max() < 1e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_the_encoder_computes_the_folded_network_also_on_other_pictures(better, channels):
    network = initialise(RadiomicNet(channels, 1), better, pictures(channels)).eval()
    x = torch.rand(2, channels, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = folded_network(convolutions(better)[:52], 2 * x.expand(-1, 3, -1, -1) - 1)
        torch.testing.assert_close(network._encode(x)[1], expected, rtol=1e-3, atol=1e-3)
    assert expected.std() > 0.1


def test_in_training_mode_the_calibration_pictures_pass_as_in_eval_mode(better):
    images = pictures(3)
    encoder = initialise(RadiomicNet(3, 1), better, images).encoder
    assert encoder.training
    with torch.no_grad():
        # A pass in training mode moves the running statistics: it comes last.
        evaluated, trained = encoder.eval()(encoder_input(images)), encoder.train()(encoder_input(images))
    torch.testing.assert_close(trained, evaluated, rtol=1e-3, atol=1e-3)


def test_nothing_but_the_encoder_changes(better):
    network = RadiomicNet(1, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert initialise(network, better, pictures(1)) is network
    changed = {
        name.split(".")[0] for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"encoder"}
    assert not any(module._forward_hooks for module in network.modules())


def test_an_encoder_without_the_last_convolution_is_initialised_too(better):
    network = initialise(RadiomicNet(1, 1, bottleneck=False), better, pictures(1))
    units, layers = encoder_units(network.encoder), convolutions(better)
    assert len(units) == 51
    assert np.array_equal(units[50][0].weight.detach().numpy(), layers[50].weight)


def test_a_bird_is_seen_as_a_bird(path):
    picture = existing(MODELS / "deeplabv3_voc_tflite" / "bird_segmentation.bmp")
    with Image.open(picture) as opened:
        pixels = np.asarray(opened.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR), np.float32)
    image = pixels.transpose(2, 0, 1) / 255
    network = RadiomicNet(3, 1)
    initialise(network, path, [image])
    classifier = convolutions(path)[-1]
    with torch.no_grad():
        pooled = network.encoder.eval()(2 * torch.from_numpy(image)[None] - 1).mean(dim=(2, 3)).numpy()[0]
    logits = classifier.weight[:, :, 0, 0] @ pooled + classifier.bias
    assert set(np.argsort(-logits)[:5].tolist()) <= BIRDS


def test_a_truncated_file_is_refused_and_the_network_stays_as_it_was(better, tmp_path):
    network, data, damaged = RadiomicNet(1, 1), better.read_bytes(), tmp_path / "w.tflite"
    before = {name: value.clone() for name, value in network.state_dict().items()}
    # Behind the network lies a zipped list of labels of 22 kB, which is not read.
    for length in (0, 6, 20, len(data) // 2, len(data) - 23_000):
        damaged.write_bytes(data[:length])
        with pytest.raises(UsageError, match=r"w\.tflite: the file is damaged or no 8-bit TensorFlow Lite network"):
            initialise(network, damaged, pictures(1))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_noise_in_the_tables_is_read_or_refused_but_never_crashes(better, tmp_path):
    data, damaged = np.frombuffer(better.read_bytes(), np.uint8), tmp_path / "w.tflite"
    rng, refused = np.random.default_rng(0), 0
    for _ in range(20):
        noisy = data.copy()
        where = np.concatenate((rng.integers(8, 400, 4), rng.integers(len(data) - 60_000, len(data), 400)))
        noisy[where] = rng.integers(0, 256, len(where))
        damaged.write_bytes(noisy.tobytes())
        try:
            convolutions(damaged)
        except UsageError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"\x08\0\0\0TFL3" + b"\xff" * 4096])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "w.tflite"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"w\.tflite: the file is damaged or no 8-bit TensorFlow Lite network"):
        convolutions(path)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"w\.tflite: the weights cannot be read\. Got: No such file"):
        initialise(RadiomicNet(1, 1), tmp_path / "w.tflite", pictures(1))


def test_an_encoder_of_another_width_is_refused(better):
    with pytest.raises(
        UsageError, match=r"convolution 1 of the file .* Got: \(32, 3, 3, 3\)\. Allowed: \(16, 3, 3, 3\)"
    ):
        initialise(RadiomicNet(1, 1, width=0.5), better, pictures(1))


def test_a_file_with_too_few_convolutions_is_refused(better, monkeypatch):
    monkeypatch.setattr("benchmarks.claims.imagenet.convolutions", lambda path, real=convolutions: real(path)[:40])
    with pytest.raises(UsageError, match=r"too few convolutions\. Got: 40\. Allowed: >= 52"):
        initialise(RadiomicNet(1, 1), better, pictures(1))
