import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from tests.checks.fake import FACTS, FakeContext, frame, make_case, quantities, tables
from tests.explainers.toy_segmenters import ToySegmenter, small_unet
from xaiseg.checks.base import get_check
from xaiseg.checks.examples_quantities import compared, correlation
from xaiseg.checks.explanation_examples import CHECK, Params
from xaiseg.data.case import Dataset
from xaiseg.errors import DataError, UsageError

FAST = Params(k=3, references=50, layer="unet.down", concepts=2, concept_images=6, ablations=3)


def case_of(name, index, cluster, *, split=0):
    """A bright disc of a size, place and brightness of its own, on noise."""
    rng = np.random.default_rng(100 * split + index)
    rows, columns = np.ogrid[:24, :32]
    centre, radius = rng.uniform([8, 8], [16, 24]), rng.uniform(3, 6)
    mask = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2).astype(np.uint8)
    image = (0.1 * rng.random((1, 24, 32)) + mask * rng.uniform(0.6, 0.9)).astype(np.float32)
    return make_case(name, mask, image=image, cluster=cluster)


class Bright(torch.nn.Module):
    """Foreground where the image is bright; the features below add next to nothing."""

    def __init__(self, on=True):
        super().__init__()
        self.unet = small_unet().network
        self.on = on

    def forward(self, x):
        return 20 * (x - 0.4) * self.on - 4 * (not self.on) + 0.01 * self.unet(x)


def subject(**options):
    return ToySegmenter(Bright(**options).eval())


def dataset(cases, name="train"):
    refs = tuple(case.ref for case in cases)
    return Dataset(name, "folder", refs, "patient", (), "", name)


def once(model, train, params=FAST, *, broken=()):
    held = {case.id: case for case in train}

    def load(ref, entry):
        assert entry == "train"
        if ref.id in broken:
            raise DataError("a broken file", where=ref.id)
        return held[ref.id]

    context = FakeContext(params=params, subject=model, loader=load)
    rows = list(get_check(CHECK).measure_once(context, {"train": dataset(train)}))
    return rows, context


def measured(model, case, params=FAST):
    held = model.decide(model.predict([torch.as_tensor(case.image)])[0])
    context = FakeContext(held=held, params=params, subject=model, case=case.id, facts={**FACTS})
    return [{"case": case.id, **row} for row in get_check(CHECK).measure(context, case)], context


@pytest.fixture(scope="module")
def world():
    """Rows of 12 training and 8 audited cases, with the cases."""
    model = subject()
    train = [case_of(f"t{n}", n, f"p{n // 2}") for n in range(12)]
    # The names of audited cases stand among the training cases too; they are other images of other patients.
    test = [case_of(f"t{n}", n, f"q{n}", split=1) for n in range(8)]
    rows, context = once(model, train)
    queries = [row for case in test for row in measured(model, case)[0]]
    return model, train, test, [{"case": "", **row} for row in rows], queries, context


def test_rows_hold_every_number_and_forwards_are_counted(world):
    _, _, test, rows, queries, context = world
    frame(CHECK, [*rows, *queries])
    kinds = [row["kind"] for row in rows]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "reference": 12,
        "layer": 1,
        "concept": 2,
        "exemplar": 6,
    }
    assert all(0.9 < row["dice"] <= 1.0 and row["label"] == "lesion" for row in rows if row["kind"] == "reference")
    assert len(queries) == len(test)
    assert measured(world[0], test[0])[1].forwards == get_check(CHECK).forwards(FAST) == 2
    # 12 references twice and the layer; 6 images for concepts twice and the layer; 3 more for the ablations
    assert context.forwards >= 12 * 2 + 1 + 6 * 2 + 1 + 3
    for row in rows:
        if row["kind"] == "exemplar":
            x0, y0, x1, y1 = row["box"]
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1


def test_neighbours_are_those_of_the_definition(world):
    _, train, _, rows, queries, _ = world
    held = compared(frame(CHECK, [*rows, *queries]), k=3, metric="cosine")
    known = {row["reference"]: np.array(row["vector"]) for row in rows if row["kind"] == "reference"}
    names, matrix = list(known), np.array(list(known.values()), dtype=np.float64)
    clusters = [case.ref.cluster for case in train]
    between = cdist(matrix, matrix, "cosine")
    own = [min(between[i, j] for j in range(12) if clusters[j] != clusters[i]) for i in range(12)]
    for row in queries:
        distances = cdist([row["vector"]], matrix, "cosine")[0]
        order = np.argsort(distances)[:3]
        near = held.found[row["case"]]
        assert [each.id for each in near.rows] == [f"train/{names[n]}" for n in order]
        np.testing.assert_allclose(near.distances, distances[order], atol=1e-7)
        assert near.percentile == pytest.approx(np.mean([each <= distances[order[0]] + 1e-9 for each in own]))


