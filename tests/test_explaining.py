import json

import numpy as np
import pytest
from PIL import Image

from tests.worlds import blob_world
from xaiseg.errors import DataError, SubjectError, UsageError
from xaiseg.explainers.base import Attribution, get_explainer
from xaiseg.explainers.targets import Region
from xaiseg.explaining import ExplainedMap, draw, explain_image

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
    with pytest.raises(UsageError, match="only a segmentation model that can be run"):
        explain_image(model, picture_of(model, 5), out=tmp_path)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 20, 60), (3, 60, 20), (4, 9, 9)])
def test_pictures_of_all_shapes_are_drawn_with_blank_and_signed_maps(tmp_path, channels, height, width):
    rng = np.random.default_rng(0)
    image = rng.random((channels, height, width)).astype(np.float32)
    mask = np.zeros((height, width), dtype=bool)
    mask[3:7, 3:7] = True
    method = get_explainer("occlusion")
    maps = [
        ExplainedMap(method, method.params(), Attribution(values.astype(np.float32)))
        for values in (np.zeros((1, height, width)), rng.standard_normal((1, height, width)))
    ]
    assert maps[0].scale == 1.0
    draw(tmp_path / "picture.png", image, Region(1, mask, label="lesion"), maps)
    draw(tmp_path / "full.png", np.zeros_like(image), Region(1, np.ones_like(mask), label="lesion"), maps[:1])
    for name in ("picture.png", "full.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
