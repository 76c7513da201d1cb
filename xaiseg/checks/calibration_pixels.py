"""Are the confidences honest? Expected calibration error, Brier score and likelihood of the pixel probabilities.

Two pools, because they answer different questions: the mean of per-image errors (what one reader meets) and the error
of all pixels together (shifts of single images cancel). Two regions, because easy background dilutes every error: the
whole image, and the surroundings of reference or prediction. Beside each error stands the null floor, what a
calibrated subject would show by chance (:mod:`xaiseg.calibration.reliability`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from xaiseg.calibration import reliability as rel
from xaiseg.checks import masks
from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.quantities import UNIT_RANGE, case_means, failed_cases, missing, reference_rows, targets
from xaiseg.errors import CheckError, DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case

ID: Final = "calibration.pixels"
#: Target of the rows that hold the confidence in the decided label, with more than two classes.
TOP_LABEL: Final = "top-label"


@dataclass(frozen=True)
class Params:
    """How probabilities are binned.

    Attributes:
        bins: equally wide bins.
        dilate: radius of the region around reference or prediction, as a share of the image diagonal.
    """

    bins: int = 15
    dilate: float = 0.05

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise UsageError("too few bins", where=f"{ID}: bins", got=self.bins, allowed="1 or more")
        if self.dilate < 0:
            raise UsageError("the radius is negative", where=f"{ID}: dilate", got=self.dilate, allowed="0 or more")


@check(
    ID,
    question="Are its confidences honest?",
    needs=("segmenter", "reference", "scores"),
    params=Params,
    columns=[
        ("ece", pa.float64()),
        ("signed_gap", pa.float64()),
        ("brier", pa.float64()),
        ("nll", pa.float64()),
        ("clipped", pa.int64()),
        ("pixels", pa.int64()),
        ("count", pa.list_(pa.int64())),
        ("sum_p", pa.list_(pa.float64())),
        ("sum_y", pa.list_(pa.int64())),
        ("region_ece", pa.float64()),
        ("region_signed_gap", pa.float64()),
        ("region_pixels", pa.int64()),
        ("region_count", pa.list_(pa.int64())),
        ("region_sum_p", pa.list_(pa.float64())),
        ("region_sum_y", pa.list_(pa.int64())),
    ],
)
class CalibrationPixels:
    """One row a case and foreground class; with more than two classes also one of the top label."""

    def measure(self, context: Context, case: Case) -> Iterable[Row]:
        """Histograms over the image and over the region; pixels that the reference ignores are left out."""
        prediction = context.prediction()
        if case.reference is None:
            raise DataError("the image has no reference mask", where=case.id)
        if prediction.probabilities is None:
            raise CheckError("the model gives no probabilities", where=ID)
        valid = case.reference != masks.IGNORE
        if not valid.any():
            raise DataError("the reference ignores every pixel", where=case.id)
        classes, reach = context.facts["classes"], context.params.dilate * math.hypot(*case.shape)
        for index, name in enumerate(classes[1:], start=1):
            reference, predicted = masks.class_masks(case.reference, prediction.labels, index)
            near = surroundings(reference | predicted, reach)
            yield {"target": name, **_row(prediction.probabilities[index], reference, valid, near, context.params)}
        if len(classes) > 2:
            yield {"target": TOP_LABEL, **_top_label(prediction.probabilities, case.reference, valid, context.params)}

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """Overall (mean over classes) and, with several foreground classes, for each class and the top label."""
        table = tables.rows[ID]
        rows, failed = reference_rows(table), failed_cases(table)
        classes = rows[rows["target"] != TOP_LABEL]
        for target in targets(tables.facts["classes"]):
            chosen = classes if not target else classes[classes["target"] == target]
            yield from _scores(chosen, target)
            for prefix in ("", "region_"):
                yield from _errors(chosen, tables, failed, target, prefix, params)
        if len(tables.facts["classes"]) > 2:
            top = rows[rows["target"] == TOP_LABEL]
            yield from _scores(top, TOP_LABEL)
            yield from _errors(top, tables, failed, TOP_LABEL, "", params)


def surroundings(mask: np.ndarray, reach: float) -> np.ndarray:
    """Pixels within ``reach`` pixels (Euclidean) of a mask; none when the mask is empty.

    Args:
        mask: (H, W) bool.
        reach: in pixels.

    >>> surroundings(np.array([[False, False, True, False]]), 1.0).tolist()
    [[False, True, True, True]]
    """
    from scipy import ndimage

    out = np.zeros_like(mask)
    box = masks.union_box(mask, mask)
    if box[0].stop == 0:
        return out
    grow = math.floor(reach)
    crop = tuple(slice(max(part.start - grow, 0), part.stop + grow) for part in box)
    out[crop] = ndimage.distance_transform_edt(~mask[crop]) <= reach
    return out


def _row(probabilities: np.ndarray, positive: np.ndarray, valid: np.ndarray, near: np.ndarray, params: Params) -> Row:
    p, y = probabilities[valid].astype(np.float64), positive[valid]
    nll, clipped = rel.negative_log_likelihood(p, y)
    whole = {"brier": rel.brier_score(p, y), "nll": nll, "clipped": clipped}
    inside = near[valid]
    region = _histogram_columns(p[inside], y[inside], params, "region_")
    return whole | _histogram_columns(p, y, params, "") | region


def _top_label(probabilities: np.ndarray, reference: np.ndarray, valid: np.ndarray, params: Params) -> Row:
    """Confidence in the most likely class against whether it is right; Brier and likelihood over all classes."""
    p, truth = probabilities[:, valid].astype(np.float64), reference[valid].astype(np.intp)
    likelihood = np.take_along_axis(p, truth[None], axis=0)[0]
    nll, clipped = rel.mean_log_loss(likelihood)
    brier = float(((p**2).sum(axis=0) - 2.0 * likelihood + 1.0).mean())
    columns = _histogram_columns(p.max(axis=0), p.argmax(axis=0) == truth, params, "")
    return columns | {"brier": brier, "nll": nll, "clipped": clipped}


def _histogram_columns(p: np.ndarray, y: np.ndarray, params: Params, prefix: str) -> Row:
    if not p.size:
        return {f"{prefix}pixels": 0}
    found = rel.histogram(p, y, bins=params.bins)
    stacked = found.stacked()
    return {
        f"{prefix}ece": rel.expected_calibration_error(stacked),
        f"{prefix}signed_gap": rel.signed_gap(stacked),
        f"{prefix}pixels": p.size,
        f"{prefix}count": found.count.tolist(),
        f"{prefix}sum_p": found.sum_p.tolist(),
        f"{prefix}sum_y": found.sum_y.tolist(),
    }


def _scores(rows: pd.DataFrame, target: str) -> Iterator[Quantity]:
    highest = 2.0 if target == TOP_LABEL else 1.0
    cases, values = case_means(rows, "brier")
    yield Quantity(
        "brier", "mean", cases, values, better="lower", worst=highest, target=target, bounds=(0.0, highest),
        note="mean squared distance between probability and truth, whole image",
    )  # fmt: skip
    ceiling = -math.log(rel.NLL_CLIP)
    cases, values = case_means(rows, "nll")
    share = rows["clipped"].sum() / max(rows["pixels"].sum(), 1)
    yield Quantity(
        "nll", "mean", cases, values, unit="nat", better="lower", worst=ceiling, target=target, bounds=(0.0, ceiling),
        note=f"clipped at {rel.NLL_CLIP:g} in {100 * share:.2g} % of the pixels",
    )  # fmt: skip


def _errors(
    rows: pd.DataFrame, tables: Tables, failed: list[str], target: str, prefix: str, params: Any
) -> Iterator[Quantity]:
    """Per-image and pooled error, each beside its null floor, and the signed gap."""
    rows = rows[rows[f"{prefix}pixels"] > 0]
    name = f"ece_{prefix}"
    where = f"within {params.dilate:g} of the diagonal around reference or prediction" if prefix else "whole image"
    if rows.empty and not failed:
        why = "no image has a reference or predicted mask" if prefix else "no image was measured"
        yield from (missing(metric, why, target=target) for metric in (f"{name}image", f"{name}pooled"))
        return
    parts = [_stack(part, prefix, params.bins) for _, part in rows.groupby("target", sort=True)]
    cases, values = case_means(rows, f"{prefix}ece")
    yield Quantity(
        f"{name}image", "mean", cases, values, better="lower", worst=1.0, target=target, bounds=UNIT_RANGE,
        floor=_mean_or_none([rel.image_floor(part) for _, part in parts]),
        note=f"{params.bins} bins, {where}; the floor is what remains when only the pooled gap is repaired",
    )  # fmt: skip
    contributions = [*_by_class(parts, cases), *(_all_wrong(parts, params.bins) for _ in failed)]
    yield Quantity(
        f"{name}pooled", "statistic", [*cases, *failed], np.array(contributions).reshape(len(contributions), -1),
        better="lower", of="pixel", target=target, function=_PooledError(params.bins), weigh="case", bounds=UNIT_RANGE,
        floor=_mean_or_none([rel.pooled_floor(part, tables.clusters(names)) for names, part in parts]),
        note=f"{params.bins} bins, {where}; a failed image enters as confidently wrong",
    )  # fmt: skip
    cases, values = case_means(rows, f"{prefix}signed_gap")
    worst = math.copysign(1.0, float(values.mean())) if values.size else 1.0
    yield Quantity(
        f"{prefix}signed_gap", "mean", cases, values, worst=worst, target=target, bounds=(-1.0, 1.0),
        note=f"mean probability minus rate, {where}; above 0 = overconfident",
    )  # fmt: skip


def _stack(rows: pd.DataFrame, prefix: str, bins: int) -> tuple[list[str], np.ndarray]:
    """Case ids and (n, 3, B) histograms of one class."""
    columns = [np.array(rows[f"{prefix}{name}"].tolist(), dtype=np.float64) for name in ("count", "sum_p", "sum_y")]
    return rows["case"].tolist(), np.stack(columns, axis=1).reshape(len(rows), 3, bins)


def _by_class(parts: list[tuple[list[str], np.ndarray]], cases: np.ndarray) -> np.ndarray:
    """(n, classes, 3, B): the classes' histograms side by side; zeros where a case has no region of a class."""
    if not parts:
        return np.zeros((0, 0))
    position = {case: number for number, case in enumerate(cases)}
    out = np.zeros((len(cases), len(parts), *parts[0][1].shape[1:]))
    for column, (names, stacked) in enumerate(parts):
        out[[position[name] for name in names], column] = stacked
    return out


def _all_wrong(parts: list[tuple[list[str], np.ndarray]], bins: int) -> np.ndarray:
    """(classes, 3, B): an image of the usual size whose every pixel is given 1 and is 0."""
    out = np.zeros((max(len(parts), 1), 3, bins))
    for column, (_, stacked) in enumerate(parts):
        out[column, :2, -1] = np.median(stacked[:, 0].sum(axis=1))
    if not parts:
        out[0, :2, -1] = 1.0
    return out


@dataclass(frozen=True)
class _PooledError:
    """(classes * 3 * B,) summed contributions -> ECE; a class, so that it can be sent to another process."""

    bins: int

    def __call__(self, total: np.ndarray) -> float:
        return rel.expected_calibration_error(total.reshape(-1, 3, self.bins))


def _mean_or_none(floors: list[float | None]) -> float | None:
    known = [floor for floor in floors if floor is not None]
    return sum(known) / len(known) if known else None
