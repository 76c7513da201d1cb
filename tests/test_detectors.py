from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.toy_detectors import Cells, Constant, MaskedCells
from xaiseg.adapters import Network, module_network
from xaiseg.detectors import MOST, NetworkDetector, check_boxes
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import explain
from xaiseg.explainers.box_targets import RawOutput, box_target
from xaiseg.explainers.detections import DetectionSession
from xaiseg.geometry import place
from xaiseg.modelfile import InputSpec, OutputSpec
from xaiseg.subject import Boxes, RawBoxes


def detector(network, classes=("a", "b", "c"), spec=None, **output):
    network = network if isinstance(network, Network) else module_network(network, multiple_of=8)
    spec = spec or InputSpec(channels=len(classes))
    return NetworkDetector(network, name="m", classes=classes, spec=spec, output=OutputSpec(**output))


def picture(height=40, width=56, channels=3, seed=0):
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0) * max(height, 0)
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (area - shared)


def slow_suppression(xyxy, scores, *, floor, iou, size, as_torchvision=False):
    """(candidate, label, score, clipped box) of each detection, straight from the definition."""
    pairs = []
    for index, vector in enumerate(scores):
        labels = range(len(vector)) if as_torchvision else [int(np.argmax(vector))]
        pairs += [(vector[label], index, label) for label in labels if vector[label] > floor]
    pairs.sort(key=lambda pair: -pair[0])
    clipped = [[min(max(value, 0), size[1 - axis % 2]) for axis, value in enumerate(box)] for box in xyxy]
    kept = []
    for score, index, label in pairs:
        own = clipped[index]
        if own[2] <= own[0] or own[3] <= own[1]:
            continue
        boxes = clipped if as_torchvision else xyxy
        if all(overlap(boxes[index], boxes[other]) <= iou for _, other, name in kept if name == label):
            kept.append((score, index, label))
    return [(index, label, score, clipped[index]) for score, index, label in kept]


def random_candidates(seed, count=120, size=(48, 64)):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-8, np.array(size[::-1]) + 8, (count, 2))
    side = rng.uniform(4, 30, (count, 2))
    xyxy = np.concatenate((centre - side / 2, centre + side / 2), axis=1)
    return xyxy.astype(np.float32), rng.random((count, 3)).astype(np.float32)


@pytest.mark.parametrize("as_torchvision", [False, True])
@pytest.mark.parametrize("iou", [0.2, 0.5, 0.9])
def test_suppression_equals_a_slow_oracle(iou, as_torchvision):
    for seed in range(4):
        xyxy, scores = random_candidates(seed)
        raw = RawBoxes(
            torch.from_numpy(xyxy)[None], torch.from_numpy(scores)[None], torch.zeros(120, dtype=torch.int64)
        )
        network = Network(lambda batch, raw=raw: raw, frozenset({"scores"}), fixed_size=(48, 64))
        model = NetworkDetector(network, name="m", classes=("a", "b", "c"), spec=InputSpec(channels=3),
                                output=OutputSpec(iou=iou, score_floor=0.4), as_torchvision=as_torchvision)  # fmt: skip
        found = model.predict([torch.zeros(3, 48, 64)])[0]
        slow = slow_suppression(xyxy.astype(float), scores.astype(float), floor=0.4, iou=iou, size=(48, 64),
                                as_torchvision=as_torchvision)  # fmt: skip
        assert found.candidates.tolist() == [item[0] for item in slow]
        assert found.labels.tolist() == [item[1] for item in slow]
        np.testing.assert_allclose(found.scores, [item[2] for item in slow], rtol=1e-6)
        np.testing.assert_allclose(found.xyxy, [item[3] for item in slow], atol=1e-4)
        torch.testing.assert_close(found.class_scores, raw.scores[0, found.candidates])


