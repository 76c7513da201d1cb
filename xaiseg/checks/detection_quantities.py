"""Recall, precision, F1, false positives, FROC and average precision, from the flat match tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any, Final

import numpy as np

from xaiseg.checks.base import Quantity
from xaiseg.checks.detection_rows import Found
from xaiseg.checks.quantities import UNIT_RANGE
from xaiseg.detection.curves import FROC_RATES, average_precision, final_recall, mean_over, sensitivity
from xaiseg.detection.matching import THRESHOLDS, reaches

#: How a failed image enters what is counted by objects.
FAILED: Final = "a failed image counts as the fullest one, with every object missed"


def quantities(held: Found, target: str, params: Any) -> Iterator[Quantity]:
    """What the boxes say, at the frozen threshold and over all of them."""
    yield from _at_threshold(held, target, params)
    yield from _by_size(held, target, params)
    yield from _average_precision(held, target, params)
    yield from _froc(held, target)


def rule_of(params: Any) -> str:
    """The matching rule in words.

    >>> from xaiseg.checks.performance_detection import Params
    >>> rule_of(Params()), rule_of(Params(match="centre"))
    ('IoU >= 0.5', 'the centre lies in the reference box')
    """
    return f"IoU >= {params.match_iou:g}" if params.match == "iou" else "the centre lies in the reference box"


def _at_threshold(held: Found, target: str, params: Any) -> Iterator[Quantity]:
    said = f"score >= {held.threshold:g}, {rule_of(params)}"
    images = np.concatenate([flat.object_image for flat in held.flats])
    found = np.concatenate([reaches(flat.object_score, held.threshold) for flat in held.flats])
    cases, values = with_failed(held, held.cases[images], found, held.missed)
    yield Quantity(
        "recall", "proportion", cases, values, better="higher", of="object", target=target, strata=True, weigh="case",
        note=f"{said}; {FAILED}", bounds=UNIT_RANGE,
    )  # fmt: skip
    shown = [reaches(flat.score, held.threshold) & (flat.found != -2) for flat in held.flats]
    images = np.concatenate([flat.image[keep] for flat, keep in zip(held.flats, shown, strict=True)])
    right = np.concatenate([flat.found[keep] >= 0 for flat, keep in zip(held.flats, shown, strict=True)])
    cases, values = with_failed(held, held.cases[images], right, held.alarms)
    yield Quantity(
        "precision", "proportion", cases, values, better="higher", of="detection",
        target=target, strata=True, weigh="case", bounds=UNIT_RANGE,
        note=f"{said}; a failed image counts as the most false ones of any; on these tiles, see projected_precision",
    )  # fmt: skip
    outcomes = np.stack([held.right, held.false, held.reference - held.right], axis=1)
    outcomes = np.concatenate([outcomes, np.tile([0.0, 0.0, held.missed], (len(held.failed), 1))])
    yield Quantity(
        "f1", "statistic", held.cases, outcomes, better="higher", of="object", target=target, function=_f1,
        weigh="case", note=f"{said}; {FAILED}", bounds=UNIT_RANGE,
    )  # fmt: skip
    events = np.concatenate([held.false, np.full(len(held.failed), held.alarms)])
    yield Quantity(
        "false_positives_per_image", "rate", held.cases, np.stack([events, np.ones(len(events))], axis=1),
        better="lower", target=target, strata=True, weigh="case",
        note=f"{said}; a failed image counts as the most seen in any image",
    )  # fmt: skip


def with_failed(held: Found, cases: np.ndarray, values: np.ndarray, times: float) -> tuple[np.ndarray, np.ndarray]:
    """Cases and values (0 or 1) with each failed image ``times`` times as a 0."""
    lost = np.repeat(held.failed, int(times))
    return np.concatenate([cases, lost]), np.concatenate([values.astype(np.float64), np.zeros(len(lost))])


def _f1(total: np.ndarray) -> float:
    found, false, missed = total
    return float(2 * found / (2 * found + false + missed)) if total.any() else math.nan


def size_levels(edges: tuple[float, ...]) -> list[tuple[str, float, float]]:
    """Name, lowest and highest size of each stratum.

    >>> [name for name, _, _ in size_levels((16.0, 32.0))]
    ['below 16 px', '16 to 32 px', 'from 32 px']
    """
    names = [f"below {edges[0]:g} px"] if edges else []
    names += [f"{low:g} to {high:g} px" for low, high in pairwise(edges)]
    names += [f"from {edges[-1]:g} px"] if edges else []
    return list(zip(names, (0.0, *edges), (*edges, math.inf), strict=True)) if edges else []


def _by_size(held: Found, target: str, params: Any) -> Iterator[Quantity]:
    images = np.concatenate([flat.object_image for flat in held.flats])
    sizes = np.concatenate([flat.object_size for flat in held.flats])
    found = np.concatenate([reaches(flat.object_score, held.threshold) for flat in held.flats])
    for name, low, high in size_levels(params.sizes):
        inside = (sizes >= low) & (sizes < high)
        fullest = max(1, int(np.bincount(images[inside], minlength=1).max()))
        cases, values = with_failed(held, held.cases[images[inside]], found[inside], fullest if inside.any() else 0)
        yield Quantity(
            "recall", "proportion", cases, values, better="higher", of="object", target=target, factor="size",
            level=name, weigh="case", bounds=UNIT_RANGE, note=f"square root of the reference box's area; {FAILED}",
        )  # fmt: skip


def _average_precision(held: Found, target: str, params: Any) -> Iterator[Quantity]:
    every = [flat.pool(bit, params.max_detections) for flat in held.flats for bit in range(len(THRESHOLDS))]
    first = [flat.pool(0, params.max_detections) for flat in held.flats]
    positions = np.arange(len(held.cases), dtype=np.float64)
    classes = " over classes" if len(held.flats) > 1 else ""
    for metric, pools, of, strata, note in (
        ("ap50", first, average_precision, True, f"AP at IoU 0.50, mean{classes}" if classes else "AP at IoU 0.50"),
        ("ap", every, average_precision, False, f"AP, mean over IoU 0.50 to 0.95{classes and ' and classes'}"),
        ("ar", every, final_recall, False, f"AR, at most {params.max_detections} detections an image"),
    ):
        yield Quantity(
            metric, "statistic", held.cases, positions, better="higher", of="object", target=target, strata=strata,
            weigh="case", pooled=mean_over(pools, of), note=f"{note}; {FAILED}", bounds=UNIT_RANGE,
        )  # fmt: skip


def _froc(held: Found, target: str) -> Iterator[Quantity]:
    pool = held.pooled()
    positions = np.arange(len(held.cases), dtype=np.float64)

    def quantity(rates: tuple[float, ...], level: str, note: str) -> Quantity:
        reads = mean_over([pool], lambda steps, drawn: float(sensitivity(steps, drawn, rates).mean()), false_first=True)
        return Quantity(
            "froc", "statistic", held.cases, positions, better="higher", of="object", target=target,
            factor="false_positives_per_image" if level else "", level=level, weigh="case", pooled=reads,
            note=f"{note}; {FAILED}", bounds=UNIT_RANGE,
        )  # fmt: skip

    yield quantity(FROC_RATES, "", "mean recall at 1/8 to 8 false positives an image")
    for rate in FROC_RATES:
        level = str(Fraction(rate).limit_denominator(8))
        yield quantity((rate,), level, f"recall at {level} false positives an image")
