"""Trains a model of the zoo on generated images or on a folder, and writes the model.yaml that audits it.

A folder is divided by cluster (patient, site, flight), never by image: half of the clusters train, 15 % choose the
epoch and 35 % are left for the audit. The division depends on the seed and the clusters' names alone and is written
down.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from xaiseg import zoo
from xaiseg.data.case import ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.errors import UsageError
from xaiseg.fitting import Score, Scored, Task, Trained, image_dice, train
from xaiseg.fitting_boxes import BoxScore, BoxTask, pools_of, score_of
from xaiseg.fitting_masks import MaskTask
from xaiseg.loading import load_subject, read_model_file
from xaiseg.modelfile import flow
from xaiseg.subject import Detector, Segmenter
from xaiseg.training_parts import SHARES, Parts, default_classes, divided, split_clusters
from xaiseg.weights import file_digest, fit_weights, read_weights
from xaiseg.zoo.recipe import Recipe

__all__ = ["Recipe", "split_clusters", "train", "train_zoo"]

#: What a threshold is chosen from.
THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(1, 20))


def train_zoo(
    name: str,
    data: str | Path,
    *,
    out: Path,
    size: int | None = None,
    epochs: int | None = None,
    recipe: str | None = None,
    split: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 2,
    channels: int | None = None,
    classes: tuple[str, ...] | None = None,
    start: Path | None = None,
    strata: Sequence[str] = (),
    log: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> list[str]:
    """Trains a zoo model and writes OUT/weights.safetensors, OUT/model.yaml, OUT/training.log and OUT/split.csv.

    Args:
        name: a name of :func:`xaiseg.zoo.list_models`.
        data: "phantoms"; "scenes", or "scenes:KEY=VALUE,..." with keys of ``scene:`` (``shortcut=0.9`` plants a cue of
            that correlation); or a folder with images/, masks/ and perhaps meta.csv; for a detector one with images/
            and COCO, YOLO or VOC labels.
        out: an interrupted training goes on from here.
        size: side of the network's square grid, pixels, a multiple of the model's stride; None = the recipe's.
        epochs: None = the recipe's.
        recipe: the name of one of the model's recipes; None = its default one.
        split: a CSV file with the columns id and part (train, validation, test, unused), as an earlier training wrote
            it; None divides the clusters of the folder by a seeded hash.
        seed: fixes phantoms, division, first weights, order and augmentation.
        device: where to compute.
        threads: of the processor; more of them than cores makes training ten times slower.
        channels: 1 reads images as grey, 3 as RGB; None = 1, for a detector 3.
        classes: names, a segmenter's background first; None = background and lesion, or the animal of the scenes.
        start: weights of the same architecture to start from; None = random ones.
        strata: columns that model.yaml shall declare as subgroups.
        log: receives each line that also goes to training.log.
        progress: called after each step with the number of steps done and the number of all.

    Returns:
        Lines that say what was written and how the model does on the validation part.

    Raises:
        UsageError: unknown model, or data that cannot be divided.
    """
    chosen = _recipe(name, recipe, size, epochs)
    spec = _spec(name, data, channels, classes)
    _network(name, spec, start)  # what cannot be built is refused before any data are made
    parts = divided(data, out, seed, strata, spec, split)
    with _threads(threads), _logging(out / "training.log", log) as say:
        say(f"{name} on {parts.label}, seed {seed}, size {chosen.size}, {chosen.epochs} epochs; {_machine()}")
        trained = train(
            lambda: _network(name, spec, start),
            *(parts.cases(part, spec) for part, _ in SHARES[:2]),
            recipe=chosen,
            task=_task(name, spec),
            start=None if start is None else file_digest(start),
            classes=len(spec.classes),
            out=out, seed=seed, log=say, progress=progress, device=device,
        )  # fmt: skip
        model_path, threshold, score = _finish(out, name, chosen, parts, trained, spec)
        say(f"epoch {trained.epoch} kept; threshold {threshold}; validation on the images' own grid: {score}")
    written = (trained.weights, model_path, out / "training.log", parts.split)
    return [*(f"wrote {path}" for path in written if path), f"audit it with: xaiseg audit {model_path}"]


def _spec(name: str, data: str | Path, channels: int | None, classes: tuple[str, ...] | None) -> ImageSpec:
    task = zoo.card(name).task
    classes = classes or default_classes(data, task)
    if classes is None:
        raise UsageError("the classes of a detector have no default", where="--classes", got="nothing",
                         then="Name them as the annotations do, by commas")  # fmt: skip
    return ImageSpec(channels=channels or (3 if task == "detection" else 1), classes=classes, task=task)


def _task(name: str, spec: ImageSpec) -> Task:
    if spec.task == "detection":
        return BoxTask(len(spec.classes))
    return MaskTask(zoo.objective_of(name), len(spec.classes))


def _network(name: str, spec: ImageSpec, start: Path | None) -> nn.Module:
    binary = spec.task == "segmentation" and len(spec.classes) == 2
    network = zoo.build(name, spec.channels, 1 if binary else len(spec.classes))
    if start is not None:
        fit_weights(network, read_weights(start, trust=False, where="--start"), where="--start")
    return network


def _recipe(name: str, which: str | None, size: int | None, epochs: int | None) -> Recipe:
    chosen, stride = zoo.recipe_of(name, which), zoo.card(name).multiple_of
    chosen = replace(chosen, size=size or chosen.size, epochs=epochs or chosen.epochs)
    if chosen.size % stride or chosen.size < 2 * stride:
        raise UsageError(f"the grid does not suit the strides of {name}", where="--size", got=chosen.size,
                         allowed=f"multiples of {stride} from {2 * stride} on")  # fmt: skip
    return chosen


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Fixes the number of threads of the processor while something runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _finish(
    out: Path, name: str, recipe: Recipe, parts: Parts, trained: Trained, spec: ImageSpec
) -> tuple[Path, float, Scored]:
    """Writes model.yaml, with the threshold that does best on the validation part where the recipe wants that."""
    path = _write_model(out, name, recipe, parts, trained, spec, "value: 0.5, chosen_on: default")
    chooses = recipe.choose_threshold and (spec.task == "detection" or len(spec.classes) == 2)
    threshold, score = own_grid(path, parts, spec, THRESHOLDS if chooses else (0.5,))
    if chooses:
        _write_model(out, name, recipe, parts, trained, spec, f"value: {threshold}, chosen_on: val")
    return path, threshold, score


def _write_model(
    out: Path, name: str, recipe: Recipe, parts: Parts, trained: Trained, spec: ImageSpec, threshold: str
) -> Path:
    activation, side = "sigmoid" if len(spec.classes) == 2 else "softmax", recipe.size
    answer = "" if spec.task == "detection" else f"kind: logits, activation: {activation}, "
    grid = f"size: [{side}, {side}], resize: {recipe.resize}, multiple_of: {zoo.card(name).multiple_of}"
    lines = [
        f"name: {name}-{parts.root.name or ('scenes' if spec.task == 'detection' else 'phantoms')}",
        f"task: {spec.task}",
        f"classes: {flow(spec.classes)}",
        f"source: {{zoo: {name}, weights: {trained.weights.name}}}",
        f"input: {{channels: {spec.channels}, range: [0, 1], {grid}}}",
        f"output: {{{answer}threshold: {{{threshold}}}}}",
        *([f"data_root: {flow(parts.root.as_posix())}"] if parts.split else []),
        "data:",
        *(f"  {part}: {flow(plain_entry(parts.entries[part]))}" for part in ("test", "train", "validation")),
        'intended_use: ""',
    ]
    path = out / "model.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def plain_entry(entry: DataEntry) -> dict[str, Any]:
    """The entry as a user would write it; the list of parts lies beside model.yaml and is named without a folder."""
    held: dict[str, Any] = {"reader": entry.reader, **entry.model_dump(mode="json", exclude_defaults=True)}
    if "meta" in held:
        held["meta"] = [Path(name).name for name in held["meta"]]
    return held


def own_grid(model_path: Path, parts: Parts, spec: ImageSpec, thresholds: Sequence[float]) -> tuple[float, Scored]:
    """The best threshold and its score, of the written model as an audit would see it, on the images' own pixels."""
    subject = load_subject(read_model_file(model_path))
    if isinstance(subject, Detector):
        found = _detected(subject, parts, spec, thresholds)
        return found.threshold, found
    scores = _segmented(subject, parts, spec, thresholds)
    best = max(thresholds, key=lambda value: (scores[value].selection, -abs(value - 0.5)))
    return best, scores[best]


