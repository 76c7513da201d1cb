"""Are these explanations of this image true? The tests behind :func:`xaiseg.evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np

from xaiseg.errors import SubjectError, UsageError, did_you_mean
from xaiseg.explainers.base import Session, explain, get_explainer
from xaiseg.explainers.replacement import Replacement
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.agreement import agreement
from xaiseg.faithfulness.baselines import baseline_maps
from xaiseg.faithfulness.deletion import Curves, curves
from xaiseg.faithfulness.imputation import Mode
from xaiseg.faithfulness.localisation import locate
from xaiseg.faithfulness.measuring import bank_for, described, from_bank, steadiness, versus
from xaiseg.faithfulness.randomisation import entropy_rise, randomised, similarity_in_rings
from xaiseg.faithfulness.road import PERCENTILES, road
from xaiseg.faithfulness.sensitivity import RADIUS
from xaiseg.seeds import generator

Better = Literal["higher", "lower", ""]

#: What may be asked for -> the numbers that it gives, with the direction that is good.
METRICS: Final[Mapping[str, Mapping[str, Better]]] = {
    "deletion": {"deletion_object": "higher", "deletion_context": "higher"},
    "insertion": {"insertion_object": "higher", "insertion_context": "higher"},
    "road": {"road_object": "higher", "road_context": "higher"},
    "bank": {"infidelity": "lower", "unexplained": "lower", "sensitivity_n": "higher"},
    "max-sensitivity": {"max_sensitivity": "lower"},
    "randomisation": {"randomisation_similarity": "lower", "entropy_rise": "higher"},
    "localisation": {"energy_in_region": "", "leakage": "", "pointing_game": "", "relevance_mass": "",
                     "relevance_rank": ""},
    "complexity": {"complexity": "", "sparseness": ""},
    "agreement": {"agreement": ""},
}  # fmt: skip
DEFAULT: Final = ("deletion", "randomisation", "localisation", "complexity", "agreement")


@dataclass(frozen=True)
class Settings:
    """How maps are tested.

    Attributes:
        steps: points of a deletion curve.
        insertion_steps: points of an insertion curve.
        percentiles: of ROAD.
        road_mode: "fast" or "exact".
        masks: masks of the bank for infidelity and sensitivity-n; a method's own masks are used where there are any.
        grid: cells a side of those masks.
        samples: nearby images of max-sensitivity.
        radius: how far they may differ, as a share of the declared range.
        baseline: what hidden pixels show.
    """

    steps: int = 8
    insertion_steps: int = 8
    percentiles: tuple[float, ...] = PERCENTILES
    road_mode: Mode = "fast"
    masks: int = 256
    grid: int = 8
    samples: int = 10
    radius: float = RADIUS
    baseline: Replacement = "mean"


@dataclass(frozen=True)
class Score:
    """One number of one map.

    Attributes:
        method: name of the map.
        metric: name of the number, see :data:`METRICS`.
        value: None where it is undefined.
        better: which direction is good; "" where it only describes.
        excess: how much better than the best map that needs no model; None where that comparison means nothing.
        best: that rival.
        note: why there is no value.
    """

    method: str
    metric: str
    value: float | None
    better: Better = ""
    excess: float | None = None
    best: str = ""
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate_session` found.

    Attributes:
        scores: every number of every map.
        maps: name -> (H, W) float32, what was tested.
        target: name of the explained class.
        forwards, backwards: what it cost, counted in images.
    """

    scores: tuple[Score, ...]
    maps: Mapping[str, np.ndarray] = field(repr=False)
    target: str
    forwards: int
    backwards: int

    def score(self, metric: str, method: str = "") -> Score:
        """One number; the method may be left out where there is only one.

        Raises:
            UsageError: there is no such number, or more than one.
        """
        found = [each for each in self.scores if each.metric == metric and method in ("", each.method)]
        if len(found) != 1:
            known = {each.metric for each in self.scores}
            then = did_you_mean(metric, known) if metric not in known else "name the method"
            raise UsageError("this is not one number", where="metric", got=f"{metric} {method}".strip(), then=then)
        return found[0]

    def table(self) -> str:
        """One line a metric, one column a method: value, and in brackets the excess over the best rival."""
        methods = list(dict.fromkeys(each.method for each in self.scores))
        metrics = list(dict.fromkeys(each.metric for each in self.scores))
        held = {(each.metric, each.method): each for each in self.scores}
        lines = [["metric", *methods]]
        for metric in metrics:
            lines.append([metric, *(_cell(held.get((metric, method))) for method in methods)])
        widths = [max(len(line[column]) for line in lines) for column in range(len(methods) + 1)]
        padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
        return "\n".join(line.rstrip() for line in padded)


