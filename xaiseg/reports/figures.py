"""One story a check: an answer in one sentence, figures with a claim and a reading aid, and small tables.

A check gets its own story by a function with ``@figure("check.id")`` in a module ``figures_*.py``; every other check
of the registry, also one that somebody adds later, gets :func:`plain_story`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Final

from markupsafe import Markup

from xaiseg.estimate import Estimate
from xaiseg.judge import Finding, Verdict
from xaiseg.protocol import Requirement
from xaiseg.reports.numbers import both_text
from xaiseg.reports.palette import LOOKS
from xaiseg.reports.words import capital, label, listed, metric_name

if TYPE_CHECKING:
    import pandas as pd

    from xaiseg.run import RunDirectory

#: What a verdict answers to the question of its section.
_ANSWERS: Final[Mapping[Verdict, str]] = {
    Verdict.FAIL: "No",
    Verdict.ERROR: "Not known, since the check crashed",
    Verdict.INSUFFICIENT: "Cannot tell yet",
    Verdict.NOT_RUN: "Not known in full, since not everything was run",
    Verdict.PASS: "Yes",
}


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        picture: SVG with alternative text.
        claim: what it shows, as one sentence; no claim where the evidence is insufficient.
        how: how to read it.
    """

    picture: Markup
    claim: str
    how: str


@dataclass(frozen=True)
class Table:
    """A small table; the first cell of a row is its heading."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Story:
    """What a section says.

    Attributes:
        answer: the answer to the check's question, as one sentence or two.
        plots: figures.
        tables: tables that belong to the answer.
    """

    answer: str
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class View:
    """What a story is told from.

    Attributes:
        check: id.
        params: parameters that it was measured with.
        estimates: all estimates of the run, by id and in order.
        findings: requirements that this section answers for.
        plan: the plan.
        run: for rows and cases.
    """

    check: str
    params: Mapping[str, Any]
    estimates: Mapping[str, Estimate]
    findings: tuple[Finding, ...]
    plan: Mapping[str, Any]
    run: RunDirectory

    def own(self, check: str = "") -> list[Estimate]:
        """Estimates of this check, or of another."""
        return [item for item in self.estimates.values() if item.check == (check or self.check)]

    def get(
        self, metric: str, *, target: str = "", factor: str = "", level: str = "", subject: str = "reference"
    ) -> Estimate | None:
        """The estimate of this check over all cases, or None when it has no value."""
        wanted = (metric, target, factor, level, "", subject)
        for item in self.own():
            held = (item.metric, item.target, item.factor, item.level, item.stratum, item.subject)
            if held == wanted:
                return item if item.value is not None else None
        return None

    def requirement(self, metric: str, *, target: str = "") -> Requirement | None:
        """The first requirement of the section on a metric."""
        matching = [f.requirement for f in self.findings if f.requirement.metric == metric]
        return next((item for item in matching if item.target in ("", target)), None)

    def rows(self, check: str = "") -> pd.DataFrame | None:
        """Rows of the reference subject whose status is "ok", or None without any."""
        name = check or self.check
        if not self.run.has_table(name):
            return None
        table = self.run.table(name)
        kept = table[(table["status"] == "ok") & table["subject"].isin(["reference", ""])]
        return kept if len(kept) else None

    def lead(self, rest: str) -> str:
        """The answer: "Yes: ..." from the section's gates, else from its advisory requirements, else the rest alone."""
        for severity in ("gate", "warn"):
            verdicts = {item.verdict for item in self.findings if item.requirement.severity == severity}
            for verdict, words in _ANSWERS.items():
                if verdict in verdicts:
                    return f"{words}: {rest}"
        return capital(rest)

    def settled(self, metric: str) -> Verdict | None:
        """PASS or FAIL of the section's requirement on a metric, for claims; None when there is no claim to make."""
        verdicts = [f.verdict for f in self.findings if f.requirement.metric == metric]
        return next((v for v in (Verdict.FAIL, Verdict.PASS) if v in verdicts), None)


FIGURES: Final[dict[str, Callable[[View], Story]]] = {}


def figure(check: str) -> Callable[[Callable[[View], Story]], Callable[[View], Story]]:
    """Registers the story of a check.

    Raises:
        ValueError: the check already has one.
    """

    def register(function: Callable[[View], Story]) -> Callable[[View], Story]:
        if check in FIGURES:
            raise ValueError(f"check {check!r} already has a figure ({FIGURES[check].__module__})")
        FIGURES[check] = function
        return function

    return register


def load_figures() -> Mapping[str, Callable[[View], Story]]:
    """Imports every ``figures_*`` module of the package."""
    import xaiseg.reports as package

    for module in iter_modules(package.__path__):
        if module.name.startswith("figures_"):
            import_module(f"xaiseg.reports.{module.name}")
    return FIGURES


def story(view: View) -> Story:
    """The story of a check; plain where it has no figure of its own or nothing that its figure could show."""
    return load_figures().get(view.check, plain_story)(view)


def plain_story(view: View) -> Story:
    """Every estimate over all cases, each interval on an axis of its own kind."""
    from xaiseg.reports.forest import ForestRow, forest

    known = [item for item in view.own() if item.value is not None and not item.stratum]
    if not known:
        return Story(view.lead(absence(view)))
    first = listed([f"{label(item)} {both_text(item)}" for item in known], most=3)
    spread = [item for item in known if item.interval and item.interval.lower is not None]
    plots = []
    for unit in dict.fromkeys(item.unit for item in spread):
        rows = [ForestRow.of(item) for item in spread if item.unit == unit][:30]
        title = f"value in {unit}" if unit else "value"
        alt = f"Intervals of {len(rows)} quantities: {listed([row.label for row in rows])}."
        plots.append(Plot(forest(rows, title=title, alt=alt), "", "One line is one quantity with its interval."))
    return Story(view.lead(f"{first}."), tuple(plots))


def absence(view: View) -> str:
    """Why a section has nothing to show, as one sentence."""
    reasons = [view.plan["unmeasured"][view.check]] if view.check in view.plan.get("unmeasured", {}) else []
    reasons += list(dict.fromkeys(item.reason for item in view.own() if item.reason))
    reasons += [finding.reason for finding in view.findings if finding.verdict is not Verdict.PASS]
    return f"there is nothing to show: {reasons[0].rstrip('.')}." if reasons else "it gave no numbers."


def missing_note(view: View, metrics: Sequence[str]) -> str:
    """Which quantities could not be formed and why, as one sentence; "" without any."""
    absent = [item for item in view.own() if item.missing and item.metric in metrics]
    parts = list(dict.fromkeys(f"{metric_name(item.metric)} ({item.reason})" for item in absent))
    return f" Not measured: {'; '.join(parts)}." if parts else ""


def colour_of(verdict: Verdict | None) -> str:
    """The colour of a verdict, or the accent where nothing was decided."""
    return LOOKS[verdict].colour if verdict is not None else "accent"
