import json
import os
import sys
import types
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tests.conftest import REPOSITORY
from tests.toy_detectors import fcos, mask_rcnn, retinanet, spread
from xaiseg import zoo
from xaiseg.detector_layouts import cell_count
from xaiseg.detector_sources import boxes_of, detecting_function
from xaiseg.detectors import MOST
from xaiseg.errors import SubjectError, UsageError
from xaiseg.loading import load_subject, source_sentence, weights_path
from xaiseg.modelfile import parse_model

MODELS = REPOSITORY.parent / "shared" / "models"


def model(folder, source, *, trust=False, classes="[a, b]", spec="{channels: 3}", output="{}", task="detection"):
    text = (
        f"name: m\ntask: {task}\nclasses: {classes}\nsource: {source}\ninput: {spec}\n"
        f"output: {output}\ntrust: {str(trust).lower()}\n"
    )
    return parse_model(text, path=folder / "model.yaml")


def toy(folder, name, **more):
    return load_subject(model(folder, f'{{torch: "tests.toy_detectors:{name}"}}', trust=True, **more))


def picture(height=60, width=90, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def bright_picture():
    image = torch.zeros(3, 40, 60)
    image[0, 4:14, 6:26] = 0.9
    image[1, 20:30, 30:50] = 0.8
    return image


def same_boxes(found, own, *, offset, floor):
    """Ours against what the library itself answers, in the order of the scores."""
    sides = own["boxes"][:, 2:] - own["boxes"][:, :2]
    keep = (own["scores"] > floor) & (own["labels"] >= offset) & (sides > 0).all(dim=1)  # no background, some area
    order = own["scores"][keep].argsort(descending=True, stable=True)[:MOST]
    torch.testing.assert_close(found.scores, own["scores"][keep][order], atol=1e-5, rtol=1e-4)
    # Scores that are equal but for rounding may stand in either order, so that each box finds its twin by itself.
    far = (found.xyxy[:, None] - own["boxes"][keep][order][None]).abs().amax(dim=2)
    far = far + 1e3 * (found.labels[:, None] != own["labels"][keep][order][None] - offset)
    assert float(far.amin(dim=0).max()) < 1e-2
    assert float(far.amin(dim=1).max()) < 1e-2
    return keep, order


def answer_of(network, image, floor):
    """What torchvision's model says, with its limits on the number of candidates out of the way."""
    network.score_thresh, network.detections_per_img, network.topk_candidates = floor, 10_000, 10_000
    with torch.no_grad():
        return network([image])[0]


@pytest.mark.parametrize(("name", "build", "floor"), [("retinanet", retinanet, 0.5), ("fcos", fcos, 0.35)])
@pytest.mark.parametrize("size", [(60, 90), (97, 51)])
def test_one_stage_models_answer_as_torchvision_does(tmp_path, name, build, floor, size):
    subject = toy(tmp_path, name, output=f"{{score_floor: {floor}, threshold: {{value: 0.6}}}}")
    image = picture(*size)
    found = subject.predict([image])[0]
    assert len(found.scores) > 10
    same_boxes(found, answer_of(build(), image, floor), offset=1, floor=floor)
    assert {"raw_boxes", "gradients", "activations"} <= subject.info.offers


def test_a_sigmoid_head_may_lack_the_background(tmp_path):
    output = "{score_floor: 0.5}"
    subject = toy(tmp_path, "retinanet", classes="[a, b, c]", output=output)
    found = subject.predict([picture()])[0]
    assert set(found.labels.tolist()) == {0, 1, 2}
    same_boxes(found, answer_of(retinanet(), picture(), 0.5), offset=0, floor=0.5)


def test_a_head_of_other_classes_is_refused(tmp_path):
    """The last two of its scores would be taken for the two classes."""
    with pytest.raises((UsageError, SubjectError), match="another number of classes"):
        toy(tmp_path, "retinanet", classes="[a]").predict([picture()])


def test_candidates_of_a_one_stage_model(tmp_path):
    subject, image = toy(tmp_path, "retinanet", output="{score_floor: 0.3}"), picture()
    found = subject.predict([image])[0]
    batch = image[None].clone().requires_grad_()
    raw = subject.raw(batch)
    assert raw.level.unique().tolist() == [0, 1]
    index = int(found.candidates[0])
    torch.testing.assert_close(raw.scores[0, index], found.class_scores[0], atol=1e-5, rtol=1e-4)
    raw.scores[0, index, int(found.labels[0])].backward()
    assert float(batch.grad.abs().sum()) > 0


def test_mask_rcnn_answers_as_torchvision_does_with_masks(tmp_path):
    subject = toy(tmp_path, "mask_rcnn", output="{score_floor: 0.34}")
    assert subject.info.offers == {"scores", "weights", "instance_masks"}
    network, image = mask_rcnn(), picture()
    network.roi_heads.score_thresh = 0.34
    with torch.no_grad():
        own = network([image])[0]
    found = subject.predict([image])[0]
    assert len(found.scores) > 3
    keep, order = same_boxes(found, own, offset=1, floor=0.34)
    assert torch.equal(found.masks, own["masks"][keep][order][:, 0] >= 0.5)
    with pytest.raises(SubjectError, match="no candidates"):
        subject.raw(image[None])


def test_two_stage_models_take_size_and_overlap_from_the_file(tmp_path):
    file = model(tmp_path, '{torch: "tests.toy_detectors:mask_rcnn"}', trust=True, output="{iou: 0.11}",
                 spec="{channels: 3, size: [64, 64]}")  # fmt: skip
    subject = load_subject(file)
    network = subject.module.network
    assert network.transform.min_size == (64,)
    assert network.transform.max_size == 64
    assert network.roi_heads.nms_thresh == 0.11
    assert network.roi_heads.score_thresh == 0.001
    images = [picture(), picture(30, 30, 1)]
    for found, image in zip(subject.predict(images), images, strict=True):
        alone = subject.predict([image])[0]
        torch.testing.assert_close(found.xyxy, alone.xyxy, atol=1e-3, rtol=1e-4)
        assert float(found.xyxy.max()) <= max(image.shape[1:])


def test_a_copy_of_a_two_stage_subject_has_weights_of_its_own(tmp_path):
    import copy

    subject = toy(tmp_path, "mask_rcnn", output="{score_floor: 0.3}")
    twin = copy.deepcopy(subject)
    with torch.no_grad():
        for parameter in twin.module.parameters():
            parameter.zero_()
    before = subject.predict([picture()])[0]
    assert len(twin.predict([picture()])[0].scores) != len(before.scores)
    assert torch.equal(subject.predict([picture()])[0].scores, before.scores)


def save(network, path):
    torch.save(network.state_dict(), path)
    return path


def test_a_model_of_torchvision_by_name(tmp_path):
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(0)
    network = spread(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3))
    save(network, tmp_path / "w.pth")
    source = "{torchvision: ssdlite320_mobilenet_v3_large, weights: w.pth}"
    file = model(tmp_path, source, output="{score_floor: 0.9, threshold: {value: 0.95}}")
    subject = load_subject(file)
    image = picture(50, 80)
    found = subject.predict([image])[0]
    assert len(found.scores) > 3
    same_boxes(found, answer_of(network, image, 0.9), offset=1, floor=0.9)
    assert "raw_boxes" in subject.info.offers
    assert weights_path(file) == tmp_path / "w.pth"
    assert "executed no code" in source_sentence(file)
    with pytest.raises(UsageError, match="of another shape"):
        load_subject(model(tmp_path, source, classes="[a, b, c]"))
    with pytest.raises(UsageError, match=r"model\.yaml:4.*did you mean 'ssdlite320_mobilenet_v3_large'"):
        load_subject(model(tmp_path, source.replace("ssdlite320", "ssdlite32")))
    with pytest.raises(UsageError, match=r"model\.yaml:5: detectors of torchvision normalise by themselves.*-2 to 2"):
        load_subject(model(tmp_path, source, spec="{channels: 3, mean: 0.5, std: 0.25}"))
    load_subject(model(tmp_path, source, spec="{channels: 3, range: [0, 255], std: 255}"))
    with pytest.raises(UsageError, match="take 3 channels"):
        load_subject(model(tmp_path, source, spec="{channels: 1}"))


