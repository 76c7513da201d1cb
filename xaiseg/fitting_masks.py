"""The trainer's part for segmentation: pictures with masks, Dice, and what a step minimises."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xaiseg.data.case import Case
from xaiseg.errors import NothingToAudit, UsageError
from xaiseg.geometry import place, to_network
from xaiseg.zoo.augmentation import augment
from xaiseg.zoo.recipe import IGNORE, Objective, Recipe


@dataclass(frozen=True)
class Score:
    """How a network does on the validation part, on its own grid.

    Attributes:
        dice: mean over images with a lesion, 0 where it is missed entirely; None without such images.
        missed: share of images with a lesion on which nothing of it is found; None without such images.
        false: share of lesion-free images with any false pixel; None without such images.
        selection: mean over all images, a correctly empty one counting 1 and a false one 0; epochs are chosen by it.
    """

    dice: float | None
    missed: float | None
    false: float | None
    selection: float

    @classmethod
    def of(cls, dice: Sequence[float], empty: Sequence[float]) -> Score:
        """From the Dice of images with a lesion, and of lesion-free images (1 correctly empty, 0 not)."""
        return cls(
            dice=_mean(dice),
            missed=_mean([float(value == 0) for value in dice]),
            false=_mean([1 - value for value in empty]),
            selection=_mean([*dice, *empty]) or 0.0,
        )

    def __str__(self) -> str:
        shown = {"dice": self.dice, "missed": self.missed, "false": self.false, "selection": self.selection}
        return " ".join(f"{name} {value:.4f}" for name, value in shown.items() if value is not None)


@dataclass
class MaskPictures:
    """A part of the data on the network's grid: (N, C, S, S) uint8-quantised images in [0, 1] and (N, S, S) labels."""

    images: Tensor
    masks: Tensor
    ids: list[str]
    side: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self) -> str:
        """Digest of names and pixels, so that a checkpoint is never continued with other data."""
        held = hashlib.sha256("\n".join(self.ids).encode())
        held.update(self.images.numpy().tobytes())
        held.update(self.masks.numpy().tobytes())
        return held.hexdigest()


@dataclass(frozen=True)
class MaskTask:
    """Training of a segmenter.

    Attributes:
        objective: what is computed.
        classes: number of classes, background included.
    """

    objective: Objective = field(default_factory=Objective)
    classes: int = 2

    def pictures(self, cases: Iterable[Case], recipe: Recipe, part: str) -> MaskPictures:
        """Brings the cases of a part to the network's grid."""
        return _pictures(cases, recipe, part)

    def refuse(self, own: MaskPictures) -> None:
        """What cannot be trained, found before any time is spent."""
        if self.objective.classes not in (None, self.classes):
            raise UsageError("the loss of this model serves another number of classes", where="classes",
                             got=self.classes, allowed=self.objective.classes)  # fmt: skip
        present = [index for index in range(self.classes) if bool((own.masks == index).any())]
        if len(present) < 2:
            got = f"class {present[0]} alone" if present else "no labelled pixel"
            raise UsageError("a training needs pixels of at least two classes", where="train", got=got,
                             then="Check the masks and the order of classes")  # fmt: skip

    def prepare(self, network: nn.Module, own: MaskPictures) -> None:
        """Lets the objective see the training images before anything is augmented."""
        own.side = self.objective.prepare(network, own.images, own.masks)

    def loss(
        self,
        network: nn.Module,
        own: MaskPictures,
        chosen: Tensor,
        recipe: Recipe,
        generator: torch.Generator,
        device: str,
    ) -> Tensor:
        """What a step minimises over the chosen pictures."""
        images, masks = augment(own.images[chosen].float() / 255, own.masks[chosen], recipe.augmentation, generator)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        side = None if own.side is None else own.side[chosen].to(device)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=recipe.bfloat16):
            logits = network(images) if side is None else network(images, side)
        return self.objective.loss(network, logits.float(), masks.to(device), side)

    def score(self, network: nn.Module, held_out: MaskPictures) -> Score:
        """How a network does on the validation part."""
        return evaluate(network, held_out.images, held_out.masks, self.classes)

    def restored(self, values: Mapping[str, Any]) -> Score:
        """A score as a checkpoint holds it."""
        return Score(**values)


def _pictures(cases: Iterable[Case], recipe: Recipe, part: str) -> MaskPictures:
    images, masks, ids = [], [], []
    size = (recipe.size, recipe.size)
    for case in cases:
        if case.reference is None:
            raise UsageError("a training case has no reference", where=part, got=case.id)
        placement = place(case.shape, size=size, resize=recipe.resize)
        placed = to_network(torch.from_numpy(case.image)[None].float(), placement, fill=0.0)[0]
        images.append((placed.clamp(0, 1) * 255).round().to(torch.uint8))
        mask = torch.from_numpy(case.reference)[None, None].float()
        masks.append(to_network(mask, placement, fill=IGNORE, mode="nearest")[0, 0].to(torch.uint8))
        ids.append(case.id)
    if not images:
        raise NothingToAudit("there is no case to train with", where=part)
    return MaskPictures(torch.stack(images), torch.stack(masks), ids)


@torch.no_grad()
def evaluate(network: nn.Module, images: Tensor, masks: Tensor, classes: int = 2) -> Score:
    """Scores a network on its own grid, with threshold 0.5 or argmax.

    Args:
        network: as in :func:`train`.
        images: (N, C, S, S) uint8; value 255 is the top of the range [0, 1].
        masks: (N, S, S) uint8 class indices, 255 = ignore.
        classes: number of classes; Dice is the mean over the foreground classes that an image has.
    """
    network.eval()
    device = next(network.parameters()).device
    dice: list[float] = []
    empty: list[float] = []
    for start in range(0, len(images), 16):
        batch = (images[start : start + 16].float() / 255).to(device).contiguous(memory_format=torch.channels_last)
        logits = network(batch).cpu()
        labels = (logits[:, 0] > 0).long() if classes == 2 else logits.argmax(dim=1)
        for label, mask in zip(labels, masks[start : start + 16], strict=True):
            value, has_lesion = image_dice(label, mask, classes)
            (dice if has_lesion else empty).append(value)
    return Score.of(dice, empty)


def image_dice(label: Tensor, mask: Tensor, classes: int = 2) -> tuple[float, bool]:
    """Dice of one image, and whether it has a lesion; without one it is 1 when nothing was found, else 0.

    >>> image_dice(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
    (0.6666666666666666, True)
    """
    label, mask = label[mask != IGNORE], mask[mask != IGNORE]
    values = []
    for index in range(1, classes):
        reference, prediction = mask == index, label == index
        if reference.any():
            both = int((reference & prediction).sum())
            values.append(2 * both / int(reference.sum() + prediction.sum()))
    if values:
        return sum(values) / len(values), True
    return float(not (label > 0).any()), False


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
