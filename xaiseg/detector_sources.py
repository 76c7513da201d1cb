"""Detectors of other libraries and of functions, each as a :class:`~xaiseg.detectors.NetworkDetector`.

Nothing is fetched from a network, and nothing is trained.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import detection, get_model, list_models
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from xaiseg.adapters import Network, module_network
from xaiseg.detectors import IOU, NetworkDetector
from xaiseg.errors import SubjectError, UsageError, did_you_mean
from xaiseg.modelfile import InputSpec, ModelFile
from xaiseg.subject import Boxes, RawBoxes
from xaiseg.weights import fit_weights

#: Grey that the YOLO family fills up with, as a share of the range.
YOLO_GREY: Final = 114 / 255
#: Names of the arrays of one image, the usual one first.
_NUMBERS: Final = {"labels": "the index of a class in classes: of model.yaml"}
_NAMES: Final = {"xyxy": ("boxes", "xyxy"), "scores": ("scores",), "labels": ("labels",)}


def make_detector(
    model: ModelFile, network: Network, *, iou: float = IOU, as_torchvision: bool = False, spec: InputSpec | None = None
) -> NetworkDetector:
    """The subject around a network that model.yaml describes.

    Args:
        model: name, classes, input and output.
        network: the loaded network.
        iou: see :class:`~xaiseg.detectors.NetworkDetector`.
        as_torchvision: see there.
        spec: in place of the model's own input.

    Raises:
        UsageError: the network accepts another image size, or does not answer as a detector does.
    """
    try:
        return NetworkDetector(
            network,
            name=model.name,
            classes=model.classes,
            spec=spec or model.input,
            output=model.output,
            iou=iou,
            as_torchvision=as_torchvision,
        )
    except UsageError as error:
        raise UsageError(str(error).rstrip("."), where=model.where("input", "size")) from error
    except SubjectError as error:
        raise UsageError(str(error).rstrip("."), where=model.where("output")) from error


def detection_names() -> list[str]:
    """Names of torchvision's detectors; those of key points are none here."""
    return [name for name in list_models(module=detection) if not name.startswith("keypoint")]


def torchvision_detector(model: ModelFile, state: Mapping[str, Tensor], device: torch.device) -> NetworkDetector:
    """A detection model of torchvision with the weights of a state dict.

    Raises:
        UsageError: torchvision has no such model, the weights do not fit, or the images would be normalised twice.
    """
    name, place = model.source.target, model.where("source", "torchvision")
    known = detection_names()
    if name not in known:
        hint = did_you_mean(name, known)
        raise UsageError("torchvision has no such detection model", where=place, got=name, then=hint)
    classes = len(model.classes)
    head = state.get("head.classification_head.cls_logits.weight")
    # RetinaNet and FCOS have a sigmoid for each class, so that they can be trained without one for the background.
    without = head is not None and int(head.shape[0]) in (classes, 9 * classes)
    module = get_model(name, weights=None, weights_backbone=None, num_classes=classes + (0 if without else 1))
    fit_weights(module, state, where=model.where("source", "weights"))
    return torchvision_module(model, module, device)


def is_torchvision(module: nn.Module) -> bool:
    """Whether it is one of torchvision's detectors."""
    return isinstance(module, GeneralizedRCNN | detection.RetinaNet | detection.FCOS | detection.ssd.SSD)


def torchvision_module(model: ModelFile, module: nn.Module, device: torch.device) -> NetworkDetector:
    """A built model of torchvision; one-stage models show their candidates.

    Raises:
        UsageError: the images would be normalised twice.
    """
    _refuse_normalised(model)
    size, own = model.input.size, cast("Any", module)
    if size is not None and own.transform.fixed_size is None:
        # Our own resizing is the only one then, and the boxes are mapped back from it.
        own.transform.min_size, own.transform.max_size = (min(size),), max(size)
    if isinstance(module, GeneralizedRCNN):
        heads = module.roi_heads
        heads.score_thresh = model.output.score_floor
        heads.nms_thresh = heads.nms_thresh if model.output.iou is None else model.output.iou
        return make_detector(model, listing_network(module, device))
    network = module_network(OneStage(module, len(model.classes)), device=device)
    return make_detector(model, network, iou=float(own.nms_thresh), as_torchvision=True)


def listing_network(module: nn.Module, device: torch.device) -> Network:
    """A module in torchvision's convention: list of images -> list of dicts; label 0 is the background."""
    return module_network(_Listing(module), device=device)


