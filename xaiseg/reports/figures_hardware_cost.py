"""What would the builds cost? Cycles against agreement, the costliest layers, early stops, and what is not counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from xaiseg.estimate import Estimate
from xaiseg.reports import svg
from xaiseg.reports.builds import NAMED, floating_parts
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure
from xaiseg.reports.forest import WIDTH
from xaiseg.reports.numbers import both_text
from xaiseg.reports.placing import apart
from xaiseg.reports.words import capital, listed, plural

if TYPE_CHECKING:
    import pandas as pd

CHECK: Final = "hardware.cost"
#: The design that a digit-serial build is for; the others compute the same convolutions.
OWN: Final = "mma"
DESIGNS: Final = {
    "mma": "the build's digit-serial units",
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
CONSTANTS: Final = {
    "clock_mhz": "clock",
    "outputs": "output channels at once",
    "pixels": "output pixels at once",
    "inputs": "input channels at once",
    "lanes": "multipliers of a bit-parallel block",
}
LAYERS: Final = 10
_HEAD: Final = ("cycles", "compute-only ms", "GOPS", "mJ", "boundary, technology, source")


@figure(CHECK)
def cost(view: View) -> Story:
    """Cycles and energy of an image build by build, and what of the answer each build keeps."""
    found = {i.subject: i for i in view.own() if (i.metric, i.level) == ("cycles", OWN) and i.value is not None}
    if not found:
        return Story(view.lead(absence(view)))
    names = [name for name in view.plan.get("variants", {}) if name in found]
    said = [_said(view, name) for name in names]
    lead = view.lead(
        f"{'; '.join(said)}. Time and energy are computed from a model and leave memory traffic out"
        f"{_not_counted(view, names)}."
    )
    plots = [plot for plot in (_pareto(view, names), _layers(view, names)) if plot is not None]
    tables = (_designs(view, names), *_baselines(view, names), *_outside(view, names), *_stops(view, names))
    return Story(lead, tuple(plots), (*tables, *_constants(view)))


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
    parts.append(svg.text(WIDTH / 2, top + height + 38, _along(view, names[0]), anchor="middle", colour="muted"))
    points = [f"{item.subject} {both_text(item)}" for _, held in panels for item in held]
    how = "Left is cheaper, up is closer to the audited model. Bars are 90 % intervals. Builds without "
    how += "digit-serial units have no cycles and are not drawn."
    alt = f"Cost against agreement: {listed(points, most=len(points))}."
    return Plot(svg.svg(WIDTH, top + height + 48, alt, parts), "", how)


def _along(view: View, name: str) -> str:
    """The title of the axis; the modelled energy is so many millijoules for every million cycles."""
    cycles, energy = (_get(view, name, metric, OWN) for metric in ("cycles", "energy_mj"))
    if cycles is None or energy is None or not cycles.value or energy.value is None:
        return "million cycles an image"
    return f"million cycles an image; modelled energy: {1e6 * energy.value / cycles.value:.3g} mJ for each million"


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
    # Neither agreement can be more than 1, so the axis ends there.
    highest = min(max(ends) + spread, 1.0)
    low, high = min(places.values()), max(places.values())
    along = svg.Axis(low - 0.15 * (high - low or low), high + 0.3 * (high - low or high), left, left + width)
    up = svg.Axis(min(ends) - spread, highest, top + height, top)
    parts = [svg.text(left, top - 10, words, bold=True)]
    for tick, said in up.labels(4):
        parts.append(svg.line(left, up(tick), left + width, up(tick), colour="line", width=0.8))
        parts.append(svg.text(left - 6, up(tick) + 4, said, size=11, anchor="end"))
    parts += [svg.line(left, top + height, left + width, top + height)]
    for tick, said in along.labels(4):
        parts.append(svg.text(along(tick), top + height + 16, said, size=11, anchor="middle"))
    points = {name: (along(place), up(cycles[name][1].value or 0.0)) for name, place in places.items()}
    parts += _names(points, (left, top, left + width + 20, top + height))
    for name, (x, y) in points.items():
        item = cycles[name][1]
        if item.interval and item.interval.lower is not None and item.interval.upper is not None:
            ends_px = up(item.interval.upper), up(item.interval.lower)
            parts.append(
                svg.rect(x - 2.5, ends_px[0], 5, ends_px[1] - ends_px[0], colour="accent", opacity=0.42, radius=2.5)
            )
        parts.append(svg.circle(x, y, 4, colour="accent"))
    return parts


def _names(points: Mapping[str, tuple[float, float]], frame: tuple[float, float, float, float]) -> list[str]:
    """The names of the points, apart from one another, with a line where a name stands off its point."""
    parts = []
    spots = apart(list(points.values()), list(points), frame)
    for (name, (x, y)), spot in zip(points.items(), spots, strict=True):
        if spot.moved:
            end = spot.x - 2 if spot.anchor == "start" else spot.x + 2
            parts.append(svg.line(x, y, end, spot.y - 4, colour="muted", width=0.7))
        parts.append(svg.text(spot.x, spot.y, name, anchor=spot.anchor))
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
    """One row a build."""
    rows = tuple((name, *_figures(row)) for name in names for row in _of_design(view, name) if row["level"] == OWN)
    caption = "One image on each build's own digit-serial units. An energy stands only where a power is known"
    return Table(caption, ("build", *_HEAD), rows)


def _baselines(view: View, names: Sequence[str]) -> tuple[Table, ...]:
    """The other designs, once where builds have the same figures."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        for row in _of_design(view, name):
            if row["level"] != OWN:
                found.setdefault((DESIGNS.get(row["level"], row["level"]), *_figures(row)), []).append(name)
    if not found:
        return ()
    order = list(DESIGNS.values())
    held = sorted(found.items(), key=lambda pair: order.index(pair[0][0]) if pair[0][0] in order else len(order))
    rows = []
    for (design, *figures), builds in held:
        whose = "" if len(builds) == len(names) > 1 else f", {listed(builds, most=len(builds))}"
        rows.append((f"{design}{whose}", *figures))
    caption = "The same convolutions on other designs of the sizes named below. How many bit-serial blocks or "
    caption += "bit-parallel multipliers stand against the digit-serial units is an assumption, and with another "
    caption += "number of them any ratio comes out. Figures of different boundaries or technologies must not be "
    caption += "divided by one another"
    return (Table(caption, ("design", *_HEAD), tuple(rows)),)


