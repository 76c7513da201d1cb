"""Real images under a trained segmenter and a trained detector, and the scores of their masks, kept in a cache."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from xaiseg.data.case import CaseRef
from xaiseg.data.entry import DataEntry
from xaiseg.data.readers import load_case
from xaiseg.explainers.bank import MaskBank, Responses
from xaiseg.explainers.base import Budget, Session
from xaiseg.explainers.box_targets import box_target
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.masks import Design, Sampling
from xaiseg.explainers.targets import Target, predicted_region
from xaiseg.loading import load_subject
from xaiseg.modelfile import parse_model, read_model_file
from xaiseg.subject import Detector, Segmenter

ROOT: Final = Path(__file__).resolve().parents[1]
CACHE: Final = ROOT / "benchmarks" / "cache" / "converged"
BUSBRA: Final = ROOT / "examples" / "clinical" / "busbra"
GRID, KEEP, OFFSETS, BATCH = 8, 0.5, 4, 16

#: The ultrasound segmenter computes at this side; at 128 px, its own, a converged map takes twice as long.
SIDE_PX: Final = 96

#: Masks are scored and stored in blocks, so that a killed run loses a block at most.
BLOCK: Final = 4096


@dataclass(frozen=True)
class Subjected:
    """One image under a model, with the target that is explained.

    Attributes:
        kind: "segmenter" or "detector".
        name: of the case.
        session: a session with seed 0.
        target: what is explained.
    """

    kind: str
    name: str
    session: Session
    target: Target

    def bank(self, sampling: Sampling, seed: int) -> MaskBank:
        """The bank of a seed; masks of different seeds are independent."""
        self.session.seed = seed
        return MaskBank(self.session, Design(sampling, GRID, KEEP, OFFSETS), self.session.baseline("mean"))

    def responses(self, sampling: Sampling, seed: int, count: int) -> Responses:
        """Rows and scores of the first ``count`` masks, from the cache where it has them."""
        bank = self.bank(sampling, seed)
        spans = [(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
        parts = [self._block(bank, sampling, seed, *span) for span in spans]
        rows, groups = bank.design.rows(bank.cells, seed, 0, count)
        return Responses(rows, groups, np.concatenate(parts)[:, None].astype(np.float64))

    def _block(self, bank: MaskBank, sampling: str, seed: int, start: int, stop: int) -> np.ndarray:
        file = CACHE / self.kind / f"{self.name}-{sampling}-{seed}-{start}.npy"
        if file.is_file() and len(held := np.load(file)) >= stop - start:
            return np.asarray(held[: stop - start])
        scores = self.session.scores(bank.images(start, stop), [self.target])[:, 0].astype(np.float32)
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".part.npy")
        np.save(fresh, scores)
        fresh.replace(file)
        return scores


def segmenter_cases(folder: Path, count: int) -> Iterator[Subjected]:
    """Test patients of the breast-ultrasound example, by a seeded draw: mean logit over the predicted lesion.

    Args:
        folder: BUS-BRA, laid out as examples/clinical/busbra/model.yaml says.
        count: images, one a patient's lesion at least.
    """
    model = read_model_file(BUSBRA / "model.yaml")
    model = dataclasses.replace(model, input=model.input.model_copy(update={"size": (SIDE_PX, SIDE_PX)}))
    subject = load_subject(model)
    assert isinstance(subject, Segmenter)
    with (BUSBRA / "split.csv").open(encoding="utf-8") as lines:
        test = [row["id"] for row in csv.DictReader(lines) if row["part"] == "test"]
    found = 0
    for name in np.random.default_rng(0).permutation(test):
        path = next((folder / "images").glob(f"{name}.*"))
        case = load_case(DataEntry(images=str(path.parent)), CaseRef(str(name), str(path)), model.image_spec())
        session = Session(subject, reduced(case.image, SIDE_PX), budget=Budget(BATCH))
        region = predicted_region(session.prediction, subject.info.classes)
        if region is not None:
            yield Subjected("segmenter", str(name), session, region)
            found += 1
        if found == count:
            return


def detector_cases(data: Path, model: Path, count: int) -> Iterator[Subjected]:
    """Un-augmented drone tiles of seals, by a seeded draw: the best detection of a COCO detector that knows no seals.

    What it takes a seal or a floe for (a bird, a bear, a kite) is no matter here: the map says why, and that is what
    converges. Tiles whose best detection scores below 0.5 or covers more than a quarter of the tile are passed over.

    Args:
        data: folder with glacier_bay_seals (images and annotations.json).
        model: FastestDet.onnx.
        count: images.
    """
    file = ROOT / "benchmarks" / "fastestdet.yaml"
    names = ", ".join(f"coco-{index}" for index in range(80))
    text = file.read_text(encoding="utf-8").replace("CLASSES", names).replace("MODEL", str(model.resolve()))
    described = parse_model(text, path=file)
    subject = load_subject(described)
    assert isinstance(subject, Detector)
    folder = data / "glacier_bay_seals"
    listed = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))["images"]
    tiles = sorted(each["file_name"] for each in listed if not each["augmented"])
    found = 0
    for name in np.random.default_rng(0).permutation(tiles):
        path = folder / "images" / name
        case = load_case(DataEntry(images=str(path.parent)), CaseRef(path.stem, str(path)), described.image_spec())
        session = DetectionSession(subject, reduced(case.image, 352), budget=Budget(BATCH))
        seen = session.detections  # sorted by score
        if len(seen.scores) and float(seen.scores[0]) >= 0.5 and _share(seen.xyxy[0], session.image) <= 0.25:
            yield Subjected("detector", path.stem, session, box_target(seen, 0, classes=80))
            found += 1
        if found == count:
            return


def _share(xyxy: torch.Tensor, image: torch.Tensor) -> float:
    sides = (xyxy[2:] - xyxy[:2]).clamp(min=0)
    return float(sides.prod()) / (image.shape[1] * image.shape[2])


def reduced(image: np.ndarray, side_px: int) -> torch.Tensor:
    """(C, H, W) with the longer side at the network's, so that maps lose nothing in padding."""
    pixels = torch.as_tensor(image, dtype=torch.float32)[None]
    scale = side_px / max(pixels.shape[2:])
    return torch.nn.functional.interpolate(pixels, scale_factor=scale, mode="bilinear", antialias=True)[0]


def prepare(cases: Sequence[Subjected], wanted: Sequence[tuple[Sampling, int, int]]) -> None:
    """Fills the cache: for each case masks of (sampling, seed, count)."""
    for number, one in enumerate(cases):
        for sampling, seed, count in wanted:
            one.responses(sampling, seed, count)
        print(f"{one.kind} {number + 1}/{len(cases)} {one.name}", flush=True)
