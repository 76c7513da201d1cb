"""Cycles, time and energy of every convolution of a network on digit-serial units, and of one image.

Layer by layer: tiles of output channels x tiles of pixels x tiles of input channels x cycles of one window. Channels of
one tile run in lockstep, so the one with the most digits decides. Filling the pipeline, memory traffic and everything
that is no convolution are left out; so the time is called compute-only, and an energy that is power times that time
leaves out the energy of waiting.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xaiseg.errors import UsageError
from xaiseg.hardware.costs import Constant, Cost, total
from xaiseg.hardware.deployed import Deployed
from xaiseg.hardware.designs import DESIGNS, ZYNQ_7020, Accelerator, Window, window_cycles
from xaiseg.hardware.exact import Layer
from xaiseg.hardware.folding import Folded, float_values

COMPUTE_ONLY = "compute-only: no memory traffic, no filling of the pipeline, convolutions alone"


@dataclass(frozen=True)
class Shape:
    """The size of one convolution for one image.

    Attributes:
        path: the module.
        inputs: input channels of one group.
        outputs: output channels.
        taps: most kernel taps that meet in one output value.
        places: output pixels of one channel.
        macs: multiply-adds; taps that fall into the padding count, as is usual.
    """

    path: str
    inputs: int
    outputs: int
    taps: int
    places: int
    macs: int

    @property
    def terms(self) -> int:
        """Products in one output value."""
        return self.inputs * self.taps

    @property
    def windows(self) -> int:
        """Output values."""
        return self.outputs * self.places


def module_shapes(network: nn.Module, *arguments: Tensor) -> tuple[Shape, ...]:
    """The convolutions of a network in floating point, in the order in which they run.

    Modules alone are seen, not convolutions that the code calls as functions. A network and arguments on the device
    ``meta`` cost neither memory nor time.

    Args:
        network: any module.
        arguments: its arguments for one image, first dimension 1.

    Raises:
        UsageError: an argument that holds more than one image, or a network without convolutions.

    >>> module_shapes(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10))[0].macs
    21600
    """
    _check_single(arguments)
    found: list[Shape] = []
    paths = {module: path for path, module in network.named_modules()}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            found.append(_shape(paths[module], _bare(module), inputs[0][..., None, None], output[..., None, None]))
        else:
            found.append(_shape(paths[module], _bare(module), inputs[0], output))

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    handles = [module.register_forward_hook(record) for module in paths if isinstance(module, kinds)]
    try:
        with torch.no_grad():
            network(*arguments)
    finally:
        for handle in handles:
            handle.remove()
    return _not_empty(found)


def graph_shapes(folded: Folded, *arguments: Tensor) -> tuple[Shape, ...]:
    """The convolutions of a traced network that can move to integers; what stays outside is not among them.

    Args:
        folded: from :func:`xaiseg.hardware.folding.fold`.
        arguments: the network's arguments for one image; it runs once, in floating point.

    Raises:
        UsageError: an argument that holds more than one image.
    """
    _check_single(arguments)
    with torch.inference_mode():
        values = float_values(folded.graph, arguments)
    found = []
    for node in folded.graph.nodes:
        if node.kind == "convolution":
            held, x, y = folded.convolutions[node.name], values[node.inputs[0]], values[node.name]
            x, y = (x[..., None, None], y[..., None, None]) if held.linear else (x, y)
            found.append(_shape(node.path, held.geometry, x, y))
    return _not_empty(found)


@dataclass(frozen=True)
class LayerCost:
    """One convolution on units.

    Attributes:
        shape: its size.
        arithmetic: of its unit.
        digits: (outputs,) digits that each channel emits.
        total: digits of its exact sum.
        costs: by design.
    """

    shape: Shape
    arithmetic: str
    digits: tuple[int, ...]
    total: int
    costs: dict[str, Cost]

    @property
    def most_digits(self) -> int:
        """Digits of the channel that emits most."""
        return max(self.digits)


@dataclass(frozen=True)
class NetworkCost:
    """One image through a network on units.

    Attributes:
        layers: one for each convolution in integers.
        image: the sums over them, by design.
        outside: one sentence for each part of the network that runs in floating point and is not counted.
        accelerator: what the figures rest on; its ``constants()`` say where each comes from.
    """

    layers: tuple[LayerCost, ...]
    image: dict[str, Cost]
    outside: tuple[str, ...]
    accelerator: Accelerator


def network_costs(
    deployed: Deployed,
    arguments: tuple[Tensor, ...],
    *,
    workload: str,
    accelerator: Accelerator = ZYNQ_7020,
    designs: Sequence[str] = tuple(DESIGNS),
) -> NetworkCost:
    """Cycles, compute-only time and energy of one image, layer by layer and design by design.

    Args:
        deployed: the network on units; each channel's digits are those that it emits.
        arguments: the network's arguments for one image, first dimension 1; only their sizes matter.
        workload: what is computed, for the rows.
        accelerator: parallelism, clock and power; the same for every design.
        designs: names out of ``DESIGNS``.

    Raises:
        UsageError: no such design, or more than one image.
    """
    network = deployed.network
    shapes = graph_shapes(network.folded, *arguments)
    names = [node.name for node in network.folded.graph.nodes if node.kind == "convolution"]
    layers = []
    for name, shape in zip(names, shapes, strict=True):
        ready = deployed.ready[name]
        digits = tuple(ready.digits.tolist())
        costs = {
            chosen: layer_cost(
                chosen,
                shape,
                digits=digits,
                silent=ready.unit.silent,
                bits=ready.unit.bits,
                accelerator=accelerator,
                workload=workload,
            )
            for chosen in designs
        }
        layers.append(LayerCost(shape, ready.unit.arithmetic, digits, ready.unit.total, costs))
    image = {chosen: total([layer.costs[chosen] for layer in layers]) for chosen in designs}
    return NetworkCost(tuple(layers), image, tuple(network.folded.graph.remains()), accelerator)


def layer_cost(
    design: str,
    shape: Shape,
    *,
    digits: Sequence[int],
    silent: int = 2,
    bits: int = 8,
    accelerator: Accelerator = ZYNQ_7020,
    workload: str,
) -> Cost:
    """One convolution in one design.

    Args:
        design: a name out of ``DESIGNS``.
        shape: of the convolution.
        digits: (outputs,) digits of each channel, in the order in which channels are put into tiles.
        silent: cycles before a unit's first digit, :attr:`xaiseg.hardware.unit.Unit.silent`.
        bits: width of activations.
        accelerator: parallelism, clock and power.
        workload: for the row.

    Raises:
        UsageError: no such design, or digits for another number of channels.

    >>> shape = Shape("conv", inputs=16, outputs=16, taps=9, places=100, macs=230400)
    >>> layer_cost("mma", shape, digits=[8] * 16, workload="one layer").cycles
    1000
    """
    if len(digits) != shape.outputs:
        raise UsageError("digits are those of each channel", where=shape.path, got=len(digits), allowed=shape.outputs)
    at_once = shape.inputs if accelerator.inputs is None else min(shape.inputs, int(accelerator.inputs.value))
    rounds = -(-shape.inputs // at_once) * -(-shape.places // int(accelerator.pixels.value))
    step = int(accelerator.outputs.value)
    cycles = rounds * sum(
        window_cycles(
            design,
            Window(shape.taps, at_once, max(digits[first : first + step]), silent, bits, int(accelerator.lanes.value)),
        )
        for first in range(0, shape.outputs, step)
    )
    seconds = cycles / accelerator.clock_mhz.value / 1e6
    power = accelerator.power_w.get(design)
    return Cost(
        design=design,
        workload=workload,
        technology=accelerator.technology,
        boundary=accelerator.boundary,
        clock_mhz=accelerator.clock_mhz.value,
        ops=2 * shape.macs,
        cycles=cycles,
        seconds=seconds,
        timing="compute-only",
        joules=None if power is None else power.value * seconds,
        source="estimated",
        notes=(COMPUTE_ONLY, *_tile_note(shape, at_once), _power_note(design, power)),
    )


def _tile_note(shape: Shape, at_once: int) -> tuple[str, ...]:
    if at_once == shape.inputs:
        return ()
    return ("input channels are added in rounds, each of all digits; the unit that is simulated adds them all at once",)


def _power_note(design: str, power: Constant | None) -> str:
    if power is None:
        return f"no energy: the power of {design} is not known; give it in Accelerator.power_w"
    return f"energy is {power.value:g} W ({power.source}: {power.note}) times the compute-only time"


def measured_cost(
    call: Callable[[], object],
    *,
    macs: int,
    workload: str,
    technology: str,
    power_w: Constant | None = None,
    runs: int = 5,
) -> Cost:
    """Times a computation on this machine's processor, for the row ``cpu``.

    Args:
        call: computes one image; it runs once more than ``runs``, and the first time is not counted.
        macs: multiply-adds of one image.
        workload: for the row.
        technology: the processor's name.
        power_w: what the machine draws meanwhile; it cannot be found out here. None = no energy.
        runs: whose median is taken, 1 or more.

    Raises:
        UsageError: no runs.

    >>> measured_cost(lambda: None, macs=1, workload="nothing", technology="this processor").timing
    'latency'
    """
    if runs < 1:
        raise UsageError("no such number of runs", where="runs", got=runs, allowed="1 or more")
    call()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    taken = statistics.median(seconds)
    threads = torch.get_num_threads()
    how = f"median of {runs} runs of one image in floating point, {threads} threads of torch, memory traffic included"
    return Cost(
        design="cpu",
        workload=workload,
        technology=technology,
        boundary="system",
        clock_mhz=None,
        ops=2 * macs,
        cycles=None,
        seconds=taken,
        timing="latency",
        joules=None if power_w is None else power_w.value * taken,
        source="measured",
        notes=(how, _power_note("cpu", power_w)),
    )


def _bare(module: nn.Module) -> Layer:
    """A module's geometry with one weight of zero a tap; on no device in particular."""
    if isinstance(module, nn.Linear):
        return Layer(torch.zeros(1, 1, 1, 1).expand(module.out_features, module.in_features, 1, 1))
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)  # the hooks hold no others
    weight = torch.zeros(1).expand(module.weight.shape)
    pairs = {name: getattr(module, name) for name in ("stride", "dilation")}
    return Layer(weight, **pairs, groups=module.groups, transposed=isinstance(module, nn.ConvTranspose2d))


def _shape(path: str, layer: Layer, x: Tensor, y: Tensor) -> Shape:
    places = y.shape[2] * y.shape[3]
    kernel = layer.weight.shape[2] * layer.weight.shape[3]
    # A transposed convolution spreads each input pixel over its kernel.
    met = x.shape[2] * x.shape[3] if layer.transposed else places
    macs = layer.inputs * layer.outputs * kernel * met
    return Shape(path, layer.inputs, layer.outputs, layer.terms // layer.inputs, places, macs)


def _check_single(arguments: Iterable[Tensor]) -> None:
    if counts := [len(argument) for argument in arguments if len(argument) != 1]:
        raise UsageError("costs are those of one image", where="arguments", got=counts[0], allowed="a first size of 1")


def _not_empty(found: list[Shape]) -> tuple[Shape, ...]:
    if not found:
        raise UsageError("the network has no convolution", where="network", then="There is nothing to count")
    return tuple(found)
