"""Stage 3: rows become estimates with intervals. Knows no threshold and no model."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg.checks.base import Quantity, Tables, check_params, get_check
from xaiseg.protocol import Decision, Protocol
from xaiseg.seeds import derive_seed
from xaiseg.statistics.design_counts import Shares, total_intervals
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.means import mean_intervals
from xaiseg.statistics.multiplicity import interval_ladder, ladder_alphas
from xaiseg.statistics.pooled import pooled_intervals
from xaiseg.statistics.proportions import proportion_intervals
from xaiseg.statistics.rates import rate_intervals
from xaiseg.statistics.resampling import statistic_intervals

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.run import RunDirectory

#: Error probability of each end of the 95 % interval in detail tables.
DETAIL_ALPHA: Final = 0.025
#: Sums of floats may leave the range of a quantity by this much; more is an error of the check.
ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Estimate:
    """One quantity, in one stratum, with its intervals.

    Attributes:
        id: "check/metric/target/factor=level/stratum/subject", unique in a run; parts that are empty are left out.
        check, metric, target, factor, level, subject: as in the rows.
        stratum: "" or "device=B".
        kind: "mean", "proportion", "statistic", "rate", "total" or "fact".
        unit, better, of, note, floor, weigh: as in :class:`~xaiseg.checks.base.Quantity`.
        value: what a gate judges: failed and undefined cases count as the worst value.
        interval: one-sided bounds at the protocol's alpha (drawn as 90 %), or None for a fact.
        detail: the two-sided 95 % interval for tables, or None.
        dropped: the interval when undefined cases are left out; None when there are none. Where it and ``interval``
            would be decided differently the verdict is INSUFFICIENT.
        holm: ((k, lower, upper), ...): bounds at alpha / k for Holm's procedure over the levels of one factor.
        n: defined values; n_clusters; n_undefined; n_failed.
        reason: why there is no interval or value; "" otherwise.
        missing: True when the check could not measure it (requirements on it are NOT RUN).
        seed: seed of the resampling.
    """

    id: str
    check: str
    metric: str
    kind: str
    value: float | None
    interval: Interval | None
    detail: Interval | None = None
    dropped: Interval | None = None
    holm: tuple[tuple[int, float | None, float | None], ...] = ()
    target: str = ""
    factor: str = ""
    level: str = ""
    subject: str = "reference"
    stratum: str = ""
    unit: str = ""
    better: str = ""
    of: str = "image"
    weigh: str = "cluster"
    note: str = ""
    floor: float | None = None
    n: int = 0
    n_clusters: int = 0
    n_undefined: int = 0
    n_failed: int = 0
    reason: str = ""
    missing: bool = False
    seed: int = 0


@dataclass(frozen=True)
class _Frame:
    """What estimating needs besides the quantity itself."""

    check: str
    cases: pd.DataFrame  # indexed by case: cluster, chance, strata
    failed: Mapping[str, tuple[str, ...]]  # by subject
    decision: Decision
    seed: int
    strata: tuple[str, ...]
    groups: int  # levels of all factors: the largest family that Holm's procedure may have to correct for
    siblings: int  # degradations at one level that a requirement may take together


def estimate_run(
    run: RunDirectory, protocol: Protocol, *, skip: Mapping[str, str] | None = None
) -> tuple[list[Estimate], dict[str, str]]:
    """Estimates everything that a run's rows hold.

    Args:
        run: a measured run.
        protocol: gives the confidence, the number of looks and the smallest number of clusters.
        skip: checks to leave out (their rows do not fit the protocol), with reasons.

    Returns:
        The estimates, and check id -> message for checks that crashed while they measured or here.
    """
    plan = run.plan()
    table = run.cases().set_index("case", drop=False)
    estimates: list[Estimate] = []
    crashed: dict[str, str] = {}
    for item in plan["checks"]:
        name = item["id"]
        if not item["runs"] or name in (skip or {}):
            continue
        try:
            tables = _tables(run, name, table, plan)
            crashed |= _crashes(name, tables)
            quantities = list(get_check(name).quantities(tables, check_params(item)))
            frame = _frame(name, table, tables, protocol, plan, quantities)
            estimates += [one for quantity in quantities for one in _estimates(quantity, frame)]
        except Exception as error:  # noqa: BLE001 - it becomes the check's ERROR in findings and report
            crashed[name] = _where(error)
    return estimates, crashed


def _where(error: Exception) -> str:
    """The error with the file and line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"


