"""The convolutional part of the compact detector as a network of one answer; what reads its heads stays outside.

What stays in floating point: the sigmoid of the scores, the exponential of the sizes, thresholds and suppression. The
head serves both levels, so its convolutions occur twice, each time with the format of its own input.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiseg.subject import RawBoxes
from xaiseg.zoo.detector_compact import DetectorCompact, candidates

#: Keep these outside: ``trace(DetectorCore(network), outside=DETECTOR_OUTSIDE)``; only the answer is joined.
DETECTOR_OUTSIDE: Final = ("cat",)


class DetectorCore(nn.Module):
    """Encoder, neck and heads of a compact detector; the coarser level's maps are repeated onto the finer grid.

    Args:
        network: in evaluation mode.

    >>> core = DetectorCore(DetectorCompact(3, 2).eval())
    >>> core(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 12, 8, 12])
    """

    def __init__(self, network: DetectorCompact) -> None:
        super().__init__()
        self.network = network
        self.train(network.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2 (K + 4), H / 8, W / 8): logits and boxes in cells of the finer level, then of the coarser one."""
        (fine, fine_boxes), (coarse, coarse_boxes) = self.network.maps(x)
        return torch.cat((fine, fine_boxes, _doubled(coarse), _doubled(coarse_boxes)), 1)

    def candidates(self, answer: Tensor) -> RawBoxes:
        """What the detector answers, from :meth:`forward`'s answer."""
        fine, coarse = answer.chunk(2, 1)
        return candidates([(part[:, :-4], part[:, -4:]) for part in (fine, coarse[..., ::2, ::2])])


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
