"""Nearest cases: the planted look-alike first, never the query itself, and a word when nothing is near."""

import dataclasses

import numpy as np
import pytest

from tests.explainers.toy_concepts import blobs, planted
from tests.explainers.toy_segmenters import ToySegmenter
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers import neighbours
from xaiseg.explainers.neighbours import build_index, index_of, nearest_cases
from xaiseg.explainers.pooling import EMPTY_REGION, Example, Place, Pooled, Row

SUBJECT = planted()


def region(image):
    return (image.max(axis=0) > 0.5,)


def shown(name, image, **options):
    return Example(name, image, region(image), **options)


def reference(count=12):
    """Cases whose regions hold A and B in ratios that all differ."""
    return [shown(f"r{n}", blobs(n, a=1.0, b=0.6 + 0.2 * n)) for n in range(count)]


def vectors(values, ids=None, **fields):
    """An index of vectors that are known."""
    values = np.array(values, dtype=np.float32)
    names = ids or [f"r{n}" for n in range(len(values))]
    rows = tuple(Row(name, None, (0, 0, 1, 1), f"pixels of {n}") for n, name in enumerate(names))
    rows = tuple(dataclasses.replace(row, **{key: own[n] for key, own in fields.items()}) for n, row in enumerate(rows))
    return Pooled(values, rows, Place("layer", 0, ""))


def slow(index, vector, row, k):
    """Straight from the definition: every distance, sorted."""
    found = []
    for number, (own, other) in enumerate(zip(index.vectors, index.rows, strict=True)):
        if other.id == row.id or other.digest == row.digest or (row.cluster and row.cluster == other.cluster):
            continue
        if index.metric == "cosine":
            distance = 1 - own @ vector / np.linalg.norm(own) / np.linalg.norm(vector)
        else:
            distance = np.sqrt(((own - vector) ** 2).sum())
        found.append((round(distance, 9), number))
    return [number for _, number in sorted(found)[:k]], [distance for distance, _ in sorted(found)[:k]]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_planted_look_alike_comes_first(metric):
    index = build_index(SUBJECT, reference(), metric=metric)
    alike = blobs(99, a=1.0, b=0.6 + 0.2 * 7)
    (found,) = nearest_cases(SUBJECT, [shown("query", alike)], index, k=3)
    assert found.ids[0] == "r7"
    assert set(found.ids[1:]) == {"r6", "r8"}
    assert list(found.distances) == sorted(found.distances)
    assert found.similar
    assert found.rows[0].box == index.rows[7].box


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_are_those_of_the_definition(metric):
    rng = np.random.default_rng(1)
    pooled = vectors(rng.uniform(size=(40, 5)), cluster=[f"p{n % 9}" for n in range(40)])
    index = index_of(pooled, metric)
    for number in range(40):
        numbers, distances = neighbours._nearest(index, index.vectors[number], index.rows[number], 6)
        expected, apart = slow(index, index.vectors[number], index.rows[number], 6)
        assert numbers.tolist() == expected
        np.testing.assert_allclose(distances, apart, atol=1e-8)
    own = [slow(index, vector, row, 1)[1][0] for vector, row in zip(index.vectors, index.rows, strict=True)]
    np.testing.assert_allclose(index.own, np.sort(own), atol=1e-8)


def test_a_query_never_finds_itself_by_id_by_pixels_or_by_cluster():
    cases = [shown(f"r{n}", blobs(n), cluster=f"patient {n % 6}") for n in range(12)]
    index = build_index(SUBJECT, cases, metric="euclidean")
    same_id = shown("r3", blobs(50))
    same_pixels = shown("copy", blobs(3))
    same_patient = shown("new", blobs(50), cluster="patient 3")
    by_id, by_pixels, by_patient = nearest_cases(SUBJECT, [same_id, same_pixels, same_patient], index, k=20)
    assert len(by_id.ids) == 11
    assert "r3" not in by_id.ids
    assert len(by_pixels.ids) == 11
    assert "r3" not in by_pixels.ids
    assert by_pixels.distances[0] > 0
    assert not {"r3", "r9"} & set(by_patient.ids)