def test_a_segmentation_model_of_torchvision_is_no_detector(tmp_path):
    save(nn.Conv2d(1, 1, 1), tmp_path / "w.pth")
    with pytest.raises(UsageError, match="no such detection model"):
        load_subject(model(tmp_path, "{torchvision: fcn_resnet50, weights: w.pth}"))


def test_a_builder_may_return_the_protocol_or_the_convention(tmp_path):
    cells = toy(tmp_path, "Cells", classes="[a, b, c]", output="{score_floor: 0.5}")
    assert "raw_boxes" in cells.info.offers
    listed = toy(tmp_path, "Listed", classes="[a, b, c]", output="{layout: torchvision}")
    found = listed.predict([bright_picture()])[0]
    assert found.xyxy.tolist() == [[6, 4, 26, 14], [30, 20, 50, 30]]
    assert found.labels.tolist() == [0, 1]
    assert found.masks.sum(dim=(1, 2)).tolist() == [200, 200]
    with pytest.raises(UsageError, match=r"model\.yaml:6: m: the model cannot process"):
        toy(tmp_path, "Listed", classes="[a, b, c]")
    with pytest.raises(UsageError, match=r"model\.yaml:6: output\.layout: the output is not that of a detector"):
        load_subject(model(tmp_path, '{torch: "tests.toys:TinyNet"}', trust=True, spec="{channels: 1}"))


