"""From whatever a detection network answers to boxes: one reading for each layout in use.

K is the number of classes, N of candidates, M of mask coefficients (0 for most). Strides are 8, 16, 32 and, where
N says so, 4 or 64.

==========  ==================  ===============================================================================
layout      shape               holds
==========  ==================  ===============================================================================
yolox       (B, N, 5 + K)       one candidate a cell: offset in cells, log size, objectness, classes (raw head of
                                YOLOX: Z. Ge et al., arXiv:2107.08430)
yolov5      (B, N, 5 + K + M)   centre and size in pixels, objectness, classes
yolov8      (B, 4 + K + M, N)   centre and size in pixels, classes (also YOLOv9, YOLO11)
fastestdet  (B, 5 + K, h, w)    stride 16: objectness, offset, size, classes (github.com/dog-qiuqiu/FastestDet)
end2end     (B, N, 6), (N, 6)   corners in pixels, score, class index, after suppression (YOLOv10 and exports)
==========  ==================  ===============================================================================

The score is objectness x class, of FastestDet objectness^0.6 x class^0.4, of YOLOv8 the class alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import SubjectError
from xaiseg.subject import Boxes, RawBoxes

#: Strides of the pyramid, the usual one first.
PYRAMIDS: Final = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
#: FastestDet has one level.
FASTESTDET_STRIDE: Final = 16
LAYOUTS: Final = ("yolox", "yolov5", "yolov8", "fastestdet", "end2end")


@dataclass(frozen=True)
class Shapes:
    """What a layout's answer must look like.

    Attributes:
        classes: K.
        size: (height, width) of the network's grid, pixels.
        coefficients: M, the channels of the prototypes that came along, or 0.
    """

    classes: int
    size: tuple[int, int]
    coefficients: int = 0

    def fitting(self, shape: Sequence[int]) -> tuple[str, ...]:
        """The layouts that an answer of this shape can have.

        >>> Shapes(80, (640, 640)).fitting((1, 84, 8400)), Shapes(80, (416, 416)).fitting((1, 3549, 85))
        (('yolov8',), ('yolox', 'yolov5'))
        """
        return tuple(layout for layout in LAYOUTS if self._fits(layout, tuple(shape)))

    def allowed(self) -> str:
        """Every shape that would fit, in words."""
        k, m = self.classes, self.coefficients
        cells, (height, width) = cell_count(self.size, PYRAMIDS[0]), grid(self.size, FASTESTDET_STRIDE)
        shapes = {
            "yolox": f"(B, {cells}, {5 + k})",
            "yolov5": f"(B, {3 * cells}, {5 + k + m})",
            "yolov8": f"(B, {4 + k + m}, {cells})",
            "fastestdet": f"(B, {5 + k}, {height}, {width})",
            "end2end": "(B, N, 6)",
        }
        where = f"for {k} classes on a grid of {self.size[0]} x {self.size[1]}"
        return "; ".join(f"{name} {shape}" for name, shape in shapes.items()) + f" {where}"

    def _fits(self, layout: str, shape: tuple[int, ...]) -> bool:
        counts = [cell_count(self.size, strides) for strides in PYRAMIDS]
        k, m = self.classes, self.coefficients
        if layout == "end2end":
            return len(shape) in (2, 3) and shape[-1] == 6
        if layout == "fastestdet":
            return len(shape) == 4 and shape[1] == 5 + k and shape[2:] == grid(self.size, FASTESTDET_STRIDE)
        if len(shape) != 3:
            return False
        if layout == "yolov8":
            return shape[1] == 4 + k + m and shape[2] in counts
        # An exporter that decodes YOLOX writes what yolov5 is, with one candidate a cell in place of three.
        wanted = counts if layout == "yolox" else [*counts, *(3 * count for count in counts)]
        return shape[2] == 5 + k + (0 if layout == "yolox" else m) and shape[1] in wanted


def grid(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(rows, columns) of cells of a level; a rest makes one more."""
    return -(-size[0] // stride), -(-size[1] // stride)


def cell_count(size: tuple[int, int], strides: Sequence[int]) -> int:
    """Cells of all levels.

    >>> cell_count((416, 416), (8, 16, 32))
    3549
    """
    return sum(rows * columns for rows, columns in (grid(size, stride) for stride in strides))


def read_answer(
    answer: Any, *, layout: str, classes: int, size: tuple[int, int], key: str | None = None, index: int | None = None
) -> RawBoxes | list[Boxes]:
    """Boxes in the network's pixels: candidates, or for ``end2end`` what is left of them.

    Args:
        answer: tensors or arrays, also in dicts and tuples: the first one holds the boxes unless ``key`` or ``index``
            says which; a 4-D one (B, M, p, q) beside it may hold prototypes of masks.
        layout: one of :data:`LAYOUTS`, or "auto" for the only one that the shape allows.
        classes: K.
        size: (height, width) of the batch, pixels.
        key: name of the part that holds the boxes, as in model.yaml.
        index: or its place.

    Raises:
        SubjectError: no layout fits, or several do; a value is NaN or infinite, a score lies outside 0 to 1, a label is
            no class.
    """
    main, prototypes = _tensors(answer, classes, key, index)
    shapes = Shapes(classes, size, 0 if prototypes is None else int(prototypes.shape[1]))
    layout = choose_layout(main.shape, layout, shapes)
    values = main.float()
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).sum())
        raise SubjectError("the output holds NaN or infinite values", where="output",
                           got=f"{bad} of {values.numel()} values, shape {tuple(main.shape)}")  # fmt: skip
    if layout == "end2end":
        return _end2end(values, classes)
    raw = _DECODERS[layout](values, shapes, prototypes)
    if not torch.isfinite(raw.xyxy).all():
        raise SubjectError("decoded boxes are not finite", where="output.layout", got=layout,
                           then="A decoded YOLOX output has the layout yolov5")  # fmt: skip
    return raw


