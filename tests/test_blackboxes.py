import warnings

import numpy as np
import pytest
import torch

from tests.toys import Answer, TinyNet
from xaiseg.adapters import NetworkSegmenter, wrap_module
from xaiseg.blackboxes import exported_network, function_network, onnx_network, torchscript_network
from xaiseg.errors import UsageError
from xaiseg.modelfile import InputSpec, OutputSpec

CPU = torch.device("cpu")
SPEC = InputSpec(multiple_of=2, mean=0.5, std=0.25)


def segmenter(network, spec=SPEC, output=None, classes=("background", "a")):
    return NetworkSegmenter(network, name="m", classes=classes, spec=spec, output=output or OutputSpec())


def pictures(*shapes):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(shape, generator=generator) for shape in shapes]


def script(network, path, example=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.script(network) if example is None else torch.jit.trace(network, example)
        torch.jit.save(program, str(path))
    return path


def export(network, path, *, height, width, batch, channels=1):
    dynamic = {0: torch.export.Dim("batch")} if batch is None else {}
    example = (torch.zeros(batch or 2, channels, height, width),)
    torch.export.save(torch.export.export(network.eval(), example, dynamic_shapes=(dynamic,)), path)
    return path


def onnx(network, path, *, batch=None, size=None, channels=1):
    height, width = size or (16, 16)
    axes = {"x": {}}
    if batch is None:
        axes["x"][0] = "batch"
    if size is None:
        axes["x"] |= {2: "height", 3: "width"}
    example = (torch.zeros(batch or 2, channels, height, width),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), example, str(path), input_names=["x"], dynamic_axes=axes, dynamo=False)
    return path


def close(model, reference, images):
    for one, other in zip(model.predict(images), reference.predict(images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_torchscript_answers_and_differentiates_as_its_module_does(tmp_path):
    path = script(TinyNet(), tmp_path / "m.pt", torch.zeros(1, 1, 16, 16))
    model = segmenter(torchscript_network(path, SPEC, device=CPU))
    close(model, wrap_module(TinyNet(), SPEC), pictures((1, 20, 31), (1, 16, 16)))
    assert model.info.offers == {"scores", "forward", "gradients"}
    assert model.module is None
    gradients = []
    for subject in (model, wrap_module(TinyNet(), SPEC)):
        image = pictures((1, 20, 31))[0][None].requires_grad_()
        subject.forward(image)[:, 1].sum().backward()
        gradients.append(image.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


def test_a_program_that_gives_labels_offers_no_gradients(tmp_path):
    path = script(Answer(TinyNet(), "labels"), tmp_path / "m.pt", torch.zeros(1, 1, 16, 16))
    network = torchscript_network(path, SPEC, device=CPU)
    assert network.offers == {"scores"}
    assert segmenter(network, output=OutputSpec(kind="labels")).info.offers == frozenset()


def test_an_exported_program_with_a_dynamic_batch(tmp_path):
    path = export(TinyNet(), tmp_path / "m.pt2", height=32, width=24, batch=None)
    network = exported_network(path, SPEC, device=CPU)
    assert (network.fixed_batch, network.fixed_size) == (None, (32, 24))
    model = segmenter(network)
    images = pictures((1, 40, 30), (1, 32, 24), (1, 20, 50))
    close(model, wrap_module(TinyNet(), SPEC.model_copy(update={"size": (32, 24)})), images)
    assert "gradients" in model.info.offers
    image = images[0][None].requires_grad_()
    model.forward(image).sum().backward()
    assert (image.grad != 0).any()


def test_an_exported_program_with_a_fixed_batch(tmp_path):
    path = export(TinyNet(), tmp_path / "m.pt2", height=16, width=16, batch=1)
    network = exported_network(path, SPEC, device=CPU)
    assert network.fixed_batch == 1
    images = pictures((1, 16, 16), (1, 16, 16), (1, 16, 16))
    close(segmenter(network), wrap_module(TinyNet(), SPEC), images)


@pytest.mark.parametrize(("batch", "size"), [(None, None), (1, (16, 16)), (3, (16, 16))])
def test_onnx_answers_as_its_module_does(tmp_path, batch, size):
    path = onnx(TinyNet(), tmp_path / "m.onnx", batch=batch, size=size)
    network = onnx_network(path, SPEC, where="model.yaml:3")
    assert (network.fixed_batch, network.fixed_size) == (batch, size)
    model = segmenter(network)
    shapes = [(1, 16, 16)] * 4 if size else [(1, 20, 31), (1, 16, 16), (1, 20, 31)]
    close(model, wrap_module(TinyNet(), SPEC), pictures(*shapes))
    assert model.info.offers == {"scores"}


def test_onnx_with_colours_classes_and_two_outputs(tmp_path):
    network = TinyNet(channels=3, outputs=4)
    path = onnx(Answer(network, "second"), tmp_path / "m.onnx", channels=3)
    spec, classes = InputSpec(channels=3), ("background", "a", "b", "c")
    model = segmenter(onnx_network(path, spec, where=""), spec, OutputSpec(index=1), classes)
    close(model, wrap_module(network, spec, classes=classes), pictures((3, 18, 22)))


def test_a_function_gets_batches_on_the_networks_grid():
    seen = []

    def predict(batch):
        seen.append((type(batch), batch.dtype, batch.shape, float(batch.min())))
        return batch.mean(axis=1, keepdims=True)

    spec = InputSpec(size=(16, 16), mean=0.5, std=0.5)
    model = segmenter(function_network(predict), spec)
    assert [z.shape for z in model.predict(pictures((1, 8, 16), (1, 20, 10)))] == [(2, 8, 16), (2, 20, 10)]
    assert seen == [(np.ndarray, np.dtype("float32"), (2, 1, 16, 16), -1.0)]
    assert model.info.offers == {"scores"}


def test_a_function_may_answer_with_a_list_a_tensor_or_labels():
    image = pictures((1, 8, 8))[0]
    forms = (lambda b: list(b), lambda b: torch.from_numpy(b), lambda b: {"out": b})
    for form in forms:
        torch.testing.assert_close(segmenter(function_network(form), InputSpec()).predict([image])[0][1], image[0])
    labels = segmenter(function_network(lambda b: b[:, 0] > 0.5), InputSpec(), OutputSpec(kind="labels"))
    assert np.array_equal(labels.decide(labels.predict([image])[0]).labels, (image[0] > 0.5).numpy())


def test_files_of_another_kind_are_refused(tmp_path):
    bad = tmp_path / "bad.bin"
    bad.write_bytes(b"nothing of use")
    with pytest.raises(UsageError, match="no TorchScript"):
        torchscript_network(bad, SPEC, device=CPU)
    with pytest.raises(UsageError, match=r"no torch\.export"):
        exported_network(bad, SPEC, device=CPU)
    with pytest.raises(UsageError, match=r"model\.yaml:3: onnxruntime cannot open"):
        onnx_network(bad, SPEC, where="model.yaml:3")


def test_another_number_of_channels_is_named(tmp_path):
    path = onnx(TinyNet(channels=3), tmp_path / "m.onnx", channels=3)
    with pytest.raises(UsageError, match=r"another number of channels.*3, as in the graph"):
        onnx_network(path, SPEC, where="")
