"""Where a map's evidence lies. Descriptive: much evidence inside the object is no proof that the map is true."""

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
        context: share outside the region and a margin around it (5 % of the image diagonal).
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
