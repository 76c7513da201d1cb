"""Verdicts: guard band, several members at once, caps, and the audit as a whole."""

from __future__ import annotations

import itertools
import math
import random
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import norm

from xaiseg.deciding import Cap
from xaiseg.estimate import Estimate
from xaiseg.judge import Verdict, judge
from xaiseg.protocol import CheckPlan, Decision, Protocol, Requirement
from xaiseg.statistics.interval import Interval
from xaiseg.statistics.means import mean_interval
from xaiseg.statistics.multiplicity import holm

P, F, U, N, E, X = (
    Verdict.PASS, Verdict.FAIL, Verdict.INSUFFICIENT, Verdict.NOT_RUN, Verdict.ERROR, Verdict.NOT_APPLICABLE,
)  # fmt: skip
FACTS = {
    "strata": [],
    "cluster_declared": True,
    "cluster_column": "patient",
    "n_clusters": 98,
    "lesion_always_present": False,
    "readers_see_maps": False,
}


@dataclass(frozen=True)
class Ladder:
    factors: tuple[str, ...] = ("blur_px", "gain")


@dataclass(frozen=True)
class Nothing:
    pass


def protocol(*requires: Requirement, **changes) -> Protocol:
    checks = {one.check: CheckPlan(one.check, Ladder() if one.where else Nothing()) for one in requires}
    return replace(Protocol("mine", "1", "", "", Decision(), checks, requires, sha256="now"), **changes)


def need(metric: str = "dice", bound: float = 0.7, sense: str = "at_least", **changes) -> Requirement:
    return Requirement(**{"check": "c", "metric": metric, "bound": bound, "sense": sense, "severity": "gate"} | changes)


def estimate(value: float, half: float, metric: str = "dice", /, *, rungs: int = 1, **changes) -> Estimate:
    """An estimate with a normal interval whose 90 % half width is ``half``, and rungs at 0.05 / k."""
    sd = half / norm.ppf(0.95)
    holm_rungs = tuple(
        (k, value - sd * norm.ppf(1 - 0.05 / k), value + sd * norm.ppf(1 - 0.05 / k)) for k in range(1, rungs + 1)
    )
    interval = Interval(value, value - half, value + half, 0.05, "normal", 50, 50, sd=0.2)
    names = ("c", metric, changes.get("factor", ""), changes.get("level", ""), changes.get("stratum", ""))
    bare = Estimate(
        "/".join(n for n in names if n), "c", metric, "mean", value, interval, holm=holm_rungs, n_clusters=50
    )
    return replace(bare, **changes)


def fact(value: float | None, metric: str = "count", **changes) -> Estimate:
    return replace(Estimate(f"c/{metric}", "c", metric, "fact", value, None), **changes)


def decided(requirement: Requirement, *estimates: Estimate, facts=None, **options):
    findings, overall = judge(
        protocol(requirement), estimates, facts=FACTS | (facts or {}), **{"crashed": {}, "not_run": {}} | options
    )
    return findings[0], overall


# --- one estimate ---


@pytest.mark.parametrize(
    ("sense", "bound", "value", "verdict"),
    [
        ("at_least", 0.7, 0.76, P),
        ("at_least", 0.7, 0.75, P),  # the lower bound is 0.70: on the bound is good
        ("at_least", 0.7, 0.74, U),
        ("at_least", 0.7, 0.66, U),
        ("at_least", 0.7, 0.64, F),
        ("at_most", 0.7, 0.64, P),
        ("at_most", 0.7, 0.66, U),
        ("at_most", 0.7, 0.76, F),
        ("within", 0.1, 0.04, P),
        ("within", 0.1, -0.06, U),
        ("within", 0.1, 0.16, F),
        ("within", 0.1, -0.16, F),
    ],
)
def test_the_guard_band(sense, bound, value, verdict):
    finding, overall = decided(need(bound=bound, sense=sense), estimate(value, 0.05 - 1e-12))
    assert finding.verdict is verdict
    assert overall.verdict is verdict
    assert overall.exit_code == {P: 0, F: 1, U: 3}[verdict]
    assert finding.estimate_id == "c/dice"
    assert bool(finding.leans) == (verdict is U)


