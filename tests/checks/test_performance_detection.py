from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fake import FACTS, FakeContext, failed, frame, quantities

from xaiseg.checks.base import Tables, get_check
from xaiseg.checks.detection_counts import _expanded
from xaiseg.checks.performance_detection import ID, Params, case_summary
from xaiseg.data.case import Case, CaseRef
from xaiseg.detection.coco_measures import coco_measures
from xaiseg.errors import DataError, UsageError
from xaiseg.estimate import _estimates, _Frame
from xaiseg.protocol import Decision
from xaiseg.statistics.resampling import statistic_interval
from xaiseg.subject import Boxes

SHAPE = (100, 120)
DETECTION = {**FACTS, "classes": ["seal"], "threshold": 0.5}
TWO = {**DETECTION, "classes": ["seal", "boat"]}
BOX = (10.0, 10.0, 30.0, 20.0)
OTHER = (50.0, 40.0, 80.0, 70.0)
FAR = (90.0, 80.0, 110.0, 95.0)


def case_of(name, *boxes, cluster="", spacing=None, survey=None):
    """A case with boxes (corners, class 0 unless a fifth number says otherwise)."""
    rows = [box if len(box) == 5 else (*box, 0) for box in boxes]
    ref = CaseRef(name, name, cluster=cluster or name, spacing_mm=spacing, survey=survey or {})
    image = np.zeros((1, *SHAPE), np.float32)
    return Case(ref, image, boxes=np.array(rows, np.float32).reshape(-1, 5))


