"""Running a network again from one of its layers on, whatever its graph looks like.

What was executed before a layer cannot depend on what the layer gives. So one pass through the unperturbed image
records what the modules before it gave, whole blocks where they end before it; in later passes those answer with what
they gave then, and the layer answers with a changed copy. Operations between modules (additions, concatenations,
resizing) are executed again, since they cannot be intercepted; they cost little beside convolutions. Networks for which
this does not hold, such as those that keep the batch on another axis or use an output again that a later module has
written over, are found by comparing two copies with the whole network; there only the layer's output is replaced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Recorded:
    """One pass through the unperturbed image.

    Attributes:
        layer: the layer.
        outputs: what it gave, (1, ...) each, up to the execution that is meant.
        before: module -> its outputs as far as they came before that of the layer, one an execution; None for an
            execution that is to be repeated, with the parts inside it, since its answer cannot be copied. A module
            inside another one that answers is not executed and so has no output here.
        calls: executions of leaf modules that need not be repeated.
        total: executions of leaf modules in all.
    """

    layer: nn.Module
    outputs: list[Tensor]
    before: dict[nn.Module, list[Tensor | None]]
    calls: int
    total: int


def record(module: nn.Module, layer: str, run: int, forward: Callable[[], object]) -> Recorded:
    """Runs ``forward`` once and keeps what the layer and the modules before it gave.

    Args:
        module: the network.
        layer: dotted name; it must give a tensor at least ``run`` + 1 times.
        run: which execution is meant, from 0.
        forward: one pass through the network on one image.
    """
    target = dict(module.named_modules()).get(layer, module)
    outputs: list[Tensor] = []
    opened: list[list[tuple[nn.Module, Tensor | None]]] = [[]]  # answers inside each module that is being executed
    counts = [0, 0]

    def entered(*_: object) -> None:
        opened.append([])

    def left(leaf: bool, around: bool, part: nn.Module, _: object, output: object) -> None:
        inside, early = opened.pop(), len(outputs) <= run
        counts[0] += leaf and early
        counts[1] += leaf
        if isinstance(output, Tensor) and output.ndim > 0 and early and not around:
            answer = output.detach().clone()  # a later operation may write into the output
            opened[-1].append((part, answer))
            if part is target:
                outputs.append(answer)
        else:
            opened[-1].extend([(part, None), *inside])

    handles = []
    try:
        for part in module.modules():
            leaf, around = not any(True for _ in part.children()), part is not target and target in part.modules()
            handles += [
                part.register_forward_pre_hook(entered),
                part.register_forward_hook(partial(left, leaf, around)),
            ]
        forward()
    finally:
        for handle in handles:
            handle.remove()
    before: dict[nn.Module, list[Tensor | None]] = defaultdict(list)
    for part, answer in opened[0]:
        before[part].append(answer)
    return Recorded(target, outputs, dict(before), counts[0], counts[1])


@contextmanager
def replaced(recorded: Recorded, changed: Tensor, *, short: bool) -> Iterator[None]:
    """While it is open, one pass through B copies of the image has ``changed`` in the place of the layer's output.

    Args:
        recorded: see :func:`record`.
        changed: (B, ...) in the layer's own layout; it is not written into.
        short: let the layer and those before it answer with what they gave for the unperturbed image.

    >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> recorded = record(network, "0", 0, lambda: network(torch.zeros(1, 2)))
    >>> with replaced(recorded, torch.tensor([[-1.0, 2.0], [3.0, -4.0]]), short=True):
    ...     network(torch.zeros(2, 2)).tolist()
    [[0.0, 2.0], [3.0, 0.0]]
    """
    seen, meant = 0, len(recorded.outputs)

    def hook(_: nn.Module, __: object, output: object) -> Tensor | None:
        nonlocal seen
        seen += isinstance(output, Tensor)
        # A copy, because a later operation may write into it.
        return changed.clone() if seen == meant and isinstance(output, Tensor) else None

    earlier = recorded.before if short else {}
    kept = {part: part.__dict__.get("forward") for part in earlier}
    handle = recorded.layer.register_forward_hook(hook)
    try:
        for part, outputs in earlier.items():
            part.__dict__["forward"] = _replaying(part, outputs, len(changed))
        yield
    finally:
        handle.remove()
        for part, own in kept.items():
            part.__dict__.pop("forward", None)
            if own is not None:
                part.__dict__["forward"] = own


@contextmanager
def ablated(recorded: Recorded, channels: Sequence[int], channel_axis: int, *, short: bool) -> Iterator[None]:
    """:func:`replaced`, with one channel of the layer zero in each copy of the image.

    Args:
        recorded: see :func:`record`.
        channels: one a copy.
        channel_axis: axis of the channels in the layer's output.
        short: see :func:`replaced`.
    """
    changed = _copies(recorded.outputs[-1], len(channels))
    for copy, channel in zip(changed, channels, strict=True):
        copy.select(channel_axis - 1 if channel_axis > 0 else channel_axis, channel).zero_()
    with replaced(recorded, changed, short=short):
        yield


def _replaying(part: nn.Module, outputs: Sequence[Tensor | None], copies: int) -> Callable[..., Any]:
    """A forward that answers with recorded outputs, and computes again where there is none."""
    waiting = list(outputs)
    forward = part.forward

    def answer(*args: Any, **kwargs: Any) -> Any:
        output = waiting.pop(0) if waiting else None
        return forward(*args, **kwargs) if output is None else _copies(output, copies)

    return answer


def _copies(output: Tensor, count: int) -> Tensor:
    # Unlike a repetition, a concatenation keeps channels last in memory.
    return torch.cat([output] * count)
