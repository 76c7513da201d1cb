"""Do the explanations tell the truth? What a map adds to the best picture that needs no model, and the sanity test."""

from __future__ import annotations

from xaiseg.estimate import Estimate
from xaiseg.judge import Verdict
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure
from xaiseg.reports.forest import ForestRow, forest
from xaiseg.reports.numbers import both_text, bound_text, number, value_text
from xaiseg.reports.words import listed

VARIANTS = (("excess_context_deletion", "context only"), ("excess_object_deletion", "all pixels"))


#: Rows of the overview, and what their metrics are called there; those that were not measured are left out. The last
#: field says which way is good.
OVERVIEW = (
    ("excess_context_insertion", "insertion, context, excess", "↑"),
    ("excess_object_insertion", "insertion, all pixels, excess", "↑"),
    ("excess_context_road", "ROAD, context, excess", "↑"),
    ("excess_object_road", "ROAD, all pixels, excess", "↑"),
    ("unexplained", "infidelity, share", "↓"),
    ("excess_unexplained", "infidelity, share, excess", "↑"),
    ("sensitivity_n", "sensitivity-n", "↑"),
    ("excess_sensitivity_n", "sensitivity-n, excess", "↑"),
    ("max_sensitivity", "max-sensitivity", "↓"),
    ("entropy_rise", "entropy rise, random weights", "↑"),
    ("energy_in_region", "energy in region", ""),
    ("context_share", "off-target leakage", ""),
    ("pointing_game", "pointing game", ""),
    ("relevance_mass", "relevance mass", ""),
    ("relevance_rank", "relevance rank", ""),
    ("complexity", "complexity", ""),
    ("sparseness", "sparseness", ""),
)

OVERVIEW_CAPTION = (
    "Further figures of each method, means over images; intervals stand in the details. ↑ higher is better, ↓ lower is "
    "better, others only describe; excess is over the best baseline"
)

#: More columns than these do not fit on a telephone.
COLUMNS = 3


@figure("explanation")
def explanation(view: View) -> Story:
    """Excess over the best baseline by method, similarity under random weights, and the baselines themselves."""
    methods = [name for name in view.params.get("methods", ()) if any(view.get(m, target=name) for m, _ in VARIANTS)]
    if not methods:
        return Story(view.lead(absence(view)))
    plots = [_excess(view, methods)]
    if any(view.get("randomisation_similarity", target=name) for name in methods):
        plots.append(_sanity(view, methods))
    tables = (*_baselines(view, methods), *_overview(view, methods))
    return Story(view.lead(_answer(view, methods)), tuple(plots), tables)


def _answer(view: View, methods: list[str]) -> str:
    better: list[str] = []
    worse: list[str] = []
    even: list[str] = []
    for name in methods:
        item = view.get("excess_context_deletion", target=name)
        if item is None or item.interval is None or item.interval.lower is None or item.interval.upper is None:
            even.append(name)
        elif item.interval.lower > 0:
            better.append(f"{name} ({value_text(item)})")
        else:
            (worse if item.interval.upper < 0 else even).append(name)
    n = max((i.n for i in view.own() if i.target in methods), default=0)
    parts = []
    if better:
        parts.append(f"{listed(better)} {'finds' if len(better) == 1 else 'find'} the context better")
    if worse:
        parts.append(
            f"{listed(worse)} {'finds' if len(worse) == 1 else 'find'} it worse"
            if better
            else f"{listed(worse)} {'finds' if len(worse) == 1 else 'find'} the context worse"
        )
    if even:
        parts.append(f"for {listed(even)} no difference is shown")
    return f"against the best picture that needs no model, {'; '.join(parts)} ({n} images)."


