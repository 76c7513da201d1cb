"""How few digits are enough: networks whose units stop earlier, and a search for the digits of each layer.

A unit that emits one digit less saves a step of every sum. Layers bear that differently, so the search leaves out
digits where they hurt least, as long as a budget holds, which the caller judges on calibration images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.convolution import ready_convolution
from xaiseg.hardware.deployed import Deployed
from xaiseg.hardware.graph import Node

#: Digits that are left out of one layer at a time to see how much it hurts.
PROBE: Final = 2


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        fewer: digits that each convolution leaves out, by module path; those that keep all are not in it.
        states: all that were accepted, in order: each leaves out more than the one before; the last is ``fewer``.
        damage: what leaving out ``PROBE`` digits of one layer alone does, by module path, least first.
        trials: networks that were judged.
        within: whether the budget holds with all digits; where it does not nothing is left out.
        exhausted: whether the search ended because no trial was left.
    """

    fewer: dict[str, int]
    states: tuple[dict[str, int], ...]
    damage: dict[str, float]
    trials: int
    within: bool
    exhausted: bool


def shortened(deployed: Deployed, fewer: Mapping[str, int]) -> Deployed:
    """The same units with these digits left out of each convolution; the others emit all digits of their outputs.

    Args:
        deployed: the network; what it leaves out itself does not matter.
        fewer: digits left out, by module path.

    Raises:
        UsageError: a path that is no convolution, or fewer digits than one.
    """
    paths = _paths(deployed)
    if strange := sorted(set(fewer) - set(paths.values())):
        raise UsageError("the network has no such convolution", where="fewer", got=strange[0])
    ready, left_out = dict(deployed.ready), dict(deployed.fewer)
    for name, path in paths.items():
        wanted, held = fewer.get(path, 0), deployed.network.convolutions[name]
        if wanted == left_out[name]:
            continue
        digits = _all_digits(deployed, name) - wanted
        ready[name] = ready_convolution(held.layer, ready[name].unit, digits=digits, bias=deployed.network.scheme.bias)
        left_out[name] = wanted
    return replace(deployed, ready=ready, fewer=left_out)


def evenly_shortened(deployed: Deployed, count: int) -> Deployed:
    """The same digits left out of every convolution that rounds, but never its last one."""
    return shortened(deployed, {path: min(count, most) for path, most in room(deployed).items()})


def room(deployed: Deployed) -> dict[str, int]:
    """The most digits that each convolution that rounds can leave out, by module path in the order of computation."""
    found: dict[str, int] = {}
    for name, path in _paths(deployed).items():
        if deployed.network.convolutions[name].shifts is not None:
            most = int(_all_digits(deployed, name).min()) - 1
            found[path] = min(most, found.get(path, most))
    return found


def output_values(deployed: Deployed, arguments: tuple[Tensor, ...]) -> dict[str, int]:
    """How many values each convolution answers to a batch, by node name."""
    counts: Counter[str] = Counter()

    def see(node: Node, value: Tensor) -> None:
        if node.kind == "convolution":
            counts[node.name] += value.numel()

    deployed(*arguments, watch=see)
    return dict(counts)


def mean_digits(deployed: Deployed, values: Mapping[str, int]) -> float:
    """Digits that a unit emits for one value, averaged over the values of all convolutions.

    Args:
        deployed: the network.
        values: from :func:`output_values`.
    """
    emitted = sum(count * float(deployed.ready[name].digits.double().mean()) for name, count in values.items())
    return emitted / sum(values.values())


def search(
    deployed: Deployed,
    holds: Callable[[Deployed], bool],
    damage: Callable[[Deployed], float],
    *,
    most: int,
    blocks: int = 3,
    trials: int = 200,
) -> Search:
    """Leaves out one digit more in every round, block by block of layers, the least sensitive first.

    A block that breaks the budget is halved until single layers are left; a layer that breaks it keeps its digits for
    good. So every network that is accepted held the budget when it was judged.

    Args:
        deployed: the network on its units.
        holds: whether a network keeps the budget.
        damage: how much a network differs; orders the layers.
        most: digits that a layer may leave out.
        blocks: into which the layers are divided at the start of a round.
        trials: networks that may be judged at most, those that order the layers not among them.
    """
    able = room(deployed)
    if not holds(shortened(deployed, {})):
        return Search({}, (), {}, 1, within=False, exhausted=False)
    probed = {path: damage(shortened(deployed, {path: min(PROBE, left)})) for path, left in able.items() if left > 0}
    order = dict(sorted(probed.items(), key=lambda item: item[1]))
    greedy = _Greedy(deployed, holds, trials - 1)
    open_paths = list(order)
    for depth in range(1, most + 1):
        open_paths = [path for path in open_paths if able[path] >= depth]
        size = -(-len(open_paths) // blocks) or 1
        parts = [open_paths[start : start + size] for start in range(0, len(open_paths), size)]
        open_paths = [path for part in parts for path in greedy.take(part)]
    return Search(
        greedy.fewer, tuple(greedy.states), order, trials - greedy.left, within=True, exhausted=greedy.left == 0
    )


@dataclass
class _Greedy:
    """What has been left out so far."""

    deployed: Deployed
    holds: Callable[[Deployed], bool]
    left: int
    states: list[dict[str, int]] = field(default_factory=list)

    @property
    def fewer(self) -> dict[str, int]:
        """The last state that was accepted."""
        return self.states[-1] if self.states else {}

    def take(self, block: Sequence[str]) -> list[str]:
        """Leaves out one digit more in as much of a block as the budget allows; returns those layers."""
        if not block or self.left == 0:
            return []
        self.left -= 1
        wanted = {**self.fewer, **{path: self.fewer.get(path, 0) + 1 for path in block}}
        shorter = shortened(self.deployed, wanted)
        if self.holds(shorter):
            self.deployed = shorter
            self.states.append(wanted)
            return list(block)
        if len(block) == 1:
            return []
        half = len(block) // 2
        return self.take(block[:half]) + self.take(block[half:])


def _paths(deployed: Deployed) -> dict[str, str]:
    """Module path of every convolution, by node name."""
    graph = deployed.network.folded.graph
    return {node.name: node.path for node in graph.nodes if node.name in deployed.ready}


def _all_digits(deployed: Deployed, name: str) -> Tensor:
    """(outputs,) digits that make a convolution the golden model."""
    return deployed.ready[name].digits + deployed.fewer[name]
