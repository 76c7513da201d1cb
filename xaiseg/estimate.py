"""Stage 3: rows become estimates with intervals. Knows no threshold and no model."""

from __future__ import annotations

from dataclasses import dataclass

from xaiseg.statistics.interval import Interval


@dataclass(frozen=True)
class Estimate:
    """One quantity, in one stratum, with its intervals.

    Attributes:
        id: "check/metric/target/factor=level/stratum/subject", unique in a run; parts that are empty are left out.
        check, metric, target, factor, level, subject: as in the rows.
        stratum: "" or "device=B".
        kind: "mean", "proportion", "statistic" or "fact".
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
