"""Trains a model of the zoo on phantoms or on a folder of images and masks, and writes the model.yaml that audits it.

A folder is divided by cluster (patient, site, flight), never by image: half of the clusters train, 15 % choose the
epoch and 35 % are left for the audit. The division depends on the seed and the clusters' names alone and is written
down.
"""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from xaiseg import zoo
from xaiseg.data.case import Case, Dataset, ImageSpec
from xaiseg.data.entry import DataEntry, PhantomEntry
from xaiseg.data.readers import entry_from_folder, load_case, open_dataset
from xaiseg.errors import UsageError
from xaiseg.fitting import Score, Trained, image_dice, train
from xaiseg.loading import load_subject, read_model_file
from xaiseg.modelfile import flow
from xaiseg.seeds import derive_seed
from xaiseg.subject import Segmenter
from xaiseg.zoo.recipe import Recipe

__all__ = ["Recipe", "split_clusters", "train", "train_zoo"]

Part = Literal["train", "validation", "test"]

#: Shares of the clusters, in order.
SHARES: Final[tuple[tuple[Part, float], ...]] = (("train", 0.50), ("validation", 0.15), ("test", 0.35))


#: What a threshold is chosen from.
THRESHOLDS: Final = tuple(round(0.05 * step, 2) for step in range(1, 20))


def split_clusters(clusters: Iterable[str], *, seed: int = 0) -> dict[str, Part]:
    """Divides clusters by a seeded hash of their names.

    >>> parts = split_clusters([f"p{i}" for i in range(20)])
    >>> [list(parts.values()).count(part) for part, _ in SHARES]
    [10, 3, 7]
    """
    names = sorted(set(clusters), key=lambda name: derive_seed(seed, "split", name))
    parts: dict[str, Part] = {}
    start, share_so_far = 0, 0.0
    for part, share in SHARES:
        share_so_far += share
        end = round(len(names) * share_so_far)
        parts.update(dict.fromkeys(names[start:end], part))
        start = end
    return parts


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
    channels: int = 1,
    classes: tuple[str, ...] = ("background", "lesion"),
    strata: Sequence[str] = (),
    log: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> list[str]:
    """Trains a zoo model and writes OUT/weights.safetensors, OUT/model.yaml, OUT/training.log and OUT/split.csv.

    Args:
        name: a name of :func:`xaiseg.zoo.list_models`.
        data: "phantoms", or a folder with images/, masks/ and perhaps meta.csv.
        out: an interrupted training goes on from here.
        size: side of the network's square grid, pixels, a multiple of the model's stride; None = the recipe's.
        epochs: None = the recipe's.
        recipe: the name of one of the model's recipes; None = its default one.
        split: a CSV file with the columns id and part (train, validation, test), as an earlier training wrote it; None
            divides the clusters of the folder by a seeded hash.
        seed: fixes phantoms, division, first weights, order and augmentation.
        device: where to compute.
        threads: of the processor; more of them than cores makes training ten times slower.
        channels: 1 reads images as grey, 3 as RGB.
        classes: names, the background first.
        strata: columns that model.yaml shall declare as subgroups.
        log: receives each line that also goes to training.log.
        progress: called after each step with the number of steps done and the number of all.

    Returns:
        Lines that say what was written and how the model does on the validation part.

    Raises:
        UsageError: unknown model, or data that cannot be divided.
    """
    chosen = _recipe(name, recipe, size, epochs)
    spec = ImageSpec(channels=channels, classes=classes)
    parts = _parts(data, out, seed, strata, spec, split)
    with _threads(threads), _logging(out / "training.log", log) as say:
        say(f"{name} on {parts.label}, seed {seed}, size {chosen.size}, {chosen.epochs} epochs; {_machine()}")
        trained = train(
            lambda: zoo.build(name, channels, 1 if len(classes) == 2 else len(classes)),
            *(parts.cases(part, spec) for part, _ in SHARES[:2]),
            recipe=chosen,
            objective=zoo.objective_of(name),
            out=out,
            seed=seed,
            log=say,
            progress=progress,
            device=device,
            classes=len(classes),
        )
        model_path, threshold, score = _finish(out, name, chosen, parts, trained, spec)
        say(f"epoch {trained.epoch} kept; threshold {threshold}; validation on the images' own grid: {score}")
    written = (trained.weights, model_path, out / "training.log", parts.split)
    return [*(f"wrote {path}" for path in written if path), f"audit it with: xaiseg audit {model_path}"]


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


@dataclass(frozen=True)
class _Parts:
    """What is trained on: the entries of model.yaml, where they start, and the list of who is in which part."""

    entries: dict[Part, DataEntry]
    root: Path
    label: str
    split: Path | None = None

    def cases(self, part: Part, spec: ImageSpec) -> Iterator[Case]:
        """Loads the cases of a part, one by one."""
        entry = self.entries[part]
        return (load_case(entry, ref, spec) for ref in open_dataset(part, entry, root=self.root, spec=spec).cases)


def _phantoms(seed: int, strata: Sequence[str]) -> _Parts:
    def entry(part: Part) -> DataEntry:
        phantom = PhantomEntry(split=part, seed=seed)
        return DataEntry(reader="phantom", phantom=phantom, cluster="patient", strata=tuple(strata))

    return _Parts({part: entry(part) for part, _ in SHARES}, Path(), "phantoms")


