from __future__ import annotations

import numpy as np
import pytest
import tifffile
from pictures import COLOUR, GREY, folder_of, picture, save, square_mask, write_csv

from xaiseg.data.case import ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.readers import load_case, open_dataset
from xaiseg.errors import DataError, NothingToAudit, UsageError

ROWS = [
    {"id": "a", "patient": "p1", "device": "X", "mm": 0.5, "part": "test"},
    {"id": "b", "patient": "p1", "device": "Y", "mm": 0.5, "part": "train"},
    {"id": "c", "patient": "p2", "device": "X", "mm": 0.2, "part": "test"},
]


def opened(root, entry=None, spec=GREY):
    return open_dataset("test", entry or DataEntry(path="d"), root=root, spec=spec)


def loaded(root, entry=None, spec=GREY):
    entry = entry or DataEntry(path="d")
    return [load_case(entry, ref, spec) for ref in opened(root, entry, spec).cases]


def only_failure(root, entry=None, spec=GREY):
    entry = entry or DataEntry(path="d")
    (ref,) = opened(root, entry, spec).cases
    with pytest.raises(DataError) as caught:
        load_case(entry, ref, spec)
    return str(caught.value)


def test_images_masks_and_columns(tmp_path):
    folder_of(tmp_path / "d", rows=ROWS)
    entry = DataEntry(path="d", cluster="patient", strata=("device",), spacing_mm="mm")
    dataset = opened(tmp_path, entry)
    assert [ref.id for ref in dataset.cases] == ["a", "b", "c"]
    assert [ref.cluster for ref in dataset.cases] == ["p1", "p1", "p2"]
    assert (dataset.n_clusters, dataset.cluster_column, dataset.strata) == (2, "patient", ("device",))
    assert dataset.cases[2].strata == {"device": "X"}
    assert dataset.cases[2].spacing_mm == (0.2, 0.2)
    case = load_case(entry, dataset.cases[0], GREY)
    np.testing.assert_allclose(case.image[0], picture(0) / 255, atol=1e-7)
    assert (case.reference == square_mask(value=1)).all()
    assert case.reader2 is None
    assert case.shape == (12, 16)


def test_without_a_table_every_image_stands_for_itself(tmp_path):
    folder_of(tmp_path / "d")
    dataset = opened(tmp_path)
    assert dataset.cluster_column is None
    assert [ref.cluster for ref in dataset.cases] == ["a", "b", "c"]


def test_where_keeps_rows_and_spares_images_without_one(tmp_path):
    folder_of(tmp_path / "d", ids=("a", "b", "c", "extra"), rows=ROWS)
    dataset = opened(tmp_path, DataEntry(path="d", where={"part": "test"}))
    assert [ref.id for ref in dataset.cases] == ["a", "c"]
    with pytest.raises(NothingToAudit, match="no image is left"):
        opened(tmp_path, DataEntry(path="d", where={"part": "holdout"}))
    with pytest.raises(UsageError, match=r"no row that gives patient.*extra"):
        opened(tmp_path, DataEntry(path="d", cluster="patient"))


def test_folders_and_sidecars_lie_beside_the_data_or_below_the_root(tmp_path):
    folder_of(tmp_path / "d")
    (tmp_path / "d" / "images").rename(tmp_path / "d" / "pictures")
    (tmp_path / "d" / "masks").rename(tmp_path / "elsewhere")
    write_csv(tmp_path / "d" / "one.csv", [{"id": id, "site": "s"} for id in "abc"])
    write_csv(tmp_path / "two.csv", [{"id": id, "device": "X"} for id in "abc"])
    for named in ({"path": "d", "images": "pictures"}, {"images": "d/pictures"}):
        meta = ("one.csv" if "path" in named else "d/one.csv", "two.csv")
        entry = DataEntry(**named, masks="elsewhere", meta=meta, cluster="site", strata=("device",))
        cases = loaded(tmp_path, entry)
        assert [case.ref.strata["device"] for case in cases] == ["X", "X", "X"]
        assert all(case.reference.any() for case in cases)


def test_a_second_reader_may_lack_nothing(tmp_path):
    folder_of(tmp_path / "d", ids=("a", "b"))
    save(tmp_path / "d" / "second" / "a.png", np.zeros((12, 16), np.uint8))
    entry = DataEntry(path="d", masks_reader2="second")
    first, second = opened(tmp_path, entry).cases
    case = load_case(entry, first, GREY)
    assert not case.reader2.any()
    assert case.reference.any()
    with pytest.raises(DataError, match="has no mask"):
        load_case(entry, second, GREY)


def test_an_image_without_a_mask_is_a_failed_case_not_an_empty_one(tmp_path):
    folder_of(tmp_path / "d", ids=("a",))
    (tmp_path / "d" / "masks" / "a.png").unlink()
    message = only_failure(tmp_path)
    assert "the image has no mask" in message
    assert message.endswith("An image without a lesion needs an empty mask.")


def test_without_a_folder_of_masks_there_is_no_reference(tmp_path):
    save(tmp_path / "d" / "images" / "a.png", picture())
    (case,) = loaded(tmp_path)
    assert case.reference is None
    with pytest.raises(UsageError, match="folder is missing"):
        opened(tmp_path, DataEntry(path="d", masks="masks"))


