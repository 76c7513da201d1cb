import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.toys import Answer, TinyNet
from xaiseg.adapters import Network, NetworkSegmenter, PredictionsFolder, module_network, wrap_module
from xaiseg.errors import SubjectError, UsageError
from xaiseg.modelfile import InputSpec, OutputSpec, parse_model

SPECS = {
    "own size": InputSpec(multiple_of=2),
    "padded": InputSpec(size=(32, 24), multiple_of=16),
    "stretched": InputSpec(size=(32, 24), resize="stretch"),
    "normalised": InputSpec(multiple_of=4, mean=0.4, std=0.2),
    "wide range": InputSpec(multiple_of=4, range=(0, 255), mean=100.0, std=50.0),
}


def images(*shapes, top=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [top * torch.rand(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("name", SPECS)
def test_predict_and_forward_are_one_way(name):
    spec = SPECS[name]
    model = wrap_module(TinyNet(), spec)
    image = images((1, 30, 41), top=spec.range[1])[0]
    torch.testing.assert_close(model.predict([image])[0], model.forward(image[None])[0].detach(), rtol=1e-4, atol=1e-5)


def test_padding_and_normalisation_are_those_of_the_definition():
    network = TinyNet()
    model = wrap_module(network, InputSpec(multiple_of=8, range=(0, 2), mean=0.5, std=0.25))
    image = images((1, 13, 10), top=2.0)[0]
    grid = torch.zeros(1, 1, 16, 16)
    grid[..., 1:14, 3:13] = image
    with torch.no_grad():
        z = network((grid - 0.5) / 0.25)[0, 0, 1:14, 3:13]
    logits = model.predict([image])[0]
    torch.testing.assert_close(logits[1], z, rtol=1e-4, atol=1e-5)
    assert (logits[0] == 0).all()


def test_images_of_many_sizes_keep_their_order_whatever_the_batch():
    model = wrap_module(TinyNet(), InputSpec(multiple_of=8))
    batch = images((1, 16, 16), (1, 9, 30), (1, 15, 14), (1, 16, 16), (1, 12, 25))
    alone = [model.predict([image])[0] for image in batch]
    for size in (1, 2, 8):
        for one, together in zip(alone, model.predict(batch, batch_size=size), strict=True):
            torch.testing.assert_close(one, together, rtol=1e-4, atol=1e-5)


def test_forward_passes_never_hold_more_images_than_the_batch():
    seen = []

    class Watch(TinyNet):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    wrap_module(Watch(), InputSpec(size=(16, 16))).predict(images(*[(1, 20 + i, 30) for i in range(7)]), batch_size=3)
    assert seen == [3, 3, 1]


@pytest.mark.parametrize("name", SPECS)
def test_gradients_reach_the_images_own_pixels(name):
    model = wrap_module(TinyNet(), SPECS[name])
    image = images((1, 30, 41), top=SPECS[name].range[1])[0][None].requires_grad_()
    model.forward(image)[:, 1].sum().backward()
    assert image.grad.shape == image.shape
    assert (image.grad.abs() > 0).float().mean() > 0.5


def test_a_shift_of_the_range_changes_nothing():
    network = TinyNet()
    image = images((1, 16, 16))[0]
    small = wrap_module(network, InputSpec(mean=0.5, std=0.2)).predict([image])[0]
    large = wrap_module(network, InputSpec(range=(0, 255), mean=127.5, std=51.0)).predict([255 * image])[0]
    torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-4)


def test_rgb_means_are_those_of_each_channel():
    network = nn.Conv2d(3, 1, 1)
    model = wrap_module(network, InputSpec(channels=3, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)))
    image = images((3, 5, 4))[0]
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model.predict([image])[0][1], network(((image - mean) / std)[None])[0, 0])


@pytest.mark.parametrize("form", ["out", "logits", "other", "tuple"])
def test_dict_and_tuple_outputs_answer_as_the_plain_one(form):
    image = images((1, 16, 20))[0]
    plain = wrap_module(TinyNet()).predict([image])[0]
    torch.testing.assert_close(wrap_module(Answer(TinyNet(), form)).predict([image])[0], plain)


def test_the_second_output_can_be_asked_for():
    image = images((1, 16, 20))[0]
    plain = wrap_module(TinyNet()).predict([image])[0]
    second = wrap_module(Answer(TinyNet(), "second"), output=OutputSpec(index=1))
    torch.testing.assert_close(second.predict([image])[0], plain)


