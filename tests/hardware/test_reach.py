import itertools

import numpy as np
import pytest

from xaiseg.hardware.reach import Endless, Limit, finest


def meets(held, limits):
    return all(
        held[limit.target]
        <= min(max(held[name] for name in limit.sources) + limit.gain, limit.cap if limit.cap is not None else 99)
        for limit in limits
    )


def drawn(seed):
    """Three groups and up to six limits of every kind."""
    random = np.random.default_rng(seed)
    names = ["a", "b", "c"]
    limits = []
    for place in range(int(random.integers(1, 7))):
        target = names[random.integers(3)]
        if random.random() < 0.3:
            pair = tuple(names[random.integers(3)] for _ in range(2))
            limits.append(Limit(f"n{place}", target, pair))
        else:
            cap = int(random.integers(-2, 3)) if random.random() < 0.3 else None
            limits.append(Limit(f"n{place}", target, (names[random.integers(3)],), int(random.integers(-2, 3)), cap))
    return {name: int(random.integers(0, 3)) for name in names}, limits


@pytest.mark.parametrize("seed", range(4))
def test_exponents_are_the_largest_of_all_that_meet_the_limits(seed):
    """Every choice of exponents is tried in a box that reaches as deep as two ways without repetition can."""
    endless = 0
    for number in range(seed * 50, seed * 50 + 50):
        start, limits = drawn(number)
        found = finest(start, limits)
        spans = [range(-8, start[name] + 1) for name in "abc"]
        able = [
            held for values in itertools.product(*spans) if meets(held := dict(zip("abc", values, strict=True)), limits)
        ]
        if isinstance(found, Endless):
            endless += 1
            assert able == []
            assert sum(limit.gain for limit in found.limits) < 0
            for limit, before in zip(found.limits, (*found.limits[1:], found.limits[0]), strict=True):
                assert before.target in limit.sources
        else:
            assert found in able
            assert all(found[name] == max(held[name] for held in able) for name in "abc")
    assert 0 < endless < 50


def test_a_sum_of_which_one_part_stays_stops_a_round_trip():
    around = [Limit("add", "y", ("x", "stays")), Limit("conv", "x", ("y",), gain=-1)]
    assert finest({"x": 100, "y": 100, "stays": 3}, around) == {"x": 2, "y": 3, "stays": 3}
    assert isinstance(finest({"x": 100, "y": 100}, [Limit("add", "y", ("x", "x")), around[1]]), Endless)


def test_a_round_trip_whose_gains_add_up_to_nothing_is_met():
    pair = [Limit("wide", "y", ("x",), gain=-3), Limit("narrow", "x", ("y",), gain=3)]
    assert finest({"x": 7, "y": 7}, pair) == {"x": 7, "y": 4}
    worse = [pair[0], Limit("narrow", "x", ("y",), gain=2)]
    found = finest({"x": 7, "y": 7}, worse)
    assert {limit.node for limit in found.limits} == {"wide", "narrow"}


def test_a_cap_below_everything_is_no_endless_fall():
    assert finest({"x": 7, "y": 7}, [Limit("conv", "y", ("x",), 2, cap=-40)]) == {"x": 7, "y": -40}
    assert finest({}, []) == {}
