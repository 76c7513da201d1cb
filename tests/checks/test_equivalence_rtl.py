"""Windows of a build through the Verilog: counted, and a planted difference is seen."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.checks.fake import frame, quantities, tables
from tests.checks.test_hardware_cost import build, context
from tests.hardware.icarus import needs_icarus
from xaiseg.checks import equivalence_rtl
from xaiseg.checks.base import get_check
from xaiseg.checks.equivalence_rtl import ID, Params
from xaiseg.errors import UsageError


def measured(**builds):
    found, case = context(Params(windows=5), **builds)
    rows = [
        {"case": "", **row} for row in get_check(ID).measure_once(found, {"test": SimpleNamespace(cases=(case.ref,))})
    ]
    frame(ID, rows)
    held = tables({ID: rows}, [case], variants=dict.fromkeys(builds))
    return rows, quantities(ID, held, Params())


@pytest.mark.rtl
@needs_icarus
def test_the_verilog_is_the_simulator_and_everything_is_counted():
    held = build(fewer=1)
    rows, found = measured(v=held)
    assert [row["target"] for row in rows] == ["0", "2"]
    digits = sum(5 * int(ready.digits.max()) for ready in held.deployed.ready.values())
    assert found["v", "differences"].values.tolist() == [0]
    assert 0 < found["v", "digits_compared"].values[0] <= digits
    assert found["v", "clocks_simulated"].values[0] == found["v", "digits_compared"].values[0] + 2 * 10


def test_a_difference_is_added_up(monkeypatch):
    layer = SimpleNamespace(
        path="0", strata={"random": 5}, digits=50, digits_differ=2, values_differ=1, clocks=60, clocks_differ=0,
        ended=3, ended_differ=1,
    )  # fmt: skip
    monkeypatch.setattr(equivalence_rtl, "cosimulate", lambda *arguments, **given: (layer,))
    monkeypatch.setattr(equivalence_rtl.shutil, "which", lambda name: name)
    assert measured(v=build())[1]["v", "differences"].values.tolist() == [4]


def test_without_icarus_nothing_is_claimed(monkeypatch):
    monkeypatch.setattr(equivalence_rtl.shutil, "which", lambda name: None)
    rows, found = measured(v=build(), w=None)
    assert [(row["subject"], row["status"]) for row in rows] == [("v", "not_applicable")]
    assert "Icarus Verilog is not installed" in found["v", "differences"].missing
    assert "does not run on digit-serial units" in found["w", "differences"].missing


def test_parameters_out_of_range_are_refused():
    with pytest.raises(UsageError, match="equivalence.rtl: windows"):
        replace(Params(), windows=0)
