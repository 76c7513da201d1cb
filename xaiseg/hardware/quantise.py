"""Post-training quantisation with power-of-two scales and no zero points.

Dividing by a power of two, halves rounded up, is what a digit-serial unit does when it stops before the last digits
(:mod:`xaiseg.hardware.closed`). So a network whose scales are powers of two needs no multiplier behind its sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.convolution import Bias
from xaiseg.hardware.exact import FLOAT64_EXACT, Layer, largest_sums
from xaiseg.hardware.folding import Convolution, Folded, by_output, per_output
from xaiseg.hardware.formats import Format, quantised, shared
from xaiseg.hardware.graph import Node
from xaiseg.hardware.observers import Observer, Range, observe
from xaiseg.hardware.reach import Endless, Limit, finest
from xaiseg.hardware.unit import Unit


@dataclass(frozen=True)
class Scheme:
    """How a network is quantised.

    Attributes:
        bits: width of activations, 2 to 16.
        weight_bits: width of weights, 2 to 16; they lie in +-(2^(weight_bits - 1) - 1).
        per_channel: one exponent for each output channel's weights, else one for each layer's.
        observer: how ranges are found, see :mod:`xaiseg.hardware.observers`.
        percentile: for the observer of that name, in percent.
        bias: ``preloaded``, exact; ``serial``, rounded to the digits that the unit still reads.
    """

    bits: int = 8
    weight_bits: int = 8
    per_channel: bool = True
    observer: Observer = "mse"
    percentile: float = 99.99
    bias: Bias = "preloaded"

    def __post_init__(self) -> None:
        for name in ("bits", "weight_bits"):
            if not 2 <= getattr(self, name) <= 16:
                raise UsageError("no such width", where=name, got=getattr(self, name), allowed="2 to 16")
        if self.bias not in ("preloaded", "serial"):
            raise UsageError("no such bias", where="bias", got=self.bias, allowed="preloaded, serial")


@dataclass(frozen=True)
class IntegerConvolution:
    """A convolution in integers.

    Attributes:
        layer: integer weights and bias.
        exponents: (outputs,) int64; a sum s of channel c stands for s / 2^exponents[c].
        shifts: (outputs,) int64: the output is the sum divided by 2^shifts, halves up; None = the sum itself.
        source: format of the input.
        linear: whether values are (B, C) vectors.
    """

    layer: Layer
    exponents: Tensor
    shifts: Tensor | None
    source: Format
    linear: bool


@dataclass(frozen=True)
class Quantised:
    """A network in integers, from :func:`quantise`.

    Attributes:
        folded: the network in floating point.
        scheme: how it was quantised.
        formats: of every rounded integer value, by node name.
        convolutions: by node name.
        ranges: of every group, by its name.
        split: where the calibration images came from.
    """

    folded: Folded
    scheme: Scheme
    formats: dict[str, Format]
    convolutions: dict[str, IntegerConvolution]
    ranges: dict[str, Range]
    split: str


def quantise(
    folded: Folded, batches: Sequence[tuple[Tensor, ...]], *, split: str, scheme: Scheme | None = None
) -> Quantised:
    """A network in integers, with ranges from calibration images.

    Args:
        folded: from :func:`xaiseg.hardware.folding.fold`.
        batches: arguments of the network, one tuple a batch.
        split: the name of the images' split; "test" is refused, since ranges are fitted on them.
        scheme: None = ``Scheme()``.

    Raises:
        UsageError: the test split, an image or a value that is not finite, a sum that may pass float64's integers,
            weights too large for a layer whose input and output share an exponent.
    """
    if split.strip().lower() == "test":
        raise UsageError(
            "ranges must not be fitted on the images that are audited",
            where="split",
            got=split,
            allowed="train, validation or calibration",
        )
    chosen = Scheme() if scheme is None else scheme
    with torch.inference_mode():
        ranges = observe(folded, batches, observer=chosen.observer, bits=chosen.bits, percentile=chosen.percentile)
    group = shared(folded.graph)
    formats = {name: Format(ranges[of].exponent, ranges[of].signed, chosen.bits) for name, of in group.items()}
    formats = _reachable(folded, formats, group, chosen)
    convolutions = {
        node.name: _integers(node, folded.convolutions[node.name], formats, chosen)
        for node in folded.graph.nodes
        if node.kind == "convolution"
    }
    return Quantised(folded, chosen, formats, convolutions, ranges, split)


def _reachable(
    folded: Folded, formats: dict[str, Format], group: Mapping[str, str], scheme: Scheme
) -> dict[str, Format]:
    """The formats without exponents finer than the sums behind them: no digit follows the last one of an exact sum."""
    limits = []
    for node in folded.graph.nodes:
        if node.name not in formats or node.kind not in ("convolution", "add"):
            continue
        sources = tuple(group[name] for name in node.inputs)
        if node.kind == "add":
            limits.append(Limit(node.name, group[node.name], sources))
        else:
            weights, bias = (int(found.min()) for found in _finest(folded.convolutions[node.name], scheme))
            limits.append(Limit(node.name, group[node.name], sources, weights, bias))
    found = finest({of: formats[name].exponent for name, of in group.items()}, limits)
    if isinstance(found, Endless):
        raise _endless(found, folded, scheme)
    return {name: replace(held, exponent=found[group[name]]) for name, held in formats.items()}


def _endless(found: Endless, folded: Folded, scheme: Scheme) -> UsageError:
    """What to say of layers whose weights would lower the exponent of their own input for ever."""
    paths = {node.name: node.path for node in folded.graph.nodes}
    worst = min(found.limits, key=lambda limit: limit.gain).node
    magnitude = float(folded.convolutions[worst].weight.abs().max())
    top = 2 ** (scheme.weight_bits - 1) - 1
    wide = next((bits for bits in range(scheme.weight_bits + 1, 17) if 2 ** (bits - 1) - 1 >= magnitude), None)
    more = "" if wide is None else f"use weight_bits: {wide}, "
    return UsageError(
        "weights are too large, batch normalisation folded in: a skip gives this layer's output the scale of its input",
        where=paths[worst],
        got=f"a weight of magnitude {magnitude:.4g}",
        allowed=f"up to {top} with weight_bits: {scheme.weight_bits} where input and output share a scale",
        then=f"Look for a norm channel of nearly no variance, {more}or keep the layer and its norm outside",
    )


def _finest(convolution: Convolution, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """(outputs,) float64 twice: the finest exponents at which each channel's weights fit, and its sum for its bias."""
    magnitudes = by_output(convolution).abs().flatten(1).amax(1)
    top = 2 ** (scheme.weight_bits - 1) - 1
    weights = torch.floor(torch.log2(top / magnitudes.clamp(min=2.0**-40)))
    # The bias lies in the same sum: where it is much larger than the weights, these get coarser.
    room = (scheme.bits + scheme.weight_bits - 2) if scheme.bias == "serial" else _total(convolution, scheme) - 1
    return weights, torch.floor(torch.log2((2**room - 1) / convolution.bias.abs().clamp(min=2.0**-40)))


