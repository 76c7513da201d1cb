"""Stage 4: requirement × estimate → finding. Knows neither the model nor the layout."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from xaiseg.deciding import Cap, Ruling, capped, caps_of, rule
from xaiseg.estimate import Estimate
from xaiseg.protocol import Protocol, Requirement
from xaiseg.sentences import sentence
from xaiseg.statistics.planning import HOPELESS


class Verdict(Enum):
    """What a finding says; the value is the word printed."""

    PASS = "PASS"
    FAIL = "FAIL"
    ERROR = "ERROR"
    INSUFFICIENT = "INSUFFICIENT EVIDENCE"
    NOT_RUN = "NOT RUN"
    NOT_APPLICABLE = "NOT APPLICABLE"
    MEASURED = "MEASURED"


@dataclass(frozen=True)
class Finding:
    """The verdict on one requirement.

    Attributes:
        requirement: what was required.
        verdict: the verdict.
        sentence: the requirement as one English sentence.
        reason: why this verdict, as one sentence.
        estimate_id: the estimate that decided (the worst stratum for a stratum requirement), or None.
        members: estimate ids of all strata, variants or factors that the requirement covers.
        failing: the members that failed by Holm's procedure.
        leans: "pass", "fail" or "" for INSUFFICIENT.
        more: "about 40 more patients would settle it", "sits on the bound", or "".
        capped: why a PASS or FAIL was capped at INSUFFICIENT, or "".
    """

    requirement: Requirement
    verdict: Verdict
    sentence: str
    reason: str
    estimate_id: str | None = None
    members: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    leans: str = ""
    more: str = ""
    capped: str = ""


@dataclass(frozen=True)
class Overall:
    """The verdict of the audit: the worst gate, FAIL > ERROR > INSUFFICIENT = NOT RUN > PASS.

    Attributes:
        verdict: FAIL, ERROR, INSUFFICIENT, PASS, or MEASURED when no gate is declared.
        headline: e.g. "INSUFFICIENT EVIDENCE".
        sentence: "6 of 9 gates are met, none is failed, 3 cannot be decided ...".
        exit_code: 0 all gates pass or none declared, 1 a gate fails, 3 insufficient or not run, 4 a gate check
            crashed.
        caveats: e.g. "against default floors, not agreed by anybody", "demonstration on generated images",
            "POST HOC: ...". Printed on page 1.
    """

    verdict: Verdict
    headline: str
    sentence: str
    exit_code: int
    caveats: tuple[str, ...] = ()


_VERDICTS: Final = {
    "pass": Verdict.PASS,
    "fail": Verdict.FAIL,
    "insufficient": Verdict.INSUFFICIENT,
    "not_run": Verdict.NOT_RUN,
}


def judge(
    protocol: Protocol,
    estimates: Sequence[Estimate],
    *,
    facts: Mapping[str, Any],
    crashed: Mapping[str, str],
    not_run: Mapping[str, str],
    caps: Sequence[Cap] = (),
    allow_insufficient: bool = False,
) -> tuple[list[Finding], Overall]:
    """Decides every requirement of a protocol, and the audit.

    Args:
        protocol: the protocol.
        estimates: all estimates of the run, made at the protocol's alpha.
        facts: what the plan knows (see :class:`~xaiseg.checks.base.Tables`), and "limit", "cluster_repeated",
            "drawn_unevenly", "cluster_column", "threshold_chosen_on", "protocol_sha256_at_plan", "looks_taken",
            "n_clusters", "n_failed".
        crashed: check -> what happened.
        not_run: check -> why it could not run and what to supply.
        caps: reasons to hold back PASS and FAIL besides those that follow from the facts.
        allow_insufficient: exit code 0 in place of 3.

    Returns:
        One finding a requirement, in order, and the verdict of the audit.
    """
    held_back = (*caps_of(facts, protocol.decision), *caps)
    pairs = []
    for requirement in _for_each_variant(protocol.requires, facts):
        bound = _raised(requirement, facts)
        prior = _before_ruling(bound, facts, crashed, not_run)
        if prior is None:
            ruling = capped(rule(bound, protocol, estimates, facts), bound, held_back)
        else:
            ruling = Ruling("not_run", prior[1])
        verdict = prior[0] if prior is not None else _VERDICTS[ruling.word]
        pairs.append((_finding(bound, protocol, verdict, ruling, facts), ruling))
    overall = _overall(pairs, facts, allow_insufficient=allow_insufficient)
    caveats = _caveats(protocol, pairs, estimates, facts, crashed, held_back)
    if allow_insufficient and overall.verdict is Verdict.INSUFFICIENT:
        caveats.append("insufficient evidence was allowed: the exit code is 0 in place of 3")
    return [finding for finding, _ in pairs], replace(overall, caveats=tuple(caveats))


def _for_each_variant(requires: Sequence[Requirement], facts: Mapping[str, Any]) -> list[Requirement]:
    """Requirements on ``subject: each`` as one on every variant; as they are where there is none, or nothing to ask."""
    variants = list(facts.get("variants") or ())

    def names(requirement: Requirement) -> list[str]:
        applies = not requirement.applies_when or _holds(requirement.applies_when, facts) is not False
        return variants if requirement.subject == "each" and variants and applies else [requirement.subject]

    return [replace(requirement, subject=name) for requirement in requires for name in names(requirement)]


def _raised(requirement: Requirement, facts: Mapping[str, Any]) -> Requirement:
    """A fact that nobody recorded raises the severity too: what is unknown must not soften a verdict."""
    if requirement.gate_when and _holds(requirement.gate_when, facts) is not False:
        return replace(requirement, severity="gate")
    return requirement


def _holds(condition: str, facts: Mapping[str, Any]) -> bool | None:
    name = condition.removeprefix("not ")
    value = facts.get(name)
    return None if value is None else bool(value) != condition.startswith("not ")


def _before_ruling(
    requirement: Requirement, facts: Mapping[str, Any], crashed: Mapping[str, str], not_run: Mapping[str, str]
) -> tuple[Verdict, str] | None:
    """Verdict and reason where no estimate needs to be looked at."""
    if requirement.applies_when:
        said = requirement.applies_when.replace("_", " ")
        holds = _holds(requirement.applies_when, facts)
        if holds is None:
            return Verdict.NOT_RUN, f"the run does not record whether this holds: {said}"
        if not holds:
            return Verdict.NOT_APPLICABLE, f"it applies only when this holds: {said}"
    if requirement.check in crashed:
        return Verdict.ERROR, f"the check {requirement.check} crashed: {crashed[requirement.check]}"
    if requirement.check in not_run:
        return Verdict.NOT_RUN, not_run[requirement.check]
    return None


def _finding(
    requirement: Requirement, protocol: Protocol, verdict: Verdict, ruling: Ruling, facts: Mapping[str, Any]
) -> Finding:
    return Finding(
        requirement=requirement,
        verdict=verdict,
        sentence=sentence(requirement, protocol.checks[requirement.check].params),
        reason=_in_units(ruling, facts),
        estimate_id=ruling.estimate.id if ruling.estimate is not None else None,
        members=ruling.members,
        failing=ruling.failing,
        leans=ruling.leans if verdict is Verdict.INSUFFICIENT else "",
        more=_more(ruling, facts),
        capped=ruling.capped,
    )


def _in_units(ruling: Ruling, facts: Mapping[str, Any]) -> str:
    """The reason with clusters under their own name: "1 flight; at least 5 are needed"."""
    is_total = ruling.estimate is not None and ruling.estimate.kind == "total"  # its unit is the draw

    def named(found: re.Match[str]) -> str:
        count = int(found[1] or 1)
        word = ("draw" if count == 1 else "draws") if is_total else unit(facts, count)
        return f"{found[1] or 'median'} {word}"

    return re.sub(r"\b(?:(\d+)|median) clusters?\b", named, ruling.reason)


def _more(ruling: Ruling, facts: Mapping[str, Any]) -> str:
    if ruling.more is not None:
        about, would = ("at least", "be needed") if ruling.at_least else ("about", "settle it")
        said = f"{about} {ruling.more:,} more {_counted(ruling, facts)}{_like(ruling, facts)} would {would}"
        return f"{said}; a better model sooner" if _is_hopeless(ruling, facts) else said
    return "sits on the bound" if ruling.on_bound else ""


def _is_hopeless(ruling: Ruling, facts: Mapping[str, Any]) -> bool:
    """Whether another model is the shorter way; not where it could not be better, as with no image that failed."""
    held = ruling.estimate
    if held is None or ruling.more is None or held.kind == "total" or held.value in (0.0, 1.0):
        return False
    # Of all, not of the estimate: with several groups that is the worst one's, and another one may want more.
    return ruling.more > HOPELESS * (facts.get("n_clusters") or held.n_clusters)


def _counted(ruling: Ruling, facts: Mapping[str, Any]) -> str:
    """What a ruling wants more of: the unit of its interval is a draw where tiles were drawn for a total."""
    if ruling.estimate is not None and ruling.estimate.kind == "total":
        return "draw" if ruling.more == 1 else "draws"
    return unit(facts, ruling.more or 0)


def _like(ruling: Ruling, facts: Mapping[str, Any]) -> str:
    """Which clusters are wanted, where a requirement rests on some of them: those with lesion-free images, say."""
    if ruling.estimate is not None and ruling.estimate.kind == "total":
        return ""
    if ruling.group:
        return f" with {ruling.group.replace('=', ' ').replace('_', ' ')}"
    rests, whole = ruling.estimate.n_clusters if ruling.estimate is not None else None, facts.get("n_clusters")
    return f" like the {rests} that it rests on" if rests and whole and rests < whole else ""


def unit(facts: Mapping[str, Any], count: int) -> str:
    """The independent unit in words: "patient" or "patients", "image" where none is declared.

    >>> unit({"cluster_column": "patient_id"}, 2), unit({"cluster_declared": False}, 1), unit({}, 2)
    ('patients', 'image', 'clusters')
    """
    column = str(facts.get("cluster_column") or "").lower()
    word = re.sub(r"[_\- ]?(id|number|no|name)$", "", column).replace("_", " ").strip()
    if not word:
        word = "cluster" if facts.get("cluster_declared", True) else "image"
    if count == 1:
        return word
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    return re.sub(r"(?<![aeiou])y$", "ie", word) + "s"


# --- the audit -------------------------------------------------------------------------------------------------------

_RANK: Final = (Verdict.FAIL, Verdict.ERROR, Verdict.INSUFFICIENT, Verdict.NOT_RUN, Verdict.PASS)
_EXIT: Final = {Verdict.FAIL: 1, Verdict.ERROR: 4, Verdict.INSUFFICIENT: 3, Verdict.PASS: 0, Verdict.MEASURED: 0}


def _overall(pairs: Sequence[tuple[Finding, Ruling]], facts: Mapping[str, Any], *, allow_insufficient: bool) -> Overall:
    gates = [pair for pair in pairs if pair[0].requirement.severity == "gate"]
    binding = [pair for pair in gates if pair[0].verdict is not Verdict.NOT_APPLICABLE]
    if not gates:
        verdict, said = Verdict.MEASURED, "The protocol declares no binding requirement: nothing was decided."
    elif not binding:
        verdict, said = (
            Verdict.INSUFFICIENT,
            f"None of the {len(gates)} binding requirements applies: nothing was decided.",
        )
    else:
        verdict = next(rank for rank in _RANK if any(finding.verdict is rank for finding, _ in binding))
        verdict = Verdict.INSUFFICIENT if verdict is Verdict.NOT_RUN else verdict
        said = _count_sentence([finding for finding, _ in binding], facts) + _settle_sentence(binding, facts)
    code = _EXIT[verdict]
    # A cap must not turn a gate that would fail into exit 0, else --limit would be a way round the rule.
    would_fail = any(finding.capped and finding.leans == "fail" for finding, _ in binding)
    code = 0 if allow_insufficient and code == 3 and not would_fail else code
    return Overall(verdict, verdict.value, said + _advice([finding for finding, _ in pairs]), code)


def _count_sentence(binding: Sequence[Finding], facts: Mapping[str, Any]) -> str:
    """Counts, as in: 6 of 8 binding requirements are met, none is failed, 2 cannot be decided with 98 patients."""
    count = Counter(finding.verdict for finding in binding)
    total, met = len(binding), count[Verdict.PASS]
    if total == 1 and met == 1:
        return "The one binding requirement is met."
    if met == total:
        return f"All {total} binding requirements are met."
    noun = "binding requirement" if total == 1 else "binding requirements"
    clauses = [
        f"{met or 'none'} of {total} {noun} {_is(met or 1)} met",
        f"{count[Verdict.FAIL] or 'none'} {_is(count[Verdict.FAIL] or 1)} failed",
    ]
    if count[Verdict.INSUFFICIENT]:
        n = facts.get("n_clusters")
        clauses.append(
            f"{count[Verdict.INSUFFICIENT]} cannot be decided" + (f" with {n} {unit(facts, n)}" if n else "")
        )
    if count[Verdict.NOT_RUN]:
        clauses.append(f"{count[Verdict.NOT_RUN]} {_was(count[Verdict.NOT_RUN])} not run")
    if count[Verdict.ERROR]:
        clauses.append(f"{count[Verdict.ERROR]} could not be checked because of a crash")
    text = ", ".join(clauses) + "."
    return text[0].upper() + text[1:]


def _settle_sentence(binding: Sequence[tuple[Finding, Ruling]], facts: Mapping[str, Any]) -> str:
    undecided = [ruling for finding, ruling in binding if finding.verdict is Verdict.INSUFFICIENT]
    known = [ruling for ruling in undecided if ruling.more is not None and not _is_hopeless(ruling, facts)]
    hopeless = sum(_is_hopeless(ruling, facts) for ruling in undecided)
    on_bound = sum(ruling.on_bound and ruling.more is None for ruling in undecided)
    text = ""
    if known:
        most = max(known, key=lambda ruling: ruling.more or 0)
        of = "it" if len(undecided) == 1 else "them" if len(known) == len(undecided) else f"{len(known)} of them"
        about, would = ("At least", "be needed for") if any(one.at_least for one in known) else ("About", "settle")
        like = _like(most, facts) if len(undecided) == 1 else ""
        text += f" {about} {most.more:,} more {_counted(most, facts)}{like} would {would} {of}."
    if hopeless:
        of = "it" if len(undecided) == 1 else "them" if hopeless == len(undecided) else f"{hopeless} of them"
        text += (
            f" For {of} even {HOPELESS} times the {unit(facts, 2)} at hand would not do: the value is near the bound."
        )
    if on_bound:
        text += f" {on_bound} {'sits' if on_bound == 1 else 'sit'} on the bound: more data would hardly settle it."
    return text


def _advice(findings: Sequence[Finding]) -> str:
    advisory = [finding for finding in findings if finding.requirement.severity == "warn"]
    failed = sum(finding.verdict is Verdict.FAIL for finding in advisory)
    if not failed:
        return ""
    noun = "requirement" if len(advisory) == 1 else "requirements"
    return f" Of {len(advisory)} advisory {noun} {failed} {_is(failed)} failed."


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"


def _caveats(
    protocol: Protocol,
    pairs: Sequence[tuple[Finding, Ruling]],
    estimates: Sequence[Estimate],
    facts: Mapping[str, Any],
    crashed: Mapping[str, str],
    caps: Sequence[Cap],
) -> list[str]:
    gates = [finding for finding, _ in pairs if finding.requirement.severity == "gate"]
    planned = facts.get("protocol_sha256_at_plan")
    tested = [item for item in estimates if item.metric == "false_component_images" and not item.stratum]
    untested = bool(tested) and all(item.missing for item in tested) and not facts.get("lesion_always_present")
    failed = int(facts.get("n_failed") or 0)
    gated = {finding.requirement.check for finding in gates}
    found = [
        (
            bool(planned) and planned != protocol.sha256,
            "POST HOC: this protocol is not the one that was fixed before the data were read",
        ),
        (bool(facts.get("generated")), "demonstration on generated images"),
        (
            any(finding.requirement.agreed_by is None for finding in gates),
            "against default floors, not agreed by anybody",
        ),
        (
            facts.get("cluster_declared") is False and not facts.get("cluster_repeated"),
            "images are assumed independent: no column groups them",
        ),
        (
            facts.get("threshold_chosen_on") == "unknown",
            "it is not known on which data the operating threshold was chosen",
        ),
        (untested, "false positives were not tested: the data hold no lesion-free image"),
    ]
    said = [text for holds, text in found if holds] + _of_images(estimates, failed)
    binding = [cap.reason for cap in caps if any(cap.concerns(finding.requirement) for finding in gates)]
    said += [f"held back at INSUFFICIENT EVIDENCE: {reason}" for reason in binding]
    said += [f"the check {name} crashed: {why}" for name, why in crashed.items() if name not in gated]
    return said


def _of_images(estimates: Sequence[Estimate], failed: int) -> list[str]:
    """Caveats about images without any answer, and about a detector that is silent on all of them."""
    nothing = "nothing was detected in any image: check input, classes and threshold before you believe it"
    sums = {(item.metric, item.target): item.value or 0 for item in estimates if item.check == "performance.detection"}
    strange = [
        f"{value:.0f} detections of the class {target}, of which no image has an object, count as false"
        for (metric, target), value in sums.items()
        if metric == "detections_sum" and target and value and not sums.get(("reference_sum", target))
    ]
    silent = any(item.metric == "detections_sum" and item.value == 0 and not item.target for item in estimates)
    words = "image failed and counts" if failed == 1 else "images failed and count"
    return [nothing] * silent + strange[:2] + [f"{failed} {words} as the worst value"] * (failed > 0)
