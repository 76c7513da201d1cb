"""The verb explain in process: its list of methods, its errors, and what it says before a long run."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.worlds import blob_world
from xaiseg.cli import main
from xaiseg.explainers.base import load_explainers


@pytest.fixture
def world(tmp_path):
    model = blob_world(tmp_path / "world", n=8, empty=2)
    return model, model.parent / "data" / "images" / "case0005.png"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["explain", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_methods_are_listed_without_a_model_and_help_names_the_list(capsys):
    code, out, err = run(capsys, "--methods")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == sorted(load_explainers())
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "--methods" in out


def test_all_options_reach_the_explanation(capsys, world, tmp_path):
    model, image = world
    mean = tmp_path / "mean.png"
    Image.fromarray(np.full((48, 48), 64, dtype=np.uint8)).save(mean)
    given = ["--target", "lesion", "--target", "pred", "--param", "grid=4", "--param", "baseline=dataset-mean"]
    given += ["--dataset-mean", mean, "--seed", 3, "--device", "cpu", "-o", tmp_path / "o"]
    code, out, err = run(capsys, model, image, "-m", "occlusion", *given)
    assert (code, err) == (0, "")
    assert [line.rsplit("/", 1)[1] for line in out.split()] == ["explanation.png", "occlusion.npy", "manifest.json"]
    manifest = json.loads((tmp_path / "o" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["seed"], manifest["device"], manifest["target"]["asked"]) == (3, "cpu", ["lesion", "pred"])
    held = manifest["maps"][0]["parameters"]
    assert (held["grid"], held["baseline"]) == (4, "dataset-mean")


def test_a_long_run_is_announced_on_the_error_stream(capsys, world, tmp_path, monkeypatch):
    monkeypatch.setattr("xaiseg.explaining.LONG_S", 0.0)
    code, out, err = run(capsys, *world, "-m", "occlusion", "-o", tmp_path / "o")
    assert code == 0
    assert err.startswith("at most occlusion 65 forward passes; at ")
    assert "at most" not in out


def test_a_folder_that_cannot_be_made_is_a_wrong_use_and_no_crash(capsys, world):
    code, _, err = run(capsys, *world, "-o", "/proc/xaiseg-none")
    assert code == 2
    assert err.startswith("xaiseg: --out: the folder cannot be written")