def _total(convolution: Convolution, scheme: Scheme) -> int:
    """Digits of the exact sum."""
    terms = convolution.geometry.terms + (scheme.bias == "serial")
    return Unit(terms, bits=scheme.bits, weight_bits=scheme.weight_bits).total


def _weight_exponents(convolution: Convolution, source: Format, target: Format | None, scheme: Scheme) -> Tensor:
    """(outputs,) int64: the finest exponent at which weights, bias and digits of each channel fit."""
    weights, bias = _finest(convolution, scheme)
    found = torch.minimum(weights, bias - source.exponent)
    if target is not None:
        # As many digits as the output has bits must remain, so that the unit has read its whole input.
        most = target.exponent - source.exponent + _total(convolution, scheme) - scheme.bits
        found = found.clamp(max=most)
    return (found if scheme.per_channel else found.min().expand_as(found)).long()


def _integers(
    node: Node, convolution: Convolution, formats: Mapping[str, Format], scheme: Scheme
) -> IntegerConvolution:
    source, target = formats[node.inputs[0]], formats.get(node.name)
    held = _weight_exponents(convolution, source, target, scheme)
    scale = per_output(convolution.geometry, torch.exp2(held.double()))
    weight = torch.floor(convolution.weight * scale + 0.5)
    exponents = held + source.exponent
    bias = torch.floor(convolution.bias * torch.exp2(exponents.double()) + 0.5).long()
    shifts = None if target is None else exponents - target.exponent
    if scheme.bias == "serial" and shifts is not None:
        # Later digits of a serial bias come after the unit has stopped, in every exact arithmetic.
        growth = Unit(convolution.geometry.terms + 1).growth
        late = (shifts - growth - 1).clamp(min=0)
        bias = (bias + (1 << late >> 1)) >> late << late
    layer = replace(convolution.geometry, weight=weight.long(), bias=bias)
    checked_weights(layer, weight_bits=scheme.weight_bits, where=node.path)
    most = int(largest_sums(layer, largest_input=max(-source.low, source.high)).max())
    if most > FLOAT64_EXACT:
        raise UsageError(
            "a sum may pass the integers that are computed exactly",
            where=node.path,
            got=most,
            allowed="2^53",
            then="Use fewer bits",
        )
    return IntegerConvolution(layer, exponents, shifts, source, convolution.linear)


