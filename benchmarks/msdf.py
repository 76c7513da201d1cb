"""The closed form of MSDF arithmetic on a whole U-Net beside its float forward, and on one layer beside the oracle.

The networks are the shipped compact U-Net and a wide one, with batch normalisation folded, in signed 8-bit integers
with power-of-two scales from the largest values of four phantoms; the two halves of each concatenation share one scale.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks.rows import Row, side_by_side
from xaiseg.data.phantoms import PhantomSpec, phantom_case
from xaiseg.hardware.convolution import Ready, convolve, ready_convolution, unit_of
from xaiseg.hardware.digits import value_of
from xaiseg.hardware.exact import Layer, accumulate, exact_convolution, layer_of
from xaiseg.hardware.online import multiply_add
from xaiseg.zoo.unet_compact import UNetCompact

WEIGHTS = Path(__file__).resolve().parents[1] / "xaiseg" / "zoo" / "weights" / "unet-compact-phantom.safetensors"
SIDE, BATCH = 128, 4
TOP = 127
#: Images lie in 0 to 1; 1.0 becomes 127 / 128.
IMAGE_EXPONENT = 7


def rows(*, long: bool) -> Iterator[Row]:
    runs = 9 if long else 5
    yield _network_row("compact U-Net", _shipped(), BATCH, runs)
    yield _network_row("wide U-Net", _wide(), 1, runs)
    yield _oracle_row(runs if long else 3)
    yield _chunks_row(runs)


@dataclass(frozen=True)
class Step:
    """One convolution of the integer network; its output is q / 2^exponent."""

    ready: Ready
    relu: bool


class IntegerUNet:
    """:class:`UNetCompact` in integers: after every convolution the digits that make 8 bits, except at the head."""

    def __init__(self, network: UNetCompact, images: Tensor) -> None:
        self.network = network
        exponents = _exponents(network, images)
        self.steps: dict[nn.Module, Step] = {}
        for module, (source, target) in exponents.items():
            weights = module.weight.detach()
            weight_exponent = math.floor(math.log2(TOP / float(weights.abs().max())))
            weight = torch.round(weights * 2.0**weight_exponent)
            unit_exponent = source + weight_exponent
            bias = torch.round(module.bias.detach().double() * 2.0**unit_exponent)
            layer = layer_of(module, weight, bias=bias)
            unit = unit_of(layer, signed=True)
            shift = unit_exponent - (unit_exponent if target is None else target)
            ready = ready_convolution(layer, unit, digits=unit.total - shift)
            self.steps[module] = Step(ready, relu=target is not None and isinstance(module, nn.Conv2d))
            if target is None:
                self.head_exponent = unit_exponent

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, 1, H, W) of images in [0, 1]."""
        x = torch.floor(images * 2.0**IMAGE_EXPONENT + 0.5).clamp_(max=TOP)
        return _walk(self.network, x, self._convolved) / 2.0**self.head_exponent

    def _convolved(self, module: nn.Module, x: Tensor) -> Tensor:
        step = self.steps[module]
        found = convolve(x, step.ready)
        if module is self.network.head:
            return found
        return found.clamp_(0 if step.relu else -TOP - 1, TOP).float()


