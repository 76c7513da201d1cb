"""What the field does to an image, in physical terms: parameters apart from application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from xaiseg.errors import UsageError, did_you_mean

#: (image (C, H, W) with values in [0, 1], level, generator) -> the same shape.
Apply = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Degradation:
    """One kind of degradation.

    Attributes:
        apply: the pure function; see :data:`Apply`.
        unit: of the level.
        sentence: English, with ``{level}``.
        lowest, highest: allowed levels.
        identity: the level that changes nothing.
    """

    apply: Apply
    unit: str
    sentence: str
    lowest: float
    highest: float
    identity: float


REGISTRY: Final[dict[str, Degradation]] = {}


def _degradation(
    name: str, *, unit: str, sentence: str, lowest: float, highest: float, identity: float
) -> Callable[[Apply], Apply]:
    def register(apply: Apply) -> Apply:
        REGISTRY[name] = Degradation(apply, unit, sentence, lowest, highest, identity)
        return apply

    return register


def degrade(
    image: np.ndarray,
    factor: str,
    level: float,
    *,
    value_range: tuple[float, float] = (0.0, 1.0),
    generator: np.random.Generator,
) -> np.ndarray:
    """A degraded copy.

    Args:
        image: (C, H, W) float32 within ``value_range``.
        factor: a name of :data:`REGISTRY`.
        level: in the factor's unit; the identity level returns the image itself.
        value_range: lowest and highest value.
        generator: for factors with noise.

    Returns:
        (C, H, W) float32 within ``value_range``.

    Raises:
        UsageError: unknown factor, or a level out of its range.

    >>> image = np.full((1, 4, 4), 0.5, np.float32)
    >>> float(degrade(image, "gain", 0.5, generator=np.random.default_rng(0)).max())
    0.25
    """
    if factor not in REGISTRY:
        raise UsageError(f"'{factor}' is not a degradation", then=did_you_mean(factor, REGISTRY))
    kind = REGISTRY[factor]
    if not kind.lowest <= level <= kind.highest:
        raise UsageError(
            "this level is out of range", where=factor, got=level, allowed=f"{kind.lowest} to {kind.highest}"
        )
    if level == kind.identity:
        return image
    low, high = value_range
    share = (image - np.float32(low)) / np.float32(high - low)
    changed = np.clip(kind.apply(share, level, generator), 0.0, 1.0)
    return np.asarray(changed * np.float32(high - low) + np.float32(low), dtype=np.float32)


@_degradation(
    "blur_px", unit="px", sentence="blur with a standard deviation of {level} px", lowest=0, highest=100, identity=0
)
def _blur(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return np.stack([gaussian_filter(channel, level, mode="nearest") for channel in image])


@_degradation(
    "noise_sd", unit="of the range", sentence="Gaussian noise with a standard deviation of {level} of the value range",
    lowest=0, highest=1, identity=0,
)  # fmt: skip
def _noise(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    noise: np.ndarray = generator.standard_normal(image.shape, dtype=np.float32)
    return image + np.float32(level) * noise


@_degradation("gain", unit="times", sentence="gain of {level}", lowest=0, highest=10, identity=1)
def _gain(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    return image * np.float32(level)


@_degradation(
    "jpeg_quality", unit="", sentence="JPEG compression at quality {level}", lowest=1, highest=100, identity=100
)
def _jpeg(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    """Three channels are compressed as a colour picture, any other number one by one."""
    import io

    from PIL import Image

    pixels = (np.clip(image, 0, 1) * 255.0).round().astype(np.uint8)
    pictures = [pixels.transpose(1, 2, 0)] if len(pixels) == 3 else list(pixels)
    decoded = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG", quality=round(level))
        buffer.seek(0)
        with Image.open(buffer) as held:
            decoded.append(np.asarray(held, dtype=np.float32) / 255.0)
    return decoded[0].transpose(2, 0, 1) if len(pixels) == 3 else np.stack(decoded)


@_degradation(
    "downscale", unit="of the size", sentence="reduction to {level} of the size and enlargement again",
    lowest=0.01, highest=1, identity=1,
)  # fmt: skip
def _downscale(image: np.ndarray, level: float, generator: np.random.Generator) -> np.ndarray:
    from PIL import Image

    height, width = image.shape[1:]
    small = (max(1, round(width * level)), max(1, round(height * level)))
    bilinear = Image.Resampling.BILINEAR
    channels = [Image.fromarray(np.ascontiguousarray(channel, dtype=np.float32)) for channel in image]
    return np.stack(
        [np.asarray(channel.resize(small, bilinear).resize((width, height), bilinear)) for channel in channels]
    )
