import numpy as np
import pytest
import torch
from torch import nn

from xaiseg.errors import UsageError
from xaiseg.hardware.folding import fold
from xaiseg.hardware.graph import trace
from xaiseg.hardware.observers import BINS, chosen, covering, observe

VALUES = np.abs(np.random.default_rng(0).standard_t(3, 20_000))


def histogram(values):
    return torch.as_tensor(np.histogram(values, BINS, (0, values.max()))[0]).double()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_max_is_the_finest_exponent_that_clips_nothing(bits, signed):
    found = chosen("max", VALUES.max(), histogram(VALUES), signed=signed, bits=bits)
    top = 2 ** (bits - signed) - 1
    assert VALUES.max() * 2.0**found.exponent <= top < VALUES.max() * 2.0 ** (found.exponent + 1)
    assert found.largest == VALUES.max()


def test_percentile_leaves_out_the_largest_values():
    found = chosen("percentile", VALUES.max(), histogram(VALUES), signed=False, bits=8, percentile=99)
    assert found.largest == pytest.approx(np.quantile(VALUES, 0.99), abs=2 * VALUES.max() / BINS)
    assert found.exponent == covering(found.largest, 255)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_mse_is_the_exponent_of_least_error(bits):
    """The error of each exponent from the values themselves."""
    found = chosen("mse", VALUES.max(), histogram(VALUES), signed=False, bits=bits)
    top = 2**bits - 1
    errors = {}
    for exponent in range(-4, 14):
        rounded = np.minimum(np.floor(VALUES * 2.0**exponent + 0.5), top) / 2.0**exponent
        errors[exponent] = np.mean((rounded - VALUES) ** 2)
    assert found.exponent == min(errors, key=errors.get)
    assert bits == 8 or found.exponent > covering(VALUES.max(), top)  # clipping pays for few bits


def observed(network, *batches, **given):
    return observe(fold(trace(network.eval())), [(x,) for x in batches], **{"observer": "max", "bits": 8, **given})


def test_ranges_come_from_all_batches_and_signs_from_the_structure():
    conv = nn.Conv2d(1, 1, 1)
    conv.weight.data.fill_(2.0)
    conv.bias.data.fill_(0.0)
    last = nn.Conv2d(1, 1, 1)
    found = observed(nn.Sequential(conv, last), torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 3.0))
    assert found["_0"].largest == 6.0
    assert (found["_0"].signed, found["input_1.quantised"].signed) == (True, False)
    assert not observed(nn.Sequential(conv, nn.ReLU(), last), torch.ones(1, 1, 1, 1))["_0"].signed
    assert observed(nn.Sequential(conv, nn.ReLU(), last), -torch.ones(1, 1, 1, 1))["input_1.quantised"].signed


def test_values_that_are_all_zero_have_a_range():
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.data.zero_()
    for observer in ("max", "percentile", "mse"):
        assert (
            observed(nn.Sequential(conv, nn.Conv2d(1, 1, 1)), torch.ones(1, 1, 1, 1), observer=observer)["_0"].largest
            == 1
        )


def test_bad_calibration_is_refused():
    network = nn.Sequential(nn.Conv2d(1, 1, 1))
    with pytest.raises(UsageError, match="no such observer. Got: mean. Allowed: max, percentile, mse"):
        observed(network, torch.ones(1, 1, 1, 1), observer="mean")
    with pytest.raises(UsageError, match="no calibration images"):
        observed(network)
    with pytest.raises(UsageError, match="this percentile is no range"):
        observed(network, torch.ones(1, 1, 1, 1), percentile=3)
    with pytest.raises(UsageError, match="^input_1: activations hold NaN"):
        observed(network, torch.full((1, 1, 1, 1), float("nan")))
