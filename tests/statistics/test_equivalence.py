from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from xaiseg.statistics.equivalence import decide, tost
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.means import mean_interval


@pytest.mark.parametrize(
    ("lower", "upper", "bound", "sense", "expected"),
    [
        (0.70, 0.80, 0.70, "at_least", "pass"),
        (0.69, 0.80, 0.70, "at_least", "insufficient"),
        (0.50, 0.69, 0.70, "at_least", "fail"),
        (0.50, 0.70, 0.70, "at_least", "insufficient"),
        (0.02, 0.10, 0.10, "at_most", "pass"),
        (0.02, 0.11, 0.10, "at_most", "insufficient"),
        (0.11, 0.30, 0.10, "at_most", "fail"),
        (-0.05, 0.05, 0.10, "within", "pass"),
        (-0.15, 0.05, 0.10, "within", "insufficient"),
        (0.11, 0.20, 0.10, "within", "fail"),
        (-0.30, -0.11, 0.10, "within", "fail"),
        (-0.30, 0.30, 0.10, "within", "insufficient"),
        (None, 0.05, 0.10, "within", "insufficient"),
        (0.71, None, 0.70, "at_least", "pass"),
        (None, 0.60, 0.70, "at_least", "fail"),
        (None, None, 0.70, "at_most", "insufficient"),
    ],
)
def test_guard_band(lower, upper, bound, sense, expected):
    assert decide(lower, upper, bound, sense) == expected


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="sense"):
        decide(0.0, 1.0, 0.5, "above")
    with pytest.raises(ValueError, match="negative"):
        decide(0.0, 1.0, -0.5, "within")
    with pytest.raises(ValueError, match="positive"):
        tost(Interval(0.0, 0.0, 0.0, 0.05, "", 5, 5), 0.0)


def test_tost_agrees_with_two_one_sided_t_tests():
    rng = np.random.default_rng(0)
    agree = set()
    for scale in (0.02, 0.1, 0.3):
        means = np.sort(rng.normal(0.01, scale, 12))
        means = (means - means[::-1]) / 2 + 0.01  # symmetric: the interval is Student's
        found = mean_interval(np.repeat(means, 20), np.repeat(np.arange(12), 20))
        above = stats.ttest_1samp(means, -0.05, alternative="greater").pvalue
        below = stats.ttest_1samp(means, 0.05, alternative="less").pvalue
        assert tost(found, 0.05) == (max(above, below) <= 0.05)
        agree.add(tost(found, 0.05))
    assert agree == {True, False}


def test_absence_of_a_significant_difference_is_not_equivalence():
    noisy = mean_interval(np.repeat([-0.3, -0.1, 0.0, 0.1, 0.3], 20), np.repeat(np.arange(5), 20))
    assert noisy.lower < 0 < noisy.upper
    assert not tost(noisy, 0.05)
