"""Cuts large pictures of a COCO data set into tiles, pictures and boxes alike, without holding a whole picture.

A TIFF is read strip by strip or tile by tile, so that memory grows with its width and the height of a tile. PNG and
JPEG have no such access: Pillow decodes them as a whole, and above :data:`WHOLE_MEGAPIXELS` they are refused.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from xaiseg.data.coco import OWN_FIELDS
from xaiseg.data.cutting import cut_things
from xaiseg.data.mosaic_source import described, open_source, refuse_wrong_labels, tile_stem
from xaiseg.data.pixels import DAMAGED, damaged, only_page, whole_images_only
from xaiseg.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL import Image

#: Largest picture that is decoded as a whole, in megapixels: 1.2 GB of colour.
WHOLE_MEGAPIXELS: Final = 400


@dataclass(frozen=True)
class Cut:
    """How pictures are cut.

    Attributes:
        size: side of a tile in pixels; the last of a row or column may be smaller.
        overlap: pixels that neighbours share. With any, animals stand in two tiles, and no total in animals is formed.
    """

    size: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.size < 32 or not 0 <= 2 * self.overlap <= self.size:
            raise UsageError("tiles must be 32 px or more and overlap by half of that at most", where="size, overlap",
                             got=f"{self.size}, {self.overlap}")  # fmt: skip

    def starts(self, length: int) -> list[int]:
        """Where tiles begin along a side.

        >>> Cut(100, 20).starts(250), Cut(100).starts(90)
        ([0, 80, 160], [0])
        """
        return list(range(0, max(1, length - self.overlap), self.size - self.overlap))


class Written(NamedTuple):
    """What was written.

    Attributes:
        tiles: their number.
        unlisted: pictures that lie beside those of the COCO file and were not cut, since it does not list them.
    """

    tiles: int
    unlisted: tuple[str, ...] = ()


def cut_folder(source: Path, out: Path, cut: Cut) -> Written:
    """Cuts the pictures of a folder, and their boxes in COCO's format; writes ``out/images/*.png``.

    With labels ``out/annotations.json`` is written. Without, ``out/meta.csv`` describes the tiles: an image that COCO
    lists without annotations would be an empty one, and nobody has looked.

    Tiles carry the other fields of their picture and its row of ``meta.csv``, which comes first; without a column that
    names a cluster the tiles of a picture are one (``group``). An object lies in every tile that holds some of it, cut
    at the border (:mod:`xaiseg.data.cutting`), and without overlap it counts in one of them. ``footprint`` is
    "overlapping" where tiles overlap, else what the picture says, else "disjoint" for the tiles of a single picture: of
    several nobody knows.

    Args:
        source: a folder with images/, or with the pictures themselves.
        out: a new folder.
        cut: size and overlap.

    Returns:
        The number of tiles, and the pictures that were left out.

    Raises:
        UsageError: the labels are of another kind or wrong, two pictures would give tiles of one name, or ``out`` is
            not empty.
        NothingToAudit: there is no picture.
        DataError: a picture cannot be read, is too large for its kind of file or of another size than its labels say,
            or an annotation is wrong.
    """
    held = open_source(source)
    rows = described(source, held.images)
    if out.exists() and any(out.iterdir()):
        raise UsageError("the folder is not empty", where=out, then="Name a new one")
    sizes = [size_of(held.folder / image["file_name"]) for image in held.images]
    refuse_wrong_labels(held, sizes)
    (out / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, row, whole in zip(held.images, rows, sizes, strict=True):
        things = held.of(image)
        for top, left, pixels in tiles(held.folder / image["file_name"], cut):
            tile = _tile(tile_stem(image), row, len(images), top, left, pixels, cut)
            _save(pixels, out / "images" / tile["file_name"])
            images.append(tile)
            for box in cut_things(things, top, left, pixels.shape[:2], None if cut.overlap else whole):
                annotations.append({**box, "id": len(annotations) + 1, "image_id": tile["id"]})
    if held.file is not None:
        _write(out, {"images": images, "annotations": annotations, "categories": held.categories})
    else:
        _write_table(out / "meta.csv", images)
    return Written(len(images), held.unlisted)


def _write_table(path: Path, images: Sequence[Mapping[str, Any]]) -> None:
    """What is known of tiles without labels."""
    rows = [
        {"id": Path(image["file_name"]).stem} | {key: value for key, value in image.items() if key not in OWN_FIELDS}
        for image in images
    ]
    with path.open("w", newline="", encoding="utf-8") as handle:
        table = csv.DictWriter(handle, list(dict.fromkeys(key for row in rows for key in row)))
        table.writeheader()
        table.writerows(rows)


def _tile(
    stem: str, row: Mapping[str, Any], number: int, top: int, left: int, pixels: np.ndarray, cut: Cut
) -> dict[str, Any]:
    return {
        **row,
        "id": number,
        "file_name": f"{stem}_y{top:05d}_x{left:05d}.png",
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "mosaic": stem,
        **({"footprint": "overlapping"} if cut.overlap else {}),
    }


def tiles(path: Path, cut: Cut) -> Iterator[tuple[int, int, np.ndarray]]:
    """(top, left, pixels) of every tile of a picture, row by row; pixels are (h, w) or (h, w, C).

    Raises:
        DataError: the file is missing or damaged, or too large to be decoded as a whole.
    """
    for top, band in _bands(path, cut):
        for left in cut.starts(band.shape[1]):
            yield top, left, band[:, left : left + cut.size]


def size_of(path: Path) -> tuple[int, int]:
    """(H, W) of a picture as its tiles show it: upright.

    Raises:
        DataError: the file is missing or damaged, or too large to be decoded as a whole.
    """
    if _is_tiff(path):
        with _tiff_page(path) as page:
            return int(page.imagelength), int(page.imagewidth)
    with _picture(path) as held:
        turned = held.getexif().get(0x0112) in (5, 6, 7, 8)
        return (held.width, held.height) if turned else (held.height, held.width)


def _is_tiff(path: Path) -> bool:
    if not path.is_file():
        raise DataError("this file is missing", where=path)
    return path.suffix.lower() in (".tif", ".tiff")


def _bands(path: Path, cut: Cut) -> Iterator[tuple[int, np.ndarray]]:
    """Rows of the picture, as high as a tile each."""
    if _is_tiff(path):
        yield from _tiff_bands(path, cut)
        return
    from PIL import ImageOps

    with _picture(path) as held:
        upright = ImageOps.exif_transpose(held)
        if held.mode.startswith("I;16"):
            pixels = np.asarray(upright).astype(np.uint16)  # Pillow's conversion would cut values off at 255
        else:
            pixels = np.asarray(upright.convert("L" if held.mode in ("1", "L", "LA") else "RGB"))
    for top in cut.starts(pixels.shape[0]):
        yield top, pixels[top : top + cut.size]


@contextlib.contextmanager
def _picture(path: Path) -> Iterator[Image.Image]:
    """A picture that Pillow reads, not decoded yet.

    Raises:
        DataError: it is damaged, or too large; also where that shows only in the body of the ``with``.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS, before = None, Image.MAX_IMAGE_PIXELS  # our own limit comes first
    try:
        with whole_images_only(), Image.open(path) as held:
            if held.width * held.height > WHOLE_MEGAPIXELS * 1e6:
                raise DataError("this picture can only be decoded as a whole, and it is too large", where=path,
                                got=f"{held.width * held.height / 1e6:.0f} megapixels",
                                allowed=f"{WHOLE_MEGAPIXELS} megapixels", then="Save it as TIFF")  # fmt: skip
            yield held
    except DAMAGED as error:
        raise damaged(path, error) from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _tiff_bands(path: Path, cut: Cut) -> Iterator[tuple[int, np.ndarray]]:
    """The same of a TIFF, of which only the strips or tiles of one band are held."""
    with _tiff_page(path) as page:
        rows = _mapped(path, page) or _Rolling(page)
        for top in cut.starts(int(page.imagelength)):
            yield top, rows.band(top, min(top + cut.size, int(page.imagelength)))


