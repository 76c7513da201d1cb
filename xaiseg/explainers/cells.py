"""Cells: what a mask is made of, and how values of cells become pixels.

Painting is linear, so a map that is a sum over masks is summed in cells and painted once: memory holds d numbers a mask
and one batch of pixels, whatever the number of masks.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import UsageError

Offsets = Literal[1, 2, 4, "random"]

#: Where fixed grids may begin, in cells from the edge of the image: two grids lie half a cell apart.
FIXED: Final[dict[int, tuple[float, ...]]] = {1: (0.0,), 2: (-0.25, 0.25), 4: (-0.25, 0.25)}

#: Which of those places, down and across, the fixed grids take.
PLACES: Final[dict[int, tuple[tuple[int, int], ...]]] = {
    1: ((0, 0),),
    2: ((0, 0), (1, 1)),
    4: ((0, 0), (0, 1), (1, 0), (1, 1)),
}


class Cells(Protocol):
    """The cells of one image."""

    @property
    def count(self) -> int:
        """Number d of cells of a mask."""

    @property
    def groups(self) -> int:
        """Number G of positions that the cells can lie at."""

    @property
    def streams(self) -> int:
        """Number of independent sequences of masks that take turns: G for fixed positions, 1 for random ones."""

    def masks(self, rows: np.ndarray, groups: np.ndarray, device: torch.device) -> Tensor:
        """Pixels of masks: rows (n, d) in [0, 1] and their groups (n,) -> (n, H, W) float32."""

    def paint(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """The sum over k of maps: values (k, d, T) at the positions ``groups`` (k,) -> (T, H, W) float64."""

    def coarse(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """As :meth:`paint`, on few points only (T, n): enough to compare two maps."""


@dataclass(frozen=True, eq=False)
class Segments:
    """A label map whose labels stand or fall together; equal maps are equal keys.

    Attributes:
        labels: (H, W) int64, 0 ... d - 1, every label present.

    >>> Segments.of(np.array([[7, 7, 2]])).labels.tolist()
    [[1, 1, 0]]
    """

    labels: np.ndarray

    @classmethod
    def of(cls, labels: np.ndarray) -> Segments:
        """Any whole numbers (H, W) as segments 0 ... d - 1.

        Raises:
            UsageError: it is no (H, W) array of whole numbers.
        """
        if labels.ndim != 2 or not labels.size or labels.dtype.kind not in "biu":
            got = f"{labels.shape} {labels.dtype}"
            raise UsageError("segments must be a (H, W) map of whole numbers", where="segments", got=got)
        found = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        return cls(np.ascontiguousarray(found, dtype=np.int64))

    @cached_property
    def count(self) -> int:
        """Number d of segments."""
        return int(self.labels.max()) + 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 of shape and labels."""
        return hashlib.sha256(repr(self.labels.shape).encode() + self.labels.tobytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Segments) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True)
