from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from xaiseg.statistics.sampling import limit_clusters, sample_cases

CASES = [(f"case-{p}-{i}", f"patient-{p}") for p in range(30) for i in range(1 + p % 4)]


def test_everything_is_drawn_when_the_sample_is_large_enough():
    assert sample_cases(CASES, len(CASES), seed=0, purpose="x") == {case: 1.0 for case, _ in CASES}


def test_a_small_sample_takes_one_case_a_cluster():
    drawn = sample_cases(CASES, 12, seed=3, purpose="x")
    clusters = Counter(dict(CASES)[case] for case in drawn)
    assert len(drawn) == 12
    assert set(clusters.values()) == {1}


def test_order_of_the_input_changes_nothing():
    shuffled = [CASES[i] for i in np.random.default_rng(0).permutation(len(CASES))]
    for size in (5, 40):
        assert sample_cases(CASES, size, seed=1, purpose="x") == sample_cases(shuffled, size, seed=1, purpose="x")
    assert limit_clusters(CASES, 9, seed=1) == limit_clusters(shuffled, 9, seed=1)


@pytest.mark.parametrize("size", [7, 30, 45, 61])
def test_the_stated_probability_is_the_frequency_of_being_drawn(size):
    repeats = 1500
    counts = Counter()
    stated = {}
    for seed in range(repeats):
        drawn = sample_cases(CASES, size, seed=seed, purpose="x")
        counts.update(drawn.keys())
        stated.update(drawn)
    for case, chance in stated.items():
        error = 4.5 * np.sqrt(chance * (1 - chance) / repeats)
        assert abs(counts[case] / repeats - chance) <= error + 1e-12


def test_a_limit_keeps_clusters_whole():
    kept = limit_clusters(CASES, 10, seed=0)
    clusters = dict(CASES)
    for cluster in {clusters[case] for case in kept}:
        members = {case for case, owner in CASES if owner == cluster}
        assert members <= kept
    assert 10 <= len(kept) < 14
