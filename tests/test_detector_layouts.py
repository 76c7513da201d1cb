import numpy as np
import pytest
import torch

from xaiseg.detector_layouts import PYRAMIDS, Shapes, cell_count, choose_layout, read_answer
from xaiseg.errors import SubjectError
from xaiseg.subject import RawBoxes

SIZE = (64, 96)
K = 3


def sigmoid(value):
    return 1 / (1 + np.exp(-value))


def cells(size, strides):
    """(level, stride, row, column) of each cell, finest level first, row by row."""
    for level, stride in enumerate(strides):
        for row in range(-(-size[0] // stride)):
            for column in range(-(-size[1] // stride)):
                yield level, stride, row, column


def box(x, y, width, height):
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def slow_yolox(answer, size, strides):
    found = []
    for values, (level, stride, row, column) in zip(answer, cells(size, strides), strict=True):
        x, y = (values[0] + column) * stride, (values[1] + row) * stride
        scores = [values[4] * value for value in values[5:]]
        found.append((box(x, y, np.exp(values[2]) * stride, np.exp(values[3]) * stride), scores, level))
    return found


def slow_yolov5(answer, size, strides):
    levels = [level for level, *_ in cells(size, strides)]
    three = [level for level in sorted(set(levels)) for _ in range(3 * levels.count(level))]
    found = []
    for values, level in zip(answer, three if len(answer) == len(three) else levels, strict=True):
        found.append((box(*values[:4]), [values[4] * value for value in values[5 : 5 + K]], level))
    return found


def slow_yolov8(answer, size, strides):
    found = []
    for index, (level, *_) in enumerate(cells(size, strides)):
        column = answer[:, index]
        found.append((box(*column[:4]), list(column[4 : 4 + K]), level))
    return found


def slow_fastestdet(answer, size, strides):
    rows, columns = answer.shape[1:]
    found = []
    for row in range(rows):
        for column in range(columns):
            values = answer[:, row, column]
            x = (np.tanh(values[1]) + column) / columns * size[1]
            y = (np.tanh(values[2]) + row) / rows * size[0]
            width, height = sigmoid(values[3]) * size[1], sigmoid(values[4]) * size[0]
            found.append((box(x, y, width, height), [values[0] ** 0.6 * value**0.4 for value in values[5:]], 0))
    return found


def answer_of(layout, seed=0, *, strides=(8, 16, 32), each=1, coefficients=0, batch=2):
    rng = np.random.default_rng(seed)
    count = each * cell_count(SIZE, strides)
    if layout == "fastestdet":
        values = rng.normal(size=(batch, 5 + K, 4, 6))
        values[:, [0, *range(5, 5 + K)]] = rng.random((batch, 1 + K, 4, 6))
        return values.astype(np.float32)
    sides = 5 if layout != "yolov8" else 4
    values = rng.random((batch, count, sides + K + coefficients))
    values[..., :4] = rng.normal(size=(batch, count, 4)) if layout == "yolox" else rng.uniform(5, 60, (batch, count, 4))
    values[..., sides + K :] = rng.normal(size=(batch, count, coefficients))
    return (values.transpose(0, 2, 1) if layout == "yolov8" else values).astype(np.float32)


SLOW = {"yolox": slow_yolox, "yolov5": slow_yolov5, "yolov8": slow_yolov8, "fastestdet": slow_fastestdet}


@pytest.mark.parametrize(
    ("layout", "strides"),
    [*((layout, strides) for layout in SLOW if layout != "fastestdet" for strides in PYRAMIDS), ("fastestdet", (16,))],
)
def test_decoding_equals_a_slow_oracle(layout, strides):
    answer = answer_of(layout, strides=strides, each=3 if layout == "yolov5" else 1)
    raw = read_answer(torch.from_numpy(answer), layout=layout, classes=K, size=SIZE)
    for image in range(2):
        expected = SLOW[layout](answer[image].astype(np.float64), SIZE, strides)
        np.testing.assert_allclose(raw.xyxy[image], [item[0] for item in expected], rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(raw.scores[image], [item[1] for item in expected], rtol=1e-4, atol=1e-6)
        assert raw.level.tolist() == [item[2] for item in expected]


def test_end_to_end_rows_are_boxes_and_rows_of_zeros_are_none():
    rows = torch.tensor([[1.0, 2, 30, 40, 0.9, 2], [5, 5, 9, 9, 0.3, 0], [0, 0, 0, 0, 0, 0]])
    nothing = torch.zeros(3, 6)
    first, second = read_answer(torch.stack((rows, nothing)), layout="auto", classes=K, size=SIZE)
    assert first.xyxy.tolist() == [[1, 2, 30, 40], [5, 5, 9, 9]]
    assert first.labels.tolist() == [2, 0]
    assert second.xyxy.shape == (0, 4)
    with pytest.raises(SubjectError, match=r"no detection. Got: \[5.0, 5.0, 9.0, 9.0, 0.3, 9.0\]"):
        read_answer(
            torch.tensor([[1.0, 2, 30, 40, 0.9, 2], [5, 5, 9, 9, 0.3, 9]]), layout="end2end", classes=K, size=SIZE
        )
    (alone,) = read_answer(rows.numpy(), layout="end2end", classes=K, size=SIZE)
    torch.testing.assert_close(alone.scores, torch.tensor([0.9, 0.3]))
    (empty,) = read_answer(torch.zeros(0, 6), layout="auto", classes=K, size=SIZE)
    assert len(empty.scores) == 0


def test_end_to_end_rows_of_width_and_height_are_refused():
    corners = torch.tensor([[60.0, 40, 80, 50, 0.9, 0], [50, 60, 60, 72, 0.8, 1], [2, 2, 12, 10, 0.7, 0]])
    sides = torch.cat((corners[:, :2], corners[:, 2:4] - corners[:, :2], corners[:, 4:]), dim=1)
    with pytest.raises(SubjectError, match=r"2 of 3 boxes end before they begin. Got: \[60.0, 40.0, 20.0, 10.0\]"):
        read_answer(sides, layout="end2end", classes=K, size=SIZE)
    one_turned = torch.cat((corners, sides[:1]))
    (found,) = read_answer(one_turned, layout="end2end", classes=K, size=SIZE)
    assert len(found.scores) == 4  # exports that clip nothing have such rows


@pytest.mark.parametrize("layout", ["yolov8", "yolov5"])
@pytest.mark.parametrize("wrap", ["dict", "tuple", "nested"])
def test_prototypes_of_masks_are_found_beside_the_boxes(layout, wrap):
    answer = torch.from_numpy(answer_of(layout, each=3 if layout == "yolov5" else 1, coefficients=4))
    prototypes, features = torch.rand(2, 4, 16, 24), torch.rand(2, 64, 8, 12)
    whole = {
        "dict": {"output0": answer.numpy(), "output1": prototypes.numpy()},
        "tuple": (answer, prototypes),
        "nested": (answer, ([features, features], answer[:, :1], prototypes)),
    }[wrap]
    raw = read_answer(whole, layout="auto", classes=K, size=SIZE)
    own = answer.transpose(1, 2)[..., 4 + K :] if layout == "yolov8" else answer[..., 5 + K :]
    torch.testing.assert_close(raw.coefficients, own)
    torch.testing.assert_close(raw.prototypes, prototypes)


def test_what_came_along_with_the_boxes_is_no_prototype_unless_it_fits():
    answer = torch.from_numpy(answer_of("yolov8"))
    raw = read_answer((answer, [torch.rand(2, 67, 8, 12)]), layout="auto", classes=K, size=SIZE)
    assert raw.prototypes is None


def test_a_named_part_is_taken():
    good, bad = torch.from_numpy(answer_of("yolov8")), torch.rand(2, 5)
    for choice in ({"key": "boxes"}, {"index": 1}):
        raw = read_answer({"aux": bad, "boxes": good}, layout="auto", classes=K, size=SIZE, **choice)
        assert raw.scores.shape == (2, 126, 3)
    with pytest.raises(SubjectError, match="not that of a detector"):
        read_answer({"aux": bad, "boxes": good}, layout="auto", classes=K, size=SIZE)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 7, 126), "yolov8"),
        ((1, 7, 96 + 24 + 6 + 3), None),
        ((1, 7, 96 + 24 + 6 + 384), "yolov8"),
        ((1, 378, 8), "yolov5"),
        ((1, 8, 4, 6), "fastestdet"),
        ((1, 300, 6), "end2end"),
        ((12, 6), "end2end"),
        ((1, 8, 64, 96), None),
        ((1, 1000), None),
        ((1, 8, 126), None),
        ((5,), None),
    ],
)
def test_the_layout_follows_from_the_shape(shape, layout):
    shapes = Shapes(K, SIZE)
    if layout is not None:
        assert choose_layout(shape, "auto", shapes) == layout
        assert choose_layout(shape, layout, shapes) == layout
    else:
        with pytest.raises(SubjectError, match="not that of a detector.*yolov8 .B, 7, 126.*for 3 classes on a grid"):
            choose_layout(shape, "auto", shapes)


@pytest.mark.parametrize(
    ("shape", "classes", "fitting"), [((1, 126, 8), 3, "yolox, yolov5"), ((1, 378, 6), 1, "yolov5, end2end")]
)
def test_a_shape_that_fits_twice_is_refused_until_it_is_declared(shape, classes, fitting):
    shapes = Shapes(classes, SIZE)
    with pytest.raises(SubjectError, match=f"more than one layout.*Allowed: {fitting}.*output: .layout: "):
        choose_layout(shape, "auto", shapes)
    for layout in fitting.split(", "):
        assert choose_layout(shape, layout, shapes) == layout


def test_no_shape_of_a_usual_network_fits_twice_but_those():
    for classes in (1, 2, 3, 20, 80):
        for size in ((320, 320), (640, 640), (384, 640), (416, 416)):
            shapes = Shapes(classes, size)
            for strides in PYRAMIDS:
                count = cell_count(size, strides)
                assert shapes.fitting((1, 4 + classes, count)) == ("yolov8",)
                five = shapes.fitting((1, 3 * count, 5 + classes))
                assert five == (("yolov5", "end2end") if classes == 1 else ("yolov5",))
            assert shapes.fitting((1, 5 + classes, -(-size[0] // 16), -(-size[1] // 16))) == ("fastestdet",)


def test_a_declared_layout_that_does_not_fit_is_refused():
    with pytest.raises(SubjectError, match="not of the layout yolov8.*Got: shape .1, 8, 4, 6.*segmentation model"):
        choose_layout((1, 8, 4, 6), "yolov8", Shapes(K, SIZE))
    with pytest.raises(SubjectError, match="such as a classifier answers"):
        choose_layout((1, 1000), "auto", Shapes(K, SIZE))


@pytest.mark.parametrize("layout", [*SLOW, "end2end"])
def test_nan_is_an_error(layout):
    answer = np.zeros((1, 4, 6), np.float32) if layout == "end2end" else answer_of(layout, batch=1)
    answer[(0,) * answer.ndim] = np.nan
    with pytest.raises(SubjectError, match="NaN or infinite"):
        read_answer(answer, layout=layout, classes=K, size=SIZE)


@pytest.mark.parametrize("layout", SLOW)
def test_scores_without_a_sigmoid_are_an_error(layout):
    answer = answer_of(layout, each=3 if layout == "yolov5" else 1)
    if layout == "fastestdet":
        answer[:, 0] = -4
    else:
        answer[:, 5] = 7
        answer[..., 5] = 7
    with pytest.raises(SubjectError, match="no probabilities"):
        read_answer(answer, layout=layout, classes=K, size=SIZE)


def test_decoded_boxes_given_as_a_raw_head_are_an_error():
    answer = answer_of("yolov5")
    answer[..., 2] = 95
    with pytest.raises(SubjectError, match="not finite.*yolov5"):
        read_answer(answer, layout="yolox", classes=K, size=SIZE)


@pytest.mark.parametrize("row", [[0, 0, 5, 5, 0.5, 3], [0, 0, 5, 5, 0.5, 0.4], [0, 0, 5, 5, 7, 1], [0, 0, 5, 5, -1, 1]])
def test_rows_that_are_no_detections_are_an_error(row):
    with pytest.raises(SubjectError, match="a row is no detection.*class index of 0 to 2"):
        read_answer(torch.tensor([[row]]), layout="auto", classes=K, size=SIZE)


def test_an_answer_without_tensors():
    with pytest.raises(SubjectError, match="holds no tensor"):
        read_answer("text", layout="auto", classes=K, size=SIZE)


@pytest.mark.parametrize("layout", SLOW)
def test_decoding_is_differentiable_everywhere(layout):
    answer = torch.from_numpy(answer_of(layout, each=3 if layout == "yolov5" else 1))
    if layout == "fastestdet":
        answer[:, 0, 0, 0] = 0
        answer[:, 5, 1, 1] = 0
    answer.requires_grad_()
    raw = read_answer(answer, layout=layout, classes=K, size=SIZE)
    assert isinstance(raw, RawBoxes)
    (raw.xyxy.sum() + raw.scores.sum()).backward()
    assert torch.isfinite(answer.grad).all()
    assert (answer.grad != 0).any()
