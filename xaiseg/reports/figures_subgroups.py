"""For whom does it work, and who is in the data? A line a declared group."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from xaiseg.estimate import Estimate
from xaiseg.reports import svg
from xaiseg.reports.facts import cluster_word, cluster_words
from xaiseg.reports.figures import Plot, Story, View, absence, figure
from xaiseg.reports.forest import ForestRow, forest
from xaiseg.reports.numbers import bound_text, number
from xaiseg.reports.words import capital, factor_level, listed, metric_name, plural, short_reason, uncapital

SOURCE = "performance.segmentation"


@figure("subgroups.declared")
def subgroups(view: View) -> Story:
    """Dice, and whatever else is required of every group, group by group."""
    strata = [item for item in view.own(SOURCE) if item.stratum and not item.target and item.value is not None]
    required = [finding.requirement.metric for finding in view.findings]
    metrics = [name for name in dict.fromkeys(["dice", *required]) if any(item.metric == name for item in strata)]
    if not metrics:
        return Story(view.lead(absence(view)))
    return Story(view.lead(_answer(view)), tuple(_groups(view, strata, metric) for metric in metrics))


def _answer(view: View) -> str:
    said = [uncapital(short_reason(f, view.estimates.get(f.estimate_id or ""))) for f in view.findings]
    gaps = [item for item in view.own() if item.metric == "dice_gap" and item.value is not None]
    for item in sorted(gaps, key=lambda gap: -(gap.value or 0.0))[:1]:
        said.append(f"the widest gap of mean Dice is {number(item.value, 3)}: {item.note}")
    return ". ".join(said[:1] + [capital(text) for text in said[1:]]) + "." if said else absence(view)


def _groups(view: View, strata: Sequence[Estimate], metric: str) -> Plot:
    whole = next((i for i in view.own(SOURCE) if i.metric == metric and not i.stratum and not i.target), None)
    rows = [ForestRow.of(whole, label_text="all cases", colour="muted")] if whole is not None else []
    chosen = [item for item in strata if item.metric == metric]
    for factor in dict.fromkeys(item.stratum.partition("=")[0] for item in chosen):
        rows.append(ForestRow(factor.replace("_", " "), heading=True))
        for item in chosen:
            if item.stratum.partition("=")[0] == factor:
                level = item.stratum.partition("=")[2] or "unknown"
                rows.append(ForestRow.of(item, label_text=f"{level} ({item.n_clusters} {cluster_word(view.plan)})"))
    requirement = view.requirement(metric)
    percent = chosen[0].kind == "proportion"
    title = metric_name(metric) + (" in %" if percent else "")
    title += f" by group, bound {bound_text(requirement, chosen[0].kind)}" if requirement else " by group"
    known = [(item.value or 0.0, item.stratum) for item in chosen]
    scale = 100 if percent else 1
    ends = [
        f"{name.replace('=', ' ')} ({number(scale * value, 1 if percent else 2)})"
        for value, name in (min(known), max(known))
    ]
    alt = f"{capital(metric_name(metric))} in {len(chosen)} groups, from {ends[0]} to {ends[1]}."
    how = "One line is one group with its 90 % interval; a hollow dot has too few clusters for an interval. The shaded "
    how += "side is the bad side of the bound." if requirement else "axis starts where the data do."
    if not requirement:
        how = how.replace("The shaded axis", "The axis")
    return Plot(forest(rows, title=title, alt=alt, requirement=requirement, scale=scale), "", how)


@figure("subgroups.coverage")
def coverage(view: View) -> Story:
    """Clusters in each level of the declared factors."""
    counts = [item for item in view.own() if item.metric == "clusters" and item.value is not None]
    if not counts:
        return Story(absence(view).capitalize())
    images = {(i.factor, i.level): int(i.value or 0) for i in view.own() if i.metric == "cases"}
    thin = int(view.params.get("thin_clusters", 5))
    few = [factor_level(item.factor, item.level) for item in counts if (item.value or 0) < thin]
    factors = list(dict.fromkeys(item.factor for item in counts))
    answer = f"{plural(len(counts), 'group')} of {listed([factor_level(factor, '') for factor in factors])}; "
    short = f"fewer than {thin} {cluster_word(view.plan)}, too few for a verdict."
    whole = f"each has at least {thin} {cluster_word(view.plan)}."
    answer += f"{listed(few)} {'has' if len(few) == 1 else 'have'} {short}" if few else whole
    test = view.plan["data"]["test"]
    head = f"{plural(test['n_cases'], 'image')} of {test['n_clusters']} {cluster_word(view.plan)}: {answer}"
    picture = _bars(view, counts, images, thin)
    how = f"Bars count {cluster_word(view.plan)}; hatched bars are too thin to judge."
    return Story(head, (Plot(picture, "", how),))


def _bars(view: View, counts: Sequence[Estimate], images: dict[tuple[str, str], int], thin: int) -> Markup:
    most = max((item.value or 0.0) for item in counts)
    axis = svg.Axis(0.0, most, 160, 500)
    parts, y, factor = [], 14.0, ""
    for item in counts:
        if item.factor != factor:
            factor, y = item.factor, y + (8 if factor else 0)
            parts.append(svg.text(0, y + 4, svg.fitted(factor_level(factor, ""), 80), bold=True))
        value = int(item.value or 0)
        parts.append(svg.text(152, y + 4, svg.fitted(item.level or "unknown", 70), anchor="end"))
        width = max(axis(value) - 160, 1)
        parts.append(svg.rect(160, y - 6, width, 12, colour="open" if value < thin else "accent", opacity=0.75))
        if value < thin:
            parts += [
                svg.line(160 + x, y + 6, 160 + min(x + 6, width), y - 6, colour="paper")
                for x in range(0, int(width), 5)
            ]
        words = f"{cluster_words(view.plan, value)}, {plural(images.get((item.factor, item.level), 0), 'image')}"
        parts.append(svg.text(166 + width, y + 4, words + (" (thin)" if value < thin else ""), size=11, colour="muted"))
        y += 19
    alt = f"Clusters in {len(counts)} groups, from {min(int(i.value or 0) for i in counts)} to {most:.0f}."
    return svg.svg(680, y, alt, parts)