@contextlib.contextmanager
def _tiff_page(path: Path) -> Iterator[Any]:
    """The picture of a TIFF, not decoded yet.

    Raises:
        DataError: it is damaged, or of a kind that is not cut; also where that shows only in the body of the ``with``.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as held:
            page = only_page(path, held)
            _refuse_kind(path, page)
            yield page
    except (tifffile.TiffFileError, NotImplementedError, *DAMAGED) as error:
        raise damaged(path, error) from error


def _refuse_kind(path: Path, page: Any) -> None:
    """Stops at kinds of TIFF whose rows are not those of the picture.

    Raises:
        DataError: colours are stored apart or in a palette, or the picture is turned.
    """
    turned = page.tags.get("Orientation")
    apart = page.planarconfig not in (None, 1) and page.samplesperpixel > 1
    if apart or page.photometric not in (1, 2) or (turned is not None and int(turned.value) != 1):
        raise DataError("this kind of TIFF is not cut", where=path, allowed="upright grey or RGB, colours together")


class _Mapped:
    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels

    def band(self, start: int, stop: int) -> np.ndarray:
        return _plain(np.array(self._pixels[start:stop]))


def _mapped(path: Path, page: Any) -> _Mapped | None:
    """An uncompressed picture as a map of the file, of which the system loads what is looked at."""
    import tifffile

    return _Mapped(tifffile.memmap(path, page=page.index, mode="r")) if page.is_memmappable else None


class _Rolling:
    """Rows of a compressed TIFF: segments are decoded in order and dropped when the bands have passed them."""

    def __init__(self, page: Any) -> None:
        self._segments = page.segments()
        self._shape = (int(page.imagelength), int(page.imagewidth), int(page.samplesperpixel))
        self._kind = page.dtype
        self._held: dict[int, np.ndarray] = {}  # first row -> rows
        self._next: tuple[Any, Any, Any] | None = next(self._segments, None)

    def band(self, start: int, stop: int) -> np.ndarray:
        while self._next is not None and self._next[1][2] < stop:
            decoded, (_, _, top, left, _), (_, height, width, _) = self._next
            if top not in self._held:
                depth = min(height, self._shape[0] - top)
                self._held[top] = np.zeros((depth, *self._shape[1:]), self._kind)
            if decoded is not None:
                part = decoded[0, :height, :width][: len(self._held[top]), : self._shape[1] - left]
                self._held[top][: part.shape[0], left : left + part.shape[1]] = part
            self._next = next(self._segments, None)
        self._held = {top: rows for top, rows in self._held.items() if top + len(rows) > start}
        first = min(self._held)
        joined = np.concatenate([self._held[top] for top in sorted(self._held)])
        return _plain(joined[start - first : stop - first])


def _plain(band: np.ndarray) -> np.ndarray:
    """(h, w), or (h, w, 3) without transparency."""
    if band.ndim == 3 and band.shape[2] in (1, 2):
        return band[..., 0]
    return band[..., :3] if band.ndim == 3 else band


def _save(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    if pixels.dtype != np.uint8 and not (pixels.dtype == np.uint16 and pixels.ndim == 2):
        raise DataError("tiles are written as 8 bits, or as 16 bits of grey", where=path, got=pixels.dtype)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def _write(out: Path, document: Mapping[str, Any]) -> None:
    (out / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
