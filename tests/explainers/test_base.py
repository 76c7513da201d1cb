from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tests.explainers.toy_segmenters import ToySegmenter, bright_square, small_unet
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers import base
from xaiseg.explainers.base import Attribution, Budget, Session, explain, explainer, get_explainer, load_explainers
from xaiseg.explainers.cam import CamParams
from xaiseg.explainers.targets import Region

REGION = Region(1, np.ones((24, 32), dtype=bool))


@pytest.fixture
def registry(monkeypatch):
    load_explainers()
    monkeypatch.setattr(base, "REGISTRY", dict(base.REGISTRY))


def test_the_three_methods_of_the_package_are_found_with_a_hint_for_others():
    assert {"hirescam", "integrated-gradients", "occlusion"} <= set(load_explainers())
    with pytest.raises(UsageError, match="did you mean 'hirescam'"):
        get_explainer("hires-cam")


@pytest.mark.usefixtures("registry")
def test_registration_is_validated():
    @dataclass
    class Loose:
        grid: int = 8

    with pytest.raises(ValueError, match="unknown needs"):
        explainer("new", needs={"gradient"}, unit="logit")(lambda session, targets, *, params: None)
    with pytest.raises(ValueError, match="frozen dataclass"):
        explainer("new", needs=(), unit="logit", params=Loose)(lambda session, targets, *, params: None)
    with pytest.raises(ValueError, match="the name is taken"):
        explainer("occlusion", needs=(), unit="logit")(lambda session, targets, *, params: None)


@pytest.mark.usefixtures("registry")
def test_maps_of_the_wrong_size_or_with_nan_are_errors_and_blank_maps_carry_a_word():
    def register(values):
        base.REGISTRY.pop("new", None)
        explainer("new", needs={"scores"}, unit="logit")(lambda session, targets, *, params: Attribution(values))

    session = Session(small_unet(), bright_square())
    register(np.zeros((1, 2, 2)))
    with pytest.raises(SubjectError, match="another size"):
        explain(session, "new", [REGION])
    register(np.full((1, 24, 32), np.nan))
    with pytest.raises(SubjectError, match="not finite"):
        explain(session, "new", [REGION])
    register(np.zeros((1, 24, 32)))
    found = explain(session, "new", [REGION])
    assert "zero everywhere" in found.notes[-1]
    assert found.values.dtype == np.float32


def test_a_method_says_what_the_subject_lacks():
    black = ToySegmenter(small_unet().network, offers=frozenset({"scores"}))
    assert get_explainer("occlusion").missing(black) == ""
    with pytest.raises(SubjectError, match="hirescam needs activations and forward and gradients"):
        explain(Session(black, bright_square()), "hirescam", [REGION])


def test_foreign_parameters_and_no_target_are_refused():
    session = Session(small_unet(), bright_square())
    with pytest.raises(UsageError, match="CamParams"):
        explain(session, "occlusion", [REGION], params=CamParams())
    with pytest.raises(UsageError, match="nothing is to be explained. Got: no target"):
        explain(session, "occlusion", [])


def test_scores_are_streamed_in_batches_and_do_not_depend_on_their_size():
    images = [bright_square() * share for share in (0.1, 0.4, 0.7, 1.0, 1.3)]
    sessions = [Session(small_unet(), bright_square(), budget=Budget(size)) for size in (1, 2, 8)]
    answers = [session.scores(iter(images), [REGION]) for session in sessions]
    assert answers[0].shape == (5, 1)
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-6)
    assert [session.forwards for session in sessions] == [5, 5, 5]
    assert sessions[0].scores([], [REGION]).shape == (0, 1)


def test_the_unperturbed_image_is_predicted_once():
    session = Session(small_unet(), bright_square())
    first = session.prediction
    session.score(REGION)
    assert session.prediction is first
    assert session.forwards == 1


@pytest.mark.parametrize("method", ["hirescam", "integrated-gradients", "occlusion"])
def test_maps_are_deterministic_on_any_memory_layout(method):
    image = bright_square(channels=3)
    layouts = [image, image[None].contiguous(memory_format=torch.channels_last)[0], image.numpy()]
    maps = [explain(Session(small_unet(channels=3), each), method, [REGION]).values for each in layouts]
    for each in maps[1:]:
        np.testing.assert_allclose(each, maps[0], atol=1e-6)
