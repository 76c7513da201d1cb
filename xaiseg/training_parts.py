"""Who trains, who chooses the epoch and who is left for the audit: generated sets and folders, divided by cluster."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from xaiseg.data.case import Case, Dataset, ImageSpec
from xaiseg.data.entry import DataEntry, PhantomEntry, SceneEntry
from xaiseg.data.readers import entry_from_folder, load_case, open_dataset
from xaiseg.data.scenes import ANIMALS
from xaiseg.errors import UsageError
from xaiseg.seeds import derive_seed

Part = Literal["train", "validation", "test"]

#: Shares of the clusters, in order.
SHARES: Final[tuple[tuple[Part, float], ...]] = (("train", 0.50), ("validation", 0.15), ("test", 0.35))
#: In a list of parts: a case of none of them.
UNUSED: Final = "unused"

_READERS: Final = {"segmentation": ("folder",), "detection": ("coco", "yolo", "voc")}


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


@dataclass(frozen=True)
class Parts:
    """What is trained on: the entries of model.yaml, where they start, and the list of who is in which part."""

    entries: dict[Part, DataEntry]
    root: Path
    label: str
    split: Path | None = None

    def cases(self, part: Part, spec: ImageSpec) -> Iterator[Case]:
        """Loads the cases of a part, one by one."""
        entry = self.entries[part]
        return (load_case(entry, ref, spec) for ref in open_dataset(part, entry, root=self.root, spec=spec).cases)


def _phantoms(seed: int, strata: Sequence[str]) -> Parts:
    def entry(part: Part) -> DataEntry:
        phantom = PhantomEntry(split=part, seed=seed)
        return DataEntry(reader="phantom", phantom=phantom, cluster="patient", strata=tuple(strata))

    return Parts({part: entry(part) for part, _ in SHARES}, Path(), "phantoms")


def divided(
    data: str | Path, out: Path, seed: int, strata: Sequence[str], spec: ImageSpec, split: Path | None
) -> Parts:
    """The three parts of what ``--data`` names.

    Args:
        data: "phantoms", "scenes", "scenes:KEY=VALUE,..." or a folder.
        out: where split.csv is written.
        seed: of generated sets and of the division of a folder.
        strata: columns that model.yaml shall declare.
        spec: what the network expects.
        split: a list of parts, for folders.
    """
    out.mkdir(parents=True, exist_ok=True)
    kind, _, options = str(data).partition(":")
    if kind not in ("phantoms", "scenes"):
        return _folder(Path(data), out, seed, strata, spec, split)
    if split is not None:
        raise UsageError(f"{kind} are divided already", where="--split", got=split)
    if (kind == "scenes") != (spec.task == "detection"):
        raise UsageError(f"{kind} do not suit this model", where="--data", got=data,
                         allowed="phantoms for segmentation, scenes for detection")  # fmt: skip
    return _phantoms(seed, strata) if kind == "phantoms" else scenes(options, seed, strata)


def default_classes(data: str | Path, task: str) -> tuple[str, ...] | None:
    """The classes of a training that names none, or None where they cannot be guessed."""
    if task == "segmentation":
        return "background", "lesion"
    kind, _, options = str(data).partition(":")
    return (ANIMALS[_scene("train", options, 0).world],) if kind == "scenes" else None


def scenes(options: str, seed: int, strata: Sequence[str]) -> Parts:
    """Generated survey tiles.

    Args:
        options: "", or keys of ``scene:`` as "world=cetaceans,flights=4"; "shortcut=0.9" plants a cue of that
            correlation. A number of flights or tiles holds for each part.
        seed: of the tiles, unless the options say otherwise.
        strata: columns to declare.

    >>> scenes("flights=4,shortcut=0.9", 0, ()).entries["test"].scene.shortcut.correlation
    0.9
    """

    def entry(part: Part) -> DataEntry:
        return DataEntry(reader="scene", scene=_scene(part, options, seed), cluster="flight", strata=tuple(strata))

    label = f"generated scenes ({options})" if options else "generated scenes"
    return Parts({part: entry(part) for part, _ in SHARES}, Path(), label)


def _scene(part: Part, options: str, seed: int) -> SceneEntry:
    held: dict[str, Any] = {"split": part, "seed": seed}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        held[key.strip()] = {"correlation": value} if key.strip() == "shortcut" else value.strip()
    try:
        return SceneEntry.model_validate(held)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"the options of scenes cannot be read: {first['msg']}"
        raise UsageError(what, where="--data", got=options, allowed=", ".join(SceneEntry.model_fields)) from error


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
    parts = _read_parts(path)
    unknown = sorted(set(parts) - {case.id for case in whole.cases})
    if unknown:
        raise UsageError("the list names images that the folder does not hold", where=path,
                         got=f"{unknown[0]} and {len(unknown) - 1} more" if unknown[1:] else unknown[0],
                         then="Take their rows out")  # fmt: skip
    known = [part for part, _ in SHARES]
    homes: dict[str, str] = {}
    for case in whole.cases:
        if parts.get(case.id) == UNUSED:
            continue
        if parts.get(case.id) not in known:
            allowed = f"columns id and part, each part one of {', '.join((*known, UNUSED))}"
            raise UsageError(f"the part of {case.id} is not known", where=path, got=parts.get(case.id) or "nothing",
                             allowed=allowed)  # fmt: skip
        home = homes.setdefault(case.cluster, parts[case.id])
        if home != parts[case.id]:
            raise UsageError("a cluster is in two parts", where=path,
                             got=f"{case.cluster} in {home} and {parts[case.id]}",
                             allowed="each patient, site or flight in one part")  # fmt: skip
    return {case.id: parts[case.id] for case in whole.cases}


def _read_parts(path: Path) -> dict[str, str]:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    parts: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        name = row.get("id") or ""
        if name in parts:
            raise UsageError("an image stands twice in the list", where=f"{path}:{line}", got=name,
                             allowed="one row an image")  # fmt: skip
        parts[name] = row.get("part") or ""
    return parts


def _folder(folder: Path, out: Path, seed: int, strata: Sequence[str], spec: ImageSpec, given: Path | None) -> Parts:
    entry = entry_from_folder(folder)
    if entry.reader not in _READERS[spec.task]:
        raise UsageError(f"this folder is not read for {spec.task}", where="--data", got=f"{folder} ({entry.reader})",
                         allowed=", ".join(_READERS[spec.task]))  # fmt: skip
    whole = open_dataset("train", entry, root=folder, spec=spec)
    parts = _given_parts(given, whole) if given else _own_parts(whole, seed)
    split = out / "split.csv"
    lines = ["id,part", *(f"{case.id},{parts[case.id]}" for case in whole.cases)]
    _write_split(split, "\n".join(lines) + "\n")
    own = ("meta.csv",) if (folder / "meta.csv").is_file() else ()
    held = entry.model_copy(update={"path": ".", "meta": (*own, str(split.resolve())), "strata": tuple(strata)})
    entries = {part: held.model_copy(update={"where": {"part": part}}) for part, _ in SHARES}
    return Parts(entries, folder.resolve(), f"{len(whole.cases)} images of {folder.name}", split)


def _write_split(path: Path, text: str) -> None:
    """Never under weights that another division made: an audit of them would call training images test images."""
    made = [name for name in ("weights.safetensors", "checkpoint.pt") if (path.parent / name).is_file()]
    if made and path.is_file() and path.read_text(encoding="utf-8") != text:
        raise UsageError("the folder holds a training on another division", where=path, got=made[0],
                         then="Choose another folder with --out, or remove this one")  # fmt: skip
    path.write_text(text, encoding="utf-8")