@pytest.mark.parametrize(
    ("sense", "value", "leans"),
    [("at_least", 0.74, "pass"), ("at_least", 0.66, "fail"), ("at_most", 0.66, "pass"), ("at_most", 0.74, "fail")],
)
def test_an_undecided_value_leans(sense, value, leans):
    assert decided(need(sense=sense), estimate(value, 0.05))[0].leans == leans


@pytest.mark.parametrize(("value", "verdict"), [(0.0, P), (1.0, F), (None, U)])
def test_a_fact_is_compared_exactly(value, verdict):
    finding, _ = decided(need("count", 0, "at_most"), fact(value))
    assert finding.verdict is verdict


def test_an_undecided_value_says_how_many_more_would_settle_it():
    finding, overall = decided(need(), estimate(0.74, 0.05))
    # The distance 0.04 must become the half width: 50 * (0.05 / 0.04) ** 2 clusters, 50 of which are there.
    more = math.ceil(50 * (0.05 / 0.04) ** 2) - 50
    like = "like the 50 that it rests on"  # of 98 patients in the data
    assert finding.more == f"about {more} more patients {like} would settle it"
    assert "1 cannot be decided with 98 patients." in overall.sentence
    assert f"About {more} more patients {like} would settle it." in overall.sentence
    assert finding.reason == "at least 0.7 is neither shown nor refuted by 0.740 (90 % interval 0.690 to 0.790)"


def test_a_value_on_the_bound_is_never_settled():
    finding, overall = decided(need(), estimate(0.7001, 0.05))
    assert finding.more == "sits on the bound"
    assert "1 sits on the bound" in overall.sentence


@pytest.mark.parametrize("interval", [None, Interval(0.9, None, None, 0.05, "", 3, 3, reason="3 clusters are too few")])
def test_without_an_interval_nothing_is_decided(interval):
    finding, _ = decided(need(), estimate(0.9, 0.05, interval=interval, n_clusters=3, reason="too few"))
    assert finding.verdict is U
    assert "too few" in finding.reason
    assert finding.more == "at least 2 more patients like the 3 that it rests on would be needed"
    assert finding.leans == "pass"


@pytest.mark.parametrize(
    ("reason", "facts", "kind", "said"),
    [
        ("1 cluster; at least 5 are needed", {"cluster_column": "flight"}, "mean", "1 flight; at least 5 are needed"),
        ("4 clusters; at least 5 are needed", {"cluster_column": "flight"}, "mean", "4 flights; at least 5 are needed"),
        (
            "18 clusters with a median of 1 case; needed are 20 clusters, or 20 cases in the median cluster",
            {"cluster_column": "patient_id"},
            "mean",
            "18 patients with a median of 1 case; needed are 20 patients, or 20 cases in the median patient",
        ),
        ("3 clusters; at least 5 are needed", {"cluster_column": "flight"}, "total", "3 draws; at least 5 are needed"),
        (
            "1 cluster; at least 5 are needed",
            {"cluster_declared": False, "cluster_column": ""},
            "mean",
            "1 image; at least 5 are needed",
        ),
    ],
)
def test_a_reason_calls_clusters_by_their_name(reason, facts, kind, said):
    held = estimate(0.9, 0.01, kind=kind)
    bare = replace(held, interval=replace(held.interval, lower=None, upper=None, reason=reason))
    finding, _ = decided(need(), bare, facts={"cluster_declared": True} | facts)
    assert finding.reason == said


def test_undefined_cases_that_would_turn_the_verdict_leave_it_open():
    worst, dropped = estimate(0.6, 0.05), estimate(0.8, 0.05).interval
    finding, _ = decided(need(), replace(worst, dropped=dropped, n_undefined=4))
    assert finding.verdict is U
    assert "undefined cases" in finding.reason
    same, _ = decided(need(), replace(worst, dropped=estimate(0.61, 0.05).interval))
    assert same.verdict is F


