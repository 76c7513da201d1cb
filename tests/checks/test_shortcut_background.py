"""A detector that loves floes is caught; one that knows the animal is not; and the numbers are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from tests.checks.shortcut_worlds import (
    FLOE,
    WATER,
    Bright,
    Habit,
    floe_lover,
    ground_of,
    honest,
    measured,
    named,
    tile,
)
from xaiseg.checks.shortcut_background import FEW, ID, NO_BANK, Params
from xaiseg.data.case import Case
from xaiseg.errors import UsageError

PARAMS = Params(backgrounds=2, blur=0.1)
ANIMALS = ((12, 14), (38, 56))
EMPTY = tuple(tile(f"empty {index}", (), empty=True, cluster="other flight") for index in range(3))


def several(subject, count=4, **more):
    cases = [tile(f"c{index}", ((12 + index, 14), (38, 50 + index))) for index in range(count)]
    rows = [row for case in cases for row in measured(ID, subject(), case, params=PARAMS, others=EMPTY, **more)]
    return cases, rows


def effect(found, metric, *key):
    return found[(metric, "", *key)].values


def test_a_planted_shortcut_is_caught_and_a_clean_model_is_not():
    for subject, expected in ((floe_lover, 1.0), (honest, 0.0)):
        cases, rows = several(subject)
        found = named(ID, rows, cases, PARAMS)
        swap = effect(found, "suppression", "background", "swap")
        assert swap.tolist() == [expected] * 16  # 4 images, 2 objects, 2 backgrounds
        assert effect(found, "flip_rate", "background", "swap, sham").tolist() == [0.0] * 16
        reliance = found[("context_reliance",)]
        assert reliance.function(reliance.values.sum(axis=0)) == expected
        drop = effect(found, "confidence_drop", "background", "swap")
        np.testing.assert_allclose(drop, 0.8 * expected, atol=1e-6)
        share = effect(found, "relative_confidence_drop", "background", "swap")
        np.testing.assert_allclose(share, expected * 0.8 / 0.9, atol=1e-6)
        kept = effect(found, "persistent_confidence_drop", "background", "swap")
        np.testing.assert_allclose(kept, [expected * 0.8 / 0.9] * 8, atol=1e-6)  # one value an object


def test_what_blends_into_one_background_only_is_no_shortcut():
    """Clean but short-sighted: it needs contrast, which one of the backgrounds denies it."""
    bright = tile("bright", (), empty=True, cluster="other flight")
    bright.image[:] = 0.7
    others = (bright, *(tile(f"dark {index}", (), empty=True, cluster="other flight") for index in range(5)))
    params = Params(backgrounds=6, blur=0)
    short_sighted = Habit(lambda image, mask: 0.9 if ground_of(image, mask) < 0.6 else 0.1)
    case = tile("c0", ANIMALS)
    found = named(ID, measured(ID, short_sighted, case, params=params, others=others), [case], params)
    assert sorted(effect(found, "suppression", "background", "swap").tolist()) == [0.0] * 10 + [1.0] * 2
    assert effect(found, "persistent_confidence_drop", "background", "swap").tolist() == [0.0, 0.0]


def test_shams_alone_give_nothing():
    """A model that reacts to any change of pixels loses as much in the sham as in the edit."""
    case = tile("c0")
    scene = case.image[0].copy()

    def picky(image, mask):
        return 0.9 if np.array_equal(image, scene) else 0.2

    rows = measured(ID, Habit(picky), case, params=PARAMS, others=EMPTY)
    found = named(ID, rows, [case], PARAMS)
    assert effect(found, "flip_rate", "background", "swap").tolist() == [1.0, 1.0]
    assert effect(found, "suppression", "background", "swap").tolist() == [0.0, 0.0]
    assert effect(found, "suppression", "background", "blur").tolist() == [0.0]
    assert effect(found, "confidence_drop", "background", "swap").tolist() == [0.0, 0.0]


def test_the_images_are_the_objects_before_the_banks_backgrounds():
    subject, case = honest(), tile("c0", ANIMALS)
    measured(ID, subject, case, params=Params(backgrounds=1, blur=0), others=EMPTY)
    swap, sham = subject.seen[1], subject.seen[2]
    inside = case.image == np.float32(0.85)
    far = case.image == np.float32(WATER)
    np.testing.assert_array_equal(swap[inside], case.image[inside])
    np.testing.assert_array_equal(sham[inside], case.image[inside])
    np.testing.assert_array_equal(swap[far], np.float32(WATER))
    on_floe = (case.image == np.float32(FLOE))[0]
    assert (swap[0][on_floe] == np.float32(WATER)).mean() > 0.7
    assert np.abs(sham[0][on_floe] - FLOE).max() < 0.02


def test_backgrounds_come_from_other_clusters_and_hold_no_object():
    own = tile("own", (), empty=True, cluster="flight 1")
    own.image[:] = 0.4
    full = tile("full", ((5, 5),), cluster="flight 2")
    known = tile("known", (), cluster="flight 2")  # no sidecar says so: its boxes do
    case = tile("c0", cluster="flight 1")
    params = Params(backgrounds=3, blur=0)
    subject = honest()
    rows = measured(ID, subject, case, params=params, others=(own, full, known))
    assert [(row["level"], row.get("reason")) for row in rows] == [("swap", FEW), ("swap", None), ("removal", None)]
    found = named(ID, rows, [case], params)
    assert found[("persistent_confidence_drop", "", "background", "swap")].missing == FEW  # one background of three
    assert len(effect(found, "relative_confidence_drop", "background", "swap")) == 1
    assert subject.seen[1][0, 0, 0] == np.float32(WATER)
    alone = honest()
    measured(ID, alone, case, params=params, others=(own,))  # its own flight is better than none
    assert alone.seen[1][0, 0, 0] == np.float32(0.4)


def test_what_the_sidecar_does_not_declare_fills_the_bank_up():
    declared = tile("declared", (), empty=True, cluster="flight 2")
    silent = tuple(tile(f"silent {index}", (), cluster="flight 2") for index in range(5))
    rows = measured(ID, honest(), tile("c0"), params=Params(backgrounds=6, blur=0), others=(declared, *silent))
    assert [row["level"] for row in rows].count("swap") == 6
    assert all("reason" not in row for row in rows)


def test_without_a_bank_swaps_are_left_out_and_said():
    case = tile("c0")
    unknown = Case(tile("x").ref, tile("x").image)  # nobody has looked
    rows = measured(ID, honest(), case, params=PARAMS, others=(tile("full"), unknown))
    found = named(ID, rows, [case], PARAMS)
    assert found[("suppression", "", "background", "swap")].missing == NO_BANK
    assert found[("persistent_confidence_drop", "", "background", "swap")].missing == NO_BANK
    assert found[("context_reliance",)].missing
    assert effect(found, "suppression", "background", "blur").tolist() == [0.0]
    assert found[("left_out", "", "", NO_BANK)].values.tolist() == [1.0]
    params = Params(backgrounds=1, blur=0, bank="backgrounds")
    rows = measured(ID, honest(), case, params=params, others=(unknown,), entry="backgrounds")
    assert rows[0]["level"] == "swap"
    assert "status" not in rows[0]


def test_only_objects_that_are_found_are_edited_and_so_many_at_most():
    bright = tile("c0", ((10, 10), (10, 50), (40, 10), (40, 50)))
    bright.image[0, 10:18, 10:18] = 0.6  # too dark to be found
    rows = measured(ID, honest(), bright, params=Params(backgrounds=1, blur=0, most_objects=2), others=EMPTY)
    edited = {row["object"] for row in rows}
    assert len(edited) == 2
    assert "object 1" not in edited
    again = measured(ID, honest(), bright, params=Params(backgrounds=1, blur=0, most_objects=2), others=EMPTY)
    assert rows == again
    lost = tile("c1", ())
    (row,) = measured(ID, honest(), lost, params=PARAMS, others=EMPTY)
    assert row["status"] == "not_applicable"


def test_a_segmenter_is_asked_the_same():
    def off_floe(image):
        ring = np.zeros(image.shape, bool)
        return ~ring if np.median(image[18:46, 26:54]) < 0.4 else ring

    empty = tuple(tile(f"e{index}", (), empty=True, masks=True) for index in range(2))
    for leaves_out, expected in ((off_floe, 1.0), (None, 0.0)):
        case = tile("c0", masks=True)
        rows = measured(ID, Bright(leaves_out), case, params=PARAMS, others=empty)
        found = named(ID, rows, [case], PARAMS)
        assert effect(found, "suppression", "background", "swap").tolist() == [expected] * 2
        drop = effect(found, "confidence_drop", "background", "swap")
        assert (drop > 0.9).all() if expected else np.allclose(drop, 0, atol=1e-3)


def test_the_index_is_a_ratio_of_paired_effects():
    rows = []
    for case, swaps, removal in (("a", (1, 0, 0), 1), ("b", (1, 1, 0), 1), ("c", (0, 0, 0), 0)):
        for lost in swaps:
            rows.append({"level": "swap", "lost_edit": bool(lost), "lost_sham": False, "case": case})
        rows.append({"level": "removal", "lost_edit": bool(removal), "lost_sham": False, "case": case})
    rows[0]["lost_sham"] = True
    for row in rows:
        row |= {
            "factor": "background",
            "object": "object 1",
            "confidence": 0.3,
            "confidence_edit": 0.1,
            "confidence_sham": 0.2,
        }
    cases = [{"case": name, "cluster": name} for name in "abc"]
    reliance = named(ID, rows, cases, PARAMS)[("context_reliance",)]
    assert reliance.function(reliance.values.sum(axis=0)) == pytest.approx((2 / 9) / (2 / 3))
    assert np.isnan(reliance.function(np.array([1.0, 3.0, 0.0, 3.0])))


def test_a_failed_image_counts_as_the_worst():
    found = named(ID, [{"case": "a", "status": "failed", "reason": "cut short"}], [tile("a")], PARAMS)
    swap = found[("suppression", "", "background", "swap")]
    assert (len(swap.values), swap.worst, swap.missing) == (0, 1.0, "")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backgrounds": 0, "blur": 0.0}, "no other background"),
        ({"fill": "tela"}, "telea"),
        ({"match_iou": 0.0}, "match_iou"),
        ({"most_objects": 0}, "most_objects"),
        ({"margin_px": -1.0}, "margin_px"),
        ({"match": "overlap"}, "iou or centre"),
    ],
)
def test_wrong_parameters_are_explained(wrong, message):
    with pytest.raises(UsageError, match=message):
        Params(**wrong)
