import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.hardware.networks import (
    Everything,
    Vectors,
    half_even,
    images,
    phantoms,
    quantised_network,
    seeded,
    shipped,
)
from xaiseg.errors import UsageError
from xaiseg.hardware import integer
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.fewer_digits import room
from xaiseg.hardware.integer import run_integer
from xaiseg.hardware.quantise import Scheme
from xaiseg.hardware.sampled import sampled_windows

SCHEMES = {
    "as it comes": Scheme(),
    "serial bias": Scheme(bias="serial"),
    "one exponent a layer": Scheme(per_channel=False, observer="max"),
    "few bits": Scheme(bits=4, weight_bits=5, observer="percentile"),
    "many bits": Scheme(bits=10, weight_bits=9),
    "most bits": Scheme(bits=16, weight_bits=16),
}


def differences(network, x, **given) -> list[str]:
    """Names of the nodes whose integers differ between the two paths."""
    golden, found = {}, {}
    expected = run_integer(network, x, watch=lambda node, value: golden.update({node.name: value}))
    answer = deploy(network, **given)(x, watch=lambda node, value: found.update({node.name: value}))
    assert golden.keys() == found.keys()
    different = [name for name in golden if not torch.equal(golden[name], found[name].long())]
    return different if torch.equal(answer, expected) else [*different, "answer"]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize(
    "given", [{}, {"arithmetic": "merged"}, {"delay": 1}], ids=["two's complement", "merged", "delay 1"]
)
@pytest.mark.parametrize("kind", [Everything, Vectors])
def test_every_operator_is_the_golden_model(kind, given, scheme):
    network = quantised_network(seeded(kind()), images(4), scheme=scheme)
    assert differences(network, images(3, seed=7), **given) == []


def test_a_norm_that_cannot_be_folded_stays_outside_and_the_rest_is_the_golden_model():
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1)
    )
    network, x = seeded(network), images(3)
    found = quantised_network(network, images(4), outside=("1",))
    assert differences(found, x) == []
    assert list(found.convolutions) == ["_0", "_4"]
    assert (found.convolutions["_0"].shifts is None, found.convolutions["_4"].source.signed) == (True, True)
    assert torch.allclose(deploy(found)(x), network(x), atol=0.05)


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(bias="serial")], ids=["preloaded", "serial"])
def test_the_shipped_network_is_the_golden_model_bit_for_bit(scheme):
    network, x = shipped(), phantoms(2, "test")
    found = quantised_network(network, phantoms(4, "validation"), scheme=scheme)
    assert differences(found, x) == []
    assert differences(found, x[:1], arithmetic="merged") == []
    with torch.inference_mode():
        flips = ((deploy(found)(x) > 0) != (network(x) > 0)).float().mean()
    assert flips < 0.01


def truncating(sums, shifts):
    return sums >> shifts


@pytest.mark.parametrize("mutation", [half_even, truncating])
def test_another_rounding_is_seen(mutation, monkeypatch):
    found = quantised_network(shipped(), phantoms(2, "validation"))
    monkeypatch.setattr(integer, "half_up", mutation)
    assert {"encoder_0_0", "answer"} <= set(differences(found, phantoms(1, "test")))


def test_a_coarser_bias_is_seen():
    """A serial bias whose late digits are not rounded away makes other outputs."""
    found = quantised_network(seeded(Everything()), images(4), scheme=Scheme(bias="serial"))
    assert differences(found, images(3)) == []
    for held in found.convolutions.values():
        if held.shifts is not None:
            held.layer.bias.add_(2 ** (held.shifts - 2).clamp(min=0) - 1)
    assert differences(found, images(3)) != []


def test_what_a_unit_cannot_compute_is_named_with_its_path():
    network = quantised_network(seeded(nn.Sequential(nn.Conv2d(2, 1, 1))), images(1))
    with pytest.raises(UsageError, match="^0: the unit cannot compute this convolution.*no closed form.*carry_save"):
        deploy(network, arithmetic="carry_save")
    network.convolutions["_0"].layer.weight.fill_(-128)
    with pytest.raises(UsageError, match="^0: the unit cannot compute.*out of range. Got: 128. Allowed: -127 to 127"):
        deploy(network, arithmetic="merged")


