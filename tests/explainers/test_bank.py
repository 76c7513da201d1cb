import numpy as np
import pytest
import torch

from tests.explainers.toy_segmenters import Linear, ToySegmenter, bright_square, small_unet
from xaiseg.errors import SubjectError
from xaiseg.explainers.base import Budget, Session
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.masks import Design
from xaiseg.explainers.targets import Region

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION = Region(1, MASK)
OTHER = Region(1, ~MASK)
LABELS = Segments.of(np.arange(24 * 32).reshape(24, 32) // 100)


@pytest.mark.parametrize("design", [Design(grid=4), Design(segments=LABELS), Design(offsets="random")])
def test_responses_are_scores_of_masked_images_by_the_definition(design):
    subject, image = small_unet(channels=2), bright_square(channels=2)
    session = Session(subject, image, budget=Budget(4))
    bank = session.bank(design, "blur")
    found = bank.responses([REGION, OTHER], 7)
    fill = session.baseline("blur")
    masks = bank.cells.masks(found.rows, found.groups, torch.device("cpu"))
    for index in range(7):
        masked = image * masks[index] + (1 - masks[index]) * fill
        logits = subject.predict([masked])[0][None]
        expected = [REGION.score(logits).item(), OTHER.score(logits).item()]
        np.testing.assert_allclose(found.scores[index], expected, atol=1e-5)


def test_responses_do_not_depend_on_the_batch_and_are_deterministic_under_a_seed():
    answers = [
        Session(small_unet(), bright_square(), seed=seed, budget=Budget(size))
        .bank(Design(), "mean")
        .responses([REGION], 9)
        for seed, size in ((1, 1), (1, 4), (1, 64), (2, 4))
    ]
    for each in answers[1:3]:
        np.testing.assert_array_equal(each.rows, answers[0].rows)
        np.testing.assert_allclose(each.scores, answers[0].scores, atol=1e-6)
    assert (answers[3].rows != answers[0].rows).any()


def test_methods_share_a_bank_that_only_runs_what_is_new():
    session = Session(small_unet(), bright_square())
    bank = session.bank(Design(), "mean")
    assert session.bank(Design(), "mean") is bank
    assert session.bank(Design(), "blur") is not bank
    first = bank.responses([REGION, OTHER], 10)
    assert session.forwards == 10
    more = bank.responses([REGION], 16)
    assert session.forwards == 16
    np.testing.assert_array_equal(more.scores[:10, 0], first.scores[:, 0])
    np.testing.assert_array_equal(bank.responses([OTHER, REGION], 16).scores[:, 1], more.scores[:, 0])
    assert session.forwards == 16  # OTHER went along
    late = Region(1, np.ones_like(MASK))
    assert bank.responses([late], 4).scores.shape == (4, 1)
    assert session.forwards == 20
    assert bank.responses([late, REGION], 18).scores.shape == (18, 2)
    assert session.forwards == 20 + 12 + 2


def test_the_ends_are_the_image_and_the_baseline():
    weights = torch.rand(1, 24, 32, generator=torch.Generator().manual_seed(2))
    image = bright_square()
    session = Session(ToySegmenter(Linear(weights)), image)
    whole, bare = session.bank(Design(), "mean").ends([REGION, OTHER])
    assert whole == pytest.approx([float((weights * image).sum())] * 2, rel=1e-5)
    assert bare == pytest.approx([float(weights.sum() * image.mean())] * 2, rel=1e-5)
    session.bank(Design(), "mean").ends([OTHER])
    assert session.forwards == 2


def test_pixels_are_made_a_batch_at_a_time(monkeypatch):
    session = Session(small_unet(), bright_square(), budget=Budget(3))
    bank = session.bank(Design(), "mean")
    painted = []
    real = type(bank.cells).masks
    monkeypatch.setattr(type(bank.cells), "masks", lambda *given: painted.append(len(given[1])) or real(*given))
    bank.responses([REGION], 8)
    assert painted == [3, 3, 2]


def test_a_black_box_and_tiny_images_are_served():
    black = ToySegmenter(small_unet().network, offers=frozenset({"scores"}))
    assert Session(black, bright_square()).bank(Design(), "mean").responses([REGION], 3).scores.shape == (3, 1)
    tiny = Session(ToySegmenter(Linear(torch.ones(1, 1, 3))), torch.rand(1, 1, 3))
    bank = tiny.bank(Design(), "mean")
    assert bank.cells.count == 3
    assert np.isfinite(bank.responses([Region(1, np.ones((1, 3), dtype=bool))], 5).scores).all()


def test_a_response_that_is_not_finite_is_named():
    class Broken(torch.nn.Module):
        def forward(self, x):
            return x / (x[:, :, :1, :1] > 0.99).float()

    image = bright_square()
    image[0, 0, 0] = 1.0
    with pytest.raises(SubjectError, match=r"target class-1: the score of a perturbed image is not finite.*inf|nan"):
        Session(ToySegmenter(Broken()), image).bank(Design(keep=0.1), "mean").responses([REGION], 8)
