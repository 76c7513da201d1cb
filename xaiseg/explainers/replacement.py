"""What a hidden pixel is replaced by. Every method and metric names it, since the answer depends on it."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.seeds import generator

Replacement = Literal["mean", "blur", "noise", "inpaint", "dataset-mean"]

#: What each kind shows, for notes and documents.
DESCRIPTION: Final[dict[str, str]] = {
    "mean": "the mean of the image, channel by channel",
    "blur": "the image blurred by a Gaussian (standard deviation: a tenth of the shorter side)",
    "noise": "Gaussian noise with the image's own mean and standard deviation, channel by channel, within its range",
    "inpaint": "the mean of the circle around each pixel (radius: a tenth of the shorter side), which is what filling "
    "a hole of that size smoothly from its edge puts at its centre",
    "dataset-mean": "the mean image of a data set",
}

#: Radius of the circle that "inpaint" looks at, and standard deviation of "blur", as a share of the shorter side.
REACH: Final = 0.1


def replacement(
    image: Tensor, kind: Replacement, *, seed: int = 0, dataset_mean: Tensor | np.ndarray | None = None
) -> Tensor:
    """The image (C, H, W) that stands in for hidden pixels, on the same device.

    "inpaint" rests on the mean value property: a harmonic function, which is what a hole is filled with when the
    filling is as smooth as can be, takes at the centre of a disc the mean of the disc's edge. So every pixel shows what
    its surroundings suggest and nothing of itself, at the price of one convolution and for all masks at once.

    Args:
        image: (C, H, W).
        kind: see :data:`DESCRIPTION`.
        seed: for "noise".
        dataset_mean: for "dataset-mean": (C, H, W), or (C, 1, 1) for one value a channel.

    Raises:
        UsageError: an unknown kind, or a dataset mean that is missing or does not fit.

    >>> replacement(torch.tensor([[[0.0, 1.0]]]), "mean")
    tensor([[[0.5000, 0.5000]]])
    """
    if kind not in DESCRIPTION:
        raise UsageError("no such baseline", where="baseline", got=kind, allowed=", ".join(DESCRIPTION))
    if kind == "mean":
        return image.mean(dim=(1, 2), keepdim=True).expand_as(image).contiguous()
    if kind == "dataset-mean":
        return _given(image, dataset_mean)
    values = image.cpu().numpy()
    made = {"blur": _blur, "inpaint": _ring_mean}[kind](values) if kind != "noise" else _noise(values, seed)
    return torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32)).to(image.device)


def _given(image: Tensor, dataset_mean: Tensor | np.ndarray | None) -> Tensor:
    if dataset_mean is None:
        raise UsageError("the dataset mean was not given", where="baseline", got="dataset-mean", then="Pass its image")
    given = torch.as_tensor(dataset_mean, dtype=torch.float32).to(image.device)
    if given.shape not in (image.shape, (image.shape[0], 1, 1)):
        allowed = f"{tuple(image.shape)} or {(image.shape[0], 1, 1)}"
        raise UsageError("the dataset mean does not fit", where="baseline", got=tuple(given.shape), allowed=allowed)
    return given.expand_as(image).contiguous()


def _blur(values: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    sd_px = min(values.shape[1:]) * REACH
    return np.asarray(gaussian_filter(values, sigma=(0, sd_px, sd_px), mode="nearest"))


def _noise(values: np.ndarray, seed: int) -> np.ndarray:
    axes = (1, 2)
    drawn = generator(seed, "baseline noise").standard_normal(values.shape)
    noise = values.mean(axes, keepdims=True) + drawn * values.std(axes, keepdims=True)
    return np.asarray(noise.clip(values.min(axes, keepdims=True), values.max(axes, keepdims=True)))


def _ring_mean(values: np.ndarray) -> np.ndarray:
    """The mean over the pixels within the image whose distance rounds to the radius."""
    from scipy.signal import fftconvolve

    radius = max(1, round(min(values.shape[1:]) * REACH))
    steps = np.arange(-radius, radius + 1)
    ring = (np.round(np.hypot(steps[:, None], steps)) == radius).astype(np.float64)
    inside = np.round(fftconvolve(np.ones(values.shape[1:]), ring, mode="same"))
    # A side shorter than the radius leaves pixels whose whole circle lies outside; they show the mean.
    mean = values.mean((1, 2), keepdims=True, dtype=np.float64)
    around = fftconvolve(values - mean, ring[None], mode="same", axes=(1, 2)) / np.maximum(inside, 1)
    return np.asarray(mean + np.where(inside > 0, around, 0.0))
