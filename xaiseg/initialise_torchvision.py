"""A first model.yaml for a detector of torchvision: its name tells the task, its weights tell the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from xaiseg.errors import UsageError, did_you_mean
from xaiseg.initialise_names import model_classes

if TYPE_CHECKING:
    from torch import Tensor

    from xaiseg.drafts import Draft

#: Classes of COCO's own numbers 1 to 90, ten of which name nothing.
_COCO_NUMBERS: Final = 90
#: The last layers of torchvision's heads: (classes, coordinates of boxes, whether the background is a class for sure).
_HEADS: Final = (
    ("head.classification_head.cls_logits.weight", "head.regression_head.bbox_reg.weight", False),
    ("head.classification_head.module_list.0.weight", "head.regression_head.module_list.0.weight", True),
    ("head.classification_head.module_list.0.1.weight", "head.regression_head.module_list.0.1.weight", True),
)
_TWO_STAGE: Final = "roi_heads.box_predictor.cls_score.weight"


def detects(name: str) -> bool:
    """Whether a model of torchvision is a detector, told from its name.

    Raises:
        UsageError: it is neither a detector nor a segmentation model.
    """
    from torchvision.models import list_models, segmentation

    from xaiseg.detector_sources import detection_names

    if name in detection_names():
        return True
    if name in (others := list_models(module=segmentation)):
        return False
    hint = did_you_mean(name, [*others, *detection_names()])
    what = "torchvision has no such detection or segmentation model"
    raise UsageError(what, where="MODEL", got=name, then=hint)


def class_counts(state: Mapping[str, Tensor]) -> dict[int, bool]:
    """How many classes weights can have, the likelier number first -> whether there is one more for the background.

    Heads of sigmoids (RetinaNet, FCOS) may do without a background, which nothing in the weights tells. Empty where no
    head is known.
    """
    rows = _rows(state, _TWO_STAGE)
    if rows is not None:
        return {rows - 1: True} if rows > 1 else {}
    for classes, boxes, background in _HEADS:
        answers, sides = _rows(state, classes), _rows(state, boxes)
        if answers is not None and sides is not None:
            count = 4 * answers // sides  # a place has the same number of boxes in both heads
            with_one = {count - 1: True} if count > 1 else {}
            return with_one if background else with_one | {count: False}
    return {}


def _rows(state: Mapping[str, Tensor], name: str) -> int | None:
    """First side of a weight; wrappers may have put something before its name."""
    return next((len(value) for key, value in state.items() if key == name or key.endswith(f".{name}")), None)


def of_torchvision(draft: Draft, labels: Mapping[int, str]) -> Draft:
    """The draft of a detector of torchvision.

    Raises:
        UsageError: the weights cannot be read, or they are of no detector of torchvision.
    """
    from xaiseg.weights import read_weights

    name, path = str(draft.values["source"]["torchvision"]), draft.folder / draft.values["source"]["weights"]
    counts = class_counts(read_weights(path, trust=bool(draft.values.get("trust")), where="MODEL"))
    if not counts:
        what = "these weights have no head of a detector of torchvision with a class besides the background"
        raise UsageError(what, where="MODEL", got=path.name, then=f"Are they those of {name}?")
    count = len(labels) if len(labels) in counts else next(iter(counts))
    names, rests = _names(name, path, count, labels)
    ground = "torchvision's label 0 is the background" if counts[count] else "there is none for the background"
    values = {**draft.values, "classes": names}
    draft = replace(draft, values=values, guesses={**draft.guesses, ("classes", ""): f"{rests}; {ground}"})
    draft = draft.with_values("input", "torchvision's detectors take colour", channels=3)
    draft = draft.with_values("input", "torchvision's detectors normalise by themselves", range=[0, 1])
    draft = draft.with_values("input", "torchvision's detectors resize by themselves", size=None)
    reason = "none was stated; choose it on validation images"
    return draft.with_values("output", reason, threshold={"value": 0.5, "chosen_on": "default"})


def _names(name: str, path: Path, count: int, labels: Mapping[int, str]) -> tuple[list[str], str]:
    names, rests, own = model_classes(path, count, labels)
    if own or count != _COCO_NUMBERS or count == len(labels):
        return names, rests
    from torchvision.models import get_model_weights

    listed = next(iter(get_model_weights(name))).meta["categories"][1:]
    names = [f"unused-{number}" if word == "N/A" else word for number, word in enumerate(listed, start=1)]
    return names, "90 are nearly always COCO's own numbers, of which ten name nothing"
