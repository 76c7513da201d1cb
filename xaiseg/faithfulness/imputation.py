"""Noisy linear imputation: a hidden pixel becomes the weighted mean of its eight neighbours, known or hidden alike.

Y. Rong, T. Leemann et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML 2022. All
hidden pixels follow from one sparse linear system. ``exact`` factorises it, once for all channels; ``fast`` takes some
steps of conjugate gradients, preconditioned by the exact solution at an eighth of the resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from xaiseg.errors import UsageError

Mode = Literal["exact", "fast"]

#: Weights of the neighbours: those that share an edge, then those that share a corner.
EDGE: Final = 1 / 6
CORNER: Final = 1 / 12
NEIGHBOURS: Final[tuple[tuple[int, int, float], ...]] = (
    (-1, 0, EDGE), (1, 0, EDGE), (0, -1, EDGE), (0, 1, EDGE),
    (-1, -1, CORNER), (-1, 1, CORNER), (1, -1, CORNER), (1, 1, CORNER),
)  # fmt: skip

#: The fast mode takes this many steps, helped by blocks of this many pixels a side. ROAD of real maps then differs by
#: less than 0.01 from the exact mode (``python -m benchmarks road``).
STEPS: Final = 10
BLOCK: Final = 8

#: Parts of an image that are no larger than this are not divided further when pixels are ordered.
LEAF: Final = 64


def impute(
    image: np.ndarray, hidden: np.ndarray, *, mode: Mode = "exact", noise: np.ndarray | None = None
) -> np.ndarray:
    """The image with its hidden pixels filled from the others.

    Args:
        image: (C, H, W).
        hidden: (H, W) bool.
        mode: see the module.
        noise: (C, H, W), added where pixels are hidden: without it a model could tell filled places by their
            smoothness. None = nothing.

    Returns:
        (C, H, W) float32. Where no pixel is known, hidden pixels show the mean of their channel.

    Raises:
        UsageError: an unknown mode, or a mask of another size.

    >>> impute(np.array([[[1.0, 9.0, 3.0]]]), np.array([[False, True, False]])).tolist()
    [[[1.0, 2.0, 3.0]]]
    """
    if mode not in ("exact", "fast"):
        raise UsageError("no such way of filling", where="road.mode", got=mode, allowed="exact, fast")
    if hidden.shape != image.shape[1:]:
        where = "hidden"
        raise UsageError(
            "the mask has another size than the image", where=where, got=hidden.shape, allowed=image.shape[1:]
        )
    filled = np.array(image, dtype=np.float32)
    if hidden.all():
        filled[:] = image.mean(axis=(1, 2), keepdims=True)
    elif hidden.any():
        filled[:, hidden] = _solved(image, hidden).T if mode == "exact" else _iterated(filled, hidden)
    if noise is not None:
        filled[:, hidden] += noise[:, hidden].astype(np.float32)
    return filled


def system(image: np.ndarray, hidden: np.ndarray) -> tuple[Any, np.ndarray]:
    """The linear system A z = b of the hidden pixels, in row-major order.

    Row i says: the sum of the weights of pixel i's neighbours within the image, times z_i, minus the weighted hidden
    neighbours, equals the weighted known neighbours. A is symmetric and positive definite where a pixel is known.

    Args:
        image: (C, H, W).
        hidden: (H, W) bool, n pixels.

    Returns:
        A, a (n, n) sparse matrix, and b (n, C) float64.
    """
    from scipy.sparse import coo_matrix

    channels, height, width = image.shape
    count = int(hidden.sum())
    numbers = np.full((height + 2, width + 2), -2)  # -2 = off the image, -1 = known
    numbers[1:-1, 1:-1] = -1
    numbers[1:-1, 1:-1][hidden] = np.arange(count)
    values = np.zeros((channels, height + 2, width + 2))
    values[:, 1:-1, 1:-1] = image
    centres = np.flatnonzero(numbers >= 0)
    numbers, values = numbers.ravel(), values.reshape(channels, -1)
    diagonal, right = np.zeros(count), np.zeros((count, channels))
    rows, columns, entries = [np.arange(count)], [np.arange(count)], [diagonal]
    for down, across, weight in NEIGHBOURS:
        places = centres + down * (width + 2) + across
        found = numbers[places]
        diagonal[found > -2] += weight
        unknown, known = np.flatnonzero(found >= 0), np.flatnonzero(found == -1)
        rows.append(unknown)
        columns.append(found[unknown])
        entries.append(np.full(len(unknown), -weight))
        right[known] += weight * values[:, places[known]].T
    places = (np.concatenate(rows), np.concatenate(columns))
    return coo_matrix((np.concatenate(entries), places), shape=(count, count)).tocsc(), right


def dissected(hidden: np.ndarray) -> np.ndarray:
    """(n,) an order of the hidden pixels in which elimination fills few entries: nested dissection.

    The longer side is halved by a line of pixels, which comes last; both halves are treated alike (A. George, SIAM
    Journal on Numerical Analysis 1973). A general ordering has to find out what the grid gives away.

    Args:
        hidden: (H, W) bool, n pixels.

    >>> sorted(dissected(np.ones((9, 9), dtype=bool)).tolist()) == list(range(81))
    True
    """
    rows, columns = np.nonzero(hidden)
    ordered: list[np.ndarray] = []
    parts = [np.arange(len(rows))]
    while parts:
        part = parts.pop()
        along = max((rows[part], columns[part]), key=lambda each: int(np.ptp(each)) if len(each) else 0)
        if len(part) <= LEAF or np.ptp(along) < 2:
            ordered.append(part)
            continue
        middle = int(np.clip(np.median(along), along.min() + 1, along.max() - 1))
        # Last comes first here: the whole order is turned round at the end.
        ordered.append(part[along == middle])
        parts += [part[along > middle], part[along < middle]]
    return np.concatenate(ordered[::-1])


def _solved(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(n, C), one factorisation for all channels."""
    matrix, right = system(image, hidden)
    order = dissected(hidden)
    found = np.empty_like(right)
    found[order] = _factorised(matrix, order).solve(right[order])
    return found


