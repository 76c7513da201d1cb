"""What the labels call their objects, what a detector calls them, and what to write where the two differ."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from xaiseg.data.pixels import IGNORE
from xaiseg.errors import DataError, UsageError

if TYPE_CHECKING:
    from xaiseg.data.entry import DataEntry

#: The 80 classes of COCO (T.-Y. Lin et al., ECCV 2014) in the order in which nearly all detectors number them.
_COCO_LINE: Final = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
COCO: Final = tuple(_COCO_LINE.split(","))
#: Lists of class names that lie beside a model.
_LISTS: Final = ("*.names", "classes.txt", "labels.txt")
_PEOPLE: Final = ("human", "person", "people", "pedestrian", "man", "woman", "child", "hunter", "poacher")
_VEHICLES: Final = ("vehicle", "car", "truck", "bus", "van", "motorcycle", "motorbike", "bicycle", "boat", "airplane")
#: A name -> names of classes that it falls under, the closest first.
_MEANS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(_PEOPLE, ("person", "human", "people", "pedestrian")),
    **dict.fromkeys(_VEHICLES, ("vehicle",)),
    "motorbike": ("motorcycle", "vehicle"),
    "motorcycle": ("motorbike", "vehicle"),
    "aeroplane": ("airplane", "vehicle"),
    "airplane": ("aeroplane", "vehicle"),
    "bike": ("bicycle", "vehicle"),
    "cattle": ("cow",),
}
#: Spelling as alike as this is one word; shorter words are too often like each other (goat and boat).
_ALIKE: Final = 0.85
_LONG: Final = 6


def data_classes(entry: DataEntry) -> dict[int, str]:
    """Number -> name of what the labels mark; numbers as under ``labels:``, for VOC in the order of the names.

    Raises:
        UsageError: the labels cannot be read.
    """
    folder = Path(str(entry.path))
    if entry.reader == "coco":
        from xaiseg.data.coco import read_coco

        document = read_coco(folder / (entry.annotations or "annotations.json"))
        used = {item["category_id"] for item in document["annotations"]}
        if lost := used - {item["id"] for item in document["categories"]}:
            known = ", ".join(str(item["id"]) for item in document["categories"])
            what = "this category is not listed"
            raise UsageError(what, where=entry.annotations or "annotations.json", got=repr(lost.pop()), allowed=known)
        return {int(item["id"]): str(item["name"]) for item in document["categories"] if item["id"] in used}
    if entry.reader == "voc":
        return dict(enumerate(_voc_names(entry, folder)))
    from xaiseg.data.yolo import class_names

    found = class_names(folder)
    return found[0] if found is not None else {number: f"class-{number}" for number in _yolo_numbers(entry, folder)}


def columns_of(entry: DataEntry) -> set[str]:
    """Columns that the images of a COCO file have by themselves."""
    from xaiseg.data.coco import image_rows, read_coco

    file = Path(str(entry.path)) / (entry.annotations or "annotations.json")
    return {column for row in image_rows(read_coco(file), file).values() for column in row}


def has_outlines(entry: DataEntry) -> bool:
    """Whether a COCO file has polygons or run lengths, from which masks could be drawn."""
    from xaiseg.data.coco import read_coco

    held = read_coco(Path(str(entry.path)) / (entry.annotations or "annotations.json"))["annotations"]
    return not held or any(item.get("segmentation") for item in held)


def _voc_names(entry: DataEntry, folder: Path) -> list[str]:
    from xaiseg.data.voc import FOLDERS, object_names

    places = [entry.annotations] if entry.annotations else list(FOLDERS)
    names: set[str] = set()
    for path in sorted(path for place in places for path in (folder / place).glob("*.xml")):
        try:
            names |= set(object_names(path))
        except DataError:
            continue  # it fails its own case in the audit
    return sorted(names)


def _yolo_numbers(entry: DataEntry, folder: Path) -> range:
    """0 to the highest number that a label file begins a line with."""
    highest = -1
    for path in (folder / (entry.annotations or "labels")).glob("*.txt"):
        first = [
            line.split()[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.split()
        ]
        highest = max([highest, *(int(word) for word in first if word.isdigit())])
    return range(highest + 1)


def model_classes(path: Path | None, count: int | None, labels: Mapping[int, str]) -> tuple[list[str], str, bool]:
    """Names of a detector's classes, what they rest on, and whether they are the model's own.

    Args:
        path: the model file, or None.
        count: how many classes its answer has, or None where that cannot be told.
        labels: what the labels mark.

    Returns:
        (names, what they rest on, True where the model itself or a list beside it names them).
    """
    stated = _stated(path) if path is not None else None
    if stated is not None and count in (None, len(stated)):
        return stated, "the model file names them", True
    if count is None:
        return list(labels.values()), "those of the labels; the answer does not show how many the model has", False
    if path is not None and (beside := _beside(path, count)) is not None:
        return beside[0], f"{beside[1]} beside the model lists as many", True
    if count == len(labels):
        return list(labels.values()), f"the model answers {count}, and the labels have as many", False
    if count == len(COCO):
        return list(COCO), "80 are nearly always those of COCO, in this order", True
    return [f"class-{number}" for number in range(count)], f"the model answers {count}; write their real names", False


def _stated(path: Path) -> list[str] | None:
    """Names in the metadata of an ONNX file, as ultralytics writes them; None without any."""
    if path.suffix != ".onnx":
        return None
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    text = session.get_modelmeta().custom_metadata_map.get("names", "")
    try:
        held: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    held = dict(enumerate(held)) if isinstance(held, list | tuple) else held
    if not isinstance(held, dict) or sorted(held) != list(range(len(held))) or not held:
        return None
    return [str(held[number]) for number in range(len(held))]


def _beside(path: Path, count: int) -> tuple[list[str], str] | None:
    """The one list of names in the model's folder with so many lines."""
    files = sorted({file for pattern in _LISTS for file in path.parent.glob(pattern)})
    lists = [(_lines(file), file.name) for file in files]
    fitting = [(names, name) for names, name in lists if len(names) == count == len(set(names))]
    return fitting[0] if len(fitting) == 1 else None


