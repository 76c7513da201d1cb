from __future__ import annotations

import pytest
from fake import quantities, tables

from xaiseg.checks.subgroups_coverage import ID, Params
from xaiseg.errors import UsageError


def cases(*entries):
    return [{"case": f"c{i}", "cluster": p, "device": d, "sex": s} for i, (p, d, s) in enumerate(entries)]


LISTED = cases(*[(f"p{i}", "A", "f") for i in range(6)], ("p0", "A", "f"), ("q1", "B", "f"), ("q2", "B", "m"))


def test_cases_and_clusters_of_each_level_are_counted():
    found = quantities(ID, tables({}, LISTED, strata=["device", "sex"]))
    counts = {key[-2:]: value.values[0] for key, value in found.items() if key[0] in ("cases", "clusters")}
    assert {k: v for k, v in counts.items() if k[0] == "device"}.keys() == {("device", "A"), ("device", "B")}
    assert found["cases", "", "device", "A"].values.tolist() == [7.0]
    assert found["clusters", "", "device", "A"].values.tolist() == [6.0]
    assert found["clusters", "", "sex", "m"].values.tolist() == [1.0]
    assert sum(found["cases", "", "device", level].values[0] for level in "AB") == len(LISTED)


def test_thin_levels_and_crossings_are_named():
    found = quantities(ID, tables({}, LISTED, strata=["device", "sex"]))
    thin = found["thin_levels", "", "device"]
    assert thin.values.tolist() == [1.0]
    assert "B (2)" in thin.note
    crossed = found["thin_cells", "", "device x sex"]
    assert crossed.values.tolist() == [2.0]
    assert "B x f (1)" in crossed.note
    assert "B x m (1)" in crossed.note
    assert quantities(ID, tables({}, LISTED, strata=["device"]), Params(2))["thin_levels", "", "device"].values == [0.0]


def test_no_strata_is_missing_and_an_empty_level_is_unknown():
    assert "no strata" in quantities(ID, tables({}, LISTED))["thin_levels",].missing
    unknown = cases(("p", None, "f"), ("q", "", "f"))
    assert quantities(ID, tables({}, unknown, strata=["device"]))["cases", "", "device", "unknown"].values == [2.0]


def test_parameters_out_of_range_are_named():
    with pytest.raises(UsageError, match="thin_clusters"):
        Params(thin_clusters=0)
