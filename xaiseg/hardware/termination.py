"""Stopping a digit-serial sum before its last digit: the rules of arXiv:2610.11748, eq. 16, and what they save.

A sum's first digit that is not 0 is its sign. So a sum behind a ReLU may stop at a leading -1, and a decision at 0 may
stop at any leading digit: these two rules change nothing. Two others do: small sums are taken for 0 (prune), positive
ones are cut to their leading digits (skip). Digits are numbered from 1; the digit of weight 2^p is number total - p.

Every rule needs the complete sum in one stream: all input channels and the bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, get_args

import torch
from torch import Tensor

from xaiseg.errors import UsageError
from xaiseg.hardware.closed import leading
from xaiseg.hardware.convolution import Bias, plane_sums
from xaiseg.hardware.exact import Layer
from xaiseg.hardware.unit import Unit

#: ``prefix``: what a skipped sum leaves is what its digits stand for; ``floor``: the sum with its low bits cleared.
#: They differ by one unit of the last digit at most. The paper's simulator does the second, its unit the first.
Commit = Literal["prefix", "floor"]

#: In the order of their codes; where several fire at one digit, ``end`` and ``head`` go before ``prune``, that before
#: ``skip``, that before ``full``.
RULES: Final = ("full", "end", "head", "prune", "skip")


@dataclass(frozen=True)
class Policy:
    """Which rules are on. As it comes: those that change no mask.

    Args:
        end: behind a rectifier, stop at the first digit if it is -1; the output is 0.
        head: where only the sign is asked for, stop at the first digit that is not 0.
        prune: stop at the digit of weight 2^prune if all so far are 0; the output is 0. None = off. Where it is not
            above ``skip`` it never fires, as published.
        skip: stop at the digit of weight 2^skip if the first digit was 1; the output is what stands so far. None = off.
        commit: see ``Commit``.

    Raises:
        UsageError: a negative weight, or no such ``commit``.
    """

    end: bool = True
    head: bool = True
    prune: int | None = None
    skip: int | None = None
    commit: Commit = "prefix"

    def __post_init__(self) -> None:
        for name in ("prune", "skip"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise UsageError("no digit weighs so little", where=f"policy.{name}", got=value, allowed="0 or more")
        if self.commit not in get_args(Commit):
            allowed = ", ".join(get_args(Commit))
            raise UsageError("no such way to commit", where="policy.commit", got=self.commit, allowed=allowed)

    @property
    def prune_is_idle(self) -> bool:
        """Whether pruning never fires: it is off, or not above ``skip``."""
        return self.prune is None or (self.skip is not None and self.prune <= self.skip)

    @property
    def changes_nothing(self) -> bool:
        """Whether every decision stays what all digits make it."""
        return self.prune is None and self.skip is None


@dataclass(frozen=True)
class Stopped:
    """Where sums stopped.

    Attributes:
        values: int64, in units of the exact sum's last digit; of the head the sign alone means something.
        rules: int64 codes, places in ``RULES``.
        digits: int64, how many were emitted; a unit takes that many cycles and its silent ones.
    """

    values: Tensor
    rules: Tensor
    digits: Tensor


def stop(
    prefixes: Iterable[Tensor],
    policy: Policy,
    *,
    total: int,
    sums: Tensor,
    digits: int | Tensor,
    rectified: bool,
    head: bool = False,
) -> Stopped:
    """Applies a policy to sums whose digits come one after another.

    Args:
        prefixes: for m = 1, 2, ... the integers that the first m digits stand for; int64, one shape.
        policy: the rules.
        total: digits of the exact sum.
        sums: the exact sums, for ``commit="floor"``.
        digits: digits after which a unit stops anyway; broadcasts to the sums.
        rectified: whether a rectifier follows.
        head: whether only the sign is asked for.

    Raises:
        UsageError: a weight that no digit has, a head behind which a rectifier follows, too few prefixes.

    >>> from xaiseg.hardware.unit import Unit
    >>> unit = Unit(1, bits=4, weight_bits=4)
    >>> known = torch.tensor([[-48, 48], [-48, 48], [-36, 36], [-30, 30]])
    >>> found = stop(closed_prefixes(known, unit), Policy(skip=3), total=7, sums=known[-1], digits=7, rectified=True)
    >>> found.values.tolist(), found.digits.tolist(), [RULES[code] for code in found.rules]
    ([0, 32], [1, 4], ['end', 'skip'])
    """
    _check(policy, total, rectified, head)
    last = torch.as_tensor(digits, device=sums.device).expand(sums.shape)
    most = int(last.max())
    values, rules, stops = (torch.zeros_like(sums) for _ in range(3))
    going = torch.ones_like(sums, dtype=torch.bool)
    prunes = None if policy.prune_is_idle else policy.prune
    for number, prefix in enumerate(prefixes, start=1):
        weight = total - number
        fired = {
            "end": (prefix < 0) if policy.end and rectified else None,
            "head": (prefix != 0) if policy.head and head else None,
            "prune": (prefix == 0) if weight == prunes else None,
            "skip": (prefix > 0) if weight == policy.skip else None,
            "full": last == number,
        }
        for rule, where in fired.items():
            if where is None:
                continue
            now = going & where
            values = torch.where(now, _committed(rule, prefix, sums, weight, policy), values)
            rules.masked_fill_(now, RULES.index(rule))
            stops.masked_fill_(now, number)
            going &= ~now
        if number == most:
            return Stopped(values, rules, stops)
    raise UsageError("the digits end too early", where="prefixes", allowed=f"{most} prefixes or more")


def _committed(rule: str, prefix: Tensor, sums: Tensor, weight: int, policy: Policy) -> Tensor:
    """What a sum that stops at the digit of weight 2^weight leaves."""
    if rule in ("end", "prune"):
        return torch.zeros_like(prefix)
    if rule == "skip" and policy.commit == "floor":
        return sums >> weight << weight
    return prefix << weight


def _check(policy: Policy, total: int, rectified: bool, head: bool) -> None:
    for name in ("prune", "skip"):
        if (value := getattr(policy, name)) is not None and value >= total:
            raise UsageError("no digit weighs so much", where=f"policy.{name}", got=value, allowed=f"0 to {total - 1}")
    if head and rectified:
        raise UsageError("a sum behind which a rectifier follows is asked for more than its sign", where="head")


def closed_prefixes(known: Tensor, unit: Unit) -> Iterator[Tensor]:
    """The prefixes of a unit with exact leading digits: no digit depends on how the earlier ones were found.

    Args:
        known: (R, ...) int64 from :func:`known_sums`.
        unit: ``twos_complement`` or ``merged``.

    >>> known = torch.tensor([-48, -48, -36, -30])
    >>> [prefix.item() for prefix in closed_prefixes(known, Unit(1, bits=4, weight_bits=4))]
    [-1, -1, -2, -4, -7, -15, -30]
    """
    for number in range(1, unit.total + 1):
        yield leading(known[min(len(known), number + unit.silent) - 1], unit, digits=number)


def digit_prefixes(digits: Iterable[Tensor]) -> Iterator[Tensor]:
    """The prefixes of any string of digits, as those of :func:`xaiseg.hardware.grouped.grouped_digits`.

    >>> [prefix.item() for prefix in digit_prefixes(torch.tensor([0, 1, -1]))]
    [0, 1, 1]
    """
    value: Tensor | None = None
    for digit in digits:
        value = digit.long() if value is None else 2 * value + digit
        yield value


def known_sums(x: Tensor, layer: Layer, unit: Unit, *, bias: Bias = "preloaded") -> Tensor:
    """What a layer's sums are when only the first digits of its inputs are known.

    Args:
        x: (B, C, H, W) tensor that holds integers.
        layer: integer weights and bias.
        unit: of the layer.
        bias: ``preloaded`` is part of every row; ``serial`` arrives digit by digit, in more rows than inputs have bits.

    Returns:
        (R, B, outputs, H', W') int64; row k - 1 is the sum of the first k digits. The last one is the exact sum.

    >>> layer = Layer(torch.full((1, 1, 1, 1), 100))
    >>> known_sums(torch.full((1, 1, 1, 1), 5), layer, Unit(1, bits=3)).flatten().tolist()
    [400, 400, 500]
    """
    planes = plane_sums(x, layer, unit, bias=bias)
    for row, plane in enumerate(planes):
        places = unit.bits - 1 - row
        # Digits of a serial bias below those of the inputs: their planes are multiples of what is shifted away.
        weighted = plane << places if places >= 0 else plane >> -places
        planes[row] = weighted if row == 0 else planes[row - 1] + weighted
    if layer.bias is not None and bias == "preloaded":
        planes += layer.bias.long().view(-1, 1, 1)
    return planes
