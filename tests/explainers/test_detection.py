import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.explainers.test_detection_level import grey, target_at
from tests.explainers.toy_pyramid import Pyramid, compact, subject
from tests.toys import BrightBlobs
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Budget, get_explainer
from xaiseg.explainers.cam import CamParams
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.detection import explain_objects, readings
from xaiseg.explainers.detection_spec import ObjectScene, parse_objects
from xaiseg.explainers.detection_targets import ObjectTarget
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.gradient import IntegratedGradientsParams
from xaiseg.explainers.occlusion import OcclusionParams
from xaiseg.explainers.rise import RidgeParams, RiseParams
from xaiseg.explainers.shapley import KernelShapParams
from xaiseg.subject import Boxes, SubjectInfo

BLACK = "dataset-mean"
#: As published: independent masks of 16 x 16 cells, each with a shift of its own, on black.
PUBLISHED = RiseParams(96, "published", "bernoulli", 4, 0.5, "random", BLACK, agreement=2)


class Blobs(BrightBlobs):
    """Two classes: bright blobs are seals as far as they are wide, birds as far as they are high."""

    def __init__(self):
        super().__init__()
        self.info = dataclasses.replace(self.info, classes=("seal", "bird"), offers=frozenset({"scores"}))

    def _detect(self, image):
        found = super()._detect(image)
        side = found.xyxy[:, 2:] - found.xyxy[:, :2]
        vectors = found.scores[:, None] * side / side.amax(dim=1, keepdim=True)
        return Boxes(found.xyxy, found.scores, vectors.argmax(dim=1), vectors)


def two_objects(seed=0, batch=8):
    """A wide and a high bright blob on black."""
    image = torch.zeros(1, 40, 48)
    image[0, 3:9, 3:13], image[0, 20:32, 30:36] = 0.9, 0.7
    session = DetectionSession(Blobs(), image, seed=seed, budget=Budget(batch), dataset_mean=torch.zeros(1, 1, 1))
    return session, parse_objects("all", ObjectScene(session))


def slow_similarity(box, vector, found, question):
    """max over detections of IoU x score x cosine, in plain numbers."""
    best = 0.0
    for j in range(len(found.scores)):
        other, theirs = found.xyxy[j].tolist(), found.class_scores[j].tolist()
        wide = max(0.0, min(box[2], other[2]) - max(box[0], other[0]))
        high = max(0.0, min(box[3], other[3]) - max(box[1], other[1]))
        areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
        value = wide * high / (sum(areas) - wide * high)
        if question in ("box", "is"):
            value *= float(found.scores[j])
        if question in ("box", "what"):
            value *= sum(a * b for a, b in zip(vector, theirs, strict=True)) / (
                math.hypot(*vector) * math.hypot(*theirs)
            )
        best = max(best, value)
    return best


def slow_drise(session, targets, params):
    """The definition: for each mask, paint it, detect, and add the mask weighted by the similarity; over N p."""
    image, count = session.image, params.masks
    bank = session.bank_of(params)
    rows, groups = bank.design.rows(bank.cells, session.seed, 0, count)
    height, width = image.shape[1:]
    tall, wide = math.ceil(height / params.grid), math.ceil(width / params.grid)
    found, weights = np.zeros((len(targets), height, width)), []
    for row, group in zip(rows, groups, strict=True):
        grid = torch.from_numpy(row).reshape(1, 1, params.grid, params.grid)
        large = F.interpolate(grid, ((params.grid + 1) * tall, (params.grid + 1) * wide), mode="bilinear")[0, 0]
        down, across = divmod(int(group), wide)
        mask = large[down : down + height, across : across + width]
        (seen,) = session.detector.predict([image * mask])
        weights.append([slow_similarity(t.object.xyxy.tolist(), t.object.classes.tolist(), seen, t.question)
                        for t in targets])  # fmt: skip
        for t, weight in enumerate(weights[-1]):
            found[t] += weight * mask.numpy() / (count * params.keep)
    return found, np.array(weights)


class Opened(DetectionSession):
    """A session that hands out the bank of a method."""

    def bank_of(self, params):
        from xaiseg.explainers.masks import Design

        return self.bank(Design(params.sampling, params.grid, params.keep, params.offsets), params.baseline)


def opened(seed):
    session, _ = two_objects()
    again = Opened(session.detector, session.image, seed=seed, dataset_mean=torch.zeros(1, 1, 1))
    return again, parse_objects("all", ObjectScene(again))


