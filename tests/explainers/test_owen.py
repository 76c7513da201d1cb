import numpy as np
import pytest

from tests.explainers.toy_games import additive, all_of, everywhere, game_session
from tests.explainers.toy_segmenters import bright_square, small_unet
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Session, explain
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.owen import OwenParams, tree
from xaiseg.explainers.targets import Region

ZERO = "dataset-mean"


def cell_values(found, segments):
    return np.array([[values[segments.labels == k].mean() for k in range(segments.count)] for values in found.values])


def owen_values(links, value):
    """Owen values along a binary tree from the definition: each pair of branches plays a two-player Shapley game."""
    cells = len(links) + 1
    found = np.zeros(cells)

    def members(node):
        return {node} if node < cells else members(int(links[node - cells][0])) | members(int(links[node - cells][1]))

    def split(node, beside, weight):
        if node < cells:
            found[node] += weight * (value(beside | {node}) - value(beside))
            return
        left, right = int(links[node - cells][0]), int(links[node - cells][1])
        for one, other in ((left, right), (right, left)):
            split(one, beside, weight / 2)
            split(one, beside | members(other), weight / 2)

    split(2 * cells - 2, set(), 1.0)
    return found


def test_owen_values_are_those_of_the_definition_for_all_targets():
    session, segments = game_session(lambda c: c[:, 0] * c[:, 1] - c[:, 3] * c[:, 4] * c[:, 8] + c[:, 2])
    half = Region(1, np.arange(12)[:, None].repeat(12, axis=1) < 6)
    params = OwenParams(2000, "given", segments, baseline=ZERO)
    found = explain(session, "owen", [everywhere(), half], params=params)

    def value(shown):
        z = np.isin(np.arange(9), list(shown)).astype(float)
        return z[0] * z[1] - z[3] * z[4] * z[8] + z[2]

    expected = owen_values(tree(session.image.numpy(), segments), value)
    np.testing.assert_allclose(cell_values(found, segments), [expected, expected], atol=1e-5)
    assert found.completeness.max() < 1e-5


def test_additive_and_and_games():
    weights = np.random.default_rng(3).standard_normal(16)
    session, segments = game_session(additive(weights), cells=4)
    params = OwenParams(500, "given", segments, baseline=ZERO)
    found = explain(session, "owen", [everywhere()], params=params)
    np.testing.assert_allclose(cell_values(found, segments)[0], weights, atol=1e-5)
    session, segments = game_session(all_of(0, 1), cells=4)
    found = explain(session, "owen", [everywhere()], params=params)
    np.testing.assert_allclose(cell_values(found, segments)[0, :2], [0.5, 0.5], atol=1e-5)


def test_on_superpixels_the_values_sum_to_the_change():
    mask = np.zeros((24, 32), dtype=bool)
    mask[8:16, 10:18] = True
    session = Session(small_unet(), bright_square())
    found = explain(session, "owen", [Region(1, mask)], params=OwenParams(100, count=12))
    assert found.completeness[0] < 1e-4
    assert found.values.shape == (1, 24, 32)
    one = explain(session, "owen", [Region(1, mask)], params=OwenParams(100, count=1))
    assert one.completeness[0] < 1e-4
    with pytest.raises(UsageError, match="too few masks"):
        explain(session, "owen", [Region(1, mask)], params=OwenParams(4))


def test_the_tree_joins_neighbours_that_look_alike():
    image = np.array([[[0.0, 0.0, 1.0, 1.0]]])
    links = tree(image, Segments.of(np.array([[0, 1, 2, 3]])))
    assert {frozenset(map(int, row[:2])) for row in links[:2]} == {frozenset({0, 1}), frozenset({2, 3})}
