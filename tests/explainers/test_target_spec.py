import numpy as np
import pytest
import torch
from PIL import Image

from xaiseg.errors import UsageError
from xaiseg.explainers.soft_targets import SoftOverlap
from xaiseg.explainers.target_spec import KINDS, Scene, parse_targets
from xaiseg.explainers.targets import Border, Margin, Region, SpatialTarget
from xaiseg.subject import Prediction

CLASSES = ("background", "cyst", "tumour")
LABELS = np.array(
    [
        [1, 1, 0, 0, 0, 2],
        [1, 1, 0, 0, 2, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
    ],
    dtype=np.uint8,
)
REFERENCE = np.where(LABELS == 1, 0, LABELS).astype(np.uint8)
REFERENCE[0, :4] = 1
REFERENCE[3, 5] = 255


@pytest.fixture
def scene(tmp_path):
    return Scene(Prediction(LABELS), CLASSES, REFERENCE, tmp_path)


def one(asked, scene):
    (found,) = parse_targets(asked, scene)
    return found


def save(folder, name, values):
    Image.fromarray(np.asarray(values).astype(np.uint8)).save(folder / name)


def test_words_and_classes(scene):
    assert (one("pred", scene).name, one("pred", scene).mask.sum()) == ("cyst", 5)
    assert one("tumour", scene).mask.sum() == 2
    assert one("background", scene).mask.sum() == 17
    assert [target.name for target in parse_targets("all", scene)] == ["cyst", "tumour"]


def test_objects_are_connected_with_corners_and_the_largest_comes_first(scene):
    found = parse_targets("objects", scene)
    assert [(target.name, int(target.mask.sum())) for target in found] == [
        ("cyst 1", 4),
        ("cyst 2", 1),
        ("tumour 1", 2),
    ]
    around = one({"object": {"x": 0, "y": 1}}, scene)
    assert (around.mask == found[0].mask).all()
    with pytest.raises(UsageError, match=r"not predicted at this pixel.*tumour.*Allowed: cyst"):
        one({"object": {"x": 0, "y": 1, "class": "tumour"}}, scene)


def test_a_pixel_stands_for_the_class_predicted_there_or_the_one_asked_for(scene):
    found = one("5,0", scene)
    assert (found.class_index, np.argwhere(found.mask).tolist(), found.name) == (2, [[0, 5]], "tumour at 5,0")
    assert one({"pixel": {"x": 5, "y": 0, "class": "cyst"}}, scene).class_index == 1
    for outside in ("6,0", "0,4", "-1,0"):
        with pytest.raises(UsageError, match="outside the image"):
            one(outside, scene)
    with pytest.raises(UsageError, match="whole numbers"):
        one({"pixel": {"x": 1}}, scene)


def test_a_mask_file_stands_for_the_foreground_class_that_prevails_in_it(scene, tmp_path):
    mask = np.zeros((4, 6))
    mask[:2, :3] = 255
    save(tmp_path, "mine.png", mask)
    found = one("mine.png", scene)
    assert (found.class_index, found.mask.sum(), found.name) == (1, 6, "cyst in mine")
    other = one({"region": {"class": "tumour", "mask": "mine.png"}}, scene)
    assert (other.class_index, other.mask.sum()) == (2, 6)
    assert one(str(tmp_path / "mine.png"), scene).mask.sum() == 6


def test_mask_files_that_do_not_fit_are_one_clear_error(scene, tmp_path):
    save(tmp_path, "empty.png", np.zeros((4, 6)))
    save(tmp_path, "large.png", np.ones((8, 6)))
    nowhere = np.zeros((4, 6))
    nowhere[2] = 1
    save(tmp_path, "nowhere.png", nowhere)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="the region is empty"):
        one("empty.png", scene)
    with pytest.raises(UsageError, match=r"another size than the image.*\(8, 6\).*\(4, 6\)"):
        one("large.png", scene)
    with pytest.raises(UsageError, match=r"class must be named.*\{region: \{class: cyst, mask: nowhere\.png\}\}"):
        one("nowhere.png", scene)
    with pytest.raises(UsageError, match="cannot be read"):
        one("broken.png", scene)
    with pytest.raises(UsageError, match="file is missing"):
        one("missing.png", scene)


