"""Leave one flight out on the harbour seals of Glacier Bay: a detector, trained once for each flight.

    nice -n 5 python -m benchmarks.flights DATA --out OUT [--model faster-rcnn --backbone mobilenet_v2.safetensors]

DATA is the folder with images/ and annotations.json whose images name ``flight``, ``group`` (10 frames of a flight)
and ``augmented``. The un-augmented tiles of a flight are its test; its augmented ones are used nowhere. The other
flights and the tiles without a flight train, but for blocks that hold a fifth of the other flights' un-augmented tiles:
these choose epoch and threshold. One thread; stopped, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from scipy import stats

from benchmarks.faster_rcnn import train_faster_rcnn
from xaiseg.data.readers import load_case, open_dataset
from xaiseg.detection.matching import THRESHOLDS
from xaiseg.fitting_boxes import average_precision_of, pools_of
from xaiseg.loading import load_subject, read_model_file
from xaiseg.seeds import derive_seed
from xaiseg.subject import Boxes, Detector
from xaiseg.training import train_zoo

CLASSES: Final = ("seal",)
#: Share of the other flights' un-augmented tiles, in whole blocks, that choose epoch and threshold.
VALIDATION: Final = 0.2
MEASURES: Final = ("AP50", "AP50:95", "recall", "precision", "false positives an image")
ONLY_THESE: Final = "these flights only: one inlet, one altitude"


@dataclass(frozen=True)
class Tile:
    """What was found on a test tile, and what is there.

    Attributes:
        flight: of the tile.
        group: block of 10 frames.
        found: detections above the subject's score floor, pixels of the tile.
        truth: (G, 5) xyxy and class index, 255 = ignore.
        threshold: of the model that was not trained on this flight.
    """

    flight: str
    group: str
    found: Boxes
    truth: np.ndarray
    threshold: float


def flights_of(images: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Flights with un-augmented tiles, the largest first."""
    counts: dict[str, int] = defaultdict(int)
    for image in images:
        if image["flight"] and not image["augmented"]:
            counts[image["flight"]] += 1
    return tuple(sorted(counts, key=lambda flight: (-counts[flight], flight)))


def parts_of(images: Sequence[Mapping[str, Any]], held_out: str, seed: int = 0) -> dict[str, str]:
    """id -> train, validation, test or unused, when a flight is held out."""
    plain: dict[str, int] = defaultdict(int)  # un-augmented tiles of each block of the other flights
    for image in images:
        if image["flight"] and image["flight"] != held_out and not image["augmented"]:
            plain[image["group"]] += 1
    validating: set[str] = set()
    for group in sorted(plain, key=lambda group: derive_seed(seed, "flights", group)):
        if sum(plain[chosen] for chosen in validating) < VALIDATION * sum(plain.values()):
            validating.add(group)
    parts = {}
    for image in images:
        own = "test" if image["flight"] == held_out else "validation" if image["group"] in validating else "train"
        spoilt = image["augmented"] and own != "train"
        parts[Path(image["file_name"]).stem] = "unused" if spoilt else own
    return parts


def find_on(data: Path, images: Sequence[Mapping[str, Any]], flight: str, out: Path, args: argparse.Namespace) -> None:
    """Trains without a flight and writes what the model finds on it; nothing where that is done already."""
    if (out / "found.json").is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    rows = [f"{id},{part}" for id, part in parts_of(images, flight, args.seed).items()]
    split = out / "parts.csv"
    split.write_text("\n".join(["id,part", *rows]) + "\n", encoding="utf-8")
    TRAINERS[args.model](data, split, out, args)
    model = read_model_file(out / "model.yaml")
    subject, spec = load_subject(model), model.image_spec()
    assert isinstance(subject, Detector)
    found = {}
    for ref in open_dataset("test", model.data["test"], root=model.data_root, spec=spec).cases:
        case = load_case(model.data["test"], ref, spec)
        (boxes,) = subject.predict([torch.from_numpy(case.image)])
        assert case.boxes is not None
        found[ref.id] = {"xyxy": boxes.xyxy.tolist(), "scores": boxes.scores.tolist(), "truth": case.boxes.tolist(),
                         "group": ref.cluster}  # fmt: skip
    held = {"flight": flight, "threshold": subject.info.threshold.value, "tiles": found}
    _count_by_flight(out / "model.yaml")
    (out / "found.tmp").write_text(json.dumps(held), encoding="utf-8")
    (out / "found.tmp").replace(out / "found.json")


