"""What the architecture itself says: named features and gates, how much the network listens to them, and their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.checks.intrinsic_quantities import WAYS, feature_names
from xaiseg.estimate import Estimate
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure
from xaiseg.reports.numbers import both_text, number, value_text
from xaiseg.reports.readouts import Bar, MapRow, Tile, feature_bars, map_rows
from xaiseg.reports.words import capital, listed, plural

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.run import EvidenceItem

#: A removal that moves the mean foreground probability and the Dice by less than this is called no effect.
NO_CHANGE: Final = 0.001
NO_DICE: Final = 0.005
#: How far gated tensors recomputed from the read-outs may lie from the network's own.
_TOLERANCE: Final = 1e-5
#: Cases whose maps are drawn.
_SHOWN: Final = 3

#: Feature -> plain name and unit. Grey-level steps: 64 steps for neighbours (GLCM), 256 for brightness.
FEATURES: Final[Mapping[str, tuple[str, str]]] = {
    "glcm_contrast": ("neighbour contrast", "grey steps², GLCM"),
    "glcm_dissimilarity": ("neighbour difference", "grey steps, GLCM"),
    "glcm_homogeneity": ("neighbour likeness", "0 to 1, GLCM homogeneity"),
    "glcm_energy": ("texture order", "0 to 1, GLCM energy"),
    "glcm_correlation": ("neighbour correlation", "−1 to 1, GLCM"),
    "lbp_mean": ("pattern mean", "LBP code, 0 to 25"),
    "lbp_std": ("pattern spread", "LBP code"),
    "lbp_entropy": ("pattern variety", "LBP entropy"),
    "lbp_uniformity": ("pattern sameness", "0 to 1, LBP uniformity"),
    "intensity_mean": ("brightness", "grey value, 0 to 255"),
    "intensity_std": ("brightness spread", "grey value"),
    "intensity_skewness": ("brightness skewness", "no unit"),
    "intensity_kurtosis": ("brightness peakedness", "no unit, excess kurtosis"),
}
_WAYS: Final[Mapping[str, tuple[str, str]]] = {
    "loss_gradient": (
        "loss gradient",
        "how fast the error moves with the feature (as in the paper; needs the reference)",
    ),
    "answer_gradient": ("answer gradient", "how fast the mean foreground probability moves with it"),
    "other_images": ("other images", "what changes when the feature takes the values of the other images"),
    "training_mean": ("training mean", "what changes when it is set to its mean in training"),
}
#: The one place of the report that speaks of linear weights.
NOT_LINEAR: Final = (
    "RadiomicNet's paper calls these weights direct linear functions of the features, but its own equations say "
    "otherwise: four layers with a normalisation between them and a sigmoid lead from the features to a gate's values, "
    "and gamma is a constant of the network."
)
GLOBAL: Final = (
    "Each feature is one number of the whole image: it points at no place in it, and no gradient passes from it to the "
    "pixels."
)


@figure("explanation.intrinsic")
def explanation_intrinsic(view: View) -> Story:
    """Importances of the features, read-outs of the gates, maps beside post-hoc maps, rank agreement."""
    rows = view.rows()
    if rows is None:
        return Story(view.lead(absence(view)))
    names = feature_names(rows[rows["kind"] == "feature"])
    maps = sorted(set(rows.loc[rows["kind"] == "map", "target"]))
    plots = [_importances(view, names)] if names else []
    pictures = _maps(view, rows, maps)
    tables = [_agreement(view)] if names else []
    tables += [_gates(view, rows, maps)] if names or _switchable(view, maps) else [_read_outs(view, rows, maps)]
    tables += [_features(rows, names), _weights(view, names)] if names else []
    answer = _answer(view, names, maps, rows)
    return Story(view.lead(answer), (*plots, *([pictures] if pictures else [])), tuple(t for t in tables if t.rows))


def matters(view: View, change: str, dice: str, target: str = "") -> bool | None:
    """Whether a removal changes anything: probability or Dice moves by more than rounding; None when not measured."""
    moved, fell = view.get(change, target=target), view.get(dice, target=target)
    if moved is None or moved.value is None:
        return None
    return moved.value >= NO_CHANGE or (fell is not None and abs(fell.value or 0.0) >= NO_DICE)


def plain_name(feature: str) -> str:
    """A feature in plain words.

    >>> plain_name("glcm_contrast"), plain_name("vessel_density")
    ('neighbour contrast', 'vessel density')
    """
    return FEATURES.get(feature, (feature.replace("_", " "), ""))[0]


def _switchable(view: View, maps: Sequence[str]) -> bool:
    return any(view.get("flattened_change", target=name) is not None for name in maps)


def _answer(view: View, names: Sequence[str], maps: Sequence[str], rows: pd.DataFrame) -> str:
    n = rows["case"].nunique()
    if not names:
        vectors = rows.loc[rows["kind"] == "vector", "target"].nunique()
        words = f"the architecture shows {plural(len(maps), 'map')} and {plural(vectors, 'vector')} of its own"
        more = "" if _switchable(view, maps) else " This network does not let them be switched off, so that nobody can "
        more += "" if _switchable(view, maps) else "say how much they matter: look at them, but do not count on them."
        return f"{words} ({plural(n, 'image')}).{more}"
    off = view.get("features_off_change")
    fell = view.get("features_off_dice_drop")
    words = f"{plural(len(names), 'named feature')} of the whole image steer how much passes the network's gates "
    words += f"({plural(n, 'image')}). "
    effect = f"the foreground probability by {both_text(off)} on average" if off else "an unknown amount"
    if fell is not None:
        better = ", so it is higher without them" if fell.value is not None and fell.value < 0 else ""
        effect += f"; what they add to the Dice is {both_text(fell)}{better}"
    if matters(view, "features_off_change", "features_off_dice_drop"):
        return f"{words}Switching all of them off changes {effect}. {_leaders(view, names)}"
    words += f"Switching all of them off changes next to nothing: {effect}. So the order of the features says "
    return f"{words}nothing about this network's answers; it is drawn in grey."


def _leaders(view: View, names: Sequence[str]) -> str:
    """Which feature weighs most by each way, ways that agree taken together."""
    first: dict[str, list[str]] = {}
    for way, (short, _) in _WAYS.items():
        shares = {name: item for name in names if (item := view.get(f"share_{way}", target=name)) is not None}
        if shares:
            best = max(shares, key=lambda name: shares[name].value or 0.0)
            first.setdefault(best, []).append(f"{short} {value_text(shares[best])}")
    if not first:
        return "How much a single feature weighs was not measured."
    parts = [f"{plain_name(name)} ({', '.join(said)})" for name, said in first.items()]
    return f"Of the features, {listed(parts)} {'weighs' if len(parts) == 1 else 'weigh'} most."


def _importances(view: View, names: Sequence[str]) -> Plot:
    grey = not matters(view, "features_off_change", "features_off_dice_drop")
    bars: dict[str, dict[str, Bar]] = {}
    for way in _WAYS:
        for name in names:
            item = view.get(f"share_{way}", target=name)
            if item is not None and item.value is not None:
                ends = (item.interval.lower, item.interval.upper) if item.interval else (None, None)
                bars.setdefault(way, {})[name] = Bar(item.value, *ends)
    mean = {name: np.mean([held[name].value for held in bars.values() if name in held] or [0.0]) for name in names}
    order = sorted(names, key=lambda name: -mean[name])
    heads = {way: short for way, (short, _) in _WAYS.items()}
    picture = feature_bars([(plain_name(name), name) for name in order], heads, bars, grey=grey)
    ways = "; ".join(f"{short}: {said}" for short, said in _WAYS.values())
    how = (
        f"Each column weighs every feature in its own way, and adds up to 100 %. {capital(ways)}. The thin line is the "
    )
    how += "90 % interval. Grey means that all features together change next to nothing. "
    return Plot(picture, "", f"{how}{NOT_LINEAR} {GLOBAL}")


def _maps(view: View, rows: pd.DataFrame, maps: Sequence[str]) -> Plot | None:
    chosen = _cases(view, rows)
    if not maps or not chosen:
        return None
    posthoc = list(dict.fromkeys(rows.loc[rows["kind"] == "posthoc", "target"]))[:1]
    silent = {name for name in maps if matters(view, "flattened_change", "flattened_dice_drop", name) is False}
    drawn = []
    for case, item in chosen:
        own = rows[(rows["case"] == case) & rows["kind"].isin(["map", "posthoc"])].set_index("target")
        wanted = [name for name in (*posthoc, *maps) if name in own.index]
        tiles = [_tile(own.loc[name], name, signed=name in posthoc, silent=name in silent) for name in wanted]
        image, outline = _pictures(rows[rows["case"] == case]) if item is None else _kept(item)
        drawn.append(MapRow(case, image, outline, tuple(tiles)))
    how = "The outline is the network's prediction. "
    if posthoc:
        how += f"{posthoc[0]} is a post-hoc map: orange speaks for the outlined region, blue against it. "
    how += "In the other pictures dark blue lets the image's details pass and white holds them back; each has its own "
    how += "scale, printed below it. "
    if _switchable(view, maps):
        how += "Pale pictures marked “no effect” can be made flat without changing the answer: they explain nothing. "
    how += "A map inside the outline is no proof that the network is right."
    return Plot(map_rows(drawn), "", how)


def _kept(item: EvidenceItem) -> tuple[np.ndarray, np.ndarray | None]:
    return item.arrays["image"], item.arrays.get("prediction")


def _pictures(rows: pd.DataFrame) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The coarse image and prediction that the check itself keeps of a case, or None."""
    held = rows[rows["kind"] == "picture"]
    pairs = zip(held["picture"], held["picture_width"].astype(int), strict=True)
    found = [np.asarray(picture, dtype=np.uint8).reshape(-1, width) for picture, width in pairs]
    return (found[0], (found[1] > 127).astype(np.uint8)) if len(found) == 2 else (None, None)


