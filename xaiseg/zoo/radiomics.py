"""The 13 radiomic features of RadiomicNet: what a grey image looks like as a whole, in 13 numbers with names.

Five properties of grey-level co-occurrence, four of local binary patterns and four moments of the intensities, after
Rahman, "RadiomicNet" (arXiv 2607.02185); docs/zoo/radiomics.md states every convention and which of them the paper
leaves open. Codes, counts and values are those of scikit-image.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import UsageError

#: Names of the features, in the paper's order.
FEATURES: Final[tuple[str, ...]] = (
    "glcm_contrast",
    "glcm_dissimilarity",
    "glcm_homogeneity",
    "glcm_energy",
    "glcm_correlation",
    "lbp_mean",
    "lbp_std",
    "lbp_entropy",
    "lbp_uniformity",
    "intensity_mean",
    "intensity_std",
    "intensity_skewness",
    "intensity_kurtosis",
)

#: Noise and other perturbations may leave [0, 1]; values farther off mean that the images have another range.
RANGE_SLACK: Final = 1.0

#: The circle of a local binary pattern (radius 3 px) fits in once, and so does a pair at distance 3.
MIN_SIDE: Final = 7


def radiomics(images: np.ndarray) -> np.ndarray:
    """The features of grey images of one size.

    Args:
        images: (N, H, W) uint8, sides of 7 px or more.

    Returns:
        (N, 13) float64 in the order of :data:`FEATURES`; intensities in 0 to 255.

    Raises:
        UsageError: another type, number of axes or a side below 7 px.

    >>> flat = radiomics(np.full((1, 32, 32), 127, np.uint8))[0]
    >>> dict(zip(FEATURES, flat.round(3).tolist()))["glcm_homogeneity"]
    1.0
    """
    if images.dtype != np.uint8 or images.ndim != 3:
        raise UsageError(
            "radiomic features need grey images in 0 to 255",
            where="images",
            got=f"{images.dtype} of shape {images.shape}",
            allowed="uint8 of shape (N, H, W)",
        )
    _check_sides(images.shape[1], images.shape[2])
    # A contiguous and writable array has one type for numba, so every loop is compiled once.
    found = [_describe(image) for image in np.require(images, requirements=["C", "W"])]
    return np.array(found, dtype=np.float64).reshape(len(images), len(FEATURES))


def radiomic_features(images: Tensor) -> Tensor:
    """The features of a batch as a network receives it.

    Values are clamped to [0, 1], three channels become 0.299 R + 0.587 G + 0.114 B, and grey values are rounded to 0 to
    255: in areas that are flat but for the noise of resampling, the last bits of a float would decide the patterns. The
    work is done on the processor whatever the device, so that a device does not change a feature.

    Args:
        images: (B, 1 or 3, H, W) floating point in [0, 1], sides of 7 px or more.

    Returns:
        (B, 13) float32 on the device of ``images``, without a gradient.

    Raises:
        UsageError: another type, shape or number of channels, a side below 7 px, a value that is
            not finite, or values that are far outside [0, 1].

    >>> features = radiomic_features(torch.full((2, 3, 16, 16), 0.5))
    >>> features.shape, features[0, FEATURES.index("intensity_mean")].item()
    (torch.Size([2, 13]), 128.0)
    """
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise UsageError(
            "radiomic features need a batch of grey or RGB images in [0, 1]",
            where="images",
            got=f"{images.dtype} of shape {tuple(images.shape)}",
            allowed="floating point of shape (B, 1 or 3, H, W)",
        )
    _check_sides(images.shape[2], images.shape[3])
    values = images.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise UsageError(
            "an image holds NaN or infinite values",
            where="images",
            got=f"{int((~torch.isfinite(values)).sum())} of {values.numel()} values",
            allowed="finite values in [0, 1]",
        )
    low, high = float(values.min()), float(values.max())
    if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
        raise UsageError(
            "radiomic features need values in [0, 1]; these look like another range",
            where="images",
            got=f"{low:g} to {high:g}",
            allowed="0 to 1; a little beyond is clamped",
            then="Declare input: {range: [0, 1]}: images of 8 and 16 bits are scaled into it",
        )
    found = radiomics(_grey(values).numpy())
    return torch.from_numpy(found).to(images.device, torch.float32)


def _describe(image: np.ndarray) -> list[float]:
    """The features of one (H, W) uint8 image."""
    # numba takes half a second to import and `xaiseg --help` must not wait for it.
    from xaiseg.zoo import radiomics_kernels as kernels

    textures = [kernels.texture(counts) for counts in kernels.cooccurrences(image)]
    patterns = kernels.histogram(kernels.lbp_codes(image), kernels.PATTERN_BINS)
    lbp_mean, lbp_std, _, _ = kernels.moments(patterns)
    shares = patterns[patterns > 0] / image.size
    return [
        *(sum(values) / len(textures) for values in zip(*textures, strict=True)),
        lbp_mean,
        lbp_std,
        float(-(shares * np.log2(shares)).sum()) + 0.0,  # + 0.0: one pattern alone has an entropy of 0, not of -0
        float((shares * shares).sum()),
        *kernels.moments(kernels.histogram(image, 256)),
    ]


def _grey(values: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) float32 → (B, H, W) uint8. One operation after the other: fused ones round otherwise."""
    values = values.clamp(0, 1)
    parts = values.unbind(dim=1)
    grey = parts[0] if len(parts) == 1 else 0.299 * parts[0] + 0.587 * parts[1] + 0.114 * parts[2]
    return (grey * 255).round().to(torch.uint8)


def _check_sides(height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise UsageError(
            "an image is too small for local binary patterns of radius 3",
            where="images",
            got=f"{height} x {width} px",
            allowed=f"sides of {MIN_SIDE} px or more",
        )
