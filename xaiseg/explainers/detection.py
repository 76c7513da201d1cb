"""One method on objects of one image: each object is asked about in the form that the method can answer.

Methods that only predict compare finished detections, those that need a gradient read candidates before suppression,
and class activation maps take each object's own level.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from xaiseg.errors import SubjectError
from xaiseg.explainers.base import Attribution, Cost, Explainer, explain, get_explainer, load_explainers
from xaiseg.explainers.detection_targets import CandidateTarget, ObjectTarget
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.targets import Target

#: A target as a method sees it.
Reading = ObjectTarget | CandidateTarget


def readings(session: DetectionSession, method: Explainer, targets: Sequence[ObjectTarget]) -> tuple[Reading, ...]:
    """The targets as a method can answer them; nothing is computed yet.

    Raises:
        SubjectError: the detector lacks what the method needs; the message names the methods that run.
        UsageError: a question that this kind of method has no answer to.
    """
    if reason := method.missing(session.subject):
        running = sorted(name for name, each in load_explainers().items() if not each.missing(session.subject))
        raise SubjectError(reason, where=session.subject.info.name, then="These run: " + ", ".join(running))
    if "gradients" in method.needs:
        return tuple(target.raw() for target in targets)
    for target in targets:
        _ = target.similarity  # refuses a side of the box before a thousand masks are run
    return tuple(targets)


def explain_objects(
    session: DetectionSession, method: str, targets: Sequence[ObjectTarget], *, params: Any = None
) -> tuple[tuple[Reading, ...], Attribution]:
    """Explains objects of one image by one method.

    Args:
        session: the image and the detector.
        method: a registered name.
        targets: at least one.
        params: an instance of the explainer's parameters, or None for its defaults.

    Returns:
        The targets as the method saw them, and their maps in that order.

    Raises:
        UsageError: unknown method, no target, parameters of another explainer, or a question without an answer.
        SubjectError: the detector lacks what the method needs; the message names the methods that run.
    """
    entry = get_explainer(method)
    asked = readings(session, entry, targets)
    chosen = entry.params() if params is None else params
    began, forwards, backwards = time.perf_counter(), session.forwards, session.backwards
    groups = _by_layer(session, entry, asked, chosen)
    parts = [_explained(session, method, [asked[index] for index in group], params) for group in groups]
    seconds = time.perf_counter() - began
    peaks = [part.cost.peak_mb for part in parts if part.cost.peak_mb is not None]
    cost = Cost(session.forwards - forwards, session.backwards - backwards, seconds, max(peaks, default=None))
    merged = _merged(parts, groups)
    notes = [*merged.notes, *_small(session, asked, chosen), *dict.fromkeys(each.object.remark for each in asked)]
    return asked, dataclasses.replace(merged, cost=cost, notes=tuple(note for note in notes if note))


def _explained(session: DetectionSession, method: str, asked: Sequence[Reading], params: Any) -> Attribution:
    # Explainers hand targets on to their session without a look at what they read, and this session knows both kinds.
    return explain(session, method, cast("Sequence[Target]", asked), params=params)


def _by_layer(session: DetectionSession, entry: Explainer, asked: Sequence[Reading], params: Any) -> list[list[int]]:
    """Places of the targets, those of one layer together; all together where the method reads no layer of its own."""
    if "activations" not in entry.needs or getattr(params, "layer", "none") is not None or not asked:
        return [list(range(len(asked)))]
    groups: dict[str | None, list[int]] = {}
    for index, target in enumerate(asked):
        if isinstance(target, CandidateTarget):
            groups.setdefault(session.fired(target).layer, []).append(index)
    return list(groups.values())


def _merged(parts: Sequence[Attribution], groups: Sequence[Sequence[int]]) -> Attribution:
    """Maps of groups of targets in the order of the targets."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate([np.asarray(group) for group in groups]))

    def joined(name: str) -> np.ndarray | None:
        arrays = [getattr(part, name) for part in parts]
        return None if any(each is None for each in arrays) else np.concatenate(arrays)[order]

    values = joined("values")
    assert values is not None  # every attribution has values
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    return dataclasses.replace(
        parts[0], values=values, stderr=joined("stderr"), completeness=joined("completeness"), notes=tuple(notes)
    )


def _small(session: DetectionSession, asked: Sequence[Reading], params: Any) -> list[str]:
    """A word on objects smaller than a cell of the method's grid: their parts cannot be told apart."""
    grid = getattr(params, "grid", None)
    if not isinstance(grid, int):
        return []
    height, width = session.image.shape[1:]
    cell = (height / min(grid, height), width / min(grid, width))
    notes = []
    for target in asked:
        left, top, right, bottom = target.xyxy
        if bottom - top < cell[0] and right - left < cell[1]:
            notes.append(
                f"{target.object.label} ({right - left:.0f} x {bottom - top:.0f} px) is smaller than a cell "
                f"({cell[1]:.0f} x {cell[0]:.0f} px): the map cannot tell its parts apart; a larger grid can"
            )
    return list(dict.fromkeys(notes))