def _tables(run: RunDirectory, name: str, cases: pd.DataFrame, plan: Mapping[str, Any]) -> Tables:
    wanted = (name, *get_check(name).reads)
    rows = {check: run.table(check) for check in wanted if run.has_table(check)}
    return Tables(rows, cases.reset_index(drop=True), {**plan["facts"], "seed": plan["seed"]})


def _crashes(name: str, tables: Tables) -> dict[str, str]:
    """A check crashed when any table that it reads holds a crash, its own or another's."""
    for read, rows in tables.rows.items():
        crashed = rows[rows["status"] == "crashed"]
        if not crashed.empty:
            whose = "" if read == name else f"it reads {read}, which crashed: "
            return {name: f"{whose}{crashed['reason'].iloc[0]} (in {len(crashed)} of {rows['case'].nunique()} cases)"}
    return {}


def _frame(
    name: str,
    cases: pd.DataFrame,
    tables: Tables,
    protocol: Protocol,
    plan: Mapping[str, Any],
    quantities: Sequence[Quantity],
) -> _Frame:
    rows = tables.rows.get(name)
    failed = {} if rows is None else _failed(rows, cases)
    strata = plan["data"]["test"]["strata"]
    held = cases[["cluster", *strata]].assign(chance=cases[f"p:{name}"])
    groups = sum(len(set(held[factor]) - {""}) for factor in strata)
    siblings = max(Counter((q.metric, q.level, q.target, q.subject) for q in quantities).values(), default=1)
    seed = derive_seed(plan["seed"], "estimate", name)
    return _Frame(name, held, failed, protocol.decision, seed, tuple(strata), groups, siblings)