def test_quantities_are_means_over_neighbours_and_have_their_floors(world):
    _, train, test, rows, queries, _ = world
    spoilt = [dict(row) for row in rows]
    bad = [row for row in spoilt if row["kind"] == "reference"][:3]
    for row in bad:
        row |= {"dice": 0.1, "label": "background"}
    queries = [{**row, "dice": 0.95 - 0.05 * (n * 3 % 8)} for n, row in enumerate(queries)]
    held = tables({CHECK: [*spoilt, *queries]}, test)
    numbers = quantities(CHECK, held, FAST)
    found = compared(held.rows[CHECK], k=3, metric="cosine").found
    ids = {row["reference"] for row in bad}
    shares = [np.mean([near.id.removeprefix("train/") not in ids for near in found[case.id].rows]) for case in test]
    for metric in ("same_outcome", "same_label"):
        values = dict(zip(numbers[metric,].cases, numbers[metric,].values, strict=True))
        assert [values[case.id] for case in test] == pytest.approx(shares)
        assert numbers[metric,].floor == pytest.approx(9 / len(train))
    novelty, dice = numbers["novelty",], {row["case"]: row["dice"] for row in queries}
    expected = spearmanr(novelty.values, [dice[case] for case in novelty.cases]).statistic
    ranked = numbers["novelty_and_dice",]
    assert ranked.function(ranked.values.sum(axis=0)) == pytest.approx(expected)
    assert numbers["no_similar_case",].values.tolist() == (novelty.values >= 0.95).tolist()
    assert np.isnan(correlation(np.zeros(6)))


def test_an_image_unlike_any_training_case_is_named(world):
    model, _, _, rows, _, _ = world
    strange = np.zeros((24, 32), np.uint8)
    strange[::2, 4:28] = 1  # stripes
    case = make_case("stripes", strange, image=strange[None] * 0.95, cluster="z")
    numbers = quantities(CHECK, tables({CHECK: [*rows, *measured(model, case)[0]]}, [case]), FAST)
    assert numbers["novelty",].values.tolist() == [1.0]
    assert numbers["no_similar_case",].values.tolist() == [1.0]


def test_a_training_image_among_the_audited_ones_does_not_find_itself(world):
    model, train, _, rows, _, _ = world
    again = make_case("copy", train[4].reference, image=train[4].image, cluster="other")
    held = compared(frame(CHECK, [*rows, *measured(model, again)[0]]), k=11, metric="cosine")
    assert "train/t4" not in held.found["copy"].ids


def test_concepts_are_facts_about_the_training_cases(world):
    _, _, test, rows, queries, _ = world
    numbers = quantities(CHECK, tables({CHECK: [*rows, *queries]}, test), FAST)
    drops = {row["target"]: row["drops"] for row in rows if row["kind"] == "concept"}
    for name, each in drops.items():
        assert numbers["concept_drop", name].values[0] == pytest.approx(np.mean(each))
        assert numbers["concept_drop", name].kind == "fact"
    assert sum(numbers["concept_share", name].values[0] for name in drops) == pytest.approx(1.0)


def test_broken_training_files_and_lesion_free_images_are_no_references():
    train = [case_of(f"t{n}", n, f"p{n}") for n in range(6)]
    train.append(make_case("empty", np.zeros((24, 32)), cluster="e"))
    rows, _ = once(subject(), train, Params(layer="unet.down", concepts=0), broken={"t1"})
    assert [row["reference"] for row in rows] == ["t0", "t2", "t3", "t4", "t5"]


def test_where_nothing_is_predicted_every_quantity_says_why():
    model = subject(on=False)
    case = case_of("a", 0, "p")
    rows, _ = once(model, [case_of("t0", 1, "q"), case_of("t1", 2, "r")])
    assert [row["status"] for row in rows] == ["undefined"]
    queries, _ = measured(model, case)
    assert queries[0]["status"] == "not_applicable"
    numbers = quantities(CHECK, tables({CHECK: [*rows, *queries]}, [case]), FAST)
    assert "no image" in numbers["novelty",].missing
    assert numbers["same_outcome",].missing


def test_without_a_reference_annotation_there_is_novelty_and_no_outcome():
    model = subject()
    train = [case_of(f"t{n}", n, f"p{n}") for n in range(5)]
    bare = [type(case)(case.ref, case.image, None) for case in train]
    rows, _ = once(model, bare, Params(k=2, layer="unet.down", concepts=0))
    case = case_of("a", 0, "z", split=1)
    numbers = quantities(CHECK, tables({CHECK: [*rows, *measured(model, case)[0]]}, [case]), Params(k=2))
    assert len(numbers["novelty",].values) == 1
    assert numbers["same_outcome",].missing == numbers["neighbour_dice",].missing == "no reference annotation"


def test_several_layers_are_not_compared(world):
    _, _, test, rows, queries, _ = world
    other = [{**row, "layer": "unet.bottom"} for row in queries]
    numbers = quantities(CHECK, tables({CHECK: [*rows, *other]}, test), FAST)
    assert "several layers" in numbers["novelty",].missing


def test_parameters_are_validated():
    for wrong in ({"k": 0}, {"references": 1}, {"metric": "manhattan"}, {"good_dice": 0.0}, {"concepts": -1}):
        with pytest.raises(UsageError, match=f"explanation.examples.{next(iter(wrong))}"):
            Params(**wrong)
    assert {"activations", "train_list"} <= get_check(CHECK).needs
