"""Detectors made of a network: geometry, thresholds and non-maximum suppression in one place for all of them.

The protocol of a detection network: an ``nn.Module`` whose ``forward(batch (B, C, h, w))`` returns
:class:`~xaiseg.subject.RawBoxes` in the pixels of that batch, before any threshold or suppression, differentiable. The
batch is float, normalised as model.yaml says, with sides that are multiples of what its card states. Networks that
answer with tensors are read by :mod:`xaiseg.detector_layouts`; finished boxes are taken as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from xaiseg.adapters import Network, NetworkInput
from xaiseg.detector_layouts import LAYOUTS, check_probabilities, read_answer
from xaiseg.errors import SubjectError
from xaiseg.geometry import Placement, boxes_to_image, to_image
from xaiseg.modelfile import InputSpec, OutputSpec
from xaiseg.subject import Boxes, Detector, RawBoxes, SubjectInfo, Threshold

#: Most detections of an image, the best first. Ours; COCO counts 100.
MOST: Final = 300
#: Most candidates of an image that suppression looks at, the best first. Ours.
MOST_CANDIDATES: Final = 10_000
#: Overlap above which the better of two boxes of a class suppresses the other. Ours.
IOU: Final = 0.5
#: What a subject loses when its answers are finished boxes: there is nothing to differentiate or to look into.
_RAW_ONLY: Final = frozenset({"forward", "gradients", "activations"})
#: A score at or below this belongs to a row with which an answer is filled up.
_PADDING: Final = 0.01
#: Masks made at a time, so that their soft versions never all exist at once.
_MASKS_AT_ONCE: Final = 16


class NetworkDetector(Detector):
    """A network on its own grid, seen from the images' own pixels.

    Images are placed, normalised and batched as a segmenter's are. Candidates with a score above
    ``output.score_floor`` suppress each other within each class (``output.iou``), and the best :data:`MOST` remain,
    mapped to the image, clipped to it and sorted by score; a box of which nothing is left is dropped. Finished boxes
    are mapped, clipped and filtered, and suppress nothing.

    Args:
        network: the loaded network; it answers with :class:`~xaiseg.subject.RawBoxes`, with tensors of a known layout,
            or with one :class:`~xaiseg.subject.Boxes` an image, all in its own pixels.
        name: as in model.yaml.
        classes: as in model.yaml; there is no background.
        spec: how the network wants its images.
        output: layout and thresholds.
        iou: overlap for suppression where ``output`` does not say.
        as_torchvision: a candidate may become a detection of each of its classes, and boxes are clipped to the image
            before they suppress each other. Otherwise it is one of its best class, and they are clipped afterwards, as
            the YOLO family does.

    Raises:
        UsageError: the network accepts one image size only and ``spec`` says another.
        SubjectError: on a first plain image it does not answer as a detector does.

    >>> class Middle(nn.Module):
    ...     def forward(self, batch):
    ...         score = batch.mean(dim=(1, 2, 3)).reshape(-1, 1, 1)
    ...         box = torch.tensor([2.0, 2.0, 6.0, 6.0]).expand(len(batch), 1, 4)
    ...         return RawBoxes(box, score, torch.zeros(1, dtype=torch.int64))
    >>> from xaiseg.adapters import module_network
    >>> spec = InputSpec(size=(8, 8))
    >>> model = NetworkDetector(module_network(Middle()), name="m", classes=("a",), spec=spec, output=OutputSpec())
    >>> found, nothing = model.predict([torch.ones(1, 16, 16), torch.zeros(1, 16, 16)])
    >>> found.xyxy.tolist(), found.scores.tolist(), len(nothing.scores)
    ([[4.0, 4.0, 12.0, 12.0]], [1.0], 0)
    """

    def __init__(
        self,
        network: Network,
        *,
        name: str,
        classes: tuple[str, ...],
        spec: InputSpec,
        output: OutputSpec,
        iou: float = IOU,
        as_torchvision: bool = False,
    ) -> None:
        self._network = network
        self._input = NetworkInput(network, spec, name)
        self._output = output
        self._iou = iou if output.iou is None else output.iou
        self._as_torchvision = as_torchvision
        self.info = SubjectInfo(
            name=name,
            classes=classes,
            channels=spec.channels,
            value_range=spec.range,
            threshold=Threshold(output.threshold.value, output.threshold.chosen_on),
            parameters=network.parameters,
        )
        self.info = replace(self.info, offers=self._offers(spec))

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return self._network.device

    @property
    def module(self) -> nn.Module | None:
        """The torch module, or None for a black box."""
        return self._network.module

    def predict(self, images: Sequence[Tensor], *, batch_size: int = 8) -> list[Boxes]:
        """See :meth:`xaiseg.subject.Detector.predict`."""
        answers: dict[int, Boxes] = {}
        # Not inference mode: networks keep grids of anchors, which must be of use in a later backward pass.
        with torch.inference_mode(False), torch.no_grad():
            for chunk, placements, batch in self._input.batches(images, batch_size):
                found = self._answer(batch)
                for row, (i, placement) in enumerate(zip(chunk, placements, strict=True)):
                    if isinstance(found, RawBoxes):
                        answers[i] = self._suppressed(found, row, placement)
                    else:
                        answers[i] = self._finished(found[row], placement)
        return [answers[i] for i in range(len(images))]

    def raw(self, batch: Tensor) -> RawBoxes:
        """See :meth:`xaiseg.subject.Detector.raw`."""
        if "raw_boxes" not in self.info.offers:
            return super().raw(batch)
        with torch.set_grad_enabled(torch.is_grad_enabled() and "gradients" in self.info.offers):
            placement = self._input.place(self._input.check(batch[0]))
            found = self._answer(self._input.to_network(batch, placement))
            assert isinstance(found, RawBoxes)  # as in the first answer, which the offers rest on
            return RawBoxes(boxes_to_image(found.xyxy, placement), found.scores, found.level)

    def to_image_grid(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`xaiseg.subject.Detector.to_image_grid`; the padding is cut off again."""
        return to_image(maps, self._input.place(size))

    def to_network_grid(self, batch: Tensor) -> Tensor:
        """See :meth:`xaiseg.subject.Detector.to_network_grid`: resized, padded and normalised."""
        return self._input.to_network_grid(batch)

    def _offers(self, spec: InputSpec) -> frozenset[str]:
        """What one plain image tells: whether candidates and masks come along."""
        height, width = spec.size or self._network.fixed_size or (128, 128)
        grey = torch.full((spec.channels, height, width), sum(spec.range) / 2)
        with torch.no_grad():
            found = self._answer(self._input.to_network_grid(grey[None]))
        if isinstance(found, RawBoxes):
            masks, offers = found.prototypes is not None, self._network.offers | {"raw_boxes"}
        else:
            masks, offers = found[0].masks is not None, self._network.offers - _RAW_ONLY
        return offers | {"instance_masks"} if masks else offers

    def _answer(self, batch: Tensor) -> RawBoxes | list[Boxes]:
        """What the network says of a batch on its grid, in its own pixels."""
        size = (int(batch.shape[-2]), int(batch.shape[-1]))
        parts = [self._read(answer, size) for answer in self._input.answers(batch)]
        raw = [part for part in parts if isinstance(part, RawBoxes)]
        found = [one for part in parts if not isinstance(part, RawBoxes) for one in part]
        count = sum(len(part.xyxy) for part in raw) + len(found)
        if count < len(batch) or (raw and found):
            raise SubjectError("the network does not answer for each image", where=self.info.name,
                               got=f"{count} answers for {len(batch)} images")  # fmt: skip
        return _joined(raw, len(batch)) if raw else found

    def _read(self, answer: Any, size: tuple[int, int]) -> RawBoxes | list[Boxes]:
        classes = len(self.info.classes)
        if isinstance(answer, RawBoxes):
            return self._checked(answer)
        if isinstance(answer, list | tuple) and answer and all(isinstance(one, Boxes) for one in answer):
            return [check_boxes(one, classes) for one in answer]
        if self._output.layout not in (*LAYOUTS, "auto"):
            raise SubjectError("the network does not answer with one dict an image", where="output.layout",
                               got=type(answer).__name__, allowed="dicts of boxes, scores and labels")  # fmt: skip
        read = read_answer(
            answer,
            layout=self._output.layout,
            classes=classes,
            size=size,
            key=self._output.key,
            index=self._output.index,
        )
        return read if isinstance(read, RawBoxes) else [check_boxes(one, classes) for one in read]

    def _checked(self, raw: RawBoxes) -> RawBoxes:
        classes = len(self.info.classes)
        if raw.scores.shape[2] != classes:
            raise SubjectError("the candidates do not fit the classes", where="classes",
                               got=f"{raw.scores.shape[2]} scores", allowed=classes)  # fmt: skip
        values = replace(raw, xyxy=raw.xyxy.float(), scores=raw.scores.float())
        if not (torch.isfinite(values.xyxy).all() and torch.isfinite(values.scores).all()):
            raise SubjectError("the candidates hold NaN or infinite values", where=self.info.name)
        check_probabilities(values.scores)
        return values

    def _suppressed(self, raw: RawBoxes, row: int, placement: Placement) -> Boxes:
        xyxy, scores = boxes_to_image(raw.xyxy[row], placement), raw.scores[row].clamp(0, 1)
        clipped = clip_boxes_to_image(xyxy, placement.image)
        if self._as_torchvision:
            which, labels = torch.nonzero(scores > self._output.score_floor, as_tuple=True)
            xyxy = clipped
        else:
            best, labels = scores.max(dim=1)
            which = torch.nonzero(best > self._output.score_floor)[:, 0]
            labels = labels[which]
        best = scores[which, labels]
        order = best.argsort(descending=True, stable=True)[:MOST_CANDIDATES]
        order = order[_has_area(clipped[which[order]])]
        which, labels, best = which[order], labels[order], best[order]
        # Classes are kept apart by adding thousands of pixels to coordinates: in doubles, and from 0 upwards.
        apart = xyxy[which].double()
        apart = apart - apart.min() if len(apart) else apart
        keep = batched_nms(apart, best.double(), labels, self._iou)[:MOST]
        which, xyxy = which[keep], clipped[which[keep]]
        masks = None
        if raw.coefficients is not None and raw.prototypes is not None:
            masks = _assembled(raw.coefficients[row, which], raw.prototypes[row], xyxy, placement)
        return Boxes(xyxy, best[keep], labels[keep], scores[which], masks, which)

    def _finished(self, found: Boxes, placement: Placement) -> Boxes:
        xyxy = clip_boxes_to_image(boxes_to_image(found.xyxy.to(self.device), placement), placement.image)
        scores = found.scores.to(self.device).clamp(0, 1)
        which = torch.nonzero((scores > self._output.score_floor) & _has_area(xyxy))[:, 0]
        which = which[scores[which].argsort(descending=True, stable=True)][:MOST]
        vectors, masks = found.class_scores, found.masks
        return Boxes(
            xyxy[which],
            scores[which],
            found.labels.to(self.device)[which],
            None if vectors is None else vectors.to(self.device)[which],
            None if masks is None else _mapped(masks.to(self.device)[which], placement),
        )