def test_probabilities_and_labels_decide_as_logits_do():
    image = images((1, 16, 20))[0]
    plain = wrap_module(TinyNet())
    expected = plain.decide(plain.predict([image])[0])
    for form, kind in (("sigmoid", "probabilities"), ("labels", "labels")):
        model = wrap_module(Answer(TinyNet(), form), output=OutputSpec(kind=kind))
        prediction = model.decide(model.predict([image])[0])
        assert np.array_equal(prediction.labels, expected.labels)
        if kind == "labels":
            assert prediction.probabilities is None
            assert model.info.offers == frozenset()
        else:
            np.testing.assert_allclose(prediction.probabilities, expected.probabilities, atol=1e-4)


def test_more_classes():
    classes = ("background", "a", "b", "c")
    image = images((1, 16, 20))[0]
    plain = wrap_module(TinyNet(outputs=4), classes=classes).predict([image])[0]
    soft = wrap_module(Answer(TinyNet(outputs=4), "softmax"), output=OutputSpec(kind="probabilities"), classes=classes)
    torch.testing.assert_close(soft.predict([image])[0].softmax(0), plain.softmax(0), atol=1e-5, rtol=1e-4)


def test_what_a_white_box_offers():
    model = wrap_module(TinyNet())
    assert model.info.offers == {"scores", "forward", "gradients", "activations", "weights"}
    assert isinstance(model.module, TinyNet)
    assert not model.module.training
    assert model.info.parameters == sum(p.numel() for p in TinyNet().parameters())


def test_a_prediction_can_take_part_in_a_backward_pass():
    model = wrap_module(TinyNet(), InputSpec(multiple_of=2))
    image = images((1, 16, 16))[0]
    weight = model.predict([image])[0]
    (model.forward(image[None].requires_grad_())[0] * weight).sum().backward()


def test_a_graph_with_a_fixed_batch_gets_that_batch():
    seen = []

    def call(batch):
        seen.append(tuple(batch.shape))
        return batch.mean(dim=1, keepdim=True)

    network = Network(call, frozenset({"scores"}), fixed_batch=4, fixed_size=(16, 16))
    model = NetworkSegmenter(network, name="m", classes=("background", "a"), spec=InputSpec(), output=OutputSpec())
    assert [len(z) for z in model.predict(images(*[(1, 16, 16)] * 5), batch_size=8)] == [2] * 5
    assert seen == [(4, 1, 16, 16)] * 2


def test_a_graph_with_a_fixed_size_refuses_another():
    network = Network(lambda x: x, frozenset({"scores"}), fixed_size=(16, 16))
    with pytest.raises(UsageError, match=r"one image size only.*\[16, 16\]"):
        NetworkSegmenter(
            network, name="m", classes=("background", "a"), spec=InputSpec(size=(32, 32)), output=OutputSpec()
        )


@pytest.mark.parametrize(
    ("model", "image", "words"),
    [
        (wrap_module(TinyNet()), torch.zeros(3, 16, 16), r"\(3, 16, 16\).*\(1, height, width\)"),
        (wrap_module(TinyNet()), torch.zeros(1, 15, 16), "multiple_of"),
        (wrap_module(TinyNet(outputs=3)), torch.zeros(1, 16, 16), "3 channels"),
        (wrap_module(TinyNet(channels=3)), torch.zeros(1, 16, 16), "cannot process"),
        (wrap_module(Answer(TinyNet(), "nan")), torch.zeros(1, 16, 16), "NaN"),
        (wrap_module(Answer(TinyNet(), "flat")), torch.zeros(1, 16, 16), "no image shape"),
        (wrap_module(nn.AdaptiveAvgPool2d((3, 7))), torch.zeros(1, 16, 16), "does not fit the input"),
    ],
)
def test_an_answer_that_does_not_fit_is_one_clear_error(model, image, words):
    with pytest.raises(SubjectError, match=words):
        model.predict([image])


def test_a_constant_answer_is_legal():
    network = nn.Conv2d(1, 1, 1)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    assert (wrap_module(network).predict([torch.rand(1, 8, 8)])[0] == 0).all()


