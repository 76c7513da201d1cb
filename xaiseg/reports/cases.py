"""cases.csv: every case, worst first, with what went wrong."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from xaiseg.checks.base import Tables
from xaiseg.reports.numbers import number

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.run import RunDirectory

SOURCE: Final = "performance.segmentation"
#: A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def case_rows(run: RunDirectory) -> pd.DataFrame:
    """Every audited case, worst first.

    Returns:
        Columns case, cluster, the declared strata, score (mean Dice over classes; NaN where undefined) and what.
    """
    plan, cases = run.plan(), run.cases()
    strata = [name for name in plan["data"]["test"]["strata"] if name in cases.columns]
    kept = cases[["case", "cluster", *strata]]
    if not run.has_table(SOURCE):
        return kept.assign(score=math.nan, what="").sort_values("case", ignore_index=True)
    from xaiseg.checks.performance_segmentation import case_summary

    told = case_summary(Tables({SOURCE: run.table(SOURCE)}, cases, plan.get("facts", {})))
    order = told.reset_index(names="order").merge(kept, on="case", how="outer").sort_values(["order", "case"])
    order["what"] = order["what"].fillna("not measured")
    return order[["case", "cluster", *strata, "score", "what"]].reset_index(drop=True)


def cases_csv(rows: pd.DataFrame) -> str:
    """The table as CSV that no spreadsheet takes for formulas."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = [str(name) if name != "score" else "dice" for name in rows.columns]
    writer.writerow([safe_cell(name) for name in names])
    for row in rows.itertuples(index=False):
        writer.writerow([safe_cell(value) for value in row])
    return buffer.getvalue()


def safe_cell(value: Any) -> str:
    """A cell as text; what a spreadsheet would run gets an apostrophe in front.

    >>> safe_cell("=1+1"), safe_cell(0.25), safe_cell(float("nan")), safe_cell("p1")
    ("'=1+1", '0.2500', '', 'p1')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def words_of(rows: pd.DataFrame, strata: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    """Case -> (facts in one line, what went wrong), for the galleries."""
    told = {}
    for row in rows.to_dict("records"):
        facts = _case_words({str(name): value for name, value in row.items()}, strata, row["score"], "Dice")
        told[str(row["case"])] = (facts, "nothing went wrong" if row["what"] == "nothing" else str(row["what"]))
    return told


def _case_words(case: Mapping[str, Any], strata: Sequence[str], score: float | None, score_name: str) -> str:
    """The facts of a case in one line, as in "p012 · device B · Dice 0.31"."""
    parts = [str(case.get("cluster", ""))] + [f"{name} {case[name]}" for name in strata if case.get(name)]
    if score is not None and math.isfinite(score):
        parts.append(f"{score_name} {number(score, 2)}")
    return " · ".join(part for part in parts if part)
