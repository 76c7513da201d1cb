from __future__ import annotations

import math

import numpy as np
import pytest

from xaiseg.estimate import Estimate
from xaiseg.protocol import Requirement
from xaiseg.reports.numbers import both_text, bound_text, decimals, large, number, range_text, value_text
from xaiseg.statistics.interval import Interval


def estimate(value, lower=None, upper=None, kind="mean", unit="") -> Estimate:
    interval = None if lower is None and upper is None else Interval(value, lower, upper, 0.05, "m", 9, 9)
    return Estimate("c/m", "c", "m", kind, value, interval, unit=unit)


def test_half_an_interval_keeps_two_digits():
    rng = np.random.default_rng(0)
    for _ in range(300):
        low = rng.uniform(-1, 1)
        width = 10 ** rng.uniform(-2.5, 1)
        places = decimals(low, low + width)
        half = width / 2 * 10**places
        assert 10 <= half < 100 or places == 0


def test_a_printed_number_is_within_half_a_step_and_never_reads_as_zero():
    rng = np.random.default_rng(1)
    for value in rng.normal(0, 1, 500) * 10.0 ** rng.integers(-5, 3, 500):
        for places in (0, 2, 3):
            shown = float(number(value, places).replace("−", "-"))
            assert abs(shown - value) <= 0.5001 * 10.0**-places
            assert shown != 0
            assert (shown > 0) == (value > 0)


def test_tiny_values_and_ends_can_be_told_apart():
    found = estimate(-7.1e-10, -9.6e-10, -4.4e-10, unit="nat")
    assert both_text(found, level=False) == "−7.1e−10 nat (−9.6e−10 to −4.4e−10 nat)"
    assert both_text(estimate(-0.0012, -0.123, 0.121), level=False) == "−0.001 (−0.12 to 0.12)"


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_no_number_is_never_printed_as_one(value):
    assert number(value, 2) == "none"


def test_value_and_ends_share_the_precision_of_the_interval():
    assert both_text(estimate(0.76312, 0.7411, 0.7852)) == "0.763 (90 % interval 0.741 to 0.785)"
    assert both_text(estimate(0.0, 0.0, 0.0951, "proportion")) == "0 % (90 % interval 0 to 9.5 %)"
    assert value_text(estimate(12.0, kind="fact")) == "12"
    assert value_text(estimate(15.83, 12.2, 22.4, unit="px")) == "15.8 px"


def test_an_open_end_and_no_interval():
    half = estimate(0.5, 0.4, None)
    assert range_text(half, half.interval) == "0.400 to open"
    assert range_text(estimate(0.5), None) == ""


def test_bounds_in_words():
    assert bound_text(Requirement("c", "m", 0.1, "at_most"), "proportion") == "at most 10 %"
    assert bound_text(Requirement("c", "m", 0.1, "within"), "mean") == "within ±0.1"


def test_large_counts():
    assert [large(n) for n in (0, 9999, 150_000, 3.2e9)] == ["0", "9999", "150 thousand", "3.2 billion"]
