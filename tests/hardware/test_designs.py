import math
from dataclasses import replace

import pytest

from xaiseg.errors import UsageError
from xaiseg.hardware.costs import given
from xaiseg.hardware.designs import DESIGNS, ZYNQ_7020, Window, design, window_cycles


def levels(count: int) -> int:
    """Levels of a tree of two-input adders, one after another."""
    found = 0
    while count > 1:
        count, found = math.ceil(count / 2), found + 1
    return found


@pytest.mark.parametrize("taps", [1, 4, 9, 25])
@pytest.mark.parametrize("inputs", [1, 3, 8, 16, 100])
@pytest.mark.parametrize("digits", [1, 8, 19])
def test_cycles_of_one_window(taps, inputs, digits):
    window = Window(taps, inputs, digits, silent=1, bits=7, lanes=4)
    expected = {
        "mma": 1 + digits,
        "cascade": 2 + 2 * levels(taps) + 2 * levels(inputs) + digits,
        "bit_serial": 7 + levels(taps * inputs),
        "bit_parallel": math.ceil(taps * inputs / 4),
    }
    assert {name: window_cycles(name, window) for name in DESIGNS} == expected


@pytest.mark.parametrize(("inputs", "same_digits", "grown"), [(8, 2.40, 31 / 17), (16, 2.60, 34 / 18)])
def test_the_merged_unit_saves_the_delays_of_the_tree(inputs, same_digits, grown):
    """The gain over a cascade, published as 2.52, depends on whether both emit 8 digits or all that their sums need."""

    def gain(digits):
        window = Window(9, inputs, digits)
        return window_cycles("cascade", window) / window_cycles("mma", window)

    assert gain(8) == pytest.approx(same_digits)
    assert gain(8 + levels(9 * inputs)) == pytest.approx(grown)


def test_no_other_design_and_none_twice():
    with pytest.raises(UsageError, match="no such design. Got: mna. Allowed: mma, .*did you mean 'mma'"):
        window_cycles("mna", Window(9, 1, 8))
    with pytest.raises(ValueError, match="'mma' is registered twice"):
        design("mma")(lambda window: 1)


@pytest.mark.parametrize("name", ["outputs", "pixels", "inputs", "lanes"])
@pytest.mark.parametrize("value", [0, 1.5])
def test_parallelism_is_a_whole_number(name, value):
    with pytest.raises(UsageError, match=f"^{name}: no such number"):
        replace(ZYNQ_7020, **{name: given(value, "")})


def test_a_clock_runs():
    with pytest.raises(UsageError, match="^clock_mhz: no such clock"):
        replace(ZYNQ_7020, clock_mhz=given(0, "MHz"))


def test_every_default_names_its_source():
    constants = ZYNQ_7020.constants()
    published = {name for name, held in constants.items() if held.source == "published"}
    assert published == {"clock_mhz", "power_w of mma"}
    assert {held.source for held in constants.values()} == {"published", "estimated"}
    assert all(
        "not published" in held.note or "our reading" in held.note
        for name, held in constants.items()
        if name not in published
    )
    assert "inputs" not in replace(ZYNQ_7020, inputs=None).constants()
