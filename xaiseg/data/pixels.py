"""Decoding of images and masks, with every way in which a file can be unusable told apart."""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.data.case import ImageSpec
from xaiseg.errors import DataError

if TYPE_CHECKING:
    from PIL import Image
    from tifffile import TiffFile, TiffPage

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
IGNORE: Final = 255

#: What to do with a picture that is too large.
_CUT: Final = "Cut it with `xaiseg tiles`"
#: What decoders raise on damaged files, besides their own errors.
DAMAGED: Final = (
    OSError,
    SyntaxError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    EOFError,
    struct.error,
    zlib.error,
)


def read_pixels(path: Path, *, max_pixels: int, index_colours: bool = False) -> np.ndarray:
    """Pixels of a PNG, JPEG, TIFF, BMP or WebP as (H, W) or (H, W, C), in the file's own integers or floats.

    The orientation that the file declares is applied; transparency is dropped. A palette becomes colours, or stays
    indices with ``index_colours`` (masks).

    Raises:
        DataError: missing, damaged, of an unknown kind, or larger than ``max_pixels`` (seen before it is decoded).
    """
    if not path.is_file():
        raise DataError("this file is missing", where=path)
    pixels = _read_tiff(path, max_pixels) if path.suffix.lower() in (".tif", ".tiff") else None
    return _read_picture(path, max_pixels, index_colours) if pixels is None else pixels


def _read_picture(path: Path, max_pixels: int, index_colours: bool) -> np.ndarray:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings(), whole_images_only():
            # Pillow warns of large images; our own limit comes first and is an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as held:
                refuse_large(path, held.height, held.width, max_pixels)
                picture = ImageOps.exif_transpose(held)
                return _from_pillow(path, picture, index_colours)
    except Image.DecompressionBombError as error:
        allowed = f"{max_pixels / 1e6:g} megapixels"
        raise DataError("the image is too large", where=path, allowed=allowed, then=_CUT) from error
    except (UnidentifiedImageError, *DAMAGED) as error:
        raise damaged(path, error) from error


@contextlib.contextmanager
def whole_images_only() -> Iterator[None]:
    """A truncated image is a failed image, though WeasyPrint tells Pillow, for the whole process, to fill it up."""
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def damaged(path: Path, error: Exception) -> DataError:
    """The error of a file that a decoder gave up on."""
    short = str(error).replace(repr(str(path)), "it").splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"the file cannot be decoded ({short})", where=path)


def refuse_large(path: Path, height: int, width: int, max_pixels: int) -> None:
    """Stops before an image is decoded.

    Raises:
        DataError: it has more pixels than ``max_pixels``, or none.
    """
    if height * width > max_pixels:
        raise DataError(
            "the image is too large", where=path, got=f"{height} x {width} pixels",
            allowed=f"{max_pixels / 1e6:g} megapixels",
            then=_CUT,
        )  # fmt: skip
    if height * width == 0:
        raise DataError("the image has no pixels", where=path)


def _from_pillow(path: Path, picture: Image.Image, index_colours: bool) -> np.ndarray:
    if picture.mode == "P" and not index_colours:
        picture = picture.convert("RGB")
    if picture.mode in ("1", "LA"):
        picture = picture.convert("L")
    if picture.mode in ("RGBA", "PA", "CMYK", "YCbCr", "LAB", "HSV"):
        picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    if picture.mode == "I":
        # Pillow opens some 16-bit PNG files as 32-bit integers.
        if pixels.min() < 0 or pixels.max() > 65535:
            raise DataError("a 32-bit integer image has no known range", where=path, allowed="8 or 16 bits")
        return pixels.astype(np.uint16)
    return pixels


