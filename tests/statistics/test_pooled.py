from __future__ import annotations

import numpy as np
import pytest

from xaiseg.statistics.pooled import MOST_GROUPS, pooled_intervals
from xaiseg.statistics.resampling import statistic_interval


def ratio_of(values, sizes):
    """Sum of values over sum of sizes, written for groups of cases."""

    def prepare(groups, weights):
        tops, bottoms = np.bincount(groups, weights * values), np.bincount(groups, weights * sizes)

        def ratio(drawn):
            bottom = drawn @ bottoms
            return float(drawn @ tops / bottom) if bottom else float("nan")

        return ratio

    return prepare


def data(clusters, each=6, seed=0):
    rng = np.random.default_rng(seed)
    names = np.repeat([f"flight {i:03d}" for i in range(clusters)], each)
    sizes = rng.integers(1, 9, clusters * each).astype(float)
    values = rng.binomial(sizes.astype(int), np.repeat(rng.beta(8, 3, clusters), each)).astype(float)
    return names, values, sizes


@pytest.mark.parametrize("clusters", [8, 30])
def test_a_ratio_gets_the_interval_of_its_sums(clusters):
    names, values, sizes = data(clusters)
    (found,) = pooled_intervals(ratio_of(values, sizes), names, alphas=(0.05,), seed=3, resamples=4000)
    slow = statistic_interval(
        np.stack([values, sizes], axis=1), lambda s: s[0] / s[1], names, seed=3, resamples=4000
    )  # fmt: skip
    assert found.value == pytest.approx(slow.value)
    assert found.method == slow.method
    # The bootstrap numbers its clusters in another order, so its quantiles differ by chance.
    tolerance = 1e-9 if clusters < 20 else 0.004
    assert (found.lower, found.upper) == pytest.approx((slow.lower, slow.upper), abs=tolerance)
    assert (found.n, found.n_clusters) == (slow.n, slow.n_clusters)


def test_cases_copied_inside_their_clusters_change_nothing():
    names, values, sizes = data(12)
    held = pooled_intervals(ratio_of(values, sizes), names, alphas=(0.05,))[0]
    twice = [np.concatenate([part, part]) for part in (names, values, sizes)]
    again = pooled_intervals(ratio_of(twice[1], twice[2]), twice[0], alphas=(0.05,))[0]
    assert (again.lower, again.upper) == pytest.approx((held.lower, held.upper))
    copies = [np.concatenate([names, np.char.add(names, "b")]), twice[1], twice[2]]
    more = pooled_intervals(ratio_of(copies[1], copies[2]), copies[0], alphas=(0.05,))[0]
    assert more.upper - more.lower < 0.9 * (held.upper - held.lower)


def test_weights_and_equal_clusters():
    names = np.array(["a"] * 9 + ["b"])
    values, ones = np.r_[np.ones(9), 0.0], np.ones(10)
    case, cluster = (
        pooled_intervals(ratio_of(values, ones), names, alphas=(0.05,), weigh=weigh)[0].value
        for weigh in ("case", "cluster")
    )
    assert (case, cluster) == (pytest.approx(0.9), pytest.approx(0.5))
    heavy = pooled_intervals(ratio_of(values, ones), names, alphas=(0.05,), weights=np.r_[np.ones(9), 9.0])[0].value
    assert heavy == pytest.approx(0.5)


def test_many_clusters_are_joined_and_it_is_said():
    names, values, sizes = data(MOST_GROUPS + 50, each=1)
    found = pooled_intervals(ratio_of(values, sizes), names, alphas=(0.05,), resamples=200)[0]
    slow = statistic_interval(np.stack([values, sizes], axis=1), lambda s: s[0] / s[1], names, resamples=200)
    assert found.value == pytest.approx(slow.value)
    assert found.n_clusters == MOST_GROUPS + 50
    assert found.method.endswith(f"joined at random into {MOST_GROUPS} groups")
    assert found.upper - found.lower == pytest.approx(slow.upper - slow.lower, rel=0.25)


def test_one_cluster_gives_no_interval():
    found = pooled_intervals(ratio_of(np.ones(5), np.ones(5)), np.array(["a"] * 5), alphas=(0.05,))[0]
    assert found.value == 1.0
    assert found.lower is None
    assert "1 cluster" in found.reason
