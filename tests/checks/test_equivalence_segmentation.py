"""Two builds side by side: every figure by hand, from its definition."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.checks.fake import FakeContext, disc, frame, labels, make_case, quantities, tables
from xaiseg.checks.base import get_check
from xaiseg.checks.equivalence_segmentation import ID, Params
from xaiseg.errors import SubjectError, UsageError

SHAPE = (24, 32)
THRESHOLD = 0.8


def scored(mask, inside=0.95, outside=0.05):
    """A prediction with these probabilities of the foreground."""
    p = np.where(mask, inside, outside)
    return labels(p >= THRESHOLD, np.stack([1 - p, p]))


def measure(case, first, *, params=None, change=None, **others):
    context = FakeContext(
        held=first, params=params or Params(), case=case.id,
        variants={name: SimpleNamespace(largest_change=change) for name in others}, others=others,
    )  # fmt: skip
    context.facts = {**context.facts, "threshold": THRESHOLD}
    return [{"case": case.id, **row} for row in get_check(ID).measure(context, case)]


def held(rows, cases, **names):
    return quantities(ID, tables({ID: rows}, cases, variants={name: {} for name in names or "v"}))


@pytest.fixture
def pair():
    """A lesion, found by both; the variant's outline is moved by two columns."""
    truth = disc(SHAPE, (12, 14), 6)
    return make_case("a", truth), truth.astype(bool), np.roll(truth, 2, axis=1).astype(bool)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_the_figures_of_one_image_by_hand(pair):
    case, truth, moved = pair
    rows = measure(case, scored(truth), v=scored(moved))
    frame(ID, rows)
    pixels, mask, *objects = rows
    assert (pixels["subject"], pixels["pixels"], pixels["flips"]) == ("v", 24 * 32, int((truth ^ moved).sum()))
    assert pixels["good_to_bad"] == pixels["flips"]
    assert pixels["bad_to_good"] == 0
    p = np.where(moved, 0.95, 0.05)
    assert pixels["brier_variant"] == pytest.approx(((p - truth) ** 2).mean())
    assert pixels["nll_variant"] == pytest.approx(-np.log(np.where(truth, p, 1 - p)).mean())
    share = (truth ^ moved).sum() / 2 / truth.sum()
    expected = (
        (moved.sum() * abs(0.95 - (1 - share))) + (~moved).sum() * abs(0.05 - (truth & ~moved).sum() / (~moved).sum())
    ) / truth.size
    assert pixels["ece_variant"] == pytest.approx(expected)
    assert (mask["target"], mask["dice"], mask["hd95"]) == ("lesion", 1.0, 0.0)
    assert mask["dice_variant"] == mask["agreement"] == pytest.approx(dice(truth, moved))
    assert mask["dice_kept"] == pytest.approx(dice(truth, moved) - 1)
    assert mask["hd95_variant"] == mask["hd95_between"] == 2.0
    assert [(row["object"], row.get("vanished"), row.get("appeared")) for row in objects] == [
        ("lesion-1", False, None), ("new-1", None, False),
    ]  # fmt: skip


def test_means_and_shares_are_those_of_the_rows(pair):
    case, truth, moved = pair
    other = make_case("b", truth)
    rows = measure(case, scored(truth), v=scored(moved)) + measure(other, scored(truth), v=scored(truth))
    found = held(rows, [case, other])
    change = dice(truth, moved) - 1
    assert found["v", "dice_change"].values.tolist() == pytest.approx([change, 0.0])
    assert found["v", "large_dice_changes"].values.tolist() == [1.0, 0.0]
    assert found["v", "agreement"].values.tolist() == pytest.approx([1 + change, 1.0])
    assert found["v", "hd95_change"].values.tolist() == [2.0, 0.0]
    assert found["v", "flips"].values.tolist() == pytest.approx([(truth ^ moved).mean(), 0.0])
    assert found["v", "brier_change"].values[1] == 0.0
    assert {quantity.subject for quantity in found.values()} == {"v"}
    assert found["v", "vanished"].values.tolist() == [0.0, 0.0]


def test_a_lesion_that_vanishes_and_one_that_appears():
    truth = disc(SHAPE, (12, 8), 4).astype(bool)
    new = disc(SHAPE, (12, 24), 4).astype(bool)
    speck = np.zeros(SHAPE, dtype=bool)
    speck[0, :4] = True
    case = make_case("a", truth)
    rows = measure(case, scored(truth), v=scored(new | speck))
    found = held(rows, [case])
    assert found["v", "vanished"].values.tolist() == [1.0]
    assert found["v", "appeared"].values.tolist() == [1.0]  # four pixels are no lesion
    fine = measure(case, scored(truth), params=Params(min_component_px=4), v=scored(new | speck))
    assert held(fine, [case])["v", "appeared"].values.tolist() == [1.0, 1.0]


