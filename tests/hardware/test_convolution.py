from dataclasses import replace

import pytest
import torch

from tests.hardware.layers import GEOMETRIES, inputs_of, layer_named, slow_sums
from xaiseg.errors import UsageError
from xaiseg.hardware.closed import enclosure, leading
from xaiseg.hardware.convolution import convolve, leading_sums, plane_sums, ready_convolution, unit_of
from xaiseg.hardware.digits import converted
from xaiseg.hardware.exact import Layer
from xaiseg.hardware.online import multiply_add
from xaiseg.hardware.recurrence import residual_recurrence
from xaiseg.hardware.unit import Unit


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("bias", ["preloaded", "serial"])
@pytest.mark.parametrize(("arithmetic", "delay"), [("twos_complement", 2), ("twos_complement", 1), ("merged", 2)])
def test_closed_form_is_the_recurrence_and_at_full_precision_the_integers(arithmetic, delay, bias, name):
    layer = layer_named(name, bias=9000)
    signed = name in ("3x3", "stride", "up 3x3")
    unit = unit_of(layer, arithmetic=arithmetic, delay=delay, bias=bias, signed=signed)
    x = inputs_of(layer, low=unit.inputs[0], high=unit.inputs[1])
    preloaded = layer.bias.view(-1, 1, 1) if bias == "preloaded" else None
    slow = residual_recurrence(plane_sums(x, layer, unit, bias=bias), unit, digits=unit.total, preloaded=preloaded)
    for digits in (1, 4, 7, unit.total - 6, unit.total):
        found = convolve(x, ready_convolution(layer, unit, digits=digits, bias=bias))
        assert torch.equal(found.long(), slow[digits - 1])
        sums = leading_sums(x, layer, unit, digits=digits, bias=bias)
        assert torch.equal(leading(sums, unit, digits=digits), slow[digits - 1])
    assert torch.equal(slow[-1], slow_sums(x, layer))


@pytest.mark.parametrize("name", ["3x3", "groups", "up 3x3"])
@pytest.mark.parametrize("bias", ["preloaded", "serial"])
def test_channels_may_differ_in_digits(name, bias):
    layer = layer_named(name, bias=2000)
    unit = unit_of(layer, bias=bias)
    x = inputs_of(layer)
    digits = torch.tensor([2, 9, unit.total, 4, 7, 5])[: layer.outputs]
    ready = ready_convolution(layer, unit, digits=digits, bias=bias)
    assert len(ready.seen) > 1
    found = convolve(x, ready)
    for channel, count in enumerate(digits.tolist()):
        alone = convolve(x, ready_convolution(layer, unit, digits=count, bias=bias))
        assert torch.equal(found[:, channel], alone[:, channel])


@pytest.mark.parametrize("shift", [1, 4, 7, 9])
def test_fewer_digits_are_integer_requantisation(shift):
    layer = layer_named("3x3", bias=4000)
    unit = unit_of(layer)
    x = inputs_of(layer)
    found = convolve(x, ready_convolution(layer, unit, digits=unit.total - shift))
    assert torch.equal(found.long(), (slow_sums(x, layer) + 2 ** (shift - 1)) >> shift)


def test_a_serial_bias_is_not_seen_to_its_last_digit():
    layer = layer_named("3x3", bias=4000)
    x, shift = inputs_of(layer), 12
    digits = unit_of(layer, bias="serial").total - shift
    exact = (slow_sums(x, layer) + 2 ** (shift - 1)) >> shift
    serial = convolve(x, ready_convolution(layer, unit_of(layer, bias="serial"), digits=digits, bias="serial")).long()
    preloaded = convolve(x, ready_convolution(layer, unit_of(layer), digits=digits)).long()
    assert unit_of(layer).total == unit_of(layer, bias="serial").total
    assert torch.equal(preloaded, exact)
    assert int((serial - exact).abs().max()) == 1
    coarse = replace(layer, bias=layer.bias >> (shift - 2) << (shift - 2))
    ready = ready_convolution(coarse, unit_of(layer, bias="serial"), digits=digits, bias="serial")
    assert torch.equal(convolve(x, ready).long(), (slow_sums(x, coarse) + 2 ** (shift - 1)) >> shift)


