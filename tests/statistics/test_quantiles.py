from __future__ import annotations

import pytest
from scipy import stats

from xaiseg.statistics.quantiles import clopper_pearson, normal_quantile, t_quantile


@pytest.mark.parametrize(("successes", "n"), [(0, 29), (1, 46), (7, 20), (20, 20), (3, 1000)])
@pytest.mark.parametrize("alpha", [0.05, 0.025, 0.01])
def test_clopper_pearson_is_scipys_exact_interval(successes, n, alpha):
    exact = stats.binomtest(successes, n).proportion_ci(confidence_level=1 - 2 * alpha, method="exact")
    assert clopper_pearson(successes, n, alpha) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_clopper_pearson_inverts_the_binomial_tails():
    lower, upper = clopper_pearson(4, 30, 0.05)
    assert stats.binom.sf(3, 30, lower) == pytest.approx(0.05)
    assert stats.binom.cdf(4, 30, upper) == pytest.approx(0.05)


def test_quantiles_are_scipys():
    assert t_quantile(0.975, 7.5) == pytest.approx(stats.t.ppf(0.975, 7.5))
    assert normal_quantile(0.9) == pytest.approx(stats.norm.ppf(0.9))
