"""Effects of cells from responses to masks: weighted least squares with a penalty, for all targets at once.

Regressing in the mask's own grid separates each cell from the chance company that it was shown in, which a plain
average leaves to the number of masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from xaiseg.errors import UsageError

#: Penalties that are tried, as shares of the largest eigenvalue of the masks' covariance.
PENALTIES: Final = tuple(10.0**power for power in np.arange(-6, 2.01, 0.5))

#: Share of a cell's prior variance that it shares with no neighbour; it also keeps the covariance invertible.
OWN: Final = 0.02

#: A penalty must leave this share of the masks as residual degrees of freedom to be chosen.
LEAST_FREE: Final = 0.05


@dataclass(frozen=True)
class Effects:
    """Effects of d cells on T scores.

    Attributes:
        values: (d, T) float64, the change of the score as a cell goes from hidden to shown.
        variances: (d, T) float64, squared standard errors.
        intercepts: (T,) float64, the score with everything hidden, by the straight line.
        penalties: (T,) float64, lambda as used.
    """

    values: np.ndarray
    variances: np.ndarray
    intercepts: np.ndarray
    penalties: np.ndarray


def ridge(
    rows: np.ndarray,
    scores: np.ndarray,
    *,
    penalties: Sequence[float] = PENALTIES,
    weights: np.ndarray | None = None,
    prior: np.ndarray | None = None,
) -> Effects:
    """The penalised straight line (Z'WZ + lambda I)^-1 Z'WY with a free intercept, for each target its own lambda.

    One eigendecomposition serves all targets and penalties. Lambda is the one with the smallest generalised
    cross-validation score n RSS / (n - df)^2 (G. Golub, M. Heath, G. Wahba, Technometrics 1979).

    The variance has two parts. With A = (Z'WZ + lambda I)^-1 and s^2 = RSS / (n - df), noise gives s^2 A Z'WZ A, and
    what the penalty leaves out gives t^2 lambda^2 A A, where t^2 is the variance of the effects. With t^2 = s^2 /
    lambda, at which the penalty is the best one, their sum is s^2 A, which covers the truth on average over cells
    (G. Wahba, JRSS B 1983). But where masks do not tell cells apart a line can leave no residual at all and still be
    wrong, so t^2 is no less than the effects themselves say: |b|^2 / df (D. MacKay, Neural Computation 1992).

    Args:
        rows: (n, d) cells of masks.
        scores: (n, T).
        penalties: candidates, as shares of the largest eigenvalue of Z'WZ / n, times n; one = no choice.
        weights: (n,) positive, or None = all 1.
        prior: (d, d) a matrix L: effects are then penalised as if their covariance were L L', not I, so that cells
            which it ties together share strength.

    Raises:
        UsageError: fewer than three masks.

    >>> rows = np.array([[0, 0], [0, 1], [1, 0], [1, 1.0]])
    >>> ridge(rows, rows @ [[2.0], [-1.0]], penalties=[1e-12]).values.round(6).tolist()
    [[2.0], [-1.0]]
    """
    count = len(rows)
    if count < 3:
        raise UsageError("too few masks for a regression", where="masks", got=count, allowed="3 or more")
    weight = np.ones(count) if weights is None else weights * (count / weights.sum())
    root = np.sqrt(weight)[:, None]
    centre, mean = weight @ rows / count, weight @ scores / count
    z, y = root * (rows - centre), root * (scores - mean)
    z = z if prior is None else z @ prior
    spectrum, basis = np.linalg.eigh(z.T @ z)
    spectrum = spectrum.clip(min=0)
    turned = basis.T @ (z.T @ y)
    scale = float(spectrum[-1]) or 1.0
    lambdas = np.array([penalty * scale for penalty in penalties])
    left, free = _residuals(spectrum, turned, (y**2).sum(axis=0), lambdas, count)
    # With no freedom left the line passes through every point, whatever it is worth.
    usable = (free >= LEAST_FREE * count) | (free == free.max())
    best = np.argmin(np.where(usable[:, None], left / free[:, None] ** 2, np.inf), axis=0)
    chosen = lambdas[best]
    shrunk = 1.0 / (spectrum[:, None] + chosen)
    back = basis if prior is None else prior @ basis
    values = back @ (turned * shrunk)
    noise = left[best, np.arange(len(best))] / free[best]
    fitted = (spectrum[:, None] * shrunk).sum(axis=0)
    effects = ((turned * shrunk) ** 2).sum(axis=0) / np.maximum(fitted, 1e-9)
    hidden = np.maximum(effects - noise / chosen, 0.0) * (chosen * shrunk) ** 2
    variances = (back**2) @ (shrunk * noise + hidden)
    return Effects(values, variances, mean - centre @ values, chosen)


def smooth_prior(centres: np.ndarray, reach: float) -> np.ndarray:
    """(d, d) L of effects that change smoothly: L L' = exp(-distance^2 / (2 reach^2)) plus a little of their own.

    Args:
        centres: (d, 2) places of the cells.
        reach: distance, in the same unit, over which effects stay alike; 0 = each cell for itself.

    >>> smooth_prior(np.array([[0.0, 0.0], [9.0, 9.0]]), 0).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if reach == 0:
        return np.eye(len(centres))
    squares = ((centres[:, None] - centres) ** 2).sum(axis=2)
    covariance = np.exp(-squares / (2 * reach**2)) + OWN * np.eye(len(centres))
    return np.asarray(np.linalg.cholesky(covariance))


def _residuals(
    spectrum: np.ndarray, turned: np.ndarray, total: np.ndarray, lambdas: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Residual sums of squares (L, T) and residual degrees of freedom (L,) for each lambda."""
    shrunk = 1.0 / (spectrum + lambdas[:, None])
    # |y - Zb|^2 = y'y - 2 b'Z'y + b'Z'Zb, all in the eigenbasis.
    explained = (2 * shrunk - spectrum * shrunk**2) @ turned**2
    free = count - 1 - (spectrum * shrunk).sum(axis=1)
    return np.maximum(total - explained, 0.0), np.maximum(free, 1e-9)
