"""U-KAN: a U-Net whose deep stages are Kolmogorov-Arnold networks on tokens.

Paper: C. Li, X. Liu, W. Li, C. Wang, H. Liu, Y. Yuan, "U-KAN Makes Strong Backbone for Medical Image Segmentation and
Generation", AAAI 2025, arXiv:2406.02918. Three convolution stages are followed by two token stages; a token stage puts
every token through layers whose edges are learnt functions of one variable, a SiLU plus a cubic B-spline. Those
functions can be drawn, and how much the spline bends them can be measured for an image.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiseg.errors import UsageError
from xaiseg.zoo import Card, zoo_model

#: Channels of the third convolution stage and of the two token stages; the first two convolution stages have an eighth
#: and a quarter of the first number.
WIDTHS: Final = (64, 112, 192)

#: The splines are cubic with 5 intervals on [-1, 1], hence 5 + 3 coefficients an edge.
GRID: Final = 5
COEFFICIENTS: Final = GRID + 3
STEP: Final = 2.0 / GRID


def spline_basis(x: Tensor) -> Tensor:
    """The cubic B-splines on a uniform grid of [-1, 1], extended by three intervals on each side.

    Spline k is the cardinal cubic spline on [-2.2 + 0.4 k, -0.6 + 0.4 k]. Inside [-1, 1] they sum to 1; outside they
    fall to 0, which they are from 2.2 on.

    Args:
        x: any shape, float32 or float64.

    Returns:
        The shape of x with a last axis of 8; values in [0, 2/3].

    >>> spline_basis(torch.tensor([-1.0, 3.0])).sum(dim=-1).round(decimals=4)
    tensor([1., 0.])
    """
    centres = torch.arange(COEFFICIENTS, device=x.device, dtype=x.dtype) * STEP - 1.0 - STEP
    distance = (x.unsqueeze(-1) - centres).abs() / STEP
    near, far = (1 - distance).relu(), (2 - distance).relu()
    return (far * far * far - 4 * near * near * near) / 6


class KANLinear(nn.Module):
    """A layer whose edge from input i to output j is ``base[j, i] SiLU(x) + scale[j, i] sum_k spline[j, i, k] B_k(x)``.

    Args:
        before: inputs.
        after: outputs.

    >>> KANLinear(3, 2)(torch.zeros(5, 4, 3)).shape
    torch.Size([5, 4, 2])
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.empty(after, before))
        self.spline = nn.Parameter(torch.empty(after, before, COEFFICIENTS))
        self.scale = nn.Parameter(torch.empty(after, before))
        nn.init.kaiming_uniform_(self.base, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.scale, a=math.sqrt(5))
        nn.init.uniform_(self.spline, -0.05 / GRID, 0.05 / GRID)

    def forward(self, x: Tensor) -> Tensor:
        """Values (..., after) of inputs (..., before)."""
        base, spline = self.parts(x)
        return base + spline

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the SiLU and what the splines contribute, each (..., after); their sum is the layer's answer."""
        # bfloat16 has 8 bits: too few for where a value lies between two knots. The matrix products may round.
        basis = spline_basis(x if x.dtype == torch.float64 else x.float())
        coefficients = self.spline * self.scale.unsqueeze(-1)
        return F.linear(F.silu(x), self.base), F.linear(basis.flatten(-2), coefficients.flatten(1))


