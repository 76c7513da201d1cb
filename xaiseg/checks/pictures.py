"""Coarse pictures that checks keep in their rows, so that the report can draw cases without any other picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from xaiseg.checks.base import Row

if TYPE_CHECKING:
    import pandas as pd

#: Long side of a kept picture.
PICTURE_SIDE: Final = 64
#: Columns of a picture that may be coloured: (h, w, channels) in one list.
PICTURE_COLUMNS: Final = (
    ("picture", pa.list_(pa.uint8())),
    ("picture_width", pa.int32()),
    ("picture_channels", pa.int32()),
)


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


def shown(windows: Sequence[np.ndarray], value_range: Sequence[float]) -> Row:
    """Coarse copies of windows (C, H, W) of one size, one below the other, as :data:`PICTURE_COLUMNS`.

    The first three channels are red, green and blue, as in all pictures of a report; of fewer the mean is kept.

    >>> shown([np.ones((3, 1, 2))], (0.0, 1.0))
    {'picture': [255, 255, 255, 255, 255, 255], 'picture_width': 2, 'picture_channels': 3}
    """
    low, high = value_range
    parts = [window[:3] if len(window) >= 3 else window.mean(axis=0, keepdims=True) for window in windows]
    small = [np.stack([reduced(channel, PICTURE_SIDE) for channel in part], axis=-1) for part in parts]
    pixels = np.round(255 * np.clip((np.concatenate(small) - low) / (high - low), 0, 1)).astype(np.uint8)
    return {
        "picture": pixels.ravel().tolist(), "picture_width": pixels.shape[1], "picture_channels": pixels.shape[2],
    }  # fmt: skip


def pixels_of(row: Mapping[str, Any] | pd.Series) -> np.ndarray:
    """The picture of a row with :data:`PICTURE_COLUMNS`: (h, w, 3), or (h, w) where it is grey; uint8."""
    flat = np.asarray(row["picture"], dtype=np.uint8)
    width, channels = int(row["picture_width"]), row.get("picture_channels")
    return flat.reshape(-1, width, 3) if channels == 3 else flat.reshape(-1, width)


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
