from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from xaiseg.statistics.equivalence import decide
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.means import mean_interval
from xaiseg.statistics.planning import clusters_for_mean, clusters_for_proportion, more_needed, n_for_proportion
from xaiseg.statistics.proportions import proportion_interval


@pytest.mark.parametrize(
    ("bound", "needed"),
    [(0.20, (14, 22, 30)), (0.10, (29, 46, 61)), (0.05, (59, 93, 124)), (0.01, (299, 473, 628))],
)
def test_cases_needed_at_0_1_and_2_misses(bound, needed):
    assert tuple(n_for_proportion(bound, misses) for misses in range(3)) == needed


@pytest.mark.parametrize(("bound", "assumed"), [(0.10, 0.03), (0.15, 0.07), (0.10, 0.0), (0.10, 0.08)])
def test_proportion_plan_has_the_power_and_one_less_has_not(bound, assumed):
    def power(n):
        allowed = [x for x in range(n + 1) if stats.beta.ppf(0.95, x + 1, n - x) <= bound]
        return stats.binom.cdf(max(allowed), n, assumed) if allowed else 0.0

    n = clusters_for_proportion(bound, assumed)
    assert power(n) >= 0.8
    if n < 200:
        assert all(power(fewer) < 0.8 for fewer in range(1, n))
    assert clusters_for_proportion(1 - bound, 1 - assumed) == n


def test_proportion_plan_near_the_bound_is_large():
    assert clusters_for_proportion(0.10, 0.095) > 20_000


def test_mean_plan_has_the_power_of_the_t_test():
    n = clusters_for_mean(0.70, 0.80, 0.20)
    power = [stats.nct.sf(stats.t.ppf(0.95, k - 1), k - 1, 0.1 / 0.2 * np.sqrt(k)) for k in (n - 1, n)]
    assert power[0] < 0.8 <= power[1]
    assert clusters_for_mean(0.80, 0.70, 0.20) == n
    assert clusters_for_mean(0.1, 0.9, 0.01) == 5


def test_mean_plan_with_a_range_also_clears_the_unseen_share():
    n = clusters_for_mean(0.85, 0.90, 0.03, bounds=(0.0, 1.0))
    assert 0.90 * 0.05 ** (1 / n) >= 0.85 > 0.90 * 0.05 ** (1 / (n - 1))
    assert n > clusters_for_mean(0.85, 0.90, 0.03)


@pytest.mark.parametrize(
    "call",
    [
        lambda: clusters_for_mean(0.7, 0.7, 0.2),
        lambda: clusters_for_mean(0.7, 0.8, 0.0),
        lambda: n_for_proportion(0.0, 1),
        lambda: n_for_proportion(0.1, -1),
        lambda: clusters_for_proportion(0.1, 0.1),
        lambda: clusters_for_proportion(0.0, 0.0),
    ],
)
def test_nonsense_is_refused(call):
    with pytest.raises(ValueError, match="got"):
        call()


def test_more_needed_for_a_mean_would_have_settled_it():
    values = np.random.default_rng(0).normal(0.75, 0.2, 40)
    found = mean_interval(values, np.arange(40))
    bound = found.value - 0.04
    assert decide(found.lower, found.upper, bound, "at_least") == "insufficient"
    more = more_needed(found, bound, "at_least", "mean")
    expected = 40 * ((found.value - found.lower) / 0.04) ** 2 - 40
    assert more == pytest.approx(expected, abs=1)


def test_more_needed_is_at_least_what_the_protocol_asks_for():
    found = mean_interval(np.random.default_rng(0).normal(0.9, 0.02, 10), np.arange(10), min_clusters=30)
    assert found.lower is None
    assert more_needed(found, 0.7, "at_least", "mean", least=30) == 20


def test_more_needed_for_a_proportion_solves_clopper_pearson():
    events = (np.arange(40) < 2).astype(float)
    found = proportion_interval(events, np.arange(40))
    more = more_needed(found, 0.10, "at_most", "proportion")

    def upper(n):
        return stats.beta.ppf(0.95, 0.05 * n + 1, n - 0.05 * n)

    assert upper(40 + more) <= 0.10 < upper(39 + more)
    assert more_needed(found, 0.049, "at_most", "proportion") is None


def test_more_needed_leads_to_a_failure_as_well():
    found = Interval(0.65, 0.55, 0.75, 0.05, "", 40, 40, sd=0.3)
    assert more_needed(found, 0.70, "at_least", "mean") == 121
    assert more_needed(found, 0.80, "at_least", "mean") == 0


def test_more_needed_within_looks_at_both_sides():
    found = Interval(0.02, -0.10, 0.14, 0.05, "", 36, 36, sd=0.4)
    assert more_needed(found, 0.10, "within", "mean") == pytest.approx(36 * (0.12 / 0.08) ** 2 - 36, abs=1)


def test_a_value_on_the_bound_cannot_be_settled():
    assert more_needed(Interval(0.7, 0.6, 0.8, 0.05, "", 40, 40, sd=0.2), 0.70, "at_least", "mean") is None
    assert more_needed(Interval(None, None, None, 0.05, "", 0, 0), 0.70, "at_least", "mean") is None


def test_too_few_clusters_need_what_the_rules_ask_for():
    few = mean_interval(np.linspace(0.88, 0.92, 8), np.arange(8))
    assert more_needed(few, 0.70, "at_least", "mean") == 12
    sites = mean_interval(np.repeat([0.89, 0.9, 0.91], 50), np.repeat(np.arange(3), 50))
    assert more_needed(sites, 0.70, "at_least", "mean") == 2
    lesions = proportion_interval(np.zeros(4), np.arange(4))
    assert more_needed(lesions, 0.10, "at_most", "proportion") == 25


@pytest.mark.parametrize("now", [24, 48, 96])
def test_an_end_that_allows_for_the_unseen_comes_nearer_with_the_clusters(now):
    """No pixel of any image changes sides; one image in which all do cannot be excluded with so few."""
    from xaiseg.statistics.means import mean_interval

    names = np.array([f"p{i}" for i in range(now)])
    held = mean_interval(np.zeros(now), names, bounds=(0.0, 1.0))
    assert held.floored == "both"
    more = more_needed(held, 0.01, "at_most", "mean")
    needed = math.ceil(math.log(0.05) / math.log(0.99))  # 299: 1 - 0.05 ** (1 / n) <= 0.01
    assert now + more == needed
    reached = mean_interval(np.zeros(needed), np.array([f"p{i}" for i in range(needed)]), bounds=(0.0, 1.0))
    assert reached.upper <= 0.01 < held.upper


def test_where_the_spread_is_wider_it_still_shrinks_with_the_root():
    spread = Interval(0.75, 0.69, 0.81, 0.05, "", 40, 40, sd=0.2)
    assert more_needed(replace(spread, floored="upper"), 0.70, "at_least", "mean") == 18
    # Its lower end allowed for the unseen: that part shrinks faster, down to where the spread is as wide.
    assert 0 < more_needed(replace(spread, floored="lower"), 0.70, "at_least", "mean") < 18
