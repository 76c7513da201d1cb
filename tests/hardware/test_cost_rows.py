from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.hardware.networks import Everything, Vectors, images, phantoms, quantised_network, seeded, shipped
from xaiseg.errors import UsageError
from xaiseg.hardware import cost_rows
from xaiseg.hardware.cost_rows import Shape, graph_shapes, layer_cost, measured_cost, module_shapes, network_costs
from xaiseg.hardware.costs import given, ratio
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.designs import DESIGNS, ZYNQ_7020, Window, window_cycles


def accelerator(outputs=3, pixels=4, inputs=2, **changed):
    held = {"outputs": given(outputs, ""), "pixels": given(pixels, ""), "lanes": given(2, "")}
    return replace(ZYNQ_7020, **held, inputs=None if inputs is None else given(inputs, ""), **changed)


def slow_cycles(name, shape, digits, held, *, silent, bits):
    """One block after another over every tile, as the accelerator would run them."""
    at_once = shape.inputs if held.inputs is None else int(held.inputs.value)
    cycles, first = 0, 0
    while first < shape.outputs:
        tile = digits[first : first + int(held.outputs.value)]
        place = 0
        while place < shape.places:
            channel = 0
            while channel < shape.inputs:
                windows = [
                    Window(shape.taps, min(at_once, shape.inputs), count, silent, bits, int(held.lanes.value))
                    for count in tile
                ]
                cycles += max(window_cycles(name, window) for window in windows)
                channel += at_once
            place += int(held.pixels.value)
        first += int(held.outputs.value)
    return cycles


@pytest.mark.parametrize("name", DESIGNS)
@pytest.mark.parametrize("sizes", [(3, 4, 2), (1, 1, None), (100, 100, 100), (4, 25, 5)])
def test_cycles_of_a_layer_are_those_of_its_tiles_one_by_one(name, sizes):
    held = accelerator(*sizes)
    shape = Shape("conv", inputs=5, outputs=8, taps=9, places=25, macs=5 * 8 * 9 * 25)
    digits = [3, 9, 4, 4, 12, 1, 7, 2]
    found = layer_cost(name, shape, digits=digits, silent=1, bits=6, accelerator=held, workload="one layer")
    assert found.cycles == slow_cycles(name, shape, digits, held, silent=1, bits=6)
    assert found.seconds == pytest.approx(found.cycles / 100e6)
    assert (found.timing, found.source, found.ops) == ("compute-only", "estimated", 2 * shape.macs)


def test_energy_is_power_times_time_where_a_power_is_known():
    shape = Shape("conv", 1, 1, 1, 100, 100)
    held = accelerator(power_w={"cascade": given(2.0, "W", note="a meter")})
    cascade = layer_cost("cascade", shape, digits=[8], accelerator=held, workload="w")
    assert cascade.joules == pytest.approx(2 * cascade.seconds)
    assert "energy is 2 W (user: a meter) times the compute-only time" in cascade.notes
    merged = layer_cost("mma", shape, digits=[8], accelerator=held, workload="w")
    assert (merged.joules, merged.gops_per_watt) == (None, None)
    assert any("the power of mma is not known" in note for note in merged.notes)


def test_rounds_over_input_channels_are_said():
    shape = Shape("conv", 5, 1, 1, 1, 5)
    notes = {
        inputs: layer_cost("mma", shape, digits=[8], accelerator=accelerator(inputs=inputs), workload="w").notes
        for inputs in (2, 5, None)
    }
    assert [any("in rounds" in note for note in held) for held in notes.values()] == [True, False, False]


def test_digits_are_those_of_each_channel():
    with pytest.raises(UsageError, match="^conv: digits are those of each channel. Got: 1. Allowed: 2"):
        layer_cost("mma", Shape("conv", 1, 2, 1, 1, 2), digits=[8], workload="w")


NETWORKS = {
    "everything": (Everything, (1, 2, 16, 16)),
    "vectors": (Vectors, (1, 2, 16, 16)),
    "strides": (lambda: nn.Conv2d(4, 6, (5, 3), stride=(1, 2), padding=(0, 1), groups=2), (1, 4, 11, 9)),
    "up": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (1, 4, 5, 7)),
}


@pytest.mark.parametrize(("build", "size"), NETWORKS.values(), ids=NETWORKS)
def test_multiply_adds_are_those_that_torch_counts(build, size):
    network, x = build().eval(), torch.zeros(size)
    with FlopCounterMode(display=False) as counter:
        network(x)
    assert 2 * sum(shape.macs for shape in module_shapes(network, x)) == counter.get_total_flops()


@pytest.mark.parametrize("kind", [Everything, Vectors])
def test_a_traced_network_has_the_shapes_of_its_modules(kind):
    network, x = seeded(kind()), images(1)
    folded = quantised_network(network, images(2)).folded
    traced = {shape.path: shape for shape in graph_shapes(folded, x)}
    assert traced == {shape.path: shape for shape in module_shapes(network, x)}


