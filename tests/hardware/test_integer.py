import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.hardware.layers import GEOMETRIES, inputs_of, layer_named, slow_sums
from tests.hardware.networks import Everything, Vectors, images, quantised_network, seeded
from xaiseg.hardware.integer import half_up, integer_sums, run_integer


@pytest.mark.parametrize("name", GEOMETRIES)
def test_sums_are_those_of_the_definition(name):
    layer = layer_named(name, bias=5000)
    x = inputs_of(layer, low=-128)
    assert torch.equal(integer_sums(x.long(), layer), slow_sums(x, layer))


def test_shifts_round_halves_up():
    sums = torch.arange(-40, 41)
    for shift in (0, 1, 3):
        expected = [math.floor(value / 2**shift + 0.5) for value in sums.tolist()]
        assert half_up(sums, torch.tensor(shift)).tolist() == expected


def watched(network, x):
    values = {}
    answer = run_integer(network, x, watch=lambda node, value: values.update({node.name: value}))
    return answer, values


def test_steps_are_the_rounded_real_operations():
    """Every node but convolutions, from its inputs' real values."""
    network, x = quantised_network(seeded(Everything()), images(4)), images(2, seed=3)
    _, values = watched(network, x)
    seen = set()
    for node in network.folded.graph.nodes:
        if node.kind in ("input", "outside", "quantise", "convolution"):
            continue
        seen.add(node.kind)
        real = [values[name].double() / 2.0 ** network.formats[name].exponent for name in node.inputs]
        form = network.formats[node.name]
        expected = torch.floor(node.call(*real) * 2.0**form.exponent + 0.5).clamp(form.low, form.high)
        assert torch.equal(values[node.name].double(), expected), node.name
    assert seen == {"add", "max_pool", "average_pool", "nearest", "bilinear", "relu", "concat"}


def test_convolutions_are_the_rounded_sums_of_real_values():
    network, x = quantised_network(seeded(Everything()), images(4)), images(2, seed=3)
    _, values = watched(network, x)
    for node in network.folded.graph.nodes:
        if node.kind != "convolution":
            continue
        held = network.convolutions[node.name]
        sums = slow_sums(values[node.inputs[0]], held.layer)
        if held.shifts is not None:
            form = network.formats[node.name]
            real = sums.double() / 2.0 ** held.shifts.view(-1, 1, 1)
            low = form.low if node.rectifier is None else 0
            ceiling = math.inf if node.rectifier is None else node.rectifier.ceiling * 2.0**form.exponent
            sums = torch.floor(real + 0.5).clamp(low, min(form.high, ceiling)).long()
        assert torch.equal(values[node.name], sums), node.name


def test_the_answer_lies_near_the_float_network():
    for network in (Everything(), Vectors()):
        network, x = seeded(network), images(8, seed=5)
        found = run_integer(quantised_network(network, images(8)), x)
        with torch.inference_mode():
            expected = network(x)
        signal, noise = expected.pow(2).mean(), (found - expected).pow(2).mean()
        assert 10 * torch.log10(signal / noise) > 25


def test_a_rectified_head_keeps_its_digits_and_its_ceiling():
    network = seeded(nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU6()))
    network[0].weight.data *= 40
    x = images(2)
    found = run_integer(quantised_network(network, x), x)
    assert float(found.min()) == 0
    assert float(found.max()) == 6
    assert torch.allclose(found, network(x), atol=0.3)


def test_padding_of_a_maximum_never_wins():
    network = nn.Sequential(
        nn.Conv2d(2, 1, 1, bias=False), nn.MaxPool2d(3, 1, 1), nn.Conv2d(1, 1, 1, bias=False)
    ).eval()
    network[0].weight.data.fill_(-1.0)
    network[2].weight.data.fill_(1.0)
    x = images(1) + 0.5
    found = run_integer(quantised_network(network, x), x)
    assert float(found.max()) < 0
    assert torch.allclose(found, F.max_pool2d(-x.sum(1, keepdim=True), 3, 1, 1), atol=0.1)
