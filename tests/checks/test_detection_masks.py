"""Instance masks against outlines: by hand, against full-size masks, and in an audit."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fake import FACTS, FakeContext, failed, frame, quantities

import xaiseg
from tests.detection_worlds import survey
from xaiseg.checks.base import Tables, get_check
from xaiseg.checks.detection_masks import NO_OUTLINES, mask_iou
from xaiseg.checks.performance_detection import ID, Params
from xaiseg.data.case import Case, CaseRef
from xaiseg.data.rle import polygon_to_mask
from xaiseg.errors import DataError
from xaiseg.estimate import _estimates, _Frame
from xaiseg.protocol import Decision
from xaiseg.run import RunDirectory
from xaiseg.subject import Boxes

SHAPE = (60, 80)
DETECTION = {**FACTS, "classes": ["seal"], "threshold": 0.5}
TWO = {**DETECTION, "classes": ["seal", "boat"]}
ONE = (10, 10, 30, 20)
OTHER = (40, 30, 60, 50)
FAR = (65, 5, 75, 15)


def around(box):
    """The outline of a box: its four corners."""
    x0, y0, x1, y1 = box
    return (np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32),)


def filled(box, part=1.0):
    """A mask that fills the left part of a box."""
    mask = np.zeros(SHAPE, bool)
    x0, y0, x1, y1 = box
    mask[y0:y1, x0 : x0 + round(part * (x1 - x0))] = True
    return mask


def case_of(name, *boxes, outlines=None, cluster="", habitat="ice"):
    rows = np.array([box if len(box) == 5 else (*box, 0) for box in boxes], np.float32).reshape(-1, 5)
    ref = CaseRef(name, name, cluster=cluster or name, strata={"habitat": habitat})
    drawn = tuple(around(box[:4]) for box in boxes) if outlines is None else outlines
    return Case(ref, np.zeros((1, *SHAPE), np.float32), boxes=rows, outlines=drawn)


def detected(*found, masks=True):
    """Detections of (corners, score, mask[, class])."""
    drawn = np.array([mask for _, _, mask, *_ in found], bool).reshape(-1, *SHAPE)
    return Boxes(
        torch.tensor([box for box, *_ in found], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([score for _, score, *_ in found], dtype=torch.float32),
        torch.tensor([label[0] if label else 0 for _, _, _, *label in found], dtype=torch.int64),
        masks=torch.from_numpy(drawn) if masks else None,
    )


def rows_of(case, boxes, facts):
    context = FakeContext(params=Params(), facts=facts, boxes=boxes, case=case.id)
    return [{"case": case.id, **row} for row in get_check(ID).measure(context, case)]


def tables_of(pairs, *, lost=(), facts=DETECTION):
    rows = [row for case, boxes in pairs for row in rows_of(case, boxes, facts)]
    rows += [failed(case.id) for case in lost]
    listed = [
        {"case": case.id, "cluster": case.ref.cluster, "habitat": case.ref.strata["habitat"], f"p:{ID}": 1.0}
        for case in [*(case for case, _ in pairs), *lost]
    ]
    return Tables({ID: frame(ID, rows)}, pd.DataFrame(listed), facts)


def estimates_of(quantity, held):
    table = held.cases.set_index("case", drop=False)
    lost = tuple(held.rows[ID].loc[held.rows[ID]["status"] == "failed", "case"])
    columns = table[["cluster", "habitat"]].assign(chance=1.0)
    return _estimates(quantity, _Frame(ID, columns, {"reference": lost}, Decision(), 0, ("habitat",), 2, 1))


def mean(quantity):
    return float(np.mean(quantity.values))


def test_exact_masks_give_1_and_empty_ones_0():
    for part, expected in ((1.0, 1.0), (0.0, 0.0)):
        pairs = [(case_of("a", ONE, OTHER), detected(*[(box, 0.9, filled(box, part)) for box in (OTHER, ONE)]))]
        found = quantities(ID, tables_of(pairs))
        assert mean(found["recall",]) == 1.0
        assert found["mask_recall",].values.tolist() == [expected] * 2
        assert found["mask_iou",].values.tolist() == [expected] * 2


def test_the_mask_is_that_of_the_detection_that_found_the_object():
    boxes = detected((OTHER, 0.6, filled(OTHER, 0.25)), (FAR, 0.8, filled(FAR)), (ONE, 0.9, filled(ONE, 0.5)))
    (row,) = rows_of(case_of("a", ONE, OTHER), boxes, DETECTION)
    assert row["mask_iou"] == [0.5, 0.25]
    found = quantities(ID, tables_of([(case_of("a", ONE, OTHER), boxes)]))
    assert found["mask_recall",].values.tolist() == [1.0, 0.0]
    assert found["mask_iou",].values.tolist() == [0.5, 0.25]


def test_pixels_outside_the_boxes_count():
    mask = filled(ONE)
    mask[50:60, 60:80] = True
    assert mask_iou(around(ONE), mask) == 0.5


def test_missed_objects_have_no_mask_that_fits():
    boxes = detected((ONE, 0.9, filled(ONE)), (OTHER, 0.4, filled(OTHER)))
    found = quantities(ID, tables_of([(case_of("a", ONE, OTHER, FAR), boxes)]))
    assert found["mask_recall",].values.tolist() == [1.0, 0.0, 0.0]
    assert found["mask_iou",].values.tolist() == [1.0]
    assert "missed objects are left out" in found["mask_iou",].note


def test_objects_without_an_outline_are_left_out():
    outlines = (around(ONE), ())
    boxes = detected((ONE, 0.9, filled(ONE)), (OTHER, 0.9, filled(OTHER)))
    (row,) = rows_of(case_of("a", ONE, OTHER, outlines=outlines), boxes, DETECTION)
    assert row["reference_outlined"] == [True, False]
    assert row["mask_iou"][0] == 1.0
    assert math.isnan(row["mask_iou"][1])
    found = quantities(ID, tables_of([(case_of("a", ONE, OTHER, outlines=outlines), boxes)]))
    assert (len(found["mask_recall",].values), len(found["mask_iou",].values)) == (1, 1)


def test_an_image_without_detections_may_lack_masks():
    pairs = [(case_of("a", ONE), detected((ONE, 0.9, filled(ONE)))), (case_of("b", ONE), detected(masks=False))]
    found = quantities(ID, tables_of(pairs))
    assert found["mask_recall",].values.tolist() == [1.0, 0.0]
    assert found["mask_iou",].values.tolist() == [1.0]


def test_a_failed_image_counts_as_the_one_with_most_outlines():
    full = case_of("a", ONE, OTHER, FAR, outlines=(around(ONE), around(OTHER), ()))
    pairs = [(full, detected(*[(box, 0.9, filled(box)) for box in (ONE, OTHER, FAR)]))]
    held = tables_of(pairs, lost=[case_of("z")])
    found = quantities(ID, held)
    recall, *_ = estimates_of(found["mask_recall",], held)
    assert (recall.value, recall.n, recall.n_failed) == (0.5, 4, 1)
    assert found["mask_iou",].values.tolist() == [1.0, 1.0]


def test_groups_have_their_own_value_and_the_mean_an_interval():
    rng = np.random.default_rng(0)
    pairs = []
    for index in range(60):
        part = 0.9 if index % 2 else float(rng.choice((0.2, 0.7)))
        case = case_of(f"t{index:02d}", ONE, OTHER, cluster=f"f{index // 2}", habitat=("rock", "ice")[index % 2])
        pairs.append((case, detected(*[(box, 0.9, filled(box, part)) for box in (ONE, OTHER)])))
    held = tables_of(pairs)
    found = quantities(ID, held)
    whole, ice, rock = estimates_of(found["mask_recall",], held)
    assert (ice.stratum, ice.value, ice.n) == ("habitat=ice", 1.0, 60)
    assert rock.value == pytest.approx(np.mean([value > 0.5 for value in found["mask_iou",].values[rocky(found)]]))
    assert whole.interval.lower < whole.value < whole.interval.upper
    (iou,) = estimates_of(found["mask_iou",], held)
    assert (iou.n, iou.n_clusters) == (120, 30)
    assert iou.value == pytest.approx(mean(found["mask_iou",]))
    assert iou.interval.lower < iou.value < iou.interval.upper


def rocky(found):
    return np.array([int(case[1:]) % 2 == 0 for case in found["mask_iou",].cases])


def test_each_class_is_measured_with_its_own_masks():
    case = case_of("a", (*ONE, 1), (*OTHER, 0), (*FAR, 255))
    boxes = detected((OTHER, 0.7, filled(OTHER)), (ONE, 0.9, filled(ONE, 0.5), 1), (FAR, 0.8, filled(FAR), 1))
    found = quantities(ID, tables_of([(case, boxes)], facts=TWO))
    assert found["mask_iou", "seal"].values.tolist() == [1.0]
    assert found["mask_iou", "boat"].values.tolist() == [0.5]
    assert sorted(found["mask_iou",].values.tolist()) == [0.5, 1.0]


def test_a_detector_of_boxes_gets_no_new_number():
    pairs = [(case_of("a", ONE), detected((ONE, 0.9, filled(ONE)), masks=False))]
    assert not [key for key in quantities(ID, tables_of(pairs)) if "mask" in key[0]]


def test_rows_of_older_runs_are_read():
    held = tables_of([(case_of("a", ONE), detected((ONE, 0.9, filled(ONE))))])
    older = replace(held, rows={ID: held.rows[ID].drop(columns=["mask_iou", "reference_outlined"])})
    assert not [key for key in quantities(ID, older) if "mask" in key[0]]


@pytest.mark.parametrize("outlines", [((),), None])
def test_a_reference_of_boxes_alone_is_said(outlines):
    case = replace(case_of("a", ONE), outlines=outlines)
    held = tables_of([(case, detected((ONE, 0.9, filled(ONE))))])
    found = quantities(ID, held)
    assert found["mask_recall",].missing == found["mask_iou",].missing == NO_OUTLINES
    assert [one.missing for one in estimates_of(found["mask_recall",], held)] == [True]


def test_no_object_at_all_gives_no_value():
    found = quantities(ID, tables_of([(case_of("a"), detected((ONE, 0.9, filled(ONE))))]))
    assert len(found["mask_recall",].values) == len(found["mask_iou",].values) == 0


def slow_iou(polygons, mask):
    """From the definition, on the whole image."""
    drawn = np.zeros(mask.shape, bool)
    for polygon in polygons:
        drawn |= polygon_to_mask([float(value) for value in polygon.ravel()], mask.shape)
    union = (drawn | mask).sum()
    return (drawn & mask).sum() / union if union else 0.0


def test_random_polygons_agree_with_masks_of_the_whole_image():
    rng = np.random.default_rng(5)
    seen = []
    for _ in range(200):
        centre, spread = rng.uniform((-5, -5), (85, 65)), rng.uniform(1, 25)
        polygons = [
            (centre + rng.normal(0, spread, (int(rng.integers(3, 9)), 2))).astype(np.float32)
            for _ in range(rng.integers(1, 3))
        ]
        mask = np.zeros(SHAPE, bool)
        y, x = int(np.clip(centre[1], 0, 59)), int(np.clip(centre[0], 0, 79))
        mask[max(0, y - 8) : y + 8, max(0, x - 8) : x + 8] = rng.random() < 0.9
        seen.append(mask_iou(polygons, mask))
        assert seen[-1] == slow_iou(polygons, mask)
    assert np.mean(np.array(seen) > 0.2) > 0.3


@pytest.mark.parametrize("corners", [[[1, 1], [5, 5]], [[1, 1], [5, np.nan], [3, 4]], [[1, 1], [9000, 3], [3, 4]]])
def test_an_outline_that_cannot_be_drawn_is_said(corners):
    with pytest.raises(DataError, match="a7: the outline of an object cannot be drawn"):
        mask_iou([np.array(corners, np.float32)], np.zeros(SHAPE, bool), "a7")


FUNCTION = """
import numpy as np
from scipy import ndimage


