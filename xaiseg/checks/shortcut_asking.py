"""What the shortcut checks share: was this object found in an edited image, and with which confidence?

A trial is an edit and its sham. The same few numbers come out for a detector and for a segmenter (see
:mod:`xaiseg.checks.shortcut_reading`), so that every check of the family measures both kinds of model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from xaiseg.checks.base import Context, Row
from xaiseg.checks.pictures import PICTURE_COLUMNS, shown
from xaiseg.checks.shortcut_reading import (
    Answer,
    Reading,
    Thing,
    ignored_boxes,
    ignored_pixels,
    occupied,
    read_boxes,
    read_masks,
    things_of,
)  # fmt: skip
from xaiseg.data.case import Case
from xaiseg.editing.fills import removed
from xaiseg.editing.regions import bounds_of, free_place, moved, widened
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Budget
from xaiseg.subject import Boxes, Detector, Prediction

NO_OBJECT: Final = "images that hold no object, or of which none is found before any edit"
NO_ROOM: Final = "no room for an equal region on the background"
#: Side of the window of a picture, in lengths of the object.
_ROUND: Final = 4.0
#: Columns of every shortcut check; ``object`` names the object, "" = the image.
COLUMNS: Final = (
    ("confidence", pa.float64()),  # in the image as it is
    ("confidence_edit", pa.float64()),
    ("confidence_sham", pa.float64()),
    ("overlap_edit", pa.float64()),  # IoU of what was found with the object
    ("overlap_sham", pa.float64()),
    ("lost_edit", pa.bool_()),
    ("lost_sham", pa.bool_()),
    ("neighbour", pa.float64()),  # mean confidence of the other objects that were found, edit minus sham
    ("false_edit", pa.float64()),  # detections that are no object; of a segmenter the share of the image
    ("false_sham", pa.float64()),
    ("claim_edit", pa.float64()),  # answers at the place of the edit: 0 or 1; of a segmenter the share of that area
    ("claim_sham", pa.float64()),
    *PICTURE_COLUMNS,  # as it is, edit and sham around one telling object a case, one below the other
)


@dataclass(frozen=True)
class Asked:
    """Parameters that all shortcut checks have.

    Attributes:
        match: boxes: "iou", or "centre": the centre of the detection lies in the reference box.
        match_iou: IoU from which on a box or component is the object; None = 0.5 for boxes, 0.1 for components.
        most_objects: objects an image that are edited, drawn by seed among those that the model finds.
        margin_px: so many pixels around an object are filled in with it, since its edge and shadow would give it away.
    """

    match: Literal["iou", "centre"] = "iou"
    match_iou: float | None = None
    most_objects: int = 3
    margin_px: float = 2.0

    def __post_init__(self) -> None:
        wrong = [
            (self.match not in ("iou", "centre"), "match", "iou or centre"),
            (self.match_iou is not None and not 0 < self.match_iou <= 1, "match_iou", "above 0, at most 1"),
            (self.most_objects < 1, "most_objects", "1 or more"),
            (not 0 <= self.margin_px <= 100, "margin_px", "0 to 100"),
        ]
        for is_wrong, name, allowed in wrong:
            if is_wrong:
                raise UsageError(
                    "this parameter is out of range", where=f"shortcut: {name}", got=getattr(self, name),
                    allowed=allowed,
                )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Trial:
    """An edit and its sham.

    Attributes:
        factor, level: as the key columns.
        edit, sham: images (C, H, W).
        number: position of the edited object, or None where the edit concerns all objects and the image.
        edit_things, sham_things: where the objects are then; None = where they were.
        where: (H, W) bool, the place at which answers are counted, or None.
        filled: (H, W) bool, what the edit fills in, or None; an object of which it takes a part is no neighbour.
    """

    factor: str
    level: str
    edit: np.ndarray
    sham: np.ndarray
    number: int | None = None
    edit_things: tuple[Thing, ...] | None = None
    sham_things: tuple[Thing, ...] | None = None
    where: np.ndarray | None = None
    filled: np.ndarray | None = None


@dataclass(eq=False)
class Asker:
    """Asks the audited model about the objects of one case.

    Attributes:
        context: of the check.
        case: the image and its reference.
        params: of the check.
        telling: which objects are worth a picture: those that the edit "lost" and the sham did not, or those that both
            have "kept" (where an answer ought to go).
    """

    context: Context
    case: Case
    params: Asked
    telling: Literal["lost", "kept"] = "lost"
    pictured: bool = False
    things: tuple[Thing, ...] = ()
    clean: tuple[Answer, ...] = ()
    taken: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))

    def __post_init__(self) -> None:
        self.things = things_of(self.case, boxes=self._boxes)
        held = self.context.detections() if self._boxes else self.context.prediction()
        self.clean = self._read(held, self.things).answers
        self.taken = widened(occupied(self.case, self.things), self.params.margin_px)

    @property
    def _boxes(self) -> bool:
        return isinstance(self.context.subject, Detector)

    def chosen(self) -> list[int]:
        """Positions of the objects to edit: found in the image as it is, at most ``most_objects`` of them by seed."""
        found = [number for number, answer in enumerate(self.clean) if answer.found]
        order = self.context.generator("objects").permutation(len(found))[: self.params.most_objects]
        return sorted(found[position] for position in order)

    def cut(self, number: int) -> np.ndarray:
        """(H, W) bool: an object with its margin."""
        return widened(self.things[number].region, self.params.margin_px)

    def union(self, *, but: int | None = None) -> np.ndarray:
        """(H, W) bool: all objects, or all but one."""
        found = np.zeros(self.case.shape, dtype=bool)
        for index, thing in enumerate(self.things):
            if index != but:
                found |= thing.region
        return found

    def filling(
        self, number: int, region: np.ndarray, kind: str, *, factor: str, level: str, hidden: bool = False
    ) -> Trial | Row:
        """Fills a region of an object in; the sham fills an equal region of the background in.

        Args:
            number: the object.
            region: (H, W) bool, what is filled in.
            kind: see :func:`xaiseg.editing.fills.removed`.
            factor: as the key column.
            level: as the key column.
            hidden: the object is there still, partly hidden, and its visible part counts as well.

        Returns:
            The trial, or the row that says that the background has no room.
        """
        place = free_place(region, self.taken, self.context.generator(f"place {level} {number}"))
        if place is None:
            return {
                "factor": factor, "level": level, "object": name_of(number), "status": "not_applicable",
                "reason": NO_ROOM,
            }  # fmt: skip
        image = self.case.image
        edit = removed(image, region, kind, avoid=self.union(but=None if hidden else number))
        sham = removed(image, moved(region, *place), kind, avoid=self.union())
        things = None
        if hidden:
            things = (*self.things[:number], self.things[number].without(region), *self.things[number + 1 :])
        return Trial(factor, level, edit, sham, number, edit_things=things, filled=region)

    def fillings(self, made: Iterable[Trial | Row]) -> Iterator[Row]:
        """The rows of what :meth:`filling` returns."""
        aside: list[Row] = []

        def trials() -> Iterator[Trial]:  # one after another: all edits of a large image at once take gigabytes
            for one in made:
                if isinstance(one, Trial):
                    yield one
                else:
                    aside.append(one)

        yield from self.rows(trials())
        yield from aside

    def rows(self, trials: Iterable[Trial]) -> Iterator[Row]:
        """Predicts edits and shams, a batch at a time, and says what became of each object."""
        stream = iter(trials)
        size = max(1, int(self.context.facts.get("batch", Budget().batch_size)) // 2)
        while batch := list(islice(stream, size)):
            # Edits may share a sham; it is predicted once.
            images = {id(image): image for trial in batch for image in (trial.edit, trial.sham)}
            held: Sequence[Boxes | Prediction]
            ordered = list(images.values())
            held = self.context.detect(ordered) if self._boxes else self.context.predict(ordered)
            answers: dict[int, Boxes | Prediction] = dict(zip(images, held, strict=True))
            for trial in batch:
                edit = self._read(answers[id(trial.edit)], trial.edit_things or self.things, trial)
                sham = self._read(answers[id(trial.sham)], trial.sham_things or self.things, trial)
                yield from self._rows(trial, edit, sham)

    def _rows(self, trial: Trial, edit: Reading, sham: Reading) -> Iterator[Row]:
        place: Row = {"factor": trial.factor, "level": trial.level}
        if trial.where is not None:
            yield place | {
                "false_edit": edit.false, "false_sham": sham.false, "claim_edit": edit.claim, "claim_sham": sham.claim,
            }  # fmt: skip
        for number in self.chosen() if trial.number is None else (trial.number,):
            one, other = edit.answers[number], sham.answers[number]
            yield place | {
                "object": name_of(number),
                "target": self.context.facts["classes"][self.things[number].label],
                "confidence": self.clean[number].confidence,
                "confidence_edit": one.confidence, "confidence_sham": other.confidence,
                "overlap_edit": one.overlap, "overlap_sham": other.overlap,
                "lost_edit": not one.found, "lost_sham": not other.found,
                "neighbour": self._neighbour(trial, edit, sham),
                **self._pictures(trial, number, one, other),
            }  # fmt: skip

    def _neighbour(self, trial: Trial, edit: Reading, sham: Reading) -> float | None:
        """Only where one object is edited and the others are what and where they were."""
        if trial.number is None or trial.edit_things is not None:
            return None
        others = [
            index
            for index, answer in enumerate(self.clean)
            if answer.found and index != trial.number and not self._is_filled(trial, index)
        ]
        changes = [edit.answers[index].confidence - sham.answers[index].confidence for index in others]
        return float(np.mean(changes)) if changes else None

    def _is_filled(self, trial: Trial, index: int) -> bool:
        return trial.filled is not None and bool((self.things[index].region & trial.filled).any())

    def _pictures(self, trial: Trial, number: int, edit: Answer, sham: Answer) -> Row:
        """The surroundings of the first telling object of the case, as it is, in the edit and in the sham."""
        if self.pictured or not sham.found or edit.found == (self.telling == "lost"):
            return {}
        self.pictured = True
        held = ((self.case.image, None), (trial.edit, trial.edit_things), (trial.sham, trial.sham_things))
        windows = [around(image, (things or self.things)[number].region, _ROUND) for image, things in held]
        return shown(windows, self.context.facts["value_range"])

    def _read(self, held: Boxes | Prediction, things: Sequence[Thing], trial: Trial | None = None) -> Reading:
        where = None if trial is None else trial.where
        if isinstance(held, Boxes):
            threshold = float(self.context.facts["threshold"])
            return read_boxes(
                held, things, ignored_boxes(self.case), threshold, self.params.match, self.params.match_iou, where
            )
        # A shifted image has its ignored pixels elsewhere; in it and in its sham nothing is left open.
        shifted = trial is not None and trial.sham_things is not None
        return read_masks(held, things, self.params.match_iou, where, None if shifted else ignored_pixels(self.case))


def around(image: np.ndarray, region: np.ndarray, times: float) -> np.ndarray:
    """A window (C, h, w) of an image around a region, ``times`` as long as it; those of a moved region have one size.

    >>> around(np.arange(9.0)[None, None], np.arange(9)[None] == 8, 3.0).tolist()
    [[[6.0, 7.0, 8.0]]]
    """
    left, top, right, bottom = bounds_of(region)
    side = round(times * max(right - left, bottom - top))
    down, across = image.shape[1:]
    height, width = min(side, down), min(side, across)
    row = min(max((top + bottom - height) // 2, 0), down - height)
    column = min(max((left + right - width) // 2, 0), across - width)
    return image[:, row : row + height, column : column + width]


def name_of(number: int) -> str:
    """The name of an object in the key column.

    >>> name_of(0)
    'object 1'
    """
    return f"object {number + 1}"
