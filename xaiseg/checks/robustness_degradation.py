"""Does it survive the field? Dice on degraded copies of each image, paired with the same image as it is.

Each factor has a mild level (what routine work produces on a bad day) and a strong one, in physical terms. The loss
is the difference within one image, so that easy and hard images do not blur it. Images without any reference mask
have no Dice to lose; what they can gain is a false component, which is counted apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from xaiseg.checks import masks
from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.quantities import UNIT_RANGE, failed_cases, missing, reference_rows
from xaiseg.errors import DataError, UsageError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case

ID: Final = "robustness.degradation"
SEVERITIES: Final = ("mild", "strong")


def _ladder() -> dict[str, tuple[float, float]]:
    return {
        "blur_px": (1.0, 2.0),
        "noise_sd": (0.02, 0.06),
        "gain": (0.85, 0.6),
        "jpeg_quality": (60.0, 25.0),
        "downscale": (0.7, 0.45),
    }


@dataclass(frozen=True)
class Params:
    """The ladder.

    Attributes:
        factors: name of a degradation -> (mild, strong) level, in the degradation's own unit.
        match_iou: a lesion is found when a predicted component has at least this IoU with it.
    """

    factors: Mapping[str, tuple[float, float]] = field(default_factory=_ladder)
    match_iou: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.factors, Mapping) or not self.factors:
            allowed = "factor: [mild, strong], ..."
            raise UsageError("this is no ladder", where=f"{ID}: factors", got=self.factors, allowed=allowed)
        object.__setattr__(self, "factors", {name: _levels(name, given) for name, given in self.factors.items()})
        if not 0 < self.match_iou <= 1:
            raise UsageError("out of range", where=f"{ID}: match_iou", got=self.match_iou, allowed="above 0, at most 1")


def _levels(factor: str, given: Any) -> tuple[float, float]:
    """The mild and the strong level of one factor, checked before anything is measured with them."""
    from xaiseg.data.degradation import REGISTRY

    where = f"{ID}: factors: {factor}"
    if factor not in REGISTRY:
        raise UsageError("this degradation is unknown", where=where, then=did_you_mean(factor, REGISTRY))
    numbers = list(given) if isinstance(given, list | tuple) else []
    if len(numbers) != len(SEVERITIES) or not all(
        isinstance(n, int | float) and not isinstance(n, bool) for n in numbers
    ):
        raise UsageError("a factor needs two levels", where=where, got=given, allowed="[mild, strong]")
    kind = REGISTRY[factor]
    if not all(kind.lowest <= number <= kind.highest for number in numbers):
        allowed = f"{kind.lowest:g} to {kind.highest:g}"
        raise UsageError("this level is out of range", where=where, got=given, allowed=allowed)
    return float(numbers[0]), float(numbers[1])


@check(
    ID,
    question="Does it survive the field?",
    needs=("segmenter", "reference", "model"),
    params=Params,
    columns=[
        ("severity", pa.string()),
        ("dice", pa.float64()),
        ("dice_clean", pa.float64()),
        ("dice_drop", pa.float64()),
        ("n_reference", pa.int64()),
        ("n_missed", pa.int64()),
        ("n_missed_clean", pa.int64()),
        ("false_alarm", pa.bool_()),
        ("false_alarm_clean", pa.bool_()),
    ],
)
class RobustnessDegradation:
    """One row a case, factor and level; ``level`` is the number, ``severity`` its rung."""

    def forwards(self, params: Params) -> int:
        """Forwards a case, for the plan."""
        return len(params.factors) * len(SEVERITIES)

    def measure(self, context: Context, case: Case) -> Iterable[Row]:
        """Degrades the image once a level and predicts all copies in one call."""
        from xaiseg.data.degradation import degrade

        if case.reference is None:
            raise DataError("the image has no reference mask", where=case.id)
        if (case.reference == masks.IGNORE).all():
            raise DataError("the reference ignores every pixel", where=case.id)
        rungs = [
            (factor, level, severity)
            for factor, levels in context.params.factors.items()
            for level, severity in zip(levels, SEVERITIES, strict=True)
        ]
        value_range = tuple(context.facts["value_range"])
        copies = [
            degrade(
                case.image, factor, level, value_range=value_range, generator=context.generator(f"{factor}={level:g}")
            )
            for factor, level, _ in rungs
        ]
        truth = _Truth.of(case.reference, len(context.facts["classes"]))
        clean = truth.judge(context.prediction().labels, context.params.match_iou)
        for (factor, level, severity), prediction in zip(rungs, context.predict(copies), strict=True):
            seen = truth.judge(prediction.labels, context.params.match_iou)
            yield {"factor": factor, "level": f"{level:g}", "severity": severity, **_row(clean, seen)}

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """A factor and rung: the paired loss, the Dice that is left, missed lesions and false alarms."""
        from xaiseg.data.degradation import REGISTRY

        table = tables.rows[ID]
        rows, failed = reference_rows(table), failed_cases(table)
        for factor, levels in params.factors.items():
            for level, severity in zip(levels, SEVERITIES, strict=True):
                chosen = rows[(rows["factor"] == factor) & (rows["severity"] == severity)].sort_values("case")
                note = REGISTRY[factor].sentence.format(level=f"{level:g}")
                yield from _rung(chosen, bool(failed), factor, severity, note)


@dataclass(frozen=True)
class _Judgement:
    """One prediction against the reference: mean Dice over the classes that are there, lesions, false alarm."""

    dice: float | None
    lesions: int
    missed: int
    false_alarm: bool | None


@dataclass(frozen=True)
class _Truth:
    """The reference of one case, prepared once for all its degraded copies."""

    reference: np.ndarray
    classes: tuple[tuple[int, tuple[np.ndarray, int]], ...]

    @classmethod
    def of(cls, reference: np.ndarray, n_classes: int) -> _Truth:
        parts = ((index, masks.components(reference == index)) for index in range(1, n_classes))
        return cls(reference, tuple((index, found) for index, found in parts if found[1]))

    def judge(self, labels: np.ndarray, match_iou: float) -> _Judgement:
        """Without any foreground in the reference only the false alarm is defined."""
        if not self.classes:
            return _Judgement(None, 0, 0, bool(((labels > 0) & (self.reference != masks.IGNORE)).any()))
        scores, missed = [], 0
        for index, components in self.classes:
            reference, prediction = masks.class_masks(self.reference, labels, index)
            box = masks.union_box(reference, prediction)
            reference, prediction = reference[box], prediction[box]
            scores.append(masks.overlap(reference, prediction).dice or 0.0)
            lesions = components[0][box], components[1]
            found = masks.match_lesions(lesions, masks.components(prediction), match_iou=match_iou).found
            missed += int((~found).sum())
        total = sum(count for _, (_, count) in self.classes)
        return _Judgement(float(np.mean(scores)), total, missed, None)


def _row(clean: _Judgement, seen: _Judgement) -> Row:
    drop = None if clean.dice is None or seen.dice is None else clean.dice - seen.dice
    return {
        "dice": seen.dice,
        "dice_clean": clean.dice,
        "dice_drop": drop,
        "n_reference": seen.lesions,
        "n_missed": seen.missed,
        "n_missed_clean": clean.missed,
        "false_alarm": seen.false_alarm,
        "false_alarm_clean": clean.false_alarm,
    }


def _rung(rows: pd.DataFrame, any_failed: bool, factor: str, severity: str, note: str) -> Iterator[Quantity]:
    holding = rows[rows["n_reference"] > 0]
    cases = holding["case"].to_numpy(dtype=object)
    if not len(cases) and not any_failed:
        for metric in ("dice_drop", "dice", "missed_lesions"):
            yield missing(metric, "no image has a reference mask", factor=factor, level=severity)
    else:
        yield Quantity(
            "dice_drop", "mean", cases, holding["dice_drop"].to_numpy(dtype=np.float64), better="lower", worst=1.0,
            factor=factor, level=severity, note=f"{note}; Dice as it is minus degraded, paired", bounds=(-1.0, 1.0),
        )  # fmt: skip
        yield Quantity(
            "dice", "mean", cases, holding["dice"].to_numpy(dtype=np.float64), better="higher", worst=0.0,
            factor=factor, level=severity, note=note, bounds=UNIT_RANGE,
        )  # fmt: skip
        lesions = holding["n_reference"].to_numpy(dtype=np.intp)
        missed = holding["n_missed"].to_numpy(dtype=np.intp)
        # One value a lesion: the missed ones of a case first, since which of them they are does not matter.
        events = [np.arange(count) < lost for count, lost in zip(lesions, missed, strict=True)]
        yield Quantity(
            "missed_lesions", "proportion", np.repeat(cases, lesions), np.concatenate([[], *events]).astype(np.float64),
            better="lower", of="lesion", worst=1.0, factor=factor, level=severity, note=note, bounds=UNIT_RANGE,
        )  # fmt: skip
    yield _new_alarms(rows, factor, severity, note)


def _new_alarms(rows: pd.DataFrame, factor: str, severity: str, note: str) -> Quantity:
    free = rows[rows["n_reference"] == 0]
    if free.empty:
        return missing("false_alarm_change", "no lesion-free images in the data", factor=factor, level=severity)
    change = free["false_alarm"].to_numpy(dtype=np.float64) - free["false_alarm_clean"].to_numpy(dtype=np.float64)
    return Quantity(
        "false_alarm_change", "mean", free["case"].to_numpy(dtype=object), change, better="lower", worst=1.0,
        factor=factor, level=severity, note=f"{note}; lesion-free images with a predicted mask, degraded minus clean",
        bounds=(-1.0, 1.0),
    )  # fmt: skip
