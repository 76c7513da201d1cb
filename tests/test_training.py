import csv

import numpy as np
import pytest
import torch
from PIL import Image

from xaiseg import training
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
    ):
        broken = tmp_path / "broken.csv"
        broken.write_text(split.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        with pytest.raises(UsageError, match=message):
            train_zoo("unet-compact", data, out=tmp_path / "other", **{**options, "split": broken})
    assert not (tmp_path / "other" / "weights.safetensors").exists()
    with pytest.raises(UsageError, match="divided already"):
        train_zoo("unet-compact", "phantoms", out=tmp_path / "other", **options)


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
    parts = training._folder(data, tmp_path / "out", 0, (), spec, tmp_path / "out" / "split.csv")
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
    parts = training._phantoms(3, ("device",))
    held = training._plain(parts.entries["train"])
    assert held == {
        "reader": "phantom", "phantom": {"split": "train", "seed": 3}, "cluster": "patient", "strata": ["device"],
    }  # fmt: skip


def test_an_unknown_model_is_named(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'unet-compact'"):
        train_zoo("unet-compct", "phantoms", out=tmp_path)
