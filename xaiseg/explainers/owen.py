"""Owen values of superpixels through shap: Shapley values along a tree of neighbours, from few forwards.

shap.PartitionExplainer, on segments and never on pixels, whose tree takes it seconds to build at 224 x 224. G. Owen,
"Values of games with a priori unions", 1977.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.explainers.base import Attribution, Session, explainer
from xaiseg.explainers.cells import SegmentCells, Segments
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.superpixels import Cut, segments_of
from xaiseg.explainers.targets import Target

#: How much a difference of the whole range of brightness weighs in the tree, in units of the image's diagonal.
LIKENESS: Final = 0.5


@dataclass(frozen=True)
class OwenParams:
    """Parameters of Owen values.

    Attributes:
        masks: about this many forwards; shap stops splitting the tree when they are spent.
        cut: "slic" superpixels, "grid" rectangles, or "given" ``segments``.
        segments: with cut "given": the user's own segments.
        count: at most this many superpixels or rectangles.
        baseline: what hidden segments show.
    """

    masks: int = 512
    cut: Cut = "slic"
    segments: Segments | None = None
    count: int = 64
    baseline: Replacement = "mean"


@explainer(
    "owen", needs={"scores"}, unit="logit per segment", params=OwenParams, forwards=lambda params: params.masks + 8
)
def owen(session: Session, targets: Sequence[Target], *, params: OwenParams) -> Attribution:
    """Owen values of segments, constant within each; they sum to S(image) - S(baseline)."""
    segments = segments_of(session, params.cut, params.count, params.segments)
    if params.masks < 8:
        raise UsageError("too few masks", where="owen.masks", got=params.masks, allowed="8 or more")
    cells = SegmentCells(segments, (session.image.shape[1], session.image.shape[2]))
    fill = session.baseline(params.baseline)

    def scores(rows: np.ndarray) -> np.ndarray:
        return session.scores(_images(session, cells, fill, np.asarray(rows, dtype=np.float32)), targets)

    if segments.count == 1:
        ends = scores(np.array([[0.0], [1.0]]))
        values, bare = (ends[1] - ends[0])[None], ends[0]
    else:
        values, bare = _owen(scores, tree(session.image.cpu().numpy(), segments), params.masks)
    change = np.array([session.score(target) for target in targets]) - bare
    gap = np.abs(values.sum(axis=0) - change) / np.maximum(np.abs(change), 1e-3)
    note = f"{segments.count} segments; a hidden segment shows {DESCRIPTION[params.baseline]}"
    return Attribution(
        cells.paint(values[None], np.zeros(1)).astype(np.float32),
        completeness=gap,
        notes=(note, "where the budget ends inside the tree, a branch's value is shared evenly by its segments"),
    )


def tree(image: np.ndarray, segments: Segments) -> np.ndarray:
    """(d - 1, 4) scipy linkage of segments by the distance of their centres and of their mean values.

    >>> tree(np.zeros((1, 1, 3)), Segments.of(np.array([[0, 1, 2]]))).shape
    (2, 4)
    """
    from scipy.cluster.hierarchy import linkage

    labels = segments.labels.ravel()
    sizes = np.bincount(labels)
    height, width = segments.labels.shape
    places = np.indices((height, width)).reshape(2, -1) / np.hypot(height, width)
    span = max(float(image.max() - image.min()), 1e-12)
    values = image.reshape(len(image), -1).astype(np.float64) / span * LIKENESS / np.sqrt(len(image))
    features = [np.bincount(labels, weights=each) / sizes for each in (*places, *values)]
    return np.asarray(linkage(np.stack(features, axis=1), method="average"))


def load_shap() -> Any:
    """The module shap, imported where it is needed since that takes seconds."""
    with warnings.catch_warnings():
        # shap 0.51 sets colours by a function that matplotlib will deprecate; this may go once it no longer does.
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return import_module("shap")


def _owen(scores: Any, links: np.ndarray, masks: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (d, T) and S of the baseline (T,)."""
    shap = load_shap()
    cells = len(links) + 1
    masker = shap.maskers.Partition(np.zeros((1, cells)), max_samples=1, clustering=links)
    explained = shap.PartitionExplainer(scores, masker)
    found = explained(np.ones((1, cells)), max_evals=masks, silent=True)
    return np.asarray(found.values[0]).reshape(cells, -1), np.asarray(found.base_values[0]).reshape(-1)


def _images(session: Session, cells: SegmentCells, fill: Tensor, rows: np.ndarray) -> Iterator[Tensor]:
    size = session.budget.batch_size
    for start in range(0, len(rows), size):
        part = np.ascontiguousarray(rows[start : start + size])
        masks = cells.masks(part, np.zeros(len(part), dtype=np.int64), session.image.device)
        yield from torch.addcmul(fill, masks[:, None], session.image - fill)
