"""What a check sees while it measures one case: the prediction, more predictions, seeds, and a place for maps and
windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaiseg.data.case import Case, CaseRef, Dataset
from xaiseg.errors import CheckError, SubjectError
from xaiseg.seeds import generator
from xaiseg.subject import Boxes, Detector, Prediction, Segmenter, Subject
from xaiseg.variants import Variant


@dataclass
class Counter:
    """Forwards and backwards, counted in images."""

    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class Window:
    """A place in an image that a gallery may show at native scale.

    Attributes:
        kind: which gallery, e.g. "missed".
        rank: the smallest are shown first.
        xyxy: the object, in pixels of the image.
    """

    kind: str
    rank: float
    xyxy: tuple[float, float, float, float]


class Predictor:
    """Predicts images in the plan's batches and holds the predictions of the shard in work.

    Args:
        subject: the audited model, or None where nothing will be predicted.
        batch: images a forward pass.
    """

    def __init__(self, subject: Subject | None, batch: int) -> None:
        self._subject = subject
        self._batch = batch
        self._held: dict[str, Prediction | Boxes] = {}
        self._failed: dict[str, SubjectError] = {}
        self.note = ""

    def fill(self, cases: Mapping[str, Case], counter: Counter) -> dict[str, SubjectError]:
        """Predicts all cases; returns the errors of those that failed, case by case."""
        names = list(cases)
        failed: dict[str, SubjectError] = {}
        if getattr(self._subject, "by_case", False):
            groups = [[name] for name in names]
        else:
            groups = [names[i : i + self._batch] for i in range(0, len(names), self._batch)]
        for group in groups:
            for name, outcome in self._group(group, cases, counter).items():
                if isinstance(outcome, SubjectError):
                    failed[name] = outcome
                else:
                    self._held[name] = outcome
        self._failed |= failed
        return failed

    def _group(
        self, group: Sequence[str], cases: Mapping[str, Case], counter: Counter
    ) -> dict[str, Prediction | Boxes | SubjectError]:
        answers: Sequence[Prediction | Boxes]
        try:
            if getattr(self._subject, "by_case", False):
                answers = stored_answers(self._subject, group, [cases[name].shape for name in group])
            elif isinstance(self._subject, Detector):
                answers = self.detect([cases[name].image for name in group], counter)
            else:
                answers = self.predict([cases[name].image for name in group], counter)
            for name, answer in zip(group, answers, strict=True):
                self._check_answer(name, answer, cases[name].shape)
        except (torch.OutOfMemoryError, CheckError):
            raise
        except Exception as error:  # noqa: BLE001 - the image failed, with the reason; the audit goes on
            if len(group) == 1:
                kept = error if isinstance(error, SubjectError) else SubjectError(f"{type(error).__name__}: {error}")
                return {group[0]: kept}
            # One bad image must not fail its neighbours, so the batch is taken apart.
            singles = [self._group([name], cases, counter) for name in group]
            return {name: outcome for single in singles for name, outcome in single.items()}
        return dict(zip(group, answers, strict=True))

    def _check_answer(self, name: str, answer: Prediction | Boxes, shape: tuple[int, int]) -> None:
        if isinstance(answer, Prediction):
            if answer.labels.shape != shape:
                what = "the prediction has another size than the image"
                raise SubjectError(what, where=name, got=answer.labels.shape, allowed=shape)
            return
        if not bool(torch.isfinite(answer.xyxy).all()) or not bool(torch.isfinite(answer.scores).all()):
            raise SubjectError("a detection holds NaN or infinity", where=name)
        masks, fitting = answer.masks, (len(answer.scores), *shape)
        if masks is not None and (masks.dtype != torch.bool or tuple(masks.shape) != fitting):
            got = f"{masks.dtype} {tuple(masks.shape)}"
            raise SubjectError("the masks do not fit", where=name, got=got, allowed=f"torch.bool {fitting}")
        classes = len(self._subject.info.classes) if self._subject is not None else 0
        if len(answer.labels) and not 0 <= int(answer.labels.min()) <= int(answer.labels.max()) < classes:
            raise SubjectError(
                "a detection has a class that model.yaml does not list", where=name, got=int(answer.labels.max()),
                allowed=f"0 to {classes - 1}",
            )  # fmt: skip

    def predict(self, images: Sequence[np.ndarray | Tensor], counter: Counter) -> list[Prediction]:
        """Predictions of images (C, H, W) in the declared range, in order."""
        if not isinstance(self._subject, Segmenter):
            raise CheckError("this check needs a segmentation model", got=type(self._subject).__name__)
        tensors = [torch.as_tensor(image, dtype=torch.float32) for image in images]
        counter.forwards += len(tensors)
        return [self._subject.decide(logits) for logits in self._forward(self._subject, tensors)]

    def detect(self, images: Sequence[np.ndarray | Tensor], counter: Counter) -> list[Boxes]:
        """Detections in images (C, H, W) in the declared range, in order, on the CPU, without gradients."""
        if not isinstance(self._subject, Detector):
            raise CheckError("this check needs a detector", got=type(self._subject).__name__)
        tensors = [torch.as_tensor(image, dtype=torch.float32) for image in images]
        counter.forwards += len(tensors)
        return [_on_cpu(boxes) for boxes in self._forward(self._subject, tensors)]

    def _forward(self, subject: Segmenter | Detector, tensors: list[Tensor]) -> list[Any]:
        """Answers; on a GPU that runs out of memory the batch is halved, and the run says so."""
        while True:
            try:
                return list(subject.predict(tensors, batch_size=self._batch))
            except torch.cuda.OutOfMemoryError:
                if self._batch == 1:
                    raise
                self._batch //= 2
                self.note = "not bit-reproducible: the batch was halved when the GPU ran out of memory"
                torch.cuda.empty_cache()

    def held(self, name: str) -> Prediction | Boxes | None:
        """The prediction of a case of the shard in work, or None when it failed."""
        return self._held.get(name)

    def why(self, name: str) -> SubjectError | None:
        """Why there is no prediction of a case, or None."""
        return self._failed.get(name)


def stored_answers(
    subject: Any, cases: Sequence[str], shapes: Sequence[tuple[int, int]]
) -> Sequence[Prediction | Boxes]:
    """What a subject without a model holds for these cases; a file of detections needs the sizes of the images."""
    more = (shapes,) if isinstance(subject, Detector) else ()
    ask: Callable[..., Sequence[Prediction | Boxes]] = getattr(subject, "predict_cases")  # noqa: B009 - no base has it
    return ask(cases, *more)


def _on_cpu(boxes: Boxes) -> Boxes:
    """Detached copies on the CPU of what is a tensor."""
    moved = {
        field.name: value.detach().cpu()
        for field in fields(boxes)
        if isinstance(value := getattr(boxes, field.name), Tensor)
    }
    return replace(boxes, **moved)


class CaseContext:
    """Implements :class:`xaiseg.checks.base.Context` for one check and one case."""

    def __init__(
        self,
        check: str,
        params: Any,
        plan: Mapping[str, Any],
        subject: Subject | None,
        case: Case | None,
        predictor: Predictor,
        maps: dict[str, np.ndarray],
        loader: Callable[[CaseRef, str], Case],
        datasets: Mapping[str, Dataset] | None = None,
        others: Mapping[str, tuple[Variant, Predictor]] | None = None,
    ) -> None:
        self._datasets = datasets or {}
        self._others = others or {}
        self._check = check
        self._case = case
        self._predictor = predictor
        self._maps = maps
        self._loader = loader
        self.params = params
        self.seed: int = plan["seed"]
        self.facts: Mapping[str, Any] = plan["facts"]
        self.counter = Counter()
        self.windows: dict[str, Window] = {}
        self._subject = subject

    @property
    def subject(self) -> Subject:
        """The audited model."""
        if self._subject is None:
            raise CheckError("this audit has no model")
        return self._subject

    @property
    def segmenter(self) -> Segmenter:
        """The audited model, which the plan made sure is a segmenter."""
        if not isinstance(self._subject, Segmenter):
            raise CheckError("this check needs a segmentation model", got=type(self._subject).__name__)
        return self._subject

    @property
    def detector(self) -> Detector:
        """The audited model, which the plan made sure is a detector."""
        if not isinstance(self._subject, Detector):
            raise CheckError("this check needs a detector", got=type(self._subject).__name__)
        return self._subject

    def generator(self, purpose: str) -> np.random.Generator:
        """A generator seeded by run seed, check, purpose and case."""
        return generator(self.seed, f"{self._check}/{purpose}", self._case.id if self._case else "")

    def prediction(self, subject: str = "reference") -> Prediction:
        """The prediction of the current case."""
        held = self._held(subject)
        if not isinstance(held, Prediction):
            raise CheckError("no prediction is held", where=self._check, got=subject)
        return held

    def detections(self, subject: str = "reference") -> Boxes:
        """The detections of the current case, on the CPU; also those below the operating threshold."""
        held = self._held(subject)
        if not isinstance(held, Boxes):
            raise CheckError("no detections are held", where=self._check, got=subject)
        return held

    def _held(self, subject: str) -> Prediction | Boxes | None:
        predictor = self._answering(subject)
        if self._case is None:
            return None
        if error := predictor.why(self._case.id):
            raise error
        return predictor.held(self._case.id)

    def _answering(self, subject: str) -> Predictor:
        if subject == "reference":
            return self._predictor
        if subject not in self._others:
            raise CheckError(
                "there is no such variant", where=self._check, got=subject, allowed=", ".join(self._others)
            )
        return self._others[subject][1]

    @property
    def variants(self) -> Mapping[str, Variant]:
        """The other builds of the audited model, by name; filled for checks that need "variants"."""
        return {name: variant for name, (variant, _) in self._others.items()}

    def predict(self, images: Sequence[np.ndarray | Tensor], subject: str = "reference") -> list[Prediction]:
        """Predictions of further images, batched as the plan says and counted."""
        return self._answering(subject).predict(images, self.counter)

    def detect(self, images: Sequence[np.ndarray | Tensor]) -> list[Boxes]:
        """Detections in further images, batched as the plan says and counted."""
        return self._predictor.detect(images, self.counter)

    def count(self, *, forwards: int = 0, backwards: int = 0) -> None:
        """Adds forwards and backwards that the check made itself."""
        self.counter.forwards += forwards
        self.counter.backwards += backwards

    def evidence(self, name: str, array: np.ndarray) -> None:
        """Offers a (H, W) map for the galleries."""
        self._maps[name] = array

    def window(self, kind: str, rank: float, xyxy: Sequence[float]) -> None:
        """Offers a place for the gallery ``kind``; the lowest rank of a case stays."""
        held = self.windows.get(kind)
        if held is None or rank < held.rank:
            x0, y0, x1, y1 = (float(value) for value in xyxy)
            self.windows[kind] = Window(kind, float(rank), (x0, y0, x1, y1))

    def load(self, ref: CaseRef, entry: str = "test") -> Case:
        """Loads a case of a data entry."""
        return self._loader(ref, entry)

    def listed(self, entry: str = "test") -> Sequence[CaseRef]:
        """The cases of a data entry, () where model.yaml has no such entry."""
        return self._datasets[entry].cases if entry in self._datasets else ()
