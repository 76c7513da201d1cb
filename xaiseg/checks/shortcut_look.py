"""How a detection looks, for detectors that show no layer: colours and contrasts in rings around its centre."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

#: Word in place of a layer's name.
PIXELS: Final = "pixels"
#: Rings end at these shares of the box's half sides; the last one is its surroundings.
RINGS: Final = (0.5, 1.0, 1.5, 2.0)
_SIDE: Final = 48


def look_of(image: np.ndarray, box: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """A vector of how a box and its surroundings look, the same whichever way the thing lies.

    For each of four elliptic rings around the centre the mean colour, for the inner three as the difference from the
    outermost, and the spread of the grey values. Ours; where a layer can be read, it says more.

    Args:
        image: (C, H, W) in ``value_range``.
        box: (4,) corners in pixels; what lies outside the image repeats its border.
        value_range: lowest and highest value.

    Returns:
        (4 C + 4,) float32.

    >>> grey = np.full((3, 20, 20), 0.5)
    >>> look_of(grey, np.array([5.0, 5.0, 15.0, 15.0]), (0.0, 1.0)).round(3).tolist()
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    low, high = value_range
    pixels = torch.as_tensor(np.ascontiguousarray(image), dtype=torch.float32)[None]
    height, width = image.shape[1:]
    steps = (torch.arange(_SIDE, dtype=torch.float32) + 0.5) / _SIDE * 2 - 1
    across, down = steps[None, :] * RINGS[-1], steps[:, None] * RINGS[-1]
    x = (box[0] + box[2]) / 2 + across * max(box[2] - box[0], 1.0) / 2
    y = (box[1] + box[3]) / 2 + down * max(box[3] - box[1], 1.0) / 2
    places = [2 * x / width - 1, 2 * y / height - 1]
    grid = torch.stack([place.expand(_SIDE, _SIDE) for place in places], dim=-1).float()[None]
    seen = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    seen = (seen - low) / (high - low)
    radius = torch.sqrt(across**2 + down**2)
    rings = [(radius >= start) & (radius < end) for start, end in zip((0.0, *RINGS[:-1]), RINGS, strict=True)]
    colours = [seen[:, ring].mean(dim=1) for ring in rings]
    spreads = torch.stack([seen.mean(dim=0)[ring].std() for ring in rings])
    parts = [*(colour - colours[-1] for colour in colours[:-1]), colours[-1] - 0.5, spreads]
    vector: np.ndarray = torch.cat(parts).numpy()
    return vector