def test_shapes_of_a_transposed_convolution_by_hand():
    (shape,) = module_shapes(nn.ConvTranspose2d(6, 4, 2, stride=2), torch.zeros(1, 6, 5, 5))
    assert shape == Shape("", inputs=6, outputs=4, taps=1, places=100, macs=6 * 4 * 4 * 25)
    (shape,) = module_shapes(nn.ConvTranspose2d(6, 4, 3, stride=2), torch.zeros(1, 6, 5, 5))
    assert (shape.taps, shape.terms, shape.windows) == (4, 24, 4 * 11 * 11)


def test_a_network_on_no_device_has_the_same_shapes():
    with torch.device("meta"):
        bare, x = Everything(), torch.zeros(1, 2, 16, 16)
    assert module_shapes(bare, x) == module_shapes(Everything(), torch.zeros(1, 2, 16, 16))


def test_hooks_are_gone_afterwards():
    network = Everything()
    module_shapes(network, images(1))
    assert not any(module._forward_hooks for module in network.modules())


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(UsageError, match="costs are those of one image. Got: 3"):
        module_shapes(Everything(), images(3))
    with pytest.raises(UsageError, match="no convolution"):
        module_shapes(nn.ReLU(), images(1))
    network = deploy(quantised_network(seeded(Everything()), images(2)))
    with pytest.raises(UsageError, match="costs are those of one image. Got: 3"):
        network_costs(network, (images(3),), workload="w")
    with pytest.raises(UsageError, match="no such design. Got: gpu"):
        network_costs(network, (images(1),), workload="w", designs=("gpu",))


def test_the_rows_of_the_shipped_network():
    network = deploy(quantised_network(shipped(), phantoms(2, "validation")))
    found = network_costs(network, (torch.zeros(1, 1, 16, 16),), workload="16 x 16")
    assert len(found.layers) == 18
    ready = {
        node.path: network.ready[node.name] for node in network.network.folded.graph.nodes if node.name in network.ready
    }
    for layer in found.layers:
        held = ready[layer.shape.path]
        assert layer.digits == tuple(held.digits.tolist())
        assert (layer.total, layer.most_digits) == (held.unit.total, int(held.digits.max()))
        for name, cost in layer.costs.items():
            expected = slow_cycles(name, layer.shape, layer.digits, ZYNQ_7020, silent=2, bits=8)
            assert (cost.cycles, cost.design, cost.workload) == (expected, name, "16 x 16")
    for name, image in found.image.items():
        assert image.cycles == sum(layer.costs[name].cycles for layer in found.layers)
    assert found.image["mma"].joules == pytest.approx(3.5 * found.image["mma"].seconds)
    assert found.image["cascade"].joules is None
    assert ratio(found.image["cascade"], found.image["mma"], "cycles").value > 1.5
    assert found.accelerator is ZYNQ_7020
    assert found.outside == ()


@pytest.mark.parametrize(("unit", "silent"), [({}, 2), ({"delay": 1}, 1), ({"arithmetic": "merged"}, 0)])
def test_a_window_takes_the_silent_steps_of_its_unit_and_its_digits(unit, silent):
    network = deploy(quantised_network(seeded(nn.Sequential(nn.Conv2d(2, 1, 1))), images(2)), **unit)
    (layer,) = network_costs(network, (images(1),), workload="w", designs=("mma",)).layers
    assert layer.costs["mma"].cycles == 16 * 16 * (silent + layer.total)


def test_fewer_digits_cost_fewer_cycles_and_the_slowest_channel_of_a_tile_decides():
    network = deploy(quantised_network(seeded(Everything()), images(2)))
    costs = network_costs(network, (images(1),), workload="w", designs=("mma",))
    fewer = {name: replace(ready, digits=ready.digits - 1) for name, ready in network.ready.items()}
    found = network_costs(replace(network, ready=fewer), (images(1),), workload="w", designs=("mma",))
    for before, after in zip(costs.layers, found.layers, strict=True):
        assert before.most_digits - 1 == after.most_digits
        tiles = before.costs["mma"].cycles / (before.most_digits + 2)
        assert after.costs["mma"].cycles == tiles * (before.most_digits + 1)  # one tile holds all channels
    assert "the digit-serial unit does not compute" in found.outside[0]


def test_the_processor_is_timed_and_its_power_is_the_users(monkeypatch):
    clock = iter([0.0, 0.5, 1.0, 1.1, 2.0, 2.3])
    calls = []
    monkeypatch.setattr(cost_rows.time, "perf_counter", lambda: next(clock))
    found = measured_cost(
        lambda: calls.append(1), macs=10**9, workload="w", technology="a processor", power_w=given(15, "W"), runs=3
    )
    assert len(calls) == 4
    assert (found.seconds, found.joules) == (pytest.approx(0.3), pytest.approx(4.5))
    assert (found.source, found.boundary, found.timing, found.cycles) == ("measured", "system", "latency", None)
    assert found.gops == pytest.approx(2 / 0.3)
    bare = replace(found, joules=None)
    shape = Shape("conv", 1, 1, 1, 1, 1)
    assert ratio(layer_cost("mma", shape, digits=[8], workload="w"), bare, "joules").reason.startswith(
        "mma and cpu differ"
    )


def test_no_runs_are_refused():
    with pytest.raises(UsageError, match="no such number of runs. Got: 0"):
        measured_cost(lambda: None, macs=1, workload="w", technology="t", runs=0)
