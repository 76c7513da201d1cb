"""The activation tap: one forward pass gives the activations and gradients that every CAM method reads.

The layer is chosen automatically and named. Hooks are removed and modes restored whatever happens in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from xaiseg.errors import SubjectError, UsageError, did_you_mean
from xaiseg.explainers.layout import Layout, channels_stand_last, layout_of

#: A grid with a side below this locates nothing (global pooling, squeeze-and-excitation).
MIN_SIDE: Final = 2

#: Scores are multiplied by this before a backward pass through float16, whose small gradients would become zero.
HALF_SCALE: Final = 1024.0

#: Views and dropout that may stand between the softmax of attention and the product with its values.
ATTENTION_STEPS: Final = 5

#: More layers than this are not listed in an error.
MAX_LISTED: Final = 8


@dataclass(frozen=True)
class Tap:
    """Activations and gradients at one layer.

    Attributes:
        layer: dotted name of the module in the network.
        activation: (C, h, w) float32.
        gradients: (T, C, h, w) float32, one for each target; T = 0 where only activations were asked for.
        note: why this layer, and anything a reader of the map must know.
        grid: (H, W) of the network's input, or of the image where the network is called in another way.
        layout: how the layer's own output lies on its grid.
        run: which execution of the layer this is, from 0.
    """

    layer: str
    activation: Tensor
    gradients: Tensor
    note: str
    grid: tuple[int, int]
    layout: Layout
    run: int = 0


@dataclass(frozen=True, eq=False)
class _Call:
    """One execution of a module; the layout is None where the output has no grid that is known."""

    name: str
    part: nn.Module
    output: Tensor
    layout: Layout | None
    mixes: bool
    version: int
    began: int  # how many executions were over when this one began


#: Place in the order of execution, the execution, its layout.
_Placed = tuple[int, _Call, Layout]


@dataclass(frozen=True)
class _Recorded:
    """What one forward pass did."""

    calls: list[_Call]
    others: dict[str, str]  # layer -> kind of an output that is no tensor
    grids: list[tuple[int, int]]  # (H, W) of what the network was given


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
    *,
    token_grid: tuple[int, int] | None = None,
    gradients: bool = True,
) -> Tap:
    """Runs one forward pass and one backward pass for each score.

    Args:
        module: the network; hooks sit on it only while ``forward`` runs.
        forward: differentiable logits (1, K, H, W), from an input that requires a gradient.
        scores: functions of the logits that give one value each.
        layer: dotted module name, or None for the automatic choice: among the executed layers whose output reaches
            the score and behind which pixels are still mixed, the coarsest grid, and there the last one executed. A
            layer behind which nothing mixes pixels would only repeat the predicted mask.
        token_grid: (h, w) that a transformer's tokens lie on; None = from their number and the input's proportions.
        gradients: False for methods that read activations alone; then there is no backward pass.

    Raises:
        UsageError: ``layer`` is unknown, gives no output with a grid, or does not reach the score.
        SubjectError: no layer reaches the score, or an activation or a gradient is not finite.
    """
    with evaluation_mode(module), torch.enable_grad():
        with _recorded(module, layer, token_grid) as recorded:
            logits = forward()
        values = [score(logits).sum() for score in scores]
        reached = _reached(values[0])
        chosen, note = _named(module, recorded, reached, layer) if layer else _automatic(recorded, reached)
        layout = chosen.layout
        assert layout is not None  # only calls with a layout are chosen
        slopes = [layout.to_grid(each) for each in _slopes(values, chosen)] if gradients else []
    activation = layout.to_grid(chosen.output.detach())[0].float()
    stacked = torch.cat(slopes).float() if slopes else activation.new_zeros((0, *activation.shape))
    for what, tensor in (("activation", activation), ("gradient", stacked)):
        if not torch.isfinite(tensor).all():
            raise SubjectError(f"the {what} is not finite", where=f"layer {chosen.name}", got="NaN or infinity")
    run = [call for call in recorded.calls if call.part is chosen.part].index(chosen)
    grid = recorded.grids[0] if recorded.grids else (int(logits.shape[-2]), int(logits.shape[-1]))
    return Tap(chosen.name, activation, stacked, note + _remarks(chosen), grid, layout, run)


@dataclass(frozen=True)
class Choice:
    """A layer that a map may be read from.

    Attributes:
        layer: dotted name.
        rows, columns: its grid.
    """

    layer: str
    rows: int
    columns: int


def layer_choices(
    module: nn.Module, forward: Callable[[], Tensor], score: Callable[[Tensor], Tensor]
) -> tuple[Choice, ...]:
    """For each grid that reaches the score, the last layer on it behind which pixels are still mixed, coarsest first.

    The first is what :func:`open_tap` takes by itself.

    Args:
        module: the network.
        forward: see :func:`open_tap`.
        score: function of the logits that gives one value.

    Raises:
        SubjectError: no layer reaches the score.
    """
    with evaluation_mode(module), torch.enable_grad():
        with _recorded(module, None, None) as recorded:
            logits = forward()
        usable, inner = _eligible(recorded, _reached(score(logits).sum()))
    last = {layout.cells: Choice(call.name, layout.rows, layout.columns) for _, call, layout in inner or usable}
    return tuple(last[cells] for cells in sorted(last))


def _slopes(values: Sequence[Tensor], chosen: _Call) -> Iterator[Tensor]:
    """Gradients of all values by the output of a call, in its own layout."""
    scale = HALF_SCALE if chosen.output.dtype == torch.float16 else 1.0
    for index, value in enumerate(values):
        more = index + 1 < len(values)
        (slope,) = torch.autograd.grad(value * scale, chosen.output, retain_graph=more, allow_unused=True)
        if slope is None:
            raise UsageError(
                "the layer does not reach every target", where=f"layer {chosen.name}", got=f"target {index + 1}"
            )
        yield slope.float() / scale


def _remarks(chosen: _Call) -> str:
    # The gradient belongs to the values behind the operation in place, and those are what is shown.
    in_place = chosen.output._version != chosen.version
    text = "; a later layer changes its output in place, and the changed one is shown" if in_place else ""
    leading = chosen.layout.leading if chosen.layout else 0
    return text + (f"; {leading} leading tokens lie on no grid and are left out" if leading else "")


@contextmanager
def _recorded(module: nn.Module, layer: str | None, token_grid: tuple[int, int] | None) -> Iterator[_Recorded]:
    """Records the outputs of leaf modules, of attention, and of the layer asked for, in order of execution."""
    recorded = _Recorded([], {}, [])

    def entered(_: nn.Module, inputs: tuple[object, ...]) -> None:
        first = inputs[0] if inputs else None
        if isinstance(first, Tensor) and first.ndim == 4:
            recorded.grids.append((int(first.shape[-2]), int(first.shape[-1])))

    def recorder(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(part: nn.Module, _: object, output: object) -> None:
            first = began.pop()
            tensor = output[0] if isinstance(output, (tuple, list)) and output else output
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                recorded.others[name] = type(output).__name__
                return
            grid = recorded.grids[0] if recorded.grids else (int(tensor.shape[-2]), int(tensor.shape[-1]))
            layout = layout_of(tuple(tensor.shape), part, grid, token_grid if name == layer else None)
            if tensor is not output:
                recorded.others[name] = type(output).__name__
                layout = None
            mixes = _mixes_pixels(part, tensor)
            recorded.calls.append(_Call(name, part, tensor, layout, mixes, tensor._version, first))

        return hook

    began: list[int] = []
    handles = []
    try:
        handles.append(module.register_forward_pre_hook(entered))
        for name, part in module.named_modules():
            if name == layer or _is_attention(part) or not any(True for _ in part.children()):
                handles.append(part.register_forward_pre_hook(lambda *_: began.append(len(recorded.calls))))
                handles.append(part.register_forward_hook(recorder(name or type(part).__name__)))
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _is_attention(part: nn.Module) -> bool:
    return "attention" in type(part).__name__.lower() or "attn" in type(part).__name__.lower()


def _mixes_pixels(part: nn.Module, output: Tensor) -> bool:
    """True for convolutions and poolings over more than one pixel, and for attention among tokens."""
    if _is_attention(part):
        # An attention gate of a convolutional network weighs each pixel alone; its output has channels first.
        return output.ndim == 3 or any(isinstance(inner, (nn.Linear, nn.LayerNorm)) for inner in part.children())
    size = getattr(part, "kernel_size", 1)
    return max(size) > 1 if isinstance(size, tuple) else isinstance(size, int) and size > 1


def _reached(value: Tensor) -> set[Any]:
    """The nodes of the autograd graph behind a value; a layer whose output's node is among them reaches the value."""
    return _behind([value.grad_fn]) | ({value.grad_fn} if value.grad_fn is not None else set())


