from __future__ import annotations

from importlib import import_module

import pytest

from tests.hardware.icarus import mutated, needs_icarus
from xaiseg.hardware.rtl import VERILOG

pytestmark = [pytest.mark.rtl, pytest.mark.subprocess, needs_icarus]


def drive(folder, build, *, terms=9, sums=100):
    """Runs the module in the simulator; under pytest a failure in there ends as SystemExit."""
    runner = pytest.importorskip("cocotb_tools.runner").get_runner("icarus")
    runner.build(
        sources=[folder / "msdf_mma.v"],
        hdl_toplevel="msdf_mma",
        parameters={"TERMS": terms, "SIGNED": 1},
        build_dir=build,
        build_args=["-g2005"],
    )
    runner.test(
        hdl_toplevel="msdf_mma",
        test_module="tests.hardware.cocotb_mma",
        build_dir=build,
        test_dir=build,
        results_xml=str(build / "results.xml"),
        extra_env={"SUMS": str(sums)},
    )


def test_ports_driven_from_python_give_the_closed_form(tmp_path):
    drive(VERILOG, tmp_path)
    assert results(tmp_path) == (1, 0)


def test_a_sum_that_is_broken_off_and_not_cleared_is_found(tmp_path):
    change = ("!reset && (start || busy) && !last", "(start || busy) && !last")
    with pytest.raises(SystemExit):
        drive(mutated(tmp_path / "verilog", change), tmp_path / "build")
    assert results(tmp_path / "build") == (1, 1)


def results(build):
    """How many tests ran in the simulator and how many of them failed."""
    return import_module("cocotb_tools.check_results").get_results(build / "results.xml")
