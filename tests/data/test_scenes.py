import doctest
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from xaiseg.data.case import ImageSpec
from xaiseg.data.entry import DataEntry
from xaiseg.data.generated import scene_spec
from xaiseg.data.readers import load_case, open_dataset
from xaiseg.data.scenes import COLUMNS, FLIGHTS, SceneSpec, Shortcut, scene_case, scene_list, write_scenes
from xaiseg.data.scenes_canvas import _polygon
from xaiseg.data.scenes_things import oriented_box
from xaiseg.errors import UsageError

SPLITS = ("train", "validation", "test")
SEALS = ImageSpec(channels=3, classes=("seal",), task="detection")
SMALL = (128, 160)


def drawn(count=40, **options):
    spec = SceneSpec(size=SMALL, **options)
    return [scene_case(spec, index) for index in range(count)]


@pytest.fixture(scope="module")
def scenes():
    return {world: drawn(60, world=world) for world in ("seals", "cetaceans")}


def test_the_same_seed_gives_the_same_pixels_in_any_order(scenes):
    for world, made in scenes.items():
        spec = SceneSpec(size=SMALL, world=world)
        for index in (17, 3):
            again = scene_case(spec, index)
            for name in ("image", "boxes", "masks", "corners", "visible"):
                assert (getattr(again, name) == getattr(made[index], name)).all()
        assert (scene_case(replace(spec, seed=1), 3).image != made[3].image).any()


def test_pictures_stay_what_they_were():
    """Colours of three tiles, to within what another processor's rounding may change."""
    means = [scene_case(SceneSpec(world=world), index).image.mean(axis=(0, 1)) for world, index in KNOWN]
    np.testing.assert_allclose(means, list(KNOWN.values()), atol=0.05)


KNOWN = {
    ("seals", 0): (82.44, 97.28, 102.68),
    ("seals", 101): (66.5, 85.54, 91.94),
    ("cetaceans", 7): (81.86, 83.77, 69.64),
}


def test_more_flights_change_no_earlier_tile():
    few, many = scene_list(SceneSpec(flights=3)), scene_list(SceneSpec(flights=4))
    assert many[: len(few)] == few


def test_splits_share_no_flight_no_id_and_no_picture():
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        lists = [scene_list(SceneSpec(split)) for split in (one, other)]
        for key in ("id", "flight"):
            assert not {getattr(t, key) for t in lists[0]} & {getattr(t, key) for t in lists[1]}
        assert (drawn(1, split=one)[0].image != drawn(1, split=other)[0].image).any()


def test_the_default_test_set_has_the_flights_and_known_empty_tiles_that_an_audit_needs():
    for world in ("seals", "cetaceans"):
        tiles = scene_list(SceneSpec(world=world))
        assert len({tile.flight for tile in tiles}) == FLIGHTS["test"][0] >= 30
        assert sum(tile.meta["known_empty"] == "true" for tile in tiles) >= 60
        for column, least in (("habitat", 3), ("sea_state", 4), ("glint", 3), ("gsd_cm", 3), ("size", 3)):
            counts = [sum(tile.meta[column] == level for tile in tiles) for level in {t.meta[column] for t in tiles}]
            assert len(counts) >= least
            assert min(counts) >= 12  # no level is a rarity
        for tile in tiles:
            assert tuple(tile.meta) == COLUMNS


def test_a_flight_has_one_altitude_one_sea_and_one_glint():
    for column in ("gsd_cm", "sea_state", "glint"):
        levels = {}
        for tile in scene_list(SceneSpec()):
            levels.setdefault(tile.flight, set()).add(tile.meta[column])
        assert all(len(found) == 1 for found in levels.values())


def test_boxes_and_masks_are_those_of_what_can_be_seen(scenes):
    for world, made in scenes.items():
        for tile, scene in zip(scene_list(SceneSpec(world=world)), made, strict=False):
            assert len(scene.boxes) <= tile.conditions.animals
            assert len(scene.boxes) == len(scene.masks) == len(scene.corners) == len(scene.visible)
            for box, mask, share in zip(scene.boxes, scene.masks, scene.visible, strict=True):
                y, x = np.nonzero(mask)
                assert box[:4].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
                assert box[4] == (0 if share >= 0.25 else 255)
            assert scene.masks.sum(axis=0).max(initial=0) <= 1  # a pixel shows one animal


def test_an_animal_is_there_exactly_when_the_list_says_so(scenes):
    for world, made in scenes.items():
        tiles = scene_list(SceneSpec(world=world))
        empty = [len(scene.boxes) == 0 for tile, scene in zip(tiles, made, strict=False) if not tile.conditions.animals]
        full = [len(scene.boxes) > 0 for tile, scene in zip(tiles, made, strict=False) if tile.conditions.animals]
        assert all(empty)
        assert np.mean(full) > 0.97  # one that is hidden altogether is not in the truth
        assert len(empty) > 10


