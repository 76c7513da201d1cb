import itertools

import numpy as np
import pytest
import torch

from tests.hardware.windows import planes_of, windows
from xaiseg.errors import UsageError
from xaiseg.hardware.closed import enclosure, first_negative, leading, rounded, seen_inputs, stops_soundly
from xaiseg.hardware.digits import converted
from xaiseg.hardware.online import multiply_add
from xaiseg.hardware.recurrence import residual_recurrence
from xaiseg.hardware.unit import Unit

EXACT_UNITS = [("twos_complement", 2), ("twos_complement", 1), ("merged", 2)]


def pairs(unit):
    """All pairs of inputs and weights, (count, 1) each."""
    low, high = unit.inputs
    top = 2 ** (unit.weight_bits - 1)
    every = torch.tensor(list(itertools.product(range(low, high + 1), range(-unit.largest_weight, top))))
    return every[:, :1], every[:, 1:]


def known(x, w, unit, digits):
    return (seen_inputs(x, unit, digits=digits) * w).sum(-1)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("arithmetic", "delay"), EXACT_UNITS)
def test_closed_form_is_the_recurrence_for_all_pairs(arithmetic, delay, signed, bits):
    unit = Unit(1, arithmetic, bits=bits, weight_bits=bits, signed=signed, delay=delay)
    x, w = pairs(unit)
    exact = (x * w).sum(-1)
    prefixes = residual_recurrence(planes_of(x, w, unit), unit, digits=unit.total)
    for digits, values in enumerate(prefixes, start=1):
        assert torch.equal(leading(known(x, w, unit, digits), unit, digits=digits), values)
        one = 2 ** (unit.total - digits)
        assert int((exact - values * one).abs().max()) < one
    assert torch.equal(prefixes[-1], exact)


@pytest.mark.parametrize("terms", [2, 3, 8, 9, 64, 576])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("arithmetic", "delay"), EXACT_UNITS)
def test_closed_form_is_the_recurrence_on_random_windows(arithmetic, delay, terms, signed):
    unit = Unit(terms, arithmetic, signed=signed, delay=delay)
    inputs, weights = windows(unit, 500)
    inputs[0], weights[0] = unit.inputs[1], unit.largest_weight - (arithmetic != "merged")
    inputs[1], weights[1] = unit.inputs[1], -unit.largest_weight
    x, w = torch.as_tensor(inputs), torch.as_tensor(weights)
    prefixes = residual_recurrence(planes_of(x, w, unit), unit, digits=unit.total)
    for digits, values in enumerate(prefixes, start=1):
        assert torch.equal(leading(known(x, w, unit, digits), unit, digits=digits), values)


def test_a_sum_near_one_writes_ones_only():
    unit = Unit(1)
    x, w = torch.tensor([[255]]), torch.tensor([[127]])
    for digits in range(1, 6):
        most = 2**digits - 1
        assert leading(known(x, w, unit, digits), unit, digits=digits).item() == most
    # Not even digits that would need a larger number leave their range.
    assert leading(torch.tensor([255 * 128]), Unit(1), digits=3).item() == 7


@pytest.mark.parametrize(("arithmetic", "delay"), EXACT_UNITS)
def test_stopping_early_is_a_division_that_rounds_half_up(arithmetic, delay):
    unit = Unit(9, arithmetic, delay=delay)
    inputs, weights = windows(unit, 4000, seed=1)
    sums = torch.as_tensor((inputs * weights).sum(-1))
    for shift in range(1, unit.total - unit.bits + unit.silent + 1):
        digits = unit.total - shift
        found = leading(known(torch.as_tensor(inputs), torch.as_tensor(weights), unit, digits), unit, digits=digits)
        assert torch.equal(found, (sums + 2 ** (shift - 1)) >> shift)


@pytest.mark.parametrize("shift", [0, 1, 5])
def test_halves_round_up_unlike_torch(shift):
    sums = torch.arange(-200, 200)
    assert rounded(sums, shift=shift).tolist() == np.floor(np.arange(-200, 200) / 2**shift + 0.5).tolist()
    to_even = torch.round(sums / 2**shift).long()
    assert torch.equal(rounded(sums, shift=shift), to_even) == (shift == 0)


@pytest.mark.parametrize("arithmetic", ["carry_save", "cascade", "truncated"])
@pytest.mark.parametrize("terms", [1, 2, 5, 9])
def test_bounds_hold_the_digit_serial_unit(arithmetic, terms):
    widest, met = 0, set()
    for signed, guard in itertools.product((False, True), (0, 1, 2) if arithmetic == "truncated" else (1,)):
        unit = Unit(terms, arithmetic, signed=signed, guard=guard)
        inputs, weights = windows(unit, 60, seed=2)
        x, w = torch.as_tensor(inputs), torch.as_tensor(weights)
        for digits in (1, 2, 4, 8, 12, unit.total):
            low, high = enclosure(known(x, w, unit, digits), unit, digits=digits)
            for row in range(60):
                value = converted(multiply_add(inputs[row].tolist(), weights[row].tolist(), unit, digits=digits))[-1]
                assert low[row] <= value <= high[row]
                met |= {value - int(low[row]), int(high[row]) - value}
            widest = max(widest, int((high - low).max()))
            assert digits < unit.total or torch.equal(low, high)
    assert {0, 1} <= met  # neither bound is idle
    assert arithmetic == "truncated" or widest == 1