@pytest.mark.parametrize("bits", [(12, 12), (16, 8), (16, 16)])
def test_sums_of_one_input_channel_beyond_float32_are_the_golden_model_in_float64(bits):
    network = quantised_network(seeded(Vectors()), images(4), scheme=Scheme(bits=bits[0], weight_bits=bits[1]))
    first = deploy(network).ready["features_0"].exact
    assert (len(first.chunks), first.weights[0].dtype) == (1, torch.float64)
    x = torch.cat((images(3, seed=7), torch.ones(1, 2, 16, 16)))
    for arithmetic in ("twos_complement", "merged"):
        assert differences(network, x, arithmetic=arithmetic) == []


def test_a_convolution_that_a_unit_cannot_compute_is_named():
    network = quantised_network(seeded(Vectors()), images(4))
    with pytest.raises(UsageError, match="^features.0: the unit cannot compute this convolution. Got: unit.delay"):
        deploy(network, arithmetic="merged", delay=1)


def test_values_that_are_not_finite_are_refused():
    network = deploy(quantised_network(seeded(Everything()), images(1)))
    with pytest.raises(UsageError, match="^x: activations hold NaN"):
        network(images(1) * float("nan"))


@pytest.mark.parametrize("fewer", [1, 3])
def test_fewer_digits_are_the_sum_rounded_at_a_coarser_place(fewer):
    """One layer whose unit has still read its whole input: the golden sums, divided by more and moved back."""
    found = quantised_network(seeded(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 1))), images(4))
    held, values = found.convolutions["_0"], {}
    deploy(found, fewer=fewer)(images(2), watch=lambda node, value: values.update({node.name: value}))
    x = values["input_1.quantised"].double()
    sums = F.conv2d(x, held.layer.weight.double(), held.layer.bias.double())
    shifts = (held.shifts + fewer).view(-1, 1, 1)
    expected = torch.floor(sums / 2.0**shifts + 0.5) * 2**fewer
    assert deploy(found).ready["_0"].unit.seen(int(deploy(found, fewer=fewer).ready["_0"].digits.min())) == 8
    assert torch.equal(values["_0"].double(), expected.clamp(0, 255))
    assert not torch.equal(expected.clamp(0, 255), torch.floor(sums / 2.0 ** held.shifts.view(-1, 1, 1) + 0.5))


@pytest.mark.parametrize("fewer", [2, {"encoder.0.0": 3, "head": 4}])
def test_fewer_digits_are_those_of_the_recurrence_and_the_head_keeps_its_own(fewer):
    found = deploy(quantised_network(shipped(), phantoms(2, "validation")), fewer=fewer)
    samples = sampled_windows(found, (phantoms(1, "test"),), count=64)
    assert sum(sample.different for sample in samples) == 0
    assert found.fewer["head"] == (4 if isinstance(fewer, dict) else 0)
    assert found.fewer["encoder_0_0"] == (3 if isinstance(fewer, dict) else 2)
    assert found.fewer["encoder_1_0"] == (0 if isinstance(fewer, dict) else 2)


def test_digits_that_no_unit_can_emit_are_refused():
    found = quantised_network(shipped(), phantoms(1, "validation"))
    with pytest.raises(UsageError, match="^encoder.0.0: a unit cannot emit more digits .* Got: 1 more"):
        deploy(found, fewer=-1)
    able = room(deploy(found))
    path = min(able, key=able.get)  # the one that binds a number for all
    message = f"^{path}: one digit at least must remain. Got: digits: -20. Allowed: -1 to -{able[path]}. This one has"
    with pytest.raises(UsageError, match=message):
        deploy(found, fewer=20)
    assert deploy(found, fewer=able[path]).ready
    with pytest.raises(UsageError, match=r"^head: .*digits: -19. Allowed: -1 to -18.$"):
        deploy(found, fewer={"head": 19})
    with pytest.raises(
        UsageError, match="^digits: the network has no such convolution. Got: hed. .*did you mean 'head'"
    ):
        deploy(found, fewer={"hed": 1})
