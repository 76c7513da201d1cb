import re

import numpy as np

from xaiseg.reports.readouts import Bar, MapRow, PictureTile, Tile, feature_bars, map_rows, picture_rows

FEATURES = [("one", "a"), ("two", "b")]
HEADS = {"x": "by x", "y": "by y"}


def widths(picture, colour):
    return [float(w) for w in re.findall(rf'width="([\d.]+)" height="12.0"[^>]*class="f-{colour}"', str(picture))]


def test_bars_share_one_scale_and_a_way_that_was_not_measured_says_so():
    picture = feature_bars(FEATURES, HEADS, {"x": {"a": Bar(60.0), "b": Bar(30.0)}}, grey=False)
    first, second = widths(picture, "accent")
    assert first == 2 * second
    assert ">60 %</text>" in picture
    assert str(picture).count("not measured") == 1
    assert "by x: one 60.0 %, two 30.0 %" in picture


def test_grey_bars_say_so_to_those_who_do_not_see():
    picture = feature_bars(FEATURES, HEADS, {"x": {"a": Bar(60.0, 50.0, 70.0)}}, grey=True)
    assert widths(picture, "accent") == []
    assert len(widths(picture, "idle")) == 1
    assert "nothing hangs on them" in picture


def test_names_that_come_from_files_are_escaped():
    image = np.zeros((8, 10), np.uint8)
    tile = Tile("<b>", np.zeros((4, 5)), 0.0, 0.0)
    picture = str(map_rows([MapRow("<script>", image, None, (tile,))]))
    assert "<script>" not in picture
    assert "<b>" not in picture
    assert "&lt;script&gt;" in picture


def test_a_map_without_spread_and_a_case_without_picture_are_drawn():
    flat = Tile("flat", np.full((4, 5), 0.5), 0.5, 0.5)
    signed = Tile("signed", np.zeros((4, 5)), 0.0, 0.0, signed=True)
    picture = str(map_rows([MapRow("a", None, None, (flat, signed))]))
    assert "no picture kept" in picture
    assert "nan" not in picture.lower().split("base64")[0]
    assert picture.count("<image") == 2


def test_the_outline_lies_where_the_prediction_lies():
    mask = np.zeros((10, 10), np.uint8)
    mask[2:6, 4:8] = 1
    picture = str(map_rows([MapRow("a", mask * 255, mask, (Tile("t", np.ones((4, 4)), 0.0, 1.0),))]))
    path = re.search(r'<path d="([^"]+)"', picture)[1]
    numbers = np.array(re.findall(r"([\d.]+) ([\d.]+)", path), dtype=float)
    side = (680 - 8) / 2
    assert np.allclose(numbers.min(axis=0) / side, (0.4, 0.2), atol=0.06)
    assert np.allclose(numbers.max(axis=0) / side, (0.8, 0.6), atol=0.06)


def test_rows_of_pictures_may_stand_side_by_side():
    tile = PictureTile("as it is", np.full((8, 8), 99, np.uint8))
    rows = [(f"row {n}", [tile] * 3) for n in range(3)]
    depths = [float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', str(picture))[1])
              for picture in (picture_rows(rows, "x"), picture_rows(rows, "x", abreast=2))]  # fmt: skip
    assert depths[1] < 0.67 * depths[0]
    places = [
        (float(x), float(y))
        for x, y in re.findall(
            r'x="([\d.]+)" y="([\d.]+)"[^>]*font-weight[^>]*>row', str(picture_rows(rows, "x", abreast=2))
        )
    ]
    assert len({y for _, y in places}) == 2
    assert places[0][1] == places[1][1]
    assert places[0][0] == places[2][0] < places[1][0]
