from __future__ import annotations

import sys

import numpy as np
import pytest
from pictures import COLOUR, GREY, save, square_mask, write_csv

from xaiseg.data.case import ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.medical import patient_token
from xaiseg.data.readers import entry_from_folder, load_case, open_dataset
from xaiseg.errors import DataError, NothingToAudit, UsageError

NIFTI = DataEntry(reader="nifti", path="d", window=(-100, 100))
DICOM = DataEntry(reader="dicom", path="d")


def opened(root, entry, spec=GREY):
    return open_dataset("test", entry, root=root, spec=spec)


def loaded(root, entry, spec=GREY):
    return [load_case(entry, ref, spec) for ref in opened(root, entry, spec).cases]


def failures(root, entry, spec=GREY):
    found = []
    for ref in opened(root, entry, spec).cases:
        with pytest.raises(DataError) as caught:
            load_case(entry, ref, spec)
        found.append(str(caught.value))
    return found


@pytest.mark.parametrize(("reader", "library"), [("nifti", "nibabel"), ("dicom", "pydicom")])
def test_without_the_extra_the_error_says_what_to_install(tmp_path, monkeypatch, reader, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=rf"needs the library {library}.*pip install 'xaiseg\[medical\]'"):
        opened(tmp_path, DataEntry(reader=reader, path="d"))


