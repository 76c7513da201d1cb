import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.explainers.toy_segmenters import bright_square, small_unet
from tests.worlds import blob_world
from xaiseg.errors import DataError, SubjectError, UsageError
from xaiseg.explainers import base
from xaiseg.explainers.base import Session, get_explainer
from xaiseg.explainers.cam import CamParams
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.occlusion import OcclusionParams
from xaiseg.explainers.shapley import KernelShapParams
from xaiseg.explainers.targets import Region
from xaiseg.explaining import _expected, explain, explain_image
from xaiseg.explaining_manifest import _parameters, slugs

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
        assert manifest["costs"][each["method"]]["forwards"] >= 1
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
    assert [each["asked"] for each in manifest["targets"]] == asked
    assert [each["target"] for each in manifest["maps"]] == names * 2
    alone = explain(model, picture_of(model, 5), method="hirescam", target="background")
    np.testing.assert_allclose(np.load(tmp_path / "hirescam.background.npy"), alone.values[0], atol=1e-6)
    with Image.open(paths[0]) as picture:
        assert picture.size[1] > picture.size[0]


def test_what_is_asked_twice_is_computed_once_and_every_target_names_its_words(model, tmp_path):
    asked = ["pred", "lesion", "{prob: lesion}", "pred", "{region: lesion}", "all"]
    paths = explain_image(model, picture_of(model, 5), methods=["occlusion"], target=asked, out=tmp_path)
    names = ["lesion", "probability-of-lesion"]
    assert [path.name for path in paths[1:-1]] == [f"occlusion.{name}.npy" for name in names]
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in manifest["targets"]] == names
    words = [["pred", "lesion", "{region: lesion}", "all"], "{prob: lesion}"]
    assert [each["asked"] for each in manifest["targets"]] == words
    assert manifest["costs"]["occlusion"]["targets"] == 2
    explain_image(model, picture_of(model, 5), methods=["occlusion"], target=["pred", "lesion"], out=tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["target"]["asked"] == ["pred", "lesion"]
    assert not (tmp_path / "occlusion.lesion.npy").exists()
    with pytest.raises(UsageError, match="no target is named"):
        explain_image(model, picture_of(model, 5), target=[], out=tmp_path)


def test_the_manifest_holds_both_ends_of_what_a_map_sums_to_and_each_cost_once(model, tmp_path):
    explain_image(model, picture_of(model, 5), methods=["kernelshap", "saliency"], out=tmp_path,
                  settings=["count=6"])  # fmt: skip
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    shap, saliency = manifest["maps"]
    values = np.load(tmp_path / "kernelshap.npy")
    _, places = np.unique(values.round(6), return_index=True)
    change = shap["score_of_image"] - shap["score_of_baseline"]
    assert shap["score_of_image"] == pytest.approx(manifest["target"]["value"])
    assert abs(change) > 1
    assert values.ravel()[places].sum() == pytest.approx(change, rel=1e-4)
    assert saliency["score_of_baseline"] is None
    assert all("cost" not in each for each in manifest["maps"])
    assert set(manifest["costs"]) == {"kernelshap", "saliency"}
    for each in manifest["maps"]:
        held = np.load(tmp_path / each["file"])
        beyond = (np.abs(held) > each["end_of_colour_scale"]).mean()
        assert each["share_beyond_colour_scale"] == pytest.approx(beyond)


def test_a_map_has_its_own_notes_and_not_those_of_other_targets(model, tmp_path):
    explain_image(model, picture_of(model, 5), methods=["lime"], target=["lesion", "background"], out=tmp_path,
                  settings=["masks=32"])  # fmt: skip
    maps = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["maps"]
    for entry in maps:
        assert len(entry["notes"]) == 2
        assert entry["notes"][1].startswith(f"{entry['target']}: the line explains R² = ")


def test_a_baseline_without_a_score_is_noted_and_keeps_no_map_from_being_written(model, tmp_path):
    (model.parent / "box.py").write_text(BLANK_IS_NAN, encoding="utf-8")
    text = model.read_text(encoding="utf-8").replace('{torch: "builder.py:build"}', '{python: "box.py:predict"}')
    model.write_text(text, encoding="utf-8")
    explain_image(model, picture_of(model, 5), methods=["occlusion"], out=tmp_path)
    (entry,) = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))["maps"]
    assert entry["score_of_baseline"] is None
    assert "the baseline has no score" in entry["notes"][-1]


