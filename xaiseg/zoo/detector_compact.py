"""A compact anchor-free detector for small animals in aerial tiles.

Written after Ge et al.: YOLOX, arXiv 2107.08430, and Tian et al.: FCOS, arXiv 1904.01355. A residual encoder halves the
grid four times, one top-down step joins its last two levels, and a head shared by both levels says for every cell, in
two separate branches, which animal has its centre nearby and where its box lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaiseg.subject import RawBoxes
from xaiseg.zoo import Card, Weights, zoo_model
from xaiseg.zoo.augmentation import Augmentation
from xaiseg.zoo.recipe import Recipe

#: Channels at half, quarter, eighth and sixteenth resolution; channels of the head.
WIDTHS: Final = (16, 32, 64, 96)
NECK: Final = 64
STRIDES: Final = (8, 16)
#: Share of cells that hold an object before anything is learnt, as in Lin et al., arXiv 1708.02002.
PRIOR: Final = 0.01


@dataclass(frozen=True)
class Dense:
    """What the head says of every cell of both levels, the finer level first, row by row.

    Attributes:
        logits: (B, N, K), one a class.
        boxes: (B, N, 4) xyxy pixels of the batch.
        centres: (N, 2) x, y of the cells, pixels.
        strides: (N,) side of the cells, pixels.
    """

    logits: Tensor
    boxes: Tensor
    centres: Tensor
    strides: Tensor


class DetectorCompact(nn.Module):
    """Two levels, stride 8 and 16.

    Args:
        channels: input channels.
        classes: number of kinds of objects; there is no background class.

    >>> raw = DetectorCompact(3, 2)(torch.zeros(1, 3, 64, 96))
    >>> raw.xyxy.shape, raw.scores.shape, raw.level.unique().tolist()
    (torch.Size([1, 120, 4]), torch.Size([1, 120, 2]), [0, 1])
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = WIDTHS
        self.stem = nn.Sequential(_unit(channels, half, stride=2), _unit(half, quarter, stride=2), _Residual(quarter))
        self.fine = nn.Sequential(_unit(quarter, eighth, stride=2), _Residual(eighth))
        self.coarse = nn.Sequential(_unit(eighth, sixteenth, stride=2), _Residual(sixteenth))
        self.side = nn.ModuleList((_unit(eighth, NECK, kernel=1), _unit(sixteenth, NECK, kernel=1)))
        self.join = _unit(NECK, NECK)
        self.what = _unit(NECK, NECK)
        self.where = _unit(NECK, NECK)
        self.score = nn.Conv2d(NECK, classes, 1)
        self.box = nn.Conv2d(NECK, 4, 1)
        nn.init.constant_(_bias(self.score), -math.log((1 - PRIOR) / PRIOR))
        nn.init.constant_(_bias(self.box)[2:], 1.0)  # e strides: the size of a small animal

    def forward(self, x: Tensor) -> RawBoxes:
        """Every candidate of images (B, channels, H, W), H and W multiples of 16, before thresholds."""
        return candidates(self.maps(x))

    def dense(self, x: Tensor) -> Dense:
        """The same with logits and cells, as the loss needs it."""
        return _dense(self.maps(x))

    def maps(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Logits (B, K, h, w) and boxes in cells (B, 4, h, w) of the finer and of the coarser level."""
        fine = self.fine(self.stem(x))
        coarse = self.side[1](self.coarse(fine))
        up = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        return self._head(self.join(self.side[0](fine) + up)), self._head(coarse)

    def _head(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return self.score(self.what(level)), self.box(self.where(level))

    def intrinsic(self, x: Tensor) -> dict[str, Tensor]:
        """A detector of this kind exposes no explanation of its own."""
        return {}


def candidates(maps: Sequence[tuple[Tensor, Tensor]]) -> RawBoxes:
    """Every candidate of what :meth:`DetectorCompact.maps` answers, before thresholds."""
    dense = _dense(maps)
    level = (dense.strides > STRIDES[0]).long()
    return RawBoxes(dense.boxes, dense.logits.float().sigmoid(), level)


def _dense(maps: Sequence[tuple[Tensor, Tensor]]) -> Dense:
    logits, boxes, centres, sides = [], [], [], []
    for (scores, values), stride in zip(maps, STRIDES, strict=True):
        cells = _centres(scores.shape[-2], scores.shape[-1], stride, scores.device)
        logits.append(scores.flatten(2).transpose(1, 2))
        boxes.append(decode(values.flatten(2).transpose(1, 2).float(), cells, stride))
        centres.append(cells)
        sides.append(torch.full((len(cells),), float(stride), device=scores.device))
    return Dense(torch.cat(logits, 1), torch.cat(boxes, 1), torch.cat(centres), torch.cat(sides))


def decode(values: Tensor, centres: Tensor, stride: int) -> Tensor:
    """Boxes of what the head says.

    Args:
        values: (B, N, 4): offset of the centre from the cell's (x, y) and logarithm of the size (width, height), all in
            cells.
        centres: (N, 2) x, y of the cells, pixels.
        stride: side of a cell, pixels.

    Returns:
        (B, N, 4) xyxy pixels.

    >>> decode(torch.zeros(1, 1, 4), torch.tensor([[12.0, 4.0]]), 8)
    tensor([[[ 8.,  0., 16.,  8.]]])
    """
    middle = centres + values[..., :2] * stride
    half = values[..., 2:].clamp(max=6.0).exp() * (stride / 2)  # no box is wider than 400 cells; exp stays finite
    return torch.cat((middle - half, middle + half), dim=-1)


def _centres(rows: int, columns: int, stride: int, device: torch.device) -> Tensor:
    y = (torch.arange(rows, device=device) + 0.5) * stride
    x = (torch.arange(columns, device=device) + 0.5) * stride
    return torch.stack((x.repeat(rows), y.repeat_interleave(columns)), dim=1)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_unit(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False),
                                  nn.BatchNorm2d(width))  # fmt: skip
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.body(x))  # type: ignore[no-any-return]


def _unit(before: int, after: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    # Batch normalisation folds into the convolution on small hardware; private training has to replace it.
    # ReLU is not in place: attribution methods hook the activations and need them as they were.
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None  # made with one
    return layer.bias


_COMPACT: Final = Recipe(
    size=256,
    epochs=20,
    images_per_epoch=800,
    batch=16,
    lr=3e-3,
    weight_decay=5e-2,
    clip=10.0,
    choose_threshold=True,
    augmentation=Augmentation(rotate_degrees=0, scale=0.3, shift=0.1, gain=0.25, gamma=0.2, blur_px=1.0, noise_sd=0.03),
)


@zoo_model(
    Card(
        name="detector-compact",
        task="detection",
        summary="an anchor-free detector of small animals in aerial tiles",
        paper="after Ge et al.: YOLOX, arXiv 2107.08430, and Tian et al.: FCOS, arXiv 1904.01355",
        parameters=459_509,
        multiple_of=16,
        licence="Apache-2.0",
        source="written from the papers",
        differs="half a million parameters, so that it trains on a processor in minutes; two levels (stride 8 and 16) "
        "instead of three; one score a class whose target is the overlap, without an objectness of its own; "
        "cells near the centre of a box instead of all of its cells are its candidates",
        weights=(
            Weights(
                "detector-compact-scenes.safetensors",
                sha256="91d9a7251d0cbb663aacb6a99557905136c0e578b3a171e481628e223fc38285",
                data="seals on ice that the package generates (docs/data-scenes.md); it has seen no photograph",
                command="xaiseg zoo train detector-compact --data scenes --out OUT --strata habitat --threads 1 "
                "--seed 0",
                result="AP50 0.705, recall 0.694 and precision 0.716 at 0.4 on 432 generated test tiles of 36 flights; "
                "a false animal on 34 % of the empty tiles, mostly dark ice and rocks; docs/zoo/detector-compact.md",
                classes=("seal",),
                threshold=0.4,
            ),
            Weights(
                "detector-compact-seals.safetensors",
                sha256="5c29cd8f652442252c951084cb7ed220f0c9f2fc799a1e981ad458820984b04f",
                data="Glacier Bay - Harbor Seals v2, 176 drone tiles of real harbour seals (MARRS Lab / National Park "
                "Service, CC BY-SA 4.0, and so are these weights)",
                command="python -m benchmarks.flights FOLDER --out OUT --epochs 10 --start "
                "xaiseg/zoo/weights/detector-compact-scenes.safetensors, the first flight",
                result="AP50 0.862, recall 0.789 and precision 0.899 at 0.4 on 59 tiles of the flight that was left "
                "out; over five flights, each left out once, AP50 0.859 (95 % interval 0.808 to 0.909); "
                "docs/zoo/detector-compact.md",
                classes=("seal",),
                threshold=0.4,
            ),
        ),
    ),
    recipes={
        "compact": _COMPACT,
        # For experiments of many trainings: a third of the time.
        "brief": replace(_COMPACT, epochs=6),
    },
)
def detector_compact(channels: int, outputs: int) -> nn.Module:
    """Builds :class:`DetectorCompact` with random weights."""
    return DetectorCompact(channels, outputs)
