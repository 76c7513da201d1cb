import numpy as np
import pytest
import torch

from tests.explainers.toy_games import additive, everywhere, game_session
from tests.explainers.toy_segmenters import bright_square, small_unet
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Budget, Session, explain
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.lime import LimeParams, cosine_distances
from xaiseg.explainers.masks import Design
from xaiseg.explainers.regression import ridge
from xaiseg.explainers.shapley import KernelShapParams
from xaiseg.explainers.targets import Region

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION, OTHER = Region(1, MASK), Region(1, ~MASK)
SEGMENTS = Segments.of((np.arange(24) // 6)[:, None] * 4 + np.arange(32) // 8)


class Fixed:
    """A random state that draws our masks."""

    def __init__(self, rows):
        self.rows = rows

    def randint(self, *_):
        return self.rows.copy()


def test_parity_with_lime_image_on_the_same_masks():
    from lime.lime_image import LimeImageExplainer

    subject, image = small_unet(channels=3), bright_square(channels=3)
    session = Session(subject, image, budget=Budget(32))
    params = LimeParams(120, cut="given", segments=SEGMENTS)
    found = explain(session, "lime", [REGION, OTHER], params=params)
    rows = session.bank(Design("bernoulli", segments=SEGMENTS), "mean").responses([REGION], 120).rows
    drawn = np.concatenate([np.ones((1, 16)), rows]).astype(int)

    def classify(images):
        batch = torch.from_numpy(np.moveaxis(images, -1, 1).astype(np.float32))
        logits = subject.forward(batch)
        return torch.stack([REGION.score(logits), OTHER.score(logits)], dim=1).detach().numpy()

    explainer = LimeImageExplainer(random_state=0)
    mean = image.mean(dim=(1, 2)).numpy()
    picture = np.moveaxis(image.numpy(), 0, -1)
    explainer.random_state = Fixed(drawn.reshape(-1))
    theirs = explainer.explain_instance(
        picture, classify, labels=(0, 1), top_labels=None, hide_color=mean, num_samples=121,
        segmentation_fn=lambda _: SEGMENTS.labels, random_seed=0,
    )  # fmt: skip
    for target in (0, 1):
        coefficients = dict(theirs.local_exp[target])
        expected = np.array([coefficients[k] for k in range(16)])[SEGMENTS.labels]
        np.testing.assert_allclose(found.values[target], expected, atol=1e-5)


def test_our_own_regression_states_the_errors_of_the_same_line():
    session = Session(small_unet(), bright_square(), budget=Budget(32))
    found = explain(session, "lime", [REGION], params=LimeParams(100, cut="given", segments=SEGMENTS))
    bank = session.bank(Design("bernoulli", segments=SEGMENTS), "mean")
    responses = bank.responses([REGION], 100)
    rows = np.concatenate([np.ones((1, 16)), responses.rows])
    scores = np.concatenate([bank.ends([REGION])[0][None], responses.scores])
    weights = np.sqrt(np.exp(-(cosine_distances(rows) ** 2) / 0.25**2))
    root = np.sqrt(weights * 101 / weights.sum())[:, None]
    centred = root * (rows - weights @ rows / weights.sum())
    share = 101 / weights.sum() / np.linalg.eigvalsh(centred.T @ centred)[-1]
    ours = ridge(rows, scores, penalties=[share], weights=weights)
    np.testing.assert_allclose(found.values[0], ours.values[SEGMENTS.labels, 0], atol=1e-6)
    np.testing.assert_allclose(found.stderr[0], np.sqrt(ours.variances)[SEGMENTS.labels, 0], rtol=1e-4)


def test_an_additive_score_comes_back_and_the_line_says_how_well_it_fits():
    weights = np.arange(9.0) - 4
    session, segments = game_session(additive(weights), batch=64)
    params = LimeParams(2000, cut="given", segments=segments, baseline="dataset-mean")
    found = explain(session, "lime", [everywhere()], params=params)
    values = np.array([found.values[0][segments.labels == k].mean() for k in range(9)])
    np.testing.assert_allclose(values, weights, atol=0.05)  # the penalty of 1 shrinks a little
    assert found.notes[1].endswith("the line explains R² = 1.00 of the score")


def test_kernelshap_can_share_the_forwards_of_lime():
    session = Session(small_unet(), bright_square(), budget=Budget(32))
    explain(session, "lime", [REGION], params=LimeParams(256, cut="given", segments=SEGMENTS))
    params = KernelShapParams(256, "given", SEGMENTS, sampling="bernoulli")
    assert explain(session, "kernelshap", [REGION], params=params).cost.forwards == 0


def test_distances_are_those_of_scikit_learn():
    from sklearn.metrics import pairwise_distances

    rows = (np.random.default_rng(0).random((30, 6)) < 0.5).astype(float)
    rows[3] = 0
    theirs = pairwise_distances(rows, np.ones((1, 6)), metric="cosine").ravel()
    np.testing.assert_allclose(cosine_distances(rows), theirs, atol=1e-12)


def test_parameters_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="lime.masks"):
        LimeParams(masks=2)
    with pytest.raises(UsageError, match="lime.kernel_width"):
        LimeParams(kernel_width=0)