def test_out_of_memory_is_not_disguised():
    def call(batch):
        raise torch.OutOfMemoryError("no memory")

    model = NetworkSegmenter(
        Network(call, frozenset({"scores"})),
        name="m", classes=("background", "a"), spec=InputSpec(), output=OutputSpec(),
    )  # fmt: skip
    with pytest.raises(torch.OutOfMemoryError):
        model.predict([torch.zeros(1, 8, 8)])


def test_a_black_box_has_no_forward():
    black = NetworkSegmenter(
        Network(module_network(TinyNet()).call, frozenset({"scores"})),
        name="m", classes=("background", "a"), spec=InputSpec(), output=OutputSpec(),
    )  # fmt: skip
    with pytest.raises(SubjectError, match="no differentiable forward"):
        black.forward(torch.zeros(1, 1, 8, 8))


def folder_model(path, classes="[background, lesion]", output="{}"):
    text = f"name: m\nclasses: {classes}\nsource: {{predictions: p}}\noutput: {output}\n"
    return PredictionsFolder(path, parse_model(text, path=path.parent / "model.yaml"))


def test_a_folder_of_masks_gives_labels_only(tmp_path):
    mask = np.array([[0, 255], [255, 0]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "a.png")
    subject = folder_model(tmp_path)
    (prediction,) = subject.predict_cases(["a"])
    assert prediction.labels.tolist() == [[0, 1], [1, 0]]
    assert prediction.probabilities is None
    assert subject.by_case
    with pytest.raises(SubjectError, match="new images"):
        subject.predict([torch.zeros(1, 2, 2)])


def test_a_folder_of_probabilities_gives_scores(tmp_path):
    p = np.array([[0.1, 0.9], [0.5, 0.0]], np.float32)
    np.save(tmp_path / "a.npy", p)
    np.save(tmp_path / "b.npy", np.stack([1 - p, p]))
    output = "{kind: probabilities, activation: softmax, threshold: {value: 0.6}}"
    subject = folder_model(tmp_path, output=output)
    assert subject.info.offers == {"scores"}
    for prediction in subject.predict_cases(["a", "b"]):
        np.testing.assert_allclose(prediction.probabilities[1], p, atol=1e-5)
        assert prediction.labels.tolist() == [[0, 1], [0, 0]]
    (unsaid,) = folder_model(tmp_path, output="{threshold: {value: 0.6}}").predict_cases(["a"])
    np.testing.assert_allclose(unsaid.probabilities[1], p, atol=1e-5, err_msg="probabilities are what is stored")


def test_a_folder_of_index_masks_with_more_classes(tmp_path):
    Image.fromarray(np.array([[0, 2], [1, 1]], np.uint8)).save(tmp_path / "a.png")
    (prediction,) = folder_model(tmp_path, "[background, a, b]").predict_cases(["a"])
    assert prediction.labels.tolist() == [[0, 2], [1, 1]]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("b", None, "no prediction"),
        ("../a", None, "no prediction"),
        ("a", np.full((2, 2), 7, np.uint8), "outside the classes"),
        ("a", np.zeros((2, 2, 3), np.uint8), "one 8-bit channel"),
        ("a", b"no picture", "cannot be read"),
    ],
)
def test_a_bad_prediction_is_one_clear_error(tmp_path, name, content, words):
    folder = tmp_path / "p"
    folder.mkdir()
    for place in (folder / "a.png", tmp_path / "a.png"):
        if isinstance(content, bytes):
            place.write_bytes(content)
        else:
            Image.fromarray(np.zeros((2, 2), np.uint8) if content is None else content).save(place)
    with pytest.raises(SubjectError, match=words):
        folder_model(folder).predict_cases([name])


def test_a_pickled_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SubjectError, match="cannot be read"):
        folder_model(tmp_path).predict_cases(["a"])


def test_a_folder_without_predictions_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"model\.yaml:3.*no predictions"):
        folder_model(tmp_path)


def test_a_network_of_half_precision_gets_what_it_computes_in():
    torch.manual_seed(0)
    module = nn.Conv2d(1, 1, 3, padding=1)
    image = torch.rand(1, 20, 30)
    whole = wrap_module(module).predict([image])[0]
    half = wrap_module(copy.deepcopy(module).to(torch.bfloat16))
    assert half.predict([image])[0].dtype == torch.float32
    torch.testing.assert_close(half.predict([image])[0], whole, atol=0.02, rtol=0.02)
    leaf = image[None].clone().requires_grad_(True)
    half.forward(leaf).sum().backward()
    assert bool(torch.isfinite(leaf.grad).all())
