import numpy as np
import pytest
import torch

from tests.explainers.toy_segmenters import bright_square, small_unet
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.lime import LimeParams
from xaiseg.explainers.rise import RidgeParams, RiseParams
from xaiseg.explainers.shapley import KernelShapParams
from xaiseg.explainers.sobol import HsicParams, SobolParams
from xaiseg.explainers.targets import Region
from xaiseg.faithfulness.measuring import bank_for, described, steadiness, versus

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


def test_every_bank_that_a_method_has_filled_is_found_and_costs_nothing():
    ways = [
        ("ridge", RidgeParams(masks=64, grid=4), 64),
        ("rise", RiseParams(masks=600, agreement=2.0), 256),
        ("hsic", HsicParams(masks=128, grid=4), 128),
        ("sobol", SobolParams(designs=4, grid=4), 72),
        ("lime", LimeParams(masks=100, cut="grid", count=9), 100),
        ("kernelshap", KernelShapParams(masks=300, cut="grid", count=6), 2**6 - 2),
    ]
    for method, params, expected in ways:
        session = Session(small_unet(), bright_square())
        explain(session, method, [REGION], params=params)
        before = session.forwards
        bank, masks = bank_for(session, REGION, 0, grid=8, baseline="mean")
        bank.responses([REGION], masks)
        assert (method, masks) == (method, expected)
        assert session.forwards == before


def test_grids_come_before_segments_and_wishes_are_met_as_far_as_masks_go():
    session = Session(small_unet(), bright_square())
    assert bank_for(session, REGION, 0, grid=4, baseline="mean") is None
    explain(session, "kernelshap", [REGION], params=KernelShapParams(masks=300, cut="grid", count=6))
    bank, masks = bank_for(session, REGION, 1000, grid=4, baseline="mean")
    assert masks == 2**6 - 2  # there are no more
    explain(session, "ridge", [REGION], params=RidgeParams(masks=40, grid=4))
    bank, masks = bank_for(session, REGION, 100, grid=8, baseline="blur")
    assert (bank.design.grid, bank.design.segments, masks) == (4, None, 100)
    other = Region(1, ~MASK)
    bank, masks = bank_for(session, other, 50, grid=5, baseline="blur")
    assert (bank.design.grid, masks) == (5, 50)  # nothing was run for that region


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
