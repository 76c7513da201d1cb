import itertools

import numpy as np
import pytest
import torch

from xaiseg.errors import UsageError
from xaiseg.hardware.cost_rows import Shape
from xaiseg.hardware.digits import serial_digits, value_of
from xaiseg.hardware.grouped import (
    CYCLE_PJ,
    GroupedUnit,
    folded_bias,
    grouped_cost,
    grouped_digits,
    grouped_unit,
    launches,
)


def slow_digits(inputs, weights, unit, *, signed):
    """The two stages on plain integers, group by group; asserts the published word lengths."""
    width = unit.weight_bits - 1
    groups = [
        (inputs[first : first + unit.lanes], weights[first : first + unit.lanes])
        for first in range(0, len(inputs), unit.lanes)
    ]
    rests, rest = [0] * len(groups), 0
    weight = 2 ** (unit.digits - unit.bits - width)  # of a digit, in units of the second stage
    found = []
    for step in range(unit.digits):
        total = 0
        for number, (xs, ws) in enumerate(groups):
            plane = 0
            if step < unit.bits:
                plane = sum(
                    serial_digits(x, bits=unit.bits, signed=signed)[step] * w for x, w in zip(xs, ws, strict=True)
                )
            value = 2 * rests[number] + plane
            word = (value + 2 ** (width - 1)) // 2**width
            rests[number] = value - word * 2**width
            assert -(2 ** (width - 1)) <= rests[number] < 2 ** (width - 1)
            if unit.lanes == 64:
                assert -128 <= word <= 127
            total += word
        value = 2 * rest + total
        digit = 1 if 2 * value >= weight else -1 if 2 * value < -weight else 0
        rest = value - digit * weight
        assert abs(2 * rest) <= weight
        found.append(digit)
    assert rest == 0
    assert not any(rests)
    return found


def planes_of(inputs, weights, unit, *, signed):
    """(bits, groups, count) of (count, groups * lanes) operands."""
    grouped = [part.reshape(len(inputs), unit.groups, unit.lanes) for part in (inputs, weights)]
    planes = [grouped[0] >> (unit.bits - 1 - place) & 1 for place in range(unit.bits)]
    if signed:
        planes[0] = -planes[0]
    return torch.as_tensor(np.stack([(plane * grouped[1]).sum(-1).T for plane in planes]))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("groups", "lanes"), [(1, 64), (5, 32), (5, 64), (19, 64), (3, 8), (64, 64)])
def test_digits_are_those_of_the_definition_and_stand_for_the_sum(groups, lanes, signed):
    unit = GroupedUnit(groups, lanes)
    random = np.random.default_rng(0)
    low, high = (-128, 127) if signed else (0, 255)
    inputs = random.integers(low, high + 1, (6, groups * lanes))
    weights = random.integers(-127, 128, (6, groups * lanes))
    inputs[0], weights[0] = high, 127
    inputs[1], weights[1] = low if signed else high, -127
    inputs[2] //= 64  # small sums
    found = grouped_digits(planes_of(inputs, weights, unit, signed=signed), unit)
    assert found.shape == (unit.digits, 6)
    for row in range(6 if groups < 64 else 2):
        expected = slow_digits(inputs[row].tolist(), weights[row].tolist(), unit, signed=signed)
        assert found[:, row].tolist() == expected
    for row in range(6):
        assert value_of(found[:, row].tolist()) == int((inputs[row] * weights[row]).sum())


def test_every_pair_of_four_bits():
    unit = GroupedUnit(1, lanes=4, bits=4, weight_bits=4)
    every = np.array(list(itertools.product(range(16), range(-7, 8))))
    inputs, weights = (np.pad(part, ((0, 0), (0, 3))) for part in (every[:, :1], every[:, 1:]))
    digits = grouped_digits(planes_of(inputs, weights, unit, signed=False), unit)
    values = sum(digit << (unit.digits - 1 - place) for place, digit in enumerate(digits))
    assert values.tolist() == (every[:, 0] * every[:, 1]).tolist()
    first = torch.where((digits != 0).any(0), digits.gather(0, (digits != 0).long().argmax(0)[None])[0], 0)
    assert torch.equal(first, values.sign())  # the first digit that is not 0 is the sign


