"""Explanations of detectors from a model file: picture, maps, manifest, references of boxes, black boxes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.toys import BrightBlobs
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.occlusion import OcclusionParams
from xaiseg.explaining import explain, explain_image

DETECTOR = '''
import torch
from xaiseg.subject import RawBoxes


class Cells(torch.nn.Module):
    """A candidate a cell of 8 x 8 px: the cell, with its mean brightness as its score."""

    def __init__(self):
        super().__init__()
        self.look = torch.nn.AvgPool2d(8)

    def forward(self, x):
        scores = self.look(x)
        rows, columns = scores.shape[-2:]
        y, x0 = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        corner = torch.stack((x0, y), dim=-1).reshape(-1, 2).to(x) * 8
        boxes = torch.cat((corner, corner + 8), dim=1).expand(len(x), -1, -1)
        level = torch.zeros(rows * columns, dtype=torch.int64, device=x.device)
        return RawBoxes(boxes, scores.flatten(2).transpose(1, 2), level)


def build():
    return Cells()


def predict(images):
    found = []
    for image in images:
        y, x = (image[0] > 0.5).nonzero()
        box = [[x.min(), y.min(), x.max() + 1, y.max() + 1]] if len(x) else []
        found.append({"boxes": box, "scores": [0.9] * len(box), "labels": [0] * len(box)})
    return found
'''
MODEL = """name: cells
task: detection
classes: [seal]
source: {source}
trust: true
input: {{channels: 1, range: [0, 1], multiple_of: 8}}
output: {{threshold: {{value: 0.5, chosen_on: default}}, score_floor: 0.01}}
"""


@pytest.fixture
def world(tmp_path):
    """A model, and an image with two detections (at 8,16 and 40,24) and a dark object at 48,40."""
    folder = tmp_path / "world"
    folder.mkdir()
    (folder / "net.py").write_text(DETECTOR, encoding="utf-8")
    (folder / "model.yaml").write_text(MODEL.format(source='{torch: "net.py:build"}'), encoding="utf-8")
    pixels = np.full((48, 64), 10, dtype=np.uint8)
    pixels[16:24, 8:16], pixels[24:32, 40:48], pixels[40:48, 48:56] = 230, 160, 90
    Image.fromarray(pixels).save(folder / "tile.png")
    return folder


def black_box(folder: Path) -> Path:
    path = folder / "black.yaml"
    path.write_text(MODEL.format(source='{python: "net.py:predict"}'), encoding="utf-8")
    return path


def manifest_of(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))


def test_detections_have_their_maps_their_boxes_and_their_names_in_the_manifest(world, tmp_path):
    out = tmp_path / "out"
    methods = ["occlusion", "hirescam", "odam"]
    paths = explain_image(world / "model.yaml", world / "tile.png", methods=methods, target=["all", "48,40,56,48"],
                          out=out)  # fmt: skip
    names = ["seal-0", "seal-1", "seal-in-48-40-56-48"]
    assert [path.name for path in paths[1:-1]] == [f"{method}.{name}.npy" for method in methods for name in names]
    manifest = manifest_of(out)
    assert [each["name"] for each in manifest["targets"]] == names
    first, _, own = manifest["targets"]
    assert (first["box"], first["class"], first["question"]) == ([8, 16, 16, 24], "seal", "box")
    assert first["value"] == pytest.approx(230 / 255)
    assert first["candidate"]["index"] == 2 * 8 + 1
    assert own["origin"] == "a box of the user's own"
    assert own["detection_score"] is None
    units = {each["method"]: each["unit"] for each in manifest["maps"]}
    assert units == {"occlusion": "similarity", "hirescam": "logit per cell of the layer",
                     "odam": "logit per cell of the layer"}  # fmt: skip
    assert "before suppression" in manifest["maps"][-1]["score"]
    assert "IoU x score x cosine" in manifest["maps"][0]["score"]
    with Image.open(out / "explanation.png") as picture:
        assert picture.size[1] > picture.size[0] / 2
        yellow = (np.abs(np.asarray(picture.convert("RGB")).astype(int) - (255, 212, 0)).sum(axis=2) < 30).sum()
    assert yellow > 100


def test_the_map_of_a_detection_lies_on_it(world):
    found = explain(world / "model.yaml", world / "tile.png", method="occlusion", target="40,24",
                    params=OcclusionParams(8))  # fmt: skip
    inside = found.targets[0].mask
    assert found.targets[0].name == "seal 1"
    # Hidden cells are 6 x 8 px: one covers three quarters of the object's rows, the next the last quarter.
    score, hidden = 160 / 255, np.asarray(Image.open(world / "tile.png")).mean() / 255
    expected = np.zeros((48, 64))
    expected[24:30, 40:48], expected[30:36, 40:48] = 0.75 * (score - hidden), 0.25 * (score - hidden)
    np.testing.assert_allclose(found.values[0], expected, atol=1e-3)
    assert inside.sum() == 64
    assert (found.unit(), found.stderr) == ("similarity", None)


def test_questions_without_an_answer_are_listed_or_refused(world, tmp_path):
    model, image = world / "model.yaml", world / "tile.png"
    explain_image(model, image, target="{where: box 0}", out=tmp_path / "a")
    manifest = manifest_of(tmp_path / "a")
    assert [each["method"] for each in manifest["maps"]] == ["occlusion"]
    assert "no gradient at the image itself" in manifest["not_run"]["hirescam"]
    explain_image(model, image, methods=["saliency"], target="{left: box 0}", out=tmp_path / "b")
    (only,) = manifest_of(tmp_path / "b")["maps"]
    assert only["unit"] == "pixel per unit of brightness"
    assert manifest_of(tmp_path / "b")["target"]["value"] is None
    with pytest.raises(UsageError, match="number of the raw answer"):
        explain_image(model, image, methods=["occlusion"], target="{left: box 0}", out=tmp_path)


def test_a_black_box_detector_runs_what_needs_predictions_alone(world, tmp_path):
    model, image = black_box(world), world / "tile.png"
    explain_image(model, image, out=tmp_path)
    manifest = manifest_of(tmp_path)
    assert [each["method"] for each in manifest["maps"]] == ["occlusion"]
    assert "gradients" in manifest["not_run"]["integrated-gradients"]
    assert manifest["target"]["candidate"] is None
    with pytest.raises(SubjectError, match=r"odam needs .*These run: .*kernelshap.*lime.*occlusion.*rise"):
        explain_image(model, image, methods=["odam"], out=tmp_path)


COCO = {
    "images": [{"id": 7, "file_name": "tile.png", "width": 64, "height": 48}],
    "categories": [{"id": 1, "name": "seal"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [8, 16, 8, 8]},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": [48, 40, 8, 8]},
    ],
}
VOC = """<annotation><size><width>64</width><height>48</height></size>
<object><name>seal</name><bndbox><xmin>8</xmin><ymin>16</ymin><xmax>16</xmax><ymax>24</ymax></bndbox></object>
<object><name>seal</name><bndbox><xmin>48</xmin><ymin>40</ymin><xmax>56</xmax><ymax>48</ymax></bndbox></object>
</annotation>"""
YOLO = "0 0.1875 0.416667 0.125 0.166667\n0 0.8125 0.916667 0.125 0.166667\n"


@pytest.mark.parametrize(("name", "text"), [("boxes.json", json.dumps(COCO)), ("tile.xml", VOC), ("tile.txt", YOLO)])
def test_references_of_all_formats_tell_true_false_and_missed_apart(world, tmp_path, name, text):
    (world / name).write_text(text, encoding="utf-8")
    explain_image(world / "model.yaml", world / "tile.png", methods=["occlusion"], target=["tp", "fp", "fn"],
                  reference=world / name, out=tmp_path)  # fmt: skip
    targets = manifest_of(tmp_path)["targets"]
    assert [each["role"] for each in targets] == ["true positive", "false positive", "false negative"]
    boxes = [[8, 16, 16, 24], [40, 24, 48, 32], [48, 40, 56, 48]]
    np.testing.assert_allclose([each["box"] for each in targets], boxes, atol=0.01)


def test_a_kind_that_the_image_does_not_have_is_left_out_beside_others(world, tmp_path):
    one = {**COCO, "annotations": [{**COCO["annotations"][0], "bbox": [8, 16, 8, 8]},
                                   {**COCO["annotations"][0], "id": 77, "bbox": [40, 24, 8, 8]}]}  # fmt: skip
    (world / "both.json").write_text(json.dumps(one), encoding="utf-8")
    said = []
    explain_image(world / "model.yaml", world / "tile.png", methods=["occlusion"], target=["tp", "fp", "fn"],
                  reference=world / "both.json", out=tmp_path / "out", tell=said.append)  # fmt: skip
    manifest = manifest_of(tmp_path / "out")
    assert {each["role"] for each in manifest["targets"]} == {"true positive"}
    assert set(manifest["not_run"]) == {"target fp", "target fn"}
    assert any("this image has no fp" in line for line in said)
    with pytest.raises(UsageError, match="this image has no fp"):
        explain_image(world / "model.yaml", world / "tile.png", methods=["occlusion"], target=["fp", "fn"],
                      reference=world / "both.json", out=tmp_path / "none")  # fmt: skip


@pytest.mark.parametrize(("ending", "text"), [("xml", VOC), ("txt", YOLO)])
def test_the_named_reference_is_read_and_no_other_beside_it(world, tmp_path, ending, text):
    (world / f"mine.{ending}").write_text(text, encoding="utf-8")
    empty = "<annotation></annotation>" if ending == "xml" else ""
    (world / f"tile.{ending}").write_text(empty, encoding="utf-8")
    explain_image(world / "model.yaml", world / "tile.png", methods=["occlusion"], target=["tp", "fn"],
                  reference=world / f"mine.{ending}", out=tmp_path)  # fmt: skip
    assert [each["role"] for each in manifest_of(tmp_path)["targets"]] == ["true positive", "false negative"]


def test_references_may_be_arrays_and_wrong_ones_are_refused(world, tmp_path):
    model, image = world / "model.yaml", world / "tile.png"
    boxes = np.array([[48, 40, 56, 48, 0]])
    found = explain(model, image, method="occlusion", target="fn", reference=boxes)
    assert found.targets[0].name == "missed seal 0"
    with pytest.raises(UsageError, match=r"must be boxes"):
        explain(model, image, method="occlusion", target="fn", reference=boxes[:, :4])
    with pytest.raises(UsageError, match=r"COCO \.json"):
        explain(model, image, method="occlusion", target="fn", reference=image)
    with pytest.raises(UsageError, match="this file is missing"):
        explain(model, image, method="occlusion", target="fn", reference=tmp_path / "none.json")
    other = {**COCO, "images": [{"id": 7, "file_name": "other.png"}]}
    shutil.copy(image, world / "other.png")
    (world / "other.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(UsageError, match="does not hold this image"):
        explain(model, image, method="occlusion", target="fn", reference=world / "other.json")


def test_a_loaded_detector_is_explained_on_an_array():
    image = np.zeros((1, 32, 32), dtype=np.float32)
    image[0, 4:9, 4:12] = 0.8
    found = explain(BrightBlobs(), image, method="occlusion", target={"where": "all"})
    assert found.values.shape == (1, 32, 32)
    assert found.targets[0].name == "blob 0 where"
    assert "IoU" in found.targets[0].meaning
    target = found.targets[0]
    again = explain(BrightBlobs(), image, method="occlusion", target=target)
    np.testing.assert_array_equal(again.values, found.values)