def test_copies_in_the_reference_do_not_make_its_own_distances_zero():
    index = build_index(SUBJECT, [shown("a", blobs(1)), shown("b", blobs(1)), shown("c", blobs(2))], metric="euclidean")
    assert (index.own > 0).all()


def test_two_objects_of_one_image_are_no_neighbours_of_each_other():
    image = blobs(4)
    both = Example("r4", image, (image[0] > 0.5, image[1] > 0.5))
    index = build_index(SUBJECT, [*reference(3), both])
    found = nearest_cases(SUBJECT, [both], index, k=9)
    assert len(found) == 2
    assert all("r4" not in each.ids for each in found)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_percentile_says_when_nothing_is_similar(metric):
    index = build_index(SUBJECT, [shown(f"r{n}", blobs(n)) for n in range(25)], metric=metric)
    usual, unlike = nearest_cases(SUBJECT, [shown("a", blobs(77)), shown("b", blobs(78, a=9.0))], index)
    assert usual.similar
    assert 0 < usual.percentile < neighbours.UNUSUAL
    assert (unlike.similar, unlike.percentile) == (False, 1.0)
    assert "no similar case: nearest distance at percentile 1.00" in unlike.note
    expected = (index.own <= usual.distances[0] + 1e-9).mean()
    assert usual.percentile == pytest.approx(expected)


def test_a_case_of_the_reference_stands_at_its_own_percentile():
    index = build_index(SUBJECT, reference(), metric="euclidean")
    for found in nearest_cases(SUBJECT, reference(), index, k=1):
        assert found.percentile == pytest.approx((index.own <= found.distances[0] + 1e-9).mean())


def test_ties_come_in_the_order_of_the_reference():
    pooled = vectors([[0.0, 1.0], [1.0, 0.0]] * 6)
    index = index_of(pooled, "euclidean")
    query = Row("query", None, None, "other pixels")
    numbers, distances = neighbours._nearest(index, np.array([0.5, 0.5]), query, 5)
    assert numbers.tolist() == [0, 1, 2, 3, 4]
    assert np.ptp(distances) == 0


def test_few_reference_cases_are_said_to_be_few():
    index = build_index(SUBJECT, reference(3))
    assert "only 3 reference distances" in nearest_cases(SUBJECT, [shown("q", blobs(9))], index)[0].note
    alone = build_index(SUBJECT, reference(1))
    (found,) = nearest_cases(SUBJECT, [shown("q", blobs(9))], alone)
    assert found.ids == ("r0",)
    assert np.isnan(found.percentile)
    assert not found.similar
    assert "no distance is usual" in found.note


def test_what_has_no_vector_has_a_reason():
    image = blobs(1)
    empty = Example("empty", image, (np.zeros((12, 18), dtype=bool),))
    index = build_index(SUBJECT, [*reference(3), empty])
    assert [(row.id, row.reason) for row in index.left_out] == [("empty", EMPTY_REGION)]
    (nothing,) = nearest_cases(SUBJECT, [empty], index)
    assert (nothing.ids, nothing.reason) == ((), EMPTY_REGION)
    (black,) = nearest_cases(SUBJECT, [Example("black", image * 0)], index)
    assert black.reason == neighbours.NO_DIRECTION
    (itself,) = nearest_cases(SUBJECT, reference(1), build_index(SUBJECT, reference(1)))
    assert itself.reason == neighbours.NO_OTHER


def test_wrong_calls_are_one_clear_error():
    with pytest.raises(UsageError, match="no such metric"):
        build_index(SUBJECT, reference(2), metric="manhattan")
    with pytest.raises(UsageError, match="at least one neighbour"):
        nearest_cases(SUBJECT, reference(1), build_index(SUBJECT, reference(2)), k=0)
    with pytest.raises(UsageError, match="no reference region can be compared"):
        build_index(SUBJECT, [Example("x", blobs(1), (np.zeros((12, 18), dtype=bool),))])
    black_box = ToySegmenter(SUBJECT.network, channels=2, offers=frozenset({"scores"}))
    with pytest.raises(SubjectError, match="needs activations and forward and gradients, which this model does not"):
        build_index(black_box, reference(2))
