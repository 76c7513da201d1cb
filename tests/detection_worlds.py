"""Small surveys of known truth: bright blobs on a dark ground, and a detector that sees brightness alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

BUILDER = '''
import numpy as np
import torch
from scipy import ndimage
from xaiseg.subject import Boxes, Detector, SubjectInfo, Threshold


class Bright(Detector):
    """Boxes around regions brighter than 0.35; the score is their mean brightness."""

    def __init__(self):
        self.info = SubjectInfo("bright", ("seal",), 1, offers=frozenset({"scores"}), threshold=Threshold(0.5, "val"))

    def predict(self, images, *, batch_size=8):
        return [self.find(image[0].numpy()) for image in images]

    def find(self, image):
        regions, count = ndimage.label(image > 0.35)
        places = ndimage.find_objects(regions)
        xyxy = [[x.start, y.start, x.stop, y.stop] for y, x in places]
        scores = [float(image[regions == index].mean()) for index in range(1, count + 1)]
        return Boxes(
            torch.tensor(xyxy, dtype=torch.float32).reshape(-1, 4),
            torch.tensor(scores, dtype=torch.float32),
            torch.zeros(count, dtype=torch.int64),
        )


def build():
    return Bright()
'''

MODEL = """name: bright
version: "1"
task: detection
classes: [seal]
source: {{torch: "builder.py:build"}}
trust: true
input: {{channels: 1, range: [0, 1]}}
output: {{threshold: {{value: 0.5, chosen_on: val}}}}
intended_use: tests
data:
  test: {{reader: coco, path: {data}, cluster: group, strata: [habitat], spacing_mm: 40}}
"""


def survey(
    folder: Path,
    *,
    flights: int = 24,
    tiles: int = 5,
    empty: int = 3,
    dim: float = 0.1,
    false: float = 0.1,
    seed: int = 0,
) -> Path:
    """Writes tiles, COCO boxes and model.yaml; returns the path of model.yaml.

    Args:
        folder: where to.
        flights, tiles: flights and tiles a flight, of which ``empty`` hold no animal and are declared so.
        dim: share of animals too dark to reach the threshold; half of them are nearly detected, half not at all.
        false: chance that a tile holds a bright thing that is no animal.
        seed: of everything.
    """
    rng = np.random.default_rng(seed)
    (folder / "data" / "images").mkdir(parents=True)
    images, annotations = [], []
    for index in range(flights * tiles):
        flight, tile = divmod(index, tiles)
        pixels = 0.15 + rng.normal(0, 0.02, (64, 96))
        cells = rng.permutation(6)
        count = 0 if tile < empty else int(rng.integers(1, 4))
        for cell in cells[:count]:
            box = _blob(pixels, cell, rng, float(rng.choice((0.42, 0.25))) if rng.random() < dim else 0.9)
            outline = [
                box[0],
                box[1],
                box[0] + box[2],
                box[1],
                box[0] + box[2],
                box[1] + box[3],
                box[0],
                box[1] + box[3],
            ]
            annotations.append({"id": len(annotations) + 1, "image_id": index, "category_id": 1, "bbox": box,
                                "segmentation": [outline]})  # fmt: skip
        if rng.random() < false:
            _blob(pixels, cells[count], rng, 0.8)
        name = f"t{index:04d}.png"
        Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)).save(folder / "data" / "images" / name)
        images.append({"id": index, "file_name": name, "width": 96, "height": 64, "group": f"flight {flight:02d}",
                       "habitat": ("ice", "rock")[flight % 2], "known_empty": tile < empty})  # fmt: skip
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "seal"}]}
    (folder / "data" / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "builder.py").write_text(BUILDER, encoding="utf-8")
    model = folder / "model.yaml"
    model.write_text(MODEL.format(data="data"), encoding="utf-8")
    return model


def _blob(pixels: np.ndarray, cell: int, rng: np.random.Generator, bright: float) -> list[int]:
    """Draws a bright rectangle into one of six cells; x, y, width, height."""
    row, column = divmod(int(cell), 3)
    width, height = int(rng.integers(8, 20)), int(rng.integers(8, 18))
    x, y = 32 * column + int(rng.integers(3, 10)), 32 * row + int(rng.integers(3, 10))
    pixels[y : y + height, x : x + width] = bright
    return [x, y, width, height]
