"""Small data folders for the tests of the data layer."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from xaiseg.data.case import ImageSpec

GREY = ImageSpec(channels=1, classes=("background", "lesion"))
COLOUR = ImageSpec(channels=3, classes=("background", "lesion"))


def picture(seed: int = 0, shape: tuple[int, ...] = (12, 16)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def square_mask(shape: tuple[int, int] = (12, 16), value: int = 255) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[3:8, 4:10] = value
    return mask


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def folder_of(path: Path, ids: Sequence[str] = ("a", "b", "c"), rows: Sequence[Mapping[str, object]] = ()) -> Path:
    """A folder with images/, masks/ and, with rows, meta.csv."""
    for seed, id in enumerate(ids):
        save(path / "images" / f"{id}.png", picture(seed))
        save(path / "masks" / f"{id}.png", square_mask())
    if rows:
        write_csv(path / "meta.csv", rows)
    return path
