"""Who is in the data? Cases and clusters in each level of the declared factors, and the cells too thin to judge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

from xaiseg.checks.base import Quantity, Tables, check
from xaiseg.checks.quantities import fact, missing
from xaiseg.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

ID: Final = "subgroups.coverage"


@dataclass(frozen=True)
class Params:
    """What counts as thin.

    Attributes:
        thin_clusters: a cell with fewer clusters is thin; below 5 no interval is drawn.
    """

    thin_clusters: int = 5

    def __post_init__(self) -> None:
        if self.thin_clusters < 1:
            raise UsageError("out of range", where=f"{ID}: thin_clusters", got=self.thin_clusters, allowed="1 or more")


@check(ID, question="Who is in the data?", params=Params)
class SubgroupsCoverage:
    """Counts the cases table; measures nothing."""

    def quantities(self, tables: Tables, params: Any) -> Iterable[Quantity]:
        """Counts a level, thin levels a factor, and thin cells of each pair of factors."""
        factors = tuple(tables.facts.get("strata", ()))
        if not factors:
            yield missing("thin_levels", "model.yaml declares no strata")
            return
        cases = tables.cases.assign(**{factor: _levels(tables.cases, factor) for factor in factors})
        for factor in factors:
            yield from _level_counts(cases, factor, params.thin_clusters)
        for pair in combinations(factors, 2):
            yield _crossing(cases, pair, params.thin_clusters)


def _levels(cases: pd.DataFrame, factor: str) -> pd.Series[str]:
    return cases[factor].fillna("").astype(str).replace("", "unknown")


def _level_counts(cases: pd.DataFrame, factor: str, thin: int) -> Iterator[Quantity]:
    sizes = cases.groupby(factor, sort=True)["cluster"].agg(["size", "nunique"])
    for level, size, clusters in sizes.itertuples():
        yield fact("cases", size, of="image", factor=factor, level=str(level))
        yield fact("clusters", clusters, of="cluster", factor=factor, level=str(level))
    few = [f"{level} ({clusters})" for level, _, clusters in sizes.itertuples() if clusters < thin]
    yield fact("thin_levels", len(few), better="lower", factor=factor, note=_thin_note(few, thin))


def _crossing(cases: pd.DataFrame, pair: tuple[str, str], thin: int) -> Quantity:
    """Cells of two factors that hold a case but too few clusters."""
    cells = cases.groupby(list(pair), sort=True)["cluster"].nunique()
    few = [f"{first} x {second} ({n})" for first, second, n in cells.reset_index().itertuples(index=False) if n < thin]
    return fact("thin_cells", len(few), better="lower", factor=" x ".join(pair), note=_thin_note(few, thin))


def _thin_note(few: list[str], thin: int) -> str:
    listed = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
    return f"fewer than {thin} clusters: {listed or 'none'}"
