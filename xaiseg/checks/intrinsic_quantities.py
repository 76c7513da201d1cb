"""Quantities of the check explanation.intrinsic: what its rows of features, maps and agreements amount to.

A feature is weighed in four ways. What makes it comparable with the paper is its share of their sum, in per cent; what
keeps it honest is the raw value beside it, and the effect of all features together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.checks.base import Quantity, Tables
from xaiseg.checks.quantities import fact, missing

if TYPE_CHECKING:
    import pandas as pd

CHECK: Final = "explanation.intrinsic"
#: How a feature is weighed -> what the number is.
WAYS: Final[Mapping[str, str]] = {
    "loss_gradient": "Absolute gradient of cross-entropy plus soft Dice with respect to the standardised feature; it "
    "needs the reference.",
    "answer_gradient": "Absolute gradient of the image's mean foreground probability with respect to the standardised "
    "feature.",
    "other_images": "Mean absolute change of the foreground probability when the feature takes the values of the other "
    "images, one by one; interpolated between the measured levels, values beyond them count as the outermost.",
    "training_mean": "Mean absolute change of the foreground probability when the feature is set to its training mean.",
}
_CHANGE: Final = "Mean absolute change of the foreground probability over the pixels of the image"
_RESIDUALS: Final[Mapping[str, str]] = {
    "identity_residual": "Largest relative distance of F * alpha_s * (1 - gamma * (1 - alpha_c)), made of the "
    "read-outs, from the gated skips.",
    "replay_residual": "Largest distance of the probability that variants are compared with from the audited one.",
}


def intrinsic_quantities(tables: Tables, levels: Sequence[float]) -> Iterator[Quantity]:
    """All quantities of the check.

    Args:
        tables: with the rows of the check.
        levels: values that each feature took, in standard deviations from the training mean.
    """
    table = tables.rows.get(CHECK)
    if table is None or not table["status"].isin(["ok", "undefined", "not_applicable"]).any():
        yield missing("features_off_change", "no case gave a read-out")
        return
    features = table[table["kind"] == "feature"]
    yield from _whole(table[table["kind"] == "case"])
    if len(features):
        ways = importances(features, levels)
        yield from _importances(ways)
        yield from _dice_drops(features, levels)
        yield from _agreements(ways)
        outside = (features["normalised"].astype(float).abs() > max(abs(levels[0]), levels[-1])).mean()
        yield fact("features_beyond_levels", float(outside), of="data set",
                   note="Share of feature values farther from the training mean than the outermost level.")  # fmt: skip
    yield from _maps(table)


def feature_names(features: pd.DataFrame) -> list[str]:
    """Names of the features in the network's order, from rows of kind "feature"."""
    return list(dict.fromkeys(features.sort_values("position", kind="stable")["target"]))


def importances(features: pd.DataFrame, levels: Sequence[float]) -> dict[str, pd.DataFrame]:
    """Way -> importances, one row a case and one column a feature, NaN where undefined.

    Args:
        features: rows of kind "feature".
        levels: values that each feature took.
    """
    names = feature_names(features)

    def wide(column: pd.Series[float]) -> pd.DataFrame:
        held = features.assign(value=column.astype(float))
        return held.pivot(index="case", columns="target", values="value")[names]

    middle = list(levels).index(0.0)
    return {
        "loss_gradient": wide(features["gradient_loss"].abs()),
        "answer_gradient": wide(features["gradient_answer"].abs()),
        "other_images": wide(values_of_others(features, "response", levels)),
        "training_mean": wide(features["response"].map(lambda each: each[middle])),
    }


def values_of_others(features: pd.DataFrame, column: str, levels: Sequence[float]) -> pd.Series[float]:
    """Mean change of each row when its feature takes the value that it has in every other image.

    The change is known at the levels and is 0 at the row's own value; between them it is interpolated, which costs no
    forward and leaves nothing to a draw. NaN for a single image.

    Args:
        features: rows of kind "feature".
        column: "response" or "response_dice".
        levels: values at which the change was measured.
    """
    import pandas as pd

    values = features["normalised"].to_numpy(dtype=np.float64)
    measured, names = features[column].to_numpy(dtype=object), features["target"].to_numpy(dtype=object)
    result = np.full(len(features), np.nan)
    for name in dict.fromkeys(names):
        rows = np.flatnonzero(names == name)
        for row in rows if len(rows) > 1 else ():
            if measured[row] is not None:
                others = np.clip(values[rows[rows != row]], levels[0], levels[-1])
                nodes = {**dict(zip(levels, measured[row], strict=True)), float(values[row]): 0.0}
                places = sorted(nodes)
                result[row] = np.interp(others, places, [nodes[place] for place in places]).mean()
    return pd.Series(result, index=features.index)


