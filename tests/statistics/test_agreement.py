from __future__ import annotations

import numpy as np
import pytest

from xaiseg.statistics.agreement import icc_deff
from xaiseg.statistics.clusters import cluster_codes


def slow_icc(values, clusters):
    """One-way analysis of variance with sums written out."""
    groups = {c: [v for v, o in zip(values, clusters, strict=True) if o == c] for c in set(clusters)}
    n, k, grand = len(values), len(groups), sum(values) / len(values)
    between = sum(len(g) * (sum(g) / len(g) - grand) ** 2 for g in groups.values()) / (k - 1)
    within = sum((v - sum(g) / len(g)) ** 2 for g in groups.values() for v in g) / (n - k)
    m0 = (n - sum(len(g) ** 2 for g in groups.values()) / n) / (k - 1)
    return (between - within) / (between + (m0 - 1) * within)


def test_icc_equals_the_analysis_of_variance_written_out():
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 9, 60)
    values = rng.normal(size=60) + clusters * 0.2
    icc, deff = icc_deff(values, clusters)
    sizes = np.bincount(clusters)
    assert icc == pytest.approx(slow_icc(values.tolist(), clusters.tolist()))
    assert deff == pytest.approx(1 + (np.sum(sizes**2) / 60 - 1) * icc)


def test_icc_recovers_the_correlation_that_was_put_in():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(400), 10)
    values = np.sqrt(0.3) * rng.normal(size=400)[clusters] + np.sqrt(0.7) * rng.normal(size=4000)
    assert icc_deff(values, clusters)[0] == pytest.approx(0.3, abs=0.04)


@pytest.mark.parametrize(
    ("values", "clusters"),
    [([1.0, 2.0, 3.0], ["a", "b", "c"]), ([1.0, 2.0], ["a", "a"]), ([0.1] * 6, ["a", "a", "b", "b", "c", "c"])],
)
def test_icc_is_none_where_it_cannot_be_estimated(values, clusters):
    assert icc_deff(np.array(values), np.array(clusters)) == (None, 1.0)


def test_negative_icc_never_gives_a_design_effect_below_one():
    icc, deff = icc_deff(np.array([0.0, 1.0] * 10), np.repeat(np.arange(10), 2))
    assert icc < 0
    assert deff == 1.0


def test_clusters_of_different_types_stay_apart():
    assert cluster_codes(np.array([1, "1", 1, None], dtype=object)).tolist() == [0, 1, 0, 2]
