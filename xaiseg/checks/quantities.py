"""Small builders that the checks share when they name their quantities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from xaiseg.checks.base import Quantity

if TYPE_CHECKING:
    import pandas as pd

UNIT_RANGE: Final = (0.0, 1.0)


def fact(
    metric: str,
    value: float,
    *,
    unit: str = "",
    better: Literal["higher", "lower", ""] = "",
    of: str = "data set",
    target: str = "",
    factor: str = "",
    level: str = "",
    floor: float | None = None,
    note: str = "",
) -> Quantity:
    """A census of the data set: one value, which belongs to no case.

    >>> fact("duplicates", 2).values.tolist()
    [2.0]
    """
    return Quantity(
        metric, "fact", [""], np.array([float(value)]), unit=unit, better=better, of=of, target=target, factor=factor,
        level=level, floor=floor, note=note,
    )  # fmt: skip


def missing(metric: str, why: str, *, target: str = "", factor: str = "", level: str = "") -> Quantity:
    """A quantity that could not be formed; requirements on it are NOT RUN.

    >>> missing("overlap_train_test", "no train list").missing
    'no train list'
    """
    return Quantity(metric, "fact", [], np.zeros(0), target=target, factor=factor, level=level, missing=why)


def reference_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the audited model itself (not of a variant) whose status is "ok"."""
    return table[(table["status"] == "ok") & (table["subject"] == "reference")]


def failed_cases(table: pd.DataFrame) -> list[str]:
    """Sorted ids of the cases without an answer: the image failed, or the check crashed on it."""
    return sorted(set(table.loc[table["status"].isin(("failed", "crashed")) & (table["case"] != ""), "case"]))


def case_means(rows: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a column within each case, e.g. over its classes; cases without any value are left out.

    Returns:
        (n,) case ids, sorted, and (n,) float64 means.
    """
    means = rows.groupby("case", sort=True)[column].mean().dropna()
    return means.index.to_numpy(dtype=object), means.to_numpy(dtype=np.float64)


def targets(classes: Sequence[str]) -> tuple[str, ...]:
    """The empty target for all foreground classes together, then each of them where there are several.

    >>> targets(("background", "lesion")), targets(("background", "a", "b"))
    (('',), ('', 'a', 'b'))
    """
    return ("", *classes[1:]) if len(classes) > 2 else ("",)
