"""Planning a screening: the detector counts all tiles, and some are drawn for a person to count.

What is written is the sidecar from which an audit of the drawn tiles forms the total in animals; the statistics are in
:mod:`xaiseg.statistics.design_counts`. No label is needed or read.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from xaiseg.context import Counter, Predictor
from xaiseg.data.case import CaseRef
from xaiseg.data.entry import DataEntry
from xaiseg.data.files import Place
from xaiseg.data.readers import load_case, open_dataset
from xaiseg.data.sidecar import Rows, read_rows, spelled
from xaiseg.errors import DataError, UsageError
from xaiseg.loading import ModelFile, load_subject, read_model_file
from xaiseg.reports.words import listed, plural
from xaiseg.seeds import generator
from xaiseg.statistics.design_counts import RANDOM_SHARE, draw_probabilities, inclusion_probabilities
from xaiseg.subject import Boxes, Detector

if TYPE_CHECKING:
    from xaiseg.data.case import Case

#: Tiles held in memory at once.
CHUNK: Final = 16
Design = Literal["detector", "random"]


@dataclass(frozen=True)
class Screening:
    """How tiles are drawn.

    Attributes:
        draws: number of draws.
        design: "detector": with replacement, in proportion to the detector's counts above a floor; "random": a simple
            random sample without replacement, which the detector does not touch.
        random_share: of "detector", the share of the draws that go to all tiles alike.
        disjoint: the caller declares that the ground of no tile lies on another one.
        seed: of the draw.
    """

    draws: int
    design: Design = "detector"
    random_share: float = RANDOM_SHARE
    disjoint: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [
            (self.draws < 1, "draws", self.draws, "1 or more"),
            (self.design not in ("detector", "random"), "design", self.design, "detector or random"),
            (not 0 < self.random_share <= 1, "random_share", self.random_share, "above 0, at most 1"),
        ]
        for is_wrong, name, got, allowed in wrong:
            if is_wrong:
                raise UsageError("this value is out of range", where=name, got=got, allowed=allowed)


@dataclass(frozen=True)
class Counted:
    """What the detector says of all tiles.

    Attributes:
        refs: the tiles, sorted by id.
        counts: (N,) float64, detections at the operating threshold; NaN where the tile failed.
        failed: id -> why.
        rows: id -> columns of the folder's own meta.csv.
    """

    refs: tuple[CaseRef, ...]
    counts: np.ndarray
    failed: Mapping[str, str]
    rows: Rows


def screen(
    model: str | Path,
    folder: str | Path,
    *,
    plan: Screening,
    out: str | Path,
    copy_to: str | Path | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Counts all tiles by the detector, draws those to screen and writes the sidecar.

    Args:
        model: model.yaml of a detector.
        folder: a folder of images, or one with images/; its meta.csv, where there is one, goes into the sidecar.
        plan: how tiles are drawn.
        out: the sidecar, a CSV file with a row for each drawn tile: the columns of meta.csv, then count, probability
            (of being drawn at all), draw_probability (of one draw), drawn and draws. Beside it ``<name>-tiles.csv``
            keeps the counts of all tiles and says which could not be read.
        copy_to: a new folder that receives the drawn images and the sidecar as its meta.csv.
        device: where the detector computes.
        progress: told (tiles done, tiles).

    Returns:
        What was done and what comes next, as lines.

    Raises:
        UsageError: no detector, a file that is there already, more random draws than tiles, a column of meta.csv that
            the sidecar would write.
        DataError: no tile could be read.
    """
    target, copies = Path(out), Path(copy_to) if copy_to is not None else None
    _must_be_new(target, copies)
    opened = read_model_file(model)
    _no_own_columns(_table(opened, Path(folder)), plan, Path(folder))
    counted = count_tiles(opened, Path(folder), device=device, progress=progress)
    chances, times = draw_tiles(counted.counts, plan)
    _write(target, _drawn_rows(counted, chances, times, plan))
    _write(_beside(target), _all_rows(counted, chances, times))
    if copies is not None:
        (copies / "images").mkdir(parents=True)
        for ref, count in zip(counted.refs, times, strict=True):
            if count:
                shutil.copy2(ref.image, copies / "images")
        shutil.copy2(target, copies / "meta.csv")
    return _said(opened, counted, times, plan, target, copies)


