import itertools
from fractions import Fraction

import numpy as np
import pytest

from xaiseg.errors import UsageError
from xaiseg.hardware.digits import converted, read, value_of
from xaiseg.hardware.online import (
    add_borrow_save,
    add_transfer,
    multiply_add,
    multiply_serial,
    multiply_serial_truncated,
)
from xaiseg.hardware.unit import ARITHMETICS, Unit

FOUR = list(itertools.product((-1, 0, 1), repeat=4))
EIGHT_BITS = range(-128, 128)


def test_worked_example():
    unit = Unit(1, bits=4, weight_bits=4, signed=True)
    digits = multiply_add([-5], [6], unit)
    assert digits == [-1, 1, 0, 0, 1, -1, 0]
    assert converted(digits) == [-1, -1, -2, -4, -7, -15, -30]


def test_golden_strings_of_the_online_units():
    whole, saved = (multiply_add([93], [-77], Unit(1, name, signed=True)) for name in ("twos_complement", "carry_save"))
    assert whole == [0, -1, 0, 1, -1, 0, 0, 0, 0, 0, 0, 1, 0, 0, -1]
    assert saved == [0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, -1]
    assert value_of(whole) == value_of(saved) == 93 * -77
    three = multiply_add([100, -37, 55], [-64, 127, 3], Unit(3, signed=True))
    assert three == [0, 0, -1, 1, -1, 1, -1, 1, -1, 1, -1, 0, 1, -1, 1, -1, 0]
    assert value_of(three) == -10934


@pytest.mark.parametrize(
    ("inputs", "weights", "signs"),
    [
        ([3, -2], [5, 7], "000000000000000+-"),
        ([-128], [127], "0-00000+-0000000"),
        ([-128], [-127], "0+000000-0000000"),
        ([127] * 3, [-127] * 3, "00--00+--+00000-+-"),
        ([1], [-1], "000000000000000-"),
        ([0, 0], [5, -7], "0" * 17),
    ],
)
def test_golden_strings_of_the_merged_unit(inputs, weights, signs):
    assert multiply_add(inputs, weights, Unit(len(inputs), "merged", signed=True)) == read(signs)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("signed", [False, True])
def test_all_pairs_of_4_bits(arithmetic, signed):
    unit = Unit(1, arithmetic, bits=4, weight_bits=4, signed=signed)
    for x, w in itertools.product(range(-8, 8) if signed else range(16), range(-unit.largest_weight, 8)):
        _holds(converted(multiply_add([x], [w], unit)), x * w)


@pytest.mark.parametrize("arithmetic", ["carry_save", "cascade"])
def test_all_sums_of_two_products_of_4_bits(arithmetic):
    unit = Unit(2, arithmetic, bits=4, weight_bits=4, signed=True)
    for a, b, c, d in itertools.product(range(-8, 8), repeat=4):
        _holds(converted(multiply_add([a, b], [c, d], unit)), a * c + b * d)


def _holds(values, exact):
    """The whole string is exact, and every prefix is within one of its last digit."""
    assert values[-1] == exact
    for count, value in enumerate(values, start=1):
        one = 2 ** (len(values) - count)
        assert abs(exact - value * one) < one


def test_statistics_of_the_carry_save_residual_over_all_pairs_of_8_bits():
    unit = Unit(1, "carry_save", signed=True)
    pairs = np.array(list(itertools.product(EIGHT_BITS, EIGHT_BITS)))
    values = np.array([converted(multiply_add([x], [w], unit)) for x, w in pairs.tolist()])
    x, w = pairs.T
    share, largest = [], []
    for m in (1, 2, 4, 6, 8, 12, 14, 15):
        one, unseen = 2 ** (15 - m), max(0, 8 - m - 2)
        prefix = (x >> unseen << unseen) * w / one
        assert np.abs(prefix - values[:, m - 1]).max() <= 3 / 4
        nearest = np.clip(np.floor(prefix + 1 / 2), 1 - 2**m, 2**m - 1)
        share.append(100 * float(np.mean(values[:, m - 1] != nearest)))
        largest.append(float(np.abs(x * w / one - values[:, m - 1]).max()))
    assert share == pytest.approx([2.9, 4.4, 4.1, 4.1, 0.2, 0, 0, 0], abs=0.06)
    assert largest == pytest.approx([0.758, 0.845, 0.876, 0.690, 0.508, 0.5, 0.5, 0], abs=0.001)
    assert (values[:, -1] == x * w).all()


