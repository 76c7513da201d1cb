import json

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.flights import Tile, flights_of, jackknife_t, lines_of, measures, parts_of, read_tiles
from xaiseg.subject import Boxes


def image(name, flight, group, augmented=False):
    return {"file_name": f"{name}.jpg", "flight": flight, "group": group, "augmented": augmented}


IMAGES = [
    *(image(f"a{i}", "A", f"A{i // 2}", augmented=i % 2 == 1) for i in range(8)),
    *(image(f"b{i}", "B", f"B{i}") for i in range(20)),
    image("aug", "C", "C0", augmented=True),
    image("lost", None, "misc_lost"),
]


def test_flights_need_a_tile_that_nobody_changed():
    assert flights_of(IMAGES) == ("B", "A")


@pytest.mark.parametrize("held_out", ["A", "B"])
def test_the_flight_that_is_held_out_trains_nothing(held_out):
    parts = parts_of(IMAGES, held_out)
    for one in IMAGES:
        part = parts[one["file_name"][:-4]]
        if one["flight"] == held_out:
            assert part == ("unused" if one["augmented"] else "test")
        elif one["flight"] is None:
            assert part == "train"
        else:
            assert part in ("train", "validation", "unused")
        assert part != "validation" or not one["augmented"]
    homes = {}
    for one in IMAGES:
        if (part := parts[one["file_name"][:-4]]) != "unused":
            homes.setdefault(one["group"], set()).add(part)
    assert all(len(found) == 1 for found in homes.values())
    assert "validation" in parts.values()


def test_the_real_flights_are_those_of_the_brief(real_data):
    path = real_data / "glacier_bay_seals" / "annotations.json"
    if not path.is_file():
        pytest.skip("the seals are absent")
    images = json.loads(path.read_text(encoding="utf-8"))["images"]
    flights = flights_of(images)
    counts = [list(parts_of(images, flight).values()).count("test") for flight in flights]
    assert counts == [59, 31, 23, 18, 13]
    for flight in flights:
        assert list(parts_of(images, flight).values()).count("validation") >= 10


def tile(flight, group, scores, hits, missed=0, threshold=0.5):
    """Detections on a row: a hit covers its object, a stray lies elsewhere, a missed object has no detection."""
    boxes = [[40.0 * i, 0.0, 40.0 * i + 20, 20.0] for i in range(len(scores) + missed)]
    truth = [[*box, 0.0] for box, hit in zip(boxes, [*hits, *[True] * missed], strict=True) if hit]
    found = Boxes(
        torch.tensor(boxes[: len(scores)]).reshape(-1, 4), torch.tensor(scores), torch.zeros(len(scores)).long()
    )
    return Tile(flight, group, found, np.array(truth, np.float32).reshape(-1, 5), threshold)


@pytest.fixture
def tiles():
    rng = np.random.default_rng(0)
    held = []
    for flight in "ABCDE":
        for block in range(3):
            scores = rng.uniform(0.1, 1, 4).tolist()
            held.append(tile(flight, f"{flight}{block}", scores, (rng.random(4) < 0.7).tolist(), missed=block % 2))
    return held


def test_measures_by_hand():
    held = [
        tile("A", "A0", [0.9, 0.6, 0.4], [True, False, True], missed=1),
        tile("B", "B0", [0.7], [True], threshold=0.8),
    ]
    ap50, ap, recall, precision, false = measures(held)
    # Above their own thresholds 0.9 (hit) and 0.6 (stray) count; 0.7 does not, since its model asks for 0.8.
    assert (recall, precision, false) == (1 / 4, 1 / 2, 1 / 2)
    # By score: hit, hit, stray, hit of 4 objects: precision 1 up to recall 0.5, 3/4 up to 0.75, then 0.
    assert ap50 == pytest.approx((51 + 25 * 0.75) / 101)
    assert ap == pytest.approx(ap50)  # hits are exact, so that every overlap counts them


def test_the_jackknife_is_that_of_the_definition(tiles):
    value, low, high, freedom = jackknife_t(tiles, lambda tile: tile.flight)
    assert freedom == 4
    without = [measures([tile for tile in tiles if tile.flight != flight])[0] for flight in "ABCDE"]
    mean = sum(without) / 5
    error = (4 / 5 * sum((one - mean) ** 2 for one in without)) ** 0.5
    assert high[0] - value[0] == pytest.approx(stats.t.ppf(0.975, 4) * error)
    assert value[0] - low[0] == pytest.approx(high[0] - value[0])
    assert value == pytest.approx(measures(tiles))


def test_every_flight_is_printed_and_blocks_are_labelled(tiles):
    lines = lines_of(tiles)
    assert [line.split()[0] for line in lines[1:6]] == list("ABCDE")
    text = "\n".join(lines)
    assert "flights, df 4" in text
    assert "these flights only: one inlet, one altitude" in text
    assert "df 14" in text


def test_what_was_found_reads_back(tmp_path):
    held = {"flight": "A", "threshold": 0.4, "tiles": {"t": {"xyxy": [], "scores": [], "truth": [], "group": "A0"}}}
    (tmp_path / "found.json").write_text(json.dumps(held), encoding="utf-8")
    (one,) = read_tiles(tmp_path / "found.json")
    assert (one.flight, one.group, one.threshold) == ("A", "A0", 0.4)
    assert one.found.xyxy.shape == (0, 4)
    assert one.truth.shape == (0, 5)
