from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from xaiseg.statistics.means import mean_intervals
from xaiseg.statistics.multiplicity import holm, holm_reject, interval_ladder, ladder_alphas


def slow_holm(pvalues, alpha):
    """Adjusted p-values: running maximum of (m - rank) * p."""
    order = np.argsort(pvalues, kind="stable")
    adjusted, highest = np.empty(len(pvalues)), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, (len(pvalues) - rank) * pvalues[index])
        adjusted[index] = highest
    return (adjusted <= alpha).tolist()


def test_holm_equals_adjusted_pvalues():
    rng = np.random.default_rng(0)
    for _ in range(200):
        pvalues = rng.beta(0.4, 3.0, rng.integers(1, 9)).tolist()
        assert holm(pvalues, 0.05) == slow_holm(pvalues, 0.05)
    assert holm([]) == []


def normal_ladder(z, alpha):
    """Bounds of a normal estimate with error 1 at alpha / k."""
    return [(k, z - stats.norm.isf(alpha / k), z + stats.norm.isf(alpha / k)) for k in range(1, 8)]


def test_bounds_reject_what_pvalues_reject():
    rng = np.random.default_rng(1)
    for _ in range(200):
        z = rng.normal(-1.5, 1.5, 7)
        by_bounds = holm_reject([normal_ladder(one, 0.05) for one in z], lambda low, high: high < 0)
        by_pvalues = [i for i, rejected in enumerate(holm(stats.norm.cdf(z).tolist(), 0.05)) if rejected]
        assert list(by_bounds) == by_pvalues


def test_members_without_bounds_count_but_are_never_named():
    weak = [(1, 0.0, 0.69), (2, 0.0, 0.75)]
    assert holm_reject([weak, []], lambda low, high: high < 0.7) == ()
    assert holm_reject([weak], lambda low, high: high < 0.7) == (0,)
    assert holm_reject([], lambda low, high: True) == ()


def test_a_missing_rung_is_refused():
    with pytest.raises(ValueError, match="member 0"):
        holm_reject([[(1, 0.0, 1.0)], [(1, 0.0, 1.0), (2, 0.0, 1.0)]], lambda low, high: False)


def test_ladder_widens_with_k():
    values = np.random.default_rng(2).random(40)
    ladder = interval_ladder(mean_intervals(values, np.arange(40), alphas=ladder_alphas(0.05, 5)))
    assert [k for k, _, _ in ladder] == [1, 2, 3, 4, 5]
    widths = [high - low for _, low, high in ladder]
    assert widths == sorted(widths)
    assert widths[0] < widths[-1]
