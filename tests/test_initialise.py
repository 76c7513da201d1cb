import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from tests.toys import Answer, TinyNet
from tests.worlds import blob_world
from xaiseg import zoo
from xaiseg.errors import UsageError
from xaiseg.initialise import initialise
from xaiseg.loading import load_subject
from xaiseg.modelfile import read_model_file


class Bright(nn.Module):
    """Sees what is brighter than one half of a range that was shifted and scaled by its own mean and deviation."""

    def __init__(self, channels=1, mean=0.0, std=1.0, outputs=1):
        super().__init__()
        self.look = nn.Conv2d(channels, outputs, 1)
        nn.init.zeros_(self.look.weight)
        nn.init.zeros_(self.look.bias)
        with torch.no_grad():
            self.look.weight[-1] = 20.0 * std / channels
            self.look.bias[-1] = 20.0 * (mean - 0.5)

    def forward(self, x):
        return self.look(x)


@pytest.fixture
def data(tmp_path):
    blob_world(tmp_path, n=12, empty=2)
    return tmp_path / "data"


def onnx(network, path, *, channels=1, size=(48, 48), fixed=False):
    axes = {} if fixed else {"x": {0: "batch", 2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (torch.zeros(1, channels, *size),), str(path), input_names=["x"],
                          dynamic_axes=axes, dynamo=False)  # fmt: skip
    return path


def test_a_draft_can_be_audited_and_marks_every_guess(tmp_path, data):
    path = onnx(Bright(), tmp_path / "m.onnx")
    lines = initialise(str(path), data, out=tmp_path / "out" / "model.yaml")
    text = (tmp_path / "out" / "model.yaml").read_text(encoding="utf-8")
    for key in ("name", "classes", "source", "channels", "size", "range", "mean", "activation", "kind", "threshold"):
        line = next(line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
        assert "# guess:" in line, key
    model = read_model_file(tmp_path / "out" / "model.yaml")
    assert model.source.target == "../m.onnx"
    assert (model.output.kind, model.output.activation) == ("logits", "sigmoid")
    assert model.data["test"].cluster == "group"
    assert load_subject(model).predict([torch.zeros(1, 20, 30)])[0].shape == (2, 20, 30)
    assert "mean Dice 1.00" in " ".join(lines) or "mean Dice 0.9" in " ".join(lines)
    with Image.open(tmp_path / "out" / "model.png") as picture:
        assert picture.width > 3 * 48


@pytest.mark.parametrize(
    ("mean", "std", "expected"), [(0.0, 1.0, (0.0, 1.0)), (0.5, 0.5, (0.5, 0.5)), (0.0, 1 / 255, (0.0, 1.0))]
)
def test_the_normalisation_that_agrees_with_the_references_is_found(tmp_path, data, mean, std, expected):
    path = onnx(Bright(mean=mean, std=std), tmp_path / "m.onnx")
    initialise(str(path), data, out=tmp_path / "model.yaml", force=True)
    model = read_model_file(tmp_path / "model.yaml")
    assert (model.input.mean, model.input.std) == expected
    assert model.input.range == ((0.0, 255.0) if std < 0.01 else (0.0, 1.0))


def test_colours_classes_and_probabilities(tmp_path, data):
    network = Answer(Bright(channels=3, outputs=2), "softmax")
    path = onnx(network, tmp_path / "m.onnx", channels=3)
    initialise(str(path), data, out=tmp_path / "out.yaml")
    model = read_model_file(tmp_path / "out.yaml")
    assert model.input.channels == 3
    assert (model.output.kind, model.output.activation) == ("probabilities", "softmax")


def test_more_classes_in_the_masks(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for index in range(3):
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(tmp_path / "data" / "images" / f"{index}.png")
        Image.fromarray(rng.integers(0, 4, (32, 32), np.uint8)).save(tmp_path / "data" / "masks" / f"{index}.png")
    path = onnx(TinyNet(outputs=4), tmp_path / "m.onnx")
    initialise(str(path), tmp_path / "data", out=tmp_path / "model.yaml")
    model = read_model_file(tmp_path / "model.yaml")
    assert model.classes == ("background", "class-1", "class-2", "class-3")
    assert model.output.activation == "softmax"


def test_a_fixed_size_is_written_down(tmp_path, data):
    path = onnx(Bright(), tmp_path / "m.onnx", size=(32, 64), fixed=True)
    initialise(str(path), data, out=tmp_path / "out.yaml")
    assert read_model_file(tmp_path / "out.yaml").input.size == (32, 64)


def test_weights_find_their_zoo_model_and_the_size_of_their_training(tmp_path, data):
    metadata = {"training": '{"recipe": {"size": 64}}'}
    save_file(zoo.build("unet-compact", 1, 1).state_dict(), tmp_path / "w.safetensors", metadata=metadata)
    initialise(str(tmp_path / "w.safetensors"), data, out=tmp_path / "out.yaml")
    model = read_model_file(tmp_path / "out.yaml")
    assert (model.source.zoo, model.source.weights) == ("unet-compact", "w.safetensors")
    assert model.input.size == (64, 64)


def test_a_zoo_name_means_the_shipped_weights(tmp_path, data):
    initialise("unet-compact", data, out=tmp_path / "out.yaml")
    assert read_model_file(tmp_path / "out.yaml").source.weights == zoo.card("unet-compact").weights[0].file


def test_formats_that_execute_code_need_the_option(tmp_path, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Bright(), torch.zeros(1, 1, 48, 48)), str(tmp_path / "m.pt"))
    with pytest.raises(UsageError, match="--trust"):
        initialise(str(tmp_path / "m.pt"), data, out=tmp_path / "out.yaml")
    initialise(str(tmp_path / "m.pt"), data, out=tmp_path / "out.yaml", trust=True)
    model = read_model_file(tmp_path / "out.yaml")
    assert (model.source.kind, model.trust) == ("torchscript", True)


def test_a_model_that_misses_everything_is_said_to(tmp_path, data):
    network = Bright()
    nn.init.zeros_(network.look.weight)
    lines = initialise(str(onnx(network, tmp_path / "m.onnx")), data, out=tmp_path / "out.yaml")
    assert any("the same everywhere" in line for line in lines)
    assert any("no prediction meets its reference" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.onnx", "no such file or zoo model"),
        ("unet-compct", "did you mean 'unet-compact'"),
        ("text.md", "no known kind of model"),
        ("foreign.safetensors", "which network it belongs to"),
        ("smp:Unet", "not named in full"),
    ],
)
def test_a_model_that_cannot_be_told_is_one_clear_error(tmp_path, data, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.md").write_text("x", encoding="utf-8")
    save_file(TinyNet().state_dict(), tmp_path / "foreign.safetensors")
    with pytest.raises(UsageError, match=words):
        initialise(name, data, out=tmp_path / "out.yaml")


@pytest.mark.parametrize("trust", [False, True])
def test_a_pickled_model_is_to_be_exported_or_saved_as_weights(tmp_path, data, trust):
    torch.save(TinyNet(), tmp_path / "pickle.pt")
    words = r"no source takes a pickled model.*Export the model .*ONNX.*torch.export.*state_dict\(\)"
    with pytest.raises(UsageError, match=words) as caught:
        initialise(str(tmp_path / "pickle.pt"), data, out=tmp_path / "out.yaml", trust=trust)
    assert "model.yaml" not in str(caught.value)


def test_an_existing_file_is_kept(tmp_path, data):
    before = (tmp_path / "model.yaml").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="--force"):
        initialise("unet-compact", data, out=tmp_path / "model.yaml")
    assert (tmp_path / "model.yaml").read_text(encoding="utf-8") == before
