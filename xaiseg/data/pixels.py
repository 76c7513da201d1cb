"""Decoding of images and masks, with every way in which a file can be unusable told apart."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.data.case import ImageSpec
from xaiseg.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
IGNORE: Final = 255


def read_pixels(path: Path, *, max_pixels: int, index_colours: bool = False) -> np.ndarray:
    """Pixels of a PNG, JPEG or TIFF as (H, W) or (H, W, C), in the file's own integers or floats.

    The EXIF orientation is applied. A palette becomes colours, or stays indices with ``index_colours`` (masks).

    Raises:
        DataError: missing, damaged, of an unknown kind, or larger than ``max_pixels`` (seen before it is decoded).
    """
    if not path.is_file():
        raise DataError("this file is missing", where=path)
    if path.suffix.lower() in (".tif", ".tiff"):
        return _read_tiff(path, max_pixels)
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of large images; our own limit comes first and is an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as held:
                _refuse_large(path, held.height, held.width, max_pixels)
                picture = ImageOps.exif_transpose(held)
                return _from_pillow(path, picture, index_colours)
    except Image.DecompressionBombError as error:
        raise DataError("the image is too large", where=path, allowed=f"{max_pixels} pixels") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"the file cannot be decoded ({_short(error, path)})", where=path) from error


def _short(error: Exception, path: Path) -> str:
    return str(error).replace(repr(str(path)), "it").splitlines()[0] if str(error) else type(error).__name__


def _refuse_large(path: Path, height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise DataError(
            "the image is too large", where=path, got=f"{height} x {width} pixels", allowed=f"{max_pixels} pixels",
            then="Cut it into tiles",
        )  # fmt: skip
    if height * width == 0:
        raise DataError("the image has no pixels", where=path)


def _from_pillow(path: Path, picture: Image.Image, index_colours: bool) -> np.ndarray:
    if picture.mode == "P" and not index_colours:
        picture = picture.convert("RGB")
    if picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV", "PA", "RGBX", "RGBa", "La"):
        picture = picture.convert("RGB")
    if picture.mode in ("RGBA", "LA"):
        return np.asarray(picture)[..., :-1].squeeze()
    pixels = np.asarray(picture)
    if picture.mode == "I":
        # Pillow opens some 16-bit PNG files as 32-bit integers.
        if pixels.min() < 0 or pixels.max() > 65535:
            raise DataError("a 32-bit integer image has no known range", where=path, allowed="8 or 16 bits")
        return pixels.astype(np.uint16)
    return pixels


def _read_tiff(path: Path, max_pixels: int) -> np.ndarray:
    import tifffile

    try:
        with tifffile.TiffFile(path) as held:
            page = held.pages[0]
            _refuse_large(path, int(page.imagelength), int(page.imagewidth), max_pixels)
            pixels = np.asarray(page.asarray())
    except DataError:
        raise
    except (OSError, ValueError, KeyError, IndexError, TypeError, tifffile.TiffFileError) as error:
        raise DataError(f"the file cannot be decoded ({_short(error, path)})", where=path) from error
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = pixels[..., :3]
    return pixels.squeeze(axis=2) if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels


def to_image(pixels: np.ndarray, spec: ImageSpec, path: Path) -> np.ndarray:
    """Pixels as the subject expects them.

    8 and 16 bits span the declared range; floats must lie within it already. Grey becomes three equal channels for a
    three-channel subject, colour becomes luma (ITU-R 601) for a one-channel subject.

    Args:
        pixels: (H, W) or (H, W, C).
        spec: what the subject expects.
        path: for messages.

    Returns:
        (C, H, W) float32 within ``spec.value_range``.

    Raises:
        DataError: NaN, values outside the range, or channels that do not fit.
    """
    low, high = spec.value_range
    if pixels.dtype == np.uint8:
        values = pixels.astype(np.float32) * np.float32((high - low) / 255.0) + np.float32(low)
    elif pixels.dtype == np.uint16:
        values = pixels.astype(np.float32) * np.float32((high - low) / 65535.0) + np.float32(low)
    elif np.issubdtype(pixels.dtype, np.floating):
        values = pixels.astype(np.float32)
        if not np.isfinite(values).all():
            raise DataError("the image holds NaN or infinity", where=path)
        if values.min() < low or values.max() > high:
            got = f"{float(values.min()):g} to {float(values.max()):g}"
            raise DataError("the image leaves the declared range", where=path, got=got, allowed=f"{low:g} to {high:g}")
    else:
        raise DataError(
            "this kind of pixel has no known range", where=path, got=pixels.dtype, allowed="8 or 16 bits, float"
        )
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
    values: Sequence[int] = np.unique(pixels).tolist()
    if labels is not None:
        table = {**labels, IGNORE: labels.get(IGNORE, IGNORE)}
    elif len(spec.classes) == 2 and set(values) <= {0, 255}:
        table = {0: 0, 255: 1}
    else:
        table = {**{index: index for index in range(len(spec.classes))}, IGNORE: IGNORE}
    strange = [
        value
        for value in values
        if value not in table or not (table[value] < len(spec.classes) or table[value] == IGNORE)
    ]
    if strange:
        raise DataError(
            "the mask holds values that are no class", where=path, got=_few(strange),
            allowed=f"{_few(sorted(set(table) - {IGNORE}))}, or 255 to ignore",
            then="Name them under labels: {value: class index}",
        )  # fmt: skip
    mask = np.zeros(shape, np.uint8)
    for value in values:
        mask[pixels == value] = table[value]
    return mask


def _few(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:6])
    return shown + (f" and {len(values) - 6} more" if len(values) > 6 else "")
