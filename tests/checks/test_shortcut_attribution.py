"""The gradient's share on an object, for models whose gradient is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.checks.shortcut_worlds import honest, measured, named
from tests.checks.shortcut_worlds import tile as plain_tile
from tests.checks.test_shortcut_lookalikes import FACTS, Colours, subject, tile
from xaiseg.adapters import wrap_module
from xaiseg.checks.shortcut_attribution import attribution_lift
from xaiseg.checks.shortcut_object import ID, Params
from xaiseg.checks.shortcut_reading import Thing, things_of


def test_a_cell_that_sees_only_itself_has_all_its_gradient_there():
    detector, case = subject(Colours(), ("seal",), channels=3), tile("a", [])
    (thing,) = things_of(case, boxes=True)
    assert attribution_lift(detector, case.image, thing) == pytest.approx(64 * 64 / 64)
    half = Thing(0, thing.region.copy(), thing.boxes)
    half.region[:, 20:] = False  # the left half of the cell
    assert attribution_lift(detector, case.image, half) == pytest.approx(0.5 * 64 * 64 / 32)
    elsewhere = Thing(0, thing.region, (np.array([0.0, 0.0, 60.0, 60.0]),))
    assert attribution_lift(detector, case.image, elsewhere) is None


@pytest.mark.parametrize("reach", [1, 5, 9])
def test_a_segmenters_gradient_lies_where_its_kernel_reaches(reach):
    network = nn.Conv2d(1, 1, reach, padding=reach // 2, bias=False)
    with torch.no_grad():
        network.weight.fill_(1.0)
    region = np.zeros((24, 30), bool)
    region[8:14, 10:18] = True
    image = np.random.default_rng(0).random((1, 24, 30)).astype(np.float32)
    gradient = np.zeros((24, 30))
    for y, x in np.argwhere(region):  # each pixel of the region sees a square around it
        gradient[y - reach // 2 : y + reach // 2 + 1, x - reach // 2 : x + reach // 2 + 1] += 1
    expected = gradient[region].sum() / gradient.sum() / region.mean()
    found = attribution_lift(wrap_module(network), image, Thing(1, region, ()))
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_check_tells_it_of_objects_that_are_found():
    detector, case = subject(Colours(), ("seal",), channels=3), tile("a", [])
    params = Params(fills=("mean",))
    rows = measured(ID, detector, case, params=params, facts=FACTS)
    found = named(ID, rows, [case], params)
    assert found[("attribution_lift",)].values.tolist() == [pytest.approx(64.0)]
    assert found[("removal_effect", "", "removal", "mean")].values.tolist() == [1.0]
    dark = plain_tile("b")
    box = named(ID, measured(ID, honest(), dark, params=params), [dark], params)
    assert "no gradients" in box[("attribution_lift",)].missing
    off = Params(fills=("mean",), lift=False)
    assert ("attribution_lift",) not in named(ID, measured(ID, detector, case, params=off, facts=FACTS), [case], off)