def _parts(
    data: str | Path, out: Path, seed: int, strata: Sequence[str], spec: ImageSpec, split: Path | None
) -> _Parts:
    out.mkdir(parents=True, exist_ok=True)
    if str(data) != "phantoms":
        return _folder(Path(data), out, seed, strata, spec, split)
    if split is not None:
        raise UsageError("phantoms are divided already", where="--split", got=split)
    return _phantoms(seed, strata)


def _own_parts(whole: Dataset, seed: int) -> dict[str, str]:
    parts = split_clusters((case.cluster for case in whole.cases), seed=seed)
    short = [part for part, _ in SHARES if part not in parts.values()]
    if short:
        what = f"too few clusters to divide: none is left for {', '.join(short)}"
        raise UsageError(what, where="--data", got=f"{len(parts)} clusters", allowed="about 7 or more")
    return {case.id: parts[case.cluster] for case in whole.cases}


def _given_parts(path: Path, whole: Dataset) -> dict[str, str]:
    """The parts that a list names, with no cluster in two of them: an epoch chosen on test images would flatter."""
    if not path.is_file():
        raise UsageError("there is no such file", where="--split", got=path)
    with path.open(newline="", encoding="utf-8") as stream:
        parts = {row.get("id", ""): row.get("part", "") for row in csv.DictReader(stream)}
    known = [part for part, _ in SHARES]
    homes: dict[str, str] = {}
    for case in whole.cases:
        if parts.get(case.id) not in known:
            raise UsageError(f"the part of {case.id} is not known", where=path, got=parts.get(case.id) or "nothing",
                             allowed=f"columns id and part, each part one of {', '.join(known)}")  # fmt: skip
        home = homes.setdefault(case.cluster, parts[case.id])
        if home != parts[case.id]:
            raise UsageError("a cluster is in two parts", where=path,
                             got=f"{case.cluster} in {home} and {parts[case.id]}",
                             allowed="each patient, site or flight in one part")  # fmt: skip
    return {case.id: parts[case.id] for case in whole.cases}


def _folder(folder: Path, out: Path, seed: int, strata: Sequence[str], spec: ImageSpec, given: Path | None) -> _Parts:
    entry = entry_from_folder(folder)
    if entry.reader != "folder":
        raise UsageError("training reads folders with images/ and masks/ only", where="--data", got=folder)
    whole = open_dataset("train", entry, root=folder, spec=spec)
    parts = _given_parts(given, whole) if given else _own_parts(whole, seed)
    split = out / "split.csv"
    lines = ["id,part", *(f"{case.id},{parts[case.id]}" for case in whole.cases)]
    split.write_text("\n".join(lines) + "\n", encoding="utf-8")
    own = ("meta.csv",) if (folder / "meta.csv").is_file() else ()
    held = entry.model_copy(update={"path": ".", "meta": (*own, str(split.resolve())), "strata": tuple(strata)})
    entries = {part: held.model_copy(update={"where": {"part": part}}) for part, _ in SHARES}
    return _Parts(entries, folder.resolve(), f"{len(whole.cases)} images of {folder.name}", split)


def _finish(
    out: Path, name: str, recipe: Recipe, parts: _Parts, trained: Trained, spec: ImageSpec
) -> tuple[Path, float, Score]:
    """Writes model.yaml, with the threshold that does best on the validation part where the recipe wants that."""
    path = _write_model(out, name, recipe, parts, trained, spec, "value: 0.5, chosen_on: default")
    if not (recipe.choose_threshold and len(spec.classes) == 2):
        return path, 0.5, _own_grid(path, parts, spec, (0.5,))[0.5]
    scores = _own_grid(path, parts, spec, THRESHOLDS)
    best = max(THRESHOLDS, key=lambda value: (scores[value].selection, -abs(value - 0.5)))
    _write_model(out, name, recipe, parts, trained, spec, f"value: {best}, chosen_on: val")
    return path, best, scores[best]


def _write_model(
    out: Path, name: str, recipe: Recipe, parts: _Parts, trained: Trained, spec: ImageSpec, threshold: str
) -> Path:
    activation, side = "sigmoid" if len(spec.classes) == 2 else "softmax", recipe.size
    grid = f"size: [{side}, {side}], resize: {recipe.resize}, multiple_of: {zoo.card(name).multiple_of}"
    lines = [
        f"name: {name}-{parts.root.name or 'phantoms'}",
        "task: segmentation",
        f"classes: {flow(spec.classes)}",
        f"source: {{zoo: {name}, weights: {trained.weights.name}}}",
        f"input: {{channels: {spec.channels}, range: [0, 1], {grid}}}",
        f"output: {{kind: logits, activation: {activation}, threshold: {{{threshold}}}}}",
        *([f"data_root: {flow(parts.root.as_posix())}"] if parts.split else []),
        "data:",
        *(f"  {part}: {flow(_plain(parts.entries[part]))}" for part in ("test", "train", "validation")),
        'intended_use: ""',
    ]
    path = out / "model.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _plain(entry: DataEntry) -> dict[str, Any]:
    """The entry as a user would write it; the list of parts lies beside model.yaml and is named without a folder."""
    held: dict[str, Any] = {"reader": entry.reader, **entry.model_dump(mode="json", exclude_defaults=True)}
    if "meta" in held:
        held["meta"] = [Path(name).name for name in held["meta"]]
    return held


def _own_grid(model_path: Path, parts: _Parts, spec: ImageSpec, thresholds: Sequence[float]) -> dict[float, Score]:
    """Scores the written model as an audit would see it, on the images' own pixels, at each threshold."""
    subject = load_subject(read_model_file(model_path))
    assert isinstance(subject, Segmenter)  # the zoo holds segmentation models
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
