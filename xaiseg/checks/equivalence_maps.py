"""How alike two maps of one target are: order, structure, the highest pixels, and where each map points.

Every measure is blind to the scale of a map: a build whose logits are all a tenth larger explains itself the same.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from xaiseg.explainers.stopping import spearman
from xaiseg.faithfulness.localisation import pointing_game

#: Values closer than this share of a map's largest one are ties: float noise must not decide an order.
TIE_SHARE: Final = 1e-6
#: Side of the windows of SSIM in px, as in its publication's uniform variant and in scikit-image.
WINDOW_PX: Final = 7


def flat(values: np.ndarray) -> bool:
    """Whether a map (H, W) has one value everywhere, so that it ranks nothing.

    >>> flat(np.full((2, 2), 3.0)), flat(np.array([[0.0, 1.0]]))
    (True, False)
    """
    return bool(np.ptp(_tied(values)) == 0.0)


def likeness(first: np.ndarray, second: np.ndarray, mask: np.ndarray) -> dict[str, float | None]:
    """All measures of two maps (H, W) of the region ``mask`` (H, W) bool.

    Returns:
        ``spearman`` (-1 to 1) of the signed values; ``ssim`` (-1 to 1); ``top5_iou`` and ``top10_iou`` (0 to 1);
        ``peak_distance`` (0 to 1, share of the diagonal; 0 = same place); ``pointing_agreement`` (1 where both or
        neither point into the region, else 0). All None where one of the maps is flat.

    >>> ramp = np.arange(64.0).reshape(8, 8)
    >>> found = likeness(ramp, 3 * ramp, ramp > 60)
    >>> {name: round(value, 6) for name, value in found.items()} == dict(
    ...     spearman=1, ssim=1, top5_iou=1, top10_iou=1, peak_distance=0, pointing_agreement=1)
    True
    """
    names = ("spearman", "ssim", "top5_iou", "top10_iou", "peak_distance", "pointing_agreement")
    if flat(first) or flat(second):
        return dict.fromkeys(names)
    one, other = _tied(first), _tied(second)
    found = (
        spearman(one.ravel(), other.ravel()),
        structural_similarity(first, second),
        top_iou(one, other, 0.05),
        top_iou(one, other, 0.10),
        peak_distance(one, other),
        float(pointing_game(one, mask) == pointing_game(other, mask)),
    )
    return dict(zip(names, found, strict=True))


def structural_similarity(first: np.ndarray, second: np.ndarray) -> float | None:
    """SSIM of two maps (H, W), each from 0 to 1 with its zero at 1/2; None for images narrower than 3 px.

    Z. Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004, with
    uniform windows. Each map is divided by twice its largest absolute value and raised by 1/2, as it is drawn on a
    diverging scale: of values of both signs, SSIM would call a map and its negative alike.

    >>> round(structural_similarity(np.eye(9), 2 * np.eye(9)), 6)
    1.0
    """
    from skimage.metrics import structural_similarity as ssim

    side = min(WINDOW_PX, *first.shape)
    side -= side % 2 == 0
    if side < 3:
        return None
    one, other = (each.astype(np.float64) / (2.0 * float(np.abs(each).max())) + 0.5 for each in (first, second))
    return float(np.clip(ssim(one, other, win_size=side, data_range=1.0), -1.0, 1.0))


def top_iou(first: np.ndarray, second: np.ndarray, share: float) -> float:
    """Intersection over union of the highest pixels of two maps (H, W).

    Pixels that tie for the last places each get the share of them that is left, so that no order is made up within the
    cells of a coarse map; intersection and union are then sums of minima and of maxima.

    Args:
        first: (H, W).
        second: (H, W).
        share: of the pixels, above 0 and below 1.

    >>> top_iou(np.array([[4.0, 3, 2, 1]]), np.array([[4.0, 1, 2, 3]]), 0.5) == 1 / 3
    True
    """
    one, other = (_chosen(each, share) for each in (first, second))
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())


def peak_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance between the highest places of two maps (H, W) as a share of the diagonal; ties count by their mean.

    >>> peak_distance(np.array([[1.0, 0, 0, 0, 0]] * 2), np.array([[0.0, 0, 0, 0, 1]] * 2)) == 4 / math.hypot(2, 5)
    True
    """
    one, other = (np.argwhere(each == each.max()).mean(axis=0) for each in (first, second))
    return float(np.linalg.norm(one - other)) / math.hypot(*first.shape)


def _chosen(values: np.ndarray, share: float) -> np.ndarray:
    """(H, W) in [0, 1]: how much of each pixel is among the highest; sums to the number of places."""
    places = max(1, round(share * values.size))
    last = np.partition(values, values.size - places, axis=None)[values.size - places]
    above, level = values > last, values == last
    return np.asarray(above + level * ((places - int(above.sum())) / int(level.sum())))


def _tied(values: np.ndarray) -> np.ndarray:
    """The map in whole steps of :data:`TIE_SHARE` of its largest absolute value."""
    largest = float(np.abs(values).max())
    return np.round(values.astype(np.float64) / (largest * TIE_SHARE)) if largest > 0.0 else np.zeros(values.shape)
