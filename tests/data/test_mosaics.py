"""Tiles of large pictures: every pixel and box is there once, and memory stays with the band."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import tifffile
from PIL import Image

from xaiseg.cli import main
from xaiseg.data import mosaics
from xaiseg.data.case import ImageSpec
from xaiseg.data.mosaics import Cut, cut_folder, tiles
from xaiseg.data.pixels import read_pixels
from xaiseg.data.readers import entry_from_folder, load_case, open_dataset
from xaiseg.errors import DataError, UsageError

KINDS = {
    "plain.tif": {},
    "zip.tif": {"tile": (64, 64), "compression": "zlib"},
    "strips.tif": {"rowsperstrip": 37, "compression": "zlib"},
}


def picture(*, colour=True, shape=(300, 410), seed=0):
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3) if colour else shape, dtype=np.uint8)


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("name", [*KINDS, "p.png"])
@pytest.mark.parametrize("cut", [Cut(100), Cut(128, 40), Cut(500)])
def test_tiles_are_the_picture(tmp_path, name, colour, cut):
    pixels = picture(colour=colour)
    if name.endswith(".png"):
        Image.fromarray(pixels).save(tmp_path / name)
    else:
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb" if colour else "minisblack", **KINDS[name])
    again, seen = np.zeros_like(pixels), np.zeros(pixels.shape[:2], int)
    for top, left, tile in tiles(tmp_path / name, cut):
        height, width = tile.shape[:2]
        assert max(height, width) <= cut.size
        again[top : top + height, left : left + width] = tile
        seen[top : top + height, left : left + width] += 1
    assert (again == pixels).all()
    assert seen.min() == 1
    assert (seen.max() > 1) == (cut.overlap > 0)


@pytest.mark.parametrize("kind", [{}, {"tile": (256, 256), "compression": "zlib"}])
def test_memory_stays_with_the_band(tmp_path, kind):
    tifffile.imwrite(tmp_path / "m.tif", np.zeros((4096, 4096), np.uint8), **kind)
    tracemalloc.start()
    count = sum(1 for _ in tiles(tmp_path / "m.tif", Cut(256)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 256
    assert peak < 4096 * 4096 / 3, "the whole picture has 16 MiB, a band 1 MiB"


def test_what_can_only_be_decoded_whole_has_a_limit(tmp_path, monkeypatch):
    Image.fromarray(picture()).save(tmp_path / "p.png")
    monkeypatch.setattr(mosaics, "WHOLE_MEGAPIXELS", 0.1)
    with pytest.raises(DataError, match=r"too large. Got: 0 megapixels. Allowed: 0.1 megapixels. Save it as TIFF"):
        next(tiles(tmp_path / "p.png", Cut(100)))


def test_turned_pictures_are_turned_or_refused(tmp_path):
    turned = Image.fromarray(picture(shape=(40, 90)))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "p.png", exif=exif)
    (tile,) = [pixels for _, _, pixels in tiles(tmp_path / "p.png", Cut(100))]
    assert (tile == np.rot90(picture(shape=(40, 90)), -1)).all()
    for name, more in (("t.tif", {"extratags": [(274, 3, 1, 6, True)]}), ("a.tif", {"planarconfig": "separate"})):
        pixels = picture(shape=(40, 90))
        pixels = np.moveaxis(pixels, -1, 0) if name == "a.tif" else pixels
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", **more)
        with pytest.raises(DataError, match="this kind of TIFF is not cut"):
            next(tiles(tmp_path / name, Cut(100)))


def world(folder):
    (folder / "images" / "a").mkdir(parents=True)
    Image.fromarray(picture()).save(folder / "images" / "a" / "m.png")
    document = {
        "images": [{"id": 5, "file_name": "a/m.png", "width": 410, "height": 300, "habitat": "ice"}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 3, "bbox": [95, 20, 30, 12]}],
        "categories": [{"id": 3, "name": "seal"}],
    }
    (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def test_a_cut_folder_can_be_audited(tmp_path):
    assert cut_folder(world(tmp_path / "big"), tmp_path / "small", Cut(100)).tiles == 15
    entry = entry_from_folder(tmp_path / "small")
    spec = ImageSpec(3, classes=("seal",), task="detection")
    data = open_dataset("test", entry, root=tmp_path, spec=spec)
    assert (len(data.cases), data.n_clusters, data.cluster_column) == (15, 1, "group")
    assert {case.survey["footprint"] for case in data.cases} == {"disjoint"}
    boxes = {case.id: load_case(entry, case, spec).boxes.tolist() for case in data.cases}
    assert [box for held in boxes.values() for box in held] == [[95, 20, 100, 32, 255], [0, 20, 25, 32, 0]]


def test_tiles_keep_outlines(tmp_path):
    folder = world(tmp_path / "big")
    document = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    slanted = [95, 26, 110, 20, 125, 26, 110, 32]
    document["annotations"][0]["segmentation"] = [slanted]
    (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    cut_folder(folder, tmp_path / "small", Cut(100))
    entry = entry_from_folder(tmp_path / "small")
    spec = ImageSpec(3, classes=("seal",), task="detection")
    cases = [load_case(entry, ref, spec) for ref in open_dataset("test", entry, root=tmp_path, spec=spec).cases]
    left, right = (case for case in cases if len(case.boxes))
    assert left.boxes.tolist() == [[95, 24, 100, 28, 255]]  # the tip: less than half of the animal
    assert right.boxes.tolist() == [[0, 20, 25, 32, 0]]
    assert right.outlines[0][0].tolist() == [[0, 28], [0, 24], [10, 20], [25, 26], [10, 32]]


@pytest.mark.parametrize(
    ("overlap", "box", "ignored"), [(0, [80, 82, 40, 36], [0, 1, 1, 1]), (20, [82, 82, 20, 16], [0, 0, 0, 0])]
)
def test_an_animal_in_a_corner_of_four_tiles_is_in_the_total_once(tmp_path, overlap, box, ignored):
    folder = with_document(world(tmp_path / "big"), thing={"bbox": box})
    cut_folder(folder, tmp_path / "small", Cut(100, overlap))
    assert sorted(box["iscrowd"] for box in document_of(tmp_path / "small")["annotations"]) == ignored


def test_sixteen_bits_stay_sixteen_bits(tmp_path):
    pixels = np.random.default_rng(0).integers(7000, 9000, (60, 70), dtype=np.uint16)
    Image.fromarray(pixels).save(tmp_path / "thermal.png")
    ((_, _, tile),) = tiles(tmp_path / "thermal.png", Cut(100))
    assert tile.dtype == np.uint16
    assert (tile == pixels).all()


def two_pictures(folder, meta=""):
    (folder / "images").mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(picture(shape=(100, 150))).save(folder / "images" / f"{name}.png")
    images = [{"id": name, "file_name": f"{name}.png"} for name in ("a", "b")]
    outline = {"id": 1, "image_id": "a", "category_id": 3, "segmentation": [[10, 20, 40, 20, 40, 30]]}
    document = {"images": images, "annotations": [outline], "categories": [{"id": 3, "name": "seal"}]}
    (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    if meta:
        (folder / "meta.csv").write_text(meta, encoding="utf-8")
    return folder


def test_tiles_carry_the_sidecar_of_their_picture(tmp_path):
    meta = "id,flight,habitat,known_empty,spacing_mm,probability\na,f1,ice,false,12,0.5\nb,f1,,yes,,0.5\n"
    cut_folder(two_pictures(tmp_path / "big", meta), tmp_path / "small", Cut(100))
    held = json.loads((tmp_path / "small" / "annotations.json").read_text(encoding="utf-8"))
    own = {"flight", "habitat", "known_empty", "spacing_mm", "probability", "group", "footprint"}
    rows = {image["file_name"]: {key: image[key] for key in own & set(image)} for image in held["images"]}
    assert rows["a_y00000_x00100.png"] == {"flight": "f1", "habitat": "ice", "spacing_mm": "12"}
    assert rows["b_y00000_x00000.png"] == {"flight": "f1", "habitat": "", "known_empty": "yes", "spacing_mm": ""}
    assert [box["bbox"] for box in held["annotations"]] == [[10, 20, 30, 10]], "the box around the polygon"
    entry = entry_from_folder(tmp_path / "small")
    assert entry.cluster == "flight"


def test_a_picture_of_overlapping_ground_stays_one_in_any_spelling(tmp_path):
    folder = world(tmp_path / "big")
    (folder / "meta.csv").write_text("id,Footprint,flight,Draws\na/m,overlapping,1,3\n", encoding="utf-8")
    cut_folder(folder, tmp_path / "small", Cut(100))
    tile = document_of(tmp_path / "small")["images"][0]
    assert {name: tile[name] for name in tile if name.lower() in ("footprint", "draws")} == {"footprint": "overlapping"}
    cut_folder(folder, tmp_path / "more", Cut(100, 20))
    assert {image["footprint"] for image in document_of(tmp_path / "more")["images"]} == {"overlapping"}
    assert "Footprint" not in document_of(tmp_path / "more")["images"][0]


def test_tiles_say_what_the_uncut_folder_says(tmp_path):
    own = {"flight": "coco", "Known_Empty": False, "drawn": 2, "season": "may"}
    folder = with_document(world(tmp_path / "big"), image=own)
    (folder / "meta.csv").write_text("id,flight,width,draws,habitat\na/m,meta,7,3,\n", encoding="utf-8")
    cut_folder(folder, tmp_path / "small", Cut(100))
    tile = document_of(tmp_path / "small")["images"][0]
    assert tile == {
        "id": 0, "file_name": "a_m_y00000_x00000.png", "width": 100, "height": 100, "mosaic": "a_m",
        "flight": "meta", "season": "may", "habitat": "", "footprint": "disjoint",
    }  # fmt: skip
    spec = ImageSpec(3, classes=("seal",), task="detection")
    for name in ("big", "small"):
        data = open_dataset("test", entry_from_folder(tmp_path / name), root=tmp_path, spec=spec)
        assert {case.cluster for case in data.cases} == {"meta"}


def test_a_blank_flight_stays_blank(tmp_path):
    folder = two_pictures(tmp_path / "big", "id,flight\na,f1\nb,\n")
    cut_folder(folder, tmp_path / "small", Cut(100))
    spec = ImageSpec(3, classes=("seal",), task="detection")
    for name in ("big", "small"):
        data = open_dataset("test", entry_from_folder(tmp_path / name), root=tmp_path, spec=spec)
        assert {case.cluster for case in data.cases} == {"f1", "(no flight)"}


def test_nobody_says_that_several_pictures_show_different_ground(tmp_path):
    cut_folder(two_pictures(tmp_path / "big"), tmp_path / "small", Cut(100))
    held = json.loads((tmp_path / "small" / "annotations.json").read_text(encoding="utf-8"))
    assert not any("footprint" in image for image in held["images"])
    assert {image["group"] for image in held["images"]} == {"a", "b"}
    with pytest.raises(UsageError, match="names pictures that are not there.*Got: c"):
        cut_folder(two_pictures(tmp_path / "lost", "id,flight\nc,f1\n"), tmp_path / "none", Cut(100))


def test_pictures_without_labels_become_tiles_without_labels(tmp_path):
    folder = tmp_path / "big"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(picture(shape=(100, 150))).save(folder / f"{name}.png")
    (folder / "meta.csv").write_text("id,habitat\na,ice\n", encoding="utf-8")
    assert cut_folder(folder, tmp_path / "small", Cut(100)).tiles == 4
    assert not (tmp_path / "small" / "annotations.json").exists()
    table = (tmp_path / "small" / "meta.csv").read_text(encoding="utf-8").splitlines()
    assert table[0] == "id,habitat,group,mosaic"
    assert table[1:3] == ["a_y00000_x00000,ice,a,a", "a_y00000_x00100,ice,a,a"]
    assert table[3] == "b_y00000_x00000,,b,b"


@pytest.mark.parametrize(
    ("file", "kind"), [("labels/a.txt", "yolo"), ("images/a.xml", "voc"), ("masks/a.png", "masks/")]
)
def test_labels_that_are_not_cut_are_not_lost(tmp_path, file, kind):
    folder = tmp_path / "big"
    for name in ("images/a.png", file):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture()).save(folder / name, format="PNG")
    with pytest.raises(UsageError, match=f"labels of this kind are not cut. Got: {kind}"):
        cut_folder(folder, tmp_path / "small", Cut(100))


def test_the_only_coco_file_is_found_by_any_name(tmp_path):
    folder = two_pictures(tmp_path / "big")
    (folder / "annotations.json").rename(folder / "seals.json")
    cut_folder(folder, tmp_path / "small", Cut(100))
    assert (tmp_path / "small" / "annotations.json").is_file()


def document_of(folder):
    return json.loads((folder / "annotations.json").read_text(encoding="utf-8"))


def with_document(folder, **parts):
    """The folder, with other fields of its image and its annotation, or other lists altogether."""
    document = document_of(folder)
    document["images"][0] |= parts.pop("image", {})
    document["annotations"][0] |= parts.pop("thing", {})
    (folder / "annotations.json").write_text(json.dumps(document | parts), encoding="utf-8")
    return folder


SEAL = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [95, 20, 30, 12]}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"thing": {"image_id": "5"}}, r"1: this image is not listed\. Got: 5\. .*number and not as text"),
        ({"annotations": [SEAL, SEAL]}, "two annotations have the same id"),
        ({"images": [{"id": 5, "file_name": name} for name in ("a/m.png", "b.png")]}, "two images have the same id"),
        ({"images": [{"id": 5, "file_name": "../m.png"}]}, "leaves the folder of images"),
        ({"thing": {"bbox": [300, 200, 340, 240]}}, "read like corners"),
        ({"thing": {"bbox": [0.2, 0.2, 0.1, 0.1]}}, "read like shares"),
        ({"thing": {"bbox": [95, 20, -30, 12]}}, r"annotations\.json: the box of annotation 1 is no box"),
        ({"thing": {"bbox": [95, 20, 30]}}, r"annotations\.json: the box of annotation 1 is no box"),
        ({"thing": {"bbox": 95}}, r"annotations\.json: the box of annotation 1 is no box"),
        ({"thing": {"bbox": [500, 20, 30, 12]}}, r"m\.png: the box of annotation 1 lies mostly outside"),
        ({"thing": {"segmentation": [[1, 2, 3]]}}, "the outline of annotation 1 cannot be drawn"),
        ({"thing": {"bbox": [], "segmentation": [[500, 0, 510, 0, 510, 10]]}}, "outline of annotation 1 lies outside"),
        ({"image": {"width": 820, "height": 600}}, r"m\.png: .*another size.* Got: 300 x 410\. Allowed: 600 x 820"),
    ],
)
def test_what_the_reader_refuses_is_not_cut(tmp_path, parts, message):
    with pytest.raises((UsageError, DataError), match=message):
        cut_folder(with_document(world(tmp_path / "big"), **parts), tmp_path / "small", Cut(100))
    assert not (tmp_path / "small").exists(), "nothing was written"


def test_the_size_of_a_turned_picture_is_that_of_its_tiles(tmp_path):
    folder = world(tmp_path / "big")
    turned = Image.fromarray(picture(shape=(410, 300)))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "images" / "a" / "m.png", exif=exif)
    assert cut_folder(folder, tmp_path / "small", Cut(100)).tiles == 15


def test_pictures_that_are_not_listed_are_said(capsys, tmp_path):
    folder = world(tmp_path / "big")
    for name in ("n1.png", "n2.png", "n3.png", "n4.png"):
        Image.fromarray(picture(shape=(40, 40))).save(folder / "images" / "a" / name)
    with pytest.raises(SystemExit):
        main(["tiles", str(folder), "--out", str(tmp_path / "small"), "--size", "100"])
    said = capsys.readouterr().out
    assert "wrote 15 tiles" in said
    assert "the COCO file does not list them: 4 (a/n1.png, a/n2.png, a/n3.png and 1 more)" in " ".join(said.split())


def test_tiles_of_two_pictures_are_never_written_over_one_another(tmp_path):
    folder = world(tmp_path / "big")
    Image.fromarray(picture()).save(folder / "images" / "a_m.png")
    images = [*document_of(folder)["images"], {"id": 6, "file_name": "a_m.png"}]
    with pytest.raises(UsageError, match=r"tiles of the same name\. Got: a/m\.png, a_m\.png"):
        cut_folder(with_document(folder, images=images), tmp_path / "small", Cut(100))


def test_overlapping_tiles_say_so_and_nothing_is_written_over(tmp_path):
    cut_folder(world(tmp_path / "big"), tmp_path / "small", Cut(100, 20))
    document = json.loads((tmp_path / "small" / "annotations.json").read_text(encoding="utf-8"))
    assert {image["footprint"] for image in document["images"]} == {"overlapping"}
    with pytest.raises(UsageError, match="not empty"):
        cut_folder(tmp_path / "big", tmp_path / "small", Cut(100))


@pytest.mark.parametrize(("size", "overlap"), [(16, 0), (64, 40), (64, -1)])
def test_senseless_cuts_are_refused(size, overlap):
    with pytest.raises(UsageError, match="tiles must be"):
        Cut(size, overlap)


def test_a_missing_or_damaged_picture_is_said(tmp_path):
    with pytest.raises(DataError, match="missing"):
        next(tiles(tmp_path / "no.tif", Cut(100)))
    for name in ("bad.tif", "bad.png"):
        (tmp_path / name).write_bytes(b"no picture at all")
        with pytest.raises(DataError, match="cannot be decoded"):
            next(tiles(tmp_path / name, Cut(100)))


@pytest.mark.parametrize("kind", [{}, {"compression": "zlib"}])
def test_stacks_are_refused_as_where_they_are_read_uncut(tmp_path, kind):
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((3, 90, 80), np.uint8), photometric="minisblack", **kind)
    for of in (read_uncut, mosaics.size_of, lambda path: list(tiles(path, Cut(64)))):
        with pytest.raises(DataError, match=r"the TIFF is a stack\. Got: 3 pages\. Allowed: one picture a file"):
            of(tmp_path / "s.tif")


def read_uncut(path):
    return read_pixels(path, max_pixels=10**9)


@pytest.mark.parametrize("kind", KINDS.values())
def test_smaller_copies_of_a_picture_are_no_stack(tmp_path, kind):
    pixels = picture(shape=(128, 192))
    with tifffile.TiffWriter(tmp_path / "p.tif") as file:
        file.write(pixels[::2, ::2], photometric="rgb", subfiletype=1)
        file.write(pixels, photometric="rgb", **kind)
    ((_, _, tile),) = tiles(tmp_path / "p.tif", Cut(256))
    assert (tile == pixels).all()


@pytest.mark.parametrize("name", [*KINDS, "p.png"])
@pytest.mark.parametrize("left", [0.3, 0.9])
def test_what_breaks_off_is_said_as_where_it_is_read_uncut(tmp_path, name, left):
    path = tmp_path / name
    if name.endswith(".png"):
        Image.fromarray(picture()).save(path)
    else:
        tifffile.imwrite(path, picture(), photometric="rgb", **KINDS[name])
    held = path.read_bytes()
    path.write_bytes(held[: int(left * len(held))])
    for of in (read_uncut, lambda path: list(tiles(path, Cut(100)))):
        with pytest.raises(DataError, match="cannot be decoded"):
            of(path)
