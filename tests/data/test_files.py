from __future__ import annotations

import pytest

from xaiseg.data.files import Partners, Place, by_id, images_by_id, partners
from xaiseg.errors import NothingToAudit, UsageError


def test_names_are_found_beside_the_data_first_then_below_the_root(tmp_path):
    base = tmp_path / "data"
    (base / "here").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    place = Place(base, tmp_path)
    assert place.folder("here", "x") == base / "here"
    assert place.folder("there", "x") == tmp_path / "there"
    assert place.folder(None, "here") == base / "here"
    with pytest.raises(UsageError, match="folder is missing"):
        place.folder(None, "images")
    with pytest.raises(UsageError, match="folder is missing"):
        place.folder("nowhere", "here")


def test_one_file_an_id_and_hidden_files_are_no_data(tmp_path):
    for name in ("b.PNG", "a.png", "._a.png", "notes.txt"):
        (tmp_path / name).touch()
    assert list(by_id(tmp_path, (".png", ".jpg"))) == ["a", "b"]
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UsageError, match=r"same id.*a\.jpg, a\.png"):
        by_id(tmp_path, (".png", ".jpg"))
    with pytest.raises(NothingToAudit, match=r"holds no image.*\.tif"):
        images_by_id(tmp_path, (".tif",))


def test_a_missing_partner_keeps_the_name_that_it_would_have(tmp_path):
    held = Partners(tmp_path, {"a": tmp_path / "a.tif"})
    assert held.of("a") == str(tmp_path / "a.tif")
    assert held.of("b") == str(tmp_path / "b.png")


def test_masks_that_nobody_named_may_be_absent_but_named_ones_must_exist(tmp_path):
    place = Place(tmp_path, tmp_path)
    assert partners(place, None, "masks", (".png",)) is None
    assert partners(place, None, None, (".png",)) is None
    with pytest.raises(UsageError, match="folder is missing"):
        partners(place, "masks", "masks", (".png",))
