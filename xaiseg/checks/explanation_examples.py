"""Similar cases and concepts: what the layer finds alike among the training cases, and what it falls apart into.

Regions that the model predicts are compared by the activations of one layer averaged over them. The reference side
(training cases, concepts) is measured once; each audited case adds its own vector, and the search takes place when the
quantities are named, so that rows hold measurements and no opinion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import torch

from xaiseg.checks.base import Context, Quantity, Row, Tables, check
from xaiseg.checks.examples_quantities import examples_quantities
from xaiseg.checks.pictures import PICTURE_SIDE, picture_of, reduced
from xaiseg.errors import DataError, SubjectError, UsageError
from xaiseg.explainers.base import Budget
from xaiseg.explainers.concept_importance import importance
from xaiseg.explainers.concepts import Concepts, find_concepts
from xaiseg.explainers.pooling import Example, Pooled, pool
from xaiseg.explainers.targets import NO_FOREGROUND, Region, predicted_region
from xaiseg.statistics.sampling import sample_cases

if TYPE_CHECKING:
    from torch import Tensor

    from xaiseg.data.case import Case, CaseRef, Dataset

CHECK: Final = "explanation.examples"


@dataclass(frozen=True)
class Params:
    """How cases are compared.

    Attributes:
        k: neighbours of a case.
        references: training cases to search among, drawn by cluster.
        metric: "cosine" (which channels answer) or "euclidean" (also how strongly).
        layer: dotted name, or None for the automatic choice.
        good_dice: from this Dice on the outcome of a case counts as good.
        concepts: how many directions the layer is taken apart into; 0 = none.
        concept_images: training cases that concepts are found in.
        ablations: training cases from which each concept is taken away.
    """

    k: int = 5
    references: int = 200
    metric: str = "cosine"
    layer: str | None = None
    good_dice: float = 0.5
    concepts: int = 5
    concept_images: int = 60
    ablations: int = 12

    def __post_init__(self) -> None:
        lowest = {"k": 1, "references": 2, "concepts": 0, "concept_images": 1, "ablations": 1}
        problems: list[tuple[bool, str, str]] = [
            *((getattr(self, name) < least, name, f"{least} or more") for name, least in lowest.items()),
            (self.metric not in ("cosine", "euclidean"), "metric", "cosine or euclidean"),
            (not 0 < self.good_dice <= 1, "good_dice", "above 0, at most 1"),
        ]
        for wrong, name, allowed in problems:
            if wrong:
                raise UsageError(
                    "cases cannot be compared so", where=f"{CHECK}.{name}", got=getattr(self, name), allowed=allowed
                )


@check(
    CHECK,
    question="What is this case like, among those that the model has learnt from?",
    needs={"segmenter", "model", "forward", "gradients", "activations", "train_list"},
    params=Params,
    columns=[
        ("kind", pa.string()),  # reference | query | layer | concept | exemplar
        ("reference", pa.string()),  # id of the training case
        ("label", pa.string()),  # class that the reference annotation gives most of the predicted region
        ("dice", pa.float64()),  # of the predicted region's class
        ("layer", pa.string()),
        ("run", pa.int32()),
        ("vector", pa.list_(pa.float32())),
        ("digest", pa.string()),
        ("cluster", pa.string()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("mean", pa.float64()),
        ("picture", pa.list_(pa.uint8())),  # rows from the top, 0 = low, 255 = high
        ("picture_width", pa.int32()),
        ("region", pa.list_(pa.uint8())),  # the predicted region on the picture's grid, 255 = inside
        ("box", pa.list_(pa.float64())),  # x0, y0, x1, y1 as shares of width and height
        ("share", pa.float64()),  # concept: share of the summed amounts; exemplar: amount
        ("stability", pa.float64()),
        ("drops", pa.list_(pa.float64())),  # fall of the score in each case without the concept
        ("residual", pa.list_(pa.float64())),  # layer: without what no concept holds
        ("scores", pa.list_(pa.float64())),  # layer: of the unchanged cases
        ("error", pa.float64()),  # layer: what the concepts do not reconstruct, as a share
        ("negative", pa.float64()),
        ("notes", pa.string()),
    ],
)
class Examples:
    """Rows: once, one a training case, one a concept and its exemplars, one on the layer; one for each case.

    The key column ``target`` names the concept, ``level`` the place of an exemplar.
    """

    def forwards(self, params: Params) -> int:
        """The most forwards that a case takes; the training cases take 2 each besides, once."""
        return 2

    def measure_once(self, context: Context, datasets: Mapping[str, Dataset]) -> Iterator[Row]:
        """The reference side: training cases and concepts."""
        train, params = datasets["train"], context.params
        pairs = [(ref.id, ref.cluster) for ref in train.cases]
        drawn = sample_cases(pairs, params.references, seed=context.seed, purpose=f"{CHECK}/train")
        refs = [ref for ref in train.cases if ref.id in drawn]
        declared = train.cluster_column is not None
        facts: dict[str, Row] = {}
        stream = (example for example, _ in _predicted(context, refs, declared, facts))
        try:
            pooled = pool(context.segmenter, stream, layer=params.layer, batch_size=_batch(context))
        except (SubjectError, UsageError) as error:  # no training case has a predicted region, or no layer can be read
            yield {"kind": "layer", "status": "undefined", "reason": str(error)}
            return
        context.count(forwards=len(facts) + 1)
        for number, row in enumerate(pooled.rows):
            yield {"kind": "reference", "reference": row.id, **_vector(pooled, number), **facts[row.id]}
        if params.concepts:
            yield from _concepts(context, [ref for ref in refs if ref.id in facts], declared)

    def measure(self, context: Context, case: Case) -> Iterator[Row]:
        """The vector of the largest predicted foreground class."""
        region = predicted_region(context.prediction(), context.segmenter.info.classes)
        if region is None:
            yield {"kind": "query", "status": "not_applicable", "reason": NO_FOREGROUND}
            return
        cluster = case.ref.cluster if context.facts.get("cluster_declared") else None
        try:
            example = Example(case.id, case.image, (region.mask,), cluster)
            pooled = pool(context.segmenter, [example], layer=context.params.layer, batch_size=1)
        except SubjectError as error:
            yield {"kind": "query", "status": "undefined", "reason": str(error)}
            return
        context.count(forwards=2)
        yield {"kind": "query", **_vector(pooled, 0), **_described(case, region, context.segmenter.info.classes)}

    def quantities(self, tables: Tables, params: Params) -> Iterable[Quantity]:
        """Novelty, outcomes and labels of the neighbours, and what the concepts are worth."""
        return examples_quantities(tables.rows[CHECK], params)


def _batch(context: Context) -> int:
    return int(context.facts.get("batch", Budget().batch_size))


def _predicted(
    context: Context, refs: Sequence[CaseRef], declared: bool, facts: dict[str, Row]
) -> Iterator[tuple[Example, Region]]:
    """Training cases with a predicted region, read when they are asked for; what the rows say of them goes to facts."""
    subject = context.segmenter
    classes = subject.info.classes
    for ref in refs:
        try:
            case = context.load(ref, "train")
            image = torch.as_tensor(case.image, dtype=torch.float32)
            region = predicted_region(subject.decide(subject.predict([image], batch_size=1)[0]), classes)
        except (DataError, SubjectError):
            continue  # it is no reference, and the check of the data names it
        context.count(forwards=1)
        if region is not None:
            facts[case.id] = _described(case, region, classes)
            yield Example(case.id, case.image, (region.mask,), case.ref.cluster if declared else None), region


def _vector(pooled: Pooled, number: int) -> Row:
    row, place = pooled.rows[number], pooled.place
    found: Row = {"layer": place.layer, "run": place.run, "digest": row.digest, "cluster": row.cluster}
    return found | {"vector": pooled.vectors[number].tolist()}


def _described(case: Case, region: Region, classes: Sequence[str]) -> Row:
    """Outcome, label and coarse picture of a case."""
    row = picture_of(case.image.mean(axis=0))
    coarse = reduced(region.mask.astype(np.float64), PICTURE_SIDE)
    row["region"] = np.where(coarse >= 0.5, 255, 0).astype(np.uint8).ravel().tolist()
    if case.reference is None:
        return row
    known = case.reference != 255
    truth = (case.reference == region.class_index) & known
    seen = region.mask & known
    inside = case.reference[seen]
    row["dice"] = float(2 * (seen & truth).sum() / max(int(seen.sum() + truth.sum()), 1))
    row["label"] = classes[int(np.bincount(inside).argmax())] if inside.size else None
    return row


def _concepts(context: Context, refs: Sequence[CaseRef], declared: bool) -> Iterator[Row]:
    """Directions of the layer, where they are strongest, and how far the score falls without each."""
    params, subject = context.params, context.segmenter
    facts: dict[str, Row] = {}
    read = refs[: params.concept_images]
    stream = (example for example, _ in _predicted(context, read, declared, facts))
    try:
        found = find_concepts(
            subject, stream, k=params.concepts, layer=params.layer, seed=context.seed, batch_size=_batch(context)
        )
        context.count(forwards=len(facts) + 1)
        taken = importance(subject, _targets(context, read, declared), found, batch_size=_batch(context))
    except (SubjectError, UsageError) as error:
        yield {"kind": "layer", "status": "undefined", "reason": str(error)}
        return
    context.count(forwards=taken.cost.forwards)
    yield {
        "kind": "layer", "layer": found.place.layer, "run": found.place.run, "error": found.error,
        "negative": found.negative, "drops": taken.everything.tolist(), "residual": taken.residual.tolist(),
        "scores": taken.scores.tolist(), "notes": "; ".join(taken.notes),
    }  # fmt: skip
    for number in range(len(found.vectors)):
        name = f"concept {number + 1}"
        yield {
            "kind": "concept", "target": name, "share": float(found.shares[number]),
            "stability": float(found.stability[number]), "drops": taken.drops[:, number].tolist(),
        }  # fmt: skip
        yield from _exemplars(found, number, name, facts, context, read)


def _targets(context: Context, refs: Sequence[CaseRef], declared: bool) -> Iterator[tuple[Tensor | np.ndarray, Region]]:
    found = _predicted(context, refs, declared, {})
    yield from ((example.image, region) for example, region in islice(found, context.params.ablations))


def _exemplars(
    found: Concepts, number: int, name: str, facts: Mapping[str, Row], context: Context, refs: Sequence[CaseRef]
) -> Iterator[Row]:
    places = {ref.id: ref for ref in refs}
    for rank, exemplar in enumerate(found.exemplars[number], start=1):
        height, width = context.load(places[exemplar.id], "train").shape  # the coarse picture has lost it
        x0, y0, x1, y1 = exemplar.box
        kept = {key: facts[exemplar.id][key] for key in ("low", "high", "mean", "picture", "picture_width", "region")}
        yield {
            "kind": "exemplar", "target": name, "level": str(rank), "reference": exemplar.id, "share": exemplar.amount,
            "box": [x0 / width, y0 / height, x1 / width, y1 / height], **kept,
        }  # fmt: skip