def evaluate_session(
    session: Session,
    region: Region,
    method: str | Sequence[str] | Mapping[str, np.ndarray],
    metrics: Sequence[str] = DEFAULT,
    settings: Settings | None = None,
) -> Evaluation:
    """Tests explanations of one region of one image; :func:`xaiseg.evaluate` opens the session.

    Args:
        session: the image and the model.
        region: the frozen region.
        method: name or names of explainers, which run with their defaults; or maps that exist: name -> (H, W), signed,
            more important = higher. Tests that need new maps (randomisation, max-sensitivity) have no value for these.
        metrics: see :data:`METRICS`.
        settings: how maps are tested.

    Raises:
        UsageError: an unknown method or metric, or a map of another size.
        SubjectError: the model does not offer what a method needs.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise UsageError("no such metric", where="metrics", got=unknown[0], then=did_you_mean(unknown[0], METRICS))
    maps, params = _maps(session, region, method)
    if not maps or not metrics:
        raise UsageError("there is nothing to test", where="method" if not maps else "metrics", got="none",
                         allowed="one or more")  # fmt: skip
    test = _Test(session, region, maps, params, settings or Settings())
    scores = tuple(score for name in dict.fromkeys(metrics) for score in _TESTS[name](test))
    return Evaluation(scores, maps, region.name, session.forwards, session.backwards)


@dataclass(frozen=True)
class _Test:
    """Everything that a metric needs."""

    session: Session
    region: Region
    maps: dict[str, np.ndarray]
    params: Mapping[str, Any]
    settings: Settings

    @cached_property
    def rivals(self) -> dict[str, np.ndarray]:
        """Maps that need no model."""
        image = self.session.image.cpu().numpy()
        return baseline_maps(image, self.region.mask, generator(self.session.seed, "random map"))

    @cached_property
    def ties(self) -> np.ndarray:
        """Orders equal values."""
        return generator(self.session.seed, "ties").random(self.region.mask.shape)

    def scored(self, metric: str, better: Better, values: Mapping[str, float]) -> Iterator[Score]:
        """One number of all maps beside that of the best rival."""
        for name in self.maps:
            found = versus(values, name, self.rivals, higher_is_better=better == "higher")
            if found is None:
                yield Score(name, metric, None, better, note="undefined for this map")
            else:
                yield Score(name, metric, found.value, better, found.excess, found.best)


def _maps(
    session: Session, region: Region, method: str | Sequence[str] | Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Maps, and the parameters of those that were made here."""
    if isinstance(method, Mapping):
        for name, values in method.items():
            shape, numbers = np.shape(values), np.asarray(values).dtype.kind in "biuf"
            if shape != region.mask.shape or not numbers or not np.isfinite(values).all():
                got = f"{shape}, finite: {bool(np.isfinite(values).all())}" if numbers else type(values).__name__
                raise UsageError("this is no map of the image", where=name, got=got, allowed=region.mask.shape)
        return {name: np.asarray(values) for name, values in method.items()}, {}
    names = list(dict.fromkeys([method] if isinstance(method, str) else method))
    params = {name: get_explainer(name).params() for name in names}
    return {name: explain(session, name, [region], params=params[name]).values[0] for name in names}, params


def _curves(test: _Test, *, inserting: bool) -> Curves:
    settings = test.settings
    return curves(
        test.session,
        test.region,
        test.maps | test.rivals,
        ties=test.ties,
        steps=1 if inserting else settings.steps,
        insertion_steps=settings.insertion_steps if inserting else 0,
        baseline=settings.baseline,
    )


def _deletion(test: _Test) -> Iterator[Score]:
    for variant, found in _curves(test, inserting=False).deletion.items():
        areas = {name: curve.area_over for name, curve in found.items()}
        yield from test.scored(f"deletion_{variant}", "higher", areas)


