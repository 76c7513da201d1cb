from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pictures import picture, save, write_csv

from xaiseg.data.case import ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.readers import entry_from_folder, load_case, open_dataset
from xaiseg.errors import DataError, NothingToAudit, UsageError

# pycocotools 2.0.11 has the __array__ of NumPy 1.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (24, 32)
SPEC = ImageSpec(channels=1, classes=("background", "cell", "dirt"))
DETECTOR = ImageSpec(channels=1, classes=("cell", "dirt"))
ENTRY = DataEntry(reader="coco", path="d")
CATEGORIES = ({"id": 5, "name": "dirt"}, {"id": 7, "name": "cell"}, {"id": 9, "name": "unused"})
SQUARE = [4, 4, 12, 4, 12, 10, 4, 10]


def thing(category=7, outline=(SQUARE,), image=1, **more):
    found = {"image_id": image, "category_id": category, "bbox": [4, 4, 8, 6], **more}
    return found if outline is None else {**found, "segmentation": list(outline)}


def coco(root, annotations, images=None, categories=CATEGORIES, pictures=True):
    """Writes root/d; returns root."""
    if images is None:
        images = [{"id": 1, "file_name": "a.png", "height": SHAPE[0], "width": SHAPE[1]}]
    (root / "d" / "images").mkdir(parents=True, exist_ok=True)
    document = {"images": images, "annotations": list(annotations), "categories": list(categories)}
    (root / "d" / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    for image in images if pictures else ():
        save(root / "d" / "images" / image["file_name"], picture(shape=SHAPE))
    return root


def opened(root, entry=ENTRY, spec=SPEC):
    return open_dataset("test", entry, root=root, spec=spec)


def loaded(root, entry=ENTRY, spec=SPEC):
    return [load_case(entry, ref, spec) for ref in opened(root, entry, spec).cases]


def failure(root, entry=ENTRY, spec=SPEC):
    (ref,) = opened(root, entry, spec).cases
    with pytest.raises(DataError) as caught:
        load_case(entry, ref, spec)
    return str(caught.value)


def test_polygons_and_both_kinds_of_run_lengths_are_drawn_as_pycocotools_draws_them(tmp_path):
    coco_mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    blob = np.asfortranarray((rng.random(SHAPE) < 0.2).astype(np.uint8))
    packed = coco_mask.encode(blob)
    runs = {"size": list(SHAPE), "counts": [100, 30, 200, 40, SHAPE[0] * SHAPE[1] - 370]}
    two = [[1, 1, 9, 2, 5, 11.5], [20, 3, 30.5, 8, 22, 20]]
    annotations = [
        thing(7, two),
        {**thing(5, None), "segmentation": {"size": list(SHAPE), "counts": packed["counts"].decode("ascii")}},
        {**thing(7, None), "segmentation": runs},
    ]
    (case,) = loaded(coco(tmp_path, annotations))
    polygons = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(two, *SHAPE)))
    expected = np.zeros(SHAPE, np.uint8)
    expected[polygons > 0] = 1
    expected[blob > 0] = 2
    expected[coco_mask.decode(coco_mask.frPyObjects(runs, *SHAPE)) > 0] = 1
    assert (case.reference == expected).all()
    assert set(np.unique(case.reference)) == {0, 1, 2}


def test_later_objects_lie_over_earlier_ones_and_crowds_below_all(tmp_path):
    left, right = [0, 0, 16, 0, 16, 24, 0, 24], [8, 0, 24, 0, 24, 24, 8, 24]
    whole = [0, 0, 32, 0, 32, 24, 0, 24]
    (case,) = loaded(coco(tmp_path, [thing(7, [left]), thing(5, [right]), thing(7, [whole], iscrowd=1)]))
    assert case.reference[0].tolist() == [1] * 8 + [2] * 16 + [255] * 8
    assert case.boxes[:, 4].tolist() == [1, 2, 255]


def test_boxes_are_corners_and_a_class(tmp_path):
    annotations = [thing(5, bbox=[1.5, 2, 10, 4.25]), thing(7, [SQUARE])]
    del annotations[1]["bbox"]
    (case,) = loaded(coco(tmp_path, annotations))
    assert case.boxes.dtype == np.float32
    assert case.boxes[0].tolist() == [1.5, 2, 11.5, 6.25, 2]
    assert case.boxes[1].tolist() == [4, 4, 12, 10, 1]  # from its outline


def test_an_image_without_annotations_is_an_empty_mask(tmp_path):
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    first, second = loaded(coco(tmp_path, [thing()], images))
    assert first.reference.any()
    assert second.reference.shape == SHAPE
    assert not second.reference.any()
    assert second.boxes.shape == (0, 5)
    assert not loaded(coco(tmp_path, [], images))[0].reference.any()