# --- what was not measured is never green ---


def test_what_did_not_run_says_what_to_supply():
    missing = estimate(0.9, 0.01, missing=True, value=None, interval=None, reason="no train list; add data: train:")
    finding, overall = decided(need(), missing)
    assert (finding.verdict, overall.verdict, overall.exit_code) == (N, U, 3)
    assert finding.reason == "no train list; add data: train:"
    assert "1 was not run" in overall.sentence
    finding, _ = decided(need(), estimate(0.9, 0.01), not_run={"c": "the subject has no scores"})
    assert (finding.verdict, finding.reason) == (N, "the subject has no scores")


def test_an_unknown_metric_or_target_is_not_run_with_a_hint():
    finding, _ = decided(need("dicee"), estimate(0.9, 0.01))
    assert finding.verdict is N
    assert "did you mean 'dice'?" in finding.reason
    finding, _ = decided(need(target="hirescam"), estimate(0.9, 0.01))
    assert (finding.verdict, finding.reason) == (N, "c gives no dice for hirescam")
    finding, _ = decided(need(subject="int8"), estimate(0.9, 0.01))
    assert finding.verdict is N


def test_a_requirement_on_each_variant_is_one_finding_a_variant():
    requirement = need(subject="each")
    both = [estimate(value, 0.01, subject=name, id=name) for name, value in (("int8", 0.9), ("msdf6", 0.5))]
    findings, overall = judge(
        protocol(requirement), both, facts=FACTS | {"variants": {"int8": {}, "msdf6": {}}}, crashed={}, not_run={}
    )
    assert [(item.requirement.subject, item.verdict) for item in findings] == [("int8", P), ("msdf6", F)]
    assert findings[0].sentence.endswith(", variant int8")
    assert overall.verdict is F
    finding, _ = decided(need(), *both)
    assert "it compares variants, so write `subject: each`" in finding.reason
    finding, _ = decided(need(subject="int9"), *both)
    assert "did you mean 'int8'?" in finding.reason
    finding, _ = decided(requirement, *both)
    assert (finding.verdict, finding.sentence.endswith(", for each variant")) == (N, True)


def test_a_crashed_check_is_an_error_even_where_numbers_exist():
    finding, overall = decided(need(), estimate(0.9, 0.01), crashed={"c": "ZeroDivisionError"})
    assert (finding.verdict, overall.verdict, overall.exit_code) == (E, E, 4)
    assert "ZeroDivisionError" in finding.reason
    assert "1 could not be checked because of a crash" in overall.sentence


def test_conditions():
    free = need(applies_when="not lesion_always_present")
    finding, overall = decided(free, estimate(0.9, 0.01), facts={"lesion_always_present": True})
    assert (finding.verdict, overall.verdict, overall.exit_code) == (X, U, 3)
    assert "None of the 1 binding requirements applies" in overall.sentence
    assert decided(free, estimate(0.9, 0.01))[0].verdict is P
    assert decided(free, estimate(0.9, 0.01), facts={"lesion_always_present": None})[0].verdict is N


@pytest.mark.parametrize(("shown", "severity"), [(True, "gate"), (False, "warn"), (None, "gate")])
def test_a_fact_raises_a_warning_to_a_gate(shown, severity):
    requirement = need(severity="warn", gate_when="readers_see_maps")
    finding, overall = decided(requirement, estimate(0.5, 0.01), facts={"readers_see_maps": shown})
    assert finding.requirement.severity == severity
    assert overall.exit_code == (1 if severity == "gate" else 0)


# --- several members ---


def strata(values: dict[str, float], half: float = 0.05, factor: str = "device") -> list[Estimate]:
    return [estimate(value, half, rungs=len(values), stratum=f"{factor}={name}") for name, value in values.items()]


DEVICE = {"strata": ["device"]}