def _walk(network: UNetCompact, x: Tensor, convolved: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
    """The U-Net's forward with its convolutions, ReLU included, replaced."""
    skips: list[Tensor] = []
    for level, block in enumerate(network.encoder):
        x = x if level == 0 else network.pool(x)
        for module in _convolutions(block):
            x = convolved(module, x)
        skips.append(x)
    for up, block, skip in zip(network.up, network.decoder, reversed(skips[:-1]), strict=True):
        x = torch.cat((skip, convolved(up, x)), dim=1)
        for module in _convolutions(block):
            x = convolved(module, x)
    return convolved(network.head, x)


def _convolutions(block: nn.Module) -> list[nn.Module]:
    return [module for module in block if isinstance(module, nn.Conv2d)]


def _exponents(network: UNetCompact, images: Tensor) -> dict[nn.Module, tuple[int, int | None]]:
    """Every convolution's (input, output) exponent; the head's output keeps all digits: None."""
    largest: dict[nn.Module, float] = {}

    def float_step(module: nn.Module, x: Tensor) -> Tensor:
        found = module(x)
        if module is not network.head and isinstance(module, nn.Conv2d):
            found = found.relu()
        largest[module] = float(found.abs().max())
        return found

    with torch.inference_mode():
        _walk(network, images, float_step)
    for block, up in zip(reversed(network.encoder[:-1]), network.up, strict=True):
        skip = _convolutions(block)[-1]
        largest[skip] = largest[up] = max(largest[skip], largest[up])
    found: dict[nn.Module, tuple[int, int | None]] = {}
    exponent = {module: math.floor(math.log2(TOP / value)) for module, value in largest.items()}
    before = IMAGE_EXPONENT
    for module in largest:
        target = None if module is network.head else exponent[module]
        found[module] = (before, target)
        before = exponent[module]
    return found


def _shipped() -> UNetCompact:
    network = UNetCompact(1, 1).eval()
    network.load_state_dict(load_file(WEIGHTS))
    return network


def _wide() -> UNetCompact:
    """Random weights: some of its layers pass float32's bound."""
    torch.manual_seed(0)
    return UNetCompact(1, 1, widths=(64, 128, 256, 512)).eval()


def _network_row(name: str, network: UNetCompact, batch: int, runs: int) -> Row:
    folded = _folded(network)
    images = torch.stack([_image(index) for index in range(batch)])
    integer = IntegerUNet(folded, torch.stack([_image(batch + index) for index in range(4)]))
    chunked = sum(len(step.ready.exact.chunks) > 1 for step in integer.steps.values())

    def ours() -> Tensor:
        with torch.inference_mode():
            return integer(images)

    def peer() -> Tensor:
        with torch.inference_mode():
            return folded(images)

    found, expected = ours(), peer()
    correlation = float(torch.corrcoef(torch.stack((found.flatten(), expected.flatten())))[0, 1])
    flips = float(((found > 0) != (expected > 0)).float().mean())
    return side_by_side(
        f"MSDF closed form, {name}",
        ours,
        peer,
        peer_version=f"torch {torch.__version__}",
        settings=f"phantoms of {SIDE} x {SIDE} px, {batch} in a batch, 8 bits, two's complement, BN folded on both "
        f"sides, a crop of every layer held against float64, {chunked} of {len(integer.steps)} layers in chunks, "
        "1 thread",
        goal="<= 2",
        same_result=f"8 bits against float: correlation of the logits {correlation:.4f}, {flips:.2%} of pixels flip",
        runs=runs,
    )


def _oracle_row(runs: int) -> Row:
    """One layer of 16 to 16 channels, 8 digits: every output value by both."""
    random = np.random.default_rng(0)
    side, digits = 24, 8
    layer = Layer(torch.as_tensor(random.integers(-TOP, TOP + 1, (16, 16, 3, 3))), padding=(1, 1))
    unit = unit_of(layer)
    x = torch.as_tensor(random.integers(0, 256, (1, 16, side, side))).float()
    ready = ready_convolution(layer, unit, digits=digits)
    windows = torch.nn.functional.unfold(x, 3, padding=1)[0].T.long().tolist()
    weights = layer.weight.flatten(1).tolist()

    def ours() -> Tensor:
        return convolve(x, ready)

    def peer() -> list[list[int]]:
        return [[value_of(multiply_add(window, w, unit, digits=digits)) for window in windows] for w in weights]

    same = torch.equal(ours().flatten(2)[0].long(), torch.tensor(peer()))
    return side_by_side(
        "MSDF closed form, digit-serial oracle",
        ours,
        peer,
        peer_version="xaiseg.hardware.online, plain Python",
        settings=f"3 x 3 convolution, 16 to 16 channels, {side} x {side} px, {digits} digits, 1 thread",
        goal=">= 1000",
        same_result="every integer equal" if same else "DIFFERENT",
        runs=runs,
        inverse=True,
    )


def _chunks_row(runs: int) -> Row:
    """A layer beyond float32's bound: exact chunks beside one float64 convolution."""
    random = np.random.default_rng(1)
    channels, side = 256, 32
    weight = torch.as_tensor(random.integers(-TOP, TOP + 1, (64, channels, 3, 3)))
    layer = Layer(weight, padding=(1, 1))
    x = torch.as_tensor(random.integers(0, 256, (1, channels, side, side))).float()
    exact = exact_convolution(layer, inputs=(0, 255))

    def ours() -> Tensor:
        return accumulate(x, exact)

    def peer() -> Tensor:
        return torch.nn.functional.conv2d(x.double(), exact.reference, padding=1)

    return side_by_side(
        "MSDF exact sums, chunks",
        ours,
        peer,
        peer_version=f"torch {torch.__version__}, float64 convolution",
        settings=f"3 x 3 convolution, {channels} to 64 channels, {side} x {side} px, {len(exact.chunks)} chunks, "
        "1 thread",
        goal="<= 1",
        same_result="every integer equal" if torch.equal(ours(), peer()) else "DIFFERENT",
        runs=runs,
    )


def _image(index: int) -> Tensor:
    """(1, SIDE, SIDE) float32 in [0, 1]."""
    return torch.as_tensor(phantom_case(PhantomSpec(size=(SIDE, SIDE)), index)[0].astype(np.float32) / 255)[None]


def _folded(network: UNetCompact) -> UNetCompact:
    """A copy whose batch normalisation lies in the convolutions."""
    found = copy.deepcopy(network)
    for block in (*found.encoder, *found.decoder):
        for place in (0, 3):
            block[place] = fuse_conv_bn_eval(block[place], block[place + 1])
            block[place + 1] = nn.Identity()
    return found
