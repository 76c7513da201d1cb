"""How many masks a perturbation map needs: agreement with a converged RISE map against the number of masks.

    python -m benchmarks.masks_curve FOLDER [--images 6] [--converged 8192] [--most 1024] [--cache DIR]

FOLDER is a BUS-BRA folder (see examples/clinical/busbra/model.yaml). For each image, the converged map is the centred
average over independent masks with a seed of its own; every method is compared with it by Spearman over the pixels.
Ridge passes through the expectation of the masks first: (1 - p) times its map is what the average converges to. The
converged map has noise of its own, so the agreement of its two halves is printed, and the most that any map can reach
with it. Forwards run in bfloat16, which is what lets one core answer 8,192 masks in a minute; all methods and the
converged map share that.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from xaiseg.data.case import CaseRef
from xaiseg.data.entry import DataEntry
from xaiseg.data.readers import load_case
from xaiseg.explainers.bank import MaskBank, Responses
from xaiseg.explainers.base import Budget, Session
from xaiseg.explainers.masks import Design
from xaiseg.explainers.rise import averaged, regressed
from xaiseg.explainers.stopping import CellMap, spearman
from xaiseg.explainers.targets import Region, predicted_region
from xaiseg.loading import load_subject
from xaiseg.modelfile import read_model_file
from xaiseg.subject import Segmenter

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "examples" / "clinical" / "busbra" / "model.yaml"
GRID, KEEP, SIDE_PX = 8, 0.5, 128
COUNTS = (128, 256, 512, 1024, 2048, 4096)

#: name -> (sampling, responses and bank -> cells)
Estimate = Callable[[Responses, MaskBank], CellMap]
METHODS: dict[str, tuple[str, Estimate]] = {
    "average, published": ("bernoulli", lambda r, _: averaged(r, KEEP, centred=False)),
    "average, centred": ("bernoulli", lambda r, _: averaged(r, KEEP)),
    "average, Sobol masks": ("sobol", lambda r, _: averaged(r, KEEP)),
    "ridge": ("bernoulli", lambda r, bank: regressed(r, bank.cells, 0.0)),
    "ridge, Sobol masks": ("sobol", lambda r, bank: regressed(r, bank.cells, 0.0)),
    "ridge, smooth": ("bernoulli", lambda r, bank: regressed(r, bank.cells, 0.75)),
    "ridge, smooth, Sobol masks": ("sobol", lambda r, bank: regressed(r, bank.cells, 0.75)),
}


@dataclass(frozen=True)
class Subjected:
    """One image under the model: its region, and the scores of masks, from the cache where they are known."""

    name: str
    subject: Segmenter
    image: torch.Tensor
    region: Region
    cache: Path | None

    def bank(self, sampling: str, seed: int) -> MaskBank:
        return Session(self.subject, self.image, seed=seed, budget=Budget(8)).bank(Design(sampling, GRID), "mean")

    def responses(self, sampling: str, seed: int, count: int) -> Responses:
        bank = self.bank(sampling, seed)
        file = self.cache / f"{self.name}-{sampling}-{seed}-{count}.npy" if self.cache else None
        if file and file.is_file():
            rows, groups = bank.design.rows(bank.cells, seed, 0, count)
            return Responses(rows, groups, np.load(file))
        found = bank.responses([self.region], count)
        if file:
            np.save(file, found.scores)
        return found


def subjects(folder: Path, images: int, cache: Path | None) -> Iterator[Subjected]:
    """Images of the test part, by a seeded draw, reduced to the network's side so that nothing is lost in padding."""
    model = read_model_file(MODEL)
    subject = load_subject(model)
    assert isinstance(subject, Segmenter)
    with (MODEL.parent / "split.csv").open(encoding="utf-8") as lines:
        test = [row["id"] for row in csv.DictReader(lines) if row["part"] == "test"]
    found = 0
    for name in np.random.default_rng(0).permutation(test):
        path = next((folder / "images").glob(f"{name}.*"))
        case = load_case(DataEntry(images=str(path.parent)), CaseRef(str(name), str(path)), model.image_spec())
        image = torch.as_tensor(case.image, dtype=torch.float32)[None]
        scale = SIDE_PX / max(image.shape[2:])
        image = torch.nn.functional.interpolate(image, scale_factor=scale, mode="bilinear", antialias=True)[0]
        region = predicted_region(Session(subject, image).prediction, subject.info.classes)
        if region is not None:
            yield Subjected(str(name), subject, image, region, cache)
            found += 1
        if found == images:
            return


def measured(one: Subjected, converged: int, most: int) -> dict[str, np.ndarray]:
    """name -> agreement at each of COUNTS (NaN where not measured); "halves" -> agreement of the converged halves."""
    bank = one.bank("bernoulli", 1)

    def painted(cells: CellMap) -> np.ndarray:
        return bank.cells.paint(cells.values, cells.groups)[0].ravel()

    answers = one.responses("bernoulli", 1, converged)
    truth = painted(averaged(answers, KEEP))
    half = converged // 2
    parts = [painted(averaged(answers.part(each), KEEP)) for each in (slice(0, half), slice(half, converged))]
    found = {"halves": np.array([spearman(*parts)])}
    limits = {"bernoulli": max(COUNTS), "sobol": most}
    known = {sampling: one.responses(sampling, 0, limit) for sampling, limit in limits.items()}
    for name, (sampling, estimate) in METHODS.items():
        curve = np.full(len(COUNTS), np.nan)
        for place, count in enumerate(COUNTS):
            if count <= limits[sampling]:
                cells = estimate(known[sampling].part(slice(0, count)), bank)
                curve[place] = spearman(painted(cells), truth) or 0.0
        found[name] = curve
    return found


def table(found: list[dict[str, np.ndarray]]) -> str:
    """Means over images, as Markdown."""
    lines = ["| masks | " + " | ".join(f"{count:,}" for count in COUNTS) + " |", "| --- " * (len(COUNTS) + 1) + "|"]
    for name in METHODS:
        mean = np.mean([each[name] for each in found], axis=0)
        lines.append(f"| {name} | " + " | ".join("" if np.isnan(value) else f"{value:.2f}" for value in mean) + " |")
    halves = float(np.mean([each["halves"][0] for each in found]))
    reliability = 2 * halves / (1 + halves)
    lines.append(
        f"\nHalves of the converged maps agree at {halves:.2f}: no map can reach more than {reliability**0.5:.2f}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--converged", type=int, default=8192)
    parser.add_argument("--most", type=int, default=1024, help="most Sobol masks")
    parser.add_argument("--cache", type=Path, help="a folder that keeps the scores of masks")
    given = parser.parse_args()
    torch.set_num_threads(1)
    started, found = time.process_time(), []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for one in subjects(given.folder, given.images, given.cache):
            found.append(measured(one, given.converged, given.most))
            print(f"{one.name}: halves {found[-1]['halves'][0]:.2f}, {time.process_time() - started:.0f} s", flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