def test_the_worst_open_group_is_the_one_named_and_drawn():
    groups = strata({"A": 0.66, "B": 0.55, "C": 0.95}, half=0.2)
    finding, _ = decided(need(stratum="each"), *groups, facts=DEVICE)
    assert finding.verdict is U
    assert finding.estimate_id == groups[1].id, "A leans to fail as well, and comes first in the alphabet"
    silent = replace(groups[0], value=None, interval=None, reason="3 patients; at least 5 are needed")
    finding, _ = decided(need(stratum="each"), silent, *groups[1:], facts=DEVICE)
    assert finding.estimate_id == groups[1].id, "a group without a value has no worst value"


def test_more_of_a_total_are_more_draws():
    total = estimate(1000, 200, "animals_total", kind="total")
    finding, overall = decided(need("animals_total", 900), total, facts={"cluster_column": "flight"})
    assert finding.verdict is U
    assert "more draws would settle it" in finding.more
    assert "more draws would settle it" in overall.sentence


def test_each_group_must_pass():
    groups = strata({"A": 0.8, "B": 0.76, "C": 0.9})
    finding, _ = decided(need(stratum="each"), estimate(0.1, 0.01), *groups, facts=DEVICE)
    assert finding.verdict is P
    assert finding.members == tuple(one.id for one in groups)
    assert finding.estimate_id == groups[1].id
    assert "the worst is device=B" in finding.reason


def test_a_group_fails_only_after_holm():
    barely = {"A": 0.8, "B": 0.645, "C": 0.8}  # B: 0.055 below at half width 0.05, z = 1.81
    finding, _ = decided(need(stratum="device"), *strata(barely), facts=DEVICE)
    assert finding.verdict is U
    assert "not after Holm's correction" in finding.reason
    assert finding.leans == "fail"
    assert finding.failing == ()
    clearly = strata(barely | {"B": 0.55})
    finding, overall = decided(need(stratum="device"), *clearly, facts=DEVICE)
    assert (finding.verdict, finding.failing, overall.exit_code) == (F, (clearly[1].id,), 1)


def test_holm_by_bounds_is_holm_by_p_values():
    draw = random.Random(3)
    for _ in range(200):
        values = {name: draw.uniform(0.55, 0.75) for name in "ABCD"}
        sd = 0.05 / norm.ppf(0.95)
        rejected = holm([float(norm.cdf((value - 0.7) / sd)) for value in values.values()], 0.05)
        groups = strata(values)
        finding, _ = decided(need(stratum="each"), *groups, facts=DEVICE)
        assert finding.failing == tuple(one.id for one, bad in zip(groups, rejected, strict=True) if bad)
        assert (finding.verdict is F) == any(rejected)


def test_a_small_group_is_named():
    groups = strata({"A": 0.9, "B": 0.9})
    none = Interval(0.9, None, None, 0.05, "", 2, 2, reason="2 clusters are too few")
    groups[1] = replace(groups[1], interval=none, n_clusters=2, holm=())
    finding, _ = decided(need(stratum="each"), *groups, facts=DEVICE)
    assert finding.verdict is U
    assert "device=B: 2 patients are too few" in finding.reason
    assert finding.more == "at least 3 more patients with device B would be needed"


def test_a_group_of_too_few_clusters_wants_those_first():
    """A projection from a share in two flights, as close to the bound as chance has it, would ask for thousands."""
    close = Interval(0.69, None, None, 0.05, "", 32, 2, reason="2 clusters; at least 5 are needed")
    thin, whole = strata({"A": 0.69, "B": 0.9})
    thin = replace(thin, kind="proportion", interval=close, n_clusters=2, holm=())
    finding, overall = decided(need(stratum="each"), thin, whole, facts=DEVICE)
    assert finding.more == "at least 3 more patients with device A would be needed"
    assert " At least 3 more patients with device A would be needed for it." in overall.sentence


def test_a_thin_group_does_not_make_the_needs_of_another_hopeless():
    thin, open_ = strata({"A": 0.5, "B": 0.68}, half=0.05)
    none = Interval(0.5, None, None, 0.05, "", 2, 2, reason="2 clusters are too few")
    thin = replace(thin, interval=none, n_clusters=2, holm=())
    finding, overall = decided(need(stratum="each"), thin, open_, facts=DEVICE)
    needed = int(re.search(r"at least (\d+) more patients with device B", finding.more)[1])
    assert 10 * 2 < needed < 10 * 98
    assert "better model" not in finding.more
    assert "times the patients" not in overall.sentence


