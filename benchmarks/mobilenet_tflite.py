"""The ImageNet weights of a quantised MobileNetV2 in TensorFlow Lite's format, as torchvision's own network has them.

    pip install ai-edge-litert
    python -m benchmarks.mobilenet_tflite tf2_mobilenet_v2_1.0_224_ptq.tflite --out mobilenet_v2.safetensors

Convolutions hold int8 values with a scale a channel and the batch normalisation that was folded into them; these become
float32 convolutions without a bias and a normalisation that only adds the bias. The network expects images in [-1, 1].
TensorFlow pads a convolution with a stride at the right and at the bottom, torch on all sides, so that features lie up
to half a step apart: a start for training, not a copy of the classifier.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2


def layers_of(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weights, (out, in a group, height, width), and biases (out,) of the convolutions, in the order of the network."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    tensors: list[dict[str, Any]] = interpreter.get_tensor_details()
    for held, bias in pairwise(tensors):
        quantised = held["dtype"] is np.int8 and bias["dtype"] is np.int32
        if quantised and len(held["shape"]) == 4 and len(bias["shape"]) == 1:
            quantisation = held["quantization_parameters"]
            axes = (3, 0, 1, 2) if quantisation["quantized_dimension"] == 3 else (0, 3, 1, 2)  # 3: depthwise
            weight = np.transpose(interpreter.get_tensor(held["index"]).astype(np.float32), axes)
            own = bias["quantization_parameters"]["scales"] * interpreter.get_tensor(bias["index"])
            yield weight * quantisation["scales"].reshape(-1, 1, 1, 1), own.astype(np.float32)


def state_of(layers: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Tensor]:
    """The layers as the state dict of ``torchvision.models.mobilenet_v2().features``.

    Raises:
        ValueError: these are not the layers of MobileNetV2 at width 1.
    """
    network, state = mobilenet_v2().features, {}
    modules = list(network.named_modules())
    convolutions = [(name, one) for name, one in modules if isinstance(one, nn.Conv2d)]
    norms = [(name, one) for name, one in modules if isinstance(one, nn.BatchNorm2d)]
    for (name, conv), (norm_name, norm), (weight, bias) in zip(convolutions, norms, layers, strict=False):
        if conv.weight.shape != weight.shape:
            raise ValueError(f"{name}: {weight.shape} in the file, {tuple(conv.weight.shape)} in MobileNetV2")
        state[f"{name}.weight"] = torch.from_numpy(weight.copy())
        state[f"{norm_name}.weight"] = torch.full_like(norm.weight, (1 + norm.eps) ** 0.5).detach()
        state[f"{norm_name}.bias"] = torch.from_numpy(bias)
        state[f"{norm_name}.running_mean"] = torch.zeros_like(norm.weight).detach()
        state[f"{norm_name}.running_var"] = torch.ones_like(norm.weight).detach()
    if len(state) != 5 * len(convolutions):
        raise ValueError(f"{len(state) // 5} convolutions in the file, {len(convolutions)} in MobileNetV2")
    return state


def main(argv: Sequence[str] | None = None) -> None:
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="a .tflite file with a scale a channel")
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors file")
    args = parser.parse_args(argv)
    save_file(state_of(list(layers_of(args.file))[:52]), args.out)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
