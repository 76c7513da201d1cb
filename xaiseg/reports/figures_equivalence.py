"""Does another build still answer the same? Masks, lesions and confidences, or boxes, build by build."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from markupsafe import Markup

from xaiseg.estimate import Estimate
from xaiseg.reports.builds import floating_parts, named_parts
from xaiseg.reports.figures import Plot, Story, Table, View, absence, figure
from xaiseg.reports.forest import ForestRow, forest
from xaiseg.reports.numbers import both_text, bound_text
from xaiseg.reports.palette import LOOKS, Look
from xaiseg.reports.words import listed, plural

#: Metrics of the table, and what they are called there.
ROWS: Final = (
    ("agreement", "Dice of the two predictions"),
    ("flips", "pixels that change sides"),
    ("good_to_bad", "right before, wrong after"),
    ("bad_to_good", "wrong before, right after"),
    ("safe_pixels", "pixels safe by their margin"),
    ("safe_flips", "images where a safe pixel changes"),
    ("hd95_change", "HD95 to the reference, change"),
    ("nll_change", "negative log-likelihood, change"),
    ("brier_change", "Brier score, change"),
    ("ece_change", "calibration error (ECE), change"),
)
BOX_ROWS: Final = (
    ("loose", "boxes that vanish or move"),
    ("recall_change", "animals found, change"),
    ("false_change", "false boxes an image, change"),
    ("count_change", "boxes an image, change"),
    ("shift_px", "distance of partners"),
    ("score_change", "score of partners, change"),
)
#: More columns than these do not fit on a telephone.
COLUMNS: Final = 3


def builds(view: View) -> list[str]:
    """Variants that the check compared, in the order of model.yaml."""
    measured = {item.subject for item in view.own() if item.value is not None}
    return [name for name in view.plan.get("variants", {}) if name in measured]


@figure("equivalence.segmentation")
def equivalence(view: View) -> Story:
    """Mean change of Dice against the margin, shares of images and lesions that change, and a table of the rest."""
    names = builds(view)
    if not names:
        return Story(view.lead(absence(view)))
    plots = [plot for plot in (_dice(view, names), _lesions(view, names)) if plot is not None]
    caption = "The rest, means with 90 % intervals. Likelihood, Brier score and calibration error belong together: the "
    caption += "calibration error alone can improve while masks get worse"
    tables = (*_overview(view, names, ROWS, caption), _what(view, names))
    return Story(view.lead(_answer(view, names)), tuple(plots), tables)


@figure("equivalence.detection")
def equivalence_of_boxes(view: View) -> Story:
    """Shares of boxes that vanish or are new against their bounds, and a table of the rest."""
    names = builds(view)
    if not names:
        return Story(view.lead(absence(view)))
    words = (("vanished", "boxes that vanish"), ("appeared", "boxes that are new"))
    said = []
    for name in names:
        shares = [(label, view.get(metric, subject=name)) for metric, label in words]
        parts = [f"{label} {both_text(item, level=False)}" for label, item in shares if item is not None]
        said.append(f"build {name}: {' and '.join(parts) or 'nothing could be compared'}")
    plot = _shares(view, names, words)
    tables = (*_overview(view, names, BOX_ROWS, "The rest, means with 90 % intervals"), _what(view, names))
    return Story(view.lead(f"{'; '.join(said)} (90 % intervals)."), (plot,) if plot else (), tables)


def _answer(view: View, names: Sequence[str]) -> str:
    said = []
    for name in names:
        change, flips = (view.get(metric, subject=name) for metric in ("dice_change", "flips"))
        parts = [f"Dice changes by {both_text(change, level=False)}"] if change is not None else []
        parts += [f"{_share(flips)} of the pixels change sides"] if flips is not None else []
        said.append(f"build {name}: {' and '.join(parts) or 'nothing could be compared'}")
    n = max((item.n for item in view.own() if item.metric == "agreement"), default=0)
    return f"{'; '.join(said)} ({n} images, 90 % intervals)."


def _share(item: Estimate) -> str:
    """A small share in per cent with two digits that mean something."""
    return f"{100 * (item.value or 0.0):.2g} %"


def _dice(view: View, names: Sequence[str]) -> Plot | None:
    rows = _rows(view, "dice_change", names)
    if not rows:
        return None
    required = view.requirement("dice_change")
    shown = listed([f"{row.label} {row.right}" for row in rows], most=len(rows))
    how = "0 = on average the build outlines as well as the audited one."
    if required is not None:
        how += f" The same within the margin is shown when a bar lies inside it: {bound_text(required, 'mean')}."
    title = "Dice of the build minus Dice of the audited model, mean over patients or clusters"
    alt = f"Change of Dice by build: {shown}."
    picture: Markup = forest(rows, title=title, alt=alt, requirement=required, zero=True)
    return Plot(picture, "", how)


def _lesions(view: View, names: Sequence[str]) -> Plot | None:
    words = (
        ("large_dice_changes", f"Dice moves by more than {view.params.get('large', 0.05):g}"),
        ("vanished", "outlined lesions that vanish"),
        ("appeared", "outlined lesions that are new"),
    )
    return _shares(view, names, words)


def _shares(view: View, names: Sequence[str], words: Sequence[tuple[str, str]]) -> Plot | None:
    """Proportions of each kind, build by build."""
    rows: list[ForestRow] = []
    for metric, heading in words:
        held = _rows(view, metric, names)
        rows += [ForestRow(heading, heading=True), *held] if held else []
    if not rows:
        return None
    bounds = {item.bound for item in (view.requirement(metric) for metric, _ in words) if item is not None}
    required = view.requirement("vanished") if len(bounds) == 1 else None
    alt = (
        "What a mean hides: "
        + listed([f"{row.label} {row.right}" for row in rows if not row.heading], most=len(rows))
        + "."
    )
    how = "A mean can stay while single cases change. Bars are 90 % intervals; on the shaded side a bar is too much."
    return Plot(forest(rows, title="per cent", alt=alt, requirement=required, scale=100.0), "", how)


def _rows(view: View, metric: str, names: Sequence[str]) -> list[ForestRow]:
    found = [(name, view.get(metric, subject=name)) for name in names]
    return [
        ForestRow.of(item, label_text=name, look=_look(view, metric, name)) for name, item in found if item is not None
    ]


def _look(view: View, metric: str, name: str) -> Look | None:
    """The mark of the verdict on this build, where something is required of it."""
    wanted = (metric, name)
    verdicts = [f.verdict for f in view.findings if (f.requirement.metric, f.requirement.subject) == wanted]
    return LOOKS[verdicts[0]] if verdicts else None


def _overview(view: View, names: Sequence[str], metrics: Sequence[tuple[str, str]], caption: str) -> tuple[Table, ...]:
    found = []
    for start in range(0, len(names), COLUMNS):
        part = names[start : start + COLUMNS]
        rows = []
        for metric, words in metrics:
            items = [view.get(metric, subject=name) for name in part]
            if any(items):
                rows.append((words, *(both_text(item, level=False) if item else "none" for item in items)))
        found.append(Table(caption, ("figure", *part), tuple(rows)))
    return tuple(found)


def _what(view: View, names: Sequence[str]) -> Table:
    """What each build is, where its ranges come from, and what of it did not move."""
    held: dict[str, Any] = view.plan.get("variants", {})
    rows = []
    for name in names:
        facts = held[name]
        ranges = facts.get("calibration")
        said = f"{plural(len(ranges['cases']), 'image')} of {ranges['entry']}" if ranges else "not known here"
        moved, kept = facts.get("convolutions"), named_parts(floating_parts(facts))
        count = plural(moved, "convolution") if moved else "not known here"
        rows.append((name, facts["sentence"], said, count, kept or ("nothing" if moved else "not known here")))
    head = ("build", "what it is", "ranges from", "what moved", "what stays in floating point")
    return Table("The builds", head, tuple(rows))
