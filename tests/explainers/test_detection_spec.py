import numpy as np
import pytest
import torch

from tests.explainers.toy_pyramid import subject
from tests.toy_detectors import Cells
from tests.toys import BrightBlobs
from xaiseg.errors import UsageError
from xaiseg.explainers.detection_spec import MOST_OBJECTS, ObjectScene, matched, parse_objects
from xaiseg.explainers.detections import DetectionSession

CLASSES = ("seal", "bird")


def scene(reference=None, threshold=0.5):
    """Cells of 8 x 8 px: seals of 0.9 and 0.6 and one of 0.3, a bird of 0.7."""
    image = torch.zeros(2, 64, 64)
    for channel, row, column, value in ((0, 1, 2, 0.9), (0, 5, 5, 0.6), (0, 7, 0, 0.3), (1, 3, 6, 0.7)):
        image[channel, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = value
    detector = subject(Cells(), CLASSES, channels=2, threshold=threshold)
    return ObjectScene(DetectionSession(detector, image), None if reference is None else np.array(reference, float))


def names(asked, held=None):
    return [target.name for target in parse_objects(asked, held or scene())]


def test_words_name_detections_in_the_order_of_their_scores():
    for asked in ("pred", "all", ["all"]):
        assert names(asked) == ["seal 0", "bird 1", "seal 2"]
    assert names("seal") == ["seal 0", "seal 2"]
    assert names("box 3") == names("box-3") == names(3) == ["seal 3"]
    assert names(["bird", "box 0"]) == ["bird 1", "seal 0"]
    (first,) = parse_objects("box 0", scene())
    assert first.object.xyxy.tolist() == [16, 8, 24, 16]
    assert first.object.score == pytest.approx(0.9)
    assert first.object.classes.tolist() == pytest.approx([0.9, 0.0])
    assert first.object.origin == "detection 0 of 4 by score, at or above the threshold 0.5"
    assert first.object.candidate.index == 1 * 8 + 2
    assert first.object.candidate.iou == 1.0
    (low,) = parse_objects("box 3", scene())
    assert low.object.origin.endswith("below the threshold 0.5")


def test_a_pixel_names_the_detection_that_covers_it():
    assert names("16,8") == names("23, 15") == ["seal 0"]
    assert names([48, 24]) == ["bird 1"]
    assert names("0,63") == ["seal 3"]
    with pytest.raises(UsageError, match=r"no detection covers.*x 24, y 8.*x0,y0,x1,y1,class"):
        names("24,8")
    with pytest.raises(UsageError, match=r"outside the image.*x 0 to 63"):
        names("64,8")


def test_a_box_of_ones_own_stands_for_what_was_missed():
    (target,) = parse_objects("1,57,7,63,bird", scene())
    assert target.object.xyxy.tolist() == [1, 57, 7, 63]
    assert (target.class_index, target.object.score, target.object.classes.tolist()) == (1, None, [0.0, 1.0])
    assert target.name == "bird in 1,57,7,63"
    assert target.object.candidate.index == 7 * 8  # the cell that overlaps it
    with pytest.raises(UsageError, match="needs a class"):
        names("1,57,7,63")
    with pytest.raises(UsageError, match="did you mean 'seal'"):
        names("1,57,7,63,seel")
    for outside in ("5,5,5,9,seal", "0,0,65,9,seal", "-1,0,5,9,seal"):
        with pytest.raises(UsageError, match="no box in the image"):
            names(outside)
    with pytest.raises(UsageError, match="x,y or x0,y0,x1,y1"):
        names("1,2,3")


def test_a_mapping_asks_another_question():
    assert names({"where": "all"}) == ["seal 0 where", "bird 1 where", "seal 2 where"]
    assert names("{left: box 0}") == names({"left": 0}) == ["seal 0 left"]
    assert names({"is": [16, 8]}) == ["seal 0 is"]
    assert names({"what": "1,57,7,63,bird"}) == ["bird in 1,57,7,63 what"]
    with pytest.raises(UsageError, match="stands in quotes"):
        names("{where: 10,20}")
    with pytest.raises(UsageError, match="did you mean 'where'"):
        names({"wher": 0})


def test_what_is_no_target_says_what_is():
    with pytest.raises(UsageError, match="did you mean 'bird'"):
        names("brid")
    with pytest.raises(UsageError, match="box 0 to box 3"):
        names("box 4")
    for wrong in (None, 1.5, []):
        with pytest.raises(UsageError, match="this is no target"):
            names(wrong)
    with pytest.raises(UsageError, match=r"class 'bird'.*0\.8.*the best scores 0\.9.*box 0"):
        names("bird", scene(threshold=0.8))
    empty = ObjectScene(DetectionSession(BrightBlobs(), torch.zeros(1, 16, 16)))
    with pytest.raises(UsageError, match=r"anything.*no box at all.*x0,y0,x1,y1"):
        names("all", empty)
    with pytest.raises(UsageError, match="none; nothing is detected"):
        names("box 0", empty)


def test_many_detections_are_capped_with_a_word():
    image = torch.zeros(2, 64, 64)
    image[0, ::8] = 0.0
    image[0, 0:16] = 0.7
    held = ObjectScene(DetectionSession(subject(Cells(), CLASSES, channels=2), image))
    found = parse_objects("all", held)
    assert len(found) == MOST_OBJECTS
    assert found[0].object.remark == f"the first {MOST_OBJECTS} of 16 objects are explained; name others, e.g. box 8"
    assert parse_objects("box 15", held)[0].object.remark == ""


#: A found seal, a missed bird, and a region around the second seal that does not count.
REFERENCE = [[16, 8, 24, 17, 0], [0, 40, 8, 48, 1], [38, 38, 50, 50, 255]]


def test_errors_are_told_apart_by_the_reference():
    held = scene(REFERENCE)
    roles, missed = matched(held)
    order = held.order()
    assert {order.index(place): role for place, role in roles.items()} == {0: "tp", 1: "fp"}
    assert missed == [1]
    (hit,), (false,), (lost,) = (parse_objects(word, held) for word in ("tp", "fp", "fn"))
    assert (hit.name, hit.object.caption) == ("seal 0", "true positive, score 0.90")
    assert (false.name, false.object.caption) == ("bird 1", "false positive, score 0.70")
    assert (lost.name, lost.object.caption) == ("missed bird 1", "false negative, not detected")
    assert lost.object.xyxy.tolist() == [0, 40, 8, 48]
    assert names(["tp", {"where": "fn"}], held) == ["seal 0", "missed bird 1 where"]
    assert names({"fn": "bird"}, held) == ["missed bird 1"]
    with pytest.raises(UsageError, match=r"has no fn.*1 tp, 1 fp, 1 fn"):
        names({"fn": "seal"}, held)


def test_errors_need_a_reference_of_boxes():
    with pytest.raises(UsageError, match="--reference"):
        names("fp")
    with pytest.raises(UsageError, match=r"must be boxes.*\(N, 5\)"):
        scene([[1, 2, 3, 4]])


def test_a_black_box_has_no_candidates():
    image = torch.zeros(1, 32, 32)
    image[0, 4:9, 4:9] = 0.9
    held = ObjectScene(DetectionSession(BrightBlobs(), image))
    assert parse_objects("all", held)[0].object.candidate is None
    assert parse_objects("1,1,5,5", held)[0].object.candidate is None
