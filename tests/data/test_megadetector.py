from __future__ import annotations

import json

import numpy as np
import pytest

from xaiseg.data.megadetector import Batch, Found, batch_document, read_batch
from xaiseg.errors import UsageError

FILE = {
    "info": {"format_version": "1.3", "detector": "md_v5a.0.0.pt"},
    "detection_categories": {"1": "animal", "2": "person", "10": "vehicle"},
    "images": [
        {"file": "site1\\a.jpg", "detections": [{"category": "10", "conf": 0.87, "bbox": [0.5, 0.25, 0.25, 0.5]}]},
        {"file": "b.jpg", "detections": []},
        {"file": "c.jpg", "failure": "Failure image access", "detections": None},
    ],
}


def written(tmp_path, document):
    path = tmp_path / "md.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_detections_empty_images_and_failures_are_three_things(tmp_path):
    batch = read_batch(written(tmp_path, FILE))
    assert batch.categories == ("animal", "person", "vehicle")
    found = batch.images["site1/a.jpg"]
    assert found.boxes.tolist() == [[0.5, 0.25, 0.75, 0.75]]
    assert (found.scores.tolist(), found.labels.tolist()) == ([0.87], [2])
    assert len(batch.images["b.jpg"].scores) == 0
    assert batch.failures == {"c.jpg": "Failure image access"}


def test_what_is_written_is_read_again(tmp_path):
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 0.5, (5, 2))
    found = Found(
        np.hstack([low, low + 0.25]).round(4), np.sort(rng.random(5).round(4))[::-1], np.array([0, 1, 1, 0, 1])
    )
    batch = Batch(("seal", "boat"), {"a.png": found, "b.png": "the file is cut short"})
    document = batch_document(batch, detector="seals", threshold=0.4)
    assert document["info"]["detector_metadata"] == {"typical_detection_threshold": 0.4}
    again = read_batch(written(tmp_path, document))
    assert again.categories == batch.categories
    assert again.failures == {"b.png": "the file is cut short"}
    assert np.allclose(again.images["a.png"].boxes, found.boxes, atol=2e-5)
    assert again.images["a.png"].scores.tolist() == found.scores.tolist()
    assert again.images["a.png"].labels.tolist() == found.labels.tolist()


def test_a_failure_without_a_reason_is_no_empty_list():
    (image,) = batch_document(Batch(("seal",), {"a.png": ""}))["images"]
    assert image == {"file": "a.png", "failure": "unknown", "detections": None}


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"file": "a"}, "neither detections nor a failure"),
        ({"file": "a", "detections": None}, "neither detections nor a failure"),
        ({"detections": []}, "the field 'file' is missing"),
        (
            {"file": "a", "failure": "x", "detections": [{"category": "1", "conf": 1, "bbox": [0, 0, 1, 1]}]},
            "has a failure and detections",
        ),
        ({"file": "a", "detections": [{"category": "3", "conf": 1, "bbox": [0, 0, 1, 1]}]}, "known category"),
        ({"file": "a", "detections": [{"category": "1", "conf": 1, "bbox": [10, 10, 50, 50]}]}, "outside the image"),
        ({"file": "a", "detections": [{"category": "1", "conf": 1.5, "bbox": [0, 0, 1, 1]}]}, "conf from 0 to 1"),
    ],
)
def test_files_that_are_wrong(tmp_path, image, message):
    with pytest.raises(UsageError, match=message):
        read_batch(written(tmp_path, FILE | {"images": [image]}))


def test_a_file_of_another_kind_and_an_image_that_stands_twice(tmp_path):
    with pytest.raises(UsageError, match="it has no 'detection_categories'"):
        read_batch(written(tmp_path, {"images": [], "annotations": [], "categories": []}))
    with pytest.raises(UsageError, match="this image stands twice. Got: b.jpg"):
        read_batch(written(tmp_path, FILE | {"images": [FILE["images"][1]] * 2}))


def test_labels_in_place_of_detections_are_recognised(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text('{"images": [], "annotations": [], "categories": []}', encoding="utf-8")
    with pytest.raises(UsageError, match="no MegaDetector file.*a COCO file of labels: it belongs to the data"):
        read_batch(path)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_batch(path)
    assert "COCO" not in str(caught.value)
