"""The same object before another background, and before its own."""

from __future__ import annotations

from typing import Final

import numpy as np

from xaiseg.editing.fills import blurred, removed
from xaiseg.editing.regions import widened
from xaiseg.errors import UsageError

#: Over so many pixels around the object the own background passes into the new one, so that no hard edge gives it away.
FEATHER_PX: Final = 2.0


def composed(image: np.ndarray, region: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The region of an image before a background (C, H, W) of the same size.

    Inside the region the image alone counts; over :data:`FEATHER_PX` around it its share falls to nothing.

    Raises:
        UsageError: the background has another shape.

    >>> composed(np.ones((1, 1, 9), np.float32), np.arange(9)[None] == 0, np.zeros((1, 1, 9), np.float32)).round(2)
    array([[[1.  , 0.67, 0.33, 0.  , 0.  , 0.  , 0.  , 0.  , 0.  ]]],
          dtype=float32)
    """
    from scipy.ndimage import distance_transform_edt

    if background.shape != image.shape:
        raise UsageError(
            "the background has another shape than the image", where="background", got=background.shape,
            allowed=image.shape,
        )  # fmt: skip
    if not region.any():
        return np.asarray(background, dtype=np.float32)
    share = np.clip(1.0 - distance_transform_edt(~region) / (FEATHER_PX + 1.0), 0.0, 1.0).astype(np.float32)
    return np.asarray(share * image + (1.0 - share) * background, dtype=np.float32)


def pasted_back(image: np.ndarray, region: np.ndarray, *, kind: str = "telea") -> np.ndarray:
    """The sham of every change of background: the object cut out and put back before its own.

    The own background is first made whole behind the object, so that the seam is the same as before a new one.
    """
    behind = widened(region, FEATHER_PX + 1.0)
    if behind.all():
        return image
    return composed(image, region, removed(image, behind, kind))


def blurred_background(image: np.ndarray, region: np.ndarray, sd_px: float) -> np.ndarray:
    """The object as it is before its own background, blurred; nothing of the object leaks into the blur.

    >>> image = np.zeros((1, 5, 5), np.float32); image[0, 2, 2] = 1.0
    >>> bool((blurred_background(image, image[0] > 0, 1.0) == image).all())
    True
    """
    behind = ~widened(region, FEATHER_PX + 1.0)
    if not behind.any():
        return image
    return composed(image, region, blurred(image, behind, sd_px).astype(np.float32))


def fitted(background: np.ndarray, shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """A piece (C, H, W) of a background, cut at random; one that is too small is continued by reflection.

    >>> fitted(np.zeros((1, 9, 9), np.float32), (4, 12), np.random.default_rng(0)).shape
    (1, 4, 12)
    """
    lacking = [max(0, wanted - held) for wanted, held in zip(shape, background.shape[1:], strict=True)]
    whole = np.pad(background, ((0, 0), (0, lacking[0]), (0, lacking[1])), mode="symmetric")
    top, left = (
        int(generator.integers(held - wanted + 1)) for wanted, held in zip(shape, whole.shape[1:], strict=True)
    )
    return np.ascontiguousarray(whole[:, top : top + shape[0], left : left + shape[1]])
