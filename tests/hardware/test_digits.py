import itertools

import pytest

from xaiseg.errors import UsageError
from xaiseg.hardware.digits import converted, read, serial_digits, value_of, written

STRINGS = list(itertools.product((-1, 0, 1), repeat=7))


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_serial_digits_stand_for_the_number(bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    for value in range(low, low + 2**bits):
        digits = serial_digits(value, bits=bits, signed=signed)
        assert len(digits) == bits
        assert sum(digit * 2 ** (bits - 1 - place) for place, digit in enumerate(digits)) == value


@pytest.mark.parametrize(("value", "signed"), [(-1, False), (16, False), (8, True), (-9, True)])
def test_a_number_with_more_bits_is_refused(value, signed):
    with pytest.raises(UsageError, match=f"Got: {value}"):
        serial_digits(value, bits=4, signed=signed)


def test_conversion_by_appending_bits_gives_the_value_of_every_prefix():
    for digits in STRINGS:
        assert converted(digits) == [value_of(digits[:count]) for count in range(1, len(digits) + 1)]


def test_the_first_digit_that_is_not_zero_has_the_sign_of_the_value():
    for digits in STRINGS:
        value = value_of(digits)
        assert value == sum(digit * 2 ** (len(digits) - 1 - place) for place, digit in enumerate(digits))
        first = next((digit for digit in digits if digit), 0)
        assert first == (value > 0) - (value < 0)


def test_signs_are_read_as_they_are_written():
    assert all(tuple(read(written(digits))) == digits for digits in STRINGS)
    with pytest.raises(UsageError, match="no such digit. Got: 1x"):
        read("0x+1")
