"""A first model.yaml for torchvision's detectors."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import get_model

import xaiseg
from tests.test_initialise_boxes import tiles
from tests.worlds import blob_world
from xaiseg.detector_sources import detection_names
from xaiseg.errors import UsageError
from xaiseg.initialise import initialise
from xaiseg.initialise_torchvision import class_counts
from xaiseg.modelfile import read_model_file

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"


def weights(path, name=SMALL, classes=2):
    torch.manual_seed(0)
    torch.save(get_model(name, weights=None, weights_backbone=None, num_classes=classes).state_dict(), path)
    return f"torchvision:{name}:{path}"


@pytest.mark.parametrize("name", [SMALL, "ssdlite320_mobilenet_v3_large"])
def test_a_draft_can_be_audited_and_marks_its_guesses(tmp_path, name):
    data, out = tiles(tmp_path / "data"), tmp_path / "model.yaml"
    lines = initialise(weights(tmp_path / "w.pth", name), data, out=out)
    assert any(line.startswith("tried 6 images: average precision") for line in lines), lines
    model, text = read_model_file(out), out.read_text(encoding="utf-8")
    assert (model.task, model.classes, model.source.target) == ("detection", ("seal",), name)
    assert (model.input.channels, model.input.range, model.input.size) == (3, (0, 1), None)
    assert (model.input.mean, model.input.std) == (0.0, 1.0)
    for key in ("classes", "channels", "range", "size", "threshold"):
        (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
        assert "# guess:" in line, key
    assert "torchvision's label 0 is the background" in text
    outcome = xaiseg.audit(out, "ecology", out=tmp_path / "run", pdf=False)
    assert any(estimate.metric == "recall" for estimate in outcome.estimates)


@pytest.mark.parametrize("name", detection_names())
def test_the_weights_tell_the_number_of_classes(name):
    with torch.device("meta"):
        state = get_model(name, weights=None, weights_backbone=None, num_classes=5).state_dict()
    counts = class_counts({f"module.{key}": value for key, value in state.items()})
    assert counts == ({4: True, 5: False} if name.startswith(("fcos", "retinanet")) else {4: True})


def test_a_head_of_one_sigmoid_has_no_background(tmp_path):
    with torch.device("meta"):
        state = get_model("fcos_resnet50_fpn", weights=None, weights_backbone=None, num_classes=1).state_dict()
    assert class_counts(state) == {1: False}


def test_ninety_classes_are_the_numbers_of_coco(tmp_path):
    out = tmp_path / "model.yaml"
    initialise(weights(tmp_path / "w.pth", "ssdlite320_mobilenet_v3_large", 91), tiles(tmp_path / "data"), out=out)
    classes = read_model_file(out).classes
    assert (len(classes), classes[0], classes[11], classes[15]) == (90, "person", "unused-12", "bird")
    assert "# labels: {7: 255}" in out.read_text(encoding="utf-8")


def test_what_does_not_fit_is_said(tmp_path):
    data, out = tiles(tmp_path / "data"), tmp_path / "model.yaml"
    with pytest.raises(UsageError, match="no such detection or segmentation model.*did you mean 'fasterrcnn_resnet50"):
        initialise("torchvision:fasterrcnn_resnet50:w.pth", data, out=out)
    other = weights(tmp_path / "w.pth").replace(SMALL, "fasterrcnn_resnet50_fpn")
    with pytest.raises(UsageError, match="do not fit the model.*Are the weights those of the network that is named"):
        initialise(other, data, out=out)
    torch.save({"fc.weight": torch.zeros(10, 4)}, tmp_path / "classifier.pt")
    with pytest.raises(UsageError, match="no head of a detector of torchvision.*Are they those of fasterrcnn"):
        initialise(f"torchvision:{SMALL}:{tmp_path / 'classifier.pt'}", data, out=out)
    torch.save(nn.Conv2d(3, 2, 1), tmp_path / "pickle.pt")
    with pytest.raises(UsageError, match="the pickle .* would execute code.*--trust"):
        initialise(f"torchvision:{SMALL}:{tmp_path / 'pickle.pt'}", data, out=out)
    blob_world(tmp_path / "masks", n=2, empty=0)
    with pytest.raises(UsageError, match="the model detects boxes and the data hold masks"):
        initialise(other, tmp_path / "masks" / "data", out=out)
