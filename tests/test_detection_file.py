from __future__ import annotations

import json

import pytest
from PIL import Image

from xaiseg.detection_file import DetectionFile
from xaiseg.errors import SubjectError, UsageError
from xaiseg.pipeline import draft, open_model
from xaiseg.plan import Options
from xaiseg.protocol import load_protocol
from xaiseg.subject import SubjectInfo

IMAGES = [
    {"file": "site1/a.jpg", "detections": [{"category": "1", "conf": 0.8, "bbox": [0.25, 0.5, 0.5, 0.25]}]},
    {"file": "site1/b.jpg", "detections": []},
    {"file": "site1/c.jpg", "failure": "cut short", "detections": None},
    {"file": "site2/b.jpg", "detections": [{"category": "2", "conf": 0.5, "bbox": [0, 0, 1, 1]}]},
]


def stored(tmp_path, classes=("animal",), categories=None):
    path = tmp_path / "md.json"
    names = categories or {"1": "animal", "2": "person"}
    path.write_text(json.dumps({"images": IMAGES, "detection_categories": names}), encoding="utf-8")
    return DetectionFile(path, SubjectInfo("md", classes, 3, offers=frozenset({"scores"})))


def test_shares_become_pixels_and_names_become_cases(tmp_path):
    subject = stored(tmp_path)
    (found,) = subject.predict_cases(["site1/a"], [(100, 200)])
    assert found.xyxy.tolist() == [[50, 50, 150, 75]]
    assert found.labels.tolist() == [0]
    assert subject.predict_cases(["a"], [(100, 200)])[0].scores.tolist() == pytest.approx([0.8])
    assert len(subject.predict_cases(["site1/b"], [(9, 9)])[0].scores) == 0
    assert len(subject.predict_cases(["site2/b"], [(9, 9)])[0].scores) == 0, "a person is no animal"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("site1/c", r"failed on this image: cut short"),
        ("site1/z", "does not know this image"),
        ("site3/a", "does not know this image"),  # another camera's a
        ("b", "several images .* could be this one"),
    ],
)
def test_a_failure_and_a_gap_are_no_empty_images(tmp_path, case, message):
    with pytest.raises(SubjectError, match=message):
        stored(tmp_path).predict_cases([case], [(9, 9)])


def test_one_answer_is_not_given_to_two_cameras(tmp_path):
    path = tmp_path / "bare.json"
    images = [{"file": "IMG_0001.JPG", "detections": []}]
    path.write_text(json.dumps({"images": images, "detection_categories": {"1": "animal"}}), encoding="utf-8")
    subject = DetectionFile(path, SubjectInfo("md", ("animal",), 3, offers=frozenset({"scores"})))
    subject.refuse_shared(["cam1/IMG_0001", "cam1/IMG_0002"])
    with pytest.raises(UsageError, match="two cases would be the same image.*cam1/IMG_0001 and cam2/IMG_0001"):
        subject.refuse_shared(["cam1/IMG_0001", "cam2/IMG_0001"])


def test_an_audit_of_two_cameras_is_refused_before_it_begins(tmp_path):
    for camera in ("cam1", "cam2"):
        (tmp_path / "data" / "images" / camera).mkdir(parents=True)
        Image.new("L", (16, 16)).save(tmp_path / "data" / "images" / camera / "1.png")
    images = [{"id": number, "file_name": f"cam{number}/1.png"} for number in (1, 2)]
    data = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "animal"}]}
    (tmp_path / "data" / "annotations.json").write_text(json.dumps(data), encoding="utf-8")
    found = {"images": [{"file": "1.png", "detections": []}], "detection_categories": {"1": "animal"}}
    (tmp_path / "md.json").write_text(json.dumps(found), encoding="utf-8")
    text = "name: md\ntask: detection\nclasses: [animal]\nsource: {predictions: md.json}\nintended_use: tests\n"
    text += "input: {channels: 1}\noutput: {threshold: {value: 0.3}}\ndata: {test: {reader: coco, path: data}}\n"
    (tmp_path / "model.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="cam1/1 and cam2/1, both 1"):
        draft(open_model(tmp_path / "model.yaml"), load_protocol("ecology"), Options())


def test_it_looks_at_nothing_new(tmp_path):
    with pytest.raises(SubjectError, match="cannot look at new images"):
        stored(tmp_path).predict([])


def test_categories_must_be_classes(tmp_path):
    assert stored(tmp_path, ("person", "animal")).predict_cases(["site2/b"], [(9, 9)])[0].labels.tolist() == [0]
    with pytest.raises(UsageError, match=r"'person' is no class.*did you mean 'persons'"):
        stored(tmp_path, ("animal", "persons"))
    with pytest.raises(UsageError, match="no category of the file is a class"):
        stored(tmp_path, ("seal",))
