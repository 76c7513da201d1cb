import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.conftest import REPOSITORY
from tests.toys import BrightBlobs, TinyNet
from xaiseg import zoo
from xaiseg.adapters import PredictionsFolder, wrap_module
from xaiseg.errors import UsageError
from xaiseg.loading import load_subject, source_sentence, weights_path, weights_sha256
from xaiseg.modelfile import InputSpec, parse_model
from xaiseg.weights import file_digest

BUILDER = "from tests.toys import TinyNet\ndef build():\n    return TinyNet(seed=9)\n"


def model(folder, source, *, trust=False, channels=1, classes="[background, lesion]", extra=""):
    text = (
        f"name: m\nclasses: {classes}\nsource: {source}\ntrust: {str(trust).lower()}\n"
        f"input: {{channels: {channels}}}\n{extra}"
    )
    return parse_model(text, path=folder / "model.yaml")


def picture(channels=1, seed=0):
    return torch.rand(channels, 24, 40, generator=torch.Generator().manual_seed(seed))


def same(subject, network, spec=None, classes=("background", "lesion")):
    spec = spec or InputSpec()
    image = picture(spec.channels)
    expected = wrap_module(network, spec, classes=classes).predict([image])[0]
    torch.testing.assert_close(subject.predict([image])[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "classes"), [(1, ("background", "a")), (3, ("background", "a", "b"))])
def test_zoo(tmp_path, channels, classes):
    torch.manual_seed(1)
    network = zoo.build("unet-compact", channels, 1 if len(classes) == 2 else 3)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    file = model(tmp_path, "{zoo: unet-compact, weights: w.safetensors}", channels=channels,
                 classes=str(list(classes)).replace("'", ""))  # fmt: skip
    subject = load_subject(file)
    same(subject, network, InputSpec(channels=channels, multiple_of=8), classes)
    assert subject.info.offers == {"scores", "forward", "gradients", "activations", "weights"}
    assert weights_sha256(file) == file_digest(tmp_path / "w.safetensors")
    assert "executed no code" in source_sentence(file)


def test_zoo_weights_by_bare_name_are_those_of_the_package(tmp_path):
    name = zoo.card("unet-compact").weights[0].file
    file = model(tmp_path, f"{{zoo: unet-compact, weights: {name}}}")
    assert weights_path(file) == zoo.WEIGHTS / name
    assert load_subject(file).info.parameters == zoo.card("unet-compact").parameters
    (tmp_path / name).write_bytes(b"its own")
    assert weights_path(file) == tmp_path / name


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_builder_and_state_dict(tmp_path, suffix):
    (tmp_path / "net.py").write_text(BUILDER, encoding="utf-8")
    state = TinyNet(seed=4).state_dict()
    if suffix == "safetensors":
        save_file(state, tmp_path / "w.safetensors")
    else:
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "w.pth")
    file = model(tmp_path, f'{{torch: "net.py:build", weights: w.{suffix}}}', trust=True)
    same(load_subject(file), TinyNet(seed=4))
    sentence = source_sentence(file)
    assert "the builder net.py:build" in sentence
    assert "pickle" not in sentence


def test_builder_without_weights_and_by_module_name(tmp_path):
    (tmp_path / "net.py").write_text(BUILDER, encoding="utf-8")
    file = model(tmp_path, '{torch: "net.py:build"}', trust=True)
    same(load_subject(file), TinyNet(seed=9))
    assert weights_sha256(file) == file_digest(tmp_path / "net.py")
    same(load_subject(model(tmp_path, '{torch: "tests.toys:TinyNet"}', trust=True)), TinyNet())


def test_a_detector_comes_from_a_builder(tmp_path):
    text = 'name: d\ntask: detection\nclasses: [blob]\nsource: {torch: "tests.toys:build_detector"}\ntrust: true\n'
    subject = load_subject(parse_model(text, path=tmp_path / "model.yaml"))
    assert isinstance(subject, BrightBlobs)
    image = torch.zeros(1, 8, 8)
    image[0, 2:4, 3:5] = 1
    assert subject.predict([image])[0].xyxy.tolist() == [[3, 2, 5, 4]]
    with pytest.raises(UsageError, match="not that of a detector"):
        load_subject(parse_model(text.replace("build_detector", "TinyNet"), path=tmp_path / "model.yaml"))


def test_a_pickle_is_named_in_the_report_when_it_executed_code(tmp_path):
    torch.save(TinyNet(seed=4), tmp_path / "w.pth")
    source = '{torch: "tests.toys:TinyNet", weights: w.pth}'
    file = model(tmp_path, source, trust=True)
    same(load_subject(file), TinyNet(seed=4))
    assert "the pickle w.pth" in source_sentence(file)


def test_torchscript_exported_and_onnx(tmp_path):
    network = TinyNet(seed=2).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, picture()[None]), str(tmp_path / "m.pt"))
        torch.onnx.export(network, (picture()[None],), str(tmp_path / "m.onnx"), dynamo=False)
    torch.export.save(torch.export.export(network, (picture()[None],)), tmp_path / "m.pt2")
    for source, trust in (("torchscript: m.pt", True), ("exported: m.pt2", True), ("onnx: m.onnx", False)):
        file = model(tmp_path, f"{{{source}}}", trust=trust)
        same(load_subject(file), TinyNet(seed=2))
        assert weights_sha256(file) == file_digest(tmp_path / source.split(": ")[1])
        assert ("was executed" in source_sentence(file)) == trust


