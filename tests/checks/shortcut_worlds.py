"""Bright squares on floes and in the water, and models of known habits: what each looks at is its code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tests.checks.fake import FACTS, quantities, tables
from xaiseg.checks.base import Quantity, Row, get_check
from xaiseg.context import CaseContext, Counter, Predictor
from xaiseg.data.case import Case, CaseRef, Dataset
from xaiseg.subject import Boxes, Detector, Segmenter, Subject, SubjectInfo, Threshold

SHAPE = (64, 80)
WATER, FLOE, ANIMAL = 0.2, 0.5, 0.85


class Habit(Detector):
    """A box around each region brighter than 0.7, where ``looks(image, box mask)`` gives its score."""

    def __init__(self, looks: Callable[[np.ndarray, np.ndarray], float]) -> None:
        self.looks = looks
        self.info = SubjectInfo("habit", ("seal",), 1, offers=frozenset({"scores"}), threshold=Threshold(0.5, "val"))
        self.seen: list[np.ndarray] = []

    def predict(self, images: Sequence[Tensor], *, batch_size: int = 8) -> list[Boxes]:
        self.seen += [image.numpy() for image in images]
        return [self._detect(image[0].numpy()) for image in images]

    def _regions(self, image: np.ndarray) -> np.ndarray:
        return np.asarray((image > 0.7) & (image < 0.95))

    def _detect(self, image: np.ndarray) -> Boxes:
        numbers, count = ndimage.label(self._regions(image))
        boxes = [[x.start, y.start, x.stop, y.stop] for y, x in ndimage.find_objects(numbers)]
        scores = [self.looks(image, numbers == number) for number in range(1, count + 1)]
        return Boxes(
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores, dtype=torch.float32),
            torch.zeros(count, dtype=torch.int64),
        )  # fmt: skip


def ground_of(image: np.ndarray, mask: np.ndarray) -> float:
    """The median brightness three to five pixels around an object."""
    ring = ndimage.binary_dilation(mask, iterations=7) & ~ndimage.binary_dilation(mask, iterations=4)
    return float(np.median(image[ring]))


def honest() -> Habit:
    """Knows the animal alone."""
    return Habit(lambda image, mask: 0.9)


def floe_lover() -> Habit:
    """Calls a bright square an animal only on a floe."""
    return Habit(lambda image, mask: 0.9 if ground_of(image, mask) > 0.4 else 0.1)


class FloeOnly(Habit):
    """Draws a box in the middle of each floe, whether there is an animal or not."""

    def __init__(self) -> None:
        super().__init__(lambda image, mask: 0.8)

    def _regions(self, image: np.ndarray) -> np.ndarray:
        floes, _ = ndimage.label(image > 0.35)
        found = np.zeros(image.shape, bool)
        for y, x in ndimage.find_objects(floes):
            row, column = (y.start + y.stop) // 2, (x.start + x.stop) // 2
            found[row - 4 : row + 4, column - 4 : column + 4] = y.stop - y.start > 20
        return found


class MarkReader(Habit):
    """Also takes whatever is as bright as a mark for an animal."""

    def __init__(self) -> None:
        super().__init__(lambda image, mask: 0.9)

    def _regions(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.binary_closing(image > 0.95, iterations=2) | super()._regions(image))


class Bright(Segmenter):
    """Labels what is brighter than 0.7, with ``habit(image) -> (H, W) bool`` of what it leaves out."""

    def __init__(self, leaves_out: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        self.leaves_out = leaves_out
        self.info = SubjectInfo("bright", ("background", "lesion"), 1, offers=frozenset({"scores"}))

    def predict(self, images: Sequence[Tensor], *, batch_size: int = 8) -> list[Tensor]:
        found = []
        for image in images:
            logit = 20 * (image[0] - 0.7)
            if self.leaves_out is not None:
                logit = torch.where(torch.from_numpy(self.leaves_out(image[0].numpy())), -9.0, logit)
            found.append(torch.stack((torch.zeros_like(logit), logit)))
        return found


def tile(
    name: str,
    animals: Sequence[tuple[int, int]] = ((28, 36),),
    *,
    floe: bool = True,
    cluster: str = "",
    empty: bool = False,
    masks: bool = False,
) -> Case:
    """An image with animals (top, left) of 8 x 8 pixels, each on its own floe or in the water."""
    image = np.full((1, *SHAPE), WATER, np.float32)
    for top, left in animals:
        if floe:
            image[0, max(top - 10, 0) : top + 18, max(left - 10, 0) : left + 18] = FLOE
    for top, left in animals:
        image[0, top : top + 8, left : left + 8] = ANIMAL
    reference = np.zeros(SHAPE, np.uint8)
    for top, left in animals:
        reference[top : top + 8, left : left + 8] = 1
    boxes = np.array([[x, y, x + 8, y + 8, 0] for y, x in animals], np.float32).reshape(-1, 5)
    survey = {"known_empty": "true"} if empty else {}
    ref = CaseRef(name, name, cluster=cluster or name, survey=survey)
    return Case(ref, image, reference if masks else None, boxes=None if masks else boxes)


def measured(
    check: str,
    subject: Subject,
    case: Case,
    *,
    params: Any = None,
    others: Sequence[Case] = (),
    entry: str = "test",
    facts: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> list[Row]:
    """The rows of one case, through the context that the engine makes."""
    found = get_check(check)
    held = {one.id: one for one in (case, *others)}
    refs = tuple(one.ref for one in others)
    dataset = Dataset(entry, "folder", refs, "flight", (), "", "here")
    plan = {"seed": seed, "facts": {**FACTS, "threshold": 0.5, "batch": 4, **(facts or {})}}
    predictor = Predictor(subject, 4)
    assert predictor.fill({case.id: case}, Counter()) == {}
    context = CaseContext(
        check, params or found.params(), plan, subject, case, predictor, {}, lambda ref, entry: held[ref.id],
        {entry: dataset},
    )  # fmt: skip
    rows = [{"case": case.id, **row} for row in found.measure(context, case)]
    assert context.counter.forwards <= found.forwards(context.params)
    return rows


def named(
    check: str, rows: Sequence[Row], cases: Sequence[Case], params: Any = None
) -> dict[tuple[str, ...], Quantity]:
    """The quantities of rows."""
    return quantities(check, tables({check: rows}, cases), params)
