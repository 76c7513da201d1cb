"""Trains a model of the zoo on phantoms or on a folder of images and masks, and writes the model.yaml that audits it.

A folder is divided by cluster (patient, site, flight), never by image: half of the clusters train, 15 % choose the
epoch and 35 % are left for the audit. The division depends on the seed and the clusters' names alone and is written
down.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch

from xaiseg import zoo
from xaiseg.data.case import Case, ImageSpec
from xaiseg.data.entry import DataEntry, PhantomEntry
from xaiseg.data.readers import entry_from_folder, load_case, open_dataset
from xaiseg.errors import UsageError
from xaiseg.fitting import Recipe, Score, Trained, image_dice, train
from xaiseg.loading import load_subject, read_model_file
from xaiseg.modelfile import flow
from xaiseg.seeds import derive_seed
from xaiseg.subject import Segmenter

__all__ = ["Recipe", "main", "split_clusters", "train", "train_zoo"]

Part = Literal["train", "validation", "test"]

#: Shares of the clusters, in order.
SHARES: Final[tuple[tuple[Part, float], ...]] = (("train", 0.50), ("validation", 0.15), ("test", 0.35))


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
    size: int = 128,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 2,
    classes: tuple[str, ...] = ("background", "lesion"),
    strata: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> list[str]:
    """Trains a zoo model and writes OUT/weights.safetensors, OUT/model.yaml, OUT/training.log and OUT/split.csv.

    Args:
        name: a name of :func:`xaiseg.zoo.list_models`.
        data: "phantoms", or a folder with images/, masks/ and perhaps meta.csv.
        out: an interrupted training goes on from here.
        size: side of the network's square grid, pixels.
        epochs: None = the recipe's.
        seed: fixes phantoms, division, first weights, order and augmentation.
        device: where to compute.
        threads: of the processor; more of them than cores makes training ten times slower.
        classes: names, the background first.
        strata: columns that model.yaml shall declare as subgroups.
        log: receives each line that also goes to training.log.

    Returns:
        Lines that say what was written and how the model does on the validation part.

    Raises:
        UsageError: unknown model, or data that cannot be divided.
    """
    card = zoo.card(name)
    out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(size=size) if epochs is None else Recipe(size=size, epochs=epochs)
    spec = ImageSpec(channels=1, classes=classes)
    parts = _phantoms(seed, strata) if str(data) == "phantoms" else _folder(Path(data), out, seed, strata, spec)
    with _threads(threads), (out / "training.log").open("a", encoding="utf-8") as stream:
        say = _both(log, stream)
        say(f"{name} on {parts.label}, seed {seed}, size {size}, {recipe.epochs} epochs; {_machine()}")
        trained = train(
            lambda: zoo.build(name, 1, 1 if len(classes) == 2 else len(classes)),
            parts.cases("train", spec),
            parts.cases("validation", spec),
            recipe=recipe,
            out=out,
            seed=seed,
            log=say,
            device=device,
            classes=len(classes),
        )
        model_path = _write_model(out, name, card.multiple_of, parts, trained, size, classes)
        score = _own_grid(model_path, parts, spec)
        say(f"epoch {trained.epoch} kept; validation on the images' own grid: {score}")
    written = [trained.weights, model_path, out / "training.log", *([parts.split] if parts.split else [])]
    return [f"wrote {path}" for path in written] + [f"audit it with: xaiseg audit {model_path}"]


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


def _folder(folder: Path, out: Path, seed: int, strata: Sequence[str], spec: ImageSpec) -> _Parts:
    entry = entry_from_folder(folder)
    if entry.reader != "folder":
        raise UsageError("training reads folders with images/ and masks/ only", where="--data", got=folder)
    whole = open_dataset("train", entry, root=folder, spec=spec)
    parts = split_clusters((case.cluster for case in whole.cases), seed=seed)
    short = [part for part, _ in SHARES if part not in parts.values()]
    if short:
        what = f"too few clusters to divide: none is left for {', '.join(short)}"
        raise UsageError(what, where="--data", got=f"{len(parts)} clusters", allowed="about 7 or more")
    split = out / "split.csv"
    with split.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "part"])
        writer.writerows([case.id, parts[case.cluster]] for case in whole.cases)
    own = ("meta.csv",) if (folder / "meta.csv").is_file() else ()
    held = entry.model_copy(update={"path": ".", "meta": (*own, str(split.resolve())), "strata": tuple(strata)})
    entries = {part: held.model_copy(update={"where": {"part": part}}) for part, _ in SHARES}
    return _Parts(entries, folder.resolve(), f"{len(whole.cases)} images of {folder.name}", split)


def _write_model(
    out: Path, name: str, multiple_of: int, parts: _Parts, trained: Trained, size: int, classes: tuple[str, ...]
) -> Path:
    activation = "sigmoid" if len(classes) == 2 else "softmax"
    lines = [
        f"name: {name}-{parts.root.name or 'phantoms'}",
        "task: segmentation",
        f"classes: {flow(classes)}",
        f"source: {{zoo: {name}, weights: {trained.weights.name}}}",
        f"input: {{channels: 1, range: [0, 1], size: [{size}, {size}], resize: pad, multiple_of: {multiple_of}}}",
        f"output: {{kind: logits, activation: {activation}, threshold: {{value: 0.5, chosen_on: default}}}}",
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


def _own_grid(model_path: Path, parts: _Parts, spec: ImageSpec) -> Score:
    """Scores the written model as an audit would see it, on the images' own pixels."""
    subject = load_subject(read_model_file(model_path))
    assert isinstance(subject, Segmenter)  # the zoo holds segmentation models
    dice: list[float] = []
    empty: list[float] = []
    for case in parts.cases("validation", spec):
        labels = subject.decide(subject.predict([torch.from_numpy(case.image)])[0]).labels
        assert case.reference is not None  # training has refused cases without one
        reference = torch.from_numpy(case.reference.astype(np.int64))
        value, has_lesion = image_dice(torch.from_numpy(labels), reference, len(spec.classes))
        (dice if has_lesion else empty).append(value)
    return Score.of(dice, empty)


def _both(log: Callable[[str], None], stream: Any) -> Callable[[str], None]:
    def say(line: str) -> None:
        log(line)
        stream.write(line + "\n")
        stream.flush()

    return say


def _machine() -> str:
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}"


def main(arguments: Sequence[str] | None = None) -> None:
    """The same as ``xaiseg zoo train``, with the columns of subgroups."""
    parser = argparse.ArgumentParser(prog="python -m xaiseg.training", description="Trains a zoo model.")
    parser.add_argument("name")
    parser.add_argument("--data", required=True, help="phantoms, or a folder with images/, masks/ and meta.csv")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--strata", nargs="*", default=(), help="columns that model.yaml declares as subgroups")
    given = parser.parse_args(arguments)
    for line in train_zoo(
        given.name,
        given.data,
        out=given.out,
        size=given.size,
        epochs=given.epochs,
        seed=given.seed,
        device=given.device,
        threads=given.threads,
        strata=given.strata,
    ):
        print(line)


if __name__ == "__main__":
    main()
