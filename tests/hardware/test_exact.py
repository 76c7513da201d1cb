from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.hardware.layers import GEOMETRIES, inputs_of, layer_named, slow_sums
from xaiseg.errors import UsageError
from xaiseg.hardware import exact as module
from xaiseg.hardware.exact import InexactError, Layer, accumulate, exact_convolution, largest_sums, layer_of


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("bias", [0, 5000])
def test_sums_are_those_of_integers(name, bias):
    layer = layer_named(name, bias=bias)
    x = inputs_of(layer)
    for seed in range(3):
        found = accumulate(x, exact_convolution(layer, inputs=(0, 255)), seed=seed)
        assert found.dtype == torch.float32
        assert torch.equal(found.long(), slow_sums(x, layer))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_sums_are_the_same_in_chunks(name, monkeypatch):
    layer = layer_named(name, bias=300)
    x = inputs_of(layer)
    each = int(module._magnitudes(layer).max()) * 255
    monkeypatch.setattr(module, "FLOAT32_EXACT", each)
    ready = exact_convolution(layer, inputs=(0, 255))
    assert (len(ready.chunks) > 1) == (layer.inputs > 1)
    found = accumulate(x, ready)
    # With the bias even one chunk is beyond what float32 holds, as the bound is set here.
    assert {weight.dtype for weight in ready.weights} == {torch.float32 if len(ready.chunks) > 1 else torch.float64}
    assert found.dtype == torch.float64
    assert torch.equal(found.long(), slow_sums(x, layer))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_layer_of_which_one_input_channel_is_beyond_float32_is_exact_in_float64(name):
    layer = layer_named(name, bias=2**20, top=2**15 - 1)
    x = inputs_of(layer, high=2**16 - 1)
    ready = exact_convolution(layer, inputs=(0, 2**16 - 1))
    assert int(module._magnitudes(layer).max()) * (2**16 - 1) > 2**24
    assert (len(ready.chunks), ready.weights[0].dtype) == (1, torch.float64)
    assert torch.equal(accumulate(x, ready).long(), slow_sums(x, layer))


def test_a_bias_that_lifts_a_single_channel_beyond_float32_is_not_lost():
    layer = Layer(torch.full((1, 1, 1, 1), 127), torch.tensor([2**24]))
    found = accumulate(torch.ones(1, 1, 1, 1), exact_convolution(layer, inputs=(0, 255)))
    assert int(found) == 2**24 + 127


@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_bound_is_the_largest_sum_that_inputs_can_reach(name):
    layer = layer_named(name)
    # Whatever the signs of the inputs, some choice of them makes every product positive.
    most = slow_sums(torch.full_like(inputs_of(layer), 255), replace(layer, weight=layer.weight.abs()))
    assert largest_sums(layer, largest_input=255).tolist() == most.amax((0, 2, 3)).tolist()
    biased = replace(layer, bias=torch.full((layer.outputs,), -70))
    assert torch.equal(largest_sums(biased, largest_input=255), largest_sums(layer, largest_input=255) + 70)


def test_a_layer_beyond_float32_is_split_and_stays_exact():
    weight = torch.full((1, 1024, 3, 3), 127)
    weight[:, 0] = 126
    layer, x = Layer(weight), torch.full((1, 1024, 3, 3), 255.0)
    x[0, 0, 0, 0] = 254
    ready = exact_convolution(layer, inputs=(0, 255))
    assert ready.bound > 2**24
    assert len(ready.chunks) == 18
    covered = [channel for first, last in ready.chunks for channel in range(first, last)]
    assert covered == list(range(1024))
    for first, last in ready.chunks:
        assert int(weight[:, first:last].sum()) * 255 <= 2**24
    expected = int((x.long() * weight).sum())
    assert int(accumulate(x, ready)) == expected
    assert int(F.conv2d(x, weight.float())) != expected  # what the bound is for


def test_powers_of_two_scale_without_loss():
    layer = layer_named("groups")
    scale = torch.exp2(-torch.arange(6, dtype=torch.float64))
    offset = torch.arange(6) * 3 + 1
    x = inputs_of(layer)
    found = accumulate(x, exact_convolution(layer, inputs=(0, 255), scale=scale, offset=offset))
    expected = (slow_sums(x, layer) + offset.view(-1, 1, 1)).double() * scale.view(-1, 1, 1)
    assert torch.equal(found.double(), expected)


@pytest.mark.parametrize(
    ("name", "terms"), [("3x3", 27), ("groups", 18), ("up 2x2", 6), ("up 3x3", 16), ("up dilation", 4)]
)
def test_terms_are_the_most_products_in_one_output(name, terms):
    layer = layer_named(name)
    ones = replace(layer, weight=torch.ones_like(layer.weight))
    assert layer.terms == terms
    assert int(slow_sums(torch.ones_like(inputs_of(layer)), ones).max()) == terms


@pytest.mark.parametrize("value", [256.0, -1.0, float("nan"), float("inf")])
def test_an_input_out_of_range_is_refused(value):
    layer = layer_named("3x3")
    x = inputs_of(layer)
    x[1, 2, 3, 4] = value
    with pytest.raises(UsageError, match="x: an input is out of range.*Allowed: 0 to 255"):
        accumulate(x, exact_convolution(layer, inputs=(0, 255)))


def test_inputs_that_are_no_integers_are_refused():
    layer = layer_named("3x3")
    with pytest.raises(InexactError, match="inputs must be integers"):
        accumulate(torch.full((1, 3, 9, 9), 0.5), exact_convolution(layer, inputs=(0, 255)))


def test_a_backend_that_rounds_is_found_out(monkeypatch):
    layer = layer_named("3x3")
    ready = exact_convolution(layer, inputs=(0, 255))
    real = F.conv2d

    def rounding(x, weight, *rest):
        found = real(x, weight, *rest)
        return found if x.dtype == torch.float64 else found.bfloat16().float()

    monkeypatch.setattr(F, "conv2d", rounding)
    with pytest.raises(InexactError, match="27 products on cpu.*Turn off TF32"):
        accumulate(inputs_of(layer), ready)


def test_sums_that_no_float_holds_are_refused():
    with pytest.raises(UsageError, match=r"what float64 holds exactly.*2\^53"):
        exact_convolution(Layer(torch.full((1, 2, 3, 3), 2**50)), inputs=(0, 255))
    with pytest.raises(UsageError, match="4 dimensions, integers"):
        Layer(torch.full((1, 2, 3, 3), 0.5))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=2, groups=2),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    ],
)
def test_a_module_gives_its_geometry(layer):
    weight = torch.randint(-9, 10, layer.weight.shape, generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.zero_()
    x = torch.randint(0, 256, (2, 4, 8, 9), generator=torch.Generator().manual_seed(1)).float()
    found = accumulate(x, exact_convolution(layer_of(layer, weight), inputs=(0, 255)))
    assert torch.equal(found, layer(x).detach())


def test_a_module_that_cannot_be_modelled_is_refused():
    with pytest.raises(UsageError, match="padding_mode='reflect'"):
        layer_of(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), torch.ones(1, 1, 3, 3))
    with pytest.raises(UsageError, match="padding='same'"):
        layer_of(nn.Conv2d(1, 1, 3, padding="same"), torch.ones(1, 1, 3, 3))
    with pytest.raises(UsageError, match="another shape"):
        layer_of(nn.Conv2d(1, 1, 3), torch.ones(1, 1, 1, 1))
