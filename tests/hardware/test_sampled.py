from dataclasses import replace

import pytest

from tests.hardware.networks import Everything, Vectors, images, phantoms, quantised_network, seeded, shipped
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.quantise import Scheme
from xaiseg.hardware.sampled import sampled_windows


@pytest.mark.parametrize("bias", ["preloaded", "serial"])
@pytest.mark.parametrize("arithmetic", ["twos_complement", "merged"])
@pytest.mark.parametrize("kind", [Everything, Vectors])
def test_windows_of_every_layer_are_the_recurrence(kind, arithmetic, bias):
    network = quantised_network(seeded(kind()), images(4), scheme=Scheme(bias=bias))
    samples = sampled_windows(deploy(network, arithmetic=arithmetic), (images(2, seed=9),), count=200)
    assert len(samples) == len(network.convolutions)
    assert [(sample.windows, sample.different) for sample in samples] == [(200, 0)] * len(samples)


def test_windows_of_the_shipped_network_are_the_recurrence():
    network = deploy(quantised_network(shipped(), phantoms(2, "validation")))
    samples = sampled_windows(network, (phantoms(1, "test"),), count=64)
    assert len(samples) == 18
    assert [sample.path for sample in samples][::17] == ["encoder.0.0", "head"]
    assert sum(sample.different for sample in samples) == 0


def test_one_digit_less_is_seen_in_every_layer():
    found = deploy(quantised_network(seeded(Everything()), images(4)))
    for name, ready in found.ready.items():
        wrong = replace(found, ready={**found.ready, name: replace(ready, digits=ready.digits - 1)})
        samples = sampled_windows(wrong, (images(2),), count=200)
        different = {sample.path for sample in samples if sample.different}
        paths = {node.name: node.path for node in found.network.folded.graph.nodes}
        assert different == {paths[name]}
