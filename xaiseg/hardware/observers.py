"""How large the values of a network are on calibration images: the range that 8 bits shall cover.

``max`` covers everything, ``percentile`` leaves out the largest values, ``mse`` takes the range of least mean squared
error of rounding and clipping together (M. Nagel et al., "A White Paper on Neural Network Quantization",
arXiv:2106.08295, section 3.1). The last two read a histogram of magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.folding import Folded, float_values
from xaiseg.hardware.formats import PASSING, shared
from xaiseg.hardware.graph import Graph, Node

Observer = Literal["max", "percentile", "mse"]

BINS: Final = 4096
#: Exponents beyond the one that covers everything, and free ranges as parts of the largest value, that ``mse`` tries.
FINER: Final = 4
PARTS: Final = tuple(part / 20 for part in range(20, 1, -1))


@dataclass(frozen=True)
class Range:
    """What a group of values needs.

    Attributes:
        largest: end of the range at a scale that may be any number.
        exponent: of the power-of-two scale.
        signed: whether values may be negative.
    """

    largest: float
    exponent: int
    signed: bool


def observe(
    folded: Folded,
    batches: Sequence[tuple[Tensor, ...]],
    *,
    observer: Observer,
    bits: int,
    percentile: float = 99.99,
) -> dict[str, Range]:
    """The range of every group of :func:`xaiseg.hardware.formats.shared`.

    Values behind a rectifier are never negative; other convolutions and sums are signed whatever the images show.

    Args:
        folded: the network.
        batches: arguments of the network, at least one batch.
        observer: see the module.
        bits: width of the integers.
        percentile: of the magnitudes, in percent; ``percentile`` alone reads it.

    Raises:
        UsageError: an unknown observer, no images, values that are not finite.
    """
    if observer not in get_args(Observer):
        raise UsageError("no such observer", where="observer", got=observer, allowed=", ".join(get_args(Observer)))
    if not 50 < percentile <= 100:
        raise UsageError("this percentile is no range", where="percentile", got=percentile, allowed="50 to 100")
    if not batches:
        raise UsageError("there are no calibration images", where="batches", allowed="one batch or more")
    graph, group = folded.graph, shared(folded.graph)
    openers = [node for node in graph.nodes if node.name in group and node.kind not in PASSING]
    largest, negative = _extremes(graph, openers, group, batches)
    counts = {name: torch.zeros(BINS, dtype=torch.float64) for name in largest}
    for arguments in batches if observer != "max" else ():
        values = float_values(graph, arguments)
        for node in openers:
            name = group[node.name]
            counts[name] += torch.histc(values[node.name].abs(), BINS, 0, largest[name] or 1.0).to(counts[name])
    return {
        name: chosen(observer, largest[name], counts[name], signed=negative[name], bits=bits, percentile=percentile)
        for name in largest
    }


def _extremes(
    graph: Graph, openers: Sequence[Node], group: Mapping[str, str], batches: Sequence[tuple[Tensor, ...]]
) -> tuple[dict[str, float], dict[str, bool]]:
    """The largest magnitude of every group, and whether its values may be negative."""
    largest = dict.fromkeys((group[node.name] for node in openers), 0.0)
    negative = dict.fromkeys(largest, False)
    for arguments in batches:
        values = float_values(graph, arguments)
        for node in openers:
            name = group[node.name]
            low, high = (float(value) for value in torch.aminmax(values[node.name]))
            if not (math.isfinite(low) and math.isfinite(high)):
                raise UsageError("activations hold NaN or infinity on calibration images", where=node.path)
            largest[name] = max(largest[name], high, -low)
            negative[name] |= low < 0 if node.kind == "quantise" else node.rectifier is None
    return largest, negative


def chosen(
    observer: Observer, largest: float, counts: Tensor, *, signed: bool, bits: int, percentile: float = 99.99
) -> Range:
    """The range of values with a largest magnitude and a histogram of magnitudes from 0 to it.

    >>> chosen("max", 1.0, torch.zeros(8), signed=False, bits=8)
    Range(largest=1.0, exponent=7, signed=False)
    """
    top = 2 ** (bits - signed) - 1
    if largest == 0.0:  # nothing was seen: any scale holds it
        return Range(1.0, covering(1.0, top), signed)
    if observer == "max":
        return Range(largest, covering(largest, top), signed)
    width = largest / len(counts)
    if observer == "percentile":
        reached = torch.cumsum(counts, 0) >= counts.sum() * (percentile / 100)
        end = (int(reached.long().argmax()) + 1) * width
        return Range(end, covering(end, top), signed)
    centres = (torch.arange(len(counts), dtype=torch.float64) + 0.5) * width

    def error(step: float) -> float:
        rounded = torch.floor(centres / step + 0.5).clamp(max=top) * step
        return float((counts * (centres - rounded) ** 2).sum())

    coarse = covering(largest, top)
    exponent = min(range(coarse, coarse + FINER + 1), key=lambda e: error(2.0**-e))
    end = min((largest * part for part in PARTS), key=lambda value: error(value / top))
    return Range(end, exponent, signed)


def covering(largest: float, top: int) -> int:
    """The largest exponent at which a value is at most ``top``.

    >>> covering(1.0, 127), covering(127.5, 255)
    (6, 1)
    """
    return math.floor(math.log2(top / largest))
