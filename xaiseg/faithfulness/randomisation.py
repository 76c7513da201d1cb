"""Weight randomisation: a map that looks the same on a network with random weights shows the image, not the model.

J. Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018. A randomised segmenter predicts nothing sensible,
so the region stays frozen from the model itself.

The efficient test (A. Hedström et al., "Sanity Checks Revisited", workshop XAI in Action, NeurIPS 2023) asks instead
that a map becomes more complex as the weights become random.
"""

from __future__ import annotations

import copy
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from xaiseg.errors import SubjectError
from xaiseg.faithfulness.baselines import closeness
from xaiseg.seeds import derive_seed
from xaiseg.subject import Segmenter

#: Bins of the histogram whose entropy is the complexity of a map, as in the reference code (Quantus 0.6).
ENTROPY_BINS: Final = 100

_COPIES: WeakKeyDictionary[Segmenter, dict[tuple[int, int], Segmenter]] = WeakKeyDictionary()


def randomised(subject: Segmenter, seed: int, draw: int = 0) -> Segmenter:
    """A copy of the subject with re-initialised weights; the subject itself is not touched.

    The copy depends on the run's seed and the draw, not on the case, and is made once a process.

    Args:
        subject: offers "weights".
        seed: the run's seed.
        draw: number of the copy.

    Raises:
        SubjectError: the subject shows no network, or has no weights.
    """
    copies = _COPIES.setdefault(subject, {})
    if (seed, draw) not in copies:
        if subject.module is None or "weights" not in subject.info.offers:
            raise SubjectError("this subject shows no weights to randomise", got=subject.info.name)
        twin = copy.deepcopy(subject)
        module = twin.module
        assert module is not None  # the subject has one
        reinitialise(module, derive_seed(seed, "randomised network", str(draw)))
        copies[seed, draw] = twin
    return copies[seed, draw]


def reinitialise(module: nn.Module, seed: int) -> None:
    """Draws all weights of a network anew, in place.

    Modules draw their weights by their own ``reset_parameters``; parameters that no such method owns are permuted,
    which keeps their scale.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    module.cpu()  # the same draw on every device
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in part.parameters(recurse=False):
                shuffled = parameter.flatten()[torch.randperm(parameter.numel())]
                parameter.copy_(shuffled.view_as(parameter))
    module.to(device)


def histogram_entropy(values: np.ndarray, bins: int = ENTROPY_BINS) -> float:
    """Entropy of the histogram of a map's signed values over equal bins from its lowest to its highest value.

    Args:
        values: (H, W).
        bins: number of bins.

    Returns:
        nats, 0 (one bin holds all) to ln(bins).

    >>> round(histogram_entropy(np.array([[0.0, 1.0]]), 2), 3)
    0.693
    """
    from scipy.special import entr

    shares = np.histogram(values, bins=bins)[0] / values.size
    return float(entr(shares).sum())


def entropy_rise(original: np.ndarray, random: np.ndarray, bins: int = ENTROPY_BINS) -> float | None:
    """The efficient test: the rise of a map's complexity from the model to its copy with random weights.

    Args:
        original: (H, W), the map of the model.
        random: (H, W), the map of the copy, for the same frozen region.
        bins: see :func:`histogram_entropy`.

    Returns:
        (H_random - H_original) / H_original, higher is better, 0 for a map that has not changed; None for an original
        whose entropy is 0, as of a blank map.

    >>> entropy_rise(np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([[0.0, 1.0, 2.0, 3.0]]), 4)
    1.0
    """
    before = histogram_entropy(original, bins)
    return (histogram_entropy(random, bins) - before) / before if before > 0.0 else None


def similarity(first: np.ndarray, second: np.ndarray, where: np.ndarray | None = None) -> float | None:
    """Spearman rank correlation of the absolute values of two maps (H, W).

    Args:
        first: (H, W).
        second: (H, W).
        where: (H, W) bool, the pixels compared; None = all.

    Returns:
        -1 to 1, or None when a map is constant there.

    >>> round(similarity(np.array([[1.0, -2.0, 3.0]]), np.array([[10.0, 20.0, 30.0]])), 6)
    1.0
    """
    return _correlation(first, second, np.zeros(first.shape, dtype=np.int64), where)


def similarity_in_rings(
    first: np.ndarray, second: np.ndarray, mask: np.ndarray, where: np.ndarray | None = None
) -> float | None:
    """The same, with ranks taken within rings of equal distance to the region.

    The region is frozen, so every network, however random, has its evidence in and near it: the plain correlation of
    two local maps is high (0.9 for a CAM of a trained and a random U-Net) and says nothing. Within a ring the region
    gives nothing away. Rings are as wide as a 32nd of the shorter side.

    Args:
        first: (H, W).
        second: (H, W).
        mask: (H, W) bool, the region.
        where: (H, W) bool, the pixels compared; None = all.

    Returns:
        -1 to 1; 1 for a map that has not changed at all; None when a map is blank, or constant in every ring.
    """
    signed_px = closeness(mask)
    width_px = max(1.0, min(mask.shape) / 32)
    rings = np.floor(np.where(signed_px > 0, signed_px - 1.0, signed_px) / width_px).astype(np.int64)
    pixels = np.ones(mask.shape, dtype=bool) if where is None else where
    one, other = (_rounded(np.abs(each[pixels])) for each in (first, second))
    if one.any() and np.array_equal(one, other):
        return 1.0
    return _correlation(first, second, rings - rings.min(), where)


def _correlation(
    first: np.ndarray, second: np.ndarray, groups: np.ndarray, where: np.ndarray | None = None
) -> float | None:
    """Correlation of ranks within groups; each rank is a share of its group's size, centred in its group."""
    from scipy.stats import rankdata

    pixels = np.ones(first.shape, dtype=bool) if where is None else where
    group = groups[pixels]
    if not group.size:
        return None
    sizes = np.bincount(group)
    centred = []
    for values in (first, second):
        # Values lie in [0, 1], so a step of 2 a group keeps groups apart and ranks all of them at once.
        ranks = rankdata(_rounded(np.abs(values[pixels])) + 2.0 * group)
        means = np.bincount(group, weights=ranks) / np.maximum(sizes, 1)
        centred.append((ranks - means[group]) / sizes[group])
    spread = float(np.sqrt((centred[0] @ centred[0]) * (centred[1] @ centred[1])))
    return float(centred[0] @ centred[1]) / spread if spread > 0.0 else None


def _rounded(values: np.ndarray) -> np.ndarray:
    # Float noise between equal values would decide ranks, and with them the correlation.
    largest = float(values.max(initial=0.0))
    return np.round(values.astype(np.float64) / largest, 6) if largest > 0.0 else values.astype(np.float64)
