"""The door that :func:`xaiseg.explain`, ``xaiseg explain`` and :func:`xaiseg.evaluate` share: model, image, targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xaiseg.data.case import CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.pixels import read_pixels, to_image, to_mask
from xaiseg.data.readers import load_case
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Budget, Session
from xaiseg.explainers.target_spec import Scene, parse_targets
from xaiseg.explainers.targets import SpatialTarget
from xaiseg.subject import Segmenter

if TYPE_CHECKING:
    from torch import Tensor

    from xaiseg.modelfile import ModelFile


def open_session(
    model: str | Path | Segmenter,
    image: str | Path | np.ndarray | Tensor,
    *,
    seed: int = 0,
    device: str = "cpu",
    batch_size: int = 8,
) -> tuple[Session, ModelFile | None]:
    """A session on one image, and what describes the model where it came from a file.

    Args:
        model: a model.yaml, or a segmenter that is loaded already.
        image: a file, or an array (H, W), (H, W, C) or (C, H, W): integers of 8 or 16 bits, which span the declared
            range, or floats within it.
        seed: for methods that sample.
        device: where a model.yaml's model computes.
        batch_size: images a forward pass.

    Raises:
        UsageError: the model is no segmentation model that can be run.
        DataError: the image cannot be used.
    """
    from xaiseg.loading import load_subject
    from xaiseg.modelfile import read_model_file

    described = None if isinstance(model, Segmenter) else read_model_file(model)
    subject = model if described is None else load_subject(described, device=device)
    if not isinstance(subject, Segmenter) or getattr(subject, "by_case", False):
        raise UsageError(
            "only a segmentation model that can be run can be explained", where=model, got=type(subject).__name__
        )
    spec = ImageSpec(subject.info.channels, subject.info.value_range, subject.info.classes)
    return Session(subject, _pixels(image, spec, described), seed=seed, budget=Budget(batch_size)), described


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
    first = pixels.ndim == 3 and pixels.shape[0] == spec.channels
    last = pixels.ndim == 3 and pixels.shape[-1] == spec.channels
    if first and not (last and pixels.dtype.kind in "ui"):
        pixels = np.moveaxis(pixels, 0, -1)
    return to_image(pixels, spec, Path("image"))


def open_targets(
    session: Session, target: object, reference: str | Path | np.ndarray | None = None
) -> tuple[SpatialTarget, ...]:
    """The targets that a user names; a target that is made already stands for itself.

    Args:
        session: image and model; its prediction freezes the regions.
        target: what :func:`xaiseg.explainers.target_spec.parse_targets` reads, or an object of
            :mod:`xaiseg.explainers.targets`. Masks are looked for beside the working directory.
        reference: a mask file or (H, W) class indices, for targets that need one.

    Raises:
        UsageError: no such target, or nothing to explain in this image.
        DataError: the reference cannot be used.
    """
    if isinstance(target, SpatialTarget):
        return (target,)
    return parse_targets(target, _scene(session, reference))


def _scene(session: Session, reference: str | Path | np.ndarray | None) -> Scene:
    classes, prediction = session.subject.info.classes, session.prediction
    if reference is None:
        return Scene(prediction, classes)
    spec = ImageSpec(session.subject.info.channels, classes=classes)
    path = Path(reference) if isinstance(reference, (str, Path)) else Path("reference")
    stored = isinstance(reference, (str, Path))
    pixels = read_pixels(path, max_pixels=spec.max_pixels, index_colours=True) if stored else np.asarray(reference)
    height, width = prediction.labels.shape
    return Scene(prediction, classes, to_mask(pixels, spec, path, shape=(height, width)))
