"""Nearest cases: which reference cases look to the model most like this region, and is any of them near at all?

Regions are compared by the activations of one layer averaged over them (:mod:`xaiseg.explainers.pooling`). Near means
"the layer answers alike", not "the cases are alike" and not "this case is why the model answers so".

Nothing near is an answer too. The reference's own cases say what a usual distance is: for each of them the distance to
its nearest other one. The query's percentile is the share of those that are no larger than the query's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from xaiseg.errors import UsageError
from xaiseg.explainers.pooling import Example, Place, Pooled, Row, pool
from xaiseg.subject import Segmenter

Metric = Literal["cosine", "euclidean"]

#: From this percentile on no reference case is called similar.
UNUSUAL: Final = 0.95
#: With fewer leave-one-out distances the percentile cannot resolve :data:`UNUSUAL`.
FEW: Final = 20
#: Distances closer than this, relative to the largest, are ties; they are ordered by the place in the reference.
TIE: Final = 1e-9
#: Reference regions searched at a time.
CHUNK: Final = 256

NO_DIRECTION: Final = "the layer answers 0 in every channel, which has no direction to compare"
NO_OTHER: Final = "the reference holds no other case"


@dataclass(frozen=True, eq=False)
class Index:
    """Reference regions to search among.

    Attributes:
        vectors: (N, C) float64; of length 1 for the metric "cosine".
        rows: their N places.
        metric: "cosine" (1 - cosine of the angle) or "euclidean".
        own: distance of each of M <= N regions to its nearest other one, ascending.
        left_out: regions without a vector, each with its reason.
        place: the layer.
        search: a fitted :class:`sklearn.neighbors.NearestNeighbors`.
        kin: id, digest or cluster -> numbers of the regions that have it.
    """

    vectors: np.ndarray
    rows: tuple[Row, ...]
    metric: Metric
    own: np.ndarray
    left_out: tuple[Row, ...]
    place: Place
    search: Any
    kin: Mapping[tuple[str, str], tuple[int, ...]]


@dataclass(frozen=True)
class Neighbours:
    """What lies nearest to one query region.

    Attributes:
        query: the region.
        rows: up to k reference regions, nearest first.
        distances: one each, ascending.
        percentile: share of the reference's own nearest distances that are no larger than the first distance, in
            [0, 1]; NaN where there is none.
        reason: why there is no neighbour; "" where there is one.
        note: what a reader must know.
    """

    query: Row
    rows: tuple[Row, ...] = ()
    distances: tuple[float, ...] = ()
    percentile: float = float("nan")
    reason: str = ""
    note: str = ""

    @property
    def ids(self) -> tuple[str, ...]:
        """Names of the cases, nearest first."""
        return tuple(row.id for row in self.rows)

    @property
    def similar(self) -> bool:
        """Whether the nearest case is as near as is usual in the reference."""
        return bool(self.percentile < UNUSUAL)


def build_index(
    subject: Segmenter,
    references: Iterable[Example],
    *,
    metric: Metric = "cosine",
    layer: str | None = None,
    token_grid: tuple[int, int] | None = None,
    batch_size: int = 8,
) -> Index:
    """An index of reference regions, usually of the training or validation cases.

    Args:
        subject: the audited model.
        references: read one batch at a time.
        metric: "cosine" compares which channels answer, "euclidean" also how strongly.
        layer: dotted name, or None for the automatic choice.
        token_grid: (h, w) that a transformer's tokens lie on.
        batch_size: images a forward pass.

    Raises:
        UsageError: an unknown metric, no reference, or none with a vector.
        SubjectError: the subject does not offer activations.
    """
    if metric not in ("cosine", "euclidean"):
        raise UsageError("no such metric", where="metric", got=metric, allowed="cosine or euclidean")
    return index_of(pool(subject, references, layer=layer, token_grid=token_grid, batch_size=batch_size), metric)


def index_of(pooled: Pooled, metric: Metric = "cosine") -> Index:
    """An index of vectors that are pooled already.

    Raises:
        UsageError: no region has a vector.

    >>> rows = tuple(Row(name, None, (0, 0, 1, 1), name) for name in "abc")
    >>> pooled = Pooled(np.array([[0.0], [1.0], [5.0]], dtype=np.float32), rows, Place("layer", 0, ""))
    >>> index_of(pooled, "euclidean").own.tolist()
    [1.0, 1.0, 4.0]
    """
    from sklearn.neighbors import NearestNeighbors

    vectors, rows = _comparable(pooled, metric)
    kept = [number for number, row in enumerate(rows) if not row.reason]
    if not kept:
        raise UsageError("no reference region can be compared", where="references", got=rows[0].reason)
    kin: dict[tuple[str, str], tuple[int, ...]] = {}
    for number, row in enumerate(rows[n] for n in kept):
        for key in _keys(row):
            kin[key] = (*kin.get(key, ()), number)
    left_out = tuple(row for row in rows if row.reason)
    search = NearestNeighbors(algorithm="brute", metric="euclidean").fit(vectors[kept])
    members = tuple(rows[number] for number in kept)
    index = Index(vectors[kept], members, metric, np.zeros(0), left_out, pooled.place, search, kin)
    return replace(index, own=_own(index))


def nearest_cases(
    subject: Segmenter, queries: Iterable[Example], index: Index, *, k: int = 5, batch_size: int = 8
) -> list[Neighbours]:
    """The nearest reference regions of each query region.

    Never among them: regions of a case with the query's id, of an image with the query's pixels, or of the query's
    cluster. The reference's own distances leave out the same.

    Args:
        subject: the model that the index was built with.
        queries: read one batch at a time.
        index: see :func:`build_index`.
        k: neighbours a region.
        batch_size: images a forward pass.

    Returns:
        One a region, in order; a region without a vector has a reason and no neighbour.

    Raises:
        UsageError: ``k`` is below 1, no query, or a region on another grid than its image.
        SubjectError: the subject does not offer activations.
    """
    if k < 1:
        raise UsageError("a search needs at least one neighbour", where="k", got=k, allowed="1 or more")
    return nearest_of(pool(subject, queries, place=index.place, batch_size=batch_size), index, k=k)


def nearest_of(pooled: Pooled, index: Index, *, k: int = 5) -> list[Neighbours]:
    """The same for queries that are pooled already, by the layer of the index.

    >>> known = Pooled(np.array([[0.0], [4.0]]), tuple(Row(n, None, (0, 0, 1, 1), n) for n in "ab"), Place("l", 0, ""))
    >>> asked = Pooled(np.array([[3.0]]), (Row("q", None, (0, 0, 1, 1), "q"),), known.place)
    >>> nearest_of(asked, index_of(known, "euclidean"), k=1)[0].ids
    ('b',)
    """
    vectors, rows = _comparable(pooled, index.metric)
    return [_found(index, vector, row, k) for vector, row in zip(vectors, rows, strict=True)]


def _comparable(pooled: Pooled, metric: Metric) -> tuple[np.ndarray, list[Row]]:
    """Vectors as float64, of length 1 for the cosine, and the rows with the reasons that this adds."""
    vectors, rows = pooled.vectors.astype(np.float64), list(pooled.rows)
    if metric == "euclidean":
        return vectors, rows
    lengths = np.linalg.norm(vectors, axis=1)
    for number in np.flatnonzero(lengths == 0):
        old = rows[number]
        rows[number] = Row(old.id, old.region, old.box, old.digest, old.cluster, NO_DIRECTION)
    return vectors / np.where(lengths > 0, lengths, 1)[:, None], rows


def _found(index: Index, vector: np.ndarray, query: Row, k: int) -> Neighbours:
    if query.reason:
        return Neighbours(query, reason=query.reason)
    numbers, distances = _nearest(index, vector, query, k)
    if not len(numbers):
        return Neighbours(query, reason=NO_OTHER)
    rows = tuple(index.rows[number] for number in numbers)
    if not len(index.own):
        note = "the reference's cases have no other one to be compared with, so no distance is usual"
        return Neighbours(query, rows, tuple(distances.tolist()), note=note)
    # A tie with a distance of the reference must not fall to either side by rounding.
    limit = distances[0] + TIE * max(1.0, float(index.own[-1]))
    share = float(np.searchsorted(index.own, limit, side="right")) / len(index.own)
    notes = [f"no similar case: nearest distance at percentile {share:.2f} of the reference"] * (share >= UNUSUAL)
    notes += [f"only {len(index.own)} reference distances: the percentile is coarse"] * (len(index.own) < FEW)
    return Neighbours(query, rows, tuple(distances.tolist()), share, note="; ".join(notes))


def _own(index: Index) -> np.ndarray:
    """Distances of the reference's regions to their nearest other ones, ascending."""
    kin = [_itself(index, row) for row in index.rows]
    wanted = min(1 + max(map(len, kin)), len(index.rows))
    found = []
    for start in range(0, len(index.rows), CHUNK):
        near = index.search.kneighbors(index.vectors[start : start + CHUNK], wanted, return_distance=False)
        for place, numbers in enumerate(near, start):
            other = next((number for number in numbers if number not in kin[place]), None)
            if other is not None:
                found.append(_distances(index, index.vectors[[other]], index.vectors[place])[0])
    return np.sort(np.array(found))


