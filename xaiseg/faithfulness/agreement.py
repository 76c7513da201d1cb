"""Do methods agree? S. Krishna et al., "The Disagreement Problem in Explainable Machine Learning", TMLR 2024.

Two maps of one model that disagree cannot both show its reasons; two that agree can both be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xaiseg.faithfulness.randomisation import similarity, similarity_in_rings


def agreement(maps: Mapping[str, np.ndarray], mask: np.ndarray | None = None) -> np.ndarray:
    """Rank correlations of the absolute values of all pairs of maps.

    Args:
        maps: name -> (H, W); M of them.
        mask: (H, W) bool: ranks are then taken within rings of equal distance to this region. Every map of a frozen
            region is strong in and near it, so without rings all local maps agree, and that says nothing.

    Returns:
        (M, M) in the order of ``maps``, symmetric, 1 on the diagonal; NaN where a map is constant.

    >>> agreement({"a": np.array([[1.0, 2.0, 3.0]]), "b": np.array([[3.0, 2.0, 1.0]])}).round(6).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    fields = list(maps.values())
    found = np.full((len(fields), len(fields)), np.nan)
    for i, first in enumerate(fields):
        for j, second in enumerate(fields[: i + 1]):
            alike = similarity(first, second) if mask is None else similarity_in_rings(first, second, mask)
            found[i, j] = found[j, i] = np.nan if alike is None else alike
    return found
