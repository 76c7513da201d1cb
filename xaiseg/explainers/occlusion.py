"""Occlusion: hide one cell of a grid at a time and watch the score fall. Needs nothing but predictions.

M. D. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.replacement import DESCRIPTION, Replacement, replacement
from xaiseg.explainers.targets import Target


@dataclass(frozen=True)
class OcclusionParams:
    """Parameters of occlusion.

    Attributes:
        grid: the image is cut into grid x grid cells (fewer along a side that has fewer pixels).
        baseline: what a hidden cell shows.
    """

    grid: int = 8
    baseline: Replacement = "mean"


@explainer("occlusion", needs={"scores"}, unit="logit", params=OcclusionParams)
def occlusion(session: Session, targets: Sequence[Target], *, params: OcclusionParams) -> Attribution:
    """S(image) - S(image with the cell hidden), constant within each cell; one forward a cell for all targets."""
    hidden = replacement(session.image, params.baseline)
    rows, columns = (_edges(side, params.grid) for side in session.image.shape[1:])
    scores = session.scores(_occluded(session.image, hidden, rows, columns), targets)
    whole = np.array([session.score(target) for target in targets])
    drops = (whole[:, None] - scores.T).reshape(len(targets), len(rows) - 1, len(columns) - 1)
    values = drops.repeat(np.diff(rows), axis=1).repeat(np.diff(columns), axis=2)
    cells = f"{len(rows) - 1} x {len(columns) - 1} cells"
    return Attribution(
        values.astype(np.float32), notes=(f"{cells}; a hidden cell shows {DESCRIPTION[params.baseline]}",)
    )


def _edges(side: int, cells: int) -> np.ndarray:
    return np.linspace(0, side, min(cells, side) + 1).round().astype(int)


def _occluded(image: Tensor, hidden: Tensor, rows: np.ndarray, columns: np.ndarray) -> Iterator[Tensor]:
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            changed = image.clone()
            changed[:, top:bottom, left:right] = hidden[:, top:bottom, left:right]
            yield changed
