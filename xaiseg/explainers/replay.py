"""Running a network again from one of its layers on, whatever its graph looks like.

What was executed before a layer cannot depend on what the layer gives. So one pass through the unperturbed image
records the output of every leaf module; in later passes those executed before the layer answer with what they gave
then, and the layer answers with a changed copy. Operations between modules (additions, concatenations, resizing) are
executed again, since they cannot be intercepted; they cost little beside convolutions. Networks for which this does not
hold, such as those that keep the batch on another axis or use an output again that a later module has written over, are
found by comparing two copies with the whole network; there only the layer's output is replaced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Recorded:
    """One pass through the unperturbed image.

    Attributes:
        layer: the layer.
        outputs: what it gave, (1, ...) each, up to the execution that is meant.
        before: leaf module outside the layer -> its outputs as far as they came before that of the layer.
        calls: executions of leaf modules that need not be repeated.
        total: executions of leaf modules in all.
    """

    layer: nn.Module
    outputs: list[Tensor]
    before: dict[nn.Module, list[Tensor]]
    calls: int
    total: int


def record(module: nn.Module, layer: str, run: int, forward: Callable[[], object]) -> Recorded:
    """Runs ``forward`` once and keeps what the layer and the leaf modules before it gave.

    Args:
        module: the network.
        layer: dotted name; it must give a tensor at least ``run`` + 1 times.
        run: which execution is meant, from 0.
        forward: one pass through the network on one image.
    """
    target = dict(module.named_modules()).get(layer, module)
    inside = set(target.modules())
    before: dict[nn.Module, list[Tensor]] = defaultdict(list)
    unfit: set[nn.Module] = set()
    outputs: list[Tensor] = []
    counts = [0, 0]

    def leaf(part: nn.Module, _: object, output: object) -> None:
        early = len(outputs) <= run
        counts[0] += early
        counts[1] += 1
        if not isinstance(output, Tensor) or output.ndim == 0:
            unfit.add(part)
        elif early and part not in inside:
            before[part].append(output.detach().clone())  # a later operation may write into the output

    def meant(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor) and len(outputs) <= run:
            outputs.append(output.detach().clone())

    leaves = [part for part in module.modules() if not any(True for _ in part.children())]
    handles = [part.register_forward_hook(leaf) for part in leaves]
    handles.append(target.register_forward_hook(meant))
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return Recorded(target, outputs, {part: own for part, own in before.items() if part not in unfit}, *counts)


@contextmanager
def ablated(recorded: Recorded, channels: Sequence[int], channel_axis: int, *, short: bool) -> Iterator[None]:
    """While it is open, one pass through a batch of copies of the image has one channel of the layer zero in each.

    Args:
        recorded: see :func:`record`.
        channels: one a copy.
        channel_axis: axis of the channels in the layer's output.
        short: let the layer and those before it answer with what they gave for the unperturbed image.
    """
    copies = len(channels)
    changed = _copies(recorded.outputs[-1], copies)
    for copy, channel in zip(changed, channels, strict=True):
        copy.select(channel_axis - 1 if channel_axis > 0 else channel_axis, channel).zero_()
    seen = 0

    def replaced(_: nn.Module, __: object, output: object) -> Tensor | None:
        nonlocal seen
        seen += isinstance(output, Tensor)
        # A copy, because a later operation may write into it.
        return changed.clone() if seen == len(recorded.outputs) and isinstance(output, Tensor) else None

    earlier = {recorded.layer: recorded.outputs, **recorded.before} if short else {}
    kept = {part: part.__dict__.get("forward") for part in earlier}
    handle = recorded.layer.register_forward_hook(replaced)
    try:
        for part, outputs in earlier.items():
            part.__dict__["forward"] = _replaying(part, outputs, copies)
        yield
    finally:
        handle.remove()
        for part, own in kept.items():
            part.__dict__.pop("forward", None)
            if own is not None:
                part.__dict__["forward"] = own


def _replaying(part: nn.Module, outputs: Sequence[Tensor], copies: int) -> Callable[..., Any]:
    """A forward that answers with recorded outputs, and computes again once they are used up."""
    waiting = list(outputs)
    forward = part.forward

    def answer(*args: Any, **kwargs: Any) -> Any:
        if not waiting:
            return forward(*args, **kwargs)
        return _copies(waiting.pop(0), copies)

    return answer


def _copies(output: Tensor, count: int) -> Tensor:
    # Unlike a repetition, a concatenation keeps channels last in memory.
    return torch.cat([output] * count)
