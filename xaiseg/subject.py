"""The audited model behind one interface: a :class:`Segmenter` or a :class:`Detector`.

Images are float32 tensors (C, H, W) in the range that model.yaml declares; they may differ in size. The subject owns
normalisation, resizing, padding and batching, and maps its answers back to the image's own pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

#: What a subject may offer and what a check or an explainer may need.
OFFERS: Final = frozenset(
    {"scores", "forward", "gradients", "activations", "weights", "intrinsic", "raw_boxes", "instance_masks"}
)


@dataclass(frozen=True)
class Boxes:
    """Detections of one image.

    Attributes:
        xyxy: (N, 4) float32, pixels of the image.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64 indices into the subject's classes.
        class_scores: (N, K) float32 or None.
        masks: (N, H, W) bool or None.
        candidates: (N,) int64, which of the :class:`RawBoxes` each detection is, or None.
        merged: (N,) int64, how often tiles of one image saw each detection again at the threshold, or None without
            tiles.
    """

    xyxy: Tensor
    scores: Tensor
    labels: Tensor
    class_scores: Tensor | None = None
    masks: Tensor | None = None
    candidates: Tensor | None = None
    merged: Tensor | None = None

    def __post_init__(self) -> None:
        n = self.scores.shape[0]
        if self.xyxy.shape != (n, 4) or self.labels.shape != (n,):
            raise ValueError(
                f"Boxes need xyxy (N, 4), scores (N,), labels (N,); got {tuple(self.xyxy.shape)}, "
                f"{tuple(self.scores.shape)}, {tuple(self.labels.shape)}"
            )


@dataclass(frozen=True)
class RawBoxes:
    """Every candidate of a batch before thresholds and non-maximum suppression; differentiable where the network is.

    A network whose ``forward(batch (B, C, h, w))`` returns this, in its own pixels, is a detector: see
    :class:`xaiseg.detectors.NetworkDetector`, which maps, filters and suppresses.

    Attributes:
        xyxy: (B, N, 4) float, pixels of the batch (edges, so that a box over the whole grid is 0, 0, w, h).
        scores: (B, N, K) in [0, 1], one a class; there is no background class.
        level: (N,) int64, the pyramid level of each candidate, 0 for the finest.
        coefficients: (B, N, M), each candidate's weights of the prototypes, for instance masks; or None.
        prototypes: (B, M, p, q), maps that cover the network's grid; a mask is where the weighted sum is above 0.

    >>> raw = RawBoxes(torch.zeros(2, 5, 4), torch.zeros(2, 5, 3), torch.zeros(5, dtype=torch.int64))
    >>> raw.scores.shape[-1]
    3
    """

    xyxy: Tensor
    scores: Tensor
    level: Tensor
    coefficients: Tensor | None = None
    prototypes: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.xyxy.shape)
        fits = len(shape) == 3 and shape[2] == 4 and self.scores.ndim == 3 and tuple(self.scores.shape[:2]) == shape[:2]
        if not fits or tuple(self.level.shape) != shape[1:2]:
            got = f"{shape}, {tuple(self.scores.shape)}, {tuple(self.level.shape)}"
            raise ValueError(f"RawBoxes need xyxy (B, N, 4), scores (B, N, K), level (N,); got {got}")
        if (self.coefficients is None) != (self.prototypes is None):
            raise ValueError("RawBoxes have both coefficients and prototypes, or neither")


@dataclass(frozen=True)
class Prediction:
    """What a segmenter says about one image, on the image's own grid.

    Attributes:
        labels: (H, W) uint8 class indices after the operating threshold (binary) or argmax.
        probabilities: (K, H, W) float32 in [0, 1], or None for a subject that gives labels only.
    """

    labels: np.ndarray
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class Threshold:
    """The frozen operating threshold on the foreground probability, and the data it was chosen on."""

    value: float = 0.5
    chosen_on: Literal["val", "default", "test", "unknown"] = "default"


@dataclass(frozen=True)
class SubjectInfo:
    """Facts about a subject that plan, checks and report read.

    Attributes:
        name: name from model.yaml.
        classes: names; index 0 is the background of a segmenter.
        channels: 1 or 3 (or more) channels that an image must have.
        value_range: lowest and highest value of an image.
        threshold: operating threshold.
        activation: "sigmoid" (one-channel or multi-label heads) or "softmax".
        offers: subset of :data:`OFFERS`.
        parameters: number of trainable values, or None when unknown.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    value_range: tuple[float, float] = (0.0, 1.0)
    threshold: Threshold = field(default_factory=Threshold)
    activation: Literal["sigmoid", "softmax"] = "softmax"
    offers: frozenset[str] = frozenset()
    parameters: int | None = None

    def __post_init__(self) -> None:
        unknown = self.offers - OFFERS
        if unknown:
            raise ValueError(f"unknown offers {sorted(unknown)}; allowed: {sorted(OFFERS)}")


