from __future__ import annotations

import pytest

from xaiseg.data.entry import DataEntry
from xaiseg.data.files import Place
from xaiseg.data.sidecar import chosen, described, keep, read_rows, read_sidecars, require_columns
from xaiseg.errors import NothingToAudit, UsageError


def write(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


def test_a_csv_with_a_byte_order_mark_crlf_and_quotes(tmp_path):
    path = write(tmp_path / "m.csv", '\ufeffid,site,note\r\na,Zürich,"x, y"\r\nb,Basel,\r\n')
    assert read_sidecars([path]) == {"a": {"site": "Zürich", "note": "x, y"}, "b": {"site": "Basel", "note": ""}}


def test_parquet_reads_as_the_same_text_as_csv(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"id": [1, 2], "age": [41.5, None], "ill": [True, False], "device": ["A", "B"]}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    rows = read_sidecars([tmp_path / "m.parquet"])
    assert rows["1"] == {"age": "41.5", "ill": "true", "device": "A"}
    assert rows["2"] == {"age": "", "ill": "false", "device": "B"}
    assert rows == read_sidecars([write(tmp_path / "m.csv", "id,age,ill,device\n1,41.5,true,A\n2,,false,B\n")])


def test_later_files_add_columns(tmp_path):
    first = write(tmp_path / "a.csv", "id,site\na,1\nb,2\n")
    second = write(tmp_path / "b.csv", "id,device\na,X\n")
    assert read_sidecars([first, second]) == {"a": {"site": "1", "device": "X"}, "b": {"site": "2"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,site\na,1\n", "no column 'id'.*name, site"),
        ("id,site\na,1\na,2\n", r"m\.csv:3: the id 'a' stands twice"),
        ("id,site\na,Bern, Switzerland\n", r"m\.csv:2: this row has more fields"),
    ],
)
def test_bad_tables_name_the_place(tmp_path, content, message):
    with pytest.raises(UsageError, match=message):
        read_sidecars([write(tmp_path / "m.csv", content)])


@pytest.mark.parametrize("mark", [";", "\t", ","])
def test_tables_of_any_spreadsheet(tmp_path, mark):
    rows = mark.join(["id", "site"]) + "\n" + mark.join(["a", '"x; y, z"']) + "\n"
    assert read_sidecars([write(tmp_path / "m.csv", rows)]) == {"a": {"site": "x; y, z"}}


def test_an_id_with_its_ending_is_said():
    with pytest.raises(UsageError, match="An id is the file name without its ending"):
        chosen(DataEntry(path="d"), ["a", "b"], {"a.png": {"x": "1"}}, "meta.csv")


def test_unreadable_tables(tmp_path):
    with pytest.raises(UsageError, match="missing"):
        read_sidecars([tmp_path / "none.csv"])
    with pytest.raises(UsageError, match="CSV in UTF-8"):
        read_sidecars([write(tmp_path / "l.csv", "id,site\na,Zürich\n", "latin-1")])
    with pytest.raises(UsageError, match="cannot be read"):
        read_sidecars([write(tmp_path / "p.parquet", "id,site\n")])


def test_where_compares_numbers_as_numbers_and_text_as_text():
    row = {"part": "test", "age": "41.0", "ill": "True", "code": "007"}
    assert keep(row, {"part": "test", "age": 41, "ill": True})
    assert keep(row, {"code": 7})
    assert not keep(row, {"code": "7"})
    assert not keep(row, {"part": "Test"})
    assert not keep(row, {"part": 1})
    assert not keep(row, {"absent": "x"})


def test_a_missing_column_comes_with_a_hint():
    with pytest.raises(UsageError, match=r"no column 'pateint'.*did you mean 'patient'"):
        require_columns(DataEntry(path="d", cluster="pateint"), ["patient", "device"], "meta.csv")
    with pytest.raises(UsageError, match=r"no column 'device'.*no sidecar table"):
        require_columns(DataEntry(path="d", strata=("device",)), [], "d")
    for names in ({"where": {"part": "x"}}, {"spacing_mm": "mm"}):
        with pytest.raises(UsageError, match="no column"):
            require_columns(DataEntry(path="d", **names), ["patient"], "meta.csv")


def test_rows_that_a_spreadsheet_left_empty_are_no_rows(tmp_path):
    (tmp_path / "meta.csv").write_text("id,g\na,1\n,\n,\n", encoding="utf-8")
    assert read_sidecars([tmp_path / "meta.csv"]) == {"a": {"g": "1"}}


def test_rows_and_images_must_agree():
    rows = {"a": {"g": "1"}, "b": {"g": "2"}}
    assert chosen(DataEntry(path="d"), ["a", "b", "c"], rows, "m") == ["a", "b", "c"]
    assert chosen(DataEntry(path="d", where={"g": 2}), ["a", "b", "c"], rows, "m") == ["b"]
    with pytest.raises(UsageError, match=r"names images that are not there.*Got: b"):
        chosen(DataEntry(path="d"), ["a"], rows, "m")
    assert chosen(DataEntry(path="d", where={"g": 1}), ["a"], rows, "m") == ["a"]  # b is filtered out
    with pytest.raises(UsageError, match=r"no row that gives g.*Got: c"):
        chosen(DataEntry(path="d", cluster="g"), ["a", "b", "c"], rows, "m")
    with pytest.raises(NothingToAudit, match="no image is left"):
        chosen(DataEntry(path="d", where={"g": 9}), ["a", "b"], rows, "m")


def test_an_image_whose_row_lacks_the_column_of_another_sidecar_is_named():
    rows = {"a": {"site": "1", "device": "X"}, "b": {"site": "2"}}
    with pytest.raises(UsageError, match=r"no row that gives device.*Got: b"):
        chosen(DataEntry(path="d", strata=("device",)), ["a", "b"], rows, "m")


def test_cluster_strata_and_spacing_of_a_case():
    entry = DataEntry(path="d", cluster="p", strata=("device",), spacing_mm="mm")
    assert described(entry, "a", {"p": "p1", "device": "X", "mm": "0.25"}, "m") == {
        "cluster": "p1",
        "strata": {"device": "X"},
        "spacing_mm": (0.25, 0.25),
        "survey": {},
    }
    alone = described(DataEntry(path="d", spacing_mm=(0.1, 0.2)), "a", {}, "m")
    assert alone == {"cluster": "a", "strata": {}, "spacing_mm": (0.1, 0.2), "survey": {}}


def test_images_without_a_cluster_are_refused_or_one(tmp_path):
    with pytest.raises(UsageError, match=r"the case 'a' has no flight.*unnamed: one"):
        described(DataEntry(path="d", cluster="flight"), "a", {"flight": ""}, "m")
    together = DataEntry(path="d", cluster="flight", unnamed="one")
    assert described(together, "a", {"flight": ""}, "m")["cluster"] == "(no flight)"
    assert described(together, "b", {"flight": "f1"}, "m")["cluster"] == "f1"


@pytest.mark.parametrize(
    ("row", "spacing"),
    [
        ({"gsd_cm": "1.2"}, (12.0, 12.0)),
        ({"GSD_cm": "1.2"}, (12.0, 12.0)),
        ({"gsd_cm": ""}, None),
    ],
)
def test_the_ground_sample_distance_is_the_size_of_a_pixel(row, spacing):
    assert described(DataEntry(path="d"), "a", row, "m")["spacing_mm"] == spacing


@pytest.mark.parametrize("wrong", ["coarse", "-1", "0", "nan"])
def test_a_ground_sample_distance_that_is_no_size_is_refused(wrong):
    with pytest.raises(UsageError, match=f"the ground sample distance of 'a' is no size of a pixel. Got: {wrong}"):
        described(DataEntry(path="d"), "a", {"gsd_cm": wrong}, "m")
    with pytest.raises(UsageError, match="Write decimals with a point"):
        described(DataEntry(path="d"), "a", {"gsd_cm": "1,2"}, "m")


def test_a_spacing_that_disagrees_with_the_ground_sample_distance_is_refused():
    with pytest.raises(UsageError, match=r"spacing_mm and gsd_cm of 'a' disagree. Got: 150 mm and 12 mm a pixel"):
        described(DataEntry(path="d", spacing_mm=150.0), "a", {"gsd_cm": "1.2"}, "m")
    assert described(DataEntry(path="d", spacing_mm=12.2), "a", {"gsd_cm": "1.2"}, "m")["spacing_mm"] == (12.2, 12.2)


def test_yes_and_no_are_kept_by_true_and_false():
    rows = {"a": "no", "b": "0", "c": "False", "d": "yes", "e": "", "f": "1"}
    assert [id for id, word in rows.items() if keep({"augmented": word}, {"augmented": False})] == list("abce")
    assert [id for id, word in rows.items() if keep({"augmented": word}, {"augmented": True})] == ["d", "f"]


def test_survey_columns_are_checked_and_joined():
    row = {"known_empty": "Yes", "augmented": "0", "footprint": "disjoint", "probability": "0.25", "p": "x"}
    held = described(DataEntry(path="d"), "a", row, "m")["survey"]
    assert held == {"known_empty": "true", "augmented": "false", "footprint": "disjoint", "probability": "0.25"}
    drawn = {"draw_probability": "0.01", "drawn": "2", "draws": "200"}
    assert described(DataEntry(path="d"), "a", drawn, "m")["survey"] == drawn
    assert described(DataEntry(path="d"), "a", {"known_empty": ""}, "m")["survey"] == {}


def test_survey_columns_of_words_are_found_as_a_spreadsheet_writes_them():
    row = {"Known_Empty ": "TRUE", "FOOTPRINT": "disjoint", "Drawn": "by hand", "Probability": "0.9"}
    held = described(DataEntry(path="d"), "a", row, "m")["survey"]
    assert held == {"known_empty": "true", "footprint": "disjoint"}  # numbers might be another matter of the same name


def test_an_empty_list_of_sidecars_is_none(tmp_path):
    (tmp_path / "meta.csv").write_text("id,flight\na,1\n", encoding="utf-8")
    place = Place(tmp_path, tmp_path)
    assert read_rows(DataEntry(path="."), place)[0] == {"a": {"flight": "1"}}
    assert read_rows(DataEntry(path=".", meta=()), place) == ({}, tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"known_empty": "perhaps"}, r"known_empty of 'a' has another value.*Got: perhaps. Allowed: true, false"),
        ({"footprint": "apart"}, "Allowed: disjoint, overlapping"),
        ({"probability": "0"}, "is no probability"),
        ({"probability": "1.5"}, "is no probability"),
        ({"probability": "often"}, "Got: often"),
        ({"draw_probability": "0"}, "is no probability"),
        ({"drawn": "0"}, "is no number of draws.*Got: 0"),
        ({"draws": "2.5"}, "is no number of draws.*Got: 2.5"),
    ],
)
def test_survey_columns_with_other_values(row, message):
    with pytest.raises(UsageError, match=message):
        described(DataEntry(path="d"), "a", row, "m.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"p": "", "mm": "1"}, "'a' has no p"),
        ({"p": "1", "mm": "wide"}, "is no number"),
        ({"p": "1", "mm": "0"}, "is not positive"),
        ({"p": "1", "mm": "nan"}, "is not positive"),
    ],
)
def test_impossible_clusters_and_spacings(row, message):
    with pytest.raises(UsageError, match=message):
        described(DataEntry(path="d", cluster="p", spacing_mm="mm"), "a", row, "m")
