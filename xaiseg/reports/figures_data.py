"""Are the data sound, and can the audit be redone? Which images went in, and what is known of everything used."""

from __future__ import annotations

from xaiseg.reports import svg
from xaiseg.reports.facts import cluster_word
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure
from xaiseg.reports.numbers import both_text, value_text
from xaiseg.reports.words import capital, listed, metric_name, plural


@figure("data.integrity")
def integrity(view: View) -> Story:
    """The way from listed to evaluated images, and the counts of what looked wrong."""
    counts = [item for item in view.own() if item.kind == "fact"]
    if not counts:
        return Story(view.lead(absence(view)))
    bad = [i for i in counts if i.better == "lower" and i.value]
    words = {"all_empty_references": "no object in any reference"}  # 1 or 0, and no count
    said = listed([words.get(i.metric, f"{value_text(i)} {metric_name(i.metric)}") for i in bad], most=5)
    failed = view.get("failed_images")
    share = f"; {both_text(failed)} of images failed" if failed is not None else ""
    answer = (f"found {said}" if bad else "no duplicates, leaks or unexpected labels were found") + share + "."
    rows = tuple(
        (
            capital(metric_name(i.metric)),
            "not measured" if i.missing else value_text(i),
            i.reason if i.missing else i.note,
        )
        for i in counts
    )
    table = Table("What was looked for", ("count", "found", "remark"), rows)
    return Story(view.lead(answer), (_flow(view),), (table,))


def _flow(view: View) -> Plot:
    """Listed, drawn and evaluated images in boxes (CLAIM 2024, item 35)."""
    test = view.plan["data"]["test"]
    listed_, drawn = int(test.get("n_listed", test["n_cases"])), int(test["n_cases"])
    share = view.get("failed_images")
    failed = round((share.value or 0.0) * drawn) if share is not None and share.weigh == "case" else 0
    steps = [(f"{listed_}", "images listed"), (f"{drawn}", f"audited, {test['n_clusters']} {cluster_word(view.plan)}")]
    steps.append((f"{drawn - failed}", "evaluated"))
    losses = [f"{listed_ - drawn} not drawn" if listed_ != drawn else "", f"{failed} failed, counted as worst"]
    parts = []
    for index, (count, words) in enumerate(steps):
        x = index * 236.0
        parts.append(svg.rect(x, 4, 184, 48, colour="soft", radius=5))
        parts.append(svg.text(x + 92, 26, count, size=17, anchor="middle", bold=True))
        parts.append(
            svg.text(x + 92, 43, svg.fitted(words, 180, size=11.5), size=11.5, anchor="middle", colour="muted")
        )
        if index < 2:
            parts.append(svg.line(x + 188, 28, x + 228, 28, width=1.4))
            parts.append(svg.path([(x + 223, 24), (x + 229, 28), (x + 223, 32)]))
            parts.append(svg.text(x + 210, 68, losses[index], size=11.5, anchor="middle", colour="muted"))
    alt = f"{listed_} images listed, {drawn} audited, {failed} failed, {drawn - failed} evaluated."
    how = "Images from the list to the evaluation; failed images stay in every count as the worst value."
    return Plot(svg.svg(680, 76, alt, parts), "", how)


@figure("provenance")
def provenance(view: View) -> Story:
    """The items that somebody needs to do the audit again."""
    rows, share = view.rows(), view.get("provenance_complete")
    if rows is None or share is None:
        return Story(view.lead(absence(view)))
    items = rows[["item", "value"]].drop_duplicates("item")
    known = int(items["value"].notna().sum())
    note = "" if known == len(items) else f"; {share.note}"
    held = tuple(
        (str(item), str(value) if isinstance(value, str) else "unknown")
        for item, value in items.itertuples(index=False)
    )
    answer = f"{known} of {plural(len(items), 'item')} that one needs are known{note}."
    settled = view.settled("provenance_complete")
    answer = view.lead(answer) if settled is not None or view.findings else answer
    return Story(answer, (), (Table("What was used", ("item", "value"), held),))
