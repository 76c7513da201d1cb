"""Other builds of a model: what each answers, where its ranges come from, and what is refused."""

from pathlib import Path

import pytest
import torch

from tests.worlds import blob_world
from xaiseg.data.readers import load_case, open_dataset
from xaiseg.errors import UsageError
from xaiseg.hardware.integer import run_integer
from xaiseg.loading import load_subject
from xaiseg.modelfile import read_model_file
from xaiseg.variants import load_variants

BLOCK = """
import torch
from torch import nn

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, x):
        return self.body(x)

def normed():
    return Normed()

def constant(x):
    return x * 0 - 1.0
"""


def world(folder: Path, variants: str, *, calibration: bool = True, source: str = "") -> Path:
    path = blob_world(folder, n=12, size=32, empty=2)
    blob_world(folder / "more", n=10, size=32, empty=1, seed=5)
    text = path.read_text() + (
        "  calibration: {reader: folder, path: more/data, cluster: group}\n" if calibration else ""
    )
    text = text.replace('{torch: "builder.py:build"}', source) if source else text
    (folder / "block.py").write_text(BLOCK)
    path.write_text(text + f"variants:\n{variants}")
    return path


def loaded(path: Path, **given):
    model = read_model_file(path)
    spec = model.image_spec()
    datasets = {name: open_dataset(name, entry, root=model.data_root, spec=spec) for name, entry in model.data.items()}

    def load(ref, entry):
        return load_case(model.data[entry], ref, spec)

    images = [torch.as_tensor(load(ref, "test").image) for ref in datasets["test"].cases]
    return load_variants(model, datasets, load, **given), load_subject(model), images


BUILDS = """  free: {hardware: fake}
  golden: {hardware: integer}
  msdf8: {hardware: msdf, bits: 8, digits: full}
  msdf6: {digits: -6}
"""


def test_every_build_answers_and_the_units_are_the_golden_model(tmp_path):
    found, audited, images = loaded(world(tmp_path, BUILDS))
    answers = {name: torch.stack(variant.subject.predict(images)) for name, variant in found.items()}
    original = torch.stack(audited.predict(images))
    assert list(answers) == ["free", "golden", "msdf8", "msdf6"]
    assert torch.equal(answers["msdf8"], answers["golden"])
    for name in ("free", "msdf8"):
        assert 0 < float((answers[name] - original).abs().mean()) < 0.1  # the brightest pixels are clipped
    assert float((answers["msdf6"] - original).abs().mean()) > 5 * float((answers["msdf8"] - original).abs().mean())
    build = found["golden"].build
    batch = build.to_grid(torch.stack(images))
    assert torch.equal(run_integer(build.integers, *build.arguments(batch))[:, 0], answers["golden"][:, 1])
    assert found["golden"].subject.info.offers == {"scores"}


def test_ranges_come_from_calibration_images_drawn_by_seed(tmp_path):
    path = world(tmp_path, "  one: {bits: 8, sample: 4}\n")
    facts = [loaded(path, seed=seed)[0]["one"].facts() for seed in (0, 0, 1)]
    drawn = [item["calibration"]["cases"] for item in facts]
    assert drawn[0] == drawn[1] != drawn[2]
    assert (facts[0]["calibration"]["entry"], len(drawn[0]), facts[0]["convolutions"]) == ("calibration", 4, 2)
    assert facts[0]["remains"] == []


def test_the_largest_change_of_a_margin_is_that_of_the_calibration_images(tmp_path):
    path = world(tmp_path, "  one: {bits: 4, sample: 10}\n")
    found, audited, _ = loaded(path)
    model = read_model_file(path)
    dataset = open_dataset("calibration", model.data["calibration"], root=model.data_root, spec=model.image_spec())
    images = [
        torch.as_tensor(load_case(model.data["calibration"], ref, model.image_spec()).image) for ref in dataset.cases
    ]
    before, after = (torch.stack(subject.predict(images)) for subject in (audited, found["one"].subject))
    assert found["one"].largest_change == pytest.approx(float((after - before).abs().max()), rel=1e-5)


