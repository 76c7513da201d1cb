"""The trainer's part for detection: pictures with boxes, average precision, and what a step minimises."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from xaiseg.data.case import Case
from xaiseg.detection.curves import Pool, average_precision, steps_of
from xaiseg.detection.matching import THRESHOLDS, match, reaches
from xaiseg.errors import NothingToAudit, UsageError
from xaiseg.geometry import Placement, place, to_network
from xaiseg.subject import Boxes, RawBoxes
from xaiseg.zoo.augmentation import augment_boxes
from xaiseg.zoo.detector_loss import detection_loss
from xaiseg.zoo.recipe import IGNORE, Recipe

#: While a network is trained: lowest score that counts, overlap of suppression, most boxes an image.
FLOOR: Final = 0.01
SUPPRESS: Final = 0.5
MOST: Final = 100


@dataclass(frozen=True)
class BoxScore:
    """How a detector does on the validation part, at IoU 0.5.

    Attributes:
        ap50: average precision, mean over the classes that occur.
        threshold: score at which F1 is largest.
        recall: at that threshold.
        precision: at that threshold; 1 when nothing is found.
        f1: at that threshold.
    """

    ap50: float
    threshold: float
    recall: float
    precision: float
    f1: float

    @property
    def selection(self) -> float:
        """Epochs are chosen by average precision: it needs no threshold."""
        return self.ap50

    def __str__(self) -> str:
        return (
            f"AP50 {self.ap50:.4f}; recall {self.recall:.4f} precision {self.precision:.4f} F1 {self.f1:.4f} "
            f"at {self.threshold:.2f}"
        )


@dataclass
class BoxPictures:
    """A part of the data on the network's grid: images (N, C, S, S) uint8 in [0, 1], boxes (N, G, 4), labels (N, G)."""

    images: Tensor
    boxes: Tensor
    labels: Tensor
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self) -> str:
        """Digest of names, pixels and boxes."""
        held = hashlib.sha256("\n".join(self.ids).encode())
        for values in (self.images, self.boxes, self.labels):
            held.update(values.numpy().tobytes())
        return held.hexdigest()


@dataclass(frozen=True)
class BoxTask:
    """Training of a detector that has a method ``dense``, as :class:`xaiseg.zoo.detector_compact.DetectorCompact`.

    Attributes:
        classes: number of classes.
    """

    classes: int = 1

    def pictures(self, cases: Iterable[Case], recipe: Recipe, part: str) -> BoxPictures:
        """Brings the cases of a part to the network's grid."""
        images, boxes, ids = [], [], []
        for case in cases:
            if case.boxes is None:
                raise UsageError("a training case has no boxes", where=part, got=case.id)
            placement = place(case.shape, size=(recipe.size, recipe.size), resize=recipe.resize)
            placed = to_network(torch.from_numpy(case.image)[None].float(), placement, fill=0.0)[0]
            images.append((placed.clamp(0, 1) * 255).round().to(torch.uint8))
            held = torch.from_numpy(case.boxes).float()
            boxes.append(torch.cat((_to_network(held[:, :4], placement), held[:, 4:]), dim=1))
            ids.append(case.id)
        if not images:
            raise NothingToAudit("there is no case to train with", where=part)
        most = max(1, *(len(held) for held in boxes))
        padded = torch.stack([torch.cat((held, held.new_full((most - len(held), 5), -1.0))) for held in boxes])
        return BoxPictures(torch.stack(images), padded[..., :4].contiguous(), padded[..., 4].contiguous(), ids)

    def refuse(self, own: BoxPictures) -> None:
        """What cannot be trained, found before any time is spent."""
        objects = own.labels[(own.labels >= 0) & (own.labels != IGNORE)]
        if not len(objects):
            raise UsageError("a training needs at least one object", where="train", got="no box",
                             then="Check the annotations and the names of classes")  # fmt: skip
        if int(objects.max()) >= self.classes:
            raise UsageError("a box has a class that the model does not have", where="train", got=int(objects.max()),
                             allowed=f"0 to {self.classes - 1}")  # fmt: skip

    def prepare(self, network: nn.Module, own: BoxPictures) -> None:
        """Nothing is fitted to the data beforehand."""

    def loss(
        self,
        network: nn.Module,
        own: BoxPictures,
        chosen: Tensor,
        recipe: Recipe,
        generator: torch.Generator,
        device: str,
    ) -> Tensor:
        """What a step minimises over the chosen pictures."""
        images, boxes, labels = self.augmented(own, chosen, recipe, generator)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=recipe.bfloat16):
            dense = network.dense(images)  # type: ignore[operator]  # detectors of the zoo have it
        return detection_loss(dense, boxes.to(device), labels.to(device))

    def augmented(
        self, own: BoxPictures, chosen: Tensor, recipe: Recipe, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, C, S, S) in [0, 1], boxes (B, G, 4), labels (B, G) of the chosen pictures, changed at random."""
        return augment_boxes(
            own.images[chosen].float() / 255, own.boxes[chosen], own.labels[chosen], recipe.augmentation, generator
        )

    def found(self, network: nn.Module, images: Tensor) -> list[Boxes]:
        """What a network finds in images (B, C, S, S) in [0, 1], a row an image."""
        raw = network(images.contiguous(memory_format=torch.channels_last))
        return [_suppressed(raw, row) for row in range(len(images))]

    @torch.no_grad()
    def score(self, network: nn.Module, held_out: BoxPictures) -> BoxScore:
        """How a network does on the validation part, on its own grid."""
        network.eval()
        device = next(network.parameters()).device
        found: list[Boxes] = []
        for start in range(0, len(held_out), 16):
            batch = (held_out.images[start : start + 16].float() / 255).to(device)
            found += self.found(network, batch)
        truths = [
            np.concatenate((boxes[labels >= 0].numpy(), labels[labels >= 0, None].numpy()), axis=1)
            for boxes, labels in zip(held_out.boxes, held_out.labels, strict=True)
        ]
        return score_of(pools_of(found, truths, self.classes))

    def restored(self, values: Mapping[str, Any]) -> BoxScore:
        """A score as a checkpoint holds it."""
        return BoxScore(**values)


def pools_of(found: Sequence[Boxes], truths: Sequence[np.ndarray], classes: int, *, iou: float = 0.5) -> list[Pool]:
    """The match tables of a set of images, a pool a class.

    Args:
        found: detections of each image.
        truths: (G, 5) xyxy pixels and class index, 255 = ignore, of each image.
        classes: number of classes.
        iou: least overlap of a hit, one of :data:`xaiseg.detection.matching.THRESHOLDS`.
    """
    bit, pools = THRESHOLDS.index(iou), []
    for label in range(classes):
        tables, objects = [], []
        for boxes, truth in zip(found, truths, strict=True):
            own = (boxes.labels == label).cpu()
            xyxy, scores = boxes.xyxy.cpu()[own].numpy(), boxes.scores.cpu()[own].numpy()
            wanted = truth[truth[:, 4] == label, :4]
            tables.append(match(xyxy, scores, wanted, truth[truth[:, 4] == IGNORE, :4]))
            objects.append(float(len(wanted)))
        image = np.repeat(np.arange(len(tables)), [len(table.score) for table in tables])
        hits, void = (
            np.concatenate([getattr(table, name) for table in tables]) >> bit & 1 for name in ("hits", "void")
        )
        score = np.concatenate([table.score for table in tables])
        pools.append(Pool(image, score, hits.astype(bool), void.astype(bool), np.array(objects)))
    return pools


def average_precision_of(pools: Sequence[Pool]) -> float:
    """Mean of COCO's average precision over the classes that occur; 0 when none does."""
    images = len(pools[0].objects)
    whole = np.arange(images), np.zeros(images, np.int64), np.ones(images)
    ap = [average_precision(steps_of(pool, *whole), np.ones(1)) for pool in pools if pool.objects.any()]
    return float(np.mean(ap)) if ap else 0.0


