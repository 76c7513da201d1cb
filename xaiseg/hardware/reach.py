"""The finest exponents that sums allow, for all groups of values of a network at once.

No digit follows the last one of an exact sum, so an output's exponent is at most that of the sum behind it, and that
one depends on the exponent of the input: a coarser input makes coarser sums. Where a skip gives a layer's input and
output one exponent, weights beyond the integers' range ask that exponent to be smaller than itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """The exponent of ``target`` is at most the largest of ``sources`` plus ``gain``, and at most ``cap``.

    Attributes:
        node: name of the node that sets the limit.
        target: group of the node's output.
        sources: groups of what it reads: one for a convolution, two for a sum.
        gain: the finest exponent of a convolution's weights, negative where they pass the integers' range; 0 for a sum.
        cap: a limit whatever the input is, as a bias sets it; None = no such limit.
    """

    node: str
    target: str
    sources: tuple[str, ...]
    gain: int = 0
    cap: int | None = None


@dataclass(frozen=True)
class Endless:
    """Limits that no exponents meet.

    Attributes:
        limits: those that lead round from a group to itself; their gains add up to less than 0.
    """

    limits: tuple[Limit, ...]


def finest(start: Mapping[str, int], limits: Sequence[Limit]) -> dict[str, int] | Endless:
    """The largest exponents, none above its start, that meet all limits.

    Args:
        start: of every group.
        limits: in any order.

    >>> finest({"x": 7, "y": 9}, [Limit("conv", "y", ("x",), gain=-2)])
    {'x': 7, 'y': 5}
    >>> isinstance(finest({"x": 7}, [Limit("conv", "x", ("x",), gain=-1)]), Endless)
    True
    """
    # Why it ends. Suppose there are largest exponents e. In each sum of e keep the source that is largest: e is then
    # the answer of limits with one source each, as a shortest way is. No round trip has a negative sum of gains there,
    # so every exponent is a start or a cap plus the gains of at most n - 1 other groups on a way without repetition:
    # at least least - (n - 1) * loss. An exponent below that proves that there are none. Exponents are whole numbers
    # and every pass but the last lowers one, so one of the two ends comes.
    held = dict(start)
    least = min([*start.values(), *(limit.cap for limit in limits if limit.cap is not None)], default=0)
    loss = max([0, *(-limit.gain for limit in limits)])
    floor = least - max(0, len(start) - 1) * loss
    last: dict[str, Limit | None] = {}
    changed = True
    while changed:
        changed = False
        for limit in limits:
            most = max(held[source] for source in limit.sources) + limit.gain
            capped = limit.cap is not None and limit.cap <= most
            most = limit.cap if capped and limit.cap is not None else most
            if most >= held[limit.target]:
                continue
            changed, held[limit.target] = True, most
            last[limit.target] = None if capped else limit
            if most < floor:
                return Endless(_round_trip(limit, last, held))
    return held


def _round_trip(limit: Limit, last: Mapping[str, Limit | None], held: Mapping[str, int]) -> tuple[Limit, ...]:
    """The limits of the round trip that lowers a group for ever.

    A way back that ended at a start or a cap would be one without repetition, above the floor; so it does not end.
    """
    seen: dict[str, int] = {}
    way: list[Limit] = []
    while limit.target not in seen:
        seen[limit.target] = len(way)
        way.append(limit)
        before = last[max(limit.sources, key=held.__getitem__)]
        assert before is not None  # see above
        limit = before
    return tuple(way[seen[limit.target] :])
