from __future__ import annotations

import numpy as np
import pytest

from xaiseg.editing.artefacts import REGISTRY, plant
from xaiseg.errors import UsageError

LOCAL = [name for name in REGISTRY if name != "border"]


def scene(shape=(96, 128)):
    image = np.random.default_rng(0).uniform(0.3, 0.6, (2, *shape)).astype(np.float32)
    taken = np.zeros(shape, bool)
    taken[30:60, 40:80] = True
    return image, taken


def planted(kind, seed=0, **more):
    image, taken = scene()
    return image, taken, plant(image, kind, taken, np.random.default_rng(seed), **more)


@pytest.mark.parametrize("kind", LOCAL)
def test_edit_and_sham_change_the_same_pixels_and_no_object(kind):
    image, taken, made = planted(kind)
    edited, shammed = ((one != image).any(axis=0) for one in (made.edit, made.sham))
    assert edited.sum() > 15
    np.testing.assert_array_equal(edited, shammed)
    assert not (edited & (taken | ~made.where)).any()
    assert set(np.unique(made.edit[:, edited]).tolist()) >= {1.0}
    assert made.sham.max() <= image.max()
    assert made.sham.min() >= image.min()


def test_a_border_runs_around_and_its_sham_mirrors():
    image, _, made = planted("border")
    assert made.where[0].all()
    assert made.where[:, -1].all()
    assert not made.where[5:-5, 5:-5].any()
    assert (made.edit[:, 0] == 0).all()
    inner = ~made.where
    np.testing.assert_array_equal(made.edit[:, inner], image[:, inner])
    np.testing.assert_array_equal(made.sham[:, inner], image[:, inner])
    width = int(made.where[:, 64].argmin())
    for depth in range(width):  # the row just outside the inner edge is the row just inside, and so on outwards
        np.testing.assert_array_equal(made.sham[:, width - 1 - depth, 20:100], image[:, width + depth, 20:100])


@pytest.mark.parametrize("kind", list(REGISTRY))
def test_the_seed_draws_the_place_and_the_range_the_values(kind):
    _, _, first = planted(kind)
    _, _, again = planted(kind)
    np.testing.assert_array_equal(first.edit, again.edit)
    np.testing.assert_array_equal(first.sham, again.sham)
    others = [planted(kind, seed)[2] for seed in range(1, 5)]
    assert kind == "border" or any((one.where != first.where).any() for one in others)
    image, taken = scene()
    wide = plant(255 * image, kind, taken, np.random.default_rng(0), value_range=(0.0, 255.0))
    assert wide.edit.max() == 255.0


def test_no_room_is_said():
    image, _ = scene()
    full = np.ones(image.shape[1:], bool)
    assert plant(image, "text", full, np.random.default_rng(0)) is None
    narrow = full.copy()
    narrow[:30, :80] = False  # room for the mark and none for the pixels of its sham
    narrow[16:] = True
    assert plant(image, "text", narrow, np.random.default_rng(0)) is None
    assert plant(image[:, :6], "ruler", full[:6], np.random.default_rng(0)) is None


def test_an_unknown_mark_is_named():
    image, taken = scene()
    with pytest.raises(UsageError, match="did you mean 'ruler'"):
        plant(image, "rulers", taken, np.random.default_rng(0))


def test_a_frame_needs_something_inside():
    for side in (1, 2, 4):
        image = np.full((1, 50, side), 0.5, np.float32)
        assert plant(image, "border", np.zeros((50, side), bool), np.random.default_rng(0)) is None
    assert plant(np.full((1, 50, 6), 0.5, np.float32), "border", np.zeros((50, 6), bool), np.random.default_rng(0))
