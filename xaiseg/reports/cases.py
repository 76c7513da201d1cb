"""cases.csv: every case, worst first, with what went wrong; detections.json: every box, as MegaDetector has it."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg.checks.base import Tables
from xaiseg.reports.numbers import number
from xaiseg.reports.words import factor_level

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.run import RunDirectory

#: Check that ranks the cases -> its module, and the name of its score in a table and in a sentence.
SOURCES: Final[Mapping[str, tuple[str, str, str]]] = {
    "performance.segmentation": ("performance_segmentation", "dice", "Dice"),
    "performance.detection": ("performance_detection", "errors", "errors"),
}
#: A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def case_rows(run: RunDirectory) -> pd.DataFrame:
    """Every audited case, worst first.

    Returns:
        Columns case, cluster, the declared strata, score (mean Dice over classes, or missed and false boxes; NaN where
        undefined) and what; ``attrs["score"]`` holds the names of the score.
    """
    plan, cases = run.plan(), run.cases()
    strata = [name for name in plan["data"]["test"]["strata"] if name in cases.columns]
    kept = cases[["case", "cluster", *strata]]
    source = next((name for name in SOURCES if run.has_table(name)), None)
    if source is None:
        return kept.assign(score=math.nan, what="").sort_values("case", ignore_index=True)
    told: pd.DataFrame = import_module(f"xaiseg.checks.{SOURCES[source][0]}").case_summary(
        Tables({source: run.table(source)}, cases, plan.get("facts", {}))
    )
    order = told.reset_index(names="order").merge(kept, on="case", how="outer").sort_values(["order", "case"])
    order["what"] = order["what"].fillna("not measured")
    rows = order[["case", "cluster", *strata, "score", "what"]].reset_index(drop=True)
    rows.attrs["score"] = SOURCES[source][1:]
    return rows


def detections_document(run: RunDirectory) -> dict[str, Any] | None:
    """The detections of a detector's run in MegaDetector's format, or None for another model.

    An image that failed has ``failure`` and no list.
    """
    name, plan = "performance.detection", run.plan()
    if not run.has_table(name):
        return None
    from xaiseg.data.megadetector import Batch, batch_document

    table, cases = run.table(name), run.cases()
    files = dict(zip(cases["case"], cases.get("image:file", cases["case"]), strict=True))
    classes = tuple(plan["facts"]["classes"])
    images = {files[case]: _found(group, classes) for case, group in table.groupby("case", sort=True)}
    model = plan["model"]
    return batch_document(Batch(classes, images), detector=model["name"], threshold=model["threshold"]["value"],
                          created=plan["created"])  # fmt: skip


def _found(rows: pd.DataFrame, classes: Sequence[str]) -> Any:
    from xaiseg.data.megadetector import Found

    lost = rows[rows["status"] != "ok"]
    if len(lost):
        return str(lost["reason"].iloc[0]) or "unknown"
    boxes, scores, labels = [], [], []
    for name, box, score, height, width in zip(
        rows["target"], rows["box"], rows["score"], rows["height"], rows["width"], strict=True
    ):
        corners = np.asarray(box, dtype=np.float64).reshape(-1, 4) / np.array([width, height, width, height])
        boxes.append(np.clip(corners, 0.0, 1.0))
        scores.append(np.asarray(score, dtype=np.float64))
        labels.append(np.full(len(corners), classes.index(name), dtype=np.int64))
    return Found(np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels))


def cases_csv(rows: pd.DataFrame) -> str:
    """The table as CSV that no spreadsheet takes for formulas."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    score = rows.attrs.get("score", ("dice", "Dice"))[0]
    names = [str(name) if name != "score" else score for name in rows.columns]
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
    told, score = {}, rows.attrs.get("score", ("dice", "Dice"))[1]
    for row in rows.to_dict("records"):
        facts = _case_words({str(name): value for name, value in row.items()}, strata, row["score"], score)
        told[str(row["case"])] = (facts, "nothing went wrong" if row["what"] == "nothing" else str(row["what"]))
    return told


def _case_words(case: Mapping[str, Any], strata: Sequence[str], score: float | None, score_name: str) -> str:
    """The facts of a case in one line, as in "p012 · device B · Dice 0.31"."""
    parts = [str(case.get("cluster", ""))] + [factor_level(name, str(case[name])) for name in strata if case.get(name)]
    if score is not None and math.isfinite(score):
        parts.append(f"{score_name} {number(score, 2 if score_name == 'Dice' else 0)}")
    return " · ".join(part for part in parts if part)
