"""Small worlds of known truth: bright discs on a dark ground, and a model that sees brightness and nothing else."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

BUILDER = '''
import torch

class Brightness(torch.nn.Module):
    """Logit 20 * (brightness - 0.5); misses what is dark, sees what is bright."""

    def __init__(self):
        super().__init__()
        self.features = torch.nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.head = torch.nn.Conv2d(2, 1, 1)
        with torch.no_grad():
            self.features.weight.zero_()
            self.features.weight[:, 0, 1, 1] = 1.0
            self.head.weight.fill_(10.0)
            self.head.bias.fill_(-10.0)

    def forward(self, x):
        return self.head(self.features(x))

def build():
    return Brightness()
'''

MODEL = """name: {name}
version: "1"
task: segmentation
classes: [background, lesion]
source: {{torch: "builder.py:build"}}
trust: true
input: {{channels: 1, range: [0, 1]}}
output: {{kind: logits, activation: sigmoid, threshold: {{value: 0.5, chosen_on: default}}}}
intended_use: tests
data:
  test: {{reader: folder, path: {data}, cluster: group, strata: [device]}}
"""


def disc(rng: np.random.Generator, size: int, *, bright: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """An image uint8 (size, size) and its mask uint8 {0, 255}."""
    rows, columns = np.mgrid[:size, :size]
    radius = rng.uniform(0.12, 0.25) * size
    centre = rng.uniform(0.3, 0.7, size=2) * size
    mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    image = np.where(mask, bright, 0.15) + rng.normal(0, 0.03, (size, size))
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), mask.astype(np.uint8) * 255


def blob_world(
    folder: Path,
    *,
    n: int = 40,
    size: int = 48,
    empty: int = 4,
    dark: int = 0,
    seed: int = 0,
    name: str = "brightness",
    per_patient: int = 2,
) -> Path:
    """Writes data and model.yaml; returns the path of model.yaml.

    Args:
        n: images; the first ``empty`` have no disc, the next ``dark`` have one that the model cannot see.
        per_patient: images a patient; devices A and B alternate by patient.
    """
    rng = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (folder / "data" / part).mkdir(parents=True, exist_ok=True)
    rows: list[Mapping[str, object]] = []
    for index in range(n):
        image, mask = disc(rng, size, bright=0.3 if empty <= index < empty + dark else 0.9)
        if index < empty:
            image = (np.clip(0.15 + rng.normal(0, 0.03, (size, size)), 0, 1) * 255).round().astype(np.uint8)
            mask = np.zeros_like(mask)
        Image.fromarray(image).save(folder / "data" / "images" / f"case{index:04d}.png")
        Image.fromarray(mask).save(folder / "data" / "masks" / f"case{index:04d}.png")
        patient = index // per_patient
        rows.append({"id": f"case{index:04d}", "group": f"p{patient:03d}", "device": "AB"[patient % 2]})
    with (folder / "data" / "meta.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, ["id", "group", "device"])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "builder.py").write_text(BUILDER, encoding="utf-8")
    model = folder / "model.yaml"
    model.write_text(MODEL.format(name=name, data="data"), encoding="utf-8")
    return model


FORWARD_ONLY = """protocol: forward-only
version: 1.0.0
as_of: 2026-11-24
purpose: Predict and compare; nothing else.
checks:
  performance.segmentation: {}
requires:
  - check: performance.segmentation
    metric: dice
    at_least: 0.70
    severity: gate
    why: a test
"""


def forward_only(folder: Path) -> Path:
    """Writes a protocol that needs one forward an image."""
    path = folder / "forward-only.yaml"
    path.write_text(FORWARD_ONLY, encoding="utf-8")
    return path
