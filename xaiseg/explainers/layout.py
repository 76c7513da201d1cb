"""How a layer's output lies on a grid: channels first, channels last, or a row of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor, nn

from xaiseg.errors import UsageError

#: Class tokens, registers and the like stand before the tokens of the grid; more than this many are not guessed.
MAX_LEADING: Final = 8


@dataclass(frozen=True)
class Layout:
    """A grid within an output whose first axis is the batch.

    Attributes:
        kind: "first" (B, C, h, w), "last" (B, h, w, C) or "tokens" (B, leading + h w, C).
        rows: h.
        columns: w.
        leading: tokens before those of the grid.

    >>> import torch
    >>> Layout("tokens", 1, 2, 1).to_grid(torch.arange(6.0).reshape(1, 3, 2)).tolist()
    [[[[2.0, 4.0]], [[3.0, 5.0]]]]
    """

    kind: Literal["first", "last", "tokens"]
    rows: int
    columns: int
    leading: int = 0

    @property
    def side(self) -> int:
        """The shorter side, in cells."""
        return min(self.rows, self.columns)

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.rows * self.columns

    @property
    def channel_axis(self) -> int:
        """The axis of the channels in the layer's own output."""
        return 1 if self.kind == "first" else -1

    def to_grid(self, output: Tensor) -> Tensor:
        """The layer's output, or a gradient of its shape, as (B, C, h, w)."""
        if self.kind == "first":
            return output
        if self.kind == "tokens":
            output = output[:, self.leading :].reshape(len(output), self.rows, self.columns, -1)
        return output.movedim(-1, 1)


def layout_of(
    shape: tuple[int, ...], part: nn.Module, grid: tuple[int, int], token_grid: tuple[int, int] | None = None
) -> Layout | None:
    """The layout of a layer's output, or None where it has no grid that is known.

    Convolutions and linear layers leave no doubt where the channels stand. For any other part the axes with the
    proportions of the network's input are its grid; with two readings the usual one, channels first, is taken.

    Args:
        shape: of the output, the batch first.
        part: the module that gave it.
        grid: (H, W) of the network's input.
        token_grid: (h, w) that tokens lie on, or None to find it from their number and the proportions of the input.

    Raises:
        UsageError: more cells than tokens, or far fewer.

    >>> layout_of((1, 197, 64), nn.LayerNorm(64), (224, 224))
    Layout(kind='tokens', rows=14, columns=14, leading=1)
    >>> layout_of((1, 12, 16, 96), nn.LayerNorm(96), (48, 64)).kind
    'last'
    """
    if len(shape) == 3:
        return _tokens(shape[1], grid, token_grid)
    if len(shape) != 4:
        return None
    _, first, second, third = shape
    known = _known(part)
    if known is None:
        last = third > 1 and _alike(first, second, grid) and not _alike(second, third, grid)
        known = "last" if last else "first"
    return Layout("last", first, second) if known == "last" else Layout("first", second, third)


def channels_stand_last(part: nn.Module) -> bool:
    """Whether a module certainly keeps its channels on the last axis."""
    return _known(part) == "last"


def _known(part: nn.Module) -> Literal["first", "last"] | None:
    if isinstance(part, (nn.Linear, nn.LayerNorm)):
        return "last"
    of_channels = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d)
    of_grids = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample)
    return "first" if isinstance(part, of_channels + of_grids) else None


def _alike(rows: int, columns: int, grid: tuple[int, int]) -> bool:
    """Whether a grid has the proportions of another, up to rounding by a cell."""
    return abs(rows * grid[1] - columns * grid[0]) < max(grid)


def _tokens(count: int, grid: tuple[int, int], token_grid: tuple[int, int] | None) -> Layout | None:
    if token_grid is not None:
        rows, columns = token_grid
        if not 0 <= count - rows * columns <= MAX_LEADING or min(token_grid) < 1:
            raise UsageError(
                "the layer has other tokens than the grid has cells",
                where="token_grid",
                got=f"{rows} x {columns}",
                allowed=f"{count} cells, or up to {MAX_LEADING} fewer where other tokens stand first",
            )
        return Layout("tokens", rows, columns, count - rows * columns)
    found = []
    for leading in range(min(MAX_LEADING + 1, count)):
        cells = count - leading
        rows = max(1, round(math.sqrt(cells * grid[0] / grid[1])))
        columns = cells // rows
        if rows * columns == cells and _alike(rows, columns, grid):
            found.append((rows * grid[1] != columns * grid[0], leading, rows, columns))
    if not found:
        return None
    _, leading, rows, columns = min(found)  # the exact proportions before nearly those
    return Layout("tokens", rows, columns, leading)
