"""What a training and an audit need of every peer: mixed precision, copies, files, seeds, single images."""

import copy
import doctest
from importlib import import_module

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from xaiseg import zoo
from xaiseg.loading import load_subject
from xaiseg.modelfile import read_model_file

PEERS = ("attention-unet", "deeplabv3plus", "fpn", "ukan", "unet", "unetplusplus", "unext")

MODEL = """
name: peer
task: segmentation
classes: [background, lesion]
source: {{zoo: {name}, weights: w.safetensors}}
input: {{channels: 1, range: [0, 1]}}
output: {{kind: logits, activation: sigmoid, threshold: {{value: 0.5, chosen_on: default}}}}
data:
  test: {{path: none}}
"""


def built(name: str) -> nn.Module:
    torch.manual_seed(3)
    return zoo.build(name, 1, 1)


@pytest.mark.parametrize("name", PEERS)
def test_a_step_in_bfloat16_and_channels_last_reaches_every_parameter_and_copies_stay_apart(name):
    network = built(name).to(memory_format=torch.channels_last)
    average = copy.deepcopy(network)
    images = torch.rand(2, 1, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(images)
    assert logits.shape == (2, 1, 64, 64)
    logits.float().square().mean().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    torch.optim.SGD(network.parameters(), lr=0.1).step()
    first = [value for value, other in zip(network.parameters(), average.parameters(), strict=True) if value is other]
    assert not first
    average.load_state_dict(network.state_dict())
    network.eval(), average.eval()
    with torch.no_grad():
        torch.testing.assert_close(average(images), network(images))


@pytest.mark.parametrize("name", PEERS)
def test_one_image_of_any_allowed_size_gives_the_answer_it_has_in_a_batch(name):
    network, side = built(name).eval(), zoo.card(name).multiple_of
    with torch.no_grad():
        for height, width in ((side, 3 * side), (2 * side, side)):
            images = torch.rand(2, 1, height, width)
            together = network(images)
            assert together.shape == (2, 1, height, width)
            torch.testing.assert_close(network(images[1:]), together[1:], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", PEERS)
def test_a_file_keeps_the_network_and_a_seed_fixes_its_first_weights(name, tmp_path):
    network, again = built(name), built(name)
    save_file(network.state_dict(), tmp_path / "w.safetensors")  # refuses tensors that share memory
    loaded = load_file(tmp_path / "w.safetensors")
    for key, value in again.state_dict().items():
        assert torch.equal(value, loaded[key]), key
    torch.manual_seed(4)
    other = zoo.build(name, 1, 1)
    assert not all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    other.load_state_dict(loaded)


@pytest.mark.parametrize("name", PEERS)
def test_they_are_as_large_as_a_fair_comparison_allows_and_can_be_hooked(name):
    assert zoo.card(name).parameters <= 3_300_000
    assert not any(getattr(module, "inplace", False) for module in built(name).modules())


@pytest.mark.parametrize("name", PEERS)
def test_a_model_file_loads_them_and_says_whether_they_explain_themselves(name, tmp_path):
    save_file(built(name).state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "model.yaml").write_text(MODEL.format(name=name).lstrip(), encoding="utf-8")
    subject = load_subject(read_model_file(tmp_path / "model.yaml"))
    assert ("intrinsic" in subject.info.offers) == (name in ("attention-unet", "ukan"))
    (logits,) = subject.predict([torch.rand(1, 50, 70)])
    assert logits.shape == (2, 50, 70)


@pytest.mark.parametrize("module", ["attention_unet", "smp_peers", "ukan", "unext"])
def test_examples_of_the_docstrings_hold(module):
    failed, attempted = doctest.testmod(import_module(f"xaiseg.zoo.{module}"))
    assert attempted
    assert not failed