def test_weights_of_a_builder_are_fitted(tmp_path):
    network = retinanet()
    with torch.no_grad():
        network.head.classification_head.cls_logits.bias.fill_(-99)
    save(network, tmp_path / "w.pth")
    source = '{torch: "tests.toy_detectors:retinanet", weights: w.pth}'
    subject = load_subject(model(tmp_path, source, trust=True, output="{score_floor: 0.3}"))
    assert len(subject.predict([picture()])[0].scores) == 0


def test_a_function_returns_boxes(tmp_path):
    source = '{python: "tests.toy_detectors:detect"}'
    subject = load_subject(model(tmp_path, source, trust=True, classes="[a, b, c]"))
    assert subject.info.offers == {"scores", "instance_masks"}
    found, nothing = subject.predict([bright_picture(), torch.zeros(3, 9, 9)])
    assert found.labels.tolist() == [0, 1]
    assert found.xyxy[1].tolist() == [30, 20, 50, 30]
    assert len(nothing.scores) == 0
    with pytest.raises(UsageError, match="the function tests.toy_detectors:detect would execute code"):
        load_subject(model(tmp_path, source))


def test_a_function_may_return_rows_boxes_or_mappings():
    rows = np.array([[1.0, 2, 3, 4, 0.5, 1]])
    mapping = {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": np.array([1]), "class_scores": np.ones((1, 2))}
    for item in (rows, rows.tolist(), mapping, boxes_of(rows, first_label=0)):
        found = boxes_of(item, first_label=0)
        assert found.xyxy.tolist() == [[1, 2, 3, 4]]
        assert (found.labels.tolist(), found.scores.tolist()) == ([1], [0.5])
    assert boxes_of(mapping, first_label=0).class_scores.shape == (1, 2)
    assert boxes_of({"boxes": [], "scores": [], "labels": []}, first_label=1).xyxy.shape == (0, 4)
    assert len(boxes_of(np.zeros((0, 6)), first_label=0).scores) == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda b: None, "one item an image.*NoneType"),
        (lambda b: [[]] * 3, "one item an image.*list of 3.*a list of 1"),
        (lambda b: [np.zeros((2, 5))], r"no detections.*\(2, 5\)"),
        (lambda b: [{"boxes": np.zeros((1, 4)), "labels": [0]}], "without scores.*boxes, labels"),
        (lambda b: [{"boxes": np.zeros((2, 4)), "scores": [0.5], "labels": [0]}], "no detections"),
        (lambda b: [object()], "no detections.*object"),
        (
            lambda b: [{"boxes": np.zeros((1, 4)), "scores": [0.5], "labels": ["seal"]}],
            r"the labels of these detections are no numbers. Got: \['seal'\]. Allowed: the index of a class",
        ),
    ],
)
def test_what_a_function_must_not_return(answer, words):
    with pytest.raises(SubjectError, match=words):
        detecting_function(answer).call(torch.zeros(1, 3, 8, 8))


def export(network, path, size=(64, 64), opset=17):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (torch.zeros(1, 3, *size),), str(path), dynamo=False, opset_version=opset)
    return path


class Yolo8(nn.Module):
    """An answer of YOLOv8's layout that depends on the image: its cells' means, and boxes of 12 pixels around them."""

    def forward(self, batch):
        levels = [nn.functional.avg_pool2d(batch[:, :2], stride) for stride in (8, 16, 32)]
        scores = torch.cat([level.flatten(2) for level in levels], dim=2)
        places = [
            torch.stack(torch.meshgrid(*[torch.arange(0, 64, s) + s / 2] * 2, indexing="xy")).flatten(1)
            for s in (8, 16, 32)
        ]
        centre = torch.cat(places, dim=1).expand(len(batch), -1, -1)
        return torch.cat((centre, torch.full_like(centre, 12.0), scores), dim=1)