def test_two_classes_need_no_name_for_a_mask_where_nothing_is_predicted(tmp_path):
    save(tmp_path, "missed.png", np.eye(3))
    scene = Scene(Prediction(np.zeros((3, 3), dtype=np.uint8)), ("background", "lesion"), folder=tmp_path)
    assert one("missed.png", scene).class_index == 1


def test_mappings_and_their_yaml_text_give_the_same(scene):
    asked = "{margin: {class: tumour, foil: background}}"
    for found in (one(asked, scene), one({"margin": {"class": "tumour", "foil": "background"}}, scene)):
        assert isinstance(found, Margin)
        assert (found.class_index, found.foil, found.mask.sum()) == (2, 0, 2)
        assert found.name == "tumour over background"
    rest = one({"margin": "pred"}, scene)
    assert (rest.class_index, rest.foil, rest.name) == (1, None, "cyst over rest")
    assert isinstance(one({"border": "cyst"}, scene), Border)
    assert one({"prob": "cyst"}, scene).unit == "probability"
    dice = one({"soft_dice": "cyst"}, scene)
    assert isinstance(dice, SoftOverlap)
    assert (dice.mask == (LABELS == 1)).all()


def test_overlaps_with_the_reference_leave_out_what_it_ignores(scene):
    logits = torch.randn(1, 3, 4, 6)
    chances = torch.softmax(logits.double(), dim=1)[0, 1].numpy()
    reference, valid = REFERENCE == 1, REFERENCE != 255
    expected = {
        "tp": chances[reference].mean(),
        "fp": chances[valid & ~reference].sum(),
        "fn": (1 - chances[reference]).sum(),
    }
    for kind, value in expected.items():
        assert one({kind: "cyst"}, scene).score(logits).item() == pytest.approx(value, rel=1e-5)


def test_masks_made_from_the_reference(scene):
    predicted, reference = LABELS == 1, REFERENCE == 1
    expected = {
        "reference": reference,
        "true-positives": predicted & reference,
        "false-positives": predicted & ~reference,
        "false-negatives": ~predicted & reference,
    }
    for word, mask in expected.items():
        found = one({"region": {"class": "cyst", "mask": word}}, scene)
        np.testing.assert_array_equal(found.mask, mask)
        assert found.name == f"cyst in {word}"
    with pytest.raises(UsageError, match="there are no false-positives of class 'tumour'"):
        one({"region": {"class": "tumour", "mask": "false-positives"}}, scene)


def test_a_missing_or_unfit_reference_is_said():
    bare = Scene(Prediction(LABELS), CLASSES)
    for asked in ({"fn": "cyst"}, {"region": {"class": "cyst", "mask": "reference"}}):
        with pytest.raises(UsageError, match=r"needs a reference mask.*--reference"):
            one(asked, bare)
    with pytest.raises(UsageError, match="reference has another size"):
        one({"fn": "cyst"}, Scene(Prediction(LABELS), CLASSES, REFERENCE[:2]))
    with pytest.raises(UsageError, match="reference has no pixel of class 'cyst'"):
        one({"tp": "cyst"}, Scene(Prediction(LABELS), CLASSES, np.zeros_like(LABELS)))
    assert one({"fp": "cyst"}, Scene(Prediction(LABELS), CLASSES, np.zeros_like(LABELS))).mask.sum() == 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("tumor", "did you mean 'tumour'"),
        ("", "no such target"),
        ({"margn": "cyst"}, "did you mean 'margin'"),
        ({"margin": {"klass": "cyst"}}, "did you mean 'class'"),
        ({"margin": {"class": "cyst", "foil": "backgrund"}}, "did you mean 'background'"),
        ({"margin": {"class": "cyst", "foil": "cyst"}}, "no margin over itself"),
        ({"border": "cysts"}, "did you mean 'cyst'"),
        ({"border": "cyst", "margin": "cyst"}, "a mapping of one key"),
        ({}, "a mapping of one key"),
        ([], "no target is named"),
        (3, "this is no target"),
        ("{margin: [", "YAML is broken"),
    ],
)
def test_wrong_targets_are_one_clear_error(asked, message, scene):
    with pytest.raises(UsageError, match=message):
        parse_targets(asked, scene)