def kendall_tau_b(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's rank correlation with ties (tau-b), NaN where one side is constant.

    Source: Kendall, Biometrika 33 (1945).

    >>> kendall_tau_b(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    0.3333333333333333
    """
    one, other = (np.sign(values[:, None] - values[None, :]) for values in (first, second))
    spread = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / spread if spread > 0 else float("nan")


def _share(sums: np.ndarray, index: int) -> float:
    total = float(sums.sum())
    return 100.0 * float(sums[index]) / total if total > 0 else float("nan")


def _rank_agreement(sums: np.ndarray) -> float:
    half = len(sums) // 2
    return kendall_tau_b(sums[:half], sums[half:])


def _whole(rows: pd.DataFrame) -> Iterator[Quantity]:
    if rows.empty:
        return
    off = rows[rows["change"].notna()]
    if len(off):
        yield _mean("features_off_change", off, "change",
                    note=f"{_CHANGE} when gamma is 0 in every gate: what all features together do.")  # fmt: skip
        yield _mean("features_off_dice_drop", off, "dice_change", sign=-1.0,
                    note="Dice of the network minus its Dice without features.")  # fmt: skip
    for column, note in _RESIDUALS.items():
        if rows[column].notna().any():
            yield fact(column, float(rows[column].max()), better="lower", note=note)


def _importances(ways: Mapping[str, pd.DataFrame]) -> Iterator[Quantity]:
    for way, table in ways.items():
        known = table.dropna()
        why = "it needs a reference" if way == "loss_gradient" else "it needs at least two images"
        if known.empty:
            yield missing(f"importance_{way}", why)
            yield missing(f"share_{way}", why)
            continue
        cases, values = known.index.to_numpy(dtype=object), known.to_numpy(dtype=np.float64)
        for index, name in enumerate(known.columns):
            yield Quantity(f"importance_{way}", "mean", cases, values[:, index], target=name, note=WAYS[way])
        for index, name in enumerate(known.columns):
            yield Quantity(f"share_{way}", "statistic", cases, values, unit="%", target=name, bounds=(0.0, 100.0),
                           function=partial(_share, index=index),
                           note="Its part of the sum over all features.")  # fmt: skip


def _dice_drops(features: pd.DataFrame, levels: Sequence[float]) -> Iterator[Quantity]:
    middle = list(levels).index(0.0)
    defined = features[features["response_dice"].notna()]
    if defined.empty:
        yield missing("dice_drop_other_images", "it needs a reference with foreground")
        yield missing("dice_drop_training_mean", "it needs a reference with foreground")
        return
    columns = {
        "dice_drop_other_images": -values_of_others(defined, "response_dice", levels),
        "dice_drop_training_mean": -defined["response_dice"].map(lambda each: each[middle]).astype(float),
    }
    for metric, values in columns.items():
        for name, rows in defined.assign(value=values).groupby("target", sort=False):
            yield _mean(metric, rows, "value", target=str(name),
                        note="Dice of the network minus its Dice with the changed feature.")  # fmt: skip


def _agreements(ways: Mapping[str, pd.DataFrame]) -> Iterator[Quantity]:
    for first, second in combinations(ways, 2):
        both = ways[first].join(ways[second].add_prefix("other ")).dropna()
        name = f"{first} and {second}"
        if both.empty:
            yield missing("rank_agreement", "one of the two ways gave no value", target=name)
            continue
        # A mean importance decides a rank, so each case adds its own rows to both sums.
        yield Quantity("rank_agreement", "statistic", both.index.to_numpy(dtype=object),
                       both.to_numpy(dtype=np.float64), target=name, function=_rank_agreement, bounds=(-1.0, 1.0),
                       note="Kendall's tau-b of the two orders of features: 1 = the same, 0 = unrelated.")  # fmt: skip


def _maps(table: pd.DataFrame) -> Iterator[Quantity]:
    maps = table[(table["kind"] == "map") & (table["status"] == "ok")]
    for target, rows in maps.groupby("target", sort=True):
        if rows["change"].notna().any():
            yield _mean("flattened_change", rows, "change", target=str(target),
                        note=f"{_CHANGE} when the map is replaced by its own mean.")  # fmt: skip
            yield _mean("flattened_dice_drop", rows, "dice_change", target=str(target), sign=-1.0,
                        note="Dice of the network minus its Dice with the flattened map.")  # fmt: skip
        yield _mean("inside_to_outside", rows, "inside_to_outside", target=str(target),
                    note="Mean of the map inside the predicted region over its mean outside; 1 = no difference, "
                    "whatever the area.")  # fmt: skip
    pairs = table[(table["kind"] == "agreement")]
    for (name, method), group in pairs.groupby(["target", "level"], sort=True):
        yield _mean("rank_correlation", group, "rank_correlation", target=str(name), level=str(method),
                    bounds=(-1.0, 1.0), note="Spearman's correlation over pixels of the map and the absolute values of "
                    "the post-hoc map.")  # fmt: skip


def _mean(
    metric: str,
    rows: pd.DataFrame,
    column: str,
    *,
    target: str = "",
    level: str = "",
    sign: float = 1.0,
    bounds: tuple[float, float] | None = None,
    note: str = "",
) -> Quantity:
    """The mean of a column over the cases that have it."""
    known = rows[rows[column].notna()]
    if known.empty:
        reasons = rows.loc[rows["reason"].astype(str) != "", "reason"]
        dice = "it needs a reference with foreground" if "dice" in metric else "no case gave a value"
        return missing(metric, str(reasons.mode().iloc[0]) if len(reasons) else dice, target=target, level=level)
    values = sign * known[column].to_numpy(dtype=np.float64)
    cases = known["case"].to_numpy(dtype=object)
    return Quantity(metric, "mean", cases, values, target=target, level=level, bounds=bounds, note=note)
