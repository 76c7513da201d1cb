"""Puts MobileNetV2 weights that were trained on ImageNet, out of an 8-bit .tflite file, into RadiomicNet's encoder.

The paper's encoder starts from ImageNet. Two public files hold MobileNetV2 1.0 224 in 8 bits (google-coral/test_data at
104342d, Apache-2.0); both read here. ``tf2_mobilenet_v2_1.0_224_ptq.tflite`` is the better one: a scale a channel,
top-1 and top-5 on ImageNet of 69.6 and 89.1 %, against 68.9 and 88.2 % for ``mobilenet_v2_1.0_224_quant.tflite``, which
has a scale a tensor and was trained with rounding in the loop (both measured on an ARTPEC-7 by
AxisCommunications/axis-model-zoo).

A .tflite file is a flatbuffer; the few tables that matter are walked by field number of the public schema
(tensorflow/lite/schema/schema.fbs), because no reader of it is among the project's dependencies.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.claims.plan import RECIPE
from xaiseg.errors import UsageError
from xaiseg.geometry import place, to_network

CONV_2D: Final = 3
DEPTHWISE_CONV_2D: Final = 4
#: TensorType of the schema -> numpy, as far as 8-bit networks hold them.
TYPES: Final = {2: "<i4", 3: "u1", 9: "i1"}
#: What walking a damaged file can raise.
DAMAGE: Final = (struct.error, ValueError, IndexError, KeyError)


@dataclass(frozen=True)
class Folded:
    """A convolution with its batch norm folded in.

    Attributes:
        weight: (O, I, kh, kw) float32; a depthwise one has I = 1.
        bias: (O,) float32.
    """

    weight: np.ndarray
    bias: np.ndarray


def initialise(network: nn.Module, path: Path, images: list[np.ndarray]) -> nn.Module:
    """Initialises an encoder, so that in eval mode it computes what the file's network computes in real numbers.

    Batch norm is folded into the file's weights. Its layers here become the identity plus the folded bias: mean and
    deviation of the convolution's output over ``images`` are what they normalise by and what they scale to. In training
    mode a batch brings its own: on ultrasound, 16 images move the skips by 6 to 14 % and the last layer by a third
    (root mean square) if ``images`` are spread over the set, by 20 to 26 % and a half if they are its first 64.

    One difference stays: at stride 2 TFLite pads an even side below and right only, torch all around: its samples lie a
    pixel of the layer's input (half a pixel of its output) further up and left.

    Args:
        network: has ``encoder``, torchvision's MobileNetV2 features at width 1, with or without the last layer.
        path: the .tflite file.
        images: training images, (C, H, W) float32 in [0, 1], C = 1 or 3, of any sizes; 64 do if spread over the set.

    Returns:
        The same network; nothing but the encoder has changed, and on an error that has not either.

    Raises:
        UsageError: the file cannot be read as such a network, the encoder has another shape, or there are no images.

    >>> initialise(nn.Module(), Path("absent.tflite"), [])
    Traceback (most recent call last):
    xaiseg.errors.UsageError: images: batch norm needs images to calibrate on. Got: 0. Allowed: 1 or more.
    """
    if not images:
        raise UsageError("batch norm needs images to calibrate on", where="images", got=0, allowed="1 or more")
    encoder, layers = network.get_submodule("encoder"), convolutions(path)
    units = encoder_units(encoder)
    _refuse_other_shapes(units, layers, path)
    training = encoder.training
    encoder.eval()
    hooks = []
    with torch.no_grad():
        for (conv, norm), layer in zip(units, layers, strict=False):
            conv.weight.copy_(torch.from_numpy(layer.weight))
            hooks.append(conv.register_forward_hook(_calibration(norm, torch.from_numpy(layer.bias))))
        # One pass does: a hook sets each batch norm from the output that is about to enter it.
        encoder(encoder_input(images).to(units[0][0].weight))
    for hook in hooks:
        hook.remove()
    encoder.train(training)
    return network


def encoder_units(encoder: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """An encoder's convolutions with the batch norm that follows each, in order of execution."""
    convs = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    return list(zip(convs, norms, strict=True))


def encoder_input(images: Sequence[np.ndarray]) -> Tensor:
    """Images (C, H, W) in [0, 1] as the encoder gets them: (B, 3, 128, 128) in [-1, 1], the range of the file too.

    >>> encoder_input([np.ones((1, 40, 50), np.float32), np.zeros((3, 8, 8), np.float32)]).mean(dim=(1, 2, 3)).tolist()
    [1.0, -1.0]
    """
    batch = []
    for image in images:
        placement = place(image.shape[1:], size=(RECIPE.size, RECIPE.size), resize=RECIPE.resize)
        x = to_network(torch.from_numpy(image)[None].float(), placement, fill=0.0).clamp(0, 1)
        batch.append(x.expand(-1, 3, -1, -1))
    return 2 * torch.cat(batch) - 1


