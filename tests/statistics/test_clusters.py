from __future__ import annotations

import numpy as np
import pytest

from xaiseg.statistics.clusters import cluster_mean, sorted_rows, too_few_clusters


def example(rng, n=80, k=12):
    return rng.normal(size=n), rng.integers(0, k, n), rng.uniform(0.5, 3.0, n)


def test_weigh_cluster_is_the_mean_of_weighted_cluster_means():
    values, clusters, weights = example(np.random.default_rng(0))
    means = [np.average(values[clusters == c], weights=weights[clusters == c]) for c in range(12)]
    mean = cluster_mean(values, clusters, weights, "cluster")
    assert mean.value == pytest.approx(np.mean(means))
    assert mean.error == pytest.approx(np.std(means, ddof=1) / np.sqrt(12))
    assert mean.least == pytest.approx(12)


def test_weigh_case_is_the_weighted_mean_with_its_taylor_error():
    values, clusters, weights = example(np.random.default_rng(1))
    value = np.average(values, weights=weights)
    totals = np.array([np.sum((weights * (values - value))[clusters == c]) for c in range(12)])
    mean = cluster_mean(values, clusters, weights, "case")
    assert mean.value == pytest.approx(value)
    assert mean.error == pytest.approx(np.sqrt(12 / 11 * np.sum(totals**2)) / weights.sum())
    assert mean.most == pytest.approx(weights.sum() ** 2 / np.sum(weights**2))
    assert mean.variance == pytest.approx(np.average((values - value) ** 2, weights=weights))


def test_order_of_rows_and_names_of_clusters_change_nothing_bit_for_bit():
    rng = np.random.default_rng(2)
    values, clusters, weights = example(rng)
    order = rng.permutation(len(values))
    renamed = np.array([f"site {7 * c % 13}" for c in clusters])
    for weigh in ("cluster", "case"):
        one = cluster_mean(values, clusters, weights, weigh)
        two = cluster_mean(values[order], renamed[order], weights[order], weigh)
        assert one.value == two.value
        assert np.array_equal(one.residual, two.residual)
        assert np.array_equal(one.mass, two.mass)


def test_sorted_rows_mark_the_start_of_each_cluster():
    rows, starts = sorted_rows(np.array([[3.0], [1.0], [2.0]]), np.array(["a", "b", "a"]))
    assert rows.ravel().tolist() == [2.0, 3.0, 1.0]
    assert starts.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("values", "clusters", "weights", "weigh", "message"),
    [
        ([1.0, np.nan], [0, 1], None, "case", "1 are NaN or infinite"),
        ([1.0, np.inf], [0, 1], None, "case", "NaN or infinite"),
        ([1.0, 2.0], [0], None, "case", "2 values need as many clusters"),
        ([1.0, 2.0], [0, 1], [1.0], "case", "weights"),
        ([1.0, 2.0], [0, 1], [1.0, 0.0], "case", "positive"),
        ([1.0, 2.0], [0, 1], None, "site", "weigh must be"),
        ([], [], None, "case", "at least one"),
    ],
)
def test_bad_input_is_refused(values, clusters, weights, weigh, message):
    weights = None if weights is None else np.array(weights)
    with pytest.raises(ValueError, match=message):
        cluster_mean(np.array(values), np.array(clusters), weights, weigh)


def test_too_few_clusters_speaks_english():
    assert too_few_clusters(3, 5) == "3 clusters; at least 5 are needed"
