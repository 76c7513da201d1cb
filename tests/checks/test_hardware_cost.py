"""The cost of a build as the model has it, early stops on images, and a user's own measurement."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import t
from torch import nn

from tests.checks.fake import FakeContext, frame, make_case, quantities, tables
from tests.hardware.networks import seeded
from xaiseg.checks.base import get_check
from xaiseg.checks.hardware_cost import ID, Params
from xaiseg.errors import UsageError
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.folding import fold
from xaiseg.hardware.graph import trace
from xaiseg.hardware.quantise import quantise


def build(fewer=0):
    network = seeded(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)))
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    integers = quantise(fold(trace(network)), [(images,)], split="calibration")
    return SimpleNamespace(
        network=network, arguments=lambda batch: (batch,), to_grid=lambda batch: batch, integers=integers,
        deployed=deploy(integers, fewer=fewer),
    )  # fmt: skip


def context(params=None, **builds):
    case = make_case("a", np.zeros((8, 8)), image=np.random.default_rng(0).random((1, 8, 8)))
    variants = {name: SimpleNamespace(build=held) for name, held in builds.items()}
    found = FakeContext(params=params or Params(), variants=variants, case="a", loader=lambda ref, entry: case)
    found.facts = {**found.facts, "name": "toy", "variants": dict.fromkeys(builds)}
    return found, case


def rows_of(params=None, **builds):
    found, case = context(params, **builds)
    datasets = {"test": SimpleNamespace(cases=(case.ref,))}
    once = [{"case": "", **row} for row in get_check(ID).measure_once(found, datasets)]
    each = [{"case": "a", **row} for row in get_check(ID).measure(found, case)]
    frame(ID, [*once, *each])
    held = tables({ID: [*once, *each]}, [case], variants=dict.fromkeys(builds))
    return once, each, {key[1:]: item for key, item in quantities(ID, held, params or Params()).items()}


def test_cycles_are_tiles_times_delay_and_digits():
    held = build()
    once, _, found = rows_of(Params(outputs=2, inputs=4, clock_mhz=50.0), v=held)
    first, second = (int(held.deployed.ready[name].digits.max()) for name in ("_0", "_2"))
    # 4 outputs in twos, 64 pixels one by one, all inputs at once; the delay is 2.
    expected = 2 * 64 * (2 + first) + 64 * (2 + second)
    assert found["cycles", "", "design", "mma"].values.tolist() == [expected]
    assert found["compute_ms", "", "design", "mma"].values.tolist() == pytest.approx([expected / 50e3])
    assert found["energy_mj", "", "design", "mma"].values.tolist() == pytest.approx([3.5 * expected / 50e3])
    assert ("energy_mj", "", "design", "cascade") not in found  # no power is known
    assert "board" in found["energy_mj", "", "design", "mma"].note
    layers = [row for row in once if row["kind"] == "layer" and row["level"] == "mma"]
    assert [(row["target"], row["terms"], row["windows"]) for row in layers] == [("0", 9, 256), ("2", 4, 64)]
    assert sum(row["cycles"] for row in layers) == expected
    sources = {row["target"]: row["source"] for row in once if row["kind"] == "constant"}
    assert (sources["clock_mhz"], sources["outputs"], sources["power_w of mma"]) == ("user", "user", "published")


def test_fewer_digits_take_fewer_cycles():
    cycles = [rows_of(v=build(fewer))[2]["cycles", "", "design", "mma"].values[0] for fewer in (0, 2)]
    assert cycles[0] - cycles[1] == 2 * 64  # in the layer that rounds, whose outputs fit into one tile


def test_early_stops_are_counted_on_the_image_and_groups_save_less():
    _, each, found = rows_of(v=build())
    assert [row["level"] for row in each] == ["end", "end_and_head"]
    saved, time = (found[name, "", "rule", "end"].values[0] for name in ("saved", "saved_time"))
    assert 0 < time < saved < 1
    assert found["saved", "", "rule", "end_and_head"].values[0] > saved


def test_a_measurement_counts_by_the_upper_end_of_its_interval():
    runs = (200.0, 210.0, 205.0)
    found = rows_of(Params(measured_mj={"v": list(runs)}), v=build())[2]
    upper = np.mean(runs) + t.ppf(0.95, 2) * np.std(runs, ddof=1) / np.sqrt(3)
    assert found["measured_energy_mj",].values.tolist() == pytest.approx([upper])
    assert "no energy was measured" in rows_of(v=build())[2]["measured_energy_mj",].missing


def test_a_build_without_units_has_no_cycles():
    found = rows_of(v=None)[2]
    assert "does not run on digit-serial units" in found["cycles",].missing


def test_the_float_network_is_timed_on_request():
    once, _, found = rows_of(Params(cpu_runs=2), v=build())
    (row,) = (row for row in once if row.get("level") == "cpu")
    assert (row["source"], row["timing"], row["cycles"]) == ("measured", "latency", None)
    assert found["compute_ms", "", "design", "cpu"].values[0] > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"designs": ("mmb",)}, "no such design. Got: mmb"),
        ({"power_w": {"x": 1.0}}, "no such design. Got: x"),
        ({"measured_mj": {"v": (1.0, 2.0)}}, "this is no measurement. Got: v: .*3 energies or more"),
        ({"measured_mj": {"v": (1.0, 2.0, 0.0)}}, "this is no measurement"),
        ({"clock_mhz": -1.0}, "clock_mhz: this parameter is out of range"),
        ({"cpu_runs": -1}, "cpu_runs: this parameter is out of range"),
    ],
)
def test_parameters_out_of_range_are_refused(given, message):
    with pytest.raises(UsageError, match=message):
        Params(**given)
