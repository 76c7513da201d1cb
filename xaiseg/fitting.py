"""The one small trainer: a compact network on a processor in minutes, resumable, the same under a seed.

Images are brought to the network's grid exactly as the audited subject does it (:mod:`xaiseg.geometry`), so training
and audit see the same pixels.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from xaiseg.data.case import Case
from xaiseg.errors import SubjectError, UsageError
from xaiseg.fitting_masks import MaskTask, Score, evaluate, image_dice
from xaiseg.seeds import derive_seed
from xaiseg.zoo.recipe import Objective, Recipe

__all__ = ["Pictures", "Score", "Scored", "Task", "Trained", "evaluate", "image_dice", "train"]


class Pictures(Sized, Protocol):
    """A part of the data on the network's grid."""

    ids: list[str]

    def digest(self) -> str:
        """Digest of names and contents, so that a checkpoint is never continued with other data."""


class Scored(Protocol):
    """How a network does on the validation part; a dataclass of numbers."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def selection(self) -> float:
        """What epochs are chosen by; more is better."""


class Task(Protocol):
    """What differs between trainings of segmenters and of detectors; each task receives its own kind of pictures."""

    def pictures(self, cases: Iterable[Case], recipe: Recipe, part: str) -> Any:
        """Brings the cases of a part to the network's grid."""

    def refuse(self, own: Any) -> None:
        """Raises UsageError for what cannot be trained."""

    def prepare(self, network: nn.Module, own: Any) -> None:
        """Called once, before anything is augmented."""

    def loss(
        self, network: nn.Module, own: Any, chosen: Tensor, recipe: Recipe, generator: torch.Generator, device: str
    ) -> Tensor:
        """What a step minimises over the chosen pictures."""

    def score(self, network: nn.Module, held_out: Any) -> Scored:
        """How a network does on the validation part."""

    def restored(self, values: Mapping[str, Any]) -> Scored:
        """A score as a checkpoint holds it."""


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
    score: Scored
    parameters: int


def train(
    build: Callable[[], nn.Module],
    train_cases: Iterable[Case],
    validation_cases: Iterable[Case],
    *,
    recipe: Recipe,
    out: Path,
    objective: Objective | None = None,
    task: Task | None = None,
    start: str | None = None,
    seed: int = 0,
    log: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda step, steps: None,
    device: str = "cpu",
    classes: int = 2,
) -> Trained:
    """Trains a network and keeps the epoch that does best on the validation part.

    Args:
        build: makes the network; a segmenter answers one logit a pixel for two classes, else ``classes`` logits.
        train_cases: cases with a reference or with boxes; values of their images lie in [0, 1].
        validation_cases: the same, from other clusters.
        recipe: see :class:`~xaiseg.zoo.recipe.Recipe`.
        out: folder for weights.safetensors; holds checkpoint.pt while the training runs, and the same call goes on from
            there after an interruption, ending with the same weights on the same machine. Where the weights of this
            very training lie already, nothing is trained.
        objective: what a segmenter's training computes; None = cross-entropy plus soft Dice.
        task: None = segmentation; :class:`xaiseg.fitting_boxes.BoxTask` trains detectors.
        start: digest of the weights that ``build`` starts from, so that a checkpoint of other ones is not continued.
        seed: fixes first weights, order and augmentation.
        log: receives a line an epoch.
        progress: called after each step with the number of steps done and the number of all.
        device: where to compute.
        classes: number of classes, of a segmenter with the background.

    Raises:
        NothingToAudit: a part has no case.
        UsageError: the parts share a case, the training part has one class, ``out`` holds the checkpoint or the weights
            of another training, or the objective serves another number of classes.
        SubjectError: the loss is no number; names the step and the cases. No weights are written.
    """
    how: Task = task or MaskTask(objective or Objective(), classes)
    own, held_out = _pictures(how, recipe, train_cases, validation_cases)
    torch.manual_seed(derive_seed(seed, "first weights"))
    network = build()
    how.prepare(network, own)
    state = _State.start(network, recipe, device)
    document = _document(recipe, seed, classes, (own, held_out), start)
    parameters = sum(p.numel() for p in state.network.parameters())
    out.mkdir(parents=True, exist_ok=True)
    weights, checkpoint = out / "weights.safetensors", out / "checkpoint.pt"
    if weights.is_file() and not checkpoint.is_file():
        return replace(_done(weights, document, how, log), parameters=parameters)
    if checkpoint.is_file():
        state.resume(checkpoint, document, how)
        log(f"resumed after epoch {state.epoch}")
    while state.epoch < recipe.epochs and not state.is_done(recipe.patience):
        loss = _epoch(state, own, recipe, how, seed, progress)
        score = how.score(state.average, held_out)
        state.close_epoch(score)
        state.save(checkpoint, document)
        log(f"epoch {state.epoch:3d}/{recipe.epochs} loss {loss:.4f} validation: {score}")
    best = _write_weights(weights, state, document)
    checkpoint.unlink()
    return Trained(weights, state.best_epoch, best, parameters)


