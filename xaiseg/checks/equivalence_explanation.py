"""Does another build still explain itself the same? The same masks, the same region, another arithmetic.

Compression deforms maps although it keeps predictions (G. Park et al., "Attribution Preservation in Network
Compression for Reliable Network Interpretation", NeurIPS 2020), so masks that agree do not settle it. Integers have no
gradient; methods that hide parts of the image and watch the answer run through the build itself, and only these are
taken here. The region is frozen from the audited model's unperturbed prediction and is the same for every build.

A sampled map differs from itself when its masks are drawn anew. That repeat, of the audited model alone, is the noise
ceiling: a build whose map lies no farther from the audited map than the repeat does cannot be told from it by anyone
who explains an image once. The builds share their masks, so a harmless one lies above the ceiling. A method that draws
nothing (occlusion) repeats itself exactly: its ceiling is 1, and every change is the build's.

Maps can be alike and yet untrue of the build that they explain, so each build's own map is tested on the build itself
by deletion (:mod:`xaiseg.faithfulness.deletion`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pyarrow as pa

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.equivalence_maps import flat, likeness
from xaiseg.checks.quantities import UNIT_RANGE
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Budget, Session, explain, get_explainer
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.targets import NO_FOREGROUND, Region, predicted_region
from xaiseg.faithfulness.deletion import deletions
from xaiseg.seeds import derive_seed
from xaiseg.variants import segmenter_of

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.data.case import Case
    from xaiseg.subject import Prediction, Segmenter

ID: Final = "equivalence.explanation"
#: "dataset-mean" is not among them: a check that measures one case has no data set to average.
FROM_IMAGE: Final = tuple(kind for kind in DESCRIPTION if kind != "dataset-mean")
#: Above 1: every build gets all masks, not as many as its own map happens to need.
NEVER_EARLY: Final = 2.0
#: Name of the audited build in the maps of the galleries.
AUDITED: Final = "audited"


@dataclass(frozen=True)
class Params:
    """How the maps of two builds are compared.

    Attributes:
        methods: names of explainers that need nothing but scores.
        masks: of sampled methods, the same for every build.
        grid: cells a side. A coarse grid needs few masks: what is compared is a change, not a fine picture.
        offsets: positions of the grid, 1, 2 or 4.
        steps: points of a deletion curve.
        baseline: what hidden pixels show: "mean", "blur", "noise" or "inpaint".
    """

    methods: tuple[str, ...] = ("ridge", "occlusion")
    masks: int = 64
    grid: int = 4
    offsets: Literal[1, 2, 4] = 1
    steps: int = 4
    baseline: Replacement = "mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", tuple(self.methods))  # YAML gives a list
        wrong: list[tuple[bool, str, object, object]] = [
            (not self.methods, "methods", "none", "1 or more"),
            (len(set(self.methods)) < len(self.methods), "methods", ", ".join(self.methods), "each once"),
            (self.masks < 8, "masks", self.masks, "8 or more"),
            (self.grid < 2, "grid", self.grid, "2 or more"),
            (self.offsets not in (1, 2, 4), "offsets", self.offsets, "1, 2, 4"),
            (self.steps < 2, "steps", self.steps, "2 or more"),
            (self.baseline not in FROM_IMAGE, "baseline", self.baseline, ", ".join(FROM_IMAGE)),
        ]
        for is_wrong, name, got, allowed in wrong:
            if is_wrong:
                raise UsageError("this parameter is out of range", where=f"{ID}: {name}", got=got, allowed=allowed)
        for method in self.methods:
            more = sorted(get_explainer(method).needs - {"scores"})
            if more:
                raise UsageError(
                    f"{method} needs {' and '.join(more)}, which integers do not have: their gradient is zero",
                    where=f"{ID}: methods", got=method, allowed="methods that need scores alone",
                    then="Take e.g. ridge, rise or occlusion; they run through the build itself",
                )  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """A measure of two maps, as a quantity.

    Attributes:
        note: what it is.
        better: "higher" or "lower".
        bounds: lowest and highest possible value.
        kind: "mean" or "proportion".
    """

    note: str
    better: Literal["higher", "lower"] = "higher"
    bounds: tuple[float, float] = UNIT_RANGE
    kind: Literal["mean", "proportion"] = "mean"

    @property
    def worst(self) -> float:
        """What a failed case, or a flat map of the other build, counts as."""
        return self.bounds[0] if self.better == "higher" else self.bounds[1]


MEASURES: Final[Mapping[str, Measure]] = {
    "spearman": Measure("Rank correlation of the signed maps of both builds", bounds=(-1.0, 1.0)),
    "ssim": Measure("Structural similarity of both maps, each on its own scale", bounds=(-1.0, 1.0)),
    "top5_iou": Measure("Overlap (IoU) of the highest 5 % of the pixels"),
    "top10_iou": Measure("Overlap (IoU) of the highest 10 % of the pixels"),
    "peak_distance": Measure("Distance of the highest places as a share of the diagonal", better="lower"),
    "pointing_agreement": Measure("Images in which both maps, or neither, point into the region", kind="proportion"),
}
#: Area over the deletion curve: name -> what is hidden.
DELETIONS: Final = {"deletion": "all pixels", "deletion_context": "pixels outside the region"}


@check(
    ID,
    question="Does the other build still explain itself the same?",
    needs={"segmenter", "scores", "model", "variants"},
    params=Params,
    columns=[
        # Of a variant: its map against the audited build's. Of the reference: its map against its own repeat.
        *((name, pa.float64()) for name in MEASURES),
        *((f"{name}_to_ceiling", pa.float64()) for name in MEASURES),
        *((name, pa.float64()) for name in DELETIONS),  # of the build's own map on the build itself
        *((f"{name}_change", pa.float64()) for name in DELETIONS),
    ],
    score="spearman_to_ceiling",
)
class EquivalenceExplanation:
    """Rows: one a build (``subject``) and method (``target``); those of "reference" hold the noise ceiling."""

    def measure(self, context: Context, case: Case) -> Iterator[Row]:
        """Explains the largest predicted foreground class by every build, with the same masks."""
        region = predicted_region(context.prediction(), context.segmenter.info.classes)
        if region is None:
            for method in context.params.methods:
                yield {"target": method, "status": "not_applicable", "reason": NO_FOREGROUND}
            return
        desk = _Desk(context, case, region, context.generator("ties").random(case.shape))
        methods = context.params.methods
        first = desk.explain(context.segmenter, context.prediction(), methods)
        repeat = desk.explain(context.segmenter, context.prediction(), methods, again=True)
        ceilings = {}
        for method, told in first.items():
            if flat(told.values):
                reason = "the audited build's own map is flat: hiding any part of the image changes nothing"
                yield {"target": method, "status": "not_applicable", "reason": reason}
                continue
            context.evidence(f"{method}: {AUDITED}", told.values)
            ceilings[method] = likeness(told.values, repeat[method].values, region.mask)
            yield {"target": method, **ceilings[method], **told.deletion}
        for name in context.variants:
            yield from desk.compared(name, {method: first[method] for method in ceilings}, ceilings)

    def quantities(self, tables: Tables, params: Params) -> Iterator[Quantity]:
        """The ceiling of each method, and for each variant and method the likeness, its distance from the ceiling and
        the change of the deletion score.
        """
        table = tables.rows[ID]
        for method in params.methods:
            yield from _of_reference(_Held.of(table, "reference", method))
            for name in tables.facts["variants"]:
                yield from _of_variant(_Held.of(table, name, method))


@dataclass(frozen=True)
class _Told:
    """A build's own map (H, W), and what deletion on the build itself says of it."""

    values: np.ndarray
    deletion: Mapping[str, float]


