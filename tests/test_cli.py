"""The command line in process: verbs, exit codes, and wrong input that gets one clear error and loses nothing."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.worlds import blob_world, forward_only
from xaiseg.cli import main


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def world(tmp_path) -> Path:
    return blob_world(tmp_path / "world", n=44, size=32, empty=4)


def audit(capsys, model: Path, folder: Path, *more: object, protocol: Path | None = None) -> tuple[int, str, str]:
    chosen = protocol or forward_only(folder)
    arguments = ("audit", model, "--protocol", chosen, "--engine", "serial", "--no-pdf", "--out", folder / "run", *more)
    return run(capsys, *arguments)


# --- verbs ---------------------------------------------------------------------------------------------------------


def test_an_audit_writes_everything_and_says_so(capsys, world, tmp_path):
    code, out, err = audit(capsys, world, tmp_path)
    assert code == 0, err
    lines = out.strip().splitlines()
    assert 3 <= len(lines) <= 12
    assert lines[0].startswith("PASS")
    assert "exit code 0" in lines[-1]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"report.html", "audit.json", "junit.xml", "summary.md", "cases.csv", "plan.json", "evidence"} <= names


def test_a_model_that_misses_fails(capsys, tmp_path):
    model = blob_world(tmp_path / "dark", n=60, size=32, empty=0, dark=40)
    code, out, _ = audit(capsys, model, tmp_path)
    assert code == 1
    assert out.startswith("FAIL")


def test_the_failing_gate_comes_first_and_a_bad_place_is_a_usage_error(capsys, tmp_path):
    model = blob_world(tmp_path / "dark", n=60, size=32, empty=0, dark=40)
    code, out, _ = audit(capsys, model, tmp_path, protocol="clinical")
    assert code == 1
    gates = [line for line in out.splitlines() if line.startswith("  ")]
    assert gates[0].startswith("  FAIL: ")
    for place in (model, model / "below"):
        code, _, err = run(capsys, "audit", model, "--out", place)
        assert code == 2, err
    code, _, err = audit(capsys, model, tmp_path, "--json", tmp_path / "nowhere" / "x.json", protocol="clinical")
    assert code == 2
    assert "--json" in err


def test_interruption_says_how_to_go_on(capsys, world, tmp_path, monkeypatch):
    from xaiseg import pipeline

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "measure", interrupted)
    code, _, err = audit(capsys, world, tmp_path)
    assert code == 130
    assert "goes on where it stopped" in err


def test_an_unforeseen_error_is_said_and_is_no_verdict(capsys, world, tmp_path, monkeypatch):
    from xaiseg import pipeline

    def broken(*_, **__):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(pipeline, "measure", broken)
    code, _, err = audit(capsys, world, tmp_path)
    assert code == 70
    assert "unexpected ZeroDivisionError: planted" in err


def test_too_few_patients_are_insufficient_and_say_how_many_more(capsys, tmp_path):
    model = blob_world(tmp_path / "few", n=10, size=32, empty=0, dark=2, per_patient=1)
    code, out, _ = audit(capsys, model, tmp_path)
    assert code == 3
    assert "INSUFFICIENT EVIDENCE" in out
    assert " more " in out
    again, out, _ = audit(capsys, model, tmp_path, "--allow-insufficient")
    assert again == 0
    assert "evidence is missing" in out.splitlines()[-1]


def test_json_goes_to_standard_output_alone(capsys, world, tmp_path):
    code, out, _ = audit(capsys, world, tmp_path, "--json", "-")
    assert code == 0
    assert json.loads(out)["overall"]["verdict"] == "PASS"


def test_quiet_prints_nothing(capsys, world, tmp_path):
    assert audit(capsys, world, tmp_path, "--quiet") == (0, "", "")


def test_judge_and_render_never_touch_the_model(capsys, world, tmp_path):
    audit(capsys, world, tmp_path)
    world.unlink()
    shutil.rmtree(world.parent)
    stricter = tmp_path / "stricter.yaml"
    text = (tmp_path / "forward-only.yaml").read_text(encoding="utf-8")
    stricter.write_text(text.replace("at_least: 0.70", "at_most: 0.30"), encoding="utf-8")
    code, out, _ = run(capsys, "judge", tmp_path / "run", "--protocol", stricter, "--no-pdf")
    assert code == 1
    assert "FAIL" in out
    assert "POST HOC" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    code, out, _ = run(capsys, "render", tmp_path / "run", "--no-pdf")
    assert code == 0
    assert "report.html" in out


def test_judging_rows_that_were_measured_otherwise_is_not_run(capsys, world, tmp_path):
    audit(capsys, world, tmp_path)
    other = tmp_path / "other.yaml"
    text = (tmp_path / "forward-only.yaml").read_text(encoding="utf-8")
    other.write_text(text.replace("performance.segmentation: {}", "performance.segmentation: {match_iou: 0.5}"))
    code, out, _ = run(capsys, "judge", tmp_path / "run", "--protocol", other, "--no-pdf")
    assert code == 3
    assert "NOT RUN" in out
    assert "xaiseg audit" in out


def test_diff_names_what_changed(capsys, world, tmp_path):
    audit(capsys, world, tmp_path)
    other = blob_world(tmp_path / "worse", n=44, size=32, empty=4, dark=25)
    (tmp_path / "b").mkdir()
    audit(capsys, other, tmp_path / "b")
    code, out, _ = run(capsys, "diff", tmp_path / "run", tmp_path / "b" / "run")
    assert code == 0
    assert "PASS" in out
    assert "FAIL" in out


def test_plan_prints_the_cost_and_writes_nothing(capsys, world, tmp_path):
    code, out, _ = run(capsys, "plan", world, "--protocol", "clinical")
    assert code == 0
    assert "44 cases in 22 clusters" in out
    assert "forwards" in out
    assert not list(tmp_path.glob("run*"))


def test_protocol_verbs(capsys):
    assert "clinical" in run(capsys, "protocol", "list")[1]
    assert "29" in run(capsys, "protocol", "explain", "clinical")[1]
    assert "extends" not in run(capsys, "protocol", "show", "clinical")[1]
    assert run(capsys, "protocol", "check", "clinical")[0] == 0


def test_zoo_verbs(capsys):
    assert "unet-compact" in run(capsys, "zoo", "list")[1]
    assert "parameters" in run(capsys, "zoo", "show", "unet-compact")[1].lower()


@pytest.mark.parametrize("kind", ["model", "protocol", "audit"])
def test_schemas_are_json(capsys, kind):
    code, out, _ = run(capsys, "schema", kind)
    assert code == 0
    assert json.loads(out)["$schema"].startswith("https://json-schema.org/")


# --- wrong input ---------------------------------------------------------------------------------------------------


def test_a_misspelt_key_has_line_and_hint(capsys, world, tmp_path):
    world.write_text(world.read_text().replace("classes:", "clases:"))
    code, _, err = audit(capsys, world, tmp_path)
    assert code == 2
    assert "model.yaml:4" in err
    assert "did you mean 'classes'" in err
    assert "Traceback" not in err


def test_a_missing_model_file(capsys, tmp_path):
    code, _, err = audit(capsys, tmp_path / "nowhere.yaml", tmp_path)
    assert code == 2
    assert "nowhere.yaml" in err


def test_an_unknown_protocol_has_a_hint(capsys, world):
    code, _, err = run(capsys, "audit", world, "--protocol", "clinicle")
    assert code == 2
    assert "clinical" in err


def test_untrusted_code_does_not_run(capsys, world, tmp_path):
    world.write_text(world.read_text().replace("trust: true\n", ""))
    code, _, err = audit(capsys, world, tmp_path)
    assert code == 2
    assert "trust: true" in err


def test_bad_options(capsys, world):
    assert run(capsys, "audit", world, "--data", "nothing")[0] == 2
    assert run(capsys, "audit", world, "--limit", "0")[0] == 2
    assert run(capsys, "audit", world, "--unknown")[0] == 2
    code, _, err = run(capsys, "audit", world, "--device", "cuda:77")
    assert code == 2
    assert "--device" in err


def test_bad_images_are_failed_images_never_empty_ones(capsys, world, tmp_path):
    data = world.parent / "data"
    (data / "images" / "case0010.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(data / "masks" / "case0011.png")
    (data / "masks" / "case0012.png").unlink()
    code, out, err = audit(capsys, world, tmp_path)
    assert code in (1, 3), (out, err)
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    document = json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))
    for case in ("case0010", "case0011", "case0012"):
        assert case in html
        assert any(error["case"] == case for error in document["errors"])
    dice = next(e for e in document["estimates"] if e["id"] == "performance.segmentation/dice")
    assert dice["n_failed"] == 3


def test_no_images_is_nothing_to_audit(capsys, world, tmp_path):
    for path in (world.parent / "data" / "images").iterdir():
        path.unlink()
    (world.parent / "data" / "meta.csv").unlink()
    world.write_text(world.read_text().replace(", cluster: group, strata: [device]", ""))
    code, _, err = audit(capsys, world, tmp_path)
    assert code == 5, err


def test_another_run_in_the_directory_is_left_alone(capsys, world, tmp_path):
    audit(capsys, world, tmp_path)
    before = (tmp_path / "run" / "audit.json").read_bytes()
    other = blob_world(tmp_path / "other", n=8, size=32, name="other")
    code, _, err = audit(capsys, other, tmp_path)
    assert code == 2
    assert "holds another run" in err
    assert (tmp_path / "run" / "audit.json").read_bytes() == before


BROKEN = {
    "nan": ("return self.head(self.features(x)) * float('nan')", 2, "NaN"),
    "classes": ("return self.head(self.features(x)).repeat(1, 5, 1, 1)", 2, "class"),
    "shape": ("return self.head(self.features(x)).mean(dim=(2, 3))", 2, "output"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_model_that_cannot_answer_is_one_clear_error(capsys, world, tmp_path, fault):
    line, expected, word = BROKEN[fault]
    builder = world.parent / "builder.py"
    builder.write_text(builder.read_text().replace("return self.head(self.features(x))", line))
    code, _, err = audit(capsys, world, tmp_path)
    assert code == expected
    assert word.lower() in err.lower()
    assert not (tmp_path / "run").exists()


def test_a_constant_model_is_measured_not_refused(capsys, world, tmp_path):
    builder = world.parent / "builder.py"
    constant = "return self.head(self.features(x)) * 0 - 5"
    builder.write_text(builder.read_text().replace("return self.head(self.features(x))", constant))
    code, out, _ = audit(capsys, world, tmp_path)
    assert code == 1
    assert out.startswith("FAIL")


def test_wrong_channel_count(capsys, world, tmp_path):
    world.write_text(world.read_text().replace("channels: 1", "channels: 4"))
    code, _, err = audit(capsys, world, tmp_path)
    assert code == 2
    assert "channel" in err


def test_a_misspelt_entry_of_data_is_refused(capsys, world, tmp_path):
    code, _, err = audit(capsys, world, tmp_path, "--data", f"tst={tmp_path}")
    assert code == 2
    assert "this is no entry of data. Got: tst" in err
    assert "did you mean 'test'?" in err


def test_data_that_are_missing_are_named_with_their_entry(capsys, world):
    world.write_text(world.read_text().replace("data:\n", "data:\n  train: {reader: coco, path: elsewhere}\n"))
    code, _, err = run(capsys, "plan", world, "--protocol", "clinical")
    assert code == 2
    assert "elsewhere" in err
    assert "It belongs to data: train in model.yaml; --data-root and --data train=DIR name another place." in err


def test_the_plan_counts_the_tiles_that_are_known_to_be_empty(capsys, tmp_path):
    def plan(*more: object) -> str:
        code, out, _ = run(capsys, "plan", model, "--protocol", protocol, *more)
        assert code == 0
        return out

    model = Path(__file__).parent.parent / "examples" / "wildlife" / "model.yaml"
    protocol: str | Path = "ecology"
    assert "not augmented" not in plan()  # 108 of 432
    told = plan("--limit", 20)
    assert (
        "\n6 images are known to be empty (column known_empty) and not augmented; 60 are needed for a verdict" in told
    )
    protocol = tmp_path / "sample.yaml"
    protocol.write_text(
        "protocol: sample\nversion: 1.0.0\nextends: ecology\nchecks: {performance.detection: {cases: {sample: 36}}}\n"
    )
    assert re.search("\n[1-9]+ images are known to be empty", plan())  # of the 36 that are drawn
