import itertools

import pytest
import torch
from torch import nn

from tests.hardware.networks import Everything, images, phantoms, quantised_network, seeded, shipped
from xaiseg.errors import UsageError
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.fewer_digits import (
    evenly_shortened,
    mean_digits,
    output_values,
    room,
    search,
    shortened,
)


def network(seed=0):
    net = seeded(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1)), seed=seed
    )
    return deploy(quantised_network(net, images(4)))


def same(first, second):
    names = first.ready
    digits = all(torch.equal(first.ready[name].digits, second.ready[name].digits) for name in names)
    return digits and first.fewer == second.fewer and torch.equal(first(images(2)), second(images(2)))


@pytest.mark.parametrize("fewer", [{}, {"0": 3}, {"0": 1, "2": 2, "4": 1}])
def test_a_shortened_network_is_the_one_that_is_deployed_so(fewer):
    held = network()
    assert same(shortened(held, fewer), deploy(held.network, fewer=fewer))
    # whatever was left out before does not matter
    assert same(shortened(shortened(held, {"0": 2, "4": 3}), fewer), deploy(held.network, fewer=fewer))


def test_the_same_count_everywhere_is_what_model_yaml_means_by_one_number():
    held = network()
    assert same(evenly_shortened(held, 2), deploy(held.network, fewer=2))


def test_one_digit_always_remains():
    held = deploy(quantised_network(seeded(Everything()), images(4)))
    short = evenly_shortened(held, 99)
    rounding = [name for name, one in held.network.convolutions.items() if one.shifts is not None]
    assert {int(short.ready[name].digits.min()) for name in rounding} == {1}
    paths = {node.name: node.path for node in held.network.folded.graph.nodes}
    assert list(room(held)) == [paths[name] for name in rounding]
    assert torch.isfinite(short(images(1))).all()


def test_paths_that_are_no_convolution_are_refused():
    with pytest.raises(UsageError, match="^fewer: the network has no such convolution. Got: 1"):
        shortened(network(), {"1": 1})


def test_mean_digits_by_hand():
    held, x = network(), images(1)
    values = output_values(held, (x,))
    assert values == {"_0": 3 * 14 * 14, "_2": 4 * 12 * 12, "_4": 12 * 12}
    total = sum(
        int(count) * values[name] // len(held.ready[name].digits)
        for name in values
        for count in held.ready[name].digits
    )
    assert mean_digits(held, values) == pytest.approx(total / sum(values.values()))
    shorter = shortened(held, {"2": 2})
    assert mean_digits(shorter, values) == pytest.approx(mean_digits(held, values) - 2 * 576 / sum(values.values()))


def test_the_curve_falls_by_one_digit_a_step_where_all_layers_can():
    held, x = deploy(quantised_network(shipped(), phantoms(2, "validation"))), phantoms(1, "test")
    values = output_values(held, (x,))
    found = [mean_digits(evenly_shortened(held, count), values) for count in range(7)]
    assert all(later < earlier for earlier, later in itertools.pairwise(found))
    rounding = sum(count for name, count in values.items() if held.network.convolutions[name].shifts is not None)
    assert found[0] - found[1] == pytest.approx(rounding / sum(values.values()))


def noise_of(held, x):
    exact = held(x)
    return lambda candidate: float((candidate(x) - exact).square().mean())


def test_every_state_that_the_search_accepts_keeps_the_budget():
    held, x = network(), images(4, seed=3)
    noise = noise_of(held, x)
    budget = noise(evenly_shortened(held, 2))
    judged = []

    def holds(candidate):
        judged.append(candidate)
        return noise(candidate) <= budget

    found = search(held, holds, noise, most=6)
    assert (found.within, found.exhausted, found.trials) == (True, False, len(judged))
    best = shortened(held, found.fewer)
    assert noise(best) <= budget
    assert found.states[-1] == found.fewer != {}
    values = output_values(held, (x,))
    assert mean_digits(best, values) < mean_digits(held, values) - 1
    # Each leaves out at most one digit more in each layer, and more in all.
    before: dict[str, int] = {}
    for state in found.states:
        assert noise(shortened(held, state)) <= budget
        assert all(0 <= state[path] - before.get(path, 0) <= 1 for path in state)
        assert sum(state.values()) > sum(before.values())
        before = state


def test_layers_are_ordered_by_the_damage_that_each_does_alone():
    held, x = network(), images(4, seed=3)
    noise = noise_of(held, x)
    found = search(held, lambda candidate: True, noise, most=1)
    assert found.damage == {path: noise(deploy(held.network, fewer={path: 2})) for path in ("0", "2")}
    assert list(found.damage.values()) == sorted(found.damage.values())
    assert found.fewer == {"0": 1, "2": 1}  # the head does not round


def test_a_block_that_breaks_the_budget_is_halved_down_to_the_layer_that_does():
    held = deploy(quantised_network(seeded(Everything()), images(4)))
    able = list(room(held))
    fragile = able[1]

    def holds(candidate):
        return candidate.fewer[next(n for n, p in paths.items() if p == fragile and n in candidate.fewer)] == 0

    paths = {node.name: node.path for node in held.network.folded.graph.nodes}
    found = search(held, holds, lambda candidate: 0.0, most=2, blocks=1)
    assert found.fewer == {path: 2 for path in able if path != fragile}


def test_a_budget_that_does_not_hold_with_all_digits_leaves_out_none():
    found = search(network(), lambda candidate: False, lambda candidate: 0.0, most=6)
    assert (found.fewer, found.within, found.trials) == ({}, False, 1)


def test_trials_end_the_search():
    held = network()
    found = search(held, lambda candidate: True, lambda candidate: 0.0, most=6, blocks=1, trials=3)
    assert found.exhausted
    assert found.trials == 3
    assert found.fewer == {"0": 2, "2": 2}
