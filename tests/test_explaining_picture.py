import numpy as np
import pytest
from PIL import Image

from xaiseg.explainers.base import Attribution, get_explainer
from xaiseg.explainers.targets import Border, Region
from xaiseg.explaining import Explanation
from xaiseg.explaining_picture import colour_scale, draw


def explanation(values, targets, method="occlusion"):
    return Explanation(get_explainer(method), tuple(targets), Attribution(np.asarray(values, dtype=np.float32)))


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 20, 60), (3, 60, 20), (4, 9, 9)])
def test_pictures_of_all_shapes_are_drawn_with_blank_and_signed_maps(tmp_path, channels, height, width):
    rng = np.random.default_rng(0)
    image = rng.random((channels, height, width)).astype(np.float32)
    mask = np.zeros((height, width), dtype=bool)
    mask[3:7, 3:7] = True
    region, full = Region(1, mask, label="lesion"), Region(1, np.ones_like(mask), label="lesion")
    blank, signed = np.zeros((1, height, width)), rng.standard_normal((1, height, width))
    draw(tmp_path / "picture.png", image, [explanation(blank, [region]), explanation(signed, [region])])
    draw(tmp_path / "full.png", np.zeros_like(image), [explanation(blank, [full])])
    for name in ("picture.png", "full.png"):
        with Image.open(tmp_path / name) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
            assert not picture.info.get("Software")


def test_targets_of_one_kind_and_unit_share_the_scale_of_a_method_and_have_a_row_each(tmp_path):
    mask = np.array([[True, False], [False, False]])
    targets = [Region(1, mask), Region(0, ~mask), Region(1, mask, "probability"), Border(1, mask)]
    maps = explanation([np.full((2, 2), value) for value in (4.0, -1.0, 0.5, 0.1)], targets)
    assert [colour_scale(maps, index) for index in range(4)] == pytest.approx([4.0, 4.0, 0.5, 0.1])
    assert [maps.unit(index) for index in range(4)] == ["logit", "logit", "probability", "logit"]
    draw(tmp_path / "rows.png", np.zeros((1, 2, 2), dtype=np.float32), [maps])
    with Image.open(tmp_path / "rows.png") as picture:
        assert picture.size[1] > picture.size[0]


def test_a_blank_map_has_the_scale_1_and_a_lone_peak_its_own():
    mask = np.ones((20, 20), dtype=bool)
    assert colour_scale(explanation(np.zeros((1, 20, 20)), [Region(1, mask)]), 0) == 1.0
    lone = np.zeros((1, 20, 20))
    lone[0, 3, 3] = -7.0
    assert colour_scale(explanation(lone, [Region(1, mask)]), 0) == 7.0
