"""The four losses of RadiomicNet (arXiv:2607.02185, equations 5 and 6).

L = 0.5 BCE + 0.5 Dice + 0.1 boundary + 0.05 L_RC.

L_RC, the radiomics consistency loss, wants an image's mean prediction entropy to be its normalised GLCM contrast: a
busy texture may be answered with doubt, a plain one may not. What the paper leaves open is ours: entropy in bits over
all pixels; contrast clipped between the 1 % and 99 % quantiles of the training set; the positive weight clip(neg /
pos, 1, 10) of the training set; a boundary band of three dilations and three erosions by 3 x 3; no gradient to the
contrast.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiseg.zoo.radiomics import radiomic_features
from xaiseg.zoo.recipe import IGNORE, Objective, soft_dice_loss

WEIGHT_BCE: Final = 0.5
WEIGHT_DICE: Final = 0.5
WEIGHT_BOUNDARY: Final = 0.1
WEIGHT_CONSISTENCY: Final = 0.05
#: How much more an error near the boundary weighs.
BOUNDARY_FACTOR: Final = 3.0


def boundary_weights(masks: Tensor) -> Tensor:
    """Weights (B, H, W): 3 within the band dilate XOR erode of three 3 x 3 steps, else 1; 0 where pixels do not count.

    >>> masks = torch.zeros(1, 16, 16, dtype=torch.uint8)
    >>> masks[:, 4:12, 4:12] = 1
    >>> weights = boundary_weights(masks)[0]
    >>> float(weights[8, 8]), float(weights[8, 4]), float(weights[8, 1]), float(weights[8, 0])
    (1.0, 3.0, 3.0, 1.0)
    """
    positive = (masks == 1).unsqueeze(1).float()
    band = (_dilated(positive) - (1 - _dilated(1 - positive)))[:, 0]
    return (1 + (BOUNDARY_FACTOR - 1) * band) * (masks != IGNORE)


def _dilated(x: Tensor) -> Tensor:
    """Three dilations by 3 x 3: a maximum over 7 x 7, taken by rows and then by columns: cheaper."""
    return F.max_pool2d(F.max_pool2d(x, (1, 7), stride=1, padding=(0, 3)), (7, 1), stride=1, padding=(3, 0))


def mean_entropy(logits: Tensor, valid: Tensor) -> Tensor:
    """Mean binary entropy of an image's pixels in bits, (B,) in [0, 1].

    Args:
        logits: (B, H, W); taken instead of probabilities because p log p has no finite gradient where p rounds to 0.
        valid: (B, H, W) bool, pixels that count.

    >>> float(mean_entropy(torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)))
    1.0
    """
    bits = (F.softplus(logits) - logits * logits.sigmoid()) / math.log(2)
    return (bits * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)


def consistency_loss(logits: Tensor, valid: Tensor, contrast: Tensor) -> Tensor:
    """Mean squared difference of mean entropy and normalised contrast (B,), both in [0, 1]."""
    return F.mse_loss(mean_entropy(logits, valid), contrast.detach())


def normalised_contrast(network: nn.Module, features: Tensor) -> Tensor:
    """GLCM contrast between the training set's 1 % and 99 % quantiles, clipped to [0, 1], (B,)."""
    low, high = network.get_buffer("contrast_range")
    contrast: Tensor = (features[:, 0] - low) / (high - low).clamp(min=1e-12)
    return contrast.clamp(0, 1)


def radiomicnet_loss(
    network: nn.Module,
    logits: Tensor,
    masks: Tensor,
    features: Tensor | None,
    *,
    consistency: float = WEIGHT_CONSISTENCY,
    boundary: float = WEIGHT_BOUNDARY,
) -> Tensor:
    """The weighted sum of the four losses.

    Args:
        network: holds ``positive_weight`` and ``contrast_range``, set from the training set.
        logits: (B, 1, H, W) float32.
        masks: (B, H, W) uint8, 255 = does not count.
        features: (B, 13) raw features of the images before augmentation.
        consistency: weight of L_RC; 0 leaves it out.
        boundary: weight of the boundary loss.
    """
    assert features is not None  # the objective prepares them
    valid = masks != IGNORE
    target = (masks == 1).float()
    z = logits[:, 0]
    weight = network.get_buffer("positive_weight")
    bce = F.binary_cross_entropy_with_logits(z, target, reduction="none", pos_weight=weight)
    plain = F.binary_cross_entropy_with_logits(z, target, reduction="none")
    near = boundary_weights(masks)
    probabilities = z.sigmoid()
    loss = WEIGHT_BCE * (bce * valid).sum() / valid.sum().clamp(min=1)
    loss = loss + WEIGHT_DICE * soft_dice_loss((probabilities * valid).unsqueeze(1), (target * valid).unsqueeze(1))
    loss = loss + boundary * (plain * near).sum() / near.sum().clamp(min=1)
    if consistency:
        loss = loss + consistency * consistency_loss(z, valid, normalised_contrast(network, features))
    return loss


def prepare(network: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
    """Features (N, 13) of the training images; stores their statistics and the positive weight in the network.

    Args:
        network: a :class:`~xaiseg.zoo.radiomicnet.RadiomicNet`.
        images: (N, C, S, S) uint8.
        masks: (N, S, S) uint8.
    """
    features = torch.cat([radiomic_features(part.float() / 255) for part in torch.split(images, 64)])
    spread = features.double().std(dim=0, correction=0).float()
    with torch.no_grad():
        network.get_buffer("feature_mean").copy_(features.double().mean(dim=0))
        network.get_buffer("feature_sd").copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))
        network.get_buffer("contrast_range").copy_(torch.quantile(features[:, 0], torch.tensor([0.01, 0.99])))
        positive, negative = (masks == 1).sum(), (masks == 0).sum()
        network.get_buffer("positive_weight").copy_((negative / positive.clamp(min=1)).clamp(1, 10))
    return features


OBJECTIVE: Final = Objective(prepare=prepare, loss=radiomicnet_loss, classes=2)
WITHOUT_CONSISTENCY: Final = replace(OBJECTIVE, loss=partial(radiomicnet_loss, consistency=0.0))
#: The losses of the peers, for comparisons of the architecture alone.
PLAIN: Final = Objective(prepare=prepare)
