"""Seeded masks in their own grid: which cells of an image are kept, and how much of each pixel that leaves.

A mask is a row z of d numbers in [0, 1], one a cell (1 = the cell is shown, 0 = it is hidden), and stays one: pixels
are painted from it a batch at a time (see :mod:`xaiseg.explainers.cells`). Row i of a design is the same whatever the
batch, the number of rows asked for, and what was asked before, so that a bank can be extended.

RISE: V. Petsiuk, A. Das, K. Saenko, BMVC 2018. Sobol masks: T. Fel et al., "Look at the Variance!", NeurIPS 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from xaiseg.errors import UsageError
from xaiseg.explainers.cells import Cells, Offsets, SegmentCells, Segments, grid_cells
from xaiseg.seeds import derive_seed, generator

Sampling = Literal["bernoulli", "antithetic", "sobol", "shapley", "subsets", "jansen"]

#: What each way of drawing rows does, for notes and documents.
DRAWN: Final[dict[str, str]] = {
    "bernoulli": "independent masks",
    "antithetic": "masks in pairs, each with its complement",
    "sobol": "masks from a scrambled Sobol sequence",
    "shapley": "masks drawn from the Shapley kernel, each with its complement",
    "subsets": "all masks",
    "jansen": "two quasi-random masks and their mixtures, cell by cell",
}

#: Rows are drawn in blocks of this many, each block from a seed of its own.
BLOCK: Final = 256

#: `torch.quasirandom.SobolEngine` knows this many dimensions.
MOST_SOBOL: Final = 21201


@dataclass(frozen=True)
class Design:
    """How masks are made; a key of banks.

    Attributes:
        sampling: see :data:`DRAWN`.
        grid: cells a side (fewer along a side that has fewer pixels); not used with ``segments``.
        keep: the chance that a cell is shown; 0.5 for "antithetic", without meaning for "shapley", "subsets", "jansen".
        offsets: 1, 2 or 4 fixed grids that lie half a cell apart and take turns, so that no grid's edges show in the
            mean of their maps; or "random", a shift of whole pixels for each mask, as in the reference code of RISE.
        segments: regions that stand or fall together instead of the cells of a grid: superpixels, organs, classes.
    """

    sampling: Sampling = "bernoulli"
    grid: int = 8
    keep: float = 0.5
    offsets: Offsets = 4
    segments: Segments | None = None

    def __post_init__(self) -> None:
        problems: list[tuple[bool, str, object, object]] = [
            (self.sampling not in DRAWN, "sampling", self.sampling, ", ".join(DRAWN)),
            (self.grid < 1, "grid", self.grid, "1 or more"),
            (not 0 < self.keep < 1, "keep", self.keep, "above 0 and below 1"),
            (self.offsets not in (1, 2, 4, "random"), "offsets", self.offsets, "1, 2, 4, random"),
            (self.sampling == "antithetic" and self.keep != 0.5, "keep", self.keep, "0.5 with antithetic masks"),
        ]
        for wrong, where, got, allowed in problems:
            if wrong:
                raise UsageError("no masks can be made so", where=where, got=got, allowed=allowed)

    def cells(self, shape: tuple[int, int]) -> Cells:
        """The cells of an image (H, W).

        Raises:
            UsageError: the segments have another size than the image.
        """
        if self.segments is not None:
            return SegmentCells(self.segments, shape)
        return grid_cells(shape, self.grid, self.offsets)

    def rows(self, cells: Cells, seed: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Masks start ... stop - 1.

        Returns:
            (n, d) float32 in [0, 1], and (n,) int64: the group (offset) of each row.

        >>> design = Design(grid=2, offsets=1)
        >>> cells = design.cells((4, 4))
        >>> first, _ = design.rows(cells, 0, 0, 3)
        >>> later, _ = design.rows(cells, 0, 1, 9)
        >>> first.shape, bool((first[1:] == later[:2]).all())
        ((3, 4), True)
        """
        indices = np.arange(start, stop)
        streams = cells.streams
        found = np.empty((len(indices), cells.count), dtype=np.float32)
        for stream in range(streams):
            mine = indices % streams == stream
            if mine.any():
                local = indices[mine] // streams
                found[mine] = _stream(self, cells.count, seed, stream, int(local[0]), int(local[-1]) + 1)
        return found, _groups(cells, seed, indices)