def choose_layout(shape: Sequence[int], layout: str, shapes: Shapes) -> str:
    """The layout of an answer; "auto" is resolved by its shape.

    Raises:
        SubjectError: the declared layout does not fit, or not exactly one does.

    >>> choose_layout((1, 25200, 85), "auto", Shapes(80, (640, 640)))
    'yolov5'
    """
    fitting, got = shapes.fitting(shape), _described(shape)
    if layout == "auto" and len(fitting) == 1:
        return fitting[0]
    if layout in fitting:
        return layout
    if layout == "auto" and fitting:
        then = "Say in model.yaml which one it is, e.g. output: {layout: " + fitting[0] + "}"
        if fitting == ("yolox", "yolov5"):
            then += " for a raw head, yolov5 for boxes in pixels"
        raise SubjectError("the output's shape fits more than one layout", where="output.layout", got=got,
                           allowed=", ".join(fitting), then=then)  # fmt: skip
    what = "the output is not that of a detector" if layout == "auto" else f"the output is not of the layout {layout}"
    then = "Check classes, input.size and output in model.yaml"
    raise SubjectError(what, where="output.layout", got=got, allowed=shapes.allowed(), then=then)


def check_probabilities(scores: Tensor) -> Tensor:
    """The scores as they are.

    Raises:
        SubjectError: one lies outside 0 to 1 by more than rounding.

    >>> check_probabilities(torch.tensor([0.0, 3.0]))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    xaiseg.errors.SubjectError: output: the scores are no probabilities. Got: 0 to 3. Allowed: 0 to 1. Is this ...
    """
    low, high = (float(scores.detach().min()), float(scores.detach().max())) if scores.numel() else (0.0, 0.0)
    if low < -1e-3 or high > 1 + 1e-3:
        then = "Is this the layout, and the sigmoid in the graph?"
        got = f"{low:.3g} to {high:.3g}"
        raise SubjectError("the scores are no probabilities", where="output", got=got, allowed="0 to 1", then=then)
    return scores


def _described(shape: Sequence[int]) -> str:
    text = f"shape {tuple(shape)}"
    if len(shape) == 2:
        return f"{text}, such as a classifier answers"
    return f"{text}, such as a segmentation model answers" if len(shape) == 4 else text


def _tensors(answer: Any, classes: int, key: str | None, index: int | None) -> tuple[Tensor, Tensor | None]:
    """The tensor of the boxes and the prototypes of masks, if there are any."""
    whole = [_tensor(part) for part in leaves(answer)]
    if key is not None or index is not None:
        from xaiseg.outputs import pick_tensor

        main = pick_tensor(answer, key=key, index=index)
    elif whole:
        main = whole[0]
    else:
        raise SubjectError("the output holds no tensor", where="output", got=type(answer).__name__)
    # Coefficients stand behind the classes, in the last side (yolov5) or the one before it (yolov8).
    lengths = {int(side) - fixed - classes for side in main.shape[1:] for fixed in (4, 5)} if main.ndim == 3 else set()
    found = [part for part in whole if part is not main and part.ndim == 4 and part.shape[1] in lengths]
    return main, found[-1] if found else None


def leaves(answer: Any) -> Iterator[Any]:
    """Every tensor and array in an answer, also in dicts and tuples, in order."""
    if isinstance(answer, Tensor | np.ndarray):
        yield answer
    elif isinstance(answer, Mapping):
        for part in answer.values():
            yield from leaves(part)
    elif isinstance(answer, Sequence) and not isinstance(answer, str):
        for part in answer:
            yield from leaves(part)


def _tensor(part: Any) -> Tensor:
    return part if isinstance(part, Tensor) else torch.from_numpy(np.ascontiguousarray(part))


