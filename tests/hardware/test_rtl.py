import doctest
import itertools

import numpy as np
import pytest
import torch

from tests.hardware.icarus import LATE, mutated, needs_icarus
from tests.hardware.windows import planes_of, slow_prefixes, windows
from xaiseg.errors import UsageError
from xaiseg.hardware import rtl
from xaiseg.hardware.closed import first_negative, leading, seen_inputs
from xaiseg.hardware.digits import converted, read, value_of
from xaiseg.hardware.online import multiply_add
from xaiseg.hardware.recurrence import residual_recurrence
from xaiseg.hardware.rtl import BUILT, SimulationError, simulate
from xaiseg.hardware.unit import EXACT, Unit

pytestmark = [pytest.mark.rtl, needs_icarus]

FOUR = torch.tensor(list(itertools.product(range(-8, 8), repeat=4)))
EIGHT = torch.tensor(list(itertools.product(range(-128, 128), repeat=2)))


def single(inputs, weights, unit, **options):
    return simulate(torch.tensor([inputs]), torch.tensor([weights]), unit, **options)


def prefix_values(digits):
    """(count, most) the value of every prefix."""
    values = torch.zeros_like(digits)
    for place in range(digits.shape[1]):
        values[:, place] = digits[:, place] + (2 * values[:, place - 1] if place else 0)
    return values


def is_the_recurrence(inputs, weights, unit, verilog=rtl.VERILOG):
    """Digits, clocks and END of all digits of every sum, against the recurrence and the closed form."""
    found = simulate(inputs, weights, unit, verilog=verilog)
    values = prefix_values(found.digits)
    assert torch.equal(values.T, residual_recurrence(planes_of(inputs, weights, unit), unit, digits=unit.total))
    assert torch.equal(values[:, -1], (inputs * weights).sum(1))
    rows = [(seen_inputs(inputs, unit, digits=m) * weights).sum(1) for m in range(1, unit.total + 1)]
    for m, row in enumerate(rows, start=1):
        assert torch.equal(values[:, m - 1], leading(row, unit, digits=m))
    whole = [(inputs >> unit.bits - k << unit.bits - k) * weights for k in range(1, unit.bits + 1)]
    ended = first_negative(torch.stack(whole).sum(2), unit, digits=unit.total)
    assert torch.equal(found.ended, torch.where(ended > 0, ended + unit.silent, 0))
    assert set(found.silent.tolist()) == {unit.silent}
    assert set(found.clocks.tolist()) == {unit.silent + unit.total}
    assert set(found.emitted.tolist()) == {unit.total}


def is_the_oracle(inputs, weights, unit, verilog=rtl.VERILOG):
    """The same against the digit-serial unit in plain Python."""
    found = simulate(inputs, weights, unit, verilog=verilog)
    expected = [multiply_add(x, w, unit) for x, w in zip(inputs.tolist(), weights.tolist(), strict=True)]
    # Planted errors fail here; pytest would spend minutes on the difference of two long lists.
    same = found.digits.tolist() == expected
    assert same
    for digits, ended in zip(expected, found.ended.tolist(), strict=True):
        negative = (m for m, value in enumerate(converted(digits), start=1) if value < 0)
        assert ended == next((m + unit.silent for m in negative), 0)
    assert set(found.clocks.tolist()) == {unit.silent + unit.total}


def test_the_examples_run():
    found = doctest.testmod(rtl)
    assert found.attempted > 0
    assert found.failed == 0


def test_the_page_runs(repository):
    page = repository / "docs" / "hardware_rtl.md"
    found = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert found.attempted > 0
    assert found.failed == 0


def test_worked_example():
    found = single([-5], [6], Unit(1, bits=4, weight_bits=4, signed=True))
    assert found.digits.tolist() == [[-1, 1, 0, 0, 1, -1, 0]]
    assert converted(found.digits[0].tolist()) == [-1, -1, -2, -4, -7, -15, -30]
    assert (found.silent.item(), found.clocks.item(), found.ended.item()) == (2, 9, 3)


def test_golden_strings_of_the_online_units():
    whole, saved = (single([93], [-77], Unit(1, name, signed=True)) for name in ("twos_complement", "carry_save"))
    assert whole.digits.tolist() == [[0, -1, 0, 1, -1, 0, 0, 0, 0, 0, 0, 1, 0, 0, -1]]
    assert saved.digits.tolist() == [[0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, -1]]
    three = single([100, -37, 55], [-64, 127, 3], Unit(3, signed=True)).digits[0].tolist()
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
    found = single(inputs, weights, Unit(len(inputs), "merged", signed=True))
    assert found.digits[0].tolist() == read(signs)
    assert (found.silent.item(), found.clocks.item()) == (0, len(signs))


