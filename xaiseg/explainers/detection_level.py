"""The level of a feature pyramid that fired: the layer whose cells a candidate was read off, found by its gradient.

A dense detector predicts from several grids. Only the path to the candidate's own level carries a gradient, so that one
backward pass tells which executed layers lie on it. The last of them on a grid whose cells divide the number of
candidates of the level is the head's, and its grid is the level's. On that grid the layer before the last one that
mixes neighbouring cells is taken, and of layers that all levels share (a head's) none: it is the pyramid's output, as
in ODAM (C. Zhao, A. B. Chan, ICLR 2023), wherever the levels have one head in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xaiseg.errors import SubjectError
from xaiseg.explainers.tap import MIN_SIDE, evaluation_mode


@dataclass(frozen=True)
class Fired:
    """Where a candidate comes from.

    Attributes:
        layer: dotted name, or None where no layer lies on the level's grid (a detector of queries).
        note: the layer and why, for the notes of a map.
    """

    layer: str | None
    note: str


@dataclass(frozen=True, eq=False)
class _Call:
    """One execution of a leaf module."""

    name: str
    part: nn.Module
    output: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        return int(self.output.shape[-2]), int(self.output.shape[-1])

    @property
    def mixes(self) -> bool:
        size = getattr(self.part, "kernel_size", 1)
        return max(size) > 1 if isinstance(size, tuple) else isinstance(size, int) and size > 1


def fired_layer(
    module: nn.Module,
    forward: Callable[[], Tensor],
    score: Callable[[Tensor], Tensor],
    candidates: int,
    level: int,
) -> Fired:
    """Finds the layer that fed a candidate.

    Args:
        module: the network; hooks sit on it only while ``forward`` runs.
        forward: the differentiable raw answer (1, N, 4 + K), from an input that requires a gradient.
        score: S of the candidate, (1, N, 4 + K) -> (1,).
        candidates: how many candidates its level holds.
        level: number of the level, for the note.

    Raises:
        SubjectError: no layer carries a gradient of the score.
    """
    with evaluation_mode(module), torch.enable_grad():
        with _recorded(module) as calls:
            answer = forward()
        value = score(answer).sum()
        outputs = [call.output for call in calls]
        slopes = torch.autograd.grad(value, outputs, allow_unused=True) if outputs and value.requires_grad else ()
    alive = [index for index, slope in enumerate(slopes) if slope is not None and bool(slope.any())]
    if not alive:
        raise SubjectError(
            "no layer of the network carries a gradient of the target",
            where="activations",
            got=f"{len(calls)} executed layers, the score {float(value.detach()):.3g}",
            then="Use a method that only predicts, such as rise",
        )
    return _chosen(calls, alive, candidates, level)


def _chosen(calls: Sequence[_Call], alive: Sequence[int], candidates: int, level: int) -> Fired:
    heads = [calls[index].grid for index in alive if _holds(calls[index].grid, candidates)]
    if not heads:
        return Fired(None, f"none on the grid of level {level}, which has {candidates} candidates")
    rows, columns = grid = heads[-1]
    runs = Counter(call.name for call in calls)
    last = max((index for index in alive if calls[index].mixes), default=0)
    mine = [index for index in alive if calls[index].grid == grid and runs[calls[index].name] == 1]
    before = [index for index in mine if index < last]
    if not mine:
        return Fired(None, f"every layer on the grid of level {level} ({rows} x {columns}) is shared with other levels")
    name = calls[(before or mine)[-1]].name
    return Fired(name, f"layer {name} ({rows} x {columns}): it feeds level {level}, the one that fired")


def _holds(grid: tuple[int, int], candidates: int) -> bool:
    """Whether a grid can be that of a level: its cells have the same number of candidates each."""
    return min(grid) >= MIN_SIDE and candidates % (grid[0] * grid[1]) == 0


@contextmanager
def _recorded(module: nn.Module) -> Iterator[list[_Call]]:
    """Records what leaf modules answer to one image as (1, C, h, w), in order of execution."""
    calls: list[_Call] = []

    def recorder(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(part: nn.Module, _: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and len(output) == 1 and output.requires_grad:
                calls.append(_Call(name, part, output))

        return hook

    handles = [
        part.register_forward_hook(recorder(name))
        for name, part in module.named_modules()
        if not any(True for _ in part.children())
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