def detect(batch):
    return [find(image[0]) for image in batch]


def find(image):
    regions, count = ndimage.label(image > 0.35)
    places = ndimage.find_objects(regions)
    if not count:
        return {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0)}
    return {
        "boxes": np.array([[x.start, y.start, x.stop, y.stop] for y, x in places], float),
        "scores": np.array([image[regions == index].mean() for index in range(1, count + 1)]),
        "labels": np.zeros(count),
        "masks": MASKS,
    }
"""
EXACT = "np.stack([regions == index for index in range(1, count + 1)])"
NONE = "np.zeros((count, *image.shape))"


def audited(folder, masks, *, outlines=True):
    """The report and the run of a Python function on a survey of true outlines."""
    model = survey(folder / "world", flights=8, tiles=4, empty=1, seed=3)
    text = FUNCTION.replace('        "masks": MASKS,\n', "") if masks is None else FUNCTION.replace("MASKS", masks)
    (folder / "world" / "function.py").write_text(text, encoding="utf-8")
    written = model.read_text(encoding="utf-8").replace('{torch: "builder.py:build"}', '{python: "function.py:detect"}')
    model.write_text(written, encoding="utf-8")
    if not outlines:
        file = folder / "world" / "data" / "annotations.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        for thing in document["annotations"]:
            del thing["segmentation"]
        file.write_text(json.dumps(document), encoding="utf-8")
    xaiseg.audit(model, "ecology", out=folder / "run", pdf=False)
    return (folder / "run" / "report.html").read_text(encoding="utf-8"), RunDirectory(folder / "run")


def named(run):
    return {one.metric: one for one in run.estimates() if one.check == ID and not one.stratum and not one.factor}


def test_an_audit_tells_exact_masks_from_empty_ones(tmp_path):
    for name, masks in (("exact", EXACT), ("empty", NONE)):
        html, run = audited(tmp_path / name, masks)
        found = named(run)
        recall, fitting = found["recall"].value, found["mask_recall"].value
        assert 0.5 < recall < 1
        assert fitting == (pytest.approx(recall) if name == "exact" else 0.0)
        assert found["mask_iou"].value == (1.0 if name == "exact" else 0.0)
        assert found["mask_recall"].interval.upper > fitting
        assert "animals found with a mask that fits" in html.lower()
        count = round(fitting * found["mask_recall"].n)
        animals = found["mask_recall"].n
        assert f"Masks: of {animals} animals with an outline {count} are found with a mask of IoU 0.5 or more: " in html
        assert "the figure of performance.detection failed" not in html
        strata = {one.stratum for one in run.estimates() if one.metric == "mask_recall"}
        assert strata == {"", "habitat=ice", "habitat=rock"}


def test_an_audit_of_boxes_alone_says_so_and_one_without_masks_says_nothing(tmp_path):
    html, run = audited(tmp_path / "boxes", EXACT, outlines=False)
    assert NO_OUTLINES in html
    assert named(run)["mask_recall"].missing
    html, run = audited(tmp_path / "plain", None)
    assert not [metric for metric in named(run) if "mask" in metric]
    assert "Masks: of " not in html