@pytest.mark.parametrize("align", ["centre", "corner"])
@pytest.mark.parametrize("resize", ["letterbox", "pad", "stretch", "none"])
@pytest.mark.parametrize("size", [(30, 44), (81, 25), (64, 64), (7, 300)])
def test_a_planted_square_comes_back_where_it_was(size, resize, align):
    height, width = size
    x, y = width / 4, height / 4
    spec = InputSpec(channels=3, size=(64, 64), resize=resize, align=align, multiple_of=8)
    placed = place(size, size=(64, 64), resize=spec.padding, multiple_of=8, align=align)
    # The network finds the square on its own grid, where the definition of the placement puts it.
    down, along = placed.inner[0] / height, placed.inner[1] / width
    left, top = x * along + placed.offset[1], y * down + placed.offset[0]
    inside = [left, top, left + width / 2 * along, top + height / 2 * down]
    raw = RawBoxes(torch.tensor([[inside]]), torch.tensor([[[0.9, 0, 0]]]), torch.zeros(1, dtype=torch.int64))
    model = detector(Network(lambda batch: raw, frozenset({"scores"})), spec=spec)
    found = model.predict([torch.zeros(3, height, width)])[0]
    torch.testing.assert_close(found.xyxy, torch.tensor([[x, y, x + width / 2, y + height / 2]]), atol=1e-3, rtol=1e-5)


def test_a_real_square_in_a_picture_is_found_on_the_pictures_own_pixels():
    image = torch.zeros(3, 100, 160)
    image[1, 34:50, 96:112] = 1.0  # on the grid of 80 x 80: half the size, 15 lower: one cell
    spec = InputSpec(channels=3, size=(80, 80), resize="letterbox")
    found = detector(Cells(), spec=spec, score_floor=0.5).predict([image])[0]
    assert found.labels.tolist() == [1]
    assert found.xyxy.tolist() == [[96, 34, 112, 50]]


def test_boxes_are_clipped_and_those_in_the_padding_dropped():
    boxes = torch.tensor([[[-9.0, -9, 20, 20], [60, 10, 64, 20], [5, -5, 9, -1], [10, 10, 30, 12]]])
    raw = RawBoxes(boxes, torch.tensor([[[0.9], [0.8], [0.7], [0.6]]]), torch.zeros(4, dtype=torch.int64))
    spec = InputSpec(channels=1, size=(64, 64), resize="pad", align="corner")
    model = detector(Network(lambda batch: raw, frozenset({"scores"})), ("a",), spec)
    found = model.predict([torch.zeros(1, 64, 32)])[0]
    assert found.xyxy.tolist() == [[0, 0, 20, 20], [10, 10, 30, 12]]
    assert found.candidates.tolist() == [0, 3]


def test_batches_of_any_size_and_order_give_the_same():
    images = [picture(40, 56, seed=1), picture(24, 24, seed=2), picture(40, 56, seed=3), picture(200, 30, seed=4)]
    model = detector(Cells(), score_floor=0.5)
    alone = [model.predict([image])[0] for image in images]
    for batch_size in (1, 2, 8):
        for found, expected in zip(model.predict(images, batch_size=batch_size), alone, strict=True):
            for name in ("xyxy", "scores", "labels", "class_scores", "candidates"):
                assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert len(alone[0].scores) > 10
    again = model.predict(images[::-1])
    assert torch.equal(again[-1].xyxy, alone[0].xyxy)


def test_a_network_of_a_fixed_batch_is_fed_full_batches():
    seen = []

    def call(batch):
        seen.append(len(batch))
        return Cells()(batch)

    network = Network(call, frozenset({"scores"}), fixed_batch=2, multiple_of=8)
    images = [picture(seed=seed) for seed in range(3)]
    found = detector(network).predict(images)
    assert set(seen) == {2}
    for own, expected in zip(found, detector(Cells()).predict(images), strict=True):
        assert torch.equal(own.xyxy, expected.xyxy)


