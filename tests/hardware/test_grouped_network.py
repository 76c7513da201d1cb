import itertools

import pytest
import torch
from torch import nn

from tests.hardware.layers import GEOMETRIES, inputs_of, layer_named, slow_sums
from tests.hardware.networks import Everything, Vectors, images, phantoms, quantised_network, seeded, shipped
from xaiseg.errors import UsageError
from xaiseg.hardware.cost_rows import graph_shapes
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.grouped import GroupedUnit, folded_bias, grouped_cost
from xaiseg.hardware.grouped_network import group_planes, grouped_stopping_cost, run_grouped
from xaiseg.hardware.quantise import Scheme
from xaiseg.hardware.termination import Policy

FULL = Policy(end=False, head=False)


def products_of(x, layer, place):
    """(input, weight) of every lane of one output value: channel by channel, tap by tap, then the bias."""
    image, output, row, column = place
    weights = layer.by_output()[output]
    first = output // (layer.outputs // layer.groups) * layer.inputs
    rows, columns = (meeting(layer, axis, at, x.shape[2 + axis]) for axis, at in enumerate((row, column)))
    found = []
    for channel in range(layer.inputs):
        for (i, a), (j, b) in itertools.product(rows, columns):
            inside = a is not None and b is not None
            found.append((int(x[image, first + channel, a, b]) if inside else 0, int(weights[channel, i, j])))
    return found + [(gamma, beta) for beta, gamma in folded_bias(int(layer.bias[output]))]


def meeting(layer, axis, at, size):
    """(tap, input place or None outside) of the taps that can meet an output place."""
    found = []
    for tap in range(layer.weight.shape[2 + axis]):
        reach = tap * layer.dilation[axis]
        place = at * layer.stride[axis] - layer.padding[axis] + reach
        if layer.transposed:
            moved = at + layer.padding[axis] - reach
            if moved % layer.stride[axis]:
                continue
            place = moved // layer.stride[axis]
        found.append((tap, place if place in range(size) else None))
    return found


def small_unit(layer):
    """Groups of 8 lanes for a window and a bias; no power of two, whose second stage might overflow."""
    groups = -(-(layer.terms + 5) // 8)
    return GroupedUnit(groups + (groups & (groups - 1) == 0) * (1 + (groups == 1)), lanes=8)


@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name not in ("up 3x3", "up groups", "up dilation")])
@pytest.mark.parametrize("signed", [False, True])
def test_planes_are_those_of_the_lanes_one_by_one(name, signed):
    layer = layer_named(name, bias=20_000)
    x = inputs_of(layer, size=(4, 5), low=-128 if signed else 0, high=127 if signed else 255).long()
    unit = small_unit(layer)
    planes = group_planes(x, layer, unit, signed=signed)
    for place in itertools.islice(itertools.product(*map(range, planes.shape[2:])), 0, None, 7):
        expected = torch.zeros(8, unit.groups, dtype=torch.int64)
        for lane, (value, weight) in enumerate(products_of(x, layer, place)):
            for bit in range(8):
                digit = value >> (7 - bit) & 1
                expected[bit, lane // 8] += -digit * weight if signed and bit == 0 else digit * weight
        assert torch.equal(planes[(..., *place)], expected)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_no_product_is_lost_whatever_its_lane(name):
    layer = layer_named(name, bias=20_000)
    x = inputs_of(layer)
    unit = small_unit(layer)
    planes = group_planes(x, layer, unit, signed=False).sum(1)
    weighted = planes * 2 ** torch.arange(7, -1, -1).view(-1, 1, 1, 1, 1)
    assert torch.equal(weighted.sum(0), slow_sums(x, layer))


@pytest.mark.parametrize("kind", [Everything, Vectors])
def test_every_operator_is_the_golden_model_with_exact_rules_and_without(kind):
    integers = quantised_network(seeded(kind()), images(4))
    x = images(3, seed=7)
    expected = deploy(integers)(x)
    answer, rows = run_grouped(integers, (x,), FULL)
    assert torch.equal(answer, expected)
    assert all((row.saved, set(row.rules)) == (0, {"full"}) for row in rows)
    answer, rows = run_grouped(integers, (x,), Policy())
    assert torch.equal(answer, expected)
    assert any(row.saved > 0 for row in rows)
    answer, _ = run_grouped(integers, (x,), Policy(prune=11, skip=11))
    assert not torch.equal(answer, expected)


def test_the_exact_rules_change_no_mask_of_the_shipped_network():
    integers = quantised_network(shipped(), phantoms(4, "validation"))
    x = phantoms(1, "test")
    expected = deploy(integers)(x)
    answer, rows = run_grouped(integers, (x,), Policy())
    assert torch.equal(answer > 0, expected > 0)
    assert bool((expected > 0).any())
    assert rows[-1].rules["head"] + rows[-1].rules.get("full", 0) == rows[-1].windows
    for row in rows:
        assert row.windows == sum(row.rules.values())
        assert (row.saved > 0) == (not row.path.startswith("up"))
    shapes = graph_shapes(integers.folded, x)
    cost = grouped_stopping_cost(shapes, rows, workload="w")
    assert cost.cycles == pytest.approx(sum(row.cycles for row in rows))
    full = [grouped_cost(shape, row.unit, workload="w") for shape, row in zip(shapes, rows, strict=True)]
    assert cost.joules < 0.9 * sum(part.joules for part in full)
    parts = zip(full, rows, strict=True)
    assert cost.joules == pytest.approx(sum(part.joules * (1 - row.saved) for part, row in parts))
    with pytest.raises(UsageError, match="^stops: the rows are those of another network"):
        grouped_stopping_cost(shapes, rows[1:], workload="w")


def test_what_the_unit_cannot_compute_is_named_with_its_path():
    wide = seeded(nn.Sequential(nn.Conv2d(2, 2, 46, padding=23)))
    with pytest.raises(UsageError, match="^0: the unit cannot compute this convolution.*does not fit the unit"):
        run_grouped(quantised_network(wide, images(1)), (images(1),), FULL)
    narrow = quantised_network(seeded(Vectors()), images(1), scheme=Scheme(bits=6))
    with pytest.raises(UsageError, match=r"the unit has other widths. Got: \(6, 8\)"):
        run_grouped(narrow, (images(1),), FULL)
