"""UNeXt: a small U-Net whose deep stages are multilayer perceptrons on shifted tokens.

Paper: J. M. J. Valanarasu, V. M. Patel, "UNeXt: MLP-based Rapid Medical Image Segmentation Network", MICCAI 2022,
doi:10.1007/978-3-031-16443-9_3, arXiv:2203.04967. Three convolution stages are followed by two token stages. Before
each linear layer the channels are divided into five groups that are moved by -2 to 2 tokens along the height or the
width, so that a layer on single tokens sees their neighbours. Which displacements a network uses can be measured.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiseg.zoo import Card, zoo_model

#: Channels of three convolution stages and two token stages.
WIDTHS: Final = (16, 32, 128, 160, 256)

#: How many tokens the five groups of channels are moved along an axis.
DISPLACEMENTS: Final = (-2, -1, 0, 1, 2)


def shift(x: Tensor, axis: int, displacements: tuple[int, ...] = DISPLACEMENTS) -> Tensor:
    """Moves groups of channels along an axis; what moves in from outside is 0.

    Args:
        x: (B, C, h, w).
        axis: 2 = along the height, 3 = along the width.
        displacements: tokens a group moves towards higher indices; the groups are those of ``torch.chunk``.

    >>> shift(torch.arange(1.0, 4.0).expand(1, 2, 1, 3), 3, (-1, 1))
    tensor([[[[2., 3., 0.]],
    <BLANKLINE>
             [[0., 1., 2.]]]])
    """
    margin = max(abs(step) for step in displacements)
    padded = F.pad(x, (margin, margin) if axis == 3 else (0, 0, margin, margin))
    groups = padded.chunk(len(displacements), dim=1)
    moved = [
        group.narrow(axis, margin - step, x.shape[axis]) for group, step in zip(groups, displacements, strict=False)
    ]
    return torch.cat(moved, dim=1)


class ShiftedMLP(nn.Module):
    """``x + mlp(norm(x))``: shift along the height, linear, 3 x 3 a channel, GELU, shift along the width, linear.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.local = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.activation = nn.GELU()
        self.second = nn.Linear(width, width)
        self.close = nn.LayerNorm(width)

    def forward(self, x: Tensor, displacements: tuple[int, ...] = DISPLACEMENTS) -> Tensor:
        """Tokens (B, width, h, w) of tokens (B, width, h, w)."""
        y = shift(_over_channels(self.norm, x), 2, displacements)
        y = self.activation(self.local(_over_channels(self.first, y)))
        y = _over_channels(self.second, shift(y, 3, displacements))
        return _over_channels(self.close, x + y)


class UNeXt(nn.Module):
    """Three convolution stages, two token stages and the way back, joined by addition.

    Args:
        channels: input channels.
        outputs: output channels; 1 = one logit for a binary task.
        widths: channels of three convolution stages and two token stages.

    >>> UNeXt(1, 1, widths=(8, 16, 32, 40, 64)).eval()(torch.zeros(2, 1, 32, 64)).shape
    torch.Size([2, 1, 32, 64])
    """

    def __init__(self, channels: int, outputs: int, *, widths: tuple[int, int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.MaxPool2d(2), nn.ReLU())
            for before, after in ((channels, a), (a, b), (b, c))
        )
        self.embed = nn.ModuleList(_Embedding(before, after) for before, after in ((c, d), (d, e)))
        self.blocks = nn.ModuleList(ShiftedMLP(width) for width in (d, e))
        self.up = nn.ModuleList([_up(e, d), _up(d, c), _up(c, b), _up(b, a), _up(a, a, normalise=False)])
        self.back = nn.ModuleList(ShiftedMLP(width) for width in (d, c))
        self.head = nn.Conv2d(a, outputs, 1)

    def forward(self, x: Tensor, displacements: tuple[int, ...] = DISPLACEMENTS) -> Tensor:
        """Logits (B, outputs, H, W) of images (B, channels, H, W); H and W are multiples of 32."""
        skips = []
        for stage in self.convolutions:
            x = stage(x)
            skips.append(x)
        for embed, block in zip(self.embed, self.blocks, strict=True):
            x = block(embed(x), displacements)
            skips.append(x)
        skips.pop()  # the deepest stage goes up, not across
        for level, up in enumerate(self.up):
            x = up(x)
            if skips:
                x = x + skips.pop()
            if level < len(self.back):
                x = self.back[level](x, displacements)
        return self.head(x)  # type: ignore[no-any-return]

    def intrinsic(self, x: Tensor) -> dict[str, Tensor]:
        """Nothing that one forward gives; :meth:`shift_ablation` costs five more."""
        return {}

    @torch.no_grad()
    def shift_ablation(self, x: Tensor) -> Tensor:
        """How much the logits change when one of the five displacements becomes 0 in all blocks; call it in eval mode.

        Args:
            x: images (B, channels, H, W).

        Returns:
            (B, 5, H, W), >= 0: the absolute change, mean over the outputs, for the displacements -2, -1, 0, 1, 2. The
            middle one is 0 by construction.

        >>> changes = UNeXt(1, 1, widths=(8, 16, 32, 40, 64)).eval().shift_ablation(torch.rand(1, 1, 32, 32))
        >>> changes.shape, float(changes[:, 2].max())
        (torch.Size([1, 5, 32, 32]), 0.0)
        """
        whole = self(x)
        changes = []
        for ablated in range(len(DISPLACEMENTS)):
            steps = tuple(0 if group == ablated else step for group, step in enumerate(DISPLACEMENTS))
            changes.append((self(x, steps) - whole).abs().mean(dim=1))
        return torch.stack(changes, dim=1)


class _Embedding(nn.Module):
    """Tokens of overlapping patches: a 3 x 3 convolution that halves the grid, and a norm."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(before, after, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(after)

    def forward(self, x: Tensor) -> Tensor:
        return _over_channels(self.norm, self.patches(x))


def _over_channels(layer: nn.Module, x: Tensor) -> Tensor:
    """Applies a layer that works on the last axis to the channels of (B, C, h, w)."""
    return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def _up(before: int, after: int, *, normalise: bool = True) -> nn.Sequential:
    # ReLU is not in place: attribution methods hook the activations and need them as they were.
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.BatchNorm2d(after) if normalise else nn.Identity(),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.ReLU(),
    )


@zoo_model(
    Card(
        name="unext",
        summary="UNeXt, a small U-Net whose deep stages are multilayer perceptrons on shifted tokens",
        paper="Valanarasu, Patel: UNeXt, MICCAI 2022, doi:10.1007/978-3-031-16443-9_3",
        parameters=1_471_633,
        multiple_of=32,
        licence="Apache-2.0",
        source="written from the paper's equations",
        differs="nothing in width, depth or size; what a shift moves in from outside the image is 0, as in the "
        "published code, which pads before it rolls; first weights are torch's own",
    )
)
def unext(channels: int, outputs: int) -> nn.Module:
    """Builds :class:`UNeXt` with random weights."""
    return UNeXt(channels, outputs)
