import numpy as np
import pytest

from xaiseg.faithfulness.complexity import complexity, sparseness


def one_pixel(count):
    values = np.zeros((1, count))
    values[0, count // 2] = -7.0
    return values


@pytest.mark.parametrize("count", [2, 9, 100])
def test_one_pixel_and_an_even_map_are_the_two_ends(count):
    even = np.full((1, count), -0.3)
    assert complexity(one_pixel(count)) == 0.0
    assert complexity(even) == pytest.approx(np.log(count))
    assert sparseness(one_pixel(count)) == pytest.approx((count - 1) / count)
    assert sparseness(even) == pytest.approx(0.0, abs=1e-12)


def test_k_equal_pixels_of_n():
    values = np.zeros((4, 5))
    values.flat[:6] = 2.0
    assert complexity(values) == pytest.approx(np.log(6))
    assert sparseness(values) == pytest.approx(1 - 6 / 20)


def test_gini_is_half_the_relative_mean_difference():
    values = np.random.default_rng(0).standard_normal((5, 6))
    flat = np.abs(values).ravel()
    mean_difference = np.abs(flat[:, None] - flat[None, :]).mean()
    assert sparseness(values) == pytest.approx(mean_difference / (2 * flat.mean()))


def test_sign_and_unit_do_not_matter_and_the_map_is_left_as_it_was():
    values = np.random.default_rng(0).standard_normal((5, 6))
    before = values.copy()
    for metric in (complexity, sparseness):
        assert metric(values) == pytest.approx(metric(-9 * values))
    assert (values == before).all()


def test_a_blank_map_has_neither():
    assert complexity(np.zeros((3, 3))) is None
    assert sparseness(np.zeros((3, 3))) is None
