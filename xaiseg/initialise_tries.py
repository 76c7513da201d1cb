"""A detector that is tried on a few labelled images, and which of several ways of feeding it the labels prefer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.errors import DataError, NothingToAudit, SubjectError, UsageError

if TYPE_CHECKING:
    from xaiseg.data.case import Case, CaseRef
    from xaiseg.data.entry import DataEntry
    from xaiseg.detection.curves import Pool
    from xaiseg.detection_file import DetectionFile
    from xaiseg.drafts import Draft
    from xaiseg.subject import Boxes

#: Images that are looked at, and those with the most boxes among them on which the detector is tried.
LOOKED_AT: Final = 24
TRIED: Final = 6
#: What makes one way clearly better than another: average precision, and labels met. A few images hold a few labels,
#: and one box that falls on one of them by chance moves the average precision a lot.
_GAIN: Final = 0.05
_MORE_MET: Final = 2
#: Average precision below which boxes and labels have nothing to do with each other.
_HARDLY: Final = 0.05


def all_refs(entry: DataEntry, labels: Mapping[int, str]) -> list[CaseRef]:
    """Every image of the data."""
    from xaiseg.data.case import ImageSpec
    from xaiseg.data.readers import open_dataset

    spec = ImageSpec(channels=3, classes=tuple(labels.values()), task="detection")
    return list(open_dataset("test", entry, root=Path(), spec=spec).cases)


def known_refs(draft: Draft, refs: Sequence[CaseRef]) -> tuple[list[CaseRef], tuple[str, ...]]:
    """The images that a file of detections knows, and what to say where it does not know all.

    Raises:
        UsageError: it knows none, because its file names differ.
    """
    from xaiseg.detection_file import DetectionFile
    from xaiseg.loading import load_subject

    file = load_subject(draft.model())
    assert isinstance(file, DetectionFile)  # its source holds predictions
    known = [ref for ref in refs if file.knows(ref.id)]
    where = Path(draft.values["source"]["predictions"]).name
    if not file.names:
        raise UsageError("the file of detections lists no image", where=where)
    if not known and refs:
        own = f"{refs[0].id}{Path(refs[0].image).suffix}"
        raise UsageError(
            "the file names of the detections differ from those of the images, and none fits", where=where,
            got=f"'{file.names[0]}' among the detections, '{own}' among the images",
            then="Give the detections of these images, or rename one of them: one may have more folders before it, and "
            "what follows must agree",
        )  # fmt: skip
    lost = len(refs) - len(known)
    said = f"the file of detections does not know {lost} of {len(refs)} images; they would be failed images"
    return known, (said,) if lost else ()


def worth_trying(entry: DataEntry, refs: Sequence[CaseRef], labels: Mapping[int, str]) -> list[CaseRef]:
    """Of images drawn evenly from the list those with the most boxes, so that there is something to agree with.

    Raises:
        NothingToAudit: none of them can be read.
    """
    from xaiseg.data.case import ImageSpec
    from xaiseg.data.readers import load_case

    spec = ImageSpec(channels=3, classes=tuple(labels.values()), task="detection")
    places = np.unique(np.linspace(0, len(refs) - 1, min(len(refs), LOOKED_AT)).round().astype(int))
    found: list[tuple[int, CaseRef]] = []
    problem = ""
    for place in places:
        try:
            case = load_case(entry, refs[place], spec)
        except DataError as error:
            problem = problem or str(error)
            continue  # it stands in the audit's Errors; other images tell as much
        found.append((0 if case.boxes is None else len(case.boxes), refs[place]))
    if not found:
        raise NothingToAudit("no image of the data can be read", where="--data", got=problem)
    return [ref for _, ref in sorted(found, key=lambda pair: -pair[0])[:TRIED]]


def clear_choice(ways: Sequence[Draft]) -> Draft:
    """The first of the ways, which are ordered from the usual one on, that no other one is clearly better than."""
    return next(one for one in ways if not any(clearly_better(other, one) for other in ways))


def clearly_better(one: Draft, other: Draft) -> bool:
    """Whether a few labels speak for one way: 0.05 more of average precision, and two labels more that are met."""
    return (one.agreement or 0.0) >= (other.agreement or 0.0) + _GAIN and one.met >= other.met + _MORE_MET


def figures(one: Draft, other: Draft) -> str:
    """Both in numbers, for a reason."""
    precisions = f"average precision {one.agreement or 0.0:.2f} against {other.agreement or 0.0:.2f}"
    return f"{precisions}, labels met {one.met} against {other.met}"


def tried(draft: Draft, refs: Sequence[CaseRef], labels: Mapping[int, str]) -> Draft:
    """The draft after a few images: what was detected, and how well that agrees with the labels."""
    import torch

    from xaiseg.data.case import ImageSpec
    from xaiseg.data.readers import load_case
    from xaiseg.detection_file import DetectionFile
    from xaiseg.loading import load_subject
    from xaiseg.subject import Detector

    model = draft.model()
    spec = ImageSpec(model.input.channels, model.input.range, tuple(labels.values()), task="detection")
    subject = load_subject(model)
    assert isinstance(subject, Detector)  # the task of the draft
    cases = [load_case(draft.entry, ref, spec) for ref in refs]
    if isinstance(subject, DetectionFile):
        pairs = _stored(subject, cases)
    else:
        found = subject.predict([torch.from_numpy(case.image) for case in cases], batch_size=1)
        pairs = list(zip(cases, found, strict=True))
    warnings = draft.warnings
    if not any(len(found.scores) for _, found in pairs):
        warnings += ("the detector shows nothing on the images that were tried; check input, output and threshold",)
    met = agreement(pairs)
    if met is not None and met < _HARDLY and any(len(found.scores) for _, found in pairs):
        warnings += (
            "hardly a box meets a label in any way that was tried: look at the picture, check input and output",
        )
    return replace(draft, tried=pairs, agreement=met, met=labels_met(pairs), warnings=warnings)


def _stored(file: DetectionFile, cases: Sequence[Case]) -> list[tuple[Case, Boxes]]:
    """What the file says of the cases, those left out on which its detector failed.

    Raises:
        SubjectError: it says nothing of any.
    """
    held: list[tuple[Case, Boxes]] = []
    problem: SubjectError | None = None
    for case in cases:
        try:
            held.append((case, file.predict_cases([case.id], [case.shape])[0]))
        except SubjectError as error:
            problem = error
    if problem is not None and not held:
        raise problem
    return held


def agreement(pairs: Sequence[tuple[Case, Boxes]]) -> float | None:
    """Average precision at IoU 0.5 with all classes taken for one; None without a reference box."""
    from xaiseg.detection.curves import average_precision, steps_of

    pool, count = _pool(pairs), len(pairs)
    steps = steps_of(pool, np.arange(count), np.zeros(count, np.int64), np.ones(count))
    value = average_precision(steps, np.ones(1))
    return value if np.isfinite(value) else None


def labels_met(pairs: Sequence[tuple[Case, Boxes]]) -> int:
    """Labels that are met at IoU 0.5 by the boxes with the best scores, of which as many count as there are labels."""
    pool = _pool(pairs)
    hits = pool.hit[~pool.void][np.argsort(-pool.score[~pool.void], kind="stable")]
    return int(hits[: int(pool.objects.sum())].sum())


def _pool(pairs: Sequence[tuple[Case, Boxes]]) -> Pool:
    from xaiseg.detection.curves import Pool
    from xaiseg.detection.matching import IGNORE, match

    parts, objects = [], []
    for place, (case, found) in enumerate(pairs):
        boxes = np.zeros((0, 5)) if case.boxes is None else case.boxes
        ignored = boxes[:, 4] == IGNORE
        table = match(
            found.xyxy.numpy().astype(np.float64), found.scores.numpy(), boxes[~ignored, :4], boxes[ignored, :4]
        )
        parts.append((np.full(len(table.score), place), table.score, table.found >= 0, table.found == -2))
        objects.append(float((~ignored).sum()))
    image, score, hit, void = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Pool(image, score, hit, void, np.array(objects))
