import numpy as np
import pytest
import torch

from tests.explainers.toy_games import additive, everywhere, game_session
from tests.explainers.toy_segmenters import BoxFilter, Linear, ToySegmenter, bright_square, small_unet
from xaiseg.errors import UsageError
from xaiseg.explainers.bank import Responses
from xaiseg.explainers.base import Budget, Session, explain
from xaiseg.explainers.masks import Design
from xaiseg.explainers.rise import RidgeParams, RiseParams, averaged, regressed
from xaiseg.explainers.targets import Region

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION, OTHER = Region(1, MASK), Region(1, ~MASK)
WEIGHTS = np.array([3.0, -1.0, 0.5, 0.0, 2.0, 1.0, -2.0, 0.0, 4.0])
ONE_GRID = Design("bernoulli", 3, 0.3, 1)


def exact_responses(keep):
    """Every mask of 9 cells, as often as its chance says: sums over them are expectations."""
    rows = ((np.arange(512)[:, None] >> np.arange(9)) & 1).astype(np.float64)
    shown = rows.sum(axis=1)
    chance = keep**shown * (1 - keep) ** (9 - shown)
    return rows, chance, (rows @ WEIGHTS)


def test_the_expectation_of_rise_on_an_additive_score_is_its_closed_form():
    keep = 0.3
    rows, chance, scores = exact_responses(keep)
    expected = WEIGHTS * (1 - keep) + keep * WEIGHTS.sum()  # E[f m_i] / p
    np.testing.assert_allclose(rows.T @ (chance * scores) / keep, expected, atol=1e-9)
    many = np.random.default_rng(0).choice(512, size=200_000, p=chance)
    drawn = Responses(rows[many], np.zeros(len(many), dtype=int), scores[many, None])
    published = averaged(drawn, keep, centred=False)
    errors = np.sqrt(published.variances[0, :, 0])
    assert (np.abs(published.values[0, :, 0] - expected) < 5 * errors + 0.05).all()
    centred = averaged(drawn, keep)
    np.testing.assert_allclose(centred.values[0, :, 0], WEIGHTS * (1 - keep), atol=0.05)


@pytest.mark.parametrize("offsets", [1, 4, "random"])
def test_rise_is_the_weighted_mean_of_painted_masks(offsets):
    params = RiseParams(64, "published", "bernoulli", grid=4, keep=0.4, offsets=offsets, agreement=2)
    session = Session(small_unet(), bright_square(), budget=Budget(5))
    found = explain(session, "rise", [REGION, OTHER], params=params)
    bank = session.bank(Design("bernoulli", 4, 0.4, offsets), "mean")
    responses = bank.responses([REGION, OTHER], 64)
    masks = bank.cells.masks(responses.rows, responses.groups, torch.device("cpu")).numpy()
    expected = np.einsum("nt,nhw->thw", responses.scores, masks) / (64 * 0.4)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)
    assert found.cost.forwards == 64
    centred = explain(
        session, "rise", [REGION], params=RiseParams(64, "centred", "bernoulli", 4, 0.4, offsets, agreement=2)
    )
    excess = responses.scores[:, 0] - responses.scores[:, 0].mean()
    np.testing.assert_allclose(centred.values[0], np.einsum("n,nhw->hw", excess, masks) / (64 * 0.4), atol=1e-5)
    assert centred.cost.forwards == 0  # from the same masks
    assert (centred.stderr > 0).all()


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("rise", RiseParams(64, "centred", "bernoulli", grid=4, agreement=2)),
        ("ridge", RidgeParams(256, 0.75, "bernoulli", grid=4, agreement=2)),
        ("ridge", RidgeParams(256, 0.0, "bernoulli", grid=4, agreement=2)),
    ],
)
def test_stated_errors_bound_the_spread_between_seeds(method, params):
    sessions = [Session(small_unet(), bright_square(), seed=seed, budget=Budget(64)) for seed in range(10)]
    found = [explain(session, method, [REGION], params=params) for session in sessions]
    spread = np.std([each.values[0] for each in found], axis=0, ddof=1)
    stated = np.mean([each.stderr[0] for each in found], axis=0)
    assert 0.9 < np.median(stated / spread) < 4


@pytest.mark.parametrize("offsets", [1, 2, 4])
def test_ridge_gives_an_additive_score_back(offsets):
    weights = torch.randn(1, 24, 32, generator=torch.Generator().manual_seed(1)) / 100
    image = bright_square()
    session = Session(ToySegmenter(Linear(weights)), image)
    params = RidgeParams(256, 0.0, "bernoulli", grid=4, offsets=offsets, agreement=2)
    found = explain(session, "ridge", [REGION], params=params).values[0]
    cells = session.bank(Design("bernoulli", 4, 0.5, offsets), "mean").cells
    shares = cells.masks(
        np.tile(np.eye(16, dtype=np.float32), (cells.groups, 1)), np.arange(cells.groups).repeat(16), image.device
    )
    contribution = ((weights * (image - image.mean()))[0] * shares).sum(dim=(1, 2)).numpy()  # (G * 16,)
    expected = cells.paint(contribution.reshape(-1, 16, 1) / cells.groups, np.arange(cells.groups))[0]
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_share_of_ridge_is_what_rise_converges_to():
    rows, _, scores = exact_responses(0.5)
    cells = ONE_GRID.cells((12, 12))
    scores = np.column_stack([scores, scores + 0.3 * np.sin(3 * scores)])  # additive or not
    all_masks = Responses(rows, np.zeros(512, dtype=int), scores)
    rise, fitted = averaged(all_masks, 0.5).values, regressed(all_masks, cells, 0.0).values
    np.testing.assert_allclose(fitted * 0.5, rise, rtol=2e-2, atol=2e-2)


