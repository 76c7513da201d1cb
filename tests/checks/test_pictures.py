"""Coarse pictures in rows: what is kept and what the report draws from it."""

from __future__ import annotations

import doctest

import numpy as np

import xaiseg.checks.pictures as pictures
from xaiseg.checks.pictures import PICTURE_SIDE, pixels_of, shown


def test_examples_in_the_docs():
    assert doctest.testmod(pictures).failed == 0


def test_three_channels_keep_their_colours():
    one = np.zeros((3, 4, 6))
    one[0], one[1, :, 3:], one[2] = 1.0, 0.5, -1.0
    held = pixels_of(shown([one, one[::-1]], (-1.0, 1.0)))
    assert held.shape == (8, 6, 3)
    assert held[0, 0].tolist() == [255, 128, 0]
    assert held[0, 5].tolist() == [255, 191, 0]
    assert held[7, 5].tolist() == [0, 191, 255]


def test_further_channels_are_not_shown():
    one = np.stack([np.full((3, 2), level) for level in (0.2, 0.4, 0.6, 1.0, 1.0)])
    assert pixels_of(shown([one], (0.0, 1.0)))[0, 0].tolist() == [51, 102, 153]


def test_one_and_two_channels_are_grey():
    for channels in (1, 2):
        held = pixels_of(shown([np.full((channels, 3, 2), 0.2)], (0.0, 1.0)))
        assert held.shape == (3, 2)
        assert set(held.ravel().tolist()) == {51}


def test_long_windows_are_reduced_in_each_colour():
    window = np.linspace(0, 1, 3 * 100 * 200).reshape(3, 100, 200)
    held = pixels_of(shown([window], (0.0, 1.0)))
    assert held.shape == (PICTURE_SIDE // 2, PICTURE_SIDE, 3)
    coarse = window.reshape(3, 100, 200).mean(axis=(1, 2))
    np.testing.assert_allclose(held.mean(axis=(0, 1)) / 255, coarse, atol=0.01)


def test_rows_of_earlier_runs_are_grey():
    assert pixels_of({"picture": [0, 1, 2, 3], "picture_width": 2}).tolist() == [[0, 1], [2, 3]]
    missing = {"picture": [0, 1, 2, 3], "picture_width": 2, "picture_channels": float("nan")}
    assert pixels_of(missing).shape == (2, 2)