def test_no_detection_is_an_answer():
    found = detector(Cells(), score_floor=0.5).predict([torch.zeros(3, 20, 20)])[0]
    assert found.xyxy.shape == (0, 4)
    assert found.class_scores.shape == (0, 3)
    assert found.labels.dtype == torch.int64
    assert detector(Cells()).predict([]) == []
    masked = detector(MaskedCells(), score_floor=0.5).predict([torch.zeros(3, 20, 20)])[0]
    assert masked.masks.shape == (0, 20, 20)


def test_the_floor_drops_and_the_threshold_does_not():
    image = picture()
    model = detector(Cells(), score_floor=0.45, threshold={"value": 0.6, "chosen_on": "val"})
    found = model.predict([image])[0]
    assert float(found.scores.min()) > 0.45
    assert (found.scores < 0.6).any()
    assert (model.info.threshold.value, model.info.threshold.chosen_on) == (0.6, "val")
    assert (found.scores.diff() <= 0).all()


def test_no_more_than_the_most_are_returned():
    found = detector(Cells(), score_floor=0.0).predict([picture(200, 200)])[0]
    assert len(found.scores) == MOST


def test_channels_order_padding_and_normalisation_reach_the_network():
    seen = []

    class Watch(Cells):
        def forward(self, batch):
            seen.append(batch.clone())
            return super().forward(batch.clamp(0, 1))

    spec = InputSpec(channels=3, range=(0, 255), channel_order="bgr", size=(16, 16), resize="letterbox", align="corner",
                     pad_value=114, mean=(1, 2, 3), std=(2, 2, 2))  # fmt: skip
    detector(Watch(), spec=spec).predict([torch.tensor([10.0, 20.0, 30.0])[:, None, None].expand(3, 16, 8)])
    batch = seen[-1][0]
    assert batch[:, 0, 0].tolist() == [14.5, 9.0, 3.5]
    assert batch[:, 0, 15].tolist() == [56.5, 56.0, 55.5]


def test_candidates_are_seen_in_the_images_pixels_with_gradients():
    image = picture(50, 70)[None].requires_grad_()
    spec = InputSpec(channels=3, size=(32, 32), resize="letterbox")
    model = detector(Cells(), spec=spec)
    assert {"raw_boxes", "forward", "gradients", "activations", "weights", "scores"} == model.info.offers
    raw = model.raw(image)
    assert raw.scores.shape == (1, 16, 3)
    assert torch.equal(raw.level, torch.zeros(16, dtype=torch.int64))
    found = model.predict([image.detach()[0]])[0]
    index = int(found.candidates[0])
    clipped = torch.minimum(raw.xyxy[0, index].clamp(min=0), torch.tensor([70.0, 50, 70, 50]))
    torch.testing.assert_close(clipped, found.xyxy[0])
    raw.scores[0, index, 1].backward()
    x0, y0, x1, y1 = (int(value) for value in found.xyxy[0])
    own = image.grad[0, 1, y0:y1, x0:x1].abs().sum()
    assert own > 0.8 * image.grad.abs().sum()
    assert float(image.grad[0, 0].abs().sum()) == 0


def test_forward_is_the_candidates_as_one_tensor():
    model, image = detector(Cells()), picture()[None].requires_grad_()
    answer, raw = model.forward(image), model.raw(image)
    torch.testing.assert_close(answer[..., :4], raw.xyxy)
    torch.testing.assert_close(answer[..., 4:].sigmoid(), raw.scores)
    answer[0, 3, 5].backward()
    assert float(image.grad.abs().sum()) > 0


def test_gradients_work_after_a_prediction_in_inference_mode():
    class Caching(Cells):
        kept = None

        def forward(self, batch):
            raw = super().forward(batch)
            self.kept = torch.ones(1) if self.kept is None else self.kept
            return RawBoxes(raw.xyxy, raw.scores * self.kept, raw.level)

    model = detector(Caching())
    with torch.inference_mode():
        model.predict([picture()])
    model.raw(picture()[None].requires_grad_()).scores.sum().backward()


