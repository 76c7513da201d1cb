"""Names as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from xaiseg.deciding import HOLM
from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports.numbers import both_text

#: Metrics whose names do not read as words.
METRICS: Final[Mapping[str, str]] = {
    "dice": "Dice",
    "iou": "IoU",
    "nsd": "NSD",
    "nsd_mm": "NSD in mm",
    "hd95": "HD95",
    "hd95_mm": "HD95 in mm",
    "ap50": "AP50",
    "ap": "AP50:95",
    "ar": "AR",
    "f1": "F1",
    "froc": "mean recall at 1/8 to 8 false positives an image",
    "recall": "animals found",
    "precision": "detections that are right",
    "mask_recall": "animals found with a mask that fits",
    "mask_iou": "IoU of the masks of found animals",
    "right": "balance of found, missed and false boxes",
    "false_positives_per_1000_empty_tiles": "false positives on 1,000 empty tiles",
    "false_positives_per_km2": "false positives a square kilometre",
    "false_positives_per_image": "false positives an image",
    "projected_precision": "precision at the survey's share of empty tiles",
    "border_duplicates": "detections that tiles saw twice and that were merged",
    "count_mae": "mean error of an image's count",
    "exact_count_share": "images counted exactly",
    "clusters_within_5_percent": "clusters counted right to within 5 %",
    "animals_total": "animals in the surveyed area, as annotated",
    "animals_total_detected": "detections scaled to the surveyed area, not animals",
    "animals_total_cv": "coefficient of variation of the animals in the surveyed area",
    "detections_sum": "sum of detections over images, not animals",
    "reference_sum": "sum of annotated boxes over images",
    "coco_ap": "AP50:95 as in papers",
    "coco_ap50": "AP50 as in papers",
    "coco_ar": "AR as in papers",
    "patients_dice_below_0.5": "patients with Dice below 0.5",
    "false_component_images": "lesion-free images with a false lesion",
    "lesion_f1": "lesion F1",
    "nll": "negative log-likelihood",
    "brier": "Brier score",
    "dice_change": "change of Dice",
    "dice_kept": "change of Dice",
    "boxes_kept": "share of boxes that stay",
    "compute_ms": "compute-only time",
    "gops": "operations a second",
    "energy_mj": "energy of an image, modelled",
    "measured_energy_mj": "energy of an image, measured",
    "saved": "cycles saved by early stops, all units",
    "saved_time": "cycles saved by early stops, groups",
    "large_dice_changes": "images whose Dice changes much",
    "vanished": "what vanishes",
    "appeared": "what is new",
    "loose": "boxes that vanish or move",
    "recall_change": "change of recall",
    "count_change": "change of the count",
    "shift_px": "distance of partners",
    "score_change": "change of the score",
    "spearman": "rank agreement of maps",
    "spearman_ceiling": "rank agreement of maps, noise ceiling",
    "spearman_to_ceiling": "rank agreement of maps, minus the noise ceiling",
    "ssim": "SSIM of maps",
    "ssim_ceiling": "SSIM of maps, noise ceiling",
    "ssim_to_ceiling": "SSIM of maps, minus the noise ceiling",
    "top5_iou": "overlap of the highest 5 %",
    "top5_iou_ceiling": "overlap of the highest 5 %, noise ceiling",
    "top5_iou_to_ceiling": "overlap of the highest 5 %, minus the noise ceiling",
    "top10_iou": "overlap of the highest 10 %",
    "top10_iou_ceiling": "overlap of the highest 10 %, noise ceiling",
    "top10_iou_to_ceiling": "overlap of the highest 10 %, minus the noise ceiling",
    "peak_distance": "distance of the peaks",
    "peak_distance_ceiling": "distance of the peaks, noise ceiling",
    "peak_distance_to_ceiling": "distance of the peaks, minus the noise ceiling",
    "pointing_agreement": "maps that point alike",
    "pointing_agreement_ceiling": "maps that point alike, noise ceiling",
    "pointing_agreement_to_ceiling": "maps that point alike, minus the noise ceiling",
    "flips": "pixels that change sides",
    "good_to_bad": "pixels right before, wrong after",
    "bad_to_good": "pixels wrong before, right after",
    "hd95_change": "change of HD95",
    "hd95_between": "HD95 of the two predictions",
    "nll_change": "change of the negative log-likelihood",
    "brier_change": "change of the Brier score",
    "ece_change": "change of the ECE",
    "features_off_change": "change of the answer without all features",
    "features_off_dice_drop": "Dice lost without all features",
    "flattened_change": "change of the answer with a flat gate map",
    "flattened_dice_drop": "Dice lost with a flat gate map",
    "inside_to_outside": "gate map inside the prediction over outside",
    "rank_agreement": "rank agreement of two importances",
    "ece_image": "ECE of the whole image",
    "ece_pooled": "ECE of all pixels, pooled",
    "ece_region_image": "ECE around the lesion",
    "ece_region_pooled": "ECE around the lesion, pooled",
    "excess_object_deletion": "gain over the best baseline, all pixels",
    "excess_context_deletion": "gain over the best baseline, context",
    "randomisation_similarity": "similarity under random weights",
    "randomisation_similarity_outside": "similarity under random weights, outside",
    "dice_drop": "loss of Dice",
    "dice_gap": "widest gap of Dice",
    "overlap_train_test": "test cases among the training data",
    "near_overlap_train_test": "near-duplicates of training images",
    "near_duplicates": "near-duplicate images",
    "suppression": "found objects that vanish, beyond the sham",
    "relative_confidence_drop": "confidence that is lost, beyond the sham",
    "persistent_confidence_drop": "confidence lost before four of five backgrounds, beyond the sham",
    "removal_effect": "answers that go with their object, beyond the sham",
    "appearance": "answers where the mark is, beyond the sham",
    "edge_loss": "found objects that vanish at the edge, beyond the sham",
    "hidden_loss": "found objects that vanish when partly hidden, beyond the sham",
    "neighbour_effect": "change of the neighbours' confidence",
    "false_change": "change of false detections",
    "flip_rate": "found objects that are lost, unpaired",
    "left_out": "edits that were not made",
    "group_share": "share of the look-alikes",
    "sqnr": "signal over error, in all",
    "sqnr_local": "signal over error, this layer alone",
    "flips_from_float": "flips against floating point",
}
FACTORS: Final[Mapping[str, str]] = {
    "gsd_cm": "GSD in cm",
    "blur_px": "blur",
    "noise_sd": "noise",
    "jpeg_quality": "JPEG",
    "downscale": "downscaling",
    "gain": "brightness",
    "fewer": "digits left out:",
}


def metric_name(metric: str) -> str:
    """The metric in words.

    >>> metric_name("missed_lesions"), metric_name("dice")
    ('missed lesions', 'Dice')
    """
    return METRICS.get(metric, metric.replace("_", " "))


def capital(text: str) -> str:
    """The text with a capital first letter, unless it begins with the name of a file.

    >>> capital("one dot"), capital("model.yaml names no train list")
    ('One dot', 'model.yaml names no train list')
    """
    first = text.partition(" ")[0].rstrip(".,:;")
    return text if any(sign in first for sign in "./_=") else text[:1].upper() + text[1:]


def uncapital(text: str) -> str:
    """The text with a small first letter, unless it begins with an abbreviation.

    >>> uncapital("One dot"), uncapital("IoU of")
    ('one dot', 'IoU of')
    """
    return text if text[1:3] != text[1:3].lower() else text[:1].lower() + text[1:]


def label(estimate: Estimate) -> str:
    """An estimate in words: metric, target, factor and level, stratum.

    >>> label(Estimate("a", "c", "dice_drop", "mean", 0.1, None, factor="blur_px", level="mild"))
    'loss of Dice, blur mild'
    """
    parts = [metric_name(estimate.metric), estimate.target, factor_level(estimate.factor, estimate.level)]
    parts += [group_name(estimate.stratum), "" if estimate.subject == "reference" else estimate.subject]
    return ", ".join(part for part in parts if part)


def group_name(stratum: str) -> str:
    """A stratum in words.

    >>> group_name("sea_state=3"), group_name("gsd_cm=5.5"), group_name("")
    ('sea state 3', 'GSD in cm 5.5', '')
    """
    factor, _, level = stratum.partition("=")
    return factor_level(factor, level)


def factor_level(factor: str, level: str) -> str:
    """A factor and its level, as in "blur mild"."""
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


def _member_name(estimate: Estimate) -> str:
    """Which group, degradation or variant an estimate is about; "" when it is about all cases."""
    return group_name(estimate.stratum) or factor_level(estimate.factor, estimate.level)


def short_reason(finding: Finding, estimate: Estimate | None) -> str:
    """A finding's reason in one line; requirements over many groups name the worst alone."""
    if len(finding.members) <= 1 or estimate is None:
        return capital(finding.reason)
    worst = _member_name(estimate)
    failing = f", {len(finding.failing)} of them fail" if finding.failing else ""
    if not worst:
        return capital(finding.reason)
    said = f"Worst of {len(finding.members)}{failing}: {worst}, {both_text(estimate)}"
    alone = finding.verdict is Verdict.INSUFFICIENT and HOLM in finding.reason
    return f"{said}{'; a group fails alone' + HOLM if alone else ''}"


def plural(count: int, word: str, many: str = "") -> str:
    """A count with its noun.

    >>> plural(1, "image"), plural(30, "box"), plural(0, "entry", "entries")
    ('1 image', '30 boxes', '0 entries')
    """
    ending = "es" if word.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{count} {word if count == 1 else many or word + ending}"


def listed(names: Sequence[str], *, most: int = 4) -> str:
    """Names in a row; long lists end with "and 3 more".

    >>> listed(["a", "b", "c"]), listed(list("abcdefg"), most=2)
    ('a, b and c', 'a, b and 5 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
