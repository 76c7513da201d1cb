"""What the ice truly does to each detector of ``benchmarks.shortcut_rates``, beside what the audit says of it.

    OMP_NUM_THREADS=1 python -m benchmarks.shortcut_truth --out OUT [--workers 2] [--world ice]
    python -m benchmarks.shortcut_truth --show [--world ice]

OUT is the folder in which ``benchmarks.shortcut_rates`` trained detectors of that world. The generator can draw one
tile three times with nothing but the paint of its floes changed: white, dull, and none, the same seal then lying on
open water. So what the ground is worth to a detector need not be guessed from how it was taught: of the seals on ice
that it finds when all ice is white, which share of the confidence goes when the ice is dull, and when there is none?
Detectors of either world are asked about the same tiles, seals on ice. The answer is set against the drop which the
audit measures with cut and paste, on other tiles, without knowing what ice is. Rows are kept in
``benchmarks/shortcut_truth.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import torch
from scipy import stats
from torchvision.ops import box_iou

from benchmarks.shortcut_rates import CLEAN, WORLDS, Row, folder_of, read_rows
from xaiseg.data.scenes import SceneSpec, scene_case, scene_list
from xaiseg.data.scenes_compose import Ice
from xaiseg.loading import load_subject, read_model_file
from xaiseg.subject import Detector

ROWS: Final = Path(__file__).with_name("shortcut_truth.json")
#: Tiles of a seed that no detector was trained or audited on; bright and dull ice say nothing there.
WORLD: Final = SceneSpec(seed=901)
PAINTS: Final[tuple[Ice, ...]] = ("bright", "dull", "none")
IOU: Final = 0.5
#: Of so few detectors a rank correlation has no interval.
_FEWEST: Final = 3


@dataclass(frozen=True)
class Truth:
    """One detector.

    Attributes:
        seed, correlation, world: as :class:`benchmarks.shortcut_rates.Row`.
        objects: seals on ice that it finds when all ice is white.
        dull: mean share of their confidence that goes when the ice is dull.
        none: when there is open water below the seal.
    """

    seed: int
    correlation: float
    objects: int
    dull: float
    none: float
    world: str = "ice"


@lru_cache(maxsize=1)
def tiles() -> tuple[tuple[np.ndarray, tuple[np.ndarray, ...]], ...]:
    """For each tile with a seal on ice: its boxes (N, 4) and one image (H, W, 3) a paint."""
    made = []
    for index, tile in enumerate(scene_list(WORLD)):
        if not tile.conditions.animals:
            continue
        drawn = [scene_case(WORLD, index, ice=paint) for paint in PAINTS]
        on_ice = (drawn[0].boxes[:, 4] == 0) & (np.array(drawn[0].grounds) != "water")
        if on_ice.any():
            made.append((drawn[0].boxes[on_ice, :4], tuple(one.image for one in drawn)))
    return tuple(made)


def confidences(subject: Detector, boxes: np.ndarray, images: Sequence[np.ndarray]) -> np.ndarray:
    """(images, N): the highest score of a detection that fits each box, 0 without one."""
    found = subject.predict([torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images])
    rows = []
    for one in found:
        fits = box_iou(torch.from_numpy(boxes), one.xyxy) >= IOU
        scores = torch.where(fits, one.scores[None], torch.zeros(()))
        rows.append(scores.max(dim=1).values.numpy() if len(one.scores) else np.zeros(len(boxes)))
    return np.stack(rows)


def truth(out: Path, seed: int, correlation: float, world: str) -> Truth:
    """Loads the detector of a training and measures it."""
    torch.set_num_threads(1)
    subject = load_subject(read_model_file(folder_of(out, seed, correlation, world) / "model.yaml"))
    assert isinstance(subject, Detector)
    held = np.concatenate([confidences(subject, boxes, images) for boxes, images in tiles()], axis=1)
    held = held[:, held[0] >= subject.info.threshold.value]
    lost = (1 - held[1:] / held[0]).mean(axis=1)
    return Truth(seed, correlation, held.shape[1], round(float(lost[0]), 4), round(float(lost[1]), 4), world)


def table(truths: Sequence[Truth], rows: Sequence[Row]) -> list[str]:
    """What the ice is worth by world, correlation and what the audit said, and how the two go together."""
    said = {key_of(row): row for row in rows}
    pairs = [(one, said[key_of(one)]) for one in truths if key_of(one) in said]
    lines = [
        f"{'world':<8} correlation {'audit':<8} detectors  lost on dull ice         lost without ice         audit"
    ]
    for world, correlation in sorted({(a.world, a.correlation) for a, _ in pairs}, key=lambda key: (key[0], -key[1])):
        for called in ("flagged", "neither", "cleared"):
            own = [(a, b) for a, b in pairs if key_of(a)[1:] == (correlation, world) and b.called == called]
            if own:
                columns = zip(*((a.dull, a.none, b.drop) for a, b in own), strict=True)
                spans = [f"{_span([value for value in column if value is not None]):<23}" for column in columns]
                lines.append(f"{world:<8} {correlation:11g} {called:<8} {len(own):9d}  " + "  ".join(spans).rstrip())
    clean = [pair for pair in pairs if pair[0].correlation == CLEAN]
    groups = {"without a shortcut": clean} if len(clean) == len(pairs) else {"all": pairs, "without a shortcut": clean}
    for name, chosen in groups.items():
        for what in ("dull", "none") if len(chosen) > _FEWEST else ():
            ends = rank_agreement([getattr(a, what) for a, _ in chosen], [b.drop or 0.0 for _, b in chosen])
            lines.append(f"rank correlation with the audit, {name} ({len(chosen)}), {what}: "
                         f"{ends[0]:.2f} (90 % {ends[1]:.2f} to {ends[2]:.2f})")  # fmt: skip
    return lines


def key_of(one: Truth | Row) -> tuple[int, float, str]:
    """What tells one training from another."""
    return one.seed, one.correlation, one.world


def _span(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def rank_agreement(one: Sequence[float], two: Sequence[float]) -> tuple[float, float, float]:
    """Spearman's rho with a 90 % interval (Fisher's z, variance 1.06 / (n - 3) after Fieller, Hartley and Pearson)."""
    rho = float(stats.spearmanr(one, two).statistic)
    half = 1.6449 * np.sqrt(1.06 / (len(one) - 3))
    centre = np.arctanh(np.clip(rho, -0.9999, 0.9999))
    return rho, float(np.tanh(centre - half)), float(np.tanh(centre + half))


def read_truths(path: Path = ROWS) -> list[Truth]:
    """The rows that are there."""
    return [Truth(**held) for held in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def write_truths(truths: Sequence[Truth], path: Path = ROWS) -> None:
    """By seed, correlation and world, a line each."""
    ordered = sorted(truths, key=key_of)
    path.write_text("[\n" + ",\n".join(json.dumps(asdict(one)) for one in ordered) + "\n]\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the folder of the trainings")
    parser.add_argument("--rows", type=Path, default=ROWS, help="where the rows are kept")
    parser.add_argument("--world", choices=WORLDS, default="ice", help="of the trainings")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print the tables of the rows that are there")
    args = parser.parse_args(argv)
    rows = [row for row in read_rows() if row.world == args.world]
    truths = read_truths(args.rows)
    if not args.show:
        if args.out is None:
            parser.error("--out is needed, or --show")
        there = {key_of(one) for one in truths}
        missing = [key_of(row) for row in rows if key_of(row) not in there]
        with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
            for done in pool.map(partial(truth, args.out), *zip(*missing, strict=True)) if missing else ():
                truths.append(done)
                write_truths(truths, args.rows)
                print(done, flush=True)
    print("\n".join(table(truths, rows)))


if __name__ == "__main__":
    main()