def test_smp(tmp_path):
    import segmentation_models_pytorch as smp

    options = {"encoder_depth": 3, "decoder_channels": (16, 8, 8)}
    torch.manual_seed(0)
    network = smp.Unet("tu-mobilenetv3_small_050", encoder_weights=None, in_channels=3, classes=1, **options)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, tmp_path / "w.safetensors")
    source = (
        "{smp: {arch: Unet, encoder: tu-mobilenetv3_small_050, options: {encoder_depth: 3, decoder_channels: "
        "[16, 8, 8]}}, weights: w.safetensors}"
    )
    file = model(tmp_path, source, channels=3)
    same(load_subject(file), network, InputSpec(channels=3, multiple_of=32))
    assert "executed no code" in source_sentence(file)
    with pytest.raises(UsageError, match="cannot be built"):
        load_subject(model(tmp_path, source.replace("arch: Unet", "arch: Unett"), channels=3))


def test_torchvision(tmp_path):
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    torch.manual_seed(0)
    network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    source = "{torchvision: lraspp_mobilenet_v3_large, weights: w.pth}"
    same(load_subject(model(tmp_path, source, channels=3)), network, InputSpec(channels=3))
    with pytest.raises(UsageError, match="did you mean 'lraspp_mobilenet_v3_large'"):
        load_subject(model(tmp_path, source.replace("large", "larg"), channels=3))
    with pytest.raises(UsageError, match="3 channels"):
        load_subject(model(tmp_path, source, channels=1))


def test_python_function(tmp_path):
    text = "def predict(batch):\n    return 10 * (batch[:, :1] - 0.5)\n"
    (tmp_path / "f.py").write_text(text, encoding="utf-8")
    file = model(tmp_path, '{python: "f.py:predict"}', trust=True)
    subject = load_subject(file)
    torch.testing.assert_close(subject.predict([picture()])[0][1], 10 * (picture()[0] - 0.5))
    assert subject.info.offers == {"scores"}
    assert "the function f.py:predict" in source_sentence(file)


def test_predictions(tmp_path):
    (tmp_path / "p").mkdir()
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / "p" / "a.png")
    file = model(tmp_path, "{predictions: p}")
    subject = load_subject(file)
    assert isinstance(subject, PredictionsFolder)
    assert subject.predict_cases(["a"])[0].labels.tolist() == np.eye(4).tolist()
    assert weights_sha256(file) == file_digest(tmp_path / "p")


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('{torch: "net.py:build"}', "the builder net.py:build"),
        ('{python: "net.py:build"}', "the function net.py:build"),
        ("{torchscript: m.pt}", "the TorchScript program m.pt"),
        ("{exported: m.pt2}", r"the torch\.export program m\.pt2"),
    ],
)
def test_what_executes_code_needs_trust_and_is_named_with_its_line(tmp_path, source, what):
    text = "import builtins\nbuiltins.xaiseg_was_here = True\n"
    (tmp_path / "net.py").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=rf"model\.yaml:3: {what} would execute code.*trust: true"):
        load_subject(model(tmp_path, source))
    import builtins

    assert not hasattr(builtins, "xaiseg_was_here")


@pytest.mark.parametrize(
    ("source", "trust", "words"),
    [
        ("{zoo: unet-compct, weights: w.pth}", False, r"model\.yaml:3.*did you mean 'unet-compact'"),
        ("{zoo: unet-compact, weights: none.safetensors}", False, r"model\.yaml:3.*no such file"),
        ("{zoo: unet-compact, weights: tiny.safetensors}", False, "do not fit the model"),
        ("{onnx: none.onnx}", False, r"model\.yaml:3.*no such file"),
        ('{torch: "fails.py:build"}', True, r"model\.yaml:3.*ZeroDivisionError"),
        ('{torch: "fails.py:text"}', True, "returned no torch module.*str"),
        ('{torch: "fails.py:nothing"}', True, "no function 'nothing'"),
        ("{predictions: none}", False, r"model\.yaml:3.*no predictions"),
    ],
)
def test_what_cannot_be_loaded_is_one_clear_error(tmp_path, source, trust, words):
    save_file(TinyNet().state_dict(), tmp_path / "tiny.safetensors")
    text = "def build():\n    return 1 / 0\ndef text():\n    return 'x'\n"
    (tmp_path / "fails.py").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        load_subject(model(tmp_path, source, trust=trust))


def test_weights_for_another_number_of_channels(tmp_path):
    save_file(zoo.build("unet-compact", 3, 1).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="of another shape"):
        load_subject(model(tmp_path, "{zoo: unet-compact, weights: w.safetensors}", channels=1))


def test_a_size_that_the_graph_does_not_take_is_named_with_its_line(tmp_path):
    network = TinyNet().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(1, 1, 16, 16),), str(tmp_path / "m.onnx"), dynamo=False)
    text = "name: m\nclasses: [a, b]\nsource: {onnx: m.onnx}\ninput:\n  size: [32, 32]\n"
    with pytest.raises(UsageError, match=r"model\.yaml:5.*one image size only"):
        load_subject(parse_model(text, path=tmp_path / "model.yaml"))


def test_a_device_that_is_not_there(tmp_path):
    (tmp_path / "net.py").write_text(BUILDER, encoding="utf-8")
    file = model(tmp_path, '{torch: "net.py:build"}', trust=True)
    for device in ("cuda:99", "toaster"):
        with pytest.raises(UsageError, match="not available"):
            load_subject(file, device=device)


def test_real_weights_of_another_project_load_without_trust():
    path = REPOSITORY.parent / "shared" / "models" / "lwnet" / "wnet_drive.pth"
    if not path.is_file():
        pytest.skip(f"no real weights at {path}")
    from xaiseg.weights import read_weights

    state = read_weights(path)
    assert sum(value.numel() for name, value in state.items() if "running" not in name) > 60_000
