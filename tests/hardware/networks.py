"""Small networks of every operator that can move to integers, and phantoms for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import xaiseg.zoo
from xaiseg.data.phantoms import PhantomSpec, phantom_case
from xaiseg.hardware.folding import fold
from xaiseg.hardware.graph import trace
from xaiseg.hardware.quantise import quantise
from xaiseg.zoo.unet_compact import UNetCompact


class Everything(nn.Module):
    """Residual sums, ReLU6, steps up, poolings, grouped and transposed convolutions, a gate, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.BatchNorm2d(8))
        self.mean = nn.AvgPool2d(2)
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, groups=2))
        self.norm = nn.BatchNorm2d(4)
        self.gate = nn.Conv2d(8, 1, 1)
        self.drop = nn.Dropout2d(0.5)
        self.head = nn.Conv2d(8 + 8 + 8 + 4, 2, 1)

    def forward(self, x):
        x = self.first(x)
        y = F.relu(x + self.depthwise(x))  # a sum behind which a rectifier stands
        z = F.max_pool2d(y, 3, stride=2, padding=1)
        z = z + self.second(z)  # a signed sum with another reader
        low = F.interpolate(self.mean(z), scale_factor=4, mode="bilinear")
        near = F.interpolate(F.relu(z), scale_factor=2)
        gated = y * torch.sigmoid(self.gate(y))
        return self.head(self.drop(torch.cat((low, near, gated, self.norm(self.up(z))), 1)))


class Vectors(nn.Module):
    """A classifier: strided convolution, flattening, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten())
        self.layers = nn.Sequential(nn.Linear(16, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x):
        return self.layers(self.features(x))


def seeded(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """In evaluation mode, every parameter and statistic random."""
    random = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=random)
            value.copy_(drawn.abs() + 0.5 if name.endswith(("running_var",)) else 0.4 * drawn)
    return network.eval()


def images(count: int, *, seed: int = 1, size=(16, 16)) -> torch.Tensor:
    """(count, 2, *size) in [0, 1]."""
    return torch.rand(count, 2, *size, generator=torch.Generator().manual_seed(seed))


def quantised_network(network: nn.Module, batch: torch.Tensor, *, scheme=None, outside=()):
    return quantise(fold(trace(network, outside=outside)), [(batch,)], split="calibration", scheme=scheme)


def phantoms(count: int, split: str, *, side: int = 64) -> torch.Tensor:
    """(count, 1, side, side) in [0, 1]."""
    spec = PhantomSpec(split=split, size=(side, side))
    return torch.stack([torch.as_tensor(phantom_case(spec, i)[0].astype(np.float32) / 255)[None] for i in range(count)])


def shipped() -> UNetCompact:
    """The compact U-Net with its shipped weights."""
    network = UNetCompact(1, 1).eval()
    network.load_state_dict(
        load_file(Path(xaiseg.zoo.__file__).parent / "weights" / "unet-compact-phantom.safetensors")
    )
    return network


def half_even(sums, shifts):
    """Division by 2^shifts as torch.round does it: a mutation of the golden model."""
    return torch.round(sums.double() * torch.exp2(-shifts.double())).long()
