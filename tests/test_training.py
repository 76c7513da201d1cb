import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from xaiseg import training, training_parts, zoo
from xaiseg.data.case import ImageSpec
from xaiseg.errors import UsageError
from xaiseg.fitting import Trained
from xaiseg.loading import load_subject, read_model_file
from xaiseg.training import split_clusters, train_zoo
from xaiseg.zoo.recipe import Recipe


def write_discs(folder, *, patients=14, size=40):
    """Bright discs on dark noise, two images a patient."""
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rows, columns = np.mgrid[:size, : size + 8]
    with (folder / "meta.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "group", "device"])
        for index in range(2 * patients):
            centre, radius = rng.uniform(12, size - 12, 2), rng.uniform(5, 10)
            mask = np.hypot(rows - centre[0], columns - centre[1]) < radius
            image = np.where(mask, 200, 60) + rng.normal(0, 8, mask.shape)
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / "images" / f"c{index:02d}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"c{index:02d}.png")
            writer.writerow([f"c{index:02d}", f"p{index // 2}", "AB"[index % 2]])
    return folder


def test_a_division_keeps_clusters_whole_and_shares_right():
    names = [f"p{i}" for i in range(213)]
    parts = split_clusters(names + names, seed=0)
    counts = [list(parts.values()).count(part) for part in ("train", "validation", "test")]
    assert sum(counts) == 213
    np.testing.assert_allclose(np.array(counts) / 213, (0.5, 0.15, 0.35), atol=0.005)
    assert split_clusters(reversed(names), seed=0) == parts
    assert split_clusters(names, seed=1) != parts


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("discs")
    data = write_discs(folder / "data")
    lines = []
    written = train_zoo(
        "unet-compact", data, out=folder / "out", size=32, epochs=2, strata=("device",), threads=1, log=lines.append
    )
    return folder / "out", lines, written


def test_what_was_written_can_be_audited(trained):
    out, lines, written = trained
    names = ["model.yaml", "split.csv", "training.log", "weights.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert "xaiseg audit" in written[-1]
    assert (out / "training.log").read_text(encoding="utf-8").splitlines() == lines
    model = read_model_file(out / "model.yaml")
    assert model.source.weights_file == "weights.safetensors"
    subject = load_subject(model)
    assert subject.predict([torch.zeros(1, 40, 48)])[0].shape == (2, 40, 48)


def test_the_parts_of_the_model_file_share_no_patient(trained):
    from xaiseg.data.readers import open_dataset

    model = read_model_file(trained[0] / "model.yaml")
    sets = {
        name: open_dataset(name, entry, root=model.data_root, spec=model.image_spec())
        for name, entry in model.data.items()
    }
    assert set(sets) == {"train", "validation", "test"}
    clusters = {name: {case.cluster for case in dataset.cases} for name, dataset in sets.items()}
    assert not clusters["train"] & clusters["test"]
    assert not clusters["validation"] & (clusters["test"] | clusters["train"])
    assert len(clusters["test"]) == 5
    assert sum(len(dataset.cases) for dataset in sets.values()) == 28
    assert sets["test"].strata == ("device",)


def test_the_trained_model_finds_discs(trained):
    score = float(trained[1][-1].partition("dice ")[2].split()[0])
    assert score > 0.5


def test_too_few_clusters_are_refused(tmp_path):
    data = write_discs(tmp_path / "data", patients=1)
    with pytest.raises(UsageError, match="too few clusters"):
        train_zoo("unet-compact", data, out=tmp_path / "out", size=32, epochs=1)


def test_a_given_division_is_kept_and_no_patient_is_in_two_parts(tmp_path):
    data = write_discs(tmp_path / "data", patients=4)
    lines = ["id,part", *(f"c{i:02d},{('train', 'train', 'validation', 'test')[i // 2]}" for i in range(8))]
    split = tmp_path / "mine.csv"
    split.write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = {"size": 32, "epochs": 1, "threads": 1, "log": lambda line: None, "split": split}
    train_zoo("unet-compact", data, out=tmp_path / "out", **options)
    assert (tmp_path / "out" / "split.csv").read_text(encoding="utf-8") == split.read_text(encoding="utf-8")
    for old, new, message in (
        ("c07,test", "c07,validation", "p3 in test and validation"),
        ("c07,test", "c07,tset", "the part of c07 is not known. Got: tset"),
        ("c07,test\n", "", "the part of c07 is not known. Got: nothing"),
        ("c07,test\n", "c07,test\nc00,test\n", "broken.csv:10: an image stands twice in the list. Got: c00"),
        ("c07,test\n", "c07,test\nnobody,train\n", "images that the folder does not hold. Got: nobody"),
    ):
        broken = tmp_path / "broken.csv"
        broken.write_text(split.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        with pytest.raises(UsageError, match=message):
            train_zoo("unet-compact", data, out=tmp_path / "other", **{**options, "split": broken})
    assert not (tmp_path / "other" / "weights.safetensors").exists()
    with pytest.raises(UsageError, match="divided already"):
        train_zoo("unet-compact", "phantoms", out=tmp_path / "other", **options)


def test_a_finished_training_keeps_its_division_and_weights(tmp_path):
    data, out = write_discs(tmp_path / "data", patients=10), tmp_path / "out"
    options = {"size": 32, "epochs": 1, "threads": 1, "log": lambda line: None}
    train_zoo("unet-compact", data, out=out, **options)
    held = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match="a training on another division"):
        train_zoo("unet-compact", data, out=out, seed=1, **options)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == held
    with pytest.raises(UsageError, match="the weights of another training"):
        train_zoo("unet-compact", data, out=out, **{**options, "epochs": 2})
    for name in ("weights.safetensors", "split.csv", "model.yaml"):
        assert (out / name).read_bytes() == held[name]


def test_the_patients_of_a_table_are_the_clusters(tmp_path):
    data = write_discs(tmp_path / "data", patients=10)
    table = data / "meta.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("group", "patient"), encoding="utf-8")
    out = tmp_path / "out"
    train_zoo("unet-compact", data, out=out, size=32, epochs=1, threads=1, log=lambda line: None)
    with table.open(newline="", encoding="utf-8") as stream:
        homes = {row["id"]: row["patient"] for row in csv.DictReader(stream)}
    with (out / "split.csv").open(newline="", encoding="utf-8") as stream:
        parts = {(homes[row["id"]], row["part"]) for row in csv.DictReader(stream)}
    assert len(parts) == len(set(homes.values())) == 10
    assert "cluster: patient" in (out / "model.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "size"), [("radiomicnet-compact", 80), ("radiomicnet-compact", 32), ("unet", 48)])
def test_a_grid_must_suit_the_strides(tmp_path, name, size):
    with pytest.raises(UsageError, match="multiples of 32 from 64 on"):
        train_zoo(name, "phantoms", out=tmp_path / "out", size=size)
    assert not (tmp_path / "out").exists()


def test_radiomicnet_trains_and_its_weights_hold_their_statistics(tmp_path):
    data = write_discs(tmp_path / "data", patients=7)
    train_zoo("radiomicnet-compact", data, out=tmp_path / "out", size=64, epochs=1, threads=1, log=lambda line: None)
    model = read_model_file(tmp_path / "out" / "model.yaml")
    assert model.input.resize == "stretch"
    assert model.output.threshold.chosen_on == "val"
    line = (tmp_path / "out" / "training.log").read_text(encoding="utf-8").splitlines()[-1]
    assert f"threshold {model.output.threshold.value};" in line
    subject = load_subject(model)
    assert "intrinsic" in subject.info.offers
    assert float(subject.module.feature_sd.max()) > 1.0
    assert subject.predict([torch.rand(1, 40, 48)])[0].shape == (2, 40, 48)


def test_the_threshold_is_the_best_of_the_validation_part(tmp_path):
    data = write_discs(tmp_path / "data", patients=7)
    train_zoo("unet-compact", data, out=tmp_path / "out", size=32, epochs=2, threads=1, log=lambda line: None)
    spec = ImageSpec(channels=1, classes=("background", "lesion"))
    parts = training_parts._folder(data, tmp_path / "out", 0, (), spec, tmp_path / "out" / "split.csv")
    path, trained = tmp_path / "out" / "model.yaml", Trained(tmp_path / "out" / "weights.safetensors", 1, None, 0)
    recipe = Recipe(size=32, choose_threshold=True)
    _, best, score = training._finish(tmp_path / "out", "unet-compact", recipe, parts, trained, spec)
    subject = load_subject(read_model_file(path))
    assert subject.info.threshold.value == best
    found = {}
    for threshold in training.THRESHOLDS:
        values = []
        for case in parts.cases("validation", spec):
            positive = subject.predict([torch.from_numpy(case.image)])[0].softmax(dim=0)[1].numpy() >= threshold
            mask = case.reference == 1
            values.append(2 * (positive & mask).sum() / (positive.sum() + mask.sum()))
        found[threshold] = float(np.mean(values))
    assert score.dice == pytest.approx(max(found.values()))
    assert found[best] == pytest.approx(max(found.values()))


def test_phantoms_know_their_own_parts(tmp_path):
    parts = training_parts._phantoms(3, ("device",))
    held = training.plain_entry(parts.entries["train"])
    assert held == {
        "reader": "phantom", "phantom": {"split": "train", "seed": 3}, "cluster": "patient", "strata": ["device"],
    }  # fmt: skip


def test_an_unknown_model_is_named(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'unet-compact'"):
        train_zoo("unet-compct", "phantoms", out=tmp_path)


@pytest.fixture(scope="module")
def hasty():
    """The recipe of the detector with a few steps only."""
    brief = replace(zoo.recipe_of("detector-compact", "brief"), images_per_epoch=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "recipe_of", lambda name, which: brief)
        yield


@pytest.fixture(scope="module")
def detector(tmp_path_factory, hasty):
    out, lines = tmp_path_factory.mktemp("detector"), []
    written = train_zoo(
        "detector-compact", "scenes:flights=1,tiles=3,shortcut=0.9", out=out, size=64, epochs=1, threads=1, seed=4,
        strata=("habitat",), recipe="brief", log=lines.append,
    )  # fmt: skip
    return out, lines, written


def test_a_detector_of_scenes_can_be_audited(detector):
    out, lines, written = detector
    assert sorted(path.name for path in out.iterdir()) == ["model.yaml", "training.log", "weights.safetensors"]
    assert "generated scenes (flights=1,tiles=3,shortcut=0.9), seed 4" in lines[0]
    assert "AP50" in lines[-1]
    assert "xaiseg audit" in written[-1]
    model = read_model_file(out / "model.yaml")
    assert (model.task, model.classes, model.input.channels) == ("detection", ("seal",), 3)
    assert model.output.threshold.chosen_on == "val"
    assert {entry.scene.shortcut.correlation for entry in model.data.values()} == {0.9}
    assert {entry.scene.split for entry in model.data.values()} == {"train", "validation", "test"}
    subject = load_subject(model)
    assert "raw_boxes" in subject.info.offers
    assert subject.predict([torch.rand(3, 100, 120)])[0].xyxy.shape[1] == 4


def test_a_training_can_start_from_weights(detector, hasty, tmp_path):
    first = []
    for start in (None, detector[0] / "weights.safetensors"):
        lines = []
        train_zoo(
            "detector-compact", "scenes:flights=1,tiles=3", out=tmp_path / str(start is None), size=64, epochs=1,
            threads=1, recipe="brief", start=start, log=lines.append,
        )  # fmt: skip
        first.append(float(lines[1].partition("loss ")[2].split()[0]))
    assert first[1] < first[0]
    with pytest.raises(UsageError, match="--start"):
        train_zoo(
            "unet-compact", "phantoms", out=tmp_path / "other", start=detector[0] / "weights.safetensors", epochs=1
        )


def test_a_detector_trains_on_a_folder_and_leaves_out_what_is_unused(hasty, tmp_path):
    from xaiseg.data.scenes import SceneSpec, scene_list, write_scenes

    spec = SceneSpec(flights=4, tiles=2, size=(64, 64), empty_share=0.0)
    folder = write_scenes(spec, tmp_path / "tiles")
    parts = ("train", "validation", "test", "unused")
    rows = [f"{tile.id},{parts[int(tile.flight[-2:])]}" for tile in scene_list(spec)]
    split = tmp_path / "split.csv"
    split.write_text("\n".join(["id,part", *rows]) + "\n", encoding="utf-8")
    options = {"size": 64, "epochs": 1, "threads": 1, "recipe": "brief", "split": split, "log": lambda line: None}
    with pytest.raises(UsageError, match="classes of a detector have no default"):
        train_zoo("detector-compact", folder, out=tmp_path / "out", **options)
    train_zoo("detector-compact", folder, out=tmp_path / "out", classes=("seal",), **options)
    model = read_model_file(tmp_path / "out" / "model.yaml")
    from xaiseg.data.readers import open_dataset

    sets = {
        name: open_dataset(name, entry, root=model.data_root, spec=model.image_spec())
        for name, entry in model.data.items()
    }
    assert {name: len(dataset.cases) for name, dataset in sets.items()} == {"train": 2, "validation": 2, "test": 2}


def test_data_of_another_task_and_options_that_cannot_be_read_are_refused(tmp_path):
    data = write_discs(tmp_path / "data", patients=7)
    for name, given, message in (
        ("detector-compact", "phantoms", "phantoms do not suit this model"),
        ("unet-compact", "scenes", "scenes do not suit this model"),
        ("detector-compact", "scenes:flihgts=3", "flihgts=3"),
        ("detector-compact", "scenes:shortcut=2", "less than or equal to 1"),
        ("detector-compact", "scenes:world=cetaceans,shortcut=1", "no ice"),
    ):
        with pytest.raises(UsageError, match=message):
            train_zoo(name, given, out=tmp_path / "out", classes=("a", "b") if given == "phantoms" else None)
    with pytest.raises(UsageError, match="not read for detection"):
        train_zoo("detector-compact", data, out=tmp_path / "out", classes=("disc",))
