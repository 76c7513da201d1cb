from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from pictures import COLOUR, GREY, picture, save, square_mask
from PIL import Image

from xaiseg.data.case import ImageSpec
from xaiseg.data.pixels import SUFFIXES, read_pixels, to_image, to_mask
from xaiseg.errors import DataError

MANY = ImageSpec(channels=1, classes=("background", "a", "b", "c"))


def read(path, **options):
    return read_pixels(path, max_pixels=10_000, **options)


def image(path, spec=GREY, **options):
    return to_image(read(path), spec, path, **options)


def mask(pixels, spec=GREY, path="m.png", **options):
    return to_mask(pixels, spec, Path(path), shape=pixels.shape[:2], **options)


# Images: kinds of pixels


def test_8_and_16_bits_span_the_declared_range(tmp_path):
    eight, sixteen = np.array([[0, 51, 255]], np.uint8), np.array([[0, 13107, 65535]], np.uint16)
    for name, pixels in (("a.png", eight), ("b.png", sixteen), ("c.tif", eight), ("d.tif", sixteen)):
        path = save(tmp_path / name, pixels)
        np.testing.assert_allclose(image(path)[0, 0], [0, 0.2, 1], atol=1e-6)
        wide = image(path, ImageSpec(channels=1, value_range=(-1, 1)))
        np.testing.assert_allclose(wide[0, 0], [-1, -0.6, 1], atol=1e-6)
        assert wide.dtype == np.float32
        assert (wide.min(), wide.max()) == (-1, 1)


@pytest.mark.parametrize("suffix", [".bmp", ".webp"])
def test_cameras_and_the_web_have_other_kinds(tmp_path, suffix):
    pixels = picture(shape=(20, 30, 3))
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}", lossless=True)
    np.testing.assert_array_equal(read(tmp_path / f"a{suffix}"), pixels)
    assert suffix in SUFFIXES


def test_big_endian_files_read_the_same(tmp_path):
    pixels = np.arange(48, dtype=np.uint16).reshape(6, 8) * 900
    for order in "<>":
        tifffile.imwrite(tmp_path / "a.tif", pixels, byteorder=order)
        np.testing.assert_array_equal(image(tmp_path / "a.tif")[0], pixels / np.float32(65535))
    np.testing.assert_array_equal(to_image(pixels.astype(">u2"), GREY, tmp_path)[0], pixels / np.float32(65535))


def test_floats_lie_in_the_range_or_need_a_window(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0.0, 0.25, 1.0]], np.float32))
    assert image(tmp_path / "a.tif").tolist() == [[[0.0, 0.25, 1.0]]]
    tifffile.imwrite(tmp_path / "b.tif", np.array([[-1000, 50, 3000.0]], np.float64))
    with pytest.raises(DataError, match=r"leaves the declared range\. Got: -1000 to 3000\. Allowed: 0 to 1\..*window"):
        image(tmp_path / "b.tif")
    assert image(tmp_path / "b.tif", window=(0, 100)).tolist() == [[[0.0, 0.5, 1.0]]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(tmp_path, value):
    pixels = np.full((4, 5), 0.5, np.float32)
    pixels[1, 1] = value
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    for window in (None, (0, 1)):
        with pytest.raises(DataError, match="NaN or infinity"):
            image(tmp_path / "a.tif", window=window)


def test_signed_integers_need_a_window(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[-100, 0, 100]], np.int16))
    with pytest.raises(DataError, match=r"no known range.*int16.*window"):
        image(tmp_path / "a.tif")
    spec = ImageSpec(channels=1, value_range=(-1, 1))
    assert image(tmp_path / "a.tif", spec, window=(-100, 100)).tolist() == [[[-1.0, 0.0, 1.0]]]


def test_other_numbers_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 4), np.complex64))
    with pytest.raises(DataError, match=r"is not read\. Got: complex64"):
        image(tmp_path / "a.tif")


def test_grey_repeats_and_colour_becomes_luma(tmp_path):
    grey = save(tmp_path / "g.png", picture())
    three = image(grey, COLOUR)
    assert three.shape == (3, 12, 16)
    assert (three[0] == three[2]).all()
    colours = picture(shape=(12, 16, 3))
    luma = image(save(tmp_path / "c.png", colours))
    np.testing.assert_allclose(luma[0], colours @ np.array([0.299, 0.587, 0.114]) / 255, atol=1e-6)
    np.testing.assert_allclose(image(tmp_path / "c.png", COLOUR), colours.transpose(2, 0, 1) / 255, atol=1e-7)


def test_wrong_channels_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture(shape=(8, 9, 5)), photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match=r"other channels than the model\. Got: 5\. Allowed: 3"):
        image(tmp_path / "a.tif", COLOUR)
    five = ImageSpec(channels=5)
    assert image(tmp_path / "a.tif", five).shape == (5, 8, 9)
    with pytest.raises(DataError, match=r"Got: 1\. Allowed: 5"):
        image(save(tmp_path / "b.png", picture()), five)


