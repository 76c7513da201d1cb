import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.hardware.networks import Everything, Vectors, images, phantoms, quantised_network, seeded, shipped
from xaiseg.errors import UsageError
from xaiseg.hardware.closed import first_negative
from xaiseg.hardware.cost_rows import network_costs
from xaiseg.hardware.costs import given
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.designs import ZYNQ_7020
from xaiseg.hardware.quantise import Scheme
from xaiseg.hardware.stopping_network import lockstep, run_stopping, stopping_cost
from xaiseg.hardware.termination import Policy, known_sums

FULL = Policy(end=False, head=False)
FOUR_BY_FIVE = replace(ZYNQ_7020, outputs=given(4, ""), pixels=given(5, ""), inputs=None)


def slow_lockstep(digits, outputs, pixels):
    """The largest of each group, element by element."""
    count, channels, height, width = digits.shape
    found = {}
    for image, channel, row, column in itertools.product(*map(range, (count, channels, height, width))):
        key = image, channel // outputs, (row * width + column) // pixels
        found[key] = max(found.get(key, 0), int(digits[image, channel, row, column]))
    return [found[key] for key in sorted(found)]


@pytest.mark.parametrize(("outputs", "pixels"), [(1, 1), (2, 3), (4, 1), (16, 5), (3, 100)])
def test_the_slowest_of_each_group_decides(outputs, pixels):
    digits = torch.randint(1, 20, (2, 7, 4, 5), generator=torch.Generator().manual_seed(0))
    found = lockstep(digits, outputs=outputs, pixels=pixels)
    assert found.flatten().tolist() == slow_lockstep(digits, outputs, pixels)


@pytest.mark.parametrize("kind", [Everything, Vectors])
@pytest.mark.parametrize("arithmetic", ["twos_complement", "merged"])
@pytest.mark.parametrize("scheme", [Scheme(), Scheme(bias="serial")], ids=["preloaded", "serial"])
def test_without_rules_and_with_exact_ones_the_answer_stays(kind, arithmetic, scheme):
    network = deploy(quantised_network(seeded(kind()), images(4), scheme=scheme), arithmetic=arithmetic)
    x = images(3, seed=7)
    answer, rows = run_stopping(network, (x,), FULL)
    assert torch.equal(answer, network(x))
    assert all((row.saved, row.saved_time, set(row.rules)) == (0, 0, {"full"}) for row in rows)
    # No head of these networks is decided by its sign alone, so not even a logit may move.
    answer, rows = run_stopping(network, (x,), Policy())
    assert torch.equal(answer, network(x))
    assert any("end" in row.rules for row in rows)
    assert not any("head" in row.rules for row in rows)


def test_fewer_digits_stay_fewer():
    integers = quantised_network(seeded(Everything()), images(4))
    network, x = deploy(integers, fewer=2), images(2, seed=7)
    answer, rows = run_stopping(network, (x,), Policy())
    assert torch.equal(answer, network(x))
    _, full = run_stopping(deploy(integers), (x,), Policy())
    assert sum(row.cycles_full for row in rows) < sum(row.cycles_full for row in full)


@pytest.mark.parametrize("arithmetic", ["twos_complement", "merged"])
def test_the_exact_rules_change_no_mask_of_the_shipped_network(arithmetic):
    network = deploy(quantised_network(shipped(), phantoms(4, "validation")), arithmetic=arithmetic)
    x = phantoms(2, "test")
    expected = network(x)
    answer, rows = run_stopping(network, (x,), Policy())
    assert torch.equal(answer > 0, expected > 0)
    assert torch.equal(answer.sign(), expected.sign())
    assert 0 < int((expected > 0).sum()) < expected.numel()
    only_end, _ = run_stopping(network, (x,), Policy(head=False))
    assert torch.equal(only_end, expected)  # every logit
    assert rows[-1].path == "head"
    assert set(rows[-1].rules) <= {"head", "full"}
    assert sum("end" in row.rules for row in rows) == 14  # every 3 x 3 convolution
    assert all(row.saved == 0 for row in rows if row.path.startswith("up"))
    # In lockstep nearly nothing is gained in time: some unit of a group goes on to its last digit.
    inner = [row for row in rows if "end" in row.rules]
    assert all(row.saved > 0.05 for row in inner)
    assert all(row.saved_time < row.saved / 3 for row in inner)