def _failed(rows: pd.DataFrame, cases: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """The cases that failed, by subject."""
    found = rows[rows["status"].isin(["failed", "crashed"]) & rows["case"].isin(cases.index)]
    return {str(subject): tuple(sorted(set(held["case"]))) for subject, held in found.groupby("subject")}


def _estimates(quantity: Quantity, frame: _Frame) -> list[Estimate]:
    """The estimate over all cases, and one in each level of each declared factor where the quantity asks for it."""
    every = [_estimate(quantity, frame, "", frame.cases, max(frame.siblings, 1))]
    if not quantity.strata or quantity.missing:
        return every
    for factor in frame.strata:
        for level in sorted(set(frame.cases[factor]) - {""}):  # what is not known is no group
            part = frame.cases[frame.cases[factor] == level]
            every.append(_estimate(quantity, frame, f"{factor}={level}", part, frame.groups))
    return every


@dataclass(frozen=True)
class _Values:
    """The values that enter an estimate, failed cases among them as the worst."""

    ids: np.ndarray
    values: np.ndarray
    failed: int

    @property
    def undefined(self) -> np.ndarray:
        """(n,) bool: NaN, or for statistics a row with NaN."""
        known: np.ndarray = np.isfinite(self.values)
        return np.logical_not(known if known.ndim == 1 else known.all(axis=1))

    def where(self, keep: np.ndarray) -> _Values:
        """Only some of them."""
        return _Values(self.ids[keep], self.values[keep], self.failed)


def _values(quantity: Quantity, frame: _Frame, cases: pd.DataFrame) -> _Values:
    ids = np.asarray(quantity.cases, dtype=object)
    values = np.asarray(quantity.values, dtype=np.float64)
    inside = np.isin(ids, cases.index.to_numpy(dtype=object))
    ids, values = ids[inside], values[inside]
    # Where the audited model fails there is nothing to compare a variant with.
    whose = {"reference", quantity.subject}
    failed = sorted({case for subject in whose for case in frame.failed.get(subject, ()) if case in cases.index})
    if quantity.worst is not None and failed:
        ids = np.concatenate([ids, np.array(failed, dtype=object)])
        values = np.concatenate([values, np.full(len(failed), quantity.worst)])
    if quantity.bounds is not None and quantity.kind not in ("statistic", "rate", "total"):
        low, high = quantity.bounds
        near = (values >= low - ROUNDING) & (values <= high + ROUNDING)
        values = np.where(near, np.clip(values, low, high), values)
    return _Values(ids, values, len(failed))


def _estimate(quantity: Quantity, frame: _Frame, stratum: str, cases: pd.DataFrame, members: int) -> Estimate:
    empty = _blank(quantity, frame, stratum)
    if quantity.missing:
        return replace(empty, missing=True, reason=quantity.missing)
    if quantity.kind == "fact":
        known = np.asarray(quantity.values, dtype=np.float64)
        known = known[np.isfinite(known)]
        return replace(empty, value=float(known.sum()) if len(known) else None, n=len(known))
    held = _values(quantity, frame, cases)
    undefined = held.undefined
    empty = replace(empty, n_undefined=int(undefined.sum()), n_failed=held.failed)
    alpha, dropped = frame.decision.alpha, None
    if undefined.any() and quantity.worst is not None:
        dropped = _intervals(quantity, frame, held.where(~undefined), (alpha,))[0]
        held = replace(held, values=np.where(undefined, quantity.worst, held.values))
    else:
        held = held.where(~undefined)
    if len(held.ids) == 0:
        return replace(empty, reason=quantity.withheld or "no case gives this quantity a value")
    rungs = ladder_alphas(alpha, members)
    interval, detail, *ladder = _intervals(quantity, frame, held, (alpha, DETAIL_ALPHA, *rungs))
    if quantity.withheld:
        bare = replace(interval, lower=None, upper=None, sd=None, reason=quantity.withheld)
        interval, detail, dropped, ladder = bare, replace(bare, alpha=DETAIL_ALPHA), None, []
    return replace(
        empty,
        value=interval.value,
        interval=interval,
        detail=detail,
        dropped=dropped,
        holm=interval_ladder(ladder) if members > 1 and ladder else (),
        n=interval.n,
        n_clusters=interval.n_clusters,
        reason=interval.reason,
    )


def _blank(quantity: Quantity, frame: _Frame, stratum: str) -> Estimate:
    factor = f"{quantity.factor}={quantity.level}" if quantity.factor else quantity.level
    subject = "" if quantity.subject == "reference" else quantity.subject
    parts = (frame.check, quantity.metric, quantity.target, factor, stratum, subject)
    return Estimate(
        id="/".join(part for part in parts if part),
        check=frame.check,
        metric=quantity.metric,
        kind=quantity.kind,
        value=None,
        interval=None,
        target=quantity.target,
        factor=quantity.factor,
        level=quantity.level,
        subject=quantity.subject,
        stratum=stratum,
        unit=quantity.unit,
        better=quantity.better,
        of=quantity.of,
        weigh=quantity.weigh,
        note=quantity.note + ("; every cluster weighs the same" if _weighs_alike(quantity) else ""),
        floor=quantity.floor,
        seed=frame.seed,
    )


def _weighs_alike(quantity: Quantity) -> bool:
    """Whether the estimand has to be said: a share of lesions or images that is averaged over clusters."""
    return quantity.kind == "proportion" and quantity.weigh == "cluster" and quantity.of != "patient"


def _intervals(quantity: Quantity, frame: _Frame, held: _Values, alphas: Sequence[float]) -> tuple[Interval, ...]:
    """The quantity's interval at several error probabilities, from one set of replicates."""
    part, values = frame.cases.loc[list(held.ids)], held.values
    clusters: np.ndarray = part["cluster"].to_numpy(dtype=object)
    chances = part["chance"].to_numpy(dtype=np.float64)
    weights = None if (chances == 1.0).all() else 1.0 / chances
    smallest, weigh, seed = frame.decision.min_clusters, quantity.weigh, frame.seed
    if quantity.kind == "proportion":
        return proportion_intervals(
            values, clusters, alphas=alphas, weights=weights, weigh=weigh, min_clusters=smallest
        )
    if quantity.kind == "rate":
        return rate_intervals(
            values[:, 0], values[:, 1], clusters, alphas=alphas, weights=weights, weigh=weigh, min_clusters=smallest
        )
    if quantity.kind == "total":
        seen = 0.0 if quantity.bounds is None else quantity.bounds[0]
        tile = np.unique(held.ids.astype(str), return_inverse=True)[1]
        shares = Shares(values[:, 0], values[:, 1], tile)
        return total_intervals(shares, alphas=alphas, seen=seen, seed=seed, least=smallest)
    if quantity.pooled is not None:
        positions, pooled = values.astype(np.int64), quantity.pooled
        return pooled_intervals(
            lambda groups, held: pooled(positions, groups, held), clusters, alphas=alphas, weights=weights, weigh=weigh,
            seed=seed, min_clusters=smallest, bounds=quantity.bounds,
        )  # fmt: skip
    if quantity.kind == "statistic":
        assert quantity.function is not None
        return statistic_intervals(
            values, quantity.function, clusters, alphas=alphas, weights=weights, weigh=weigh, seed=seed,
            min_clusters=smallest, bounds=quantity.bounds,
        )  # fmt: skip
    return mean_intervals(
        values, clusters, alphas=alphas, weights=weights, weigh=weigh, seed=seed, min_clusters=smallest,
        bounds=quantity.bounds,
    )  # fmt: skip
