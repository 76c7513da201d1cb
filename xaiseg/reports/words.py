"""Numbers and names as people read them: value and interval at the interval's precision, never "0.00", never NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, unit
from xaiseg.protocol import Requirement
from xaiseg.statistics.interval import Interval

#: Metrics whose names do not read as words.
METRICS: Final[Mapping[str, str]] = {
    "dice": "Dice",
    "iou": "IoU",
    "nsd": "NSD",
    "nsd_mm": "NSD in mm",
    "hd95": "HD95",
    "hd95_mm": "HD95 in mm",
    "patients_dice_below_0.5": "patients with Dice below 0.5",
    "false_component_images": "lesion-free images with a false lesion",
    "lesion_f1": "lesion F1",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "ece_image": "calibration error (ECE), whole image",
    "ece_pooled": "calibration error (ECE), all pixels pooled",
    "ece_region_image": "calibration error (ECE) around the lesion",
    "ece_region_pooled": "calibration error (ECE) around the lesion, pooled",
    "excess_object_deletion": "excess over the best baseline, all pixels",
    "excess_context_deletion": "excess over the best baseline, context only",
    "randomisation_similarity": "similarity to the map under random weights",
    "dice_drop": "loss of Dice",
    "dice_gap": "widest gap of Dice",
    "overlap_train_test": "test cases among the training data",
    "near_overlap_train_test": "near-duplicates of training images",
    "near_duplicates": "near-duplicate images",
}
FACTORS: Final[Mapping[str, str]] = {
    "blur_px": "blur",
    "noise_sd": "noise",
    "jpeg_quality": "JPEG",
    "downscale": "downscaling",
    "gain": "brightness",
}


def metric_name(metric: str) -> str:
    """The metric in words.

    >>> metric_name("missed_lesions"), metric_name("dice")
    ('missed lesions', 'Dice')
    """
    return METRICS.get(metric, metric.replace("_", " "))


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def decimals(lower: float | None, upper: float | None, value: float | None = None) -> int:
    """Decimals at which half the interval has two significant digits; without an interval three digits of the value.

    >>> decimals(0.741, 0.785), decimals(5.2, 31.0), decimals(None, None, 0.0412)
    (3, 0, 4)
    """
    if lower is not None and upper is not None and upper > lower:
        scale, digits = (upper - lower) / 2, 2
    elif value:
        scale, digits = abs(value), 3
    else:
        return 2
    return min(6, max(0, digits - 1 - math.floor(math.log10(scale))))


def number(value: float | None, places: int) -> str:
    """A number at a precision; what rounds to zero but is none says so.

    >>> number(0.0004, 2), number(0.0, 2), number(-0.25, 2), number(None, 2), number(12.0, 0)
    ('< 0.01', '0', '−0.25', 'none', '12')
    """
    if value is None or not math.isfinite(value):
        return "none"
    if value == 0:
        return "0"
    text = f"{abs(value):.{places}f}"
    if float(text) == 0:
        smallest = f"{10.0**-places:.{places}f}"
        return f"< {smallest}" if value > 0 else f"> −{smallest}"
    return f"−{text}" if value < 0 else text


def figure_of(estimate: Estimate, value: float | None, interval: Interval | None = None) -> str:
    """A value of an estimate, in per cent for proportions, at the precision of the interval."""
    lower, upper = (interval.lower, interval.upper) if interval else (None, None)
    return _figures(estimate, lower, upper, (value,))[0] + _suffix(estimate)


def value_text(estimate: Estimate) -> str:
    """The value of an estimate at its interval's precision.

    >>> value_text(Estimate("a", "c", "m", "fact", 3.0, None))
    '3'
    """
    return figure_of(estimate, estimate.value, estimate.interval)


def range_text(estimate: Estimate, interval: Interval | None) -> str:
    """ "0.741 to 0.785", "2.1 to 7.9 %", or "" without an interval."""
    if interval is None or (interval.lower is None and interval.upper is None):
        return ""
    ends = _figures(estimate, interval.lower, interval.upper, (interval.lower, interval.upper))
    return " to ".join("open" if end == "none" else end for end in ends) + _suffix(estimate)


def both_text(estimate: Estimate) -> str:
    """ "0.763 (90 % interval 0.741 to 0.785)"."""
    shown = range_text(estimate, estimate.interval)
    level = f"{100 * estimate.interval.level:g} % interval " if estimate.interval else ""
    return value_text(estimate) + (f" ({level}{shown})" if shown else "")


def bound_text(requirement: Requirement, kind: str) -> str:
    """The bound alone: "at most 10 %", "within ±0.10"."""
    bound = f"{100 * requirement.bound:g} %" if kind == "proportion" else f"{requirement.bound:g}"
    return f"within ±{bound}" if requirement.sense == "within" else f"{requirement.sense.replace('_', ' ')} {bound}"


def _figures(
    estimate: Estimate, lower: float | None, upper: float | None, values: Sequence[float | None]
) -> list[str]:
    scale = 100.0 if estimate.kind == "proportion" else 1.0
    scaled = [None if value is None else scale * value for value in (lower, upper, *values)]
    if estimate.kind == "fact" and scaled[2] is not None and scaled[2].is_integer():
        return [number(value, 0) for value in scaled[2:]]
    places = decimals(scaled[0], scaled[1], scaled[2])
    return [number(value, places) for value in scaled[2:]]


def _suffix(estimate: Estimate) -> str:
    return " %" if estimate.kind == "proportion" else f" {estimate.unit}" if estimate.unit else ""


def label(estimate: Estimate) -> str:
    """An estimate in words: metric, target, factor and level, stratum.

    >>> label(Estimate("a", "c", "dice_drop", "mean", 0.1, None, factor="blur_px", level="mild"))
    'loss of Dice, blur mild'
    """
    parts = [metric_name(estimate.metric), estimate.target, factor_level(estimate.factor, estimate.level)]
    parts += [estimate.stratum.replace("=", " "), "" if estimate.subject == "reference" else estimate.subject]
    return ", ".join(part for part in parts if part)


def factor_level(factor: str, level: str) -> str:
    """ "blur mild"."""
    return " ".join(part for part in (FACTORS.get(factor, factor.replace("_", " ")), level) if part)


def short_label(requirement: Requirement) -> str:
    """A requirement in a few words, for axes: what is bounded, without the bound.

    >>> short_label(Requirement("performance.segmentation", "missed_lesions", 0.15, "at_most", stratum="each"))
    'missed lesions, every group'
    """
    parts = [metric_name(requirement.metric), requirement.target]
    parts += [factor_level("" if factor == "level" else factor, level) for factor, level in requirement.where.items()]
    if requirement.stratum:
        parts.append("every group" if requirement.stratum == "each" else f"every {requirement.stratum}")
    parts.append("" if requirement.subject == "reference" else requirement.subject)
    return ", ".join(part for part in parts if part)


def member_name(estimate: Estimate) -> str:
    """Which group, degradation or variant an estimate is about; "" when it is about all cases."""
    return estimate.stratum.replace("=", " ") or factor_level(estimate.factor, estimate.level)


def short_reason(finding: Finding, estimate: Estimate | None) -> str:
    """A finding's reason in one line; requirements over many groups name the worst alone."""
    if len(finding.members) <= 1 or estimate is None:
        return capital(finding.reason)
    worst = member_name(estimate)
    count = len(finding.members)
    failing = f"; fails in {len(finding.failing)}" if finding.failing else ""
    return f"{count} compared; the worst is {worst}: {both_text(estimate)}{failing}" if worst else finding.reason


def cluster_words(plan: Mapping[str, Any], count: int) -> str:
    """ "98 patients": a number of independent units in words.

    >>> cluster_words({"data": {"test": {"cluster_column": "patient_id"}}}, 98)
    '98 patients'
    """
    return f"{count} {unit(_unit_facts(plan), count)}"


def cluster_word(plan: Mapping[str, Any]) -> str:
    """ "patients": the independent unit in the plural."""
    return unit(_unit_facts(plan), 2)


def _unit_facts(plan: Mapping[str, Any]) -> dict[str, Any]:
    column = plan["data"]["test"].get("cluster_column")
    return {"cluster_column": column, "cluster_declared": column is not None}


def plural(count: int, word: str, many: str = "") -> str:
    """ "1 image", "2 images".

    >>> plural(1, "image"), plural(0, "entry", "entries")
    ('1 image', '0 entries')
    """
    return f"{count} {word if count == 1 else many or word + 's'}"


def listed(names: Sequence[str], *, most: int = 4) -> str:
    """ "a, b and c", shortened with "and 3 more".

    >>> listed(["a", "b", "c"]), listed(list("abcdefg"), most=2)
    ('a, b and c', 'a, b and 5 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