def _cases(view: View, rows: pd.DataFrame) -> list[tuple[str, EvidenceItem | None]]:
    """A few cases with maps: those whose image was kept come first, and of these the ones drawn at random."""
    held = {item.case: item for item in view.run.evidence()}
    cases = sorted(set(rows.loc[rows["kind"] == "map", "case"]))
    described = set(rows.loc[rows["kind"] == "posthoc", "case"])

    def order(case: str) -> tuple[bool, bool, bool, int, str]:
        item = held.get(case)
        drawn = item is not None and "random" in item.kind
        return case not in described, item is None, not drawn, item.draw if item is not None else 0, case

    return [(case, held.get(case)) for case in sorted(cases, key=order)[:_SHOWN]]


def _tile(row: pd.Series, name: str, *, signed: bool, silent: bool) -> Tile:
    width = int(row["picture_width"])
    share = np.asarray(row["picture"], dtype=np.float64).reshape(-1, width) / 255
    low, high = float(row["low"]), float(row["high"])
    return Tile(_map_name(name), low + share * (high - low), low, high, signed, silent)


def _map_name(name: str) -> str:
    """A read-out in plain words.

    >>> _map_name("alpha_s_1"), _map_name("attention_2")
    ('gate 1', 'attention 2')
    """
    return name.replace("alpha_s_", "gate ").replace("_", " ")


