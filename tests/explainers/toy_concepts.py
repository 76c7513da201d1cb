"""A segmenter whose layer holds two planted concepts: A drives the logit, B does not reach it."""

import numpy as np
import torch
from torch import nn

from tests.explainers.toy_segmenters import ToySegmenter
from xaiseg.explainers.pooling import Example
from xaiseg.explainers.targets import Region

#: Directions of the six channels of the layer.
A = np.array([1.0, 2.0, 0.0, 0.0, 1.0, 0.0]) / 6**0.5
B = np.array([0.0, 0.0, 1.0, 2.0, 0.0, 1.0]) / 6**0.5
SHIFT = 0.1


class Planted(nn.Module):
    """The image's channels 0 and 1 are the amounts of A and B; behind a ReLU the logit is a 3 x 3 mean of A's."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.lift = nn.Conv2d(2, 6, 1, bias=False)
        self.relu = nn.ReLU()
        self.head = nn.Conv2d(6, 1, 3, padding=1)
        with torch.no_grad():
            self.lift.weight.copy_(torch.tensor(np.stack((A, B), axis=1))[:, :, None, None])
            self.head.weight.copy_(torch.tensor(gain * A / 9)[None, :, None, None].expand(1, -1, 3, 3))
            self.head.bias.fill_(-SHIFT)

    def forward(self, x):
        return self.head(self.relu(self.lift(x)))


def planted(**options):
    return ToySegmenter(Planted(**options).eval(), channels=2)


def blobs(seed, *, a=1.0, b=1.0, size=(12, 18), noise=0.02):
    """An image (2, H, W) with a square of A on the left half and one of B on the right half."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = rng.uniform(0, noise, size=(2, height, width))
    top, left = rng.integers(0, height - 5), rng.integers(0, width // 2 - 5)
    image[0, top : top + 5, left : left + 5] += a
    top, left = rng.integers(0, height - 5), rng.integers(width // 2, width - 5)
    image[1, top : top + 5, left : left + 5] += b
    return image.astype(np.float32)


def case(seed, **options):
    """An image and, as target, the mean logit over its square of A."""
    image = blobs(seed, **options)
    return image, Region(1, image[0] > 0.5)


def examples(count, start=0, prefix="", **options):
    return [Example(f"{prefix}{n}", blobs(n, **options)) for n in range(start, start + count)]
