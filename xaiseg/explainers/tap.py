"""The activation tap: one forward pass gives the activations and gradients that every CAM method reads.

The layer is chosen automatically and named. Hooks are removed and modes restored whatever happens in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from xaiseg.errors import SubjectError, UsageError, did_you_mean

#: A grid with a side below this locates nothing (global pooling, squeeze-and-excitation).
MIN_SIDE: Final = 2


@dataclass(frozen=True)
class Tap:
    """Activations and gradients at one layer.

    Attributes:
        layer: dotted name of the module in the network.
        activation: (C, h, w) float32.
        gradients: (T, C, h, w) float32, one for each target.
        note: why this layer, and anything a reader of the map must know.
    """

    layer: str
    activation: Tensor
    gradients: Tensor
    note: str


@dataclass(frozen=True)
class _Call:
    """One execution of a leaf module."""

    name: str
    output: Tensor
    mixes: bool

    @property
    def side(self) -> int:
        return min(self.output.shape[-2:])

    @property
    def pixels(self) -> int:
        return self.output.shape[-2] * self.output.shape[-1]


@contextmanager
def evaluation_mode(module: nn.Module | None) -> Iterator[None]:
    """Puts a network into evaluation mode and gives every submodule its own mode back afterwards."""
    modes = [(part, part.training) for part in module.modules()] if module is not None else []
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def open_tap(
    module: nn.Module,
    forward: Callable[[], Tensor],
    scores: Sequence[Callable[[Tensor], Tensor]],
    layer: str | None = None,
) -> Tap:
    """Runs one forward pass and one backward pass for each score.

    Args:
        module: the network; hooks sit on it only while ``forward`` runs.
        forward: differentiable logits (1, K, H, W), from an input that requires a gradient.
        scores: functions of the logits that give one value each.
        layer: dotted module name, or None for the automatic choice: among the executed layers whose output reaches
            the score and behind which pixels are still mixed, the coarsest grid, and there the last one executed. A
            layer behind which nothing mixes pixels would only repeat the predicted mask.

    Raises:
        UsageError: ``layer`` is unknown, gives no (B, C, h, w) output, or does not reach the score.
        SubjectError: no layer reaches the score, or a gradient is not finite.
    """
    with evaluation_mode(module), torch.enable_grad():
        with _recorded(module) as calls:
            logits = forward()
        values = [score(logits).sum() for score in scores]
        reached = _reached(values[0])
        chosen, note = _named(module, calls, reached, layer) if layer else _automatic(calls, reached)
        gradients = [
            torch.autograd.grad(value, chosen.output, retain_graph=index + 1 < len(values))[0]
            for index, value in enumerate(values)
        ]
    stacked = torch.cat(gradients).float()
    if not torch.isfinite(stacked).all():
        raise SubjectError("the gradient is not finite", where=f"layer {chosen.name}", got="NaN or infinity")
    return Tap(chosen.name, chosen.output.detach()[0].float(), stacked, note)


@contextmanager
def _recorded(module: nn.Module) -> Iterator[list[_Call]]:
    """Records the outputs of all leaf modules, in order of execution."""
    calls: list[_Call] = []

    def recorder(name: str, mixes: bool) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                calls.append(_Call(name, output, mixes))

        return hook

    handles = []
    try:
        for name, part in module.named_modules():
            if not any(True for _ in part.children()):
                handles.append(part.register_forward_hook(recorder(name or type(part).__name__, _mixes_pixels(part))))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _mixes_pixels(part: nn.Module) -> bool:
    """True for convolutions and poolings over more than one pixel."""
    size = getattr(part, "kernel_size", 1)
    return max(size) > 1 if isinstance(size, tuple) else isinstance(size, int) and size > 1


def _reached(value: Tensor) -> set[object]:
    """The nodes of the autograd graph behind a value; a layer whose output's node is among them reaches the value."""
    seen: set[object] = set()
    waiting = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return seen


def _usable(calls: Sequence[_Call], reached: set[object]) -> list[tuple[int, _Call]]:
    # An operation in place replaces the output's node, so it is looked up now and not while recording.
    return [
        (index, call)
        for index, call in enumerate(calls)
        if call.output.ndim == 4 and call.output.grad_fn is not None and call.output.grad_fn in reached
    ]


def _automatic(calls: Sequence[_Call], reached: set[object]) -> tuple[_Call, str]:
    usable = [(index, call) for index, call in _usable(calls, reached) if call.side >= MIN_SIDE]
    if not usable:
        raise SubjectError(
            "no layer of the network reaches the target",
            where="activations",
            got=f"{len(calls)} layers with a tensor output, none of them with a gradient and a grid of 2 x 2 or more",
            then="Use a method that needs no activations, such as occlusion",
        )
    mixing = [index for index, call in usable if call.mixes]
    inner = [(index, call) for index, call in usable if mixing and index < mixing[-1]]
    coarsest = min(call.pixels for _, call in inner or usable)
    chosen = [call for _, call in inner or usable if call.pixels == coarsest][-1]
    grid = f"{chosen.output.shape[-2]} x {chosen.output.shape[-1]}"
    if inner:
        return chosen, f"layer {chosen.name} ({grid}): the last one on the coarsest grid that reaches the target"
    return chosen, (
        f"layer {chosen.name} ({grid}): nothing behind it mixes pixels, so the map can only repeat the predicted region"
    )


def _named(module: nn.Module, calls: Sequence[_Call], reached: set[object], layer: str) -> tuple[_Call, str]:
    names = dict(module.named_modules())
    if layer not in names:
        raise UsageError("the network has no such layer", where="layer", got=layer, then=did_you_mean(layer, names))
    found = [call for _, call in _usable(calls, reached) if call.name == layer]
    if not found:
        runs = sum(call.name == layer for call in calls)
        problem = (
            "its output does not reach the target, or has no (B, C, h, w) grid"
            if runs
            else "it was not executed as a single layer with a tensor output"
        )
        known = list(dict.fromkeys(call.name for _, call in _usable(calls, reached)))
        raise UsageError(
            f"this layer cannot be explained: {problem}",
            where="layer",
            got=layer,
            allowed="one of " + ", ".join(known) if known else "none; no layer reaches the target",
        )
    more = f"; executed {len(found)} times, the last is shown" if len(found) > 1 else ""
    return found[-1], f"layer {layer}, as asked for{more}"