def test_more_than_ten_times_the_clusters_is_no_plan():
    near = estimate(0.695, 0.05)
    finding, overall = decided(need(), near)
    assert (
        finding.more == "about 4,951 more patients like the 50 that it rests on would settle it; a better model sooner"
    )
    assert " For it even 10 times the patients at hand would not do: the value is near the bound." in overall.sentence
    assert "4,951" not in overall.sentence
    assert "better model" not in decided(need(), estimate(0.68, 0.05))[0].more
    none = Interval(0.0, 0.0, 0.45, 0.05, "", 60, 5)
    failed = replace(estimate(0.0, 0.1, "failed"), kind="proportion", interval=none, n_clusters=5)
    assert "better model" not in decided(need("failed", 0.01, "at_most"), failed)[0].more


def test_groups_that_are_not_there_are_not_run():
    groups = strata({"A": 0.9, "B": 0.9})
    undeclared, _ = decided(need(stratum="each"), estimate(0.9, 0.01))
    assert undeclared.verdict is N
    assert "data: test: strata:" in undeclared.reason
    other, _ = decided(need(stratum="site"), *groups, facts=DEVICE)
    assert (other.verdict, other.reason.split(";")[0]) == (N, "site is not declared")
    lost, _ = decided(need(stratum="each"), *groups, facts={"strata": ["device", "site"]})
    assert (lost.verdict, lost.reason) == (N, "dice was not estimated in the groups of site")
    asked = protocol(need(stratum="each"), strata=("age",))
    findings, _ = judge(asked, groups, facts=FACTS | DEVICE, crashed={}, not_run={})
    assert findings[0].verdict is N
    assert "age is not declared" in findings[0].reason


def test_a_missing_quantity_gives_its_reason_for_its_groups_too():
    missing = estimate(0.9, 0.01, missing=True, value=None, interval=None, reason="no lesion-free image")
    finding, _ = decided(need(stratum="each"), missing, facts=DEVICE)
    assert (finding.verdict, finding.reason) == (N, "no lesion-free image")


def mild(**values: float) -> list[Estimate]:
    return [
        estimate(value, 0.02, "drop", rungs=len(values), factor=factor, level="mild")
        for factor, value in values.items()
    ]


def test_a_level_binds_every_degradation():
    requirement = need("drop", 0.05, "at_most", where={"level": "mild"})
    strong = estimate(0.5, 0.01, "drop", factor="gain", level="strong")
    assert decided(requirement, *mild(blur_px=0.01, gain=0.02), strong)[0].verdict is P
    assert decided(requirement, *mild(blur_px=0.01, gain=0.06))[0].verdict is U
    failed, _ = decided(requirement, *mild(blur_px=0.01, gain=0.2))
    assert (failed.verdict, failed.failing) == (F, ("c/drop/gain/mild",))
    lost, _ = decided(requirement, *mild(blur_px=0.01))
    assert (lost.verdict, lost.reason) == (N, "nothing was measured at the level mild of gain")
    one, _ = decided(need("drop", 0.05, "at_most", where={"blur_px": "mild"}), *mild(blur_px=0.01, gain=0.9))
    assert one.verdict is P


def test_a_ladder_that_is_too_short_never_fails_a_member_and_never_passes_one():
    groups = [replace(one, holm=one.holm[:1]) for one in strata({"A": 0.8, "B": 0.3})]
    assert decided(need(stratum="each"), *groups, facts=DEVICE)[0].verdict is U