def _document(recipe: Recipe, seed: int, classes: int, parts: Sequence[Pictures], start: str | None) -> str:
    """All that fixes a training, as text."""
    fixed = {"recipe": asdict(recipe), "seed": seed, "classes": classes, "data": [part.digest() for part in parts]}
    return json.dumps(fixed if start is None else {**fixed, "start": start}, sort_keys=True)


def _pictures(
    task: Task, recipe: Recipe, train_cases: Iterable[Case], validation_cases: Iterable[Case]
) -> tuple[Pictures, Pictures]:
    """Both parts on the network's grid; what cannot be trained is found before any time is spent."""
    own: Pictures = task.pictures(train_cases, recipe, "train")
    held_out: Pictures = task.pictures(validation_cases, recipe, "validation")
    shared = sorted(set(own.ids) & set(held_out.ids))
    if shared:
        raise UsageError("a case is in the training and in the validation part", where="train", got=shared[0],
                         then="Scores would be of images that the network has seen")  # fmt: skip
    task.refuse(own)
    return own, held_out


@dataclass
class _State:
    """What changes while a network is trained."""

    network: nn.Module
    average: nn.Module
    optimiser: torch.optim.Optimizer
    device: str
    epoch: int = 0
    best: Scored | None = None
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

    def close_epoch(self, score: Scored) -> None:
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

    def resume(self, path: Path, document: str, task: Task) -> None:
        held: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if held["document"] != document:
            raise UsageError("the folder holds a checkpoint of another training", where=path,
                             then="Remove it or choose another folder")  # fmt: skip
        self.network.load_state_dict(held["network"])
        self.average.load_state_dict(held["average"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.epoch, self.best_epoch = held["epoch"], held["best_epoch"]
        self.best, self.best_weights = task.restored(held["best"]), held["best_weights"]


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


def _epoch(
    state: _State, own: Pictures, recipe: Recipe, task: Task, seed: int, progress: Callable[[int, int], None]
) -> float:
    """One epoch, drawn and augmented from seeds of its own, so that it does not depend on earlier ones."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "epoch", str(state.epoch)))
    rounds = math.ceil(recipe.steps * recipe.batch / len(own))
    order = torch.cat([torch.randperm(len(own), generator=generator) for _ in range(rounds)])
    state.network.train()
    total = 0.0
    for step in range(recipe.steps):
        chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
        done = state.epoch * recipe.steps + step
        loss = task.loss(state.network, own, chosen, recipe, generator, state.device)
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


def _write_weights(path: Path, state: _State, document: str) -> Scored:
    from safetensors.torch import save

    assert state.best is not None  # there was an epoch
    tensors = {
        name: value.float() if value.is_floating_point() else value for name, value in state.best_weights.items()
    }
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    score = json.dumps(asdict(state.best), sort_keys=True)
    metadata = {
        "training": document, "epoch": str(state.best_epoch), "validation": str(state.best), "score": score,
    }  # fmt: skip
    path.with_suffix(".tmp").write_bytes(in_order(save(tensors, metadata=metadata)))
    path.with_suffix(".tmp").replace(path)
    return state.best


def in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted by name, so that the same training gives the same bytes.

    The library writes them in the order of a hash table with a random seed.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _done(weights: Path, document: str, task: Task, log: Callable[[str], None]) -> Trained:
    """What a finished training of the same document left in the folder."""
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as held:
        metadata = held.metadata() or {}
    if metadata.get("training") != document or "score" not in metadata:
        raise UsageError("the folder holds the weights of another training", where=weights,
                         then="Remove them or choose another folder")  # fmt: skip
    log("this training is done already; nothing was trained")
    return Trained(weights, int(metadata["epoch"]), task.restored(json.loads(metadata["score"])), 0)
