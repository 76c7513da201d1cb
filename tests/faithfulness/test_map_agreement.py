import numpy as np
import pytest
from scipy.stats import spearmanr

from xaiseg.faithfulness.agreement import agreement
from xaiseg.faithfulness.baselines import closeness

MASK = np.zeros((40, 48), dtype=bool)
MASK[15:25, 20:30] = True


def test_the_matrix_holds_the_rank_correlations_of_all_pairs():
    rng = np.random.default_rng(0)
    maps = {name: rng.standard_normal((6, 7)) for name in "abc"}
    found = agreement(maps)
    for i, first in enumerate(maps.values()):
        for j, second in enumerate(maps.values()):
            assert found[i, j] == pytest.approx(spearmanr(np.abs(first).ravel(), np.abs(second).ravel()).statistic)
    assert (found == found.T).all()


def test_a_constant_map_agrees_with_nothing():
    found = agreement({"flat": np.ones((3, 4)), "other": np.arange(12.0).reshape(3, 4)})
    assert np.isnan(found[0]).all()
    assert found[1, 1] == pytest.approx(1.0)


def test_maps_that_share_only_their_place_agree_plainly_and_not_in_rings():
    rng = np.random.default_rng(1)
    near = np.exp(np.minimum(closeness(MASK), 0) / 3)
    maps = {name: near * (0.5 + rng.random(MASK.shape)) for name in "ab"}
    assert agreement(maps)[0, 1] > 0.9
    assert abs(agreement(maps, MASK)[0, 1]) < 0.2