def _weights(view: View, names: Sequence[str]) -> Table:
    rows = []
    for name in names:
        cells = [_cell(view.get(f"importance_{way}", target=name), scale=1000.0) for way in _WAYS]
        drops = [_cell(view.get(f"dice_drop_{way}", target=name)) for way in ("other_images", "training_mean")]
        rows.append((plain_name(name), *cells, *drops))
    caption = "The same weights before they are made to add up to 100 %, in thousandths, and how much Dice is lost"
    heads = (*(short for short, _ in _WAYS.values()), "Dice lost, other images", "Dice lost, training mean")
    return Table(caption, ("feature", *heads), tuple(rows))


def _agreement(view: View) -> Table:
    """Kendall's tau-b of every two ways, as a half matrix."""
    ways, rows = list(WAYS), []
    for index, way in enumerate(ways[1:], start=1):
        cells = [view.get("rank_agreement", target=f"{other} and {way}") for other in ways[:index]]
        blank = [""] * (len(ways) - 1 - index)
        rows.append((_WAYS[way][0], *[both_text(c, level=False) if c else "not measured" for c in cells], *blank))
    caption = (
        "Do the four ways put the features in the same order? Kendall's tau-b with 90 % intervals: 1 = the same order, "
    )
    return Table(caption + "0 = unrelated", ("", *(_WAYS[way][0] for way in ways[:-1])), tuple(rows))


def _features(rows: pd.DataFrame, names: Sequence[str]) -> Table:
    """Raw and standardised features of the case set, and how steeply each gate's values follow them."""
    held = rows[rows["kind"] == "feature"]
    steep = rows[rows["slope"].notna()]
    gates = sorted(set(steep["target"]))
    slopes = {gate: np.mean(np.stack(steep.loc[steep["target"] == gate, "slope"].to_list()), axis=0) for gate in gates}
    lines = []
    for index, name in enumerate(names):
        own = held[held["target"] == name]
        label, unit = FEATURES.get(name, (plain_name(name), ""))
        spans = [_span(own[column].to_numpy(dtype=np.float64)) for column in ("raw", "normalised")]
        cells = [_figure(float(slopes[gate][index])) for gate in gates]
        lines.append((f"{label} ({unit})" if unit else label, *spans, *cells))
    caption = f"The features in {plural(held['case'].nunique(), 'image')}: median (5 % to 95 %), as measured and in "
    caption += (
        "standard deviations from the training mean; then how much each gate's channel values alpha_c move with one "
    )
    caption += "standard deviation (mean absolute slope)"
    heads = tuple(gate.replace("alpha_c_", "slope, gate ").replace("_", " ") for gate in gates)
    return Table(caption, ("feature", "as measured", "standardised", *heads), tuple(lines))


