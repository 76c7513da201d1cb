"""Quantities of the check explanation: what the rows of methods and of maps that need no model amount to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from xaiseg.checks.base import Quantity
from xaiseg.checks.quantities import UNIT_RANGE
from xaiseg.faithfulness.deletion import VARIANTS

if TYPE_CHECKING:
    import pandas as pd

BASELINE: Final = "baseline:"

#: Columns of baselines that are quantities; those after deletion only where they were measured.
OF_BASELINES: Final = (
    *(f"{test}_{variant}" for test in ("deletion", "insertion", "road") for variant in VARIANTS),
    "unexplained",
    "sensitivity_n",
)


def quantities_of(table: pd.DataFrame, methods: tuple[str, ...]) -> Iterator[Quantity]:
    """One of each metric for each method, the agreement of each pair, and the scores of each baseline."""
    for method in methods:
        for name, facts in METRICS.items():
            if not facts.optional or _column(table, method, name).notna().any():
                yield _quantity(table, method, name)
    yield from _agreements(table, methods)
    for target in sorted({target for target in table["target"] if target.startswith(BASELINE)}):
        for name in OF_BASELINES:
            if not METRICS[name].optional or _column(table, target, name).notna().any():
                yield _quantity(table, target, name)


def _agreements(table: pd.DataFrame, methods: tuple[str, ...]) -> Iterator[Quantity]:
    note = "Rank correlation of the maps of both methods in rings of equal distance to the region; descriptive."
    for first, second in combinations(range(len(methods)), 2):
        rows = table[(table["target"] == methods[first]) & (table["status"] == "ok")]
        found = np.array([_at(each, second) for each in rows["agreements"]], dtype=np.float64)
        cases = rows["case"].to_numpy()
        known = bool(np.isfinite(found).any())
        yield Quantity(
            "agreement",
            "mean",
            cases if known else cases[:0],
            found if known else found[:0],
            target=methods[first],
            factor="with",
            level=methods[second],
            bounds=(-1.0, 1.0),
            note=note,
            missing="" if known else "no case has a map of both methods",
        )


def _at(values: Iterable[float] | None, place: int) -> float:
    """One number of a list column, NaN where the list or the number is missing."""
    held = [] if values is None else list(values)
    return float(held[place]) if place < len(held) and held[place] is not None else float("nan")


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
        if metric.startswith(("randomisation", "entropy")) and not len(reasons):
            missing = "no case gave a value; it needs a model that shows its weights"
        column = column.iloc[:0]
    return Quantity(
        metric,
        facts.kind,
        table.loc[column.index, "case"].to_numpy(),
        column.to_numpy(dtype=np.float64),
        better=facts.better,
        worst=facts.worst,
        bounds=facts.bounds,
        target=target,
        note=facts.note,
        missing=missing,
    )


@dataclass(frozen=True)
class Metric:
    """A column of the rows as a quantity; ``worst`` stands for a failed or undefined case in a gate."""

    column: str
    note: str
    better: Literal["higher", "lower", ""] = ""
    worst: float | None = None
    bounds: tuple[float, float] | None = None
    kind: Literal["mean", "proportion"] = "mean"
    optional: bool = False  # a quantity only where a case has a value


def _on_request() -> dict[str, Metric]:
    """Metrics of tests that a protocol has to ask for, since they cost forwards."""
    best = ", minus that of the best baseline of the case."
    worded = {
        "insertion": "Area under the curve of the region's mean probability while pixels are shown{where}, most "
        "important first",
        "road": "Half the difference between the region's mean probability with the least and with the most important "
        "pixels{where} removed and filled from around them, as a share of the unperturbed one",
    }
    found = {}
    for test, words in worded.items():
        for variant, where in (("object", ""), ("context", " outside the region")):
            note = words.format(where=where)
            found[f"{test}_{variant}"] = Metric(f"{test}_{variant}", f"{note}.", better="higher", optional=True)
            found[f"excess_{variant}_{test}"] = Metric(
                f"excess_{test}_{variant}", note + best, better="higher", worst=-1.0, optional=True
            )
    share = "Share of the change of score under random masks that the map does not foretell, in its best unit"
    correlation = "Correlation over random masks of the hidden part of the map with the fall of the score"
    return found | {
        "unexplained": Metric("unexplained", f"{share}.", better="lower", bounds=UNIT_RANGE, optional=True),
        "excess_unexplained": Metric(
            "excess_unexplained", f"{share}: that of the best baseline of the case, minus the map's own.",
            better="higher", worst=-1.0, optional=True,
        ),
        "sensitivity_n": Metric("sensitivity_n", f"{correlation}.", better="higher", bounds=(-1.0, 1.0), optional=True),
        "excess_sensitivity_n": Metric(
            "excess_sensitivity_n", correlation + best, better="higher", worst=-2.0, optional=True
        ),
        "infidelity": Metric(
            "infidelity", "Mean squared difference between the hidden part of the map and the fall of the score under "
            "random masks, in squares of the score's unit; compares runs of one model, not methods.", better="lower",
            optional=True,
        ),
        "max_sensitivity": Metric(
            "max_sensitivity", "Largest change of the map when every value of the image moves a little, as a share of "
            "the map.", better="lower", optional=True,
        ),
    }  # fmt: skip


METRICS: Final[Mapping[str, Metric]] = {
    "excess_context_deletion": Metric(
        "excess_context",
        "Area over the deletion curve outside the region, minus that of the best baseline of the case.",
        better="higher",
        worst=-1.0,
    ),
    "excess_object_deletion": Metric(
        "excess_object",
        "Area over the deletion curve of all pixels, minus that of the best baseline of the case.",
        better="higher",
        worst=-1.0,
    ),
    "deletion_context": Metric(
        "deletion_context",
        "Area over the curve of the region's mean probability while pixels outside it are hidden.",
        better="higher",
    ),
    "deletion_object": Metric(
        "deletion_object",
        "Area over the curve of the region's mean probability while pixels are hidden; painting the mask does well.",
        better="higher",
    ),
    "randomisation_similarity": Metric(
        "randomisation_similarity",
        "Rank correlation of the map with that of the same network with random weights, region frozen, in rings of "
        "equal distance to the region.",
        better="lower",
        worst=1.0,
        bounds=(-1.0, 1.0),
    ),
    "randomisation_similarity_outside": Metric(
        "randomisation_similarity_outside",
        "The same, outside the region alone.",
        better="lower",
        worst=1.0,
        bounds=(-1.0, 1.0),
    ),
    "randomisation_similarity_plain": Metric(
        "randomisation_similarity_plain",
        "The same without rings, as in the literature; high for every local map, since the region is frozen.",
        better="lower",
        bounds=(-1.0, 1.0),
    ),
    "energy_in_region": Metric(
        "energy_in_region",
        "Share of the map inside the predicted region; descriptive, high is no proof of truth.",
        bounds=(0.0, 1.0),
    ),
    "context_share": Metric(
        "context_share",
        "Share of the map farther from the region than 5 % of the image diagonal; descriptive.",
        bounds=(0.0, 1.0),
    ),
    "completeness_error": Metric(
        "completeness_error",
        "Distance of the map's sum from the change of score that it explains, as a share of it.",
        better="lower",
        optional=True,
    ),
    "entropy_rise": Metric(
        "entropy_rise",
        "Rise of the entropy of the map's values from the network to its copy with random weights, as a share of it "
        "(efficient model-parameter randomisation).",
        better="higher",
    ),
    "pointing_game": Metric(
        "pointing_game",
        "Whether the map's highest value lies in the predicted region; descriptive.",
        bounds=UNIT_RANGE,
        kind="proportion",
    ),
    "relevance_mass": Metric(
        "relevance_mass",
        "Share of the map's positive values inside the predicted region; descriptive.",
        bounds=UNIT_RANGE,
    ),
    "relevance_rank": Metric(
        "relevance_rank",
        "Share of the region among as many highest pixels of the map; descriptive.",
        bounds=UNIT_RANGE,
    ),
    "complexity": Metric(
        "complexity",
        "Entropy of the map's absolute values as a share of the largest possible one; 1 = spread evenly; descriptive.",
        bounds=UNIT_RANGE,
    ),
    "sparseness": Metric(
        "sparseness",
        "Gini coefficient of the map's absolute values; 1 = one pixel holds everything; descriptive.",
        bounds=UNIT_RANGE,
    ),
    **_on_request(),
}
