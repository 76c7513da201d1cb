"""How spread out a map is. Descriptive: a short answer is easier to read, not truer.

Complexity: U. Bhatt, A. Weller, J. Moura, "Evaluating and Aggregating Feature-based Model Explanations", IJCAI 2020.
Sparseness: P. Chalasani et al., "Concise Explanations of Neural Networks using Adversarial Training", ICML 2020.
"""

from __future__ import annotations

import numpy as np


def complexity(values: np.ndarray) -> float | None:
    """Shannon entropy of the shares that pixels have in a map's absolute values.

    Args:
        values: (H, W).

    Returns:
        nats: 0 when one pixel holds everything, ln(H W) when all hold the same; None for a map that is zero everywhere.

    >>> complexity(np.array([[0.0, -3.0]])), round(complexity(np.ones((2, 2))), 3)
    (0.0, 1.386)
    """
    from scipy.special import entr

    energy = np.abs(values.astype(np.float64))
    total = float(energy.sum())
    return float(entr(energy / total).sum()) if total > 0.0 else None


def sparseness(values: np.ndarray) -> float | None:
    """Gini coefficient of a map's absolute values.

    Args:
        values: (H, W), n pixels.

    Returns:
        0 when all pixels hold the same, (n - 1) / n when one holds everything; None for a map that is zero everywhere.

    >>> sparseness(np.array([[0.0, 0.0, 0.0, 5.0]])), sparseness(np.ones((2, 2)))
    (0.75, 0.0)
    """
    ordered = np.sort(np.abs(values.astype(np.float64)), axis=None)
    total, count = float(ordered.sum()), ordered.size
    if total == 0.0:
        return None
    return float((2.0 * np.arange(1, count + 1) - count - 1) @ ordered) / (count * total)