class _Listing(nn.Module):
    """Images (B, C, h, w) -> finished boxes of each; a module, so that copies of a subject copy the network too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor) -> list[Boxes]:
        return [boxes_of(one, first_label=1) for one in self.network(list(batch))]


class OneStage(nn.Module):
    """RetinaNet, FCOS or SSD of torchvision up to its candidates: normalised and resized as it does, not suppressed.

    Args:
        network: the model.
        classes: without the background.
    """

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network = network
        self.classes = classes

    def forward(self, batch: Tensor) -> RawBoxes:
        """Images (B, 3, h, w) in [0, 1] -> candidates in their pixels."""
        network: Any = self.network
        images, _ = network.transform(list(batch))
        features = list(network.backbone(images.tensors).values())
        answer = network.head(features)
        anchors = network.anchor_generator(images, features)
        codes = answer["bbox_regression"]
        decode = network.box_coder.decode if isinstance(network, detection.FCOS) else network.box_coder.decode_single
        boxes = torch.stack([decode(code, own) for code, own in zip(codes, anchors, strict=True)])
        height, width = images.image_sizes[0]
        along, down = batch.shape[-1] / width, batch.shape[-2] / height
        places = network.anchor_generator.num_anchors_per_location()
        sides = [own.shape[-2] * own.shape[-1] * each for own, each in zip(features, places, strict=True)]
        level = torch.repeat_interleave(torch.arange(len(sides)), torch.tensor(sides)).to(boxes.device)
        return RawBoxes(boxes * boxes.new_tensor((along, down, along, down)), self._scores(answer), level)

    def _scores(self, answer: Mapping[str, Tensor]) -> Tensor:
        logits = answer["cls_logits"]
        is_ssd = isinstance(self.network, detection.ssd.SSD)
        # torchvision counts the background as class 0; heads of sigmoids may do without.
        fitting = (self.classes + 1,) if is_ssd else (self.classes, self.classes + 1)
        if logits.shape[-1] not in fitting:
            raise SubjectError("the head has another number of classes", where="classes", got=logits.shape[-1],
                               allowed=" or ".join(map(str, fitting)) + ", the background among them")  # fmt: skip
        if is_ssd:
            scores = logits.softmax(dim=-1)
        elif isinstance(self.network, detection.FCOS):
            # A root has no slope at 0, so that 0 is kept off.
            scores = (logits.sigmoid() * answer["bbox_ctrness"].sigmoid()).clamp(min=1e-12).sqrt()
        else:
            scores = logits.sigmoid()
        return scores[..., scores.shape[-1] - self.classes :]


def detecting_function(function: Callable[[np.ndarray], Any]) -> Network:
    """A Python function as a detector; a black box.

    It gets (B, C, h, w) float32 of one size, after ``input:`` was applied, and returns one item an image: what
    :func:`boxes_of` reads, in the pixels of what it got. Labels count from 0.
    """

    def call(images: Tensor) -> list[Boxes]:
        answer = function(images.numpy())
        if not isinstance(answer, Sequence) or isinstance(answer, str) or len(answer) != len(images):
            got = type(answer).__name__ + (f" of {len(answer)}" if isinstance(answer, Sequence) else "")
            raise SubjectError("the function must return one item an image", where="source.python", got=got,
                               allowed=f"a list of {len(images)}")  # fmt: skip
        return [boxes_of(one, first_label=0) for one in answer]

    return Network(call, frozenset({"scores"}))


def boxes_of(item: Any, *, first_label: int) -> Boxes:
    """Detections of one image as :class:`~xaiseg.subject.Boxes`.

    Args:
        item: Boxes; an array (N, 6) of x0, y0, x1, y1, score, label; or a mapping of boxes (N, 4), scores (N,), labels
            (N,) and, where there are any, class_scores (N, K) and masks (N, h, w) or (N, 1, h, w), bool or in [0, 1].
        first_label: the label of the first class; 1 where 0 is the background.

    Raises:
        SubjectError: a part is missing or of another shape.

    >>> boxes_of({"boxes": [[0, 0, 2, 2]], "scores": [0.5], "labels": [1]}, first_label=1).labels
    tensor([0])
    """
    if isinstance(item, Boxes):
        return item
    if isinstance(item, Mapping):
        parts = {part: _named(item, names) for part, names in _NAMES.items()}
        vectors, masks = (_array(item.get(name)) for name in ("class_scores", "masks"))
    else:
        rows = _array(item)
        if rows is None or rows.ndim != 2 or rows.shape[1] != 6:
            got = type(item).__name__ if rows is None else tuple(rows.shape)
            raise SubjectError("these are no detections", where="output", got=got,
                               allowed="a mapping of boxes, scores and labels, or (N, 6)")  # fmt: skip
        parts, vectors, masks = {"xyxy": rows[:, :4], "scores": rows[:, 4], "labels": rows[:, 5]}, None, None
    if masks is not None and masks.ndim == 4:
        masks = masks[:, 0]
    labels = parts["labels"].reshape(-1).long() - first_label
    try:
        return Boxes(parts["xyxy"].reshape(-1, 4).float(), parts["scores"].float(), labels, vectors, masks)
    except (ValueError, RuntimeError) as error:
        raise SubjectError(f"these are no detections: {error}", where="output") from error


def _named(item: Mapping[str, Any], names: Sequence[str]) -> Tensor:
    found = next((value for name in names if (value := _array(item.get(name))) is not None), None)
    if found is None and (named := next((name for name in names if item.get(name) is not None), None)):
        what, got = f"the {named} of these detections are no numbers", repr(item[named])[:60]
        raise SubjectError(what, where="output", got=got,
                           allowed=_NUMBERS.get(named, "an array of numbers"))  # fmt: skip
    if found is None:
        raise SubjectError(f"detections without {names[0]}", where="output", got=", ".join(map(str, item)),
                           allowed="boxes, scores, labels")  # fmt: skip
    return found


def _array(value: Any) -> Tensor | None:
    if value is None or isinstance(value, Tensor):
        return value
    try:
        return torch.from_numpy(np.array(value))
    except (TypeError, ValueError):
        return None


def ultralytics_detector(model: ModelFile, path: Path, device: torch.device) -> NetworkDetector:
    """A detector or an instance segmentation model of ultralytics, as a network whose candidates are seen.

    The package is under AGPL-3.0 and never comes with xaiseg. Its settings are read from an empty folder, so that the
    user's stay as they are, and it may neither install nor download anything.

    Raises:
        UsageError: the package is absent, the file is no such model, or its classes are others.
    """
    own, module = _opened(path, model.where("source", "ultralytics"))
    if own != model.classes:
        raise UsageError("the model has other classes", where=model.where("classes"),
                         got=", ".join(model.classes), allowed=", ".join(own))  # fmt: skip
    low, high = model.input.range
    grey = low + YOLO_GREY * (high - low) if model.input.pad_value is None else model.input.pad_value
    spec = model.input.model_copy(update={"pad_value": grey})
    return make_detector(model, module_network(module.float(), device=device, multiple_of=32), spec=spec)


def ultralytics_classes(path: Path, where: object) -> tuple[str, ...]:
    """The classes that a file of ultralytics names. Opening it runs its pickle.

    Raises:
        UsageError: as :func:`ultralytics_detector`.
    """
    return _opened(path, where)[0]


def _opened(path: Path, where: object) -> tuple[tuple[str, ...], nn.Module]:
    with _quiet_ultralytics():
        try:
            from ultralytics import YOLO  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            then = "pip install 'xaiseg[yolo]' (ultralytics, under AGPL-3.0)"
            raise UsageError("models of ultralytics need their package", where=where, then=then) from error
        try:
            loaded = YOLO(str(path), verbose=False)
            task, names, module = loaded.task, dict(loaded.names), loaded.model
        except Exception as error:  # whatever a pickle of another version raises
            what = f"ultralytics cannot open the file: {(str(error) or type(error).__name__).splitlines()[0]}"
            raise UsageError(what, where=where, got=path.name) from error
    if task not in ("detect", "segment") or not isinstance(module, nn.Module):
        raise UsageError("the file is no detector", where=where, got=task, allowed="detect, segment")
    return tuple(str(names[index]) for index in sorted(names)), module


@contextmanager
def _quiet_ultralytics() -> Iterator[None]:
    """An environment in which ultralytics touches no settings of the user, installs nothing and goes to no network."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = {
            "YOLO_CONFIG_DIR": folder,
            "YOLO_AUTOINSTALL": "false",
            "YOLO_OFFLINE": "true",
            "YOLO_VERBOSE": "false",
        }
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _refuse_normalised(model: ModelFile) -> None:
    """Torchvision's detectors normalise by themselves and expect 0 to 1."""
    spec = model.input
    if spec.channels != 3:
        raise UsageError("models of torchvision take 3 channels", where=model.where("input", "channels"),
                         got=spec.channels, allowed=3)  # fmt: skip
    ends = [(torch.tensor(end) - torch.tensor(spec.mean)) / torch.tensor(spec.std) for end in spec.range]
    if any((end - wanted).abs().max() > 1e-6 for end, wanted in zip(ends, (0.0, 1.0), strict=True)):
        got = f"{float(ends[0].min()):.3g} to {float(ends[1].max()):.3g}"
        raise UsageError("detectors of torchvision normalise by themselves and take values from 0 to 1",
                         where=model.where("input"), got=got,
                         then="Leave out mean; std: 255 for range: [0, 255]")  # fmt: skip
