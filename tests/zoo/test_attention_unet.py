import sys

import pytest
import torch

from xaiseg import zoo
from xaiseg.errors import UsageError
from xaiseg.zoo.attention_unet import AttentionUNet


def small() -> AttentionUNet:
    torch.manual_seed(0)
    return AttentionUNet(1, 1, widths=(4, 8, 12, 16)).eval()


def test_maps_are_what_the_gates_multiply_by():
    network, image = small(), torch.rand(2, 1, 32, 48)
    blocks = [module for module in network.modules() if type(module).__name__ == "AttentionBlock"]
    seen = []
    for block in blocks:
        block.register_forward_hook(lambda _module, _given, answer: seen.append(answer))
        block.register_forward_pre_hook(lambda _module, _args, given: seen.append(given["x"]), with_kwargs=True)
    maps = network.intrinsic(image)
    assert [tuple(shown.shape) for shown in maps.values()] == [(2, 1, 32, 48), (2, 1, 16, 24), (2, 1, 8, 12)]
    assert list(maps) == ["attention_1", "attention_2", "attention_3"]
    for shown, (given, answer) in zip(reversed(maps.values()), zip(seen[::2], seen[1::2], strict=True), strict=True):
        assert 0 <= shown.min() <= shown.max() <= 1
        torch.testing.assert_close(given * shown, answer)


@pytest.mark.parametrize(("bias", "value"), [(-60.0, 0.0), (60.0, 1.0)])
def test_a_gate_that_is_shut_or_open_shows_it(bias, value):
    network = small()
    network.network.model[1].attention.psi[1].bias.data.fill_(bias)
    maps = network.intrinsic(torch.rand(1, 1, 32, 32))
    torch.testing.assert_close(maps["attention_1"], torch.full((1, 1, 32, 32), value))
    assert 0.05 < maps["attention_2"].mean() < 0.95


def test_it_leaves_no_hooks_behind():
    network = small()
    network.intrinsic(torch.rand(1, 1, 32, 32))
    assert not any(module._forward_hooks for module in network.modules())


def test_without_monai_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(UsageError, match=r'pip install "xaiseg\[zoo\]"'):
        zoo.build("attention-unet", 1, 1)
    assert "attention-unet" in zoo.list_models()
