import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity

from tests.explainers.toy_segmenters import Linear, ToySegmenter, small_unet
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.masks import Design
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.infidelity import drops, infidelity, sensitivity_n, unexplained

SHAPE = (12, 16)
MASK = np.zeros(SHAPE, dtype=bool)
MASK[4:8, 5:11] = True
REGION = Region(1, MASK)
IMAGE = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0))
DESIGNS = [
    Design(grid=4, offsets=1),
    Design("sobol", grid=4, offsets=4),
    Design(grid=3, offsets="random"),
    Design("shapley", segments=Segments.of(np.arange(192).reshape(SHAPE) // 24)),
]


def linear_session():
    weights = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1)) - 0.3
    return weights[0].double().numpy(), Session(ToySegmenter(Linear(weights)), IMAGE)


def contributions(weights, bank):
    return weights * (IMAGE - bank.fill)[0].double().numpy()


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_an_additive_score_is_explained_exactly_by_its_contributions(design):
    weights, session = linear_session()
    bank = session.bank(design, "mean")
    truth = contributions(weights, bank)
    found = drops(bank, REGION, {"truth": truth, "against": -truth, "double": 2 * truth}, 40)
    scale = float((found.observed**2).mean())
    exact = infidelity(found.predicted, found.observed)
    assert exact[0] < 1e-8 * scale
    assert exact[1:].tolist() == pytest.approx([4 * scale, scale], rel=1e-4)
    assert infidelity(found.predicted, found.observed, scaled=True).max() < 1e-8 * scale
    assert sensitivity_n(found.predicted, found.observed).tolist() == pytest.approx([1.0, -1.0, 1.0], abs=1e-6)


def test_the_sum_of_the_pixels_is_explained_by_the_pixels_themselves():
    session = Session(ToySegmenter(Linear(torch.ones(1, *SHAPE))), IMAGE)
    bank = session.bank(Design(grid=4, offsets=1), "mean")
    found = drops(
        bank, REGION, {"x": IMAGE[0].numpy() - float(IMAGE.mean()), "-x": float(IMAGE.mean()) - IMAGE[0].numpy()}, 64
    )
    assert sensitivity_n(found.predicted, found.observed).tolist() == pytest.approx([1.0, -1.0], abs=1e-5)


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_the_prediction_is_the_hidden_part_of_the_map_pixel_by_pixel(design):
    session = Session(small_unet(), IMAGE)
    bank = session.bank(design, "mean")
    values = np.random.default_rng(2).standard_normal(SHAPE)
    found = drops(bank, REGION, {"map": values}, 9)
    responses = bank.responses([REGION], 9)
    for k in range(9):
        shown = bank.cells.masks(responses.rows[k : k + 1], responses.groups[k : k + 1], IMAGE.device)[0]
        expected = sum(values[at] * (1 - float(shown[at])) for at in np.ndindex(SHAPE))
        assert found.predicted[k, 0] == pytest.approx(expected, abs=1e-5)
        picture = bank.fill + shown * (IMAGE - bank.fill)
        assert found.observed[k] == pytest.approx(
            session.score(REGION) - session.scores([picture], [REGION])[0, 0], abs=1e-5
        )


@pytest.mark.parametrize("normalise", [False, True])
def test_it_is_captums_on_the_same_perturbations(normalise):
    subject, count = small_unet(1), 24
    session = Session(subject, IMAGE)
    bank = session.bank(Design("sobol", grid=4, offsets=4), "mean")
    values = explain(session, "hirescam", [REGION]).values[0]
    found = drops(bank, REGION, {"map": values}, count)
    responses = bank.responses([REGION], count)
    shown = bank.cells.masks(responses.rows, responses.groups, IMAGE.device)[:, None]
    expected = captum_infidelity(
        lambda x: REGION.score(subject.forward(x)),
        # captum wants the share of each pixel's contribution that is gone, and the picture without it
        lambda inputs: (1 - shown, bank.fill + shown * (IMAGE - bank.fill)),
        IMAGE[None],
        torch.from_numpy(values)[None, None],
        n_perturb_samples=count,
        max_examples_per_batch=count,
        normalize=normalise,
    )
    own = infidelity(found.predicted, found.observed, scaled=normalise)[0]
    assert own == pytest.approx(float(expected[0]), rel=1e-4)


def test_a_bank_that_a_method_has_filled_costs_nothing_more():
    session = Session(small_unet(), IMAGE)
    design = Design("sobol", grid=8, offsets=4)
    values = explain(session, "ridge", [REGION]).values[0]
    bank = session.bank(design, "mean")
    before = session.forwards
    drops(bank, REGION, {"map": values}, 256)
    assert session.forwards - before <= 2  # the image itself, and the baseline alone


def test_the_unexplained_share_is_one_minus_the_squared_cosine():
    rng = np.random.default_rng(4)
    predicted, observed = rng.standard_normal((30, 3)), rng.standard_normal(30)
    cosines = [
        predicted[:, k] @ observed / np.linalg.norm(predicted[:, k]) / np.linalg.norm(observed) for k in range(3)
    ]
    assert unexplained(predicted, observed).tolist() == pytest.approx([1 - c**2 for c in cosines])
    assert unexplained(np.zeros((30, 1)), observed).tolist() == [1.0]
    assert unexplained(predicted, np.zeros(30)) is None


def test_correlation_by_numpy_and_undefined_without_variation():
    rng = np.random.default_rng(5)
    predicted, observed = rng.standard_normal((30, 2)), rng.standard_normal(30)
    expected = [np.corrcoef(predicted[:, k], observed)[0, 1] for k in range(2)]
    assert sensitivity_n(predicted, observed).tolist() == pytest.approx(expected)
    assert np.isnan(sensitivity_n(np.full((30, 1), 0.1), observed)).all()
    assert np.isnan(sensitivity_n(predicted, np.ones(30))).all()
