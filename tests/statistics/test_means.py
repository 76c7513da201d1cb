from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from xaiseg.statistics.means import mean_interval, mean_intervals


def data(k=30, m=4, seed=0, spread=0.1):
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(k), m)
    values = np.clip(0.7 + spread * rng.normal(size=k)[clusters] + 0.1 * rng.normal(size=k * m), 0, 1)
    return values, clusters


def slow_bootstrap_t(values, clusters, alpha, seed, resamples):
    """The definition, cluster by cluster and draw by draw."""
    means = sorted(np.mean(values[clusters == c]) for c in np.unique(clusters))
    k, value = len(means), np.mean(means)
    error = np.std(means, ddof=1) / np.sqrt(k)
    rng = np.random.default_rng(seed)
    studentised = []
    for _ in range(resamples):
        drawn = [means[i] for i in rng.integers(0, k, k - 1)]
        spread = max(np.std(drawn, ddof=1) / np.sqrt(k - 1), error / np.sqrt(k))
        studentised.append((np.mean(drawn) - value) / spread)
    tail = alpha * (1 - 2 / k)
    high = np.quantile(studentised, 1 - tail, method="higher")
    low = np.quantile(studentised, tail, method="lower")
    return value - high * error, value + -low * error


def test_bootstrap_t_equals_the_slow_definition():
    values, clusters = data()
    found = mean_interval(values, clusters, seed=5, resamples=400)
    assert (found.lower, found.upper) == pytest.approx(slow_bootstrap_t(values, clusters, 0.05, 5, 400))
    assert found.method == "cluster bootstrap-t (400)"
    assert found.sd == pytest.approx(np.std([values[clusters == c].mean() for c in range(30)], ddof=1))


def test_few_large_clusters_get_t_on_their_means():
    rng = np.random.default_rng(3)
    means = np.array([0.6, 0.65, 0.7, 0.7, 0.75, 0.8])  # symmetric, so that nothing is widened
    clusters = np.repeat(np.arange(6), 20)
    noise = rng.normal(size=(6, 20)) * 0.05
    values = (means[:, None] + noise - noise.mean(axis=1, keepdims=True)).ravel()
    found = mean_interval(values, clusters)
    expected = stats.t.interval(0.90, 5, loc=means.mean(), scale=stats.sem(means))
    assert (found.lower, found.upper) == pytest.approx(expected)


def test_few_clusters_skewed_to_one_side_are_widened_on_that_side_only():
    means = np.array([0.2, 0.83, 0.84, 0.85, 0.85, 0.86, 0.86, 0.87])
    values, clusters = np.repeat(means, 20), np.repeat(np.arange(8), 20)
    low, high = stats.t.interval(0.90, 7, loc=means.mean(), scale=stats.sem(means))
    found = mean_interval(values, clusters)
    assert found.lower < low
    assert found.upper == pytest.approx(high)


def test_estimand_follows_weigh_and_never_the_number_of_clusters():
    values = np.array([0.0] * 30 + [1.0] * 10)
    clusters = np.array([0] * 30 + list(range(1, 11)))
    assert mean_interval(values, clusters, weigh="case").value == pytest.approx(0.25)
    assert mean_interval(values, clusters, weigh="cluster").value == pytest.approx(10 / 11)


def test_rules_of_too_few_and_too_small_clusters():
    values, clusters = data(k=4, m=50)
    assert "at least 5" in mean_interval(values, clusters).reason
    values, clusters = data(k=10, m=5)
    found = mean_interval(values, clusters)
    assert (found.lower, found.upper) == (None, None)
    assert found.value is not None
    assert "median of 5 cases" in found.reason
    assert mean_interval(*data(k=10, m=20)).reason == ""
    assert mean_interval(np.array([]), np.array([])).reason == "no defined value"


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        mean_interval(np.array([0.1, np.nan]), np.arange(2))
    with pytest.raises(ValueError, match="within"):
        mean_interval(np.array([0.1, 1.2]), np.arange(2), bounds=(0.0, 1.0))


def test_order_of_rows_changes_nothing_and_the_seed_is_all_that_is_random():
    values, clusters = data()
    order = np.random.default_rng(9).permutation(len(values))
    assert mean_interval(values, clusters, seed=4) == mean_interval(values[order], clusters[order], seed=4)
    assert mean_interval(values, clusters, seed=4) != mean_interval(values, clusters, seed=5)


@pytest.mark.parametrize(("k", "m"), [(30, 4), (8, 25)])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
@pytest.mark.parametrize("weigh", ["cluster", "case"])
def test_cases_duplicated_inside_their_clusters_change_nothing(k, m, bounds, weigh):
    values, clusters = data(k, m)
    once = mean_interval(values, clusters, bounds=bounds, weigh=weigh)
    twice = mean_interval(np.tile(values, 2), np.tile(clusters, 2), bounds=bounds, weigh=weigh)
    assert (twice.value, twice.lower, twice.upper) == pytest.approx((once.value, once.lower, once.upper), rel=1e-9)


@pytest.mark.parametrize(("k", "m"), [(30, 4), (30, 1), (8, 25)])
@pytest.mark.parametrize("bounds", [None, (0.0, 1.0)])
def test_clusters_duplicated_as_new_ones_narrow_the_interval(k, m, bounds):
    values, clusters = data(k, m)
    once = mean_interval(values, clusters, bounds=bounds)
    twice = mean_interval(np.tile(values, 2), np.concatenate([clusters, clusters + k]), bounds=bounds)
    assert twice.value == pytest.approx(once.value)
    assert twice.upper - twice.lower < 0.85 * (once.upper - once.lower)


def test_sampling_weights_restore_the_mean_of_the_population():
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(200), 10)
    values = rng.random(2000)
    chance = np.where(values > 0.5, 0.8, 0.2)
    drawn = rng.random(2000) < chance
    weighted = mean_interval(values[drawn], clusters[drawn], weights=1 / chance[drawn], weigh="case")
    assert weighted.lower < values.mean() < weighted.upper
    assert mean_interval(values[drawn], clusters[drawn], weigh="case").lower > values.mean()


def test_no_interval_has_zero_width():
    same = np.full(25, 0.9)
    unknown = mean_interval(same, np.arange(25))
    assert (unknown.lower, unknown.upper) == (None, None)
    assert "range" in unknown.reason
    known = mean_interval(same, np.arange(25), bounds=(0.0, 1.0))
    share = 1 - 0.05 ** (1 / 25)
    assert known.upper - known.lower == pytest.approx(share)
    assert known.method.endswith("range floor")
    perfect = mean_interval(np.ones(25), np.arange(25), bounds=(0.0, 1.0))
    assert (perfect.lower, perfect.upper) == pytest.approx((1 - share, 1.0))


def test_one_failure_among_binary_values_keeps_finite_bounds():
    values = np.ones(20)
    values[3] = 0.0
    found = mean_interval(values, np.arange(20))
    assert 0.5 < found.lower < 0.95 <= found.upper


def test_several_alphas_come_from_one_set_of_replicates():
    values, clusters = data()
    several = mean_intervals(values, clusters, alphas=(0.05, 0.025, 0.01), seed=3)
    assert several[1] == mean_interval(values, clusters, alpha=0.025, seed=3)
    lowers = [one.lower for one in several]
    assert lowers == sorted(lowers, reverse=True)


def test_bounds_stay_inside_the_range():
    values = np.concatenate([np.zeros(2), np.ones(18)])
    found = mean_interval(values, np.arange(20), bounds=(0.0, 1.0))
    assert 0.0 <= found.lower < found.value < found.upper <= 1.0