def check_boxes(found: Boxes, classes: int) -> Boxes:
    """Finished boxes in float32, refused where they cannot be true.

    Args:
        found: in any floating type.
        classes: K.

    Raises:
        SubjectError: NaN, a score outside 0 to 1, a label that is no class, class scores of another length, or corners
            that read like x, y, width, height or like shares of the sides.

    >>> check_boxes(Boxes(torch.zeros(1, 4), torch.ones(1), torch.tensor([3])), 3)
    Traceback (most recent call last):
    xaiseg.errors.SubjectError: classes: a label is no class. Got: 3. Allowed: 0 to 2.
    """
    found = replace(found, xyxy=found.xyxy.float(), scores=found.scores.float(), labels=found.labels.long())
    if not (torch.isfinite(found.xyxy).all() and torch.isfinite(found.scores).all()):
        raise SubjectError("the boxes hold NaN or infinite values", where="output")
    outside = found.labels[(found.labels < 0) | (found.labels >= classes)]
    if len(outside):
        raise SubjectError("a label is no class", where="classes", got=int(outside[0]), allowed=f"0 to {classes - 1}")
    check_probabilities(found.scores)
    _refuse_sizes(found.xyxy[found.scores > _PADDING])
    if found.class_scores is not None and found.class_scores.shape != (len(found.scores), classes):
        raise SubjectError("the class scores do not fit", where="output", got=tuple(found.class_scores.shape),
                           allowed=f"({len(found.scores)}, {classes})")  # fmt: skip
    return found