def test_a_layer_in_chunks_is_the_recurrence_too():
    weight = torch.randint(-127, 128, (3, 520, 3, 3), generator=torch.Generator().manual_seed(0))
    layer = Layer(weight, torch.tensor([70000, -70000, 3]), padding=(1, 1))
    unit = unit_of(layer)
    x = inputs_of(layer, size=(5, 4))
    ready = ready_convolution(layer, unit, digits=10)
    assert len(ready.exact.chunks) > 1
    found = convolve(x, ready)
    assert found.dtype == torch.float64
    slow = residual_recurrence(plane_sums(x, layer, unit), unit, digits=10, preloaded=layer.bias.view(-1, 1, 1))
    assert torch.equal(found.long(), slow[-1])


def test_a_sum_that_reaches_the_largest_number_is_kept_within_its_digits():
    layer = Layer(torch.full((1, 1, 1, 1), 127))
    unit, x = unit_of(layer), torch.full((1, 1, 1, 1), 255.0)
    ready = ready_convolution(layer, unit, digits=4)
    assert ready.clamps
    slow = residual_recurrence(plane_sums(x, layer, unit), unit, digits=4)
    assert convolve(x, ready).item() == slow[-1].item() == 15
    assert not ready_convolution(Layer(torch.full((1, 1, 1, 1), 60)), unit, digits=4).clamps


@pytest.mark.parametrize("arithmetic", ["carry_save", "cascade", "truncated"])
def test_bounds_hold_every_output_of_the_digit_serial_unit(arithmetic):
    layer = layer_named("3x3")
    unit = unit_of(layer, arithmetic=arithmetic)
    x = inputs_of(layer, size=(4, 4))
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1)).long()
    for digits in (4, 9):
        low, high = enclosure(leading_sums(x, layer, unit, digits=digits), unit, digits=digits)
        for b, c, row, column in ((0, 0, 0, 0), (1, 3, 1, 2), (0, 2, 3, 3), (1, 1, 2, 0)):
            window = padded[b, :, row : row + 3, column : column + 3].flatten().tolist()
            weights = layer.weight[c].flatten().tolist()
            value = converted(multiply_add(window, weights, unit, digits=digits))[-1]
            assert low[b, c, row, column] <= value <= high[b, c, row, column]


def test_a_large_preloaded_bias_earns_more_leading_digits():
    layer = Layer(torch.full((1, 2, 1, 1), 100), torch.tensor([400_000]))
    assert unit_of(layer).total > unit_of(replace(layer, bias=None)).total
    unit = unit_of(layer)
    x = torch.full((1, 2, 1, 1), 255.0)
    assert convolve(x, ready_convolution(layer, unit, digits=unit.total)).item() == 255 * 200 + 400_000
    with pytest.raises(UsageError, match="the digits cannot hold the sum.*Use unit_of"):
        ready_convolution(layer, Unit(2), digits=8)


@pytest.mark.parametrize(
    ("unit", "given", "message"),
    [
        (Unit(2, "carry_save"), {}, "no closed form.*Got: carry_save.*Use leading_sums with enclosure"),
        (Unit(1), {}, "the layer has more terms. Got: 1. Allowed: 2 or more"),
        (Unit(2), {"bias": "serial"}, "the layer has more terms. Got: 2. Allowed: 3 or more"),
        (Unit(3, weight_bits=6), {"bias": "serial"}, "a weight is out of range. Got: 100. Allowed: -32 to 32"),
        (Unit(3, bits=1), {"bias": "serial"}, r"a serial bias is too large. Got: 200. Allowed: less than 2\^7"),
        (Unit(2), {"digits": torch.tensor([17])}, "unit.digits.*Allowed: 1 to 16"),
    ],
)
def test_what_a_unit_cannot_compute_is_refused(unit, given, message):
    layer = Layer(torch.full((1, 2, 1, 1), 100), torch.tensor([200]))
    with pytest.raises(UsageError, match=message):
        ready_convolution(layer, unit, **{"digits": 8, **given})


def test_inputs_out_of_range_are_refused():
    layer = layer_named("1x1")
    ready = ready_convolution(layer, unit_of(layer), digits=3)
    with pytest.raises(UsageError, match="x: an input is out of range"):
        convolve(inputs_of(layer, low=-1, high=-1), ready)