class TestNifti:
    @pytest.fixture(autouse=True)
    def nibabel(self):
        self.nib = pytest.importorskip("nibabel")

    def volume(self, seed=0, shape=(16, 12, 4)):
        return np.random.default_rng(seed).integers(-150, 150, shape).astype(np.int16)

    def labels(self, shape=(16, 12, 4)):
        mask = np.zeros(shape, np.uint8)
        mask[2:7, 3:6, 1:3] = 1
        return mask

    def write(self, path, values, zooms=(0.5, 0.8, 3.0), unit="mm", space=True, flip=False, stored=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        header = self.nib.Nifti1Header()
        header.set_data_dtype(stored or values.dtype)
        header.set_data_shape(values.shape)
        header.set_zooms((*zooms, 1, 1)[: values.ndim])
        header.set_xyzt_units(unit)
        affine = np.diag([-zooms[0] if flip else zooms[0], zooms[1], zooms[2], 1.0])
        image = self.nib.Nifti1Image(values, affine if space else None, header)
        assert bool(image.header["sform_code"]) == space
        self.nib.save(image, path)
        return path

    @pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
    def test_slices_rows_columns_and_spacing(self, tmp_path, suffix):
        values, labels = self.volume(), self.labels()
        self.write(tmp_path / "d" / "images" / f"v{suffix}", values)
        self.write(tmp_path / "d" / "masks" / f"v{suffix}", labels)
        dataset = opened(tmp_path, NIFTI)
        assert [ref.id for ref in dataset.cases] == ["v-z000", "v-z001", "v-z002", "v-z003"]
        assert {ref.cluster for ref in dataset.cases} == {"v"}
        assert dataset.cluster_column == "volume"
        assert dataset.cases[0].spacing_mm == pytest.approx((0.8, 0.5))
        for z, ref in enumerate(dataset.cases):
            case = load_case(NIFTI, ref, GREY)
            assert case.shape == (12, 16)
            expected = np.clip((values[:, :, z].T + 100) / 200, 0, 1)
            np.testing.assert_allclose(case.image[0], expected, atol=1e-6)
            assert (case.reference == labels[:, :, z].T).all()

    def test_the_header_scales_stored_values(self, tmp_path):
        values = self.volume()
        path = self.write(tmp_path / "d" / "images" / "v.nii.gz", values * 0.37 - 10, stored=np.int16)
        assert self.nib.load(path).dataobj.slope != 1
        case = loaded(tmp_path, NIFTI)[0]
        expected = np.clip((values[:, :, 0].T * 0.37 - 10 + 100) / 200, 0, 1)
        np.testing.assert_allclose(case.image[0], expected, atol=1e-4)

    def test_two_axes_and_a_fourth_of_length_one(self, tmp_path):
        self.write(tmp_path / "d" / "images" / "flat.nii", self.volume()[:, :, 0])
        self.write(tmp_path / "d" / "images" / "long.nii.gz", self.volume()[..., None])
        ids = [case.id for case in loaded(tmp_path, NIFTI)]
        assert ids == ["flat-z000", "long-z000", "long-z001", "long-z002", "long-z003"]

    @pytest.mark.parametrize(
        ("unit", "space", "expected"),
        [
            ("mm", False, (0.8, 0.5)),
            ("micron", True, (0.0008, 0.0005)),
            ("meter", True, (800, 500)),
            (None, True, (0.8, 0.5)),  # a space is in mm by definition
            (None, False, None),
        ],
    )
    def test_units_of_the_spacing(self, tmp_path, unit, space, expected):
        self.write(tmp_path / "d" / "images" / "v.nii", self.volume(), unit=unit, space=space)
        spacing = opened(tmp_path, NIFTI).cases[0].spacing_mm
        assert spacing == (expected and pytest.approx(expected))
        given = NIFTI.model_copy(update={"spacing_mm": 2.0})
        assert opened(tmp_path, given).cases[0].spacing_mm == (2.0, 2.0)

    def test_sidecars_name_the_file(self, tmp_path):
        for id in ("v", "w"):
            self.write(tmp_path / "d" / "images" / f"{id}.nii", self.volume())
        write_csv(
            tmp_path / "d" / "meta.csv",
            [{"id": "v", "patient": "p1", "device": "X"}, {"id": "w", "patient": "p1", "device": "Y"}],
        )
        dataset = opened(tmp_path, NIFTI.model_copy(update={"cluster": "patient", "strata": ("device",)}))
        assert (dataset.n_clusters, len(dataset.cases)) == (1, 8)
        assert {(ref.id[0], ref.strata["device"]) for ref in dataset.cases} == {("v", "X"), ("w", "Y")}
        assert opened(tmp_path, NIFTI.model_copy(update={"strata": ("device",)})).n_clusters == 2

    def test_a_window_or_a_known_range_is_needed(self, tmp_path):
        self.write(tmp_path / "d" / "images" / "v.nii", self.volume()[..., :1])
        bare = DataEntry(reader="nifti", path="d")
        assert "no known range. Got: int16" in failures(tmp_path, bare)[0]
        self.write(tmp_path / "d" / "images" / "v.nii", self.volume()[..., :1].astype(np.float32))
        assert "leaves the declared range" in failures(tmp_path, bare)[0]
        self.write(tmp_path / "d" / "images" / "v.nii", np.full((4, 4, 1), 255, np.uint8))
        assert loaded(tmp_path, bare)[0].image.max() == 1

    def test_the_image_of_a_changed_file_is_read_again(self, tmp_path):
        import os

        for value, stamp in ((50, 1), (-50, 2)):
            path = self.write(tmp_path / "d" / "images" / "v.nii.gz", np.full((4, 4, 1), value, np.int16))
            os.utime(path, ns=(stamp, stamp))
            assert loaded(tmp_path, NIFTI)[0].image.max() == pytest.approx((value + 100) / 200)
        ref = opened(tmp_path, NIFTI).cases[0]
        path.unlink()
        with pytest.raises(DataError, match="this file is missing"):
            load_case(NIFTI, ref, GREY)

    def test_masks_that_do_not_fit(self, tmp_path):
        image, mask = (tmp_path / "d" / part / "v.nii.gz" for part in ("images", "masks"))
        self.write(image, self.volume())
        mask.parent.mkdir()
        assert all("has no mask" in message for message in failures(tmp_path, NIFTI))
        self.write(mask, self.labels((16, 12, 5)))
        assert len(failures(tmp_path, NIFTI)) == 4
        assert "another size than the volume" in failures(tmp_path, NIFTI)[0]
        self.write(mask, self.labels(), flip=True)
        assert "another orientation than the volume. Got: LAS. Allowed: RAS" in failures(tmp_path, NIFTI)[0]
        self.write(mask, self.labels(), flip=True, space=False)  # a header without a space says nothing
        assert len(loaded(tmp_path, NIFTI)) == 4
        self.write(mask, self.labels().astype(np.float32) * 3)
        messages = [self.outcome(ref) for ref in opened(tmp_path, NIFTI).cases]
        assert [bool(message) for message in messages] == [False, True, True, False]
        assert "no class. Got: 3" in messages[1]
        labelled = NIFTI.model_copy(update={"labels": {0: 0, 3: 1}})
        assert loaded(tmp_path, labelled)[1].reference.sum() == 15

    def outcome(self, ref):
        try:
            load_case(NIFTI, ref, GREY)
        except DataError as error:
            return str(error)
        return ""

    def test_a_damaged_volume_is_one_failed_case(self, tmp_path):
        folder = tmp_path / "d" / "images"
        whole = self.write(folder / "v.nii.gz", self.volume(shape=(40, 40, 10))).read_bytes()
        (folder / "v.nii.gz").write_bytes(whole[:100])
        assert "the volume cannot be read" in failures(tmp_path, NIFTI)[0]
        (folder / "v.nii.gz").write_bytes(whole[: len(whole) // 2])  # the header is whole
        assert len(failures(tmp_path, NIFTI)) == 10
        (folder / "v.nii.gz").write_text("hello", encoding="utf-8")
        assert len(failures(tmp_path, NIFTI)) == 1
        self.write(folder / "v.nii.gz", self.volume(shape=(5, 5, 2, 3)))
        assert "the file is no volume. Got: (5, 5, 2, 3)" in failures(tmp_path, NIFTI)[0]
        self.write(folder / "v.nii.gz", self.volume(shape=(50, 50, 1)))
        assert "too large" in failures(tmp_path, NIFTI, ImageSpec(channels=1, max_pixels=2499))[0]

    def test_folders(self, tmp_path):
        self.write(tmp_path / "d" / "images" / "v.nii", self.volume())
        assert entry_from_folder(tmp_path / "d").reader == "nifti"
        self.write(tmp_path / "d" / "images" / "v.nii.gz", self.volume())
        with pytest.raises(UsageError, match="same id"):
            opened(tmp_path, NIFTI)
        (tmp_path / "e" / "images").mkdir(parents=True)
        with pytest.raises(NothingToAudit, match=r"\.nii"):
            opened(tmp_path, DataEntry(reader="nifti", path="e"))


class TestDicom:
    @pytest.fixture(autouse=True)
    def pydicom(self):
        self.pydicom = pytest.importorskip("pydicom")

    def write(self, path, pixels, *, bits=None, photometric="MONOCHROME2", patient="MRN 1", **fields):
        """A secondary capture with explicit little endian; ``fields`` are header keywords."""
        path.parent.mkdir(parents=True, exist_ok=True)
        held = self.pydicom.Dataset()
        held.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        held.SOPInstanceUID = "1.2.3.4"
        colour = photometric == "RGB"
        held.PhotometricInterpretation = photometric
        held.SamplesPerPixel = 3 if colour else 1
        if colour:
            held.PlanarConfiguration = 0
        frames = pixels.shape[:-3] if colour else pixels.shape[:-2]
        held.Rows, held.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
        if frames:
            held.NumberOfFrames = frames[0]
        held.BitsAllocated = 8 * pixels.dtype.itemsize
        held.BitsStored = bits or held.BitsAllocated
        held.HighBit = held.BitsStored - 1
        held.PixelRepresentation = int(pixels.dtype.kind == "i")
        held.PatientID = patient
        for name, value in fields.items():
            setattr(held, name, value)
        held.PixelData = pixels.tobytes()
        held.file_meta = self.pydicom.dataset.FileMetaDataset()
        held.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        held.file_meta.MediaStorageSOPClassUID = held.SOPClassUID
        held.file_meta.MediaStorageSOPInstanceUID = held.SOPInstanceUID
        held.save_as(path, enforce_file_format=True)
        return path

    def image(self, root, entry=DICOM, spec=GREY):
        (case,) = loaded(root, entry, spec)
        return case.image

    @pytest.fixture
    def slice_path(self, tmp_path):
        return tmp_path / "d" / "images" / "s.dcm"

    def test_spacing_patient_and_device(self, tmp_path, slice_path):
        pixels = np.zeros((12, 16), np.uint8)
        self.write(slice_path, pixels, PixelSpacing=[0.7, 0.6], Manufacturer="ACME", patient=" MRN 1 ")
        self.write(slice_path.with_name("t.DCM"), pixels, patient="MRN 1")
        dataset = opened(tmp_path, DICOM.model_copy(update={"strata": ("Manufacturer",)}))
        first, second = dataset.cases
        assert [ref.id for ref in dataset.cases] == ["s", "t"]
        assert first.spacing_mm == (0.7, 0.6)
        assert second.spacing_mm is None
        assert first.cluster == second.cluster == patient_token("MRN 1")
        assert dataset.cluster_column == "patient"
        assert [ref.strata["Manufacturer"] for ref in dataset.cases] == ["ACME", ""]
        assert "MRN" not in repr(dataset)

    def test_without_a_patient_a_column_must_be_named(self, tmp_path, slice_path):
        self.write(slice_path, np.zeros((12, 16), np.uint8), patient="")
        with pytest.raises(UsageError, match=r"the case 's' has no patient.*another column under cluster:"):
            opened(tmp_path, DICOM)
        write_csv(tmp_path / "d" / "meta.csv", [{"id": "s", "site": "north"}])
        assert opened(tmp_path, DICOM.model_copy(update={"cluster": "site"})).cases[0].cluster == "north"

    def test_the_window_of_the_header_spans_the_range(self, tmp_path, slice_path):
        stored = np.array([[0, 1000, 1024, 1064, 1104, 3000]], np.uint16)
        self.write(slice_path, stored, bits=12, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=81)
        low, high = 40 - 0.5 - 40, 40 - 0.5 + 40  # PS3.3 C.11.2.1.2.1
        expected = np.clip((stored.astype(int) - 1024 - low) / (high - low), 0, 1)
        np.testing.assert_allclose(self.image(tmp_path)[0], expected, atol=1e-6)
        wide = self.image(tmp_path, DICOM.model_copy(update={"window": (-1024, 1976)}))
        np.testing.assert_allclose(wide[0], stored / 3000, atol=1e-6)

    def group(self, **parts):
        """A functional group: name of a part -> its fields."""
        held = self.pydicom.Dataset()
        for name, fields in parts.items():
            part = self.pydicom.Dataset()
            for field, value in fields.items():
                setattr(part, field, value)
            setattr(held, name, self.pydicom.Sequence([part]))
        return held

    def test_enhanced_objects_say_it_in_their_functional_groups(self, tmp_path, slice_path):
        """40 HU in a window of 40 / 400 is the middle; the second frame has a window of its own."""
        shared = self.group(
            PixelValueTransformationSequence={"RescaleSlope": 1, "RescaleIntercept": -1024},
            FrameVOILUTSequence={"WindowCenter": 40, "WindowWidth": 401},
            PixelMeasuresSequence={"PixelSpacing": [0.5, 0.4]},
        )
        own = self.group(FrameVOILUTSequence={"WindowCenter": 140, "WindowWidth": 401})
        self.write(
            slice_path, np.full((2, 12, 16), 1064, np.uint16), bits=12,
            SharedFunctionalGroupsSequence=self.pydicom.Sequence([shared]),
            PerFrameFunctionalGroupsSequence=self.pydicom.Sequence([self.pydicom.Dataset(), own]),
        )  # fmt: skip
        dataset = opened(tmp_path, DICOM)
        assert {ref.spacing_mm for ref in dataset.cases} == {(0.5, 0.4)}
        first, second = (case.image[0, 0, 0] for case in loaded(tmp_path, DICOM, GREY))
        assert (first, second) == (pytest.approx(0.5, abs=0.002), pytest.approx(0.25, abs=0.002))
        wide = [
            case.image[0, 0, 0] for case in loaded(tmp_path, DICOM.model_copy(update={"window": (-160, 240)}), GREY)
        ]
        assert wide == pytest.approx([0.5, 0.5])

    def test_the_same_window_as_pydicom_applies(self, tmp_path, slice_path):
        from pydicom.pixels import apply_windowing

        stored = np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)
        for function in ("LINEAR", "LINEAR_EXACT"):
            self.write(
                slice_path, stored, bits=12, WindowCenter=[1500, 9], WindowWidth=[800, 9], VOILUTFunction=function
            )
            theirs = apply_windowing(stored, self.pydicom.dcmread(slice_path)) / 4095
            np.testing.assert_allclose(self.image(tmp_path)[0], theirs, atol=1e-5)

    def test_without_a_window_unsigned_bits_span_the_range(self, tmp_path, slice_path):
        self.write(slice_path, np.array([[0, 1024, 4095]], np.uint16), bits=12)
        np.testing.assert_allclose(self.image(tmp_path)[0, 0], [0, 1024 / 4095, 1], atol=1e-6)
        self.write(slice_path, np.array([[-5, 5]], np.int16))
        assert "no known range" in failures(tmp_path, DICOM)[0]
        self.write(slice_path, np.array([[0, 5]], np.uint16), RescaleSlope=1, RescaleIntercept=-1024)
        assert "window: [low, high]" in failures(tmp_path, DICOM)[0]

    def test_monochrome1_is_inverted(self, tmp_path, slice_path):
        pixels = np.array([[0, 51, 255]], np.uint8)
        self.write(slice_path, pixels, photometric="MONOCHROME1")
        np.testing.assert_allclose(self.image(tmp_path)[0, 0], [1, 0.8, 0], atol=1e-6)
        spec = ImageSpec(channels=3, value_range=(-1, 1))
        np.testing.assert_allclose(self.image(tmp_path, spec=spec)[2, 0], [1, 0.6, -1], atol=1e-6)

    def test_colour(self, tmp_path, slice_path):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
        self.write(slice_path, pixels, photometric="RGB")
        np.testing.assert_allclose(self.image(tmp_path, spec=COLOUR), pixels.transpose(2, 0, 1) / 255, atol=1e-6)

    def test_masks_are_pictures_or_dicom(self, tmp_path, slice_path):
        pixels = np.zeros((12, 16), np.uint8)
        masks = tmp_path / "d" / "masks"
        self.write(slice_path, pixels)
        self.write(slice_path.with_name("t.dcm"), pixels)
        self.write(slice_path.with_name("u.dcm"), pixels)
        save(masks / "s.png", square_mask())
        self.write(masks / "t.dcm", square_mask(value=1))
        first, second, third = opened(tmp_path, DICOM).cases
        for ref in (first, second):
            assert (load_case(DICOM, ref, GREY).reference == square_mask(value=1)).all()
        with pytest.raises(DataError, match="has no mask"):
            load_case(DICOM, third, GREY)
        self.write(masks / "t.dcm", square_mask((16, 12)))
        with pytest.raises(DataError, match="another size"):
            load_case(DICOM, second, GREY)

    def test_frames_are_slices(self, tmp_path, slice_path):
        frames = np.random.default_rng(0).integers(0, 256, (3, 12, 16)).astype(np.uint8)
        self.write(slice_path, frames)
        self.write(tmp_path / "d" / "masks" / "s.dcm", np.stack([square_mask(value=v) for v in (0, 1, 0)]))
        save(tmp_path / "d" / "masks" / "s-z002.png", square_mask())
        cases = loaded(tmp_path, DICOM)
        assert [case.id for case in cases] == ["s-z000", "s-z001", "s-z002"]
        for frame, case in zip(frames, cases, strict=True):
            np.testing.assert_allclose(case.image[0], frame / 255, atol=1e-6)
        assert [bool(case.reference.any()) for case in cases] == [False, True, True]
        assert opened(tmp_path, DICOM).unmatched == ()
        save(tmp_path / "d" / "masks" / "s-z003.png", square_mask())
        assert opened(tmp_path, DICOM).unmatched == ("masks/s-z003.png",)

    def test_what_cannot_be_decoded_is_a_failed_case(self, tmp_path, slice_path):
        whole = self.write(slice_path, np.zeros((40, 50), np.uint8)).read_bytes()
        assert "too large" in failures(tmp_path, DICOM, ImageSpec(channels=1, max_pixels=1999))[0]
        for content in (whole[:-500], b"hello", b""):
            slice_path.write_bytes(content)
            assert "cannot be decoded" in failures(tmp_path, DICOM)[0]
        assert opened(tmp_path, DICOM).cases[0].cluster == "s"
        self.write(slice_path, np.zeros((4, 5), np.uint8), photometric="PALETTE COLOR")
        assert "photometric interpretation is not read. Got: PALETTE COLOR" in failures(tmp_path, DICOM)[0]
        self.write(slice_path, np.zeros((4, 5), np.uint8), RescaleSlope=1, RescaleIntercept="", WindowCenter=1)
        assert "the header gives no intensities" in failures(tmp_path, DICOM)[0]
        self.write(slice_path, np.zeros((4, 5), np.uint8), WindowCenter=1, WindowWidth=5, VOILUTFunction="SIGMOID")
        assert "window of the header is not linear" in failures(tmp_path, DICOM)[0]

    def test_a_folder_as_it_stands(self, tmp_path, slice_path):
        self.write(slice_path, np.zeros((4, 5), np.uint8))
        assert entry_from_folder(tmp_path / "d").reader == "dicom"
        assert len(opened(tmp_path, entry_from_folder(tmp_path / "d")).cases) == 1
