from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.hardware.networks import Everything, images, quantised_network, seeded
from xaiseg.errors import UsageError
from xaiseg.hardware import quantise as module
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.exact import Layer
from xaiseg.hardware.folding import by_output, fold
from xaiseg.hardware.graph import trace
from xaiseg.hardware.integer import run_integer
from xaiseg.hardware.quantise import Scheme, checked_weights, quantise
from xaiseg.hardware.unit import Unit


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_rounded_half_up_at_the_finest_exponent_that_holds_them(per_channel):
    network = seeded(Everything())
    found = quantised_network(network, images(4), scheme=Scheme(per_channel=per_channel, observer="max"))
    limits = 0
    for name, held in found.convolutions.items():
        folded = found.folded.convolutions[name]
        exponents = held.exponents - held.source.exponent
        rows = held.layer.by_output().flatten(1)
        expected = torch.floor(by_output(folded).flatten(1) * 2.0 ** exponents[:, None] + 0.5)
        assert torch.equal(rows.double(), expected)
        assert int(rows.abs().max()) <= 127
        largest = rows.abs().amax(1)
        if per_channel:  # where no other limit binds, one exponent more would pass 127
            limits += int((largest >= 64).sum())
        else:
            assert len(set(exponents.tolist())) == 1
    assert not per_channel or limits > 20


def test_bias_is_in_units_of_the_sum_and_digits_remain_for_every_channel():
    found = quantised_network(seeded(Everything()), images(4))
    for name, held in found.convolutions.items():
        real = found.folded.convolutions[name].bias * 2.0**held.exponents
        assert torch.equal(held.layer.bias.double(), torch.floor(real + 0.5))
        if held.shifts is not None:
            assert int(held.shifts.min()) >= 0
            assert int(held.shifts.max()) <= Unit(held.layer.terms).total - 8


def test_a_channel_of_tiny_weights_or_none_keeps_enough_digits():
    network = seeded(nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 1, 1)))
    network[0].weight.data[0] *= 1e-9
    network[0].weight.data[1] = 0
    network[0].bias.data[2] = 50
    found = quantised_network(network, images(2))
    held = found.convolutions["_0"]
    assert int(held.shifts.max()) == Unit(2).total - 8
    x = images(1)
    assert torch.allclose(run_integer(found, x), network(x), rtol=0.1, atol=0.5)


def test_no_exponent_is_finer_than_the_sums_behind_it(monkeypatch):
    """A range that asks for more than the exact sum's last digit gets that digit."""
    network = seeded(nn.Sequential(nn.Conv2d(2, 1, 1), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)))
    network[1].weight.data.fill_(100.0)
    found = quantised_network(network, images(1))
    wanted = int(found.convolutions["_1"].exponents.min()) + 3
    monkeypatch.setattr(
        module, "observe", lambda *a, **k: {**found.ranges, "_1": replace(found.ranges["_1"], exponent=wanted)}
    )
    again = quantised_network(network, images(1))
    assert again.formats["_1"].exponent == wanted - 3
    assert again.convolutions["_1"].shifts.tolist() == [0]


class Skip(nn.Module):
    """A convolution whose input and output a concatenation puts on one scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.norm = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head(torch.cat((x, torch.relu(self.norm(self.inner(x)))), 1))


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_that_a_scale_shared_with_their_input_cannot_hold_are_refused_at_once(per_channel):
    network = seeded(Skip())
    network.norm.running_var[3], network.norm.weight.data[3] = 0, 4
    folded = fold(trace(network)).convolutions["inner"]
    largest = float(folded.weight.abs().max())
    assert 1023 < largest < 2047
    message = rf"^inner: weights are too large.*Got: a weight of magnitude {largest:.4g}. Allowed: up to 127 with"
    with pytest.raises(UsageError, match=message + r".*weight_bits: 12, or keep the layer and its norm outside.$"):
        quantised_network(network, images(2), scheme=Scheme(per_channel=per_channel))
    # Both ways out that the message names.
    wide = quantised_network(network, images(2), scheme=Scheme(weight_bits=12, per_channel=per_channel))
    assert torch.equal(deploy(wide)(images(2)), run_integer(wide, images(2)))
    kept = quantised_network(network, images(2), outside=("inner", "norm"))
    assert torch.equal(deploy(kept)(images(2)), run_integer(kept, images(2)))


def test_weights_beyond_every_width_are_refused_without_a_width():
    network = seeded(Skip())
    network.inner.weight.data *= 1e30
    with pytest.raises(UsageError, match="^inner: .*nearly no variance, or keep the layer"):
        quantised_network(network, images(2))


def test_a_serial_bias_is_rounded_to_the_digits_that_the_unit_reads():
    exact = quantised_network(seeded(Everything()), images(4))
    found = quantised_network(seeded(Everything()), images(4), scheme=Scheme(bias="serial"))
    coarser = 0
    for name, held in found.convolutions.items():
        if held.shifts is None:
            continue
        late = (held.shifts - Unit(held.layer.terms + 1).growth - 1).clamp(min=0)
        assert bool((held.layer.bias % 2**late == 0).all())
        assert int(held.layer.bias.abs().max()) < 2**14
        real = found.folded.convolutions[name].bias * 2.0**held.exponents
        assert bool(((held.layer.bias - real).abs() <= 2.0 ** (late - 1).clamp(min=-1) + 1).all())
        coarser += not torch.equal(held.layer.bias, exact.convolutions[name].layer.bias)
    assert coarser


def test_the_test_split_is_refused():
    with pytest.raises(UsageError, match="split: ranges must not be fitted on the images that are audited. Got: Test"):
        quantise(fold(trace(nn.Sequential(nn.Conv2d(2, 1, 1)).eval())), [(images(1),)], split="Test")


@pytest.mark.parametrize("least", [-128, 128])
def test_weights_that_are_not_symmetric_are_refused(least):
    with pytest.raises(UsageError, match="^layer: weights are not symmetric.*Allowed: -127 to 127.*without zero point"):
        checked_weights(Layer(torch.tensor([[[[least]]]])), weight_bits=8, where="layer")


def test_schemes_that_do_not_exist_are_refused():
    with pytest.raises(UsageError, match="bits: no such width. Got: 17"):
        Scheme(bits=17)
    with pytest.raises(UsageError, match="weight_bits: no such width. Got: 1"):
        Scheme(weight_bits=1)
    with pytest.raises(UsageError, match="bias: no such bias. Got: none"):
        Scheme(bias="none")


def test_a_sum_beyond_exact_integers_is_refused_with_its_path(monkeypatch):
    monkeypatch.setattr(module, "FLOAT64_EXACT", 2**10)
    with pytest.raises(UsageError, match="^0: a sum may pass the integers.*Use fewer bits"):
        quantised_network(seeded(nn.Sequential(nn.Conv2d(2, 1, 1))), images(1))


def test_values_that_are_not_finite_are_refused_where_integers_begin():
    network = quantised_network(seeded(Everything()), images(2))
    x = images(1)
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(UsageError, match="^x: activations hold NaN"):
        run_integer(network, x)
    with pytest.raises(UsageError, match="other arguments. Got: 2. Allowed: x"):
        run_integer(network, x, x)
