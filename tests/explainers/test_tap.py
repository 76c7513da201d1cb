"""The activation tap: which layer, what it holds, what it says when there is none, and that it leaves no trace."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.explainers.toy_segmenters import PixelNetwork, ToySegmenter, bright_square, small_unet
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.cam import CamParams
from xaiseg.explainers.targets import Region

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION = Region(1, MASK)


def test_the_layer_is_the_last_one_on_the_coarsest_grid_and_is_named():
    found = explain(Session(small_unet(), bright_square()), "hirescam", [REGION])
    assert found.notes[0].startswith("layer bottom.2 (12 x 16)")
    assert (found.cost.forwards, found.cost.backwards) == (1, 1)


def test_a_coarse_head_is_not_chosen_although_it_is_the_last_coarse_layer():
    # As in FCN: everything is coarse, a 3 x 3 convolution, a 1 x 1 head, then only resizing.
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=4, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.Conv2d(4, 1, 1),
        nn.Upsample(scale_factor=4, mode="bilinear"),
    ).eval()  # fmt: skip
    found = explain(Session(ToySegmenter(network), bright_square()), "hirescam", [REGION])
    assert found.notes[0].startswith("layer 1 (6 x 8)")


def test_a_network_that_mixes_no_pixels_gets_a_map_with_a_warning():
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 1, 1)).eval()
    found = explain(Session(ToySegmenter(network), bright_square()), "hirescam", [REGION])
    assert "can only repeat the predicted region" in found.notes[0]


def test_global_pooling_branches_are_passed_over():
    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(1, 4, 3, padding=1, stride=2)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.gate = nn.Conv2d(4, 4, 1)
            self.out = nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1)

        def forward(self, x):
            deep = self.features(x)
            return self.out(deep * torch.sigmoid(self.gate(self.pool(deep))))

    found = explain(Session(ToySegmenter(Squeeze().eval()), bright_square()), "hirescam", [REGION])
    assert found.notes[0].startswith("layer features (12 x 16)")


def test_errors_are_exact():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = PixelNetwork()
            self.aux = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            self.aux(x)
            return self.main(x)

    session = Session(ToySegmenter(Auxiliary().eval()), bright_square())
    with pytest.raises(
        UsageError, match=r"does not reach the target.*Got: aux.*one of main\.features, main\.relu, main\.head"
    ):
        explain(session, "hirescam", [REGION], params=CamParams("aux"))
    with pytest.raises(UsageError, match=r"did you mean 'main\.relu'"):
        explain(session, "hirescam", [REGION], params=CamParams("main.rely"))

    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.layer(x).detach() + x[:, :1]

    with pytest.raises(SubjectError, match="no layer of the network reaches the target"):
        explain(Session(ToySegmenter(Detached().eval()), bright_square()), "hirescam", [REGION])


def test_hooks_are_gone_and_modes_and_gradients_are_as_before_even_after_an_exception():
    subject = small_unet()
    network = subject.network
    network.down[1].train()
    network.head.weight.requires_grad_(False)
    modes = [part.training for part in network.modules()]
    broken = Region(1, np.ones((3, 3), dtype=bool))
    for region, outcome in ((REGION, None), (broken, UsageError)):
        session = Session(subject, bright_square())
        if outcome:
            with pytest.raises(outcome):
                explain(session, "hirescam", [region])
        else:
            explain(session, "hirescam", [region])
        assert not any(part._forward_hooks or part._backward_hooks for part in network.modules())
        assert [part.training for part in network.modules()] == modes
        assert not network.head.weight.requires_grad
        assert all(parameter.grad is None for parameter in network.parameters())


def test_several_targets_share_one_forward_and_the_tap_is_reused():
    other = Region(1, ~MASK)
    session = Session(small_unet(), bright_square())
    both = explain(session, "hirescam", [REGION, other])
    assert (session.forwards, session.backwards) == (1, 2)
    explain(session, "hirescam", [REGION, other])
    assert (session.forwards, session.backwards) == (1, 2)
    for index, region in enumerate((REGION, other)):
        single = explain(Session(small_unet(), bright_square()), "hirescam", [region])
        np.testing.assert_allclose(both.values[index], single.values[0], atol=1e-7)


def test_a_layer_that_is_executed_twice_says_so_and_frozen_weights_do_not_matter():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.layer(torch.relu(self.layer(x)))

    network = Twice().eval().requires_grad_(False)
    found = explain(Session(ToySegmenter(network), bright_square()), "hirescam", [REGION], params=CamParams("layer"))
    assert "executed 2 times" in found.notes[0]
    assert found.values.any()


def test_a_gradient_that_is_not_finite_is_an_error():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3, padding=1)
            self.last = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.last(torch.sqrt(self.layer(x) * 0.0))

    with pytest.raises(SubjectError, match="not finite"):
        explain(Session(ToySegmenter(Root().eval()), bright_square()), "hirescam", [REGION])


def test_the_nearest_layer_that_reaches_the_target_is_named():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=1) for _ in range(12))
            self.unused = nn.Conv2d(1, 1, 3, padding=1)
            self.head = nn.Conv2d(1, 1, 3, padding=1)
            self.pair = Pair()

        def forward(self, x):
            for layer in self.stem:
                x = layer(x)
            first, _ = self.pair(x)
            self.vector = torch.zeros(1)
            return self.head(first)

    class Pair(nn.Module):
        def forward(self, x):
            return x * 2, x

    session = Session(ToySegmenter(Branches().eval()), bright_square())
    for layer, why, near in (
        ("unused", "it was not executed", r"stem\.11"),
        ("stem", "it was not executed", r"stem\.0"),
        ("pair", "no tensor but a tuple", "head"),
    ):
        with pytest.raises(UsageError, match=rf"{why}.*Got: {layer}\..*and 5 more.*nearest layer .* is {near}\."):
            explain(session, "hirescam", [REGION], params=CamParams(layer))


def test_a_block_of_layers_can_be_named():
    subject, image = small_unet(), bright_square()
    block = Session(subject, image).tap([REGION], "bottom")
    last = Session(subject, image).tap([REGION], "bottom.2")
    torch.testing.assert_close(block.gradients, last.gradients)
    torch.testing.assert_close(block.activation, last.activation)


def test_activations_and_gradients_are_those_of_autograd_behind_an_operation_in_place():
    subject, image = small_unet(), bright_square()
    net = subject.network
    for layer in ("bottom.1", "bottom.2"):  # the ReLU writes into the output of the batch normalisation
        tap = Session(subject, image).tap([REGION], layer)
        with torch.no_grad():
            skip = net.down(image[None])
            deep = net.bottom(net.pool(skip))
        leaf = deep.clone().requires_grad_(True)
        up = F.interpolate(leaf, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        z = net.head(torch.relu(net.fuse(torch.cat((skip, up), dim=1))))[0, 0]
        z[torch.from_numpy(MASK)].mean().backward()
        torch.testing.assert_close(tap.activation, deep[0])
        torch.testing.assert_close(tap.gradients[0], leaf.grad[0])
        assert ("in place" in tap.note) == (layer == "bottom.1")


def test_the_last_of_two_executions_is_the_one_shown():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            self.seen = self.layer(torch.relu(self.layer(x)))
            return self.seen * 3

    network = Twice().eval()
    tap = Session(ToySegmenter(network), bright_square()).tap([REGION], "layer")
    assert tap.run == 1
    torch.testing.assert_close(tap.activation, network.seen[0].detach())
    expected = torch.from_numpy(np.where(MASK, 3 / MASK.sum(), 0)).float()
    torch.testing.assert_close(tap.gradients[0, 0], expected)


class Attention(nn.Module):
    """Tokens attend to each other; the output keeps their layout (B, N, C)."""

    def __init__(self, width):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return torch.softmax(q @ k.transpose(1, 2) / math.sqrt(x.shape[-1]), dim=-1) @ v


class Tokens(nn.Module):
    """A small vision transformer: patches of 4 px, a class token if asked for, one block, a head on the grid."""

    def __init__(self, *, leading=1, width=8, patch=4):
        super().__init__()
        self.patch = nn.Conv2d(1, width, patch, stride=patch)
        self.first = nn.Parameter(torch.randn(1, leading, width) * 0.1)
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        grid = self.patch(x)
        tokens = torch.cat((self.first.expand(len(x), -1, -1), grid.flatten(2).transpose(1, 2)), dim=1)
        tokens = self.norm2(tokens + self.attention(self.norm1(tokens)))
        kept = tokens[:, self.first.shape[1] :].transpose(1, 2).reshape(grid.shape)
        return F.interpolate(self.head(kept), size=x.shape[-2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("leading", [0, 1, 5])
def test_tokens_are_put_on_their_grid_and_the_layer_before_the_last_attention_is_chosen(leading):
    torch.manual_seed(0)
    network = Tokens(leading=leading).eval()
    seen = {}
    network.norm1.register_forward_hook(lambda part, inputs, output: seen.update(tokens=output.detach()))
    session = Session(ToySegmenter(network), bright_square())
    found = explain(session, "hirescam", [REGION])
    assert found.notes[0].startswith("layer attention.qkv (6 x 8)")
    assert ("leading tokens" in found.notes[0]) == (leading > 0)
    tap = session.tap([REGION], "norm1")
    assert (tap.layout.kind, tap.layout.leading, tap.grid) == ("tokens", leading, (24, 32))
    by_hand = torch.zeros(8, 6, 8)
    for number in range(48):
        by_hand[:, number // 8, number % 8] = seen["tokens"][0, leading + number]
    torch.testing.assert_close(tap.activation, by_hand)
    assert found.values.any()


def test_a_grid_of_tokens_can_be_given_and_one_that_cannot_be_is_refused():
    torch.manual_seed(0)
    session = Session(ToySegmenter(Tokens(leading=0).eval()), bright_square())
    for grid, layout in (((6, 8), 0), ((4, 11), 4)):
        tap = session.tap([REGION], "norm1", token_grid=grid)
        assert tap.activation.shape == (8, *grid)
        assert tap.layout.leading == layout
    with pytest.raises(UsageError, match=r"other tokens than the grid has cells.*7 x 8.*48 cells"):
        explain(session, "hirescam", [REGION], params=CamParams("norm1", (7, 8)))
    with pytest.raises(UsageError, match="other tokens than the grid has cells.*3 x 3.*up to 8 fewer"):
        explain(session, "hirescam", [REGION], params=CamParams("norm1", (3, 3)))


def test_channels_that_stand_last_are_seen():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(1, 6, 4, stride=4)
            self.norm = nn.LayerNorm(6)
            self.back = nn.ConvTranspose2d(6, 1, 4, stride=4)
            self.smooth = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.smooth(self.back(self.norm(self.patch(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)))

    network = Last().eval()
    seen = []
    network.norm.register_forward_hook(lambda part, inputs, output: seen.append(output.detach()))
    tap = Session(ToySegmenter(network), bright_square()).tap([REGION])
    assert tap.layer == "norm"
    torch.testing.assert_close(tap.activation, seen[0][0].permute(2, 0, 1))
    assert tap.gradients.shape == (1, 6, 6, 8)


def test_windows_in_the_place_of_the_batch_have_no_known_place():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(1, 2, 3, padding=1)
            self.last = nn.Conv2d(2, 1, 3, padding=1)

        def forward(self, x):
            rows = self.inner(x.reshape(len(x) * 2, 1, x.shape[2] // 2, x.shape[3]))
            return self.last(rows.reshape(len(x), 2, x.shape[2], x.shape[3]))

    session = Session(ToySegmenter(Windows().eval()), bright_square())
    with pytest.raises(UsageError, match=r"\(2, 2, 12, 32\) has no grid that is known"):
        explain(session, "hirescam", [REGION], params=CamParams("inner"))


class Cast(nn.Module):
    """A network in another precision behind float32 images, as a mixed-precision deployment has it."""

    def __init__(self, network, dtype):
        super().__init__()
        self.network, self.dtype = network.to(dtype), dtype

    def forward(self, x):
        return self.network(x.to(self.dtype)).float()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_gives_nearly_the_map_of_float32(dtype, tolerance):
    whole = explain(Session(small_unet(2), bright_square()), "hirescam", [REGION]).values
    half = ToySegmenter(Cast(small_unet(2).network, dtype).eval())
    found = explain(Session(half, bright_square()), "hirescam", [REGION]).values
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, whole, atol=tolerance * np.abs(whole).max())


def test_small_gradients_of_large_regions_survive_float16():
    class Faint(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3, padding=1)
            self.last = nn.Conv2d(1, 1, 3, padding=1)
            for part in (self.layer, self.last):
                nn.init.constant_(part.weight, 1e-3)

        def forward(self, x):
            return self.last(self.layer(x))

    image = torch.full((1, 128, 128), 0.5)
    region = Region(1, np.ones((128, 128), dtype=bool))
    tap = Session(ToySegmenter(Cast(Faint(), torch.float16).eval()), image).tap([region], "network.layer")
    # 9 weights of 1e-3 on a mean over 16,384 pixels: 5e-7, which float16 alone would round to nine steps.
    assert tap.gradients[0, 0, 64, 64].item() == pytest.approx(9e-3 / 128**2, rel=2e-3)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (2, 30), (3, 5), (7, 16)])
def test_tiny_and_narrow_images_get_a_map_of_their_own_size(height, width):
    region = Region(1, np.ones((height, width), dtype=bool))
    torch.manual_seed(0)
    found = explain(Session(ToySegmenter(PixelNetwork().eval()), torch.rand(1, height, width)), "hirescam", [region])
    assert found.values.shape == (1, height, width)


def test_an_image_of_one_pixel_has_no_layer_with_a_grid():
    session = Session(ToySegmenter(PixelNetwork().eval()), torch.rand(1, 1, 1))
    with pytest.raises(SubjectError, match=r"grid of 2 x 2 or more.*occlusion"):
        explain(session, "hirescam", [Region(1, np.ones((1, 1), dtype=bool))])


def test_a_target_that_the_layer_does_not_reach_is_said():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = (nn.Conv2d(1, 1, 3, padding=1) for _ in range(2))

        def forward(self, x):
            return torch.cat((torch.relu(self.one(x)), torch.relu(self.two(x))), dim=1)

    class Of:
        def __init__(self, index):
            self.name, self.index = f"of {index}", index

        def score(self, logits):
            return logits.unbind(1)[self.index].mean(dim=(1, 2))

    network = Heads().eval()

    class Apart(ToySegmenter):
        def forward(self, batch):
            return Both(network.one(batch), network.two(batch))

    class Both:
        shape = (1, 2, 24, 32)

        def __init__(self, *parts):
            self.parts = parts

        def unbind(self, axis):
            return [part[:, 0] for part in self.parts]

    with pytest.raises(UsageError, match=r"layer one: the layer does not reach every target.*target 2"):
        Session(Apart(network), bright_square()).tap([Of(0), Of(1)], "one")


def test_activations_that_are_not_finite_are_an_error_that_names_the_layer():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3, padding=1)
            self.last = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x):
            return self.last(torch.nan_to_num(self.layer(x)))

    network = Root().eval()
    network.layer.bias.data.fill_(float("nan"))
    with pytest.raises(SubjectError, match="layer layer: the activation is not finite"):
        explain(Session(ToySegmenter(network), bright_square()), "eigencam", [REGION])


class Attending(nn.Module):
    """Patches, two blocks of attention written in one of the usual ways, a linear head."""

    def __init__(self, kind, width=8):
        super().__init__()
        self.kind = kind
        self.patches = nn.Conv2d(1, width, 8, 8)
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(2))
        self.own = nn.ModuleList(nn.MultiheadAttention(width, 2, batch_first=True) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.head = nn.Linear(width, 1)

    def mixed(self, index, x):
        if self.kind == "module":
            return self.own[index](x, x, x, need_weights=False)[0]
        q, k, v = self.qkv[index](x).chunk(3, dim=-1)
        if self.kind == "function":
            return nn.functional.scaled_dot_product_attention(q, k, v)
        return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v

    def forward(self, x):
        grid = self.patches(x)
        tokens = grid.flatten(2).transpose(1, 2)
        for index in range(2):
            tokens = tokens + self.out[index](self.mixed(index, self.norm[index](tokens)))
        answer = self.head(tokens).transpose(1, 2).reshape(len(x), 1, *grid.shape[-2:])
        return nn.functional.interpolate(answer, size=x.shape[-2:], mode="bilinear")


@pytest.mark.parametrize(("kind", "layer"), [("module", "norm.1"), ("function", "qkv.1"), ("product", "qkv.1")])
def test_attention_is_recognised_however_it_is_written(kind, layer):
    torch.manual_seed(0)
    mask = np.zeros((40, 56), dtype=bool)
    mask[8:16, 8:16] = True
    session = Session(ToySegmenter(Attending(kind).eval()), torch.rand(1, 40, 56))
    found = explain(session, "hirescam", [Region(1, mask)])
    assert found.notes[0].startswith(f"layer {layer} (5 x 7): the last one on the coarsest grid")
    assert (found.values != 0).mean() > 0.95  # every token answers, not only those of the region


def test_what_stands_inside_an_attention_module_counts_as_behind_it():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(8, 8)

        def forward(self, x):
            return self.proj(x.softmax(dim=1).mean(dim=1, keepdim=True) * x)

    network = nn.Sequential(
        nn.Conv2d(1, 8, 8, 8), nn.Flatten(2), Turned(), nn.LayerNorm(8), Attention(), nn.Linear(8, 1)
    )
    session = Session(ToySegmenter(Answered(network).eval()), torch.rand(1, 40, 56))
    mask = np.zeros((40, 56), dtype=bool)
    mask[8:16, 8:16] = True
    assert "network.3 " in explain(session, "hirescam", [Region(1, mask)]).notes[0]


class Turned(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class Answered(nn.Module):
    """Tokens (B, 35, 1) of a 5 x 7 grid as logits of a 40 x 56 image."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return nn.functional.interpolate(self.network(x).transpose(1, 2).reshape(len(x), 1, 5, 7), scale_factor=8)
