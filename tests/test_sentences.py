"""Requirements in English, and the sample sizes of the plan."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import beta, t

from xaiseg.checks.base import REGISTRY
from xaiseg.errors import UsageError
from xaiseg.protocol import Decision, Requirement, load_protocol
from xaiseg.sentences import Phrase, explain, explain_lines, refuse_unreachable, sample_size, sentence

SEG = "performance.segmentation"
RULE = "no predicted component with IoU >= 0.1"


@dataclass(frozen=True)
class Params:
    match_iou: float = 0.1


@pytest.mark.parametrize(
    ("requirement", "said"),
    [
        (Requirement(SEG, "dice", 0.7, "at_least"), "Mean Dice is at least 0.70"),
        (Requirement(SEG, "dice", 0.7, "at_least", target="tumour"), "Mean Dice is at least 0.70 for tumour"),
        (Requirement(SEG, "dice", 0.7, "at_least", subject="int8"), "Mean Dice is at least 0.70, variant int8"),
        (Requirement(SEG, "missed_lesions", 0.15, "at_most", stratum="each"),
         f"At most 15 % of lesions are missed ({RULE}) in every group of each declared factor"),
        (Requirement(SEG, "area_bias", 0.1, "within"), "The relative error of the area is within ±0.10 on average"),
        (Requirement("data.integrity", "overlap_train_test", 0, "at_most"), "No test case occurs in the training data"),
        (Requirement("data.integrity", "overlap_train_test", 2, "at_most"),
         "At most 2 test cases occur in the training data"),
        (Requirement("robustness.degradation", "dice_drop", 0.05, "at_most", where={"level": "mild"}),
         "Dice drops by at most 0.05 on average at the mild level of every degradation"),
        (Requirement("robustness.degradation", "dice_drop", 0.05, "at_most", where={"gain": "mild"}),
         "Dice drops by at most 0.05 on average at gain mild"),
        (Requirement("explanation", "excess_context_deletion", 0.0, "at_least", target="hirescam"),
         "Hirescam finds the context at least as well as the best picture without a model"),
        (Requirement("performance.detection", "mask_recall", 0.8, "at_least"),
         "At least 80 % of the animals with an outline are found with a mask of IoU 0.5 or more"),
        (Requirement("other.check", "thing", 3.0, "at_least"), "Other.check thing is at least 3"),
    ],
)  # fmt: skip
def test_sentences(requirement, said):
    assert sentence(requirement, Params()) == said


def test_without_parameters_the_rule_is_left_out():
    assert sentence(Requirement(SEG, "missed_lesions", 0.1, "at_most")) == "At most 10 % of lesions are missed"


def test_a_third_party_check_speaks_for_itself(monkeypatch):
    check = SimpleNamespace(phrases={"seals": Phrase("{amount} of seals are overlooked", "proportion", "seals")})
    monkeypatch.setitem(REGISTRY, "wildlife.seals", check)
    requirement = Requirement("wildlife.seals", "seals", 0.1, "at_most")
    assert sentence(requirement) == "At most 10 % of seals are overlooked"
    assert sample_size(requirement, Decision()).startswith("needs 29 / 46 / 61 seals")


def test_every_sentence_of_the_shipped_protocols_is_english():
    for item in explain(load_protocol("clinical")):
        assert item.sentence[0].isupper()
        assert "{" not in item.sentence
        assert "_" not in item.sentence
        assert not item.sample_size.startswith("unknown")


def test_missed_lesions_need_29_46_or_61():
    item = next(one for one in explain(load_protocol("clinical")) if one.id == f"{SEG}/missed_lesions")
    said = "needs 29 / 46 / 61 lesions, each of another cluster, to show it at 0 / 1 / 2 misses; about "
    assert item.sample_size.startswith(said)
    # Straight from the definition: the upper Clopper-Pearson bound falls to 10 %.
    for misses, n in ((0, 29), (1, 46), (2, 61)):
        bounds = [beta.ppf(0.95, misses + 1, size - misses) for size in (n - 1, n)]
        assert bounds[0] > 0.10 >= bounds[1]


def test_a_share_that_must_be_high_counts_what_falls_short():
    low = Requirement(SEG, "missed_lesions", 0.10, "at_most")
    high = Requirement(SEG, "missed_lesions", 0.90, "at_least")
    assert sample_size(low, Decision()) == sample_size(high, Decision())
    never = Requirement(SEG, "missed_lesions", 0.0, "at_most")
    assert sample_size(never, Decision()).startswith("unknown: a share of 0")


def test_a_mean_that_needs_n_clusters_passes_with_that_power():
    requirement = Requirement(SEG, "dice", 0.7, "at_least", assume={"value": 0.8, "sd": 0.2})
    said = sample_size(requirement, Decision())
    n = int(said.split("about ")[1].split()[0])
    draws = np.random.default_rng(0).normal(0.8, 0.2, size=(20_000, n))
    lower = draws.mean(axis=1) - t.ppf(0.95, n - 1) * draws.std(axis=1, ddof=1) / np.sqrt(n)
    assert np.mean(lower >= 0.7) == pytest.approx(0.8, abs=0.04)


def test_few_clusters_are_enough_only_when_they_are_large():
    requirement = Requirement(SEG, "dice", 0.7, "at_least", assume={"value": 0.9, "sd": 0.2})
    assert sample_size(requirement, Decision()).startswith("needs 20 (about 8 if half of them hold 20 cases or more) ")


def test_more_looks_need_more_cases():
    requirement = Requirement(SEG, "missed_lesions", 0.1, "at_most")
    assert sample_size(requirement, Decision(looks=5)).startswith("needs 44 / ")
    mean = Requirement(SEG, "dice", 0.7, "at_least", assume={"value": 0.8, "sd": 0.2}, stratum="each")
    assert " in each group" in sample_size(mean, Decision())


def test_no_assumption_no_number():
    assert sample_size(Requirement("o.c", "x", 3.0, "at_least"), Decision()).startswith("unknown")
    assert sample_size(Requirement("data.integrity", "overlap_train_test", 0, "at_most"), Decision()).startswith("none")


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        (
            Requirement(SEG, "missed_lesions", 10, "at_most"),
            "missed_lesions cannot have this bound. Got: 10.*written 0.10",
        ),
        (Requirement(SEG, "missed_lesions", 0.1, "at_most", assume={"value": -2.0}), "this assumed value. Got: -2"),
        (Requirement("equivalence.segmentation", "dice_change", 5, "within"), "dice_change cannot.*Allowed: -1 to 1"),
    ],
)
def test_a_bound_that_no_share_can_have_is_refused(requirement, message):
    with pytest.raises(UsageError, match=message):
        refuse_unreachable(SimpleNamespace(requires=(requirement,)))
    for name in ("clinical", "ecology", "hardware"):
        refuse_unreachable(load_protocol(name))


def test_a_bound_of_nought_is_put_into_words_for_its_own_sense_alone():
    one, other = (Requirement("explanation", "excess_context_deletion", 0, sense) for sense in ("at_least", "at_most"))
    assert "at least as well" in sentence(one)
    assert "at least as well" not in sentence(other)


def test_explain_lines_print_everything_a_reader_needs():
    text = "\n".join(explain_lines(load_protocol("clinical")))
    for part in (
        "95 % one-sided bounds",
        "GATE  Mean Dice is at least 0.70.",
        "why: Below 0.70",
        "a default floor",
        "future-ai: G4",
        "applies when: not lesion always present",
        "a gate when: readers see maps",
    ):
        assert part in text
    assert "requires nothing" in explain_lines(load_protocol("base"))[-1]
