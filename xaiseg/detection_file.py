"""A file of detections in MegaDetector's format as a subject: no model at all, answers for its own images only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from xaiseg.data.megadetector import Batch, Found, read_batch
from xaiseg.errors import SubjectError, UsageError, did_you_mean
from xaiseg.subject import Boxes, Detector, SubjectInfo


class DetectionFile(Detector):
    """Detections by case id; the engine asks ``predict_cases``, because an image does not tell which case it is.

    Args:
        path: the file; names of images without suffix are case ids. Either may have more folders before it than the
            other, as long as the folders that both have agree and no other image fits.
        info: name, classes and threshold of the detector that made it.

    Raises:
        UsageError: as :func:`~xaiseg.data.megadetector.read_batch`, or a category that occurs is no class.
    """

    by_case = True

    def __init__(self, path: Path, info: SubjectInfo) -> None:
        self.info = info
        self._path = path
        batch = read_batch(path)
        self.names = tuple(batch.images)
        self._label = _labels(batch, info.classes, path)
        self._held: dict[str, Found | str] = {}
        for name, held in batch.images.items():
            whole = PurePosixPath(name).with_suffix("")
            self._held[whole.as_posix()] = held
        self._by_last: dict[str, list[str]] = defaultdict(list)
        for name in self._held:
            self._by_last[PurePosixPath(name).name].append(name)

    def knows(self, case: str) -> bool:
        """Whether an image of the file can be this case, be it one on which the detector failed."""
        return bool(self._names(case))

    def predict(self, images: Sequence[Tensor], *, batch_size: int = 8) -> list[Boxes]:
        """Refuses: there is no model that could look at an image."""
        raise SubjectError("a file of detections cannot look at new images", where=self._path)

    def predict_cases(self, ids: Sequence[str], shapes: Sequence[tuple[int, int]]) -> list[Boxes]:
        """The stored detections of cases, in order.

        Args:
            ids: case ids.
            shapes: (H, W) of each image, since the file gives shares of its sides.

        Raises:
            SubjectError: the file lacks an image, or says that it failed; neither is an empty image.
        """
        return [self._boxes(case, shape) for case, shape in zip(ids, shapes, strict=True)]

    def _boxes(self, case: str, shape: tuple[int, int]) -> Boxes:
        names = self._names(case)
        if not names:
            raise SubjectError("the file of detections does not know this image", where=self._path, got=case)
        if len(names) > 1:
            what = "several images of the file of detections could be this one"
            raise SubjectError(what, where=self._path, got=case, allowed=", ".join(names[:3]))
        held = self._held[names[0]]
        if isinstance(held, str):
            raise SubjectError(f"the detector failed on this image: {held}", where=self._path, got=case)
        keep = self._label[held.labels] >= 0
        corners = held.boxes[keep] * np.array([shape[1], shape[0]] * 2, dtype=np.float64)
        return Boxes(
            torch.from_numpy(corners.astype(np.float32)),
            torch.from_numpy(held.scores[keep].astype(np.float32)),
            torch.from_numpy(self._label[held.labels][keep]),
        )

    def refuse_shared(self, ids: Sequence[str]) -> None:
        """Refuses cases that would get the answer of one image: it is right for one of them at most.

        Args:
            ids: all cases of the data.

        Raises:
            UsageError: e.g. the file holds IMG_0001 without a folder, and two cameras have one.
        """
        given: dict[str, str] = {}
        for case in ids:
            names = self._names(case)
            if len(names) == 1 and given.setdefault(names[0], case) != case:
                raise UsageError(
                    "two cases would be the same image of the file of detections", where=self._path,
                    got=f"{given[names[0]]} and {case}, both {names[0]}",
                    then="Run the detector on the folder that holds both cameras, so that names keep their folders",
                )  # fmt: skip

    def _names(self, case: str) -> list[str]:
        """The images of the file that a case can be."""
        if case in self._held:
            return [case]
        return [name for name in self._by_last.get(PurePosixPath(case).name, ()) if _same_end(name, case)]


def _same_end(one: str, other: str) -> bool:
    """Whether the longer of two paths ends with the shorter.

    >>> _same_end("a/cam1/1", "cam1/1"), _same_end("1", "cam2/1"), _same_end("cam1/1", "cam2/1")
    (True, True, False)
    """
    first, second = PurePosixPath(one).parts, PurePosixPath(other).parts
    common = min(len(first), len(second))
    return first[-common:] == second[-common:]


def _labels(batch: Batch, classes: Sequence[str], path: Path) -> np.ndarray:
    """Position of a category -> class index; -1 = left out, for what a detector of one class has besides it."""
    used = {int(label) for held in batch.images.values() if not isinstance(held, str) for label in held.labels}
    table = np.full(max(1, len(batch.categories)), -1, np.int64)
    for position, name in enumerate(batch.categories):
        if name in classes:
            table[position] = list(classes).index(name)
        elif position in used and len(classes) > 1:
            raise UsageError(
                f"the category '{name}' is no class of model.yaml", where=path, allowed=", ".join(classes),
                then=did_you_mean(name, classes),
            )  # fmt: skip
    if not (table >= 0).any():
        raise UsageError(
            "no category of the file is a class of model.yaml", where=path, got=", ".join(batch.categories),
            allowed=", ".join(classes),
        )  # fmt: skip
    return table
