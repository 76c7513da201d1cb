from __future__ import annotations

import numpy as np
import pytest
from fake import FACTS, disc, failed, labels, make_case, measured, quantities, tables

from xaiseg.checks.robustness_degradation import ID, Params
from xaiseg.data.degradation import degrade
from xaiseg.errors import UsageError

SHAPE = (40, 48)
LESION = disc(SHAPE, (20, 20), 7)
EMPTY = np.zeros(SHAPE, np.uint8)


def bright(reference):
    """An image whose lesion is bright, so that a threshold is a perfect model."""
    return (0.2 + 0.6 * (reference == 1))[None].astype(np.float32)


def threshold_model(image):
    """Finds what is brighter than half; a gain below 0.62 blinds it."""
    return labels(image[0] > 0.5)


def one(name, reference, *, model=threshold_model, params=None, clean=None, **more):
    case = make_case(name, reference, image=bright(reference), **more)
    held = clean or model(case.image)
    return case, measured(ID, case, held, params=params, predictor=model)


def test_a_row_a_factor_and_level_with_the_number_as_text():
    params = Params({"gain": (0.9, 0.5), "blur_px": (1, 2)})
    _, rows = one("a", LESION, params=params)
    assert [(row["factor"], row["level"], row["severity"]) for row in rows] == [
        ("gain", "0.9", "mild"), ("gain", "0.5", "strong"), ("blur_px", "1", "mild"), ("blur_px", "2", "strong"),
    ]  # fmt: skip


def test_a_planted_weakness_shows_at_its_own_level_only():
    params = Params({"gain": (0.9, 0.5)})
    case, rows = one("a", LESION, params=params)
    mild, strong = rows
    assert (mild["dice"], mild["dice_clean"], mild["dice_drop"], mild["n_missed"]) == (1.0, 1.0, 0.0, 0)
    assert (strong["dice"], strong["dice_drop"], strong["n_missed"], strong["n_missed_clean"]) == (0.0, 1.0, 1, 0)
    found = quantities(ID, tables({ID: rows}, [case]), params)
    assert found["dice_drop", "", "gain", "mild"].values.tolist() == [0.0]
    assert found["dice_drop", "", "gain", "strong"].values.tolist() == [1.0]
    assert found["missed_lesions", "", "gain", "strong"].values.tolist() == [1.0]
    assert found["dice", "", "gain", "strong"].values.tolist() == [0.0]
    assert found["dice_drop", "", "gain", "mild"].worst == 1.0
    assert "0.9" in found["dice_drop", "", "gain", "mild"].note


def test_all_copies_go_through_one_call_and_equal_the_degradation_itself():
    seen = []

    def model(image):
        seen.append(image)
        return threshold_model(image)

    case, _ = one("a", LESION, model=model, params=Params({"gain": (0.9, 0.5)}), clean=labels(LESION))
    random = np.random.default_rng(0)
    for image, level in zip(seen, (0.9, 0.5), strict=True):
        expected = degrade(case.image, "gain", level, value_range=tuple(FACTS["value_range"]), generator=random)
        np.testing.assert_array_equal(image, expected)


def test_noise_is_the_same_again_and_another_in_another_case():
    seen = {}

    def record(name):
        def model(image):
            seen.setdefault(name, []).append(image)
            return threshold_model(image)

        return model

    params = Params({"noise_sd": (0.02, 0.06)})
    for run, name in (("one", "a"), ("two", "a"), ("three", "b")):
        one(name, LESION, model=record(run), params=params, clean=labels(LESION))
    np.testing.assert_array_equal(seen["one"], seen["two"])
    assert not np.array_equal(seen["one"], seen["three"])


