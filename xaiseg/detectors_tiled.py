"""A detector that looks at a large image tile by tile: boxes are mapped back, and what two tiles saw is one detection.

Tiles overlap, so that an animal that one tile cuts in two is whole in another. At an overlap both tiles see the same
animal; a count tile by tile holds it twice. After F. C. Akyon et al., Slicing aided hyper inference, ICIP 2022: boxes
of different tiles are one where they share half of the smaller one; a cut box and the whole one have a low IoU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torchvision.ops import box_iou

from xaiseg.modelfile_parts import TileSpec
from xaiseg.subject import Boxes, Detector

#: Share of the smaller of two boxes of different tiles from which on they are one detection. SAHI's.
SAME: Final = 0.5
#: A box that ends so near to an inner border of its tile was cut by it, in pixels.
CUT_PX: Final = 1.5


@dataclass(frozen=True)
class Window:
    """A tile in its image: rows top to bottom, columns left to right, pixels."""

    top: int
    left: int
    bottom: int
    right: int


def windows(shape: tuple[int, int], tile: TileSpec) -> list[Window]:
    """The tiles of an image (H, W), row by row; the last of each row and column ends at the border.

    >>> [(w.left, w.right) for w in windows((64, 150), TileSpec(size=(64, 64), overlap=16))]
    [(0, 64), (48, 112), (86, 150)]
    """
    rows, columns = (_starts(*pair, tile.overlap) for pair in zip(shape, tile.size, strict=True))
    height, width = min(tile.size[0], shape[0]), min(tile.size[1], shape[1])
    return [Window(top, left, top + height, left + width) for top in rows for left in columns]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    return [*range(0, length - side, side - overlap), length - side]


class TiledDetector(Detector):
    """Another detector, asked for one tile at a time; images that fit into a tile are seen as they are.

    It offers scores alone: candidates and gradients belong to a tile, not to the image.

    Args:
        inner: the detector.
        tile: size and overlap of the tiles.
    """

    def __init__(self, inner: Detector, tile: TileSpec) -> None:
        self._inner = inner
        self._tile = tile
        self.info = replace(inner.info, offers=inner.info.offers & {"scores"})

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self._inner.device

    def predict(self, images: Sequence[Tensor], *, batch_size: int = 8) -> list[Boxes]:
        """See :meth:`xaiseg.subject.Detector.predict`; ``merged`` says what tiles saw twice. A batch is of tiles."""
        places = [windows((int(image.shape[1]), int(image.shape[2])), self._tile) for image in images]
        queue = [(index, window) for index, listed in enumerate(places) for window in listed]
        found: list[list[Boxes]] = [[] for _ in images]
        for start in range(0, len(queue), batch_size):
            some = queue[start : start + batch_size]
            tiles = [images[index][:, w.top : w.bottom, w.left : w.right] for index, w in some]
            for (index, window), boxes in zip(some, self._inner.predict(tiles, batch_size=batch_size), strict=True):
                shift = boxes.xyxy.new_tensor((window.left, window.top) * 2)
                found[index].append(Boxes(boxes.xyxy + shift, boxes.scores, boxes.labels))
        threshold = self.info.threshold.value
        return [merge(own, listed, threshold) for own, listed in zip(found, places, strict=True)]


def merge(found: Sequence[Boxes], places: Sequence[Window], threshold: float) -> Boxes:
    """One detection of all boxes of different tiles that are the same animal, by descending score.

    Whole boxes come before those that their tile cut, then the better before the worse; what is kept has the best score
    of its group. A speck inside a box, which nobody would count, does not stand for it.

    Args:
        found: boxes of each tile in pixels of the image.
        places: the tiles.
        threshold: from which score on a detection is counted.

    Returns:
        Boxes; ``merged`` = how often each would be counted too many, tile by tile, at the threshold.
    """
    xyxy = torch.cat([boxes.xyxy for boxes in found])
    scores = torch.cat([boxes.scores for boxes in found])
    labels = torch.cat([boxes.labels for boxes in found])
    tile = torch.cat([torch.full_like(boxes.labels, index) for index, boxes in enumerate(found)])
    group = torch.arange(len(scores), device=scores.device)
    shared = _shared(xyxy, tile, places)
    rank = scores.argsort(descending=True, stable=True)
    rank = rank[_cut(xyxy, tile, places)[rank].int().argsort(stable=True)]
    area = (xyxy[:, 2:] - xyxy[:, :2]).prod(dim=1)
    kept = torch.zeros_like(shared)
    for index in rank[shared[rank]].tolist():
        stands = (area >= SAME * area[index]) | (scores >= threshold)
        near = torch.nonzero(kept & stands & (labels == labels[index]) & (tile != tile[index]))[:, 0]
        near = near[_of_smaller(xyxy[index], xyxy[near]) >= SAME]
        if len(near):  # the box of the same size, not a wide one around two animals, which holds all of it as well
            group[index] = near[box_iou(xyxy[index][None], xyxy[near])[0].argmax()]
        else:
            kept[index] = True
    counted = torch.zeros_like(group).scatter_add_(0, group, (scores >= threshold).long())
    best = scores.scatter_reduce(0, group, scores, "amax")
    stays = torch.nonzero(group == torch.arange(len(group), device=group.device))[:, 0]
    stays = stays[best[stays].argsort(descending=True, stable=True)]
    return Boxes(xyxy[stays], best[stays], labels[stays], merged=(counted[stays] - 1).clamp(min=0))


def _shared(xyxy: Tensor, tile: Tensor, places: Sequence[Window]) -> Tensor:
    """(N,) bool: the box reaches into another tile too, so that it may have been seen there."""
    shared = torch.zeros(len(xyxy), dtype=torch.bool, device=xyxy.device)
    for index, place in enumerate(places):
        across = (xyxy[:, 0] < place.right) & (xyxy[:, 2] > place.left)
        shared |= across & (xyxy[:, 1] < place.bottom) & (xyxy[:, 3] > place.top) & (tile != index)
    return shared


def _cut(xyxy: Tensor, tile: Tensor, places: Sequence[Window]) -> Tensor:
    """(N,) bool: the box ends at a border of its tile that is none of the image."""
    low = xyxy.new_tensor([[place.left, place.top] for place in places])[tile]
    high = xyxy.new_tensor([[place.right, place.bottom] for place in places])[tile]
    ends = xyxy.new_tensor([max(place.right for place in places), max(place.bottom for place in places)])
    at_low = (xyxy[:, :2] <= low + CUT_PX) & (low > 0)
    at_high = (xyxy[:, 2:] >= high - CUT_PX) & (high < ends)
    return (at_low | at_high).any(dim=1)


def _of_smaller(box: Tensor, others: Tensor) -> Tensor:
    """(M,) shared area of a box with others as a share of the smaller of the two."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    areas = (others[:, 2:] - others[:, :2]).prod(dim=1)
    smaller = torch.minimum((box[2:] - box[:2]).prod(), areas)
    return sides.prod(dim=1) / smaller.clamp(min=1e-9)