class TokenBlock(nn.Module):
    """``x + mix(norm(x))``, where mix is three times a layer on every token and a 3 x 3 convolution among tokens.

    Args:
        width: channels.
        no_kan: linear layers instead of KAN layers.
    """

    def __init__(self, width: int, *, no_kan: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.ModuleList(nn.Linear(width, width) if no_kan else KANLinear(width, width) for _ in range(3))
        self.local = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width), nn.ReLU())
            for _ in range(3)
        )
        self.close = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, width, h, w) of tokens (B, width, h, w)."""
        y = _over_channels(self.norm, x)
        for mix, local in zip(self.mix, self.local, strict=True):
            y = local(_over_channels(mix, y))
        return _over_channels(self.close, x + y)


class UKAN(nn.Module):
    """Three convolution stages, two token stages and the way back, joined by addition.

    Args:
        channels: input channels.
        outputs: output channels; 1 = one logit for a binary task.
        widths: channels of the third convolution stage (a multiple of 8) and of the two token stages.
        no_kan: the ablation: linear layers instead of KAN layers in every token block.

    >>> UKAN(1, 1, widths=(16, 24, 32)).eval()(torch.zeros(2, 1, 32, 64)).shape
    torch.Size([2, 1, 32, 64])
    """

    def __init__(
        self, channels: int, outputs: int, *, widths: tuple[int, int, int] = WIDTHS, no_kan: bool = False
    ) -> None:
        super().__init__()
        first, middle, last = widths
        eighth, quarter = first // 8, first // 4
        self.convolutions = nn.ModuleList(
            [_double(channels, eighth, eighth), _double(eighth, quarter, quarter), _double(quarter, first, first)]
        )
        self.embed = nn.ModuleList([_Embedding(first, middle), _Embedding(middle, last)])
        self.blocks = nn.ModuleList(TokenBlock(width, no_kan=no_kan) for width in (middle, last))
        # On the way back the first of two convolutions keeps the width.
        self.up = nn.ModuleList(
            _double(before, before, after)
            for before, after in (
                (last, middle), (middle, first), (first, quarter), (quarter, eighth), (eighth, eighth),
            )
        )  # fmt: skip
        self.back = nn.ModuleList(TokenBlock(width, no_kan=no_kan) for width in (middle, first))
        self.head = nn.Conv2d(eighth, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, outputs, H, W) of images (B, channels, H, W); H and W are multiples of 32."""
        skips = []
        for stage in self.convolutions:
            x = F.max_pool2d(stage(x), 2)
            skips.append(x)
        for embed, block in zip(self.embed, self.blocks, strict=True):
            x = block(embed(x))
            skips.append(x)
        skips.pop()  # the deepest stage goes up, not across
        for level, up in enumerate(self.up):
            x = F.interpolate(up(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            if skips:
                x = x + skips.pop()
            if level < len(self.back):
                x = self.back[level](x)
        return self.head(x)  # type: ignore[no-any-return]

    def kan_layers(self) -> tuple[KANLinear, ...]:
        """The KAN layers in the order of computation, three a block; empty for the ablation.

        >>> len(UKAN(1, 1, widths=(16, 24, 32)).kan_layers())
        12
        """
        return tuple(
            layer for part in (self.blocks, self.back) for layer in part.modules() if isinstance(layer, KANLinear)
        )

    def edge_function(self, layer: int, i: int, j: int, points: Tensor) -> Tensor:
        """The learnt function from input i to output j of a KAN layer.

        Args:
            layer: index in :meth:`kan_layers`, from 0.
            i: input of the layer.
            j: output of the layer.
            points: (N,) where to evaluate it.

        Returns:
            (N,) values, without gradients.

        Raises:
            UsageError: there is no such layer or edge.

        >>> UKAN(1, 1, widths=(16, 24, 32)).edge_function(0, 3, 5, torch.linspace(-1, 1, 7)).shape
        torch.Size([7])
        """
        layers = self.kan_layers()
        _within("layer", layer, len(layers))
        for name, value, count in zip("ji", (j, i), layers[layer].base.shape, strict=True):
            _within(name, value, count)
        kan = layers[layer]
        with torch.no_grad():
            coefficients = kan.spline[j, i] * kan.scale[j, i]
            return kan.base[j, i] * F.silu(points) + spline_basis(points) @ coefficients.to(points.dtype)

    @torch.no_grad()
    def intrinsic(self, x: Tensor) -> dict[str, Tensor]:
        """How much the splines bend the edge functions on these images; call it in eval mode.

        Args:
            x: images (B, channels, H, W).

        Returns:
            ``nonlinearity_1`` to ``nonlinearity_12``: for every KAN layer and output channel the norm of the splines'
            part over the norm of the SiLU part, over the tokens of an image, (B, width), >= 0. ``token_nonlinearity``:
            the same ratio over the channels of a token, mean of the layers, on the grid of the finest tokens,
            (B, 1, H / 8, W / 8). Empty for the ablation.
        """
        inputs = self._inputs(x)
        scores, maps = {}, []
        finest = (x.shape[-2] // 8, x.shape[-1] // 8)
        for number, (layer, tokens) in enumerate(zip(self.kan_layers(), inputs, strict=True), start=1):
            base, spline = layer.parts(tokens)
            scores[f"nonlinearity_{number}"] = _ratio(spline, base, dim=(1, 2))
            maps.append(F.interpolate(_ratio(spline, base, dim=(3,)).unsqueeze(1), size=finest))
        return {**scores, "token_nonlinearity": torch.stack(maps).mean(dim=0)} if maps else {}

    def _inputs(self, x: Tensor) -> list[Tensor]:
        """What every KAN layer receives, (B, h, w, width) each."""
        inputs: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _module, given, _answer: inputs.append(given[0]))
            for layer in self.kan_layers()
        ]
        try:
            self(x)
        finally:
            for hook in hooks:
                hook.remove()
        return inputs


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


def _double(before: int, between: int, after: int) -> nn.Sequential:
    # ReLU is not in place: attribution methods hook the activations and need them as they were.
    return nn.Sequential(
        nn.Conv2d(before, between, 3, padding=1),
        nn.BatchNorm2d(between),
        nn.ReLU(),
        nn.Conv2d(between, after, 3, padding=1),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def _within(name: str, value: int, count: int) -> None:
    if not 0 <= value < count:
        allowed = f"0 to {count - 1}" if count else "none: this network has no KAN layers"
        raise UsageError("there is no such edge function", where=name, got=value, allowed=allowed)


def _ratio(spline: Tensor, base: Tensor, dim: tuple[int, ...]) -> Tensor:
    above: Tensor = spline.float().square().sum(dim=dim).sqrt()
    below: Tensor = base.float().square().sum(dim=dim).sqrt()
    return above / below.clamp(min=torch.finfo(torch.float32).tiny)


@zoo_model(
    Card(
        name="ukan",
        summary="U-KAN, a U-Net whose deep stages are Kolmogorov-Arnold networks",
        paper="Li, Liu, Li, Wang, Liu, Yuan: U-KAN, AAAI 2025, arXiv:2406.02918",
        parameters=3_065_529,
        multiple_of=32,
        licence="Apache-2.0",
        source="written from the paper's equations",
        differs="64, 112 and 192 channels instead of 128, 160 and 256 (6.4 million parameters) or 256, 320 and 512 (25 "
        "million), so that it trains on a processor; the ablation without KAN layers really replaces them",
    )
)
def ukan(channels: int, outputs: int) -> nn.Module:
    """Builds :class:`UKAN` with random weights."""
    return UKAN(channels, outputs)