# --- caps ---


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"limit": 20}, "--limit"),
        ({"drawn_unevenly": True}, "no fair sample"),
        ({"cluster_declared": False, "cluster_repeated": True}, "assumed independent"),
        ({"threshold_chosen_on": "test"}, "chosen on the audited data"),
    ],
)
@pytest.mark.parametrize(("value", "leans"), [(0.9, "pass"), (0.5, "fail")])
def test_a_cap_holds_back_pass_and_fail(facts, said, value, leans):
    finding, overall = decided(need(), estimate(value, 0.05), facts=facts)
    assert (finding.verdict, finding.leans, overall.exit_code) == (U, leans, 3)
    assert said in finding.capped
    assert said in finding.reason
    assert any(said in caveat for caveat in overall.caveats)


def test_a_cap_spares_what_it_does_not_concern():
    counted, _ = decided(need("count", 0, "at_most"), fact(0.0), facts={"looks_taken": 3})
    assert counted.verdict is P
    declared, _ = decided(need(), estimate(0.9, 0.05), facts={"cluster_declared": False})
    assert declared.verdict is P
    requirement = need(check="data.integrity")
    integrity = estimate(0.9, 0.05, check="data.integrity")
    assert decided(requirement, integrity, facts={"threshold_chosen_on": "test"})[0].verdict is P
    assert decided(requirement, integrity, facts={"limit": 5})[0].verdict is U
    total = estimate(90.0, 5.0, "animals_total", kind="total")
    counted, overall = decided(need("animals_total", 50.0), total, facts={"drawn_unevenly": True})
    assert counted.verdict is P
    assert not any("no fair sample" in caveat for caveat in overall.caveats)
    mine, _ = decided(need(), estimate(0.9, 0.05), caps=[Cap("because", spares=())])
    assert (mine.verdict, mine.capped) == (U, "because")


def test_looking_too_often_holds_back_a_pass_and_washes_no_fail_away():
    passed, overall = decided(need(), estimate(0.9, 0.05), facts={"looks_taken": 3})
    assert (passed.verdict, passed.leans) == (U, "pass")
    assert "judged 3 times on these cases and the protocol allows 1 look" in passed.reason
    assert any("judged 3 times" in caveat for caveat in overall.caveats)
    assert decided(need(), estimate(0.5, 0.05), facts={"looks_taken": 3})[0].verdict is F


def test_without_a_gate_nothing_is_held_back():
    _, overall = decided(replace(need(), severity="warn"), estimate(0.9, 0.05), facts={"looks_taken": 3})
    assert overall.verdict is not U
    assert not [said for said in overall.caveats if "held back" in said]


def test_allowed_looks_are_no_cap():
    asked = protocol(need(), decision=Decision(looks=3))
    findings, _ = judge(asked, [estimate(0.9, 0.05)], facts=FACTS | {"looks_taken": 3}, crashed={}, not_run={})
    assert findings[0].verdict is P


# --- the audit ---


def test_the_sentence_of_the_audit():
    requires = [need(f"m{i}") for i in range(8)] + [need("w", severity="warn")]
    values = [0.9] * 6 + [0.74, 0.73]
    estimates = [estimate(v, 0.05, f"m{i}") for i, v in enumerate(values)] + [estimate(0.5, 0.05, "w")]
    _, overall = judge(protocol(*requires), estimates, facts=FACTS, crashed={}, not_run={})
    more = math.ceil(50 * (0.05 / 0.03) ** 2) - 50
    assert overall.headline == "INSUFFICIENT EVIDENCE"
    assert overall.sentence == (
        "6 of 8 binding requirements are met, none is failed, 2 cannot be decided with 98 patients. "
        f"About {more} more patients would settle them. Of 1 advisory requirement 1 is failed."
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([0.9], "The one binding requirement is met."),
        ([0.9, 0.9], "All 2 binding requirements are met."),
        ([0.5], "None of 1 binding requirement is met, 1 is failed."),
        ([0.9, 0.5], "1 of 2 binding requirements is met, 1 is failed."),
        ([0.5, 0.5, 0.9, 0.9], "2 of 4 binding requirements are met, 2 are failed."),
    ],
)
def test_plurals(values, sentence):
    requires = [need(f"m{i}") for i in range(len(values))]
    estimates = [estimate(value, 0.05, f"m{i}") for i, value in enumerate(values)]
    assert judge(protocol(*requires), estimates, facts=FACTS, crashed={}, not_run={})[1].sentence == sentence


