"""Coarse pictures that checks keep in their rows, so that the report can draw cases without any other picture."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

from xaiseg.checks.base import Row

#: Long side of a kept picture.
PICTURE_SIDE: Final = 64


def range_of(values: np.ndarray) -> Row:
    """Lowest, highest and mean value, as columns of a row."""
    return {"low": float(values.min()), "high": float(values.max()), "mean": float(values.mean(dtype=np.float64))}


def picture_of(values: np.ndarray) -> Row:
    """A coarse copy of a map (H, W) for the report, with the values that 0 and 255 stand for.

    >>> picture_of(np.array([[0.0, 1.0], [1.0, 2.0]]))["picture"]
    [0, 128, 128, 255]
    """
    row, small = range_of(values), reduced(values, PICTURE_SIDE)
    span = row["high"] - row["low"]
    pixels = np.round(255 * np.clip((small - row["low"]) / (span or 1.0), 0.0, 1.0)).astype(np.uint8)
    return row | {"picture": pixels.ravel().tolist(), "picture_width": pixels.shape[1]}


def reduced(values: np.ndarray, side: int) -> np.ndarray:
    """A map (H, W) averaged down until its long side is at most ``side``.

    >>> reduced(np.array([[0.0, 1.0, 2.0, 3.0]]), 2).tolist()
    [[0.5, 2.5]]
    """
    scale = side / max(values.shape)
    if scale >= 1:
        return values
    size = [max(1, round(length * scale)) for length in values.shape]
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))[None, None]
    smaller: np.ndarray = F.interpolate(tensor, size, mode="area")[0, 0].numpy()
    return smaller
