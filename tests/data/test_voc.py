from __future__ import annotations

import pytest
from pictures import picture, save

from xaiseg.data.case import ImageSpec
from xaiseg.data.readers import entry_from_folder, load_case, open_dataset
from xaiseg.errors import DataError, UsageError

SHAPE = (40, 80)
SPEC = ImageSpec(channels=1, classes=("seal", "boat"), task="detection")


def thing(name="seal", box=(10, 5, 30, 25), difficult=0):
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def tiles(root, *things, folder="annotations", size=(80, 40), text=None):
    save(root / "images" / "a.png", picture(shape=SHAPE))
    (root / folder).mkdir(exist_ok=True)
    held = f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{''.join(things)}</annotation>"
    (root / folder / "a.xml").write_text(held if text is None else text, encoding="utf-8")
    return entry_from_folder(root)


def only(entry):
    (ref,) = open_dataset("test", entry, root=".", spec=SPEC).cases
    return load_case(entry, ref, SPEC)


@pytest.mark.parametrize("folder", ["annotations", "Annotations", "labels", "images"])
def test_objects_are_corners_and_names(tmp_path, folder):
    entry = tiles(tmp_path, thing(), thing("boat", (40, 10.5, 60, 30)), thing(box=(0, 0, 9, 9), difficult=1),
                  folder=folder)  # fmt: skip
    assert entry.reader == "voc"
    assert only(entry).boxes.tolist() == [[10, 5, 30, 25, 0], [40, 10.5, 60, 30, 1], [0, 0, 9, 9, 255]]


def test_a_file_without_objects_is_a_negative_and_a_missing_one_fails(tmp_path):
    entry = tiles(tmp_path)
    assert only(entry).boxes.shape == (0, 5)
    save(tmp_path / "images" / "b.png", picture(shape=SHAPE))
    _, second = open_dataset("test", entry, root=".", spec=SPEC).cases
    with pytest.raises(DataError, match="a missing one is no negative"):
        load_case(entry, second, SPEC)


@pytest.mark.parametrize(
    ("parts", "more", "message"),
    [
        ([thing(box=(30, 20, 12, 9))], {}, "the box of object 1 has no size.*They read like x, y, width, height"),
        ([thing(box=(90, 50, 120, 70))], {}, "lies mostly outside the image"),
        ([thing(box=("a", 5, 30, 25))], {}, "the field bndbox/xmin is no number"),
        ([thing()], {"size": (640, 480)}, r"another size than the annotation says\. Got: 80 x 40\. Allowed: 640 x 480"),
        ([], {"text": "<annotation>"}, "this is no XML"),
        ([], {"text": "<html></html>"}, "no Pascal VOC file"),
        ([], {"text": '<!DOCTYPE a [<!ENTITY b "c">]><annotation/>'}, "declares a document type"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, parts, more, message):
    with pytest.raises(DataError, match=message):
        only(tiles(tmp_path, *parts, **more))


def test_a_class_that_the_model_lacks_stops_before_the_audit(tmp_path):
    entry = tiles(tmp_path, thing("seals"))
    with pytest.raises(UsageError, match=r"the class 'seals' is no class of the model.*did you mean 'seal'"):
        open_dataset("test", entry, root=".", spec=SPEC)


def test_annotations_without_an_image_are_named(tmp_path):
    entry = tiles(tmp_path, thing())
    assert open_dataset("test", entry, root=".", spec=SPEC).unmatched == ()
    (tmp_path / "annotations" / "lost.xml").write_text("<annotation/>", encoding="utf-8")
    assert open_dataset("test", entry, root=".", spec=SPEC).unmatched == ("annotations/lost.xml",)
