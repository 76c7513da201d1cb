"""Differences between arms with intervals over patients and seeds, and how they read.

Out-of-fold: each patient is scored by networks that did not see them. Images are averaged within a patient. With d[s,
p] the difference of two arms for seed s and patient p, the estimate is the mean; its variance is that of the
patients' means over their number, plus that of the seeds' means over theirs (the second holds a part of the first, so
the sum errs on the wide side); degrees of freedom after Welch and Satterthwaite. A contrast with one seed cannot know
its own spread over seeds: it borrows that of the primary contrasts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import stats

from xaiseg.calibration.reliability import expected_calibration_error

#: Differences smaller than this count as none; fixed before the trainings.
MARGIN: Final = 0.02
#: scores[seed][patient] = mean over the patient's images.
Scores = Mapping[int, Mapping[str, float]]
#: histograms[seed][patient] = (3, bins), summed over the patient's images.
Histograms = Mapping[int, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Contrast:
    """A difference first minus second.

    Attributes:
        estimate: the mean difference.
        se: its standard error.
        df: degrees of freedom.
        patients: number of patients.
        seeds: number of seeds.
        seed_sd: standard deviation of the seeds' means, borrowed where there is one seed; None = no seed was varied
        anywhere.
    """

    estimate: float
    se: float
    df: float
    patients: int
    seeds: int
    seed_sd: float | None

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval by Student's t."""
        half = float(stats.t.ppf(0.5 + level / 2, self.df)) * self.se
        return self.estimate - half, self.estimate + half

    @property
    def p(self) -> float:
        """Two-sided p against no difference."""
        return float(2 * stats.t.sf(abs(self.estimate) / self.se, self.df))

    @property
    def detectable(self) -> float:
        """The true difference that a two-sided test at 5 % would find with 80 % power."""
        return float((stats.t.ppf(0.975, self.df) + stats.t.ppf(0.8, self.df)) * self.se)

    def reads(self, *, significant: bool | None = None) -> str:
        """better, worse, equivalent within the margin, or undecided.

        Args:
            significant: the decision of a multiplicity adjustment; None = the 95 % interval decides.
        """
        low, high = self.interval()
        if significant if significant is not None else low > 0 or high < 0:
            return "better" if self.estimate > 0 else "worse"
        low, high = self.interval(0.90)
        return "equivalent within 0.02" if low > -MARGIN and high < MARGIN else "undecided"


def contrast(first: Scores, second: Scores, *, seed_sd: float | None = None) -> Contrast:
    """Compares two arms on the patients and seeds that both have.

    Args:
        first: one arm.
        second: the other.
        seed_sd: borrowed standard deviation over seeds, used where only one seed is there.
    """
    seeds = sorted(set(first) & set(second))
    patients = sorted(set.intersection(*({*first[s]} & {*second[s]} for s in seeds)))
    d = np.array([[first[s][p] - second[s][p] for p in patients] for s in seeds])
    over_patients = float(d.mean(axis=0).var(ddof=1)) / len(patients)
    own = float(d.mean(axis=1).std(ddof=1)) if len(seeds) > 1 else seed_sd
    over_seeds = (own or 0.0) ** 2 / len(seeds)
    # A borrowed spread comes from contrasts of three seeds each; its own uncertainty is that of two degrees of freedom.
    seed_df = max(len(seeds) - 1, 2)
    total = over_patients + over_seeds
    df = total**2 / (over_patients**2 / (len(patients) - 1) + over_seeds**2 / seed_df)
    return Contrast(float(d.mean()), float(np.sqrt(total)), df, len(patients), len(seeds), own)


def ece_contrast(first: Histograms, second: Histograms, *, seed_sd: float | None = None) -> Contrast:
    """The same for the pooled expected calibration error, which is no mean over patients: delete-one-patient jackknife.

    Args:
        first: histogram (3, bins) by seed and patient, summed over the patient's images.
        second: the other arm.
        seed_sd: as in :func:`contrast`.
    """
    seeds = sorted(set(first) & set(second))
    patients = sorted(set.intersection(*({*first[s]} & {*second[s]} for s in seeds)))
    a, b = (np.array([[arm[s][p] for p in patients] for s in seeds]) for arm in (first, second))  # (S, P, 3, bins)
    error = expected_calibration_error
    by_seed = np.array([error(x) - error(y) for x, y in zip(a.sum(1), b.sum(1), strict=True)])
    pairs = list(zip(a, b, strict=True))
    without = [[error(x.sum(0) - x[p]) - error(y.sum(0) - y[p]) for x, y in pairs] for p in range(len(patients))]
    left_out = np.mean(without, axis=1)
    n = len(patients)
    over_patients = float((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    own = float(by_seed.std(ddof=1)) if len(seeds) > 1 else seed_sd
    over_seeds = (own or 0.0) ** 2 / len(seeds)
    total = over_patients + over_seeds
    df = total**2 / (over_patients**2 / (n - 1) + over_seeds**2 / max(len(seeds) - 1, 2)) if total else float(n - 1)
    return Contrast(float(by_seed.mean()), float(np.sqrt(total)), df, n, len(seeds), own)


def patient_means(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, float]:
    """Mean of a column over the images of each patient."""
    held: dict[str, list[float]] = {}
    for row in rows:
        held.setdefault(row["cluster"], []).append(float(row[column]))
    return {patient: float(np.mean(values)) for patient, values in held.items()}


def patient_histograms(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, np.ndarray]:
    """Reliability histogram (3, bins) of each patient; ``name`` is "raw" or "scaled"."""
    held: dict[str, np.ndarray] = {}
    for row in rows:
        own = np.array([row[f"{name}_{part}"] for part in ("count", "sum_p", "sum_y")], dtype=np.float64)
        held[row["cluster"]] = held.get(row["cluster"], 0) + own
    return held
