import pytest

from xaiseg.errors import UsageError
from xaiseg.modelfile import InputSpec, ModelDocument, OutputSpec, parse_model, read_model_file

MODEL = """name: toy
version: 1.2
classes: [background, lesion]
source: {onnx: m.onnx}
input:
  channels: 3
  range: [0, 255]
  size: [64, 48]
  mean: [1, 2, 3]
output:
  kind: logits
  threshold: {value: 0.4, chosen_on: val}
data:
  test: {reader: folder, path: somewhere}
intended_use: tests
"""


def parse(tmp_path, text):
    path = tmp_path / "model.yaml"
    path.write_text(text, encoding="utf-8")
    return read_model_file(path)


def test_a_file_becomes_values(tmp_path):
    model = parse(tmp_path, MODEL)
    assert (model.name, model.version, model.task) == ("toy", "1.2", "segmentation")
    assert model.source.kind == "onnx"
    assert model.source.target == "m.onnx"
    assert model.input.size == (64, 48)
    assert model.input.mean == (1, 2, 3)
    assert model.output.threshold.value == 0.4
    assert not model.trust
    assert not model.lesion_always_present
    spec = model.image_spec()
    assert (spec.channels, spec.value_range, spec.classes) == (3, (0, 255), ("background", "lesion"))
    assert model.data_root == tmp_path
    assert model.text == MODEL
    assert len(model.sha256) == 64


def test_data_root_is_relative_to_the_file(tmp_path):
    assert parse(tmp_path, MODEL + "data_root: there\n").data_root == tmp_path / "there"
    moved = parse(tmp_path, MODEL).override_data_root(tmp_path / "other")
    assert moved.data_root == tmp_path / "other"


def test_entries_can_be_replaced_without_changing_the_original(tmp_path):
    model = parse(tmp_path, MODEL)
    entry = model.data["test"]
    other = model.with_data("train", entry)
    assert set(other.data) == {"test", "train"}
    assert set(model.data) == {"test"}


def test_facts_are_plain_and_hold_no_path(tmp_path):
    facts = parse(tmp_path, MODEL).facts()
    assert facts["output"]["threshold"] == {"value": 0.4, "chosen_on": "val"}
    assert facts["source"] == {"onnx": "m.onnx"}
    assert str(tmp_path) not in repr(facts)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("classes:", "clases:", 3, "'clases' is not a key of model.yaml.*did you mean 'classes'"),
        ("name: toy\n", "", 1, "'name' is missing"),
        ("channels: 3", "chanels: 3", 6, "'chanels' is not a key of input.*did you mean 'channels'"),
        ("value: 0.4", "vale: 0.4", 12, "'vale' is not a key of output.threshold.*did you mean 'value'"),
        ("size: [64, 48]", "size: [64, 100000]", 8, "size.*less than or equal to 16384"),
        ("onnx: m.onnx", "onx: m.onnx", 4, "'onx' is not a key of source.*did you mean 'onnx'"),
        ("onnx: m.onnx", "onnx: m.onnx, zoo: x", 4, "exactly one of"),
        ("onnx: m.onnx", "weights: x", 4, "exactly one of.*none"),
        ("onnx: m.onnx", "onnx: m.onnx, weights: w.pth", 4, "holds its own weights"),
        ("onnx: m.onnx", "zoo: unet-compact", 4, "needs `weights:`"),
        ("onnx: m.onnx", "smp: {arch: Unet}, weights: w.pth", 4, "'encoder' is missing"),
        ("kind: logits", "kind: logit", 11, "'logits', 'probabilities' or 'labels'"),
        ("value: 0.4", "value: 1.4", 12, "less than 1"),
        ("range: [0, 255]", "range: [255, 0]", 7, "must rise"),
        ("mean: [1, 2, 3]", "mean: [1, 2]", 5, "2 values for 3 channels"),
        ("mean: [1, 2, 3]", "std: 0", 5, "above 0"),
        ("channels: 3", "channels: three", 6, "valid integer"),
        ("[background, lesion]", "[lesion]", 3, r"e\.g\. \[background, lesion\]"),
        ("[background, lesion]", "[a, a]", 3, "different names"),
        ("test:", "tset:", 14, "'tset'|tset"),
        ("reader: folder", "reder: folder", 14, "'reder' is not a key of data.test.*did you mean 'reader'"),
        ("name: toy", "name: toy\nname: two", 2, "name"),
        ("name: toy", "name: &a toy", 1, "anchors"),
        ("name: toy", "name: !!python/object:os.system x", 1, "."),
        ("name: toy", "name: [", 2, "."),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path, old, new, line, words):
    assert old in MODEL
    with pytest.raises(UsageError, match=words) as caught:
        parse(tmp_path, MODEL.replace(old, new, 1))
    assert f"model.yaml:{line}" in str(caught.value) or line in (1, 2)