def score_of(pools: Sequence[Pool], *, thresholds: Sequence[float] | None = None) -> BoxScore:
    """Average precision, and recall and precision at the threshold with the best F1.

    Args:
        pools: of :func:`pools_of`.
        thresholds: what the threshold is chosen from; None = every score that occurs.
    """
    candidates = np.unique(np.concatenate([pool.score for pool in pools])) if thresholds is None else thresholds
    best = (-1.0, 0.0, 0.0, 1.0)
    for threshold in candidates if len(candidates) else (0.5,):
        recall, precision = rates_at(pools, float(threshold))
        f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        best = max(best, (f1, float(threshold), recall, precision))
    return BoxScore(average_precision_of(pools), best[1], best[2], best[3], best[0])


def rates_at(pools: Sequence[Pool], threshold: float) -> tuple[float, float]:
    """Recall and precision of the detections with at least this score; precision is 1 when there is none."""
    kept = [reaches(pool.score, threshold) & ~pool.void for pool in pools]
    hits = sum(int((pool.hit & own).sum()) for pool, own in zip(pools, kept, strict=True))
    count, objects = sum(int(own.sum()) for own in kept), sum(int(pool.objects.sum()) for pool in pools)
    return hits / max(1, objects), hits / count if count else 1.0


def _to_network(xyxy: Tensor, placement: Placement) -> Tensor:
    """Boxes (N, 4) in pixels of the image, in those of the network's grid."""
    top, left = placement.offset
    down, along = (inner / own for own, inner in zip(placement.image, placement.inner, strict=True))
    return xyxy * torch.tensor((along, down, along, down)) + torch.tensor((left, top, left, top))


def _suppressed(raw: RawBoxes, row: int) -> Boxes:
    """The boxes of one image that an audit would see, but for rounding."""
    from torchvision.ops import batched_nms

    scores, labels = raw.scores[row].float().cpu().max(dim=1)
    kept = torch.nonzero(scores >= FLOOR)[:, 0]
    boxes = raw.xyxy[row].float().cpu()[kept]
    chosen = batched_nms(boxes, scores[kept], labels[kept], SUPPRESS)[:MOST]
    return Boxes(boxes[chosen], scores[kept][chosen], labels[kept][chosen])
