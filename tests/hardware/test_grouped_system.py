import pytest

from xaiseg.errors import UsageError
from xaiseg.hardware.cost_rows import Shape
from xaiseg.hardware.grouped import GroupedUnit
from xaiseg.hardware.grouped_system import Traffic, effective_units, system_cost, system_mm2

LAYERS = [
    (Shape("a", 16, 16, 9, 100, 230_400), GroupedUnit(5, 32)),
    (Shape("head", 16, 3, 1, 400, 19_200), GroupedUnit(1)),
]


def test_units_that_wait_are_not_counted():
    assert effective_units(LAYERS, units=1) == 1
    alone = 1600 * 26 + 1200 * 24
    assert effective_units(LAYERS, units=8) == pytest.approx(alone / (200 * 26 + 400 * 24))
    assert effective_units(LAYERS[:1], units=8) == 8


def test_latency_and_energy_by_hand():
    moved = Traffic(inputs=1, weights=2, outputs=4, external=8)
    cost = system_cost(LAYERS, units=1, workload="w", cycles=70_400, unit_joules=1e-6, traffic=moved)
    mib = 2**20
    seconds = (70_400 + 2800) / 500e6 + 2e-3 + 8 * mib / 3.2e9
    assert cost.seconds == pytest.approx(seconds)
    memory = 1.08 * (5e-12 * 3 * mib + 6.5e-12 * 4 * mib) + 2e-3 * 3.289 * seconds
    joules = 1.1e-6 + memory + 60e-12 * 2800 + 10e-12 * 8 * 8 * mib
    assert cost.joules == pytest.approx(joules)
    assert (cost.boundary, cost.timing, cost.source) == ("system", "latency", "estimated")


def test_more_units_share_what_they_read_and_lie_further_apart():
    moved = Traffic(inputs=1, weights=2, outputs=4, external=8)
    cost = system_cost(LAYERS[:1], units=8, workload="w", cycles=41_600, unit_joules=1e-6, traffic=moved)
    mib = 2**20
    seconds = (41_600 * 1.08 / 8 + 200) / 500e6 + 2e-3 + 8 * mib / 3.2e9
    assert cost.seconds == pytest.approx(seconds)
    memory = 1.08 * (5e-12 * (1 / 8 + 2) * mib + 6.5e-12 * 4 * mib) + 2e-3 * 3.289 * 1.09 * seconds
    joules = 1.1e-6 * 1.08 * 1.05 + memory + 60e-12 * 1600 + 10e-12 * 8 * 8 * mib
    assert cost.joules == pytest.approx(joules)


@pytest.mark.parametrize("units", [0, 9])
def test_the_model_ends_at_eight_units(units):
    with pytest.raises(UsageError, match="not for so many units. Got: .. ?Allowed: 1 to 8"):
        system_mm2(units)
