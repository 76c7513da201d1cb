from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import xaiseg.zoo
from tests.hardware.networks import phantoms
from xaiseg.errors import UsageError
from xaiseg.hardware.folding import fold
from xaiseg.hardware.graph import trace
from xaiseg.hardware.ladder import climb
from xaiseg.hardware.quantise import quantise
from xaiseg.hardware.radiomic_core import OUTSIDE, RadiomicCore
from xaiseg.zoo.radiomicnet import RadiomicNet, radiomicnet_compact


def shipped() -> RadiomicNet:
    network = radiomicnet_compact(1, 1)
    weights = Path(xaiseg.zoo.__file__).parent / "weights" / "radiomicnet-compact-phantom.safetensors"
    network.load_state_dict(load_file(weights))
    return network.eval()


def test_the_core_is_the_network():
    network, x = shipped(), phantoms(2, "test")
    core = RadiomicCore(network)
    with torch.inference_mode():
        assert torch.equal(core(*core.arguments(x)), network(x))


@pytest.mark.parametrize("gates", ["no_rag", "spatial_only", "channel_only"])
def test_ablations_have_a_core(gates):
    network = RadiomicNet(3, 2, width=0.25, bottleneck=False, decoder=(16, 16, 16, 16, 16), gates=gates).eval()
    core, x = RadiomicCore(network), torch.rand(1, 3, 32, 32)
    assert len(core.arguments(x)) == 1 + (gates == "channel_only")
    with torch.inference_mode():
        assert torch.equal(core(*core.arguments(x)), network(x))
    graph = trace(core, outside=() if gates == "no_rag" else OUTSIDE)
    integers = quantise(fold(graph), [core.arguments(x)], split="train")
    assert climb(core, integers, core.arguments(x))[-1].largest == 0


def test_its_convolutions_move_and_its_gates_do_not():
    core = RadiomicCore(shipped())
    graph = trace(core, outside=OUTSIDE)
    assert [(node.path, node.operator) for node in graph.outside] == [
        *((f"network.gates.{gate}", "RadiomicsGate") for gate in range(4)),
        ("", "interpolate"),
    ]
    validation, test = (core.arguments(phantoms(2, split)) for split in ("validation", "test"))
    integers = quantise(fold(graph), [validation], split="validation")
    assert len(integers.convolutions) == 61
    rungs = climb(core, integers, test)
    assert rungs[-1].largest == 0
    assert rungs[-1].flips_from_float < 0.01


def test_sides_that_the_network_cannot_halve_are_refused():
    with pytest.raises(UsageError, match="multiples of 32 px. Got: 40 x 32 px"):
        RadiomicCore(shipped()).arguments(torch.zeros(1, 1, 32, 40))
