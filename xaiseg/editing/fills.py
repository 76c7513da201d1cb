"""What a removed object leaves behind: a filling that its surroundings suggest, without a trace of the object itself.

A filling of your own (a diffusion model, say) is a function under ``@fill("name")``, in a module that the entry point
group ``xaiseg.fills`` names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from xaiseg.editing.regions import bounds_of, widened
from xaiseg.errors import UsageError, did_you_mean
from xaiseg.parameters import load_entry_points

#: (image (C, H, W) float32, region (H, W) bool to fill, known (H, W) bool to fill it from) -> (C, H, W) float32. Only
#: what it puts into the region is used.
Fill = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

REGISTRY: Final[dict[str, Fill]] = {}
#: Standard deviation of the filling "blur", as a share of the image's shorter side; radius of the ring of "mean".
REACH: Final = 0.05
#: Radius of the neighbourhood that Telea's method looks at, pixels. OpenCV's usual value.
_TELEA_PX: Final = 3.0


def fill(name: str) -> Callable[[Fill], Fill]:
    """Registers a filling.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Fill) -> Fill:
        if name in REGISTRY:
            raise ValueError(f"the filling {name!r} is taken")
        REGISTRY[name] = function
        return function

    return register


def get_fill(name: str) -> Fill:
    """The filling of this name, the package's own or one of an entry point.

    Raises:
        UsageError: there is none.
    """
    if name not in REGISTRY:
        load_entry_points("xaiseg.fills")
    if name not in REGISTRY:
        raise UsageError(f"'{name}' is not a filling", where="fill", then=did_you_mean(name, REGISTRY))
    return REGISTRY[name]


def removed(image: np.ndarray, region: np.ndarray, kind: str, *, avoid: np.ndarray | None = None) -> np.ndarray:
    """The image without what the region holds.

    Args:
        image: (C, H, W) float32.
        region: (H, W) bool, not empty.
        kind: "mean" (of the ring around), "blur" (of the surroundings), "telea", or a filling of your own.
        avoid: (H, W) bool, what must not be copied into the region, such as other objects.

    Returns:
        (C, H, W) float32; outside the region the image itself, inside within the range of the image's values.

    Raises:
        UsageError: an unknown filling, or a region that covers the whole image.

    >>> image = np.array([[[1.0, 9.0, 1.0]]], np.float32)
    >>> removed(image, np.array([[False, True, False]]), "mean").tolist()
    [[[1.0, 1.0, 1.0]]]
    """
    known = ~region if avoid is None else ~(region | avoid)
    if not known.any():
        known = ~region
    if not known.any():
        raise UsageError("there is nothing to fill the region from", where="region", got="the whole image")
    made = np.asarray(get_fill(kind)(image, region, known), dtype=np.float32)
    if made.shape != image.shape:
        raise UsageError("the filling changes the image's shape", where=kind, got=made.shape, allowed=image.shape)
    return np.where(region, np.clip(made, image.min(), image.max()), image)


@fill("mean")
def _ring_mean(image: np.ndarray, region: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The mean of the ring around the region, channel by channel.

    Not the mean of the image: on bright ice that would be a dark patch, which is what a seal looks like.
    """
    ring = widened(region, max(3.0, REACH * min(region.shape))) & known
    source = ring if ring.any() else known
    return np.broadcast_to(image[:, source].mean(axis=1)[:, None, None], image.shape)


@fill("blur")
def _surroundings(image: np.ndarray, region: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The surroundings blurred into the region."""
    return blurred(image, known, max(1.0, REACH * min(region.shape)))


def blurred(image: np.ndarray, known: np.ndarray, sd_px: float) -> np.ndarray:
    """A Gaussian blur of the known pixels alone (normalised convolution), so that nothing else leaks into it.

    Where no known pixel lies within four standard deviations the mean of the known pixels stands.
    Source: H. Knutsson and C.-F. Westin, CVPR 1993.

    Args:
        image: (C, H, W).
        known: (H, W) bool, at least one pixel.
        sd_px: standard deviation in pixels.
    """
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(known.astype(np.float64), sd_px, mode="nearest")
    mean = image[:, known].mean(axis=1, dtype=np.float64)
    near = weight > 1e-6
    found = np.empty(image.shape, dtype=np.float64)
    for channel, values, level in zip(found, image, mean, strict=True):
        share = gaussian_filter(np.where(known, values - level, 0.0).astype(np.float64), sd_px, mode="nearest")
        channel[:] = level + np.divide(share, weight, out=np.zeros_like(share), where=near)
    return found


@fill("telea")
def _telea(image: np.ndarray, region: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fast marching from the edge of the region inwards (A. Telea, Journal of Graphics Tools 9, 2004; OpenCV).

    Pixels that are neither in the region nor known are filled too, so that nothing of them flows into the region.
    """
    import cv2

    left, top, right, bottom = bounds_of(region)
    margin = 16  # further pixels do not reach the region
    window = (slice(max(top - margin, 0), bottom + margin), slice(max(left - margin, 0), right + margin))
    holes = (~known[window]).astype(np.uint8)
    found = np.array(image, dtype=np.float32)
    if holes.all():
        return _ring_mean(image, region, known)
    low, high = float(image.min()), float(image.max())
    span = (high - low) or 1.0
    for channel in found:
        pixels = np.round((channel[window] - low) / span * 255.0).astype(np.uint8)
        filled = cv2.inpaint(pixels, holes, _TELEA_PX, cv2.INPAINT_TELEA).astype(np.float32)
        channel[window] = filled / 255.0 * span + low
    return found
