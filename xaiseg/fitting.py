"""The one small trainer: a compact segmenter on a processor in minutes, resumable, the same under a seed.

Images are brought to the network's grid exactly as the audited subject does it (:mod:`xaiseg.geometry`), so training
and audit see the same pixels.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xaiseg.data.case import Case
from xaiseg.errors import NothingToAudit, SubjectError, UsageError
from xaiseg.geometry import place, to_network
from xaiseg.seeds import derive_seed
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
    ids: list[str]
    side: Tensor | None = None

    def digest(self) -> str:
        """Digest of names and pixels, so that a checkpoint is never continued with other data."""
        held = hashlib.sha256("\n".join(self.ids).encode())
        held.update(self.images.numpy().tobytes())
        held.update(self.masks.numpy().tobytes())
        return held.hexdigest()


def train(
    build: Callable[[], nn.Module],
    train_cases: Iterable[Case],
    validation_cases: Iterable[Case],
    *,
    recipe: Recipe,
    out: Path,
    objective: Objective | None = None,
    seed: int = 0,
    log: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda step, steps: None,
    device: str = "cpu",
    classes: int = 2,
) -> Trained:
    """Trains a network and keeps the epoch that does best on the validation part.

    Args:
        build: makes the network; it answers one logit a pixel for two classes, else ``classes`` logits.
        train_cases: cases with a reference; values of their images lie in [0, 1].
        validation_cases: the same, from other clusters.
        recipe: see :class:`~xaiseg.zoo.recipe.Recipe`.
        out: folder for weights.safetensors; holds checkpoint.pt while the training runs, and the same call goes on from
            there after an interruption, ending with the same weights on the same machine.
        objective: what is computed; None = cross-entropy plus soft Dice.
        seed: fixes first weights, order and augmentation.
        log: receives a line an epoch.
        progress: called after each step with the number of steps done and the number of all.
        device: where to compute.
        classes: number of classes, background included.

    Raises:
        NothingToAudit: a part has no case.
        UsageError: the parts share a case, the training part has one class, ``out`` holds the checkpoint of another
            training, or the objective serves another number of classes.
        SubjectError: the loss is no number; names the step and the cases. No weights are written.
    """
    own, held_out = _pictures(train_cases, recipe, "train"), _pictures(validation_cases, recipe, "validation")
    objective = objective or Objective()
    _refuse(own, held_out, objective, classes)
    torch.manual_seed(derive_seed(seed, "first weights"))
    network = build()
    own.side = objective.prepare(network, own.images, own.masks)
    state = _State.start(network, recipe, device)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    fixed = {"recipe": asdict(recipe), "seed": seed, "classes": classes, "data": [own.digest(), held_out.digest()]}
    document = json.dumps(fixed, sort_keys=True)
    if checkpoint.is_file():
        state.resume(checkpoint, document)
        log(f"resumed after epoch {state.epoch}")
    while state.epoch < recipe.epochs and not state.is_done(recipe.patience):
        loss = _epoch(state, own, recipe, objective, seed, progress)
        score = evaluate(state.average, held_out.images, held_out.masks, classes)
        state.close_epoch(score)
        state.save(checkpoint, document)
        log(f"epoch {state.epoch:3d}/{recipe.epochs} loss {loss:.4f} validation: {score}")
    weights = _write_weights(out / "weights.safetensors", state, document)
    checkpoint.unlink()
    assert state.best is not None  # there was an epoch
    return Trained(weights, state.best_epoch, state.best, sum(p.numel() for p in state.network.parameters()))


def _refuse(own: _Pictures, held_out: _Pictures, objective: Objective, classes: int) -> None:
    """What cannot be trained, found before any time is spent."""
    shared = sorted(set(own.ids) & set(held_out.ids))
    if shared:
        raise UsageError("a case is in the training and in the validation part", where="train", got=shared[0],
                         then="Scores would be of images that the network has seen")  # fmt: skip
    if objective.classes not in (None, classes):
        raise UsageError("the loss of this model serves another number of classes", where="classes", got=classes,
                         allowed=objective.classes)  # fmt: skip
    present = [index for index in range(classes) if bool((own.masks == index).any())]
    if len(present) < 2:
        got = f"class {present[0]} alone" if present else "no labelled pixel"
        raise UsageError("a training needs pixels of at least two classes", where="train", got=got,
                         then="Check the masks and the order of classes")  # fmt: skip


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
        _spare_strided_depthwise(network)
        peaks = {"encoder.": recipe.lr if recipe.encoder_lr is None else recipe.encoder_lr, "": recipe.lr}
        parts: dict[str, list[nn.Parameter]] = {"encoder.": [], "": []}
        for name, parameter in network.named_parameters():
            parts["encoder." if name.startswith("encoder.") else ""].append(parameter)
        groups = [{"params": held, "peak": peaks[name]} for name, held in parts.items() if held]
        optimiser = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
        return cls(network, copy.deepcopy(network), optimiser, device)

    def is_done(self, patience: int | None) -> bool:
        """Whether the validation score has not risen for too long."""
        return patience is not None and self.epoch - self.best_epoch >= patience

    def step(self, loss: Tensor, share: float, clip: float | None) -> None:
        """One step of the optimiser at a share of each group's peak learning rate."""
        for group in self.optimiser.param_groups:
            group["lr"] = share * group["peak"]
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        self.optimiser.step()

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


