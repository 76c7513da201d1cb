"""Targets as a user or a protocol file writes them, turned into targets of one image.

Text: ``pred`` (the largest predicted foreground class), the name of a class, ``all`` (every predicted foreground
class), ``objects`` (every connected object of them), ``x,y`` (one pixel, for the class predicted there) or
``region.png`` (a mask of one's own; in Python a mask (H, W) may stand in place of its file). A mapping of one key asks
for more: ``{border: lesion}``, ``{fp: lesion}``, ``{margin: {class: lesion, foil: background}}``; see :data:`KINDS`. A
list joins them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from torch import Tensor

from xaiseg.data.case import ImageSpec
from xaiseg.data.pixels import IGNORE, SUFFIXES, read_pixels
from xaiseg.errors import DataError, UsageError, did_you_mean
from xaiseg.explainers.soft_targets import Overlap, SoftOverlap
from xaiseg.explainers.targets import NO_FOREGROUND, Border, Margin, Region, SpatialTarget, named_region, pixel
from xaiseg.subject import Prediction
from xaiseg.yamlfile import parse_yaml

#: Kind -> the keys that its mapping may have. A text in place of the mapping is the class.
KINDS: Final[Mapping[str, frozenset[str]]] = {
    "region": frozenset({"class", "mask"}),
    "prob": frozenset({"class", "mask"}),
    "margin": frozenset({"class", "mask", "foil"}),
    "border": frozenset({"class", "mask"}),
    "soft_dice": frozenset({"class", "mask"}),
    "tp": frozenset({"class"}),
    "fp": frozenset({"class"}),
    "fn": frozenset({"class"}),
    "pixel": frozenset({"class", "x", "y"}),
    "object": frozenset({"class", "x", "y"}),
}
#: Masks that are computed from the reference instead of read from a file: (predicted, reference) -> mask.
MASKS: Final[Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    "reference": lambda predicted, reference: reference,
    "true-positives": lambda predicted, reference: predicted & reference,
    "false-positives": lambda predicted, reference: predicted & ~reference,
    "false-negatives": lambda predicted, reference: ~predicted & reference,
}
WORDS: Final = ("pred", "all", "objects")
#: Name of a mask that came as an array.
OWN: Final = "given mask"
_PIXEL: Final = re.compile(r"\s*(-?\d+)\s*,\s*(-?\d+)\s*")
#: Two numbers of any kind: a place, but perhaps no pixel.
_PLACE: Final = re.compile(r"\s*-?[\d.]+\s*,\s*-?[\d.]+\s*")
#: Corners touch, as in the counts of objects elsewhere.
_EIGHT: Final = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Scene:
    """What targets of one image are made from.

    Attributes:
        prediction: the unperturbed prediction, on the image's grid.
        classes: names; index 0 is the background.
        reference: (H, W) uint8 class indices, 255 = ignore, or None.
        folder: relative paths of masks start here.
    """

    prediction: Prediction
    classes: Sequence[str]
    reference: np.ndarray | None = None
    folder: Path = field(default_factory=Path)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the image."""
        height, width = self.prediction.labels.shape
        return height, width


def parse_targets(asked: object, scene: Scene) -> tuple[SpatialTarget, ...]:
    """The targets that a text, a mapping or a list of them names.

    Args:
        asked: see the module's text; a text that begins with ``{`` is read as YAML.
        scene: the image's prediction, classes and perhaps reference.

    Raises:
        UsageError: no such target, the class is not predicted, the region is empty, lies outside the image or has
            another size, or a reference is needed and missing.

    >>> scene = Scene(Prediction(np.array([[0, 1], [0, 2]], dtype=np.uint8)), ("background", "cyst", "tumour"))
    >>> [target.name for target in parse_targets(["all", "0,0", {"margin": "cyst"}], scene)]
    ['cyst', 'tumour', 'background at 0,0', 'cyst over rest']
    """
    if isinstance(asked, np.ndarray | Tensor):
        mask = _mask_array(asked, scene)
        index = _class_of(mask, "the mask", scene)
        return (Region(index, mask, label=f"{scene.classes[index]} in {OWN}"),)
    if isinstance(asked, Sequence) and not isinstance(asked, str):
        found = tuple(target for each in asked for target in parse_targets(each, scene))
        if not found:
            raise UsageError("no target is named", where="target", got=asked)
        return found
    if isinstance(asked, str) and asked.lstrip().startswith("{"):
        asked = parse_yaml(asked, path=Path("target")).data
    if isinstance(asked, str):
        return tuple(_from_text(asked, scene))
    if isinstance(asked, Mapping):
        return (_from_mapping(asked, scene),)
    allowed = "text, a mask (H, W), a mapping, or a list of them"
    raise UsageError("this is no target", where="target", got=repr(asked), allowed=allowed)


