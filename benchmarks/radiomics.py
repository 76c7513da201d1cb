"""The 13 radiomic features against the scikit-image loop that defines them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import numpy as np
from scipy import ndimage, stats
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

from benchmarks.rows import Row, side_by_side
from xaiseg.zoo.radiomics import radiomics

SIDE = 256
IMAGES = 20
PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")


def rows(*, long: bool) -> Iterator[Row]:
    images = _images()

    def ours() -> np.ndarray:
        return radiomics(images)

    def peer() -> np.ndarray:
        return np.array([_scikit_image(image) for image in images])

    found, expected = ours(), peer()
    difference = np.abs(found - expected) / np.maximum(np.abs(expected), 1)
    yield side_by_side(
        "13 radiomic features",
        ours,
        peer,
        peer_version=f"scikit-image {version('scikit-image')}",
        settings=f"{IMAGES} images of {SIDE} x {SIDE} px (speckle, smooth and noise), one at a time, 1 thread",
        goal=">= 20",
        same_result=f"largest difference {difference.max():.1e} (of the value where above 1)",
        runs=15 if long else 7,
        inverse=True,
    )


def _images() -> np.ndarray:
    """Noise, smooth ground and smooth ground under speckle, in turn."""
    rng, images = np.random.default_rng(0), []
    for index in range(IMAGES):
        noise = rng.random((SIDE, SIDE))
        smooth = ndimage.gaussian_filter(noise, 6)
        smooth = (smooth - smooth.min()) / np.ptp(smooth)
        speckle = smooth * ndimage.gaussian_filter(rng.rayleigh(0.6, (SIDE, SIDE)), 1).clip(0, 1)
        images.append((noise, smooth, speckle)[index % 3])
    return np.round(np.array(images) * 255).astype(np.uint8)


def _scikit_image(image: np.ndarray) -> list[float]:
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    matrix = graycomatrix(image >> 2, [1, 3], angles, levels=64, symmetric=True, normed=True)
    codes = local_binary_pattern(image, 24, 3, "uniform")
    shares = np.bincount(codes.astype(int).ravel(), minlength=26) / codes.size
    held = shares[shares > 0]
    values = image.ravel().astype(float)
    return [
        *(graycoprops(matrix, name).mean() for name in PROPERTIES),
        codes.mean(),
        codes.std(),
        -(held * np.log2(held)).sum(),
        (shares**2).sum(),
        values.mean(),
        values.std(),
        stats.skew(values),
        stats.kurtosis(values),
    ]
