"""Class activation maps: activations weighted by gradients at one layer, from the session's shared tap.

HiResCAM: R. L. Draelos, L. Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
networks", arXiv:2011.08891. Unlike Grad-CAM it does not average the gradient over the grid, so it stays local, and
where the part behind the layer is affine the map sums to the score minus a constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.targets import Target


@dataclass(frozen=True)
class HiResCamParams:
    """Parameters of HiResCAM.

    Attributes:
        layer: dotted name of a module of the network, or None for the automatic choice (named in the notes).
    """

    layer: str | None = None


@explainer(
    "hirescam", needs={"forward", "gradients", "activations"}, unit="logit per cell of the layer", params=HiResCamParams
)
def hirescam(session: Session, targets: Sequence[Target], *, params: HiResCamParams) -> Attribution:
    """The sum over channels of gradient x activation, raw and signed, resized bilinearly to the image.

    One forward, and one backward a target.
    """
    tap = session.tap(targets, params.layer)
    maps = torch.einsum("tchw,chw->thw", tap.gradients, tap.activation)
    size = (session.image.shape[1], session.image.shape[2])
    values = session.subject.to_image_grid(maps[:, None], size)[:, 0]
    return Attribution(values.cpu().numpy(), notes=(tap.note,))
