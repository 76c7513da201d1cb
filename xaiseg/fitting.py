"""The one small trainer: a compact segmenter on a processor in minutes, resumable, the same under a seed.

Images are brought to the network's grid exactly as the audited subject does it (:mod:`xaiseg.geometry`), so training
and audit see the same pixels.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiseg.augmentation import Augmentation, augment
from xaiseg.data.case import Case
from xaiseg.errors import NothingToAudit, UsageError
from xaiseg.geometry import place, to_network
from xaiseg.seeds import derive_seed

IGNORE: Final = 255


@dataclass(frozen=True)
class Recipe:
    """Everything that fixes a training besides data and seed.

    Attributes:
        size: side of the square grid of the network, pixels; images are letterboxed.
        epochs: number of epochs.
        images_per_epoch: images drawn an epoch, the same for small and large sets, so that one recipe serves both.
        batch: images a step.
        lr: peak learning rate of AdamW; a tenth of the steps rise to it, a cosine falls from it.
        weight_decay: of AdamW.
        averaging: share of the old value when a step updates the running average of the weights; the average is what is
            scored and kept, because it does not jump from epoch to epoch.
        augmentation: random changes of training images.
        bfloat16: compute in bfloat16 where that keeps accuracy; several times faster on processors that have it.
    """

    size: int = 128
    epochs: int = 24
    images_per_epoch: int = 800
    batch: int = 16
    lr: float = 3e-3
    weight_decay: float = 1e-2
    averaging: float = 0.99
    augmentation: Augmentation = field(default_factory=Augmentation)
    bfloat16: bool = True

    @property
    def steps(self) -> int:
        """Optimiser steps an epoch."""
        return math.ceil(self.images_per_epoch / self.batch)

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted over all epochs.

        >>> recipe = Recipe(epochs=10, images_per_epoch=160, batch=16)
        >>> round(recipe.rate(9), 6) == recipe.lr, recipe.rate(99) < 0.01 * recipe.lr
        (True, True)
        """
        total = self.epochs * self.steps
        rise = max(1, total // 10)
        if step < rise:
            return self.lr * (step + 1) / rise
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / max(1, total - rise)))


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


@dataclass(frozen=True)
class Trained:
    """What a training left behind.

    Attributes:
        weights: the safetensors file.
        epoch: the chosen epoch, counted from 1.
        score: its score on the validation part.
        parameters: number of trainable values.
    """

    weights: Path
    epoch: int
    score: Score
    parameters: int


@dataclass
class _Pictures:
    """A part of the data on the network's grid: (N, C, S, S) uint8-quantised images in [0, 1] and (N, S, S) labels."""

    images: Tensor
    masks: Tensor


def train(
    build: Callable[[], nn.Module],
    train_cases: Iterable[Case],
    validation_cases: Iterable[Case],
    *,
    recipe: Recipe,
    out: Path,
    seed: int = 0,
    log: Callable[[str], None] = print,
    device: str = "cpu",
    classes: int = 2,
) -> Trained:
    """Trains a network and keeps the epoch that does best on the validation part.

    Args:
        build: makes the network; it answers one logit a pixel for two classes, else ``classes`` logits.
        train_cases: cases with a reference; values of their images lie in [0, 1].
        validation_cases: the same, from other clusters.
        recipe: see :class:`Recipe`.
        out: folder for weights.safetensors; holds checkpoint.pt while the training runs, and the same call goes on from
            there after an interruption, ending with the same weights on the same machine.
        seed: fixes first weights, order and augmentation.
        log: receives a line an epoch.
        device: where to compute.
        classes: number of classes, background included.

    Raises:
        NothingToAudit: a part has no case.
        UsageError: ``out`` holds the checkpoint of another training.
    """
    own, held_out = _pictures(train_cases, recipe, "train"), _pictures(validation_cases, recipe, "validation")
    torch.manual_seed(derive_seed(seed, "first weights"))
    state = _State.start(build(), recipe, device)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    document = json.dumps({"recipe": asdict(recipe), "seed": seed, "classes": classes}, sort_keys=True)
    if checkpoint.is_file():
        state.resume(checkpoint, document)
        log(f"resumed after epoch {state.epoch}")
    while state.epoch < recipe.epochs:
        loss = _epoch(state, own, recipe, seed, classes)
        score = evaluate(state.average, held_out.images, held_out.masks, classes)
        state.close_epoch(score)
        state.save(checkpoint, document)
        log(f"epoch {state.epoch:3d}/{recipe.epochs} loss {loss:.4f} validation: {score}")
    weights = _write_weights(out / "weights.safetensors", state, document)
    checkpoint.unlink()
    assert state.best is not None  # there was an epoch
    return Trained(weights, state.best_epoch, state.best, sum(p.numel() for p in state.network.parameters()))