def test_files_that_fail_one_case(tmp_path):
    images = tmp_path / "d" / "images"
    folder_of(tmp_path / "d", ids=("a",))
    save(tmp_path / "d" / "masks" / "a.png", square_mask((16, 12)))
    assert "another size than the image" in only_failure(tmp_path)
    save(tmp_path / "d" / "masks" / "a.png", np.full((12, 16), 7, np.uint8))
    assert "values that are no class" in only_failure(tmp_path)
    assert loaded(tmp_path, DataEntry(path="d", labels={7: 1}))[0].reference.all()

    whole = (images / "a.png").read_bytes()
    (images / "a.png").write_bytes(whole[:60])
    assert "cannot be decoded" in only_failure(tmp_path)
    (images / "a.png").unlink()
    whole = save(images / "a.jpg", picture(shape=(60, 80))).read_bytes()
    (images / "a.jpg").write_bytes(whole[: len(whole) // 2])
    assert "truncated" in only_failure(tmp_path)
    (images / "a.jpg").unlink()
    tifffile.imwrite(images / "a.tif", np.full((12, 16), np.nan, np.float32))
    assert "NaN" in only_failure(tmp_path)
    tifffile.imwrite(images / "a.tif", picture(shape=(12, 16, 5)), photometric="minisblack", planarconfig="contig")
    assert "other channels" in only_failure(tmp_path, spec=COLOUR)
    tifffile.imwrite(images / "a.tif", shape=(200, 16), dtype=np.uint8)
    assert "too large" in only_failure(tmp_path, spec=ImageSpec(channels=1, max_pixels=3000))


def test_a_file_that_vanishes_after_listing_is_a_failed_case(tmp_path):
    folder_of(tmp_path / "d", ids=("a",))
    (ref,) = opened(tmp_path).cases
    (tmp_path / "d" / "images" / "a.png").unlink()
    with pytest.raises(DataError, match="this file is missing"):
        load_case(DataEntry(path="d"), ref, GREY)


def test_what_stops_the_audit_before_it_starts(tmp_path):
    with pytest.raises(UsageError, match="folder is missing"):
        opened(tmp_path)
    (tmp_path / "d" / "images").mkdir(parents=True)
    with pytest.raises(NothingToAudit, match=r"holds no image.*\.png"):
        opened(tmp_path)
    folder_of(tmp_path / "d", rows=ROWS)
    save(tmp_path / "d" / "images" / "a.jpg", picture())
    with pytest.raises(UsageError, match="two files have the same id"):
        opened(tmp_path)
    (tmp_path / "d" / "images" / "a.jpg").unlink()
    save(tmp_path / "d" / "masks" / "a.tif", square_mask())
    with pytest.raises(UsageError, match="two files have the same id"):
        opened(tmp_path)
    (tmp_path / "d" / "masks" / "a.tif").unlink()
    with pytest.raises(UsageError, match=r"no column 'pateint'.*did you mean 'patient'"):
        opened(tmp_path, DataEntry(path="d", cluster="pateint"))
    write_csv(tmp_path / "d" / "meta.csv", [*ROWS, ROWS[0]])
    with pytest.raises(UsageError, match="the id 'a' stands twice"):
        opened(tmp_path)
    write_csv(tmp_path / "d" / "meta.csv", [*ROWS, {**ROWS[0], "id": "gone"}])
    with pytest.raises(UsageError, match=r"names images that are not there.*gone"):
        opened(tmp_path)


def test_a_window_serves_pictures_too(tmp_path):
    save(tmp_path / "d" / "images" / "a.png", np.array([[0, 2048, 4095, 9000]], np.uint16))
    (case,) = loaded(tmp_path, DataEntry(path="d", window=(0, 4095)))
    np.testing.assert_allclose(case.image[0, 0], [0, 2048 / 4095, 1, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "fields", "spec", "cases", "clusters"),
    [
        ("busbra_breast_ultrasound", {"cluster": "group", "strata": ("device",)}, GREY, 374, 213),
        ("kvasir_seg_polyps", {"cluster": "group"}, COLOUR, 443, None),
        ("hc18_fetal_head", {"cluster": "group", "spacing_mm": "pixel_size_mm"}, GREY, 213, None),
        ("chase_db1_vessels", {"cluster": "group", "masks_reader2": "masks_observer2"}, COLOUR, 22, 11),
        ("dsb2018_nuclei_96", {"cluster": "group", "strata": ("modality_guess",)}, COLOUR, 292, 292),
        ("bbbc039_u2os_nuclei", {"cluster": "group"}, GREY, 129, None),
        ("isic2017_mini", {"cluster": "group"}, COLOUR, 6, 6),
        (
            "hvsmr2_cardiac_mr",
            {"cluster": "group"},
            ImageSpec(channels=1, classes=("background", "LV", "RV", "LA", "RA", "AO", "PA", "SVC", "IVC")),
            23,
            3,
        ),
    ],
)
def test_real_sets_load_as_they_stand(real_data, name, fields, spec, cases, clusters):
    entry = DataEntry(path=name, **fields)
    dataset = open_dataset("test", entry, root=real_data, spec=spec)
    assert len(dataset.cases) == cases
    assert clusters is None or dataset.n_clusters == clusters
    for ref in dataset.cases[:: max(1, cases // 4)]:
        case = load_case(entry, ref, spec)
        assert case.image.shape == (spec.channels, *case.shape)
        assert 0 <= case.image.min() < case.image.max() <= 1
        assert case.reference.shape == case.shape
        assert set(np.unique(case.reference)) <= set(range(len(spec.classes)))
        assert ref.spacing_mm is None or 0.05 < ref.spacing_mm[0] < 1
        assert (case.reader2 is not None) == ("masks_reader2" in fields)


def test_masks_without_an_image_are_named(tmp_path):
    folder_of(tmp_path / "d", rows=ROWS)
    save(tmp_path / "d" / "masks" / "lost.png", square_mask())
    entry = DataEntry(path="d", where={"part": "test"})
    assert opened(tmp_path, entry).unmatched == ("masks/lost.png",)  # that of b is left out by the filter, not lost
