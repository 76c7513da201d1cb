"""For whom does it work? The widest gap in Dice between the levels of each declared factor, beside chance.

With no difference at all some level is always the worst: four devices with 26, 23, 4 and 1 patients show a median gap
of about 0.1. So the gap stands beside its label-permutation null: the same numbers with the levels dealt out at
random to the patients. Gates bind each level's own value instead (``stratum:`` in a protocol).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg.checks.base import Quantity, Tables, check
from xaiseg.checks.quantities import case_means, fact, failed_cases, missing, reference_rows
from xaiseg.errors import UsageError
from xaiseg.seeds import generator

if TYPE_CHECKING:
    import pandas as pd

ID: Final = "subgroups.declared"
SOURCE: Final = "performance.segmentation"


@dataclass(frozen=True)
class Params:
    """How the null is drawn.

    Attributes:
        permutations: random deals of the levels.
    """

    permutations: int = 1000

    def __post_init__(self) -> None:
        if self.permutations < 1:
            raise UsageError("too few", where=f"{ID}: permutations", got=self.permutations, allowed="1 or more")


@check(ID, question="For whom does it work?", needs=("segmenter", "reference"), reads=(SOURCE,), params=Params)
class SubgroupsDeclared:
    """Reads the rows of ``performance.segmentation``; measures nothing itself."""

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """One gap a factor; a failed image counts as Dice 0."""
        factors = tables.facts.get("strata", ())
        if not factors:
            yield missing("dice_gap", "model.yaml declares no strata")
        scores = _scores(tables)
        for factor in factors:
            units = cluster_means(scores, factor)
            if units["level"].nunique() < 2:
                yield missing("dice_gap", "only one level has cases with a defined Dice", factor=factor)
                continue
            yield _gap(units, factor, params, tables.facts.get("seed", 0))


def _scores(tables: Tables) -> pd.DataFrame:
    """The cases table with a column ``dice``, for the cases that have one."""
    table = tables.rows[SOURCE]
    rows = reference_rows(table)
    cases, values = case_means(rows[rows["object"] == ""], "dice")
    score = dict(zip(cases, values, strict=True)) | dict.fromkeys(failed_cases(table), 0.0)
    held = tables.cases[tables.cases["case"].isin(list(score))]
    return held.assign(dice=held["case"].map(score))


def cluster_means(scores: pd.DataFrame, factor: str) -> pd.DataFrame:
    """Mean Dice of each cluster within each level: columns cluster, level, dice."""
    levels = scores[factor].fillna("").replace("", "unknown")
    means = scores.assign(level=levels).groupby(["cluster", "level"], sort=True)["dice"].mean()
    return means.reset_index()


def worst_gap(values: np.ndarray, level: np.ndarray, n_levels: int) -> tuple[float, int]:
    """The largest amount by which a level's mean lies below the mean of all others, and that level.

    Args:
        values: (n,) one value a cluster.
        level: (n,) int, 0..n_levels-1, each present.
        n_levels: 2 or more.

    >>> worst_gap(np.array([0.5, 0.75, 1.0]), np.array([0, 1, 1]), 2)
    (0.375, 0)
    """
    count = np.bincount(level, minlength=n_levels)
    total = np.bincount(level, weights=values, minlength=n_levels)
    rest = (values.sum() - total) / (values.size - count)
    gaps = rest - total / count
    worst = int(gaps.argmax())
    return float(gaps[worst]), worst


def _gap(units: pd.DataFrame, factor: str, params: Params, seed: int) -> Quantity:
    names, level = np.unique(units["level"].to_numpy(dtype=str), return_inverse=True)
    values = units["dice"].to_numpy(dtype=np.float64)
    observed, worst = worst_gap(values, level, len(names))
    deal = generator(seed, f"{ID}/{factor}")
    null = np.array([worst_gap(values, deal.permutation(level), len(names))[0] for _ in range(params.permutations)])
    as_wide = (1 + np.count_nonzero(null >= observed - 1e-12)) / (1 + null.size)
    members = int((level == worst).sum())
    note = (
        f"{factor}={names[worst]} ({members} cluster{'s' if members != 1 else ''}) lies this far below the rest; with "
        f"no difference at all the median gap would be {np.median(null):.3f}; {100 * as_wide:.1f} % of random deals "
        "are as wide"
    )
    return fact(
        "dice_gap", observed, better="lower", of="cluster", factor=factor, floor=float(np.median(null)), note=note
    )