def _count_by_flight(path: Path) -> None:
    """Makes the flight the unit of an audit, which a training divides by blocks of frames."""
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [
        line.replace("cluster: group", "cluster: flight") if line.startswith("  test:") else line for line in lines
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def train_compact(data: Path, split: Path, out: Path, args: argparse.Namespace) -> None:
    """The zoo's detector, by its recipe."""
    train_zoo(
        "detector-compact", data, out=out, size=args.size, epochs=args.epochs, split=split, seed=args.seed,
        threads=1, channels=3, classes=CLASSES, start=args.start,
    )  # fmt: skip


#: Name for ``--model`` -> what trains one and writes OUT/model.yaml.
TRAINERS: Final[Mapping[str, Callable[[Path, Path, Path, argparse.Namespace], None]]] = {
    "detector-compact": train_compact,
    "faster-rcnn": train_faster_rcnn,
}


def read_tiles(path: Path) -> list[Tile]:
    """The test tiles of one flight."""
    held = json.loads(path.read_text(encoding="utf-8"))
    tiles = []
    for tile in held["tiles"].values():
        scores = torch.tensor(tile["scores"], dtype=torch.float32)
        xyxy = torch.tensor(tile["xyxy"], dtype=torch.float32).reshape(-1, 4)
        boxes = Boxes(xyxy, scores, torch.zeros(len(scores), dtype=torch.int64))
        truth = np.array(tile["truth"], np.float32).reshape(-1, 5)
        tiles.append(Tile(held["flight"], tile["group"], boxes, truth, held["threshold"]))
    return tiles


def measures(tiles: Sequence[Tile]) -> np.ndarray:
    """The values of :data:`MEASURES` over tiles; each tile counts at its own model's threshold."""
    found, truths = [tile.found for tile in tiles], [tile.truth for tile in tiles]
    ap = [average_precision_of(pools_of(found, truths, len(CLASSES), iou=iou)) for iou in THRESHOLDS]
    (kept,) = pools_of([_above(tile.found, tile.threshold) for tile in tiles], truths, len(CLASSES))
    hits, false = int(kept.hit.sum()), int((~kept.hit & ~kept.void).sum())
    recall, precision = hits / max(1.0, kept.objects.sum()), hits / (hits + false) if hits + false else 1.0
    return np.array([ap[0], np.mean(ap), recall, precision, false / len(tiles)])


def _above(boxes: Boxes, threshold: float) -> Boxes:
    kept = boxes.scores >= threshold
    return Boxes(boxes.xyxy[kept], boxes.scores[kept], boxes.labels[kept])


def jackknife_t(
    tiles: Sequence[Tile], of: Callable[[Tile], str], level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Values over all tiles and the ends of their delete-one-cluster jackknife intervals with t.

    Returns:
        Values, low and high ends, one a measure, and the degrees of freedom (clusters - 1).
    """
    clusters = sorted({of(tile) for tile in tiles})
    without = np.array([measures([tile for tile in tiles if of(tile) != cluster]) for cluster in clusters])
    count = len(clusters)
    error = np.sqrt((count - 1) / count * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    value = measures(tiles)
    return value, value - half, value + half, count - 1


def lines_of(tiles: Sequence[Tile]) -> list[str]:
    """Every flight's values, then the intervals over flights and over blocks."""
    lines = [f"{'flight':44} tiles seals  " + "  ".join(MEASURES)]
    for flight in sorted({tile.flight for tile in tiles}):
        own = [tile for tile in tiles if tile.flight == flight]
        seals = sum(int((tile.truth[:, 4] != 255).sum()) for tile in own)
        shown = "  ".join(f"{value:{len(name)}.3f}" for name, value in zip(MEASURES, measures(own), strict=True))
        lines.append(f"{flight:44} {len(own):5d} {seals:5d}  {shown}")
    kinds: tuple[tuple[str, Callable[[Tile], str]], ...] = (
        ("flights", lambda tile: tile.flight),
        (f"blocks of 10 frames ({ONLY_THESE})", lambda tile: tile.group),
    )
    for what, of in kinds:
        value, low, high, freedom = jackknife_t(tiles, of)
        lines.append(f"95 % jackknife-t intervals over {what}, df {freedom}, ends beyond 0 or 1 as they come out:")
        lines += [
            f"  {name}: {value[index]:.3f} ({low[index]:.3f} to {high[index]:.3f})"
            for index, name in enumerate(MEASURES)
        ]
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with images/ and annotations.json")
    parser.add_argument("--out", type=Path, required=True, help="a folder a flight, and results.txt")
    parser.add_argument("--model", choices=TRAINERS, default="detector-compact")
    parser.add_argument("--size", type=int, default=320, help="side of the network's grid, pixels")
    parser.add_argument("--epochs", type=int, default=None, help="default: the recipe's")
    parser.add_argument(
        "--start",
        type=Path,
        default=None,
        help="detector-compact: weights to start from, e.g. those of generated scenes",
    )
    parser.add_argument("--backbone", type=Path, default=None, help="faster-rcnn: see benchmarks.mobilenet_tflite")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    images = json.loads((args.data / "annotations.json").read_text(encoding="utf-8"))["images"]
    tiles: list[Tile] = []
    for flight in flights_of(images):
        find_on(args.data, images, flight, args.out / flight, args)
        tiles += read_tiles(args.out / flight / "found.json")
        print(f"{flight}: done")
    lines = lines_of(tiles)
    print("\n".join(lines))
    (args.out / "results.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