BLANK_IS_NAN = """
def predict(images):
    flat = images.std(axis=(1, 2, 3), keepdims=True) < 1e-6
    answer = 20 * (images[:, :1] - 0.5)
    answer[flat[:, 0, 0, 0]] = float("nan")
    return answer
"""


def test_more_targets_than_a_page_holds_leave_no_old_page_behind(model, tmp_path):
    asked = [f"{x},5" for x in range(8)]
    paths = explain_image(model, picture_of(model, 5), methods=["saliency"], target=asked, out=tmp_path)
    assert [path.name for path in paths if path.suffix == ".png"] == ["explanation.png", "explanation-2.png"]
    explain_image(model, picture_of(model, 5), methods=["saliency"], out=tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["explanation.png"]
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["pictures"] == ["explanation.png"]


def test_a_long_run_is_announced_with_its_cost_and_a_short_one_is_not(model, tmp_path, monkeypatch):
    told = []
    run = {"methods": ["occlusion", "integrated-gradients"], "out": tmp_path, "tell": told.append}
    explain_image(model, picture_of(model, 5), **run)
    assert told == []
    monkeypatch.setattr("xaiseg.explaining.LONG_S", 0.0)
    explain_image(model, picture_of(model, 5), **run)
    assert re.match(r"at most occlusion 65, integrated-gradients 114 forward passes; at .* s each about ", told[0])


def test_a_reference_is_read_as_in_the_audit(model, tmp_path):
    """With `labels: {0: 0, 1: 1}` 255 is to be ignored, and nothing of it is a lesion."""
    image = picture_of(model, 5)
    mask = tmp_path / "open.png"
    Image.fromarray(np.full((48, 48), 255, np.uint8)).save(mask)
    explain(model, image, method="saliency", target={"fn": "lesion"}, reference=mask)
    text = model.read_text(encoding="utf-8")
    with_labels = model.with_name("labels.yaml")
    with_labels.write_text(text.replace("path: data", "path: data, labels: {0: 0, 1: 1}"), encoding="utf-8")
    assert "labels" in with_labels.read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="no pixel"):
        explain(with_labels, image, method="saliency", target={"fn": "lesion"}, reference=mask)


def test_the_expected_time_counts_passes_back_and_targets():
    methods = [get_explainer("occlusion"), get_explainer("saliency")]
    assert _expected(methods, {}, 1.0, 2).endswith("at 1 s each about 71 s")  # 65 + 1 x 3 x 2
    assert _expected(methods, {"occlusion": OcclusionParams(16)}, 1.0, 1).endswith("about 4 min")  # 257 + 3
    assert _expected(methods, {}, 0.1, 2) == ""


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
    with pytest.raises(DataError, match=r"no image for the model\. Got: \(24, 32, 5\)"):
        explain(subject, np.zeros((24, 32, 5), dtype=np.float32))
    with pytest.raises(DataError, match="NaN"):
        explain(subject, np.full((24, 32), np.nan, dtype=np.float32))
    with pytest.raises(
        UsageError, match=r"no parameters of saliency.*Allowed: xaiseg\.explainers\.gradient\.SaliencyParams"
    ):
        explain(lit(), bright_square(), method="saliency", params=CamParams())
    with pytest.raises(UsageError, match="only a model that can be run"):
        explain(Blind(), bright_square())


@pytest.mark.parametrize("shape", [(0, 0), (0, 24, 32), (32,), (1, 1, 24, 32), (4, 24, 32)])
def test_what_is_no_image_is_one_clear_error(shape):
    with pytest.raises(DataError, match=r"image: this is no image for the model\. Got: .* Allowed: numbers of shape"):
        explain(lit(), np.zeros(shape, dtype=np.float32))
    with pytest.raises(DataError, match="no image for the model"):
        explain(lit(), np.array([["a"]]))


