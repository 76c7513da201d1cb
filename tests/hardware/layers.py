"""Integer layers of every geometry, and a convolution in 64-bit integers straight from its definition."""

from __future__ import annotations

import numpy as np
import torch

from xaiseg.hardware.exact import Layer

#: Weight shape and geometry; inputs have ``inputs * groups`` channels.
GEOMETRIES = {
    "3x3": ((4, 3, 3, 3), {"padding": (1, 1)}),
    "1x1": ((5, 6, 1, 1), {}),
    "stride": ((4, 3, 3, 3), {"padding": (1, 1), "stride": (2, 2)}),
    "uneven": ((2, 3, 5, 2), {"padding": (2, 0), "stride": (1, 3)}),
    "dilation": ((2, 3, 3, 3), {"padding": (4, 2), "dilation": (4, 2)}),
    "groups": ((6, 2, 3, 3), {"padding": (1, 1), "groups": 3}),
    "depthwise": ((4, 1, 3, 3), {"padding": (1, 1), "groups": 4}),
    "wide padding": ((2, 1, 3, 3), {"padding": (9, 12)}),
    "up 2x2": ((6, 3, 2, 2), {"stride": (2, 2), "transposed": True}),
    "up 3x3": ((4, 3, 3, 3), {"stride": (2, 2), "padding": (1, 1), "output_padding": (1, 0), "transposed": True}),
    "up groups": ((6, 2, 4, 3), {"stride": (2, 1), "padding": (1, 1), "groups": 3, "transposed": True}),
    "up dilation": ((2, 3, 3, 3), {"stride": (3, 2), "dilation": (2, 3), "padding": (2, 4), "transposed": True}),
}


def layer_named(name: str, *, bias: int = 0, top: int = 127, seed: int = 0) -> Layer:
    """A layer of random weights in +-top and, where ``bias`` > 0, biases in +-bias."""
    random = np.random.default_rng(seed)
    shape, geometry = GEOMETRIES[name]
    weight = torch.as_tensor(random.integers(-top, top + 1, shape))
    bare = Layer(weight, **geometry)
    return Layer(weight, torch.as_tensor(random.integers(-bias, bias + 1, bare.outputs)) if bias else None, **geometry)


def inputs_of(layer: Layer, *, size=(9, 11), low=0, high=255, seed=0) -> torch.Tensor:
    """(2, channels, *size) float32 integers."""
    channels = layer.inputs * layer.groups
    random = np.random.default_rng(seed)
    return torch.as_tensor(random.integers(low, high + 1, (2, channels, *size))).float()


def slow_sums(x: torch.Tensor, layer: Layer) -> torch.Tensor:
    """One tap of the kernel after another, in int64."""
    x, weight = x.long().numpy(), layer.weight.long().numpy()
    count, groups, inputs, outputs = len(x), layer.groups, layer.inputs, layer.outputs
    kernel, out = weight.shape[2:], []
    for axis in range(2):
        size, step, pad = x.shape[2 + axis], layer.stride[axis], layer.padding[axis]
        reach = layer.dilation[axis] * (kernel[axis] - 1) + 1
        if layer.transposed:
            out.append((size - 1) * step - 2 * pad + reach + layer.output_padding[axis])
        else:
            out.append((size + 2 * pad - reach) // step + 1)
    found = np.zeros((count, outputs, *out), dtype=np.int64)
    share = outputs // groups
    for group in range(groups):
        source = x[:, group * inputs : (group + 1) * inputs]
        target = found[:, group * share : (group + 1) * share]
        for i, j in np.ndindex(*kernel):
            if layer.transposed:
                taps = weight[group * inputs : (group + 1) * inputs, :, i, j].T
            else:
                taps = weight[group * share : (group + 1) * share, :, i, j]
            products = np.einsum("oi,bihw->bohw", taps, source)
            offsets = (i * layer.dilation[0] - layer.padding[0], j * layer.dilation[1] - layer.padding[1])
            for a, b in np.ndindex(*x.shape[2:]):
                place = _place((a, b), offsets, layer)
                if place is not None and place[0] in range(out[0]) and place[1] in range(out[1]):
                    target[:, :, place[0], place[1]] += products[:, :, a, b]
    sums = torch.as_tensor(found)
    return sums if layer.bias is None else sums + layer.bias.view(-1, 1, 1)


def _place(source, offsets, layer):
    """The output place that an input place meets through one tap, or None."""
    if layer.transposed:
        return tuple(a * step + shift for a, step, shift in zip(source, layer.stride, offsets, strict=True))
    moved = [a - shift for a, shift in zip(source, offsets, strict=True)]
    if any(a % step for a, step in zip(moved, layer.stride, strict=True)):
        return None
    return tuple(a // step for a, step in zip(moved, layer.stride, strict=True))
