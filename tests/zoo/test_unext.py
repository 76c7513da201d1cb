import pytest
import torch

from xaiseg.zoo.unext import DISPLACEMENTS, UNeXt, shift

SMALL = (8, 16, 32, 40, 64)


def shift_as_published(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Pads by two on all sides, rolls five groups, cuts the frame off again."""
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2))
    rolled = [torch.roll(group, step, axis) for group, step in zip(padded.chunk(5, dim=1), range(-2, 3), strict=True)]
    return torch.cat(rolled, dim=1)[:, :, 2:-2, 2:-2]


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("channels", [10, 32])
def test_shift_is_pad_roll_and_cut(axis, channels):
    torch.manual_seed(0)
    x = torch.randn(2, channels, 3, 4)
    assert torch.equal(shift(x, axis), shift_as_published(x, axis))
    assert not torch.equal(shift(x, axis), shift(x, axis, DISPLACEMENTS[::-1]))


@pytest.mark.parametrize(
    ("widths", "parameters"), [((16, 32, 128, 160, 256), 1_471_921), ((8, 16, 32, 64, 128), 253_561)]
)
def test_sizes_of_the_published_network_and_its_small_version(widths, parameters):
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in UNeXt(3, 1, widths=widths).parameters()) == parameters


def test_it_exposes_nothing_that_one_forward_gives():
    assert UNeXt(1, 1, widths=SMALL).intrinsic(torch.rand(1, 1, 32, 32)) == {}


def test_ablation_sees_the_groups_that_the_network_uses_and_no_other():
    torch.manual_seed(0)
    network = UNeXt(1, 2, widths=SMALL).eval()
    with torch.no_grad():
        for block in (*network.blocks, *network.back):
            for layer in (block.first, block.second):
                layer.weight[:] *= 20
                used = torch.ones(layer.in_features)
                used[layer.in_features - len(torch.arange(layer.in_features).chunk(5)[4]) :] = 0
                layer.weight *= used
    changes = network.shift_ablation(torch.rand(2, 1, 64, 96))
    assert changes.shape == (2, 5, 64, 96)
    assert (changes[:, [2, 4]] == 0).all()
    assert (changes[:, [0, 1, 3]].mean(dim=(2, 3)) > 0).all()


def test_ablation_is_the_change_of_the_logits():
    torch.manual_seed(0)
    network, image = UNeXt(1, 2, widths=SMALL).eval(), torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        expected = (network(image, (-2, 0, 0, 1, 2)) - network(image)).abs().mean(dim=1)
    torch.testing.assert_close(network.shift_ablation(image)[:, 1], expected)
    assert expected.max() > 0
