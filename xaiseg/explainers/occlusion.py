"""Occlusion: hide one cell of a grid at a time and watch the score fall. Needs nothing but predictions.

M. D. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014. Coarse to fine: cells that
hold most of the effect are cut in four and hidden again, quarter by quarter, so that forwards go where it matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.targets import Target

#: (top, bottom, left, right) px.
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class OcclusionParams:
    """Parameters of occlusion.

    Attributes:
        grid: the image is cut into grid x grid cells (fewer along a side that has fewer pixels).
        baseline: what a hidden cell shows.
        refine: how often cells may be cut in four; 0 = one grid.
        left: cells are cut, largest effect first, until the uncut ones hold this share of the sum of all effects.
    """

    grid: int = 8
    baseline: Replacement = "mean"
    refine: int = 0
    left: float = 0.2

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise UsageError("a grid needs cells", where="occlusion.grid", got=self.grid, allowed="1 or more")
        if not 0 <= self.refine <= 8:
            raise UsageError("cells cannot be cut so", where="occlusion.refine", got=self.refine, allowed="0 to 8")
        if not 0 <= self.left < 1:
            raise UsageError("no such share", where="occlusion.left", got=self.left, allowed="0 or more, below 1")


def _most(params: OcclusionParams) -> int:
    """The image, and all cells of every grid."""
    return 1 + params.grid * params.grid * sum(1 << 2 * depth for depth in range(params.refine + 1))


@explainer("occlusion", needs={"scores"}, unit="logit", params=OcclusionParams, forwards=_most)
def occlusion(session: Session, targets: Sequence[Target], *, params: OcclusionParams) -> Attribution:
    """S(image) - S(image with the cell hidden), constant within each cell; one forward a cell for all targets.

    A cell that was cut equals the fine grid's cells there exactly; the effect of an uncut one is shared evenly by the
    pixels of the finest grid, so that the map keeps one scale.
    """
    rows, columns = (_edges(side, params.grid, params.refine) for side in session.image.shape[1:])
    step = 2**params.refine
    cells = [(i, j) for i in range(0, len(rows) - 1, step) for j in range(0, len(columns) - 1, step)]
    described = f"{(len(rows) - 1) // step} x {(len(columns) - 1) // step} cells"
    values = np.zeros((len(targets), *session.image.shape[1:]))
    whole = np.array([session.score(target) for target in targets])
    hidden = session.baseline(params.baseline)
    counts = []
    while cells:
        boxes = [(rows[i], rows[i + step], columns[j], columns[j + step]) for i, j in cells]
        drops = whole - session.scores(_occluded(session.image, hidden, boxes), targets)
        counts.append(len(cells))
        for box, (i, j), drop in zip(boxes, cells, drops, strict=True):
            fine = _filled(rows[i : i + step + 1]) * _filled(columns[j : j + step + 1])
            values[:, box[0] : box[1], box[2] : box[3]] = (drop / fine)[:, None, None]
        cells = _cut(cells, drops, step, params.left) if step > 1 else []
        step //= 2
        cells = (
            [(i, j) for i, j in cells if rows[i] < rows[i + step] and columns[j] < columns[j + step]] if step else []
        )
    described += f"; a hidden cell shows {DESCRIPTION[params.baseline]}"
    deeper = [f"cut in four {params.refine} times where the effect is: {' + '.join(map(str, counts))} forwards"]
    return Attribution(values.astype(np.float32), notes=(described, *(deeper if params.refine else [])))


def _edges(side: int, cells: int, refine: int) -> list[int]:
    """Edges of the finest cells; those of the coarser grids are every 2nd, 4th ... of them. Fine cells may be empty."""
    edges = np.linspace(0, side, min(cells, side) * 2**refine + 1).round().astype(int)
    return [int(edge) for edge in edges]


def _filled(edges: list[int]) -> int:
    """How many of the finest cells between these edges hold a pixel."""
    return int((np.diff(edges) > 0).sum())


def _cut(cells: list[tuple[int, int]], drops: np.ndarray, step: int, left: float) -> list[tuple[int, int]]:
    """Quarters of the cells that, for some target, must be cut for the rest to hold no more than ``left``."""
    effects = np.abs(drops)
    order = np.argsort(-effects, axis=0, kind="stable")
    ordered = np.take_along_axis(effects, order, axis=0)
    before = np.cumsum(ordered, axis=0) - ordered
    chosen = np.zeros(effects.shape, dtype=bool)
    np.put_along_axis(chosen, order, (ordered > 0) & (before < (1 - left) * effects.sum(axis=0)), axis=0)
    half = step // 2
    return [
        (i + down, j + across)
        for (i, j), wanted in zip(cells, np.asarray(chosen.any(axis=1)).tolist(), strict=True)
        if wanted
        for down in (0, half)
        for across in (0, half)
    ]


def _occluded(image: Tensor, hidden: Tensor, boxes: Sequence[Box]) -> Iterator[Tensor]:
    for top, bottom, left, right in boxes:
        changed = image.clone()
        changed[:, top:bottom, left:right] = hidden[:, top:bottom, left:right]
        yield changed
