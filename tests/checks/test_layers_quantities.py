"""Figures of made-up layers and rungs, by hand."""

import numpy as np
import pandas as pd
import pytest

from xaiseg.checks.equivalence_layers import Params
from xaiseg.checks.layers_quantities import broken_rungs, dead_channels, layer_quantities

CHANCES = {"a": 1.0, "b": 0.25}


def rows():
    once = [{"case": "", "target": name, "place": place} for name, place in (("late", 1), ("early", 0))]
    layers = [
        {"case": case, "target": name, "signal": 100.0, "noise": noise, "local_noise": 0.5, "values": 50,
         "saturated": saturated, "alive": alive}
        for case, name, noise, saturated, alive in (
            ("a", "early", 0.1, 0, [3, 1, 0]), ("b", "early", 2.0, 5, [1, 1, 2]),
            ("a", "late", 0.1, 5, [3]), ("b", "late", 0.1, 0, [3]),
        )
    ]  # fmt: skip
    rungs = [
        {"case": case, "factor": "rung", "level": level, "pixels": 100, "flips": flips, "flips_from_float": flips}
        for case, level, flips in (("a", "B", 0), ("b", "B", 0), ("a", "C", 0), ("b", "C", 2))
    ]
    filled = [{"factor": "", "level": "", "target": "", **row} for row in (*once, *layers, *rungs)]
    return pd.DataFrame(filled)


def found(params=None, chances=CHANCES):
    named = layer_quantities(rows(), "v", params or Params(), chances, has_build=True)
    return {"/".join(filter(None, (q.metric, q.target, q.level))): q for q in named}


def test_layers_come_in_the_order_of_computation():
    assert [name for name in found() if name.startswith("sqnr/")] == ["sqnr/early", "sqnr/late"]


def test_shares_and_channels_by_hand():
    held = found()
    assert held["saturated"].values.tolist() == [0.05, 0.05]
    assert held["saturated"].cases.tolist() == ["a", "b"]
    assert held["dead_channels"].values.tolist() == [1.0]  # the second: never in integers, once in floating point
    assert held["dead_channels"].note.startswith("Of 4 channels")
    assert dead_channels(rows().query("target == 'early'").query("case != ''")) == (1, 3)


@pytest.mark.parametrize(("chances", "broken"), [(CHANCES, ["C"]), ({"a": 1.0, "b": 1.0}, [])])
def test_a_case_counts_for_those_that_were_not_drawn(chances, broken):
    """2 % in one of two images is 1 %, and 1.6 % where that image stands for four."""
    params = Params(rung_flips=0.0125)
    assert broken_rungs(rows().query("factor == 'rung'"), params, chances) == broken
    assert found(params, chances)["rungs_that_break"].values.tolist() == [len(broken)]


@pytest.mark.parametrize(("chances", "ratio"), [(CHANCES, 500 / 8.1), ({"a": 1.0, "b": 1.0}, 200 / 2.1)])
def test_the_floor_is_held_against_weighted_sums(chances, ratio):
    decibels = 10 * np.log10(ratio)
    just, above = (found(Params(layer_db=decibels + more), chances)["layers_below_floor"] for more in (-0.01, 0.01))
    assert (just.values.tolist(), above.values.tolist()) == ([0.0], [1.0])
    assert above.note.endswith(f"first in early ({decibels:.1f} dB).")
