import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.explainers.toy_segmenters import bright_square, small_unet
from tests.worlds import blob_world
from xaiseg.errors import DataError, SubjectError, UsageError
from xaiseg.explainers.cam import CamParams
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.shapley import KernelShapParams
from xaiseg.explainers.targets import Region
from xaiseg.explaining import _parameters, explain, explain_image, slugs

METHODS = ("hirescam", "integrated-gradients", "occlusion")


@pytest.fixture
def model(tmp_path):
    return blob_world(tmp_path / "world", n=8, empty=2)


def picture_of(model, case):
    return model.parent / "data" / "images" / f"case{case:04d}.png"


def test_a_picture_the_raw_maps_and_a_manifest_are_written(model, tmp_path):
    out = tmp_path / "deep" / "out"
    paths = explain_image(model, picture_of(model, 5), out=out)
    assert [path.name for path in paths] == ["explanation.png", *(f"{name}.npy" for name in METHODS), "manifest.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in paths)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert [each["method"] for each in manifest["maps"]] == list(METHODS)
    assert manifest["target"]["class"] == "lesion"
    assert manifest["shape"] == [1, 48, 48]
    assert manifest["not_run"] == {}
    for each in manifest["maps"]:
        values = np.load(out / each["file"], allow_pickle=False)
        assert (values.shape, values.dtype) == ((48, 48), np.float32)
        assert (each["minimum"], each["maximum"]) == (values.min(), values.max())
        assert each["unit"].startswith("logit")
        assert each["cost"]["forwards"] >= 1
        assert each["parameters"]
    # Nothing that names the machine or its user leaves in the files.
    assert str(tmp_path) not in (out / "manifest.json").read_text(encoding="utf-8")
    with Image.open(out / "explanation.png") as picture:
        assert picture.size[0] > 3 * picture.size[1] / 2
        assert not picture.info.get("Software")


def test_the_map_finds_the_disc_that_the_model_sees(model, tmp_path):
    explain_image(model, picture_of(model, 5), methods=["integrated-gradients"], out=tmp_path)
    values = np.load(tmp_path / "integrated-gradients.npy")
    with Image.open(model.parent / "data" / "masks" / "case0005.png") as mask:
        inside = np.asarray(mask) > 0
    assert np.abs(values[inside]).sum() > 0.99 * np.abs(values).sum()


def test_the_maps_repeat(model, tmp_path):
    for name in ("a", "b"):
        explain_image(model, picture_of(model, 5), out=tmp_path / name, seed=3)
    for method in METHODS:
        assert (tmp_path / "a" / f"{method}.npy").read_bytes() == (tmp_path / "b" / f"{method}.npy").read_bytes()


def test_maps_of_an_earlier_image_do_not_stay_and_other_files_do(model, tmp_path):
    image, out = picture_of(model, 5), tmp_path / "out"
    explain_image(model, image, methods=["hirescam", "saliency"], out=out)
    (out / "mine.npy").write_bytes(b"mine")
    (tmp_path / "beside.npy").write_bytes(b"beside")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    manifest["maps"].append({"file": "../beside.npy"})  # never beyond the folder, whatever a manifest says
    (out / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    explain_image(model, image, methods=["saliency"], out=out)
    assert sorted(path.name for path in out.glob("*.npy")) == ["mine.npy", "saliency.npy"]
    assert (tmp_path / "beside.npy").exists()
    (out / "manifest.json").write_text("[]", encoding="utf-8")
    explain_image(model, image, methods=["hirescam"], out=out)
    assert (out / "saliency.npy").exists()


def test_wrong_requests_are_one_clear_error(model, tmp_path):
    image = picture_of(model, 5)
    with pytest.raises(UsageError, match="did you mean 'occlusion'"):
        explain_image(model, image, methods=["ocklusion"], out=tmp_path)
    with pytest.raises(UsageError, match="did you mean 'lesion'"):
        explain_image(model, image, target="leison", out=tmp_path)
    with pytest.raises(UsageError, match="no foreground"):
        explain_image(model, picture_of(model, 0), out=tmp_path)
    with pytest.raises(UsageError, match="a file, not a folder"):
        explain_image(model, image, out=image)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.png"):
        explain_image(model, broken, out=tmp_path)
    with pytest.raises(DataError, match=r"missing\.png"):
        explain_image(model, tmp_path / "missing.png", out=tmp_path)


CALLABLE = """
def predict(images):
    return 20 * (images[:, :1] - 0.5)
"""


def test_a_black_box_is_explained_by_occlusion_and_says_why_not_by_the_others(model, tmp_path):
    (model.parent / "box.py").write_text(CALLABLE, encoding="utf-8")
    text = model.read_text(encoding="utf-8").replace('{torch: "builder.py:build"}', '{python: "box.py:predict"}')
    model.write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    explain_image(model, picture_of(model, 5), out=out)
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert [each["method"] for each in manifest["maps"]] == ["occlusion"]
    assert "gradients" in manifest["not_run"]["hirescam"]
    with pytest.raises(SubjectError, match="hirescam needs"):
        explain_image(model, picture_of(model, 5), methods=["hirescam"], out=out)


def test_a_folder_of_predictions_cannot_be_explained(model, tmp_path):
    text = model.read_text(encoding="utf-8").replace('{torch: "builder.py:build"}', '{predictions: "data/masks"}')
    model.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="only a model that can be run"):
        explain_image(model, picture_of(model, 5), out=tmp_path)


def test_several_targets_have_their_names_in_the_files_and_a_row_each_in_the_picture(model, tmp_path):
    with Image.open(model.parent / "data" / "masks" / "case0005.png") as mask:
        y, x = np.argwhere(np.asarray(mask) > 0).mean(axis=0).round().astype(int)
    asked = ["lesion", "background", f"{x},{y}", "{margin: lesion}"]
    paths = explain_image(model, picture_of(model, 5), methods=["hirescam", "smoothgrad"], target=asked, out=tmp_path)
    names = ["lesion", "background", f"lesion-at-{x}-{y}", "lesion-over-rest"]
    expected = [f"hirescam.{name}.npy" for name in names]
    for name in names:
        expected += [f"smoothgrad.{name}.npy", f"smoothgrad.{name}.stderr.npy"]
    assert [path.name for path in paths[1:-1]] == expected
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["asked"] == asked
    assert [each["name"] for each in manifest["targets"]] == names
    assert [each["target"] for each in manifest["maps"]] == names * 2
    alone = explain(model, picture_of(model, 5), method="hirescam", target="background")
    np.testing.assert_allclose(np.load(tmp_path / "hirescam.background.npy"), alone.values[0], atol=1e-6)
    with Image.open(paths[0]) as picture:
        assert picture.size[1] > picture.size[0]


def test_a_reference_serves_the_targets_that_need_one(model, tmp_path):
    image = picture_of(model, 5)
    mask = model.parent / "data" / "masks" / image.name
    explain_image(model, image, methods=["saliency"], target="{fn: lesion}", reference=mask, out=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["target"]["unit"] == "pixel"
    assert manifest["maps"][0]["unit"] == "pixel per unit of brightness"
    with pytest.raises(UsageError, match="--reference"):
        explain_image(model, image, methods=["saliency"], target="{fn: lesion}", out=tmp_path)
    with Image.open(mask) as picture:
        values = np.asarray(picture)
    found = explain(model, image, method="saliency", target={"fn": "lesion"}, reference=values)
    np.testing.assert_allclose(found.values[0], np.load(tmp_path / "saliency.npy"))


def test_one_call_explains_a_file_by_a_model_file(model):
    found = explain(model, picture_of(model, 5), method="gradientshap", seed=3)
    assert found.values.shape == (1, 48, 48)
    assert found.stderr.shape == (1, 48, 48)
    assert found.targets[0].name == "lesion"
    assert found.notes[0].startswith("the path starts at the mean")
    assert (found.cost.forwards, found.cost.backwards) == (32 + 1, 32)  # the points of the path, and the baseline
    assert found.cost.peak_mb is None  # on a CPU
    attribution = found.attribution
    assert (attribution.method, attribution.params.samples, attribution.seed) == ("gradientshap", 32, 3)
    again = explain(str(model), str(picture_of(model, 5)), method="gradientshap", seed=3)
    np.testing.assert_array_equal(again.values, found.values)


def test_one_call_explains_arrays_of_all_layouts_by_a_loaded_model():
    image = bright_square(channels=3)
    subject = small_unet(channels=3)
    subject.network.head.bias.data += 5
    first = explain(subject, image, target="all", params=None).values
    assert first.shape == (1, 24, 32)
    for same in (image.numpy(), image.permute(1, 2, 0).numpy()):
        np.testing.assert_allclose(explain(subject, same, target="all").values, first, atol=1e-7)
    eight = (image.permute(1, 2, 0) * 255).round().to(torch.uint8)
    np.testing.assert_allclose(explain(subject, eight).values, first, atol=0.05 * np.abs(first).max())
    grey = small_unet()
    grey.network.head.bias.data += 5
    flat = bright_square()[0].numpy()
    np.testing.assert_allclose(explain(grey, flat).values, explain(grey, flat[None]).values)


def test_arrays_that_the_model_does_not_take_are_refused():
    subject = small_unet()
    with pytest.raises(DataError, match="leaves the declared range"):
        explain(subject, bright_square() * 255)
    with pytest.raises(DataError, match="other channels than the model"):
        explain(subject, np.zeros((24, 32, 5), dtype=np.float32))
    with pytest.raises(DataError, match="NaN"):
        explain(subject, np.full((24, 32), np.nan, dtype=np.float32))
    with pytest.raises(UsageError, match="CamParams"):
        explain(lit(), bright_square(), method="saliency", params=CamParams())
    with pytest.raises(UsageError, match="only a model that can be run"):
        explain(Blind(), bright_square())


def lit():
    subject = small_unet()
    subject.network.head.bias.data += 5
    return subject


class Blind(type(small_unet())):
    by_case = True

    def __init__(self):
        super().__init__(small_unet().network)


def test_the_package_offers_explain():
    import xaiseg

    assert xaiseg.explain is explain
    assert "explain" in xaiseg.__all__


def test_names_of_files_are_plain_and_stand_once():
    mask = np.ones((1, 1), dtype=bool)
    labels = ("a/b", "a b", "a-b", "//", "é+")
    assert slugs([Region(1, mask, label=label) for label in labels]) == ["a-b", "a-b-2", "a-b-3", "target", "é"]


def test_segments_of_the_caller_are_named_by_digest_in_the_manifest():
    segments = Segments(np.array([[0, 0, 1], [0, 1, 1]]))
    held = _parameters(KernelShapParams(cut="given", segments=segments))
    assert held["segments"] == segments.digest
    json.dumps(held)