def test_audited_images_give_no_ranges(tmp_path):
    path = world(tmp_path, "  one: {bits: 8}\n", calibration=False)
    path.write_text(path.read_text().replace("variants:", "  validation: {reader: folder, path: data}\nvariants:"))
    with pytest.raises(UsageError, match=r"model.yaml:\d+: the variant one cannot be built.*12 of 12 images"):
        loaded(path)


def test_without_calibration_images_the_line_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"model.yaml:\d+: the variant one .*no calibration images.*Add data: calib"):
        loaded(world(tmp_path, "  one: {bits: 8}\n", calibration=False))
    with pytest.raises(UsageError, match="no calibration images. Got: train"):
        loaded(world(tmp_path, "  one: {bits: 8, calibration: train}\n"))


def test_what_cannot_move_is_named_and_may_stay_outside(tmp_path):
    source = '{torch: "block.py:normed"}'
    with pytest.raises(UsageError, match=r"the variant one cannot be built.*body.1.*GroupNorm"):
        loaded(world(tmp_path, "  one: {bits: 8}\n", source=source))
    found, audited, images = loaded(world(tmp_path, "  one: {bits: 8, outside: [body.1]}\n", source=source))
    assert "body.1 (GroupNorm)" in found["one"].facts()["remains"][0]
    change = torch.stack(found["one"].subject.predict(images)) - torch.stack(audited.predict(images))
    assert 0 < float(change.abs().max()) < 0.2


def test_digits_below_one_are_refused_with_the_module(tmp_path):
    with pytest.raises(UsageError, match="the variant one .*features: one digit .* must remain.*Got: digits: -40"):
        loaded(world(tmp_path, "  one: {digits: -40}\n"))


def test_a_black_box_has_no_integers_but_another_build_may_be_any_source(tmp_path):
    source = '{python: "block.py:constant"}'
    with pytest.raises(UsageError, match="the network's code is not open.*Got: source: python"):
        loaded(world(tmp_path, "  one: {bits: 8}\n", source=source))
    found, _, images = loaded(world(tmp_path, f"  one: {{source: {source}}}\n"))
    assert float(torch.stack(found["one"].subject.predict(images))[:, 1].max()) == -1.0
    assert found["one"].facts()["calibration"] is None
    assert found["one"].largest_change is None
    with pytest.raises(UsageError, match=r"the variant one cannot be built.*there is no such file"):
        loaded(world(tmp_path, "  one: {source: {onnx: nothing.onnx}}\n"))


DETECTOR = """name: tiles
task: detection
classes: [seal]
source: {zoo: detector-compact, weights: detector-compact-scenes.safetensors}
input: {channels: 3, range: [0, 1], multiple_of: 16}
output: {threshold: {value: 0.4, chosen_on: val}}
data:
  test: {reader: scene, scene: {split: test, flights: 2, tiles: 2}}
  validation: {reader: scene, scene: {split: validation, flights: 2, tiles: 2}}
variants:
  msdf8: {bits: 8}
  golden: {hardware: integer}
"""


def test_the_compact_detector_moves(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(DETECTOR)
    found, audited, images = loaded(path)
    answers = {name: variant.subject.predict(images) for name, variant in found.items()}
    for first, second, original in zip(answers["msdf8"], answers["golden"], audited.predict(images), strict=True):
        assert torch.equal(first.xyxy, second.xyxy)
        assert torch.equal(first.scores, second.scores)
        sure = [box.scores[box.scores > 0.4] for box in (first, original)]
        assert abs(len(sure[0]) - len(sure[1])) <= 2
    assert found["msdf8"].largest_change is None


def test_probabilities_give_no_largest_change_of_a_logit(tmp_path):
    path = world(tmp_path, "  one: {bits: 8}\n")
    path.write_text(path.read_text().replace("kind: logits", "kind: probabilities"))
    assert loaded(path)[0]["one"].largest_change is None