def _factorised(matrix: Any, order: np.ndarray) -> Any:
    """The factors of a symmetric, diagonally dominant matrix, which needs no pivots, in a given order."""
    from scipy.sparse.linalg import splu

    turned = matrix[order][:, order].tocsc()
    return splu(turned, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True})


def _iterated(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """(C, n) float32: conjugate gradients, from the mean of the known pixels on.

    The system is applied as a stencil to whole planes, so that no matrix is assembled. Each step is preconditioned by
    the diagonal and by the exact solution for functions that are constant on blocks, without which what is known on one
    side of a large hole would take as many steps to the other side as there are pixels between.
    """
    (height, width), pad = hidden.shape, [(0, -side % BLOCK) for side in hidden.shape]
    inside = np.pad(np.ones((1, height, width), dtype=np.float32), ((0, 0), *pad))
    total = _neighbours(inside)  # the sum of the weights of each pixel's neighbours within the image
    gone = np.pad(hidden, pad).astype(np.float32)
    start = np.where(hidden, image[:, ~hidden].mean(axis=1)[:, None, None], image)
    found = np.pad(start, ((0, 0), *pad)).astype(np.float32)
    blocks = _Blocks.of(gone, total[0])
    residual = (_neighbours(found) - total * found) * gone
    direction, before = np.zeros_like(found), np.ones((len(image), 1, 1), dtype=np.float32)
    for _ in range(STEPS):
        better = residual * gone / np.maximum(total, CORNER) + blocks.solved(residual) * gone
        size = (residual * better).sum(axis=(1, 2), keepdims=True)
        direction = better + size / before * direction
        moved = (total * direction - _neighbours(direction)) * gone
        step = size / np.maximum((direction * moved).sum(axis=(1, 2), keepdims=True), np.float32(1e-30))
        found += step * direction
        residual -= step * moved
        before = np.maximum(size, np.float32(1e-30))
    return np.asarray(found[:, :height, :width][:, hidden])


@dataclass(frozen=True)
class _Blocks:
    """The system for functions that are constant on the hidden part of each block.

    Attributes:
        active: (blocks down, blocks across) bool, blocks with a hidden pixel; m of them.
        order: (m,) order of elimination.
        factors: factorised matrix.
    """

    active: np.ndarray
    order: np.ndarray
    factors: Any

    @classmethod
    def of(cls, gone: np.ndarray, total: np.ndarray) -> _Blocks:
        """From the hidden pixels (H, W) and the sums of weights (H, W); both sides multiples of a block."""
        from scipy.sparse import coo_matrix

        hidden = gone > 0
        active = _sums(gone) > 0
        count, (down, across) = int(active.sum()), active.shape
        numbers = np.full((down + 2, across + 2), -1)
        numbers[1:-1, 1:-1][active] = np.arange(count)
        own, parts = numbers[1:-1, 1:-1], [(np.arange(count), np.arange(count), _sums(total * gone)[active])]
        for dy, dx, weights in _couplings(hidden):
            other = numbers[1 + dy : 1 + dy + down, 1 + dx : 1 + dx + across]
            joined = (own >= 0) & (other >= 0) & (weights > 0)
            parts.append((own[joined], other[joined], -weights[joined]))
        rows, columns, entries = (np.concatenate(each) for each in zip(*parts, strict=True))
        matrix = coo_matrix((entries.astype(np.float64), (rows, columns)), shape=(count, count)).tocsc()
        order = dissected(active)
        return cls(active, order, _factorised(matrix, order))

    def solved(self, residual: np.ndarray) -> np.ndarray:
        """The correction (C, H, W) float32 that makes the residual's sum over every block zero."""
        sums = _sums(residual)[:, self.active].T.astype(np.float64)
        values = np.empty_like(sums)
        values[self.order] = self.factors.solve(sums[self.order])
        coarse = np.zeros((len(residual), *self.active.shape), dtype=np.float32)
        coarse[:, self.active] = values.T
        return coarse.repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)


