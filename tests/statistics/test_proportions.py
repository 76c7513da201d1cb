from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from xaiseg.statistics.proportions import proportion_interval, proportion_intervals, rate_interval, wilson


def clustered(k=40, m=5, share=0.15, seed=0):
    """Events of which half come in whole clusters."""
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(k), m)
    whole = (rng.random(k) < share)[clusters]
    return np.where(rng.random(k * m) < 0.5, whole, rng.random(k * m) < share).astype(float), clusters


@pytest.mark.parametrize("misses", [0, 1, 2, 10, 30])
@pytest.mark.parametrize("weigh", ["case", "cluster"])
def test_independent_cases_get_clopper_pearson_exactly(misses, weigh):
    events = np.zeros(60)
    events[:misses] = 1
    found = proportion_interval(events, np.arange(60), weigh=weigh)
    exact = stats.binomtest(misses, 60).proportion_ci(confidence_level=0.90, method="exact")
    assert (found.lower, found.upper) == pytest.approx((exact.low, exact.high), abs=1e-10)
    assert found.method == "Clopper-Pearson"
    assert found.deff == pytest.approx(1.0)


@pytest.mark.parametrize(("n", "misses"), [(29, 0), (46, 1), (61, 2)])
def test_lesions_needed_to_show_at_most_a_tenth_missed(n, misses):
    events = (np.arange(n) < misses).astype(float)
    assert proportion_interval(events, np.arange(n)).upper <= 0.10
    assert proportion_interval(events[-n + 1 :] if misses == 0 else events[:-1], np.arange(n - 1)).upper > 0.10


def test_korn_graubard_written_out():
    events, clusters = clustered()
    p, n, k = events.mean(), 200, 40
    totals = np.array([np.sum(events[clusters == c] - p) for c in range(k)])
    deff = max(1.0, np.sum(totals**2) / (n * p * (1 - p)))
    touched = len(np.unique(clusters[events == 1]))
    share = 2 / (2 + touched)
    size = 1 / ((1 - share) * deff / n + share * max(deff / n, 1 / k))
    size *= (stats.t.ppf(0.95, size - 1) / stats.t.ppf(0.95, k - 1)) ** 2
    found = proportion_interval(events, clusters)
    assert found.lower == pytest.approx(stats.beta.ppf(0.05, p * size, size - p * size + 1))
    assert found.upper == pytest.approx(stats.beta.ppf(0.95, p * size + 1, size - p * size))
    assert found.deff == pytest.approx(n / size)
    assert found.method == "Korn-Graubard"


def test_without_any_event_clusters_count_as_one_case_each():
    found = proportion_interval(np.zeros(200), np.repeat(np.arange(40), 5))
    assert found.lower == 0.0
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 40))
    every = proportion_interval(np.ones(200), np.repeat(np.arange(40), 5))
    assert (every.lower, every.upper) == pytest.approx((0.05 ** (1 / 40), 1.0))


def test_complement_mirrors_the_interval():
    events, clusters = clustered()
    one, two = proportion_interval(events, clusters), proportion_interval(1 - events, clusters)
    assert (1 - two.upper, 1 - two.lower) == pytest.approx((one.lower, one.upper))


def test_clustering_widens_and_regrouping_at_random_does_not():
    events, clusters = clustered(share=0.3)
    shuffled = proportion_interval(np.random.default_rng(1).permutation(events), clusters)
    together = proportion_interval(events, clusters)
    assert together.value == pytest.approx(shuffled.value)
    assert together.deff > 1.3 * shuffled.deff
    assert together.upper > shuffled.upper


@pytest.mark.parametrize("weigh", ["case", "cluster"])
@pytest.mark.parametrize("empty", [False, True])
def test_cases_duplicated_inside_their_clusters_change_nothing(weigh, empty):
    events, clusters = clustered(share=0.3)
    events = events * (not empty)
    once = proportion_interval(events, clusters, weigh=weigh)
    twice = proportion_interval(np.tile(events, 2), np.tile(clusters, 2), weigh=weigh)
    assert (twice.value, twice.lower, twice.upper) == pytest.approx((once.value, once.lower, once.upper))


def test_clusters_duplicated_as_new_ones_narrow_the_interval():
    for events, clusters in (clustered(), (np.zeros(60), np.repeat(np.arange(30), 2))):
        once = proportion_interval(events, clusters)
        twice = proportion_interval(np.tile(events, 2), np.concatenate([clusters, clusters + 1000]))
        assert twice.upper - twice.lower < 0.85 * (once.upper - once.lower)


def test_order_of_rows_changes_nothing():
    events, clusters = clustered()
    order = np.random.default_rng(2).permutation(len(events))
    assert proportion_interval(events, clusters) == proportion_interval(events[order], clusters[order])


def test_sampling_weights_move_the_estimate_and_widen_the_interval():
    rng = np.random.default_rng(3)
    events = (rng.random(400) < 0.2).astype(float)
    weights = np.where(rng.random(400) < 0.5, 1.0, 8.0)
    found = proportion_interval(events, np.arange(400), weights=weights)
    assert found.value == pytest.approx(np.average(events, weights=weights))
    plain = proportion_interval(events, np.arange(400))
    assert found.upper - found.lower > 1.1 * (plain.upper - plain.lower)
    same = proportion_interval(events, np.arange(400), weights=np.full(400, 3.0))
    assert (same.lower, same.upper) == pytest.approx((plain.lower, plain.upper))


def test_weigh_cluster_is_the_mean_of_cluster_shares():
    events, clusters = np.array([1, 1, 1, 1, 0, 0, 0, 0.0]), np.array([0, 0, 0, 0, 1, 2, 3, 4])
    assert proportion_interval(events, clusters, weigh="cluster").value == pytest.approx(0.2)
    assert proportion_interval(events, clusters, weigh="case").value == pytest.approx(0.5)


def test_too_few_clusters_and_bad_events():
    assert "at least 5" in proportion_interval(np.zeros(100), np.repeat(np.arange(4), 25)).reason
    assert proportion_interval(np.array([]), np.array([])).value is None
    with pytest.raises(ValueError, match="0 or 1"):
        proportion_interval(np.array([0.5, 1.0]), np.arange(2))
    with pytest.raises(ValueError, match="0 or 1"):
        proportion_interval(np.array([np.nan, 1.0]), np.arange(2))


def test_several_alphas_equal_single_calls():
    events, clusters = clustered()
    several = proportion_intervals(events, clusters, alphas=(0.05, 0.01))
    assert several[1] == proportion_interval(events, clusters, alpha=0.01)
    assert several[1].upper > several[0].upper


@pytest.mark.parametrize("events", [0, 1, 7])
def test_rate_bounds_invert_the_poisson_tails(events):
    value, lower, upper = rate_interval(events, 50.0, alpha=0.05)
    assert value == events / 50
    assert stats.poisson.cdf(events, upper * 50) == pytest.approx(0.05)
    assert lower == 0.0 if events == 0 else stats.poisson.sf(events - 1, lower * 50) == pytest.approx(0.05)


def test_no_event_gives_the_rule_of_three():
    assert rate_interval(0, 200)[2] == pytest.approx(-np.log(0.05) / 200)
    with pytest.raises(ValueError, match="exposure"):
        rate_interval(1, 0.0)


def test_wilson_is_scipys():
    exact = stats.binomtest(7, 30).proportion_ci(confidence_level=0.90, method="wilson")
    assert wilson(7, 30) == pytest.approx((exact.low, exact.high))
    with pytest.raises(ValueError, match="wilson"):
        wilson(3, 2)
