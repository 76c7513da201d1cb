"""The readers ``nifti`` and ``dicom``: slices of volumes, with the pixel spacing of their headers.

Both need the extra ``medical``. A slice is shown as it is stored; nothing is resampled or turned.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np

from xaiseg.data.base import Index, reader
from xaiseg.data.case import Case, CaseRef, ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.files import Partners, Place, images_by_id, partners, without_image
from xaiseg.data.folder import load_mask
from xaiseg.data.pixels import SUFFIXES, refuse_large, to_image, to_mask
from xaiseg.data.sidecar import chosen, described, read_rows, require_columns
from xaiseg.errors import DataError, UsageError

NIFTI: Final = (".nii.gz", ".nii")
DICOM: Final = (".dcm", ".dicom")

_UNITS: Final = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
_TAGS: Final = ("PatientID", "NumberOfFrames", "PixelSpacing", "Modality", "Manufacturer", "ManufacturerModelName")
_GROUPS: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_PARTS: Final = ("PixelValueTransformationSequence", "FrameVOILUTSequence", "PixelMeasuresSequence")
_OF_FRAME: Final = (
    "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction", "PixelSpacing",
)  # fmt: skip
#: What the libraries raise on damaged files, besides their own errors.
_DAMAGED: Final = (
    OSError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, RuntimeError, MemoryError,
    OverflowError, struct.error, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class _Header:
    """What a header says of one file; an unreadable file is one slice, which fails when it is loaded."""

    columns: Mapping[str, str]
    slices: int | None = None  # None = a single picture, whose case has the file's own id
    spacing_mm: tuple[float, float] | None = None


def _library(name: str, kind: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        then = "Install it: pip install 'xaiseg[medical]'"
        raise UsageError(f"the reader {kind} needs the library {name}", where="reader", then=then) from error


def _index(
    entry: DataEntry, place: Place, headers: Mapping[str, tuple[Path, _Header]], masks: tuple[str, ...], cluster: str
) -> Index:
    """Cases of all slices; the columns of the headers and of the sidecars (whose ids are files) describe them."""
    entry = entry if entry.cluster else entry.model_copy(update={"cluster": cluster})
    beside, source = read_rows(entry, place)
    rows = {**beside, **{id: {**header.columns, **beside.get(id, {})} for id, (_, header) in headers.items()}}
    require_columns(entry, {column for row in rows.values() for column in row}, source)
    reference = partners(place, entry.masks, "masks", masks)
    reader2 = partners(place, entry.masks_reader2, None, masks)
    cases = []
    kept = chosen(entry, headers, rows, source)
    for id in kept:
        path, header = headers[id]
        facts = described(entry, id, rows[id], source)
        facts["spacing_mm"] = facts["spacing_mm"] or header.spacing_mm
        for z in range(header.slices or 1):
            case = id if header.slices is None else f"{id}-z{z:03d}"
            pair = (_partner(reference, case, id), _partner(reader2, case, id))
            cases.append(CaseRef(case, str(path), *pair, extra={"slice": z}, **facts))
    slices = {f"{id}-z{z:03d}" for id, (_, header) in headers.items() for z in range(header.slices or 0)}
    lost = without_image(reference, {*headers, *slices})
    left = len(headers) - len(kept)
    return Index(cases, entry.cluster, entry.path or str(entry.images), unmatched=lost, filtered=left)


def _partner(masks: Partners | None, case: str, file: str) -> str | None:
    """A mask of the slice itself, else the one of the whole file."""
    if masks is None:
        return None
    return masks.of(case if case in masks.files else file)


@reader("nifti")
class NiftiReader:
    """A case is a slice FILE-zNNN along the third stored axis; rows are the second axis, columns the first."""

    def index(self, entry: DataEntry, root: Path, spec: ImageSpec) -> Index:
        """Lists the slices; the volume is the cluster unless the entry names a column."""
        _library("nibabel", "nifti")
        place = Place(root / (entry.path or "."), root)
        files = images_by_id(place.folder(entry.images, "images"), NIFTI)
        headers = {id: (path, _nifti_header(id, path)) for id, path in files.items()}
        return _index(entry, place, headers, NIFTI, "volume")

    def load(self, entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
        """Reads one slice and its masks."""
        path = Path(ref.image)
        volume = _volume(path, spec.max_pixels)
        image = to_image(volume.slice(ref.extra["slice"]), spec, path, window=entry.window)
        reference, reader2 = (self._mask(entry, ref, spec, volume, mask) for mask in (ref.reference, ref.reader2))
        return Case(ref, image, reference, reader2)

    def _mask(
        self, entry: DataEntry, ref: CaseRef, spec: ImageSpec, volume: _Volume, mask: str | None
    ) -> np.ndarray | None:
        if mask is None:
            return None
        path = Path(mask)
        if not path.is_file():
            raise DataError("the volume has no mask", where=path)
        labels = _volume(path, spec.max_pixels)
        if labels.stored.shape != volume.stored.shape:
            what, got, allowed = "the mask has another size than the volume", labels.stored.shape, volume.stored.shape
            raise DataError(what, where=path, got=got, allowed=allowed)
        if labels.axes and volume.axes and labels.axes != volume.axes:
            what = "the mask is stored in another orientation than the volume"
            raise DataError(what, where=path, got=labels.axes, allowed=volume.axes)
        pixels = labels.slice(ref.extra["slice"])
        return to_mask(pixels, spec, path, shape=(pixels.shape[0], pixels.shape[1]), labels=entry.labels)


@dataclass(frozen=True)
class _Volume:
    """Stored values (columns, rows, slices), how they scale, and the directions of the axes, e.g. "RAS"."""

    stored: np.ndarray
    slope: float
    intercept: float
    axes: str

    def slice(self, z: int) -> np.ndarray:
        """Values (H, W) of one slice: stored integers, or float32 where the header scales them."""
        pixels = np.asarray(self.stored[:, :, z]).T
        if (self.slope, self.intercept) == (1.0, 0.0):
            return pixels
        return pixels.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)


def _nifti_header(id: str, path: Path) -> _Header:
    nibabel = _library("nibabel", "nifti")
    columns = {"volume": id}
    try:
        image = nibabel.load(path)
        column, row = (float(size) for size in image.header.get_zooms()[:2])
        # A header without a unit means mm where it states a space (sform or qform), which is in mm by definition.
        unit = _UNITS.get(image.header.get_xyzt_units()[0], 1.0 if _axes(image) else math.nan)
        slices = image.shape[2] if len(image.shape) > 2 else 1
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, *_DAMAGED):
        return _Header(columns, slices=1)  # loading it says what is wrong
    known = 0 < row * unit < math.inf and 0 < column * unit < math.inf
    return _Header(columns, slices, (row * unit, column * unit) if known else None)


def _axes(image: Any) -> str:
    """Directions of the stored axes, or "" where the header states no space."""
    if not (image.header["sform_code"] or image.header["qform_code"]):
        return ""
    return "".join(code or "?" for code in _library("nibabel", "nifti").aff2axcodes(image.affine))


def _volume(path: Path, max_pixels: int) -> _Volume:
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise DataError("this file is missing", where=path) from error
    return _cached_volume(path, changed, max_pixels)


@lru_cache(maxsize=3)
def _cached_volume(path: Path, changed: int, max_pixels: int) -> _Volume:
    """Slices follow one another, so the volume and its masks stay open; a compressed one can only be read whole."""
    nibabel = _library("nibabel", "nifti")
    try:
        image = nibabel.load(path)
        shape = image.shape
        if len(shape) < 2 or any(side != 1 for side in shape[3:]):
            raise DataError("the file is no volume", where=path, got=shape, allowed="two or three axes")
        refuse_large(path, shape[1], shape[0], max_pixels)
        stored = image.dataobj.get_unscaled().reshape((*shape[:3], 1)[:3])
        return _Volume(stored, float(image.dataobj.slope), float(image.dataobj.inter), _axes(image))
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, *_DAMAGED) as error:
        raise DataError(f"the volume cannot be read ({error})", where=path) from error


@reader("dicom")
class DicomReader:
    """A case is a file, or a frame FILE-zNNN of a file with several; masks are pictures or DICOM files."""

    def index(self, entry: DataEntry, root: Path, spec: ImageSpec) -> Index:
        """Lists the files; the patient is the cluster unless the entry names a column."""
        _library("pydicom", "dicom")
        place = Place(root / (entry.path or "."), root)
        files = images_by_id(place.folder(entry.images, "images"), DICOM)
        headers = {id: (path, _dicom_header(id, path)) for id, path in files.items()}
        return _index(entry, place, headers, (*SUFFIXES, *DICOM), "patient")

    def load(self, entry: DataEntry, ref: CaseRef, spec: ImageSpec) -> Case:
        """Decodes one picture and its masks."""
        path = Path(ref.image)
        image = _dicom_image(path, ref.extra["slice"], entry, spec)
        shape = image.shape[1], image.shape[2]
        reference, reader2 = (self._mask(entry, ref, spec, shape, mask) for mask in (ref.reference, ref.reader2))
        return Case(ref, image, reference, reader2)

    def _mask(
        self, entry: DataEntry, ref: CaseRef, spec: ImageSpec, shape: tuple[int, int], mask: str | None
    ) -> np.ndarray | None:
        if mask is None or Path(mask).suffix.lower() not in DICOM or not Path(mask).is_file():
            return load_mask(mask, entry, spec, shape)
        _, pixels = _dicom_pixels(Path(mask), ref.extra["slice"], spec.max_pixels)
        return to_mask(pixels, spec, Path(mask), shape=shape, labels=entry.labels)


def patient_token(patient_id: str) -> str:
    """A short stand-in for a patient's identifier, the same wherever the patient occurs.

    It keeps identifiers out of reports. It is no anonymisation: who knows the identifiers can compute the tokens.

    >>> patient_token("MRN-0042")
    'pt-ad07732e5c'
    """
    return "pt-" + hashlib.sha256(patient_id.strip().encode()).hexdigest()[:10]


def _dicom_header(id: str, path: Path) -> _Header:
    pydicom = _library("pydicom", "dicom")
    devices = _TAGS[3:]
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_TAGS, *_GROUPS])
        columns = {name: str(header.get(name, "") or "") for name in devices}
        patient = str(header.get("PatientID", "") or "").strip()
        frames = int(header.get("NumberOfFrames", 1) or 1)
        spacing = [float(size) for size in _of_frame(header, 0).get("PixelSpacing", None) or ()]
    except (pydicom.errors.InvalidDicomError, *_DAMAGED):
        return _Header({"patient": id, **dict.fromkeys(devices, "")})  # loading it says what is wrong
    columns["patient"] = patient_token(patient) if patient else ""
    known = len(spacing) == 2 and min(spacing) > 0
    return _Header(columns, frames if frames > 1 else None, (spacing[0], spacing[1]) if known else None)


def _of_frame(header: Any, frame: int) -> Any:
    """The header with what the functional groups of enhanced objects say of a frame: rescale, window, spacing.

    They stand there and not at the top (DICOM PS3.3 C.7.6.16); what is said of the frame goes before what is shared.
    """
    for name, place in zip(_GROUPS, (0, frame), strict=True):
        groups = header.get(name, None) or ()
        for part in _PARTS if place < len(groups) else ():
            for item in groups[place].get(part, None) or ():
                for tag in _OF_FRAME:
                    if tag in item:
                        setattr(header, tag, item.get(tag))
    return header


def _dicom_pixels(path: Path, frame: int, max_pixels: int) -> tuple[Any, np.ndarray]:
    """The header of a file and the stored pixels (H, W) or (H, W, 3) of one frame."""
    pydicom = _library("pydicom", "dicom")
    try:
        header = _of_frame(pydicom.dcmread(path, stop_before_pixels=True), frame)
        refuse_large(path, int(header.Rows), int(header.Columns), max_pixels)
        return header, np.asarray(_library("pydicom.pixels", "dicom").pixel_array(path, index=frame))
    except (pydicom.errors.InvalidDicomError, *_DAMAGED) as error:
        raise DataError(f"the file cannot be decoded ({error})", where=path) from error


def _dicom_image(path: Path, frame: int, entry: DataEntry, spec: ImageSpec) -> np.ndarray:
    """(C, H, W) float32: rescaled as the header says, then the entry's window, the header's, or all stored bits."""
    header, stored = _dicom_pixels(path, frame, spec.max_pixels)
    photometric = str(header.get("PhotometricInterpretation", ""))
    if stored.ndim == 3 and photometric != "PALETTE COLOR":
        return to_image(stored, spec, path, window=entry.window)
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        allowed = "MONOCHROME1, MONOCHROME2, RGB, YBR"
        raise DataError("this photometric interpretation is not read", where=path, got=photometric, allowed=allowed)
    try:
        values = _library("pydicom.pixels", "dicom").apply_modality_lut(stored, header)
        window = entry.window or _own_window(header, path) or _stored_range(header)
    except _DAMAGED as error:
        raise DataError(f"the header gives no intensities ({error})", where=path) from error
    image = to_image(values, spec, path, window=window)
    low, high = spec.value_range
    return np.float32(low + high) - image if photometric == "MONOCHROME1" else image  # there, white is low


def _own_window(header: Any, path: Path) -> tuple[float, float] | None:
    """Lowest and highest value of the header's first window (DICOM PS3.3 C.11.2.1.2), or None without one."""
    centre, width = (_first(header.get(name, None)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        return None
    function = str(header.get("VOILUTFunction", "LINEAR") or "LINEAR")
    if function not in ("LINEAR", "LINEAR_EXACT") or not 1 <= width < math.inf:
        got = f"{function}, width {width:g}"
        raise DataError("the window of the header is not linear", where=path, got=got, then="Set window: [low, high]")
    if function == "LINEAR_EXACT":
        return centre - width / 2, centre + width / 2
    half = max(width - 1, 1e-3) / 2
    return centre - 0.5 - half, centre - 0.5 + half


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _stored_range(header: Any) -> tuple[float, float] | None:
    """All stored bits, where they are unsigned and the header does not rescale them."""
    plain = float(header.get("RescaleSlope", 1) or 1) == 1 and float(header.get("RescaleIntercept", 0) or 0) == 0
    if not plain or "ModalityLUTSequence" in header or int(header.get("PixelRepresentation", 0)):
        return None
    return 0.0, float(2 ** int(header.get("BitsStored", header.BitsAllocated)) - 1)