def _detected(subject: Detector, parts: Parts, spec: ImageSpec, thresholds: Sequence[float]) -> BoxScore:
    found, truths = [], []
    for case in parts.cases("validation", spec):
        assert case.boxes is not None  # training has refused cases without them
        found += subject.predict([torch.from_numpy(case.image)])
        truths.append(case.boxes)
    return score_of(pools_of(found, truths, len(spec.classes)), thresholds=thresholds)


def _segmented(subject: Segmenter, parts: Parts, spec: ImageSpec, thresholds: Sequence[float]) -> dict[float, Score]:
    dice: dict[float, list[float]] = {value: [] for value in thresholds}
    empty: dict[float, list[float]] = {value: [] for value in thresholds}
    for case in parts.cases("validation", spec):
        logits = subject.predict([torch.from_numpy(case.image)])[0]
        assert case.reference is not None  # training has refused cases without one
        reference = torch.from_numpy(case.reference.astype(np.int64))
        for threshold in thresholds:
            labels = logits.argmax(dim=0) if len(logits) > 2 else (logits.softmax(dim=0)[1] >= threshold).long()
            value, has_lesion = image_dice(labels, reference, len(spec.classes))
            (dice if has_lesion else empty)[threshold].append(value)
    return {threshold: Score.of(dice[threshold], empty[threshold]) for threshold in thresholds}


@contextmanager
def _logging(path: Path, log: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """A function that writes a line to a file as well as to ``log``."""
    with path.open("a", encoding="utf-8") as stream:

        def say(line: str) -> None:
            log(line)
            stream.write(line + "\n")
            stream.flush()

        yield say


def _machine() -> str:
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"
