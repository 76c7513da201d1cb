"""What a survey asks: counts, totals, false alarms on empty tiles, and the precision that mostly empty tiles leave."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from xaiseg.checks.base import Quantity, Tables
from xaiseg.checks.detection_rows import ID, Found, box_rows
from xaiseg.checks.detection_totals import UNCORRECTED, Sample, drawn_sample, totals
from xaiseg.checks.quantities import UNIT_RANGE, fact, missing, reference_rows
from xaiseg.detection.coco_measures import coco_measures

#: A cluster's count agrees when it is off by at most this share.
AGREES: Final = 0.05
_NOT_ANIMALS: Final = "sum of detections over images, not animals"


def quantities(held: Found, target: str, params: Any, tables: Tables) -> Iterator[Quantity]:
    """Counts and false alarms at the frozen threshold."""
    survey = _survey(held, tables)
    yield from _counts(held, target, tables)
    yield from _empty_tiles(held, target, params, survey)
    yield from _projected(held, target, params, survey, tables)
    yield from _borders(tables, target)
    yield from _totals(held, target, survey, tables)
    yield from _coco(held, target, params, tables)


def _survey(held: Found, tables: Tables) -> dict[str, np.ndarray]:
    """Survey column -> (M,) text of each image, "" where the sidecar says nothing."""
    named = {name.removeprefix("survey:"): name for name in tables.cases.columns if name.startswith("survey:")}
    rows = tables.cases.set_index("case")
    return {
        name: rows.loc[list(held.cases), column].fillna("").to_numpy(dtype=object) for name, column in named.items()
    }


def _counts(held: Found, target: str, tables: Tables) -> Iterator[Quantity]:
    detected, reference, failed = held.detected, held.reference, len(held.failed)
    answered = held.cases[: held.answered]
    sums = np.stack([detected, reference, np.zeros(len(answered))], axis=1)
    sums = np.concatenate([sums, np.tile([0.0, 0.0, held.missed], (failed, 1))])
    errors = np.abs(detected - reference)
    # Where every count is right there is no spread to tell how wrong one could be; then: by all the animals there are.
    exact, fullest = not errors.any() and not failed, held.missed
    yield Quantity(
        "count_bias", "statistic", held.cases, sums, of="object", target=target, strata=True, weigh="case",
        function=_relative, bounds=(-1.0, 1.0 if exact else math.inf),
        note="(detections - reference) / reference over all images; a failed one makes it worse by the fullest's",
    )  # fmt: skip
    yield Quantity(
        "count_mae", "mean", answered, errors, better="lower", worst=max(fullest, float(errors.max(initial=0.0))),
        target=target, strata=True, weigh="case", bounds=(0.0, fullest if exact else math.inf),
        note="mean of |detections - reference| an image",
    )  # fmt: skip
    yield Quantity(
        "exact_count_share", "proportion", answered, (errors == 0).astype(np.float64), better="higher", worst=0.0,
        target=target, weigh="case", note="images whose count is exactly right", bounds=UNIT_RANGE,
    )  # fmt: skip
    yield _agreeing(held, target, tables)


def _relative(total: np.ndarray) -> float:
    """Of detections, reference, and objects of failed images: these make it worse, whichever way it points."""
    detected, reference, lost = (float(value) for value in total)
    if detected > reference:
        detected += lost
    else:
        reference += lost
    return (detected - reference) / reference if reference > 0 else math.nan


def _agreeing(held: Found, target: str, tables: Tables) -> Quantity:
    """The share of clusters whose total count is right to within five per cent."""
    clusters = tables.clusters(held.cases)
    lost = set(clusters[held.answered :])
    names = sorted(set(clusters))
    agrees, firsts = [], []
    for name in names:
        members = np.flatnonzero(clusters == name)
        inside = members[members < held.answered]
        detected, reference = held.detected[inside].sum(), held.reference[inside].sum()
        agrees.append(float(name not in lost and abs(detected - reference) <= AGREES * reference + 1e-9))
        firsts.append(held.cases[members[0]])
    note = "clusters (flights, sites) whose summed count is within 5 % of the reference; one with a failed image is not"
    if not tables.facts.get("cluster_declared", True):
        note += "; no clusters are declared, so that each image stands for one"
    return Quantity(
        "clusters_within_5_percent", "proportion", firsts, np.array(agrees), better="higher", of="cluster",
        target=target, weigh="case", note=note, bounds=UNIT_RANGE,
    )  # fmt: skip


def _empty_tiles(held: Found, target: str, params: Any, survey: dict[str, np.ndarray]) -> Iterator[Quantity]:
    empty = known_empty(survey, len(held.cases))
    count = int(empty.sum())
    yield fact("known_empty_tiles", count, of="image", target=target, note="un-augmented and declared known_empty")
    events = np.concatenate([held.false, np.full(len(held.failed), held.alarms)])[empty]
    why = _too_few(count, params)
    note = "known-empty tiles; a failed one counts as the most seen in any image"
    tiles = np.stack([events, np.full(count, 1e-3)], axis=1)
    yield Quantity(
        "false_positives_per_1000_empty_tiles", "rate", held.cases[empty], tiles, better="lower", of="empty tile",
        target=target, weigh="case", note=note, withheld=why,
    )  # fmt: skip
    area = np.concatenate([held.km2, np.full(len(held.failed), np.nan)])[empty]
    if not np.isfinite(area[: count - int(empty[held.answered :].sum())]).all() or not count:
        reason = "the ground area needs known-empty tiles with a pixel size (spacing_mm)"
        yield missing("false_positives_per_km2", reason, target=target)
        return
    area = np.where(np.isfinite(area), area, np.nanmedian(area))
    yield Quantity(
        "false_positives_per_km2", "rate", held.cases[empty], np.stack([events, area], axis=1), better="lower",
        of="empty tile", target=target, weigh="case", note=note, withheld=why,
    )  # fmt: skip


def known_empty(survey: dict[str, np.ndarray], images: int) -> np.ndarray:
    """(M,) bool: un-augmented tiles on which somebody looked and found nothing."""
    nothing = np.full(images, "", dtype=object)
    declared = survey.get("known_empty", nothing) == "true"
    return np.asarray(declared & (survey.get("augmented", nothing) != "true"), dtype=bool)


def _too_few(count: int, params: Any) -> str:
    if count >= params.least_empty_tiles:
        return ""
    return (
        f"{count} tiles that are known to be empty (column known_empty, augmented copies left out); at least "
        f"{params.least_empty_tiles} are needed"
    )


def _projected(
    held: Found, target: str, params: Any, survey: dict[str, np.ndarray], tables: Tables
) -> Iterator[Quantity]:
    """Precision where a stated share of the tiles is empty: the same detector, another mixture."""
    metric = "projected_precision"
    stated = tables.facts.get("empty_share") if params.empty_share is None else params.empty_share
    if stated is None:
        why = "it needs the share of tiles without an animal in your survey: --empty-share 0.99, or in model.yaml"
        yield missing(metric, why, target=target)
        return
    share = float(stated)
    every = known_empty(survey, len(held.cases))
    declared = every[: held.answered]
    empty = declared if declared.any() else held.reference == 0
    full = held.reference > 0
    parts = np.stack([held.right * full, held.false * full, full, held.false * empty, empty], axis=1).astype(np.float64)
    # A failed tile has nothing right and the most false of any, among the empty ones where it is declared to be one.
    of_full, of_empty = [0.0, held.alarms, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, held.alarms, 1.0]
    lost = np.array([of_empty if is_empty else of_full for is_empty in every[held.answered :]])

    def project(total: np.ndarray) -> float:
        right, false, tiles, alarms, empties = total
        if tiles <= 0 or empties <= 0:
            return math.nan
        hits = (1 - share) * right / tiles
        wrong = (1 - share) * false / tiles + share * alarms / empties
        return float(hits / (hits + wrong)) if hits + wrong > 0 else math.nan

    source = "known-empty tiles" if declared.any() else "tiles without a reference box, which nobody declared empty"
    yield Quantity(
        metric, "statistic", held.cases, np.concatenate([parts, lost.reshape(-1, 5)]), better="higher", of="detection",
        target=target, weigh="case", function=project, bounds=UNIT_RANGE, withheld=_too_few(int(every.sum()), params),
        note=f"precision when {100 * share:g} % of tiles are empty; false alarms on {source}",
    )  # fmt: skip


def _borders(tables: Tables, target: str) -> Iterator[Quantity]:
    """What a count tile by tile would hold too many; only where images were looked at in tiles."""
    rows = reference_rows(tables.rows[ID])
    rows = rows[rows["merged"].notna()]
    rows = rows[rows["target"] == target] if target else rows
    if len(rows):
        again = sum(int(np.asarray(times).sum()) for times in rows["merged"])
        note = "detections that a count tile by tile would hold twice, at the threshold; they were merged"
        yield fact("border_duplicates", again, of="detection", target=target, note=note)


def _totals(held: Found, target: str, survey: dict[str, np.ndarray], tables: Tables) -> Iterator[Quantity]:
    yield fact("detections_sum", held.detected.sum(), of="detection", target=target, note=_NOT_ANIMALS)
    yield fact("reference_sum", held.reference.sum(), of="object", target=target, note="sum over images, not animals")
    nothing = np.full(len(held.cases), "", dtype=object)
    chance, ground = survey.get("probability", nothing), survey.get("footprint", nothing)
    sample: Sample | str | None = None
    if tables.facts.get("limit") is not None or len(held.cases) < len(tables.cases):
        sample = f"only {len(held.cases)} of the images were looked at (--limit, or cases: sample of the check)"
    elif not (ground == "disjoint").all() or (chance == "").any():
        sample = f"{_NOT_ANIMALS}: the sidecar does not declare for every tile that its footprint is disjoint and with "
        sample += "which probability it was drawn"
    elif "drawn" in survey or "draws" in survey:
        sample = drawn_sample(survey, held.answered, len(held.cases))
    if isinstance(sample, str):
        for metric in ("animals_total", "animals_total_detected"):
            yield missing(metric, sample, target=target)
        return
    if sample is not None:
        yield from totals(held, target, sample, tables)
        return
    yield from _expanded_totals(held, target, chance)


def _expanded_totals(held: Found, target: str, chance: np.ndarray) -> Iterator[Quantity]:
    """Totals of tiles whose probabilities are known and whose draw is not: flights stand for other flights."""
    answered = slice(0, held.answered)
    share = np.array([float(text) for text in chance[answered]])
    for metric, counts, what in (
        ("animals_total", held.reference, "counted by the annotators"),
        ("animals_total_detected", held.detected, "detected"),
    ):
        if len(held.failed):
            why = f"{len(held.failed)} of {len(held.cases)} tiles have no count: they failed"
            yield missing(metric, why, target=target)
            continue
        if (share == 1.0).all():
            note = f"every tile was counted, no sampling error: animals {what}; {UNCORRECTED}"
            yield fact(metric, counts.sum(), of="object", target=target, note=note)
            continue
        yield Quantity(
            metric, "statistic", held.cases[answered], np.stack([counts / share, np.ones(len(share))], axis=1),
            of="object", target=target, weigh="case", function=_expanded(held.answered), bounds=(0.0, math.inf),
            note=f"Horvitz-Thompson total of the animals {what}; how tiles were drawn is not known: the interval takes "
            f"the clusters for a sample of others; {UNCORRECTED}",
        )  # fmt: skip


def _expanded(tiles: int) -> Any:
    """The mean over tiles times their number: a total whose resamples have as many tiles as the sample."""

    def total(sums: np.ndarray) -> float:
        return float(sums[0] / sums[1] * tiles) if sums[1] > 0 else math.nan

    return total


def _coco(held: Found, target: str, params: Any, tables: Tables) -> Iterator[Quantity]:
    """The figures that papers print, for comparison: all images that gave an answer, no interval."""
    rows = reference_rows(tables.rows[ID])
    references, detections = box_rows(rows[rows["target"].isin(held.classes)], held.classes)
    found = coco_measures(references, detections, len(held.classes), max_detections=params.max_detections)
    for metric, value in (("coco_ap", found.ap), ("coco_ap50", found.ap50), ("coco_ar", found.ar)):
        note = "by faster-coco-eval, failed images left out"
        yield fact(metric, value, of="data set", target=target, better="higher", note=note)