DETECTOR = """name: toy
task: detection
classes: [seal, whale]
source: {onnx: m.onnx}
input:
  channels: 3
  channel_order: bgr
  resize: letterbox
  align: corner
  pad_value: 0.5
output:
  layout: yolox
  iou: 0.6
  score_floor: 0.01
  threshold: {value: 0.4, chosen_on: val}
"""


def test_a_detector_says_how_it_is_fed_and_read(tmp_path):
    model = parse(tmp_path, DETECTOR)
    assert (model.task, model.classes) == ("detection", ("seal", "whale"))
    assert (model.input.channel_order, model.input.padding, model.input.align) == ("bgr", "pad", "corner")
    assert model.input.fill == 0.5
    assert (model.output.layout, model.output.iou, model.output.score_floor) == ("yolox", 0.6, 0.01)
    assert model.facts()["output"]["layout"] == "yolox"
    plain = OutputSpec()
    assert (plain.layout, plain.iou, plain.score_floor) == ("auto", None, 0.001)
    assert InputSpec(range=(-1, 1)).fill == -1


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("layout: yolox", "layout: yolx", 12, "'yolox', 'yolov8'"),
        ("layout: yolox", "layot: yolox", 12, "'layot' is not a key of output.*did you mean 'layout'"),
        ("channel_order: bgr", "channel_ordr: bgr", 7, "did you mean 'channel_order'"),
        ("channel_order: bgr", "channel_order: brg", 7, "'rgb' or 'bgr'"),
        ("channels: 3", "channels: 1", 5, "bgr is for 3 channels, not for 1"),
        ("pad_value: 0.5", "pad_value: 114", 5, "pad_value 114 lies outside the range"),
        ("align: corner", "align: left", 9, "'centre' or 'corner'"),
        ("iou: 0.6", "iou: 1.6", 13, "less than or equal to 1"),
        ("score_floor: 0.01", "score_floor: 0.5", 11, "score_floor 0.5 lies above the threshold 0.4"),
        ("layout: yolox", "kind: logits", 12, "output.kind is for task: segmentation"),
        ("task: detection", "task: segmentation", 12, "output.layout is for task: detection"),
        ("[seal, whale]", "[background, seal]", 3, "leave the background out"),
    ],
)
def test_a_mistake_about_a_detector_is_named_with_its_line(tmp_path, old, new, line, words):
    assert old in DETECTOR
    with pytest.raises(UsageError, match=words) as caught:
        parse(tmp_path, DETECTOR.replace(old, new, 1))
    assert f"model.yaml:{line}:" in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml"):
        read_model_file(tmp_path / "none.yaml")


def test_weights_of_smp_may_stand_inside_or_beside(tmp_path):
    inside = MODEL.replace("onnx: m.onnx", "smp: {arch: Unet, encoder: resnet18, weights: a.pth}")
    beside = MODEL.replace("onnx: m.onnx", "smp: {arch: Unet, encoder: resnet18}, weights: a.pth")
    for text in (inside, beside):
        source = parse(tmp_path, text).source
        assert source.weights_file == "a.pth"
        assert source.target == "Unet/resnet18"
    with pytest.raises(UsageError, match="twice"):
        parse(tmp_path, inside.replace("}\ninput", ", weights: b.pth}\ninput"))


def test_a_sidecar_beside_the_model_file_is_found(tmp_path):
    (tmp_path / "split.csv").write_text("id,part\na,test\n", encoding="utf-8")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "meta.csv").write_text("id,group\na,x\n", encoding="utf-8")
    text = MODEL.replace("path: somewhere", "path: ., meta: [meta.csv, split.csv]") + "data_root: there\n"
    meta = parse(tmp_path, text).data["test"].meta
    assert [str(item) for item in meta] == ["meta.csv", str((tmp_path / "split.csv").resolve())]


def test_the_schema_names_every_key():
    schema = ModelDocument.model_json_schema()
    assert {"name", "classes", "source", "input", "output", "data", "trust"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_defaults_are_one_grey_channel_between_zero_and_one():
    spec = InputSpec()
    assert (spec.channels, spec.range, spec.size, spec.resize) == (1, (0, 1), None, "pad")


def test_paths_resolve_for_text_as_for_a_file(tmp_path):
    assert parse_model(MODEL, path=tmp_path / "m.yaml").data_root == tmp_path