def test_a_black_box_shows_candidates_without_gradients():
    network = Network(lambda batch: Cells()(batch.detach()), frozenset({"scores"}), multiple_of=8)
    model = detector(network)
    assert model.info.offers == {"scores", "raw_boxes"}
    raw = model.raw(picture()[None].requires_grad_())
    assert not raw.scores.requires_grad
    with pytest.raises(SubjectError, match="no differentiable forward"):
        model.forward(picture()[None])


def test_finished_boxes_are_mapped_filtered_and_not_suppressed():
    twice = torch.tensor([[[8.0, 8, 24, 24, 0.5, 1], [8, 8, 24, 24, 0.9, 1], [8, 8, 24, 24, 0.0005, 0]]])
    spec = InputSpec(channels=3, size=(32, 32), resize="stretch")
    model = detector(Constant(twice), spec=spec)
    assert model.info.offers == {"scores", "weights"}
    found = model.predict([torch.zeros(3, 64, 96)])[0]
    assert found.xyxy.tolist() == [[24, 16, 72, 48]] * 2
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.5]))
    assert found.class_scores is None
    with pytest.raises(SubjectError, match="no candidates"):
        model.raw(torch.zeros(1, 3, 64, 96))


def slow_masks(image, found):
    """Each detection's mask, where the network's grid is the image's: its channel above one half, within its box."""
    masks = torch.zeros(len(found.scores), *image.shape[1:], dtype=torch.bool)
    for n, (box, label) in enumerate(zip(found.xyxy.tolist(), found.labels.tolist(), strict=True)):
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                inside = box[0] <= column + 0.5 <= box[2] and box[1] <= row + 0.5 <= box[3]
                masks[n, row, column] = inside and image[label, row, column] > 0.5
    return masks


def test_masks_are_assembled_from_prototypes():
    image = picture(24, 32)
    model = detector(MaskedCells(), score_floor=0.3)
    assert "instance_masks" in model.info.offers
    found = model.predict([image])[0]
    assert found.masks.dtype == torch.bool
    assert torch.equal(found.masks, slow_masks(image, found))
    larger = model.predict([picture(50, 81)])[0]
    assert larger.masks.shape[1:] == (50, 81)


def test_masks_of_finished_boxes_are_mapped_to_the_image():
    mask = torch.zeros(1, 32, 32)
    mask[0, 8:24, 8:16] = 1.0
    boxes = Boxes(torch.tensor([[8.0, 8, 16, 24]]), torch.tensor([0.9]), torch.tensor([0]), masks=mask)
    spec = InputSpec(channels=3, size=(32, 32), resize="letterbox")
    model = detector(Network(lambda batch: [boxes] * len(batch), frozenset({"scores"})), spec=spec)
    found = model.predict([torch.zeros(3, 64, 32)])[0]
    expected = torch.zeros(64, 32, dtype=torch.bool)
    expected[16:48, 0:16] = True
    assert (found.masks[0] == expected).float().mean() > 0.97
    assert "instance_masks" in model.info.offers


def test_a_half_network_answers_in_float32():
    class Half(Cells):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, batch):
            assert batch.dtype == self.weight.dtype
            return super().forward(batch * self.weight)

    image = picture()
    whole, half = detector(Half(), score_floor=0.5), detector(Half().half(), score_floor=0.5)
    one, other = whole.predict([image])[0], half.predict([image])[0]
    assert other.scores.dtype == other.xyxy.dtype == torch.float32
    torch.testing.assert_close(other.scores[:5], one.scores[:5], atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (torch.zeros(1, 3, 40, 56), "not that of a detector.*segmentation"),
        (torch.zeros(1, 10), "not that of a detector.*classifier"),
        (RawBoxes(torch.zeros(1, 2, 4), torch.zeros(1, 2, 2), torch.zeros(2)), "do not fit the classes.*2 scores"),
        (RawBoxes(torch.zeros(1, 2, 4), torch.full((1, 2, 3), 3.0), torch.zeros(2)), "no probabilities"),
        (RawBoxes(torch.full((1, 2, 4), torch.nan), torch.zeros(1, 2, 3), torch.zeros(2)), "NaN"),
        ([], "holds no tensor"),
    ],
)
def test_what_is_no_detector_is_refused_at_once(answer, words):
    with pytest.raises(SubjectError, match=words):
        detector(Network(lambda batch: answer, frozenset({"scores"}), multiple_of=8))