def shapley_sizes(cells: int) -> np.ndarray:
    """(d - 1,) the chance of each number of shown cells 1 ... d - 1 under the Shapley kernel.

    The kernel gives every mask with k shown cells the weight (d - 1) / (C(d, k) k (d - k)), so all of them together
    weigh in proportion to 1 / (k (d - k)).

    >>> shapley_sizes(3).tolist()
    [0.5, 0.5]
    """
    sizes = np.arange(1, cells)
    weights = 1.0 / (sizes * (cells - sizes))
    return np.asarray(weights / weights.sum())


def _groups(cells: Cells, seed: int, indices: np.ndarray) -> np.ndarray:
    if cells.groups == cells.streams:
        return np.asarray(indices % cells.streams)
    # A random shift of whole pixels: one of many groups for each mask, from blocks so that any row can be had alone.
    blocks = range(int(indices[0]) // BLOCK, int(indices[-1]) // BLOCK + 1) if len(indices) else range(0)
    drawn = [generator(seed, "mask shifts", str(block)).integers(cells.groups, size=BLOCK) for block in blocks]
    joined = np.concatenate(drawn) if drawn else np.zeros(0, dtype=np.int64)
    return np.asarray(joined[indices - blocks.start * BLOCK])


def _stream(design: Design, cells: int, seed: int, stream: int, start: int, stop: int) -> np.ndarray:
    """Rows of one stream."""
    if design.sampling == "subsets":
        return _subsets(cells, start, stop)
    if design.sampling == "jansen":
        return _jansen(cells, seed, start, stop)
    if design.sampling == "sobol":
        return (_sobol(cells, seed, stream, start, stop) < design.keep).astype(np.float32)
    blocks = range(start // BLOCK, (stop - 1) // BLOCK + 1)
    drawn = [
        _block(design, cells, generator(seed, f"masks {design.sampling} {stream}", str(block))) for block in blocks
    ]
    return np.concatenate(drawn)[start - blocks.start * BLOCK : stop - blocks.start * BLOCK]


def _block(design: Design, cells: int, random: np.random.Generator) -> np.ndarray:
    """(BLOCK, d) rows of one seed."""
    if design.sampling == "bernoulli":
        return (random.random((BLOCK, cells)) < design.keep).astype(np.float32)
    half = BLOCK // 2
    if design.sampling == "antithetic":
        first = random.random((half, cells)) < 0.5
    else:
        sizes = random.choice(np.arange(1, cells), size=half, p=shapley_sizes(cells))
        first = random.random((half, cells)).argsort(axis=1).argsort(axis=1) < sizes[:, None]
    return np.stack([first, ~first], axis=1).reshape(BLOCK, cells).astype(np.float32)


def _subsets(cells: int, start: int, stop: int) -> np.ndarray:
    """All masks but the empty and the full one: row i shows the cells whose bits are set in i + 1."""
    if stop > 2**cells - 2:
        raise UsageError("there are no more masks", where="masks", got=stop, allowed=f"{2**cells - 2} or fewer")
    numbers = np.arange(start, stop)[:, None] + 1
    return np.asarray((numbers >> np.arange(cells)) & 1, dtype=np.float32)


def _sobol(dimensions: int, seed: int, stream: int, start: int, stop: int) -> np.ndarray:
    """Points start ... stop - 1 of a scrambled Sobol sequence in [0, 1)."""
    from torch.quasirandom import SobolEngine

    if dimensions > MOST_SOBOL:
        then = "use fewer cells or another sampling"
        raise UsageError("too many cells for Sobol masks", where="grid", got=dimensions, allowed=MOST_SOBOL, then=then)
    # Each stream has a scrambling of its own: every fourth point of one sequence would fill a corner of the cube.
    scrambling = derive_seed(seed, f"masks sobol {stream}")
    engine: Any = SobolEngine(dimensions, scramble=True, seed=scrambling)  # type: ignore[no-untyped-call]
    if start:
        engine.fast_forward(start)
    points: np.ndarray = engine.draw(stop - start).numpy()
    return points


def _jansen(cells: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Blocks of d + 2 rows: A, B, and A with cell j taken from B for each j."""
    size = cells + 2
    first, last = start // size, math.ceil(stop / size)
    points = _sobol(2 * cells, seed, 0, first, last)
    a, b = points[:, :cells], points[:, cells:]
    mixed = np.where(np.eye(cells, dtype=bool), b[:, None], a[:, None])
    blocks = np.concatenate([a[:, None], b[:, None], mixed], axis=1).reshape(-1, cells)
    return np.asarray(blocks[start - first * size : stop - first * size], dtype=np.float32)
