from __future__ import annotations

import math

import numpy as np
import pytest
from fake import disc, failed, labels, make_case, measured, quantities, tables

from xaiseg.checks.performance_segmentation import ID, Params, case_summary
from xaiseg.errors import DataError, UsageError

SHAPE = (40, 50)
EMPTY = np.zeros(SHAPE, np.uint8)
LESION = disc(SHAPE, (20, 20), 6)
SMALL = disc(SHAPE, (20, 20), 4)
FAR = disc(SHAPE, (8, 42), 3)


def rows_of(*entries, params=None, **more):
    """Cases and rows of (name, reference, prediction, keyword arguments of the case)."""
    cases, rows = [], []
    for name, reference, prediction, *rest in entries:
        cases.append(make_case(name, reference, **(rest[0] if rest else {})))
        rows += measured(ID, cases[-1], labels(prediction), params=params, **more)
    return cases, rows


def image_row(rows):
    return next(row for row in rows if not row.get("object"))


def test_both_masks_there():
    _, rows = rows_of(("a", LESION, SMALL))
    row = image_row(rows)
    n, m = int(LESION.sum()), int(SMALL.sum())
    assert row["target"] == "lesion"
    assert row["presence"] == "both"
    assert row["dice"] == pytest.approx(2 * m / (n + m))
    assert row["iou"] == pytest.approx(m / n)
    assert row["area_bias"] == pytest.approx((m - n) / n)
    assert (row["area_reference"], row["area_prediction"]) == (n, m)
    assert (row["n_reference"], row["n_prediction"], row["n_found"], row["n_false"]) == (1, 1, 1, 0)
    assert 1.0 <= row["hd95"] <= 3.0
    assert row.get("nsd_mm") is None
    lesion = rows[1]
    assert (lesion["object"], lesion["area"], lesion["found"]) == ("lesion-1", n, True)
    assert lesion["best_iou"] == pytest.approx(m / n)


def test_reference_only_takes_the_worst_values():
    _, rows = rows_of(("a", LESION, EMPTY, {"spacing_mm": (0.5, 0.5)}))
    row = image_row(rows)
    assert (row["presence"], row["dice"], row["nsd"], row["area_bias"]) == ("reference_only", 0.0, 0.0, -1.0)
    assert row["hd95"] == pytest.approx(math.hypot(*SHAPE))
    assert row["hd95_mm"] == pytest.approx(math.hypot(*SHAPE) / 2)
    assert rows[1]["found"] is False
    assert rows[1]["best_iou"] == 0.0


def test_prediction_only_is_dice_0_without_an_area_bias():
    _, rows = rows_of(("a", EMPTY, FAR))
    row = image_row(rows)
    assert (row["presence"], row["dice"], row["nsd"], row["area_bias"]) == ("prediction_only", 0.0, 0.0, None)
    assert (row["n_reference"], row["n_false"]) == (0, 1)
    assert len(rows) == 1


def test_a_correct_negative_is_counted_apart_and_never_in_dice():
    cases, rows = rows_of(("a", EMPTY, EMPTY), ("b", LESION, LESION))
    assert image_row(rows)["dice"] is None
    found = quantities(ID, tables({ID: rows}, cases))
    assert list(found["dice",].cases) == ["b"]
    assert found["dice",].values.tolist() == [1.0]
    assert found["masks_neither",].values.tolist() == [1.0]
    assert found["masks_both",].values.tolist() == [1.0]


def test_millimetres_need_the_spacing():
    wide = {"spacing_mm": (0.5, 2.0)}
    cases, rows = rows_of(("a", LESION, np.roll(LESION, 2, axis=1), wide), params=Params(tolerance_mm=3.9))
    row = image_row(rows)
    assert row["hd95"] == pytest.approx(2.0, abs=0.3)
    assert 2.0 < row["hd95_mm"] <= 4.0
    assert row["nsd_mm"] < row["nsd"] == 1.0
    assert not quantities(ID, tables({ID: rows}, cases))["nsd_mm",].missing
    more_cases, more_rows = rows_of(("b", LESION, LESION))
    found = quantities(ID, tables({ID: rows + more_rows}, cases + more_cases))
    assert "1 of 2" in found["nsd_mm",].missing
    assert found["hd95_mm",].missing
    assert len(found["nsd",].values) == 2


def test_isotropic_spacing_scales_the_pixels():
    _, rows = rows_of(("a", LESION, SMALL, {"spacing_mm": (0.3, 0.3)}), params=Params(tolerance_mm=0.6))
    row = image_row(rows)
    assert row["hd95_mm"] == pytest.approx(0.3 * row["hd95"])
    assert row["nsd_mm"] == pytest.approx(row["nsd"])


