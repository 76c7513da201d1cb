"""What somebody who counts animals asks first: is the count usable, where not, and what is taken for an animal?

Everything is read from the run: rows, estimates, findings. Nothing is decided here that the judge did not decide.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

from xaiseg.checks.detection_rows import box_rows
from xaiseg.checks.detection_totals import UNEVEN
from xaiseg.detection.matching import IGNORE, ON_ANIMAL, iou, reaches
from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports.facts import cluster_word, cluster_words
from xaiseg.reports.figures import Table, View
from xaiseg.reports.numbers import both_text, bound_text, number, range_text, value_text
from xaiseg.reports.words import capital, group_name, listed, plural, short_label
from xaiseg.statistics.equivalence import decide
from xaiseg.statistics.planning import HOPELESS, more_needed

#: From this overlap on it would have found the animal, were it of its class.
FITS: Final = 0.5
#: More new clusters than this many times those at hand are no plan for a survey. Ours.
Standing = Literal["failed", "alone", "thin", "open", "met"]


@dataclass(frozen=True)
class Place:
    """One group of a declared factor against one requirement on every group.

    Attributes:
        name: the group in words.
        standing: "failed" after correction for many groups, "alone" = fails on its own and not after it, "thin" = too
            few clusters for an interval, "open" = neither shown nor refuted, "met".
        estimate: its value.
        requirement: what is required.
        more: clusters that would settle it, or None.
    """

    name: str
    standing: Standing
    estimate: Estimate
    requirement: Requirement
    more: int | None = None


@dataclass(frozen=True)
class Mistakes:
    """Boxes above the threshold that are wrong, by what lies below them.

    Attributes:
        total: of all images.
        on_animal: second boxes on an animal, and boxes that fit it badly.
        other_class: boxes that fit an animal of another class.
        nothing: boxes without an animal.
        images: images with at least one of ``nothing``.
        largest: most of ``nothing`` in one image.
    """

    total: int
    on_animal: int
    other_class: int
    nothing: int
    images: int
    largest: int


def survey_answers(view: View) -> tuple[tuple[str, str], ...]:
    """Three questions and their answers for page 1; none where nothing was detected or annotated.

    Args:
        view: of performance.detection.
    """
    if view.rows() is None or view.get("recall") is None:
        return ()
    names = list(view.plan["facts"]["classes"])
    article = "an" if names[0][:1].lower() in "aeiou" else "a"
    taken = f"What does it take for {article} {names[0]}?" if len(names) == 1 else "What does it take for animals?"
    return (
        ("Is the count usable?", _usable(view)),
        ("Where not?", _where_words(view)),
        (taken, capital(mistake_words(view) or "nothing: no box above the threshold is wrong.")),
    )


def _usable(view: View) -> str:
    gates = [f for f in view.findings if f.requirement.severity == "gate" and not f.requirement.stratum]
    said = {
        verdict: [short_label(f.requirement) for f in gates if f.verdict is verdict]
        for verdict in (Verdict.FAIL, Verdict.INSUFFICIENT, Verdict.NOT_RUN, Verdict.ERROR)
    }
    if said[Verdict.FAIL]:
        words = f"Not without correction by hand: {listed(said[Verdict.FAIL])} {_lie(said[Verdict.FAIL])} out of bounds"
    elif any(said.values()):
        undecided = [name for names in said.values() for name in names]
        words = f"Not shown yet: {listed(undecided)} cannot be decided"
    elif gates:
        words = "Yes, on ground like that of these tiles"
    else:
        words = "The protocol does not decide it"
    return f"{words}. {count_words(view)}"


def _lie(names: Sequence[str]) -> str:
    return "lies" if len(names) == 1 else "lie"


def count_words(view: View) -> str:
    """The count with its interval, as one or two sentences."""
    bias, near = view.get("count_bias"), view.get("clusters_within_5_percent")
    if bias is None or bias.value is None or bias.value <= -1:
        return "There is no count to compare."
    way = f"{number(100 * abs(bias.value), 1)} % too {'many' if bias.value > 0 else 'few'}" if bias.value else "right"
    said = f"Summed over all tiles it counts {way}: "
    said += f"100 of its boxes stand for {_animals(bias.value)} annotated animals"
    if bias.interval is not None and bias.interval.lower is not None and bias.interval.upper is not None:
        ends = [_animals(end) for end in (bias.interval.upper, bias.interval.lower)]
        said += f" (90 % interval {ends[0]} to {ends[1]})"
    if near is not None and near.value is not None:
        said += f"; {number(100 * near.value, 0)} % of {cluster_word(view.plan)} are right to within 5 %"
    return said + "."


def total_words(estimates: Iterable[Estimate]) -> str:
    """The total in animals with its interval, or that there is none; "" where nothing was counted.

    Args:
        estimates: those of a run, or of performance.detection alone.
    """
    whole = {item.metric: item for item in estimates if not (item.target or item.factor or item.stratum)}
    total, cv, boxes = (whole.get(name) for name in ("animals_total", "animals_total_cv", "detections_sum"))
    if total is not None and total.value is not None:
        said = f"The annotators' counts stand for {both_text(total)} animals in the surveyed area"
        said += f", coefficient of variation {number(cv.value, 2)}" if cv is not None and cv.value is not None else ""
        said += f"; no interval: {total.reason}" if total.reason else ""
        return f"{said}; {UNEVEN}" if UNEVEN in total.note else said
    if boxes is None or boxes.value is None:
        return ""
    return f"The sum of {plural(int(boxes.value), 'detection')} over images is no number of animals"


def _animals(bias: float) -> str:
    return number(100 / (1 + bias), 0) if bias > -0.99 else "any number of"


def places(view: View) -> list[Place]:
    """Every group that a requirement on each group binds, in the order of the factors."""
    held = [f for f in view.findings if f.requirement.stratum and f.requirement.metric == "recall"]
    return [_place(f, view.estimates[id]) for f in held for id in f.members if id in view.estimates]


def _place(finding: Finding, item: Estimate) -> Place:
    need, interval = finding.requirement, item.interval
    name, kind = group_name(item.stratum), "proportion" if item.kind == "proportion" else "mean"
    if item.id in finding.failing:
        return Place(name, "failed", item, need)
    if item.value is None or interval is None or (interval.lower is None and interval.upper is None):
        return Place(name, "thin", item, need)
    alone = decide(interval.lower, interval.upper, need.bound, need.sense)
    if alone != "insufficient":
        return Place(name, "met" if alone == "pass" else "alone", item, need)
    more = more_needed(interval, need.bound, need.sense, "proportion" if kind == "proportion" else "mean")
    return Place(name, "open", item, need, more)


def _where_words(view: View) -> str:
    held = places(view)
    if not held and view.plan["facts"].get("strata"):
        return "Not decided: the protocol asks of no group whether its animals are found (recall, stratum: each)."
    if not held:
        return "Not known: no column names habitat, sea state, glint or flying height (strata in model.yaml)."
    words = ("failed", "alone", "thin", "open", "met")
    named = {word: [place.name for place in held if place.standing == word] for word in words}
    parts = [
        f"animals are overlooked in {listed(named['failed'])}" if named["failed"] else "",
        f"probably in {listed(named['alone'])}, which would fail alone but not as one of {plural(len(held), 'group')}"
        if named["alone"]
        else "",
        _thin_words(named["thin"], len(held)),
        f"{len(named['open'])} of {plural(len(held), 'group')} cannot be decided, the lowest of them {_lowest(held)}"
        if named["open"]
        else "",
        f"shown for {listed(named['met'])}" if named["met"] else "",
    ]
    return capital("; ".join(part for part in parts if part)) + "."


def _thin_words(named: Sequence[str], groups: int) -> str:
    if not named:
        return ""
    return f"too little was seen of {f'each of the {groups} groups' if 1 < groups == len(named) else listed(named)}"


def _lowest(held: Sequence[Place]) -> str:
    still = [place for place in held if place.standing == "open" and place.estimate.value is not None]
    worst = min(still, key=lambda place: place.estimate.value or 0.0)
    return f"{worst.name} with {value_text(worst.estimate)} found"


def mistakes(view: View) -> Mistakes | None:
    """What lies below the wrong boxes; None without rows."""
    rows = view.rows()
    if rows is None:
        return None
    classes, threshold = list(view.plan["facts"]["classes"]), float(view.plan["facts"]["threshold"])
    rows = rows[rows["target"].isin(classes)]
    count: Counter[str] = Counter()
    bare: list[int] = []
    for (_, group), objects in zip(rows.groupby("case", sort=True), box_rows(rows, classes)[0], strict=True):
        kinds = [kind for row in group.to_dict("records") for kind in _kinds(row, objects, classes, threshold)]
        count.update(kinds)
        bare.append(kinds.count("nothing"))
    return Mistakes(
        total=count.total(),
        on_animal=count["on_animal"],
        other_class=count["other_class"],
        nothing=count["nothing"],
        images=sum(number > 0 for number in bare),
        largest=max(bare, default=0),
    )


def _kinds(row: Mapping[Any, Any], objects: np.ndarray, classes: Sequence[str], threshold: float) -> Iterator[str]:
    """What lies below each false box of one image and class."""
    wrong = reaches(row["score"], threshold) & (np.asarray(row["found"]) == -1)
    boxes = np.asarray(row["box"], dtype=np.float64).reshape(-1, 4)[wrong]
    real = objects[objects[:, 4] != IGNORE]
    if not len(real):
        yield from ["nothing"] * len(boxes)
        return
    shares = iou(boxes, real[:, :4])
    mine = real[:, 4] == classes.index(row["target"])
    for share in shares:
        other = float(share[~mine].max(initial=0.0))
        if other >= FITS and other > float(share[mine].max(initial=0.0)):
            yield "other_class"
        else:
            yield "on_animal" if float(share.max()) >= ON_ANIMAL else "nothing"


def mistake_words(view: View) -> str:
    """The wrong boxes in one sentence; "" where there are none."""
    found = mistakes(view)
    if found is None or found.total == 0:
        return ""
    fits = ""
    if view.params.get("match") == "iou":
        fits = f" (a box fits from an overlap, IoU, of {view.params['match_iou']:g}; an animal without one was missed)"
    parts = [
        (found.nothing, f"with no animal below (in {plural(found.images, 'image')}, at most {found.largest} in one)"),
        (found.on_animal, f"a second or badly fitting box on an animal{fits}"),
        (found.other_class, "on an animal of another class"),
    ]
    said = ", ".join(f"{count} {words}" for count, words in parts if count)
    rows = ["Detected where there is none"] if found.nothing else []
    rows += ["A second or badly fitting box"] if found.nothing < found.total else []
    more = f"; the pictures stand under {' and '.join(f'“{row}”' for row in rows)}"
    recall = view.get("recall")
    if found.nothing == found.total and recall is not None and recall.value == 0 and recall.n:
        more = "; none lies on any animal, so see first whether the labels belong to these images and are in pixels"
    return f"{plural(found.total, 'box', 'boxes')} of those above the threshold are wrong: {said}{more}."


def where_table(view: View) -> Table | None:
    """Groups for which it is refuted, not shown or untested that animals are found; None where all are shown."""
    ranks = {"failed": 0, "alone": 1, "thin": 2, "open": 3}
    held = sorted((p for p in places(view) if p.standing != "met"), key=lambda p: ranks[p.standing])
    rows = tuple((capital(p.name), _why(p, view), _seen(p, view)) for p in held)
    caption = "Where not to use it: groups for which it was not shown that enough animals are found"
    return Table(caption, ("group", "why not", "seen so far"), rows) if rows else None


def _why(place: Place, view: View) -> str:
    asked = f"{bound_text(place.requirement, place.estimate.kind)} is required"
    value = both_text(place.estimate, level=False)
    if place.standing == "thin":
        return f"too little evidence: {(place.estimate.interval and place.estimate.interval.reason) or 'no value'}"
    said = {
        "failed": "animals are overlooked",
        "alone": f"fails alone, not as one of {plural(len(places(view)), 'group')} (Holm's correction)",
    }.get(place.standing, "neither shown nor refuted")
    said += f": {value} found, {asked}"
    bias = next((one for one in view.own() if _same_group(one, place) and one.metric == "count_bias"), None)
    return said + ("" if bias is None else _way(bias))


def _way(bias: Estimate) -> str:
    """In which direction counts are off, where the interval leaves no doubt."""
    ends = bias.interval
    if ends is None or ends.lower is None or ends.upper is None or ends.lower <= 0 <= ends.upper:
        return ""
    way, least = ("high", ends.lower) if ends.lower > 0 else ("low", -ends.upper)
    return f"; counts there are at least {number(100 * least, 0)} % too {way}"


def _same_group(one: Estimate, place: Place) -> bool:
    return one.stratum == place.estimate.stratum and not (one.target or one.factor)


def _seen(place: Place, view: View) -> str:
    return f"{plural(place.estimate.n, 'animal')}, {cluster_words(view.plan, place.estimate.n_clusters)}"


def collection_table(view: View) -> Table | None:
    """What would settle what is open: more images of which kind, or a number that only the survey's people know."""
    unit = cluster_word(view.plan)
    least = int(view.plan["protocol"]["decision"]["min_clusters"])
    rows: list[tuple[str, str, str]] = []

    def effort(place: Place) -> tuple[bool, float]:
        thin = place.standing == "thin"
        return not thin, max(1, least - place.estimate.n_clusters) if thin else place.more or math.inf

    for place in sorted(places(view), key=effort):
        if place.standing == "thin":
            lacking = f"at least {max(1, least - place.estimate.n_clusters)} more"
            rows.append((f"{capital(unit)} with {place.name}", lacking, "whether enough are found there"))
        elif place.standing == "alone":
            more = f"some more (now {place.estimate.n_clusters}): it fails alone already"
            rows.append((f"{capital(unit)} with {place.name}", more, "whether animals are overlooked there"))
        elif place.standing == "open":
            rows.append((f"{capital(unit)} with {place.name}", _how_many(place), "whether enough are found there"))
    for finding in view.findings:
        if finding.verdict is Verdict.INSUFFICIENT and not finding.requirement.stratum and finding.more:
            more = finding.more.replace(" would settle it", "").replace(" would be needed", "")
            rows.append((f"{capital(unit)} of any kind", more, short_label(finding.requirement)))
    rows += _known_by_people(view)
    caption = f"What to collect next; one of the {unit} may count in several rows"
    return Table(caption, ("what", "how much", "what it settles"), tuple(rows)) if rows else None


