import pytest
import torch

from tests.hardware.icarus import LATE, mutated, needs_icarus
from tests.hardware.networks import Everything, Vectors, images, phantoms, quantised_network, seeded, shipped
from xaiseg.errors import UsageError
from xaiseg.hardware import cosimulation
from xaiseg.hardware.cosimulation import STRATA, cosimulate
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.quantise import Scheme
from xaiseg.hardware.sampled import operands

pytestmark = [pytest.mark.rtl, needs_icarus]


def deployed(kind=Everything, *, bias="preloaded", **options):
    scheme = Scheme(bias=bias, observer="percentile")  # whose ranges leave some values out
    return deploy(quantised_network(seeded(kind()), images(4), scheme=scheme), **options)


@pytest.mark.parametrize("bias", ["preloaded", "serial"])
@pytest.mark.parametrize("options", [{}, {"delay": 1}, {"fewer": 2}, {"arithmetic": "merged"}])
@pytest.mark.parametrize("kind", [Everything, Vectors])
def test_every_layer_is_the_unit_in_verilog(kind, options, bias):
    network = deployed(kind, bias=bias, **options)
    layers = cosimulate(network, (images(2, seed=9),), windows=30)
    assert [layer.path for layer in layers] == [
        node.path for node in network.network.folded.graph.nodes if node.name in network.ready
    ]
    for layer in layers:
        assert layer.equal, layer
        assert list(layer.strata) == list(STRATA)
        assert sum(layer.strata.values()) == 30
        assert layer.clocks == layer.digits + 30 * layer.unit.silent
        assert layer.seconds > 0
    assert sum(layer.ended for layer in layers) > 0


def test_every_layer_of_the_shipped_network_is_the_unit_in_verilog():
    network = deploy(quantised_network(shipped(), phantoms(2, "validation")))
    layers = cosimulate(network, (phantoms(1, "test"),))
    assert len(layers) == 18
    assert [layer.path for layer in layers if not layer.equal] == []
    assert all(sum(layer.strata[name] for layer in layers) > 0 for name in STRATA)
    assert min(layer.ended for layer in layers) > 0
    assert max(layer.unit.terms for layer in layers) == 1152


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ([("value >= HALF", "value > HALF")], {"digits", "values"}),
        ([("value < -HALF", "value <= -HALF")], {"digits", "values"}),
        (LATE, {"ended"}),
        ([("MERGED ? 0 : DELAY;", "MERGED ? 0 : DELAY + 1;")], {"digits", "values", "clocks", "ended"}),
        ([("PRELOADED ? preload :", "0 ? preload :")], {"digits", "values", "ended"}),
        ([("now + 8'd1 == SILENT + count", "now + 8'd2 == SILENT + count")], {"digits", "values", "clocks"}),
    ],
    ids=["half", "minus half", "END one digit late", "delay", "bias", "one digit less"],
)
def test_an_error_in_the_unit_is_found(changes, fields, tmp_path):
    layers = cosimulate(deployed(), (images(2, seed=9),), verilog=mutated(tmp_path, *changes))
    found = {name: sum(getattr(layer, f"{name}_differ") for layer in layers) for name in ("digits", "values", "clocks")}
    found["ended"] = sum(layer.ended_differ for layer in layers)
    assert fields <= {name for name, count in found.items() if count}
    if changes is LATE:  # digits and clocks of a unit whose END is late are right
        assert fields == {name for name, count in found.items() if count}
        assert found["ended"] == sum(layer.ended for layer in layers)


def test_windows_of_a_stratum_are_what_its_name_says(monkeypatch):
    calls = watched(monkeypatch)
    network, x, values = deployed(), 2 * images(2, seed=9) - 0.5, {}  # beyond what calibration saw
    layers = cosimulate(network, (x,), windows=50)
    network(x, watch=lambda node, value: values.update({node.name: value}))
    nodes = {node.path: node for node in network.network.folded.graph.nodes}
    for layer, (inputs, weights, options) in zip(layers, calls, strict=True):
        node = nodes[layer.path]
        sums = (inputs * weights).sum(1)
        sums = sums if options["preloaded"] is None else sums + options["preloaded"]
        ones = 2 ** (layer.unit.total - options["digits"])
        sizes = list(layer.strata.values())
        kinds = dict(zip(STRATA, zip(sums.split(sizes), ones.split(sizes), strict=True), strict=True))
        every = _all_sums(
            network.network.convolutions[node.name].layer, values[node.inputs[0]], values[node.name]
        ).abs()
        every = every.sort().values
        assert torch.equal(kinds["near_zero"][0].abs().sort().values, every[every > 0][:10])
        assert torch.equal(kinds["largest"][0].abs().sort(descending=True).values, every.flip(0)[:10])
        for total, one in zip(*kinds["tie"], strict=True):
            assert one > 1
            assert total % one == one // 2
        for total, one in zip(*kinds["saturated"], strict=True):
            _beyond(network.network, node, int((total + one // 2) // one))
    assert all(sum(layer.strata[name] for layer in layers) for name in STRATA)


def watched(monkeypatch):
    """The operands and options of every simulation from now on."""
    calls, simulate = [], cosimulation.simulate

    def recorded(inputs, weights, unit, **options):
        calls.append((inputs, weights, options))
        return simulate(inputs, weights, unit, **options)

    monkeypatch.setattr(cosimulation, "simulate", recorded)
    return calls


def _all_sums(layer, x, found):
    places = torch.cartesian_prod(*(torch.arange(size) for size in found.shape)).T
    inputs, weights = operands(x, layer, places)
    return (inputs * weights).sum(1) + (0 if layer.bias is None else layer.bias[places[1]])


def _beyond(network, node, value):
    """The value lies above what the output holds, or below it where no rectifier makes it 0."""
    form = network.formats[node.name]
    if node.rectifier is None:
        assert not form.low <= value <= form.high
    else:
        assert value > min(form.high, node.rectifier.ceiling * 2.0**form.exponent)


def test_the_draw_follows_the_seed(monkeypatch):
    calls = watched(monkeypatch)
    network = deployed(Vectors)
    for seed in (0, 0, 1):
        cosimulate(network, (images(1),), windows=10, seed=seed)
    size = len(network.ready)
    first, again, other = (
        torch.cat([inputs.flatten() for inputs, _, _ in calls[k * size : (k + 1) * size]]) for k in range(3)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_windows_are_refused():
    with pytest.raises(UsageError, match="windows: there is nothing to compare. Got: 0. Allowed: 1 or more"):
        cosimulate(deployed(Vectors), (images(1),), windows=0)


def test_few_windows_are_random():
    assert {tuple(layer.strata.values()) for layer in cosimulate(deployed(Vectors), (images(1),), windows=3)} == {
        (3, 0, 0, 0, 0)
    }
