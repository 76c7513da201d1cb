from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from xaiseg.statistics.means import mean_interval
from xaiseg.statistics.resampling import jackknife, resampled_counts, statistic_interval, statistic_intervals


def ratio(sums):
    return sums[0] / sums[1]


def rows(k=30, m=3, seed=0):
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(k), m)
    return np.column_stack((rng.random(k * m), rng.uniform(1, 2, k * m))), clusters


def slow_jackknife(contributions, clusters, function):
    names = sorted(set(clusters.tolist()))
    without = [function(contributions[clusters != name].sum(axis=0)) for name in names]
    k = len(names)
    return np.sqrt((k - 1) / k * sum((value - np.mean(without)) ** 2 for value in without))


def test_jackknife_equals_the_slow_loop():
    contributions, clusters = rows(k=9)
    sums = np.array([contributions[clusters == c].sum(axis=0) for c in range(9)])
    error, influence = jackknife(sums, ratio)
    assert error == pytest.approx(slow_jackknife(contributions, clusters, ratio))
    assert influence.sum() == pytest.approx(0, abs=1e-9)


def test_few_clusters_get_the_jackknife_with_t():
    contributions, clusters = rows(k=9, seed=5)
    found = statistic_interval(contributions, ratio, clusters)
    half = stats.t.ppf(0.95, 8) * slow_jackknife(contributions, clusters, ratio)
    assert found.value == pytest.approx(contributions[:, 0].sum() / contributions[:, 1].sum())
    assert found.lower <= found.value - half * (1 - 1e-9)
    assert found.upper >= found.value + half * (1 - 1e-9)
    assert found.lower == pytest.approx(found.value - half) or found.upper == pytest.approx(found.value + half)
    assert found.method == "delete-one-cluster jackknife, t"


def test_a_mean_as_statistic_gets_nearly_the_interval_of_the_mean():
    rng = np.random.default_rng(1)
    values = rng.gamma(2.0, size=60)
    found = statistic_interval(np.column_stack((values, np.ones(60))), ratio, np.arange(60), seed=3)
    mean = mean_interval(values, np.arange(60), seed=4, weigh="case")
    assert found.value == pytest.approx(mean.value)
    assert found.sd == pytest.approx(mean.sd)
    assert (found.lower, found.upper) == pytest.approx((mean.lower, mean.upper), abs=0.15 * (mean.upper - mean.lower))


def test_sums_that_are_no_ratio_are_brought_to_the_full_number_of_clusters():
    values = np.random.default_rng(2).uniform(1, 3, (40, 1))
    found = statistic_interval(values, lambda sums: float(sums[0]), np.arange(40))
    half = stats.t.ppf(0.95, 39) * np.sqrt(40) * values.std(ddof=1)
    assert (found.lower, found.upper) == pytest.approx((values.sum() - half, values.sum() + half), abs=0.3 * half)


def test_upward_bias_of_a_resampled_absolute_value_moves_the_interval_down():
    rng = np.random.default_rng(3)
    gaps = rng.normal(size=(100, 10)) / np.sqrt(100)
    found = statistic_interval(gaps, lambda sums: float(np.abs(sums).mean()), np.arange(100))
    assert found.value - found.lower > found.upper - found.value


def test_weigh_cluster_divides_by_the_weight_of_the_cluster():
    contributions = np.array([[1.0, 1.0]] * 10 + [[0.0, 1.0]] * 30)
    clusters = np.array([0] * 10 + list(range(1, 31)))
    assert statistic_interval(contributions, ratio, clusters).value == pytest.approx(0.25)
    assert statistic_interval(contributions, ratio, clusters, weigh="cluster").value == pytest.approx(1 / 31)
    doubled = statistic_interval(contributions, ratio, clusters, weigh="cluster", weights=np.full(40, 2.0))
    assert doubled.value == pytest.approx(1 / 31)


def test_order_of_rows_changes_nothing():
    contributions, clusters = rows()
    order = np.random.default_rng(4).permutation(len(clusters))
    assert statistic_interval(contributions, ratio, clusters) == statistic_interval(
        contributions[order], ratio, clusters[order]
    )


def test_duplicated_cases_change_nothing_and_duplicated_clusters_narrow():
    contributions, clusters = rows()
    once = statistic_interval(contributions, ratio, clusters)
    inside = statistic_interval(np.tile(contributions, (2, 1)), ratio, np.tile(clusters, 2))
    assert (inside.value, inside.lower, inside.upper) == pytest.approx((once.value, once.lower, once.upper))
    new = statistic_interval(np.tile(contributions, (2, 1)), ratio, np.concatenate([clusters, clusters + 30]))
    assert new.upper - new.lower < 0.85 * (once.upper - once.lower)


def test_no_interval_has_zero_width():
    perfect = np.array([[2.0, 2.0]] * 25)
    unknown = statistic_interval(perfect, ratio, np.arange(25))
    assert unknown.lower is None
    assert "range" in unknown.reason
    known = statistic_interval(perfect, ratio, np.arange(25), bounds=(0.0, 1.0))
    assert (known.lower, known.upper) == pytest.approx((0.05 ** (1 / 25), 1.0))


def test_undefined_statistics_say_so():
    zero = np.column_stack((np.ones(30), np.zeros(30)))

    def safe(sums):
        return sums[0] / sums[1] if sums[1] else float("nan")

    assert "undefined on these data" in statistic_interval(zero, safe, np.arange(30)).reason
    zero[0, 1] = 1.0
    assert "left out" in statistic_interval(zero, safe, np.arange(30)).reason
    zero[1, 1] = 1.0
    assert "resamples" in statistic_interval(zero, safe, np.arange(30)).reason
    assert "at least 5" in statistic_interval(zero[:4], safe, np.arange(4)).reason
    assert statistic_interval(zero[:0], safe, np.arange(0)).reason == "no defined value"
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        statistic_interval(np.ones(3), safe, np.arange(3))


def test_resamples_are_the_same_in_one_block_or_in_many(monkeypatch):
    whole = np.concatenate(list(resampled_counts(50, 7, 200)))
    monkeypatch.setattr("xaiseg.statistics.resampling._CHUNK_VALUES", 1000)
    blocks = list(resampled_counts(50, 7, 200))
    assert len(blocks) == 10
    assert np.array_equal(np.concatenate(blocks), whole)
    assert (whole.sum(axis=1) == 49).all()


def test_several_alphas_equal_single_calls():
    contributions, clusters = rows()
    several = statistic_intervals(contributions, ratio, clusters, alphas=(0.05, 0.025))
    assert several[1] == statistic_interval(contributions, ratio, clusters, alpha=0.025)
