"""Do a map's amounts tell what hiding does? Infidelity and sensitivity-n, from masks that were run already.

Both compare what a map predicts for a perturbation with what the model answers. Infidelity: C.-K. Yeh et al., "On the
(In)fidelity and Sensitivity of Explanations", NeurIPS 2019. Sensitivity-n: M. Ancona et al., "Towards better
understanding of gradient-based attribution methods", ICLR 2018. A mask bank holds the pairs of mask and change of score
that they need, so where a method has filled a bank they cost no forward.

A masked image is x - (x - b)(1 - M). For a map of contributions the prediction is the sum of the map times 1 - M: the
contribution that the mask hides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from xaiseg.explainers.bank import MaskBank
from xaiseg.explainers.targets import Target

#: Masks painted at a time.
CHUNK = 64


@dataclass(frozen=True)
class Drops:
    """What maps predict for N masks, and what the model answered.

    Attributes:
        predicted: (N, M) float64, for each of M maps the sum of its values times the hidden share of each pixel.
        observed: (N,) float64, S of the image minus S of the masked image.
    """

    predicted: np.ndarray
    observed: np.ndarray


def drops(bank: MaskBank, target: Target, maps: Mapping[str, np.ndarray], count: int) -> Drops:
    """Predicted and observed drops of the score for the first masks of a bank.

    Args:
        bank: masks of one image; those that it has run for this target cost nothing.
        target: S, the target that the maps explain.
        maps: name -> (H, W) contributions; M of them.
        count: N masks.

    Raises:
        SubjectError: a score is not finite.
    """
    responses = bank.responses([target], count)
    start, _ = bank.ends([target])
    device = torch.device("cpu")
    fields = torch.from_numpy(np.stack([np.asarray(each, dtype=np.float64).ravel() for each in maps.values()], axis=1))
    shown = [
        bank.cells.masks(responses.rows[k : k + CHUNK], responses.groups[k : k + CHUNK], device).flatten(1).double()
        @ fields
        for k in range(0, count, CHUNK)
    ]
    return Drops((fields.sum(dim=0) - torch.cat(shown)).numpy(), start[0] - responses.scores[:, 0])


def infidelity(predicted: np.ndarray, observed: np.ndarray, *, scaled: bool = False) -> np.ndarray:
    """The mean squared difference of predicted and observed drops.

    Args:
        predicted: (N, M), see :class:`Drops`.
        observed: (N,).
        scaled: first multiply each map by the one factor that suits it best, so that maps in other units compare.

    Returns:
        (M,), 0 for a map that predicts every drop. Units of S squared.

    >>> infidelity(np.array([[2.0], [4.0]]), np.array([1.0, 2.0])).tolist()
    [2.5]
    >>> infidelity(np.array([[2.0], [4.0]]), np.array([1.0, 2.0]), scaled=True).tolist()
    [0.0]
    """
    factor = np.ones(predicted.shape[1])
    if scaled:
        size = (predicted**2).sum(axis=0)
        factor = np.where(size > 0, observed @ predicted / np.where(size > 0, size, 1.0), 1.0)
    return np.asarray(((factor * predicted - observed[:, None]) ** 2).mean(axis=0))


def unexplained(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray | None:
    """Scaled infidelity as a share of that of a map without content: 0 predicts every drop, 1 none.

    This can be averaged over images and compared between methods, units and models; infidelity itself cannot.

    Args:
        predicted: (N, M), see :class:`Drops`.
        observed: (N,).

    Returns:
        (M,) in [0, 1], or None where no mask moved the score.

    >>> unexplained(np.array([[2.0, 1.0], [4.0, 0.0]]), np.array([1.0, 2.0])).round(3).tolist()
    [0.0, 0.8]
    """
    size = float((observed**2).mean())
    return np.clip(infidelity(predicted, observed, scaled=True) / size, 0.0, 1.0) if size > 0 else None


def sensitivity_n(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Pearson correlation of predicted and observed drops over masks.

    Args:
        predicted: (N, M), see :class:`Drops`; masks that hide about n cells each make it sensitivity-n.
        observed: (N,).

    Returns:
        (M,) in [-1, 1]; NaN where one of both does not vary.

    >>> sensitivity_n(np.array([[2.0], [4.0], [3.0]]), np.array([1.0, 2.0, 1.5])).round(6).tolist()
    [1.0]
    """
    x, y = predicted - predicted.mean(axis=0), observed - observed.mean()
    # Sums that vary by rounding alone do not vary.
    varies = np.abs(x).max(axis=0) > 1e-12 * np.abs(predicted).max(axis=0)
    spread = np.sqrt((x**2).sum(axis=0) * (y @ y))
    usable = varies & (spread > 0)
    return np.where(usable, np.clip(y @ x / np.where(usable, spread, 1.0), -1.0, 1.0), np.nan)