def test_without_a_gate_the_audit_reads_measured():
    requires = [need(severity="warn")]
    _, overall = judge(protocol(*requires), [estimate(0.1, 0.01)], facts=FACTS, crashed={}, not_run={})
    assert (overall.verdict, overall.exit_code) == (Verdict.MEASURED, 0)
    _, empty = judge(protocol(), [], facts=FACTS, crashed={"c": "boom"}, not_run={})
    assert (empty.verdict, empty.exit_code) == (Verdict.MEASURED, 0)
    assert "the check c crashed: boom" in empty.caveats


def test_insufficient_evidence_may_be_allowed_but_is_still_printed():
    _, overall = decided(need(), estimate(0.74, 0.05), allow_insufficient=True)
    assert (overall.verdict, overall.exit_code) == (U, 0)
    assert any("allowed" in caveat for caveat in overall.caveats)
    assert decided(need(), estimate(0.5, 0.05), allow_insufficient=True)[1].exit_code == 1


def test_a_limit_does_not_turn_a_failing_gate_into_exit_0():
    limited = {"facts": {"limit": 20}, "allow_insufficient": True}
    assert decided(need(), estimate(0.5, 0.05), **limited)[1].exit_code == 3
    assert decided(need(), estimate(0.9, 0.05), **limited)[1].exit_code == 0


@pytest.mark.parametrize(
    ("facts", "caveat"),
    [
        ({"protocol_sha256_at_plan": "then"}, "POST HOC"),
        ({"generated": True}, "demonstration on generated images"),
        ({}, "against default floors, not agreed by anybody"),
        ({"cluster_declared": False}, "images are assumed independent"),
        ({"threshold_chosen_on": "unknown"}, "it is not known on which data"),
        ({"n_failed": 2}, "2 images failed and count as the worst value"),
        ({"n_failed": 1}, "1 image failed and counts as the worst value"),
    ],
)
def test_caveats_of_page_one(facts, caveat):
    _, overall = decided(need(), estimate(0.9, 0.05), facts=facts)
    assert any(said.startswith(caveat) for said in overall.caveats)


def test_caveats_that_do_not_hold_are_not_printed():
    _, overall = decided(need(agreed_by="Dr A"), estimate(0.9, 0.05), facts={"protocol_sha256_at_plan": "now"})
    assert overall.caveats == ()


def test_no_detection_in_any_image_is_said():
    nothing, one = (estimate(value, 0.01, "detections_sum", value=value) for value in (0.0, 1.0))
    said = "nothing was detected in any image: check input, classes and threshold before you believe it"
    assert said in decided(need(), estimate(0.9, 0.05), nothing)[1].caveats
    assert said not in decided(need(), estimate(0.9, 0.05), one)[1].caveats


def test_untested_false_positives_are_said():
    missing = estimate(0, 0.01, "false_component_images", missing=True, value=None, interval=None)
    _, overall = decided(need(), estimate(0.9, 0.05), missing)
    said = "false positives were not tested: the data hold no lesion-free image"
    assert said in overall.caveats
    _, declared = decided(need(), estimate(0.9, 0.05), missing, facts={"lesion_always_present": True})
    assert said not in declared.caveats


# --- whatever happens, green means that every gate passed ---


def outcomes() -> dict[str, tuple[list[Estimate], dict, dict]]:
    """Estimates, crashed and not_run that lead to each verdict of a requirement on metric m."""
    return {
        "pass": ([estimate(0.9, 0.05, "m")], {}, {}),
        "fail": ([estimate(0.5, 0.05, "m")], {}, {}),
        "undecided": ([estimate(0.7, 0.05, "m")], {}, {}),
        "few": ([estimate(0.9, 0.05, "m", interval=None)], {}, {}),
        "missing": ([estimate(0.9, 0.05, "m", missing=True)], {}, {}),
        "absent": ([], {}, {}),
        "crashed": ([estimate(0.9, 0.05, "m")], {"c": "boom"}, {}),
        "not run": ([estimate(0.9, 0.05, "m")], {}, {"c": "supply it"}),
        "no value": ([estimate(0.9, 0.05, "m", value=None)], {}, {}),
    }


