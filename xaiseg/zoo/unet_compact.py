"""A compact U-Net.

Paper: O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI
2015, doi:10.1007/978-3-319-24574-4_28. An encoder halves the grid and a decoder doubles it again; at every level the
encoder's features are joined to the decoder's, so that borders keep their place.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from xaiseg.zoo import Card, Weights, zoo_model

#: Channels at full, half, quarter and eighth resolution.
WIDTHS: Final = (16, 32, 64, 96)


class UNetCompact(nn.Module):
    """Four levels, two 3 x 3 convolutions a level.

    Args:
        channels: input channels.
        outputs: output channels; 1 = one logit for a binary task.
        widths: channels a level, from the full grid to the coarsest.

    >>> UNetCompact(1, 1)(torch.zeros(2, 1, 32, 48)).shape
    torch.Size([2, 1, 32, 48])
    """

    def __init__(self, channels: int, outputs: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        before = (channels, *widths[:-1])
        self.encoder = nn.ModuleList(_double(a, b) for a, b in zip(before, widths, strict=True))
        self.pool = nn.MaxPool2d(2)
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for coarse, fine in steps)
        self.decoder = nn.ModuleList(_double(2 * fine, fine) for _, fine in steps)
        self.head = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, outputs, H, W) of images (B, channels, H, W); H and W are multiples of 8."""
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = block(torch.cat((skip, up(x)), dim=1))
        return self.head(x)  # type: ignore[no-any-return]

    def intrinsic(self, x: Tensor) -> dict[str, Tensor]:
        """A U-Net exposes no explanation of its own."""
        return {}


def _double(before: int, after: int) -> nn.Sequential:
    # ReLU is not in place: attribution methods hook the activations and need them as they were.
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


@zoo_model(
    Card(
        name="unet-compact",
        summary="a compact U-Net for two or more classes",
        paper="Ronneberger, Fischer, Brox: U-Net, MICCAI 2015, doi:10.1007/978-3-319-24574-4_28",
        parameters=391_185,
        multiple_of=8,
        licence="Apache-2.0",
        source="written from the paper",
        differs="16 to 96 channels instead of 64 to 1024 and four levels instead of five, so that it trains on a "
        "processor in minutes; batch normalisation and padded convolutions, so that output and input share one grid",
        weights=(
            Weights(
                "unet-compact-phantom.safetensors",
                sha256="ea8a5673eab04626c25a7bfaa01bfa2e580da7620c5c065a1ad2478c7cf090b0",
                data="breast-ultrasound phantoms that the package generates",
                command="xaiseg zoo train unet-compact --data phantoms --out OUT --epochs 26 --seed 0",
                result="Dice 0.855 (90 % interval 0.830 to 0.876) on 455 test phantoms; docs/zoo/unet-compact.md",
            ),
        ),
    )
)
def unet_compact(channels: int, outputs: int) -> nn.Module:
    """Builds :class:`UNetCompact` with random weights."""
    return UNetCompact(channels, outputs)
