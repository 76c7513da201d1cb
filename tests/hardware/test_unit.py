import doctest
from importlib import import_module

import pytest

from xaiseg.errors import UsageError
from xaiseg.hardware.unit import ARITHMETICS, EXACT, Unit

MODULES = ("unit", "digits", "online", "recurrence", "closed", "exact", "crops", "convolution")


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_run(module):
    found = doctest.testmod(import_module(f"xaiseg.hardware.{module}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_the_page_runs(repository):
    page = repository / "docs" / "hardware.md"
    found = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert found.attempted > 0
    assert found.failed == 0


def test_the_page_names_every_arithmetic(repository):
    text = (repository / "docs" / "hardware.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in ARITHMETICS)


@pytest.mark.parametrize(
    ("terms", "arithmetic", "growth", "total"),
    [(1, "twos_complement", 0, 15), (1, "merged", 0, 16), (2, "merged", 1, 17), (3, "merged", 2, 18),
     (9, "twos_complement", 4, 19), (64, "merged", 6, 22), (576, "cascade", 10, 25), (4096, "merged", 12, 28)],
)  # fmt: skip
def test_digits_of_the_exact_sum(terms, arithmetic, growth, total):
    unit = Unit(terms, arithmetic)
    assert (unit.growth, unit.total) == (growth, total)


def test_a_digit_of_the_cascade_is_held_against_the_whole_sum():
    assert [Unit(4, name).seen(1) for name in ARITHMETICS] == [3, 3, 3, 1, 8]


def test_every_arithmetic_has_its_sentence():
    assert set(EXACT) < set(ARITHMETICS)
    assert all(Unit(2, name).arithmetic == name for name in ARITHMETICS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"terms": 0}, "unit.terms: the unit has no such terms. Got: 0. Allowed: 1 to 1048576."),
        ({"terms": 1, "arithmetic": "carry_save", "delay": 1}, r"unit.delay.*Got: 1. Allowed: \(2,\) with carry_save"),
        ({"terms": 1, "arithmetic": "float"}, "unit.arithmetic.*Got: float. Allowed: twos_complement, carry_save"),
        ({"terms": 1, "bits": 17}, "unit.bits"),
        ({"terms": 1, "weight_bits": 1}, "unit.weight_bits"),
        ({"terms": 1, "guard": -1}, "unit.guard"),
    ],
)
def test_a_unit_that_cannot_be_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        Unit(**given)


@pytest.mark.parametrize("digits", [0, 16])
def test_only_digits_that_exist_can_be_asked_for(digits):
    with pytest.raises(UsageError, match="unit.digits.*Allowed: 1 to 15"):
        Unit(1).checked_digits(digits)
