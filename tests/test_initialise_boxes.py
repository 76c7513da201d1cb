"""A first model.yaml for detectors: it audits, or one error says what to write."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import xaiseg
from tests.detection_worlds import survey
from tests.worlds import blob_world
from xaiseg.data.coco import read_coco
from xaiseg.data.megadetector import Batch, Found, batch_document
from xaiseg.drafts import Draft
from xaiseg.errors import NothingToAudit, UsageError
from xaiseg.initialise import initialise
from xaiseg.initialise_boxes import readings
from xaiseg.initialise_names import COCO, class_of, mismatch, model_classes
from xaiseg.initialise_tries import clear_choice, labels_met
from xaiseg.modelfile import read_model_file
from xaiseg.subject import Boxes

SIDE = 64


class BrightCells(nn.Module):
    """YOLOv8's layout: one candidate a cell, as large as the cell; brightness is the score, at stride 16 alone.

    Only in the range 0 to 255 do bright cells score high, and only in blue-green-red order class 0 is red.
    """

    def __init__(self, classes=1):
        super().__init__()
        self.classes = classes

    def forward(self, batch):
        rows = []
        for stride in (8, 16, 32):
            mean = nn.functional.avg_pool2d(batch[:, -1:], stride)
            height, width = mean.shape[-2:]
            y = (torch.arange(height).float() + 0.5).reshape(1, 1, -1, 1).expand(1, 1, height, width) * stride
            x = (torch.arange(width).float() + 0.5).reshape(1, 1, 1, -1).expand(1, 1, height, width) * stride
            side = torch.full_like(x, float(stride))
            score = torch.clamp((mean - 128) / 127, 0, 1) * float(stride == 16)
            rows.append(torch.cat((x, y, side, side, *[score] * self.classes), dim=1).flatten(2))
        return torch.cat(rows, dim=2)


def onnx(path, classes=1, names=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(BrightCells(classes).eval(), (torch.zeros(1, 3, SIDE, SIDE),), str(path), dynamo=False,
                          input_names=["images"])  # fmt: skip
    if names is not None:
        import onnx as library

        graph = library.load(str(path))
        graph.metadata_props.append(library.StringStringEntryProto(key="names", value=str(names)))
        library.save(graph, str(path))
    return path


def tiles(folder, *, count=8, name="seal", images="images"):
    """Squares of 16 px on the grid of stride 16, red on dark; as a COCO data set."""
    (folder / images).mkdir(parents=True, exist_ok=True)
    listed, boxes = [], []
    for index in range(count):
        pixels = np.full((SIDE, SIDE, 3), 20, np.uint8)
        if index % 2 == 0:
            x, y = 16 * (index % 3), 16 * (index % 4)
            pixels[y : y + 16, x : x + 16] = (255, 20, 20)
            boxes.append({"id": index + 1, "image_id": index, "category_id": 7, "bbox": [x, y, 16, 16]})
        Image.fromarray(pixels).save(folder / images / f"t{index}.png")
        listed.append(
            {"id": index, "file_name": f"t{index}.png", "width": SIDE, "height": SIDE, "group": f"f{index // 2}"}
        )
    document = {"images": listed, "annotations": boxes, "categories": [{"id": 7, "name": name}]}
    (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_layout_classes_and_colours_of_an_onnx_detector_are_found(tmp_path):
    data, out = tiles(tmp_path / "data"), tmp_path / "model.yaml"
    lines = initialise(str(onnx(tmp_path / "m.onnx")), data, out=out)
    model = read_model_file(out)
    assert (model.task, model.classes, model.output.layout) == ("detection", ("seal",), "yolov8")
    assert (model.input.range, model.input.channel_order, model.input.size) == ((0, 255), "bgr", (SIDE, SIDE))
    assert "# guess:" in out.read_text(encoding="utf-8").split("classes:")[1].splitlines()[0]
    assert any(line.startswith("tried 6 images: average precision 1.00") for line in lines), lines
    with Image.open(out.with_suffix(".png")) as picture:
        assert {(255, 211, 77)} <= {colour for _, colour in picture.convert("RGB").getcolors(10_000)}
    outcome = xaiseg.audit(out, "ecology", out=tmp_path / "run", pdf=False)
    recall = next(e for e in outcome.estimates if e.metric == "recall" and not e.stratum and not e.factor)
    assert recall.value == 1.0


def reason(out, key):
    (line,) = (line for line in out.read_text(encoding="utf-8").splitlines() if line.strip().startswith(f"{key}:"))
    return line.partition("# guess: ")[2]


def test_the_usual_colours_are_left_only_where_the_labels_tell(tmp_path):
    path, out = str(onnx(tmp_path / "m.onnx")), tmp_path / "model.yaml"
    initialise(path, tiles(tmp_path / "many"), out=out)
    assert re.fullmatch(r"a few labels are met clearly better than with rgb \(.* 1.00 against 0.00.*\)",
                        reason(out, "channel_order"))  # fmt: skip
    # One label is met by blue-green-red in 0 to 255 alone, which may be chance.
    initialise(path, tiles(tmp_path / "one", count=2), out=out, force=True)
    model = read_model_file(out)
    assert (model.input.range, model.input.channel_order) == ((0, 1), "rgb")
    assert reason(out, "channel_order") == (
        "usual for the layout yolov8; it cannot be told apart from bgr on a few labels (average precision 0.00 against "
        "1.00, labels met 0 against 1)"
    )
    assert reason(out, "resize") == "usual for the layout yolov8; no other was tried"


def test_grey_images_do_not_tell_the_order_of_the_colours(tmp_path):
    data, out = tiles(tmp_path / "data"), tmp_path / "model.yaml"
    for path in (data / "images").iterdir():
        with Image.open(path) as picture:
            grey = picture.getchannel(0)
        grey.convert("RGB").save(path)
    initialise(str(onnx(tmp_path / "m.onnx")), data, out=out)
    model = read_model_file(out)
    assert (model.input.range, model.input.channel_order) == ((0, 255), "rgb")
    assert "clearly better than with [0, 1]" in reason(out, "range")
    assert "cannot be told apart from bgr" in reason(out, "channel_order")


@pytest.mark.parametrize(
    ("precisions", "met", "expected"),
    [
        ((0.30, 0.34, 0.10), (3, 6, 1), 0),  # too little more
        ((0.30, 0.60, 0.10), (3, 4, 1), 0),  # one label may be chance
        ((0.30, 0.60, 0.10), (3, 5, 1), 1),
        ((0.00, 0.30, 0.32), (0, 4, 8), 1),  # of two that are better the nearer to what is usual
        ((None, 0.30, 0.60), (0, 4, 8), 2),
    ],
)
def test_a_way_wins_by_a_clear_margin_alone(precisions, met, expected):
    ways = [Draft({}, {}, None, None, agreement=one, met=two) for one, two in zip(precisions, met, strict=True)]
    assert ways.index(clear_choice(ways)) == expected


def test_labels_met_counts_the_best_boxes_alone(tmp_path):
    def case(boxes):
        return SimpleNamespace(boxes=np.array([[*box, 0] for box in boxes], float))

    def found(boxes, scores):
        return Boxes(torch.tensor(boxes).float(), torch.tensor(scores), torch.zeros(len(scores), dtype=torch.int64))

    here, there = (0, 0, 10, 10), (30, 30, 40, 40)
    assert labels_met([(case([here, there]), found([here, there], [0.9, 0.8]))]) == 2
    assert labels_met([(case([here]), found([there, here], [0.9, 0.8]))]) == 0
    pairs = [(case([here]), found([there, here], [0.9, 0.8])), (case([here]), found([there], [0.1]))]
    assert labels_met(pairs) == 1


def test_names_in_the_file_are_the_classes_and_another_name_of_the_labels_is_said(tmp_path):
    data, out = tiles(tmp_path / "data", name="seel"), tmp_path / "model.yaml"
    lines = initialise(str(onnx(tmp_path / "m.onnx", 2, {0: "boat", 1: "seal"})), data, out=out)
    assert read_model_file(out).classes == ("boat", "seal")
    assert any("the labels mark 'seel', which is no class of the model (0 boat, 1 seal)" in line for line in lines)
    assert "    # labels: {7: 255}   # 255 is a placeholder that leaves out seel" in out.read_text(encoding="utf-8")
    with pytest.raises(UsageError, match=r"'seel' is no class.*0 boat, 1 seal.*did you mean 'seal'.*labels: \{7: N\}"):
        xaiseg.audit(out, "ecology", out=tmp_path / "run", pdf=False)
    out.write_text(out.read_text(encoding="utf-8").replace("# labels: {7: 255}", "labels: {7: 1}"), encoding="utf-8")
    assert xaiseg.audit(out, "ecology", out=tmp_path / "run", pdf=False).overall.exit_code in (1, 3)


def test_detections_of_megadetector_audit_without_a_model(tmp_path):
    data, out = tiles(tmp_path / "data", name="animal"), tmp_path / "model.yaml"
    document = json.loads((data / "annotations.json").read_text(encoding="utf-8"))
    boxes = {item["image_id"]: item["bbox"] for item in document["annotations"]}
    images = {}
    for image in document["images"]:
        box = boxes.get(image["id"])
        rows = np.array([[box[0], box[1], box[0] + 16, box[1] + 16]]) / SIDE if box else np.zeros((0, 4))
        images[f"images/{image['file_name']}"] = Found(rows, np.full(len(rows), 0.9), np.zeros(len(rows), np.int64))
    images["images/t1.png"] = "cut short"
    held = batch_document(Batch(("animal", "person"), images), detector="md", threshold=0.2)
    (tmp_path / "md.json").write_text(json.dumps(held), encoding="utf-8")
    initialise(str(tmp_path / "md.json"), data, out=out)
    model = read_model_file(out)
    assert (model.source.kind, model.classes, model.output.threshold.value) == (
        "predictions",
        ("animal",),
        0.2,
    )
    text = out.read_text(encoding="utf-8")
    assert "boxes of person are left out" in text
    assert "threshold: {value: 0.2, chosen_on: default}  # guess: the file names it as typical of its detector" in text
    outcome = xaiseg.audit(out, "ecology", out=tmp_path / "run", pdf=False)
    written = json.loads((tmp_path / "run" / "detections.json").read_text(encoding="utf-8"))
    failed = [image for image in written["images"] if "failure" in image]
    assert [(image["file"], image["detections"]) for image in failed] == [("t1.png", None)]
    assert "cut short" in failed[0]["failure"]
    assert any(e.metric == "failed_images" and e.value == pytest.approx(1 / 8) for e in outcome.estimates)


def detections(path, names):
    nothing = Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    held = batch_document(Batch(("animal", "person", "vehicle"), dict.fromkeys(names, nothing)))
    path.write_text(json.dumps(held), encoding="utf-8")
    return str(path)


def test_detections_of_other_images_are_refused(tmp_path):
    data = tiles(tmp_path / "data")
    words = r"md.json: the file names .* differ.*'trap/IMG_1.JPG' among the detections, 't0.png' among the images"
    with pytest.raises(UsageError, match=words) as caught:
        initialise(detections(tmp_path / "md.json", ["trap/IMG_1.JPG"]), data, out=tmp_path / "model.yaml")
    assert "by hand" not in str(caught.value)
    with pytest.raises(UsageError, match="lists no image"):
        initialise(detections(tmp_path / "none.json", []), data, out=tmp_path / "model.yaml")


def test_detections_of_some_of_the_images_are_tried_on_those(tmp_path):
    data, out = tiles(tmp_path / "data", name="animal"), tmp_path / "model.yaml"
    lines = initialise(detections(tmp_path / "md.json", ["t1.png", "t3.png"]), data, out=out)
    assert any("does not know 6 of 8 images; they would be failed images" in line for line in lines), lines
    assert any(line.startswith("look at this: the detector shows nothing") for line in lines)


def test_a_threshold_that_nobody_chose_has_its_own_reason(tmp_path):
    data, out = tiles(tmp_path / "data", name="animal"), tmp_path / "model.yaml"
    initialise(detections(tmp_path / "md.json", [f"t{index}.png" for index in range(8)]), data, out=out)
    (line,) = (line for line in out.read_text(encoding="utf-8").splitlines() if "threshold:" in line)
    assert line.strip() == (
        "threshold: {value: 0.5, chosen_on: default}  # guess: nobody chose 0.5, and 0.2 is usual for MegaDetector v5; "
        "choose it on validation images"
    )


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_labels_may_lie_among_the_images(tmp_path, kind):
    data = tiles(tmp_path / "flat", images=".")
    document = json.loads((data / "annotations.json").read_text(encoding="utf-8"))
    if kind != "coco":
        (data / "annotations.json").unlink()
        for image in document["images"]:
            mine = [item["bbox"] for item in document["annotations"] if item["image_id"] == image["id"]]
            path = (data / image["file_name"]).with_suffix(".txt" if kind == "yolo" else ".xml")
            path.write_text(_yolo(mine) if kind == "yolo" else _voc(mine), encoding="utf-8")
    out = tmp_path / "model.yaml"
    lines = initialise(str(onnx(tmp_path / "m.onnx")), data, out=out)
    assert read_model_file(out).data["test"].reader == kind
    assert any("average precision 1.00" in line for line in lines), lines


def _yolo(boxes):
    return "".join(f"0 {(x + w / 2) / SIDE} {(y + h / 2) / SIDE} {w / SIDE} {h / SIDE}\n" for x, y, w, h in boxes)


def _voc(boxes):
    objects = "".join(
        f"<object><name>seal</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
        "</bndbox></object>"
        for x, y, w, h in boxes
    )
    return f"<annotation>{objects}</annotation>"


def test_the_label_file_itself_may_be_named(tmp_path):
    data = tiles(tmp_path / "data")
    (data / "annotations.json").rename(data / "seals 2026.json")
    initialise(str(onnx(tmp_path / "m.onnx")), data / "seals 2026.json", out=tmp_path / "model.yaml")
    assert read_model_file(tmp_path / "model.yaml").data["test"].annotations == "seals 2026.json"


def test_a_detector_is_not_taken_for_a_segmenter_of_many_classes(tmp_path):
    blob_world(tmp_path, n=4, empty=1)
    with pytest.raises(UsageError, match="the model detects boxes and the data hold masks.*A detector needs boxes"):
        initialise(str(onnx(tmp_path / "m.onnx", 80)), tmp_path / "data", out=tmp_path / "new.yaml")


def test_a_segmenter_is_not_taken_for_a_detector(tmp_path):
    data = tiles(tmp_path / "flat", images=".")
    (data / "annotations.json").unlink()
    for index in range(8):
        (data / f"t{index}.txt").write_text("0 0.5 0.5 0.1 0.1\n", encoding="utf-8")
    network = nn.Conv2d(3, 2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(1, 3, SIDE, SIDE),), str(tmp_path / "s.onnx"), dynamo=False)
    with pytest.raises(UsageError, match=r"the model is no detector that is known here.*shape \(1, 2, 64, 64\)"):
        initialise(str(tmp_path / "s.onnx"), data, out=tmp_path / "model.yaml")


def test_what_is_no_detector_is_said_of_the_model_and_not_of_the_labels(tmp_path):
    data = tiles(tmp_path / "data")
    (tmp_path / "junk.onnx").write_text("hello", encoding="utf-8")
    with pytest.raises(UsageError, match=r"no detector that is known here.*onnxruntime cannot open the file"):
        initialise(str(tmp_path / "junk.onnx"), data, out=tmp_path / "model.yaml")


def test_labels_of_no_listed_category_are_said(tmp_path):
    data = tiles(tmp_path / "data")
    document = json.loads((data / "annotations.json").read_text(encoding="utf-8"))
    for item in document["annotations"]:
        item["category_id"] = str(item["category_id"])
    (data / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UsageError, match="this category is not listed. Got: '"):
        initialise(str(onnx(tmp_path / "m.onnx")), data, out=tmp_path / "model.yaml")
    detections = batch_document(Batch(("animal",), {}), detector="md")
    (data / "annotations.json").write_text(json.dumps(detections), encoding="utf-8")
    with pytest.raises(UsageError, match="predictions and no labels"):
        read_coco(data / "annotations.json")


def test_images_without_labels_and_labels_without_objects_are_said(tmp_path):
    model = str(onnx(tmp_path / "m.onnx"))
    bare = tiles(tmp_path / "bare", images=".")
    (bare / "annotations.json").unlink()
    with pytest.raises(UsageError, match=r"images and no labels.*COCO file"):
        initialise(model, bare, out=tmp_path / "model.yaml")
    empty = tiles(tmp_path / "empty")
    document = json.loads((empty / "annotations.json").read_text(encoding="utf-8")) | {"annotations": []}
    (empty / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UsageError, match="the labels mark no object"):
        initialise(model, empty, out=tmp_path / "model.yaml")
    gone = tiles(tmp_path / "gone")
    for path in (gone / "images").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(NothingToAudit, match=r"no image of the data can be read. Got: .*cannot be"):
        initialise(model, gone, out=tmp_path / "model.yaml")


@pytest.mark.parametrize(
    ("module", "words"),
    [("ultralytics.nn.tasks", "the pickle .* would execute code.*--trust"), ("models.yolo", "MegaDetector 5.*JSON")],
)
def test_a_checkpoint_that_runs_code_is_named_and_not_opened(tmp_path, module, words):
    with zipfile.ZipFile(tmp_path / "best.pt", "w") as archive:
        archive.writestr("best/data.pkl", pickle.dumps({"a": 1}) + f"c{module}\nModel\n".encode())
    with pytest.raises(UsageError, match=words):
        initialise(str(tmp_path / "best.pt"), tiles(tmp_path / "data"), out=tmp_path / "model.yaml")


def test_weights_that_are_no_detector_are_said(tmp_path):
    torch.save({"fc.weight": torch.zeros(10, 4)}, tmp_path / "classifier.pt")
    words = "does not say which network it belongs to.*Give torchvision:NAME:classifier.pt or smp:ARCH:ENCODER:class"
    with pytest.raises(UsageError, match=words):
        initialise(str(tmp_path / "classifier.pt"), tiles(tmp_path / "data"), out=tmp_path / "model.yaml")


def test_a_detector_of_the_zoo(tmp_path):
    folder = survey(tmp_path / "world", flights=4).parent
    lines = initialise("detector-compact", folder / "data", out=tmp_path / "model.yaml")
    model = read_model_file(tmp_path / "model.yaml")
    assert (model.task, model.output.threshold.value, model.output.threshold.chosen_on) == ("detection", 0.4, "val")
    assert any(line.startswith("tried ") for line in lines)
    initialise("detector-compact-seals", folder / "data", out=tmp_path / "seals.yaml")
    assert read_model_file(tmp_path / "seals.yaml").source.weights_file == "detector-compact-seals.safetensors"


def test_shapes_are_read_as_their_makers_mean_them():
    assert readings((1, 85, 22, 22), (352, 352)) == (("fastestdet", 80),)
    assert readings((1, 116, 8400), (640, 640), 32) == (("yolov8", 80),)
    assert readings((1, 300, 6), (640, 640)) == (("end2end", None),)
    assert readings((1, 1000), (224, 224)) == ()
    assert readings((), (64, 64)) == ()


def test_names_come_from_the_file_the_list_beside_it_the_labels_or_coco(tmp_path):
    path = onnx(tmp_path / "m.onnx")
    assert model_classes(path, 80, {1: "seal"})[0] == list(COCO)
    assert model_classes(path, 1, {1: "seal"})[::2] == (["seal"], False)
    assert model_classes(path, 3, {1: "seal"})[0] == ["class-0", "class-1", "class-2"]
    (tmp_path / "sea.names").write_text("seal\nwalrus\nboat\n", encoding="utf-8")
    assert model_classes(path, 3, {1: "seal"})[0] == ["seal", "walrus", "boat"]
    assert model_classes(onnx(tmp_path / "n.onnx", 1, ["otter"]), 1, {1: "seal"})[::2] == (["otter"], True)
    assert len(COCO) == len(set(COCO)) == 80


def test_augmented_copies_are_pointed_out(tmp_path):
    data, out = tiles(tmp_path / "data"), tmp_path / "model.yaml"
    model = str(onnx(tmp_path / "m.onnx"))
    initialise(model, data, out=out)
    assert "augmented" not in out.read_text(encoding="utf-8")
    document = json.loads((data / "annotations.json").read_text(encoding="utf-8"))
    for image in document["images"]:
        image["augmented"] = image["id"] < 3
    (data / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    initialise(model, data, out=out, force=True)
    said = "    where: {augmented: false}  # guess: augmented copies are no evidence of their own"
    assert said in out.read_text(encoding="utf-8")
    for image in document["images"]:
        image["augmented"] = True
    (data / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    initialise(model, data, out=out, force=True)
    assert "    # where: {augmented: false}" in out.read_text(encoding="utf-8"), "nothing would be left"


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("human", COCO, "person"),
        ("People", COCO, "person"),
        ("animal", COCO, None),
        ("goat", COCO, None),
        ("sea lion", ["lion"], None),
        ("harbour_seals", ["boat", "seal"], "seal"),
        ("aeroplane", COCO, "airplane"),
        ("girafe", COCO, "giraffe"),
        ("zebra", ["animal", "person", "vehicle"], "animal"),
        ("truck", ["animal", "person", "vehicle"], "vehicle"),
        ("human", ["animal"], None),
    ],
)
def test_a_name_of_the_labels_finds_the_class_that_it_means(name, classes, expected):
    place = class_of(name, classes)
    assert (None if place is None else classes[place]) == expected


def test_a_number_that_nobody_can_guess_is_a_placeholder():
    _, line = mismatch("coco", {1: "animal", 2: "human"}, COCO)
    assert line == (
        "labels: {1: 255, 2: 0}   # counts human as person; 255 is a placeholder that leaves out animal: no class has "
        "such a name; write the number of one, or keep 255"
    )


def test_voc_has_no_numbers_to_map():
    said, line = mismatch("voc", {0: "seal"}, ["animal"])
    assert "in classes: write the labels' name" in said
    assert line == ""
