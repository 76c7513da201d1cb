"""Maps that know nothing of the model's reasons. An explanation has to beat the best of them.

A random map is too weak a rival: painting the predicted mask beats it, and proves nothing. So the mask itself, the
distance to it, the centre of the image and its edges stand beside it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

#: How many maps :func:`baseline_maps` gives.
RIVALS: Final = 5


def baseline_maps(image: np.ndarray, mask: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """The five rivals of a map.

    Args:
        image: (C, H, W).
        mask: (H, W) bool, the frozen region.
        generator: for the random map.

    Returns:
        name -> (H, W) float32, more important = higher.

    >>> maps = baseline_maps(np.zeros((1, 4, 4)), np.eye(4, dtype=bool), np.random.default_rng(0))
    >>> sorted(maps)
    ['centre-prior', 'distance-to-mask', 'edge-prior', 'predicted-mask', 'random']
    """
    maps = {
        "random": generator.random(mask.shape),
        "centre-prior": centre_prior(mask.shape),
        "edge-prior": edge_prior(image),
        "predicted-mask": mask,
        "distance-to-mask": closeness(mask),
    }
    return {name: np.asarray(values, dtype=np.float32) for name, values in maps.items()}


def centre_prior(shape: tuple[int, ...]) -> np.ndarray:
    """(H, W): 1 in the centre, falling with the distance in units of the half sides.

    >>> centre_prior((1, 3)).tolist()[0][1]
    1.0
    """
    height, width = shape
    rows = (np.arange(height) + 0.5) / height * 2 - 1
    columns = (np.arange(width) + 0.5) / width * 2 - 1
    return np.asarray(1.0 - np.hypot(rows[:, None], columns[None, :]) / np.sqrt(2.0))


def edge_prior(image: np.ndarray) -> np.ndarray:
    """(H, W): size of the image's gradient (Sobel) after a slight blur (1 px), summed over the channels."""
    from scipy.ndimage import gaussian_filter, sobel

    blurred = gaussian_filter(image.astype(np.float64), sigma=(0, 1, 1))
    return np.asarray(np.hypot(sobel(blurred, axis=1), sobel(blurred, axis=2)).sum(axis=0))


def closeness(mask: np.ndarray) -> np.ndarray:
    """(H, W) px: depth inside the mask, minus the distance to it outside; the middle of the mask is highest.

    >>> closeness(np.array([[True, True, False, False]])).tolist()
    [[2.0, 1.0, -1.0, -2.0]]
    """
    from scipy.ndimage import distance_transform_edt

    if mask.all():
        return np.zeros(mask.shape)
    return np.asarray(distance_transform_edt(mask) - distance_transform_edt(~mask))