def _how_many(place: Place) -> str:
    if place.more is None:
        return "no realistic number: the value sits on the bound"
    said = f"about {place.more:,} more (now {place.estimate.n_clusters})"
    return f"{said}; a better model sooner" if place.more > HOPELESS * place.estimate.n_clusters else said


def _known_by_people(view: View) -> Iterator[tuple[str, str, str]]:
    tiles, least = view.get("known_empty_tiles"), int(view.params.get("least_empty_tiles", 60))
    held = int(tiles.value or 0) if tiles is not None else 0
    if held < least:
        yield "Tiles that somebody looked at and found empty", f"{least - held} more (now {held})", "false positives"
    missing = {item.metric for item in view.own() if item.missing}
    if "projected_precision" in missing:
        yield (
            "Share of tiles without an animal in your survey",
            "one number: --empty-share",
            "boxes right in the survey",
        )
    if "false_positives_per_km2" in missing:
        yield "Pixel size on the ground", "column spacing_mm, 10 for 1 cm", "false positives a square kilometre"
    bias = view.get("count_bias")
    if bias is not None:
        spread = f" ({ends})" if (ends := range_text(bias, bias.interval)) else ""
        yield (
            "Share of animals out of sight when the camera passes (dives, haul-out), and a second annotator",
            "not from images like these",
            f"a number of animals in place of boxes; the count error above{spread} holds neither",
        )