def test_boxes_alone_are_no_mask(tmp_path):
    (case,) = loaded(coco(tmp_path, [thing(outline=None)]))
    assert case.reference is None
    assert len(case.boxes) == 1
    mixed = coco(tmp_path, [thing(outline=None), thing()])  # a mask cannot be made of boxes
    assert "annotation 0 has a box but no outline" in failure(mixed)


def test_a_detector_without_a_background_class_gets_boxes(tmp_path):
    (case,) = loaded(coco(tmp_path, [thing(7), thing(5)]), spec=DETECTOR)
    assert case.reference is None
    assert case.boxes[:, 4].tolist() == [0, 1]


def test_a_detector_keeps_the_polygons_of_slanted_animals(tmp_path):
    slanted = [4, 6, 8, 4, 12, 8, 8, 10]
    annotations = [
        thing(7, [slanted]),
        thing(5, None, bbox=[20, 12, 6, 6]),
        thing(7, [SQUARE, slanted], bbox=[3, 3, 9, 8]),
    ]
    (case,) = loaded(coco(tmp_path, annotations), spec=replace(SPEC, classes=("dirt", "cell"), task="detection"))
    assert case.reference is None
    assert [len(parts) for parts in case.outlines] == [1, 0, 2]
    assert case.outlines[0][0].tolist() == [[4, 6], [8, 4], [12, 8], [8, 10]]


def test_boxes_outside_the_image_are_cut_or_refused(tmp_path):
    spec = replace(DETECTOR, task="detection")
    near = thing(outline=None, bbox=[26, 18, 8, 7])
    (case,) = loaded(coco(tmp_path / "a", [near]), spec=spec)
    assert case.boxes[0].tolist() == [26, 18, 32, 24, 0]
    far = failure(coco(tmp_path / "b", [thing(outline=None, bbox=[30, 20, 40, 40])]), spec=spec)
    assert "the box of annotation 0 lies mostly outside the image" in far
    assert "another image, or of the image at another size?" in far


def test_corners_in_place_of_sizes_are_said(tmp_path):
    corners = [
        thing(outline=None, bbox=box, id=i) for i, box in enumerate([[20, 4, 30, 12], [2, 3, 9, 9], [10, 12, 28, 20]])
    ]
    with pytest.raises(UsageError, match=r"read like corners x0, y0, x1, y1\. Got: 20, 4, 30, 12"):
        opened(coco(tmp_path / "sized", corners), spec=DETECTOR)
    unsized = [{"id": 1, "file_name": "a.png"}]
    said = failure(coco(tmp_path / "unsized", corners, unsized), spec=replace(DETECTOR, task="detection"))
    assert "read like the far corner instead of the size" in said


def test_a_file_of_boxes_below_one_pixel_is_refused(tmp_path):
    root = coco(tmp_path, [{**thing(5), "segmentation": [], "bbox": [0.2, 0.3, 0.1, 0.2]}])
    with pytest.raises(UsageError, match=r"read like shares of width and height\. Got: 0.2, 0.3, 0.1, 0.2"):
        opened(root)


def test_ids_and_boxes_that_stand_twice(tmp_path):
    double = [thing(outline=None, id=4), thing(outline=None, id=4, bbox=[1, 1, 5, 5])]
    with pytest.raises(UsageError, match=r"two annotations have the same id\. Got: 4"):
        opened(coco(tmp_path / "a", double), spec=DETECTOR)
    same = failure(
        coco(tmp_path / "b", [thing(outline=None), thing(outline=None)]), spec=replace(DETECTOR, task="detection")
    )
    assert "annotation 0 and annotation 1 are the same box" in same


def test_real_seals_keep_their_slanted_boxes(real_data):
    folder = real_data / "glacier_bay_seals"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    spec = ImageSpec(channels=3, classes=("seal",), task="detection")
    entry = entry_from_folder(folder)
    dataset = open_dataset("test", entry, root=folder, spec=spec)
    assert (entry.cluster, entry.unnamed, len(dataset.cases)) == ("flight", "one", 155)
    assert dataset.n_clusters == 6  # five flights, and the images that name none
    assert {ref.survey["augmented"] for ref in dataset.cases} == {"false"}
    for ref in dataset.cases[:4]:
        case = load_case(entry, ref, spec)
        for box, (outline,) in zip(case.boxes, case.outlines, strict=True):
            assert outline.shape == (4, 2)
            low, high = outline.min(axis=0).clip(0, 640), outline.max(axis=0).clip(0, 640)
            assert np.allclose(box[:4], [*low, *high], atol=1.0)


