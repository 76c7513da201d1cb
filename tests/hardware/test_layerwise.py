import numpy as np
import pytest
import torch
from torch import nn

from tests.hardware.networks import Everything, Vectors, images, quantised_network, seeded
from xaiseg.errors import UsageError
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.formats import Format
from xaiseg.hardware.graph import trace
from xaiseg.hardware.ladder import fake_quantised
from xaiseg.hardware.layerwise import (
    decibels,
    digit_form,
    fake_form,
    golden_form,
    layer_errors,
    layer_facts,
    layer_names,
)
from xaiseg.hardware.quantise import Scheme


def two_layers(seed=0):
    return seeded(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 1)), seed=seed)


def power(values):
    return float((np.asarray(values, dtype=np.float64) ** 2).sum())


def by_hand(network, held, x, *, fewer=0):
    """Float values, this build's values and each layer's own, of a network of :func:`two_layers`, in NumPy."""
    first, head = (held.convolutions[name] for name in ("_0", "_2"))
    image, hidden = held.formats["input_1.quantised"], held.formats["_0"]
    x = x.double()
    exact = torch.relu(network[0].double()(x)).detach()
    answer = network[2].double()(exact).detach()

    def rounded(values, form):
        return torch.floor(values * 2.0**form.exponent + 0.5).clamp(form.low, form.high)

    def hidden_of(q):
        sums = nn.functional.conv2d(q, first.layer.weight.double(), first.layer.bias.double())
        shifts = (first.shifts + fewer).view(-1, 1, 1)
        return (torch.floor(sums / 2.0**shifts + 0.5) * 2**fewer).clamp(0, hidden.high)

    def answer_of(q):
        sums = nn.functional.conv2d(q, head.layer.weight.double(), head.layer.bias.double())
        return sums * torch.exp2(-head.exponents.double()).view(-1, 1, 1)

    q = rounded(x, image)
    found = [q * 2.0**-image.exponent, hidden_of(q) * 2.0**-hidden.exponent, answer_of(hidden_of(q))]
    own = [found[0], found[1], answer_of(rounded(exact, hidden))]
    network.float()
    return [x, exact, answer], found, own


@pytest.mark.parametrize("fewer", [0, 2])
def test_errors_of_two_layers_by_hand(fewer):
    network, x = two_layers(), images(3, seed=5)
    held = quantised_network(network, images(4))
    exact, found, own = by_hand(network, held, x, fewer=fewer)
    layers = layer_errors(digit_form(deploy(held, fewer=fewer)), (x,))
    assert [layer.layer for layer in layers] == ["input_1.quantised", "0", "2"]
    for place, layer in enumerate(layers):
        assert layer.signal == pytest.approx(power(exact[place]), rel=1e-5)
        assert layer.noise == pytest.approx(power(found[place] - exact[place]), rel=1e-3)
        assert layer.local == pytest.approx(power(own[place] - exact[place]), rel=1e-3)
        assert layer.values == exact[place].numel()
    assert layers[1].noise == layers[1].local != layers[2].noise
    assert layers[2].noise > 2 * layers[2].local  # the head reads rounded values: most of its error is the layer before


def test_saturated_values_by_hand():
    """Images four times as bright as those that gave the ranges."""
    network, x = two_layers(), 4 * images(3, seed=5)
    held = quantised_network(network, images(4), scheme=Scheme(observer="max"))
    exact, found, _ = by_hand(network, held, x)
    layers = layer_errors(digit_form(deploy(held)), (x,))
    for place, name in enumerate(("input_1.quantised", "_0")):
        end = 255 * 2.0 ** -held.formats[name].exponent
        by_hand_count = sum(
            float(real) > end and float(held_as) == end
            for real, held_as in zip(exact[place].float().flatten(), found[place].flatten(), strict=True)
        )
        assert layers[place].saturated == by_hand_count > 0
    assert layers[2].saturated == 0  # the head keeps all digits and has no format


def test_values_below_a_signed_format_are_saturated_too():
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)).eval()
    for layer in network:
        layer.weight.data.fill_(1.0)
    held = quantised_network(network, torch.full((1, 1, 2, 2), -1.0), scheme=Scheme(observer="max"))
    for name in ("input_1.quantised", "_0"):
        assert held.formats[name] == Format(6, signed=True, bits=8)  # -2 to 127 / 64
    layers = layer_errors(golden_form(held), (torch.tensor([[[[-1.9, -2.0, -3.0, 1.0, 2.0]]]]),))
    assert [layer.saturated for layer in layers] == [2, 2, 0]


def test_channels_that_die_in_integers_are_told_from_those_that_never_lived():
    network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 1, 1)).eval()
    network[0].weight.data = torch.tensor([1.0, 1e-4, 0.0]).view(3, 1, 1, 1)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    held = quantised_network(network, x)
    for form in (digit_form(deploy(held)), golden_form(held), fake_form(held)):
        assert layer_errors(form, (x,))[1].alive == (3, 1, 0)


