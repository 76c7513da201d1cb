from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.hardware.networks import Everything, Vectors, half_even, images, phantoms, quantised_network, seeded, shipped
from xaiseg.hardware import integer
from xaiseg.hardware import ladder as module
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.folding import by_output, float_values
from xaiseg.hardware.graph import Graph
from xaiseg.hardware.ladder import RUNGS, NotGoldenError, climb, fake_quantised, flips
from xaiseg.hardware.quantise import Scheme


def test_each_rung_has_its_own_difference_and_the_last_has_none():
    network, x = shipped(), phantoms(2, "test")
    rungs = climb(network, quantised_network(network, phantoms(4, "validation")), (x,))
    assert [rung.name for rung in rungs] == list(RUNGS)[:5]
    a, b, c, d, e = rungs
    assert (a.largest, a.flips) == (0, 0)
    assert 0 < b.largest < 1e-3
    assert b.largest < c.largest
    assert d.largest > 0
    assert (e.largest, e.flips) == (0, 0)
    assert torch.equal(d.answer, e.answer)
    assert d.flips_from_float == float(((d.answer > 0) != (a.answer > 0)).double().mean())
    assert max(rung.flips_from_float for rung in rungs) < 0.01


def test_a_golden_model_that_rounds_otherwise_stops_the_ladder(monkeypatch):
    network = seeded(Everything())
    integers = quantised_network(network, images(2))
    monkeypatch.setattr(integer, "half_up", half_even)
    with pytest.raises(NotGoldenError, match="^first.0: the digit-serial network differs from the golden model"):
        climb(network, integers, (images(4),))


def test_other_integers_inside_stop_the_ladder_though_the_answer_is_the_same(monkeypatch):
    network = seeded(Everything())
    integers = quantised_network(network, images(2))
    right = module.deploy(integers)

    def other(*args, **kwargs):
        return lambda x, watch: right(x, watch=lambda node, v: watch(node, v + (node.path == "second.0")))

    monkeypatch.setattr(module, "deploy", other)
    with pytest.raises(NotGoldenError, match="^second.0: .* Got: 1 nodes with other integers"):
        climb(network, integers, (images(1),))


def test_fewer_digits_are_a_rung_of_their_own():
    network, x = shipped(), phantoms(2, "test")
    integers = quantised_network(network, phantoms(4, "validation"))
    full, fewer = deploy(integers, arithmetic="merged"), deploy(integers, arithmetic="merged", fewer=4)
    rungs = climb(network, integers, (x,), full=full, fewer=fewer)
    assert [rung.name for rung in rungs] == list(RUNGS)
    assert torch.equal(rungs[5].answer, fewer(x))
    assert rungs[5].flips == flips(fewer(x), full(x)) > 0
    assert rungs[5].flips_from_float == flips(fewer(x), rungs[0].answer)


def test_units_with_fewer_digits_are_no_rung_e():
    network = seeded(Everything())
    integers = quantised_network(network, images(2))
    with pytest.raises(NotGoldenError):
        climb(network, integers, (images(1),), full=deploy(integers, fewer=3))


def test_networks_that_answer_vectors_climb_too():
    network = seeded(Vectors())
    rungs = climb(network, quantised_network(network, images(4)), (images(8, seed=2),), arithmetic="merged")
    assert rungs[-1].flips_from_float <= 0.25


@pytest.mark.parametrize("per_channel", [True, False])
def test_fake_quantisation_rounds_to_free_steps(per_channel):
    """A first layer by hand: image and weights rounded to their steps, then the output."""
    network, x = seeded(Everything()), images(2)
    integers = quantised_network(network, x, scheme=Scheme(per_channel=per_channel))
    graph = integers.folded.graph
    name = next(node.name for node in graph.nodes if node.kind == "convolution")
    first = replace(integers.folded, graph=Graph(graph.nodes[:3], ("x",), name))
    short = replace(integers, folded=first)
    found = fake_quantised(short, (x,))
    folded = integers.folded.convolutions[name]

    def steps(values, step, low, high):
        return np.clip(np.floor(values / step + 0.5), low, high) * step

    weight = by_output(folded).numpy()
    largest = np.abs(weight).max((1, 2, 3), keepdims=True) if per_channel else np.abs(weight).max()
    held = torch.as_tensor(steps(weight, largest / 127, -127, 127))
    image = torch.as_tensor(steps(x.double().numpy(), integers.ranges["x.quantised"].largest / 255, 0, 255))
    real = torch.nn.functional.conv2d(image, held, folded.bias, padding=1).clamp(0, 6)
    step = integers.ranges[name].largest / 255
    # float32 may put a value on the other side of a half
    difference = (found.double() - torch.as_tensor(steps(real.numpy(), step, 0, 255))).abs()
    assert float(difference.max()) < step * 1.001
    assert float((difference > step / 2).double().mean()) < 0.002


def test_fake_quantisation_with_many_bits_is_the_network():
    network, x = seeded(Everything()), images(2)
    integers = quantised_network(network, x, scheme=Scheme(bits=16, weight_bits=16, observer="max"))
    expected = float_values(integers.folded.graph, (x,))[integers.folded.graph.output]
    assert torch.allclose(fake_quantised(integers, (x,)), expected, atol=0.02)


def test_flips_of_several_classes_are_changes_of_the_largest():
    first = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]], [[-1.0, -1.0]]]])
    assert flips(first, first * 5) == 0
    assert flips(first, first.flip(1)) == 0.5