class Segmenter(ABC):
    """A semantic segmentation model; one-channel heads become the two logits (0, z)."""

    info: SubjectInfo

    @property
    def device(self) -> torch.device:
        """Where the model computes; a subject without weights computes on the CPU."""
        return torch.device("cpu")

    @property
    def module(self) -> torch.nn.Module | None:
        """The network, for subjects that offer activations or weights."""
        return None

    @abstractmethod
    def predict(self, images: Sequence[Tensor], *, batch_size: int = 8) -> list[Tensor]:
        """Logits of each image.

        Args:
            images: tensors (C, H, W) float32 in the declared range; sizes may differ.
            batch_size: forward passes never hold more images than this.

        Returns:
            One (K, H, W) float32 tensor an image, K = number of classes, on the subject's device.

        Raises:
            SubjectError: wrong channel count, output that does not fit the classes, or NaN.
        """

    def forward(self, batch: Tensor) -> Tensor:
        """Differentiable logits (B, K, H, W) of a batch (B, C, H, W) in the declared range.

        Raises:
            SubjectError: the subject does not offer "forward".
        """
        from xaiseg.errors import SubjectError

        raise SubjectError("this subject has no differentiable forward", got=type(self).__name__)

    def to_image_grid(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps (B, C, h, w) that cover the network's own input, resized bilinearly to the image's grid (H, W).

        A subject that pads or crops an image before the network overrides this and undoes its own geometry.
        """
        return torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)

    def intrinsic(self, batch: Tensor) -> Mapping[str, Tensor]:
        """What the architecture itself says of a batch (B, C, H, W) in the declared range.

        Returns:
            Name -> maps (B, 1, h, w) on the network's own grid or a coarser one, or vectors (B, n).

        Raises:
            SubjectError: the subject does not offer "intrinsic".
        """
        from xaiseg.errors import SubjectError

        raise SubjectError("this architecture has no explanation of its own", got=type(self).__name__)

    def to_network_grid(self, batch: Tensor) -> Tensor:
        """Images (B, C, H, W) in the declared range as :attr:`module` receives them; the same where grids agree."""
        return batch

    def from_network_grid(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (B, K, H, W) on the image's grid of what :attr:`module` answers.

        One channel becomes the two logits (0, z).
        """
        logits = torch.cat((torch.zeros_like(output), output), dim=1) if output.shape[1] == 1 else output
        return self.to_image_grid(logits, size)

    def decide(self, logits: Tensor) -> Prediction:
        """Turns (K, H, W) logits into probabilities and labels with the frozen threshold.

        Two classes are decided by the threshold on the foreground probability, more classes by argmax.
        """
        probabilities = torch.softmax(logits.float(), dim=0)
        if len(self.info.classes) == 2:
            labels = (probabilities[1] >= self.info.threshold.value).to(torch.uint8)
        else:
            labels = probabilities.argmax(dim=0).to(torch.uint8)
        keep = "scores" in self.info.offers
        return Prediction(labels.cpu().numpy(), probabilities.cpu().numpy() if keep else None)


class Detector(ABC):
    """An object detection model; its classes hold no background."""

    info: SubjectInfo

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return torch.device("cpu")

    @property
    def module(self) -> torch.nn.Module | None:
        """The network, for subjects that offer activations or weights."""
        return None

    @abstractmethod
    def predict(self, images: Sequence[Tensor], *, batch_size: int = 8) -> list[Boxes]:
        """Detections of each image (C, H, W), in the image's own pixels, above the subject's score floor.

        The operating threshold (``info.threshold``) is not applied: who counts detections applies it.

        Raises:
            SubjectError: wrong channel count, an output that is not a detector's, or NaN.
        """

    def raw(self, batch: Tensor) -> RawBoxes:
        """Every candidate of a batch (B, C, H, W) in the declared range, in the images' own pixels, not clipped.

        Differentiable from the images' pixels where the subject offers "gradients".

        Raises:
            SubjectError: the subject does not offer "raw_boxes".
        """
        from xaiseg.errors import SubjectError

        raise SubjectError("this subject shows no candidates before suppression", got=type(self).__name__)

    def forward(self, batch: Tensor) -> Tensor:
        """The candidates of :meth:`raw` as one tensor (B, N, 4 + K): the box in pixels, and the logit of each class.

        Raises:
            SubjectError: the subject does not offer "forward".
        """
        from xaiseg.errors import SubjectError

        if "forward" not in self.info.offers:
            raise SubjectError("this subject has no differentiable forward", got=type(self).__name__)
        raw = self.raw(batch)
        return torch.cat((raw.xyxy, torch.logit(raw.scores, eps=1e-7)), dim=2)

    def to_image_grid(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps (B, C, h, w) that cover the network's own input, resized bilinearly to the image's grid (H, W).

        A subject that pads an image before the network overrides this and undoes its own geometry.
        """
        return torch.nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)

    def to_network_grid(self, batch: Tensor) -> Tensor:
        """Images (B, C, H, W) in the declared range as :attr:`module` receives them; the same where grids agree."""
        return batch


Subject = Segmenter | Detector
