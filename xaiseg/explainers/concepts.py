"""Concepts that a layer holds: directions of its channels into which its activations fall apart.

The positive part of the activations, one row a patch or region, is written as max(A, 0) ~ U V: k concepts V (k, C), and
how much of each is present U. The negative part is left out, because a factorisation into amounts cannot hold it; for a
layer behind a ReLU there is none. Whether the model uses a concept is another question, which
:mod:`xaiseg.explainers.concept_importance` answers by taking the concept away.

A factorisation always finds k directions, also where there are no concepts. So it is repeated from random starts, and
a direction that does not come back is named unstable. After T. Fel et al., "CRAFT: Concept Recursive Activation
FacTorization for Explainability" (CVPR 2023, arXiv:2211.10154); importance there is by Sobol indices.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.pooling import (
    Example,
    Place,
    as_tensor,
    box_of,
    encoded,
    example_masks,
    find_layer,
    region_weights,
    require,
)
from xaiseg.seeds import derive_seed
from xaiseg.subject import Segmenter

#: Concepts whose mean cosine with their best match from other starts is lower are named unstable.
STABLE: Final = 0.9
#: Random starts that the factorisation is compared with.
STARTS: Final = 3
#: Iterations of the factorisation.
ITERATIONS: Final = 2000

Pooling = Literal["patches", "regions"]


@dataclass(frozen=True)
class Exemplar:
    """Where a concept is strongest.

    Attributes:
        id: name of the case.
        region: number of the region; None where patches were pooled.
        box: (x0, y0, x1, y1) pixels around it, x1 and y1 outside.
        amount: U there.
    """

    id: str
    region: int | None
    box: tuple[int, int, int, int]
    amount: float


@dataclass(frozen=True, eq=False)
class Concepts:
    """k concepts of one layer, those that make up most of the activations first.

    Attributes:
        vectors: (k, C) float64, 0 or more, each of length 1 (or 0 for a concept that is nowhere).
        shares: (k,) share of the summed amounts, in [0, 1].
        error: |max(A, 0) - U V| / |max(A, 0)|, 0 for a perfect reconstruction, 1 for none.
        negative: share of A's squared length that lies in its negative part, which no concept holds.
        stability: (k,) mean cosine with the matching concept from :data:`STARTS` random starts, in [0, 1].
        exemplars: for each concept the cases where it is strongest, at most one entry a case.
        rows: number of patches or regions.
        place: the layer.
        notes: what a reader must know.
    """

    vectors: np.ndarray
    shares: np.ndarray
    error: float
    negative: float
    stability: np.ndarray
    exemplars: tuple[tuple[Exemplar, ...], ...]
    rows: int
    place: Place
    notes: tuple[str, ...]

    @property
    def unstable(self) -> tuple[int, ...]:
        """Numbers of the concepts that do not come back from other starts."""
        return tuple(int(number) for number in np.flatnonzero(self.stability < STABLE))


@dataclass(frozen=True)
class _Spot:
    id: str
    region: int | None
    box: tuple[int, int, int, int]


def find_concepts(
    subject: Segmenter,
    examples: Iterable[Example],
    *,
    k: int = 5,
    pooling: Pooling = "patches",
    patches: int = 8,
    exemplars: int = 3,
    layer: str | None = None,
    token_grid: tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int = 8,
) -> Concepts:
    """Factorises the activations of a layer over many images.

    Args:
        subject: the audited model.
        examples: read one batch at a time; only pooled activations are kept.
        k: number of concepts.
        pooling: "patches" pools the layer's grid to at most ``patches`` x ``patches`` cells an image; "regions" pools
            each example's regions.
        patches: patches along a side.
        exemplars: cases to show a concept.
        layer: dotted name, or None for the automatic choice on the first image.
        token_grid: (h, w) that a transformer's tokens lie on.
        seed: of the factorisation and of its repetitions.
        batch_size: images a forward pass.

    Raises:
        UsageError: no example, or more concepts than rows or channels.
        SubjectError: the subject does not offer activations, or none of them is positive.
    """
    require(subject, "finding concepts")
    stream = iter(examples)
    first = next(stream, None)
    if first is None:
        raise UsageError("there is no image to read", where="examples", got="none", allowed="1 or more")
    place = find_layer(subject, first.image, layer, token_grid=token_grid)
    spots: list[_Spot] = []
    rows: list[np.ndarray] = []
    negative, total = 0.0, 0.0
    for example, activation in encoded(subject, chain([first], stream), place, batch_size=batch_size):
        total += float(activation.square().sum())
        negative += float(activation.clamp(max=0).square().sum())
        for spot, vector in _pooled(subject, example, activation, pooling, patches):
            spots.append(spot)
            rows.append(vector)
    matrix = np.array(rows, dtype=np.float64)
    _check(matrix, k, place)
    amounts, vectors, error, notes = _ordered(matrix, k, derive_seed(seed, "concepts") % 2**32)
    stability = _stability(matrix, vectors, seed)
    notes = (place.note, *notes, *_doubts(stability, negative / total))
    shown = tuple(_exemplars(spots, column, exemplars) for column in amounts.T)
    shares = amounts.sum(axis=0) / amounts.sum()
    return Concepts(vectors, shares, error, negative / total, stability, shown, len(matrix), place, notes)


def _pooled(
    subject: Segmenter, example: Example, activation: Tensor, pooling: Pooling, patches: int
) -> Iterator[tuple[_Spot, np.ndarray]]:
    """Positive part of the activations (C, h, w), pooled: one (C,) a patch or region that holds image."""
    positive = activation.clamp(min=0)
    grid = (activation.shape[1], activation.shape[2])
    if pooling == "regions":
        masks = example_masks(example)
        if not masks:
            return
        weights = region_weights(subject, masks, grid)
        vectors = torch.einsum("rhw,chw->rc", weights, positive).cpu().numpy()
        for number, (mask, vector) in enumerate(zip(masks, vectors, strict=True)):
            if box := box_of(mask):
                yield _Spot(example.id, number, box), vector
        return
    coarse = (min(patches, grid[0]), min(patches, grid[1]))
    cells = F.adaptive_avg_pool2d(positive[None], coarse)[0]
    for (row, column), box in _patch_boxes(subject, example.size, coarse).items():
        yield _Spot(example.id, None, box), cells[:, row, column].cpu().numpy()


def _patch_boxes(
    subject: Segmenter, size: tuple[int, int], grid: tuple[int, int]
) -> dict[tuple[int, int], tuple[int, int, int, int]]:
    """Which pixels of the image a patch stands for: those whose place on the network's grid falls into it.

    Patches in the padding stand for none and are left out.
    """
    columns, rows = torch.meshgrid(torch.arange(float(grid[1])), torch.arange(float(grid[0])), indexing="xy")
    places = torch.stack((rows, columns))[:, None].to(subject.device)
    row_of, column_of = subject.to_image_grid(places, size)[:, 0].round().cpu().numpy()
    heights = [np.flatnonzero(row_of[:, 0] == row) for row in range(grid[0])]
    widths = [np.flatnonzero(column_of[0] == column) for column in range(grid[1])]
    return {
        (row, column): (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
        for row, ys in enumerate(heights)
        for column, xs in enumerate(widths)
        if len(ys) and len(xs)
    }


def _check(matrix: np.ndarray, k: int, place: Place) -> None:
    limit = min(matrix.shape) if matrix.ndim == 2 else 0
    if not 1 <= k <= limit:
        raise UsageError(
            "there cannot be as many concepts",
            where="k",
            got=k,
            allowed=f"1 to {limit}: the layer's channels, or the patches or regions" if limit else "regions to pool",
        )
    if not matrix.any():
        raise SubjectError("no activation is positive, so there are no amounts to factorise", where=place.layer)


def _factorised(matrix: np.ndarray, k: int, init: str, seed: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """U (N, k) and V (k, C) with rows of length 1 or 0, and whether the iterations came to an end."""
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    model = NMF(k, init=init, random_state=seed, max_iter=ITERATIONS, tol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is reported as a note instead
        amounts = model.fit_transform(matrix / matrix.max())
    lengths = np.linalg.norm(model.components_, axis=1)
    vectors = model.components_ / np.where(lengths > 0, lengths, 1)[:, None]
    return amounts * lengths * matrix.max(), vectors, model.n_iter_ < ITERATIONS


def _ordered(matrix: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, float, tuple[str, ...]]:
    amounts, vectors, ended = _factorised(matrix, k, "nndsvda", seed)
    order = np.argsort(-amounts.sum(axis=0), kind="stable")
    amounts, vectors = amounts[:, order], vectors[order]
    error = float(np.linalg.norm(matrix - amounts @ vectors) / np.linalg.norm(matrix))
    note = f"the factorisation had not come to an end after {ITERATIONS} iterations"
    return amounts, vectors, error, () if ended else (note,)


def _stability(matrix: np.ndarray, vectors: np.ndarray, seed: int) -> np.ndarray:
    """(k,) mean cosine with the partner from each random start; partners are matched one to one."""
    from scipy.optimize import linear_sum_assignment

    found = []
    for start in range(STARTS):
        other = _factorised(matrix, len(vectors), "random", derive_seed(seed, "concepts", str(start)) % 2**32)[1]
        cosines = vectors @ other.T
        found.append(cosines[linear_sum_assignment(-cosines)])
    return np.asarray(np.mean(found, axis=0))


def _doubts(stability: np.ndarray, negative: float) -> Iterator[str]:
    if unsure := [str(number) for number in np.flatnonzero(stability < STABLE)]:
        what = "concepts " + ", ".join(unsure) + " do" if len(unsure) > 1 else f"concept {unsure[0]} does"
        yield f"unstable: {what} not come back from other starts (cosine below {STABLE})"
    if negative > 0:
        yield f"{negative:.0%} of the activations' squared length is negative, and no concept holds it"


def _exemplars(spots: Sequence[_Spot], amounts: np.ndarray, count: int) -> tuple[Exemplar, ...]:
    found: dict[str, Exemplar] = {}
    for number in np.argsort(-amounts, kind="stable"):
        if len(found) == count or amounts[number] <= 0:
            break
        spot = spots[number]
        found.setdefault(spot.id, Exemplar(spot.id, spot.region, spot.box, float(amounts[number])))
    return tuple(found.values())


def concept_maps(subject: Segmenter, image: Tensor | np.ndarray, concepts: Concepts) -> np.ndarray:
    """Where each concept is present in an image, and how much.

    Args:
        subject: the model that the concepts come from.
        image: (C, H, W).
        concepts: see :func:`find_concepts`.

    Returns:
        (k, H, W) float32, 0 or more, in units of the layer's activations.

    Raises:
        SubjectError: the subject does not offer activations.
    """
    example = Example("image", as_tensor(subject, image))
    ((_, activation),) = encoded(subject, [example], concepts.place, batch_size=1)
    amounts = amounts_of(activation, concepts.vectors)
    maps = subject.to_image_grid(torch.from_numpy(amounts[:, None]).to(subject.device, torch.float32), example.size)
    return np.asarray(maps[:, 0].cpu().numpy())


def amounts_of(activation: Tensor, vectors: np.ndarray) -> np.ndarray:
    """The amounts U >= 0 that bring U V closest to max(A, 0) at each cell.

    Args:
        activation: A (C, h, w).
        vectors: V (k, C).

    Returns:
        (k, h, w) float64.

    >>> amounts_of(torch.tensor([[[3.0, -1.0]], [[0.0, 2.0]]]), np.eye(2)).round(6).tolist()
    [[[3.0, 0.0]], [[0.0, 2.0]]]
    """
    from sklearn.decomposition import non_negative_factorization
    from sklearn.exceptions import ConvergenceWarning

    channels, rows, columns = activation.shape
    cells = activation.clamp(min=0).reshape(channels, -1).T.cpu().double().numpy()
    scale = float(cells.max())
    if scale == 0:
        return np.zeros((len(vectors), rows, columns))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the problem is convex: what is left is rounding
        amounts, _, _ = non_negative_factorization(
            cells / scale, H=vectors, n_components=len(vectors), update_H=False, tol=1e-10, max_iter=ITERATIONS
        )
    return np.asarray((amounts * scale).T.reshape(-1, rows, columns))
