"""Do the explanations tell the truth?

A map is believed as far as hiding what it points at lowers the score more than hiding what a map without any knowledge
of the model's reasons points at: random, centre, edges, the predicted mask, the distance to it. What counts is the
excess over the best of these, and outside the region, where painting the mask earns nothing. And a map must change
when the weights are drawn anew. Faithful maps can still show a model that is wrong.

Tomsett et al., "Sanity Checks for Saliency Metrics", AAAI 2020; Adebayo et al., "Sanity Checks for Saliency Maps",
NeurIPS 2018; Hedström et al., "Quantus", JMLR 2023.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pyarrow as pa

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.data.case import Case
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Attribution, Budget, Explainer, Session, explain, get_explainer
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.targets import NO_FOREGROUND, Region, predicted_region
from xaiseg.faithfulness.baselines import RIVALS, baseline_maps
from xaiseg.faithfulness.deletion import VARIANTS, Deletion, Variant, deletions
from xaiseg.faithfulness.localisation import locate
from xaiseg.faithfulness.randomisation import randomised, similarity, similarity_in_rings
from xaiseg.seeds import derive_seed

if TYPE_CHECKING:
    import pandas as pd

BASELINE: Final = "baseline:"


@dataclass(frozen=True)
class _Metric:
    """A column of the rows as a quantity; ``worst`` stands for a failed or undefined case in a gate."""

    column: str
    note: str
    better: Literal["higher", "lower", ""] = ""
    worst: float | None = None
    bounds: tuple[float, float] | None = None


METRICS: Final[Mapping[str, _Metric]] = {
    "excess_context_deletion": _Metric(
        "excess_context",
        "Area over the deletion curve outside the region, minus that of the best baseline of the case.",
        better="higher",
        worst=-1.0,
    ),
    "excess_object_deletion": _Metric(
        "excess_object",
        "Area over the deletion curve of all pixels, minus that of the best baseline of the case.",
        better="higher",
        worst=-1.0,
    ),
    "deletion_context": _Metric(
        "deletion_context",
        "Area over the curve of the region's mean probability while pixels outside it are hidden.",
        better="higher",
    ),
    "deletion_object": _Metric(
        "deletion_object",
        "Area over the curve of the region's mean probability while pixels are hidden; painting the mask does well.",
        better="higher",
    ),
    "randomisation_similarity": _Metric(
        "randomisation_similarity",
        "Rank correlation of the map with that of the same network with random weights, region frozen, in rings of "
        "equal distance to the region.",
        better="lower",
        worst=1.0,
        bounds=(-1.0, 1.0),
    ),
    "randomisation_similarity_outside": _Metric(
        "randomisation_similarity_outside",
        "The same, outside the region alone.",
        better="lower",
        worst=1.0,
        bounds=(-1.0, 1.0),
    ),
    "randomisation_similarity_plain": _Metric(
        "randomisation_similarity_plain",
        "The same without rings, as in the literature; high for every local map, since the region is frozen.",
        better="lower",
        bounds=(-1.0, 1.0),
    ),
    "energy_in_region": _Metric(
        "energy_in_region",
        "Share of the map inside the predicted region; descriptive, high is no proof of truth.",
        bounds=(0.0, 1.0),
    ),
    "context_share": _Metric(
        "context_share",
        "Share of the map farther from the region than 5 % of the image diagonal; descriptive.",
        bounds=(0.0, 1.0),
    ),
    "completeness_error": _Metric(
        "completeness_error",
        "Distance of the map's sum from the change of score that it explains, as a share of it.",
        better="lower",
    ),
}


@dataclass(frozen=True)
class Params:
    """How explanations are measured.

    Attributes:
        methods: names of explainers.
        steps: points of a deletion curve.
        grid: cells a side of occlusion.
        randomisations: networks with random weights that each map is compared with; 0 leaves the comparison out.
        baseline: what hidden pixels show: "mean" or "blur" of the image.
    """

    methods: tuple[str, ...] = ("hirescam", "integrated-gradients", "occlusion")
    steps: int = 8
    grid: int = 8
    randomisations: int = 1
    baseline: Replacement = "mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", tuple(self.methods))  # YAML gives a list
        for method in self.methods:
            get_explainer(method)
        lowest = {"steps": 2, "grid": 1, "randomisations": 0}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise UsageError(
                    "the number is too small",
                    where=f"explanation.{name}",
                    got=getattr(self, name),
                    allowed=f">= {least}",
                )
        if self.baseline not in DESCRIPTION:
            raise UsageError(
                "no such baseline", where="explanation.baseline", got=self.baseline, allowed=", ".join(DESCRIPTION)
            )


@check(
    "explanation",
    question="Do the explanations tell the truth?",
    needs={"segmenter", "scores", "model"},
    params=Params,
    columns=[
        ("class_name", pa.string()),
        ("score", pa.float64()),  # mean logit over the region
        ("probability", pa.float64()),  # mean probability over the region
        ("region_share", pa.float64()),
        ("deletion_object", pa.float64()),
        ("deletion_context", pa.float64()),
        ("excess_object", pa.float64()),
        ("excess_context", pa.float64()),
        ("best_object", pa.string()),  # baseline with the largest area over the curve
        ("best_context", pa.string()),
        ("energy_in_region", pa.float64()),
        ("energy_outside", pa.float64()),
        ("context_share", pa.float64()),
        ("randomisation_similarity", pa.float64()),
        ("randomisation_similarity_outside", pa.float64()),
        ("randomisation_similarity_plain", pa.float64()),
        ("completeness_error", pa.float64()),
        ("notes", pa.string()),
    ],
    score="excess_context",
)
class Explanation:
    """Rows: one a method and one a baseline for each case; the key column ``target`` names the method."""

    def forwards(self, params: Params) -> int:
        """About how many forwards a case takes, for the plan; integrated gradients may need up to 64 instead of 32."""
        cost = {"hirescam": 1, "integrated-gradients": 32, "occlusion": params.grid**2}
        maps = sum(cost.get(method, 1) for method in params.methods) * (1 + params.randomisations)
        return maps + 2 * params.steps * (len(params.methods) + RIVALS)

    def measure(self, context: Context, case: Case) -> Iterator[Row]:
        """Explains the largest predicted foreground class, and tests the maps."""
        subject, params = context.segmenter, context.params
        prediction = context.prediction()
        region = predicted_region(prediction, subject.info.classes)
        lacking = {name: get_explainer(name).missing(subject) for name in params.methods}
        if region is None:
            lacking = {name: reason or NO_FOREGROUND for name, reason in lacking.items()}
        for name, reason in lacking.items():
            if reason:
                yield {"target": name, "status": "not_applicable", "reason": reason}
        able = [name for name, reason in lacking.items() if not reason]
        if region is None or not able:
            return
        seed = derive_seed(context.seed, "explanation", case.id)
        budget = Budget(int(context.facts.get("batch", Budget().batch_size)))
        session = Session(subject, case.image, seed=seed, budget=budget, prediction=prediction)
        try:
            yield from _measured(context, case, session, region, able)
        finally:
            context.count(forwards=session.forwards, backwards=session.backwards)

    def quantities(self, tables: Tables, params: Params) -> Iterator[Quantity]:
        """One of each metric for each method, and the deletion of each baseline."""
        table = tables.rows["explanation"]
        for method in params.methods:
            for metric in METRICS:
                if metric != "completeness_error" or _column(table, method, metric).notna().any():
                    yield _quantity(table, method, metric)
        for name in sorted({target for target in table["target"] if target.startswith(BASELINE)}):
            for variant in VARIANTS:
                yield _quantity(table, name, f"deletion_{variant}")


def _measured(context: Context, case: Case, session: Session, region: Region, methods: Iterable[str]) -> Iterator[Row]:
    found: dict[str, Attribution] = {}
    for method in methods:
        try:
            found[method] = explain(session, method, [region], params=_params(get_explainer(method), context.params))
        except SubjectError as error:
            # Not "failed": the image was processed, and the other methods' maps stand.
            yield {"target": method, "status": "undefined", "reason": str(error)}
    rivals = baseline_maps(case.image, region.mask, context.generator("random map"))
    maps = {name: each.values[0] for name, each in found.items()}
    curves = deletions(
        session,
        region,
        maps | rivals,
        ties=context.generator("ties").random(region.mask.shape),
        steps=context.params.steps,
        baseline=context.params.baseline,
    )
    shared: Row = {
        "class_name": region.name,
        "score": session.score(region),
        "probability": session.score(region.as_probability()),
        "region_share": float(region.mask.mean()),
    }
    sanity = _Sanity.open(context, session, region)
    for method, attribution in found.items():
        context.evidence(method, maps[method])
        yield {"target": method, **shared, **_deleted(curves, method, rivals), **sanity.row(method, attribution)}
    for name in rivals:
        areas = {f"deletion_{variant}": each[name].area_over for variant, each in curves.items() if each}
        yield {"target": BASELINE + name, **shared, **areas}


def _params(explainer: Explainer, params: Params) -> Any:
    """The explainer's defaults, with the fields that the check fixes where it has them."""
    fixed = {"grid": params.grid, "baseline": params.baseline}
    known = {field.name for field in dataclasses.fields(explainer.params)}
    return explainer.params(**{name: value for name, value in fixed.items() if name in known})