def _lines(path: Path) -> list[str]:
    return [
        line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines() if line.strip()
    ]


def mismatch(reader: str, labels: Mapping[int, str], classes: Sequence[str]) -> tuple[str, str]:
    """What to do where the labels use names that the model does not have: (a sentence, a line for model.yaml).

    Both are "" where every name is a class.

    >>> said, line = mismatch("coco", {1: "seal"}, ["person", "animal"])
    >>> line
    'labels: {1: 1}   # counts seal as animal; 255 in place of a class leaves it out'
    >>> mismatch("coco", {1: "seal", 2: "human"}, ["person", "bird"])[1]  # doctest: +ELLIPSIS
    'labels: {1: 255, 2: 0}   # counts human as person; 255 is a placeholder that leaves out seal: no class ...'
    >>> mismatch("coco", {1: "animal"}, ["person", "animal"])
    ('', '')
    """
    strange = {number: name for number, name in labels.items() if name not in classes}
    if not strange:
        return "", ""
    names = ", ".join(f"'{name}'" for name in strange.values())
    shown = ", ".join(f"{number} {name}" for number, name in enumerate(classes[:6]))
    shown += f" and {len(classes) - 6} more" if len(classes) > 6 else ""
    said = f"the labels mark {names}, which is no class of the model ({shown})"
    if reader == "voc":
        return f"{said}; in classes: write the labels' name in place of the class that it is", ""
    then = "under data: test: in model.yaml take the # away from the line labels: and choose the class"
    return f"{said}; {then}", _labels_line(strange, classes)


def _labels_line(strange: Mapping[int, str], classes: Sequence[str]) -> str:
    """The line ``labels:`` for names that are no classes, with what it does."""
    places = {number: class_of(name, classes) for number, name in strange.items()}
    mapped = ", ".join(f"{number}: {IGNORE if place is None else place}" for number, place in places.items())
    counted = [f"{strange[number]} as {classes[place]}" for number, place in places.items() if place is not None]
    parts = [f"counts {', '.join(counted)}"] if counted else []
    if lost := [name for number, name in strange.items() if places[number] is None]:
        parts.append(
            f"{IGNORE} is a placeholder that leaves out {', '.join(lost)}: no class has such a name; "
            f"write the number of one, or keep {IGNORE}"
        )
    else:
        parts.append(f"{IGNORE} in place of a class leaves it out")
    return f"labels: {{{mapped}}}   # {'; '.join(parts)}"


def class_of(name: str, classes: Sequence[str]) -> int | None:
    """The class that a name of the labels most likely means; None where no name comes close.

    >>> class_of("human", COCO), class_of("Harbour_Seals", ["boat", "seal"]), class_of("animal", COCO)
    (0, 1, None)
    """
    own = {_plain(known): place for place, known in reversed(list(enumerate(classes)))}
    word = _plain(name)
    last = word.rpartition(" ")[2] if not word.startswith("sea ") else word  # a sea lion is no lion
    for known in (word, *_MEANS.get(word, ()), last, *_MEANS.get(last, ())):
        if known in own:
            return own[known]
    near = difflib.get_close_matches(word, [known for known in own if len(known) >= _LONG], n=1, cutoff=_ALIKE)
    if near and len(word) >= _LONG:
        return own[near[0]]
    return None if word in _MEANS or last in _MEANS else own.get("animal")


def _plain(name: str) -> str:
    """A name in small letters and in the singular, its words apart."""
    word = " ".join(name.lower().replace("_", " ").replace("-", " ").split())
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) else word


def refuse_without_classes(labels: Mapping[int, str], entry: DataEntry) -> None:
    """Stops where the labels mark nothing at all.

    Raises:
        UsageError: there is no object in any label.
    """
    if not labels:
        then = "Images without an animal alone cannot show whether animals are found"
        raise UsageError("the labels mark no object", where=entry.path, then=then)
