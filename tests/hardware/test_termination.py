import functools
import itertools

import numpy as np
import pytest
import torch

from tests.hardware.layers import GEOMETRIES, inputs_of, layer_named, slow_sums
from tests.hardware.windows import planes_of, slow_prefixes, windows
from xaiseg.errors import UsageError
from xaiseg.hardware.convolution import unit_of
from xaiseg.hardware.grouped import GroupedUnit, grouped_digits
from xaiseg.hardware.termination import RULES, Policy, closed_prefixes, digit_prefixes, known_sums, stop
from xaiseg.hardware.unit import Unit


def merged_digits(inputs, weights, unit):
    """The recurrence of the merged unit on one window, step by step as it is published."""
    top = unit.bits - 1 + unit.growth
    whole = 2 ** (top + 1)
    rest, found = 0, []
    for step in range(2 * unit.bits + unit.growth):
        plane = 0
        if step < unit.bits:
            bits = [x >> (unit.bits - 1 - step) & 1 for x in inputs]
            sign = -1 if unit.signed and step == 0 else 1
            plane = sum(sign * bit * w for bit, w in zip(bits, weights, strict=True))
        value = 2 * rest + plane
        digit = 1 if value >= whole // 2 else -1 if value < -(whole // 2) else 0
        rest = value - digit * whole
        found.append(digit)
    assert rest == 0
    return found


def online_digits(inputs, weights, unit):
    """The digits of the online unit, from its definition in fractions."""
    values = [0, *slow_prefixes(inputs, weights, unit, digits=unit.total)]
    return [after - 2 * before for before, after in itertools.pairwise(values)]


def slow_stop(digits, policy, *, count, rectified, head):
    """(value, rule, digits emitted) of one sum, digit by digit: the table of the rules read from top to bottom."""
    total = len(digits)
    exact = sum(z * 2 ** (total - 1 - t) for t, z in enumerate(digits))
    first, prefix = 0, 0
    for t, digit in enumerate(digits):
        prefix += digit * 2 ** (total - 1 - t)
        first = first or digit
        if policy.end and rectified and first == -1:
            return 0, "end", t + 1
        if policy.head and head and first != 0:
            return prefix, "head", t + 1
        prune_off = policy.prune is None or (policy.skip is not None and policy.prune <= policy.skip)
        if not prune_off and t == total - 1 - policy.prune and first == 0:
            assert abs(exact) < 2**policy.prune
            return 0, "prune", t + 1
        if policy.skip is not None and t == total - 1 - policy.skip and first == 1:
            kept = exact // 2**policy.skip * 2**policy.skip if policy.commit == "floor" else prefix
            assert abs(kept - exact) < 2**policy.skip
            return kept, "skip", t + 1
        if t == count - 1:
            return prefix, "full", t + 1
    raise AssertionError("no digit is the last")


POLICIES = [
    Policy(),
    Policy(end=False, head=False),
    Policy(prune=9),
    Policy(skip=9),
    Policy(skip=9, commit="floor"),
    Policy(prune=12, skip=8),
    Policy(prune=8, skip=8),
    Policy(prune=3, skip=0, end=False),
    Policy(prune=0, skip=0),
]


@functools.cache
def sums_of(arithmetic, terms, signed):
    """A unit, its known sums of 40 windows and the digits of each."""
    unit = Unit(terms, arithmetic, signed=signed)
    inputs, weights = windows(unit, 40, seed=terms)
    weights = np.maximum(weights, -127)  # the merged unit has no -128
    inputs[20:] //= 16  # small sums
    inputs[39] = 0
    known = (planes_of(inputs, weights, unit) * 2 ** torch.arange(unit.bits - 1, -1, -1)[:, None]).cumsum(0)
    serial = merged_digits if arithmetic == "merged" else online_digits
    return unit, known, [serial(x, w, unit) for x, w in zip(inputs.tolist(), weights.tolist(), strict=True)]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("arithmetic", ["merged", "twos_complement"])
@pytest.mark.parametrize("use", ["rectified", "head", "neither"])
def test_sums_stop_where_the_table_of_rules_says(arithmetic, policy, use):
    met = set()
    used = {"rectified": use == "rectified", "head": use == "head"}
    for terms, signed in ((1, True), (5, False), (9, True)):
        unit, known, serial = sums_of(arithmetic, terms, signed)
        for count in (unit.total, unit.total - 5):
            prefixes = closed_prefixes(known, unit)
            found = stop(prefixes, policy, total=unit.total, sums=known[-1], digits=count, **used)
            for row, digits in enumerate(serial):
                got = (int(found.values[row]), RULES[found.rules[row]], int(found.digits[row]))
                assert got == slow_stop(digits, policy, count=count, **used)
                met.add(got[1])
    assert met == expected_rules(policy, use)


def expected_rules(policy, use):
    """The rules that fire somewhere in windows of every size."""
    by_sign = {"rectified": policy.end, "head": policy.head}.get(use, False)
    prunes = bool(policy.prune) and policy.prune > (policy.skip or 0)
    # With the rule for heads no sum lives long enough to be skipped; skip 0 is the last digit of the exact sum.
    skips = policy.skip is not None and not (by_sign and use == "head")
    found = {"end" if use == "rectified" else "head"} if by_sign else set()
    found |= ({"prune"} if prunes else set()) | ({"skip"} if skips else set())
    # Small sums are pruned, positive ones skipped and negative ones stopped: none is left where a unit goes on so far.
    return found if by_sign and prunes and policy.prune > 5 and (skips or use == "head") else found | {"full"}