def _deleted(curves: Mapping[Variant, Mapping[str, Deletion]], method: str, rivals: Iterable[str]) -> Row:
    row: Row = {}
    for variant, each in curves.items():
        if not each:  # the region fills the image, so nothing lies outside
            continue
        best = max(rivals, key=lambda name: each[name].area_over)
        row[f"deletion_{variant}"] = each[method].area_over
        row[f"excess_{variant}"] = each[method].area_over - each[best].area_over
        row[f"best_{variant}"] = best
    return row


@dataclass(frozen=True)
class _Sanity:
    """The same image on networks with random weights, with the region frozen from the model itself."""

    context: Context
    region: Region
    twins: tuple[Session, ...]

    @classmethod
    def open(cls, context: Context, session: Session, region: Region) -> _Sanity:
        subject = context.segmenter
        draws = range(context.params.randomisations if "weights" in subject.info.offers else 0)
        twins = tuple(
            Session(
                randomised(subject, context.seed, draw),
                session.image,
                seed=session.seed,
                budget=session.budget,
                prediction=session.prediction,
            )
            for draw in draws
        )
        return cls(context, region, twins)

    def row(self, method: str, found: Attribution) -> Row:
        """Location, randomisation and notes of one method's map."""
        values, mask = found.values[0], self.region.mask
        place = locate(values, mask)
        notes = list(found.notes)
        alike: list[tuple[float | None, ...]] = []
        for twin in self.twins:
            try:
                other = self._other(twin, method)
            except SubjectError as error:
                notes.append(f"with random weights: {error}")
                continue
            in_rings = similarity_in_rings(values, other, mask)
            outside = similarity_in_rings(values, other, mask, ~mask)
            alike.append((in_rings, outside, similarity(values, other)))
        return {
            "energy_in_region": place.inside,
            "energy_outside": place.outside,
            "context_share": place.context,
            "randomisation_similarity": _mean(each[0] for each in alike),
            "randomisation_similarity_outside": _mean(each[1] for each in alike),
            "randomisation_similarity_plain": _mean(each[2] for each in alike),
            "completeness_error": None if found.completeness is None else float(found.completeness[0]),
            "notes": "; ".join(notes),
        }

    def _other(self, twin: Session, method: str) -> np.ndarray:
        before = (twin.forwards, twin.backwards)
        try:
            params = _params(get_explainer(method), self.context.params)
            first: np.ndarray = explain(twin, method, [self.region], params=params).values[0]
            return first
        finally:
            self.context.count(forwards=twin.forwards - before[0], backwards=twin.backwards - before[1])


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _column(table: pd.DataFrame, target: str, metric: str) -> pd.Series[float]:
    rows = table[(table["target"] == target) & table["status"].isin(["ok", "undefined"])]
    return rows[METRICS[metric].column].astype(float)


def _quantity(table: pd.DataFrame, target: str, metric: str) -> Quantity:
    facts = METRICS[metric]
    column = _column(table, target, metric)
    missing = ""
    if not column.notna().any():
        reasons = table.loc[(table["target"] == target) & (table["reason"].astype(str) != ""), "reason"]
        missing = str(reasons.mode().iloc[0]) if len(reasons) else "no case gave a value"
        if metric.startswith("randomisation") and not len(reasons):
            missing = "no case gave a value; it needs a model that shows its weights"
        column = column.iloc[:0]
    return Quantity(
        metric,
        "mean",
        table.loc[column.index, "case"].to_numpy(),
        column.to_numpy(dtype=np.float64),
        better=facts.better,
        worst=facts.worst,
        bounds=facts.bounds,
        target=target,
        note=facts.note,
        missing=missing,
    )