def test_ignored_pixels_change_nothing():
    reference = LESION.copy()
    reference[FAR == 1] = 255
    _, rows = rows_of(("a", reference, LESION | FAR))
    assert image_row(rows)["dice"] == 1.0
    assert image_row(rows)["n_false"] == 0


def test_quantities_of_missed_lesions_false_alarms_and_patients():
    cases, rows = rows_of(
        ("a", LESION | FAR, LESION, {"cluster": "p1"}),
        ("b", LESION, EMPTY, {"cluster": "p1"}),
        ("c", EMPTY, FAR, {"cluster": "p2"}),
        ("d", EMPTY, EMPTY, {"cluster": "p3"}),
        ("e", LESION, LESION, {"cluster": "p4"}),
        ("f", LESION, LESION, {"cluster": "p5"}),
    )
    rows += [failed("f2")]
    cases.append(make_case("f2", LESION, cluster="p5"))
    found = quantities(ID, tables({ID: rows}, cases))
    missed = found["missed_lesions",]
    assert (missed.kind, missed.worst, missed.of, missed.strata) == ("proportion", 1.0, "lesion", True)
    assert sorted(zip(missed.cases, missed.values, strict=True)) == [
        ("a", 0.0), ("a", 1.0), ("b", 1.0), ("e", 0.0), ("f", 0.0),
    ]  # fmt: skip
    alarms = found["false_component_images",]
    assert dict(zip(alarms.cases, alarms.values, strict=True)) == {"c": 1.0, "d": 0.0}
    poor = found["patients_dice_below_0.5",]
    # p1: (0.9 + 0) / 2 < 0.5; p2: 0; p3 has no Dice at all; p4: 1; p5: (1 + 0 for the failed image) / 2 is not below.
    assert dict(zip(poor.cases, poor.values, strict=True)) == {"a": 1.0, "c": 1.0, "e": 0.0, "f": 0.0}
    assert poor.worst is None
    f1 = found["lesion_f1",]
    # found 3 (a, e, f), false 1 (c), missed 2 (a, b) and the failed image as one more
    assert f1.function(f1.values.sum(axis=0)) == pytest.approx(2 * 3 / (2 * 3 + 1 + 3))
    precision = found["lesion_precision",]
    assert precision.function(precision.values.sum(axis=0)) == pytest.approx(3 / 4)
    assert math.isnan(precision.function(np.zeros(2)))
    assert math.isnan(f1.function(np.zeros(3)))
    assert found["false_components",].values.sum() == 1.0
    assert found["dice",].worst == 0.0
    assert found["hd95",].worst == pytest.approx(math.hypot(*SHAPE))


def test_without_lesion_free_images_false_positives_are_not_run():
    cases, rows = rows_of(("a", LESION, LESION))
    assert quantities(ID, tables({ID: rows}, cases))["false_component_images",].missing


def test_a_failed_image_makes_an_area_bias_worse_whichever_way_it_points():
    over = quantities(ID, tables({ID: rows_of(("a", SMALL, LESION))[1]}, [make_case("a", SMALL)]))["area_bias",]
    under = quantities(ID, tables({ID: rows_of(("a", LESION, SMALL))[1]}, [make_case("a", SMALL)]))["area_bias",]
    assert (over.worst, under.worst) == (1.0, -1.0)


def test_all_images_failed_still_gives_a_worst_dice():
    found = quantities(ID, tables({ID: [failed("a")]}, [make_case("a", LESION)]))
    assert len(found["dice",].values) == 0
    assert found["dice",].worst == 0.0
    assert found["patients_dice_below_0.5",].values.tolist() == [1.0]


def test_the_second_reader_is_the_ceiling_paired_by_image():
    cases, rows = rows_of(("a", LESION, SMALL, {"reader2": SMALL}), ("b", LESION, LESION, {"reader2": SMALL}))
    found = quantities(ID, tables({ID: rows}, cases))
    expected = 2 * SMALL.sum() / (SMALL.sum() + LESION.sum())
    np.testing.assert_allclose(found["dice_readers",].values, [expected, expected])
    np.testing.assert_allclose(found["dice_minus_readers",].values, [0.0, 1 - expected])
    assert found["dice_minus_readers",].worst == -1.0
    alone = quantities(ID, tables({ID: rows_of(("a", LESION, SMALL))[1]}, cases))
    assert "ceiling unknown" in alone["dice_minus_readers",].missing