def test_categories_map_by_name_or_by_labels(tmp_path):
    root = coco(tmp_path, [thing(5), thing(9, [[20, 12, 30, 12, 30, 20, 20, 20]])])
    with pytest.raises(UsageError, match=r"annotation 1: the category 'unused' is no class.*labels: \{9: N\}"):
        opened(root)
    (ignored,) = loaded(root, ENTRY.model_copy(update={"labels": {9: 255}}))
    assert set(np.unique(ignored.reference)) == {0, 2, 255}
    assert ignored.boxes[:, 4].tolist() == [2, 255]
    (merged,) = loaded(root, ENTRY.model_copy(update={"labels": {9: 1, 5: 1}}))
    assert set(np.unique(merged.reference)) == {0, 1}
    with pytest.raises(UsageError, match=r"labels: 9: this is no class index\. Got: 3\. Allowed: 0 to 2, or 255"):
        opened(root, ENTRY.model_copy(update={"labels": {9: 3}}))


def test_a_misspelt_category_comes_with_a_hint(tmp_path):
    root = coco(tmp_path, [thing(7)], categories=[{"id": 7, "name": "cel"}])
    with pytest.raises(UsageError, match=r"'cel' is no class of the model.*did you mean 'cell'"):
        opened(root)


def test_fields_of_the_images_and_sidecars_are_columns(tmp_path):
    images = [
        {"id": 1, "file_name": "a.png", "group": "f1", "frame": 3, "tags": ["x"]},
        {"id": 2, "file_name": "sub/b.jpg", "group": "f2", "frame": None},
    ]
    root = coco(tmp_path, [], images)
    write_csv(root / "d" / "meta.csv", [{"id": "a", "site": "N"}, {"id": "sub/b", "site": "S"}])
    entry = DataEntry(reader="coco", path="d", cluster="group", strata=("site", "frame"))
    first, second = opened(root, entry).cases
    assert (first.id, first.cluster, first.strata) == ("a", "f1", {"site": "N", "frame": "3"})
    assert (second.id, second.cluster, second.strata) == ("sub/b", "f2", {"site": "S", "frame": ""})
    assert [ref.id for ref in opened(root, DataEntry(reader="coco", path="d", where={"frame": 3})).cases] == ["a"]
    assert entry_from_folder(root / "d").cluster == "group"
    with pytest.raises(UsageError, match="no column 'tags'"):
        opened(root, DataEntry(reader="coco", path="d", cluster="tags"))
    write_csv(root / "d" / "meta.csv", [{"id": "z", "site": "N"}])
    with pytest.raises(UsageError, match="names images that are not there"):
        opened(root)


def test_a_second_reader_is_a_folder_of_masks(tmp_path):
    root = coco(tmp_path, [thing()])
    save(root / "d" / "second" / "a.png", np.full(SHAPE, 2, np.uint8))
    (case,) = loaded(root, ENTRY.model_copy(update={"masks_reader2": "second"}))
    assert (case.reader2 == 2).all()


def test_other_places_of_images_and_annotations(tmp_path):
    root = coco(tmp_path, [thing()])
    (root / "d" / "annotations.json").rename(root / "labels.json")
    (root / "d" / "images").rename(root / "pictures")
    (case,) = loaded(root, DataEntry(reader="coco", images="pictures", annotations="labels.json"))
    assert case.reference.any()


def test_cases_that_fail_alone(tmp_path):
    assert "this file is missing" in failure(coco(tmp_path, [thing()], pictures=False))
    wrong = [{"id": 1, "file_name": "a.png", "height": 32, "width": 24}]
    message = failure(coco(tmp_path, [thing()], wrong))
    assert "another size than the annotations say. Got: 24 x 32. Allowed: 32 x 24." in message
    runs = {"size": [10, 10], "counts": [100]}
    message = failure(coco(tmp_path, [{**thing(id=17), "segmentation": runs}]))
    assert (
        "outline of annotation 17 cannot be drawn (the run lengths are of an image of 10 x 10, not 24 x 32)" in message
    )


@pytest.mark.parametrize(
    "outline",
    [
        [[1, 2, 3, 4]],
        [["a", "b", "c", "d", "e", "f"]],
        [[0, 0, 1e9, 0, 5, 5]],
        {"size": list(SHAPE), "counts": "\n\n"},
        {"size": list(SHAPE), "counts": [10**30]},
        {"size": list(SHAPE), "counts": [1, 2]},
        {"counts": [768]},
        17,
    ],
)
def test_an_outline_that_cannot_be_drawn_fails_its_case(tmp_path, outline):
    assert "cannot be drawn" in failure(coco(tmp_path, [{**thing(), "segmentation": outline}]))


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 0, 4], [1, 2, 3, -4], ["1", 2, 3, 4], [1, 2, float("nan"), 4]])
def test_a_box_that_is_none_fails_its_case(tmp_path, box):
    assert "is no box" in failure(coco(tmp_path, [thing(bbox=box)]))


