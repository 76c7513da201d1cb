"""Toy detection networks of known truth, for tests that need a detector and no training."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from xaiseg.subject import RawBoxes


class Cells(nn.Module):
    """One candidate a cell of 8 x 8 pixels: the cell itself, with the mean of each of its channels as class scores."""

    side = 8

    def forward(self, batch: Tensor) -> RawBoxes:
        scores = nn.functional.avg_pool2d(batch, self.side)
        rows, columns = scores.shape[-2:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        corner = torch.stack((x, y), dim=-1).reshape(-1, 2).to(batch) * self.side
        xyxy = torch.cat((corner, corner + self.side), dim=1).expand(len(batch), -1, -1)
        level = torch.zeros(rows * columns, dtype=torch.int64, device=batch.device)
        return RawBoxes(xyxy, scores.flatten(2).transpose(1, 2), level)


class MaskedCells(Cells):
    """The same with masks: the prototypes are the channels less one half, and a candidate takes its best class's."""

    def forward(self, batch: Tensor) -> RawBoxes:
        raw = super().forward(batch)
        best = nn.functional.one_hot(raw.scores.argmax(dim=2), batch.shape[1]).to(batch)
        return RawBoxes(raw.xyxy, raw.scores, raw.level, best, batch - 0.5)


class Constant(nn.Module):
    """Answers with the same tensors to each image of a batch."""

    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        self.tensors = tensors

    def forward(self, batch: Tensor):
        found = tuple(tensor.expand(len(batch), *tensor.shape[1:]) for tensor in self.tensors)
        return found if len(found) > 1 else found[0]


class Listed(nn.Module):
    """A detector in torchvision's convention that is no class of torchvision: boxes around the bright pixels."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert isinstance(images, list)
        return [{key: torch.as_tensor(value) for key, value in bright(image.numpy(), 1).items()} for image in images]


def bright(image: np.ndarray, first_label: int) -> dict[str, np.ndarray]:
    """One box around the pixels above 0.5 of each channel that has any."""
    boxes, scores, labels, masks = [], [], [], []
    for label, channel in enumerate(image):
        rows, columns = np.nonzero(channel > 0.5)
        if len(rows):
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            scores.append(channel.max())
            labels.append(label + first_label)
            masks.append((channel > 0.5)[None].astype(np.float32))
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "scores": np.array(scores, np.float32),
        "labels": np.array(labels, np.int64),
        "masks": np.array(masks, np.float32).reshape(-1, 1, *image.shape[1:]),
    }


def detect(batch: np.ndarray) -> list[dict[str, np.ndarray]]:
    """A function for ``source: {python: ...}``."""
    return [bright(image, 0) for image in batch]


class _Backbone(nn.Module):
    """Two levels, stride 8 and 16."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU())
        self.pyramid = FeaturePyramidNetwork([8, 8], 32)

    def forward(self, x: Tensor) -> OrderedDict:
        first = self.first(x)
        return self.pyramid(OrderedDict([("0", first), ("1", self.second(first))]))


def spread(network: nn.Module) -> nn.Module:
    """Scores all over 0 to 1, as after a training, without one."""
    torch.manual_seed(3)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim > 1:
            # Boxes stay near their anchors, else most would have no area.
            gain = 0.2 if "bbox_reg" in name or "bbox_pred" in name else 0.4 if "classification" in name else 1.5
            nn.init.normal_(parameter, std=gain / parameter[0].numel() ** 0.5)
    return network.eval()


def retinanet(classes: int = 3) -> nn.Module:
    anchors = AnchorGenerator(((16, 24), (32, 48)), ((0.5, 1.0, 2.0),) * 2)
    return spread(RetinaNet(_Backbone(), classes, anchor_generator=anchors, min_size=64, max_size=96))


def fcos() -> nn.Module:
    anchors = AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)
    return spread(FCOS(_Backbone(), 3, anchor_generator=anchors, min_size=64, max_size=96))


def mask_rcnn() -> nn.Module:
    anchors = AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2)
    pools = [MultiScaleRoIAlign(["0", "1"], side, 2) for side in (7, 14)]
    return spread(MaskRCNN(_Backbone(), 3, rpn_anchor_generator=anchors, box_roi_pool=pools[0], mask_roi_pool=pools[1],
                            min_size=64, max_size=96, rpn_post_nms_top_n_test=40))  # fmt: skip
