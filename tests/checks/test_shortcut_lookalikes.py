"""A detector that takes everything bright for an animal: green and blue things are two kinds of mistake."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.checks.shortcut_worlds import measured, named
from tests.explainers.toy_pyramid import subject
from xaiseg.checks.pictures import pixels_of
from xaiseg.checks.shortcut_groups import grouped
from xaiseg.checks.shortcut_look import look_of
from xaiseg.checks.shortcut_lookalikes import ID, NONE, Params
from xaiseg.data.case import Case, CaseRef
from xaiseg.errors import UsageError
from xaiseg.subject import Detector, RawBoxes

FACTS = {"classes": ["seal"], "channels": 3}


class Colours(nn.Module):
    """Each cell of 8 x 8 pixels is a candidate; its score is its brightest channel, and a layer holds the colours."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(3, 3, 8, stride=8, bias=False)
        self.head = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        with torch.no_grad():
            self.cells.weight.copy_(torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8) / 64)
            self.head.weight.zero_()
            self.head.weight[:, :, 1, 1] = torch.eye(3)

    def forward(self, x: Tensor) -> RawBoxes:
        held = self.head(self.cells(x))
        rows, columns = held.shape[-2:]
        y, x0 = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        corner = torch.stack((x0, y), dim=-1).reshape(-1, 2).to(x) * 8
        xyxy = torch.cat((corner, corner + 8), dim=1).expand(len(x), -1, -1)
        score = held.flatten(2).amax(dim=1)[..., None].clamp(0.0, 1.0)
        return RawBoxes(xyxy, score, torch.zeros(rows * columns, dtype=torch.int64))


