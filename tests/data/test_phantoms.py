from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from pictures import GREY
from scipy import ndimage

from xaiseg.data.phantoms import (
    DEVICES,
    MARGINS,
    SCANNERS,
    SIZES,
    PhantomSpec,
    phantom_case,
    phantom_list,
    write_phantoms,
)
from xaiseg.data.readers import entry_from_folder, load_case, open_dataset

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def drawn():
    """The first 60 images of each split."""
    return {split: [phantom_case(PhantomSpec(split), index) for index in range(60)] for split in SPLITS}


def pixels(case):
    return hashlib.sha256(case[0].tobytes()).hexdigest()


def test_the_same_seed_gives_the_same_pixels_in_any_order(drawn):
    spec = PhantomSpec()
    for index in (17, 3):
        image, mask, meta = phantom_case(spec, index)
        assert (image == drawn["test"][index][0]).all()
        assert (mask == drawn["test"][index][1]).all()
        assert meta == drawn["test"][index][2]
    assert pixels(phantom_case(PhantomSpec(seed=1), 3)) != pixels(drawn["test"][3])


def test_more_patients_change_no_earlier_device_or_density():
    few, many = phantom_list(PhantomSpec(patients=20)), phantom_list(PhantomSpec(patients=40))
    kept = [image for image in many if int(image.patient[-4:]) < 20]
    assert [(image.id, image.device, image.density) for image in kept] == [
        (image.id, image.device, image.density) for image in few
    ]


def test_splits_share_no_picture_and_no_id(drawn):
    hashes = {split: {pixels(case) for case in cases} for split, cases in drawn.items()}
    assert all(len(found) == 60 for found in hashes.values())
    ids = {split: {phantom.id for phantom in phantom_list(PhantomSpec(split))} for split in SPLITS}
    for one in SPLITS:
        for other in SPLITS:
            if one < other:
                assert not hashes[one] & hashes[other]
                assert not ids[one] & ids[other]


def test_device_d_occurs_in_the_test_split_only():
    for split in SPLITS:
        seen = {phantom.device for phantom in phantom_list(PhantomSpec(split))}
        assert seen == set(DEVICES[split])
        assert ("D" in seen) == (split == "test")
    assert set(DEVICES["test"]) == set(SCANNERS)


def test_the_test_split_holds_at_least_60_lesion_free_patients():
    phantoms = phantom_list(PhantomSpec())
    free = {phantom.patient for phantom in phantoms if phantom.margin == "none"}
    assert len({phantom.patient for phantom in phantoms}) == SIZES["test"][0]
    assert len(free) == SIZES["test"][1] >= 60
    assert not free & {phantom.patient for phantom in phantoms if phantom.margin != "none"}
    views = Counter(phantom.patient for phantom in phantoms)
    assert set(views.values()) == {1, 2}


def test_the_numbers_of_patients_can_be_chosen():
    assert PhantomSpec(patients=12).n_lesion_free == 3
    assert PhantomSpec(patients=12, lesion_free=12).n_lesion_free == 12
    assert {phantom.margin for phantom in phantom_list(PhantomSpec(patients=12, lesion_free=12))} == {"none"}
    assert {phantom.margin for phantom in phantom_list(PhantomSpec(patients=60, lesion_free=0))} == set(MARGINS)


def test_masks_hold_a_lesion_exactly_where_the_metadata_say_so(drawn):
    for image, mask, meta in drawn["test"]:
        assert image.dtype == mask.dtype == np.uint8
        assert image.shape == mask.shape == (144, 176)
        assert set(np.unique(mask)) <= {0, 1}
        assert mask.any() == (meta["lesion_kind"] != "none")
        assert ndimage.label(mask)[1] <= 2


def test_lesions_are_darker_than_what_lies_around_them(drawn):
    contrasts = []
    for image, mask, meta in drawn["test"]:
        if meta["lesion_kind"] != "none":
            around = ndimage.binary_dilation(mask, iterations=8) & ~ndimage.binary_dilation(mask, iterations=3)
            contrasts.append(float(image[mask > 0].mean()) - float(image[around].mean()))
    assert np.mean(np.array(contrasts) < 0) > 0.9
    assert np.mean(contrasts) < -15


def test_the_frame_of_a_device_holds_no_lesion(drawn):
    for image, mask, meta in drawn["test"]:
        frame = SCANNERS[meta["device"]].frame
        if frame:
            assert not mask[:, -frame:].any()
            assert set(np.unique(image[:, -frame:])) <= {0, 190}


def test_speckle_differs_between_devices(drawn):
    """A wider point spread makes neighbouring pixels more alike."""

    def likeness(device):
        rows = [image[:, :150].astype(float) for image, _, meta in drawn["test"] if meta["device"] == device]
        detail = [row - ndimage.gaussian_filter(row, 6) for row in rows]
        return np.mean([np.corrcoef(row[:, 1:].ravel(), row[:, :-1].ravel())[0, 1] for row in detail])

    assert likeness("C") < likeness("A") < likeness("B") < likeness("D")


def test_metadata_are_the_columns_of_a_table(drawn):
    for split in SPLITS:
        for phantom, (_, _, meta) in zip(phantom_list(PhantomSpec(split)), drawn[split], strict=False):
            assert meta == phantom.meta
            assert meta["device"] in DEVICES[split]
            assert meta["density"] in {"1", "2", "3", "4"}
            assert meta["lesion_kind"] in {"none", *MARGINS}


def test_written_phantoms_read_back_as_a_folder(tmp_path):
    spec = PhantomSpec(patients=4, size=(64, 80))
    entry = entry_from_folder(write_phantoms(spec, tmp_path / "p")).model_copy(update={"cluster": "patient"})
    dataset = open_dataset("test", entry, root=tmp_path, spec=GREY)
    assert not dataset.generated
    for index, phantom in enumerate(phantom_list(spec)):
        image, mask, _ = phantom_case(spec, index)
        case = load_case(entry, next(ref for ref in dataset.cases if ref.id == phantom.id), GREY)
        np.testing.assert_allclose(case.image[0], image / 255, atol=1e-7)
        assert (case.reference == mask).all()
        assert case.ref.cluster == phantom.meta["patient"]