@pytest.mark.parametrize("kind", [Everything, Vectors])
def test_units_with_all_digits_have_the_errors_of_the_golden_model(kind):
    network, x = seeded(kind()), images(3, seed=7)
    held = quantised_network(network, images(4))
    assert layer_errors(digit_form(deploy(held)), (x,)) == layer_errors(golden_form(held), (x,))


def test_fewer_digits_only_make_a_layer_worse_by_itself():
    network, x = seeded(Everything()), images(3, seed=7)
    held = quantised_network(network, images(4))
    full, fewer = (layer_errors(digit_form(deploy(held, fewer={"first.0": n})), (x,)) for n in (0, 4))
    worse = [more.layer for less, more in zip(full, fewer, strict=True) if more.local > less.local]
    assert worse == ["first.0"]
    assert fewer[-1].noise > full[-1].noise


def test_free_scales_by_hand():
    network, x = two_layers(), 2 * images(3, seed=5)
    held = quantised_network(network, images(4), scheme=Scheme(observer="max"))
    layers = layer_errors(fake_form(held), (x,))
    step = held.ranges["input_1.quantised"].largest / 255
    rounded = torch.floor(x / step + 0.5).clamp(0, 255) * step
    assert layers[0].noise == pytest.approx(power(rounded.double() - x.double()), rel=1e-4)
    assert layers[0].saturated == int((x > torch.tensor(255 * step)).sum()) > 0
    with torch.inference_mode():
        assert layers[2].noise == pytest.approx(power(fake_quantised(held, (x,)) - network(x)), rel=1e-4)
        weight = network[0].weight
        unit = weight.abs().amax((1, 2, 3), keepdim=True) / 127
        hidden = nn.functional.conv2d(rounded, torch.floor(weight / unit + 0.5) * unit, network[0].bias).clamp(min=0)
        end = held.ranges["_0"].largest
        hidden = torch.floor(hidden / (end / 255) + 0.5).clamp(0, 255) * (end / 255)
        assert layers[1].local == pytest.approx(power(hidden - torch.relu(network[0](x))), rel=1e-3)


def test_facts_of_layers():
    held = quantised_network(two_layers(), images(4))
    facts = layer_facts(digit_form(deploy(held, fewer=2)))
    image, hidden, head = facts
    assert [fact.place for fact in facts] == [0, 1, 2]
    assert (image.operator, image.digits, image.total, image.chunks) == ("quantise", None, None, None)
    # 18 products of 8 bits by 8 bits: 8 + 7 + 5 digits; the sum divided by 2^shift has the others, without two
    shifts = held.convolutions["_0"].shifts
    assert hidden.total == 20
    assert hidden.digits == (20 - int(shifts.max()) - 2, 20 - int(shifts.min()) - 2)
    assert (hidden.exponent, hidden.fewer, hidden.chunks) == (held.formats["_0"].exponent, 2, 1)
    assert hidden.bound <= 2**24
    assert (head.digits, head.fewer) == ((head.total, head.total), 0)
    assert head.exponent == int(held.convolutions["_2"].exponents.min())
    assert {fact.digits for fact in layer_facts(golden_form(held))} == {None}
    assert {fact.exponent for fact in layer_facts(fake_form(held))} == {None}


def test_a_sum_beyond_float32_is_said_to_take_pieces():
    network = seeded(nn.Sequential(nn.Conv2d(64, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 1)))
    network[0].weight.data.fill_(127 / 128)  # 576 products of 127 and up to 255
    x = torch.rand(2, 64, 6, 6, generator=torch.Generator().manual_seed(0))
    hidden = layer_facts(digit_form(deploy(quantised_network(network, x))))[1]
    assert hidden.bound > 576 * 127 * 255 > 2**24
    assert hidden.chunks == 2


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.again = nn.Conv2d(2, 2, 1)
        self.once = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        return self.once(torch.cat((self.again(torch.relu(self.again(x))), x), 1))


def test_names_are_unique_and_paths_where_they_can_be():
    names = layer_names(trace(seeded(Twice())))
    assert list(names.values()) == ["x.quantised", "again in again", "relu", "again_1 in again", "cat", "once"]
    assert "add in first" not in layer_names(trace(seeded(Everything()))).values()


def test_values_that_are_not_finite_are_refused():
    form = digit_form(deploy(quantised_network(two_layers(), images(4))))
    with pytest.raises(UsageError, match="activations hold NaN"):
        layer_errors(form, (images(1) * float("nan"),))


def test_decibels():
    assert decibels(1.0, 0.25) == pytest.approx(6.0206, abs=1e-4)
    assert np.isnan([decibels(0.0, 1.0), decibels(1.0, 0.0)]).all()