def test_all_sums_of_two_products_of_4_bits():
    is_the_recurrence(FOUR[:, :2], FOUR[:, 2:], Unit(2, bits=4, weight_bits=4, signed=True))


@pytest.mark.slow
def test_all_sums_of_two_products_of_4_bits_in_the_other_units():
    allowed = FOUR[(FOUR[:, 2:] > -8).all(1)]
    is_the_recurrence(allowed[:, :2], allowed[:, 2:], Unit(2, "merged", bits=4, weight_bits=4, signed=True))
    is_the_oracle(FOUR[:, :2], FOUR[:, 2:], Unit(2, "carry_save", bits=4, weight_bits=4, signed=True))


def pairs_of_8_bits(arithmetic, step):
    unit = Unit(1, arithmetic, signed=True)
    pairs = EIGHT[EIGHT[:, 1] >= -unit.largest_weight][::step]
    (is_the_recurrence if arithmetic in EXACT else is_the_oracle)(pairs[:, :1], pairs[:, 1:], unit)


@pytest.mark.parametrize("arithmetic", BUILT)
def test_every_41st_pair_of_8_bits(arithmetic):
    pairs_of_8_bits(arithmetic, 41)


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", BUILT)
def test_all_pairs_of_8_bits(arithmetic):
    pairs_of_8_bits(arithmetic, 1)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("terms", "bits", "weight_bits", "count"), [(3, 5, 7, 200), (9, 8, 8, 200), (64, 8, 8, 50), (576, 8, 4, 8)]
)
@pytest.mark.parametrize("arithmetic", BUILT)
def test_random_sums(arithmetic, terms, bits, weight_bits, count, signed):
    unit = Unit(terms, arithmetic, bits, weight_bits, signed)
    is_the_oracle(*map(torch.as_tensor, windows(unit, count)), unit)


def test_a_delay_of_one():
    unit = Unit(9, delay=1)
    is_the_recurrence(*map(torch.as_tensor, windows(unit, 200)), unit)


@pytest.mark.parametrize("terms", [1, 2, 4, 9])
@pytest.mark.parametrize("arithmetic", BUILT)
def test_the_largest_sums_fit_the_registers(arithmetic, terms):
    for signed in (False, True):
        unit = Unit(terms, arithmetic, signed=signed)
        extremes = list(itertools.product(unit.inputs, (-unit.largest_weight, 127)))
        x, w = (torch.tensor(values)[:, None].expand(-1, terms) for values in zip(*extremes, strict=True))
        is_the_oracle(x, w, unit)


def test_each_sum_stops_at_its_digits_and_the_next_one_follows_at_once():
    unit = Unit(9)
    inputs, weights = map(torch.as_tensor, windows(unit, 100))
    counts = torch.as_tensor(np.random.default_rng(1).integers(1, unit.total + 1, 100))
    found = simulate(inputs, weights, unit, digits=counts)
    assert torch.equal(found.emitted, counts)
    assert torch.equal(found.clocks, counts + 2)
    for x, w, count, digits in zip(inputs.tolist(), weights.tolist(), counts.tolist(), found.digits, strict=True):
        assert digits[:count].tolist() == multiply_add(x, w, unit, digits=count)
        assert not digits[count:].any()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("mode", ["preloaded", "serial"])
@pytest.mark.parametrize("arithmetic", ["twos_complement", "merged"])
def test_a_bias_is_the_definition(arithmetic, mode, signed):
    unit = Unit(5, arithmetic, signed=signed)  # four products and the bias
    inputs, weights = (torch.as_tensor(values[:, :4]) for values in windows(unit, 60))
    biases = np.random.default_rng(2).integers(-(2**14) + 1, 2**14, 60)
    found = simulate(inputs, weights, unit, **{mode: torch.as_tensor(biases)})
    for x, w, bias, digits in zip(inputs.tolist(), weights.tolist(), biases.tolist(), found.digits, strict=True):
        options = {"preloaded": bias} if mode == "preloaded" else {"serial": bias}
        assert converted(digits.tolist()) == slow_prefixes(x, w, unit, digits=unit.total, **options)


@pytest.mark.parametrize(
    "changes",
    [
        [("value >= HALF", "value > HALF")],
        [("value < -HALF", "value <= -HALF")],
        LATE,
        [("(is_minus && !(decided && !start))", "is_minus")],
        [("if (SIGNED && start) plane = -plane;", "")],
        [("MERGED ? 0 : DELAY;", "MERGED ? 0 : DELAY + 1;")],
    ],
    ids=["half", "minus half", "END one digit late", "END at any -1", "sign", "delay"],
)
def test_an_error_in_the_unit_is_found(changes, tmp_path):
    folder = mutated(tmp_path, *changes)
    unit = Unit(1, bits=4, weight_bits=4, signed=True)
    pairs = torch.tensor(list(itertools.product(range(-8, 8), repeat=2)))
    with pytest.raises(AssertionError):
        is_the_recurrence(pairs[:, :1], pairs[:, 1:], unit, folder)
    with pytest.raises(AssertionError):
        is_the_oracle(pairs[:, :1], pairs[:, 1:], unit, folder)


