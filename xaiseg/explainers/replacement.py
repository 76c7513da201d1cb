"""What a hidden pixel is replaced by. Every method and metric names it, since the answer depends on it."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

Replacement = Literal["mean", "blur"]

#: What each kind shows, for notes and documents.
DESCRIPTION: Final[dict[str, str]] = {
    "mean": "the mean of the image, channel by channel",
    "blur": "the image blurred by a Gaussian (standard deviation: a tenth of the shorter side)",
}


def replacement(image: Tensor, kind: Replacement) -> Tensor:
    """The image (C, H, W) that stands in for hidden pixels, on the same device.

    >>> replacement(torch.tensor([[[0.0, 1.0]]]), "mean")
    tensor([[[0.5000, 0.5000]]])
    """
    if kind == "mean":
        return image.mean(dim=(1, 2), keepdim=True).expand_as(image).contiguous()
    from scipy.ndimage import gaussian_filter

    sd_px = min(image.shape[1:]) / 10
    blurred = gaussian_filter(image.cpu().numpy(), sigma=(0, sd_px, sd_px), mode="nearest")
    return torch.from_numpy(np.ascontiguousarray(blurred, dtype=np.float32)).to(image.device)
