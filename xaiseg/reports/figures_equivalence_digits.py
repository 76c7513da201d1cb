"""How many digits are enough? Quality against digits emitted, and the recommended digits, ready to paste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from xaiseg.checks.digits_quantities import RECOMMENDED, levels_of
from xaiseg.estimate import Estimate
from xaiseg.reports import svg
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure
from xaiseg.reports.forest import WIDTH
from xaiseg.reports.numbers import decimals, number
from xaiseg.reports.words import capital, listed, plural

if TYPE_CHECKING:
    import pandas as pd

#: (metric, title, factor of the drawn values).
PANELS: Final = (
    ("agreement", "Dice with the audited model's predictions", 1.0),
    ("flips", "pixels that change sides, %", 100.0),
    ("dice_change", "change of Dice", 1.0),
    ("ece_change", "change of the calibration error", 1.0),
)
#: Layers on one line of the text to paste.
ACROSS: Final = 2
_HEIGHT: Final = 168
_LEFT: Final = 46

Held = Mapping[tuple[str, str], Estimate]


@figure("equivalence.digits")
def digits(view: View) -> Story:
    """A curve and the recommended state for each build, what the search saw, and a text for model.yaml."""
    named = [name for name in view.plan["facts"].get("variants", ()) if _held(view, name)]
    if not named:
        return Story(view.lead(absence(view)))
    table = view.run.table(view.check)
    rows = table[table["status"] == "ok"]
    plots = tuple(_curves(_held(view, name), name) for name in named)
    tables: list[Table] = []
    for name in named:
        own = rows[rows["subject"] == name]
        tables += [_steps(_held(view, name), name), *_seen(own, name), *_paste(own, name)]
    said = [_sentence(_held(view, name), rows[rows["subject"] == name], name) for name in named]
    words = " ".join([*said[:1], *map(capital, said[1:])])
    return Story(view.lead(words), plots, tuple(tables))


def _held(view: View, name: str) -> dict[tuple[str, str], Estimate]:
    """Estimates over all cases, by metric and level."""
    return {
        (item.metric, item.level): item
        for item in view.own()
        if item.subject == name and item.factor == "fewer" and not item.stratum and item.value is not None
    }


def _levels(held: Held) -> list[str]:
    import pandas as pd

    return levels_of(pd.DataFrame({"level": [level for metric, level in held if metric == "digits"]}))


def _value(held: Held, metric: str, level: str) -> float | None:
    item = held.get((metric, level))
    return item.value if item is not None else None


def _sentence(held: Held, own: pd.DataFrame, name: str) -> str:
    full, found = _value(held, "digits", "0"), _value(held, "digits", RECOMMENDED)
    layers = own[own["place"].notna()]
    shorter = int((layers["left_out"] > 0).sum())
    search = own[(own["factor"] == "search") & (own["level"] == RECOMMENDED)]
    if not shorter or full is None or found is None or search.empty:
        within = bool(search["within"].iloc[0]) if len(search) else True
        why = "the budget lets no layer spare one" if within else "the budget does not hold even with all of them"
        return f"build {name} needs all its digits: {why}." + _lesson(held)
    words = (
        f"in {name} {plural(shorter, 'layer')} of {len(layers)} can do with fewer: {number(found, 1)} digits a value "
    )
    words += f"in place of {number(full, 1)}, {number(100 * (1 - found / full), 0)} % fewer"
    alike, before = (_value(held, "agreement", level) for level in (RECOMMENDED, "0"))
    if alike is not None:
        words += f"; Dice with the audited model's predictions is then {number(alike, 3)} on the audited images"
        words += f" ({number(before, 3)} with all digits)" if before is not None else ""
    back = int(search["stepped_back"].iloc[0])
    words += f". The explanations' budget took back {plural(back, 'step')} that masks alone would allow" if back else ""
    words += ". The search ended early, before every layer was tried" if bool(search["exhausted"].iloc[0]) else ""
    return f"{words}.{_lesson(held)}"


def _lesson(held: Held) -> str:
    """A level at which the calibration error alone would mislead."""
    levels = [level for level in _levels(held) if level not in ("0", RECOMMENDED)]
    pairs = [(level, _value(held, "dice_change", level), _value(held, "ece_change", level)) for level in levels]
    bad = [(dice, ece, level) for level, dice, ece in pairs if dice is not None and ece is not None and dice < 0 > ece]
    if not bad:
        return ""
    dice, ece, level = min(bad)
    words = f" With {level} fewer everywhere the calibration error falls by {number(-ece, decimals(None, None, ece))} "
    return words + f"while Dice falls too, by {number(-dice, decimals(None, None, dice))}: neither is read alone."


def _curves(held: Held, name: str) -> Plot:
    levels = _levels(held)
    emitted = [held["digits", level].value or 0.0 for level in levels]
    parts, alts = [svg.text(0, 14, name, bold=True)], []
    for place, (metric, title, scale) in enumerate(PANELS):
        row, column = divmod(place, 2)
        left, top = column * (WIDTH / 2 + 4) + _LEFT, 40.0 + row * _HEIGHT
        across = svg.Axis(min(emitted) - 0.4, max(emitted) + 0.4, left, (column + 1) * (WIDTH / 2 + 4) - 12)
        drawn = [level for level in levels if (metric, level) in held]
        if drawn:
            parts += _panel(held, metric, drawn, across, top, title, scale)
            alts.append(f"{title}: " + listed([_said(held, metric, level, scale) for level in drawn], most=8))
    middle = WIDTH / 2
    height = 40 + 2 * _HEIGHT
    parts.append(
        svg.text(middle, height - 6, "digits that a unit emits for one value", anchor="middle", colour="muted")
    )
    how = "From right to left fewer digits. Each dot leaves out one digit more in every layer that rounds; the ring is "
    how += "what the search recommends, layer by layer. Bars are 90 % intervals, cut where they leave the panel."
    return Plot(svg.svg(WIDTH, height, f"{name}. " + "; ".join(alts) + ".", parts), "", how)


def _said(held: Held, metric: str, level: str, scale: float) -> str:
    value = scale * (held[metric, level].value or 0.0)
    return f"{level} {number(value, decimals(None, None, value))}"


def _panel(
    held: Held, metric: str, levels: Sequence[str], across: svg.Axis, top: float, title: str, scale: float
) -> list[str]:
    values = [scale * (held[metric, level].value or 0.0) for level in levels]
    ends = [*values, 1.0] if metric == "agreement" else [*values, 0.0]
    margin = 0.1 * (max(ends) - min(ends)) or 0.01
    low, high = min(ends) - margin, max(ends) + margin
    # No share lies beyond 1 and none below 0, so neither does its axis.
    low, high = max(low, 0.0) if metric == "flips" else low, min(high, 1.0) if metric == "agreement" else high
    up = svg.Axis(low, high, top + _HEIGHT - 58, top)
    parts = [svg.text(across.start - _LEFT + 6, top - 8, title, size=11.5)]
    for tick, words in up.labels(4):
        colour = "muted" if tick == (1.0 if metric == "agreement" else 0.0) else "line"
        parts.append(svg.line(across.start, up(tick), across.stop, up(tick), colour=colour, width=0.8))
        parts.append(svg.text(across.start - 6, up(tick) + 4, words, size=11, anchor="end"))
    for tick, words in across.labels(5):
        parts.append(svg.text(across(tick), up.start + 16, words, size=11, anchor="middle"))
    curve = []
    for level, value in zip(levels, values, strict=True):
        x, item = across(held["digits", level].value or 0.0), held[metric, level]
        parts += _bar(x, up, item, scale, "second" if level == RECOMMENDED else "accent")
        if level != RECOMMENDED:
            curve.append((x, up(value)))
    parts.append(svg.path(curve, colour="accent"))
    parts += [svg.circle(x, y, 3.2, colour="accent") for x, y in curve]
    if RECOMMENDED in levels:
        x = across(held["digits", RECOMMENDED].value or 0.0)
        parts.append(svg.circle(x, up(values[levels.index(RECOMMENDED)]), 5, colour="second", hollow=True))
    return parts


def _bar(x: float, up: svg.Axis, item: Estimate, scale: float, colour: str) -> list[str]:
    held = item.interval
    if held is None or held.lower is None or held.upper is None:
        return []
    high, low = up(scale * held.upper), up(scale * held.lower)
    return [svg.rect(x - 2, high, 4, low - high, colour=colour, opacity=0.28, radius=2)]


def _steps(held: Held, name: str) -> Table:
    rows = []
    for level in _levels(held):
        values = [_value(held, metric, level) for metric, _, _ in PANELS]
        words = "as recommended" if level == RECOMMENDED else "none" if level == "0" else f"{level} everywhere"
        flips = None if values[1] is None else 100 * values[1]
        rows.append((
            words, number(_value(held, "digits", level), 1), number(values[0], 3), number(flips, 3),
            number(values[2], 4), number(values[3], 4),
        ))  # fmt: skip
    head = ("left out", "digits a value", "Dice with the model", "pixels that change, %", "change of Dice",
            "change of calibration error")  # fmt: skip
    return Table(f"{name} on the audited images: means; intervals stand in the details", head, tuple(rows))


def _seen(own: pd.DataFrame, name: str) -> tuple[Table, ...]:
    """What the search saw, on its own images."""
    search = {str(row["level"]): row for row in own[own["factor"] == "search"].to_dict("records")}
    if not search:
        return ()
    rows = []
    for level, words in (("full", "all digits"), (RECOMMENDED, "as recommended")):
        held = search[level]
        rows.append((
            words, _number(held["agreement"], 3), _number(100 * held["flip_share"], 3), _number(held["explanation"], 2)
        ))  # fmt: skip
    found = search[RECOMMENDED]
    caption = f"{name}, what the search saw: {plural(len(found['images']), 'calibration image')}, "
    caption += plural(int(found["trials"]), "network")
    back = int(found["stepped_back"])
    caption += f", {plural(back, 'step')} taken back for the explanations" if back else ""
    head = ("digits", "Dice with the model", "pixels that change, %", "rank correlation of occlusion maps")
    return (Table(caption, head, tuple(rows)),)


def _number(value: Any, places: int) -> str:
    return number(None if value is None else float(value), places)


def _paste(own: pd.DataFrame, name: str) -> tuple[Table, ...]:
    lines = paste_lines(own)
    if not lines:
        return ()
    caption = f"The recommended digits of {name}, to paste into a variant of model.yaml"
    return (Table(caption, ("copy all lines",), tuple((line,) for line in lines)),)


def paste_lines(own: pd.DataFrame) -> list[str]:
    """The value of ``digits:`` as lines of YAML whose indentation does not matter; none where nothing is left out."""
    layers = own[own["place"].notna() & (own["left_out"] > 0)].sort_values("place")
    # Quoted, because YAML reads a path such as 0.1 as a number.
    pairs = [f'"{path}": -{int(count)}' for path, count in zip(layers["target"], layers["left_out"], strict=True)]
    if not pairs:
        return []
    groups = [", ".join(pairs[start : start + ACROSS]) for start in range(0, len(pairs), ACROSS)]
    return ["digits: {", *(f"{line}," for line in groups[:-1]), groups[-1], "}"]