def test_smoothing_leaves_an_additive_score_exact():
    rows, _, scores = exact_responses(0.5)
    found = regressed(Responses(rows, np.zeros(512, dtype=int), scores[:, None]), ONE_GRID.cells((12, 12)), 0.75)
    np.testing.assert_allclose(found.values[0, :, 0], WEIGHTS, atol=1e-3)


@pytest.mark.parametrize("method", ["rise", "ridge"])
def test_the_map_is_deterministic_and_does_not_depend_on_the_batch(method):
    params = {"rise": RiseParams(64), "ridge": RidgeParams(64)}[method]
    maps = [
        explain(
            Session(small_unet(), bright_square(), seed=s, budget=Budget(b)), method, [REGION, OTHER], params=params
        )
        for s, b in ((0, 3), (0, 16), (1, 3))
    ]
    np.testing.assert_allclose(maps[0].values, maps[1].values, atol=2e-5)
    assert np.abs(maps[0].values - maps[2].values).max() > 100 * np.abs(maps[0].values - maps[1].values).max()
    assert maps[0].stderr.shape == maps[0].values.shape == (2, 24, 32)


def test_each_target_stops_for_itself():
    easy, hard = everywhere(), Region(1, np.ones((12, 12), dtype=bool), label="noise")
    session, _ = game_session(additive(WEIGHTS))
    toss = torch.Generator().manual_seed(0)
    hard.__dict__["score"] = lambda logits: torch.rand(len(logits), generator=toss)
    params = RidgeParams(1024, 0.0, "bernoulli", grid=3, offsets=1, baseline="dataset-mean")
    found = explain(session, "ridge", [easy, hard], params=params)
    assert found.notes[1].startswith(
        "class-1: stopped after 256 of 1,024 masks; agreement of their halves: Spearman 1.00"
    )
    assert found.notes[2].startswith("noise: 1,024 masks; agreement of their halves: Spearman ")
    assert ", below 0.95; every point lies within " in found.notes[2]
    assert found.cost.forwards == 1024
    session, _ = game_session(additive(WEIGHTS))
    assert explain(session, "ridge", [easy], params=params).cost.forwards == 256


def test_a_score_that_no_mask_moves_is_said_to_be_flat():
    session, _ = game_session(lambda cells: cells.sum(dim=1) * 0)
    found = explain(session, "rise", [everywhere()], params=RiseParams(64))
    assert (found.values == 0).all()
    assert any("undefined, one is flat" in note for note in found.notes)
    assert "zero everywhere" in found.notes[-1]


def test_short_error_bars_stop_too():
    session, _ = game_session(additive(WEIGHTS))
    params = RidgeParams(
        1024, 0.0, "bernoulli", grid=3, offsets=1, baseline="dataset-mean", agreement=2, precision=0.05
    )
    assert explain(session, "ridge", [everywhere()], params=params).cost.forwards == 256


@pytest.mark.parametrize("method", ["rise", "ridge"])
def test_evidence_beyond_the_receptive_field_is_zero_within_its_error(method):
    # Bilinear masks have no sharp cells, so here zero holds within the error; occlusion has it exactly.
    session = Session(ToySegmenter(BoxFilter(1)), bright_square())
    params = {"rise": RiseParams(512), "ridge": RidgeParams(512)}[method]
    found = explain(session, method, [REGION], params=params)
    far = np.zeros_like(MASK)
    far[:, 26:] = True
    assert np.abs(found.values[0][far]).max() < 0.2 * np.abs(found.values[0]).max()
    assert np.abs(found.values[0][MASK]).max() == np.abs(found.values[0]).max()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (1, 3, 40)])
@pytest.mark.parametrize("method", ["rise", "ridge"])
def test_tiny_and_flat_images(method, shape):
    subject = ToySegmenter(Linear(torch.ones(shape)), offers=frozenset({"scores"}))
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    session = Session(subject, image, dataset_mean=torch.zeros(1, 1, 1))
    params = {"rise": RiseParams(64, baseline="dataset-mean"), "ridge": RidgeParams(64, baseline="dataset-mean")}[
        method
    ]
    found = explain(session, method, [Region(1, np.ones(shape[1:], dtype=bool))], params=params)
    assert found.values.shape == shape
    assert (found.values > 0).mean() > 0.9


def test_parameters_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="rise.average"):
        RiseParams(average="median")
    with pytest.raises(UsageError, match="fixed positions"):
        RidgeParams(offsets="random")
    with pytest.raises(UsageError, match="negative"):
        RidgeParams(smoothing=-1)
    with pytest.raises(UsageError, match="8 or more"):
        explain(Session(small_unet(), bright_square()), "rise", [REGION], params=RiseParams(4))


def test_masks_before_the_first_look_never_exceed_the_budget():
    session = Session(small_unet(), bright_square())
    assert explain(session, "ridge", [REGION], params=RidgeParams(32, grid=2)).cost.forwards == 32
