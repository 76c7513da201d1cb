import math
from dataclasses import replace

import pytest

from xaiseg.errors import UsageError
from xaiseg.hardware.costs import Constant, Cost, given, ratio, total

BOARD = Cost("mma", "a frame", "Zynq-7020", "board", 100, 4e9, 2e6, 0.02, "compute-only", 0.07, "estimated", ("one",))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1])
def test_a_constant_is_a_finite_number(value):
    with pytest.raises(UsageError, match="^a paper: no such constant. Got: .*Allowed: a finite number, 0 or more"):
        Constant(value, "W", "published", "a paper")


def test_a_constant_says_where_it_comes_from():
    with pytest.raises(UsageError, match="no such source. Got: guessed. Allowed: published, measured, estimated, user"):
        Constant(1, "W", "guessed", "a paper")
    with pytest.raises(UsageError, match="needs a note"):
        Constant(1, "W", "published", " ")
    assert given(3, "W") == Constant(3, "W", "user", "given by the user")


def test_rates_follow_from_operations_time_and_energy():
    assert (BOARD.gops, BOARD.gops_per_watt) == (pytest.approx(200), pytest.approx(4 / 0.07))
    assert replace(BOARD, joules=None).gops_per_watt is None
    assert (replace(BOARD, ops=None).gops, replace(BOARD, seconds=None).gops) == (None, None)


@pytest.mark.parametrize(
    ("quantity", "expected"), [("cycles", 2), ("seconds", 4), ("joules", 0.5), ("gops", 0.25), ("gops_per_watt", 2)]
)
def test_a_ratio_of_costs_of_one_kind(quantity, expected):
    other = replace(BOARD, design="cascade", cycles=1e6, seconds=0.005, joules=0.14)
    found = ratio(BOARD, other, quantity)
    assert (found.value, found.reason) == (pytest.approx(expected), "")


@pytest.mark.parametrize(
    ("changed", "quantity", "reason"),
    [
        ({"technology": "45 nm library"}, "gops_per_watt", "differ in technology: Zynq-7020 against 45 nm library"),
        ({"boundary": "PE"}, "joules", "differ in boundary: board against PE"),
        ({"boundary": "PE"}, "cycles", "differ in boundary: board against PE"),
        ({"workload": "a film"}, "joules", "joules belong to a workload: a frame against a film"),
        ({"workload": "a film"}, "seconds", "seconds belong to a workload"),
        ({"timing": "latency"}, "seconds", "compute-only against latency: one leaves memory traffic out"),
        ({"timing": "latency"}, "gops", "compute-only against latency"),
        ({"joules": None}, "joules", "joules of cascade are not known"),
        ({"joules": None}, "gops_per_watt", "gops_per_watt of cascade are not known"),
    ],
)
def test_a_ratio_that_would_mislead_is_refused_with_the_reason(changed, quantity, reason):
    other = replace(BOARD, design="cascade", **changed)
    found = ratio(BOARD, other, quantity)
    assert found.value is None
    assert reason in found.reason
    assert ratio(other, BOARD, quantity).value is None


def test_rates_may_be_compared_across_workloads_and_energies_across_timings():
    assert ratio(BOARD, replace(BOARD, workload="a film"), "gops").value == 1
    assert ratio(BOARD, replace(BOARD, timing="latency"), "joules").value == 1


def test_there_are_no_other_quantities():
    with pytest.raises(UsageError, match="no such quantity. Got: watts. Allowed: cycles, seconds, joules, gops"):
        ratio(BOARD, BOARD, "watts")


def test_parts_add_up_and_a_part_without_energy_leaves_none():
    second = replace(BOARD, ops=1e9, cycles=3e6, seconds=0.03, joules=0.03, notes=("one", "two"))
    found = total([BOARD, second])
    assert (found.ops, found.cycles, found.seconds) == (5e9, 5e6, pytest.approx(0.05))
    assert (found.joules, found.notes) == (pytest.approx(0.1), ("one", "two"))
    assert total([BOARD, replace(second, joules=None)]).joules is None


@pytest.mark.parametrize(
    "changed", [{"design": "cascade"}, {"boundary": "PE"}, {"timing": "latency"}, {"clock_mhz": 1}]
)
def test_parts_of_two_kinds_do_not_add_up(changed):
    with pytest.raises(UsageError, match="only costs of one kind can be added"):
        total([BOARD, replace(BOARD, **changed)])
    with pytest.raises(UsageError, match="only costs of one kind"):
        total([])