@dataclass
class _State:
    """What changes while a network is trained."""

    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    device: str
    epoch: int = 0
    best: Score | None = None
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def start(cls, network: nn.Module, recipe: Recipe, device: str) -> _State:
        if recipe.epochs < 1:
            raise UsageError("a training has at least one epoch", where="epochs", got=recipe.epochs)
        network = network.to(device).to(memory_format=torch.channels_last)
        optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        return cls(network, copy.deepcopy(network), optimiser, device)

    @torch.no_grad()
    def follow(self, keep: float) -> None:
        """Moves the average towards the network; counters of batches are copied."""
        for own, value in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if own.is_floating_point():
                own.lerp_(value, 1 - keep)
            else:
                own.copy_(value)

    def close_epoch(self, score: Score) -> None:
        self.epoch += 1
        if self.best is None or score.selection > self.best.selection:
            self.best, self.best_epoch = score, self.epoch
            self.best_weights = {
                name: value.detach().cpu().clone() for name, value in self.average.state_dict().items()
            }

    def save(self, path: Path, document: str) -> None:
        """Writes everything under a temporary name first, so that a checkpoint is whole or not there."""
        assert self.best is not None
        held = {
            "document": document,
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": asdict(self.best),
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }
        torch.save(held, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def resume(self, path: Path, document: str) -> None:
        held: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if held["document"] != document:
            raise UsageError("the folder holds a checkpoint of another training", where=path,
                             then="Remove it or choose another folder")  # fmt: skip
        self.network.load_state_dict(held["network"])
        self.average.load_state_dict(held["average"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.epoch, self.best_epoch = held["epoch"], held["best_epoch"]
        self.best, self.best_weights = Score(**held["best"]), held["best_weights"]


def _pictures(cases: Iterable[Case], recipe: Recipe, part: str) -> _Pictures:
    images, masks = [], []
    size = (recipe.size, recipe.size)
    for case in cases:
        if case.reference is None:
            raise UsageError("a training case has no reference", where=part, got=case.id)
        placement = place(case.shape, size=size)
        placed = to_network(torch.from_numpy(case.image)[None].float(), placement, fill=0.0)[0]
        images.append((placed.clamp(0, 1) * 255).round().to(torch.uint8))
        mask = torch.from_numpy(case.reference)[None, None].float()
        masks.append(to_network(mask, placement, fill=IGNORE, mode="nearest")[0, 0].to(torch.uint8))
    if not images:
        raise NothingToAudit("there is no case to train with", where=part)
    return _Pictures(torch.stack(images), torch.stack(masks))


def _epoch(state: _State, own: _Pictures, recipe: Recipe, seed: int, classes: int) -> float:
    """One epoch, drawn and augmented from seeds of its own, so that it does not depend on earlier ones."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", str(state.epoch)))
    rounds = math.ceil(recipe.steps * recipe.batch / len(own.images))
    order = torch.cat([torch.randperm(len(own.images), generator=generator) for _ in range(rounds)])
    state.network.train()
    total = 0.0
    for step in range(recipe.steps):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        images, masks = augment(own.images[chosen].float() / 255, own.masks[chosen], recipe.augmentation, generator)
        images = images.to(state.device).contiguous(memory_format=torch.channels_last)
        done = state.epoch * recipe.steps + step
        for group in state.optimiser.param_groups:
            group["lr"] = recipe.rate(done)
        with torch.autocast(torch.device(state.device).type, dtype=torch.bfloat16, enabled=recipe.bfloat16):
            logits = state.network(images)
        loss = segmentation_loss(logits.float(), masks.to(state.device), classes)
        state.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimiser.step()
        state.follow(min(recipe.averaging, (1 + done) / (10 + done)))  # short at first: the first weights are random
        total += float(loss.detach())
    return total / recipe.steps


def segmentation_loss(logits: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Cross-entropy plus soft Dice, each a mean; pixels labelled 255 do not count.

    Args:
        logits: (B, 1, H, W) for two classes, else (B, classes, H, W).
        masks: (B, H, W) uint8 class indices.
        classes: number of classes, background included.

    >>> masks = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    >>> float(segmentation_loss(torch.tensor([[[[-20.0, 20.0]]]]), masks, 2)) < 1e-6
    True
    """
    valid = (masks != IGNORE).unsqueeze(1)
    if classes == 2:
        target = (masks == 1).unsqueeze(1).float()
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        entropy = (entropy * valid).sum() / valid.sum().clamp(min=1)
        probabilities = logits.sigmoid()
    else:
        entropy = F.cross_entropy(logits, masks.long(), ignore_index=IGNORE)
        probabilities = logits.softmax(dim=1)[:, 1:]
        target = torch.stack([masks == index for index in range(1, classes)], dim=1).float()
    probabilities = probabilities * valid
    both = (probabilities * target).sum(dim=(2, 3))
    either = probabilities.sum(dim=(2, 3)) + target.sum(dim=(2, 3))
    # The added 1 keeps images without a lesion defined: they are punished for what they invent.
    return entropy + (1 - (2 * both + 1) / (either + 1)).mean()


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


def _write_weights(path: Path, state: _State, document: str) -> Path:
    from safetensors.torch import save_file

    tensors = {
        name: value.float() if value.is_floating_point() else value for name, value in state.best_weights.items()
    }
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    metadata = {"training": document, "epoch": str(state.best_epoch), "validation": str(state.best)}
    save_file(tensors, path.with_suffix(".tmp"), metadata=metadata)
    path.with_suffix(".tmp").replace(path)
    return path
