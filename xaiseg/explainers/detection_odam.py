"""ODAM: where one detection comes from, on the level that fired.

C. Zhao, A. B. Chan, "ODAM: Gradient-based Instance-Specific Visual Explanations for Object Detection", ICLR 2023,
arXiv:2304.06354: H = ReLU(sum over k of Phi(G_k) A_k), with Phi a local smoothing of the gradient. A gradient that is
averaged over the whole grid (Grad-CAM) lights up every object of the class; one that stays in place, or is smoothed no
further than the object reaches, belongs to the one object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.cam import NEEDS, UNIT, CamParams, on_image
from xaiseg.explainers.targets import SpatialTarget, Target

#: Standard deviations after which the Gaussian is cut off.
CUT: Final = 3.0


@dataclass(frozen=True)
class OdamParams(CamParams):
    """Parameters of ODAM.

    Attributes:
        smoothing: standard deviation of the Gaussian that smooths the gradient, as a share of the object's side (the
            root of its area). 0 = none, as in the authors' code; the paper smooths by the object's size and names no
            share, 0.25 is ours.
        signed: keep what speaks against the object; published maps end in a ReLU.
    """

    smoothing: float = 0.25
    signed: bool = False

    def __post_init__(self) -> None:
        if self.smoothing < 0:
            raise UsageError("no such share", where="odam.smoothing", got=self.smoothing, allowed="0 or more")


@explainer("odam", needs=NEEDS, unit=UNIT, params=OdamParams)
def odam(session: Session, targets: Sequence[Target], *, params: OdamParams) -> Attribution:
    """ODAM of each target; without smoothing and with signs it is HiResCAM."""
    tap = session.tap(targets, params.layer, token_grid=params.token_grid)
    rows, columns = tap.activation.shape[1:]
    cells = math.sqrt(rows * columns / (session.image.shape[1] * session.image.shape[2]))
    widths = [params.smoothing * cells * _side(target) for target in targets]
    smooth = torch.stack([gaussian(slopes, width) for slopes, width in zip(tap.gradients, widths, strict=True)])
    maps = torch.einsum("tchw,chw->thw", smooth, tap.activation)
    notes = [
        f"{target.name}: gradients smoothed over {width:.2g} cells (standard deviation)"
        for target, width in zip(targets, widths, strict=True)
        if width > 0
    ]
    if not params.signed:
        maps = maps.clamp(min=0)
        notes.append("what speaks against the object is cut off, as published")
    return on_image(session, tap, maps, *notes)


def _side(target: Target) -> float:
    """The root of the target's area in the image, px; 0 for one without a place."""
    return math.sqrt(float(target.mask.sum())) if isinstance(target, SpatialTarget) else 0.0


def gaussian(maps: Tensor, width: float) -> Tensor:
    """Maps (C, h, w) convolved with a Gaussian of this standard deviation in cells, cut off at :data:`CUT` of them.

    The kernel sums to 1; beyond the edge of the grid there is nothing, as there are no cells.

    >>> gaussian(torch.tensor([[[0.0, 1.0, 0.0]]]), 0.0).tolist()
    [[[0.0, 1.0, 0.0]]]
    """
    if width <= 0:
        return maps
    reach = math.ceil(CUT * width)
    places = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    line = torch.exp(-(places**2) / (2 * width**2))
    line = line / line.sum()
    found = F.conv2d(maps[:, None], line[None, None, :, None], padding=(reach, 0))
    return F.conv2d(found, line[None, None, None], padding=(0, reach))[:, 0]
