"""The door that :func:`xaiseg.explain`, ``xaiseg explain`` and :func:`xaiseg.evaluate` share: model, image, targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from torch import Tensor

from xaiseg.data.case import CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.pixels import read_pixels, to_image, to_mask
from xaiseg.data.readers import get_reader, load_case
from xaiseg.errors import DataError, SubjectError, UsageError
from xaiseg.explainers.base import Budget, Session
from xaiseg.explainers.detection_spec import NoObjectError, ObjectScene, parse_objects
from xaiseg.explainers.detection_targets import CandidateTarget, ObjectTarget
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.target_spec import Scene, parse_targets
from xaiseg.explainers.targets import SpatialTarget
from xaiseg.subject import Detector, Segmenter

if TYPE_CHECKING:
    from xaiseg.modelfile import ModelFile

#: A target of a segmenter or of a detector: it has a place to outline, a unit and a meaning.
Shown = SpatialTarget | ObjectTarget | CandidateTarget
#: Suffix of a file with the boxes of an image -> its reader.
BOX_FILES: Final = {".json": "coco", ".txt": "yolo", ".xml": "voc"}


def open_session(
    model: str | Path | Segmenter | Detector,
    image: str | Path | np.ndarray | Tensor,
    *,
    seed: int = 0,
    device: str = "cpu",
    batch_size: int = 8,
    detectors: bool = False,
    dataset_mean: str | Path | np.ndarray | Tensor | None = None,
) -> tuple[Session, ModelFile | None]:
    """A session on one image, and what describes the model where it came from a file.

    Args:
        model: a model.yaml, or a segmenter (or a detector) that is loaded already.
        image: a file, or an array (H, W), (H, W, C) or (C, H, W): integers of 8 or 16 bits, which span the declared
            range, or floats within it.
        seed: for methods that sample.
        device: where a model.yaml's model computes.
        batch_size: images a forward pass.
        dataset_mean: what the baseline "dataset-mean" shows: an image as ``image``, or one value a channel (C, 1, 1).
        detectors: whether the caller can work with a :class:`~xaiseg.explainers.detections.DetectionSession`.

    Raises:
        UsageError: the model is none that can be run, or a detector where the caller needs a segmenter.
        DataError: the image cannot be used.
        SubjectError: the model was made in inference mode.
    """
    from xaiseg.loading import load_subject
    from xaiseg.modelfile import read_model_file

    described, subject = None, model
    if isinstance(model, (str, Path)):
        described = read_model_file(model)
        subject = load_subject(described, device=device)
    kinds = (Segmenter, Detector) if detectors else (Segmenter,)
    if not isinstance(subject, kinds) or getattr(subject, "by_case", False):
        what = "a model" if detectors else "a segmentation model"
        raise UsageError(f"only {what} that can be run can be explained", where=model, got=type(subject).__name__)
    if subject.module is not None and any(each.is_inference() for each in subject.module.parameters()):
        then = "Make or load the model outside of it"
        raise SubjectError("the model was made in torch.inference_mode and cannot have gradients",
                           where=subject.info.name, got="parameters without gradients for good", then=then)  # fmt: skip
    spec = ImageSpec(subject.info.channels, subject.info.value_range, subject.info.classes)
    pixels, budget = _pixels(image, spec, described), Budget(batch_size)
    mean = None if dataset_mean is None else _pixels(dataset_mean, spec, described)
    if isinstance(subject, Detector):
        return DetectionSession(subject, pixels, seed=seed, budget=budget, dataset_mean=mean), described
    return Session(subject, pixels, seed=seed, budget=budget, dataset_mean=mean), described


def _pixels(image: str | Path | np.ndarray | Tensor, spec: ImageSpec, described: ModelFile | None) -> np.ndarray:
    """(C, H, W) float32 in the declared range."""
    if not isinstance(image, (str, Path)):
        return _from_array(np.asarray(image), spec)
    path = Path(image)
    test = described.data.get("test") if described else None
    # Stored values must mean here what they mean in the audit.
    entry = DataEntry(images=str(path.parent), window=test.window if test else None)
    return load_case(entry, CaseRef(path.stem, str(path)), spec).image


def _from_array(pixels: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """(C, H, W) float32; where the channels may stand on either side, floats have them first, integers last."""
    allowed = f"(H, W), ({spec.channels}, H, W) or (H, W, {spec.channels}), with a pixel or more"
    # Beside its own channels a model takes grey, and one of a single channel takes colour, where they stand last.
    usable = pixels.ndim == 2 or (
        pixels.ndim == 3 and (pixels.shape[0] == spec.channels or pixels.shape[-1] in (spec.channels, 1, 3))
    )
    if not usable or not pixels.size or pixels.dtype.kind not in "biuf":
        raise DataError("this is no image for the model", where="image", got=f"{pixels.shape} {pixels.dtype}",
                        allowed=f"numbers of shape {allowed}")  # fmt: skip
    first = pixels.ndim == 3 and pixels.shape[0] == spec.channels
    last = pixels.ndim == 3 and pixels.shape[-1] == spec.channels
    if first and not (last and pixels.dtype.kind in "ui"):
        pixels = np.moveaxis(pixels, 0, -1)
    return to_image(pixels, spec, Path("image"))


def open_targets(
    session: Session,
    target: object,
    reference: str | Path | np.ndarray | None = None,
    *,
    image: object = None,
    described: ModelFile | None = None,
) -> tuple[Shown, ...]:
    """The targets that a user names; a target that is made already stands for itself.

    Args:
        session: image and model; its prediction freezes the regions, its detections the boxes.
        target: what :func:`xaiseg.explainers.target_spec.parse_targets` reads, of a detector what
            :func:`xaiseg.explainers.detection_spec.parse_objects` reads, or a target that is made already. Masks are
            looked for beside the working directory.
        reference: a mask file or (H, W) class indices, of a detector (N, 5) boxes or a COCO (.json), YOLO (.txt) or
            Pascal VOC (.xml) file, for targets that need one.
        image: the file of the image, by whose name a file of boxes is searched.
        described: the model's file; its ``labels:`` of the test data hold for masks here as well.

    Raises:
        UsageError: no such target, or nothing to explain in this image.
        DataError: the reference cannot be used.
    """
    if isinstance(session, DetectionSession):
        if isinstance(target, ObjectTarget):
            return (target,)
        return parse_objects(target, ObjectScene(session, _boxes(session, reference, image)))
    if isinstance(target, SpatialTarget):
        return (target,)
    return parse_targets(target, _scene(session, reference, described))


def open_asked(
    session: Session,
    asked: object,
    reference: str | Path | np.ndarray | None = None,
    *,
    image: object = None,
    described: ModelFile | None = None,
    absent: dict[str, str] | None = None,
) -> dict[Shown, list[object]]:
    """The targets of a request, each once, and the words that asked for it; arguments are those of open_targets.

    Two targets are the same where they have the same score, whatever they are called. Of several kinds of found, false
    and missed objects those that the image does not have are entered in ``absent``, where it is given.
    """
    words = list(asked) if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked]
    if not words:
        raise UsageError("no target is named", where="target", got=asked)
    held: dict[object, Shown] = {}
    found: dict[Shown, list[object]] = {}
    lacking: dict[str, NoObjectError] = {}
    for word in words:
        try:
            targets = open_targets(session, word, reference, image=image, described=described)
        except NoObjectError as error:
            lacking[f"target {word}"] = error
            continue
        for target in targets:
            said = found.setdefault(held.setdefault(_score_key(target), target), [])
            said += [word] if word not in said else []
    if lacking and (absent is None or not found):
        raise next(iter(lacking.values()))
    if absent is not None:
        absent |= {name: str(error) for name, error in lacking.items()}
    return found


def _score_key(value: object) -> object:
    """What a target's score depends on, as a key: all of its fields but what it is called."""
    if isinstance(value, Tensor):
        return _score_key(value.cpu().numpy())
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if is_dataclass(value):
        named = [field.name for field in fields(value) if field.name not in ("label", "foil_label")]
        return type(value), tuple(_score_key(getattr(value, name)) for name in named)
    return value