@pytest.mark.parametrize("shape", [(12, 16), (1, 16), (12, 1)])
def test_transparency_is_dropped(tmp_path, shape):
    colours = picture(shape=(*shape, 4))
    path = save(tmp_path / "a.png", colours)
    np.testing.assert_array_equal(read(path), colours[..., :3])
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb", planarconfig="contig")
    np.testing.assert_array_equal(read(tmp_path / "a.tif"), colours[..., :3])
    two = picture(shape=(*shape, 2))
    np.testing.assert_array_equal(read(save(tmp_path / "la.png", two)), two[..., 0])


def test_a_bilevel_picture_is_black_and_white(tmp_path):
    black_white = picture() > 127
    for name in ("a.png", "a.tif"):
        Image.fromarray(black_white).save(tmp_path / name)
        np.testing.assert_array_equal(image(tmp_path / name)[0], black_white.astype(np.float32))


def test_palettes_become_colours_for_images_and_indices_for_masks(tmp_path):
    indices = (picture() % 3).astype(np.uint8)
    paletted = Image.new("P", indices.shape[::-1])
    colours = np.array([[10, 20, 30], [200, 100, 50], [0, 255, 0]], np.uint8)
    paletted.putdata(indices.ravel().tolist())
    paletted.putpalette(colours.ravel().tolist())
    for name in ("a.png", "a.tif"):
        paletted.save(tmp_path / name)
        np.testing.assert_array_equal(read(tmp_path / name), colours[indices])
        np.testing.assert_array_equal(read(tmp_path / name, index_colours=True), indices)


# Images: files


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "lzw.tif"])
def test_the_declared_orientation_is_applied(tmp_path, name, orientation):
    pixels = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 50, np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    options = {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
    options |= {"quality": 100} if name == "a.jpg" else {}
    save(tmp_path / name, pixels, exif=exif, **options)
    upright = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        5: pixels.T, 6: np.rot90(pixels, -1), 7: pixels[::-1, ::-1].T, 8: np.rot90(pixels),
    }[orientation]  # fmt: skip
    np.testing.assert_allclose(read(tmp_path / name), upright, atol=2)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("shape", [(12, 16), (12, 16, 3)])
def test_tiff_compressions(tmp_path, compression, shape):
    pixels = picture(shape=shape)
    np.testing.assert_array_equal(read(save(tmp_path / "a.tif", pixels, compression=compression)), pixels)


def test_32_bit_integers_count_as_16_bits_where_they_fit(tmp_path):
    pixels = np.array([[0, 40_000, 65_535]], np.int32)
    path = save(tmp_path / "a.tif", pixels, compression="tiff_lzw")
    np.testing.assert_allclose(image(path)[0], pixels / 65535, atol=1e-6)
    for value in (-1, 65_536):
        save(path, pixels.clip(value, value), compression="tiff_lzw")
        with pytest.raises(DataError, match="32-bit integer image has no known range"):
            read(path)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_is_nought_in_any_depth(tmp_path, kind):
    top = np.iinfo(kind).max
    tifffile.imwrite(tmp_path / "film.tif", np.array([[0, 10, top]], kind), photometric="miniswhite")
    assert read(tmp_path / "film.tif").tolist() == [[top, top - 10, 0]]


