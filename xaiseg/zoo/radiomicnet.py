"""RadiomicNet: a segmenter whose skip connections are gated by named texture features of the image.

Paper: M. A. Rahman, "RadiomicNet", arXiv:2607.02185, 2026. A MobileNetV2 encoder-decoder reads the image; 13
handcrafted features of the same image (:mod:`xaiseg.zoo.radiomics`) pass a small network, and at four levels a
Radiomics Attention Gate multiplies the skip tensor F by

    F' = F * a_s * (1 - gamma * (1 - a_c)),

a_s a spatial map from F, a_c a value a channel from the features, gamma a learned scalar. The features can only
attenuate a channel, by at most a factor 1 - gamma. The paper gives no code and leaves sizes open; what is ours is on
the card and in docs/zoo/radiomicnet.md. a_c is no linear function of the features (two layers, ReLU, LayerNorm, ReLU,
sigmoid), and gamma is none at all: it is a constant of the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from xaiseg.errors import UsageError
from xaiseg.zoo import Card, Weights, zoo_model
from xaiseg.zoo.augmentation import Augmentation
from xaiseg.zoo.radiomicnet_loss import OBJECTIVE
from xaiseg.zoo.radiomics import FEATURES, radiomic_features
from xaiseg.zoo.recipe import Recipe

Gates = Literal["full", "no_rag", "spatial_only", "channel_only"]

#: Modules of MobileNetV2 whose output is a skip: 1/2, 1/4, 1/8 and 1/16 of the image's side.
TAPS: Final = (1, 3, 6, 13)
EMBEDDING: Final = 32


class RadiomicsMLP(nn.Module):
    """13 standardised features -> 32 values, equation 1 of the paper; the hidden width 64 is ours."""

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(len(FEATURES), hidden),
            nn.ReLU(),
            nn.Linear(hidden, EMBEDDING),
            nn.ReLU(),
            nn.LayerNorm(EMBEDDING),
        )

    def forward(self, normalised: Tensor) -> Tensor:
        """(B, 13) -> (B, 32)."""
        return self.layers(normalised)  # type: ignore[no-any-return]


class RadiomicsGate(nn.Module):
    """Radiomics Attention Gate, equations 2 to 4 of the paper.

    Args:
        channels: C of the skip tensor (B, C, h, w).
        kind: "full"; "spatial_only" drops a_c; "channel_only" sets a_s = 1.
    """

    def __init__(self, channels: int, kind: Gates = "full") -> None:
        super().__init__()
        hidden = max(channels // 4, 8)
        self.channel = self.spatial = None
        if kind != "spatial_only":
            self.channel = nn.Sequential(nn.Linear(EMBEDDING, hidden), nn.ReLU(), nn.Linear(hidden, channels))
            self.mixing = nn.Parameter(torch.zeros(()))  # gamma = sigmoid(mixing), one half at first
        if kind != "channel_only":
            self.spatial = nn.Conv2d(channels, 1, 7, padding=3)

    @property
    def gamma(self) -> Tensor:
        """Weight of the radiomics path, a scalar in (0, 1); 0 where there is no such path."""
        return torch.zeros(()) if self.channel is None else self.mixing.sigmoid()

    def alpha_c(self, embedding: Tensor) -> Tensor:
        """(B, 32) -> (B, C) in (0, 1)."""
        assert self.channel is not None  # asked for only where the gate has this path
        return self.channel(embedding).sigmoid()  # type: ignore[no-any-return]

    def forward(self, skip: Tensor, embedding: Tensor | None, alpha_s: Tensor | None = None) -> Tensor:
        """Attenuates a skip tensor.

        Args:
            skip: (B, C, h, w), or (1, C, h, w) for several embeddings of one image.
            embedding: (B, 32); None = the features have no say, as if gamma were 0.
            alpha_s: (B or 1, 1, h, w) in place of the gate's own spatial map.
        """
        gated = skip
        if self.spatial is not None:
            gated = gated * (self.spatial(skip).sigmoid() if alpha_s is None else alpha_s)
        if self.channel is not None and embedding is not None:
            gated = gated * (1 - self.gamma * (1 - self.alpha_c(embedding)))[:, :, None, None]
        return gated


class RadiomicNet(nn.Module):
    """MobileNetV2 encoder, four gates, a decoder that ends at half the image's side, a bilinear step to the full one.

    Args:
        channels: 1 (repeated to three) or 3 input channels, values in [0, 1].
        outputs: output channels; 1 = one logit for a binary task.
        width: multiplier of the encoder's channels.
        bottleneck: keep MobileNetV2's last 1 x 1 convolution to 1280 channels.
        decoder: channels after the 1 x 1 reduction at the bottom, then of the four levels.
        gates: "full" or an ablation: "no_rag", "spatial_only", "channel_only".

    Raises:
        UsageError: another number of channels.

    >>> sum(p.numel() for p in RadiomicNet(3, 1).parameters())
    3269497
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        width: float = 1.0,
        bottleneck: bool = True,
        decoder: tuple[int, int, int, int, int] = (256, 96, 96, 64, 16),
        gates: Gates = "full",
    ) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise UsageError("RadiomicNet reads grey or RGB images", where="channels", got=channels, allowed="1 or 3")
        self.channels = channels
        layers = mobilenet_v2(weights=None, width_mult=width).features
        self.encoder = layers if bottleneck else layers[:-1]
        for module in self.encoder.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = False  # attribution methods hook activations and need them as they were
        *skips, last = _tap_channels(self.encoder)
        reduced, *widths = decoder
        self.reduce = _unit(last, reduced, 1)
        below = (reduced, *widths[:-1])
        steps = zip(below, reversed(skips), widths, strict=True)
        self.decoder = nn.ModuleList(nn.Sequential(_unit(a + skip, b), _unit(b, b)) for a, skip, b in steps)
        self.head = nn.Conv2d(widths[-1], outputs, 1)
        self.gates = nn.ModuleList() if gates == "no_rag" else nn.ModuleList(RadiomicsGate(c, gates) for c in skips)
        self.mlp = RadiomicsMLP() if gates in ("full", "channel_only") else None
        for name, value in (("mean", 0.0), ("sd", 1.0)):
            self.register_buffer(f"feature_{name}", torch.full((len(FEATURES),), value))
        self.register_buffer("contrast_range", torch.tensor([0.0, 1.0]))
        self.register_buffer("positive_weight", torch.ones(()))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the features that reach the gates; none in the ablations without that path."""
        return () if self.mlp is None else FEATURES

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Logits (B, outputs, H, W) of images (B, channels, H, W) in [0, 1]; H and W are multiples of 32.

        Args:
            x: images.
            features: (B, 13) raw radiomic features; None computes them from ``x``. In training they come from
                the images before augmentation. They pass no gradient to the pixels: they count pixel pairs, so it is
                zero almost everywhere.

        Raises:
            UsageError: sides that are no multiples of 32, or pixels that are not finite.
        """
        height, width = x.shape[-2:]
        if height % 32 or width % 32 or not height or not width:
            raise UsageError(
                "sides of images on the network's grid are multiples of 32 px",
                where="image",
                got=f"{width} x {height} px",
                then="Declare input: {multiple_of: 32} or a size",
            )
        normalised = None
        if self.mlp is not None:
            normalised = self.normalised(radiomic_features(x) if features is None else features)
        return self.decode(self.encode(x), normalised)

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """The skips at 1/2, 1/4, 1/8 and 1/16 of the side, and the deepest tensor, of images (B, channels, H, W)."""
        skips, deepest = self._encode(x)
        return (*skips, deepest)

    def gated(
        self, encoded: Sequence[Tensor], normalised: Tensor | None, spatial: Mapping[int, Tensor] | None = None
    ) -> tuple[Tensor, ...]:
        """The skips behind their gates, finest first.

        Args:
            encoded: the answer of :meth:`encode`, of one image or of as many as there are feature vectors.
            normalised: (B, 13) standardised features; None = they have no say, as if gamma were 0.
            spatial: maps (B or 1, 1, h, w) in place of the alpha_s of the gates that it names, 1 to 4.
        """
        skips = tuple(encoded[: len(TAPS)])
        if not len(self.gates):
            return skips
        embedding = None if self.mlp is None or normalised is None else self.mlp(normalised)
        given = spatial or {}
        pairs = enumerate(zip(self.gates, skips, strict=True), start=1)
        return tuple(gate(skip, embedding, given.get(number)) for number, (gate, skip) in pairs)

    def decode(
        self, encoded: Sequence[Tensor], normalised: Tensor | None, spatial: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """Logits (B, outputs, H, W) from an encoded image and B feature vectors; arguments as in :meth:`gated`."""
        skips = self.gated(encoded, normalised, spatial)
        y = self.reduce(encoded[-1])
        for level in (3, 2, 1, 0):
            y, skip = _double(y), skips[level]
            count = max(len(y), len(skip))
            y = torch.cat((y.expand(count, -1, -1, -1), skip.expand(count, -1, -1, -1)), dim=1)
            y = self.decoder[3 - level](y)
        # The paper's last two steps, exchanged: a 1 x 1 convolution and a bilinear step commute, this order is cheaper.
        return _double(self.head(y))

    def normalised(self, features: Tensor) -> Tensor:
        """Features standardised by the training set's mean and standard deviation, (B, 13)."""
        mean, sd = self.get_buffer("feature_mean"), self.get_buffer("feature_sd")
        return (features.to(mean) - mean) / sd

    def _encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        x = 2 * x.expand(-1, 3, -1, -1) - 1  # the range that published weights of MobileNetV2 were trained with
        skips = []
        for index, layer in enumerate(self.encoder):
            x = layer(x)
            if index in TAPS:
                skips.append(x)
        return skips, x

    def intrinsic(self, x: Tensor) -> dict[str, Tensor]:
        """What the architecture itself says of images (B, channels, H, W).

        Returns:
            ``features`` (B, 13) raw, ``features_normalised`` (B, 13), ``embedding`` (B, 32), and for the gates at
            1/2, 1/4, 1/8 and 1/16 of the side, numbered 1 to 4: ``alpha_c_1`` (B, C) in (0, 1), ``alpha_s_1`` (B, 1,
            h, w) in (0, 1), ``gamma_1`` (B,) in (0, 1). What an ablation lacks is not there; "no_rag" answers {}.
        """
        if not len(self.gates):
            return {}
        found: dict[str, Tensor] = {}
        if self.mlp is not None:
            found["features"] = radiomic_features(x)
            found["features_normalised"] = self.normalised(found["features"])
            found["embedding"] = self.mlp(found["features_normalised"])
        skips, _ = self._encode(x)
        for number, (gate, skip) in enumerate(zip(self.gates, skips, strict=True), start=1):
            assert isinstance(gate, RadiomicsGate)
            if gate.channel is not None:
                found[f"alpha_c_{number}"] = gate.alpha_c(found["embedding"])
                found[f"gamma_{number}"] = gate.gamma.expand(len(x))
            if gate.spatial is not None:
                found[f"alpha_s_{number}"] = gate.spatial(skip).sigmoid()
        return found

    def gate_jacobian(self, features: Tensor) -> dict[str, Tensor]:
        """Derivatives d alpha_c / d r at standardised features r: by gate ``alpha_c_1`` to ``alpha_c_4``, (B, C, 13).

        Args:
            features: (B, 13) raw features.

        Raises:
            UsageError: the network has no path from features to gates.
        """
        if (mlp := self.mlp) is None:
            raise UsageError("this ablation of RadiomicNet has no path from features to gates", where="gates")
        normalised = self.normalised(features)
        jacobians: dict[str, Tensor] = {}
        for number, gate in enumerate(self.gates, start=1):
            assert isinstance(gate, RadiomicsGate)
            jacobians[f"alpha_c_{number}"] = torch.func.vmap(torch.func.jacrev(lambda r, g=gate: g.alpha_c(mlp(r))))(
                normalised
            )
        return jacobians


def _tap_channels(encoder: nn.Module) -> list[int]:
    """Channels of the four taps and of the last layer, found by asking: widths are rounded to multiples of 8."""
    was_training = encoder.training
    encoder.eval()
    x, found = torch.zeros(1, 3, 32, 32), []
    with torch.no_grad():
        for index, layer in enumerate(encoder.children()):
            x = layer(x)
            if index in TAPS:
                found.append(x.shape[1])
    encoder.train(was_training)
    return [*found, x.shape[1]]


def _unit(before: int, after: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


#: Optimiser and schedule as the paper states them; epochs, size and augmentation, which it does not, are ours. Its
#: rate for the encoder presumes pretrained weights.
PAPER: Final = Recipe(
    size=256, resize="stretch", epochs=150, images_per_epoch=452, batch=8, lr=1e-4, encoder_lr=1e-5, warmup_epochs=5,
    weight_decay=1e-4, clip=1.0, patience=20, averaging=0.0,
    augmentation=Augmentation(rotate_degrees=15, scale=0.1, shift=0, gain=0.2, gamma=0, blur_px=0, noise_sd=0),
)  # fmt: skip
#: From random weights on a processor. Images fill the grid: a padded border would enter the texture statistics.
#: The weighted cross-entropy pushes probabilities up, so 0.5 is no natural threshold.
COMPACT: Final = Recipe(resize="stretch", clip=1.0, weight_decay=1e-4, choose_threshold=True)

CARD: Final = Card(
    name="radiomicnet",
    summary="MobileNetV2 segmenter whose skips are gated by 13 named texture features",
    paper="M. A. Rahman: RadiomicNet, arXiv:2607.02185, 2026",
    parameters=3_269_497,
    multiple_of=32,
    licence="Apache-2.0",
    source="written from the paper's equations; the paper has no code",
    differs="the paper does not state the encoder's taps, the decoder, hidden widths, how features are computed and "
    "standardised, image size and augmentation: ours (docs/zoo/radiomicnet.md); no ImageNet weights",
)


@zoo_model(CARD, recipes={"compact": COMPACT, "paper": PAPER}, objective=OBJECTIVE)
def radiomicnet(channels: int, outputs: int) -> nn.Module:
    """Builds :class:`RadiomicNet` at the paper's size with random weights."""
    return RadiomicNet(channels, outputs)


@zoo_model(
    replace(
        CARD,
        name="radiomicnet-compact",
        summary="RadiomicNet at a fifth of the size, for a processor",
        parameters=673_037,
        differs="half the encoder's channels, no convolution to 1280 channels, a narrower decoder; else as radiomicnet",
        weights=(
            Weights(
                "radiomicnet-compact-phantom.safetensors",
                sha256="928914ecbb46d5c05583b02cffdb3fe478317a601f4a3714a6b13c832c50f5be",
                data="breast-ultrasound phantoms that the package generates",
                command="xaiseg zoo train radiomicnet-compact --data phantoms --out OUT --seed 0",
                result="Dice 0.834 (90 % interval 0.807 to 0.857) on 455 test phantoms; docs/zoo/radiomicnet.md",
            ),
            Weights(
                "radiomicnet-compact-busbra.safetensors",
                sha256="c15d990c76afb0a7f4127db0a5cd4890dea0c93e45c562f36f63e5907a97f9ae",
                data="BUS-BRA breast ultrasound, 184 images (Gomez-Flores et al., doi:10.1002/mp.16812; use is "
                "permitted on condition of this citation)",
                command="xaiseg zoo train radiomicnet-compact --data FOLDER "
                "--split examples/clinical/busbra/split.csv --out OUT --seed 0",
                result="Dice 0.768 (90 % interval 0.723 to 0.802) on 129 images, 75 patients; docs/zoo/radiomicnet.md",
            ),
        ),
    ),
    recipes={"compact": COMPACT, "paper": PAPER},
    objective=OBJECTIVE,
)
def radiomicnet_compact(channels: int, outputs: int) -> nn.Module:
    """Builds a narrow :class:`RadiomicNet` with random weights."""
    return RadiomicNet(channels, outputs, width=0.5, bottleneck=False, decoder=(96, 48, 48, 32, 16))
