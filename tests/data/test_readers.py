from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from pictures import GREY, folder_of, save, square_mask, write_csv

from xaiseg.data.base import READERS, Index, list_digest, reader
from xaiseg.data.case import Case, CaseRef
from xaiseg.data.entry import DataEntry
from xaiseg.data.readers import BUILTIN, entry_from_folder, get_reader, load_case, open_dataset
from xaiseg.errors import UsageError

ROWS = [{"id": id, "group": f"g{id}", "device": "X"} for id in "abc"]


@pytest.fixture
def memory():
    """A third party's reader, registered for one test."""

    @reader("memory")
    class MemoryReader:
        def index(self, entry, root, spec):
            return Index([CaseRef(id, id) for id in entry.path], None, "memory")

        def load(self, entry, ref, spec):
            return Case(ref, np.zeros((1, 4, 4), np.float32))

    yield MemoryReader
    del READERS["memory"]


def test_every_builtin_reader_registers_itself():
    for name in BUILTIN:
        assert get_reader(name) is READERS[name]


def test_an_unknown_reader_comes_with_a_hint():
    with pytest.raises(UsageError, match=r"'fodler' is not a reader.*did you mean 'folder'"):
        open_dataset("test", DataEntry(reader="fodler", path="d"), root=".", spec=GREY)


def test_a_third_party_registers_a_reader(memory):
    entry = DataEntry(reader="memory", path="ba")
    dataset = open_dataset("test", entry, root=".", spec=GREY)
    assert [ref.id for ref in dataset.cases] == ["a", "b"]  # sorted
    assert load_case(entry, dataset.cases[0], GREY).shape == (4, 4)
    with pytest.raises(UsageError, match="the id 'a' stands twice"):
        open_dataset("test", DataEntry(reader="memory", path="aba"), root=".", spec=GREY)


def test_registration_is_validated(memory):
    with pytest.raises(ValueError, match="the name is taken"):
        reader("memory")(memory)
    with pytest.raises(ValueError, match="lacks \\['load'\\]"):
        reader("half")(type("Half", (), {"index": None}))


def test_the_list_digest_moves_with_the_folder_and_changes_with_the_list(tmp_path):
    entry = DataEntry(path="d", cluster="group", strata=("device",))
    digests = set()
    for place in ("one", "two/deeper"):
        folder_of(tmp_path / place / "d", rows=ROWS)
        digests.add(open_dataset("test", entry, root=tmp_path / place, spec=GREY).list_sha256)
        digests.add(open_dataset("train", entry, root=tmp_path / place, spec=GREY).list_sha256)
    assert len(digests) == 1
    outside = DataEntry(path=str(tmp_path / "one" / "d"), cluster="group", strata=("device",))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "one" / "d", elsewhere)
    moved = replace_path(outside, elsewhere)
    root = tmp_path / "two"
    assert digest(outside, root) == digest(moved, root)

    whole = digest(entry, tmp_path / "one")
    assert digest(DataEntry(path="d", cluster="device", strata=("device",)), tmp_path / "one") != whole
    assert digest(DataEntry(path="d", cluster="group", strata=("group",)), tmp_path / "one") != whole
    write_csv(tmp_path / "one" / "d" / "meta.csv", [{**row, "device": "Y"} for row in ROWS])
    assert digest(entry, tmp_path / "one") != whole


def replace_path(entry, path):
    return entry.model_copy(update={"path": str(path)})


def digest(entry, root):
    return open_dataset("test", entry, root=root, spec=GREY).list_sha256


def test_the_list_digest_sees_every_field(tmp_path):
    ref = CaseRef("a", str(tmp_path / "a.png"), cluster="p", strata={"device": "X"})
    changed = [
        replace(ref, id="b"),
        replace(ref, image=str(tmp_path / "b.png")),
        replace(ref, cluster="q"),
        replace(ref, strata={"device": "Y"}),
    ]
    assert len({list_digest([case], tmp_path) for case in [ref, *changed]}) == 5


def test_a_reference_survives_pickling_and_loads_the_same_case(tmp_path):
    import pickle

    folder_of(tmp_path / "d")
    entry = DataEntry(path="d")
    for ref in open_dataset("test", entry, root=tmp_path, spec=GREY).cases:
        one, two = (load_case(entry, held, GREY) for held in (ref, pickle.loads(pickle.dumps(ref))))
        assert (one.image == two.image).all()
        assert (one.reference == two.reference).all()


