from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
from fake import disc, failed, labels, make_case, measured, quantities, tables

from xaiseg.calibration import reliability as rel
from xaiseg.checks.calibration_pixels import ID, Params, surroundings
from xaiseg.errors import CheckError, DataError, UsageError

SHAPE = (30, 40)
LESION = disc(SHAPE, (14, 16), 6)
EMPTY = np.zeros(SHAPE, np.uint8)


def binary(p):
    p = np.asarray(p, np.float32)
    return labels(p >= 0.5, np.stack([1 - p, p]))


def soft(seed, reference=LESION):
    noise = np.random.default_rng(seed).normal(size=reference.shape)
    return 1 / (1 + np.exp(-(4.0 * reference - 2.0 + noise)))


def one(seed, reference=LESION, name=None, **more):
    case = make_case(name or f"c{seed}", reference, **more)
    return case, measured(ID, case, binary(soft(seed, reference)))


def ece(p, y, bins=15):
    return rel.expected_calibration_error(rel.histogram(p, y, bins=bins).stacked())


@pytest.mark.parametrize("reach", [0.0, 1.0, 2.5, 4.0])
def test_surroundings_match_a_slow_loop(reach):
    mask = np.random.default_rng(0).random((14, 17)) > 0.97
    points = list(zip(*np.nonzero(mask), strict=True))
    expected = [[any(math.hypot(i - a, j - b) <= reach for a, b in points) for j in range(17)] for i in range(14)]
    assert surroundings(mask, reach).tolist() == expected


def test_nothing_has_no_surroundings():
    assert not surroundings(np.zeros((5, 5), bool), 3.0).any()


def test_row_holds_the_errors_of_the_image_and_of_the_region():
    p = soft(0)
    case = make_case("a", LESION)
    (row,) = measured(ID, case, binary(p))
    p32 = p.astype(np.float32).astype(np.float64)
    y = LESION == 1
    near = np.zeros(SHAPE, bool)
    points = np.argwhere(y | (p >= 0.5))
    for i, j in itertools.product(range(SHAPE[0]), range(SHAPE[1])):
        near[i, j] = (np.hypot(*(points - (i, j)).T) <= 0.05 * math.hypot(*SHAPE)).any()
    assert row["target"] == "lesion"
    assert row["pixels"] == p.size
    assert row["region_pixels"] == near.sum()
    assert row["ece"] == pytest.approx(ece(p32.ravel(), y.ravel()))
    assert row["region_ece"] == pytest.approx(ece(p32[near], y[near]))
    assert row["signed_gap"] == pytest.approx(p32.mean() - y.mean())
    assert row["brier"] == pytest.approx(((p32 - y) ** 2).mean())
    assert row["nll"] == pytest.approx(-np.log(np.where(y, p32, 1 - p32)).mean())
    assert (sum(row["count"]), sum(row["sum_y"])) == (p.size, LESION.sum())


def test_ignored_pixels_are_left_out():
    reference = LESION.copy()
    reference[:, 30:] = 255
    p = soft(1)
    (row,) = measured(ID, make_case("a", reference), binary(p))
    kept = p.astype(np.float32)[:, :30].ravel()
    assert row["pixels"] == 30 * 30
    assert row["ece"] == pytest.approx(ece(kept, LESION[:, :30].ravel() == 1))
    with pytest.raises(DataError, match="every pixel"):
        measured(ID, make_case("a", np.full(SHAPE, 255)), binary(p))


def test_without_reference_or_predicted_mask_there_is_no_region():
    case = make_case("a", EMPTY)
    (row,) = measured(ID, case, binary(np.full(SHAPE, 0.1)))
    assert row["region_pixels"] == 0
    assert row["ece"] == pytest.approx(0.1)
    found = quantities(ID, tables({ID: [row]}, [case]))
    assert "no image has" in found["ece_region_image",].missing
    assert "no image has" in found["ece_region_pooled",].missing
    assert found["ece_image",].values == pytest.approx([0.1])


def test_pooled_and_per_image_errors_answer_different_questions():
    # One image is too bold by 0.2, the other too shy by 0.2: the pool is calibrated, no image is.
    half = np.zeros((20, 10), np.uint8)
    half[:10] = 1
    low, high = half.copy(), half.copy()
    low[7:10], high[10:13] = 0, 1
    cases = [make_case("a", low), make_case("b", high)]
    rows = [row for case in cases for row in measured(ID, case, binary(np.full((20, 10), 0.5)))]
    found = quantities(ID, tables({ID: rows}, cases))
    pooled = found["ece_pooled",]
    assert found["ece_image",].values == pytest.approx([0.15, 0.15])
    assert pooled.function(pooled.values.sum(axis=0)) == pytest.approx(0.0, abs=1e-6)
    assert pooled.weigh == "case"
    assert found["ece_image",].floor == pytest.approx(0.15)
    assert found["signed_gap",].values == pytest.approx([0.15, -0.15])


