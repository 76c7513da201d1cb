from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from fake import failed, quantities, tables

from xaiseg.checks.performance_segmentation import ID as PERFORMANCE
from xaiseg.checks.subgroups_declared import ID, Params, worst_gap
from xaiseg.errors import UsageError


def held(scores, levels, clusters=None, lost=()):
    """Tables for cases 0..n-1 with the given Dice (None = undefined), device and patient."""
    clusters = clusters or [f"p{i}" for i in range(len(scores))]
    cases = [
        {"case": f"c{i}", "cluster": cluster, "device": level}
        for i, (level, cluster) in enumerate(zip(levels, clusters, strict=True))
    ]
    rows = [
        failed(f"c{i}") if i in lost else {"case": f"c{i}", "target": "lesion", "dice": dice}
        for i, dice in enumerate(scores)
    ]
    return tables({PERFORMANCE: rows}, cases, strata=["device"])


def gap(*args, params=None, **more):
    return quantities(ID, held(*args, **more), params)["dice_gap", "", "device"]


def test_the_gap_is_the_rest_minus_the_worst_level():
    found = gap([0.9, 0.8, 0.5, 0.7, 0.3], list("AABBB"))
    assert found.values == pytest.approx([0.85 - 0.5])
    assert found.note.startswith("device=B (3 clusters)")
    assert found.kind == "fact"


def test_worst_gap_matches_a_slow_search():
    random = np.random.default_rng(0)
    for _ in range(20):
        values, level = random.random(30), random.permutation(np.arange(30) % 4)
        slow = [values[level != k].mean() - values[level == k].mean() for k in range(4)]
        assert worst_gap(values, level, 4) == (pytest.approx(max(slow)), int(np.argmax(slow)))


def test_patients_count_once_whatever_their_number_of_images():
    one = gap([0.9, 0.8, 0.5, 0.7], list("AABB"))
    more = gap([0.9, 0.8, 0.5, 0.7, 0.7, 0.7], list("AABBBB"), ["p0", "p1", "p2", "p3", "p3", "p3"])
    assert more.values == pytest.approx(one.values)
    assert more.floor == pytest.approx(one.floor)


def test_the_null_is_that_of_all_deals():
    values, levels = [0.9, 0.8, 0.5, 0.7, 0.2, 0.6], list("AABBBB")
    gaps = []
    for chosen in itertools.combinations(range(6), 2):
        level = np.array([0 if i in chosen else 1 for i in range(6)])
        gaps.append(worst_gap(np.array(values), level, 2)[0])
    found = gap(values, levels, params=Params(permutations=4000))
    share = np.mean(np.array(gaps) >= found.values[0] - 1e-12)
    assert found.floor == pytest.approx(np.median(gaps), abs=0.04)
    printed = float(re.search(r"([\d.e+]+) % of random deals", found.note)[1])
    assert printed == pytest.approx(100 * share, abs=2.0)


def test_without_any_difference_four_unequal_devices_still_show_a_gap():
    random = np.random.default_rng(1)
    levels = ["A"] * 26 + ["B"] * 23 + ["C"] * 4 + ["D"]
    floors = []
    for _ in range(10):
        scores = np.where(random.random(54) < 0.1, 0.0, random.beta(12, 2.5, 54)).tolist()
        floors.append(gap(scores, levels, params=Params(permutations=200)).floor)
    assert 0.05 < np.mean(floors) < 0.2


def test_a_planted_gap_is_far_wider_than_chance():
    random = np.random.default_rng(2)
    scores = [*random.normal(0.85, 0.05, 30), *random.normal(0.6, 0.05, 10)]
    found = gap([float(s) for s in scores], ["A"] * 30 + ["B"] * 10)
    assert found.values[0] > 5 * found.floor
    assert "0.1 % of random deals" in found.note


def test_failed_images_count_as_zero_and_correct_negatives_not_at_all():
    found = gap([0.8, 0.8, None, 0.8, 0.6], list("AABBB"), lost=(4,))
    assert found.values == pytest.approx([0.8 - 0.4])


def test_the_null_follows_the_run_seed_alone():
    scores, levels = np.linspace(0.1, 0.9, 12).tolist(), ["A", "B", "C"] * 4
    assert gap(scores, levels).floor == gap(scores, levels).floor
    turned = held(scores[::-1], levels[::-1])
    assert quantities(ID, turned)["dice_gap", "", "device"].values == pytest.approx(gap(scores, levels).values)


def test_one_level_and_no_strata_are_missing():
    assert "one level" in gap([0.5, 0.6], list("AA")).missing
    empty = tables({PERFORMANCE: []}, [{"case": "a", "cluster": "a"}], strata=[])
    assert "no strata" in quantities(ID, empty)["dice_gap",].missing


def test_a_missing_level_is_a_level():
    assert "unknown" in gap([0.9, 0.9, 0.1], ["A", "A", None]).note


def test_parameters_out_of_range_are_named():
    with pytest.raises(UsageError, match="permutations"):
        Params(permutations=0)
