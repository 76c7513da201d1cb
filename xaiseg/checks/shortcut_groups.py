"""Groups among false detections: what a layer answers to alike, and whether there are groups at all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg.seeds import derive_seed

if TYPE_CHECKING:
    import pandas as pd

#: Mean silhouette below which there is no structure worth a name (Kaufman and Rousseeuw, Finding Groups in Data, 1990).
STRUCTURE: Final = 0.25
#: Fewer than this are looked at one by one; groups of two or three are chance. Ours.
FEWEST: Final = 10
#: False detections that are grouped; of more, those with the smallest seeded hashes.
MOST: Final = 600


@dataclass(frozen=True)
class Groups:
    """False detections in groups, the largest first.

    Attributes:
        rows: DataFrame of the detections that were grouped.
        labels: (n,) int64, group of each, from 0.
        silhouette: mean silhouette of the grouping in [-1, 1]; NaN where there is one group.
        central: for each group the positions of its members, nearest to its mean first.
    """

    rows: pd.DataFrame
    labels: np.ndarray
    silhouette: float
    central: tuple[np.ndarray, ...]


def grouped(rows: pd.DataFrame, params: Any, seed: int = 0) -> Groups | None:
    """Groups the vectors of false detections.

    Vectors are scaled to length 1, since how strongly a layer answers says how large and how contrasted a thing is, and
    are joined by Ward's rule. Of 2 to ``params.groups`` groups the number with the highest mean silhouette is
    taken; below :data:`STRUCTURE`, and of fewer than :data:`FEWEST`, all are one group.

    Args:
        rows: with the columns case, object, layer and vector.
        params: of the check.
        seed: draws which are grouped where there are more than :data:`MOST`.

    Returns:
        The groups, or None without any false detection.
    """
    held = rows[rows["vector"].notna()]
    if held.empty:
        return None
    usual = Counter(zip(held["layer"], held["vector"].map(len), strict=True)).most_common(1)[0][0]
    held = held[(held["layer"] == usual[0]) & (held["vector"].map(len) == usual[1])]
    names = [f"{case}/{each}" for case, each in zip(held["case"], held["object"], strict=True)]
    chosen = sorted(sorted(range(len(names)), key=lambda index: derive_seed(seed, "look-alikes", names[index]))[:MOST])
    held = held.iloc[chosen].reset_index(drop=True)
    vectors = np.stack([np.asarray(vector, dtype=np.float64) for vector in held["vector"]])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    labels, silhouette = _best(vectors, int(params.groups))
    labels = _by_size(labels)
    return Groups(
        held, labels, silhouette, tuple(_central(vectors, labels, group) for group in range(labels.max() + 1))
    )


def _best(vectors: np.ndarray, most: int) -> tuple[np.ndarray, float]:
    """The grouping with the highest mean silhouette, or one group."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_score

    best: tuple[np.ndarray, float] = (np.zeros(len(vectors), dtype=np.int64), STRUCTURE)
    distinct = len(np.unique(vectors.round(9), axis=0))
    for count in range(2, min(most, distinct, len(vectors) - 1) + 1) if len(vectors) >= FEWEST else ():
        labels = AgglomerativeClustering(n_clusters=count, linkage="ward").fit_predict(vectors)
        value = float(silhouette_score(vectors, labels))
        if value > best[1]:
            best = (labels.astype(np.int64), value)
    return best if best[0].any() else (best[0], float("nan"))


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Numbers from 0 for the largest group on; of equal ones the first that occurs."""
    counts = Counter(labels.tolist())
    first = {label: index for index, label in reversed(list(enumerate(labels.tolist())))}
    order = sorted(counts, key=lambda label: (-counts[label], first[label]))
    places = {label: place for place, label in enumerate(order)}
    return np.array([places[label] for label in labels.tolist()], dtype=np.int64)


def _central(vectors: np.ndarray, labels: np.ndarray, group: int) -> np.ndarray:
    members = np.flatnonzero(labels == group)
    part = vectors[members]
    return members[np.argsort(np.linalg.norm(part - part.mean(axis=0), axis=1), kind="stable")]