def test_the_order_of_the_adders_is_seen_in_the_digits(tmp_path):
    old = "for (term = 0; term < TERMS; term = term + 1) begin"
    new = "for (term = TERMS - 1; term >= 0; term = term - 1) begin"
    folder = mutated(tmp_path, (old, new), file="msdf_mma_carry_save.v")
    unit = Unit(9, "carry_save")
    inputs, weights = map(torch.as_tensor, windows(unit, 100))
    ours, theirs = simulate(inputs, weights, unit), simulate(inputs, weights, unit, verilog=folder)
    assert not torch.equal(ours.digits, theirs.digits)
    assert torch.equal(prefix_values(ours.digits)[:, -1], prefix_values(theirs.digits)[:, -1])


@pytest.mark.parametrize(
    ("changes", "file", "message"),
    [
        ([("endmodule", "")], "msdf_mma.v", "iverilog failed. Got: .*syntax error"),
        ([("input reset,", "input reset, input more,")], "msdf_mma.v", "iverilog failed. Got: .*more"),
        ([("ONE : is_minus", "ONE + {WIDTH{1'bx}} : is_minus")], "msdf_mma.v", "undefined digit"),
        ([("place < VECTORS", "place < VECTORS - 1")], "msdf_testbench.v", "sums are missing. Got: 1. Allowed: 2"),
        ([("$finish(0);", "forever #1 clk = !clk;")], "msdf_testbench.v", "vvp did not end within 1 s"),
    ],
)
def test_a_simulation_that_fails_says_so(changes, file, message, tmp_path):
    folder = mutated(tmp_path, *changes, file=file)
    with pytest.raises(SimulationError, match=f"(?s){message}"):
        simulate(torch.tensor([[5], [200]]), torch.tensor([[6], [7]]), Unit(1), verilog=folder, timeout_s=1)


def test_a_unit_that_never_ends_is_given_up(tmp_path):
    folder = mutated(tmp_path, ("done <= !reset && last;", "done <= 0;"))
    found = simulate(torch.tensor([[5]]), torch.tensor([[6]]), Unit(1), verilog=folder)
    assert found.clocks.item() == 200


@pytest.mark.parametrize("tool", ["iverilog", "vvp"])
def test_without_the_simulator_the_error_says_how_to_get_it(tool, monkeypatch):
    found = {name: f"/bin/{name}" for name in ("iverilog", "vvp") if name != tool}
    monkeypatch.setattr("xaiseg.hardware.rtl.shutil.which", found.get)
    with pytest.raises(UsageError, match=f"{tool}: the simulator is not installed.*`apt-get install iverilog`"):
        single([1], [1], Unit(1))


@pytest.mark.parametrize(
    ("inputs", "weights", "unit", "options", "message"),
    [
        (
            [1],
            [1],
            Unit(1, "cascade"),
            {},
            "unit.arithmetic.*Got: cascade. Allowed: twos_complement, merged, carry_save",
        ),
        ([256], [1], Unit(1), {}, "inputs: an operand is out of range. Got: 256 to 256. Allowed: 0 to 255"),
        ([1], [-128], Unit(1, "merged"), {}, "weights: an operand is out of range.*Allowed: -127 to 127"),
        (
            [1, 2],
            [1, 2],
            Unit(1),
            {},
            r"do not match the unit. Got: \(\(1, 2\), \(1, 2\)\). Allowed: \(count, 1 to 1\)",
        ),
        ([1], [1, 2], Unit(2), {}, "do not match the unit"),
        ([1], [1], Unit(1), {"digits": 16}, "unit.digits.*Allowed: 1 to 15"),
        ([1], [1], Unit(1, "carry_save"), {"preloaded": torch.ones(1)}, "the carry-save unit has no bias"),
        ([1], [1], Unit(1), {"serial": torch.ones(1)}, r"do not match the unit.*Allowed: \(count, 1 to 0\)"),
        (
            [1],
            [1],
            Unit(2),
            {"serial": torch.tensor([2**14])},
            "serial: a bias is out of range.*Allowed: -16384 to 16383",
        ),
        ([1], [9], Unit(1), {"preloaded": torch.tensor([2**15])}, "cannot hold the sum. Got: 35063. Allowed: 32768"),
    ],
)
def test_what_the_unit_cannot_take_is_refused(inputs, weights, unit, options, message):
    with pytest.raises(UsageError, match=message):
        single(inputs, weights, unit, **options)