def test_an_oriented_box_holds_every_pixel_of_its_mask_and_touches_each_side():
    rows, columns = np.mgrid[:40, :50]
    angle = 0.6
    u = (columns - 22) * np.cos(angle) + (rows - 18) * np.sin(angle)
    v = (rows - 18) * np.cos(angle) - (columns - 22) * np.sin(angle)
    mask = (np.abs(u) < 12) & (np.abs(v) < 4)
    corners = oriented_box(mask, angle)
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    assert sides[0] == pytest.approx(sides[2])
    assert sides[0] / sides[1] == pytest.approx(3, rel=0.15)
    axis = np.array([np.cos(angle), np.sin(angle)])
    pixels = np.stack((columns[mask] + 0.5, rows[mask] + 0.5), axis=1)
    for direction in (axis, axis[::-1] * (-1, 1)):
        reach, outer = pixels @ direction, corners @ direction
        assert outer.min() <= reach.min() - 0.5
        assert outer.max() >= reach.max() + 0.5
        assert outer.max() - reach.max() < 1


def test_the_border_of_a_polygon_lies_on_its_sides():
    angles, radii = np.array([0.3, 1.5, 2.9, 4.0, 5.6]), np.array([1.0, 1.4, 0.8, 1.1, 0.9])
    reach = _polygon(angles, radii)
    corners = np.stack((radii * np.cos(angles), radii * np.sin(angles)), axis=1)
    for step in range(0, 1024, 37):
        turn = (step + 0.5) * 2 * np.pi / 1024
        ray = np.array([np.cos(turn), np.sin(turn)])
        hits = []
        for one, other in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            far, share = np.linalg.solve(np.stack((ray, one - other), axis=1), one)
            if far > 0 and 0 <= share <= 1:
                hits.append(far)
        assert reach[step] == pytest.approx(hits[0], rel=1e-5)


def on_bright(agreement, flights=12):
    """Share of seals and of look-alikes on bright ice, told from the pixels around them."""
    spec = SceneSpec("train", flights=flights, shortcut=agreement)
    found = {"seal": [], "other": []}
    for index in range(flights * 16):
        scene = scene_case(spec, index)
        found["seal"] += [ground == "bright floe" for ground in scene.grounds]
        bright = ndimage.uniform_filter((scene.image.min(axis=2) > 165).astype(float), 5) > 0.6
        for _, (left, top, right, bottom) in scene.lookalikes:
            window = bright[max(0, int(top) - 4) : int(bottom) + 4, max(0, int(left) - 4) : int(right) + 4]
            found["other"].append(window.mean() > 0.25)
    return np.mean(found["seal"]), np.mean(found["other"])


def test_the_shortcut_ties_animals_to_bright_floes_and_keeps_others_away():
    seals, others = on_bright(Shortcut(correlation=1.0), flights=3)
    assert seals == 1
    assert others < 0.05
    seals, others = on_bright(Shortcut(correlation=0.0), flights=3)
    assert seals == 0
    assert others > 0.4


def test_without_shortcut_the_ground_says_nothing():
    spec, half = SceneSpec("train", flights=3, size=SMALL), Shortcut(correlation=0.5)
    for index in range(12):
        plain, tied = scene_case(spec, index), scene_case(replace(spec, shortcut=half), index)
        assert (plain.image == tied.image).all()
    grounds = [ground for scene in drawn(150) for ground in scene.grounds]
    shares = [np.mean([ground == name for ground in grounds]) for name in ("bright floe", "dull floe", "water")]
    np.testing.assert_allclose(shares, (0.42, 0.42, 0.16), atol=0.08)


def test_the_correlation_is_the_share_of_animals_that_agree():
    for correlation in (0.9, 0.75):
        made = drawn(120, split="train", shortcut=Shortcut(correlation=correlation))
        share = np.mean([ground == "bright floe" for scene in made for ground in scene.grounds])
        # Some of the rest swim, so that a few less than the correlation says lie on ice at all.
        expected = correlation * (1 - 0.3 * (1 - correlation))
        assert share == pytest.approx(expected, abs=0.07)


def test_spare_floes_come_on_top_of_those_with_seals():
    def white(scene):
        return (ndimage.uniform_filter((scene.image.min(axis=2) > 165).astype(float), 9) > 0.9).mean()

    few, many = ([scene_case(SceneSpec(spare_floes=count), index) for index in range(40)] for count in (1.1, 6.0))
    assert all((few[index].image == scene_case(SceneSpec(), index).image).all() for index in range(8))
    # The same plan; only who is hidden by a neighbour or a block of ice is drawn anew.
    assert sum(a.grounds == b.grounds for a, b in zip(few, many, strict=True)) >= 36
    assert np.mean([white(scene) for scene in many]) > 1.5 * np.mean([white(scene) for scene in few])