@pytest.mark.parametrize(("unit", "silent"), [({}, 2), ({"delay": 1}, 1), ({"arithmetic": "merged"}, 0)])
def test_rows_count_cycles_of_the_units_and_of_their_groups(unit, silent):
    small = seeded(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 1, 1)))
    network = deploy(quantised_network(small, images(2)), **unit)
    x = images(2, seed=3)
    _, (first, head) = run_stopping(network, (x,), Policy(head=False), accelerator=FOUR_BY_FIVE)
    values = {}
    network(x, watch=lambda node, value: values.update({node.name: value}))
    node = next(node for node in network.network.folded.graph.nodes if node.path == "0")
    held, ready = network.network.convolutions[node.name], network.ready[node.name]
    known = known_sums(values[node.inputs[0]], held.layer, ready.unit)
    digits = torch.stack(
        [
            first_negative(known[:, :, channel], ready.unit, digits=int(count))
            for channel, count in enumerate(ready.digits)
        ],
        1,
    )
    stops = torch.where(digits > 0, digits, ready.digits.view(-1, 1, 1))
    full = ready.digits.view(-1, 1, 1).expand_as(stops)
    assert (first.path, first.windows) == ("0", stops.numel())
    assert first.cycles == int((stops + silent).sum())
    assert first.cycles_full == int((full + silent).sum())
    assert first.lockstep == sum(count + silent for count in slow_lockstep(stops, 4, 5))
    assert first.lockstep_full == sum(count + silent for count in slow_lockstep(full, 4, 5))
    assert first.rules == {"end": int((digits > 0).sum()), "full": int((digits == 0).sum())}
    assert first.saved == pytest.approx(1 - first.cycles / first.cycles_full)
    assert first.saved_time == pytest.approx(1 - first.lockstep / first.lockstep_full)
    assert head.saved == 0


def test_cutting_sums_changes_the_answer_and_saves_more():
    network = deploy(quantised_network(shipped(), phantoms(4, "validation")))
    x = phantoms(1, "test")
    exact, rows = run_stopping(network, (x,), Policy())
    coarse, fewer = run_stopping(network, (x,), Policy(prune=12, skip=11))
    assert not torch.equal(coarse.sign(), exact.sign())
    assert sum(row.cycles for row in fewer) < sum(row.cycles for row in rows)
    assert {"end", "prune", "skip"} <= set().union(*(row.rules for row in fewer))
    floor, _ = run_stopping(network, (x,), Policy(prune=12, skip=11, commit="floor"))
    assert not torch.equal(floor, coarse)


@pytest.mark.parametrize("arithmetic", ["twos_complement", "merged"])
def test_what_stopping_saves_of_an_image(arithmetic):
    integers = quantised_network(seeded(Everything()), images(2))
    network, x = deploy(integers, arithmetic=arithmetic), images(3, seed=5)
    costs = network_costs(network, (x[:1],), workload="w", accelerator=FOUR_BY_FIVE, designs=("mma",))
    _, full = run_stopping(network, (x,), FULL, accelerator=FOUR_BY_FIVE)
    for layer, row in zip(costs.layers, full, strict=True):
        assert row.lockstep_full == 3 * layer.costs["mma"].cycles
    same = stopping_cost(costs, full)
    assert (same.cycles, same.joules) == (costs.image["mma"].cycles, pytest.approx(costs.image["mma"].joules))
    _, rows = run_stopping(network, (x,), Policy(), accelerator=FOUR_BY_FIVE)
    found = stopping_cost(costs, rows)
    assert found.cycles == pytest.approx(sum(row.lockstep for row in rows) / 3)
    parts = zip(costs.layers, rows, strict=True)
    assert found.joules == pytest.approx(sum(c.costs["mma"].joules * r.cycles / r.cycles_full for c, r in parts))
    assert found.joules < costs.image["mma"].joules * 0.97
    assert found.seconds == pytest.approx(found.cycles / 100e6)
    assert "the most to be saved" in found.notes[-1]


def test_layers_whose_channels_come_in_rounds_save_nothing():
    network, x = deploy(quantised_network(seeded(Everything()), images(2))), images(1)
    rounds = replace(FOUR_BY_FIVE, inputs=given(1, ""))
    costs = network_costs(network, (x,), workload="w", accelerator=rounds, designs=("mma",))
    _, rows = run_stopping(network, (x,), Policy(), accelerator=rounds)
    found = stopping_cost(costs, rows)
    depthwise = next(row for row in rows if row.path == "depthwise.0")  # one channel a group, but no rectifier
    assert depthwise.saved == 0
    assert any(row.saved > 0 for row in rows)
    assert (found.cycles, found.joules) == (costs.image["mma"].cycles, pytest.approx(costs.image["mma"].joules))
    with pytest.raises(UsageError, match="^stops: the rows are those of another network"):
        stopping_cost(costs, rows[1:])
