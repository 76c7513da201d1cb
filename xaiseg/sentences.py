"""Requirements in English: one sentence each, and the sample size that each of them needs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from xaiseg.errors import UsageError
from xaiseg.protocol import Decision, Protocol, Requirement
from xaiseg.statistics.planning import clusters_for_mean, clusters_for_proportion, n_for_proportion

POWER: Final = 0.8
#: Fewer clusters than this give the mean of a few cases each no interval, see docs/statistics.md.
SKEWED: Final = 20


@dataclass(frozen=True)
class Phrase:
    """How a metric is spoken of.

    Attributes:
        text: with ``{amount}`` for "at most 10 %", and ``{target}`` where the sentence names it.
        kind: "proportion" prints the bound in per cent; "fact" is a count of these data, without a sample size.
        of: plural of what one value describes.
        events: plural of what a proportion counts.
        rule: said in brackets when the parameters of the check are known, e.g. ``IoU >= {match_iou:g}``.
        zero: the sentence for a bound of 0 of the sense ``zero_sense``.
        possible: lowest and highest value of a mean, where one case alone could move it far beyond its bound.
    """

    text: str
    kind: Literal["mean", "proportion", "fact"] = "mean"
    of: str = "clusters"
    events: str = "misses"
    rule: str = ""
    zero: str = ""
    zero_sense: Literal["at_least", "at_most", "within"] = "at_most"
    possible: tuple[float, float] | None = None


#: Metrics of the package's own checks. A check of a third party may carry a mapping ``phrases`` of metric -> Phrase.
PHRASES: Final[Mapping[str, Phrase]] = {
    "data.integrity overlap_train_test": Phrase(
        "{amount} test cases occur in the training data",
        "fact",
        zero="no test case occurs in the training data",
    ),
    "data.integrity failed_images": Phrase("{amount} of images fail", "proportion", "images", "failed images"),
    "performance.segmentation missed_lesions": Phrase(
        "{amount} of lesions are missed",
        "proportion",
        "lesions",
        rule="no predicted component with IoU >= {match_iou:g}",
    ),
    "performance.segmentation dice": Phrase("mean Dice is {amount}"),
    "performance.segmentation iou": Phrase("mean IoU is {amount}"),
    "performance.segmentation nsd": Phrase(
        "the share of the border within the tolerance (NSD) is {amount} on average",
        rule="tolerance {tolerance_px:g} px",
    ),
    "performance.segmentation nsd_mm": Phrase(
        "the share of the border within the tolerance (NSD) is {amount} on average",
        rule="tolerance {tolerance_mm:g} mm",
    ),
    "performance.segmentation patients_dice_below_0.5": Phrase(
        "{amount} of patients have a Dice below 0.5", "proportion", "patients", "such patients"
    ),
    "performance.segmentation false_component_images": Phrase(
        "{amount} of lesion-free images show a false lesion", "proportion", "lesion-free images", "such images"
    ),
    "performance.segmentation area_bias": Phrase("the relative error of the area is {amount} on average"),
    "performance.detection recall": Phrase("{amount} of the animals are found", "proportion", "animals"),
    "performance.detection precision": Phrase(
        "{amount} of detections are right", "proportion", "detections", "false detections"
    ),
    "performance.detection mask_recall": Phrase(
        "{amount} of the animals with an outline are found with a mask of IoU 0.5 or more", "proportion", "animals"
    ),
    "performance.detection mask_iou": Phrase("mean IoU of the masks of found animals is {amount}"),
    "performance.detection f1": Phrase("F1 is {amount}"),
    "performance.detection ap50": Phrase("average precision at IoU 0.5 (AP50) is {amount}"),
    "performance.detection ap": Phrase("average precision (AP50:95) is {amount}"),
    "performance.detection froc": Phrase("mean recall at 1/8 to 8 false positives an image is {amount}"),
    "performance.detection count_bias": Phrase("the relative error of the count is {amount}"),
    "performance.detection count_mae": Phrase("the count of an image is off by {amount} on average"),
    "performance.detection exact_count_share": Phrase(
        "{amount} of images are counted exactly", "proportion", "images", "wrong counts"
    ),
    "performance.detection clusters_within_5_percent": Phrase(
        "{amount} of flights or sites are counted right to within 5 %", "proportion", "clusters", "wrong counts"
    ),
    "performance.detection false_positives_per_image": Phrase("false positives an image are {amount}"),
    "performance.detection false_positives_per_1000_empty_tiles": Phrase(
        "false positives on 1,000 tiles known to be empty are {amount}"
    ),
    "performance.detection projected_precision": Phrase(
        "precision where most tiles are empty, as in the survey, is {amount}"
    ),
    "robustness.degradation dice_drop": Phrase("Dice drops by {amount} on average"),
    "calibration.pixels ece_region_image": Phrase(
        "the calibration error (ECE) around the lesion is {amount} on average"
    ),
    "shortcut.background suppression": Phrase("the share of found objects that vanish, beyond the sham, is {amount}"),
    "shortcut.background relative_confidence_drop": Phrase(
        "the share of the confidence in found objects that is lost, beyond the sham, is {amount}"
    ),
    "shortcut.background persistent_confidence_drop": Phrase(
        "the share of the confidence in found objects that four of five other backgrounds take away is {amount}"
    ),
    "shortcut.artefacts suppression": Phrase("the share of found objects that vanish, beyond the sham, is {amount}"),
    "shortcut.artefacts appearance": Phrase("answers where the mark is, beyond the sham, are {amount} an image"),
    "shortcut.object removal_effect": Phrase("the share of answers that go with their object is {amount}"),
    "shortcut.position edge_loss": Phrase("the share of found objects that vanish at the edge is {amount}"),
    "equivalence.segmentation dice_change": Phrase("the mean change of Dice is {amount}", possible=(-1.0, 1.0)),
    "equivalence.segmentation large_dice_changes": Phrase(
        "the Dice of {amount} of images changes much",
        "proportion",
        "images",
        "such images",
        rule="by more than {large:g}",
    ),
    "equivalence.segmentation vanished": Phrase(
        "{amount} of outlined lesions vanish", "proportion", "lesions", "vanished lesions"
    ),
    "equivalence.segmentation appeared": Phrase(
        "{amount} of outlined lesions are new", "proportion", "lesions", "new lesions"
    ),
    "equivalence.segmentation flips": Phrase(
        "the share of pixels that change sides is {amount} on average", possible=(0.0, 1.0)
    ),
    "equivalence.segmentation hd95_change": Phrase("the mean change of HD95 in pixels is {amount}"),
    "equivalence.segmentation nll_change": Phrase("the mean change of the negative log-likelihood is {amount}"),
    "equivalence.segmentation brier_change": Phrase("the mean change of the Brier score is {amount}"),
    "equivalence.segmentation ece_change": Phrase("the mean change of the calibration error (ECE) is {amount}"),
    "equivalence.detection vanished": Phrase("{amount} of boxes vanish", "proportion", "boxes", "vanished boxes"),
    "equivalence.detection appeared": Phrase("{amount} of boxes are new", "proportion", "boxes", "new boxes"),
    "equivalence.detection recall_change": Phrase("the mean change of recall is {amount}"),
    "equivalence.detection count_change": Phrase("the mean change of an image's count is {amount}"),
    "equivalence.rtl differences": Phrase(
        "digits, values, clocks and early ends that differ between Verilog and simulator are {amount}",
        "fact",
        zero="no digit, value, clock or early end of the Verilog differs from the simulator's",
    ),
    "hardware.cost measured_energy_mj": Phrase("the measured energy of an image in mJ is {amount}", "fact"),
    "equivalence.layers sqnr": Phrase("the signal-to-noise ratio of layer {target} in dB is {amount}"),
    "equivalence.explanation spearman": Phrase(
        "the rank agreement of the map by {target} with the audited one is {amount}"
    ),
    "equivalence.explanation spearman_to_ceiling": Phrase(
        "the rank agreement of the map by {target} with the audited one, minus that of a repeat, is {amount} on average"
    ),
    "equivalence.explanation deletion_change": Phrase(
        "the deletion score of the build's own map by {target} changes by {amount} on average"
    ),
    "explanation excess_context_deletion": Phrase(
        "{target} finds the context better than the best picture without a model, by {amount} on average",
        zero="{target} finds the context at least as well as the best picture without a model",
        zero_sense="at_least",
    ),
    "explanation randomisation_similarity": Phrase(
        "the similarity of {target} to its map under random weights is {amount} on average"
    ),
}


@dataclass(frozen=True)
class Explained:
    """A requirement for readers.

    Attributes:
        id: of the requirement.
        sentence: the requirement as one English sentence.
        severity: gate, warn or info.
        why: the reason given in the protocol.
        sample_size: what it takes to show it, as one sentence.
        agreed_by: who agreed the bound, or None = a default floor.
        applies_when, gate_when: conditions, or "".
        maps_to: guideline -> items.
    """

    id: str
    sentence: str
    severity: str
    why: str
    sample_size: str
    agreed_by: str | None = None
    applies_when: str = ""
    gate_when: str = ""
    maps_to: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def sentence(requirement: Requirement, params: Any = None) -> str:
    """The requirement as one English sentence.

    Args:
        requirement: the requirement.
        params: the parameters of its check; with them the sentence can say by which rule things are counted.

    >>> sentence(Requirement("performance.segmentation", "missed_lesions", 0.1, "at_most"))
    'At most 10 % of lesions are missed'
    >>> sentence(Requirement("performance.segmentation", "dice", 0.7, "at_least", stratum="device"))
    'Mean Dice is at least 0.70 in every group of device'
    """
    phrase = _phrase(requirement)
    is_zero = bool(phrase.zero) and requirement.bound == 0 and requirement.sense == phrase.zero_sense
    words = (phrase.zero if is_zero else phrase.text).format(
        amount=_amount(requirement, phrase.kind), target=requirement.target or "the explanation"
    )
    if phrase.rule and params is not None:
        words += f" ({phrase.rule.format(**dataclasses.asdict(params))})"
    if requirement.target and "{target}" not in phrase.text:
        words += f" for {requirement.target}"
    words += "".join(f" {_place(factor, level)}" for factor, level in requirement.where.items())
    if requirement.stratum:
        words += (
            f" in every group of {'each declared factor' if requirement.stratum == 'each' else requirement.stratum}"
        )
    if requirement.subject != "reference":
        words += ", for each variant" if requirement.subject == "each" else f", variant {requirement.subject}"
    return words[0].upper() + words[1:]


def refuse_unreachable(protocol: Protocol) -> None:
    """Refuses bounds and assumed values that the metric cannot have: at most 10 is met by every share.

    Raises:
        UsageError: at the first such requirement.
    """
    for requirement in protocol.requires:
        phrase = _phrase(requirement)
        low, high = (0.0, 1.0) if phrase.kind == "proportion" else phrase.possible or (-math.inf, math.inf)
        for what, value in (("bound", requirement.bound), ("assumed value", requirement.assume.get("value"))):
            if value is not None and not low <= value <= high:
                raise UsageError(
                    f"{requirement.metric} cannot have this {what}", where=requirement.source, got=f"{value:g}",
                    allowed=f"{low:g} to {high:g}",
                    then="10 % is written 0.10" if phrase.kind == "proportion" else None,
                )  # fmt: skip


def explain(protocol: Protocol) -> list[Explained]:
    """Each requirement of a protocol for readers, in order."""
    return [
        Explained(
            id=requirement.id,
            sentence=sentence(requirement, protocol.checks[requirement.check].params),
            severity=requirement.severity,
            why=requirement.why,
            sample_size=sample_size(requirement, protocol.decision),
            agreed_by=requirement.agreed_by,
            applies_when=requirement.applies_when,
            gate_when=requirement.gate_when,
            maps_to=requirement.maps_to,
        )
        for requirement in protocol.requires
    ]


def explain_lines(protocol: Protocol) -> list[str]:
    """:func:`explain` as lines of text.

    Raises:
        UsageError: as :func:`refuse_unreachable`.
    """
    refuse_unreachable(protocol)
    decision = protocol.decision
    lines = [
        f"{protocol.name} {protocol.version} ({protocol.as_of}): {protocol.purpose}",
        f"Decided by {100 * decision.confidence:g} % one-sided bounds"
        + (f", divided among {decision.looks} looks." if decision.looks > 1 else "."),
    ]
    for item in explain(protocol):
        lines += ["", f"{item.severity.upper()}  {item.sentence}."]
        conditions = [("applies when", item.applies_when), ("a gate when", item.gate_when)]
        lines += [f"      {what}: {name.replace('_', ' ')}" for what, name in conditions if name]
        lines += [f"      why: {item.why}"] if item.why else []
        lines.append(f"      sample size: {item.sample_size}.")
        lines.append(f"      bound: {'agreed by ' + item.agreed_by if item.agreed_by else 'a default floor'}")
        lines += [f"      {guide}: {', '.join(items)}" for guide, items in item.maps_to.items()]
    return lines if protocol.requires else [*lines, "", "It requires nothing: the audit reads MEASURED."]


def sample_size(requirement: Requirement, decision: Decision) -> str:
    """What it takes to show a requirement, as one sentence.

    >>> missed = Requirement("performance.segmentation", "missed_lesions", 0.1, "at_most")
    >>> sample_size(missed, Decision())
    'needs 29 / 46 / 61 lesions, each of another cluster, to show it at 0 / 1 / 2 misses'
    """
    phrase, assume = _phrase(requirement), requirement.assume
    where = " in each group" if requirement.stratum else ""
    if phrase.kind == "fact":
        return "none, it is a count of these data"
    if "value" in assume and "sd" in assume:
        return _mean_size(requirement, decision, phrase, where)
    if phrase.kind == "proportion" or "value" in assume:
        return _proportion_size(requirement, decision, phrase, where)
    return "unknown: the requirement states no `assume: {value, sd}`"


def _mean_size(requirement: Requirement, decision: Decision, phrase: Phrase, where: str) -> str:
    value, sd = requirement.assume["value"], requirement.assume["sd"]
    # Within: two one-sided tests must both pass, so each gets half of the chance to miss.
    power = 1 - (1 - POWER) / 2 if requirement.sense == "within" else POWER
    assumed = abs(value) if requirement.sense == "within" else value
    n = clusters_for_mean(
        requirement.bound, assumed, sd, decision.alpha, power, bounds=phrase.possible, minimum=decision.min_clusters
    )
    count = f"about {n}" if n >= SKEWED else f"{SKEWED} (about {n} if half of them hold 20 cases or more)"
    words = f"needs {count} {phrase.of}{where} at an assumed value of {value:g} and a standard deviation of {sd:g}"
    return f"{words}, to show it in {100 * POWER:g} % of audits"


def _proportion_size(requirement: Requirement, decision: Decision, phrase: Phrase, where: str) -> str:
    bad = requirement.bound if requirement.sense == "at_most" else 1.0 - requirement.bound
    if not 0.0 < bad < 1.0:
        return "unknown: a share of 0 or 1 cannot be shown by any sample"
    counts = " / ".join(str(n_for_proportion(bad, misses, decision.alpha)) for misses in range(3))
    # Without any event nothing tells how alike those of a cluster are, and each cluster counts as one.
    words = f"needs {counts} {phrase.of}{where}, each of another cluster, to show it at 0 / 1 / 2 {phrase.events}"
    assumed = requirement.assume.get("value")
    if assumed is None:
        return words
    share = assumed if requirement.sense == "at_most" else 1.0 - assumed
    n = clusters_for_proportion(bad, share, decision.alpha, POWER)
    return f"{words}; about {n} at an assumed {_percent(assumed)}"


def _phrase(requirement: Requirement) -> Phrase:
    from xaiseg.checks.base import REGISTRY

    own: Mapping[str, Phrase] = getattr(REGISTRY.get(requirement.check), "phrases", {})
    generic = Phrase(f"{requirement.check} {requirement.metric} is {{amount}}")
    return own.get(requirement.metric) or PHRASES.get(f"{requirement.check} {requirement.metric}", generic)


def _amount(requirement: Requirement, kind: str) -> str:
    write = {"proportion": _percent, "fact": "{:g}".format}.get(kind, _number)
    number = write(requirement.bound)
    if requirement.sense == "within":
        return f"within ±{number}"
    return f"{requirement.sense.replace('_', ' ')} {number}"


def _percent(value: float) -> str:
    return f"{100 * value:.6g} %"


def _number(value: float) -> str:
    """At least two decimals, unless it is a whole number above 1.

    >>> _number(0.7), _number(0.125), _number(3.0)
    ('0.70', '0.125', '3')
    """
    if float(value).is_integer() and value != 1:
        return f"{value:.0f}"
    return max(f"{value:.2f}", f"{value:.6g}", key=len)


def _place(factor: str, level: str) -> str:
    return f"at the {level} level of every degradation" if factor == "level" else f"at {factor} {level}"