def test_what_is_not_predicted_is_said():
    empty = Scene(Prediction(np.zeros((2, 2), dtype=np.uint8)), CLASSES)
    for asked in ("pred", "all", "objects", {"margin": "pred"}):
        with pytest.raises(UsageError, match="no foreground"):
            parse_targets(asked, empty)
    for asked in ("cyst", {"border": "cyst"}):
        with pytest.raises(UsageError, match="no pixel of class 'cyst'"):
            parse_targets(asked, empty)


def test_every_kind_gives_a_target_that_can_be_drawn_and_scored(scene):
    for kind, keys in KINDS.items():
        asked = {"x": 0, "y": 0} if "x" in keys else "cyst"
        target = one({kind: asked}, scene)
        assert isinstance(target, SpatialTarget)
        assert target.mask.shape == LABELS.shape
        assert target.score(torch.randn(2, 3, 4, 6)).shape == (2,)


def test_a_class_named_like_a_file_is_the_class(tmp_path):
    scene = Scene(Prediction(np.ones((2, 2), dtype=np.uint8)), ("background", "a.png"), folder=tmp_path)
    assert isinstance(one("a.png", scene), Region)


def test_a_mask_at_hand_stands_for_its_file(scene):
    mask = np.zeros(scene.shape, dtype=np.uint8)
    mask[scene.prediction.labels == 1] = 7
    for given in (mask, mask > 0, torch.from_numpy(mask), (mask > 0).astype(np.float64)):
        (target,) = parse_targets(given, scene)
        assert (target.class_index, target.name) == (1, f"{scene.classes[1]} in given mask")
        np.testing.assert_array_equal(target.mask, mask > 0)
        (named,) = parse_targets({"region": {"class": scene.classes[2], "mask": given}}, scene)
        assert (named.class_index, named.name) == (2, f"{scene.classes[2]} in given mask")
        np.testing.assert_array_equal(named.mask, mask > 0)
    assert len(parse_targets([mask, "pred"], scene)) == 2


def test_what_is_no_mask_is_one_clear_error(scene):
    with pytest.raises(UsageError, match=r"another size than the image. Got: an array \(2, 2\)"):
        parse_targets(np.ones((2, 2), dtype=bool), scene)
    with pytest.raises(UsageError, match="the region is empty"):
        parse_targets({"region": {"mask": np.zeros(LABELS.shape)}}, scene)
    with pytest.raises(UsageError, match=r"this is no mask. Got: int\. Allowed: a file, reference.*an array"):
        parse_targets({"region": {"mask": 5}}, scene)
    with pytest.raises(UsageError, match=r"this is no mask. Got: ndarray"):
        parse_targets(np.array([["a"]]), scene)


@pytest.mark.parametrize("asked", ["10.5,20", "1,2.0", "1., 2"])
def test_a_place_between_pixels_is_said_to_be_one(asked, scene):
    with pytest.raises(
        UsageError, match=r"a pixel needs whole numbers. Got: .* Allowed: whole numbers, column and row"
    ):
        parse_targets(asked, scene)


def test_a_margin_over_itself_names_the_class(scene):
    name = CLASSES[1]
    with pytest.raises(UsageError, match=rf"no margin over itself. Got: {name}\. Allowed: another class"):
        parse_targets({"margin": {"class": name, "foil": name}}, scene)


def test_a_probability_is_named_as_one(scene):
    name = CLASSES[1]
    (target,) = parse_targets({"prob": name}, scene)
    assert (target.name, target.meaning) == (f"probability of {name}", f"mean probability of {name} over the region")