def test_what_the_second_reader_left_open_is_no_disagreement():
    half = LESION.copy()
    half[:20][LESION[:20] == 1] = 255
    _, rows = rows_of(("a", LESION, LESION, {"reader2": half}))
    assert (image_row(rows)["dice_readers"], image_row(rows)["nsd_readers"]) == (1.0, 1.0)


def test_an_image_of_which_nothing_is_known_is_not_lesion_free():
    with pytest.raises(DataError, match="ignores every pixel"):
        rows_of(("a", np.full(SHAPE, 255, np.uint8), LESION))


def test_readers_who_disagree_on_whether_there_is_a_lesion():
    _, rows = rows_of(("a", LESION, LESION, {"reader2": EMPTY}), ("b", EMPTY, EMPTY, {"reader2": EMPTY}))
    first, second = [row for row in rows if not row.get("object")]
    assert (first["dice_readers"], first["nsd_readers"]) == (0.0, 0.0)
    assert (second["dice_readers"], second["nsd_readers"]) == (None, None)


def test_several_classes_are_averaged_within_the_case_and_listed_one_by_one():
    reference, prediction = LESION.copy(), LESION.copy()
    reference[FAR == 1] = 2
    facts = {"classes": ["background", "liver", "spleen"], "strata": []}
    cases, rows = rows_of(("a", reference, prediction), ("b", LESION, LESION), facts=facts)
    found = quantities(ID, tables({ID: rows}, cases, **facts))
    assert found["dice",].values.tolist() == [0.5, 1.0]
    assert found["dice", "liver"].values.tolist() == [1.0, 1.0]
    assert dict(zip(found["dice", "spleen"].cases, found["dice", "spleen"].values, strict=True)) == {"a": 0.0}
    assert found["missed_lesions",].values.tolist() == [0.0, 1.0, 0.0]
    assert found["false_component_images",].missing


def test_duplicated_images_leave_the_mean_as_it_is():
    cases, rows = rows_of(("a", LESION, SMALL), ("b", LESION, LESION))
    twice_cases, twice = rows_of(*((f"{n}{i}", LESION, p) for n, p in (("a", SMALL), ("b", LESION)) for i in (1, 2)))
    one = quantities(ID, tables({ID: rows}, cases))["dice",].values.mean()
    two = quantities(ID, tables({ID: twice}, twice_cases))["dice",].values.mean()
    assert one == pytest.approx(two)


@pytest.mark.parametrize("flip", [lambda m: m[::-1], lambda m: m[:, ::-1], np.transpose])
def test_mirrored_and_turned_images_give_the_same_row(flip):
    _, rows = rows_of(("a", LESION | FAR, SMALL))
    _, turned = rows_of(("a", flip(LESION | FAR), flip(SMALL)))
    for name in ("dice", "iou", "nsd", "hd95", "area_bias", "n_found", "n_reference"):
        assert image_row(rows)[name] == pytest.approx(image_row(turned)[name])


def test_case_summary_says_what_went_wrong_worst_first():
    cases, rows = rows_of(
        ("good", LESION, LESION),
        ("negative", EMPTY, EMPTY),
        ("missed", LESION | FAR, LESION),
        ("lost", LESION, EMPTY),
        ("alarm", EMPTY, FAR | SMALL),
        ("thin", LESION, SMALL),
        ("shifted", LESION, np.roll(LESION, 1, axis=0)),
    )
    rows.append(failed("broken", "corrupt PNG"))
    summary = case_summary(tables({ID: rows}, cases))
    said = dict(zip(summary["case"], summary["what"], strict=True))
    assert summary["case"].iloc[0] == "broken"
    assert summary["case"].iloc[-1] == "negative"
    assert said["broken"] == "failed: corrupt PNG"
    assert said["missed"].startswith("missed 1 of 2 lesions")
    assert said["lost"] == "missed lesion"
    assert said["alarm"] == "2 false components"
    assert said["thin"].startswith("undersegmented -")
    assert said["good"] == "nothing"
    assert said["shifted"] == "border only"
    assert said["negative"] == "correct negative"
    scores = summary["score"].to_numpy()[1:-1]
    assert (np.diff(scores) >= 0).all()


def test_an_image_without_a_reference_is_a_failed_image():
    case = make_case("a", LESION)
    blind = type(case)(case.ref, case.image, None)
    with pytest.raises(DataError, match="no reference"):
        measured(ID, blind, labels(LESION))


@pytest.mark.parametrize(
    "wrong",
    [{"match_iou": 0.0}, {"match_iou": 1.5}, {"tolerance_px": -1.0}, {"tolerance_mm": -1.0}, {"min_component_px": 0}],
)
def test_parameters_out_of_range_are_named(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Params(**wrong)