def _refuse_sizes(xyxy: Tensor) -> None:
    """Refuses boxes (N, 4) most of which are no corners in pixels; single ones without a size are dropped later."""
    if not len(xyxy):
        return
    example, allowed = ", ".join(f"{value:g}" for value in xyxy[0].tolist()), "corners x0, y0, x1, y1 in pixels"
    turned = (xyxy[:, 2] < xyxy[:, 0]) | (xyxy[:, 3] < xyxy[:, 1])
    if int(turned.sum()) > len(xyxy) / 2:
        then = "They read like x, y, width, height: add the first two numbers to the last two"
        raise SubjectError("most boxes end before they begin", where="output", got=example, allowed=allowed, then=then)
    if bool((xyxy >= 0).all()) and 0.0 < float(xyxy.max()) <= 1.0:
        then = "Multiply them by the sides of the image"
        raise SubjectError("the boxes read like shares of the sides", where="output", got=example, allowed=allowed,
                           then=then)  # fmt: skip


def _joined(parts: Sequence[RawBoxes], count: int) -> RawBoxes:
    """One answer of those to the parts of a batch; copies at its end are dropped."""
    first = parts[0]
    coefficients = prototypes = None
    if first.coefficients is not None:
        coefficients = torch.cat([part.coefficients for part in parts if part.coefficients is not None])[:count]
        prototypes = torch.cat([part.prototypes for part in parts if part.prototypes is not None])[:count]
    xyxy = torch.cat([part.xyxy for part in parts])[:count]
    scores = torch.cat([part.scores for part in parts])[:count]
    return RawBoxes(xyxy, scores, first.level, coefficients, prototypes)


