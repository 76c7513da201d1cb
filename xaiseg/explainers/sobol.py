"""Sobol total indices and HSIC: how much of the score's movement a cell takes part in, interactions included, unsigned.

T. Fel et al., "Look at the Variance! Efficient Black-box Explanations with Sobol-based Sensitivity Analysis", NeurIPS
2021. P. Novello, T. Fel, D. Vigouroux, "Making Sense of Dependence: Efficient Black-box Explanations Using Dependence
Measure", NeurIPS 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from xaiseg.errors import UsageError
from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.masks import Design
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.stopping import CellMap, painted
from xaiseg.explainers.targets import Target

#: Groups of masks that are left out in turn for the standard error of HSIC.
FOLDS: Final = 10


@dataclass(frozen=True)
class SobolParams:
    """Parameters of the total indices.

    Attributes:
        designs: quasi-random starting points; each costs (cells + 2) forwards.
        grid: cells a side.
        baseline: what hidden cells show.
    """

    designs: int = 32
    grid: int = 8
    baseline: Replacement = "mean"

    def __post_init__(self) -> None:
        if self.designs < 4:
            raise UsageError("too few designs", where="sobol.designs", got=self.designs, allowed="4 or more")


@dataclass(frozen=True)
class HsicParams:
    """Parameters of HSIC.

    Attributes:
        masks: forwards.
        grid: cells a side.
        baseline: what hidden cells show.
    """

    masks: int = 512
    grid: int = 8
    baseline: Replacement = "mean"

    def __post_init__(self) -> None:
        if self.masks < 4 * FOLDS:
            raise UsageError("too few masks", where="hsic.masks", got=self.masks, allowed=f"{4 * FOLDS} or more")


@explainer(
    "sobol", needs={"scores"}, unit="share of variance", params=SobolParams,
    forwards=lambda params: params.designs * (params.grid**2 + 2),
)  # fmt: skip
def sobol(session: Session, targets: Sequence[Target], *, params: SobolParams) -> Attribution:
    """Total indices by Jansen's estimator over masks with cells anywhere between hidden and shown."""
    bank = session.bank(Design("jansen", params.grid, offsets=1), params.baseline)
    size = bank.cells.count + 2
    responses = bank.responses(targets, params.designs * size)
    values, variances = jansen(responses.scores.reshape(params.designs, size, -1))
    maps, errors = painted(bank, CellMap(values[None], variances[None], np.zeros(1, dtype=np.int64)))
    cells = f"{params.designs} designs of {bank.cells.count} cells, {len(responses):,} masks"
    notes = (f"{cells}; a hidden cell shows {DESCRIPTION[params.baseline]}", UNSIGNED)
    return Attribution(maps.astype(np.float32), stderr=errors.astype(np.float32), notes=notes)


@explainer("hsic", needs={"scores"}, unit="HSIC", params=HsicParams, forwards=lambda params: params.masks)
def hsic(session: Session, targets: Sequence[Target], *, params: HsicParams) -> Attribution:
    """The dependence between a cell being shown and the score, by the Hilbert-Schmidt independence criterion."""
    bank = session.bank(Design("sobol", params.grid, offsets=1), params.baseline)
    responses = bank.responses(targets, params.masks)
    found = [_jackknifed(responses.rows.astype(np.float64), scores) for scores in responses.scores.T]
    values, variances = (np.stack(each, axis=1) for each in zip(*found, strict=True))
    maps, errors = painted(bank, CellMap(values[None], variances[None], np.zeros(1, dtype=np.int64)))
    cells = f"{params.masks:,} Sobol masks of {bank.cells.count} cells"
    notes = (f"{cells}; a hidden cell shows {DESCRIPTION[params.baseline]}", UNSIGNED)
    return Attribution(maps.astype(np.float32), stderr=errors.astype(np.float32), notes=notes)


#: What a reader of such a map must know.
UNSIGNED: Final = "unsigned: a cell that lowers the score counts like one that raises it"


def jansen(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Total indices ST_j = E[(f(A) - f(A with cell j from B))^2] / (2 V), V over all A and B.

    Args:
        scores: (n, d + 2, T): f(A), f(B), and f of the d mixtures, n times.

    Returns:
        (d, T) indices and their squared standard errors with V taken as known; 0 where the score does not move.

    >>> a, b = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    >>> jansen(np.stack([a, b, b], axis=1)[:, :, None])[0].tolist()
    [[2.0]]
    """
    spread = scores[:, :2].reshape(-1, scores.shape[2]).var(axis=0)
    known = np.where(spread > 0, spread, np.inf)
    halves = (scores[:, :1] - scores[:, 2:]) ** 2 / (2 * known)
    return halves.mean(axis=0), halves.var(axis=0, ddof=1) / len(scores)


def dependence(rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """HSIC of each cell with the score: tr(K H L H) / (n - 1)^2.

    K is the kernel 1/2 - (a - b)^2 of two states 0 and 1, L the Gaussian kernel of scores with the median distance as
    its width, H centres. K is 1/2 of the product of signs s = 2 z - 1, so that all cells cost one product s' H L H s.

    Args:
        rows: (n, d) of 0 and 1.
        scores: (n,).

    Returns:
        (d,), 0 or more.

    >>> dependence(np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0.0, 0, 1, 1])).round(3).tolist()
    [0.175, 0.0]
    """
    distances = np.abs(scores[:, None] - scores)
    median = float(np.median(distances[np.triu_indices(len(scores), 1)])) or float(distances.max())
    if median == 0:
        return np.zeros(rows.shape[1])
    kernel = np.exp(-(distances**2) / (2 * median**2))
    signs = 2 * rows - 1
    signs -= signs.mean(axis=0)
    return np.asarray(np.einsum("nd,nd->d", signs, kernel @ signs) / 2 / (len(scores) - 1) ** 2)


def _jackknifed(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (d,) of all masks, and squared standard errors (d,) from leaving out a tenth of them at a time."""
    folds = np.arange(len(scores)) * FOLDS // len(scores)
    without = np.stack([dependence(rows[folds != fold], scores[folds != fold]) for fold in range(FOLDS)])
    return dependence(rows, scores), (FOLDS - 1) * without.var(axis=0)
