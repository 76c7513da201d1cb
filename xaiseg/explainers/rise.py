"""RISE and ridge: which cells raise the score when they are shown, from random masks. Need nothing but predictions.

V. Petsiuk, A. Das, K. Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, for a
dense target: the weight of a mask is the target's score. The plain average converges slowly, because the score of a
mask depends on all its cells. Balanced masks (Sobol), or a regression on the cells, give the same map from fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xaiseg.errors import UsageError
from xaiseg.explainers.bank import Responses
from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.cells import GridCells, Offsets, grid_cells
from xaiseg.explainers.masks import DRAWN, Design
from xaiseg.explainers.regression import ridge as fit
from xaiseg.explainers.regression import smooth_prior
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.stopping import CellMap, Stop, sampled_notes, settle
from xaiseg.explainers.targets import Target


@dataclass(frozen=True)
class RiseParams:
    """Parameters of RISE.

    Attributes:
        masks: at most this many forwards.
        average: "published" weighs masks by their scores; "centred" by their scores less the mean score, which has the
            same expectation up to a constant and less noise.
        sampling: "bernoulli", "antithetic" or "sobol".
        grid: cells a side.
        keep: chance that a cell is shown.
        offsets: see :class:`~xaiseg.explainers.masks.Design`; "random" as published.
        baseline: what hidden pixels show.
        agreement: see :class:`~xaiseg.explainers.stopping.Stop`.
        precision: see :class:`~xaiseg.explainers.stopping.Stop`.
    """

    masks: int = 2048
    average: Literal["centred", "published"] = "centred"
    sampling: Literal["bernoulli", "antithetic", "sobol"] = "sobol"
    grid: int = 8
    keep: float = 0.5
    offsets: Offsets = 4
    baseline: Replacement = "mean"
    agreement: float = 0.95
    precision: float | None = None

    def __post_init__(self) -> None:
        if self.average not in ("centred", "published"):
            raise UsageError("no such average", where="rise.average", got=self.average, allowed="centred, published")


@dataclass(frozen=True)
class RidgeParams:
    """Parameters of ridge: as of RISE, with fixed positions, and without an average.

    Attributes:
        masks: at most this many forwards.
        smoothing: effects stay alike over this distance, in cells; 0 = each cell for itself.
        sampling: "bernoulli", "antithetic" or "sobol".
        grid: cells a side.
        keep: chance that a cell is shown.
        offsets: see :class:`~xaiseg.explainers.masks.Design`.
        baseline: what hidden pixels show.
        agreement: see :class:`~xaiseg.explainers.stopping.Stop`.
        precision: see :class:`~xaiseg.explainers.stopping.Stop`.
    """

    masks: int = 2048
    smoothing: float = 0.75
    sampling: Literal["bernoulli", "antithetic", "sobol"] = "sobol"
    grid: int = 8
    keep: float = 0.5
    offsets: Literal[1, 2, 4] = 4
    baseline: Replacement = "mean"
    agreement: float = 0.95
    precision: float | None = None

    def __post_init__(self) -> None:
        if self.offsets not in (1, 2, 4):
            raise UsageError("ridge needs fixed positions", where="ridge.offsets", got=self.offsets, allowed="1, 2, 4")
        if self.smoothing < 0:
            raise UsageError(
                "the distance is negative", where="ridge.smoothing", got=self.smoothing, allowed="0 or more"
            )


@explainer("rise", needs={"scores"}, unit="logit", params=RiseParams, forwards=lambda params: params.masks)
def rise(session: Session, targets: Sequence[Target], *, params: RiseParams) -> Attribution:
    """The mean of masks weighted by the score, over the chance to be shown: E[S M(x)] / p.

    A pixel's value is the mean score where the pixel is shown; centred, its excess over the mean score.
    """
    centred = params.average == "centred"
    return _sampled(session, targets, params, lambda responses: averaged(responses, params.keep, centred=centred))


@explainer("ridge", needs={"scores"}, unit="logit per cell", params=RidgeParams, forwards=lambda params: params.masks)
def ridge(session: Session, targets: Sequence[Target], *, params: RidgeParams) -> Attribution:
    """The change of the score as a cell goes from hidden to shown, from a ridge regression on the cells.

    One regression for the cells at all positions of the grid; the map is the mean over positions. (1 - p) times this
    map is what the centred RISE converges to.
    """
    shape = (session.image.shape[1], session.image.shape[2])
    cells = grid_cells(shape, params.grid, params.offsets)
    return _sampled(session, targets, params, lambda responses: regressed(responses, cells, params.smoothing))


def averaged(responses: Responses, keep: float, *, centred: bool = True) -> CellMap:
    """RISE in cells, one grid a position.

    >>> responses = Responses(np.array([[0.0], [1.0]]), np.array([0, 0]), np.array([[1.0], [3.0]]))
    >>> averaged(responses, 0.5).values.tolist(), averaged(responses, 0.5, centred=False).values.tolist()
    ([[[1.0]]], [[[3.0]]])
    """
    excess = responses.scores - responses.scores.mean(axis=0)
    weights = excess if centred else responses.scores
    groups, places = np.unique(responses.groups, return_inverse=True)
    share = len(responses) * keep
    values = [responses.rows[places == k].T @ weights[places == k] / share for k in range(len(groups))]
    squares = [((responses.rows - keep) ** 2)[places == k].T @ excess[places == k] ** 2 for k in range(len(groups))]
    return CellMap(np.stack(values), np.stack(squares) / share**2, groups)


def regressed(responses: Responses, cells: GridCells, smoothing: float) -> CellMap:
    """Ridge in cells: one regression on the cells of all positions, each position with its own mean and an equal share.

    Args:
        responses: masks at fixed positions.
        cells: their cells.
        smoothing: distance over which effects stay alike, in cells; 0 = none.
    """
    groups = np.unique(responses.groups)
    wide = np.zeros((len(responses), len(groups), cells.count))
    scores = responses.scores.copy()
    for place, group in enumerate(groups):
        mine = responses.groups == group
        wide[mine, place] = responses.rows[mine] - responses.rows[mine].mean(axis=0)
        scores[mine] -= scores[mine].mean(axis=0)
    prior = smooth_prior(cells.centres()[groups].reshape(-1, 2), smoothing)
    found = fit(wide.reshape(len(responses), -1), scores, prior=prior)
    values, variances = (each.reshape(len(groups), cells.count, -1) for each in (found.values, found.variances))
    # Neighbours that share strength err together, and the square of a mean is at most the mean of the squares; without
    # smoothing positions are independent.
    return CellMap(values / len(groups), variances / len(groups) ** (1 if smoothing else 2), groups)


def _sampled(
    session: Session,
    targets: Sequence[Target],
    params: RiseParams | RidgeParams,
    estimate: Callable[[Responses], CellMap],
) -> Attribution:
    design = Design(params.sampling, params.grid, params.keep, params.offsets)
    bank = session.bank(design, params.baseline)
    stop = Stop(params.masks, agreement=params.agreement, precision=params.precision)
    settled = settle(bank, targets, estimate, stop)
    drawn = f"{DRAWN[params.sampling]} of {params.grid} x {params.grid} cells at {params.offsets} positions"
    notes = [f"{drawn}; a hidden cell shows {DESCRIPTION[params.baseline]}", *sampled_notes(targets, settled, stop)]
    return Attribution(
        np.stack([each.values for each in settled]).astype(np.float32),
        stderr=np.stack([each.stderr for each in settled]).astype(np.float32),
        notes=tuple(notes),
    )
