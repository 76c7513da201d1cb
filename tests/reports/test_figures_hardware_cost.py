"""The section on cost: cycles beside what a build keeps, the costliest layers, and where each number comes from."""

import re
from dataclasses import replace
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
        },
        {"case": "", "kind": "constant", "target": "power_w of mma", "value": 3.5, "unit": "W", "source": "published"},
        {"case": "", "kind": "constant", "target": "pixels", "value": 1.0, "unit": "pixels", "source": "estimated"},
    ]
    for name, cycles in (("eight", 2.0e6), ("six", 1.5e6)):
        for design, count in (("bit_serial", 3.0e6), ("cascade", 2 * cycles), ("mma", cycles)):
            costs = {"cycles": count, "seconds": count / 1e8, "gops": 5.0}
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
    gate = "gate (Gate) stays in floating point: kept outside on request."
    plan = {"variants": {"eight": {"remains": [gate]}, "six": {"remains": [gate] * 7}, "float8": {}}}
    return story(View(CHECK, {}, {one.id: one for one in found}, (), plan, run))


def test_builds_are_told_with_cycles_time_and_energy():
    said = told(estimates(), rows()).answer
    assert "Build eight: 2.00 million cycles an image, 20 ms, 70 mJ" in said
    assert "build six: 1.50 million cycles" in said
    assert said.endswith("leave memory traffic out; parts in floating point are not counted (eight 1 and six 7).")


def test_the_plots_show_agreement_and_the_costliest_layers():
    pareto, layers = told(estimates(), rows()).plots
    assert "eight 0.990" in pareto.picture
    assert "modelled energy: 35 mJ for each million" in pareto.picture
    assert "Dice of the two predictions" in pareto.picture
    assert "rank agreement" not in pareto.picture  # explanations were not measured
    assert {"eight", "six"} <= set(re.findall(">([^<]+)</text>", pareto.picture))
    assert "1.005" not in pareto.picture
    assert layers.picture.index("deep.conv") < layers.picture.index(">head<")
    assert "70.0 %, 144 terms, 15 of 23 digits" in layers.picture


def test_the_axis_of_an_agreement_ends_at_1():
    found = [
        replace(item, value=1.0, interval=None) if item.id.endswith("agreement/eight") else item for item in estimates()
    ]
    picture = told(found, rows()).plots[0].picture
    ticks = [float(text) for text in re.findall(r'text-anchor="end">([^<]+)</text>', picture)]
    assert max(ticks) == 1.0
    assert 'cy="26.0"' in picture, "the build without any difference lies on the upper end of the axis"


def test_the_tables_name_boundaries_and_sources():
    designs, baselines, outside, stops, constants = told(estimates(), rows()).tables
    assert [row[0] for row in designs.rows] == ["eight", "six"]
    assert designs.rows[0][1:] == ("2,000,000", "20", "5", "70", "board, Zynq-7020, estimated")
    assert baselines.rows[1][4:] == ("not known", "Zynq-7020, estimated")
    assert "any ratio" in baselines.caption
    # The bit-serial baseline is the same for both builds and stands there once.
    assert [row[0] for row in baselines.rows] == [
        "online multipliers and adder tree, eight", "online multipliers and adder tree, six",
        "bit-serial, least digit first",
    ]  # fmt: skip
    assert outside.rows[0] == ("eight", "Gate (Gate) stays in floating point: kept outside on request.")
    assert outside.rows[1][1].endswith("And 2 more.")
    assert outside.rows[1][1].count("Gate (Gate)") == 5
    assert stops.rows[0] == ("eight, sums that a rectifier would set to 0", "13.0 %", "1.0 %")
    assert constants.rows[0] == ("clock", "100 MHz", "published", "a paper")
    held = {row[0]: row[1] for row in constants.rows[1:]}
    assert held == {"power of the build's digit-serial units": "3.5 W", "output pixels at once": "1 pixel"}


def test_without_digit_serial_builds_there_is_nothing_to_draw():
    found = told([], pd.DataFrame(rows()).iloc[:0])
    assert not found.plots
    assert not found.tables