def checked_weights(layer: Layer, *, weight_bits: int, where: str) -> Layer:
    """Returns a layer whose weights are symmetric: the most negative number of the width is not among them.

    Raises:
        UsageError: a weight out of range, which a zero point or the most negative number makes.

    >>> checked_weights(Layer(torch.full((1, 1, 1, 1), -127)), weight_bits=8, where="conv").terms
    1
    """
    top = 2 ** (weight_bits - 1) - 1
    low, high = (int(value) for value in torch.aminmax(layer.weight))
    if low < -top or high > top:
        raise UsageError(
            "weights are not symmetric",
            where=where,
            got=f"{low} to {high}",
            allowed=f"-{top} to {top}",
            then="Quantise the weights without zero point and without the most negative number",
        )
    return layer


Step = Callable[[Node, Quantised, tuple[Tensor, ...]], Tensor]
Watch = Callable[[Node, Tensor], None]


def walk(
    network: Quantised,
    arguments: tuple[Tensor, ...],
    steps: Mapping[str, Step],
    *,
    dtype: torch.dtype,
    watch: Watch | None = None,
) -> Tensor:
    """The network's answer, with its integer nodes computed by ``steps``.

    Args:
        network: from :func:`quantise`.
        arguments: the network's arguments, floating point.
        steps: by kind; each reads and answers integers of ``dtype``.
        dtype: of the integers between the steps.
        watch: sees every integer value as it is computed.

    Returns:
        floating point, as the network's own answer.

    Raises:
        UsageError: another number of arguments, NaN or infinity where integers begin.
    """
    graph = network.folded.graph
    if len(arguments) != len(graph.inputs):
        raise UsageError("the network has other arguments", got=len(arguments), allowed=", ".join(graph.inputs))
    found: dict[str, Tensor] = dict(zip(graph.inputs, arguments, strict=True))
    readers = Counter(name for node in graph.nodes for name in node.inputs) + Counter([graph.output])
    for node in graph.nodes:
        if node.kind == "input":
            continue
        if node.kind == "outside":
            value = node.call(*(real_values(name, found[name], network) for name in node.inputs))
        elif node.kind == "quantise":
            value = quantised(found[node.inputs[0]], network.formats[node.name], where=node.path).to(dtype)
        else:
            value = steps[node.kind](node, network, tuple(found[name] for name in node.inputs))
        found[node.name] = value
        if watch is not None and node.kind != "outside":
            watch(node, value)
        readers.subtract(node.inputs)
        for name in {name for name in node.inputs if readers[name] == 0}:
            del found[name]  # nothing reads it again: memory holds what is alive
    return real_values(graph.output, found[graph.output], network)


def real_values(name: str, value: Tensor, network: Quantised) -> Tensor:
    """What a node's value stands for, float32; values outside the integers as they are."""
    if name in network.formats:
        scaled = value.double() * 2.0 ** -network.formats[name].exponent
    elif name in network.convolutions:
        exponents = network.convolutions[name].exponents.to(value.device).double()
        scaled = value.double() * torch.exp2(-exponents).view(-1, *[1] * (value.ndim - 2))
    else:
        return value
    # Contiguous, because a backend may add the same floats in another order for another layout.
    return scaled.float().contiguous()
