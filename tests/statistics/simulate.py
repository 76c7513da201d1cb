"""Simulated error rates of the intervals, printed as the table of docs/statistics.md.

    python tests/statistics/simulate.py --repeats 2000 --seed 1

Every scenario draws data whose true value is known and counts how often the requirement "at least (at most) the true
value" is passed: the one-sided false-PASS rate at the bound, nominally 5 %.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np

from xaiseg.statistics.equivalence import decide
from xaiseg.statistics.means import mean_interval
from xaiseg.statistics.proportions import proportion_interval
from xaiseg.statistics.resampling import statistic_interval

GOOD, BAD = (25.5, 4.5), (1.0, 40.0)  # Beta parameters of a Dice that succeeded (mean 0.85) and that failed (mean 0.02)


@dataclass(frozen=True)
class Layout:
    """``clusters`` clusters of ``sizes`` = (fewest, most) cases whose intraclass correlation is ``icc``."""

    clusters: int
    sizes: tuple[int, int]
    icc: float

    def draw_sizes(self, rng):
        return rng.integers(self.sizes[0], self.sizes[1] + 1, self.clusters)

    def __str__(self):
        low, high = self.sizes
        return f"{self.clusters} x {low if low == high else f'{low}-{high}'}, ICC {self.icc:g}"


def cluster_shares(rng, share, icc, clusters):
    """Event probability of each cluster: beta distributed with mean ``share``, so that events correlate by ``icc``."""
    if icc == 0:
        return np.full(clusters, share)
    if icc == 1:
        return (rng.random(clusters) < share).astype(float)
    scale = 1 / icc - 1
    return rng.beta(share * scale, (1 - share) * scale, clusters)


def draw_events(rng, layout, share):
    """(events, clusters)."""
    ids = np.repeat(np.arange(layout.clusters), layout.draw_sizes(rng))
    return (rng.random(len(ids)) < cluster_shares(rng, share, layout.icc, layout.clusters)[ids]).astype(float), ids


def draw_dice(rng, layout, failures=0.1):
    """Dice of which a tenth fail near zero, failures correlated within clusters; (values, clusters, true mean)."""
    failed, ids = draw_events(rng, layout, failures)
    values = np.where(failed == 1, rng.beta(*BAD, len(ids)), rng.beta(*GOOD, len(ids)))
    return values, ids, (1 - failures) * GOOD[0] / sum(GOOD) + failures * BAD[0] / sum(BAD)


def draw_normal(rng, layout, mean=0.75, sd=0.2):
    """Gaussian values with the given intraclass correlation; (values, clusters, true mean)."""
    ids = np.repeat(np.arange(layout.clusters), layout.draw_sizes(rng))
    shared = np.sqrt(layout.icc) * rng.standard_normal(layout.clusters)[ids]
    return mean + sd * (shared + np.sqrt(1 - layout.icc) * rng.standard_normal(len(ids))), ids, mean


def mean_false_pass(layout, draw, repeats, seed, *, bounds=None, weigh="cluster", resamples=499):
    """Share of data sets for which a requirement at the true mean passes: (at_least, at_most)."""
    rng = np.random.default_rng(seed)
    count = np.zeros(2)
    for i in range(repeats):
        values, ids, truth = draw(rng, layout)
        found = mean_interval(values, ids, bounds=bounds, weigh=weigh, seed=i, resamples=resamples)
        count += [decide(found.lower, found.upper, truth, sense) == "pass" for sense in ("at_least", "at_most")]
    return count / repeats


def mean_coverage(layout, draw, repeats, seed, *, alpha=0.025, resamples=999):
    """Share of data sets whose two-sided interval at 1 - 2 alpha covers the true mean."""
    rng = np.random.default_rng(seed)
    hits = 0
    for i in range(repeats):
        values, ids, truth = draw(rng, layout)
        found = mean_interval(values, ids, alpha=alpha, seed=i, resamples=resamples)
        hits += found.lower <= truth <= found.upper
    return hits / repeats


def pass_rate(layout, draw, gap, repeats, seed, *, bounds=None, resamples=499):
    """Share of data sets that pass a lower bound which lies ``gap`` below the true mean."""
    rng = np.random.default_rng(seed)
    passed = 0
    for i in range(repeats):
        values, ids, truth = draw(rng, layout)
        found = mean_interval(values, ids, seed=i, bounds=bounds, resamples=resamples)
        passed += decide(found.lower, found.upper, truth - gap, "at_least") == "pass"
    return passed / repeats


def proportion_false_pass(layout, share, repeats, seed, *, weigh="case", truth=None):
    """Share of data sets with true ``share`` that pass "at most ``truth``" (default: the share itself)."""
    rng = np.random.default_rng(seed)
    passed = 0
    for _ in range(repeats):
        found = proportion_interval(*draw_events(rng, layout, share), weigh=weigh)
        passed += decide(found.lower, found.upper, share if truth is None else truth, "at_most") == "pass"
    return passed / repeats


def f1(sums):
    """F1 of summed (tp, fp, fn)."""
    return 2 * sums[0] / (2 * sums[0] + sums[1] + sums[2])


def f1_false_pass(layout, repeats, seed, *, recall=0.85, resamples=499):
    """Share of data sets that pass "F1 at least its true value"; recall is clustered, 0.2 false boxes an object."""
    rng = np.random.default_rng(seed)
    truth = f1(np.array([recall, 0.2, 1 - recall]))
    passed = 0
    for i in range(repeats):
        found, ids = draw_events(rng, layout, recall)
        rows = np.column_stack((found, rng.poisson(0.2, len(ids)), 1 - found))
        interval = statistic_interval(rows, f1, ids, seed=i, resamples=resamples)
        passed += decide(interval.lower, interval.upper, truth, "at_least") == "pass"
    return passed / repeats


def pooled_ece(sums):
    """Expected calibration error of ten bins of summed (count, confidence, positives)."""
    count, confidence, positives = sums.reshape(3, 10)
    return float(np.abs(confidence - positives).sum() / count.sum())


def ece_false_pass(clusters, repeats, seed, *, gap=0.05, resamples=499):
    """Share of data sets that pass "pooled ECE at most its true value": bins are off by ``gap``, sites vary by 0.05."""
    rng = np.random.default_rng(seed)
    confidence = np.linspace(0.2, 0.75, 10)
    passed = 0
    for i in range(repeats):
        shares = confidence + gap + rng.uniform(-0.0866, 0.0866, (clusters, 1))
        positives = rng.binomial(20, shares)
        rows = np.hstack((np.full_like(shares, 20) * np.ones(10), 20 * confidence + 0 * shares, positives))
        found = statistic_interval(rows, pooled_ece, np.arange(clusters), seed=i, resamples=resamples)
        passed += decide(found.lower, found.upper, gap, "at_most") == "pass"
    return passed / repeats


def mean_layouts():
    """Layouts on which a false PASS at the bound must stay <= 7 %."""
    small = [Layout(k, (1, 1), 0.0) for k in (20, 30, 50, 100, 200)]
    few = [Layout(8, (50, 50), icc) for icc in (0.0, 0.2)] + [Layout(12, (50, 50), 0.2), Layout(19, (20, 20), 0.2)]
    many = [Layout(k, sizes, icc) for k, sizes in ((20, (5, 5)), (20, (50, 50)), (40, (1, 9))) for icc in (0.0, 0.2)]
    return small + few + many


def hard_layouts():
    """Few sites of which some fail almost wholly: the known shortfalls of means, printed and not hidden."""
    return [Layout(8, (50, 50), 0.5), Layout(12, (20, 20), 0.5)]


def proportion_layouts():
    """Layouts on which a false PASS of a proportion at the bound must stay <= 5 %."""
    shapes = [(8, (50, 50)), (20, (5, 5)), (20, (50, 50)), (30, (2, 2)), (40, (1, 50)), (60, (1, 4)), (100, (1, 4))]
    return [Layout(k, sizes, icc) for k, sizes in shapes for icc in (0.0, 0.2, 0.5, 1.0)]


def print_tables(repeats, seed):
    """Prints everything that docs/statistics.md quotes."""
    unit = (0.0, 1.0)
    print("False PASS at the bound, % (nominal 5)")
    print("| clusters x cases | skewed Dice, range [0, 1] | skewed Dice, no range | Gaussian, no range |")
    print("| --- | --- | --- | --- |")
    for layout in mean_layouts() + hard_layouts():
        rates = [
            mean_false_pass(layout, draw_dice, repeats, seed, bounds=unit)[0],
            mean_false_pass(layout, draw_dice, repeats, seed)[0],
            mean_false_pass(layout, draw_normal, repeats, seed)[0],
        ]
        print(f"| {layout} |", " | ".join(f"{100 * rate:.1f}" for rate in rates), "|", flush=True)
    print("\n| proportion at most 10 %: clusters x cases | false PASS, % (nominal 5) | PASS at a true 2.5 %, % |")
    print("| --- | --- | --- |")
    for layout in proportion_layouts():
        false = proportion_false_pass(layout, 0.1, repeats, seed)
        right = proportion_false_pass(layout, 0.025, max(repeats // 4, 1), seed, truth=0.1)
        print(f"| {layout} | {100 * false:.1f} | {100 * right:.0f} |", flush=True)
    eight = Layout(8, (50, 50), 0.2)
    print(f"\ncoverage of nominal 95 %, {eight}, Gaussian: {mean_coverage(eight, draw_normal, repeats, seed):.3f}")
    for n in (50, 200):
        one = Layout(n, (1, 1), 0.0)
        print(f"PASS 0.05 above the bound, sd 0.2, n = {n}: {pass_rate(one, draw_normal, 0.05, repeats, seed):.3f}")
    for layout in (Layout(8, (50, 50), 0.2), Layout(20, (5, 5), 0.2), Layout(40, (1, 9), 0.2)):
        print(f"false PASS of F1, {layout}: {100 * f1_false_pass(layout, max(repeats // 4, 1), seed):.1f} %")
    for clusters in (8, 20, 60):
        rate = ece_false_pass(clusters, max(repeats // 4, 1), seed)
        print(f"false PASS of pooled ECE, {clusters} clusters: {100 * rate:.1f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print_tables(arguments.repeats, arguments.seed)