def _excess(view: View, methods: list[str]) -> Plot:
    rows = []
    for metric, words in VARIANTS:
        rows.append(ForestRow(words, heading=True))
        rows += [ForestRow.of(item, label_text=item.target) for item in _items(view, metric, methods)]
    shown = [f"{row.label} {row.right}" for row in rows[1 : 1 + len(methods)]]
    alt = f"Excess over the best baseline with context only: {listed(shown)}."
    settled = view.settled("excess_context_deletion")
    required = view.requirement("excess_context_deletion")
    claim = ""
    if settled is not None and required is not None:
        does = "holds" if settled is Verdict.PASS else "does not hold"
        claim = f"The requirement on {required.target or 'the maps'} {does}."
    how = "Right of the line the map orders pixels better than the best of five pictures that need no model (random, "
    how += "centre, edges, predicted mask, distance to it), chosen for each image. The axis starts where the data do."
    title = "area over the deletion curve, minus that of the best baseline"
    return Plot(forest(rows, title=title, alt=alt, zero=True), claim, how)


def _sanity(view: View, methods: list[str]) -> Plot:
    rows = []
    for metric, words in (("randomisation_similarity", "whole image"), ("randomisation_similarity_outside", "outside")):
        rows.append(ForestRow(words, heading=True))
        rows += [ForestRow.of(item, label_text=item.target) for item in _items(view, metric, methods)]
    requirement = view.requirement("randomisation_similarity")
    bound = f", bound {bound_text(requirement, 'mean')}" if requirement else ""
    shown = [f"{row.label} {row.right}" for row in rows if not row.heading]
    alt = f"Similarity to the map under random weights: {listed(shown)}."
    how = "1 = the map is the same whether the network has learnt anything or not; near 0 = it depends on the weights. "
    how += "The outlined region is frozen, so that only the map can change."
    title = f"rank correlation with the map of the same network with random weights{bound}"
    picture = forest(rows, title=title, alt=alt, requirement=requirement, span=(-0.4, 1.0), zero=True)
    return Plot(picture, "", how)


def _items(view: View, metric: str, methods: list[str]) -> list[Estimate]:
    found = [view.get(metric, target=name) for name in methods]
    return [item for item in found if item is not None]


def _baselines(view: View, methods: list[str]) -> tuple[Table, ...]:
    """The area over the deletion curve of every map and baseline, best first."""
    names = [*methods, *dict.fromkeys(i.target for i in view.own() if i.target.startswith("baseline:"))]
    rows = []
    for name in names:
        context, whole = (view.get(f"deletion_{variant}", target=name) for variant in ("context", "object"))
        if context is not None or whole is not None:
            words = name.replace("baseline:", "no model: ").replace("-", " ") if ":" in name else name
            rows.append((-(context.value or 0.0) if context else 0.0, (words, *_cells(context, whole))))
    caption = "Area over the deletion curve, with 90 % intervals: how much the region's probability falls while pixels "
    caption += "are hidden"
    ordered = tuple(cells for _, cells in sorted(rows))
    return (Table(caption, ("map", "context only", "all pixels"), ordered),) if ordered else ()


def _overview(view: View, methods: list[str]) -> tuple[Table, ...]:
    """Metrics by methods, values alone: their intervals stand in the details. Wide ones are divided."""
    found = []
    for start in range(0, len(methods), COLUMNS):
        part = methods[start : start + COLUMNS]
        rows = []
        for metric, words, way in OVERVIEW:
            items = [view.get(metric, target=name) for name in part]
            if any(items):
                rows.append((f"{words} {way}".strip(), *(value_text(item) if item else "none" for item in items)))
        rows += [
            (f"agreement with {methods[index]}", *(_alike(view, methods[index], name) for name in part))
            for index in range(len(methods))
            if any(_pair(view, methods[index], name) for name in part)
        ]
        if rows:
            found.append(Table(OVERVIEW_CAPTION, ("metric", *part), tuple(rows)))
    return tuple(found)


def _pair(view: View, first: str, second: str) -> Estimate | None:
    there = view.get("agreement", target=first, factor="with", level=second)
    return there or view.get("agreement", target=second, factor="with", level=first)


def _alike(view: View, first: str, second: str) -> str:
    if first == second:
        return "-"
    item = _pair(view, first, second)
    return value_text(item) if item else "none"


def _cells(*items: Estimate | None) -> tuple[str, ...]:
    return tuple(both_text(item, level=False) if item is not None else number(None, 2) for item in items)