def _gates(view: View, rows: pd.DataFrame, maps: Sequence[str]) -> Table:
    vectors = rows.loc[rows["kind"] == "vector", "target"]
    known = {*vectors, *maps}
    numbers = sorted({name.rpartition("_")[2] for name in known if name.startswith(("alpha_", "gamma_"))})
    methods = list(dict.fromkeys(rows.loc[rows["kind"] == "agreement", "level"]))
    lines = []
    for index in numbers:
        target = f"alpha_s_{index}"
        spread = [_spread(rows[rows["target"] == f"{name}_{index}"]) for name in ("gamma", "alpha_c", "alpha_s")]
        silent = matters(view, "flattened_change", "flattened_dice_drop", target) is False
        effect = _cell(view.get("flattened_change", target=target))
        dice = _cell(view.get("flattened_dice_drop", target=target))
        inside = _cell(view.get("inside_to_outside", target=target))
        agreed = [_cell(view.get("rank_correlation", target=target, level=method)) for method in methods]
        lines.append((f"gate {index}", *spread, f"{effect}: no effect" if silent else effect, dice, inside, *agreed))
    caption = (
        "The gates, from the finest: gamma (the most that the features may hold back), alpha_c and alpha_s as mean "
    )
    caption += (
        "(lowest to highest); what changes when the spatial map is made flat; the map inside the prediction over "
    )
    caption += f"outside (1 = no difference); rank correlation with post-hoc maps.{_identity(view)}"
    heads = ("gamma", "alpha_c", "alpha_s", "flat: probability moves by", "flat: Dice lost", "inside / outside")
    return Table(caption, ("", *heads, *methods), tuple(lines))


def _identity(view: View) -> str:
    """Whether the read-outs are what the network computes with, as a sentence."""
    item = view.get("identity_residual")
    if item is None or item.value is None:
        return ""
    fits = f"give the network's own gated tensors to within {_TOLERANCE:.5f} of their largest value"
    if item.value <= _TOLERANCE:
        return f" Put together again, these read-outs {fits}"
    return f" These read-outs do not {fits} (off by {_figure(item.value)}): do not read them as what the network does"


def _read_outs(view: View, rows: pd.DataFrame, maps: Sequence[str]) -> Table:
    """Read-outs of a network that cannot be run without them."""
    own = rows[rows["kind"].isin(["map", "vector"])]
    methods = list(dict.fromkeys(rows.loc[rows["kind"] == "agreement", "level"]))
    lines = []
    for name, held in own.groupby("target", sort=False):
        cells = [_spread(held)]
        cells.append(_cell(view.get("inside_to_outside", target=str(name))) if name in maps else "")
        for method in methods:
            item = view.get("rank_correlation", target=str(name), level=method)
            cells.append(_cell(item) if name in maps else "")
        lines.append((str(name).replace("_", " "), *cells))
    caption = (
        "Read-outs: mean (lowest to highest); inside the prediction over outside; rank correlation with post-hoc maps"
    )
    return Table(caption, ("", "value", "inside / outside", *methods), tuple(lines))


def _spread(rows: pd.DataFrame) -> str:
    """Mean and range of a read-out over the cases."""
    own = rows[rows["kind"].isin(["map", "vector"])]
    return _mean_range(own["mean"].mean(), own["low"].min(), own["high"].max()) if len(own) else "none"


def _mean_range(mean: float, low: float, high: float) -> str:
    if high - low < 1e-9:
        return _figure(mean)
    places = int(max(0, 1 - np.floor(np.log10(0.999 * (high - low)))))
    return f"{number(mean, places)} ({number(low, places)} to {number(high, places)})"


def _span(values: np.ndarray) -> str:
    low, middle, high = (_figure(float(v)) for v in np.percentile(values, (5, 50, 95)))
    return f"{middle} ({low} to {high})"


def _figure(value: float) -> str:
    """Two significant digits, without exponents down to a hundred thousandth."""
    if value == 0 or abs(value) >= 10:
        return number(value, 0)
    return number(value, int(min(5, max(0, 1 - np.floor(np.log10(abs(value)))))))


def _cell(item: Estimate | None, *, scale: float = 1.0) -> str:
    """Value and interval, at two significant digits each."""
    if item is None or item.value is None:
        return "not measured"
    ends = (item.interval.lower, item.interval.upper) if item.interval else (None, None)
    shown = _figure(scale * item.value)
    if ends[0] is None or ends[1] is None:
        return shown
    return f"{shown} ({_figure(scale * ends[0])} to {_figure(scale * ends[1])})"
