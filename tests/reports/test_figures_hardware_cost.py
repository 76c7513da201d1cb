"""The section on cost: cycles beside what a build keeps, the costliest layers, and where each number comes from."""

from types import SimpleNamespace

import pandas as pd

from tests.checks.fake import frame
from xaiseg.estimate import Estimate
from xaiseg.reports.figures import View, story
from xaiseg.reports.figures_hardware_cost import CHECK
from xaiseg.statistics.interval import Interval

PLACE = {"technology": "Zynq-7020", "boundary": "board", "timing": "compute-only", "source": "estimated"}


def rows():
    held = [
        {
            "case": "",
            "kind": "constant",
            "target": "clock_mhz",
            "value": 100.0,
            "unit": "MHz",
            "source": "published",
            "note": "a paper",
        }
    ]
    for name, cycles in (("eight", 2.0e6), ("six", 1.5e6)):
        for design, factor in (("cascade", 2), ("mma", 1)):
            costs = {"cycles": factor * cycles, "seconds": factor * cycles / 1e8, "gops": 5.0}
            costs |= {"joules": 0.07} if design == "mma" else {}
            held.append(
                {"case": "", "subject": name, "kind": "image", "factor": "design", "level": design, **costs, **PLACE}
            )
        for path, share in (("deep.conv", 0.7), ("head", 0.3)):
            held.append({
                "case": "", "subject": name, "kind": "layer", "target": path, "factor": "design", "level": "mma",
                "cycles": share * cycles, "terms": 144, "digits": 15, "digits_total": 23, **PLACE,
            })  # fmt: skip
    return frame(CHECK, held)


def estimates():
    for name, cycles, kept in (("eight", 2.0e6, 0.99), ("six", 1.5e6, 0.97)):
        for metric, value, factor, level in (
            ("cycles", cycles, "design", "mma"), ("compute_ms", cycles / 1e5, "design", "mma"),
            ("energy_mj", 70.0, "design", "mma"), ("saved", 0.13, "rule", "end"), ("saved_time", 0.01, "rule", "end"),
        ):  # fmt: skip
            id = f"{CHECK}/{metric}/{level}/{name}"
            yield Estimate(id, CHECK, metric, "fact", value, None, factor=factor, level=level, subject=name)
        spread = Interval(kept, kept - 0.01, kept + 0.005, 0.05, "m", 40, 40)
        other = "equivalence.segmentation"
        yield Estimate(f"{other}/agreement/{name}", other, "agreement", "mean", kept, spread, subject=name)


def told(found, table):
    run = SimpleNamespace(table=lambda name: table, has_table=lambda name: True)
    plan = {"variants": {"eight": {}, "six": {}, "float8": {}}}
    return story(View(CHECK, {}, {one.id: one for one in found}, (), plan, run))


def test_builds_are_told_with_cycles_time_and_energy():
    said = told(estimates(), rows()).answer
    assert "Build eight: 2.00 million cycles an image, 20 ms, 70 mJ" in said
    assert "build six: 1.50 million cycles" in said
    assert said.endswith("leave memory traffic out.")


def test_the_plots_show_agreement_and_the_costliest_layers():
    pareto, layers = told(estimates(), rows()).plots
    assert "eight 0.990" in pareto.picture
    assert "Dice of the two predictions" in pareto.picture
    assert "rank agreement" not in pareto.picture  # explanations were not measured
    assert layers.picture.index("deep.conv") < layers.picture.index(">head<")
    assert "70.0 %, 144 terms, 15 of 23 digits" in layers.picture


def test_the_tables_name_boundaries_and_sources():
    designs, stops, constants = told(estimates(), rows()).tables
    assert [row[0] for row in designs.rows][:2] == [
        "eight, merged multiply-add", "eight, online multipliers and adder tree",
    ]  # fmt: skip
    assert designs.rows[0][1:] == ("2,000,000", "20", "5", "70", "board, Zynq-7020, estimated")
    assert designs.rows[1][4:] == ("not known", "Zynq-7020, estimated")
    assert stops.rows[0] == ("eight, sums that a rectifier would set to 0", "13.0 %", "1.0 %")
    assert constants.rows == (("clock mhz", "100 MHz", "published", "a paper"),)


def test_without_digit_serial_builds_there_is_nothing_to_draw():
    found = told([], pd.DataFrame(rows()).iloc[:0])
    assert not found.plots
    assert not found.tables
