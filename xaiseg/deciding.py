"""One requirement against its estimates: which estimates it binds, and what the guard band says about them.

A requirement may bind several estimates: the groups of a stratum, or a level of every degradation. It is then an
intersection-union test: met when each member is met at alpha, failed when a member fails after Holm's correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from xaiseg.errors import did_you_mean
from xaiseg.estimate import Estimate
from xaiseg.protocol import Decision, Protocol, Requirement
from xaiseg.statistics.equivalence import decide
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.multiplicity import Rung, holm_reject
from xaiseg.statistics.planning import more_needed

Word = Literal["pass", "fail", "insufficient", "not_run"]
_DOES: Final = {"pass": "meets the bound of", "fail": "fails the bound of", "insufficient": "leaves open the bound of"}
HOLM: Final = ", but not after Holm's correction"
_WORDS: Final = {"pass": "pass", "fail": "fail", "insufficient": "cannot tell"}


@dataclass(frozen=True)
class Cap:
    """A reason why nothing better or worse than INSUFFICIENT can be said.

    Attributes:
        reason: one clause.
        spares: beginnings of check ids that it does not concern.
        spares_facts: it does not concern a census of the data.
        spares_metrics: beginnings of metrics that it does not concern.
        keeps_fail: it holds back a PASS only; looking again must not wash a FAIL away.
    """

    reason: str
    spares: tuple[str, ...] = ("provenance",)
    spares_facts: bool = False
    spares_metrics: tuple[str, ...] = ()
    keeps_fail: bool = False

    def concerns(self, requirement: Requirement) -> bool:
        """Whether the check and the metric are among those that it holds back."""
        return not (requirement.check.startswith(self.spares) or requirement.metric.startswith(self.spares_metrics))


@dataclass(frozen=True)
class Ruling:
    """What the estimates say about a requirement.

    Attributes:
        word: the decision.
        reason: one clause.
        estimate: the one that decided; for several the worst.
        members: ids of all estimates that the requirement binds.
        failing: ids of those that fail.
        leans: where an undecided value lies, "pass", "fail" or "".
        more: how many more clusters would settle it, or None.
        group: the one among several that needs so many, or "".
        at_least: so many more are needed before anything can be decided; whether they settle it is open.
        on_bound: no realistic number of clusters would settle it.
        capped: why the decision was capped, or "".
    """

    word: Word
    reason: str
    estimate: Estimate | None = None
    members: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    leans: str = ""
    more: int | None = None
    group: str = ""
    at_least: bool = False
    on_bound: bool = False
    capped: str = ""


def rule(
    requirement: Requirement, protocol: Protocol, estimates: Sequence[Estimate], facts: Mapping[str, Any]
) -> Ruling:
    """Decides one requirement by guard band.

    Args:
        requirement: the requirement; it applies and its check ran.
        protocol: the protocol that holds it.
        estimates: all estimates of the run.
        facts: "strata" names the declared factors.
    """
    pool = [item for item in estimates if _about(item, requirement)]
    if not pool:
        return Ruling("not_run", _unknown_metric(requirement, estimates))
    members = [item for item in pool if _in_where(item, requirement) and _in_stratum(item, requirement)]
    gap = _gap(requirement, protocol, members, pool, facts)
    if gap:
        return Ruling("not_run", gap, members=tuple(item.id for item in members))
    rulings = [_rule_one(item, requirement, protocol.decision.min_clusters) for item in members]
    return rulings[0] if len(rulings) == 1 else _combine(rulings, requirement)


def caps_of(facts: Mapping[str, Any], decision: Decision) -> tuple[Cap, ...]:
    """The caps that follow from the facts of a run."""
    taken = int(facts.get("looks_taken") or 1)
    allowed = "1 look" if decision.looks == 1 else f"{decision.looks} looks"
    found = [
        (facts.get("limit") is not None, Cap("only a part of the cases was audited (--limit)")),
        (
            not facts.get("cluster_declared", True) and bool(facts.get("cluster_repeated")),
            Cap("images were assumed independent although a column groups them", spares_facts=True),
        ),
        (
            facts.get("threshold_chosen_on") == "test",
            Cap("the operating threshold was chosen on the audited data", spares=("data.", "provenance")),
        ),
        (
            bool(facts.get("drawn_unevenly")),
            Cap(
                "some tiles were likelier to be drawn than others, so that these tiles are no fair sample",
                spares=("data.", "provenance"),
                spares_metrics=("animals_total",),
            ),
        ),
        (
            taken > decision.looks,
            Cap(
                f"this model was judged {taken} times on these cases and the protocol allows {allowed}",
                spares_facts=True,
                keeps_fail=True,
            ),
        ),
    ]
    return tuple(cap for holds, cap in found if holds)


def capped(ruling: Ruling, requirement: Requirement, caps: Sequence[Cap]) -> Ruling:
    """The ruling with PASS and FAIL held back where a cap concerns the requirement."""
    if ruling.word not in ("pass", "fail"):
        return ruling
    is_fact = ruling.estimate is not None and ruling.estimate.kind == "fact"
    reasons = [
        cap.reason
        for cap in caps
        if cap.concerns(requirement)
        and not (cap.spares_facts and is_fact)
        and not (cap.keeps_fail and ruling.word == "fail")
    ]
    if not reasons:
        return ruling
    said = "; ".join(reasons)
    reason = f"{said}. Without that: {ruling.reason}"
    return replace(ruling, word="insufficient", reason=reason, leans=ruling.word, failing=(), capped=said)


# --- which estimates -------------------------------------------------------------------------------------------------


def _about(item: Estimate, requirement: Requirement) -> bool:
    names = ("check", "metric", "target", "subject")
    return all(getattr(item, name) == getattr(requirement, name) for name in names)


def _in_where(item: Estimate, requirement: Requirement) -> bool:
    if not requirement.where:
        return not item.factor and not item.level
    return any(
        item.level == level and item.factor and factor in ("level", item.factor)
        for factor, level in requirement.where.items()
    )


def _in_stratum(item: Estimate, requirement: Requirement) -> bool:
    if not requirement.stratum:
        return not item.stratum
    factor = item.stratum.partition("=")[0]
    return bool(item.stratum) and requirement.stratum in ("each", factor)


def _unknown_metric(requirement: Requirement, estimates: Sequence[Estimate]) -> str:
    known = {item.metric for item in estimates if item.check == requirement.check}
    about = f"{requirement.check} gives no {requirement.metric}"
    about += f" for {requirement.target}" if requirement.target else ""
    about += f", variant {requirement.subject}" if requirement.subject != "reference" else ""
    named = {
        item.subject for item in estimates if item.metric == requirement.metric and item.check == requirement.check
    }
    if named and requirement.subject not in named:
        if requirement.subject == "reference":
            return f"{about} of the audited model itself: it compares variants, so write `subject: each`"
        return f"{about}; {did_you_mean(requirement.subject, named - {'reference'})}"
    if not known or requirement.metric in known:
        return about
    return f"{about}; {did_you_mean(requirement.metric, known)}"


def _gap(
    requirement: Requirement,
    protocol: Protocol,
    members: Sequence[Estimate],
    pool: Sequence[Estimate],
    facts: Mapping[str, Any],
) -> str:
    """What is missing among the members, and what to supply; empty when they are complete."""
    absent = next((item for item in members if item.missing), None)
    if absent is None and not members:
        absent = next((item for item in pool if item.missing), None)
    if absent is not None:
        return absent.reason or f"{absent.id} could not be measured"
    return (
        _gap_where(requirement, protocol, members)
        or _gap_strata(requirement, protocol, members, facts)
        or ("" if members else f"{requirement.check} gives no {requirement.metric} for all cases together")
    )


def _gap_where(requirement: Requirement, protocol: Protocol, members: Sequence[Estimate]) -> str:
    for factor, level in requirement.where.items():
        held = {item.factor for item in members if item.level == level}
        # A check with a ladder of degradations names them in its parameter `factors`.
        ladder = getattr(protocol.checks[requirement.check].params, "factors", ())
        wanted = [factor] if factor != "level" else list(ladder)
        absent = [name for name in wanted if name not in held]
        if absent:
            return f"nothing was measured at the level {level} of {', '.join(absent)}"
        if not held:
            return f"nothing was measured at the level {level}"
    return ""


def _gap_strata(
    requirement: Requirement, protocol: Protocol, members: Sequence[Estimate], facts: Mapping[str, Any]
) -> str:
    if not requirement.stratum:
        return ""
    declared = list(facts.get("strata") or ())
    wanted = [requirement.stratum] if requirement.stratum != "each" else [*dict.fromkeys([*protocol.strata, *declared])]
    if not wanted:
        return "no strata are declared; name the columns under data: test: strata: in model.yaml"
    undeclared = [factor for factor in wanted if factor not in declared]
    if undeclared:
        names = ", ".join(undeclared)
        return f"{names} is not declared; name the column under data: test: strata: in model.yaml"
    held = {item.stratum.partition("=")[0] for item in members}
    absent = [factor for factor in wanted if factor not in held]
    return f"{requirement.metric} was not estimated in the groups of {', '.join(absent)}" if absent else ""


# --- one estimate ----------------------------------------------------------------------------------------------------


def _rule_one(item: Estimate, requirement: Requirement, min_clusters: int) -> Ruling:
    if item.value is None:
        return Ruling("insufficient", item.reason or "there is no value", item, (item.id,))
    leans = decide(item.value, item.value, requirement.bound, requirement.sense)
    bare = Ruling("insufficient", "", item, (item.id,), leans=leans)
    if item.kind == "fact":
        said = f"{_figure(item, item.value)} {_DOES[leans]} {_bound(item, requirement)}"
        return replace(bare, word=leans, reason=said, failing=bare.members if leans == "fail" else ())
    interval = item.interval
    if interval is None or (interval.lower is None and interval.upper is None):
        reason = (interval.reason if interval is not None else "") or item.reason or "there is no interval"
        if item.n_clusters < min_clusters:
            return replace(bare, reason=reason, more=min_clusters - item.n_clusters, at_least=True)
        more = None if interval is None else _more(item, interval, requirement, min_clusters)
        return replace(bare, reason=reason, more=more)
    word = _decide(interval, requirement)
    other = word if item.dropped is None else _decide(item.dropped, requirement)
    if other != word:
        reason = (
            f"undefined cases: with {item.n_undefined} of them counted as the worst value the answer is "
            f"{_WORDS[word]}, without them {_WORDS[other]}"
        )
        return replace(bare, reason=reason)
    said = f"{_figure(item, item.value)} ({_range(item, interval)})"
    if word == "insufficient":
        more = _more(item, interval, requirement, min_clusters)
        reason = f"{_bound(item, requirement)} is neither shown nor refuted by {said}"
        return replace(bare, reason=reason, more=more, on_bound=more is None)
    reason = f"{said} {_DOES[word]} {_bound(item, requirement)}"
    return replace(bare, word=word, reason=reason, failing=bare.members if word == "fail" else ())


def _more(item: Estimate, interval: Interval, requirement: Requirement, min_clusters: int) -> int | None:
    kind: Literal["mean", "proportion"] = "proportion" if item.kind == "proportion" else "mean"
    return more_needed(interval, requirement.bound, requirement.sense, kind, least=min_clusters)


def _decide(interval: Interval, requirement: Requirement) -> Literal["pass", "fail", "insufficient"]:
    return decide(interval.lower, interval.upper, requirement.bound, requirement.sense)


# --- several estimates -----------------------------------------------------------------------------------------------


def _combine(rulings: Sequence[Ruling], requirement: Requirement) -> Ruling:
    members = tuple(item for ruling in rulings for item in ruling.members)
    ranked = sorted(rulings, key=lambda ruling: _badness(ruling, requirement))
    worst = ranked[-1]
    if all(ruling.word == "pass" for ruling in rulings):
        reason = f"each of {len(rulings)} passes; the worst is {_name(worst)}: {worst.reason}"
        return replace(worst, reason=reason, members=members)
    failing = _failing(rulings, requirement)
    if failing:
        chosen = max(failing, key=lambda ruling: _badness(ruling, requirement))
        names = ", ".join(_name(ruling) for ruling in failing)
        reason = f"{names} of {len(rulings)} fails after Holm's correction; {_name(chosen)}: {chosen.reason}"
        ids = tuple(item for ruling in failing for item in ruling.members)
        return replace(chosen, reason=reason, members=members, failing=ids)
    return _undecided(rulings, members, requirement)


def _failing(rulings: Sequence[Ruling], requirement: Requirement) -> list[Ruling]:
    """Members that fail on their own and after Holm; a census that fails needs no correction."""

    def is_bad(lower: float | None, upper: float | None) -> bool:
        return decide(lower, upper, requirement.bound, requirement.sense) == "fail"

    family = [index for index, ruling in enumerate(rulings) if _kind(ruling) != "fact"]
    ladders = [_rungs(rulings[index], len(family)) for index in family]
    rejected = {family[place] for place in holm_reject(ladders, is_bad)}
    return [
        ruling
        for index, ruling in enumerate(rulings)
        if ruling.word == "fail" and (index in rejected or _kind(ruling) == "fact")
    ]


def _rungs(ruling: Ruling, size: int) -> tuple[Rung, ...]:
    """Bounds at alpha / k for k = 1 ... size; where one is lacking, the next stricter one. Empty when none is there."""
    held = sorted(ruling.estimate.holm) if ruling.estimate is not None else []
    rungs = [next(((k, low, high) for at, low, high in held if at >= k), None) for k in range(1, size + 1)]
    known = tuple(rung for rung in rungs if rung is not None)
    return known if len(known) == size else ()


def _undecided(rulings: Sequence[Ruling], members: tuple[str, ...], requirement: Requirement) -> Ruling:
    open_ones = [ruling for ruling in rulings if ruling.word != "pass"]
    valued = [ruling for ruling in open_ones if ruling.estimate is not None and ruling.estimate.value is not None]
    worst = max(valued or open_ones, key=lambda ruling: _badness(ruling, requirement))
    named = "; ".join(f"{_name(one)}: {one.reason}{HOLM if one.word == 'fail' else ''}" for one in open_ones)
    neediest = max(open_ones, key=lambda ruling: ruling.more or 0)
    settles = all(ruling.more is not None for ruling in open_ones)
    ways = {ruling.leans for ruling in open_ones}
    return Ruling(
        "insufficient",
        f"{len(rulings) - len(open_ones)} of {len(rulings)} pass, {len(open_ones)} cannot be decided: {named}",
        worst.estimate,
        members,
        leans="fail" if "fail" in ways else "pass" if ways == {"pass"} else "",
        more=neediest.more if settles else None,
        group=neediest.estimate.stratum if neediest.estimate is not None else "",
        at_least=settles and any(ruling.at_least for ruling in open_ones),
        on_bound=any(ruling.on_bound for ruling in open_ones),
    )


def _badness(ruling: Ruling, requirement: Requirement) -> float:
    """How far a value lies on the bad side; the largest is the worst."""
    value = ruling.estimate.value if ruling.estimate is not None else None
    if value is None:
        return float("inf")
    if requirement.sense == "within":
        return abs(value)
    return -value if requirement.sense == "at_least" else value


def _kind(ruling: Ruling) -> str:
    return ruling.estimate.kind if ruling.estimate is not None else ""


def _name(ruling: Ruling) -> str:
    item = ruling.estimate
    if item is None:
        return ruling.members[0]
    return item.stratum or " ".join(part for part in (item.factor, item.level) if part) or item.id


# --- words -----------------------------------------------------------------------------------------------------------


def _figure(item: Estimate, value: float) -> str:
    if item.kind == "proportion":
        return f"{100 * value:.1f} %"
    if item.kind == "fact" and float(value).is_integer():
        return f"{value:.0f}"
    places = max(0, min(3, 3 - len(f"{abs(value):.0f}"))) if abs(value) >= 10 else 3  # 491, 12.3, 0.834
    text = f"{value:.2g}" if 0 < abs(value) < 0.0005 else f"{value:.{places}f}"  # never "-0.000"
    return text.replace("-", "−") + (f" {item.unit}" if item.unit else "")


def _range(item: Estimate, interval: Interval) -> str:
    ends = ["open" if end is None else _figure(item, end) for end in (interval.lower, interval.upper)]
    return f"{100 * interval.level:g} % interval {ends[0]} to {ends[1]}"


def _bound(item: Estimate, requirement: Requirement) -> str:
    shown = f"{100 * requirement.bound:g} %" if item.kind == "proportion" else f"{requirement.bound:g}"
    return {"at_least": "at least ", "at_most": "at most ", "within": "±"}[requirement.sense] + shown