def _insertion(test: _Test) -> Iterator[Score]:
    for variant, found in _curves(test, inserting=True).insertion.items():
        areas = {name: curve.area_under for name, curve in found.items()}
        yield from test.scored(f"insertion_{variant}", "higher", areas)


def _road(test: _Test) -> Iterator[Score]:
    settings, maps = test.settings, test.maps | test.rivals
    found = road(
        test.session, test.region, maps, ties=test.ties, percentiles=settings.percentiles, mode=settings.road_mode
    )
    for variant, each in found.items():
        yield from test.scored(f"road_{variant}", "higher", {name: one.combined for name, one in each.items()})


def _bank(test: _Test) -> Iterator[Score]:
    settings = test.settings
    filled = bank_for(test.session, test.region, settings.masks, grid=settings.grid, baseline=settings.baseline)
    if filled is None:
        raise UsageError(
            "the metrics of masks need masks", where="settings.masks", got=settings.masks, allowed="1 or more"
        )
    found = from_bank(filled[0], test.region, test.maps | test.rivals, filled[1])
    # A rival has no unit, so its unscaled infidelity says nothing.
    yield from (Score(name, "infidelity", found.infidelity[name], "lower") for name in test.maps)
    yield from test.scored("unexplained", "lower", found.unexplained)
    yield from test.scored("sensitivity_n", "higher", found.sensitivity_n)


def _max_sensitivity(test: _Test) -> Iterator[Score]:
    for name, values in test.maps.items():
        if name not in test.params:
            yield Score(name, "max_sensitivity", None, "lower", note="needs a method, not a finished map")
            continue
        found = steadiness(test.session, name, test.region, test.params[name], values,
                           radius=test.settings.radius, samples=test.settings.samples)  # fmt: skip
        yield Score(name, "max_sensitivity", found, "lower", note="" if found is not None else "the map is blank")


def _randomisation(test: _Test) -> Iterator[Score]:
    session = test.session
    for name, values in test.maps.items():
        other, note = _random_map(session, name, test) if name in test.params else (None, "needs a method")
        alike = None if other is None else similarity_in_rings(values, other, test.region.mask)
        rise = None if other is None else entropy_rise(values, other)
        yield Score(name, "randomisation_similarity", alike, "lower", note=note)
        yield Score(name, "entropy_rise", rise, "higher", note=note)


def _random_map(session: Session, method: str, test: _Test) -> tuple[np.ndarray | None, str]:
    """The method's map of a copy with random weights, or why there is none."""
    twin: Session | None = None
    try:
        copy = randomised(session.subject, session.seed)
        twin = Session(copy, session.image, seed=session.seed, budget=session.budget, prediction=session.prediction)
        return explain(twin, method, [test.region], params=test.params[method]).values[0], ""
    except SubjectError as error:
        return None, str(error)
    finally:
        if twin is not None:
            session.forwards += twin.forwards
            session.backwards += twin.backwards


def _localisation(test: _Test) -> Iterator[Score]:
    for name, values in test.maps.items():
        place = locate(values, test.region.mask)
        facts = {"energy_in_region": place.inside, "leakage": place.context, **described(values, test.region.mask)}
        yield from (Score(name, metric, facts[metric]) for metric in METRICS["localisation"])


def _complexity(test: _Test) -> Iterator[Score]:
    for name, values in test.maps.items():
        facts = described(values, test.region.mask)
        yield from (Score(name, metric, facts[metric]) for metric in METRICS["complexity"])


def _agreement(test: _Test) -> Iterator[Score]:
    """The mean rank correlation with the other maps, in rings."""
    matrix = agreement(test.maps, test.region.mask)
    for index, name in enumerate(test.maps):
        others = np.delete(matrix[index], index)
        known = others[~np.isnan(others)]
        note = "" if len(known) else "there is no other map to agree with"
        yield Score(name, "agreement", float(known.mean()) if len(known) else None, note=note)


_TESTS: Final = {
    "deletion": _deletion,
    "insertion": _insertion,
    "road": _road,
    "bank": _bank,
    "max-sensitivity": _max_sensitivity,
    "randomisation": _randomisation,
    "localisation": _localisation,
    "complexity": _complexity,
    "agreement": _agreement,
}


def _cell(score: Score | None) -> str:
    if score is None or score.value is None:
        return "-"
    return f"{score.value:.3f}" + ("" if score.excess is None else f" ({score.excess:+.3f})")
