"""Class activation maps by the first principal component of a layer.

Eigen-CAM: M. B. Muhammad, M. Yeasin, arXiv:2008.00299. Seg-Eigen-CAM: C.-T. Chung, J. J.-C. Ying, Applied Sciences
15(13), 7562, 2025. Eigen-Grad-CAM is the variant of pytorch-grad-cam with signed gradients.

X holds one row a cell and one column a channel, centred; the map is X v with v the first eigenvector of X'X. Only the
smaller of X'X (C x C) and XX' (cells x cells) is decomposed, and only its largest eigenvalue is sought.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.cam import NEEDS, CamParams, on_image
from xaiseg.explainers.targets import Target

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

CLASS_AGNOSTIC: Final = "class-agnostic: the same map for every target, it says what the layer responds to most"


def first_component(features: Tensor) -> tuple[Tensor, float]:
    """The projection of every cell on the first principal component of a layer.

    The sign is chosen so that the value that is largest in magnitude is positive.

    Args:
        features: (C, h, w).

    Returns:
        (h, w) float32, and the share of the variance that the component holds, 0 for constant features.

    >>> projection, share = first_component(torch.tensor([[[0.0, 1.0, 5.0]], [[0.0, 2.0, 10.0]]]))
    >>> [round(value, 3) for value in projection[0].tolist()], round(share, 3)
    ([-4.472, -2.236, 6.708], 1.0)
    """
    channels, rows, columns = features.shape
    cells = features.reshape(channels, -1).T.double()
    cells = cells - cells.mean(dim=0)
    few = channels <= len(cells)
    gram = (cells.T @ cells if few else cells @ cells.T).cpu().numpy()
    total = float(np.trace(gram))
    if total == 0:
        return torch.zeros(rows, columns, device=features.device), 0.0
    value, own = _largest(gram)
    vector = torch.from_numpy(own).to(features.device)
    found = cells @ vector if few else vector * value**0.5
    found = -found if -found.min() > found.max() else found
    return found.reshape(rows, columns).float(), value / total


def _largest(gram: np.ndarray) -> tuple[float, np.ndarray]:
    """Largest eigenvalue of a symmetric matrix and its vector."""
    from scipy.linalg import eigh

    last = len(gram) - 1
    with _blas().limit(limits=1, user_api="blas"):
        values, vectors = eigh(gram, subset_by_index=[last, last])
    return float(values[0]), vectors[:, 0]


@cache
def _blas() -> ThreadpoolController:
    # A few hundred rows are decomposed 10 to 30 times slower by threads that wait for each other on busy cores.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@explainer("eigencam", needs=NEEDS, unit="activation along the first component", params=CamParams)
def eigencam(session: Session, targets: Sequence[Target], *, params: CamParams) -> Attribution:
    """Eigen-CAM of the activations alone: one forward, no backward, and blind to the target."""
    tap = session.tap(targets, params.layer, token_grid=params.token_grid, gradients=False)
    found, share = first_component(tap.activation)
    return on_image(session, tap, found.expand(len(targets), -1, -1), CLASS_AGNOSTIC, _share(share))


@explainer("seg-eigencam", needs=NEEDS, unit="weighted activation along the first component", params=CamParams)
def seg_eigencam(session: Session, targets: Sequence[Target], *, params: CamParams) -> Attribution:
    """Seg-Eigen-CAM: the first component of |G| A."""
    tap = session.tap(targets, params.layer, token_grid=params.token_grid)
    found = [first_component(slopes.abs() * tap.activation) for slopes in tap.gradients]
    return on_image(session, tap, torch.stack([each for each, _ in found]), *(_share(share) for _, share in found))


@explainer("eigengradcam", needs=NEEDS, unit="weighted activation along the first component", params=CamParams)
def eigengradcam(session: Session, targets: Sequence[Target], *, params: CamParams) -> Attribution:
    """Eigen-Grad-CAM: the first component of G A."""
    tap = session.tap(targets, params.layer, token_grid=params.token_grid)
    found = [first_component(slopes * tap.activation) for slopes in tap.gradients]
    return on_image(session, tap, torch.stack([each for each, _ in found]), *(_share(share) for _, share in found))


def _share(share: float) -> str:
    return f"the first component holds {share:.0%} of the variance"
