import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kendalltau

from tests.checks.test_explanation_intrinsic import CHECK, FAST, several
from tests.explainers.toy_gates import NAMES, ToyGates
from tests.explainers.toy_segmenters import bright_square
from xaiseg.checks.explanation_intrinsic import Params
from xaiseg.checks.intrinsic_quantities import feature_names, importances, kendall_tau_b, values_of_others

LEVELS = (-2.0, -1.0, 0.0, 1.0, 2.0)


def features_of(held):
    table = held.rows[CHECK]
    return table[table["kind"] == "feature"]


@pytest.mark.parametrize("seed", range(5))
def test_kendalls_tau_is_scipys(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 6, 13).astype(float), rng.integers(0, 6, 13).astype(float)
    assert kendall_tau_b(first, second) == pytest.approx(kendalltau(first, second).statistic)
    assert np.isnan(kendall_tau_b(np.ones(13), second))


def test_values_of_others_interpolate_between_levels_and_the_own_value():
    rows = pd.DataFrame(
        {
            "target": ["f", "f", "f"],
            "normalised": [0.5, -1.0, 9.0],
            "response": [[3.0, 2.0, 1.0, 4.0, 8.0], [1.0, 0.0, 1.0, 2.0, 3.0], None],
        }
    )
    found = values_of_others(rows, "response", LEVELS)
    # -1 is a level, 9 counts as the outermost level; 0.5 lies halfway between the levels 0 and 1.
    assert found[0] == pytest.approx((2.0 + 8.0) / 2)
    assert found[1] == pytest.approx((1.5 + 3.0) / 2)
    assert np.isnan(found[2])
    assert np.isnan(values_of_others(rows[:1], "response", LEVELS)[0])


def test_the_own_value_is_a_place_where_nothing_changes():
    rows = pd.DataFrame({"target": ["f"] * 2, "normalised": [0.5, 0.25], "response": [[5.0] * 5, [5.0] * 5]})
    found = values_of_others(rows, "response", LEVELS)
    assert found[0] == pytest.approx(2.5)  # halfway from the level 0 (5) to the own value 0.5 (0)


def test_interpolated_values_of_others_are_near_those_that_were_run():
    held = several(ToyGates())
    rows = features_of(held)
    found = importances(rows, LEVELS)["other_images"]["brightness"]
    network, raw = ToyGates(), {}
    for index in range(6):
        image = bright_square(side=5 + index)[None]
        raw[f"c{index}"] = (network.encode(image), network.normalised(network.raw(image)))

    def probability(encoded, r):
        with torch.no_grad():
            return network.decode(encoded, r).sigmoid()

    for case, (encoded, own) in raw.items():
        before, moved = probability(encoded, own), []
        for other, (_, r) in raw.items():
            if other != case:
                changed = own.clone()
                changed[0, NAMES.index("brightness")] = r[0, NAMES.index("brightness")].clamp(-2, 2)
                moved.append(float((probability(encoded, changed) - before).abs().mean()))
        assert found[case] == pytest.approx(np.mean(moved), rel=0.15)


def test_features_keep_the_networks_order():
    assert feature_names(features_of(several(ToyGates(), count=2))) == list(NAMES)
    assert sorted(NAMES) != list(NAMES)


def test_shares_add_up_to_100_in_every_resample():
    from tests.checks.fake import quantities

    numbers = quantities(CHECK, several(ToyGates(), count=3), Params(methods=()))
    shares = [numbers["share_answer_gradient", name] for name in NAMES]
    weights = np.array([0.2, 2.0, 1.0])
    total = sum(share.function((share.values * weights[:, None]).sum(axis=0)) for share in shares)
    assert total == pytest.approx(100.0)
    assert FAST.levels == LEVELS
