"""A gated network of known truth: five features of the image, of which only the fourth reaches the gate."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tests.explainers.toy_segmenters import WHITE_BOX, ToySegmenter
from xaiseg.subject import SubjectInfo

NAMES = ("first", "second", "third", "brightness", "fifth")


class ToyGates(nn.Module):
    """Two gates. The first has a spatial map and listens to brightness; the second is flat and has no features path.

    Args:
        mixing: gamma of the first gate is sigmoid(mixing).
        lie: the gated skip is this much too large, so that the read-outs do not give it.
    """

    def __init__(self, *, mixing: float = 2.0, lie: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.mixing = nn.Parameter(torch.tensor(mixing))
        self.weight = nn.Parameter(torch.tensor([0.0, 0.0, 0.0, 1.5, 0.0]))
        self.head = nn.Conv2d(4, 1, 3, padding=1)
        self.lie = lie
        nn.init.constant_(self.features.weight, 1 / 9)
        nn.init.constant_(self.head.weight, 0.5)
        nn.init.constant_(self.head.bias, -4.0)

    feature_names = NAMES

    def raw(self, x):
        flat = x.detach().flatten(1)
        return torch.stack([flat[:, 0], flat.std(1), flat.amax(1), 100 * flat.mean(1), flat.amin(1)], dim=1)

    def normalised(self, features):
        return (features - torch.tensor([0.1, 0.2, 0.9, 20.0, 0.0])) / torch.tensor([0.1, 0.1, 0.1, 10.0, 0.1])

    def alpha_c(self, r):
        return torch.sigmoid(torch.stack([r @ self.weight, 0.5 * (r @ self.weight)], dim=1))

    def encode(self, x):
        fine = self.features(x)
        return fine, F.avg_pool2d(fine, 2)

    def spatial(self, skip):
        return torch.sigmoid(6 * (skip[:, :1] - 0.4))

    def gated(self, encoded, normalised, spatial=None):
        given = spatial or {}
        fine, coarse = encoded
        first = fine * given.get(1, self.spatial(fine))
        if normalised is not None:
            gamma = self.mixing.sigmoid()
            first = first * (1 - gamma * (1 - self.alpha_c(normalised)))[:, :, None, None]
        return first * (1 + self.lie), coarse * given.get(2, torch.full_like(coarse[:, :1], 0.5))

    def decode(self, encoded, normalised, spatial=None):
        first, second = self.gated(encoded, normalised, spatial)
        count = max(len(first), len(second))
        up = F.interpolate(second, scale_factor=2.0, mode="nearest").expand(count, -1, -1, -1)
        return self.head(torch.cat((first.expand(count, -1, -1, -1), up), dim=1))

    def forward(self, x):
        return self.decode(self.encode(x), self.normalised(self.raw(x)))

    def intrinsic(self, x):
        fine, coarse = self.encode(x)
        r = self.normalised(self.raw(x))
        return {
            "features": self.raw(x),
            "features_normalised": r,
            "alpha_c_1": self.alpha_c(r),
            "gamma_1": self.mixing.sigmoid().expand(len(x)),
            "alpha_s_1": self.spatial(fine),
            "alpha_s_2": torch.full_like(coarse[:, :1], 0.5),
        }

    def gate_jacobian(self, features):
        jacobian = torch.func.vmap(torch.func.jacrev(lambda r: self.alpha_c(r[None])[0]))
        return {"alpha_c_1": jacobian(self.normalised(features))}


class MapsOnly(nn.Module):
    """A network with an attention map and a vector of its own that cannot be switched off from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(1, 1, 3, padding=1)
        self.relu = nn.ReLU()
        self.mix = nn.Conv2d(1, 1, 3, padding=1)
        for layer in (self.features, self.mix):
            nn.init.constant_(layer.weight, 1 / 9)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        return 20 * self.mix(self.relu(self.features(x))) - 10

    def intrinsic(self, x):
        return {"attention_1": F.avg_pool2d(x, 2).sigmoid(), "bend_1": x.flatten(1)[:, :3]}


class IntrinsicToy(ToySegmenter):
    """A toy segmenter that passes on what its network says of itself."""

    def __init__(self, network: nn.Module, **options) -> None:
        super().__init__(network.eval(), **options)
        self.info = SubjectInfo("toy", self.info.classes, self.info.channels, offers=WHITE_BOX | {"intrinsic"})

    def intrinsic(self, batch):
        return self.network.intrinsic(batch)
