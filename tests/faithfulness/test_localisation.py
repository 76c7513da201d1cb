import numpy as np
import pytest

from xaiseg.faithfulness.localisation import locate

MASK = np.zeros((100, 100), dtype=bool)
MASK[40:60, 40:60] = True


def test_shares_count_absolute_values():
    values = np.zeros((100, 100))
    values[50, 50], values[50, 62], values[0, 0] = 2.0, -1.0, -5.0  # inside; 3 px off; far away
    found = locate(values, MASK)
    assert (found.inside, found.outside, found.context) == pytest.approx((0.25, 0.75, 0.625))


def test_an_even_map_has_the_share_of_the_area():
    assert locate(np.ones((100, 100)), MASK).inside == pytest.approx(0.04)
    assert locate(MASK * 1.0, MASK) == locate(MASK * 9.0, MASK)
    assert locate(MASK * 1.0, MASK).context == 0.0


def test_a_blank_map_lies_nowhere():
    assert locate(np.zeros((100, 100)), MASK).inside is None
