from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from xaiseg.reports.gallery import colours, data_uri, galleries, map_limits
from xaiseg.run import EvidenceItem


def item(case, kinds=("random",), draw=0, scores=None, **arrays):
    held = {"image": np.full((40, 60), 90, np.uint8), **arrays}
    return EvidenceItem(case, tuple(kinds), scores or {}, draw, held)


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_pictures_are_reduced_and_carry_no_metadata():
    picture = decoded(data_uri(np.zeros((900, 1800, 3), np.uint8)))
    assert picture.size == (448, 224)
    assert not picture.getexif()
    assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_colours_are_symmetric_in_lightness_and_saturate():
    scale = colours(np.linspace(-2, 2, 9)[None], 1.0)[0].astype(float)
    assert scale[4].tolist() == [221, 221, 221]
    assert (scale[0] == scale[2]).all()
    assert (scale[8] == scale[6]).all()
    assert scale[3][2] > scale[3][0]
    assert scale[5][0] > scale[5][2]


def test_a_map_of_nan_or_zeros_is_grey():
    assert (colours(np.array([[np.nan, 0.0]]), 0.0) == 221).all()


def test_one_scale_for_all_cases():
    maps = [np.full((64, 64), value, np.float16) for value in (0.25, -2.0)]
    items = [item(str(n), **{"map:m": values}) for n, values in enumerate(maps)]
    assert map_limits(items) == {"m": 2.0}


def test_worst_stand_beside_random_and_maps_only_where_they_are_judged():
    heat = np.linspace(-1, 1, 64 * 64, dtype=np.float16).reshape(64, 64)
    items = [
        item("good", ("random",), 1, {"performance.segmentation": 0.9}),
        item("bad", ("worst:performance.segmentation",), 9, {"performance.segmentation": 0.1}),
        item("worse", ("worst:performance.segmentation",), 8, {"performance.segmentation": 0.0}),
        item("map", ("random", "worst:explanation"), 2, {"explanation": -1.0}, **{"map:cam": heat}),
    ]
    names = {"performance.segmentation": "Dice", "explanation": "gain"}
    performance, explanation = galleries(items, words={"bad": ("p1", "missed")}, scores=names, seed=3)
    assert performance.title == "Worst by Dice"
    assert [page.case for page in performance.worst] == ["worse", "bad"]
    assert [page.case for page in performance.random] == ["good", "map"]
    assert [panel.title for panel in performance.worst[0].panels] == ["image", "outlines"]
    assert performance.worst[1].what == "missed"
    assert performance.rows[0][0].case == "worse"
    assert "seed 3" in performance.why
    assert [panel.title for panel in explanation.worst[0].panels] == ["image", "outlines", "cam"]
    assert [page.case for page in explanation.random] == ["map", "good"], "cases with maps come first"
    assert explanation.scales == (("cam", "±0.99"),)


def test_outlines_run_along_the_border_of_the_mask():
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 15:45] = 1
    mask[0, 0] = 255
    (gallery,) = galleries([item("a", reference=mask)], words={}, scores={}, seed=0)
    drawn = str(gallery.random[0].panels[1].picture)
    path = re.search(r'd="([^"]+)" fill="none" stroke="#ffd34d"', drawn).group(1)
    points = np.array([[float(v) for v in pair.split()] for pair in path.removeprefix("M").split(" L")])
    assert points[:, 0].min() == pytest.approx(15, abs=0.1)
    assert points[:, 0].max() == pytest.approx(45, abs=0.1)
    assert points[:, 1].min() == pytest.approx(10, abs=0.1)
    assert points[:, 1].max() == pytest.approx(20, abs=0.1)
    assert "stroke-dasharray" in drawn
    assert "reference covers 12.5 % of the image; no prediction" in drawn


def test_many_large_pictures_stay_within_the_budget():
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    heat = np.zeros((64, 64), np.float16)
    kinds = ("random", "worst:performance.segmentation", "worst:explanation", "worst:third")
    items = [
        EvidenceItem(str(n), kinds, dict.fromkeys((k[6:] for k in kinds[1:]), 0.0), n, {"image": noise, "map:a": heat})
        for n in range(18)
    ]
    found = galleries(items, words={}, scores={}, seed=0)
    size = sum(len(panel.picture) for g in found for page in g.worst + g.random for panel in page.panels)
    assert len(found) == 3
    assert 500_000 < size <= 4_500_000


def test_no_evidence_no_gallery():
    assert galleries([], words={}, scores={}, seed=0) == ()