def test_grey_and_colour_arrays_are_taken_as_files_are():
    image = bright_square()[0].numpy()
    colour = np.stack([image] * 3, axis=-1)
    plain = explain(lit(), image, method="saliency").values
    np.testing.assert_allclose(explain(lit(), colour, method="saliency").values, plain, atol=1e-5)


@pytest.mark.parametrize("method", ["hirescam", "saliency", "occlusion"])
def test_a_caller_in_inference_mode_gets_the_same_maps(method):
    subject = lit()
    plain = explain(subject, bright_square(), method=method).values
    with torch.inference_mode():
        inside = explain(subject, bright_square(), method=method).values
        born = lit()
    np.testing.assert_allclose(inside, plain, atol=1e-7)
    with pytest.raises(SubjectError, match=r"made in torch\.inference_mode"):
        explain(born, bright_square(), method=method)


def test_a_mask_at_hand_is_a_target():
    mask = np.zeros((24, 32), dtype=bool)
    mask[5:9, 6:11] = True
    found = explain(lit(), bright_square(), method="saliency", target=mask)
    same = explain(lit(), bright_square(), method="saliency", target=Region(1, mask))
    np.testing.assert_array_equal(found.values, same.values)
    assert found.targets[0].name.endswith(" in given mask")


def test_the_mean_of_a_data_set_comes_from_an_array_or_a_file(model, tmp_path):
    image = picture_of(model, 5)
    params = OcclusionParams(baseline="dataset-mean")
    with pytest.raises(UsageError, match="the dataset mean was not given"):
        explain(model, image, method="occlusion", params=params)
    grey = np.full((1, 1, 1), 0.25, dtype=np.float32)
    one = explain(model, image, method="occlusion", params=params, dataset_mean=grey)
    Image.fromarray(np.full((48, 48), 64, dtype=np.uint8)).save(tmp_path / "mean.png")
    explain_image(model, image, methods=["occlusion"], dataset_mean=tmp_path / "mean.png", out=tmp_path / "out",
                  settings=["baseline=dataset-mean"])  # fmt: skip
    same = np.load(tmp_path / "out" / "occlusion.npy")
    np.testing.assert_allclose(same, one.values[0], atol=0.02 * np.abs(same).max())
    assert np.abs(same - explain(model, image, method="occlusion").values[0]).max() > 0.05 * np.abs(same).max()
    Image.fromarray(np.full((9, 9), 64, dtype=np.uint8)).save(tmp_path / "small.png")
    with pytest.raises(UsageError, match=r"the dataset mean does not fit. Got: \(1, 9, 9\)"):
        explain(model, image, method="occlusion", params=params, dataset_mean=tmp_path / "small.png")


def test_a_folder_that_cannot_be_made_is_refused_before_anything_runs(model):
    with pytest.raises(UsageError, match=r"--out: the folder cannot be written: .*Got: /proc/xaiseg-none"):
        explain_image(model, picture_of(model, 5), out=Path("/proc/xaiseg-none"))


def test_a_refused_explanation_leaves_no_folder_and_takes_none_away(model, tmp_path):
    image = picture_of(model, 5)
    for there in (False, True):
        out = tmp_path / "made" / "for" / f"out-{there}"
        if there:
            out.mkdir(parents=True)
        with pytest.raises(UsageError, match="nonsense"):
            explain_image(model, image, target="nonsense", out=out)
        assert out.exists() is there
        assert (tmp_path / "made").exists() is there


def test_nothing_to_explain_and_foreign_parameters_are_told_apart():
    session = Session(lit(), bright_square())
    with pytest.raises(UsageError, match="nothing is to be explained. Got: no target"):
        base.explain(session, "saliency", [])
    with pytest.raises(UsageError, match=r"params: these are no parameters of saliency. Got: dict \{'grid': 4\}"):
        explain(lit(), bright_square(), method="saliency", params={"grid": 4})


def test_the_list_for_an_unknown_layer_holds_layers_only():
    with pytest.raises(UsageError, match=r"no such layer. Got: zzzzzz. Known: \w"):
        explain(lit(), bright_square(), method="hirescam", params=CamParams(layer="zzzzzz"))


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
