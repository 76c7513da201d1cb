"""What fixes a training: a :class:`Recipe` of numbers and an :class:`Objective` of functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiseg.zoo.augmentation import Augmentation

#: Label of pixels that do not count.
IGNORE: Final = 255


@dataclass(frozen=True)
class Recipe:
    """Everything that fixes a training besides data and seed.

    Attributes:
        size: side of the square grid of the network, pixels.
        resize: how images get there: "pad" keeps their aspect, "stretch" fills the grid.
        epochs: number of epochs.
        images_per_epoch: images drawn an epoch, the same for small and large sets, so that one recipe serves both.
        batch: images a step.
        lr: peak learning rate of AdamW; the warm-up rises to it in a line, a cosine falls from it.
        encoder_lr: peak learning rate of the parameters below ``encoder.``; None = as the others.
        warmup_epochs: length of the warm-up; None = a tenth of the training.
        weight_decay: of AdamW.
        clip: largest norm of the gradient; None = not clipped.
        patience: epochs without a better validation score after which the training ends early; None = never.
        averaging: share of the old value when a step updates the running average of the weights; the average is what is
            scored and kept, because it does not jump from epoch to epoch. 0 = the weights themselves.
        choose_threshold: choose the threshold of a two-class model on the validation part; else it stays 0.5.
        augmentation: random changes of training images.
        bfloat16: compute in bfloat16 where that keeps accuracy; several times faster on processors that have it.
    """

    size: int = 128
    resize: Literal["pad", "stretch"] = "pad"
    epochs: int = 24
    images_per_epoch: int = 800
    batch: int = 16
    lr: float = 3e-3
    encoder_lr: float | None = None
    warmup_epochs: int | None = None
    weight_decay: float = 1e-2
    clip: float | None = None
    patience: int | None = None
    averaging: float = 0.99
    choose_threshold: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    bfloat16: bool = True

    @property
    def steps(self) -> int:
        """Optimiser steps an epoch."""
        return math.ceil(self.images_per_epoch / self.batch)

    def share(self, step: int) -> float:
        """Share of the peak learning rate at a step, counted over all epochs.

        >>> recipe = Recipe(epochs=10, images_per_epoch=160, batch=16)
        >>> recipe.share(9), recipe.share(99) < 0.01
        (1.0, True)
        """
        total = self.epochs * self.steps
        rise = max(1, total // 10 if self.warmup_epochs is None else self.warmup_epochs * self.steps)
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / max(1, total - rise)))


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice, each a mean; pixels labelled 255 do not count.

    Args:
        logits: (B, 1, H, W) for two classes, else (B, classes, H, W).
        masks: (B, H, W) uint8 class indices.

    >>> masks = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    >>> float(segmentation_loss(torch.tensor([[[[-20.0, 20.0]]]]), masks)) < 1e-6
    True
    """
    valid = (masks != IGNORE).unsqueeze(1)
    if logits.shape[1] == 1:
        target = (masks == 1).unsqueeze(1).float()
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        entropy = (entropy * valid).sum() / valid.sum().clamp(min=1)
        probabilities = logits.sigmoid()
    else:
        entropy = F.cross_entropy(logits, masks.long(), ignore_index=IGNORE)
        probabilities = logits.softmax(dim=1)[:, 1:]
        target = torch.stack([masks == index for index in range(1, logits.shape[1])], dim=1).float()
    return entropy + soft_dice_loss(probabilities * valid, target)


def soft_dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice, mean over images and classes (B, K, H, W); ignored pixels must be 0 in both."""
    both = (probabilities * target).sum(dim=(2, 3))
    either = probabilities.sum(dim=(2, 3)) + target.sum(dim=(2, 3))
    # The added 1 keeps images without a lesion defined: they are punished for what they invent.
    return (1 - (2 * both + 1) / (either + 1)).mean()


def _plain_loss(network: nn.Module, logits: Tensor, masks: Tensor, side: Tensor | None) -> Tensor:
    return segmentation_loss(logits, masks)


def _nothing(network: nn.Module, images: Tensor, masks: Tensor) -> Tensor | None:
    return None


@dataclass(frozen=True)
class Objective:
    """The functions in which recipes differ.

    Attributes:
        prepare: called once with the network, the training images (N, C, S, S) uint8 and their masks (N, S, S) uint8,
            before anything is augmented. It may store statistics in the network's buffers and answers a row of side
            inputs an image, (N, F) float32, or None. The network then receives ``network(images, side)``.
        loss: (network, logits (B, K, H, W) float32, masks (B, H, W) uint8, side (B, F) or None) -> scalar.
        classes: the only number of classes that the loss can serve; None = any.
    """

    prepare: Callable[[nn.Module, Tensor, Tensor], Tensor | None] = _nothing
    loss: Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor] = _plain_loss
    classes: int | None = None
