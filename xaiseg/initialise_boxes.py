"""A first model.yaml for a detector: layout, classes and input are told from its answer and tried on a few images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg import zoo
from xaiseg.errors import SubjectError, UsageError, XaisegError
from xaiseg.initialise_names import columns_of, data_classes, mismatch, model_classes, refuse_without_classes
from xaiseg.initialise_torchvision import of_torchvision
from xaiseg.initialise_tries import all_refs, clear_choice, clearly_better, figures, known_refs, tried, worth_trying

if TYPE_CHECKING:
    from xaiseg.adapters import Network
    from xaiseg.data.case import Case, CaseRef
    from xaiseg.drafts import Draft
    from xaiseg.subject import Boxes

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
_COLOURS: Final = (([0, 1], "rgb"), ([0, 1], "bgr"), ([0, 255], "rgb"), ([0, 255], "bgr"))
#: What to do where a detector cannot be tried.
_THEN: Final = {
    "predictions": "Check the file of detections: each image needs its detections, or a failure with its reason",
    "torchvision": "Are the weights those of the network that is named?",
}


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
    groups = list(_trials(draft, seen, labels))
    refs, kind = all_refs(draft.entry, labels), _kind(draft)
    if kind == "predictions":
        refs, said = known_refs(groups[0][0], refs)
        groups = [[replace(groups[0][0], warnings=(*draft.warnings, *said))]]
    refs = worth_trying(draft.entry, refs, labels)
    problems: list[str] = []
    chosen = [best for group in groups if (best := _best_of(group, refs, labels, problems)) is not None]
    if not chosen:
        then = _THEN.get(kind, "Write model.yaml by hand; docs/models.md lists the layouts")
        got = problems[0] if problems else "no answer"
        raise UsageError("the detector cannot be tried", where="MODEL", got=got, then=then)
    return _with_names(_best_layout(chosen), labels)


def _best_of(
    group: Sequence[Draft], refs: Sequence[CaseRef], labels: Mapping[int, str], problems: list[str]
) -> Draft | None:
    """The usual way of a layout, unless another one is clearly better; None where none works, with the reasons."""
    held: list[Draft] = []
    for trial in group:
        try:
            held.append(tried(trial, refs, labels))
        except (SubjectError, UsageError) as error:
            problems.append(str(error))
    if not held:
        return None
    best = clear_choice(held)
    return best if len(group) == 1 else _with_reasons(best, held)


def _with_reasons(best: Draft, held: Sequence[Draft]) -> Draft:
    """What range and order of the channels rest on: on labels where they tell, else on what is usual."""
    layout = best.values["output"]["layout"]
    for key in ("range", "channel_order"):
        value = best.values["input"].get(key)
        others = [one for one in held if one.values["input"].get(key) != value]
        if value is None or not others:
            continue
        rival = max(others, key=lambda one: one.agreement or 0.0)
        other = rival.values["input"][key]
        if clearly_better(best, rival):
            reason = f"a few labels are met clearly better than with {other} ({figures(best, rival)})"
        else:
            usual = value == _PRESETS[layout][key]
            lead = f"usual for the layout {layout}" if usual else "near what is usual"
            reason = f"{lead}; it cannot be told apart from {other} on a few labels ({figures(best, rival)})"
        best = best.with_values("input", reason, **{key: value})
    return best


def _best_layout(chosen: Sequence[Draft]) -> Draft:
    best = max(chosen, key=lambda one: one.agreement or 0.0)
    others = [one for one in chosen if one is not best]
    if not others:
        return best
    rival = max(others, key=lambda one: one.agreement or 0.0)
    layout, other = (one.values["output"]["layout"] for one in (best, rival))
    told = "it cannot be told apart on a few labels from"
    told = "a few labels are met clearly better than with" if clearly_better(best, rival) else told
    reason = f"{best.guesses['output', 'layout']}; {told} {other} ({figures(best, rival)})"
    return best.with_values("output", reason, layout=layout)


def _kind(draft: Draft) -> str:
    return next(str(key) for key in draft.values["source"] if key != "weights")


def _trials(draft: Draft, seen: Probe | None, labels: Mapping[int, str]) -> Iterator[list[Draft]]:
    """For each layout the ways in which the model may want its images, the usual one first and the others by it."""
    kind = _kind(draft)
    if kind == "predictions":
        yield [_of_file(draft, labels)]
        return
    if seen is None:
        yield [of_torchvision(draft, labels) if kind == "torchvision" else _own_way(draft, kind, labels)]
        return
    for layout, count in seen.readings:
        names, rests, _ = model_classes(_path(draft), count, labels)
        trial = _named(draft, names, rests)
        trial = trial.with_values("output", f"an answer of the shape {seen.shape} can be read so", layout=layout)
        trial = trial.with_values("output", "none was stated", threshold={"value": 0.5, "chosen_on": "default"})
        asked = trial.with_values("input", "the model answers to it", channels=seen.channels)
        rests = "the graph takes no other" if seen.fixed else f"none is fixed; {USUAL_SIDE} is common"
        asked = asked.with_values("input", rests, size=list(seen.size))
        usual = f"usual for the layout {layout}; no other was tried"
        yield [asked.with_values("input", usual, **preset) for preset in _presets(layout, seen.channels)]


def _presets(layout: str, channels: int) -> Iterator[dict[str, Any]]:
    usual = dict(_PRESETS[layout])
    colours = [(usual["range"], usual["channel_order"])]
    others = [pair for pair in _COLOURS if pair not in colours]
    colours += sorted(others, key=lambda pair: (pair[0] != usual["range"]) + (pair[1] != usual["channel_order"]))
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
    usable = isinstance(stated, int | float) and 0.001 <= stated < 1
    names, rests = _wanted(batch.categories, labels)
    draft = _named(draft, names, rests)
    draft = draft.with_values("input", "nothing is computed", channels=3)
    if usable:
        reason, value = "the file names it as typical of its detector; check it on validation images", stated
    else:
        reason, value = "nobody chose 0.5, and 0.2 is usual for MegaDetector v5; choose it on validation images", 0.5
    return draft.with_values("output", reason, threshold={"value": value, "chosen_on": "default"})


def _named(draft: Draft, names: Sequence[str], rests: str) -> Draft:
    values = {**draft.values, "classes": list(names)}
    return replace(draft, values=values, guesses={**draft.guesses, ("classes", ""): rests})


def _path(draft: Draft) -> Path | None:
    source = draft.values["source"]
    name = next((source[kind] for kind in (*PROBED, "ultralytics", "predictions") if kind in source), None)
    return None if name is None else draft.folder / name


def _with_names(draft: Draft, labels: Mapping[int, str]) -> Draft:
    """The draft with what to write where labels and model use other names."""
    if draft.entry.reader == "coco" and not draft.entry.where and "augmented" in columns_of(draft.entry):
        note = "where: {augmented: false}   # leaves out augmented copies, which are no evidence of their own"
        draft = replace(draft, notes=(*draft.notes, note))
    said, line = mismatch(draft.entry.reader, labels, draft.values["classes"])
    if not said:
        return draft
    return replace(draft, warnings=(*draft.warnings, said), notes=(*draft.notes, line) if line else draft.notes)


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
