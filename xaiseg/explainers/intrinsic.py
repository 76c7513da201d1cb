"""What an interpretable architecture itself says, and whether the network listens to it.

Read-outs are maps and vectors that the network computes on the way to its answer. For a network whose skips are gated
by named features of the image (:class:`FeatureGated`) more can be asked: what the answer would be with other features,
with none, or with a gate that is the same everywhere. A read-out whose removal changes nothing explains nothing.

The features are numbers of the whole image. They pass no gradient to pixels, so nothing here says where a feature was
seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xaiseg.errors import SubjectError
from xaiseg.explainers.tap import evaluation_mode
from xaiseg.subject import Segmenter

#: Label of reference pixels that do not count.
IGNORE: Final = 255
#: Probabilities closer than this are equal: float32 rounds otherwise in a batch of another size.
ROUNDING: Final = 1e-6


@runtime_checkable
class FeatureGated(Protocol):
    """A network whose skip tensors F are gated as F' = F * alpha_s * (1 - gamma * (1 - alpha_c)).

    alpha_s is a map, alpha_c a value a channel that named features of the image decide, gamma a constant of the
    network. Gates are numbered from 1, the finest. ``intrinsic`` names the read-outs ``features`` and
    ``features_normalised`` (B, n), and for gate 1 ``alpha_c_1`` (B, C), ``alpha_s_1`` (B, 1, h, w) and ``gamma_1``
    (B,); what a network lacks is not there. ``encode`` answers the skips, finest first, and
    then whatever else ``decode`` needs.
    """

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the n features; none where no feature reaches a gate."""

    def intrinsic(self, x: Tensor) -> Mapping[str, Tensor]:
        """Read-outs of images (B, C, H, W) on the network's grid."""

    def gate_jacobian(self, features: Tensor) -> Mapping[str, Tensor]:
        """``alpha_c_1``, ... -> d alpha_c / d r for standardised r, (B, C, n); from raw features (B, n)."""

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        """What one pass through the encoder gives, shared by all variants."""

    def gated(self, encoded: Sequence[Tensor], normalised: Tensor | None) -> tuple[Tensor, ...]:
        """The skips behind their gates, finest first."""

    def decode(
        self, encoded: Sequence[Tensor], normalised: Tensor | None, spatial: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """The network's answers for one image and V standardised feature vectors (V, n); None = gamma is 0 everywhere.

        ``spatial`` replaces the alpha_s of the gates that it names by maps (V or 1, 1, h, w).
        """


@dataclass(frozen=True)
class Change:
    """How far one variant's answer lies from the network's own.

    Attributes:
        probability: mean over the image's pixels of the absolute change of the foreground probability, 0 to 1.
        dice: Dice of the variant minus Dice of the network itself; None without a reference that has foreground.
    """

    probability: float
    dice: float | None


@dataclass(frozen=True)
class GatedImage:
    """One image inside a gated network: what all variants share.

    Attributes:
        subject: the audited model.
        network: its module.
        image: (C, H, W) in the declared range.
        reference: (H, W) uint8 class indices, 255 = does not count; or None.
        encoded: answer of the encoder.
        read: read-outs, each of a batch of one.
        probability: (H, W) float64, the network's own foreground probability.
        labels: (H, W) uint8, its own decision.
        batch: variants decoded at a time.
    """

    subject: Segmenter
    network: FeatureGated
    image: Tensor
    reference: np.ndarray | None
    encoded: tuple[Tensor, ...]
    read: Mapping[str, Tensor]
    probability: np.ndarray
    labels: np.ndarray
    batch: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    @property
    def normalised(self) -> Tensor | None:
        """(1, n) standardised features, or None where no feature reaches a gate."""
        return self.read["features_normalised"] if self.network.feature_names else None

    @property
    def gates(self) -> tuple[int, ...]:
        """Numbers of the gates that have a spatial map."""
        return tuple(sorted(int(name.rpartition("_")[2]) for name in self.read if name.startswith("alpha_s_")))

    def variants(self, normalised: Tensor | None, spatial: Mapping[int, Tensor] | None = None) -> Iterator[Change]:
        """Changes under V feature vectors (V, n), decoded in batches; None = without features.

        ``spatial`` holds maps (V, 1, h, w) or (1, 1, h, w).
        """
        count = max([1 if normalised is None else len(normalised), *(len(m) for m in (spatial or {}).values())])
        for start in range(0, count, self.batch):
            part = slice(start, start + self.batch)
            features = normalised[part] if normalised is not None and len(normalised) > 1 else normalised
            maps = {n: m[part] if len(m) > 1 else m for n, m in (spatial or {}).items()}
            with torch.inference_mode(), evaluation_mode(self.subject.module):
                logits = self.subject.from_network_grid(self.network.decode(self.encoded, features, maps), self.size)
            for own in logits:
                yield self._change(own)

    def _change(self, logits: Tensor) -> Change:
        probability = _foreground(logits)
        labels = self.subject.decide(logits).labels
        moved = np.abs(probability - self.probability)
        moved[moved < ROUNDING] = 0.0
        before, after = (foreground_dice(each, self.reference) for each in (self.labels, labels))
        return Change(float(moved.mean()), None if before is None or after is None else after - before)


def read_outs(subject: Segmenter, image: Tensor) -> dict[str, Tensor]:
    """What the architecture says of one image (C, H, W): name -> map (h, w) or vector (n,), float32 on the processor.

    Raises:
        SubjectError: the subject has no such explanation, or a read-out is not finite.
    """
    with torch.inference_mode(), evaluation_mode(subject.module):
        found = {name: values.float().cpu() for name, values in subject.intrinsic(image[None]).items()}
    for name, values in found.items():
        if not bool(torch.isfinite(values).all()):
            raise SubjectError("a read-out is not finite", where=name, got="NaN or infinity")
    return {name: v[0, 0] if v.ndim == 4 and v.shape[1] == 1 else v[0].reshape(-1) for name, v in found.items()}


def open_gates(
    subject: Segmenter, image: Tensor, reference: np.ndarray | None = None, *, batch: int = 8
) -> GatedImage | None:
    """Encodes an image once for all variants; None where the network is not gated by features or maps.

    Args:
        subject: offers "intrinsic".
        image: (C, H, W) in the declared range.
        reference: (H, W) class indices, 255 = does not count; or None.
        batch: variants decoded at a time.
    """
    network: object = subject.module
    if not isinstance(network, FeatureGated):
        return None
    image = image.to(subject.device, torch.float32)
    size = int(image.shape[1]), int(image.shape[2])
    # no_grad and not inference_mode: the gradients of importance() start from these tensors.
    with torch.no_grad(), evaluation_mode(subject.module):
        x = subject.to_network_grid(image[None])
        encoded, read = network.encode(x), network.intrinsic(x)
        features = read["features_normalised"] if network.feature_names else None
        logits = subject.from_network_grid(network.decode(encoded, features), size)[0]
    labels = subject.decide(logits).labels
    return GatedImage(subject, network, image, reference, encoded, read, _foreground(logits), labels, batch)


def importance(gated: GatedImage) -> tuple[np.ndarray | None, np.ndarray]:
    """Gradients with respect to the standardised features, (n,) each and signed: of the loss, and of the answer.

    The loss is :func:`loss`, the answer the mean foreground probability over the image. Standardised, because a feature
    that runs to hundreds would else have a small gradient for its unit alone.

    Returns:
        Gradient of the loss, None without a reference; gradient of the mean foreground probability.
    """
    assert gated.normalised is not None  # asked for only where features reach a gate
    with torch.enable_grad(), evaluation_mode(gated.subject.module):
        r = gated.normalised.detach().clone().requires_grad_(True)
        logits = gated.subject.from_network_grid(gated.network.decode(gated.encoded, r), gated.size)
        answer = 1 - logits.softmax(dim=1)[:, 0].mean()
        by_answer = torch.autograd.grad(answer, r, retain_graph=gated.reference is not None)[0]
        if gated.reference is None:
            return None, _row(by_answer)
        reference = torch.from_numpy(gated.reference.astype(np.int64)).to(logits.device)
        by_loss = torch.autograd.grad(loss(logits, reference[None]), r)[0]
    return _row(by_loss), _row(by_answer)


def responses(gated: GatedImage, levels: Sequence[float]) -> list[list[Change]]:
    """Changes when one feature at a time is set to each level, in standard deviations from the training mean.

    Returns:
        n features, each with one change a level.
    """
    assert gated.normalised is not None  # asked for only where features reach a gate
    names, own = gated.network.feature_names, gated.normalised
    variants = own.repeat(len(names) * len(levels), 1)
    for index in range(len(names)):
        for step, level in enumerate(levels):
            variants[index * len(levels) + step, index] = level
    found = list(gated.variants(variants))
    return [found[start : start + len(levels)] for start in range(0, len(found), len(levels))]


def knock_outs(gated: GatedImage) -> dict[int, Change]:
    """By gate: the change when its spatial map is replaced by the map's own mean."""
    numbers = gated.gates
    if not numbers:
        return {}
    maps = {}
    for row, number in enumerate(numbers):
        own = gated.read[f"alpha_s_{number}"]
        maps[number] = own.repeat(len(numbers), 1, 1, 1)
        maps[number][row] = own.mean()
    return dict(zip(numbers, gated.variants(gated.normalised, maps), strict=True))


def identity_residual(gated: GatedImage) -> float:
    """Largest distance of F * alpha_s * (1 - gamma * (1 - alpha_c)), made of the read-outs, from the gated skips.

    Relative to the largest value of each gated skip; the largest over the gates. It is rounding, or the read-outs are
    not what the network computes with.
    """
    with torch.inference_mode(), evaluation_mode(gated.subject.module):
        behind = gated.network.gated(gated.encoded, gated.normalised)
        worst = 0.0
        for number, (skip, found) in enumerate(zip(gated.encoded, behind, strict=False), start=1):
            expected = skip * gated.read.get(f"alpha_s_{number}", torch.ones((), device=skip.device))
            if f"alpha_c_{number}" in gated.read:
                gamma, alpha_c = gated.read[f"gamma_{number}"], gated.read[f"alpha_c_{number}"]
                expected = expected * (1 - gamma[:, None] * (1 - alpha_c))[:, :, None, None]
            worst = max(worst, float((expected - found).abs().max() / found.abs().max().clamp(min=1e-12)))
    return worst


def slopes(gated: GatedImage) -> dict[str, np.ndarray]:
    """``alpha_c_1``, ... -> mean over channels of |d alpha_c / d r| for standardised features r, (n,)."""
    if not gated.network.feature_names:
        return {}
    with torch.enable_grad(), evaluation_mode(gated.subject.module):
        found = gated.network.gate_jacobian(gated.read["features"].detach().clone())
    return {name: _row(jacobian.detach().abs().mean(dim=1)) for name, jacobian in found.items()}


def loss(logits: Tensor, reference: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice over the foreground classes, as a scalar; pixels labelled 255 do not count.

    Args:
        logits: (B, K, H, W); (0, z) for one channel, so that two classes give the binary cross-entropy.
        reference: (B, H, W) int64 class indices.

    >>> logits = torch.tensor([[[[20.0, -20.0]], [[-20.0, 20.0]]]])
    >>> float(loss(logits, torch.tensor([[[0, 1]]]))) < 1e-6
    True
    """
    valid = (reference != IGNORE).unsqueeze(1)
    each = F.cross_entropy(logits, reference, ignore_index=IGNORE, reduction="sum") / valid.sum().clamp(min=1)
    probabilities = logits.softmax(dim=1)[:, 1:] * valid
    target = torch.stack([reference == index for index in range(1, logits.shape[1])], dim=1).float()
    both, either = (probabilities * target).sum(dim=(2, 3)), (probabilities + target).sum(dim=(2, 3))
    # The added 1 keeps images without foreground defined.
    return each + (1 - (2 * both + 1) / (either + 1)).mean()


def foreground_dice(labels: np.ndarray, reference: np.ndarray | None) -> float | None:
    """Dice of all foreground classes together (H, W); None where the reference is absent or has no foreground.

    >>> foreground_dice(np.array([[1, 1, 0]]), np.array([[1, 0, 255]]))
    0.6666666666666666
    """
    if reference is None:
        return None
    counts = reference != IGNORE
    wanted, given = (reference > 0) & counts, (labels > 0) & counts
    if not wanted.any():
        return None
    return 2.0 * float((wanted & given).sum()) / float(wanted.sum() + given.sum())


def _foreground(logits: Tensor) -> np.ndarray:
    """(K, H, W) logits -> (H, W) float64, 1 minus the probability of the background."""
    background: np.ndarray = logits.float().softmax(dim=0)[0].cpu().numpy()
    return 1.0 - background.astype(np.float64)


def _row(values: Tensor) -> np.ndarray:
    row: np.ndarray = values[0].double().cpu().numpy()
    return row