@dataclass(frozen=True)
class _Desk:
    """What all builds share: the image, the frozen region, the seed, and the order of equal pixels."""

    context: Context
    case: Case
    region: Region
    ties: np.ndarray

    def explain(
        self, subject: Segmenter, prediction: Prediction, methods: tuple[str, ...], *, again: bool = False
    ) -> dict[str, _Told]:
        """The maps of one build; ``again`` draws other masks and leaves deletion out."""
        params = self.context.params
        purpose = f"{ID}/repeat" if again else ID
        session = Session(
            subject, self.case.image, seed=derive_seed(self.context.seed, purpose, self.case.id),
            budget=Budget(int(self.context.facts.get("batch", Budget().batch_size))), prediction=prediction,
        )  # fmt: skip
        try:
            maps = {
                method: explain(session, method, [self.region], params=_fixed(method, params)).values[0]
                for method in methods
            }
            scores: dict[str, dict[str, float]] = {method: {} for method in maps}
            if not again:
                found = deletions(
                    session, self.region, maps, ties=self.ties, steps=params.steps, baseline=params.baseline
                )
                for name, curves in zip(DELETIONS, (found["object"], found["context"]), strict=True):
                    for method, curve in curves.items():
                        scores[method][name] = curve.area_over
            return {method: _Told(values, scores[method]) for method, values in maps.items()}
        finally:
            self.context.count(forwards=session.forwards)

    def compared(
        self, name: str, first: Mapping[str, _Told], ceilings: Mapping[str, Mapping[str, float | None]]
    ) -> Iterator[Row]:
        """The rows of one variant."""
        subject = segmenter_of(self.context.variants[name])
        for method in first:
            if lacking := get_explainer(method).missing(subject):
                yield {"subject": name, "target": method, "status": "not_applicable", "reason": lacking}
        able = tuple(method for method in first if not get_explainer(method).missing(subject))
        if not able:
            return
        try:
            second = self.explain(subject, self.context.prediction(name), able)
        except SubjectError as error:
            yield {"subject": name, "status": "failed", "reason": str(error)}
            return
        for method, told in second.items():
            self.context.evidence(f"{method}: {name}", told.values)
            found = likeness(first[method].values, told.values, self.region.mask)
            row: Row = {"subject": name, "target": method, **found, **told.deletion}
            for each, value in found.items():
                row[f"{each}_to_ceiling"] = _less(value, ceilings[method][each])
            for each, value in told.deletion.items():
                row[f"{each}_change"] = _less(value, first[method].deletion[each])
            yield row


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _fixed(method: str, params: Params) -> Any:
    """The explainer's defaults, with what the check fixes where the explainer has it."""
    entry = get_explainer(method)
    fixed: dict[str, Any] = {"masks": params.masks, "grid": params.grid, "offsets": params.offsets}
    fixed |= {"baseline": params.baseline, "agreement": NEVER_EARLY}
    known = {each.name for each in dataclasses.fields(entry.params)}
    return entry.params(**{name: value for name, value in fixed.items() if name in known})


