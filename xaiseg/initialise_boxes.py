"""A first model.yaml for a detector: layout, classes and input are told from its answer and tried on a few images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg import zoo
from xaiseg.errors import DataError, NothingToAudit, SubjectError, UsageError, XaisegError
from xaiseg.initialise_names import columns_of, data_classes, mismatch, model_classes, refuse_without_classes

if TYPE_CHECKING:
    from xaiseg.adapters import Network
    from xaiseg.data.case import Case, CaseRef
    from xaiseg.detection_file import DetectionFile
    from xaiseg.drafts import Draft
    from xaiseg.subject import Boxes

#: Images that are looked at, and those with the most boxes among them on which the detector is tried.
LOOKED_AT: Final = 24
TRIED: Final = 6
#: Sources whose answer is looked at before the task is known.
PROBED: Final = ("onnx", "torchscript", "exported")
#: Side of the grid where the file fixes none; most detectors are trained at it.
USUAL_SIDE: Final = 640
_LETTERBOX: Final = {"range": [0, 1], "channel_order": "rgb", "resize": "letterbox", "pad_value": 0.447}
#: How the makers of each layout feed it; see the sources in :mod:`xaiseg.detector_layouts`.
_PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "yolox": {"range": [0, 255], "channel_order": "bgr", "resize": "letterbox", "align": "corner", "pad_value": 114},
    "yolov5": _LETTERBOX,
    "yolov8": _LETTERBOX,
    "end2end": _LETTERBOX,
    "fastestdet": {"range": [0, 1], "channel_order": "bgr", "resize": "stretch"},
}
#: Average precision below which boxes and labels have nothing to do with each other.
_HARDLY: Final = 0.05
_COLOURS: Final = (([0, 1], "rgb"), ([0, 1], "bgr"), ([0, 255], "rgb"), ([0, 255], "bgr"))


@dataclass(frozen=True)
class Probe:
    """What a network answers to one grey image.

    Attributes:
        channels: that it takes.
        size: (height, width) of the grid; fixed by the file where ``fixed``.
        fixed: whether it takes no other size.
        shape: of its first tensor.
        readings: (layout, classes or None) that the shape allows.
    """

    channels: int
    size: tuple[int, int]
    fixed: bool
    shape: tuple[int, ...]
    readings: tuple[tuple[str, int | None], ...]


def probe(draft: Draft) -> Probe | str:
    """Asks a network for one answer; why not, where it takes neither three channels nor one at the usual size."""
    from xaiseg.adapters import Network
    from xaiseg.loading import load_source

    problem = "it is no network"
    for channels in (3, 1):
        trial = draft.with_values("input", "the model answers to it", channels=channels)
        try:
            network = load_source(trial.model())
            if isinstance(network, Network):
                return _asked(network, channels)
        except (UsageError, SubjectError) as error:
            problem = str(error)  # the other number of channels may fit
    return problem


def _asked(network: Network, channels: int) -> Probe:
    import torch

    from xaiseg.detector_layouts import leaves

    size = network.fixed_size or (USUAL_SIDE, USUAL_SIDE)
    batch = torch.full((network.fixed_batch or 1, channels, *size), 0.5)
    try:
        with torch.no_grad():
            parts = [tuple(part.shape) for part in leaves(network.call(batch))]
    except XaisegError:
        raise
    except Exception as error:
        raise SubjectError(f"the model does not take a batch {tuple(batch.shape)}", got=str(error)[:200]) from error
    if not parts:
        return Probe(channels, size, network.fixed_size is not None, (), ())
    coefficients = next((part[1] for part in parts[1:] if len(part) == 4), 0)
    return Probe(channels, size, network.fixed_size is not None, parts[0], readings(parts[0], size, coefficients))


def readings(
    shape: tuple[int, ...], size: tuple[int, int], coefficients: int = 0
) -> tuple[tuple[str, int | None], ...]:
    """Layouts that an answer of this shape can have, each with its number of classes (end2end: unknown, None).

    >>> readings((1, 3549, 85), (416, 416)), readings((1, 84, 8400), (640, 640)), readings((1, 2, 64, 64), (64, 64))
    ((('yolox', 80), ('yolov5', 80)), (('yolov8', 80),), ())
    """
    from xaiseg.detector_layouts import Shapes

    found: list[tuple[str, int | None]] = []
    for layout, fixed, side in (("yolox", 5, -1), ("yolov5", 5, -1), ("yolov8", 4, 1), ("fastestdet", 5, 1)):
        masks = coefficients if layout in ("yolov5", "yolov8") else 0
        classes = shape[side] - fixed - masks if len(shape) in (3, 4) else 0
        if classes >= 1 and layout in Shapes(classes, size, masks).fitting(shape):
            found.append((layout, classes))
    if "end2end" in Shapes(1, size).fitting(shape):
        found.append(("end2end", None))
    return tuple(found)


def guess_detector(draft: Draft, seen: Probe | None) -> Draft:
    """The draft of a detector: classes, input and output as far as file, answer and a few images tell.

    Args:
        draft: source, name and data.
        seen: what the network answered, or None for sources that are not probed.

    Raises:
        UsageError: the labels mark nothing, no way of reading the answer works, or the file of detections is one of
            other images.
        NothingToAudit: no image can be read.
    """
    labels = data_classes(draft.entry)
    refuse_without_classes(labels, draft.entry)
    draft = replace(draft, values={**draft.values, "task": "detection"})
    best: Draft | None = None
    problems: list[str] = []
    refs = _chosen_refs(draft, labels)
    for trial in _trials(draft, seen, labels):
        try:
            tried = _tried(trial, refs, labels)
        except (SubjectError, UsageError) as error:
            problems.append(str(error))
            continue
        if best is None or (tried.agreement or 0.0) > (best.agreement or 0.0) + 1e-9:
            best = tried
    if best is None:
        raise UsageError("the detector cannot be tried", where="MODEL", got=problems[0] if problems else "no answer",
                         then="Write model.yaml by hand; docs/models.md lists the layouts")  # fmt: skip
    return _with_names(best, labels)


def _trials(draft: Draft, seen: Probe | None, labels: Mapping[int, str]) -> Iterator[Draft]:
    """Ways in which the model may want its images and be read, the likeliest first."""
    kind = next(key for key in draft.values["source"] if key != "weights")
    if kind == "predictions":
        yield _of_file(draft, labels)
        return
    if seen is None:
        yield _own_way(draft, kind, labels)
        return
    for layout, count in seen.readings:
        names, rests, _ = model_classes(_path(draft), count, labels)
        trial = _named(draft, names, rests)
        trial = trial.with_values("output", f"an answer of the shape {seen.shape} can be read so", layout=layout)
        trial = trial.with_values("output", "none was stated", threshold={"value": 0.5, "chosen_on": "default"})
        for preset in _presets(layout, seen.channels):
            asked = trial.with_values("input", "the model answers to it", channels=seen.channels)
            rests = "the graph takes no other" if seen.fixed else f"none is fixed; {USUAL_SIDE} is common"
            asked = asked.with_values("input", rests, size=list(seen.size))
            yield asked.with_values("input", "of the usual ways it agrees best with a few labels", **preset)


def _presets(layout: str, channels: int) -> Iterator[dict[str, Any]]:
    usual = dict(_PRESETS[layout])
    colours = [(usual["range"], usual["channel_order"])]
    colours += [pair for pair in _COLOURS if pair not in colours]
    for span, order in colours if channels == 3 else [pair for pair in colours if pair[1] == colours[0][1]]:
        held = {**usual, "range": span}
        if "pad_value" in usual:
            held["pad_value"] = 114 if span == [0, 255] else 0.447
        held.pop("channel_order")
        yield held | ({"channel_order": order} if channels == 3 else {})


def _own_way(draft: Draft, kind: str, labels: Mapping[int, str]) -> Draft:
    """A source that knows its own network: ultralytics, or a detector of the zoo."""
    if kind == "ultralytics":
        from xaiseg.detector_sources import ultralytics_classes

        names, rests = list(ultralytics_classes(_path(draft) or Path(), "MODEL")), "the model file names them"
        draft = _named(draft, names, rests).with_values("input", "colour", channels=3, range=[0, 1])
        size = [USUAL_SIDE, USUAL_SIDE]
        draft = draft.with_values("input", "most are trained at it", size=size, resize="letterbox")
    else:
        from xaiseg.initialise import training_facts

        facts = training_facts(_named(draft, list(labels.values()), ""))
        names, rests, _ = model_classes(None, facts.get("classes"), labels)
        found = zoo.shipped(str(draft.values["source"].get("weights", "")))
        stated = found[1] if found is not None else None
        if stated is not None and stated.classes and len(stated.classes) != len(labels):
            names, rests = list(stated.classes), "the card of the weights names them"
        side = int(facts.get("recipe", {}).get("size", 256))
        draft = _named(draft, names, rests).with_values("input", "as it was trained", channels=3, range=[0, 1])
        resize = str(facts.get("recipe", {}).get("resize", "pad"))
        draft = draft.with_values("input", "as it was trained", size=[side, side], resize=resize)
        if stated is not None and stated.threshold is not None:
            own = {"value": stated.threshold, "chosen_on": "val"}
            return draft.with_values("output", "the card of the weights states it", threshold=own)
    return draft.with_values("output", "none was stated", threshold={"value": 0.5, "chosen_on": "default"})


def _wanted(categories: Sequence[str], labels: Mapping[int, str]) -> tuple[list[str], str]:
    """The categories that the labels speak of; boxes of people and vehicles would count as false animals."""
    named = [name for name in categories if name in labels.values()]
    if len(named) < len(set(labels.values())):
        named = ["animal"] if "animal" in categories and not named else list(categories)
    others = [name for name in categories if name not in named]
    left = f"; boxes of {' and '.join(others)} are left out, since the labels mark none" if others else ""
    return named, f"the file lists {', '.join(categories)}{left}"


def _of_file(draft: Draft, labels: Mapping[int, str]) -> Draft:
    """A file of detections: it names its classes, and often the threshold that its detector is used at."""
    from xaiseg.data.megadetector import read_batch

    batch = read_batch(_path(draft) or Path())
    stated = (batch.info.get("detector_metadata") or {}).get("typical_detection_threshold")
    usable = isinstance(stated, int | float) and 0 < stated < 1
    rests = "the file names it as typical" if usable else "none was stated"
    names, rests = _wanted(batch.categories, labels)
    draft = _named(draft, names, rests)
    draft = draft.with_values("input", "nothing is computed", channels=3)
    return draft.with_values("output", rests, threshold={"value": stated if usable else 0.5, "chosen_on": "default"})


def _named(draft: Draft, names: Sequence[str], rests: str) -> Draft:
    values = {**draft.values, "classes": list(names)}
    return replace(draft, values=values, guesses={**draft.guesses, ("classes", ""): rests})


def _path(draft: Draft) -> Path | None:
    source = draft.values["source"]
    name = next((source[kind] for kind in (*PROBED, "ultralytics", "predictions") if kind in source), None)
    return None if name is None else draft.folder / name


def _with_names(draft: Draft, labels: Mapping[int, str]) -> Draft:
    """The draft with what to write where labels and model use other names."""
    if draft.entry.reader == "coco" and "augmented" in columns_of(draft.entry):
        note = "where: {augmented: false}   # leaves out augmented copies, which are no evidence of their own"
        draft = replace(draft, notes=(*draft.notes, note))
    said, line = mismatch(draft.entry.reader, labels, draft.values["classes"])
    if not said:
        return draft
    return replace(draft, warnings=(*draft.warnings, said), notes=(*draft.notes, line) if line else draft.notes)


def _chosen_refs(draft: Draft, labels: Mapping[int, str]) -> list[CaseRef]:
    """Of images drawn evenly from the list those with the most boxes, so that there is something to agree with."""
    from xaiseg.data.case import ImageSpec
    from xaiseg.data.readers import load_case, open_dataset

    spec = ImageSpec(channels=3, classes=tuple(labels.values()), task="detection")
    cases = open_dataset("test", draft.entry, root=Path(), spec=spec).cases
    places = np.unique(np.linspace(0, len(cases) - 1, min(len(cases), LOOKED_AT)).round().astype(int))
    found: list[tuple[int, CaseRef]] = []
    problem = ""
    for place in places:
        try:
            case = load_case(draft.entry, cases[place], spec)
        except DataError as error:
            problem = problem or str(error)
            continue  # it stands in the audit's Errors; other images tell as much
        found.append((0 if case.boxes is None else len(case.boxes), cases[place]))
    if not found:
        raise NothingToAudit("no image of the data can be read", where="--data", got=problem)
    return [ref for _, ref in sorted(found, key=lambda pair: -pair[0])[:TRIED]]


def _tried(draft: Draft, refs: Sequence[CaseRef], labels: Mapping[int, str]) -> Draft:
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
    return replace(draft, tried=pairs, agreement=met, warnings=warnings)


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
    from xaiseg.detection.curves import Pool, average_precision, steps_of
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
    pool, count = Pool(image, score, hit, void, np.array(objects)), len(pairs)
    steps = steps_of(pool, np.arange(count), np.zeros(count, np.int64), np.ones(count))
    value = average_precision(steps, np.ones(1))
    return value if np.isfinite(value) else None


def draw_boxes(case: Case, found: Boxes, *, low_high: tuple[float, float], threshold: float) -> Any:
    """A picture: labels in yellow, detections above the threshold in blue, those below it in grey; at most 900 px.

    Returns:
        A Pillow image.
    """
    from PIL import Image, ImageDraw

    low, high = low_high
    grey = np.clip((case.image - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    rgb = np.moveaxis(grey[:3] if len(grey) >= 3 else np.repeat(grey[:1], 3, axis=0), 0, -1)
    factor = min(1.0, 900 / max(rgb.shape[:2]))
    sheet = Image.fromarray(rgb).resize((max(1, round(rgb.shape[1] * factor)), max(1, round(rgb.shape[0] * factor))))
    pen = ImageDraw.Draw(sheet)
    order = np.argsort(found.scores.numpy(), kind="stable")
    best = order[-30:]
    for corners, score in zip(found.xyxy.numpy()[best] * factor, found.scores.numpy()[best], strict=True):
        pen.rectangle(corners.tolist(), outline="#3aa0ff" if score >= threshold else "#9aa4ad", width=2)
    for corners in (np.zeros((0, 5)) if case.boxes is None else case.boxes)[:, :4] * factor:
        pen.rectangle(corners.tolist(), outline="#ffd34d", width=2)
    return sheet