def test_digits_of_each_channel_are_the_latest_that_a_sum_stops_at():
    unit = Unit(4, "merged")
    inputs, weights = windows(unit, 30)
    weights = np.maximum(weights, -127)
    known = (planes_of(inputs, weights, unit) * 2 ** torch.arange(7, -1, -1)[:, None]).cumsum(0)
    last = torch.arange(30) % (unit.total - 1) + 1
    policy = Policy(end=False)
    found = stop(closed_prefixes(known, unit), policy, total=unit.total, sums=known[-1], digits=last, rectified=True)
    assert torch.equal(found.digits, last)
    for row in range(30):
        one = stop(
            closed_prefixes(known[:, row], unit),
            policy,
            total=unit.total,
            sums=known[-1, row],
            digits=int(last[row]),
            rectified=True,
        )
        assert int(found.values[row]) == int(one.values)


@pytest.mark.parametrize("signed", [False, True])
def test_the_exact_rules_are_exact_for_all_pairs_of_four_bits(signed):
    unit = Unit(1, "merged", bits=4, weight_bits=4, signed=signed)
    low, high = unit.inputs
    every = torch.tensor(list(itertools.product(range(low, high + 1), range(-7, 8))))
    x, w = every[:, :1], every[:, 1:]
    known = (planes_of(x, w, unit) * 2 ** torch.arange(3, -1, -1)[:, None]).cumsum(0)
    exact = (x * w).sum(1)
    given = {"total": unit.total, "sums": known[-1], "digits": unit.total}
    hidden = stop(closed_prefixes(known, unit), Policy(), rectified=True, **given)
    assert torch.equal(hidden.values, exact.clamp(min=0))
    assert torch.equal(hidden.rules == RULES.index("end"), exact < 0)
    head = stop(closed_prefixes(known, unit), Policy(), rectified=False, head=True, **given)
    assert torch.equal(head.values.sign(), exact.sign())
    assert torch.equal(head.rules == RULES.index("head"), exact != 0)
    assert int(head.digits.max()) == unit.total
    # The first digit is not found from the magnitude alone: it may weigh more than the sum.
    first = 2.0 ** (unit.total - head.digits[exact != 0])
    assert bool((first > exact[exact != 0].abs()).any())


def test_the_grouped_unit_stops_by_the_same_rules():
    unit = GroupedUnit(3, lanes=8)
    random = np.random.default_rng(0)
    inputs, weights = random.integers(-128, 128, (60, 24)), random.integers(-127, 128, (60, 24))
    inputs[30:] //= 32
    planes = (inputs >> np.arange(7, -1, -1)[:, None, None] & 1) * weights
    planes[0] = -planes[0]
    digits = grouped_digits(torch.as_tensor(planes.reshape(8, 60, 3, 8).sum(-1).transpose(0, 2, 1)), unit)
    exact = torch.as_tensor((inputs * weights).sum(1))
    policy = Policy(prune=10, skip=8)
    found = stop(digit_prefixes(digits), policy, total=unit.digits, sums=exact, digits=unit.digits, rectified=True)
    for row in range(60):
        expected = slow_stop(digits[:, row].tolist(), policy, count=unit.digits, rectified=True, head=False)
        assert (int(found.values[row]), RULES[found.rules[row]], int(found.digits[row])) == expected
    assert set(found.rules.tolist()) >= {RULES.index(rule) for rule in ("end", "prune", "skip")}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("bias", ["preloaded", "serial"])
def test_known_sums_of_a_layer(name, bias):
    layer = layer_named(name, bias=3000)
    unit = unit_of(layer, bias=bias)
    x = inputs_of(layer)
    rows = known_sums(x, layer, unit, bias=bias)
    width = unit.bits + unit.weight_bits - 1
    assert len(rows) == (unit.bits if bias == "preloaded" else width)
    for number, row in enumerate(rows, start=1):
        unseen = max(0, unit.bits - number)
        # A serial bias has as many digits as a product, and its first one weighs more than that of the inputs.
        late = 0 if bias == "preloaded" else width - number
        seen = type(layer)(**{**vars(layer), "bias": layer.bias >> late << late})
        assert torch.equal(row, slow_sums((x.long() >> unseen << unseen).float(), seen))


def test_what_cannot_be_asked_for_is_refused():
    with pytest.raises(UsageError, match="^policy.skip: no digit weighs so little. Got: -1"):
        Policy(skip=-1)
    with pytest.raises(UsageError, match="no such way to commit. Got: ceil. Allowed: prefix, floor"):
        Policy(commit="ceil")
    unit, known = Unit(1, bits=4, weight_bits=4), torch.zeros(4, 3, dtype=torch.int64)
    given = {"total": unit.total, "sums": known[-1], "digits": unit.total}
    with pytest.raises(UsageError, match="^policy.prune: no digit weighs so much. Got: 7. Allowed: 0 to 6"):
        stop(closed_prefixes(known, unit), Policy(prune=7), rectified=True, **given)
    with pytest.raises(UsageError, match="more than its sign"):
        stop(closed_prefixes(known, unit), Policy(), rectified=True, head=True, **given)
    with pytest.raises(UsageError, match="the digits end too early. Allowed: 7 prefixes or more"):
        stop(itertools.islice(closed_prefixes(known, unit), 3), Policy(), rectified=True, **given)