def _spare_strided_depthwise(network: nn.Module) -> None:
    """Keeps depthwise convolutions with a stride in float32: in bfloat16 their gradient is 3 to 20 times slower."""
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1 and max(module.stride) > 1:
            module.__class__ = _Float32Conv


class _Float32Conv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def _pictures(cases: Iterable[Case], recipe: Recipe, part: str) -> _Pictures:
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
    return _Pictures(torch.stack(images), torch.stack(masks), ids)


def _epoch(
    state: _State, own: _Pictures, recipe: Recipe, objective: Objective, seed: int, progress: Callable[[int, int], None]
) -> float:
    """One epoch, drawn and augmented from seeds of its own, so that it does not depend on earlier ones."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", str(state.epoch)))
    rounds = math.ceil(recipe.steps * recipe.batch / len(own.images))
    order = torch.cat([torch.randperm(len(own.images), generator=generator) for _ in range(rounds)])
    state.network.train()
    total = 0.0
    for step in range(recipe.steps):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        done = state.epoch * recipe.steps + step
        loss = _loss(state, own, chosen, recipe, objective, generator)
        value = float(loss.detach())
        if not math.isfinite(value):
            ids = ", ".join(own.ids[int(index)] for index in chosen)
            raise SubjectError("the loss is no number; no weights were written", where=f"step {done + 1}, cases {ids}",
                               got=value, then="Look at these images, or lower the learning rate")  # fmt: skip
        state.step(loss, recipe.share(done), recipe.clip)
        state.follow(min(recipe.averaging, (1 + done) / (10 + done)))  # short at first: the first weights are random
        total += value
        progress(done + 1, recipe.epochs * recipe.steps)
    return total / recipe.steps


def _loss(
    state: _State, own: _Pictures, chosen: Tensor, recipe: Recipe, objective: Objective, generator: torch.Generator
) -> Tensor:
    images, masks = augment(own.images[chosen].float() / 255, own.masks[chosen], recipe.augmentation, generator)
    images = images.to(state.device).contiguous(memory_format=torch.channels_last)
    side = None if own.side is None else own.side[chosen].to(state.device)
    with torch.autocast(torch.device(state.device).type, dtype=torch.bfloat16, enabled=recipe.bfloat16):
        logits = state.network(images) if side is None else state.network(images, side)
    return objective.loss(state.network, logits.float(), masks.to(state.device), side)


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