def test_lesion_free_images_have_no_dice_to_lose_but_may_gain_a_false_mask():
    params = Params({"gain": (0.9, 3.0)})
    free, free_rows = one("free", EMPTY, params=params)
    sick, sick_rows = one("sick", LESION, params=params)
    assert [row["dice_drop"] for row in free_rows] == [None, None]
    assert [row["false_alarm"] for row in free_rows] == [False, True]
    found = quantities(ID, tables({ID: free_rows + sick_rows}, [free, sick]), params)
    assert list(found["dice_drop", "", "gain", "mild"].cases) == ["sick"]
    assert found["false_alarm_change", "", "gain", "strong"].values.tolist() == [1.0]
    assert found["false_alarm_change", "", "gain", "mild"].values.tolist() == [0.0]
    alone = quantities(ID, tables({ID: free_rows}, [free]), params)
    assert "no image has a reference mask" in alone["dice_drop", "", "gain", "mild"].missing
    diseased = quantities(ID, tables({ID: sick_rows}, [sick]), params)
    assert "no lesion-free" in diseased["false_alarm_change", "", "gain", "mild"].missing


def test_missed_lesions_are_counted_one_by_one():
    two = LESION | disc(SHAPE, (8, 40), 4)
    # A copy of the image is what "gain 1" means, so that the model alone decides what is found.
    case, rows = one("a", two, model=lambda image: labels(LESION), params=Params({"gain": (1.0, 1.0)}))
    found = quantities(ID, tables({ID: rows}, [case]), Params({"gain": (1.0, 1.0)}))
    missed = found["missed_lesions", "", "gain", "mild"]
    assert sorted(missed.values) == [0.0, 1.0]
    assert list(missed.cases) == ["a", "a"]


def test_dice_is_the_mean_over_the_classes_that_are_there():
    reference = LESION.copy()
    reference[30:38, 36:46] = 2
    facts = {**FACTS, "classes": ["background", "liver", "spleen", "aorta"]}
    case = make_case("a", reference)
    only_liver = labels(np.where(reference == 1, 1, 0) + 3 * disc(SHAPE, (4, 4), 2))
    params = Params({"gain": (1.0, 1.0)})
    rows = measured(ID, case, labels(reference), params=params, facts=facts, predictor=lambda image: only_liver)
    assert rows[0]["dice_clean"] == 1.0
    assert rows[0]["dice"] == pytest.approx(0.5)
    assert rows[0]["n_reference"] == 2


def test_ignored_pixels_raise_no_alarm():
    reference = np.full(SHAPE, 255, np.uint8)
    reference[:5] = 0
    _, rows = one("a", reference, model=lambda image: labels(reference == 255), params=Params({"gain": (1.0, 1.0)}))
    assert rows[0]["false_alarm"] is False


def test_a_failed_image_still_gives_every_rung_a_worst_value():
    case = make_case("a", LESION)
    params = Params({"gain": (0.9, 0.5)})
    found = quantities(ID, tables({ID: [failed("a")]}, [case]), params)
    drop = found["dice_drop", "", "gain", "mild"]
    assert (len(drop.values), drop.worst, drop.missing) == (0, 1.0, "")


def test_the_default_ladder_is_that_of_the_clinical_protocol(repository):
    from ruamel.yaml import YAML

    document = YAML(typ="safe").load((repository / "protocols" / "clinical.yaml").read_text(encoding="utf-8"))
    assert Params() == Params(document["checks"][ID]["factors"])


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"blur": [1, 2]}, "blur_px"),
        ({"blur_px": [1]}, "two levels"),
        ({"blur_px": "12"}, "two levels"),
        ({"blur_px": [1, True]}, "two levels"),
        ({"blur_px": 1}, "two levels"),
        ({"downscale": [0.7, 1.5]}, "out of range"),
        ({}, "no ladder"),
        ([1, 2], "no ladder"),
    ],
)
def test_a_wrong_ladder_is_explained(factors, message):
    with pytest.raises(UsageError, match=message):
        Params(factors)


def test_match_iou_out_of_range_is_named():
    with pytest.raises(UsageError, match="match_iou"):
        Params(match_iou=0.0)