def _has_area(xyxy: Tensor) -> Tensor:
    return (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])


def _assembled(coefficients: Tensor, prototypes: Tensor, xyxy: Tensor, placement: Placement) -> Tensor:
    """(N, H, W) bool: where the weighted sum of the prototypes is above 0, within each box."""
    height, width = placement.image
    x = torch.arange(width, device=xyxy.device) + 0.5
    y = torch.arange(height, device=xyxy.device) + 0.5
    masks = torch.zeros((len(xyxy), height, width), dtype=torch.bool, device=xyxy.device)
    for start in range(0, len(xyxy), _MASKS_AT_ONCE):
        some = slice(start, start + _MASKS_AT_ONCE)
        soft = torch.einsum("nm,mpq->npq", coefficients[some].float(), prototypes)
        left, top, right, bottom = (edge[:, None] for edge in xyxy[some].unbind(dim=1))
        inside = ((y >= top) & (y <= bottom))[:, :, None] & ((x >= left) & (x <= right))[:, None, :]
        masks[some] = (to_image(soft[None], placement)[0] > 0) & inside
    return masks


def _mapped(masks: Tensor, placement: Placement) -> Tensor:
    """Masks (N, h, w), bool or soft, of the network's grid as (N, H, W) bool of the image: where they reach 0.5."""
    mapped = torch.zeros((len(masks), *placement.image), dtype=torch.bool, device=masks.device)
    for start in range(0, len(masks), _MASKS_AT_ONCE):
        some = slice(start, start + _MASKS_AT_ONCE)
        mapped[some] = to_image(masks[some].float()[None], placement)[0] >= 0.5
    return mapped
