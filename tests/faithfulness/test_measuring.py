import numpy as np
import pytest
import torch

from tests.explainers.toy_segmenters import bright_square, small_unet
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.rise import RidgeParams
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.measuring import described, filled_bank, steadiness, versus

MASK = np.zeros((24, 32), dtype=bool)
MASK[8:16, 10:18] = True
REGION = Region(1, MASK)


def test_the_best_rival_is_the_best_in_the_direction_of_the_score():
    scores = {"map": 0.4, "a": 0.1, "b": 0.7, "undefined": float("nan")}
    up = versus(scores, "map", ["a", "b", "undefined"])
    down = versus(scores, "map", ["a", "b", "undefined"], higher_is_better=False)
    assert (up.excess, up.best) == (pytest.approx(-0.3), "b")
    assert (down.excess, down.best) == (pytest.approx(-0.3), "a")
    assert versus(scores, "undefined", ["a"]) is None
    assert versus(scores, "map", ["undefined"]).excess is None


def test_a_blank_map_is_described_by_nothing():
    assert set(described(np.zeros((4, 5)), np.eye(4, 5, dtype=bool)).values()) == {None}


def test_an_even_map_has_full_complexity_on_any_grid():
    for shape in ((3, 4), (20, 30)):
        found = described(np.ones(shape), np.eye(*shape, dtype=bool))
        assert found["complexity"] == pytest.approx(1.0)
        assert found["sparseness"] == pytest.approx(0.0, abs=1e-12)


def test_a_filled_bank_is_found_by_the_parameters_and_costs_nothing():
    session = Session(small_unet(), bright_square())
    params = RidgeParams(masks=64, grid=4)
    explain(session, "ridge", [REGION], params=params)
    before = session.forwards
    bank, masks = filled_bank(session, [object(), params])
    bank.responses([REGION], masks)
    assert masks == 64
    assert session.forwards == before
    assert filled_bank(session, [object()]) is None


def test_steadiness_counts_what_it_spends_and_keeps_the_region():
    session = Session(small_unet(), bright_square())
    own = explain(session, "hirescam", [REGION]).values[0]
    assert session.prediction is not None  # made once, before counting
    before = (session.forwards, session.backwards)
    found = steadiness(session, "hirescam", REGION, None, own, radius=0.02, samples=3)
    assert (session.forwards - before[0], session.backwards - before[1]) == (3, 3)
    assert 0 < found < 1
    farther = steadiness(session, "hirescam", REGION, None, own, radius=0.2, samples=3)
    assert farther > found
    assert steadiness(session, "hirescam", REGION, None, torch.zeros(24, 32).numpy(), radius=0.1, samples=1) is None
