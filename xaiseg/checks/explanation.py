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
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

import numpy as np
import pyarrow as pa

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.explanation_quantities import BASELINE, METRICS, OF_BASELINES, quantities_of
from xaiseg.data.case import Case
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Attribution, Budget, Explainer, Session, explain, get_explainer
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.targets import NO_FOREGROUND, Region, predicted_region
from xaiseg.faithfulness.agreement import agreement
from xaiseg.faithfulness.baselines import RIVALS, baseline_maps
from xaiseg.faithfulness.deletion import curves
from xaiseg.faithfulness.imputation import Mode
from xaiseg.faithfulness.localisation import locate
from xaiseg.faithfulness.measuring import FEWEST_MASKS, bank_for, described, from_bank, steadiness, versus
from xaiseg.faithfulness.randomisation import entropy_rise, randomised, similarity, similarity_in_rings
from xaiseg.faithfulness.road import road
from xaiseg.faithfulness.sensitivity import RADIUS
from xaiseg.seeds import derive_seed

#: "dataset-mean" is not among them: a check that measures one case has no data set to average.
FROM_IMAGE: Final = tuple(kind for kind in DESCRIPTION if kind != "dataset-mean")


@dataclass(frozen=True)
class Params:
    """How explanations are measured.

    Attributes:
        methods: names of explainers.
        steps: points of a deletion curve.
        grid: cells a side of occlusion.
        randomisations: networks with random weights that each map is compared with; 0 leaves the comparison out.
        baseline: what hidden pixels show: "mean", "blur", "noise" or "inpaint", all made from the image itself.
        insertion_steps: points of an insertion curve; 0 leaves insertion out.
        road: percentiles of ROAD; none leaves it out.
        road_mode: how holes are filled, "fast" or "exact".
        bank: masks for infidelity and sensitivity-n; 0 = only the masks that a method has drawn anyway.
        sensitivity_samples: nearby images of max-sensitivity, each explained by every method; 0 leaves it out.
        sensitivity_radius: how far their values may differ, as a share of the declared range.
        layer: dotted name of the layer that class activation maps are read from; None = the automatic choice. A layer
            that was chosen by :func:`~xaiseg.faithfulness.layers.rank_layers` must come from other images.
    """

    methods: tuple[str, ...] = ("hirescam", "integrated-gradients", "occlusion")
    steps: int = 8
    grid: int = 8
    randomisations: int = 1
    baseline: Replacement = "mean"
    insertion_steps: int = 0
    road: tuple[float, ...] = ()
    road_mode: Mode = "fast"
    bank: int = 0
    sensitivity_samples: int = 0
    sensitivity_radius: float = RADIUS
    layer: str | None = None

    def __post_init__(self) -> None:
        for name in ("methods", "road"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # YAML gives a list
        for method in self.methods:
            get_explainer(method)
        lowest = {"steps": 2, "grid": 1, "randomisations": 0, "insertion_steps": 0, "bank": 0, "sensitivity_samples": 0}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise UsageError(
                    "the number is too small",
                    where=f"explanation.{name}",
                    got=getattr(self, name),
                    allowed=f">= {least}",
                )
        problems: list[tuple[bool, str, str, object]] = [
            (
                self.baseline not in FROM_IMAGE,
                "no baseline that the check can make",
                "baseline",
                ", ".join(FROM_IMAGE),
            ),
            (self.road_mode not in get_args(Mode), "no such way of filling", "road_mode", ", ".join(get_args(Mode))),
            (not all(0 < each < 100 for each in self.road), "no percentiles", "road", "above 0 and below 100"),
            (0 < self.bank < FEWEST_MASKS, "too few masks", "bank", f"0, or {FEWEST_MASKS} or more"),
            (not 0 < self.sensitivity_radius <= 1, "no radius", "sensitivity_radius", "above 0, up to 1"),
        ]
        for wrong, what, name, allowed in problems:
            if wrong:
                raise UsageError(what, where=f"explanation.{name}", got=getattr(self, name), allowed=allowed)


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
        ("entropy_rise", pa.float64()),
        ("pointing_game", pa.float64()),
        ("relevance_mass", pa.float64()),
        ("relevance_rank", pa.float64()),
        ("complexity", pa.float64()),
        ("sparseness", pa.float64()),
        ("agreements", pa.list_(pa.float64())),  # with each of params.methods, NaN where there is none
        ("insertion_object", pa.float64()),
        ("insertion_context", pa.float64()),
        ("excess_insertion_object", pa.float64()),
        ("excess_insertion_context", pa.float64()),
        ("road_object", pa.float64()),
        ("road_context", pa.float64()),
        ("excess_road_object", pa.float64()),
        ("excess_road_context", pa.float64()),
        ("infidelity", pa.float64()),  # in squares of the score's unit
        ("unexplained", pa.float64()),
        ("excess_unexplained", pa.float64()),
        ("sensitivity_n", pa.float64()),
        ("excess_sensitivity_n", pa.float64()),
        ("max_sensitivity", pa.float64()),
        ("notes", pa.string()),
    ],
    score="excess_context",
)
class Explanation:
    """Rows: one a method and one a baseline for each case; the key column ``target`` names the method."""

    def forwards(self, params: Params) -> int:
        """The most forwards that a case takes, for the plan: methods that stop early need fewer."""
        maps = sum(each.forwards(_params(each, params)) for each in map(get_explainer, params.methods))
        curves_of_one = 2 * (params.steps + params.insertion_steps) + 4 * len(params.road)
        # Two ends of the deletion and of the insertion curves, that of the bank's baseline, and the score of the image.
        once = params.bank + 6
        copies = 1 + params.randomisations + params.sensitivity_samples
        return maps * copies + once + curves_of_one * (len(params.methods) + RIVALS)

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
        """One of each metric for each method, the agreement of each pair, and the scores of each baseline."""
        return quantities_of(tables.rows["explanation"], params.methods)


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
    scores = _scores(context, session, region, maps, rivals)
    shared: Row = {
        "class_name": region.name,
        "score": session.score(region),
        "probability": session.score(region.as_probability()),
        "region_share": float(region.mask.mean()),
    }
    sanity = _Sanity.open(context, session, region)
    alike = agreement(maps, region.mask)
    for index, (method, attribution) in enumerate(found.items()):
        context.evidence(method, maps[method])
        agreements = dict(zip(found, alike[index].tolist(), strict=True))
        yield {
            "target": method,
            **shared,
            **compared(scores, method, rivals),
            **sanity.row(method, attribution),
            **described(maps[method], region.mask),
            "agreements": [agreements.get(other, math.nan) for other in context.params.methods],
            "max_sensitivity": _steady(context.params, session, region, method, maps[method]),
        }
    for name in rivals:
        values = {column: each[name] for column, each in scores.items() if column in OF_BASELINES}
        yield {"target": BASELINE + name, **shared, **values}