def convolutions(path: Path) -> list[Folded]:
    """The convolutions of a .tflite file in order of execution; in a classifier the last one is the classifier.

    Raises:
        UsageError: the file is absent, damaged or of another kind.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError("the weights cannot be read", where=path, got=error.strerror) from error
    try:
        return _convolutions(data)
    except DAMAGE as error:
        raise UsageError(
            "the file is damaged or no 8-bit TensorFlow Lite network", where=path, got=error,
            allowed="mobilenet_v2_1.0_224_quant.tflite or tf2_mobilenet_v2_1.0_224_ptq.tflite", then="Fetch it again",
        ) from error  # fmt: skip


def dequantise(stored: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    """scale * (stored - zero), float32; ``scale`` and ``zero`` hold one value, or one for each index of the first axis.

    >>> dequantise(np.array([[0, 2], [1, 5]], np.uint8), np.array([0.5, 2.0]), np.array([1, 1])).tolist()
    [[-0.5, 0.5], [0.0, 8.0]]
    """
    column = (-1,) + (1,) * (stored.ndim - 1)
    # int64 first: uint8 would wrap below the zero point.
    return ((stored.astype(np.int64) - zero.reshape(column)) * scale.reshape(column).astype(float)).astype(np.float32)


def _refuse_other_shapes(units: list[tuple[nn.Conv2d, nn.BatchNorm2d]], layers: list[Folded], path: Path) -> None:
    if len(layers) < len(units):
        raise UsageError("the file has too few convolutions", where=path, got=len(layers), allowed=f">= {len(units)}")
    for number, ((conv, _), layer) in enumerate(zip(units, layers, strict=False), start=1):
        if layer.weight.shape != tuple(conv.weight.shape):
            raise UsageError(
                f"convolution {number} of the file does not fit the encoder", where=path, got=layer.weight.shape,
                allowed=tuple(conv.weight.shape), then="File and encoder must both be MobileNetV2 of width 1.0",
            )  # fmt: skip


def _calibration(norm: nn.BatchNorm2d, bias: Tensor) -> Callable[..., None]:
    def hook(conv: nn.Module, inputs: Any, output: Tensor) -> None:
        variance, mean = torch.var_mean(output, dim=(0, 2, 3), correction=0)
        assert norm.running_mean is not None  # torchvision's batch norm tracks both
        assert norm.running_var is not None
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.copy_(mean + bias)

    return hook


def _convolutions(data: bytes) -> list[Folded]:
    if data[4:8] != b"TFL3":
        raise ValueError(f"the file begins with {data[:8]!r}")
    model = _Table(data, _number(data, "I", 0))
    codes, (graph, *_), buffers = model.tables(1), model.tables(2), model.tables(4)
    tensors, found = graph.tables(0), []
    for operator in graph.tables(3):
        code = codes[operator.number(0, "I")]
        # Files older than schema 3a have the byte alone, newer ones repeat it in the wide field.
        kind = max(code.number(0, "b"), code.number(3, "i"))
        if kind not in (CONV_2D, DEPTHWISE_CONV_2D):
            continue
        _, weight, bias = (tensors[index] for index in operator.array(1, "<i4"))
        found.append(_folded(weight, bias, buffers, depthwise=kind == DEPTHWISE_CONV_2D))
    return found


def _folded(weight: _Table, bias: _Table, buffers: list[_Table], *, depthwise: bool) -> Folded:
    # (O, kh, kw, I), depthwise (1, kh, kw, O): a scale a channel counts along O in both.
    axes = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
    folded = Folded(_values(weight, buffers, axes), _values(bias, buffers, (0,)))
    if len(folded.weight) != len(folded.bias):
        raise ValueError(f"{len(folded.weight)} output channels with {len(folded.bias)} biases")
    return folded


def _values(tensor: _Table, buffers: list[_Table], axes: tuple[int, ...]) -> np.ndarray:
    stored = buffers[tensor.number(2, "I")].array(0, "u1").view(TYPES[tensor.number(1, "b")])
    quantisation = tensor.table(4)
    scale, zero = quantisation.array(2, "<f4"), quantisation.array(3, "<i8")
    with np.errstate(all="ignore"):  # what comes of a damaged scale is refused below
        values = dequantise(stored.reshape(tensor.array(0, "<i4")).transpose(axes), scale, zero)
    if not np.isfinite(values).all():
        raise ValueError("a scale is not finite")
    return np.ascontiguousarray(values)


@dataclass(frozen=True)
class _Table:
    """A flatbuffer table: at ``at`` stands a signed step back to the list that says where its fields are."""

    data: bytes
    at: int

    def spot(self, field: int) -> int:
        """Where a field's value is; 0 = it is left out and has its default."""
        listing, entry = self.at - _number(self.data, "i", self.at), 4 + 2 * field
        step = _number(self.data, "H", listing + entry) if entry < _number(self.data, "H", listing) else 0
        return self.at + step if step else 0

    def number(self, field: int, code: str) -> int:
        """An integer, ``code`` as in :mod:`struct`."""
        spot = self.spot(field)
        return _number(self.data, code, spot) if spot else 0

    def table(self, field: int) -> _Table:
        return _Table(self.data, self._target(field))

    def tables(self, field: int) -> list[_Table]:
        start = self._target(field)
        spots = range(start + 4, start + 4 + 4 * _number(self.data, "I", start), 4)
        return [_Table(self.data, spot + _number(self.data, "I", spot)) for spot in spots]

    def array(self, field: int, dtype: str) -> np.ndarray:
        start = self._target(field)
        return np.frombuffer(self.data, dtype, _number(self.data, "I", start), start + 4)

    def _target(self, field: int) -> int:
        spot = self.spot(field)
        if not spot:
            raise ValueError(f"field {field} is missing")
        return spot + _number(self.data, "I", spot)


def _number(data: bytes, code: str, spot: int) -> int:
    if spot < 0:  # struct would count from the end
        raise ValueError("a reference leads out of the file")
    return int(struct.unpack_from("<" + code, data, spot)[0])