def test_onnx_answers_as_its_module_does(tmp_path):
    export(Yolo8(), tmp_path / "m.onnx")
    subject = load_subject(model(tmp_path, "{onnx: m.onnx}", output="{score_floor: 0.3}"))
    assert subject.info.offers == {"scores", "raw_boxes"}
    image = bright_picture()
    found = subject.predict([image, image])
    assert torch.equal(found[0].xyxy, found[1].xyxy)
    assert set(found[0].labels.tolist()) == {0, 1}
    from xaiseg.adapters import module_network
    from xaiseg.detectors import NetworkDetector
    from xaiseg.modelfile import InputSpec, OutputSpec

    white = NetworkDetector(module_network(Yolo8()), name="m", classes=("a", "b"), output=OutputSpec(score_floor=0.3),
                            spec=InputSpec(channels=3, size=(64, 64)))  # fmt: skip
    torch.testing.assert_close(white.predict([image])[0].xyxy, found[0].xyxy)
    assert "gradients" in white.info.offers


class Flat(nn.Module):
    """Rows (N, 6) of the only image."""

    def forward(self, batch):
        row = torch.cat((batch.new_tensor([4.0, 4, 20, 20]), batch.amax().reshape(1), batch.new_tensor([1.0])))
        return torch.stack((row, torch.zeros_like(row)))


def test_onnx_of_rows_without_an_image_is_asked_one_image_at_a_time(tmp_path):
    path = tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Flat(), (torch.zeros(1, 3, 32, 32),), str(path), dynamo=False, input_names=["x"],
                          dynamic_axes={"x": {0: "batch"}})  # fmt: skip
    subject = load_subject(model(tmp_path, "{onnx: m.onnx}", spec="{channels: 3, size: [32, 32]}"))
    found = subject.predict([torch.full((3, 32, 32), value) for value in (0.25, 0.75)])
    assert [one.scores.tolist() for one in found] == [[0.25], [0.75]]
    assert found[0].xyxy.tolist() == [[4, 4, 20, 20]]


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)), "classifier"),
        (nn.Conv2d(3, 2, 1), "segmentation model"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 6)), "no detection"),
    ],
)
def test_onnx_that_is_no_detector_is_one_clear_error(tmp_path, network, words):
    torch.manual_seed(0)
    export(network, tmp_path / "m.onnx")
    with pytest.raises(UsageError, match=rf"model\.yaml:6: output\.layout: .*{words}"):
        load_subject(model(tmp_path, "{onnx: m.onnx}"))


def test_what_gives_no_detector_and_what_gives_nothing_else(tmp_path):
    with pytest.raises(UsageError, match=r"model\.yaml:4: a source of kind smp gives no detection.*segmentation"):
        load_subject(model(tmp_path, "{smp: {arch: Unet, encoder: resnet18}, weights: w.pth}"))
    with pytest.raises(UsageError, match="kind ultralytics gives no segmentation model"):
        load_subject(model(tmp_path, "{ultralytics: m.pt}", trust=True, task="segmentation"))


def test_a_file_of_detections_is_a_subject_without_a_model(tmp_path):
    found = {"file": "x.jpg", "detections": [{"category": "1", "conf": 0.8, "bbox": [0.25, 0.5, 0.5, 0.25]}]}
    text = json.dumps({"images": [found], "detection_categories": {"1": "a"}})
    (tmp_path / "found.json").write_text(text, encoding="utf-8")
    file = model(tmp_path, "{predictions: found.json}", classes="[a]", output="{threshold: {value: 0.3}}")
    subject = load_subject(file)
    assert subject.predict_cases(["x"], [(100, 200)])[0].xyxy.tolist() == [[50, 50, 150, 75]]
    assert subject.info.threshold.value == 0.3
    assert weights_path(file) == tmp_path / "found.json"
    assert "executed no code" in source_sentence(file)
    with pytest.raises(UsageError, match=r"model\.yaml:4.*no such file"):
        load_subject(model(tmp_path, "{predictions: none.json}"))


