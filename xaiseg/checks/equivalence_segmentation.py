"""Does another build still answer the same? Masks, lesions and confidences of both builds, image by image.

A mean hides who is hurt: compression keeps the average and changes single cases (S. Hooker et al., "What Do Compressed
Deep Neural Networks Forget?", arXiv:1911.05248). So the share of images whose Dice moves far and the lesions that
appear or vanish stand beside the mean change. Three calibration figures stand together, because the calibration error
alone can fall while a network gets worse.

A failed image counts as the worst change in every figure that has one. Where both builds leave an image without a
lesion empty there is no Dice; where one of them does, leaving it empty counts as Dice 1.
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
from xaiseg.checks.equivalence_quantities import paired_quantities
from xaiseg.errors import SubjectError, UsageError

if TYPE_CHECKING:
    from xaiseg.data.case import Case
    from xaiseg.subject import Prediction

ID: Final = "equivalence.segmentation"


@dataclass(frozen=True)
class Params:
    """How two builds are compared.

    Attributes:
        large: an image's Dice changes much when it moves by more than this.
        match_iou: a lesion of one build is there in the other when a component has at least this IoU with it.
        min_component_px: smaller components are not counted as lesions that appear or vanish.
        bins: of the calibration error.
    """

    large: float = 0.05
    match_iou: float = 0.1
    min_component_px: int = 5
    bins: int = 15

    def __post_init__(self) -> None:
        wrong = [
            (not 0 < self.large < 1, "large", self.large, "above 0, below 1"),
            (not 0 < self.match_iou <= 1, "match_iou", self.match_iou, "above 0, at most 1"),
            (self.min_component_px < 1, "min_component_px", self.min_component_px, "1 or more"),
            (self.bins < 2, "bins", self.bins, "2 or more"),
        ]
        for is_wrong, name, got, allowed in wrong:
            if is_wrong:
                raise UsageError("this parameter is out of range", where=f"{ID}: {name}", got=got, allowed=allowed)


@check(
    ID,
    question="Does the other build still segment the same?",
    needs=("segmenter", "model", "variants"),
    params=Params,
    columns=[
        ("pixels", pa.int64()),  # that the reference readers did not leave open
        ("flips", pa.int64()),  # pixels whose class changes
        ("good_to_bad", pa.int64()),  # right before, wrong after
        ("bad_to_good", pa.int64()),
        ("safe", pa.int64()),  # the margin is larger than the largest change seen on calibration images
        ("safe_flips", pa.int64()),  # pixels that change though they are safe
        ("nll", pa.float64()),
        ("nll_variant", pa.float64()),
        ("brier", pa.float64()),
        ("brier_variant", pa.float64()),
        ("ece", pa.float64()),
        ("ece_variant", pa.float64()),
        ("dice", pa.float64()),
        ("dice_variant", pa.float64()),
        ("hd95", pa.float64()),
        ("hd95_variant", pa.float64()),
        ("diagonal", pa.float64()),
        ("agreement", pa.float64()),  # Dice of the two predictions
        ("hd95_between", pa.float64()),
        ("vanished", pa.bool_()),  # of a component of the reference build (object = "lesion-1", ...)
        ("appeared", pa.bool_()),  # of a component of the variant (object = "new-1", ...)
        ("dice_kept", pa.float64()),  # minus the absolute change of Dice: the worst images for the gallery
    ],
    score="dice_kept",
)
class EquivalenceSegmentation:
    """Rows for each variant (``subject``): pixels of a case, masks of each class (``target``), components of both."""

    def measure(self, context: Context, case: Case) -> Iterable[Row]:
        """Compares the predictions of all builds with the audited model's."""
        first = context.prediction()
        for name, variant in context.variants.items():
            try:
                second = context.prediction(name)
            except SubjectError as error:
                yield {"subject": name, "status": "failed", "reason": str(error)}
                continue
            yield {"subject": name, **_pixels(case, first, second, context, variant.largest_change)}
            for index, target in enumerate(context.facts["classes"][1:], start=1):
                for row in _class_rows(case, first.labels, second.labels, index, context.params):
                    yield {"subject": name, "target": target, **row}

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """The same figures for every variant."""
        table = tables.rows[ID]
        for name in tables.facts["variants"]:
            # A failed image has a row of its own subject, or none but the engine's, which stands for all.
            rows = table[(table["subject"] == name) | (table["status"] != "ok") & (table["subject"] == "reference")]
            yield from paired_quantities(rows, name, params, classes=len(tables.facts["classes"]))