def test_neither_box_nor_pixels(tmp_path):
    assert "neither a box nor an outline" in failure(coco(tmp_path, [thing(outline=None, bbox=None), thing()]))


@pytest.mark.parametrize("name", ["../a.png", "sub/../../a.png", "/etc/a.png", "C:\\a.png", "..\\a.png", "", 5])
def test_no_file_name_leaves_the_folder_of_images(tmp_path, name):
    root = coco(tmp_path, [], [{"id": 1, "file_name": name}], pictures=False)
    with pytest.raises(UsageError, match="leaves the folder of images"):
        opened(root)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "this is no JSON"),
        ("[]", "no list 'images'"),
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', r"images\[0\]: the field 'file_name'"),
        ('{"images": [3], "annotations": [], "categories": []}', r"images\[0\]: the field 'id'"),
        ('{"images": [{"id": [], "file_name": "a"}], "annotations": [], "categories": []}', "no number or text"),
    ],
)
def test_files_that_are_no_coco(tmp_path, document, message):
    root = coco(tmp_path, [])
    (root / "d" / "annotations.json").write_text(document, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        opened(root)


def test_lists_that_contradict_themselves(tmp_path):
    with pytest.raises(UsageError, match=r"annotation 0: this image is not listed\. Got: 4"):
        opened(coco(tmp_path, [thing(image=4)]))
    with pytest.raises(UsageError, match=r"this category is not listed\. Got: 4"):
        opened(coco(tmp_path, [thing(4)]))
    with pytest.raises(UsageError, match="same file_name"):
        opened(coco(tmp_path, [], [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.jpg"}]))
    with pytest.raises(UsageError, match="same id"):
        opened(coco(tmp_path, [], [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]))
    with pytest.raises(NothingToAudit, match="lists no image"):
        opened(coco(tmp_path, [], []))
    # Those of another entry, beside model.yaml, are not taken in their place.
    (tmp_path / "d" / "annotations.json").rename(tmp_path / "annotations.json")
    with pytest.raises(UsageError, match=r"d.annotations\.json: this file of annotations is missing"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "classes", "cases", "boxes"),
    [
        ("glacier_bay_seals", ("seal",), 373, 606),
        ("birdsai_thermal_aerial", ("animal", "human"), 140, 323),
        ("deepforest_neon_trees", ("tree_crown",), 32, 703),
    ],
)
def test_real_sets_load_as_they_stand(real_data, name, classes, cases, boxes):
    entry = entry_from_folder(real_data / name, name="train")
    assert (entry.reader, entry.cluster) == ("coco", "flight" if "seals" in name else "group")
    spec = ImageSpec(channels=3, classes=classes)
    dataset = open_dataset("test", entry, root=real_data, spec=spec)
    assert len(dataset.cases) == cases
    assert 1 < dataset.n_clusters <= cases
    assert sum(len(ref.extra["things"]) for ref in dataset.cases) == boxes
    for ref in dataset.cases[:: cases // 4]:
        case = load_case(entry, ref, spec)
        assert case.reference is None
        height, width = case.shape
        assert ((case.boxes[:, :4] >= -1) & (case.boxes[:, :4] <= [width + 1, height + 1] * 2)).all()


def test_seals_as_masks(real_data):
    """Their outlines are oriented boxes: inside the enclosing box, and a good part of it."""
    entry = entry_from_folder(real_data / "glacier_bay_seals")
    spec = ImageSpec(channels=3, classes=("background", "seal"))
    refs = [ref for ref in open_dataset("test", entry, root=real_data, spec=spec).cases if ref.extra["things"]]
    for ref in refs[::60]:
        case = load_case(entry, ref, spec)
        inside = np.zeros(case.shape, bool)
        for x0, y0, x1, y1, _ in case.boxes:
            inside[max(0, int(y0) - 1) : int(y1) + 2, max(0, int(x0) - 1) : int(x1) + 2] = True
        assert not (case.reference.astype(bool) & ~inside).any()
        assert case.reference.sum() > 0.2 * inside.sum()


def test_images_that_the_file_does_not_list_are_named(tmp_path):
    images = [{"id": 1, "file_name": "f1/a.png"}, {"id": 2, "file_name": "f1/b.png"}]
    root = coco(tmp_path, [thing()], images=images)
    assert opened(root).unmatched == ()
    for name in ("f1/c.png", "f1/d.JPG", "f1/notes.txt", "f2/other_flight.png"):
        (root / "d" / "images" / name).parent.mkdir(exist_ok=True)
        (root / "d" / "images" / name).write_bytes(b"")
    held = opened(root)
    assert [case.id for case in held.cases] == ["f1/a", "f1/b"]
    assert held.unmatched == ("f1/c.png", "f1/d.JPG")  # f2 is named by no image: another set may lie there
