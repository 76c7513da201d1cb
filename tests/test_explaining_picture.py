import numpy as np
import pytest
from PIL import Image

from xaiseg.explainers.base import Attribution, get_explainer
from xaiseg.explainers.targets import Border, Region
from xaiseg.explaining import Explanation
from xaiseg.explaining_picture import PAGE_ROWS, _scale_words, beyond_scale, colour_scale, draw


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


def oracle_of_the_scale(values):
    """The smallest value at which the 99th percentile holds and no more than 5 % of the sum is cut off."""
    ends = sorted({*np.abs(values).ravel().tolist()})
    total = np.abs(values).sum()
    uncut = min(end for end in ends if (np.abs(values) - end).clip(min=0).sum() <= 0.05 * total)
    return max(uncut, np.percentile(np.abs(values), 99))


def test_the_map_of_a_small_object_is_not_cut_off_and_a_lone_outlier_is():
    rng = np.random.default_rng(0)
    whole = Region(1, np.ones((40, 40), dtype=bool))
    small = rng.standard_normal((40, 40)) * 0.01
    small[10:13, 10:13] = [[3.0, 4, 3], [4, 5, 4], [3, 4, 3]]  # 9 of 1,600 pixels: the 99th percentile lies below them
    outlier = rng.standard_normal((40, 40))
    outlier[3, 3] = 20.0
    for values in (small, outlier, np.abs(outlier)):
        maps = explanation(values[None], [whole])
        assert colour_scale(maps, 0) == pytest.approx(oracle_of_the_scale(maps.values[0]), rel=1e-6)
    assert np.percentile(np.abs(small), 99) < 0.1
    assert colour_scale(explanation(small[None], [whole]), 0) >= 4.0
    assert colour_scale(explanation(outlier[None], [whole]), 0) < 4.0


def test_what_lies_beyond_the_scale_is_said():
    values = np.array([[0.0, 1.0], [-4.0, 2.0]])
    assert beyond_scale(values, 2.0) == 0.25
    assert _scale_words(values, 2.0, "logit") == "1 = 2 logit\n25 % beyond, up to 4"
    assert _scale_words(values, 4.0, "logit") == "1 = 4 logit"
    assert _scale_words(0 * values, 1.0, "logit").startswith("zero everywhere")


def test_many_targets_are_drawn_on_several_pages_of_a_size_that_opens(tmp_path):
    mask = np.zeros((30, 20), dtype=bool)
    mask[2:9, 2:9] = True
    targets = [Region(1, mask, label=f"object {index}") for index in range(2 * PAGE_ROWS + 1)]
    maps = explanation(np.ones((len(targets), 30, 20)), targets)
    paths = draw(tmp_path / "explanation.png", np.zeros((1, 30, 20), dtype=np.float32), [maps])
    assert [path.name for path in paths] == ["explanation.png", "explanation-2.png", "explanation-3.png"]
    sizes = [size_of(path) for path in paths]
    assert sizes[0] == sizes[1]
    assert sizes[2][1] < sizes[1][1] / 3
    assert max(sizes[0]) < 4000
    wide = explanation(np.ones((1, 2, 400)), [Region(1, np.ones((2, 400), dtype=bool))])
    (path,) = draw(tmp_path / "wide.png", np.zeros((1, 2, 400), dtype=np.float32), [wide])
    assert max(size_of(path)) <= 6000


def size_of(path):
    with Image.open(path) as picture:
        return picture.size