def _from_text(asked: str, scene: Scene) -> Iterator[SpatialTarget]:
    if asked == "all":
        yield from (_predicted(index, scene) for index in _foreground(scene))
    elif asked == "objects":
        yield from _objects(scene)
    elif asked == "pred" or asked in scene.classes:
        yield named_region(asked, scene.prediction, scene.classes)
    elif match := _PIXEL.fullmatch(asked):
        yield _pixel({"x": int(match[1]), "y": int(match[2])}, scene)
    elif _PLACE.fullmatch(asked):
        allowed = "whole numbers, column and row from 0, such as 10,20"
        raise UsageError("a pixel needs whole numbers", where="target", got=asked, allowed=allowed)
    elif Path(asked).suffix.lower() in SUFFIXES:
        mask = _mask_file(asked, scene)
        index = _class_of(mask, asked, scene)
        yield Region(index, mask, label=f"{scene.classes[index]} in {Path(asked).stem}")
    else:
        hint = did_you_mean(asked, [*WORDS, *scene.classes])
        allowed = "a class, x,y, a mask file (" + ", ".join(SUFFIXES) + "), or a mapping"
        raise UsageError("no such target", where="target", got=asked, allowed=allowed, then=hint)


def _from_mapping(asked: Mapping[Any, Any], scene: Scene) -> SpatialTarget:
    if len(asked) != 1:
        raise UsageError("a target is a mapping of one key", where="target", got=dict(asked), allowed=", ".join(KINDS))
    kind, keys = next(iter(asked.items()))
    if kind not in KINDS:
        raise UsageError("no such target", where="target", got=kind, then=did_you_mean(str(kind), KINDS))
    given = dict(keys) if isinstance(keys, Mapping) else {"class": keys}
    if strange := sorted(set(given) - KINDS[kind], key=str):
        raise UsageError(
            "no such key", where=f"target.{kind}", got=strange[0], then=did_you_mean(str(strange[0]), KINDS[kind])
        )
    if kind in ("pixel", "object"):
        return _pixel(given, scene) if kind == "pixel" else _object_at(given, scene)
    name = given.get("class", "pred")
    index = named_region("pred", scene.prediction, scene.classes).class_index if name == "pred" else _index(name, scene)
    if kind in ("tp", "fp", "fn"):
        return _overlap(kind, index, _of_reference(index, kind, scene), scene)
    return _BUILDERS[kind](index, _mask(index, given.get("mask"), scene), given, scene)


def _margin(index: int, mask: np.ndarray, given: Mapping[str, Any], scene: Scene) -> SpatialTarget:
    foil = None if given.get("foil") is None else _index(given["foil"], scene)
    return Margin(index, mask, foil, scene.classes[index], "" if foil is None else scene.classes[foil])


_BUILDERS: Final[Mapping[str, Callable[[int, np.ndarray, Mapping[str, Any], Scene], SpatialTarget]]] = {
    "region": lambda index, mask, given, scene: Region(index, mask, label=_label(index, given, scene)),
    "prob": lambda index, mask, given, scene: Region(index, mask, "probability", _label(index, given, scene)),
    "margin": _margin,
    "border": lambda index, mask, given, scene: Border(index, mask, scene.classes[index]),
    "soft_dice": lambda index, mask, given, scene: _overlap("soft_dice", index, mask, scene),
}


def _label(index: int, given: Mapping[str, Any], scene: Scene) -> str:
    place = given.get("mask")
    if place is None:
        return scene.classes[index]
    return f"{scene.classes[index]} in {Path(place).stem if isinstance(place, str | Path) else OWN}"


def _overlap(kind: str, index: int, mask: np.ndarray, scene: Scene) -> SoftOverlap:
    valid = None if scene.reference is None else scene.reference != IGNORE
    return SoftOverlap(cast(Overlap, kind), index, mask, scene.classes[index], valid)


def _index(name: object, scene: Scene) -> int:
    if name not in scene.classes:
        raise UsageError("no such class", where="target", got=name, then=did_you_mean(str(name), scene.classes))
    return list(scene.classes).index(str(name))


def _predicted(index: int, scene: Scene) -> Region:
    return named_region(scene.classes[index], scene.prediction, scene.classes)


def _foreground(scene: Scene) -> list[int]:
    found = [int(index) for index in np.unique(scene.prediction.labels) if index]
    if not found:
        raise UsageError(NO_FOREGROUND, where="target", got="all")
    return found


def _objects(scene: Scene) -> Iterator[Region]:
    """Connected objects, class by class, the largest first."""
    from scipy.ndimage import label

    for index in _foreground(scene):
        numbered, count = label(scene.prediction.labels == index, _EIGHT)
        sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
        for place, number in enumerate(np.argsort(-sizes, kind="stable") + 1, start=1):
            yield Region(index, numbered == number, label=f"{scene.classes[index]} {place}")


