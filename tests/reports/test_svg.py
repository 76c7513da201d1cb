"""Ticks of axes read differently from one another and say where they stand."""

from __future__ import annotations

import numpy as np
import pytest

from xaiseg.reports.svg import Axis


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_no_two_ticks_read_alike_and_each_says_its_place(count):
    rng = np.random.default_rng(0)
    for _ in range(400):
        low = rng.normal() * 10.0 ** rng.integers(-4, 4)
        axis = Axis(low, low + 10.0 ** rng.uniform(-3, 3) * max(abs(low), 1e-9), 0, 100)
        labels = axis.labels(count)
        words = [text for _, text in labels]
        assert len(set(words)) == len(words), words
        for tick, text in labels:
            assert float(text.replace("−", "-")) == pytest.approx(tick, rel=1e-9, abs=1e-15)
            assert axis.low - 1e-9 * abs(axis.low) <= tick <= axis.high + 1e-9 * abs(axis.high)


def test_axes_that_once_repeated_themselves():
    assert [text for _, text in Axis(-0.006, 0.0075, 0, 1).labels(4)] == ["−0.005", "0", "0.005"]
    assert [text for _, text in Axis(0.9984, 0.9998, 0, 1).labels(4)] == ["0.9985", "0.9990", "0.9995"]
    assert [text for _, text in Axis(0, 1, 0, 1).labels(5)] == ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [text for _, text in Axis(0, 300, 0, 1).labels(3)] == ["0", "100", "200", "300"]
    assert [text for _, text in Axis(-2e-9, 1e-9, 0, 1).labels(3)] == ["−2e−9", "−1e−9", "0", "1e−9"]