def _scores(
    context: Context,
    session: Session,
    region: Region,
    maps: Mapping[str, np.ndarray],
    rivals: Mapping[str, np.ndarray],
) -> dict[str, dict[str, float]]:
    """Column -> map or rival -> number; a test that was not asked for has no column."""
    params, every = context.params, {**maps, **rivals}
    ties = context.generator("ties").random(region.mask.shape)
    found = curves(
        session,
        region,
        every,
        ties=ties,
        steps=params.steps,
        insertion_steps=params.insertion_steps,
        baseline=params.baseline,
    )
    scores = {f"deletion_{key}": {n: c.area_over for n, c in each.items()} for key, each in found.deletion.items()}
    scores |= {f"insertion_{key}": {n: c.area_under for n, c in each.items()} for key, each in found.insertion.items()}
    if params.road:
        roads = road(session, region, every, ties=ties, percentiles=params.road, mode=params.road_mode)
        scores |= {f"road_{key}": {n: r.combined for n, r in each.items()} for key, each in roads.items()}
    filled = bank_for(session, region, params.bank, grid=params.grid, baseline=params.baseline)
    if filled is not None:
        masks = from_bank(filled[0], region, every, filled[1])
        scores |= {"unexplained": masks.unexplained, "sensitivity_n": masks.sensitivity_n}
        scores["infidelity"] = masks.infidelity
    return {column: each for column, each in scores.items() if each}  # a region that fills the image has no context


def _steady(params: Params, session: Session, region: Region, method: str, values: np.ndarray) -> float | None:
    if not params.sensitivity_samples:
        return None
    chosen = _params(get_explainer(method), params)
    radius, samples = params.sensitivity_radius, params.sensitivity_samples
    return steadiness(session, method, region, chosen, values, radius=radius, samples=samples)


def _params(explainer: Explainer, params: Params) -> Any:
    """The explainer's defaults, with the fields that the check fixes where it has them."""
    fixed = {"grid": params.grid, "baseline": params.baseline, "layer": params.layer}
    known = {field.name for field in dataclasses.fields(explainer.params)}
    return explainer.params(**{name: value for name, value in fixed.items() if name in known})


def compared(scores: Mapping[str, Mapping[str, float]], method: str, rivals: Iterable[str]) -> Row:
    """The columns of one method: its scores, and what they exceed the best rival by.

    Args:
        scores: column -> map or rival -> number.
        method: name of the map.
        rivals: names of the rivals.

    >>> compared({"unexplained": {"cam": 0.5, "random": 0.75}}, "cam", ["random"])
    {'unexplained': 0.5, 'excess_unexplained': 0.25}
    """
    row: Row = {}
    for column, each in scores.items():
        found = versus(each, method, rivals, higher_is_better=METRICS[column].better == "higher")
        if found is None:
            continue
        row[column] = found.value
        if column.startswith("deletion_"):
            variant = column.removeprefix("deletion_")
            row |= {f"excess_{variant}": found.excess, f"best_{variant}": found.best}
        elif column != "infidelity":  # whose unit a rival does not have
            row[f"excess_{column}"] = found.excess
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
        rises: list[float | None] = []
        for twin in self.twins:
            try:
                other = self._other(twin, method)
            except SubjectError as error:
                notes.append(f"with random weights: {error}")
                continue
            in_rings = similarity_in_rings(values, other, mask)
            outside = similarity_in_rings(values, other, mask, ~mask)
            alike.append((in_rings, outside, similarity(values, other)))
            rises.append(entropy_rise(values, other))
        return {
            "energy_in_region": place.inside,
            "energy_outside": place.outside,
            "context_share": place.context,
            "randomisation_similarity": _mean(each[0] for each in alike),
            "randomisation_similarity_outside": _mean(each[1] for each in alike),
            "randomisation_similarity_plain": _mean(each[2] for each in alike),
            "entropy_rise": _mean(rises),
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
