"""Where does a build first differ? The ladder from floats to digits, and every layer's signal over its error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg.checks.layers_quantities import dead_channels
from xaiseg.estimate import Estimate
from xaiseg.reports import svg
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure
from xaiseg.reports.forest import WIDTH, ForestRow, forest
from xaiseg.reports.numbers import decimals, number
from xaiseg.reports.words import listed, plural

if TYPE_CHECKING:
    import pandas as pd

#: What is new at each rung.
SHORT: Final = {
    "B": "batch normalisation folded",
    "C": "rounded, free scales",
    "D": "powers of two, integers",
    "E": "digit-serial, all digits",
}
#: Layers of each build in the table.
WEAKEST: Final = 5
#: Panels of layers; further builds stand in the table alone.
PANELS: Final = 6
_PANEL: Final = 118
_LEFT: Final = 44
_UP: Final = 84


@figure("equivalence.layers")
def layers(view: View) -> Story:
    """The flips of each rung, the ratio of each layer by build, and the layers that lose most by themselves."""
    named = [name for name in view.plan["facts"].get("variants", ()) if _held(view, "sqnr", name)]
    if not named:
        return Story(view.lead(absence(view)))
    table = view.run.table(view.check)
    rows = table[table["status"] == "ok"]
    plots = (_ladder(view, named), _ratios(view, named[:PANELS]))
    return Story(view.lead(_answer(view, named)), plots, (_builds(view, named), _weakest(view, named, rows)))


def _held(view: View, metric: str, subject: str) -> list[Estimate]:
    """Estimates of a metric over all cases, in the order of the check."""
    return [
        item
        for item in view.own()
        if item.metric == metric and item.subject == subject and not item.stratum and item.value is not None
    ]


def _count(view: View, metric: str, subject: str) -> tuple[int, str]:
    """How many are broken, and which is the first, as the note of the quantity says it."""
    found = _held(view, metric, subject)
    return (round(found[0].value or 0.0), found[0].note.rpartition(": ")[2].rstrip(".")) if found else (0, "none does")


def _answer(view: View, named: Sequence[str]) -> str:
    share, floor = f"{100 * view.params['rung_flips']:g} %", f"{view.params['layer_db']:g} dB"
    broken = {name: _count(view, "rungs_that_break", name)[1] for name in named}
    broken = {name: first.removeprefix("first ") for name, first in broken.items() if first != "none does"}
    said = [f"build {name} breaks first at rung {first}" for name, first in broken.items()]
    fine = [name for name in named if name not in broken]
    if fine:
        said.append(f"no rung of {listed(fine, most=len(fine))} changes the side of more than {share} of the pixels")
    words = "; ".join(said) + ". "
    low = {name: _count(view, "layers_below_floor", name) for name in named}
    parts = [f"in {plural(count, 'layer')} of {name}, {first}" for name, (count, first) in low.items() if count]
    above = [name for name, (count, _) in low.items() if not count]
    parts += [f"in no layer of {listed(above, most=len(above))}"] if above else []
    words += f"Accumulated errors leave less than {floor} {'; '.join(parts)}."
    if any(item.level == "E" for name in named for item in _held(view, "flips", name)):
        words += " On digit-serial units with all digits every integer of every layer was that of the golden model."
    return words


def _schemes(view: View, named: Sequence[str]) -> list[list[str]]:
    """Builds that share their integers, and so all rungs but the last."""
    groups: dict[str, list[str]] = {}
    for name in named:
        spec = view.plan["facts"]["variants"][name]
        kept = {key: value for key, value in spec.items() if key not in ("hardware", "digits", "arithmetic", "delay")}
        groups.setdefault(repr(sorted(kept.items())), []).append(name)
    return list(groups.values())


def _ladder(view: View, named: Sequence[str]) -> Plot:
    rows = []
    for group in _schemes(view, named):
        held = {name: {item.level: item for item in _held(view, "flips", name)} for name in group}
        longest = max(group, key=lambda name: len(set(held[name]) - {"F"}))
        if len(group) < len(named):
            rows.append(ForestRow(listed(group, most=len(group)), heading=True))
        rows += [_rung(item, f"{level} {SHORT[level]}") for level, item in held[longest].items() if level != "F"]
        rows += [_rung(held[name]["F"], f"F {name}: fewer digits") for name in group if "F" in held[name]]
    shown = [f"{row.label} {row.right}" for row in rows if row.right]
    alt = f"Pixels that change sides at each rung: {listed(shown, most=len(shown))}"
    how = "Each rung is the whole network and differs from the one above in one thing, which alone makes what changes "
    how += "sides here. The first is A, the network in floating point. Bars are 90 % intervals and run beyond the axis "
    how += "where few images cannot exclude a rare large change."
    title = "pixels that change sides against the rung above, %"
    end = 1.3 * max((row.value or 0.0 for row in rows), default=0.0) or 0.01
    return Plot(forest(rows, title=title, alt=f"{alt}.", span=(0.0, end)), "", how)


def _rung(item: Estimate, label: str) -> ForestRow:
    lower, upper = (item.interval.lower, item.interval.upper) if item.interval else (None, None)
    value, low, high = (None if each is None else 100 * each for each in (item.value, lower, upper))
    words = f"{number(value, decimals(None, None, value))} %"
    if high is not None:
        words += f" (at most {number(high, decimals(None, None, high) - 1)} %)"
    return ForestRow(label, value, low, high, words)


def _ratios(view: View, named: Sequence[str]) -> Plot:
    """A panel for each build: layers in the order of computation."""
    values = [item.value or 0.0 for name in named for m in ("sqnr", "sqnr_local") for item in _held(view, m, name)]
    low, high = min([*values, view.params["layer_db"]]) - 2, max(values) + 2
    parts: list[str] = []
    alts = []
    for place, name in enumerate(named):
        up = svg.Axis(low, high, 24 + place * _PANEL + _UP, 24 + place * _PANEL)
        drawn, alt = _panel(view, name, up, last=place == len(named) - 1)
        parts += drawn
        alts.append(alt)
    how = (
        "From left to right in the order of computation. Filled: signal over all errors up to this layer. Hollow: over "
    )
    how += (
        "what this layer alone adds to the float network's own input; where it is low, the layer itself is the cause. "
    )
    how += "Below the dashed floor more than 1 part in "
    how += f"{10 ** (view.params['layer_db'] / 10):.3g} of the power is error. Another 6 dB is another bit."
    return Plot(svg.svg(WIDTH, 24 + _PANEL * len(named) + 6, " ".join(alts), parts), "", how)


def _panel(view: View, name: str, up: svg.Axis, *, last: bool) -> tuple[list[str], str]:
    total, local = _held(view, "sqnr", name), _held(view, "sqnr_local", name)
    across = svg.Axis(0, max(len(total) - 1, 1), _LEFT + 8, WIDTH - 10)
    floor = view.params["layer_db"]
    parts = [
        svg.text(_LEFT, up.stop - 8, name, bold=True),
        svg.rect(_LEFT, up(floor), WIDTH - _LEFT, up.start - up(floor), colour="shade"),
        svg.line(_LEFT, up(floor), WIDTH, up(floor), colour="muted", dash="4 3"),
    ]
    for tick, words in up.labels(4):
        parts.append(svg.line(_LEFT, up(tick), WIDTH, up(tick), colour="line", width=0.7))
        parts.append(svg.text(_LEFT - 6, up(tick) + 4, words, size=11, anchor="end"))
    parts.append(svg.text(0, up.stop - 8, "dB", size=11, colour="muted"))
    places = {item.target: place for place, item in enumerate(total)}
    spots = [(across(places[item.target]), up(item.value or 0.0)) for item in local if item.target in places]
    parts += [svg.circle(x, y, 2.2, colour="second", hollow=True) for x, y in spots]
    dots = [(across(place), up(item.value or 0.0)) for place, item in enumerate(total)]
    parts.append(svg.path(dots, colour="accent", width=1.2))
    parts += [svg.circle(x, y, 2.2, colour="accent") for x, y in dots]
    lowest = min(total, key=lambda item: item.value or 0.0)
    words = f"lowest: {lowest.target}, {number(lowest.value, 1)} dB"
    parts.append(svg.text(WIDTH, up.stop - 8, svg.fitted(words, 440, size=11), size=11, anchor="end", colour="muted"))
    if last:
        middle = (across.start + across.stop) / 2
        parts.append(svg.text(middle, up.start + 20, "layers, first to last", anchor="middle", colour="muted"))
    return parts, f"{name}: {plural(len(total), 'layer')}, {words}."


def _builds(view: View, named: Sequence[str]) -> Table:
    rows = []
    for name in named:
        saturated, dead = _held(view, "saturated", name), _held(view, "dead_channels", name)
        low, first = _count(view, "layers_below_floor", name)
        share = number(100 * (saturated[0].value or 0.0), 4) + " %" if saturated else "none"
        rows.append((
            name,
            _count(view, "rungs_that_break", name)[1].removeprefix("first ").replace("none does", "none"),
            f"{low}, {first}" if low else "none",
            share,
            number(dead[0].value, 0) if dead else "none",
        ))  # fmt: skip
    head = ("build", "first rung that breaks", f"layers below {view.params['layer_db']:g} dB", "saturated values",
            "dead channels")  # fmt: skip
    caption = "Each build: a rung breaks when more than "
    caption += (
        f"{100 * view.params['rung_flips']:g} % of the pixels change sides on average; dead channels are zero in "
    )
    return Table(f"{caption}integers in every image, but not in floating point", head, tuple(rows))


def _weakest(view: View, named: Sequence[str], rows: pd.DataFrame) -> Table:
    """The layers of each build that lose most by themselves."""
    found = []
    for name in named:
        own = rows[rows["subject"] == name]
        facts = {str(row["target"]): row for row in own[own["case"] == ""].to_dict("records")}
        cases = own[(own["case"] != "") & (own["factor"] != "rung")]
        total = {item.target: item for item in _held(view, "sqnr", name)}
        local = sorted(_held(view, "sqnr_local", name), key=lambda item: item.value or 0.0)
        for item in local[:WEAKEST]:
            held = cases[cases["target"] == item.target]
            dead, channels = dead_channels(held)
            saturated = 100 * held["saturated"].sum() / held["values"].sum()
            ratio = total.get(item.target)
            found.append((
                item.target, name, number(item.value, 1), number(ratio.value if ratio else None, 1),
                number(float(saturated), 3), f"{dead} of {channels}", *_format(facts[item.target]),
            ))  # fmt: skip
    head = ("layer", "build", "alone, dB", "in all, dB", "saturated, %", "dead", "exponent", "digits", "float32 sums")
    caption = (
        f"The {WEAKEST} layers of each build that lose most by themselves; digits emitted, of those of the exact sum"
    )
    return Table(caption, head, tuple(found))


def _format(facts: Mapping[Any, Any]) -> tuple[str, str, str]:
    """Exponent, digits of the exact sum, and in how many pieces float32 holds it."""
    exponent = "free" if _absent(facts["exponent"]) else f"{int(facts['exponent'])}"
    if _absent(facts["digits_total"]):
        return exponent, "", ""
    ends = dict.fromkeys(int(facts[name]) for name in ("digits_fewest", "digits_most"))
    pieces = int(facts["chunks"])
    words = "exact" if pieces == 1 else f"exact in {pieces} pieces"
    return exponent, f"{' to '.join(map(str, ends))} of {int(facts['digits_total'])}", words


def _absent(value: Any) -> bool:
    return value is None or bool(np.isnan(value))