def _place(given: Mapping[str, Any], scene: Scene) -> tuple[int, int, int]:
    """x, y and the class: the one that is asked for, or the one predicted there."""
    x, y = given.get("x"), given.get("y")
    if not isinstance(x, int) or not isinstance(y, int):
        raise UsageError("a pixel needs x and y, whole numbers", where="target", got=dict(given))
    pixel(0, x, y, scene.shape)  # refuses what lies outside
    index = _index(given["class"], scene) if "class" in given else int(scene.prediction.labels[y, x])
    return x, y, index


def _pixel(given: Mapping[str, Any], scene: Scene) -> Region:
    x, y, index = _place(given, scene)
    return pixel(index, x, y, scene.shape, label=scene.classes[index])


def _object_at(given: Mapping[str, Any], scene: Scene) -> Region:
    from scipy.ndimage import label

    x, y, index = _place(given, scene)
    numbered, _ = label(scene.prediction.labels == index, _EIGHT)
    if not numbered[y, x]:
        raise UsageError("the class is not predicted at this pixel", where="target", got=f"{scene.classes[index]}, "
                         f"x {x}, y {y}", allowed=scene.classes[int(scene.prediction.labels[y, x])])  # fmt: skip
    return Region(index, numbered == numbered[y, x], label=f"{scene.classes[index]} around {x},{y}")


def _mask(index: int, asked: object, scene: Scene) -> np.ndarray:
    if asked is None:
        return _predicted(index, scene).mask
    if isinstance(asked, str) and asked in MASKS:
        found = MASKS[asked](scene.prediction.labels == index, _of_reference(index, asked, scene))
        known = found & (cast(np.ndarray, scene.reference) != IGNORE)
        if not known.any():
            raise UsageError(f"there are no {asked} of class '{scene.classes[index]}'", where="target", got=asked)
        return np.asarray(known)
    if isinstance(asked, str | Path):
        return _mask_file(str(asked), scene)
    return _mask_array(asked, scene)


def _mask_array(asked: object, scene: Scene) -> np.ndarray:
    """A mask that is at hand, (H, W) of truth values or numbers; what is not 0 belongs to it."""
    given = asked.detach().cpu().numpy() if isinstance(asked, Tensor) else asked
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "biuf":
        allowed = f"a file, {', '.join(MASKS)}, or an array (H, W) of truth values or numbers"
        raise UsageError("this is no mask", where="target", got=type(asked).__name__, allowed=allowed)
    return _fitting(np.asarray(given != 0), "an array", scene)


def _of_reference(index: int, asked: str, scene: Scene) -> np.ndarray:
    if scene.reference is None:
        raise UsageError("this target needs a reference mask", where="target", got=asked, then="Name one: --reference")
    if scene.reference.shape != scene.shape:
        raise UsageError("the reference has another size than the image", where="target", got=scene.reference.shape,
                         allowed=scene.shape)  # fmt: skip
    found = scene.reference == index
    if not found.any() and asked in ("tp", "fn"):
        raise UsageError(f"the reference has no pixel of class '{scene.classes[index]}'", where="target", got=asked)
    return np.asarray(found)


def _mask_file(name: str, scene: Scene) -> np.ndarray:
    path = Path(name) if Path(name).is_absolute() else scene.folder / name
    try:
        pixels = read_pixels(path, max_pixels=ImageSpec(1).max_pixels, index_colours=True)
    except DataError as error:
        raise UsageError(f"the region cannot be read: {error}", where="target", got=name) from error
    return _fitting(np.asarray(pixels.any(axis=2) if pixels.ndim == 3 else pixels != 0), name, scene)


def _fitting(mask: np.ndarray, name: str, scene: Scene) -> np.ndarray:
    """The mask, where it has the size of the image and a pixel."""
    if mask.shape != scene.shape:
        raise UsageError("the region has another size than the image", where="target", got=f"{name} {mask.shape}",
                         allowed=scene.shape)  # fmt: skip
    if not mask.any():
        raise UsageError("the region is empty", where="target", got=name, allowed="a mask with a pixel that is not 0")
    return np.asarray(mask)


def _class_of(mask: np.ndarray, name: str, scene: Scene) -> int:
    """The foreground class of a region: the only one, or the one predicted on most of its pixels."""
    if len(scene.classes) == 2:
        return 1
    areas = np.bincount(scene.prediction.labels[mask], minlength=len(scene.classes))
    if not areas[1:].any():
        raise UsageError("no foreground is predicted in this region, so the class must be named", where="target",
                         got=name, allowed=f"{{region: {{class: {scene.classes[1]}, mask: {name}}}}}")  # fmt: skip
    return 1 + int(np.argmax(areas[1:]))