@pytest.mark.parametrize("bits", [4, 6])
def test_serial_times_serial_is_the_rounded_product_of_the_digits_seen(bits):
    numbers = range(-(2 ** (bits - 1)), 2 ** (bits - 1))
    for x, y in itertools.product(numbers, numbers):
        values = converted(multiply_serial(x, y, bits=bits))
        assert values[-1] == x * y
        for count, value in enumerate(values, start=1):
            unseen = max(0, bits - count - 3)
            a, b = x >> unseen << unseen, y >> unseen << unseen
            assert value == _half_up(Fraction(a * b, 2 ** (2 * bits - count)))
            assert abs(Fraction(x * y, 2 ** (2 * bits - count)) - value) < 1


def test_serial_times_serial_over_all_pairs_of_8_bits():
    for x, y in itertools.product(EIGHT_BITS, EIGHT_BITS):
        value = value_of(multiply_serial(x, y, bits=8, digits=8))
        assert value == (x * y + 128) >> 8


@pytest.mark.parametrize(("guard", "largest", "differ"), [(0, 1.578, 34.2), (1, 0.891, 12.3), (2, 0.648, 4.4)])
def test_truncated_serial_times_serial_is_not_correctly_rounded(guard, largest, differ):
    errors, differing, pairs = Fraction(0), 0, list(itertools.product(EIGHT_BITS, range(-128, 128, 3)))
    for x, y in pairs:
        value = value_of(multiply_serial_truncated(x, y, bits=8, guard=guard, digits=8))
        errors = max(errors, abs(Fraction(x * y, 256) - value))
        differing += value != _half_up(Fraction(x * y, 256))
    assert float(errors) == pytest.approx(largest, abs=0.01)
    assert 100 * differing / len(pairs) == pytest.approx(differ, abs=0.1)


def _half_up(value):
    return (value + Fraction(1, 2)).__floor__()


@pytest.mark.parametrize("add", [add_borrow_save, add_transfer])
def test_sums_of_all_strings_of_four_digits(add):
    for x, y in itertools.product(FOUR, FOUR):
        digits = add(x, y)
        assert len(digits) == 5
        assert set(digits) <= {-1, 0, 1}
        assert value_of(digits) == value_of(x) + value_of(y)


@pytest.mark.parametrize("add", [add_borrow_save, add_transfer])
def test_adders_wait_for_two_digits_and_no_more(add):
    reached = set()
    for x, y in itertools.product(FOUR, FOUR):
        for place in range(4):
            other = [*x[:place], (x[place] + 2) % 3 - 1, *x[place + 1 :]]
            changed = [k for k, (a, b) in enumerate(zip(add(x, y), add(other, y), strict=True)) if a != b]
            reached |= {place + 1 - k for k in changed}  # place 0 of the sum is the leading one
    assert reached == {0, 1, 2}


def test_the_adders_write_one_sum_with_different_digits():
    assert any(add_borrow_save(x, y) != add_transfer(x, y) for x, y in itertools.product(FOUR, FOUR))


@pytest.mark.parametrize("terms", [2, 3, 5, 9])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_extreme_sums(arithmetic, terms):
    for signed in (False, True):
        unit = Unit(terms, arithmetic, signed=signed)
        for x, w in itertools.product(unit.inputs, (-unit.largest_weight, 127)):
            _holds(converted(multiply_add([x] * terms, [w] * terms, unit)), terms * x * w)


def test_operands_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match=r"weights: a weight is out of range. Got: \[-128\]. Allowed: -127 to 127"):
        multiply_add([1], [-128], Unit(1, "merged"))
    with pytest.raises(UsageError, match=r"inputs.*Got: \(1, 2\). Allowed: 2"):
        multiply_add([1], [1, 2], Unit(2))
    with pytest.raises(UsageError, match="Got: 256"):
        multiply_add([256], [1], Unit(1))