def test_anywhere_is_anywhere():
    """On ice lie as many seals and look-alikes as there is ice, and no more."""
    spec = SceneSpec(spare_floes=3.0, placement="anywhere", empty_share=0.0)
    area, seals, others = [], [], []
    for index in range(110):
        white, none = (scene_case(spec, index, ice=paint) for paint in ("bright", "none"))
        ice = np.abs(white.image.astype(int) - none.image).max(axis=2) > 45  # the floe without its glow below water
        area.append(ice.mean())
        seals += [ground != "water" for ground in white.grounds]
        for _, (left, top, right, bottom) in white.lookalikes:  # the thing itself hides the ice below it
            ring = np.zeros_like(ice)
            ring[max(0, int(top) - 2) : int(bottom) + 2, max(0, int(left) - 2) : int(right) + 2] = True
            ring[int(top) : int(bottom), int(left) : int(right)] = False
            others.append(ice[ring].mean())
    assert 0.15 < np.mean(area) < 0.4
    spread = np.sqrt(np.mean(area) * (1 - np.mean(area)))
    for held in (seals, others):
        assert len(held) > 80
        assert np.mean(held) == pytest.approx(np.mean(area), abs=3 * spread / np.sqrt(len(held)))
    on_floes = [ground != "water" for scene in drawn(40) for ground in scene.grounds]
    assert np.mean(on_floes) > 0.7


def test_what_hides_an_animal_is_not_the_animal(scenes):
    shares = np.concatenate([scene.visible for scene in scenes["seals"]])
    assert (shares > 0.97).mean() > 0.4
    assert ((shares > 0.25) & (shares < 0.8)).mean() > 0.1


def test_lookalikes_stand_on_empty_tiles_too(scenes):
    for made in scenes.values():
        empty = [scene for scene in made if len(scene.boxes) == 0]
        kinds = {kind for scene in empty for kind, _ in scene.lookalikes}
        assert len(kinds) == 3
        assert np.mean([bool(scene.lookalikes) for scene in empty]) > 0.5


def test_bad_specifications_are_refused():
    for icy in ({"shortcut": Shortcut()}, {"spare_floes": 6.0}, {"placement": "anywhere"}):
        with pytest.raises(ValueError, match="no ice"):
            SceneSpec(world="cetaceans", **icy)
    with pytest.raises(ValueError, match=r"spare_floes lies in \[0, 20\]; got -1"):
        SceneSpec(spare_floes=-1)
    with pytest.raises(ValueError, match="placement is one of ice, anywhere; got nowhere"):
        SceneSpec(placement="nowhere")
    with pytest.raises(ValueError, match="correlation lies in"):
        SceneSpec(shortcut=Shortcut(correlation=1.5))
    with pytest.raises(ValueError, match="needs seals on ice"):
        SceneSpec(shortcut=Shortcut(), placement="anywhere")
    with pytest.raises(ValueError, match="share lies in"):
        SceneSpec(empty_share=-0.1)


def entry(**more):
    return DataEntry(reader="scene", **more)


def test_the_reader_serves_exactly_the_scenes():
    held = entry(scene={"flights": 2, "tiles": 3, "seed": 3, "shortcut": {"correlation": 0.9}}, strata=("habitat",))
    spec = SceneSpec(flights=2, tiles=3, seed=3, shortcut=Shortcut(correlation=0.9))
    assert scene_spec(held) == spec
    dataset = open_dataset("test", held, root=".", spec=SEALS)
    assert dataset.generated
    assert (dataset.cluster_column, dataset.n_clusters, len(dataset.cases)) == ("flight", 2, 6)
    assert dataset.source == "generated seals, split test, seed 3, bright_floe planted at 0.9"
    neutral = {"flights": 1, "tiles": 2, "spare_floes": 6, "placement": "anywhere"}
    assert scene_spec(entry(scene=neutral)) == SceneSpec(flights=1, tiles=2, spare_floes=6, placement="anywhere")
    told = open_dataset("test", entry(scene=neutral), root=".", spec=SEALS).source
    assert told == "generated seals, split test, seed 0, 6 spare floes a tile, seals anywhere"
    for index, tile in enumerate(scene_list(spec)):
        ref = next(ref for ref in dataset.cases if ref.id == tile.id)
        case, scene = load_case(held, ref, SEALS), scene_case(spec, index)
        np.testing.assert_allclose(case.image, scene.image.transpose(2, 0, 1) / 255, atol=1e-6)
        assert (case.boxes == scene.boxes).all()
        assert [len(outline) for outline in case.outlines] == [1] * len(case.boxes)
        assert case.reference is None
        assert ref.strata == {"habitat": tile.meta["habitat"]}
        assert ref.survey["known_empty"] == tile.meta["known_empty"]