def test_nan_on_one_image_is_an_error_of_that_image():
    def call(batch):
        raw = Cells()(batch)
        return RawBoxes(raw.xyxy, raw.scores * (torch.nan if float(batch.max()) > 0.9 else 1.0), raw.level)

    model = detector(Network(call, frozenset({"scores"}), multiple_of=8))
    model.predict([torch.full((3, 16, 16), 0.5)])
    with pytest.raises(SubjectError, match="NaN"):
        model.predict([torch.ones(3, 16, 16)])


def test_wrong_channels_sizes_and_counts_are_named():
    with pytest.raises(SubjectError, match="channels that the model takes.*Allowed: .3, height, width"):
        detector(Cells()).predict([torch.zeros(1, 16, 16)])
    with pytest.raises(UsageError, match="one image size only"):
        detector(Network(Cells(), frozenset(), fixed_size=(32, 32)), spec=InputSpec(channels=3, size=(64, 64)))
    short = Network(lambda batch: Cells()(batch[:1]), frozenset({"scores"}), multiple_of=8)
    with pytest.raises(SubjectError, match="1 answers for 2 images"):
        detector(short).predict([picture(), picture()])


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        (Boxes(torch.zeros(1, 4), torch.tensor([torch.nan]), torch.tensor([0])), "NaN"),
        (Boxes(torch.zeros(1, 4), torch.tensor([2.0]), torch.tensor([0])), "no probabilities"),
        (Boxes(torch.zeros(1, 4), torch.tensor([0.5]), torch.tensor([-1])), "no class.*0 to 2"),
        (
            Boxes(torch.zeros(1, 4), torch.tensor([0.5]), torch.tensor([0]), torch.zeros(1, 2)),
            "class scores do not fit",
        ),
    ],
)
def test_boxes_that_cannot_be_true(boxes, words):
    with pytest.raises(SubjectError, match=words):
        check_boxes(boxes, 3)


@pytest.mark.parametrize(
    ("corners", "words"),
    [([100, 100, 30, 30], "read like x, y, width, height"), ([0.1, 0.2, 0.4, 0.3], "read like shares of the sides")],
)
def test_boxes_in_another_way_of_writing_are_said(corners, words):
    count = 3
    boxes = Boxes(torch.tensor([corners] * count), torch.full((count,), 0.9), torch.zeros(count, dtype=torch.int64))
    with pytest.raises(SubjectError, match=words):
        check_boxes(boxes, 1)
    padding = replace(boxes, scores=torch.zeros(count))  # rows that only fill an answer up
    assert len(check_boxes(padding, 1).scores) == count


def test_explainers_see_a_detector():
    image = torch.full((3, 32, 48), 0.1)
    image[1, 8:16, 16:24] = 0.9
    model = detector(Cells(), score_floor=0.05)
    session = DetectionSession(model, image)
    target = box_target(session.detections, 0, classes=3)
    assert session.detections.xyxy[0].tolist() == [16, 8, 24, 16]
    found = explain(session, "occlusion", (target,)).values[0]
    assert np.unravel_index(found.argmax(), found.shape)[0] in range(4, 20)
    place_of = (int(session.detections.candidates[0]), 4 + 1)
    raw = RawOutput(place_of).score(session.differentiable(session.image[None]))
    torch.testing.assert_close(raw.detach().sigmoid(), session.detections.scores[:1])
