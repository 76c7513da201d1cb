"""Detections in MegaDetector's batch format, read and written: a failure is never an empty list.

An image that was processed has a list ``detections``, perhaps empty; one that failed has ``failure`` with the reason
and ``detections: null``. Boxes are x, y, width, height as shares of the sides, from the upper left corner.
Format: MegaDetector batch processing output, version 1.4 (agentmorris/MegaDetector, megadetector-batch-processing).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

import numpy as np

from xaiseg.errors import MissingFileError, UsageError

FORMAT: Final = "1.4"


@dataclass(frozen=True)
class Found:
    """Detections of one image.

    Attributes:
        boxes: (N, 4) float64, x0, y0, x1, y1 as shares of the sides.
        scores: (N,) float64 in [0, 1].
        labels: (N,) int64, positions in the file's ``categories``.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Batch:
    """A file of detections.

    Attributes:
        categories: names of the classes; ``Found.labels`` are positions in it.
        images: file name (with /, relative to the folder of images) -> detections, or the reason of the failure.
        info: ``info`` of the file, e.g. the detector and its typical thresholds.
    """

    categories: tuple[str, ...]
    images: Mapping[str, Found | str]
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failures(self) -> Mapping[str, str]:
        """File name -> reason, of the images that failed."""
        return {name: held for name, held in self.images.items() if isinstance(held, str)}


def read_batch(path: Path) -> Batch:
    """Reads a file of detections.

    Raises:
        UsageError: no such file, another format, an image that has neither detections nor a failure, or both.
    """
    document = _document(path)
    numbers = sorted(document["detection_categories"], key=lambda key: (len(key), key))
    place = {number: position for position, number in enumerate(numbers)}
    images: dict[str, Found | str] = {}
    for position, item in enumerate(document["images"]):
        where = f"{path}: images[{position}]"
        name = item.get("file") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name:
            raise UsageError("the field 'file' is missing", where=where)
        name = PureWindowsPath(name).as_posix()
        if name in images:
            raise UsageError("this image stands twice", where=where, got=name)
        images[name] = _outcome(item, place, where)
    names = tuple(str(document["detection_categories"][number]) for number in numbers)
    return Batch(names, images, dict(document.get("info") or {}))


def _document(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError("this file of detections is missing", where=path)
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"this is no JSON ({error})", where=path) from error
    kinds = (("images", list), ("detection_categories", dict))
    lacking = [
        name for name, kind in kinds if not isinstance(document, dict) or not isinstance(document.get(name), kind)
    ]
    if lacking:
        labels = isinstance(document, dict) and {"images", "annotations"} <= set(document)
        then = "This is a COCO file of labels: it belongs to the data" if labels else None
        raise UsageError(f"this is no MegaDetector file: it has no '{lacking[0]}'", where=path, then=then)
    return dict(document)


def _outcome(item: Mapping[str, Any], place: Mapping[str, int], where: str) -> Found | str:
    failure, detections = item.get("failure"), item.get("detections")
    if failure:
        if detections:
            raise UsageError("this image has a failure and detections", where=where)
        return str(failure)
    if not isinstance(detections, list):
        raise UsageError(
            "this image has neither detections nor a failure", where=where,
            allowed="detections: [] for an image without any, failure: the reason for one that could not be processed",
        )  # fmt: skip
    boxes, scores, labels = [], [], []
    for found in detections:
        try:
            x, y, w, h = (float(value) for value in found["bbox"])
            score, label = float(found["conf"]), place[str(found["category"])]
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError("a detection has no bbox, conf or known category", where=where, got=found) from error
        if not (0 <= score <= 1 and w >= 0 and h >= 0 and min(x, y) >= -0.01 and max(x + w, y + h) <= 1.01):
            raise UsageError(
                "a detection lies outside the image", where=where, got=found["bbox"],
                allowed="x, y, width, height as shares of the sides, conf from 0 to 1",
            )  # fmt: skip
        boxes.append((x, y, x + w, y + h))
        scores.append(score)
        labels.append(label)
    return Found(np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores), np.array(labels, dtype=np.int64))


def batch_document(
    batch: Batch, *, detector: str = "", threshold: float | None = None, created: str = ""
) -> dict[str, Any]:
    """A file of detections as plain data.

    Args:
        batch: what to write; categories are numbered from 1.
        detector: name of the model, for ``info``.
        threshold: its operating threshold, for ``info``.
        created: when it was made, for ``info``; "" = now.

    >>> box = np.array([[0.1, 0.2, 0.3, 0.6]])
    >>> held = Batch(("seal",), {"a.jpg": Found(box, np.array([0.9]), np.array([0])), "b.jpg": "cut short"})
    >>> document = batch_document(held, detector="d")
    >>> document["images"][0]["detections"]
    [{'category': '1', 'conf': 0.9, 'bbox': [0.1, 0.2, 0.2, 0.4]}]
    >>> document["images"][1]
    {'file': 'b.jpg', 'failure': 'cut short', 'detections': None}
    """
    info: dict[str, Any] = dict(batch.info)
    info.setdefault("detection_completion_time", created or f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}")
    info |= {"format_version": FORMAT, "detector": detector or info.get("detector", "unknown")}
    if threshold is not None:
        info["detector_metadata"] = {"typical_detection_threshold": threshold}
    return {
        "info": info,
        "detection_categories": {str(number): name for number, name in enumerate(batch.categories, start=1)},
        "images": [_image(name, held) for name, held in batch.images.items()],
    }


def _image(name: str, held: Found | str) -> dict[str, Any]:
    name = PurePosixPath(name).as_posix()
    if isinstance(held, str):
        return {"file": name, "failure": held or "unknown", "detections": None}
    order = np.argsort(-held.scores, kind="stable")
    detections = []
    for index in order:
        x0, y0, x1, y1 = (float(value) for value in held.boxes[index])
        bbox = [round(value, 5) for value in (x0, y0, x1 - x0, y1 - y0)]
        score = round(float(held.scores[index]), 5)
        detections.append({"category": str(int(held.labels[index]) + 1), "conf": score, "bbox": bbox})
    return {"file": name, "detections": detections}