def detected(*found):
    """Detections of (corners, score[, class])."""
    return Boxes(
        torch.tensor([box for box, *_ in found], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([score for _, score, *_ in found], dtype=torch.float32),
        torch.tensor([label[0] if label else 0 for _, _, *label in found], dtype=torch.int64),
    )


def rows_of(case, boxes, params=None, facts=None):
    context = FakeContext(params=params or Params(), facts=facts or DETECTION, boxes=boxes, case=case.id)
    rows = [{"case": case.id, **row} for row in get_check(ID).measure(context, case)]
    return rows, context


def tables_of(pairs, *, lost=(), facts=None):
    """Tables of (case, detections), and of cases that failed."""
    rows = [row for case, boxes in pairs for row in rows_of(case, boxes, facts=facts)[0]]
    rows += [failed(case.id) for case in lost]
    listed = []
    for case in [*(case for case, _ in pairs), *lost]:
        held = {"case": case.id, "cluster": case.ref.cluster, f"p:{ID}": 1.0}
        listed.append(held | {f"survey:{name}": value for name, value in case.ref.survey.items()})
    return Tables({ID: frame(ID, rows)}, pd.DataFrame(listed).fillna(""), facts or DETECTION)


def estimate_of(quantity, held, *, seed=0):
    table = held.cases.set_index("case", drop=False)
    lost = tuple(sorted(set(held.rows[ID].loc[held.rows[ID]["status"] == "failed", "case"])))
    box = _Frame(ID, table[["cluster"]].assign(chance=1.0), {"reference": lost}, Decision(), seed, (), 0, 1)
    return _estimates(quantity, box)[0]


def value(quantity):
    """The plain value of a quantity."""
    values = np.asarray(quantity.values, float)
    if quantity.pooled is not None:
        n = len(values)
        return quantity.pooled(values.astype(int), np.zeros(n, int), np.ones(n))(np.ones(1))
    if quantity.function is not None:
        return quantity.function(values.sum(axis=0))
    if quantity.kind == "rate":
        return values[:, 0].sum() / values[:, 1].sum()
    return values.mean()


def test_the_match_table_is_kept():
    rows, context = rows_of(
        case_of("a", BOX, OTHER, spacing=(20.0, 20.0)), detected((BOX, 0.9), (FAR, 0.7), (OTHER, 0.2))
    )
    (row,) = rows
    assert (row["n_reference"], row["n_found"], row["n_detected"], row["n_false"]) == (2, 1, 2, 1)
    assert row["right"] == -2.0
    assert row["found"] == [0, -1, 1]
    assert np.allclose(row["score"], [0.9, 0.7, 0.2])
    assert np.allclose(row["reference_score"], [0.9, 0.2])
    assert np.allclose(row["size"], [math.sqrt(200), math.sqrt(300), 30])
    assert row["km2"] == pytest.approx(100 * 120 * 0.02 * 0.02 * 1e-6)
    kinds = {kind: box for kind, _, box in context.windows}
    assert kinds == {"found": BOX, "false": FAR, "near": OTHER}


def test_a_wrong_box_on_an_animal_is_no_box_where_there_is_none():
    x0, y0, x1, y1 = BOX
    badly = (x0, y0, x0 + 0.3 * (x1 - x0), y1)  # a third of the animal
    _, context = rows_of(case_of("a", BOX), detected((BOX, 0.9), (badly, 0.8), (FAR, 0.7)))
    assert [(kind, tuple(box)) for kind, _, box in context.windows] == [
        ("found", BOX), ("second", pytest.approx(badly)), ("false", FAR),
    ]  # fmt: skip


def test_recall_precision_and_f1_at_the_threshold():
    held = tables_of([
        (case_of("a", BOX, OTHER), detected((BOX, 0.9), (FAR, 0.7), (OTHER, 0.2))),
        (case_of("b", BOX), detected((BOX, 0.5))),
        (case_of("c"), detected((FAR, 0.6))),
    ])  # fmt: skip
    found = quantities(ID, held)
    assert value(found["recall",]) == pytest.approx(2 / 3)
    assert value(found["precision",]) == pytest.approx(2 / 4)
    assert value(found["f1",]) == pytest.approx(2 * 2 / (2 * 2 + 2 + 1))
    assert value(found["false_positives_per_image",]) == pytest.approx(2 / 3)
    assert value(found["recall", "", "size", "below 16 px"]) == 1.0
    assert value(found["recall", "", "size", "16 to 32 px"]) == 0.0
    assert len(found["recall", "", "size", "from 96 px"].values) == 0


def test_a_failed_image_is_the_worst_in_every_gate():
    lost = [case_of("z")]
    pairs = [(case_of("a", BOX), detected((BOX, 0.9))), (case_of("b", BOX), detected((BOX, 0.8)))]
    good, bad = (quantities(ID, tables_of(pairs, lost=names)) for names in ((), lost))
    held = tables_of(pairs, lost=lost)
    for metric in ("f1", "ap50", "ap", "froc", "ar"):
        assert value(good[metric,]) == pytest.approx(1.0)
        assert value(bad[metric,]) < 0.9
    assert estimate_of(bad["recall",], held).value == pytest.approx(2 / 3)
    assert value(bad["false_positives_per_image",]) == pytest.approx(1 / 3)
    assert value(bad["count_bias",]) < 0
    assert value(bad["clusters_within_5_percent",]) == pytest.approx(2 / 3)
    assert value(bad["coco_ap",]) == pytest.approx(1.0), "the figure of papers leaves failures out"


def test_failures_never_improve_a_number():
    flock = [
        (2.0 + 9 * column, 2.0 + 9 * row, 8.0 + 9 * column, 8.0 + 9 * row) for column in range(8) for row in range(8)
    ]
    empty = {"known_empty": "true"}
    crowded = [(case_of(f"c{i}", *flock), detected(*[(box, 0.9) for box in flock[:6]])) for i in range(5)]
    noisy = [(case_of(f"n{i}", survey=empty), detected(*[(box, 0.9) for box in flock[:8]])) for i in range(20)]
    plain = [(case_of(f"p{i:03d}", BOX), detected((BOX, 0.9))) for i in range(100)]
    quiet = [(case_of(f"q{i}", survey=empty), detected()) for i in range(70)]
    params = Params(empty_share=0.9)
    names = ("recall", "precision", "f1", "false_positives_per_image", "froc", "ap50", "count_bias", "count_mae",
             "projected_precision", "false_positives_per_1000_empty_tiles")  # fmt: skip

    def read(lost):
        pairs = [pair for pair in [*crowded, *noisy, *plain, *quiet] if pair[0].id not in lost]
        cases = [case for case, _ in [*crowded, *noisy] if case.id in lost]
        held = tables_of(pairs, lost=cases)
        found = quantities(ID, held, params)
        values = {name: estimate_of(found[name,], held).value for name in names}
        small = found[("recall", "", "size", "below 16 px")]
        return values | {"small": estimate_of(small, held).value}

    better = dict.fromkeys(names, 1.0) | {"small": 1.0, "false_positives_per_image": -1.0, "count_mae": -1.0,
                                          "false_positives_per_1000_empty_tiles": -1.0}  # fmt: skip
    # One of each kind stays: what no image has shown cannot be allowed for.
    all_there = read(())
    for lost in (["c0"], ["c0", "c1", "c2", "c3"], [f"n{i}" for i in range(19)], ["c0", "n0", "n1"]):
        now = read(lost)
        for name, sign in better.items():
            if name in ("count_bias", "projected_precision") or (name == "froc" and lost[0][0] == "n"):
                continue
            assert sign * now[name] <= sign * all_there[name] + 1e-9, (lost, name)
        assert now["projected_precision"] <= all_there["projected_precision"] + 1e-9


def test_failed_images_make_the_bias_of_their_own_group_worse():
    over = [(case_of(f"o{i}", BOX), detected((BOX, 0.9), (FAR, 0.9))) for i in range(10)]
    under = [(case_of(f"u{i}", BOX, OTHER), detected((BOX, 0.9))) for i in range(4)]
    held = tables_of([*over, *under], lost=[case_of(f"z{i}") for i in range(3)])
    bias = quantities(ID, held)["count_bias",]
    water = [case[0] in "uz" for case in bias.cases]
    assert bias.function(bias.values[water].sum(axis=0)) == pytest.approx((4 - 8 - 3 * 2) / (8 + 3 * 2))
    assert bias.function(bias.values.sum(axis=0)) == pytest.approx((24 + 6 - 18) / 18)


def test_a_score_at_the_threshold_is_shown():
    at = {**DETECTION, "threshold": 0.7}  # which is no number of 32 bits
    rows, context = rows_of(case_of("a", BOX), detected((BOX, 0.7)), facts=at)
    assert (rows[0]["n_found"], rows[0]["n_detected"]) == (1, 1)
    assert {kind for kind, *_ in context.windows} == {"found"}
    found = quantities(ID, tables_of([(case_of("a", BOX), detected((BOX, 0.7)))], facts=at))
    assert value(found["recall",]) == value(found["precision",]) == 1.0


def test_a_count_that_is_always_right_can_be_shown_to_be_right():
    pairs = [(case_of(f"t{i}", BOX, cluster=f"f{i // 2}"), detected((BOX, 0.9))) for i in range(80)]
    held = tables_of(pairs)
    found = estimate_of(quantities(ID, held)["count_bias",], held)
    assert found.value == 0
    assert -0.15 < found.interval.lower < 0 < found.interval.upper < 0.15


def test_ignored_regions_and_foreign_classes():
    case = case_of("a", (*BOX, 0), (*OTHER, 1), (0, 70, 120, 100, 255))
    boxes = detected((BOX, 0.9, 1), (OTHER, 0.8, 1), (FAR, 0.7, 0))
    rows, _ = rows_of(case, boxes, facts=TWO)
    seal, boat = rows
    assert (seal["n_reference"], seal["n_found"], seal["n_false"]) == (1, 0, 0)  # FAR lies in the ignored region
    assert (boat["n_reference"], boat["n_found"], boat["n_false"]) == (1, 1, 1)  # the seal was called a boat
    found = quantities(ID, tables_of([(case, boxes)], facts=TWO))
    assert value(found["recall",]) == 0.5
    assert value(found["recall", "boat"]) == 1.0
    assert value(found["ap50", "seal"]) == 0.0
    assert 0 < value(found["ap50",]) < 1


def planted(seed, *, flights=30, tiles=4, recall=0.9, false=0.2):
    """Flights of tiles on which a detector finds ``recall`` of the animals, and a quarter of them empty."""
    rng = np.random.default_rng(seed)
    pairs = []
    for flight in range(flights):
        for tile in range(tiles):
            empty = tile == 0
            low = rng.uniform(0, 70, (0 if empty else int(rng.integers(1, 5)), 2))
            boxes = np.hstack([low, low + rng.uniform(8, 25, (len(low), 2))])
            found = [(tuple(box), rng.uniform(0.5, 1)) for box in boxes if rng.random() < recall]
            found += [((0.0, 0.0, 5.0, 5.0), rng.uniform(0.5, 0.8))] * int(rng.random() < false)
            survey = {"known_empty": "true"} if empty else {}
            case = case_of(f"f{flight:02d}t{tile}", *map(tuple, boxes), cluster=f"f{flight:02d}", survey=survey)
            pairs.append((case, detected(*found)))
    return pairs


def test_a_planted_recall_and_planted_false_positives_are_found():
    held = tables_of(planted(1))
    found = quantities(ID, held)
    recall = estimate_of(found["recall",], held)
    assert recall.n > 200
    assert recall.interval.lower < 0.9 < recall.interval.upper
    assert abs(recall.value - 0.9) < 0.05
    rate = estimate_of(found["false_positives_per_image",], held)
    assert rate.interval.lower < 0.2 < rate.interval.upper
    assert rate.kind == "rate"
    bias = estimate_of(found["count_bias",], held)
    assert bias.interval.lower < bias.value < bias.interval.upper
    ap = estimate_of(found["ap50",], held)
    assert ap.value == pytest.approx(value(found["coco_ap50",]), abs=1e-6)
    assert ap.interval.lower < ap.value < ap.interval.upper
    assert "bootstrap" in ap.interval.method
    assert ap.n_clusters == 30


def test_few_flights_give_the_jackknife_and_one_gives_none():
    held = tables_of(planted(2, flights=8))
    ap = estimate_of(quantities(ID, held)["ap50",], held)
    assert ap.interval.method.startswith("delete-one-cluster jackknife, t")
    held = tables_of(planted(3, flights=1, tiles=12))
    found = quantities(ID, held)
    for metric in ("ap50", "recall", "precision", "false_positives_per_image", "count_bias", "froc"):
        one = estimate_of(found[metric,], held)
        assert one.value is not None
        assert one.interval.lower is None
        assert "1 cluster; at least 5 are needed" in one.reason


def test_false_positives_are_gated_on_known_empty_tiles_alone():
    pairs = [(case_of(f"e{i}", cluster=f"f{i}", survey={"known_empty": "true"}), detected()) for i in range(59)]
    pairs += [(case_of("aug", survey={"known_empty": "true", "augmented": "true"}), detected((FAR, 0.9)))]
    pairs += [(case_of("unseen"), detected((FAR, 0.9)))]
    metric = ("false_positives_per_1000_empty_tiles",)
    held = tables_of(pairs)
    few = estimate_of(quantities(ID, held)[metric], held)
    assert few.value == 0.0
    assert few.interval.lower is None
    assert few.reason.startswith("59 tiles that are known to be empty")
    more = tables_of([*pairs, (case_of("e59", survey={"known_empty": "true"}), detected())])
    enough = estimate_of(quantities(ID, more)[metric], more)
    assert enough.interval.upper == pytest.approx(1000 * -math.log(0.05) / 60)
    assert quantities(ID, more)["false_positives_per_km2",].missing
    none = tables_of([(case_of("a", BOX), detected((BOX, 0.9)))])
    empty = estimate_of(quantities(ID, none)[metric], none)
    assert empty.value is None
    assert not empty.missing
    assert empty.reason.startswith("0 tiles that are known to be empty")


def test_false_positives_a_square_kilometre():
    survey = {"known_empty": "true"}
    pairs = [
        (case_of(f"e{i}", cluster=f"f{i}", spacing=(100.0, 100.0), survey=survey), detected(*[(FAR, 0.9)] * (i == 0)))
        for i in range(60)
    ]
    per_km2 = quantities(ID, tables_of(pairs))["false_positives_per_km2",]
    assert value(per_km2) == pytest.approx(1 / (60 * 10 * 12 * 1e-6))


def test_a_precision_of_97_per_cent_is_22_where_99_per_cent_of_the_tiles_are_empty():
    full = [(case_of(f"f{n}", BOX), detected((BOX, 0.9), *([(FAR, 0.9)] if n < 7 else []))) for n in range(200)]
    empty = [(case_of(f"e{n}", survey={"known_empty": "true"}), detected(*([(FAR, 0.9)] if n < 7 else [])))
             for n in range(200)]  # fmt: skip
    held = tables_of([*full, *empty], facts={**DETECTION, "empty_share": 0.99})
    found = quantities(ID, tables_of(full))
    assert value(found["precision",]) == pytest.approx(0.966, abs=0.001)
    assert value(quantities(ID, held)["projected_precision",]) == pytest.approx(0.222, abs=0.001)
    stated = quantities(ID, held, Params(empty_share=0.5))["projected_precision",]
    assert value(stated) > 0.9, "what the protocol states comes before model.yaml"


def test_precision_is_projected_to_mostly_empty_surveys():
    pairs = planted(4, recall=1.0, false=0.0)
    alarmed = 0
    for index, (case, _) in enumerate(pairs):
        if case.ref.survey and alarmed < 3:  # 3 of 30 empty tiles raise an alarm
            pairs[index] = (case, detected((FAR, 0.9)))
            alarmed += 1
    held = tables_of(pairs)
    params = Params(empty_share=0.99, least_empty_tiles=30)
    projected = quantities(ID, held, params)["projected_precision",]
    right = np.mean([len(case.boxes) for case, _ in pairs if len(case.boxes)])
    expected = 0.01 * right / (0.01 * right + 0.99 * 0.1)
    assert value(projected) == pytest.approx(expected)
    assert value(quantities(ID, held)["precision",]) > 0.98
    assert estimate_of(projected, held).interval.lower < expected
    assert "least" not in estimate_of(projected, held).reason
    withheld = estimate_of(quantities(ID, held, replace(params, least_empty_tiles=60))["projected_precision",], held)
    assert withheld.value == pytest.approx(expected)
    assert withheld.interval.lower is None
    assert "--empty-share 0.99" in quantities(ID, held)["projected_precision",].missing


def test_counts_by_tile_and_by_flight():
    held = tables_of([
        (case_of("a", BOX, OTHER, cluster="f1"), detected((BOX, 0.9))),
        (case_of("b", BOX, cluster="f1"), detected((BOX, 0.9), (FAR, 0.8))),  # over and under cancel in the flight
        (case_of("c", BOX, cluster="f2"), detected((BOX, 0.9), (FAR, 0.8))),
        (case_of("d", cluster="f3"), detected()),
    ])  # fmt: skip
    found = quantities(ID, held)
    assert value(found["count_bias",]) == pytest.approx((5 - 4) / 4)
    assert value(found["count_mae",]) == pytest.approx(3 / 4)
    assert value(found["exact_count_share",]) == pytest.approx(1 / 4)
    assert value(found["clusters_within_5_percent",]) == pytest.approx(2 / 3)
    assert found["detections_sum",].values.tolist() == [5.0]
    assert found["detections_sum",].note == "sum of detections over images, not animals"


def test_a_total_in_animals_needs_disjoint_ground_and_known_probabilities():
    declared = {"footprint": "disjoint", "probability": "0.25"}
    pairs = [(case_of(f"t{i}", *[BOX] * (i % 3 == 0), survey=declared), detected((BOX, 0.9))) for i in range(12)]
    found = quantities(ID, tables_of(pairs))
    assert value(found["animals_total",]) == pytest.approx(4 / 0.25)
    assert value(found["animals_total_detected",]) == pytest.approx(12 / 0.25)
    broken = quantities(ID, tables_of(pairs[1:], lost=[pairs[0][0]]))
    assert broken["animals_total",].missing == "1 of 12 tiles have no count: they failed"
    all_of_them = {"footprint": "disjoint", "probability": "1"}
    pairs = [(case_of(f"t{i}", *[BOX] * (i % 3 == 0), survey=all_of_them), detected()) for i in range(12)]
    census = quantities(ID, tables_of(pairs))["animals_total",]
    assert (census.kind, census.values.tolist()) == ("fact", [4.0])
    assert "every tile was counted" in census.note
    part = tables_of(pairs)
    for some in (replace(part, facts={**part.facts, "limit": 6}), replace(part, cases=pd.concat([part.cases] * 2))):
        held = quantities(ID, some)
        assert "only 12 of the images were looked at" in held["animals_total",].missing
        assert held["animals_total_detected",].missing
    pairs = [(case_of(f"t{i}", *[BOX] * (i % 3 == 0), survey=declared), detected((BOX, 0.9))) for i in range(12)]
    for lack in ({"footprint": "disjoint"}, {"footprint": "overlapping", "probability": "0.25"}):
        poor = [*pairs[1:], (case_of("x", BOX, survey=lack), detected())]
        assert "not animals" in quantities(ID, tables_of(poor))["animals_total",].missing


def test_the_total_covers_the_truth_of_a_simulated_survey():
    """30 of 120 tiles are drawn at random, 40 times; the 90 % interval must hold the true total about as often."""
    rng = np.random.default_rng(0)
    truth = rng.poisson(rng.gamma(1.0, 2.0, 120))
    inside = 0
    for _ in range(40):
        drawn = rng.choice(120, 30, replace=False)
        rows = np.array([[truth[i] / 0.25, 1.0] for i in drawn])
        held = statistic_interval(rows, _expanded(30), np.arange(30), bounds=(0.0, math.inf), resamples=200)
        inside += held.lower <= truth.sum() <= held.upper
    assert inside >= 31


def test_a_case_without_boxes_is_refused():
    with pytest.raises(DataError, match="no reference boxes"):
        rows_of(replace(case_of("a"), boxes=None), detected())


def test_froc_levels_rise():
    held = tables_of(planted(6, false=0.9, recall=0.6))
    found = quantities(ID, held)
    levels = ["1/8", "1/4", "1/2", "1", "2", "4", "8"]
    sensitivities = [value(found["froc", "", "false_positives_per_image", level]) for level in levels]
    assert sensitivities == sorted(sensitivities)
    assert value(found["froc",]) == pytest.approx(np.mean(sensitivities))
    assert sensitivities[-1] == pytest.approx(value(found["recall",]), abs=1e-9)


def test_the_worst_cases_stand_first_and_failures_before_them():
    held = tables_of(
        [
            (case_of("good", BOX), detected((BOX, 0.9))),
            (case_of("bad", BOX, OTHER), detected((FAR, 0.9))),
            (case_of("free"), detected()),
        ],
        lost=[case_of("z")],
    )
    told = case_summary(held)
    assert told["case"].tolist() == ["z", "bad", "free", "good"]
    assert told["what"].tolist() == ["failed: corrupt PNG", "missed 2 of 2; 1 false", "correct negative", "all 1 found"]
    assert told["score"].tolist()[1:] == [3.0, 0.0, 0.0]


def test_all_figures_agree_with_coco_on_two_classes():
    rng = np.random.default_rng(8)
    pairs = []
    for index in range(20):
        low = rng.uniform(0, 70, (4, 2))
        boxes = np.hstack([low, low + rng.uniform(8, 25, (4, 2)), rng.integers(0, 2, (4, 1))])
        found = [(tuple(box[:4] + rng.normal(0, 1, 4)), rng.random(), int(box[4])) for box in boxes]
        pairs.append((case_of(f"c{index:02d}", *map(tuple, boxes)), detected(*found)))
    found = quantities(ID, tables_of(pairs, facts=TWO))
    references = [case.boxes.astype(float) for case, _ in pairs]
    answers = [np.column_stack((b.xyxy, b.labels, b.scores)).astype(float) for _, b in pairs]
    coco = coco_measures(references, answers, 2)
    for metric, expected in (("ap", coco.ap), ("ap50", coco.ap50), ("ar", coco.ar)):
        assert value(found[metric,]) == pytest.approx(expected, abs=1e-6)
        assert value(found[f"coco_{metric}",]) == pytest.approx(expected, abs=1e-6)


def test_classes_that_nobody_saw_are_named_and_change_nothing():
    many = {**DETECTION, "classes": ["dog", "seal", *(f"class {index}" for index in range(8)), "boat"]}
    boxes = [(*BOX, 1), (*OTHER, 1)]
    answers = detected((BOX, 0.9, 1), (FAR, 0.1, 10), (OTHER, 0.3, 1))  # boat: detected once, below the threshold
    lost = [case_of("lost")]
    found = quantities(ID, tables_of([(case_of("a", *boxes), answers)], lost=lost, facts=many))
    assert {key[1] for key in found if key[0] == "recall" and len(key) == 2} == {"seal"}
    assert found["classes_not_seen",].values.tolist() == [10.0]
    assert found["classes_not_seen",].note.endswith("dog, class 0, class 1 and others")
    few = {**DETECTION, "classes": ["seal", "boat"]}
    again = detected((BOX, 0.9, 0), (FAR, 0.1, 1), (OTHER, 0.3, 0))
    same = quantities(ID, tables_of([(case_of("a", BOX, OTHER), again)], lost=lost, facts=few))
    names = ("recall", "precision", "ap", "froc", "coco_ap", "count_bias")
    assert [value(found[name,]) for name in names] == pytest.approx([value(same[name,]) for name in names])
    assert same["classes_not_seen",].values.tolist() == [1.0], "the boat counts in froc and ap and has no rows"


def test_several_classes_of_which_nothing_was_seen():
    found = quantities(ID, tables_of([(case_of("a"), detected())], facts=TWO))
    assert found["classes_not_seen",].values.tolist() == [2.0]
    assert len(found["recall",].values) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"match": "touch"}, {"match_iou": 0.0}, {"sizes": (32.0, 16.0)}, {"max_detections": 0}, {"empty_share": 1.0}],
)
def test_parameters_out_of_range(wrong):
    with pytest.raises(UsageError, match="out of range"):
        Params(**wrong)
