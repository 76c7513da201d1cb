"""Where a map's evidence lies. Descriptive: much evidence inside the object is no proof that the map is true.

Pointing game: J. Zhang et al., "Top-Down Neural Attention by Excitation Backprop", IJCV 2018. Relevance mass and rank
accuracy: L. Arras, A. Osman, W. Samek, "CLEVR-XAI", Information Fusion 2022. Both are counted on the positive part, so
that they lie in [0, 1]; energy and leakage are counted on absolute values. Painting the region gets 1 in each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

#: The region is widened by this share of the image diagonal; evidence beyond it is context.
MARGIN_SHARE: Final = 0.05


@dataclass(frozen=True)
class Location:
    """Shares of a map's absolute values; None when the map is zero everywhere.

    Attributes:
        inside: share in the region.
        outside: share outside the region.
        context: share outside the region and a margin around it (5 % of the image diagonal): off-target leakage.
    """

    inside: float | None
    outside: float | None
    context: float | None


def locate(values: np.ndarray, mask: np.ndarray) -> Location:
    """Splits the absolute values of a map (H, W) by the region (H, W) bool.

    >>> locate(np.array([[3.0, -1.0]]), np.array([[True, False]]))
    Location(inside=0.75, outside=0.25, context=0.25)
    """
    from scipy.ndimage import distance_transform_edt

    energy = np.abs(values.astype(np.float64))
    total = float(energy.sum())
    if total == 0.0:
        return Location(None, None, None)
    inside = min(1.0, float(energy[mask].sum()) / total)  # two sums of the same floats may round apart
    margin_px = MARGIN_SHARE * float(np.hypot(*mask.shape))
    far = distance_transform_edt(~mask) > margin_px
    return Location(inside, 1.0 - inside, min(1.0, float(energy[far].sum()) / total))


def leakage(values: np.ndarray, mask: np.ndarray, margin_px: float) -> float | None:
    """Off-target leakage: the share of a map's absolute values farther from the region than a margin.

    Args:
        values: (H, W).
        mask: (H, W) bool.
        margin_px: pixels up to this Euclidean distance belong to the region.

    Returns:
        0 to 1; None for a map that is zero everywhere, or an empty region.

    >>> leakage(np.array([[2.0, 1.0, -1.0]]), np.array([[True, False, False]]), 1.0)
    0.25
    """
    from scipy.ndimage import distance_transform_edt

    energy = np.abs(values.astype(np.float64))
    total = float(energy.sum())
    if total == 0.0 or not mask.any():
        return None
    return min(1.0, float(energy[distance_transform_edt(~mask) > margin_px].sum()) / total)


def pointing_game(values: np.ndarray, mask: np.ndarray) -> bool | None:
    """Whether the map's highest value lies in the region.

    Args:
        values: (H, W).
        mask: (H, W) bool.

    Returns:
        True when every pixel that has the highest value lies in the region. None, never True, for an empty region, and
        for a map that points nowhere: one without a positive value, or the same everywhere.

    >>> pointing_game(np.array([[0.1, 0.9]]), np.array([[False, True]]))
    True
    >>> pointing_game(np.array([[0.1, 0.9]]), np.array([[False, False]])) is None
    True
    """
    highest = float(values.max())
    if not mask.any() or highest <= 0.0 or highest == float(values.min()):
        return None
    return bool(mask[values == highest].all())


def relevance_mass(values: np.ndarray, mask: np.ndarray) -> float | None:
    """The share of a map's positive values inside the region.

    Args:
        values: (H, W).
        mask: (H, W) bool.

    Returns:
        0 to 1; None for an empty region or a map without a positive value.

    >>> relevance_mass(np.array([[3.0, 1.0, -9.0]]), np.array([[True, False, False]]))
    0.75
    """
    positive = np.maximum(values.astype(np.float64), 0.0)
    total = float(positive.sum())
    return min(1.0, float(positive[mask].sum()) / total) if total > 0.0 and mask.any() else None


def relevance_rank(values: np.ndarray, mask: np.ndarray) -> float | None:
    """The share of the region among as many highest pixels of the map as the region has.

    Pixels that tie for the last places count by the share of them that lies in the region: what drawing lots would give
    on average.

    Args:
        values: (H, W).
        mask: (H, W) bool.

    Returns:
        0 to 1; None for an empty region, or a map that is the same everywhere and so ranks nothing.

    >>> relevance_rank(np.array([[5.0, 4.0, 3.0, 2.0]]), np.array([[True, False, True, False]]))
    0.5
    """
    places = int(mask.sum())
    if places == 0 or values.max() == values.min():
        return None
    last = np.partition(values, values.size - places, axis=None)[values.size - places]
    above, level = values > last, values == last
    left = places - int(above.sum())
    return (int(above[mask].sum()) + left * int(level[mask].sum()) / int(level.sum())) / places