def _cells(shapes: Shapes, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 2) x and y of each cell, (N, 1) its stride, (N,) its level: finest level first, row by row."""
    strides = next(strides for strides in PYRAMIDS if cell_count(shapes.size, strides) == count)
    places, widths, levels = [], [], []
    for level, stride in enumerate(strides):
        rows, columns = grid(shapes.size, stride)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        places.append(torch.stack((x, y), dim=-1).reshape(-1, 2).float())
        widths.append(torch.full((rows * columns, 1), float(stride)))
        levels.append(torch.full((rows * columns,), level))
    return torch.cat(places).to(device), torch.cat(widths).to(device), torch.cat(levels).to(device)


def _levels(shapes: Shapes, count: int, device: torch.device) -> Tensor:
    """(N,) level of each candidate of a decoded output, with one or three candidates a cell."""
    for strides in PYRAMIDS:
        for each in (1, 3):
            sides = [each * rows * columns for rows, columns in (grid(shapes.size, stride) for stride in strides)]
            if sum(sides) == count:
                return torch.repeat_interleave(torch.arange(len(sides)), torch.tensor(sides)).to(device)
    raise AssertionError("the shape was checked before")


def _corners(centre: Tensor, side: Tensor) -> Tensor:
    return torch.cat((centre - side / 2, centre + side / 2), dim=-1)


def _yolox(values: Tensor, shapes: Shapes, prototypes: Tensor | None) -> RawBoxes:
    places, widths, level = _cells(shapes, values.shape[1], values.device)
    xyxy = _corners((values[..., :2] + places) * widths, values[..., 2:4].exp() * widths)
    scores = check_probabilities(values[..., 4:])
    return RawBoxes(xyxy, scores[..., :1] * scores[..., 1:], level)


def _yolov5(values: Tensor, shapes: Shapes, prototypes: Tensor | None) -> RawBoxes:
    end = 5 + shapes.classes
    scores = check_probabilities(values[..., 4:end])
    level = _levels(shapes, values.shape[1], values.device)
    xyxy = _corners(values[..., :2], values[..., 2:4])
    return _raw(xyxy, scores[..., :1] * scores[..., 1:], level, values[..., end:], prototypes)


def _yolov8(values: Tensor, shapes: Shapes, prototypes: Tensor | None) -> RawBoxes:
    values, end = values.transpose(1, 2), 4 + shapes.classes
    level = _levels(shapes, values.shape[1], values.device)
    xyxy = _corners(values[..., :2], values[..., 2:4])
    return _raw(xyxy, check_probabilities(values[..., 4:end]), level, values[..., end:], prototypes)


def _raw(xyxy: Tensor, scores: Tensor, level: Tensor, coefficients: Tensor, prototypes: Tensor | None) -> RawBoxes:
    if prototypes is None or coefficients.shape[-1] == 0:
        return RawBoxes(xyxy, scores, level)
    return RawBoxes(xyxy, scores, level, coefficients, prototypes.to(xyxy.device).float())


def _fastestdet(values: Tensor, shapes: Shapes, prototypes: Tensor | None) -> RawBoxes:
    rows, columns = values.shape[-2:]
    values = values.flatten(2).transpose(1, 2)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack((x, y), dim=-1).reshape(-1, 2).to(values.device)
    whole = values.new_tensor((shapes.size[1], shapes.size[0]))
    centre = (values[..., 1:3].tanh() + places) / values.new_tensor((columns, rows)) * whole
    xyxy = _corners(centre, values[..., 3:5].sigmoid() * whole)
    # A power below 1 has no slope at 0, so that 0 is kept off; a score changes by less than 1e-7.
    objectness = check_probabilities(values[..., :1]).clamp(min=1e-12)
    probability = check_probabilities(values[..., 5:]).clamp(min=1e-18)
    level = torch.zeros(rows * columns, dtype=torch.int64, device=values.device)
    return RawBoxes(xyxy, objectness**0.6 * probability**0.4, level)


def _end2end(values: Tensor, classes: int) -> list[Boxes]:
    found = []
    for rows in values if values.ndim == 3 else values[None]:
        rows = rows[rows[:, 4] != 0]  # rows without a detection are zeros
        scores, labels = rows[:, 4], rows[:, 5].round().long()
        wrong = (rows[:, 5] - labels).abs() > 1e-3
        wrong = wrong | (labels < 0) | (labels >= classes) | (scores < 0) | (scores > 1 + 1e-3)
        if wrong.any():
            got = [round(float(value), 3) for value in rows[int(wrong.int().argmax())]]
            allowed = f"x0, y0, x1, y1, a score of 0 to 1, a class index of 0 to {classes - 1}"
            raise SubjectError("a row is no detection", where="output.layout", got=got, allowed=allowed)
        _refuse_sides(rows)
        found.append(Boxes(rows[:, :4], scores, labels))
    return found


def _refuse_sides(rows: Tensor) -> None:
    """Refuses x, y, width and height: a box far from the origin is wider and higher than that, so would end before it
    begins. One or the other row may do so in exports that do not clip what they regress.
    """
    turned = (rows[:, 2] < rows[:, 0]) | (rows[:, 3] < rows[:, 1])
    if 2 * int(turned.sum()) > len(rows):
        got = [round(float(value), 1) for value in rows[int(turned.int().argmax()), :4]]
        what = f"{int(turned.sum())} of {len(rows)} boxes end before they begin"
        then = "This looks like x, y, width, height; export the corners"
        raise SubjectError(what, where="output.layout", got=got, allowed="x0, y0, x1, y1 in pixels", then=then)


_DECODERS: Final = {"yolox": _yolox, "yolov5": _yolov5, "yolov8": _yolov8, "fastestdet": _fastestdet}
