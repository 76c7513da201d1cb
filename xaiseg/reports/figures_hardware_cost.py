"""What would the builds cost? Cycles against agreement, the costliest layers, early stops, and the model behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from xaiseg.estimate import Estimate
from xaiseg.reports import svg
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure
from xaiseg.reports.forest import WIDTH
from xaiseg.reports.numbers import both_text, number
from xaiseg.reports.words import listed

if TYPE_CHECKING:
    import pandas as pd

CHECK: Final = "hardware.cost"
#: The design that a digit-serial build is for; the others compute the same convolutions.
OWN: Final = "mma"
DESIGNS: Final = {
    "mma": "merged multiply-add",
    "cascade": "online multipliers and adder tree",
    "bit_serial": "bit-serial, least digit first",
    "bit_parallel": "bit-parallel",
    "cpu": "float network, timed here",
}
#: (check, metric, target, how it is called): what a build must keep while it gets cheaper.
KEPT: Final = (
    ("equivalence.segmentation", "agreement", "", "Dice of the two predictions"),
    ("equivalence.explanation", "spearman", "ridge", "rank agreement of ridge maps"),
)
LAYERS: Final = 10


@figure(CHECK)
def cost(view: View) -> Story:
    """Cycles and energy of an image build by build, and what of the answer each build keeps."""
    found = {i.subject: i for i in view.own() if (i.metric, i.level) == ("cycles", OWN) and i.value is not None}
    if not found:
        return Story(view.lead(absence(view)))
    names = [name for name in view.plan.get("variants", {}) if name in found]
    said = [_said(view, name) for name in names]
    lead = view.lead(f"{'; '.join(said)}. Time and energy are computed from a model and leave memory traffic out.")
    plots = [plot for plot in (_pareto(view, names), _layers(view, names)) if plot is not None]
    return Story(lead, tuple(plots), (_designs(view, names), *_stops(view, names), *_constants(view)))


def _get(view: View, name: str, metric: str, level: str) -> Estimate | None:
    factor = "rule" if metric.startswith("saved") else "design"
    return view.get(metric, factor=factor, level=level, subject=name)


def _said(view: View, name: str) -> str:
    cycles, time, energy = (_get(view, name, metric, OWN) for metric in ("cycles", "compute_ms", "energy_mj"))
    parts = [f"{(cycles.value or 0) / 1e6:.2f} million cycles an image" if cycles else ""]
    parts += [f"{time.value:.3g} ms" if time and time.value else ""]
    parts += [f"{energy.value:.3g} mJ" if energy and energy.value else ""]
    return f"build {name}: {', '.join(part for part in parts if part)}"


# --- cycles against what is kept ---


def _pareto(view: View, names: Sequence[str]) -> Plot | None:
    panels = [(words, _kept(view, names, *place)) for *place, words in KEPT]
    panels = [(words, held) for words, held in panels if held]
    if not panels:
        return None
    gap, top, height = 56, 26, 170
    width = (WIDTH - gap * len(panels)) / len(panels)
    parts: list[str] = []
    for index, (words, held) in enumerate(panels):
        parts += _panel((gap + index * (width + gap), top, width - 20, height), view, words, held)
    parts.append(svg.text(WIDTH / 2, top + height + 38, "million cycles an image", anchor="middle", colour="muted"))
    points = [f"{item.subject} {both_text(item)}" for _, held in panels for item in held]
    how = "Left is cheaper, up is closer to the audited model. Bars are 90 % intervals. Builds without "
    how += "digit-serial units have no cycles and are not drawn."
    return Plot(
        svg.svg(WIDTH, top + height + 48, f"Cost against agreement: {listed(points, most=12)}.", parts), "", how
    )


def _kept(view: View, names: Sequence[str], check: str, metric: str, target: str) -> list[Estimate]:
    wanted = (check, metric, target, "")
    return [
        item
        for item in view.estimates.values()
        if (item.check, item.metric, item.target, item.stratum) == wanted
        and item.subject in names
        and item.value is not None
        and not item.factor
    ]


def _panel(box: tuple[float, float, float, float], view: View, words: str, held: Sequence[Estimate]) -> list[str]:
    left, top, width, height = box
    cycles = {item.subject: (_get(view, item.subject, "cycles", OWN), item) for item in held}
    places = {name: (found.value or 0) / 1e6 for name, (found, _) in cycles.items() if found is not None}
    ends = [v for i in held for v in (i.value, *((i.interval.lower, i.interval.upper) if i.interval else ())) if v]
    spread = 0.06 * (max(ends) - min(ends)) or 0.01
    low, high = min(places.values()), max(places.values())
    along = svg.Axis(low - 0.15 * (high - low or low), high + 0.3 * (high - low or high), left, left + width)
    up = svg.Axis(min(ends) - spread, max(ends) + spread, top + height, top)
    parts = [svg.text(left, top - 10, words, bold=True)]
    parts += [svg.line(left, up(tick), left + width, up(tick), colour="line", width=0.8) for tick in up.ticks(4)]
    parts += [svg.text(left - 6, up(tick) + 4, number(tick, 3), size=11, anchor="end") for tick in up.ticks(4)]
    parts += [svg.line(left, top + height, left + width, top + height)]
    for tick in along.ticks(4):
        parts.append(svg.text(along(tick), top + height + 16, f"{tick:g}", size=11, anchor="middle"))
    for name, place in places.items():
        item, x = cycles[name][1], along(place)
        if item.interval and item.interval.lower is not None and item.interval.upper is not None:
            ends_px = up(item.interval.upper), up(item.interval.lower)
            parts.append(
                svg.rect(x - 2.5, ends_px[0], 5, ends_px[1] - ends_px[0], colour="accent", opacity=0.42, radius=2.5)
            )
        parts += [
            svg.circle(x, up(item.value or 0.0), 4, colour="accent"),
            svg.text(x + 8, up(item.value or 0) + 4, name),
        ]
    return parts


# --- layers ---


def _rows(view: View, kind: str) -> pd.DataFrame:
    table = view.run.table(CHECK)
    return table[(table["status"] == "ok") & (table["kind"] == kind)]


def _layers(view: View, names: Sequence[str]) -> Plot | None:
    """The layers of the first build that take the most cycles."""
    rows = _rows(view, "layer")
    rows = rows[(rows["subject"] == names[0]) & (rows["level"] == OWN)]
    if rows.empty:
        return None
    whole = float(rows["cycles"].sum())
    most = rows.sort_values("cycles", ascending=False).head(LAYERS).to_dict("records")
    label, right, step = 210, 190, 22
    along = svg.Axis(0.0, max(row["cycles"] for row in most) / whole, label + 8, WIDTH - right - 8)
    parts: list[str] = []
    for index, row in enumerate(most):
        y, share = 8 + step * (index + 0.5), row["cycles"] / whole
        digits = f"{row['digits']:.0f} of {row['digits_total']:.0f} digits"
        said = f"{100 * share:.1f} %, {row['terms']:.0f} terms, {digits}"
        parts.append(svg.text(0, y + 4, svg.fitted(row["target"], label)))
        parts.append(svg.rect(along(0), y - 6, along(share) - along(0), 12, colour="accent", opacity=0.75, radius=2))
        parts.append(svg.text(WIDTH - right, y + 4, said, size=11.5, colour="muted"))
    height = 8 + step * len(most)
    shown = [f"{row['target']} {100 * row['cycles'] / whole:.1f} %" for row in most]
    how = f"Share of the {whole / 1e6:.2f} million cycles of {names[0]}. Terms are the products of one sum; digits are "
    how += "the most that any channel emits, of those that the exact sum has."
    alt = f"Costliest layers of {names[0]}: {listed(shown, most=LAYERS)}."
    return Plot(svg.svg(WIDTH, height + 6, alt, parts), "", how)


# --- tables ---


def _designs(view: View, names: Sequence[str]) -> Table:
    rows = []
    images = _rows(view, "image")
    for name in names:
        held = images[images["subject"] == name].to_dict("records")
        for row in sorted(held, key=lambda row: list(DESIGNS).index(row["level"]) if row["level"] in DESIGNS else 99):
            rows.append((f"{name}, {DESIGNS.get(row['level'], row['level'])}", *_figures(row)))
    caption = (
        "One image by design. Figures of different boundaries or technologies must not be divided by one another; an "
    )
    caption += "energy stands only where a power is known"
    head = ("build and design", "cycles", "compute-only ms", "GOPS", "mJ", "boundary, technology, source")
    return Table(caption, head, tuple(rows))


def _figures(row: dict[Any, Any]) -> tuple[str, ...]:
    def shown(value: float, scale: float, form: str) -> str:
        return "not known" if value is None or value != value else form.format(value * scale)

    energy = row["joules"] is not None and row["joules"] == row["joules"]
    where = (row["boundary"], row["technology"], row["source"]) if energy else (row["technology"], row["source"])
    return (
        shown(row["cycles"], 1, "{:,.0f}"), shown(row["seconds"], 1e3, "{:.3g}"), shown(row["gops"], 1, "{:.3g}"),
        shown(row["joules"], 1e3, "{:.3g}"), ", ".join(where),
    )  # fmt: skip


def _stops(view: View, names: Sequence[str]) -> tuple[Table, ...]:
    words = {"end": "sums that a rectifier would set to 0", "end_and_head": "and the sign of the answer alone"}
    rows = []
    for name in names:
        for rule, said in words.items():
            saved, time = (_get(view, name, metric, rule) for metric in ("saved", "saved_time"))
            if saved is not None and time is not None:
                rows.append((f"{name}, {said}", _percent(saved), _percent(time)))
    caption = "Stopping early, by rules that change no mask: what the units save (energy, at most) and what the "
    caption += "slowest unit of each group in lockstep saves (time)"
    return (Table(caption, ("build and rule", "cycles of units", "cycles of groups"), tuple(rows)),) if rows else ()


def _percent(item: Estimate) -> str:
    return f"{100 * (item.value or 0.0):.1f} %"


def _constants(view: View) -> tuple[Table, ...]:
    rows = tuple(
        (row["target"].replace("_", " "), f"{row['value']:g} {row['unit']}", row["source"], row["note"])
        for row in _rows(view, "constant").to_dict("records")
    )
    return (Table("What these figures rest on", ("number", "value", "source", "where from"), rows),) if rows else ()