class SegmentCells:
    """Segments as cells: a pixel is shown exactly as much as its segment."""

    segments: Segments
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if self.segments.labels.shape != self.shape:
            raise UsageError(
                "the segments have another size than the image",
                where="segments",
                got=self.segments.labels.shape,
                allowed=self.shape,
            )

    @property
    def count(self) -> int:
        """Number d of segments."""
        return self.segments.count

    @property
    def groups(self) -> int:
        """Segments lie where they lie."""
        return 1

    @property
    def streams(self) -> int:
        """See :class:`Cells`."""
        return 1

    def masks(self, rows: np.ndarray, groups: np.ndarray, device: torch.device) -> Tensor:
        """See :class:`Cells`; one gather for all segments."""
        labels = torch.from_numpy(self.segments.labels.ravel()).to(device)
        return torch.from_numpy(rows).to(device)[:, labels].reshape(len(rows), *self.shape)

    def paint(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """See :class:`Cells`."""
        return np.asarray(values.sum(axis=0).T[:, self.segments.labels], dtype=np.float64)

    def coarse(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """See :class:`Cells`."""
        return np.asarray(values.sum(axis=0).T)


@dataclass(frozen=True)
class GridCells:
    """A grid of rows x columns cells, painted bilinearly between the cells' centres.

    Attributes:
        shape: (H, W).
        rows: cells down.
        columns: cells across.
        pitch: (down, across) px between the centres of neighbours.
        starts: (down, across) px: the places where the first cell may begin, down and across.
        places: (down, across) indices into ``starts``, one pair a position.
        random: positions are drawn for each mask rather than taking turns.
    """

    shape: tuple[int, int]
    rows: int
    columns: int
    pitch: tuple[float, float]
    starts: tuple[tuple[float, ...], tuple[float, ...]]
    places: tuple[tuple[int, int], ...]
    random: bool = False

    @property
    def count(self) -> int:
        """Number d of cells."""
        return self.rows * self.columns

    @property
    def groups(self) -> int:
        """Number G of positions."""
        return len(self.places)

    @property
    def streams(self) -> int:
        """See :class:`Cells`."""
        return 1 if self.random else self.groups

    def masks(self, rows: np.ndarray, groups: np.ndarray, device: torch.device) -> Tensor:
        """See :class:`Cells`; two small matrix products a mask."""
        values = torch.from_numpy(rows).to(device).reshape(len(rows), self.rows, self.columns)
        places = self._places[groups]
        down, across = (
            weights[places[:, axis]].to(device) if len(weights) > 1 else weights.to(device)
            for axis, weights in enumerate(self._weights)
        )
        return down @ values @ across.transpose(1, 2)

    def paint(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """See :class:`Cells`."""
        return self._painted(values, groups, 1, 1)

    def coarse(self, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """See :class:`Cells`; four points a cell."""
        steps = (max(1, self.shape[0] // (2 * self.rows)), max(1, self.shape[1] // (2 * self.columns)))
        return self._painted(values, groups, *steps).reshape(values.shape[2], -1)

    def centres(self) -> np.ndarray:
        """(G, d, 2) where the cells lie, down and across, in pitches."""
        found = []
        for place in self.places:
            starts = [self.starts[axis][place[axis]] / self.pitch[axis] for axis in (0, 1)]
            down, across = np.indices((self.rows, self.columns))
            found.append(np.stack([down.ravel() + starts[0], across.ravel() + starts[1]], axis=1))
        return np.stack(found)

    def _painted(self, values: np.ndarray, groups: np.ndarray, row_step: int, column_step: int) -> np.ndarray:
        down = self._weights[0].numpy()[:, ::row_step].astype(np.float64)
        across = self._weights[1].numpy()[:, ::column_step].astype(np.float64)
        found = np.zeros((values.shape[2], down.shape[1], across.shape[1]))
        for each, group in zip(values, groups, strict=True):
            grids = np.moveaxis(each.reshape(self.rows, self.columns, -1), -1, 0)
            place = self.places[group]
            found += down[place[0]] @ grids @ across[place[1]].T
        return found

    @cached_property
    def _places(self) -> np.ndarray:
        return np.array(self.places)

    @cached_property
    def _weights(self) -> tuple[Tensor, Tensor]:
        """(places, H, rows) and (places, W, columns) float32: how much of each cell a pixel row or column shows."""
        found = [
            np.stack([_bilinear(self.shape[axis], cells, self.pitch[axis], start) for start in self.starts[axis]])
            for axis, cells in enumerate((self.rows, self.columns))
        ]
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def grid_cells(shape: tuple[int, int], grid: int, offsets: Offsets) -> GridCells:
    """A grid over an image (H, W).

    With fixed offsets the cells of all grids tile the image, those at its edges a quarter of a cell larger or smaller.
    With "random" the grid is stretched by one cell, as in the reference code of RISE, so that no shift bares an edge.

    >>> grid_cells((8, 16), 4, 4).starts
    ((-0.5, 0.5), (-1.0, 1.0))
    >>> grid_cells((3, 16), 4, 1).rows
    3
    """
    rows, columns = min(grid, shape[0]), min(grid, shape[1])
    if offsets != "random":
        pitch = (shape[0] / rows, shape[1] / columns)
        starts = tuple(tuple(part * each for part in FIXED[offsets]) for each in pitch)
        return GridCells(shape, rows, columns, pitch, (starts[0], starts[1]), PLACES[offsets])
    cell = (math.ceil(shape[0] / rows), math.ceil(shape[1] / columns))
    stretched = (cell[0] * (rows + 1) / rows, cell[1] * (columns + 1) / columns)
    shifts = [tuple(-float(shift) for shift in range(side)) for side in cell]
    places = tuple((down, across) for down in range(cell[0]) for across in range(cell[1]))
    return GridCells(shape, rows, columns, stretched, (shifts[0], shifts[1]), places, random=True)


def _bilinear(side: int, cells: int, pitch: float, start: float) -> np.ndarray:
    """(side, cells) float32: weights of linear interpolation between centres, constant beyond the outermost ones."""
    place = np.clip((np.arange(side) + 0.5 - start) / pitch - 0.5, 0, cells - 1)
    left = np.minimum(place.astype(int), max(cells - 2, 0))
    right = np.minimum(left + 1, cells - 1)
    weights = np.zeros((side, cells))
    np.add.at(weights, (np.arange(side), left), 1.0 - (place - left))
    np.add.at(weights, (np.arange(side), right), place - left)
    return weights.astype(np.float32)