def _of_design(view: View, name: str) -> list[dict[Any, Any]]:
    images = _rows(view, "image")
    return list(images[images["subject"] == name].to_dict("records"))


def _not_counted(view: View, names: Sequence[str]) -> str:
    """What runs in floating point and costs nothing here, as the end of a sentence."""
    parts = {name: floating_parts(view.plan["variants"][name]) for name in names}
    counts = dict.fromkeys(len(each) for each in parts.values())
    if not any(counts):
        return ""
    first = next(name for name in names if parts[name])
    if len({tuple(each) for each in parts.values()}) == 1:
        return f"; {plural(len(parts[first]), 'part')} in floating point {_is(len(parts[first]))} not counted"
    shown = [f"{name} {len(each)}" for name, each in parts.items()]
    return f"; parts in floating point are not counted ({listed(shown, most=len(shown))})"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _outside(view: View, names: Sequence[str]) -> tuple[Table, ...]:
    """What runs in floating point beside the units, build by build, once where it is the same."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        found.setdefault(tuple(view.plan["variants"][name].get("remains", ())), []).append(name)
    rows = tuple(
        (listed(builds, most=len(builds)), " ".join([*map(capital, told[:NAMED]), *_more(told)]))
        for told, builds in found.items()
        if told
    )
    return (Table("In floating point, and so in no figure above", ("build", "what"), rows),) if rows else ()


def _more(told: Sequence[str]) -> list[str]:
    return [f"And {len(told) - NAMED} more."] if len(told) > NAMED else []


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
    caption = "Stopping early, by rules that change no mask, as if a unit added all input channels at once: what the "
    caption += "units save (energy, if one that stops draws nothing) and what groups in lockstep save (time). A group "
    caption += "takes as long with one channel as with all, so a layer of one channel weighs more in time than among "
    caption += "the units: where it stops early, more time than cycles of units can be saved"
    return (Table(caption, ("build and rule", "cycles of units", "cycles of groups"), tuple(rows)),) if rows else ()


def _percent(item: Estimate) -> str:
    return f"{100 * (item.value or 0.0):.1f} %"


def _constants(view: View) -> tuple[Table, ...]:
    rows = tuple(
        (_constant(row["target"]), _with_unit(row["value"], row["unit"]), row["source"], row["note"])
        for row in _rows(view, "constant").to_dict("records")
    )
    return (Table("What these figures rest on", ("number", "value", "source", "where from"), rows),) if rows else ()


def _constant(name: str) -> str:
    """A constant in words; the power of a design names the design."""
    design = name.removeprefix("power_w of ")
    return f"power of {DESIGNS.get(design, design)}" if design != name else CONSTANTS.get(name, name.replace("_", " "))


def _with_unit(value: float, unit: str) -> str:
    return f"{value:g} {unit.removesuffix('s') if value == 1 else unit}"
