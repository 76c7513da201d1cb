"""The convolutional part of RadiomicNet as a network of its own, its gates kept outside the integers.

What stays in floating point: the texture features of the image, the network that embeds them, the four gates (sigmoids
and products), and the last bilinear step, behind the head whose sums keep all digits.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiseg.errors import UsageError
from xaiseg.zoo.radiomicnet import TAPS, RadiomicNet
from xaiseg.zoo.radiomics import radiomic_features

#: Keep these outside: ``trace(RadiomicCore(network), outside=OUTSIDE)``; an ablation without gates has none.
OUTSIDE: Final = ("network.gates",)


class RadiomicCore(nn.Module):
    """Encoder, decoder and head of a RadiomicNet, written without decisions on shapes.

    Args:
        network: any ablation, in evaluation mode.

    >>> core = RadiomicCore(RadiomicNet(1, 1, width=0.25, bottleneck=False, decoder=(16, 16, 16, 16, 16)).eval())
    >>> core(*core.arguments(torch.zeros(1, 1, 32, 32))).shape
    torch.Size([1, 1, 32, 32])
    """

    def __init__(self, network: RadiomicNet) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    def arguments(self, images: Tensor) -> tuple[Tensor, ...]:
        """What :meth:`forward` reads of images (B, channels, H, W) in [0, 1].

        Returns:
            the images as (B, 3, H, W) in [-1, 1], and where features reach the gates their embedding (B, 32).

        Raises:
            UsageError: sides that are no multiples of 32, or pixels that are not finite.
        """
        if images.shape[-1] % 32 or images.shape[-2] % 32:
            got = f"{images.shape[-1]} x {images.shape[-2]} px"
            raise UsageError("sides of images are multiples of 32 px", where="image", got=got)
        x = 2 * images.expand(-1, 3, -1, -1) - 1
        if self.network.mlp is None:
            return (x,)
        with torch.no_grad():
            return x, self.network.mlp(self.network.normalised(radiomic_features(images)))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Logits (B, outputs, H, W) of what :meth:`arguments` answers."""
        skips = []
        for index, layer in enumerate(self.network.encoder):
            x = layer(x)
            if index in TAPS:
                skips.append(x)
        if len(self.network.gates):
            has_features = self.network.mlp is not None
            skips = [
                gate(skip, embedding if has_features else None)
                for gate, skip in zip(self.network.gates, skips, strict=True)
            ]
        y = self.network.reduce(x)
        for skip, block in zip(reversed(skips), self.network.decoder, strict=True):
            y = block(torch.cat((_doubled(y), skip), dim=1))
        return _doubled(self.network.head(y))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