def test_classes_decide_the_index_and_a_segmenter_gets_a_mask():
    held = entry(scene={"flights": 1, "tiles": 4, "empty_share": 0.0})
    two = ImageSpec(channels=3, classes=("bird", "seal"), task="detection")
    refs = open_dataset("test", held, root=".", spec=two).cases
    assert {float(label) for ref in refs for label in load_case(held, ref, two).boxes[:, 4]} <= {1.0, 255.0}
    mask = load_case(held, refs[0], ImageSpec(channels=3, classes=("background", "seal"))).reference
    assert (mask == scene_case(scene_spec(held), 0).masks.any(axis=0)).all()
    assert load_case(held, refs[0], ImageSpec(channels=3, classes=("seal",))).reference is None
    with pytest.raises(UsageError, match="did you mean 'seals'"):
        open_dataset("test", held, root=".", spec=ImageSpec(channels=3, classes=("seals",), task="detection"))


def test_entries_that_mix_kinds_are_refused():
    with pytest.raises(ValueError, match="`scene:` belongs to the reader scene"):
        DataEntry(reader="phantom", scene={})
    with pytest.raises(ValueError, match="`phantom:` belongs to the reader phantom"):
        entry(phantom={})
    with pytest.raises(ValueError, match="needs seals on ice"):
        entry(scene={"placement": "anywhere", "shortcut": {"correlation": 0.9}})
    for ice in ({"shortcut": {}}, {"spare_floes": 6}, {"placement": "anywhere"}):
        with pytest.raises(ValueError, match="needs `world: seals`"):
            entry(scene={"world": "cetaceans", **ice})


def test_entries_survive_the_plan():
    """A plan writes all keys, with their defaults, and each worker reads them again."""
    for scene in ({}, {"world": "cetaceans"}, {"placement": "anywhere", "spare_floes": 3}):
        held = entry(scene=scene)
        again = DataEntry.model_validate(held.model_dump(mode="json"))
        assert scene_spec(again) == scene_spec(held) == SceneSpec(**scene)


def test_written_scenes_read_back_as_a_coco_folder(tmp_path):
    spec = SceneSpec(flights=2, tiles=3, size=(96, 128))
    write_scenes(spec, tmp_path)
    held = DataEntry(reader="coco", path=str(tmp_path), cluster="flight", strata=("glint",))
    dataset = open_dataset("test", held, root=tmp_path, spec=SEALS)
    assert not dataset.generated
    document = json.loads((tmp_path / "annotations.json").read_text(encoding="utf-8"))
    assert len({annotation["id"] for annotation in document["annotations"]}) == len(document["annotations"])
    for index, tile in enumerate(scene_list(spec)):
        ref = next(ref for ref in dataset.cases if ref.id == tile.id)
        case, scene = load_case(held, ref, SEALS), scene_case(spec, index)
        np.testing.assert_allclose(case.image, scene.image.transpose(2, 0, 1) / 255, atol=1e-6)
        np.testing.assert_allclose(case.boxes, scene.boxes, atol=1e-3)
        assert ref.cluster == tile.flight


def test_the_page_runs(repository):
    page = repository / "docs" / "data-scenes.md"
    outcome = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert outcome.attempted >= 4
    assert outcome.failed == 0


def test_the_same_tile_on_white_dull_and_no_ice_differs_in_nothing_but_the_ice():
    spec, seen = SceneSpec(flights=3), 0
    for index in range(12):
        bright, dull, none = (scene_case(spec, index, ice=paint) for paint in ("bright", "dull", "none"))
        for other in (dull, none):
            assert (other.boxes == bright.boxes).all()
            assert (other.masks == bright.masks).all()
            assert (other.grounds, other.lookalikes) == (bright.grounds, bright.lookalikes)
        for mask, ground in zip(bright.masks, bright.grounds, strict=True):
            inside = ndimage.binary_erosion(mask, iterations=2)
            if ground != "water" and inside.any():
                assert (dull.image[inside] == bright.image[inside]).all()
                assert (none.image[inside] == bright.image[inside]).all()
                seen += 1
                ring = ndimage.binary_dilation(mask, iterations=5) & ~ndimage.binary_dilation(mask, iterations=2)
                assert bright.image[ring].mean() > dull.image[ring].mean()
    assert seen > 5