def test_a_detector_of_the_zoo(tmp_path):
    torch.manual_seed(0)
    network = zoo.build("detector-compact", 3, 2)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    source = "{zoo: detector-compact, weights: w.safetensors}"
    subject = load_subject(model(tmp_path, source, output="{score_floor: 0.005}"))
    assert {"raw_boxes", "gradients", "activations", "weights"} <= subject.info.offers
    image = picture(50, 70)
    found = subject.predict([image])[0]
    raw = subject.raw(image[None])
    assert len(found.scores) > 0
    torch.testing.assert_close(raw.scores[0, found.candidates], found.class_scores)
    save_file(zoo.build("unet-compact", 3, 2).state_dict(), tmp_path / "u.safetensors")
    with pytest.raises(UsageError, match="the output is not that of a detector"):
        load_subject(model(tmp_path, "{zoo: unet-compact, weights: u.safetensors}"))


class FakeHead(nn.Module):
    """What a module of ultralytics answers: the boxes first, then what training needs."""

    def __init__(self, coefficients):
        super().__init__()
        self.coefficients = coefficients
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, batch):
        count = cell_count(batch.shape[-2:], (8, 16, 32))
        answer = torch.full((len(batch), 4 + 2 + self.coefficients, count), 0.1)
        answer[:, :2] = 30.0
        answer[:, 2:4] = 20.0
        answer[:, 4, 5] = 0.9
        feats = [torch.zeros(len(batch), 66, 8, 8)]
        if not self.coefficients:
            return answer, {"boxes": answer[:, :4], "feats": feats}
        answer[:, 6] = 1.0
        return (answer, torch.ones(len(batch), self.coefficients, 16, 16)), {"feats": feats}


@pytest.fixture
def fake_ultralytics(monkeypatch):
    """A module with the documented face of ultralytics, and a record of how it was used."""
    seen = types.SimpleNamespace(task="detect", coefficients=0, names={1: "b", 0: "a"}, calls=[], fails=False)

    class YOLO:
        def __init__(self, path, *, verbose):
            if seen.fails:
                raise RuntimeError("unknown layer\nmore")
            wanted = ("YOLO_CONFIG_DIR", "YOLO_AUTOINSTALL", "YOLO_OFFLINE")
            seen.calls.append((path, {name: os.environ.get(name) for name in wanted}))
            self.task, self.names, self.model = seen.task, seen.names, FakeHead(seen.coefficients).half()

    module = types.ModuleType("ultralytics")
    module.YOLO = YOLO
    monkeypatch.setitem(sys.modules, "ultralytics", module)
    return seen


@pytest.mark.parametrize("trust", [False, True])
def test_a_program_of_torchscript_is_no_pickle_of_ultralytics(tmp_path, trust):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Conv2d(3, 2, 1), torch.zeros(1, 3, 8, 8)), str(tmp_path / "ts.pt"))
    words = r"model\.yaml:\d+: this file is a TorchScript program.*Write source: \{torchscript: ts.pt\}"
    with pytest.raises(UsageError, match=words):
        load_subject(model(tmp_path, "{ultralytics: ts.pt}", trust=trust))


def ultralytics(folder, **more):
    (folder / "best.pt").write_bytes(b"a pickle")
    return model(folder, "{ultralytics: best.pt}", **{"trust": True, **more})


