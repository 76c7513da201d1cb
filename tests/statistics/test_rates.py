from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import poisson

from xaiseg.statistics.proportions import rate_interval
from xaiseg.statistics.rates import rate_intervals


def one(events, exposure, clusters, alpha=0.05, **more):
    (found,) = rate_intervals(np.asarray(events), np.asarray(exposure), np.asarray(clusters), alphas=(alpha,), **more)
    return found


def test_independent_events_get_exactly_the_poisson_interval():
    """By definition: the smallest rate under which so many events are not too many, and the largest one."""
    rng = np.random.default_rng(0)
    events = np.r_[np.zeros(40), np.ones(8), 2 * np.ones(2)]
    exposure = rng.uniform(0.5, 2.0, 50)
    found = one(events, exposure, np.arange(50))
    total, area = int(events.sum()), exposure.sum()
    if found.deff == pytest.approx(1.0):
        assert poisson.sf(total - 1, found.lower * area) == pytest.approx(0.05)
        assert poisson.cdf(total, found.upper * area) == pytest.approx(0.05)
        assert (found.value, found.lower, found.upper) == pytest.approx(rate_interval(total, area))
    else:
        assert found.lower <= rate_interval(total, area)[1]
        assert found.upper >= rate_interval(total, area)[2]


def test_without_an_event_a_cluster_counts_as_one_unit():
    found = one(np.zeros(200), np.ones(200), np.arange(200) // 10)
    assert found.value == found.lower == 0.0
    assert found.upper == pytest.approx(-math.log(0.05) / 20)
    assert one(np.zeros(60), np.full(60, 1e-3), np.arange(60)).upper == pytest.approx(-1000 * math.log(0.05) / 60)


def test_events_that_come_in_clusters_widen_the_interval():
    spread = np.zeros((30, 10))
    spread[:, 0] = 1
    heaped = np.zeros((30, 10))
    heaped[:3] = 1
    clusters = np.repeat(np.arange(30), 10)
    alone, together = (one(events.ravel(), np.ones(300), clusters) for events in (spread, heaped))
    assert alone.value == together.value == pytest.approx(0.1)
    assert together.upper - together.lower > 1.5 * (alone.upper - alone.lower)
    assert together.deff > alone.deff >= 1.0


def test_order_and_scale_change_nothing():
    rng = np.random.default_rng(1)
    events, exposure, clusters = rng.poisson(0.3, 120), rng.uniform(1, 2, 120), rng.integers(0, 15, 120)
    held, order = one(events, exposure, clusters), rng.permutation(120)
    again = one(events[order], exposure[order], clusters[order])
    assert (held.lower, held.upper) == (again.lower, again.upper)
    thousand = one(events, exposure / 1000, clusters)
    assert thousand.upper == pytest.approx(1000 * held.upper)
    weighted = one(events, exposure, clusters, weights=np.full(120, 3.0))
    assert weighted.upper == pytest.approx(held.upper)


def test_too_few_clusters_and_impossible_values():
    few = one(np.ones(40), np.ones(40), np.arange(40) % 4)
    assert few.lower is None
    assert few.reason == "4 clusters; at least 5 are needed"
    assert one([], [], []).reason == "no defined value"
    for events, exposure in (([-1.0], [1.0]), ([1.0], [0.0])):
        with pytest.raises(ValueError, match="counts >= 0 and exposures > 0"):
            one(events, exposure, [0])


def test_the_upper_bound_errs_about_as_often_as_it_says():
    """Gamma-distributed flights of 8 tiles: the 95 % upper bound lies below the true rate in at most 7 % of cases."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(400):
        rates = rng.gamma(2.0, 0.15, 20)
        events = rng.poisson(np.repeat(rates, 8))
        wrong += one(events, np.ones(160), np.repeat(np.arange(20), 8)).upper < 0.3
    assert wrong / 400 <= 0.07
