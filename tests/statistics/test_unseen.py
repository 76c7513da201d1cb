from __future__ import annotations

import numpy as np
import pytest

from xaiseg.statistics.clusters import cluster_mean
from xaiseg.statistics.unseen import effective_size, unseen_size, with_range_floor


def test_one_case_a_cluster_is_worth_the_number_of_cases():
    mean = cluster_mean(np.array([0.1, 0.5, 0.9, 0.4, 0.3]), np.arange(5), None, "case")
    assert effective_size(mean, 5, at_least_deff_1=False) == pytest.approx(5)


def test_cases_that_are_all_alike_are_worth_the_number_of_clusters():
    events, clusters = np.repeat([0.0, 1.0, 0.0, 0.0, 1.0, 0.0], 7), np.repeat(np.arange(6), 7)
    mean = cluster_mean(events, clusters, None, "case")
    assert effective_size(mean, 2, at_least_deff_1=True) == pytest.approx(6)


def test_size_lies_between_clusters_and_cases_and_grows_with_the_evidence():
    rng = np.random.default_rng(0)
    mean = cluster_mean((rng.random(400) < 0.2).astype(float), np.repeat(np.arange(40), 10), None, "case")
    sizes = [effective_size(mean, evidence, at_least_deff_1=True) for evidence in (0, 1, 5, 40, 10**6)]
    assert sizes[0] == pytest.approx(40)
    assert sizes == sorted(sizes)
    assert sizes[-1] <= 400 + 1e-9


def test_equal_shares_in_all_clusters_never_count_for_more_than_the_cases():
    mean = cluster_mean(np.tile([1.0, 0.0, 0.0, 0.0], 10), np.repeat(np.arange(10), 4), None, "case")
    assert effective_size(mean, 10**9, at_least_deff_1=True) == pytest.approx(40)


def test_floor_allows_for_the_share_that_n_draws_miss():
    (low, high), why, floored = with_range_floor(None, 0.8, 20, 0.05, (0.0, 1.0))
    share = 1 - 0.05 ** (1 / 20)
    assert (1 - share) ** 20 == pytest.approx(0.05)
    assert (low, high) == pytest.approx((0.8 - share * 0.8, 0.8 + share * 0.2))
    assert floored == "both"
    assert why == ""


def test_floor_leaves_wider_bounds_alone_and_clips_them():
    assert with_range_floor((-0.2, 1.3), 0.5, 100, 0.05, (0.0, 1.0)) == ((0.0, 1.0), "", "")
    assert with_range_floor((0.2, 0.7), 0.5, 100, 0.05, None) == ((0.2, 0.7), "", "")


def test_without_spread_an_open_range_gives_no_bound_on_that_side():
    (low, high), why, _ = with_range_floor(None, 3.0, 30, 0.05, (0.0, np.inf))
    assert 0 < low < 3
    assert high is None
    assert "range" in why


def test_statistics_of_few_clusters_are_worth_few_draws():
    assert unseen_size(8) == pytest.approx(40)
    assert unseen_size(100) > 5000
