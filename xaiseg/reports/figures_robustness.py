"""Does it survive the field? A small panel a degradation: the loss of Dice at each rung, against the bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from xaiseg.estimate import Estimate
from xaiseg.judge import Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports import svg
from xaiseg.reports.figures import Plot, Story, View, absence, figure
from xaiseg.reports.forest import WIDTH
from xaiseg.reports.numbers import both_text, number
from xaiseg.reports.words import FACTORS, capital, factor_level, listed

LEVELS: Final = ("mild", "strong")
UNITS: Final[Mapping[str, str]] = {"blur_px": " px", "noise_sd": "", "gain": "×", "jpeg_quality": "", "downscale": "×"}
_ACROSS: Final = 5


@figure("robustness.degradation")
def robustness(view: View) -> Story:
    """The paired loss of Dice at the mild and the strong level of each factor."""
    drops = {(i.factor, i.level): i for i in view.own() if i.metric == "dice_drop" and i.value is not None}
    factors = [name for name in view.params.get("factors", {}) if any(key[0] == name for key in drops)]
    if not factors:
        return Story(view.lead(absence(view)))
    said = []
    for level in LEVELS:
        held = [item for (_, rung), item in drops.items() if rung == level]
        if held:
            worst = max(held, key=lambda item: item.value or 0.0)
            said.append(f"at the {level} level {factor_level(worst.factor, '')} costs most, {both_text(worst)} Dice")
    return Story(view.lead("; ".join(said) + "."), (_panels(view, factors, drops),))


def _panels(view: View, factors: Sequence[str], drops: Mapping[tuple[str, str], Estimate]) -> Plot:
    finding = next((f for f in view.findings if f.requirement.metric == "dice_drop"), None)
    requirement = finding.requirement if finding is not None else None
    ends = [v for i in drops.values() if i.interval for v in (i.interval.lower, i.interval.upper) if v is not None]
    ends += [i.value or 0.0 for i in drops.values()] + [0.0] + ([requirement.bound] if requirement else [])
    across = min(_ACROSS, len(factors))
    width = (WIDTH - 44) / across
    parts: list[str] = []
    for index, factor in enumerate(factors):
        row, column = divmod(index, _ACROSS)
        box = (44 + column * width, 22 + 190.0 * row, width - 14)
        up = svg.Axis(min(ends) - 0.01, max(ends) * 1.05 + 0.005, box[1] + 130, box[1])
        levels = [drops.get((factor, level)) for level in LEVELS]
        parts += _panel(box, up, factor, levels, view.params, requirement, first=column == 0)
    height = 22 + 190 * ((len(factors) - 1) // _ACROSS + 1) - 6
    alt = "Loss of Dice by degradation: " + listed(
        [f"{factor_level(*key)} {both_text(i)}" for key, i in drops.items()], most=10
    )
    how = (
        "One panel is one degradation, from the image as it is to its mild and strong level; 0 = nothing is lost. Bars "
    )
    how += "are 90 % intervals of the loss within one image." + (
        " The shaded side is beyond the bound." if requirement else ""
    )
    return Plot(svg.svg(WIDTH, height, alt + ".", parts), _claim(view), how)


def _claim(view: View) -> str:
    finding = next((f for f in view.findings if f.requirement.metric == "dice_drop"), None)
    if finding is None or finding.verdict not in (Verdict.PASS, Verdict.FAIL):
        return ""
    names = [view.estimates[id].factor for id in finding.failing if id in view.estimates]
    if finding.verdict is Verdict.PASS:
        return f"No degradation costs more than {finding.requirement.bound:g} Dice where the bound applies."
    lost = listed([FACTORS.get(name, name) for name in names])
    return f"{capital(lost)} {'costs' if len(names) == 1 else 'cost'} more than {finding.requirement.bound:g} Dice."


def _panel(
    box: tuple[float, float, float],
    up: svg.Axis,
    factor: str,
    levels: Sequence[Estimate | None],
    params: Mapping[str, Any],
    requirement: Requirement | None,
    *,
    first: bool,
) -> list[str]:
    left, top, width = box
    places = [left + width * share for share in (0.12, 0.5, 0.88)]
    parts = [svg.text(left, top - 8, capital(factor_level(factor, "")), bold=True)]
    if requirement is not None:
        bound = up(requirement.bound)
        rungs = (0, 1) if requirement.where.get("level") == "mild" else (0, 2)
        reach = places[rungs[1]] + width * 0.19 - left if rungs[1] == 1 else width
        parts += [svg.rect(left, top, reach, bound - top, colour="shade"), svg.line(left, bound, left + reach, bound)]
    for tick in up.ticks(4):
        parts.append(
            svg.line(left, up(tick), left + width, up(tick), colour="muted" if tick == 0 else "line", width=0.8)
        )
        if first:
            parts.append(svg.text(left - 6, up(tick) + 4, number(tick, 2), size=11, anchor="end"))
    known = [(places[0], up(0.0))]
    known += [
        (x, up(i.value)) for x, i in zip(places[1:], levels, strict=True) if i is not None and i.value is not None
    ]
    parts.append(svg.path(known, colour="accent"))
    parts.append(svg.circle(*known[0], 3.2, colour="accent"))
    for x, item in zip(places[1:], levels, strict=True):
        parts += _rung(x, up, item)
    steps = ["as is", *(f"{value:g}{UNITS.get(factor, '')}" for value in params["factors"][factor])]
    return parts + [
        svg.text(x, top + 147, words, size=11, anchor="middle") for x, words in zip(places, steps, strict=True)
    ]


def _rung(x: float, up: svg.Axis, item: Estimate | None) -> list[str]:
    if item is None or item.value is None:
        return []
    held = item.interval
    parts = []
    if held is not None and held.lower is not None and held.upper is not None:
        parts.append(
            svg.rect(
                x - 2.5, up(held.upper), 5, up(held.lower) - up(held.upper), colour="accent", opacity=0.42, radius=2.5
            )
        )
    return [*parts, svg.circle(x, up(item.value), 3.4, colour="accent")]
