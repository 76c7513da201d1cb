from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake import FakeContext, disc, failed, make_case, measured, quantities, tables

from xaiseg.checks.base import get_check
from xaiseg.checks.data_integrity import ID, Params, near_pairs
from xaiseg.data.case import Dataset
from xaiseg.errors import DataError, UsageError

SHAPE = (32, 40)
LESION = disc(SHAPE, (15, 20), 6)


def picture(seed):
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 4)
    return ((noise - noise.min()) / np.ptp(noise))[None].astype(np.float32)


def sample(name, seed, **more):
    return make_case(name, more.pop("reference", LESION), image=picture(seed), **more)


def rows_for(*cases):
    return [row for case in cases for row in measured(ID, case, None)]


def train_rows(cases, *, cluster_column="patient", broken=()):
    held = {case.id: case for case in cases}

    def load(ref, entry):
        assert entry == "train"
        if ref.id in broken:
            raise DataError("corrupt PNG", where=ref.image)
        return held[ref.id]

    refs = tuple(case.ref for case in cases)
    train = Dataset("train", "folder", refs, cluster_column, (), "0", "train/")
    context = FakeContext(loader=load)
    return [{"case": "", **row} for row in get_check(ID).measure_once(context, {"train": train})]


def test_a_row_holds_fingerprints_and_labels():
    reference = LESION.copy()
    reference[0, 0] = 255
    (row,) = rows_for(sample("a", 0, reference=reference))
    assert row["labels"] == [0, 1]
    assert (row["empty_reference"], row["constant"], row["file_sha256"]) == (False, False, None)
    assert len(row["pixel_sha256"]) == 64
    assert len(row["dhash"]) == 16


def test_files_are_hashed_where_there_are_files(tmp_path):
    import hashlib

    path = tmp_path / "a.png"
    path.write_bytes(b"not decoded here")
    (row,) = rows_for(sample("a", 0, path=str(path)))
    assert row["file_sha256"] == hashlib.sha256(b"not decoded here").hexdigest()


def test_failed_images_are_a_share_of_all_images():
    cases = [sample(f"c{i}", i) for i in range(4)]
    held = tables({ID: [*rows_for(*cases[:3]), failed("c3")]}, cases)
    found = quantities(ID, held)["failed_images",]
    assert (found.kind, found.worst) == ("proportion", None)
    assert dict(zip(found.cases, found.values, strict=True)) == {"c0": 0.0, "c1": 0.0, "c2": 0.0, "c3": 1.0}


def test_constant_images_empty_references_and_foreign_labels_are_counted():
    blank = make_case("blank", LESION)
    empty = sample("empty", 1, reference=np.zeros(SHAPE))
    foreign = sample("foreign", 2, reference=LESION * 3)
    good = sample("good", 3)
    cases = [blank, empty, foreign, good]
    found = quantities(ID, tables({ID: rows_for(*cases)}, cases))
    assert (found["constant_images",].values.tolist(), found["constant_images",].note) == ([1.0], "blank")
    assert found["empty_references",].values.tolist() == [1.0]
    assert (found["unexpected_labels",].values.tolist(), found["unexpected_labels",].note) == ([1.0], "foreign")
    assert found["all_empty_references",].values.tolist() == [0.0]
    alone = quantities(ID, tables({ID: rows_for(empty)}, [empty]))
    assert alone["all_empty_references",].values.tolist() == [1.0]


def test_duplicates_and_near_duplicates():
    first = sample("a", 0, cluster="p1")
    copy = replace(first, ref=replace(first.ref, id="b", cluster="p2"))
    # The difference hash compares neighbours, so a brighter copy has the same one.
    brighter = make_case("c", LESION, image=picture(0) * 0.9 + 0.05, cluster="p3")
    other = sample("d", 5, cluster="p4")
    cases = [first, copy, brighter, other]
    found = quantities(ID, tables({ID: rows_for(*cases)}, cases))
    assert (found["duplicates",].values.tolist(), found["duplicates",].note) == ([1.0], "a = b")
    near = found["near_duplicates",]
    assert near.values.tolist() == [2.0]
    assert "1 of 1 pairs lie in different clusters" in near.note
    assert "a ~ c" in near.note


