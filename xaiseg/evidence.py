"""Small pictures of a case for the galleries: re-encoded pixels without metadata, masks and coarse maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from xaiseg.data.case import Case
from xaiseg.subject import Prediction

LONG_SIDE: Final = 512
MAP_SIDE: Final = 64


def gallery_arrays(
    case: Case, prediction: Prediction | None, maps: Mapping[str, np.ndarray], value_range: tuple[float, float]
) -> dict[str, np.ndarray]:
    """Arrays of one gallery case.

    Args:
        case: image (C, H, W) in ``value_range``.
        prediction: labels (H, W), or None when there is none.
        maps: name -> (H, W) float map.
        value_range: lowest and highest image value.

    Returns:
        image uint8 (h, w) or (h, w, 3), reference and prediction uint8 (h, w), long side <= 512 px, and "map:<name>"
        float16 (64, 64).
    """
    height, width = case.shape
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    low, high = value_range
    pixels = np.clip((case.image - low) / (high - low), 0.0, 1.0) * 255.0
    shown = pixels[:3] if case.image.shape[0] >= 3 else pixels[:1]
    picture = np.stack([_resize(channel, size) for channel in shown], axis=-1).round().astype(np.uint8)
    arrays = {"image": picture[..., 0] if picture.shape[-1] == 1 else picture}
    if case.reference is not None:
        arrays["reference"] = _nearest(case.reference, size)
    if prediction is not None:
        arrays["prediction"] = _nearest(prediction.labels, size)
    for name, values in maps.items():
        arrays[f"map:{name}"] = _resize(values, (MAP_SIDE, MAP_SIDE)).astype(np.float16)
    return arrays


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(np.intp)
    return np.ascontiguousarray(mask[np.ix_(rows, columns)]).astype(np.uint8)


def _resize(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with antialiasing when it shrinks."""
    if values.shape == size:
        return values
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR), dtype=np.float32)
