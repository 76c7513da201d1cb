"""Does a map hold still? Max-sensitivity: how far it moves when the image moves by less than anyone would notice.

C.-K. Yeh et al., "On the (In)fidelity and Sensitivity of Explanations", NeurIPS 2019. The region stays frozen. A map
that moves much is hard to trust; one that never moves may not depend on the image at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor

from xaiseg.seeds import derive_seed

#: Largest change of a value, as a share of the declared range; the default of captum.
RADIUS: Final = 0.02


def nearby(image: Tensor, radius: float, samples: int, seed: int) -> Iterator[Tensor]:
    """Images (C, H, W) whose values differ from the given ones by at most the radius, uniformly drawn.

    Args:
        image: (C, H, W) float32.
        radius: in the image's own unit. Values may leave the declared range by it.
        samples: how many.
        seed: the same images for the same seed, on every device.

    >>> near = next(nearby(torch.zeros(1, 2, 2), 0.5, 1, 0))
    >>> bool((near.abs() <= 0.5).all())
    True
    """
    for index in range(samples):
        generator = torch.Generator().manual_seed(derive_seed(seed, "nearby images", str(index)))
        noise = torch.rand(image.shape, generator=generator) * 2 - 1
        yield image + radius * noise.to(image.device)


def max_sensitivity(
    explain_image: Callable[[Tensor], np.ndarray],
    image: Tensor,
    *,
    radius: float,
    samples: int = 10,
    seed: int = 0,
    original: np.ndarray | None = None,
) -> float | None:
    """The largest relative change of a map over nearby images: max |map(x') - map(x)| / |map(x)|, Euclidean.

    Args:
        explain_image: image (C, H, W) -> map (H, W), for the region of the original image.
        image: (C, H, W) float32.
        radius: in the image's own unit; see :data:`RADIUS`.
        samples: nearby images.
        seed: of the nearby images.
        original: (H, W), the map of the image itself where it is known.

    Returns:
        0 or more, lower is better; None for a map that is zero everywhere.

    >>> max_sensitivity(lambda x: np.ones((2, 2)), torch.zeros(1, 2, 2), radius=0.1)
    0.0
    """
    own = (explain_image(image) if original is None else original).astype(np.float64)
    size = float(np.linalg.norm(own))
    if size == 0.0:
        return None
    changes = (np.linalg.norm(explain_image(near) - own) for near in nearby(image, radius, samples, seed))
    return float(max(changes)) / size
