"""Effects against sums by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from xaiseg.checks.shortcut_quantities import change, drop, effects, lost, persistent_drops

RNG = np.random.default_rng(0)
ROWS = pd.DataFrame(
    {
        "case": [f"c{index // 3}" for index in range(12)],
        "target": ["seal", "pup"] * 6,
        "lost_edit": RNG.random(12) < 0.6,
        "lost_sham": RNG.random(12) < 0.3,
        "confidence": 0.3 + 0.7 * RNG.random(12),
        "confidence_edit": RNG.random(12),
        "confidence_sham": RNG.random(12),
    }
)


def named(rows, failed=False, worst=1.0):
    found = effects(rows, failed, "suppression", factor="f", level="x", better="lower", note="n", worst=worst)
    return {(one.metric, one.target, one.level): one for one in found}


def test_effects_are_differences_of_edit_and_sham_in_the_same_row():
    found = named(ROWS)
    for target in ("", "seal", "pup"):
        held = [row for row in ROWS.to_dict("records") if target in ("", row["target"])]
        effect = found["suppression", target, "x"]
        assert effect.values.tolist() == [int(row["lost_edit"]) - int(row["lost_sham"]) for row in held]
        assert effect.cases.tolist() == [row["case"] for row in held]
        expected = [row["confidence_sham"] - row["confidence_edit"] for row in held]
        np.testing.assert_allclose(found["confidence_drop", target, "x"].values, expected)
        shares = [max(-1.0, value / row["confidence"]) for value, row in zip(expected, held, strict=True)]
        relative = found["relative_confidence_drop", target, "x"]
        np.testing.assert_allclose(relative.values, np.minimum(shares, 1.0))
        assert (relative.worst, relative.better) == (1.0, "lower")
        assert found["flip_rate", target, "x"].values.mean() == np.mean([row["lost_edit"] for row in held])
        assert found["flip_rate", target, "x, sham"].values.mean() == np.mean([row["lost_sham"] for row in held])
        assert effect.values.mean() == pytest.approx(
            found["flip_rate", target, "x"].values.mean() - found["flip_rate", target, "x, sham"].values.mean()
        )


def quantile(shares):
    """The 20 % quantile, from the definition: a fifth of the way from the smallest to the largest rank."""
    ordered, place = sorted(shares), 0.2 * (len(shares) - 1)
    low = int(place)
    return ordered[low] + (place - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def kept(rows, failed=False, edits=1):
    found = persistent_drops(rows, failed, edits, factor="f", level="x", note="n", absent="none")
    return {one.target: one for one in found}


def test_what_most_edits_take_from_an_object_is_a_low_quantile():
    rows = ROWS.assign(object=["object 1", "object 2", "object 1"] * 4)
    for target, found in kept(rows).items():
        held = [row for row in rows.to_dict("records") if target in ("", row["target"])]
        by_object = {}
        for row in held:
            share = (row["confidence_sham"] - row["confidence_edit"]) / row["confidence"]
            by_object.setdefault((row["case"], row["object"]), []).append(min(1.0, max(-1.0, share)))
        expected = {key: quantile(shares) for key, shares in by_object.items()}
        assert found.cases.tolist() == [case for case, _ in sorted(expected)]
        np.testing.assert_allclose(found.values, [expected[key] for key in sorted(expected)])
        assert (found.metric, found.worst, found.better) == ("persistent_confidence_drop", 1.0, "lower")
    assert set(kept(rows)) == {"", "seal", "pup"}


def test_objects_with_fewer_edits_are_left_out():
    rows = ROWS.assign(object=["object 1", "object 2", "object 1"] * 4)  # two edits of object 1, one of object 2
    assert len(kept(rows)[""].values) == 8
    assert len(kept(rows, edits=2)[""].values) == 4
    assert kept(rows, edits=3)[""].missing == "none"


def test_without_edits_nothing_persists_but_failed_images_count():
    rows = ROWS.assign(object="object 1")[:0]
    assert kept(rows)[""].missing == "none"
    assert not kept(rows, failed=True)[""].missing


def test_one_class_is_not_told_twice():
    assert {target for _, target, _ in named(ROWS[ROWS["target"] == "seal"])} == {""}


def test_nothing_measured_is_missing_unless_images_failed():
    assert named(ROWS[:0])["suppression", "", "x"].missing
    assert not named(ROWS[:0], failed=True)["suppression", "", "x"].missing
    assert named(ROWS[:0], failed=True, worst=None)["suppression", "", "x"].missing


def test_swapping_edit_and_sham_turns_every_effect_round():
    names = {"lost_edit": "lost_sham", "lost_sham": "lost_edit", "confidence_edit": "confidence_sham",
             "confidence_sham": "confidence_edit"}  # fmt: skip
    turned = ROWS.rename(columns=names)
    np.testing.assert_array_equal(lost(turned), -lost(ROWS))
    np.testing.assert_allclose(drop(turned), -drop(ROWS))
    found = change(ROWS, "m", "confidence", factor="f", level="x", note="n")
    np.testing.assert_allclose(found.values, -drop(ROWS))
