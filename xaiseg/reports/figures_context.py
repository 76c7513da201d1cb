"""How far does the model look around? The prediction as its surroundings come back, and the class-to-class table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from markupsafe import Markup

from xaiseg.reports import svg
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure
from xaiseg.reports.numbers import both_text, number
from xaiseg.reports.words import plural

if TYPE_CHECKING:
    import pandas as pd

_WIDTH: Final = 680
_HEIGHT: Final = 240
#: Percentiles that are drawn, thickness of their lines.
_LINES: Final[Mapping[int, float]] = {10: 1.0, 50: 2.4, 90: 1.0}


@figure("explanation.context")
def explanation_context(view: View) -> Story:
    """The curve of Dice over the radius, and the falls of each class without each region."""
    rows = view.rows()
    radius = view.get("context_radius_px")
    if rows is None or radius is None:
        return Story(view.lead(absence(view)))
    held = rows[rows["kind"] == "radius"]
    enough = float(view.params.get("enough", 0.95))
    share, alone = view.get("context_radius"), view.get("dice_of_region_alone")
    said = f"the prediction needs {both_text(radius)} of surroundings on average to be what it is from the whole image "
    said += f"(Dice of {enough:g} or more with it; {plural(len(held), 'image')})"
    if share is not None and share.value is not None:
        said += f", {number(100 * share.value, 0)} % of the image's diagonal"
    if alone is not None:
        said += f". From the region alone that Dice is {both_text(alone)}"
    table = _table(view, rows[rows["kind"] == "fall"])
    return Story(view.lead(f"{said}."), (_curve(held, enough),), (table,) if table.rows else ())


def _curve(rows: pd.DataFrame, enough: float) -> Plot:
    """Percentiles over cases of the Dice at each radius; between radii that were tried it is interpolated."""
    most = max(float(radii[-1]) for radii in rows["radii_px"])
    places = np.linspace(0.0, most, 120)
    curves = np.stack([np.interp(places, r, d) for r, d in zip(rows["radii_px"], rows["dices"], strict=True)])
    shown = {percent: np.percentile(curves, percent, axis=0) for percent in _LINES}
    middle = shown[50]
    at = [f"{number(float(np.interp(r, places, middle)), 2)} at {r:.0f} px" for r in np.linspace(0, most, 5)]
    alt = f"Median Dice of the prediction as its surroundings are shown: {', '.join(at)}."
    how = (
        "Everything but the predicted region is replaced, then more and more of its surroundings is shown. Thick: the "
        "median over images; thin: the lowest and the highest tenth. Where the curve rises late, the model needs far "
        "context, or is misled by the edge of what is shown. The axis starts where the data do."
    )
    return Plot(_drawn(places, shown, enough, alt), "", how)


def _drawn(places: np.ndarray, shown: Mapping[int, np.ndarray], enough: float, alt: str) -> Markup:
    across = svg.Axis(0.0, float(places[-1]) or 1.0, 46, _WIDTH - 12)
    lowest = min(float(shown[min(_LINES)].min()), enough)
    up = svg.Axis(max(0.0, np.floor(10 * lowest - 0.5) / 10), 1.0, _HEIGHT - 44, 34)
    parts = [svg.ruler(across, up.start, [(t, f"{t:g}") for t in across.ticks(6)], "surroundings shown, px")]
    for tick in up.ticks(5):
        parts.append(svg.line(across.start, up(tick), across.stop, up(tick), colour="line"))
        parts.append(svg.text(across.start - 6, up(tick) + 4, f"{tick:g}", size=11, anchor="end"))
    parts.append(svg.line(across.start, up(enough), across.stop, up(enough), colour="muted", dash="4 3"))
    parts.append(svg.text(across.stop, up(enough) + 14, f"enough: {enough:g}", size=11, anchor="end", colour="muted"))
    for percent, values in shown.items():
        points = [(across(float(x)), up(float(y))) for x, y in zip(places, values, strict=True)]
        parts.append(svg.path(points, colour="accent", width=_LINES[percent]))
    parts.append(svg.text(across.start - 36, 16, "Dice with the prediction from the whole image", size=12, bold=True))
    return svg.svg(_WIDTH, _HEIGHT, alt, parts)


def _table(view: View, rows: pd.DataFrame) -> Table:
    classes = [name for name in view.plan.get("facts", {}).get("classes", ()) if name in set(rows["target"])]
    classes += sorted(set(rows["target"]) - set(classes))
    lines = []
    for removed in classes:
        items = [view.get("context_fall", target=name, factor="without", level=removed) for name in classes]
        lines.append((f"without {removed}", *(both_text(item, level=False) if item else "none" for item in items)))
    caption = (
        "How far each class's mean logit over its own region falls when a predicted region is replaced by the image's "
        "mean (or what the check was told), with 90 % intervals; negative = it rises"
    )
    return Table(caption, ("", *classes), tuple(lines))