_AREA: Final = "Area over the curve of the region's mean probability under the build's own map"


def _of_reference(held: _Held) -> Iterator[Quantity]:
    """The noise ceiling and the audited build's own deletion score; both describe, so failed cases are left out."""
    for name, measure in MEASURES.items():
        note = f"Noise ceiling. {measure.note}: the audited build against itself with other masks."
        yield replace(held.quantity(name, measure, note), metric=f"{name}_ceiling", worst=None)
    yield from _own_deletion(held)


def _of_variant(held: _Held) -> Iterator[Quantity]:
    for name, measure in MEASURES.items():
        yield held.quantity(name, measure, f"{measure.note}.")
        reach = measure.bounds[1] - measure.bounds[0]
        note = f"{measure.note}, minus that of the audited build with other masks; image by image."
        yield held.quantity(f"{name}_to_ceiling", Measure(note, measure.better, (-reach, reach)), note)
    yield from _own_deletion(held)
    for name, what in DELETIONS.items():
        note = f"{_AREA} while {what} are hidden, variant minus audited build; beyond ±1 counts as ±1."
        yield held.quantity(f"{name}_change", Measure(note, bounds=(-1.0, 1.0)), note)


def _own_deletion(held: _Held) -> Iterator[Quantity]:
    for name, what in DELETIONS.items():
        note = f"{_AREA} while {what} are hidden."
        yield replace(held.quantity(name, Measure(note), note, clip=False), worst=None, bounds=None)


@dataclass(frozen=True)
class _Held:
    """The rows of one build and method."""

    rows: pd.DataFrame
    subject: str
    method: str
    why_none: str

    @classmethod
    def of(cls, table: pd.DataFrame, subject: str, method: str) -> _Held:
        of_method = table["target"].isin([method, ""])  # a failed image has one row for all methods
        rows = table[(table["subject"] == subject) & of_method]
        told = [*rows["reason"], *table.loc[(table["subject"] == "reference") & of_method, "reason"]]
        return cls(rows, subject, method, next((each for each in told if each), "no case gave a value"))

    def quantity(self, column: str, measure: Measure, note: str, *, clip: bool = True) -> Quantity:
        """One column. A flat map of the other build is undefined, and both it and a failed case count as the worst."""
        ok = self.rows[self.rows["status"] == "ok"]
        values = ok[column].to_numpy(dtype=np.float64)
        none = ok.empty and not (self.rows["status"] == "failed").any()
        values = np.clip(values, *measure.bounds) if clip else values
        return Quantity(
            column, measure.kind, ok["case"].to_numpy(dtype=object), values, better=measure.better,
            worst=measure.worst, bounds=measure.bounds, target=self.method, subject=self.subject, note=note,
            missing=self.why_none if none else "",
        )  # fmt: skip