def _boxes(session: DetectionSession, reference: str | Path | np.ndarray | None, image: object) -> np.ndarray | None:
    """(N, 5) boxes and class indices of the image, from an array or a file."""
    if reference is None or not isinstance(reference, (str, Path)):
        return None if reference is None else np.asarray(reference, dtype=np.float64)
    path = Path(reference).resolve()
    if path.suffix.lower() not in BOX_FILES or not isinstance(image, (str, Path)):
        got = reference if isinstance(image, (str, Path)) else "a file of boxes for an image that is no file"
        allowed = "COCO .json, YOLO .txt or Pascal VOC .xml beside a file of the image, or an (N, 5) array"
        raise UsageError("the reference cannot be read", where="reference", got=got, allowed=allowed)
    if not path.is_file():
        raise UsageError("this file is missing", where="reference", got=reference)
    kind, picture, info = BOX_FILES[path.suffix.lower()], Path(image).resolve(), session.detector.info
    labels = path if kind == "coco" else path.parent
    entry = DataEntry(reader=kind, path=str(path.parent), images=str(picture.parent), annotations=str(labels))
    spec = ImageSpec(info.channels, info.value_range, info.classes, task="detection")
    reader = get_reader(kind)
    found = [case for case in reader.index(entry, path.parent, spec).cases if Path(case.id).name == picture.stem]
    if len(found) != 1:
        raise UsageError("the reference does not hold this image", where=reference, got=picture.name)
    named = found[0] if kind == "coco" else replace(found[0], reference=str(path))  # this file, whatever it is called
    return reader.load(entry, named, spec).boxes


def _scene(session: Session, reference: str | Path | np.ndarray | None, described: ModelFile | None = None) -> Scene:
    classes, prediction = session.subject.info.classes, session.prediction
    if reference is None:
        return Scene(prediction, classes)
    spec = ImageSpec(session.subject.info.channels, classes=classes)
    path = Path(reference) if isinstance(reference, (str, Path)) else Path("reference")
    stored = isinstance(reference, (str, Path))
    pixels = read_pixels(path, max_pixels=spec.max_pixels, index_colours=True) if stored else np.asarray(reference)
    height, width = prediction.labels.shape
    test = described.data.get("test") if described else None  # values must mean here what they mean in the audit
    labels = test.labels if test else None
    return Scene(prediction, classes, to_mask(pixels, spec, path, shape=(height, width), labels=labels))