def _behind(nodes: Iterable[Any]) -> set[Any]:
    """All nodes that the given ones were computed from."""
    seen: set[Any] = set()
    waiting = [following for node in nodes if node is not None for following, _ in node.next_functions]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return seen


def _attends(node: Any) -> bool:
    """Whether a node of the graph is the product of attention's weights with its values, wherever it is written."""
    name = type(node).__name__
    if name.startswith("ScaledDotProduct"):
        return True
    near, waiting = name.startswith(("BmmBackward", "MmBackward")), [node]
    for _ in range(ATTENTION_STEPS if near else 0):
        waiting = [following for each in waiting for following, _ in each.next_functions if following is not None]
        if any(type(each).__name__.startswith("SoftmaxBackward") for each in waiting):
            return True
    return False


def _usable(calls: Sequence[_Call], reached: set[object]) -> list[tuple[int, _Call]]:
    # An operation in place replaces the output's node, so it is looked up now and not while recording. Where the first
    # axis is not the one image, it holds windows or tokens, which have no known place.
    return [
        (index, call)
        for index, call in enumerate(calls)
        if call.layout is not None
        and call.output.shape[0] == 1
        and call.output.grad_fn is not None
        and call.output.grad_fn in reached
    ]


def _eligible(recorded: _Recorded, reached: set[object]) -> tuple[list[_Placed], list[_Placed]]:
    """Executions that a map may be read from, and those of them behind which pixels are still mixed."""
    usable = [
        (index, call, call.layout)
        for index, call in _usable(recorded.calls, reached)
        # Three axes may also be an attention matrix or flattened channels; linear layers leave no doubt.
        if call.layout and call.layout.side >= MIN_SIDE and (call.output.ndim == 4 or channels_stand_last(call.part))
    ]
    if not usable:
        count = len(recorded.calls)
        raise SubjectError(
            "no layer of the network reaches the target",
            where="activations",
            got=f"{count} layers with a tensor output, none of them with a gradient and a grid of 2 x 2 or more",
            then="Use a method that needs no activations, such as occlusion",
        )
    # Inside an attention module it is not known which part stands before the mixing, so all of it counts as behind.
    last = max((call.began for call in recorded.calls if call.mixes and call.output.grad_fn in reached), default=-1)
    attended = _behind(node for node in reached if _attends(node))
    return usable, [each for each in usable if each[0] < last or each[1].output.grad_fn in attended]