def _read_tiff(path: Path, max_pixels: int) -> np.ndarray | None:
    """Pixels of a TIFF, or None for those kinds that only Pillow decodes (LZW, JPEG, palettes, white = 0)."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as held:
            page = only_page(path, held)
            refuse_large(path, int(page.imagelength), int(page.imagewidth), max_pixels)
            negative = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and page.bitspersample == 16
            known = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
            if page.photometric not in known and not negative:
                return None
            pixels = np.asarray(page.asarray())
            orientation = page.tags.get("Orientation")
            transparent = page.extrasamples[-1:] in ((1,), (2,))
            pixels = np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels
            if negative and pixels.dtype == np.uint16:  # Pillow turns 8 bits round, and 16 not
                pixels = np.uint16(65535) - pixels
    except (tifffile.TiffFileError, NotImplementedError, *DAMAGED) as error:
        if "imagecodecs" in str(error):  # an optional library for compressions that Pillow knows too
            return None
        raise damaged(path, error) from error
    pixels = pixels[..., :-1] if transparent else pixels
    pixels = pixels.squeeze(axis=2) if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    return pixels if orientation is None else _upright(pixels, int(orientation.value))


def only_page(path: Path, held: TiffFile) -> TiffPage:
    """The picture of an open TIFF, besides which there may be smaller copies of it.

    Raises:
        DataError: there are several.
    """
    pages = [page for page in held.pages if not page.is_reduced]
    if len(pages) != 1:
        raise DataError("the TIFF is a stack", where=path, got=f"{len(pages)} pages", allowed="one picture a file")
    return pages[0]


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes the TIFF orientation, 1 to 8 as in EXIF; other values are none."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    down, across = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(orientation, (1, 1))
    return pixels[::down, ::across]


def to_image(
    pixels: np.ndarray, spec: ImageSpec, path: Path, *, window: tuple[float, float] | None = None
) -> np.ndarray:
    """Pixels as the subject expects them.

    With a window, its values span the declared range and values beyond are clipped. Without one, 8 and 16 bits span the
    range and floats must lie within it already. Grey becomes three equal channels for a three-channel subject, colour
    becomes luma (ITU-R 601) for a one-channel subject.

    Args:
        pixels: (H, W) or (H, W, C).
        spec: what the subject expects.
        path: for messages.
        window: (low, high) stored values.

    Returns:
        (C, H, W) float32 within ``spec.value_range``.

    Raises:
        DataError: NaN, values outside the range, or channels that do not fit.

    >>> pixels = np.array([[0, 50, 100, 200]], np.int16)
    >>> to_image(pixels, ImageSpec(channels=1), Path("a"), window=(0, 100)).tolist()
    [[[0.0, 0.5, 1.0, 1.0]]]
    """
    low, high = spec.value_range
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind not in "uif":
        raise DataError("this kind of pixel is not read", where=path, got=pixels.dtype, allowed="integers or floats")
    values = pixels.astype(np.float32)
    if pixels.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError("the image holds NaN or infinity", where=path)
    bits = 8 * pixels.dtype.itemsize
    if window is not None:
        share = (values - np.float32(window[0])) / np.float32(window[1] - window[0])
        values = np.clip(share, 0, 1) * np.float32(high - low) + np.float32(low)
    elif pixels.dtype.kind == "u" and bits <= 16:
        values = values * np.float32((high - low) / (2**bits - 1)) + np.float32(low)
    elif pixels.dtype.kind != "f":
        raise DataError(
            "this kind of pixel has no known range", where=path, got=pixels.dtype, allowed="8 or 16 bits, float",
            then="Name the values that span the range under window: [low, high]",
        )  # fmt: skip
    elif values.min() < low or values.max() > high:
        raise DataError(
            "the image leaves the declared range", where=path, got=f"{values.min():g} to {values.max():g}",
            allowed=f"{low:g} to {high:g}", then="Name the values that span the range under window: [low, high]",
        )  # fmt: skip
    return _to_channels(values, spec.channels, path)


def _to_channels(values: np.ndarray, channels: int, path: Path) -> np.ndarray:
    planes = values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0)
    if len(planes) == 1 and channels == 3:
        planes = np.repeat(planes, 3, axis=0)
    elif len(planes) == 3 and channels == 1:
        planes = np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), planes, axes=1)[None]
    if values.ndim not in (2, 3) or len(planes) != channels:
        raise DataError("the image has other channels than the model", where=path, got=len(planes), allowed=channels)
    return np.ascontiguousarray(planes, dtype=np.float32)


def to_mask(
    pixels: np.ndarray, spec: ImageSpec, path: Path, *, shape: tuple[int, int], labels: Mapping[int, int] | None = None
) -> np.ndarray:
    """Pixels of a mask as class indices.

    With two classes, masks of {0, 255} mean {0, 1}. Otherwise 255 means "ignore".

    Args:
        pixels: (H, W), or (H, W, 3) with equal channels.
        spec: gives the classes.
        path: for messages.
        shape: (H, W) of the image.
        labels: mask value -> class index, for masks with other values.

    Returns:
        (H, W) uint8.

    Raises:
        DataError: another size than the image, or values that are no class.
    """
    if pixels.ndim == 3:
        if not (pixels == pixels[..., :1]).all():
            raise DataError("the mask is a colour picture", where=path, allowed="one channel with class indices")
        pixels = pixels[..., 0]
    if pixels.shape != shape:
        raise DataError("the mask has another size than the image", where=path, got=pixels.shape, allowed=shape)
    if pixels.dtype == np.uint8:  # counting is faster than the sorting that other kinds need
        values = np.flatnonzero(np.bincount(pixels.ravel(), minlength=256)).tolist()
    else:
        values = np.unique(pixels).tolist()
    table = _class_table(values, len(spec.classes), labels, path)
    mask = np.zeros(shape, np.uint8)
    for value in values:
        if table[value]:
            mask[pixels == value] = table[value]
    return mask


def _class_table(
    values: Sequence[int], classes: int, labels: Mapping[int, int] | None, path: Path
) -> Mapping[int, int]:
    """Mask value -> class index or IGNORE, for the values that one mask holds."""
    if labels is not None:
        table = {IGNORE: IGNORE, **labels}
    elif classes == 2 and set(values) <= {0, 255}:
        table = {0: 0, 255: 1}
    else:
        table = {**{index: index for index in range(classes)}, IGNORE: IGNORE}
    table = {value: index for value, index in table.items() if index < classes or index == IGNORE}
    strange = [value for value in values if value not in table]
    if strange:
        lossy = path.suffix.lower() in (".jpg", ".jpeg")
        raise DataError(
            "the mask holds values that are no class", where=path, got=_few(strange),
            allowed=f"{_few(sorted(set(table) - {IGNORE}))}, or 255 to ignore",
            then="JPEG changes values; save masks as PNG" if lossy else "Name them under labels: {value: class index}",
        )  # fmt: skip
    return table


def _few(values: Sequence[int]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:6])
    return shown + (f" and {len(values) - 6} more" if len(values) > 6 else "")