def test_tiff_planes_thumbnails_stacks_and_white_zero(tmp_path):
    planes = picture(shape=(3, 12, 16))
    tifffile.imwrite(tmp_path / "p.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read(tmp_path / "p.tif"), planes.transpose(1, 2, 0))
    with tifffile.TiffWriter(tmp_path / "t.tif") as held:
        held.write(picture(1))
        held.write(picture(1)[::4, ::4], subfiletype=1)
    np.testing.assert_array_equal(read(tmp_path / "t.tif"), picture(1))
    tifffile.imwrite(tmp_path / "s.tif", picture(shape=(7, 12, 16)), photometric="minisblack")
    with pytest.raises(DataError, match=r"the TIFF is a stack. Got: 7 pages"):
        read(tmp_path / "s.tif")
    tifffile.imwrite(tmp_path / "w.tif", 255 - picture(), photometric="miniswhite")
    np.testing.assert_array_equal(read(tmp_path / "w.tif"), picture())


def test_a_100_megapixel_picture_is_refused_before_it_is_decoded(tmp_path):
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for name, side in (("a.png", 10_000), ("b.png", 100_000)):
        # A header alone: decoding would fail with another message.
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
        with pytest.raises(DataError, match="the image is too large"):
            read_pixels(tmp_path / name, max_pixels=50_000_000)
    tifffile.imwrite(tmp_path / "a.tif", shape=(101, 100), dtype=np.uint8)
    with pytest.raises(DataError, match=r"too large\. Got: 101 x 100 pixels\. Allowed: 0.01 megapixels"):
        read(tmp_path / "a.tif")


def test_missing_damaged_and_foreign_files(tmp_path):
    with pytest.raises(DataError, match="this file is missing"):
        read(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("hello", encoding="utf-8")
    (tmp_path / "empty.tif").touch()
    whole = save(tmp_path / "whole.png", picture(shape=(60, 80))).read_bytes()
    (tmp_path / "corrupt.png").write_bytes(whole[:200] + bytes(50) + whole[250:])
    whole = save(tmp_path / "whole.jpg", picture(shape=(60, 80))).read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    tifffile.imwrite(tmp_path / "whole.tif", picture(shape=(60, 80)))
    (tmp_path / "truncated.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:3000])
    for name in ("text.png", "empty.tif", "corrupt.png", "truncated.jpg", "truncated.tif"):
        with pytest.raises(DataError, match="cannot be decoded") as caught:
            read(tmp_path / name)
        assert name in str(caught.value)


def test_a_truncated_image_fails_even_where_another_library_would_fill_it_up(tmp_path, monkeypatch):
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as WeasyPrint does at import
    whole = save(tmp_path / "whole.jpg", picture(shape=(60, 80))).read_bytes()
    (tmp_path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be decoded"):
        read(tmp_path / "truncated.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_a_damaged_file_never_raises_anything_but_a_data_error(tmp_path, name, caplog):
    rng = np.random.default_rng(0)
    whole = np.frombuffer(save(tmp_path / name, picture(shape=(24, 30, 3))).read_bytes(), np.uint8)
    failed = 0
    for trial in range(150):
        broken = whole.copy()
        at = rng.integers(0, min(len(broken), 200) if trial % 2 else len(broken), size=3)
        broken[at] = rng.integers(0, 256, size=3)
        (tmp_path / name).write_bytes(broken[: rng.integers(len(broken))] if trial % 3 == 0 else broken)
        try:
            read(tmp_path / name)
        except DataError:
            failed += 1
    assert failed > 20


# Masks


def test_0_and_255_mean_0_and_1_for_two_classes_only():
    assert (mask(square_mask()) == square_mask(value=1)).all()
    assert (mask(square_mask(value=1)) == square_mask(value=1)).all()
    assert (mask(np.full((3, 4), 255, np.uint8)) == 1).all()
    assert (mask(square_mask() > 0) == square_mask(value=1)).all()
    assert (to_image(square_mask() > 0, GREY, Path("a")) == square_mask(value=1)).all()
    assert (mask(square_mask(), MANY) == square_mask(value=255)).all()


def test_255_is_ignore_beside_class_indices():
    pixels = np.array([[0, 1, 255, 3]], np.uint8)
    assert mask(pixels, MANY).tolist() == [[0, 1, 255, 3]]
    two = np.array([[0, 1, 255]], np.uint8)
    assert mask(two).tolist() == [[0, 1, 255]]
    border = np.array([[0, 255]], np.uint8)
    assert mask(border, labels={0: 0, 1: 1}).tolist() == [[0, 255]]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int64, np.float32, np.float64])
def test_a_label_map_in_every_kind_of_number(kind):
    pixels = np.array([[0, 10, 20, 30]]).astype(kind)
    assert mask(pixels, MANY, labels={0: 0, 10: 2, 20: 1, 30: 255}).tolist() == [[0, 2, 1, 255]]
    with pytest.raises(DataError, match=r"no class\. Got: 30"):
        mask(pixels, MANY, labels={0: 0, 10: 2, 20: 1})
    with pytest.raises(DataError, match=r"no class\. Got: 10\b"):
        mask(pixels, MANY, labels={0: 0, 10: 9, 20: 1, 30: 2})  # there is no class 9


def test_labels_outside_the_classes_are_named():
    with pytest.raises(DataError, match=r"no class\. Got: 4, 7\. Allowed: 0, 1, 2, 3, or 255 to ignore\. Name them"):
        mask(np.array([[0, 4, 7, 255]], np.uint8), MANY)
    with pytest.raises(DataError, match=r"Got: 1, 2, 3, 4, 5, 6 and 4 more"):
        mask(np.arange(11, dtype=np.uint16)[None], labels={0: 0})
    with pytest.raises(DataError, match="save masks as PNG"):
        mask(np.array([[0, 3, 251]], np.uint8), path="m.jpg")
    with pytest.raises(DataError, match="no class"):
        mask(np.array([[0.0, np.nan]]))


def test_colour_and_size_of_a_mask(tmp_path):
    grey = np.repeat(square_mask()[..., None], 3, axis=2)
    assert (to_mask(grey, GREY, tmp_path, shape=(12, 16)) == square_mask(value=1)).all()
    with pytest.raises(DataError, match="colour picture"):
        to_mask(picture(shape=(12, 16, 3)), GREY, tmp_path, shape=(12, 16))
    with pytest.raises(DataError, match=r"another size than the image\. Got: \(12, 16\)\. Allowed: \(16, 12\)"):
        to_mask(square_mask(), GREY, tmp_path, shape=(16, 12))