@pytest.mark.parametrize("question", ["box", "where", "is", "what"])
def test_rise_of_a_box_is_d_rise_by_a_slow_loop_from_its_definition(question):
    session, objects = opened(3)
    targets = [ObjectTarget(each.object, question) for each in objects]
    _, found = explain_objects(session, "rise", targets, params=PUBLISHED)
    expected, weights = slow_drise(session, targets, PUBLISHED)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert (weights > 0).any(axis=0).all()
    assert (weights == 0).any()


def test_a_first_mask_without_any_detection_costs_no_object_its_map():
    for seed in range(200):
        session, targets = opened(seed)
        expected, weights = slow_drise(session, targets, dataclasses.replace(PUBLISHED, masks=8))
        if not weights[0].any() and weights.any(axis=0).all():
            break
    else:
        pytest.fail("no seed hides both objects from the first mask")
    asked, found = explain_objects(session, "rise", targets, params=dataclasses.replace(PUBLISHED, masks=8))
    assert len(asked) == len(found.values) == 2
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert found.values.any(axis=(1, 2)).all()


def test_all_objects_share_the_forwards_of_one_and_have_the_maps_that_they_have_alone():
    session, targets = two_objects()
    before = session.forwards
    _, together = explain_objects(session, "rise", targets, params=PUBLISHED)
    assert session.forwards - before == together.cost.forwards == PUBLISHED.masks
    for index, target in enumerate(targets):
        alone, _ = two_objects()
        _, found = explain_objects(alone, "rise", [target], params=PUBLISHED)
        np.testing.assert_allclose(found.values[0], together.values[index], atol=1e-6)
        assert found.cost.forwards == PUBLISHED.masks


def test_standard_errors_shrink_with_the_root_of_the_masks():
    params = RidgeParams(256, grid=4, baseline=BLACK, agreement=2)
    errors = []
    for masks in (256, 1024, 4096):
        session, targets = two_objects(batch=64)
        _, found = explain_objects(session, "rise", targets, params=RiseParams(
            masks, sampling="bernoulli", grid=params.grid, baseline=BLACK, agreement=2))  # fmt: skip
        errors.append(float(found.stderr.mean()))
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    np.testing.assert_allclose(ratios, 2.0, rtol=0.15)


def test_error_bars_cover_the_spread_between_seeds():
    maps, errors = [], []
    for seed in range(12):
        session, targets = two_objects(seed, batch=64)
        _, found = explain_objects(session, "rise", targets, params=RiseParams(
            256, sampling="bernoulli", grid=4, baseline=BLACK, agreement=2))  # fmt: skip
        maps.append(found.values)
        errors.append(found.stderr)
    spread, stated = np.std(maps, axis=0, ddof=1), np.sqrt(np.mean(np.square(errors), axis=0))
    # Stated errors are upper bounds between cells' centres.
    assert 0.6 < np.median(spread / stated) <= 1.05