def test_a_folder_as_it_stands(tmp_path):
    folder_of(tmp_path)
    assert entry_from_folder(tmp_path) == DataEntry(path=str(tmp_path))
    write_csv(tmp_path / "meta.csv", ROWS)
    assert entry_from_folder(tmp_path).cluster == "group"
    (tmp_path / "meta.csv").write_bytes('\ufeff"id","cluster","group"\r\na,1,2\r\nb,1,2\r\nc,3,2\r\n'.encode())
    entry = entry_from_folder(tmp_path)
    assert entry.cluster == "cluster"
    assert open_dataset("test", entry, root=".", spec=GREY).n_clusters == 2


def test_columns_with_capital_letters_are_known_as_well(tmp_path):
    folder_of(tmp_path)
    (tmp_path / "meta.csv").write_text("id,Flight,Habitat\na,1,ice\nb,1,water\nc,2,ice\n", encoding="utf-8")
    entry = entry_from_folder(tmp_path)
    assert (entry.cluster, entry.strata) == ("Flight", ("Habitat",))
    assert open_dataset("test", entry, root=".", spec=GREY).n_clusters == 2


def test_augmented_copies_are_not_tested_and_a_flight_comes_before_a_group(tmp_path):
    folder_of(tmp_path)
    meta = tmp_path / "meta.csv"
    meta.write_text("id,group,flight,augmented\na,1,F1,no\nb,2,,no\nc,2,F1,yes\n", encoding="utf-8")
    entry = entry_from_folder(tmp_path)
    assert (entry.cluster, entry.unnamed, entry.where) == ("flight", "one", {"augmented": False})
    assert [case.id for case in open_dataset("test", entry, root=".", spec=GREY).cases] == ["a", "b"]
    trained = entry_from_folder(tmp_path, name="train")
    assert (trained.where, len(open_dataset("train", trained, root=".", spec=GREY).cases)) == ({}, 3)
    meta.write_text("id,group,flight,augmented\na,1,F1,no\nb,2,F2,\nc,2,F1,yes\n", encoding="utf-8")
    entry = entry_from_folder(tmp_path)
    assert (entry.where, entry.unnamed) == ({"augmented": False}, "refuse"), "a blank cell declares no copy"
    dataset = open_dataset("test", entry, root=".", spec=GREY)
    assert ([case.id for case in dataset.cases], dataset.filtered) == (["a", "b"], 1)
    meta.write_text("id,augmented\na,yes\nb,yes\nc,yes\n", encoding="utf-8")
    assert entry_from_folder(tmp_path).where == {}, "nothing would be left"
    meta.write_text("ID,group,flight\na,1,\nb,2,\nc,2,\n", encoding="utf-8")
    assert entry_from_folder(tmp_path).cluster == "group"
    meta.write_text("id,flight\na,\nb,\nc,\n", encoding="utf-8")
    entry = entry_from_folder(tmp_path)
    assert (entry.cluster, open_dataset("test", entry, root=".", spec=GREY).n_clusters) == ("flight", 1)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UsageError, match=r"this is no data folder.*images/ and masks/"):
        entry_from_folder(tmp_path / "nowhere")
    save(tmp_path / "a.png", square_mask())
    with pytest.raises(UsageError, match="images and no labels"):
        entry_from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"), [("v.nii", "nifti"), ("v.NII.GZ", "nifti"), ("s.dcm", "dicom"), ("p.jpg", "folder")]
)
def test_the_kind_of_a_folder_is_seen_from_its_images(tmp_path, name, expected):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / name).touch()
    assert entry_from_folder(tmp_path).reader == expected


def test_a_coco_folder_takes_its_clusters_from_the_images(tmp_path):
    (tmp_path / "images").mkdir()
    image = '{"id": 1, "file_name": "a.png", "group": "flight 1"}'
    (tmp_path / "annotations.json").write_text(f'{{"images": [{image}], "annotations": [], "categories": []}}')
    assert entry_from_folder(tmp_path) == DataEntry(reader="coco", path=str(tmp_path), cluster="group")
    (tmp_path / "masks").mkdir()
    assert entry_from_folder(tmp_path).reader == "folder"


@pytest.mark.parametrize(
    ("name", "document", "expected"),
    [
        ("_annotations.coco.json", '{"images": [], "annotations": [], "categories": []}', "coco"),
        ("tiles.json", '{"images": [], "annotations": [], "categories": []}', "coco"),
        ("detections.json", '{"images": [], "detection_categories": {}}', "folder"),
        ("broken.json", "{", "folder"),
    ],
)
def test_a_coco_file_is_known_by_its_lists_and_predictions_are_no_labels(tmp_path, name, document, expected):
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_text(document, encoding="utf-8")
    entry = entry_from_folder(tmp_path)
    assert (entry.reader, entry.annotations) == (expected, name if expected == "coco" else None)