def _couplings(hidden: np.ndarray) -> Iterator[tuple[int, int, np.ndarray]]:
    """(blocks down, blocks across, weights): the weights between hidden pixels of blocks that far apart, summed."""
    height, width = hidden.shape
    padded = np.pad(hidden, 1)
    inner: dict[int, slice] = {0: slice(None), 1: slice(0, BLOCK - 1), -1: slice(1, BLOCK)}
    outer: dict[int, slice] = {1: slice(BLOCK - 1, BLOCK), -1: slice(0, 1)}
    for dy, dx, weight in NEIGHBOURS:
        both = hidden & padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        parts = both.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK)
        for down, rows in ((0, inner[dy]), *([(dy, outer[dy])] if dy else [])):
            for across, columns in ((0, inner[dx]), *([(dx, outer[dx])] if dx else [])):
                yield down, across, weight * parts[:, rows, :, columns].sum(axis=(1, 3))


def _sums(values: np.ndarray) -> np.ndarray:
    """Sums over blocks: (..., H, W) -> (..., H / BLOCK, W / BLOCK)."""
    *front, height, width = values.shape
    return np.asarray(values.reshape(*front, height // BLOCK, BLOCK, width // BLOCK, BLOCK).sum(axis=(-3, -1)))


def _neighbours(values: np.ndarray) -> np.ndarray:
    """(C, H, W): the weighted sum of the eight neighbours.

    12 x the weights are the outer product of (1, 2, 1) with itself, less 4 in the centre.
    """
    down = values + values
    down[:, 1:] += values[:, :-1]
    down[:, :-1] += values[:, 1:]
    both = down + down
    both[:, :, 1:] += down[:, :, :-1]
    both[:, :, :-1] += down[:, :, 1:]
    both -= 4 * values
    return np.asarray(both * np.float32(1 / 12))