def _nearest(index: Index, vector: np.ndarray, query: Row, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the k nearest rows that are not the query itself, and their distances."""
    itself = _itself(index, query)
    if len(itself) == len(index.rows):
        return np.zeros(0, dtype=int), np.zeros(0)
    wanted = min(k + len(itself), len(index.rows))
    farthest = index.search.kneighbors(vector[None], wanted)[0][0, -1]
    # The search expands squares, which rounds, and cuts ties as it likes: take a little more, and measure that exactly.
    slack = 1e-6 * (1 + float(np.abs(index.vectors).max()) + float(np.abs(vector).max()))
    near = np.sort(index.search.radius_neighbors(vector[None], farthest + slack, return_distance=False)[0])
    near = near[[number not in itself for number in near]]
    exact = _distances(index, index.vectors[near], vector)
    step = TIE * max(1.0, float(exact.max()))
    order = np.lexsort((near, np.round(exact / step)))[:k]
    return near[order], exact[order]


def _distances(index: Index, vectors: np.ndarray, vector: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors - vector, axis=1)
    # The chord of two vectors of length 1 gives 1 - cosine without the rounding of a difference from 1.
    return np.asarray(lengths**2 / 2 if index.metric == "cosine" else lengths)


def _itself(index: Index, query: Row) -> set[int]:
    """Numbers of the regions that are the query itself, or not independent of it."""
    return {number for key in _keys(query) for number in index.kin.get(key, ())}


def _keys(row: Row) -> list[tuple[str, str]]:
    shared = [("cluster", row.cluster)] if row.cluster is not None else []
    return [("id", row.id), ("digest", row.digest), *shared]