def rename(name: str, index: int) -> tuple[list[Estimate], dict, dict]:
    estimates, crashed, not_run = outcomes()[name]
    check = f"c{index}"
    moved = [replace(one, check=check, id=f"{check}/m") for one in estimates]
    return moved, *(dict.fromkeys([check] if reasons else [], "why") for reasons in (crashed, not_run))


def worlds() -> list[tuple]:
    draw = random.Random(11)
    names = list(outcomes())
    pairs = list(itertools.product(names, names))
    more = [tuple(draw.choice(names) for _ in range(draw.randint(3, 6))) for _ in range(200)]
    return [*[(name,) for name in names], *pairs, *more]


def test_green_means_that_every_gate_passed():
    draw = random.Random(5)
    for names in worlds():
        requires, estimates, crashed, not_run = [], [], {}, {}
        for index, name in enumerate(names):
            held, broken, left = rename(name, index)
            estimates += held
            crashed |= broken
            not_run |= left
            severity = draw.choice(["gate", "gate", "warn"])
            applies = draw.choice(["", "", "readers_see_maps", "not readers_see_maps"])
            requires.append(need("m", check=f"c{index}", severity=severity, applies_when=applies))
        facts = FACTS | draw.choice([{}, {}, {}, {"limit": 5}, {"readers_see_maps": None}])
        findings, overall = judge(protocol(*requires), estimates, facts=facts, crashed=crashed, not_run=not_run)
        gates = [finding.verdict for finding in findings if finding.requirement.severity == "gate"]
        for name, finding in zip(names, findings, strict=True):
            assert finding.verdict is not P or name == "pass"
            assert finding.reason
        if overall.verdict is P:
            assert set(gates) <= {P, X}
            assert P in gates
        assert (overall.exit_code == 0) == (overall.verdict in (P, Verdict.MEASURED))
        assert (overall.verdict is F) == (F in gates)
        assert overall.verdict is not E or (E in gates and F not in gates)
        assert (overall.verdict is Verdict.MEASURED) == (not gates)


# --- the operating characteristic that docs/protocols.md prints ---


@pytest.mark.parametrize(
    ("n", "above", "passes", "fails"),
    [(50, 0.05, 0.52, 0.0), (50, 0.0, 0.05, 0.05), (200, 0.05, 0.97, 0.0), (200, 0.0, 0.05, 0.05)],
)
def test_the_operating_characteristic(n, above, passes, fails):
    draw = np.random.default_rng(20261124)
    patients = np.array([f"p{i}" for i in range(n)], dtype=object)
    verdicts = []
    for repeat in range(250):
        values = draw.normal(0.7 + above, 0.2, n)
        interval = mean_interval(values, patients, seed=repeat, resamples=400)
        verdicts.append(decided(need(), estimate(interval.value, 0.05, interval=interval))[0].verdict)
    shares = {verdict.value: np.mean([one is verdict for one in verdicts]) for verdict in (P, F, U)}
    print(n, above, shares)
    slack = 4 * np.sqrt(passes * (1 - passes) / 250)
    assert shares["PASS"] == pytest.approx(passes, abs=slack)
    assert shares["FAIL"] == pytest.approx(fails, abs=slack)


def test_detections_of_a_class_that_no_image_has_are_said():
    sums = [
        replace(fact(value), check="performance.detection", metric=metric, target=target)
        for metric, target, value in [
            ("detections_sum", "seal", 9.0),
            ("reference_sum", "seal", 8.0),
            ("detections_sum", "person", 3.0),
            ("reference_sum", "person", 0.0),
        ]
    ]
    _, overall = decided(need(), estimate(0.9, 0.01), *sums)
    said = [caveat for caveat in overall.caveats if "count as false" in caveat]
    assert said == ["3 detections of the class person, of which no image has an object, count as false"]