def test_bounds_of_the_truncated_unit_hold_all_pairs_of_8_bits():
    unit = Unit(1, "truncated", signed=True, guard=1)
    x, w = pairs(unit)
    planes = planes_of(x, w, unit)
    differ = []
    for digits in range(1, unit.total + 1):
        value = residual_recurrence(planes, unit, digits=digits)[-1]
        sums = known(x, w, unit, digits)
        low, high = enclosure(sums, unit, digits=digits)
        assert bool(((low <= value) & (value <= high)).all())
        differ.append(bool((value != leading(sums, Unit(1, signed=True), digits=digits)).any()))
    assert any(differ)
    assert not differ[-1]


def test_bounds_of_the_truncated_unit_know_of_a_preloaded_bias():
    unit = Unit(4, "truncated", guard=1)
    inputs, weights = windows(Unit(3), 500, seed=3)
    biases = torch.arange(-250, 250) * 61 + 13
    planes = planes_of(inputs, weights, unit)
    x, w = torch.as_tensor(inputs), torch.as_tensor(weights)
    for digits in (3, 8, unit.total):
        value = residual_recurrence(planes, unit, digits=digits, preloaded=biases)[-1]
        low, high = enclosure(known(x, w, unit, digits) + biases, unit, digits=digits, preloaded=True)
        assert bool(((low <= value) & (value <= high)).all())
    assert torch.equal(low, high)


def test_exact_units_have_one_candidate():
    sums = torch.arange(-400, 400)
    low, high = enclosure(sums, Unit(1), digits=8)
    assert torch.equal(low, high)
    assert torch.equal(low, leading(sums, Unit(1), digits=8))


@pytest.mark.parametrize("arithmetic", ["twos_complement", "merged"])
@pytest.mark.parametrize("signed", [False, True])
def test_early_termination_never_kills_a_positive_output(arithmetic, signed):
    unit = Unit(1, arithmetic, signed=signed)
    x, w = pairs(unit)
    _terminates_soundly(x, w, unit)
    wide = Unit(9, arithmetic, signed=signed)
    _terminates_soundly(*(torch.as_tensor(part) for part in windows(wide, 5000, seed=4)), wide)


def _terminates_soundly(x, w, unit):
    exact = (x * w).sum(-1)
    planes = planes_of(x, w, unit)
    places = 2 ** torch.arange(unit.bits - 1, -1, -1)
    sums = (planes * places[:, None]).cumsum(0)
    stop = first_negative(sums, unit, digits=unit.total)
    assert bool((exact[stop > 0] < 0).all())
    assert bool((stop[exact < 0] > 0).all())  # all digits find every negative sum
    negative = residual_recurrence(planes, unit, digits=unit.total) < 0
    expected = torch.where(negative.any(0), negative.long().argmax(0) + 1, 0)
    assert torch.equal(stop, expected)
    early = first_negative(sums, unit, digits=6)
    assert torch.equal(early, torch.where(expected <= 6, expected, 0))


@pytest.mark.parametrize("arithmetic", ["carry_save", "cascade"])
def test_termination_is_sound_in_the_other_arithmetics_too(arithmetic):
    unit = Unit(3, arithmetic, signed=True)
    assert all(stops_soundly(unit, digits=digits) for digits in range(1, unit.total + 1))
    inputs, weights = windows(unit, 300, seed=5)
    stopped = 0
    for x, w in zip(inputs.tolist(), weights.tolist(), strict=True):
        exact = sum(a * b for a, b in zip(x, w, strict=True))
        negative = min(converted(multiply_add(x, w, unit))) < 0
        stopped += negative
        assert negative == (exact < 0)
    assert 50 < stopped < 250


@pytest.mark.parametrize("terms", [1, 2, 9, 16])
def test_a_truncated_unit_stops_soundly_where_its_bounds_say_so(terms):
    kinds = set()
    for guard, digits, signed in itertools.product((0, 1, 2, 4, 5), (6, 8, 10), (False, True)):
        unit = Unit(terms, "truncated", signed=signed, guard=guard)
        if terms == 1:
            x, w = pairs(unit)
        else:
            x, w = (torch.as_tensor(part) for part in windows(unit, 6000, seed=6))
            x[:3000] //= 16  # small sums are at risk
        exact = (x * w).sum(-1)
        negative = (residual_recurrence(planes_of(x, w, unit), unit, digits=digits) < 0).any(0)
        wrong = bool((negative & (exact > 0)).any())
        sound = stops_soundly(unit, digits=digits)
        kinds.add((sound, wrong))
        assert not (sound and wrong)
    assert {(True, False), (False, True)} <= kinds


def test_a_partial_sum_has_no_meaningful_sign():
    # The bias left out of the stream: sums that a ReLU would let through are stopped.
    unit = Unit(1, signed=True)
    x, w = pairs(unit)
    sums = (planes_of(x, w, unit) * 2 ** torch.arange(7, -1, -1)[:, None]).cumsum(0)
    stop = first_negative(sums, unit, digits=unit.total)
    assert bool(((stop > 0) & ((x * w).sum(-1) + 3000 > 0)).any())


@pytest.mark.parametrize("arithmetic", ["carry_save", "cascade", "truncated"])
def test_there_is_no_closed_form_for_the_others(arithmetic):
    with pytest.raises(UsageError, match=f"Got: {arithmetic}. Allowed: twos_complement, merged. Use enclosure"):
        leading(torch.tensor([1]), Unit(1, arithmetic), digits=4)
