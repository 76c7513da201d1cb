import itertools

import pytest
import torch

from tests.hardware.windows import planes_of, slow_prefixes, windows
from xaiseg.errors import UsageError
from xaiseg.hardware.digits import converted
from xaiseg.hardware.online import multiply_add
from xaiseg.hardware.recurrence import RECURRENT, digit_planes, residual_recurrence
from xaiseg.hardware.unit import Unit


@pytest.mark.parametrize("arithmetic", RECURRENT)
@pytest.mark.parametrize("terms", [1, 2, 9, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_it_is_the_digit_serial_unit(arithmetic, terms, signed):
    unit = Unit(terms, arithmetic, signed=signed)
    inputs, weights = windows(unit, 40)
    for digits in (1, 5, 8, unit.total):
        found = residual_recurrence(planes_of(inputs, weights, unit), unit, digits=digits)
        for row, (x, w) in enumerate(zip(inputs.tolist(), weights.tolist(), strict=True)):
            assert found[:, row].tolist() == converted(multiply_add(x, w, unit, digits=digits))


@pytest.mark.parametrize("arithmetic", RECURRENT)
def test_all_sums_of_two_products_of_4_bits(arithmetic):
    unit = Unit(2, arithmetic, bits=4, weight_bits=4, signed=True)
    numbers, weights = range(-8, 8), range(-unit.largest_weight, 8)
    every = torch.tensor(list(itertools.product(numbers, numbers, weights, weights)))
    found = residual_recurrence(planes_of(every[:, :2], every[:, 2:], unit), unit, digits=unit.total)
    exact = (every[:, :2] * every[:, 2:]).sum(-1)
    assert torch.equal(found[-1], exact)
    for count, values in enumerate(found, start=1):
        one = 2 ** (unit.total - count)
        assert int((exact - values * one).abs().max()) < one


@pytest.mark.parametrize(("arithmetic", "delay"), [("twos_complement", 2), ("twos_complement", 1), ("merged", 2)])
@pytest.mark.parametrize("bias", ["preloaded", "serial"])
def test_both_kinds_of_bias_follow_the_definition(arithmetic, delay, bias):
    unit = Unit(6, arithmetic, signed=True, delay=delay)
    inputs, weights = windows(Unit(5, arithmetic, signed=True), 60)
    biases = torch.arange(-30, 30) * 511 + 77
    planes = planes_of(inputs, weights, unit)
    if bias == "serial":
        rows = digit_planes(biases, bits=15, signed=True) << 7
        planes = torch.cat((planes, planes.new_zeros(7, 60))) + rows
    found = residual_recurrence(planes, unit, digits=unit.total, preloaded=biases if bias == "preloaded" else None)
    for row, value in enumerate(biases.tolist()):
        given = {"preloaded": value} if bias == "preloaded" else {"serial": value}
        expected = slow_prefixes(inputs[row].tolist(), weights[row].tolist(), unit, digits=unit.total, **given)
        assert found[:, row].tolist() == expected
        assert expected[-1] == int((inputs[row] * weights[row]).sum()) + value


@pytest.mark.parametrize("signed", [False, True])
def test_planes_add_up_to_the_number(signed):
    x = torch.arange(-128, 128) if signed else torch.arange(256)
    planes = digit_planes(x, bits=8, signed=signed)
    assert torch.equal((planes * 2 ** torch.arange(7, -1, -1)[:, None]).sum(0), x)
    assert set(planes.unique().tolist()) == ({-1, 0, 1} if signed else {0, 1})


@pytest.mark.parametrize("arithmetic", ["carry_save", "cascade"])
def test_arithmetics_that_depend_on_their_adders_are_refused(arithmetic):
    with pytest.raises(UsageError, match=f"Got: {arithmetic}. Allowed: twos_complement, truncated, merged"):
        residual_recurrence(torch.zeros(8, 1).long(), Unit(1, arithmetic), digits=4)
