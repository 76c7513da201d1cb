import numpy as np
import pytest
import torch

from xaiseg.errors import SubjectError
from xaiseg.outputs import pick_tensor, to_logits

Z = torch.tensor([-2.0, 0.5, 3.0])


def softmax_of(logits):
    return torch.softmax(logits, dim=1)


def test_a_one_channel_head_becomes_zero_and_z():
    logits = to_logits(Z.reshape(1, 1, 1, 3), classes=2)
    assert logits.shape == (1, 2, 1, 3)
    torch.testing.assert_close(softmax_of(logits)[0, 1, 0], torch.sigmoid(Z))


def test_probabilities_of_one_channel_come_back():
    p = torch.tensor([0.0, 0.25, 1.0]).reshape(1, 1, 1, 3)
    logits = to_logits(p, classes=2, kind="probabilities", activation="sigmoid")
    torch.testing.assert_close(softmax_of(logits)[0, 1], p[0, 0], atol=1e-5, rtol=0)
    assert torch.isfinite(logits).all()


def test_softmax_probabilities_come_back():
    p = torch.tensor([0.2, 0.5, 0.3]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(softmax_of(to_logits(p, classes=3, kind="probabilities")), p)


def test_two_independent_channels_are_decided_by_the_foreground():
    raw = torch.tensor([5.0, 1.0]).reshape(1, 2, 1, 1)
    logits = to_logits(raw, classes=2, activation="sigmoid")
    torch.testing.assert_close(softmax_of(logits)[0, 1], torch.sigmoid(raw[0, 1]))


def test_two_softmax_channels_stay_as_they_are():
    raw = torch.tensor([5.0, 1.0]).reshape(1, 2, 1, 1)
    assert torch.equal(to_logits(raw, classes=2, activation="softmax"), raw)


def test_foreground_only_channels_decide_as_their_sigmoids_do():
    raw = torch.randn(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    labels = to_logits(raw, classes=4, activation="sigmoid").argmax(dim=1)
    p = raw.sigmoid()
    expected = torch.where(p.amax(dim=1) > 0.5, p.argmax(dim=1) + 1, 0)
    assert torch.equal(labels, expected)


def test_labels_name_their_class():
    labels = torch.tensor([[[0, 2], [1, 1]]])
    assert torch.equal(to_logits(labels, classes=3, kind="labels").argmax(dim=1), labels)
    assert torch.equal(to_logits(labels.float(), classes=3, kind="labels").argmax(dim=1), labels)


@pytest.mark.parametrize(
    ("raw", "options", "words"),
    [
        (torch.zeros(1, 3, 4, 4), {"classes": 2}, "3 channels.*2 channels for 2 classes, or 1"),
        (torch.zeros(1, 2, 4, 4), {"classes": 3}, "2 channels"),
        (torch.zeros(1, 2, 4, 4), {"classes": 4, "activation": "sigmoid"}, "2 channels"),
        (torch.zeros(5), {"classes": 2}, "no image shape"),
        (torch.full((1, 1, 2, 2), float("nan")), {"classes": 2}, "NaN"),
        (torch.full((1, 1, 2, 2), float("inf")), {"classes": 2}, "infinite"),
        (torch.full((1, 1, 2, 2), 3.0), {"classes": 2, "kind": "probabilities"}, "no probabilities"),
        (torch.full((1, 2, 2), 7), {"classes": 2, "kind": "labels"}, "0 to 1"),
        (torch.full((1, 2, 2), 0.5), {"classes": 2, "kind": "labels"}, "whole numbers"),
        (torch.zeros(1, 2, 2, 2), {"classes": 2, "kind": "labels"}, "one channel"),
    ],
)
def test_what_does_not_fit_is_named(raw, options, words):
    with pytest.raises(SubjectError, match=words):
        to_logits(raw, **options)


def test_dicts_and_tuples():
    a, b = torch.zeros(1), torch.ones(1)
    assert pick_tensor({"x": "text", "a": a, "out": b}) is b
    assert pick_tensor({"a": a, "logits": b}) is b
    assert pick_tensor({"n": 3, "a": a, "b": b}) is a
    assert pick_tensor({"a": a, "b": b}, key="b") is b
    assert pick_tensor({"a": a, "b": b}, index=1) is b
    assert pick_tensor((a, b)) is a
    assert pick_tensor([a, b], index=1) is b
    assert torch.equal(pick_tensor(np.ones(1, np.float32)), b)


@pytest.mark.parametrize(
    ("output", "options"),
    [({"a": torch.zeros(1)}, {"key": "b"}), ((torch.zeros(1),), {"index": 1}), ("text", {}), ({}, {}),
     (torch.zeros(1), {"key": "out"})],
)  # fmt: skip
def test_an_output_without_that_tensor_is_an_error(output, options):
    with pytest.raises(SubjectError):
        pick_tensor(output, **options)
