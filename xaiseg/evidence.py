"""Small pictures of a case for the galleries: re-encoded pixels without metadata, masks, boxes and coarse maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from xaiseg.data.case import Case
from xaiseg.subject import Boxes, Prediction

LONG_SIDE: Final = 512
MAP_SIDE: Final = 64
#: Side of a window around an object, in the image's own pixels; larger objects get a larger one.
WINDOW_SIDE: Final = 144
#: A window is stored with at most this many pixels a side; a larger one is reduced.
WINDOW_MOST: Final = 288
#: Detections kept with a picture, the highest scores first.
MOST_BOXES: Final = 300


def gallery_arrays(
    case: Case,
    prediction: Prediction | Boxes | None,
    maps: Mapping[str, np.ndarray],
    value_range: tuple[float, float],
) -> dict[str, np.ndarray]:
    """Arrays of one gallery case.

    Args:
        case: image (C, H, W) in ``value_range``.
        prediction: labels (H, W) or detections, or None when there are none.
        maps: name -> (H, W) float map.
        value_range: lowest and highest image value.

    Returns:
        image uint8 (h, w) or (h, w, 3), reference and prediction uint8 (h, w), long side <= 512 px, and "map:<name>"
        float16 (64, 64). For detections "boxes:reference" (N, 5) and "boxes:prediction" (M, 6) float32: corners in
        pixels of the picture, class index, and the score of a detection.
    """
    height, width = case.shape
    scale = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    arrays = {"image": _picture(case.image, size, value_range)}
    if isinstance(prediction, Boxes) or (case.reference is None and case.boxes is not None):
        reference, found = _boxes(case, prediction if isinstance(prediction, Boxes) else None)
        arrays |= {"boxes:reference": _scaled(reference, scale), "boxes:prediction": _scaled(found, scale)}
    else:
        if case.reference is not None:
            arrays["reference"] = _nearest(case.reference, size)
        if prediction is not None:
            arrays["prediction"] = _nearest(prediction.labels, size)
    for name, values in maps.items():
        arrays[f"map:{name}"] = _resize(values, (MAP_SIDE, MAP_SIDE)).astype(np.float16)
    return arrays


def window_arrays(
    kind: str, xyxy: Sequence[float], case: Case, found: Boxes | None, value_range: tuple[float, float]
) -> dict[str, np.ndarray]:
    """A window around one object, at native scale where it fits into 288 px.

    Args:
        kind: name of the gallery.
        xyxy: corners of the object in pixels of the image.
        case: image (C, H, W) in ``value_range`` and its reference boxes.
        found: detections of the image, or None.
        value_range: lowest and highest image value.

    Returns:
        "window:<kind>" uint8 (h, w) or (h, w, 3); "object:<kind>" (4,), "near-reference:<kind>" (N, 5) and
        "near-prediction:<kind>" (M, 6) float32 in pixels of the window; "scale:<kind>" (1,), window pixels an image
        pixel.
    """
    height, width = case.shape
    x0, y0, x1, y1 = xyxy
    side = max(float(WINDOW_SIDE), 1.6 * (x1 - x0), 1.6 * (y1 - y0))
    left, right = _span((x0 + x1) / 2, side, width)
    top, bottom = _span((y0 + y1) / 2, side, height)
    scale = min(1.0, WINDOW_MOST / max(right - left, bottom - top))
    size = max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))
    reference, detections = (_inside(rows, (left, top, right, bottom)) for rows in _boxes(case, found))
    offset = np.array([left, top, left, top], dtype=np.float32)
    for rows in (reference, detections):
        rows[:, :4] -= offset
    return {
        f"window:{kind}": _picture(case.image[:, top:bottom, left:right], size, value_range),
        f"object:{kind}": (np.asarray(xyxy, dtype=np.float32) - offset) * np.float32(scale),
        f"near-reference:{kind}": _scaled(reference, scale),
        f"near-prediction:{kind}": _scaled(detections, scale),
        f"scale:{kind}": np.array([scale], dtype=np.float32),
    }


def _span(centre: float, side: float, length: int) -> tuple[int, int]:
    """First and last pixel of a window of ``side`` around ``centre``, moved into the image.

    >>> _span(5.0, 40.0, 100), _span(50.0, 40.0, 30)
    ((0, 40), (0, 30))
    """
    wide = min(length, round(side))
    start = min(max(0, round(centre - wide / 2)), length - wide)
    return start, start + wide


def _boxes(case: Case, found: Boxes | None) -> tuple[np.ndarray, np.ndarray]:
    """Reference (N, 5) and detections (M, 6), the best scores first, as copies."""
    reference = np.zeros((0, 5), np.float32) if case.boxes is None else case.boxes.astype(np.float32, copy=True)
    if found is None:
        return reference, np.zeros((0, 6), np.float32)
    columns = (found.xyxy.numpy(), found.labels.numpy()[:, None], found.scores.numpy()[:, None])
    rows = np.concatenate(columns, axis=1).astype(np.float32)
    return reference, rows[np.argsort(-rows[:, 5], kind="stable")[:MOST_BOXES]]


def _inside(rows: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = window
    across = (rows[:, 0] < right) & (rows[:, 2] > left)
    return np.array(rows[across & (rows[:, 1] < bottom) & (rows[:, 3] > top)])


def _scaled(rows: np.ndarray, scale: float) -> np.ndarray:
    return np.concatenate((rows[:, :4] * np.float32(scale), rows[:, 4:]), axis=1)


def _picture(image: np.ndarray, size: tuple[int, int], value_range: tuple[float, float]) -> np.ndarray:
    """(C, H, W) in ``value_range`` as uint8 (h, w) or (h, w, 3)."""
    low, high = value_range
    pixels = np.clip((image - low) / (high - low), 0.0, 1.0) * 255.0
    shown = pixels[:3] if image.shape[0] >= 3 else pixels[:1]
    picture = np.stack([_resize(channel, size) for channel in shown], axis=-1).round().astype(np.uint8)
    return picture[..., 0] if picture.shape[-1] == 1 else picture


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