def test_the_pool_equals_one_histogram_over_all_pixels():
    pairs = [one(seed) for seed in range(5)]
    held = tables({ID: [row for _, rows in pairs for row in rows]}, [case for case, _ in pairs])
    pooled = quantities(ID, held)["ece_pooled",]
    p = np.concatenate([soft(seed).astype(np.float32).ravel() for seed in range(5)])
    assert pooled.function(pooled.values.sum(axis=0)) == pytest.approx(ece(p, np.tile(LESION.ravel() == 1, 5)))
    assert pickle.loads(pickle.dumps(pooled.function))(pooled.values.sum(axis=0)) > 0
    stacked = pooled.values.reshape(5, 3, 15)
    assert pooled.floor == pytest.approx(rel.pooled_floor(stacked, [f"c{i}" for i in range(5)]))


def test_the_floor_takes_whole_patients():
    pairs = [one(seed, cluster=f"p{seed % 2}") for seed in range(6)]
    held = tables({ID: [row for _, rows in pairs for row in rows]}, [case for case, _ in pairs])
    pooled = quantities(ID, held)["ece_pooled",]
    assert pooled.floor == pytest.approx(rel.pooled_floor(pooled.values.reshape(6, 3, 15), list("ababab")))


def test_a_failed_image_enters_the_pool_as_confidently_wrong():
    case, rows = one(0)
    lost = make_case("lost", LESION)
    found = quantities(ID, tables({ID: [*rows, failed("lost")]}, [case, lost]))
    pooled = found["ece_pooled",]
    alone = pooled.function(pooled.values[0])
    assert pooled.function(pooled.values.sum(axis=0)) > 0.4 > alone
    assert pooled.function(pooled.values[1]) == 1.0
    assert (found["ece_image",].worst, found["brier",].worst) == (1.0, 1.0)
    assert found["nll",].worst == pytest.approx(-math.log(1e-7))
    only = quantities(ID, tables({ID: [failed("lost")]}, [lost]))["ece_pooled",]
    assert only.function(only.values.sum(axis=0)) == 1.0


def test_an_overconfident_subject_has_a_positive_gap_and_an_error_above_its_floor():
    cases, honest, bold = [], [], []
    for seed in range(20):
        p = np.random.default_rng(seed).beta(0.5, 0.5, SHAPE)
        y = (np.random.default_rng(seed + 500).random(SHAPE) < p).astype(np.uint8)
        cases.append(make_case(f"c{seed}", y))
        honest += measured(ID, cases[-1], binary(p))
        bold += measured(ID, cases[-1], binary(p**0.5))
    fair, loud = (quantities(ID, tables({ID: rows}, cases)) for rows in (honest, bold))
    value = {name: q["ece_pooled",].function(q["ece_pooled",].values.sum(axis=0)) for name, q in
             (("fair", fair), ("loud", loud))}  # fmt: skip
    assert value["fair"] < 2.5 * fair["ece_pooled",].floor
    assert value["loud"] > 10 * loud["ece_pooled",].floor
    assert loud["signed_gap",].values.mean() > 0.1
    assert loud["signed_gap",].worst == 1.0


def three_classes(seed):
    random = np.random.default_rng(seed)
    p = random.dirichlet([1.0, 0.7, 0.5], size=SHAPE).transpose(2, 0, 1)
    truth = (random.random(SHAPE) > np.cumsum(p, axis=0)[:-1]).sum(axis=0)
    return make_case(f"c{seed}", truth), labels(p.argmax(axis=0), p)


def test_several_classes_give_marginal_errors_their_mean_and_the_top_label():
    facts = {"classes": ["background", "liver", "spleen"]}
    cases, predictions = zip(*map(three_classes, range(3)), strict=True)
    rows = [row for case, p in zip(cases, predictions, strict=True) for row in measured(ID, case, p, facts=facts)]
    assert [row["target"] for row in rows[:3]] == ["liver", "spleen", "top-label"]
    p, truth = predictions[0].probabilities.astype(np.float64), cases[0].reference
    top = rows[2]
    assert top["ece"] == pytest.approx(ece(p.max(axis=0).ravel(), (p.argmax(axis=0) == truth).ravel()))
    given = np.take_along_axis(p, truth[None].astype(int), axis=0)[0]
    assert top["nll"] == pytest.approx(-np.log(given).mean())
    one_hot = np.stack([truth == k for k in range(3)])
    assert top["brier"] == pytest.approx(((p - one_hot) ** 2).sum(axis=0).mean())
    found = quantities(ID, tables({ID: rows}, cases, **facts))
    both = [found["ece_pooled", name] for name in ("liver", "spleen")]
    mean = np.mean([q.function(q.values.sum(axis=0)) for q in both])
    joint = found["ece_pooled",]
    assert joint.function(joint.values.sum(axis=0)) == pytest.approx(mean)
    assert joint.floor == pytest.approx(np.mean([q.floor for q in both]))
    assert found["brier", "top-label"].worst == 2.0
    assert ("ece_region_image", "top-label") not in found


def test_a_subject_without_scores_and_a_case_without_reference_are_refused():
    case = make_case("a", LESION)
    with pytest.raises(CheckError, match="no probabilities"):
        measured(ID, case, labels(LESION))
    with pytest.raises(DataError, match="no reference"):
        measured(ID, type(case)(case.ref, case.image, None), binary(soft(0)))


@pytest.mark.parametrize("wrong", [{"bins": 0}, {"dilate": -0.1}])
def test_parameters_out_of_range_are_named(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Params(**wrong)