def tile(name, things, animals=((2, 2),)):
    """Cells (row, column, channel) that are bright; animals are red and known."""
    image = np.full((3, 64, 64), 0.05, np.float32)
    for row, column in animals:
        image[0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0.9
    for row, column, channel in things:
        image[channel, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0.8 - 0.02 * column
    boxes = np.array([[8 * c, 8 * r, 8 * c + 8, 8 * r + 8, 0] for r, c in animals], np.float32).reshape(-1, 5)
    return Case(CaseRef(name, name, cluster=name), image, boxes=boxes)


@pytest.fixture(scope="module")
def detector():
    return subject(Colours(), ("seal",), channels=3)


@pytest.fixture(scope="module")
def rows(detector):
    cases = [tile(f"c{index}", [(0, index, 1), (5, index, 1), (7, 7 - index, 2)]) for index in range(5)]
    return cases, [row for case in cases for row in measured(ID, detector, case, facts=FACTS)]


def test_each_false_detection_is_pooled_over_its_box(rows):
    cases, held = rows
    assert len(held) == 15
    assert {row["layer"] for row in held} == {"cells"}  # the layer before the head, on the grid of the cells
    for row in held:
        x0, y0, x1, y1 = (int(value) for value in row["box"])
        image = next(case.image for case in cases if case.id == row["case"])
        np.testing.assert_allclose(np.argmax(row["vector"]), np.argmax(image[:, y0:y1, x0:x1].mean(axis=(1, 2))))
        assert row["target"] == "seal"
        assert row["score"] == pytest.approx(image[:, y0:y1, x0:x1].max(), abs=1e-5)
        window = pixels_of(row)
        assert window.shape == (24, 24, 3)
        colour = int(np.argmax(row["vector"]))
        assert window[..., colour].max() == round(255 * image[colour].max())  # green and blue things, in colour


def test_kinds_of_mistakes_are_groups_with_their_shares(rows):
    cases, held = rows
    found = named(ID, held, cases)
    assert found[("groups",)].values.tolist() == [2.0]
    assert found[("lookalikes",)].values.tolist() == [15.0]
    assert found[("silhouette",)].values[0] > 0.7
    assert found[("group_share", "", "", "group 1")].values.sum() == 10
    assert found[("group_share", "", "", "group 2")].values.sum() == 5
    from tests.checks.fake import frame

    groups = grouped(frame(ID, held), Params())
    colours = [int(np.argmax(vector)) for vector in groups.rows["vector"]]
    assert {(label, colour) for label, colour in zip(groups.labels, colours, strict=True)} == {(0, 1), (1, 2)}


class Blind(Detector):
    """The same detector as a black box."""

    def __init__(self, inner):
        self.inner = inner
        self.info = dataclasses.replace(inner.info, offers=frozenset({"scores"}))

    @property
    def device(self):
        return self.inner.device

    @property
    def module(self):
        return None

    def predict(self, images, *, batch_size=8):
        return self.inner.predict(images, batch_size=batch_size)


@pytest.mark.parametrize("by", ["auto", "pixels"])
def test_mistakes_of_a_black_box_are_grouped_by_how_they_look(detector, rows, by):
    cases, _ = rows
    seen = Blind(detector) if by == "auto" else detector
    held = [row for case in cases for row in measured(ID, seen, case, facts=FACTS, params=Params(by=by))]
    assert {row["layer"] for row in held} == {"pixels"}
    found = named(ID, held, cases)
    assert found[("groups",)].values.tolist() == [2.0]
    assert "look alike" in found[("groups",)].note
    assert found[("group_share", "", "", "group 1")].values.sum() == 10
    with_layer = list(measured(ID, Blind(detector), cases[0], facts=FACTS, params=Params(by="layer")))
    assert "no layer to read: the detector shows no activations" in with_layer[-1]["reason"]


def test_a_handful_of_mistakes_makes_no_groups(rows):
    cases, held = rows
    few = [row for row in held if row["case"] in ("c0", "c1", "c2")]
    assert len(few) == 9
    assert named(ID, few, cases[:3])[("groups",)].values.tolist() == [1.0]


def test_a_look_is_the_same_whichever_way_a_thing_lies():
    rng = np.random.default_rng(0)
    image = rng.random((3, 60, 60)).astype(np.float32)
    image[0, 25:35, 20:40] += 3.0
    box = np.array([20.0, 20.0, 40.0, 40.0])
    look = look_of(image, box, (0.0, 4.0))
    assert look.shape == (16,)
    for turned in (np.rot90(image, axes=(1, 2)), image[:, :, ::-1]):
        np.testing.assert_allclose(look_of(turned, box, (0.0, 4.0)), look, atol=1e-4)
    assert look[0] > 0.2 > abs(look[1])  # red in the middle, and not green
    assert np.isfinite(look_of(image, np.array([-5.0, 58.0, 2.0, 58.2]), (0.0, 4.0))).all()
    assert look_of(image[:1], box, (0.0, 4.0)).shape == (8,)


def test_what_is_found_ignored_or_below_the_threshold_is_no_mistake(detector):
    (row,) = measured(ID, detector, tile("a", []), facts=FACTS)
    assert (row["status"], row["reason"]) == ("not_applicable", NONE)
    faint = tile("b", [])
    faint.image[1, 40:48, 40:48] = 0.4
    assert measured(ID, detector, faint, facts=FACTS)[0]["status"] == "not_applicable"
    case = tile("c", [(5, 5, 1)])
    ignored = np.concatenate([case.boxes, [[36.0, 36, 60, 60, 255]]]).astype(np.float32)
    assert measured(ID, detector, Case(case.ref, case.image, boxes=ignored), facts=FACTS)[0]["reason"] == NONE
    assert named(ID, [{"case": "a", **row}], [case])[("group_share",)].missing == NONE


def test_a_bad_box_is_no_look_alike(detector):
    case = tile("a", [(5, 5, 1)])
    cut = case.boxes.copy()
    cut[0, 2] -= 5  # three of eight columns are left: an IoU of 0.375 with the cell, which is then false
    rows = measured(ID, detector, Case(case.ref, case.image, boxes=cut), facts=FACTS)
    assert [row["object"] for row in rows] == ["bad box 1", "look-alike 1"]
    assert [row["overlap"] for row in rows] == [pytest.approx(3 / 8), 0.0]
    assert "vector" not in rows[0]
    found = named(ID, rows, [case])
    assert found[("bad_boxes",)].values.tolist() == [1.0, 0.0]
    assert found[("lookalikes",)].values.tolist() == [1.0]
    alone = named(ID, rows[:1], [case])
    assert "overlaps an object" in alone[("group_share",)].missing


def test_the_best_of_an_image_and_a_layer_of_ones_own(detector):
    case = tile("a", [(0, column, 1) for column in range(8)])
    held = measured(ID, detector, case, facts=FACTS, params=Params(most=3, layer="head"))
    grouped = [row for row in held if "vector" in row]
    assert [row["score"] for row in grouped] == pytest.approx([0.8, 0.78, 0.76])
    assert {row["layer"] for row in grouped} == {"head"}
    found = named(ID, held, [case])
    assert len(found[("bad_boxes",)].values) == 8, "the share is of all false detections, not of the best of an image"
    assert found[("lookalikes",)].values.tolist() == [3.0]


def test_without_a_layer_they_still_count(detector, monkeypatch):
    from xaiseg.checks import shortcut_lookalikes

    monkeypatch.setattr(shortcut_lookalikes, "_layer", lambda *_: (None, "the head is shared"))
    case = tile("a", [(0, 0, 1), (0, 1, 1)])
    found = named(ID, measured(ID, detector, case, facts=FACTS), [case])
    assert found[("bad_boxes",)].values.tolist() == [0.0, 0.0]
    assert "no layer was found" in found[("group_share",)].missing


@pytest.mark.parametrize(
    "wrong", [{"most": 0}, {"touching": 0.0}, {"groups": 1}, {"match_iou": 0.0}, {"match": "area"}, {"by": "eye"}]
)
def test_wrong_parameters_name_themselves(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Params(**wrong)