def test_closed_forms_of_a_true_and_of_a_false_detection_and_of_a_missed_object():
    """A detection is moved by its own cell; what hides an object is found by asking about a box that is not there."""
    image = torch.zeros(1, 32, 32)
    image[0, 2:6, 2:6], image[0, 18:22, 18:22] = 0.8, 0.6
    image[0, 10:14, 10:14] = 0.95  # glare that ...
    session = DetectionSession(Shy(), image, dataset_mean=torch.zeros(1, 1, 1))
    reference = np.array([[2, 2, 6, 6, 0], [25, 1, 31, 7, 0]], dtype=float)  # ... hides the second object
    asked = [*parse_objects(["tp", "fp", "fn"], ObjectScene(session, reference))]
    assert [each.object.role for each in asked] == ["true positive", "false positive", "false negative"]
    assert [session.score(each) for each in asked] == pytest.approx([0.8, 0.6, 0.0])
    cells = (np.arange(32) // 8)[:, None] * 4 + np.arange(32) // 8
    _, found = explain_objects(session, "occlusion", asked, params=OcclusionParams(4, BLACK))
    np.testing.assert_allclose(found.values[0], np.where(cells == 0, 0.8, 0), atol=1e-6)
    np.testing.assert_allclose(found.values[1], np.where(cells == 10, 0.6, 0), atol=1e-6)
    # Hiding the glare makes the missed object appear: the map is negative there and nowhere else.
    np.testing.assert_allclose(found.values[2], np.where(cells == 5, -0.5, 0), atol=1e-6)
    _, shap = explain_objects(session, "kernelshap", asked, params=KernelShapParams(
        4096, "given", Segments.of(cells), baseline=BLACK, agreement=2))  # fmt: skip
    np.testing.assert_allclose(shap.values[0], np.where(cells == 0, 0.8, 0), atol=1e-5)
    np.testing.assert_allclose(shap.values[2], np.where(cells == 5, -0.5, 0), atol=1e-5)
    assert np.abs(shap.completeness).max() < 1e-6


class Shy(BrightBlobs):
    """Bright blobs up to 0.9; a box in the corner too, unless something brighter is in the image."""

    def _detect(self, image):
        found = super()._detect(np.where(image > 0.9, 0, image))
        if (image > 0.9).any():
            return Boxes(found.xyxy, found.scores, found.labels, found.class_scores)
        more = Boxes(torch.tensor([[25.0, 1, 31, 7]]), torch.tensor([0.5]), torch.tensor([0]), torch.tensor([[0.5]]))
        parts = ("xyxy", "scores", "labels", "class_scores")
        return Boxes(*(torch.cat([getattr(found, part), getattr(more, part)]) for part in parts))


MEMORY = """
import json, sys
import torch
from xaiseg.explainers.base import Budget
from xaiseg.explainers.detection_targets import DetectedObject, ObjectTarget
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.masks import Design
from xaiseg.subject import Boxes, Detector, SubjectInfo

class Stub(Detector):
    info = SubjectInfo("stub", ("seal",), 3, offers=frozenset({"scores"}))

    def predict(self, images, *, batch_size=8):
        score = torch.stack(list(images))[:, :, ::16, ::16].mean(dim=(1, 2, 3))
        box, label = torch.tensor([[100.0, 100.0, 200.0, 180.0]]), torch.zeros(1, dtype=torch.int64)
        return [Boxes(box, each[None], label) for each in score]

def peak():
    # Not getrusage: its peak is inherited from the process that started this one.
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024

torch.set_num_threads(1)
image = torch.rand(3, 800, 1066)
session = DetectionSession(Stub(), image, budget=Budget(8))
thing = DetectedObject(session.detections.xyxy[0], torch.ones(1), 0, "seal 0", (800, 1066), "stub")
bare = peak()
bank = session.bank(Design("bernoulli", 16, 0.5, 4), "mean")
bank.responses([ObjectTarget(thing)], int(sys.argv[1]))
print(json.dumps([bare, peak()]))
"""


@pytest.mark.subprocess
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of one process is read from Linux's /proc")
def test_masks_at_800_by_1066_take_less_than_a_gigabyte_beyond_a_bare_forward():
    done = subprocess.run([sys.executable, "-c", MEMORY, "240"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bare, peak = json.loads(done.stdout)
    # One mask of three channels takes 10.2 MB as pixels, so that 240 would take 2.4 GB.
    assert peak - bare < 1e9


def test_each_object_keeps_its_own_level_and_the_order_of_the_targets():
    session = DetectionSession(subject(Pyramid()), grey())
    asked = [target_at(session, index) for index in (64 + 9, 20, 64 + 2)]
    objects = [ObjectTarget(each.object) for each in asked]
    readout, found = explain_objects(session, "hirescam", objects)
    assert [each.name for each in readout] == ["thing 73", "thing 20", "thing 66"]
    for index, layer in enumerate(("coarse.1", "fine.1", "coarse.1")):
        alone = DetectionSession(subject(Pyramid()), grey())
        _, one = explain_objects(
            alone, "hirescam", [objects[index]], params=get_explainer("hirescam").params(layer=layer)
        )
        np.testing.assert_allclose(found.values[index], one.values[0], atol=1e-7)
    assert [note.split(":")[0] for note in found.notes] == ["layer coarse.1 (4 x 4)", "layer fine.1 (8 x 8)"]
    assert found.cost.backwards == 2 + 3  # two levels to find, three maps
    _, common = explain_objects(session, "gradcam", objects, params=CamParams(layer="fine.1"))
    assert common.notes[0] == "layer fine.1, as asked for"


def test_gradients_of_the_compact_detector_are_those_of_a_difference_quotient():
    session = DetectionSession(compact(), grey(3))
    held = parse_objects("box 0", ObjectScene(session))
    for question in ("box", "is", "what", "left", "bottom"):
        target = ObjectTarget(held[0].object, question)
        (raw,), found = explain_objects(session, "saliency", [target])
        # All pixels move along the sign of the map, so that the change is far above the rounding of a coordinate.
        direction, step = torch.from_numpy(np.sign(found.values)), 1e-4
        ends = session.scores([session.image + step * direction, session.image - step * direction], [raw])[:, 0]
        change = float(ends[0] - ends[1]) / (2 * step)
        assert change == pytest.approx(float(np.abs(found.values).sum()), rel=0.05), question


def test_integrated_gradients_of_a_candidate_sum_to_the_change_of_its_logit():
    session = DetectionSession(compact(), grey(3))
    held = parse_objects(["box 0", "8,8,30,24,bird"], ObjectScene(session))
    params = IntegratedGradientsParams(steps=64, max_steps=256, tolerance=0.02)
    asked, found = explain_objects(session, "integrated-gradients", held, params=params)
    ends = session.scores([session.image, session.baseline("mean")], asked)
    np.testing.assert_allclose(found.values.sum(axis=(1, 2)), ends[0] - ends[1], rtol=0.05, atol=0.02)
    assert [each.unit for each in asked] == ["logit", "logit"]
    # The logit of the candidate behind a detection is that of the detection's score.
    assert 1 / (1 + math.exp(-ends[0, 0])) == pytest.approx(held[0].object.score, abs=1e-5)


@pytest.mark.parametrize("method", ["scorecam", "ablationcam", "eigencam", "layercam", "gradcam++", "smoothgrad"])
def test_white_box_methods_run_on_the_raw_answer(method):
    session = DetectionSession(compact(), grey(3))
    _, found = explain_objects(session, method, parse_objects("box 0", ObjectScene(session)))
    assert found.values.shape == (1, 64, 64)
    assert found.values.any()


def test_a_black_box_says_what_is_missing_and_what_runs():
    session, targets = two_objects()
    with pytest.raises(SubjectError, match=r"odam needs activations and forward and gradients.*These run: .*occlusion"):
        explain_objects(session, "odam", targets)
    assert readings(session, get_explainer("occlusion"), targets) == targets


class Sealed(Blobs):
    """Claims gradients, but shows no candidates."""

    def __init__(self):
        super().__init__()
        offers = frozenset({"scores", "forward", "gradients", "activations"})
        self.info = SubjectInfo("sealed", ("seal", "bird"), 1, offers=offers)


def test_gradients_without_candidates_are_refused_by_name():
    session = DetectionSession(Sealed(), two_objects()[0].image)
    with pytest.raises(UsageError, match="shows no candidates before suppression"):
        explain_objects(session, "saliency", parse_objects("all", ObjectScene(session)))


def test_questions_go_to_the_methods_that_can_answer_them():
    session = DetectionSession(compact(), grey(3))
    held = parse_objects([{"where": 0}, {"left": 0}], ObjectScene(session))
    with pytest.raises(UsageError, match="no gradient at the image itself"):
        readings(session, get_explainer("odam"), held[:1])
    with pytest.raises(UsageError, match="number of the raw answer"):
        readings(session, get_explainer("rise"), held[1:])
    assert readings(session, get_explainer("rise"), held[:1]) == (held[0],)
    assert readings(session, get_explainer("odam"), held[1:])[0].unit == "pixel"


def test_an_instance_mask_is_explained_by_its_own_overlap():
    image = torch.zeros(1, 32, 32)
    image[0, 8:16, 8:16] = 0.8
    session = DetectionSession(BrightBlobs(), image, dataset_mean=torch.zeros(1, 1, 1))
    asked = parse_objects([{"mask": 0}, {"box": 0}], ObjectScene(session))
    _, found = explain_objects(session, "occlusion", asked, params=OcclusionParams(8, BLACK))
    # Without its lower right quarter the mask keeps 3/4 of its pixels, while the box stays as it is.
    assert found.values[0][14, 14] == pytest.approx(0.25 * 0.8)
    assert found.values[1][14, 14] == pytest.approx(0.0, abs=1e-6)
    own = parse_objects({"mask": "1,1,5,5"}, ObjectScene(session))
    with pytest.raises(UsageError, match="no instance mask"):
        explain_objects(session, "occlusion", own)


def test_objects_smaller_than_a_cell_get_a_word():
    session, targets = two_objects()
    _, found = explain_objects(session, "occlusion", targets, params=OcclusionParams(2, BLACK))
    assert sum("smaller than a cell (24 x 20 px)" in note for note in found.notes) == 2
    _, finer = explain_objects(session, "occlusion", targets, params=OcclusionParams(8, BLACK))
    assert not any("smaller" in note for note in finer.notes)
