"""AP and AR as COCO states them, by faster-coco-eval: the figures that papers print, for all images together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xaiseg.detection.matching import IGNORE


@dataclass(frozen=True)
class CocoMeasures:
    """Means over the classes that have an object; NaN without any.

    Attributes:
        ap: AP at IoU 0.50 to 0.95.
        ap50: AP at IoU 0.50.
        ar: AR at IoU 0.50 to 0.95 with at most ``max_detections`` an image and class.
    """

    ap: float
    ap50: float
    ar: float


def coco_measures(
    references: Sequence[np.ndarray],
    detections: Sequence[np.ndarray],
    classes: int,
    *,
    max_detections: int = 100,
) -> CocoMeasures:
    """AP and AR of a data set.

    Args:
        references: one (R, 5) an image: corners in pixels and class index, 255 = a region to ignore in every class.
        detections: one (N, 6) an image: corners, class index, score.
        classes: number of classes.
        max_detections: detections an image and class that count, the highest scores first.

    Source: T.-Y. Lin et al., ECCV 2014, evaluated by faster-coco-eval.

    >>> box = np.array([[10.0, 10, 30, 30, 0]])
    >>> found = coco_measures([box], [np.array([[10.0, 10, 30, 30, 0, 0.9]])], 1)
    >>> round(found.ap, 6), round(found.ap50, 6), round(found.ar, 6)
    (1.0, 1.0, 1.0)
    """
    from faster_coco_eval import COCO, COCOeval_faster

    nowhere = CocoMeasures(float("nan"), float("nan"), float("nan"))
    if not any(len(one) for one in references):
        return nowhere
    truth = COCO(_document(references, classes))
    answers = truth.loadRes(_results(detections))
    evaluation = COCOeval_faster(truth, answers, "bbox", print_function=lambda *_: None)
    evaluation.params.maxDets = [1, 10, max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    # Axes: IoU, recall, class, area, maxDets; IoU, class, area, maxDets. -1 = a class without objects.
    precision, recall = evaluation.eval["precision"][..., 0, -1], evaluation.eval["recall"][..., 0, -1]
    return CocoMeasures(_mean(precision), _mean(precision[0]), _mean(recall))


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def _document(references: Sequence[np.ndarray], classes: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, rows in enumerate(references, start=1):
        for x0, y0, x1, y1, label in np.asarray(rows, dtype=np.float64).reshape(-1, 5).tolist():
            ignored = int(label) == IGNORE
            for category in range(1, classes + 1) if ignored else (int(label) + 1,):
                annotations.append({
                    "id": len(annotations) + 1, "image_id": image, "category_id": category,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": int(ignored),
                })  # fmt: skip
    images = [{"id": image, "file_name": str(image)} for image in range(1, len(references) + 1)]
    names = [{"id": category, "name": str(category)} for category in range(1, classes + 1)]
    return {"images": images, "annotations": annotations, "categories": names}


def _results(detections: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"image_id": image, "category_id": int(label) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score}
        for image, rows in enumerate(detections, start=1)
        for x0, y0, x1, y1, label, score in np.asarray(rows, dtype=np.float64).reshape(-1, 6).tolist()
    ]
