"""Targets of a detector as a user writes them, turned into targets of one image.

Text: ``pred`` or ``all`` (every detection at or above the operating threshold, the best first), the name of a class
(those of that class), ``box 0`` (one detection by its place in the order of scores, below the threshold too), ``x,y``
(the best detection that covers the pixel), ``x0,y0,x1,y1`` or ``x0,y0,x1,y1,class`` (a box of one's own, for an object
that was missed), and, with a reference, ``tp``, ``fp`` and ``fn`` (detections that found an object, false detections,
missed objects). A mapping of one key asks another question: ``{where: box 0}``, ``{left: all}``, ``{fn: seal}``; see
:data:`~xaiseg.explainers.detection_targets.ASKS`. A list joins targets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch

from xaiseg.detection.matching import IGNORE, match
from xaiseg.errors import UsageError, did_you_mean
from xaiseg.explainers.box_targets import box_iou, class_vectors
from xaiseg.explainers.detection_targets import (
    ASKS,
    Candidate,
    DetectedObject,
    ObjectTarget,
    Question,
    nearest_candidate,
)
from xaiseg.explainers.detections import DetectionSession
from xaiseg.yamlfile import parse_yaml

#: Most detections that a word such as "all" explains, the best first.
MOST_OBJECTS: Final = 8
#: What a reference allows to ask for.
ERRORS: Final = ("tp", "fp", "fn")
WORDS: Final = ("pred", "all", *ERRORS)
#: A detection has found an object that it overlaps by this much, as COCO's most lenient figure has it.
FOUND_AT: Final = 0.5
_ONE: Final = re.compile(r"box[ -]?(\d+)")
_NUMBERS: Final = re.compile(r"\s*-?\d+(\.\d+)?(\s*,\s*-?\d+(\.\d+)?)+(\s*,\s*[^,]+)?\s*")


@dataclass(frozen=True, eq=False)
class ObjectScene:
    """What targets of one image are made from.

    Attributes:
        session: the image and the detector.
        reference: (N, 5) xyxy pixels and class index (255 = does not count) of the objects in the image, or None.
    """

    session: DetectionSession
    reference: np.ndarray | None = None

    def __post_init__(self) -> None:
        held = self.reference
        if held is not None and (held.ndim != 2 or held.shape[1] != 5):
            raise UsageError("the reference must be boxes", where="reference", got=held.shape, allowed="(N, 5): x0, y0,"
                             " x1, y1 and class index")  # fmt: skip

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.session.detector.info.classes

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return int(self.session.image.shape[1]), int(self.session.image.shape[2])

    @property
    def threshold(self) -> float:
        """The operating threshold."""
        return self.session.detector.info.threshold.value

    def above(self) -> list[int]:
        """Places of the detections at or above the threshold, the best first."""
        scores = self.session.detections.scores
        order = scores.argsort(descending=True, stable=True).tolist()
        return [place for place in order if float(scores[place]) >= self.threshold]

    def order(self) -> list[int]:
        """Places of all detections, the best first."""
        return [int(place) for place in self.session.detections.scores.argsort(descending=True, stable=True)]


class NoObjectError(UsageError):
    """The image has no found, false or missed object; other targets may stand all the same."""


def parse_objects(asked: object, scene: ObjectScene) -> tuple[ObjectTarget, ...]:
    """The targets that a text, a mapping or a list of them names.

    Args:
        asked: see the module's text; a text that begins with ``{`` is read as YAML.
        scene: the image's detections, and perhaps a reference.

    Raises:
        UsageError: no such target, nothing is detected, a pixel or a box outside the image, or a reference is missing.
    """
    if isinstance(asked, str) and asked.lstrip().startswith("{"):
        asked = parse_yaml(asked, path=Path("target")).data
    if isinstance(asked, Mapping):
        return _asking(asked, scene)
    if isinstance(asked, str | int):
        return tuple(ObjectTarget(each) for each in _objects(asked, scene))
    if isinstance(asked, Sequence) and asked:
        if all(isinstance(each, int | float) for each in asked):
            return tuple(ObjectTarget(each) for each in _objects(",".join(map(str, asked)), scene))
        return tuple(target for each in asked for target in parse_objects(each, scene))
    allowed = "text, a mapping, or a list of them"
    raise UsageError("this is no target", where="target", got=repr(asked), allowed=allowed)


def _asking(asked: Mapping[Any, Any], scene: ObjectScene) -> tuple[ObjectTarget, ...]:
    known = (*ASKS, *ERRORS)
    if len(asked) != 1:
        then = "A place stands in quotes: {where: '10,20'}"
        allowed = ", ".join(known)
        raise UsageError(
            "a target is a mapping of one key", where="target", got=dict(asked), allowed=allowed, then=then
        )
    kind, value = next(iter(asked.items()))
    if kind not in known:
        raise UsageError("no such target", where="target", got=kind, then=did_you_mean(str(kind), known))
    if kind in ERRORS:
        return tuple(ObjectTarget(each) for each in _capped(_errors(str(kind), scene, _class(value, scene))))
    plain = value if isinstance(value, str | int | Sequence) else ""
    return tuple(replace(each, question=cast(Question, kind)) for each in parse_objects(plain, scene))


def _objects(asked: str | int, scene: ObjectScene) -> list[DetectedObject]:
    text = f"box {asked}" if isinstance(asked, int) else asked.strip()
    if text in ("pred", "all") or text in scene.classes:
        index = None if text in ("pred", "all") else scene.classes.index(text)
        return _capped(_detected(scene, index))
    if text in ERRORS:
        return _capped(_errors(text, scene, None))
    if match := _ONE.fullmatch(text):
        return [_by_rank(int(match[1]), scene)]
    if _NUMBERS.fullmatch(text):
        return [_by_numbers(text, scene)]
    hint = did_you_mean(text, [*WORDS, *scene.classes])
    allowed = "a class, box 0, x,y, or x0,y0,x1,y1,class; " + ", ".join(WORDS)
    raise UsageError("no such target", where="target", got=text, allowed=allowed, then=hint)


def _capped(found: Sequence[Callable[[str], DetectedObject]]) -> list[DetectedObject]:
    """The first of them, with a word where that is not all."""
    left = len(found) - MOST_OBJECTS
    remark = f"the first {MOST_OBJECTS} of {len(found)} objects are explained; name others, e.g. box {MOST_OBJECTS}"
    return [make(remark if left > 0 else "") for make in found[:MOST_OBJECTS]]


def _detected(scene: ObjectScene, index: int | None) -> list[Callable[[str], DetectedObject]]:
    found, order = scene.session.detections, scene.order()
    mine = [place for place in scene.above() if index is None or int(found.labels[place]) == index]
    if not mine:
        best = f"the best scores {float(found.scores[order[0]]):.3g}" if order else "no box at all"
        name = "anything" if index is None else f"class '{scene.classes[index]}'"
        raise UsageError(
            f"the model does not detect {name} in this image at {scene.threshold:g} or above",
            where="target",
            got=best,
            allowed="box 0 for the best box below" if order else "x0,y0,x1,y1,class for an object that it missed",
        )
    return [partial(_detection, place, order.index(place), scene) for place in mine]


def _detection(place: int, rank: int, scene: ObjectScene, remark: str = "", *, role: str = "") -> DetectedObject:
    """One detection as an object; ``rank`` is its place in the order of scores."""
    found, total = scene.session.detections, len(scene.session.detections.scores)
    label, score = int(found.labels[place]), float(found.scores[place])
    side = "at or above" if score >= scene.threshold else "below"
    origin = f"detection {rank} of {total} by score, {side} the threshold {scene.threshold:g}"
    held, candidate = scene.session.candidates, None
    if held is not None and found.candidates is not None:
        index = int(found.candidates[place])
        overlap = float(box_iou(found.xyxy[[place]], held.xyxy[0, [index]]))  # below 1 where the box was clipped
        candidate = Candidate(index, int(held.level[index]), float(held.scores[0, index, label]), overlap)
    vector = class_vectors(found, len(scene.classes))[place].detach().cpu()
    box, name = found.xyxy[place].detach().cpu().float(), f"{scene.classes[label]} {rank}"
    instance = None if found.masks is None else found.masks[place].detach()
    return DetectedObject(box, vector, label, name, scene.shape, origin, score, candidate, instance, role, remark)


def _by_rank(rank: int, scene: ObjectScene) -> DetectedObject:
    order = scene.order()
    if rank >= len(order):
        allowed = f"box 0 to box {len(order) - 1}" if order else "none; nothing is detected"
        raise UsageError("there is no such detection", where="target", got=f"box {rank}", allowed=allowed)
    return _detection(order[rank], rank, scene)


def _by_numbers(text: str, scene: ObjectScene) -> DetectedObject:
    parts = [part.strip() for part in text.split(",")]
    numbers = [float(part) for part in parts[:4] if re.fullmatch(r"-?\d+(\.\d+)?", part)]
    if len(parts) == len(numbers) == 2:
        return _covering(numbers[0], numbers[1], scene)
    if len(numbers) != 4 or len(parts) > 5:
        raise UsageError("no such target", where="target", got=text, allowed="x,y or x0,y0,x1,y1 or x0,y0,x1,y1,class")
    return _own(numbers, _class(parts[4], scene) if len(parts) == 5 else None, scene)


def _covering(x: float, y: float, scene: ObjectScene) -> DetectedObject:
    """The best detection over the centre of a pixel."""
    height, width = scene.shape
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError("the pixel lies outside the image", where="target", got=f"x {x:g}, y {y:g}",
                         allowed=f"x 0 to {width - 1}, y 0 to {height - 1}")  # fmt: skip
    boxes = scene.session.detections.xyxy
    for rank, place in enumerate(scene.order()):
        left, top, right, bottom = boxes[place].tolist()
        if left <= x + 0.5 < right and top <= y + 0.5 < bottom:
            return _detection(place, rank, scene)
    raise UsageError(
        "no detection covers this pixel",
        where="target",
        got=f"x {x:g}, y {y:g}",
        allowed="a pixel in a detected box, or x0,y0,x1,y1,class for an object that was missed",
    )


def _own(numbers: Sequence[float], index: int | None, scene: ObjectScene) -> DetectedObject:
    left, top, right, bottom = numbers
    height, width = scene.shape
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UsageError("this is no box in the image", where="target", got=", ".join(f"{each:g}" for each in numbers),
                         allowed=f"0 <= x0 < x1 <= {width}, 0 <= y0 < y1 <= {height}")  # fmt: skip
    if index is None and len(scene.classes) > 1:
        raise UsageError("a box of one's own needs a class", where="target", got=", ".join(map(str, numbers)),
                         allowed="x0,y0,x1,y1,class with one of " + ", ".join(scene.classes))  # fmt: skip
    name = f"{scene.classes[index or 0]} in {left:g},{top:g},{right:g},{bottom:g}"
    return _box(torch.tensor(numbers, dtype=torch.float32), index or 0, name, "a box of the user's own", scene)


def _box(
    xyxy: torch.Tensor, index: int, name: str, origin: str, scene: ObjectScene, *, role: str = "", remark: str = ""
) -> DetectedObject:
    """A box that no detection stands for, with the candidate that could have."""
    held = scene.session.candidates
    candidate = None if held is None else nearest_candidate(xyxy, index, held.xyxy[0], held.scores[0], held.level)
    vector = torch.nn.functional.one_hot(torch.tensor(index), len(scene.classes)).float()
    return DetectedObject(xyxy, vector, index, name, scene.shape, origin, None, candidate, None, role, remark)


def _class(name: object, scene: ObjectScene) -> int:
    if name not in scene.classes:
        raise UsageError("no such class", where="target", got=name, then=did_you_mean(str(name), scene.classes))
    return scene.classes.index(str(name))


def _errors(kind: str, scene: ObjectScene, index: int | None) -> list[Callable[[str], DetectedObject]]:
    """Detections that found an object, false ones, or missed objects; of one class or of all."""
    if scene.reference is None:
        then = "Name one: --reference"
        raise UsageError("this target needs a reference with boxes", where="target", got=kind, then=then)
    order, found = scene.order(), scene.session.detections
    roles, missed = matched(scene)
    if kind == "fn":
        boxes = [(number, row) for number, row in enumerate(scene.reference) if number in missed]
        made: list[Callable[[str], DetectedObject]] = [
            partial(_missed, number, row, scene) for number, row in boxes if index in (None, int(row[4]))
        ]
    else:
        mine = [place for place in scene.above() if roles.get(place) == kind]
        mine = [place for place in mine if index in (None, int(found.labels[place]))]
        words = {"tp": "true positive", "fp": "false positive"}
        made = [partial(_detection, place, order.index(place), scene, role=words[kind]) for place in mine]
    if not made:
        raise NoObjectError(f"this image has no {kind}", where="target", got=kind,
                           allowed=", ".join(_counts(roles, missed)))  # fmt: skip
    return made


def _missed(number: int, row: np.ndarray, scene: ObjectScene, remark: str = "") -> DetectedObject:
    index = int(row[4])
    name, origin = f"missed {scene.classes[index]} {number}", f"object {number} of the reference"
    box = torch.from_numpy(row[:4].astype(np.float32))
    return _box(box, index, name, origin, scene, role="false negative", remark=remark)


def _counts(roles: Mapping[int, str], missed: Sequence[int]) -> list[str]:
    held = list(roles.values())
    return [f"{held.count('tp')} tp", f"{held.count('fp')} fp", f"{len(missed)} fn"]


def matched(scene: ObjectScene) -> tuple[dict[int, str], list[int]]:
    """What each detection at or above the threshold is, and which objects none of them found.

    See :func:`xaiseg.detection.matching.match`, at an overlap of :data:`FOUND_AT`; a detection in a region that does
    not count is neither.

    Returns:
        Place of a detection -> "tp" or "fp", and rows of the reference that were missed.
    """
    found, reference = scene.session.detections, np.asarray(scene.reference, dtype=np.float64)
    boxes, scores = found.xyxy.cpu().numpy(), found.scores.cpu().numpy()
    labels, places = found.labels.cpu().numpy(), np.array(scene.above(), dtype=np.int64)
    roles: dict[int, str] = {}
    missed: list[int] = []
    for index in range(len(scene.classes)):
        rows, mine = np.flatnonzero(reference[:, 4] == index), places[labels[places] == index]
        regions = reference[reference[:, 4] == IGNORE, :4]
        table = match(boxes[mine], scores[mine], reference[rows, :4], regions, threshold=FOUND_AT)
        said = zip(mine[table.order].tolist(), table.found.tolist(), strict=True)
        roles |= {place: "fp" if hit == -1 else "tp" for place, hit in said if hit != -2}
        missed += rows[table.finder == -1].tolist()
    return roles, sorted(missed)