def test_near_pairs_match_a_slow_loop():
    hashes = np.random.default_rng(0).integers(0, 4, (20, 8)).astype(np.uint8)
    slow = [
        (i, j)
        for i in range(20)
        for j in range(20)
        if sum((int(a) ^ int(b)).bit_count() for a, b in zip(hashes[i], hashes[j], strict=True)) <= 4
    ]
    assert near_pairs(hashes, hashes, 4) == slow
    assert near_pairs(hashes[:0], hashes, 4) == []


def overlap(test, train, **more):
    held = tables({ID: [*rows_for(*test), *train]}, test, **more)
    return quantities(ID, held)


def test_without_a_train_list_a_leak_cannot_be_excluded():
    found = overlap([sample("a", 0)], [])
    assert "no train list" in found["overlap_train_test",].missing
    assert "no train list" in found["near_overlap_train_test",].missing


def test_separate_lists_do_not_overlap():
    train = train_rows([sample(f"t{i}", 10 + i, cluster=f"q{i}") for i in range(3)])
    found = overlap([sample("a", 0, cluster="p0")], train)
    assert found["overlap_train_test",].values.tolist() == [0.0]
    assert "3 train cases" in found["overlap_train_test",].note


def test_the_same_pixels_under_another_name_are_a_leak():
    found = overlap([sample("a", 0)], train_rows([sample("t", 0), sample("u", 9)]))
    assert (found["overlap_train_test",].values.tolist(), found["overlap_train_test",].note) == ([1.0], "a")
    assert found["near_overlap_train_test",].values.tolist() == [0.0]


def test_the_same_file_is_a_leak_even_where_it_no_longer_decodes(tmp_path):
    path = tmp_path / "same.png"
    path.write_bytes(b"bytes")
    rows = train_rows([sample("t", 9, path=str(path))], broken={"t"})
    assert (rows[0]["status"], "corrupt PNG" in rows[0]["reason"]) == ("undefined", True)
    found = overlap([sample("a", 0, path=str(path))], rows)
    assert found["overlap_train_test",].values.tolist() == [1.0]


def test_a_shared_patient_is_a_leak_where_patients_are_declared():
    test, train = [sample("a", 0, cluster="p1")], [sample("t", 9, cluster="p1")]
    assert overlap(test, train_rows(train))["overlap_train_test",].values.tolist() == [1.0]
    undeclared = overlap(test, train_rows(train), cluster_declared=False)
    assert undeclared["overlap_train_test",].values.tolist() == [0.0]
    one_sided = overlap(test, train_rows(train, cluster_column=None))
    assert one_sided["overlap_train_test",].values.tolist() == [0.0]


def test_a_failed_test_image_of_a_training_patient_is_a_leak_too():
    good, lost = sample("a", 0, cluster="p1"), sample("lost", 1, cluster="p2")
    train = train_rows([sample("t", 9, cluster="p2")])
    held = tables({ID: [*rows_for(good), failed("lost"), *train]}, [good, lost])
    assert quantities(ID, held)["overlap_train_test",].note == "lost"


def test_train_images_that_nobody_can_read_leave_the_leak_open():
    train = train_rows([sample("t", 9), sample("u", 8)], broken={"t"})
    found = overlap([sample("a", 0)], train)["overlap_train_test",]
    assert "1 train images could not be read: t" in found.missing


def test_a_near_copy_in_training_is_a_hint():
    near = make_case("t", LESION, image=picture(0) * 0.9 + 0.05)
    found = overlap([sample("a", 0)], train_rows([near]))
    assert found["overlap_train_test",].values.tolist() == [0.0]
    assert (found["near_overlap_train_test",].values.tolist(), found["near_overlap_train_test",].note) == ([1.0], "a")


def test_parameters_out_of_range_are_named():
    with pytest.raises(UsageError, match="near_bits"):
        Params(near_bits=65)


def test_files_of_no_case_are_counted_and_named():
    case = sample("a", 0)
    held = tables({ID: rows_for(case)}, [case], unmatched={"count": 5, "first": ["x.png", "y.png", "z.png"]})
    found = quantities(ID, held)["unmatched_files",]
    assert found.values.tolist() == [5.0]
    assert found.note.endswith("x.png, y.png, z.png and 2 more")
    assert ("unmatched_files",) not in quantities(ID, tables({ID: rows_for(case)}, [case]))