def test_planes_must_fit():
    with pytest.raises(UsageError, match=r"planes do not fit the unit. Got: \(8, 2, 3\). Allowed: \(8, 3, ...\)"):
        grouped_digits(torch.zeros(8, 2, 3), GroupedUnit(3))


@pytest.mark.parametrize("bias", [0, 1, -1, 127, 128, -254, 16129, 16130, -60000, 59999])
def test_a_bias_is_a_sum_of_legal_products(bias):
    found = folded_bias(bias)
    assert sum(beta * gamma for beta, gamma in found) == bias
    assert all(-127 <= beta <= 127 and 0 <= gamma <= 127 for beta, gamma in found)
    assert len(found) <= 5


def test_a_bias_takes_the_largest_product_first():
    for bias in range(1, 400, 7):
        largest = max(a * b for a in range(128) for b in range(128) if a * b <= bias)
        beta, gamma = folded_bias(bias)[0]
        assert beta * gamma == largest
        assert [(-b, g) for b, g in folded_bias(bias)] == list(folded_bias(-bias))
    counts = [len(folded_bias(bias)) for bias in range(-60000, 60001, 599)]
    assert (min(counts), max(counts)) == (1, 5)


def test_units_by_terms():
    assert grouped_unit(63) == GroupedUnit(1)
    assert grouped_unit(64) == GroupedUnit(2)
    assert grouped_unit(144, lanes=32, bias_terms=3).groups == 5
    with pytest.raises(UsageError, match="does not fit the unit. Got: 4097. Allowed: at most 4096 products"):
        grouped_unit(4096)
    assert GroupedUnit(10).digits == 16 + 6 + 4


@pytest.mark.parametrize(
    "given", [{"groups": 0}, {"groups": 65}, {"groups": 1, "lanes": 48}, {"groups": 1, "lanes": 0}]
)
def test_no_such_unit(given):
    with pytest.raises(UsageError, match="no such number"):
        GroupedUnit(**given)


@pytest.mark.parametrize("given", [{"groups": 1, "lanes": 32}, {"groups": 8, "lanes": 32}, {"groups": 1, "lanes": 1}])
def test_a_second_stage_that_may_overflow_is_refused(given):
    with pytest.raises(UsageError, match="the second stage may overflow"):
        GroupedUnit(**given)


def test_energy_of_a_cycle_is_published_or_said_to_be_a_line_through_what_is():
    for (groups, lanes), held in CYCLE_PJ.items():
        assert GroupedUnit(groups, lanes).cycle_pj is held
        if lanes == 64:
            line = (7.44 + 0.0383 * groups) / 0.5
            assert held.value == pytest.approx(line, abs=0.05)
    between = GroupedUnit(28).cycle_pj
    assert (between.source, between.value) == ("estimated", pytest.approx((7.44 + 0.0383 * 28) * 2))


def test_a_layer_on_one_unit():
    shape = Shape("conv", 16, 12, 9, 50, 16 * 12 * 9 * 50)
    unit = GroupedUnit(5, lanes=32)
    cost = grouped_cost(shape, unit, workload="w")
    assert (cost.cycles, cost.seconds) == (600 * 26, pytest.approx(600 * 26 / 500e6))
    assert cost.joules == pytest.approx(600 * 26 * 14.73e-12)
    assert (cost.boundary, cost.timing) == ("PE", "compute-only")
    assert grouped_cost(shape, unit, workload="w", mean_cycles=13).joules == pytest.approx(cost.joules / 2)
    assert [launches([shape], units=units) for units in (1, 5, 8, 12)] == [600, 150, 100, 50]
