"""The mask bank: one set of masked forwards whose responses serve all targets and all methods of an image.

A masked image is x * M + b * (1 - M), with b the baseline. The bank keeps the masks as rows of cells and the scores of
each target, never pixels: N masks cost N x (d + T) numbers. What it has computed it computes once; asked for more masks
it goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from xaiseg.explainers.masks import Design
from xaiseg.explainers.targets import Target

if TYPE_CHECKING:
    from xaiseg.explainers.base import Session


@dataclass(frozen=True)
class Responses:
    """What a model answered to masks.

    Attributes:
        rows: (N, d) float32 in [0, 1], the share of each cell that was shown.
        groups: (N,) int64, the position of the grid.
        scores: (N, T) float64, S of the masked images.
        targets: the T targets.
    """

    rows: np.ndarray
    groups: np.ndarray
    scores: np.ndarray
    targets: tuple[Target, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, chosen: np.ndarray | slice) -> Responses:
        """Some of the masks."""
        return Responses(self.rows[chosen], self.groups[chosen], self.scores[chosen], self.targets)


class MaskBank:
    """Masked forwards of one image, for one design and one baseline. Get it from :meth:`Session.bank`.

    Args:
        session: the image and the model.
        design: how masks are made.
        fill: (C, H, W), what hidden pixels show.
    """

    def __init__(self, session: Session, design: Design, fill: Tensor) -> None:
        self.design = design
        self.fill = fill
        height, width = session.image.shape[1:]
        self.cells = design.cells((height, width))
        self._session = session
        self._rows = np.zeros((0, self.cells.count), dtype=np.float32)
        self._groups = np.zeros(0, dtype=np.int64)
        self._scores: dict[Target, np.ndarray] = {}
        self._ends: dict[Target, tuple[float, float]] = {}

    def responses(self, targets: Sequence[Target], count: int) -> Responses:
        """The first ``count`` masks and the scores of these targets.

        Masks that are new are run once for all targets that the bank has met; a target that is new costs the old masks
        again, since no logits are kept. So name all targets of an image at the first call.

        Raises:
            SubjectError: a score is not finite.
        """
        for target in targets:
            self._scores.setdefault(target, np.zeros(0))
        while (start := min(len(self._scores[target]) for target in targets)) < count:
            self._run(start, count)
        scores = np.column_stack([self._scores[target][:count] for target in targets])
        return Responses(self._rows[:count], self._groups[:count], scores, tuple(targets))

    def held(self, target: Target) -> int:
        """How many masks have been run for a target; these cost nothing more."""
        return len(self._scores.get(target, ()))

    def ends(self, targets: Sequence[Target]) -> tuple[np.ndarray, np.ndarray]:
        """S of the image itself and S of the baseline alone, (T,) each."""
        new = [target for target in targets if target not in self._ends]
        if new:
            bare = self._session.scores([self.fill], new)[0]
            self._ends.update(
                {target: (self._session.score(target), float(s)) for target, s in zip(new, bare, strict=True)}
            )
        found = np.array([self._ends[target] for target in targets])
        return found[:, 0], found[:, 1]

    def images(self, start: int, stop: int) -> Iterator[Tensor]:
        """Masked images (C, H, W) of masks start ... stop - 1, painted a batch at a time."""
        self._draw(stop)
        image, size = self._session.image, self._session.budget.batch_size
        difference = image - self.fill
        for first in range(start, stop, size):
            chosen = slice(first, min(first + size, stop))
            yield from self._painted(chosen, difference)

    def _painted(self, chosen: slice, difference: Tensor) -> Tensor:
        # In a function of its own, so that no batch of masks lives on beside the next: under glibc the holes that they
        # left made the heap grow to several times what is needed.
        masks = self.cells.masks(self._rows[chosen], self._groups[chosen], difference.device)
        return torch.addcmul(self.fill, masks[:, None], difference)

    def _draw(self, count: int) -> None:
        held = len(self._rows)
        if count > held:
            rows, groups = self.design.rows(self.cells, self._session.seed, held, count)
            self._rows = np.concatenate([self._rows, rows])
            self._groups = np.concatenate([self._groups, groups])

    def _run(self, start: int, count: int) -> None:
        """Runs masks for every target that has ``start`` of them, up to where another target already is."""
        together = [target for target, scores in self._scores.items() if len(scores) == start]
        stop = min([count, *(len(scores) for scores in self._scores.values() if len(scores) > start)])
        fresh = self._session.scores(self.images(start, stop), together)
        for target, scores in zip(together, fresh.T, strict=True):
            self._scores[target] = np.concatenate([self._scores[target], scores])
