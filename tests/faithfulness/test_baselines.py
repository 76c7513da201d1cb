import numpy as np
import pytest

from xaiseg.faithfulness.baselines import baseline_maps, centre_prior, closeness, edge_prior

MASK = np.zeros((9, 11), dtype=bool)
MASK[3:6, 2:6] = True


def test_distance_to_mask_is_the_euclidean_distance_by_the_definition():
    found = closeness(MASK)
    inside, outside = np.argwhere(MASK), np.argwhere(~MASK)
    for i in range(9):
        for j in range(11):
            others = outside if MASK[i, j] else inside
            nearest = np.hypot(*(others - (i, j)).T).min()
            assert found[i, j] == pytest.approx(nearest if MASK[i, j] else -nearest)


def test_every_pixel_of_the_mask_comes_before_every_pixel_outside():
    maps = baseline_maps(np.zeros((1, 9, 11)), MASK, np.random.default_rng(0))
    for name in ("predicted-mask", "distance-to-mask"):
        assert maps[name][MASK].min() > maps[name][~MASK].max()


def test_the_random_map_follows_its_generator():
    first, second, other = (
        baseline_maps(np.zeros((1, 9, 11)), MASK, np.random.default_rng(seed))["random"] for seed in (0, 0, 1)
    )
    assert (first == second).all()
    assert (first != other).any()


def test_the_centre_prior_is_symmetric_and_highest_in_the_centre():
    prior = centre_prior((9, 11))
    np.testing.assert_allclose(prior, prior[::-1, ::-1])
    assert np.unravel_index(prior.argmax(), prior.shape) == (4, 5)


def test_the_edge_prior_is_highest_on_the_border_of_a_step_and_zero_on_flat_ground():
    image = np.zeros((1, 20, 30))
    image[:, :, 15:] = 1.0
    prior = edge_prior(image)
    assert set(prior.argmax(axis=1)) <= {14, 15}
    assert prior[:, :8].max() < 1e-6
    np.testing.assert_allclose(edge_prior(np.concatenate([image, image])), 2 * prior)


def test_a_mask_that_fills_the_image_has_no_distance():
    assert not closeness(np.ones((3, 3), dtype=bool)).any()