def test_an_empty_image_counts_as_right_where_it_is_left_empty():
    case = make_case("a", np.zeros(SHAPE))
    empty, alarm = np.zeros(SHAPE, dtype=bool), disc(SHAPE, (12, 8), 4).astype(bool)
    mask = measure(case, scored(empty), v=scored(alarm))[1]
    assert (mask["dice"], mask["dice_variant"], mask["dice_kept"], mask["agreement"]) == (1.0, 0.0, -1.0, 0.0)
    assert mask["hd95_between"] == pytest.approx(40.0)
    mask = measure(case, scored(empty), v=scored(empty))[1]
    assert [mask.get(name) for name in ("dice", "dice_variant", "agreement", "hd95_between", "hd95")] == [None] * 5
    found = held(measure(case, scored(empty), v=scored(empty)), [case])
    assert "no image has a reference mask" in found["v", "dice_change"].missing
    assert "neither build shows a lesion" in found["v", "vanished"].missing


def test_safe_pixels_lie_farther_from_the_threshold_than_any_calibration_image_moved(pair):
    case, truth, moved = pair
    first = scored(truth, inside=0.9)
    # The logit of 0.9 lies log(9) - log(4) = 0.81 above that of the threshold 0.8; that of 0.05 lies 4.33 below.
    pixels = measure(case, first, change=0.82, v=scored(moved))[0]
    assert pixels["safe"] == (~truth).sum()
    assert pixels["safe_flips"] == (moved & ~truth).sum()
    assert measure(case, first, change=0.80, v=scored(moved))[0]["safe"] == truth.size
    assert measure(case, first, change=4.34, v=scored(moved))[0]["safe"] == 0
    found = held(measure(case, first, change=0.82, v=scored(truth)), [case])
    assert found["v", "safe_pixels"].values.tolist() == pytest.approx([(~truth).mean()])
    assert found["v", "safe_flips"].values.tolist() == [0.0]
    assert "calibration images" in held(measure(case, first, v=first), [case])["v", "safe_pixels"].missing


def test_pixels_that_readers_left_open_count_for_nothing(pair):
    _, truth, moved = pair
    ignore = np.where(truth ^ moved, 255, truth)
    rows = measure(make_case("a", ignore), scored(truth), v=scored(moved))
    assert rows[0]["flips"] == 0
    assert rows[0]["pixels"] == (~(truth ^ moved)).sum()
    assert rows[1]["dice"] == rows[1]["dice_variant"] == 1.0


def test_without_a_reference_the_builds_are_compared_with_each_other(pair):
    _, truth, moved = pair
    case = make_case("a", truth)
    bare = type(case)(case.ref, case.image)
    found = held(measure(bare, scored(truth), v=scored(moved)), [bare])
    assert found["v", "agreement"].values.tolist() == pytest.approx([dice(truth, moved)])
    assert found["v", "good_to_bad"].missing
    assert found["v", "dice_change"].missing
    assert found["v", "nll_change"].missing


def test_several_classes_are_compared_one_by_one():
    truth = np.zeros(SHAPE, dtype=np.uint8)
    truth[4:10, 4:10], truth[14:20, 20:28] = 1, 2
    p = np.full((3, *SHAPE), 0.1)
    for index in range(3):
        p[index][truth == index] = 0.8
    first = labels(p.argmax(0), p)
    second = labels(np.where(truth == 2, 0, truth), np.where(truth == 2, p[[2, 1, 0]], p))
    case = make_case("a", truth)
    context = FakeContext(
        held=first, params=Params(), case="a", variants={"v": SimpleNamespace(largest_change=1.0)}, others={"v": second}
    )
    context.facts = {**context.facts, "classes": ["background", "x", "y"], "threshold": 0.5}
    rows = [{"case": "a", **row} for row in get_check(ID).measure(context, case)]
    assert {row["target"]: row["dice_variant"] for row in rows if "dice" in row} == {"x": 1.0, "y": 0.0}
    assert rows[0]["nll"] == pytest.approx(-np.log(0.8))
    assert rows[0]["brier"] == pytest.approx(0.2**2 + 2 * 0.1**2)
    assert rows[0]["safe"] == truth.size  # log(0.8) - log(0.1) is 2.08
    found = held(rows, [case])
    assert found["v", "dice_change"].values.tolist() == [-0.5]
    assert found["v", "large_dice_changes"].values.tolist() == [1.0]


def test_a_build_that_fails_on_an_image_is_a_failed_row_of_its_own(pair):
    case, truth, _ = pair
    rows = measure(case, scored(truth), v=SubjectError("NaN"), w=scored(truth))
    assert (rows[0]["subject"], rows[0]["status"]) == ("v", "failed")
    assert "NaN" in rows[0]["reason"]
    found = held(rows, [case], v=0, w=0)
    assert found["v", "vanished"].values.tolist() == [1.0]
    assert found["w", "vanished"].values.tolist() == [0.0]
    assert found["w", "dice_change"].values.tolist() == [0.0]


@pytest.mark.parametrize("given", [{"large": 0}, {"match_iou": 2}, {"min_component_px": 0}, {"bins": 1}])
def test_parameters_out_of_range_are_refused(given):
    with pytest.raises(UsageError, match=f"equivalence.segmentation: {next(iter(given))}: this parameter is out"):
        Params(**given)