def _automatic(recorded: _Recorded, reached: set[object]) -> tuple[_Call, str]:
    usable, inner = _eligible(recorded, reached)
    coarsest = min(layout.cells for _, _, layout in inner or usable)
    _, chosen, layout = [each for each in inner or usable if each[2].cells == coarsest][-1]
    grid = f"{layout.rows} x {layout.columns}"
    if inner:
        return chosen, (
            f"layer {chosen.name} ({grid}): the last one on the coarsest grid that reaches the target and behind which "
            f"pixels are still mixed{_repeated(recorded, chosen)}"
        )
    return chosen, (
        f"layer {chosen.name} ({grid}): nothing behind it mixes pixels, so the map can only repeat the predicted region"
    )


def _named(module: nn.Module, recorded: _Recorded, reached: set[object], layer: str) -> tuple[_Call, str]:
    names = [name for name, _ in module.named_modules() if name]  # the network itself has none
    if layer not in names:
        raise UsageError("the network has no such layer", where="layer", got=layer, then=did_you_mean(layer, names))
    found = [call for _, call in _usable(recorded.calls, reached) if call.name == layer]
    if not found:
        known = list(dict.fromkeys(call.name for _, call in _usable(recorded.calls, reached) if call.name in names))
        near = min(known, key=lambda name: abs(names.index(name) - names.index(layer)), default="")
        listed = ", ".join(known[:MAX_LISTED]) + (f" and {len(known) - MAX_LISTED} more" * (len(known) > MAX_LISTED))
        raise UsageError(
            f"this layer cannot be explained: {_hindrance(recorded, reached, layer)}",
            where="layer",
            got=layer,
            allowed=f"one of {listed}" if known else "none; no layer reaches the target",
            then=f"The nearest layer that reaches it is {near}" if near else None,
        )
    return found[-1], f"layer {layer}, as asked for{_repeated(recorded, found[-1])}"


def _repeated(recorded: _Recorded, chosen: _Call) -> str:
    runs = [call for call in recorded.calls if call.part is chosen.part]
    which = "the last" if runs[-1] is chosen else f"number {runs.index(chosen) + 1}"
    return f"; executed {len(runs)} times, {which} is shown" if len(runs) > 1 else ""


def _hindrance(recorded: _Recorded, reached: set[object], layer: str) -> str:
    runs = [call.output for call in recorded.calls if call.name == layer]
    if layer in recorded.others:
        return f"its output is no tensor but a {recorded.others[layer]}"
    if not runs:
        return "it was not executed"
    if not any(output.grad_fn in reached for output in runs):
        return "its output does not reach the target"
    return f"its output {tuple(runs[-1].shape)} has no grid that is known"
