"""A toy detector and toy networks of known truth, for tests that need a subject and no training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from xaiseg.subject import Boxes, Detector, SubjectInfo


class BrightBlobs(Detector):
    """Boxes around connected regions brighter than ``level``; the score is the mean brightness of the region."""

    def __init__(self, level: float = 0.5) -> None:
        self.level = level
        self.info = SubjectInfo("bright-blobs", ("blob",), 1, offers=frozenset({"scores", "instance_masks"}))

    def predict(self, images: Sequence[Tensor], *, batch_size: int = 8) -> list[Boxes]:
        return [self._detect(image[0].numpy()) for image in images]

    def _detect(self, image: np.ndarray) -> Boxes:
        regions, count = ndimage.label(image > self.level)
        xyxy = np.zeros((count, 4), np.float32)
        for index, (rows, columns) in enumerate(ndimage.find_objects(regions)):
            xyxy[index] = columns.start, rows.start, columns.stop, rows.stop
        masks = np.arange(1, count + 1)[:, None, None] == regions
        scores = np.array([image[mask].mean() for mask in masks], dtype=np.float32)
        return Boxes(
            torch.from_numpy(xyxy),
            torch.from_numpy(scores),
            torch.zeros(count, dtype=torch.int64),
            class_scores=torch.from_numpy(scores).unsqueeze(1),
            masks=torch.from_numpy(masks),
        )


def build_detector() -> Detector:
    """A builder for ``source: {torch: "...:build_detector"}``."""
    return BrightBlobs()


class TinyNet(nn.Module):
    """Two convolutions at half resolution and back: sides must be even."""

    def __init__(self, channels: int = 1, outputs: int = 1, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.down = nn.Conv2d(channels, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.head = nn.Conv2d(4 + channels, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat((self.up(torch.relu(self.down(x))), x), dim=1))


class Answer(nn.Module):
    """Wraps a network so that its answer comes as a dict, a tuple, probabilities or labels."""

    def __init__(self, network: nn.Module, form: str) -> None:
        super().__init__()
        self.network = network
        self.form = form

    def forward(self, x: Tensor):
        z = self.network(x)
        return {
            "out": lambda: {"aux": -z, "out": z},
            "logits": lambda: {"features": z.new_zeros(1), "logits": z},
            "other": lambda: {"mask": z, "aux": -z},
            "tuple": lambda: (z, -z),
            "second": lambda: (-z, z),
            "sigmoid": lambda: z.sigmoid(),
            "softmax": lambda: z.softmax(dim=1),
            "labels": lambda: z.argmax(dim=1) if z.shape[1] > 1 else (z[:, 0] > 0).to(torch.uint8),
            "nan": lambda: z * float("nan"),
            "flat": lambda: z.flatten(1),
        }[self.form]()