def _pixels(case: Case, first: Prediction, second: Prediction, context: Context, change: float | None) -> Row:
    valid = np.ones(case.shape, dtype=bool) if case.reference is None else case.reference != masks.IGNORE
    flipped = (first.labels != second.labels) & valid
    row: Row = {"pixels": int(valid.sum()), "flips": int(flipped.sum())}
    if first.probabilities is not None and change is not None:
        safe = (_margin(first.probabilities, context.facts["threshold"]) > change) & valid
        row |= {"safe": int(safe.sum()), "safe_flips": int((safe & flipped).sum())}
    if case.reference is None:
        return row
    right, still = first.labels == case.reference, second.labels == case.reference
    row |= {"good_to_bad": int((flipped & right).sum()), "bad_to_good": int((flipped & still).sum())}
    if first.probabilities is None or second.probabilities is None:
        return row
    before, after = (
        _scores(each.probabilities, case.reference, valid, context.params.bins) for each in (first, second)
    )
    return row | before | {f"{name}_variant": value for name, value in after.items()}


def _margin(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """(H, W): how far a logit lies from where the decision changes.

    From the threshold for two classes, from the second most likely class for more.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))
    if len(logits) == 2:
        return np.asarray(np.abs(logits[1] - logits[0] - math.log(threshold / (1 - threshold))))
    top = np.sort(logits, axis=0)[-2:]
    return np.asarray(top[1] - top[0])


def _scores(probabilities: np.ndarray | None, reference: np.ndarray, valid: np.ndarray, bins: int) -> Row:
    """Likelihood, Brier score and calibration error of the foreground; of all classes where there are several."""
    assert probabilities is not None
    p, truth = probabilities[:, valid].astype(np.float64), reference[valid].astype(np.intp)
    if len(p) == 2:
        confidence, right = p[1], truth == 1
        brier, nll = rel.brier_score(confidence, right), rel.negative_log_likelihood(confidence, right)[0]
    else:
        likelihood = np.take_along_axis(p, truth[None], axis=0)[0]
        confidence, right = p.max(axis=0), p.argmax(axis=0) == truth
        brier = float(((p**2).sum(axis=0) - 2.0 * likelihood + 1.0).mean())
        nll = rel.mean_log_loss(likelihood)[0]
    stacked = rel.histogram(confidence, right, bins=bins).stacked()
    return {"nll": nll, "brier": brier, "ece": rel.expected_calibration_error(stacked)}


def _class_rows(case: Case, first: np.ndarray, second: np.ndarray, index: int, params: Params) -> Iterator[Row]:
    open_pixels = case.reference == masks.IGNORE if case.reference is not None else np.zeros(case.shape, dtype=bool)
    before, after = (first == index) & ~open_pixels, (second == index) & ~open_pixels
    yield _mask_row(case, before, after, index)
    numbers = [masks.components(each) for each in (before, after)]
    for pair, word, column in ((numbers, "lesion", "vanished"), (numbers[::-1], "new", "appeared")):
        found = masks.match_lesions(pair[0], pair[1], match_iou=params.match_iou)
        large = found.areas >= params.min_component_px
        for number, there in enumerate(found.found[large].tolist(), start=1):
            yield {"object": f"{word}-{number}", column: not there}


def _mask_row(case: Case, before: np.ndarray, after: np.ndarray, index: int) -> Row:
    diagonal = math.hypot(*case.shape)
    row: Row = {"agreement": masks.overlap(before, after).dice, "diagonal": diagonal}
    row["hd95_between"] = _hd95(before, after, diagonal)
    if case.reference is None:
        return row
    truth = case.reference == index
    dices = [masks.overlap(truth, each).dice for each in (before, after)]
    if dices != [None, None]:
        # One of them is empty as the reference is: that is right.
        old, new = (1.0 if dice is None else dice for dice in dices)
        row |= {"dice": old, "dice_variant": new, "dice_kept": -abs(new - old)}
    return row | {"hd95": _hd95(truth, before, diagonal), "hd95_variant": _hd95(truth, after, diagonal)}


def _hd95(first: np.ndarray, second: np.ndarray, diagonal: float) -> float | None:
    """In px: the diagonal where one mask is empty, None where both are."""
    if not first.any() and not second.any():
        return None
    if not first.any() or not second.any():
        return diagonal
    box = masks.union_box(first, second)
    return masks.hd95(*masks.border_distances(first[box], second[box]))
