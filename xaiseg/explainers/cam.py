"""Class activation maps: activations A weighted by gradients G at one layer, from the session's shared tap.

Every map is raw and signed, the sum over channels k of a weight times A_k, resized bilinearly to the image. Nothing is
clipped at zero and nothing is rescaled; the papers do both in the end, which hides what speaks against a class and
makes an empty map look full.

================ ========================================= ================================================
method           weight of A_k at a cell                   source
================ ========================================= ================================================
gradcam          mean of G_k over the grid                 Selvaraju et al., arXiv:1610.02391 (masks: 2002.11434)
hirescam         G_k at the cell                           Draelos, Carin, arXiv:2011.08891
seg-xres-cam     G_k averaged in blocks of cells           Hasany et al., CVPR Workshops 2023
layercam         max(G_k, 0) at the cell                   Jiang et al., IEEE TIP 2021
xgradcam         sum of G_k A_k over the grid / sum of A_k Fu et al., arXiv:2008.02312
gradcam++        sum of max(G_k, 0) / (2 + G_k sum of A_k) Chattopadhay et al., arXiv:1710.11063
================ ========================================= ================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.tap import Tap
from xaiseg.explainers.targets import Target

NEEDS: Final = frozenset({"forward", "gradients", "activations"})
UNIT: Final = "logit per cell of the layer"
#: Added to a sum of activations before it divides, as in the reference implementation of XGrad-CAM.
TINY: Final = 1e-7


@dataclass(frozen=True)
class CamParams:
    """Parameters of a class activation map.

    Attributes:
        layer: dotted name of a module of the network, or None for the automatic choice (named in the notes).
        token_grid: (rows, columns) that a transformer's tokens lie on; None = found from their number.
    """

    layer: str | None = None
    token_grid: tuple[int, int] | None = None


@dataclass(frozen=True)
class SegXResCamParams(CamParams):
    """Parameters of Seg-XRes-CAM.

    Attributes:
        pool: cells along a side of a block: 1 gives HiResCAM, the whole grid (or more) Grad-CAM.
    """

    pool: int = 2

    def __post_init__(self) -> None:
        if self.pool < 1:
            raise UsageError("a block has at least one cell", where="pool", got=self.pool, allowed="1 or more")


def on_image(session: Session, tap: Tap, maps: Tensor, *notes: str) -> Attribution:
    """Maps (T, h, w) of a layer as an attribution on the image's own pixels, with the note on the layer first."""
    size = (session.image.shape[1], session.image.shape[2])
    values = session.subject.to_image_grid(maps[:, None], size)[:, 0]
    return Attribution(values.cpu().numpy(), notes=(tap.note, *notes))


def weighted(weights: Tensor, activation: Tensor) -> Tensor:
    """The sum over channels of weights (T, C) times activations (C, h, w): (T, h, w).

    >>> weighted(torch.tensor([[1.0, -2.0]]), torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])).tolist()
    [[[-5.0, -6.0]]]
    """
    return torch.einsum("tc,chw->thw", weights, activation)


def negatives_note(tap: Tap, method: str) -> tuple[str, ...]:
    """A warning for methods that divide by activations and so assume that none is negative."""
    lowest = float(tap.activation.min())
    return (f"{method} assumes activations of 0 or more, here they go down to {lowest:.3g}",) if lowest < 0 else ()


@explainer("gradcam", needs=NEEDS, unit=UNIT, params=CamParams)
def gradcam(session: Session, targets: Sequence[Target], *, params: CamParams) -> Attribution:
    """Grad-CAM (for a region: Seg-Grad-CAM). The mean over the grid spreads the region's evidence over the image."""
    tap = session.tap(targets, params.layer, token_grid=params.token_grid)
    return on_image(session, tap, weighted(tap.gradients.mean(dim=(2, 3)), tap.activation))


@explainer("hirescam", needs=NEEDS, unit=UNIT, params=CamParams)
def hirescam(session: Session, targets: Sequence[Target], *, params: CamParams) -> Attribution:
    """HiResCAM. Where the part behind the layer is affine, its map sums to the score minus a constant."""
    tap = session.tap(targets, params.layer, token_grid=params.token_grid)
    return on_image(session, tap, torch.einsum("tchw,chw->thw", tap.gradients, tap.activation))


@explainer("seg-xres-cam", needs=NEEDS, unit=UNIT, params=SegXResCamParams)
def seg_xres_cam(session: Session, targets: Sequence[Target], *, params: SegXResCamParams) -> Attribution:
    """Seg-XRes-CAM: gradients averaged in blocks, between HiResCAM (one cell) and Grad-CAM (the whole grid)."""
    tap = session.tap(targets, params.layer, token_grid=params.token_grid)
    rows, columns = tap.activation.shape[1:]
    pool = (min(params.pool, rows), min(params.pool, columns))
    # Blocks at the lower and right edge may be smaller; their mean is over the cells that they have.
    means = F.avg_pool2d(tap.gradients, pool, ceil_mode=True)
    spread = means.repeat_interleave(pool[0], dim=2).repeat_interleave(pool[1], dim=3)[..., :rows, :columns]
    maps = torch.einsum("tchw,chw->thw", spread, tap.activation)
    return on_image(session, tap, maps, f"gradients are averaged in blocks of {pool[0]} x {pool[1]} cells")


@explainer("layercam", needs=NEEDS, unit=UNIT, params=CamParams)
def layercam(session: Session, targets: Sequence[Target], *, params: CamParams) -> Attribution:
    """LayerCAM: HiResCAM with positive gradients alone, which is its definition."""
    tap = session.tap(targets, params.layer, token_grid=params.token_grid)
    maps = torch.einsum("tchw,chw->thw", tap.gradients.clamp(min=0), tap.activation)
    return on_image(session, tap, maps, "negative gradients do not count")


@explainer("xgradcam", needs=NEEDS, unit=UNIT, params=CamParams)
def xgradcam(session: Session, targets: Sequence[Target], *, params: CamParams) -> Attribution:
    """XGrad-CAM: each channel's whole contribution, laid out where the channel is active."""
    tap = session.tap(targets, params.layer, token_grid=params.token_grid)
    given = torch.einsum("tchw,chw->tc", tap.gradients, tap.activation)
    weights = given / (tap.activation.sum(dim=(1, 2)) + TINY)
    return on_image(session, tap, weighted(weights, tap.activation), *negatives_note(tap, "XGrad-CAM"))


@explainer("gradcam++", needs=NEEDS, unit="activation, weighted", params=CamParams)
def gradcam_plus_plus(session: Session, targets: Sequence[Target], *, params: CamParams) -> Attribution:
    """Grad-CAM++. Its weights are not proportional to the score: the mean and the sum over a region differ in shape.

    G^2 / (2 G^2 + G^3 sum A) is written as 1 / (2 + G sum A), which is the same and does not lose small gradients to
    the constant that usually guards the division.
    """
    tap = session.tap(targets, params.layer, token_grid=params.token_grid)
    slopes, sums = tap.gradients, tap.activation.sum(dim=(1, 2))[:, None, None]
    weights = (slopes.clamp(min=0) / torch.where(slopes > 0, 2 + slopes * sums, 1.0)).sum(dim=(2, 3))
    return on_image(session, tap, weighted(weights, tap.activation), *negatives_note(tap, "Grad-CAM++"))