def count_tiles(
    model: ModelFile, folder: Path, *, device: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> Counted:
    """Detections on each tile of a folder at the operating threshold.

    Raises:
        UsageError: the model is no detector.
        DataError: no tile could be read.
    """
    if model.task != "detection":
        raise UsageError("screening needs a detector", where=model.path, got=f"task: {model.task}")
    entry = _entry(folder)
    if "test" in model.data:  # the detector sees the pixels as in the audit
        entry = entry.model_copy(update={"window": model.data["test"].window})
    found = open_dataset("tiles", entry, root=model.data_root, spec=model.image_spec()).cases
    refs = tuple(replace(ref, reference=None, reader2=None) for ref in found)
    subject = load_subject(model, device=device)
    assert isinstance(subject, Detector)
    counts, failed = np.full(len(refs), np.nan), dict[str, str]()
    for start in range(0, len(refs), CHUNK):
        part = refs[start : start + CHUNK]
        cases: dict[str, Case] = {}
        for ref in part:
            try:
                cases[ref.id] = load_case(entry, ref, model.image_spec())
            except DataError as error:
                failed[ref.id] = str(error)
        predictor = Predictor(subject, 8)
        failed |= {id: str(error) for id, error in predictor.fill(cases, Counter()).items()}
        for place, ref in enumerate(part, start):
            boxes = predictor.held(ref.id)
            if isinstance(boxes, Boxes):
                counts[place] = int((boxes.scores >= subject.info.threshold.value).sum())
        progress(min(start + CHUNK, len(refs)), len(refs))
    if len(failed) == len(refs):
        raise DataError("no tile could be read", where=folder, got=next(iter(failed.values())))
    return Counted(refs, counts, failed, _table(model, folder))


def _entry(folder: Path) -> DataEntry:
    return DataEntry(path=str(folder.resolve()), images=None if (folder / "images").is_dir() else ".")


def _table(model: ModelFile, folder: Path) -> Rows:
    """The rows of the folder's own meta.csv."""
    return read_rows(_entry(folder), Place(folder.resolve(), model.data_root))[0]


def _no_own_columns(rows: Rows, plan: Screening, folder: Path) -> None:
    """Refuses a table that has a column which the sidecar will write, in any case, before hours of counting."""
    written = ["count", "probability", "draw_probability", "drawn", "draws", *["footprint"] * plan.disjoint]
    held = {column for row in rows.values() for column in row}
    if twice := [column for name in written if (column := spelled(name, held))]:
        then = "Rename it, or take it out of meta.csv"
        raise UsageError("meta.csv has a column that the sidecar gives", where=folder, got=", ".join(twice), then=then)


def draw_tiles(counts: np.ndarray, plan: Screening) -> tuple[np.ndarray, np.ndarray]:
    """Draws tiles.

    Args:
        counts: (N,) detections on each tile, NaN = cannot be drawn.
        plan: how.

    Returns:
        (N,) float64 probability of one draw ("detector") or of being drawn at all ("random"), and (N,) int64, how
        often each tile was drawn; both 0 where the count is NaN.

    Raises:
        UsageError: more draws without replacement than tiles.

    >>> chances, times = draw_tiles(np.array([0.0, 4.0, np.nan]), Screening(10))
    >>> chances.tolist(), int(times.sum()), int(times[2])
    ([0.125, 0.875, 0.0], 10, 0)
    """
    known = np.flatnonzero(np.isfinite(counts))
    rng = generator(plan.seed, "screen")
    chances, times = np.zeros(len(counts)), np.zeros(len(counts), dtype=np.int64)
    if plan.design == "detector":
        chances[known] = draw_probabilities(counts[known], random_share=plan.random_share)
        times[known] = rng.multinomial(plan.draws, chances[known])
        return chances, times
    if plan.draws > len(known):
        allowed = f"at most {len(known)}, the tiles that could be read"
        raise UsageError("more draws without replacement than tiles", where="draws", got=plan.draws, allowed=allowed)
    chances[known] = plan.draws / len(known)
    times[rng.choice(known, plan.draws, replace=False)] = 1
    return chances, times


def _drawn_rows(counted: Counted, chances: np.ndarray, times: np.ndarray, plan: Screening) -> list[dict[str, object]]:
    replaced = plan.design == "detector"
    inside = inclusion_probabilities(chances, plan.draws) if replaced else chances
    rows: list[dict[str, object]] = []
    for place in np.flatnonzero(times):
        id = counted.refs[place].id
        once = {"draw_probability": float(chances[place])} if replaced else {}
        ground = {"footprint": "disjoint"} if plan.disjoint else {}
        if counted.failed:  # some tiles had no chance of being drawn: the audit must form no total
            ground = {"footprint": ""}
        own = {"count": int(counted.counts[place]), "probability": float(inside[place]), **once,
               "drawn": int(times[place]), "draws": plan.draws, **ground}  # fmt: skip
        rows.append({"id": id, **counted.rows.get(id, {}), **own})
    return rows


def _all_rows(counted: Counted, chances: np.ndarray, times: np.ndarray) -> list[dict[str, object]]:
    return [
        {"id": ref.id, "count": "" if np.isnan(count) else int(count), "chance": float(chance), "drawn": int(drawn),
         "failed": counted.failed.get(ref.id, "")}
        for ref, count, chance, drawn in zip(counted.refs, counted.counts, chances, times, strict=True)
    ]  # fmt: skip


def _beside(out: Path) -> Path:
    return out.with_name(f"{out.stem}-tiles.csv")


def _must_be_new(out: Path, copies: Path | None) -> None:
    for path in (out, _beside(out), copies):
        if path is not None and path.exists():
            then = "A sample is drawn once: one that was drawn again until it pleased has no known probabilities"
            raise UsageError("this is there already", where=path, then=then)
    if not out.parent.is_dir():
        raise UsageError("this folder is missing", where=out.parent)


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, names, restval="")
        table.writeheader()
        table.writerows(rows)


def _said(
    model: ModelFile, counted: Counted, times: np.ndarray, plan: Screening, out: Path, copies: Path | None
) -> list[str]:
    known = counted.counts[np.isfinite(counted.counts)]
    said = f"{int(known.sum())} detections on {int((known > 0).sum())} of {len(known)} tiles"
    lines = [f"{said}: a sum of detections over images, not animals"]
    if counted.failed:
        some = listed(sorted(counted.failed), most=3)
        lines.append(f"{plural(len(counted.failed), 'tile')} could not be read and no total will hold: {some}")
        lines.append("so the column footprint is left empty and the audit forms no total; mend them and screen anew")
    lines.append(
        f"{plan.draws} draws hit {int((times > 0).sum())} tiles, listed in {out}: mark every animal on each of them, "
        "also where the detector saw none"
    )
    if not plan.disjoint and not counted.failed:
        lines.append(
            "the footprint is not declared: without the column footprint (disjoint on every row, or --disjoint here) "
            "there will be no total in animals"
        )
    where = copies or "DIR"
    then = "" if copies else f", {out} being meta.csv of DIR"
    lines.append(f"then: xaiseg audit {model.path} --protocol ecology --data test={where}{then}")
    return lines