def test_a_model_of_ultralytics(tmp_path, fake_ultralytics, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", "the user's")
    file = ultralytics(tmp_path, spec="{channels: 3, size: [64, 64], resize: letterbox}", output="{score_floor: 0.2}")
    subject = load_subject(file)
    found = subject.predict([picture(128, 128)])[0]
    assert found.xyxy.tolist() == [[40, 40, 80, 80]]
    assert found.scores.dtype == torch.float32
    assert "raw_boxes" in subject.info.offers
    ((path, environment),) = fake_ultralytics.calls
    assert path == str(tmp_path / "best.pt")
    assert environment["YOLO_AUTOINSTALL"] == "false"
    assert environment["YOLO_OFFLINE"] == "true"
    assert environment["YOLO_CONFIG_DIR"] != "the user's"
    assert os.environ["YOLO_CONFIG_DIR"] == "the user's"
    assert "YOLO_OFFLINE" not in os.environ
    assert "the pickle best.pt" in source_sentence(file)
    assert weights_path(file) == tmp_path / "best.pt"


def test_a_segmenting_model_of_ultralytics_has_masks(tmp_path, fake_ultralytics):
    fake_ultralytics.task, fake_ultralytics.coefficients = "segment", 4
    subject = load_subject(ultralytics(tmp_path, spec="{channels: 3, size: [64, 64]}", output="{score_floor: 0.2}"))
    found = subject.predict([picture(64, 64)])[0]
    assert "instance_masks" in subject.info.offers
    expected = torch.zeros(1, 64, 64, dtype=torch.bool)
    expected[0, 20:40, 20:40] = True
    assert torch.equal(found.masks, expected)


def test_ultralytics_pads_with_its_grey_unless_the_file_says_otherwise(tmp_path, fake_ultralytics):
    for extra, grey in (("", 114 / 255), (", pad_value: 0.25", 0.25)):
        spec = f"{{channels: 3, size: [64, 64], resize: letterbox{extra}}}"
        subject = load_subject(ultralytics(tmp_path, spec=spec))
        placed = subject.to_network_grid(torch.zeros(1, 3, 64, 32))
        assert float(placed[0, 0, 0, 0]) == pytest.approx(grey)


def test_what_is_wrong_with_a_file_of_ultralytics_is_said(tmp_path, fake_ultralytics, monkeypatch):
    with pytest.raises(UsageError, match=r"model\.yaml:3: the model has other classes.*Got: x, y.*Allowed: a, b"):
        load_subject(ultralytics(tmp_path, classes="[x, y]"))
    with pytest.raises(UsageError, match="the pickle best.pt would execute code.*trust: true"):
        load_subject(ultralytics(tmp_path, trust=False))
    fake_ultralytics.task = "pose"
    with pytest.raises(UsageError, match="no detector.*pose.*detect, segment"):
        load_subject(ultralytics(tmp_path))
    fake_ultralytics.fails = True
    with pytest.raises(UsageError, match="cannot open the file: unknown layer. Got"):
        load_subject(ultralytics(tmp_path))
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(UsageError, match=r"model\.yaml:4: .*pip install 'xaiseg\[yolo\]'.*AGPL"):
        load_subject(ultralytics(tmp_path))
    with pytest.raises(UsageError, match="no such file"):
        load_subject(model(tmp_path, "{ultralytics: none.pt}", trust=True))


def real_detector(tmp_path, file, spec, output):
    path = MODELS / file
    names = MODELS / "fastestdet" / "coco.names"
    if not path.is_file() or not names.is_file():
        pytest.skip(f"no real detector at {path}")
    classes = [line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip()]
    return load_subject(model(tmp_path, f"{{onnx: {path}}}", classes="[" + ", ".join(classes) + "]", spec=spec,
                              output=output))  # fmt: skip


FASTESTDET = ("fastestdet/FastestDet.onnx", "{channels: 3, channel_order: bgr, resize: stretch}", "{}")
YOLOX = (
    "yolox_nano/yolox_nano.onnx",
    "{channels: 3, range: [0, 255], channel_order: bgr, resize: letterbox, align: corner, pad_value: 114}",
    "{layout: yolox}",
)


@pytest.mark.parametrize(("real", "least", "fits"), [(FASTESTDET, 0.7, 0.7), (YOLOX, 0.9, 0.9)])
def test_real_detectors_find_the_bird(tmp_path, real, least, fits):
    subject = real_detector(tmp_path, *real)
    folder = MODELS / "deeplabv3_voc_tflite"
    if not (folder / "bird_segmentation.bmp").is_file():
        pytest.skip(f"no picture of a bird in {folder}")
    pixels = np.array(Image.open(folder / "bird_segmentation.bmp").convert("RGB"))
    mask = np.array(Image.open(folder / "bird_segmentation_mask.bmp").convert("L"))
    rows, columns = np.nonzero((mask > 0) & (mask < 255))
    truth = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]).float()
    image = torch.from_numpy(pixels).permute(2, 0, 1).float() * (subject.info.value_range[1] / 255)
    crop = image[:, 20:440, 30:500]  # another size and place, the same bird
    from torchvision.ops import box_iou

    for shown, own in ((image, truth), (crop, truth - torch.tensor([30.0, 20, 30, 20]))):
        found = subject.predict([shown])[0]
        assert subject.info.classes[int(found.labels[0])] == "bird"
        assert float(found.scores[0]) > least
        assert float(box_iou(own, found.xyxy[:1])[0, 0]) > fits
        assert float(found.xyxy.min()) >= 0
        assert found.candidates is not None


def test_a_real_raw_head_is_refused_until_its_layout_is_declared(tmp_path):
    with pytest.raises(UsageError, match=r"more than one layout.*\(1, 3549, 85\).*yolox. for a raw head, yolov5"):
        real_detector(tmp_path, YOLOX[0], YOLOX[1], "{}")
