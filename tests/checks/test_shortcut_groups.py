"""Groups of vectors of known origin; the silhouette against its definition."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from xaiseg.checks.shortcut_groups import MOST, grouped

PARAMS = SimpleNamespace(groups=6)


def rows_of(vectors, layer="a"):
    names = [f"c{index:04d}" for index in range(len(vectors))]
    table = {"case": names, "object": "detection 1", "layer": layer, "vector": [list(one) for one in vectors]}
    return pd.DataFrame(table)


def clouds(kinds, spread, seed=0, dimension=12, count=20):
    rng = np.random.default_rng(seed)
    centres = np.eye(dimension)[:kinds]
    truth = np.repeat(np.arange(kinds), [count + 5 * (kinds - kind) for kind in range(kinds)])
    return centres[truth] + spread * rng.standard_normal((len(truth), dimension)), truth


def silhouette(vectors, labels):
    """For each point: (distance to the nearest other group - distance within) / the larger of the two."""
    values = []
    for index, (one, label) in enumerate(zip(vectors, labels, strict=True)):
        away = np.linalg.norm(vectors - one, axis=1)
        own = [away[j] for j in range(len(vectors)) if labels[j] == label and j != index]
        if not own:
            values.append(0.0)
            continue
        other = min(away[labels == each].mean() for each in set(labels.tolist()) - {label})
        values.append((other - np.mean(own)) / max(other, np.mean(own)))
    return float(np.mean(values))


@pytest.mark.parametrize("kinds", [2, 3, 5])
def test_groups_are_found_however_strong_their_members(kinds):
    vectors, truth = clouds(kinds, 0.06)
    strength = np.random.default_rng(1).uniform(0.1, 30, (len(vectors), 1))
    found = grouped(rows_of(strength * vectors), PARAMS)
    np.testing.assert_array_equal(found.labels, truth)  # the largest first, as they were made
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert found.silhouette == pytest.approx(silhouette(units, found.labels))
    for group, members in enumerate(found.central):
        centre = units[truth == group].mean(axis=0)
        away = [np.linalg.norm(units[index] - centre) for index in members]
        assert away == sorted(away)
        assert set(members) == set(np.flatnonzero(truth == group))


def test_one_cloud_is_one_group():
    rng = np.random.default_rng(3)
    found = grouped(rows_of(1 + 0.1 * rng.standard_normal((60, 12))), PARAMS)
    assert len(found.central) == 1
    assert np.isnan(found.silhouette)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_or_equal_vectors_are_one_group(count):
    assert len(grouped(rows_of(np.ones((count, 3))), PARAMS).central) == 1
    assert len(grouped(rows_of(np.zeros((count, 3))), PARAMS).central) == 1


def test_nothing_is_none_and_another_layer_is_left_out():
    assert grouped(rows_of(np.ones((3, 2)))[:0], PARAMS) is None
    mixed = pd.concat([rows_of(np.ones((4, 2))), rows_of(np.ones((2, 5)), "b")])
    assert len(grouped(mixed, PARAMS).rows) == 4


def test_of_many_a_seeded_part_is_grouped():
    vectors, _ = clouds(2, 0.05, count=400)
    first, again = (grouped(rows_of(vectors), PARAMS, 0) for _ in range(2))
    other = grouped(rows_of(vectors), PARAMS, 1)
    assert len(first.rows) == MOST
    assert first.rows["case"].tolist() == again.rows["case"].tolist() != other.rows["case"].tolist()
