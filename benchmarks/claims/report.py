"""The tables of docs/zoo/radiomicnet.md, from the stored rows alone; the paper's numbers stand beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.claims.contrasts import Contrast, contrast, ece_contrast, patient_histograms, patient_means
from benchmarks.claims.plan import ARMS, ORDER, Run, best_rate, chosen, total, trials
from benchmarks.claims.store import Results
from xaiseg.calibration.reliability import expected_calibration_error
from xaiseg.statistics.multiplicity import holm

#: Dice / IoU that the paper states (arXiv:2607.02185): BUSI, and Kvasir-SEG where given.
PAPER: Final = {
    "ultrasound": {
        "radiomicnet": ".763 / .662",
        "unet": ".726 / .618",
        "unetplusplus": ".740 / .634",
        "ukan": ".751 / .645",
        "no_rag": ".731 / .628",
        "no_consistency": ".748 / .645",
        "spatial_only": ".743 / .642",
        "channel_only": ".741 / .648",
    },
    "polyps": {
        "radiomicnet": ".854 / .783",
        "unet": ".818 / .721",
        "unetplusplus": ".825 / .730",
        "ukan": ".836 / .745",
    },
}
#: Differences of Dice in those tables, RadiomicNet minus the arm.
PAPER_DIFFERENCE: Final = {
    "unet": "+.037",
    "no_rag": "+.032",
    "unetplusplus": "+.023",
    "ukan": "+.012",
    "no_consistency": "+.015",
    "spatial_only": "+.020",
    "channel_only": "+.022",
}
PRIMARY: Final = ("unet", "no_rag")
MEASURES: Final = ("dice", "iou", "precision", "recall", "specificity")

#: rows[arm][seed] = all test images of all folds.
Rows = Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]


def report(results: Results) -> str:
    """All tables as Markdown."""
    parts = [f"{len(results.facts)} of {total()} trainings are done."]
    ultrasound, polyps = whole(results, "ultrasound"), whole(results, "polyps")
    parts += [table_of_arms(ultrasound, results, "ultrasound"), contrasts(ultrasound), calibration(ultrasound)]
    parts += [table_of_arms(polyps, results, "polyps"), polyp_contrasts(polyps), rates(results)]
    return "\n\n".join(part for part in parts if part)


def whole(results: Results, data: str) -> Rows:
    """Rows by arm and seed; a seed counts when all of its folds are there."""
    by_run: dict[str, list[dict[str, Any]]] = {}
    for row in results.rows.to_pylist():
        by_run.setdefault(row["run"], []).append(row)
    folds = {(arm, seed): len(f) for d, arms, f, seeds in ORDER for arm in arms for seed in seeds if d == data}
    held: dict[str, dict[int, list[Run]]] = {}
    for run in chosen(results.scores):
        if run.data == data:
            held.setdefault(run.arm, {}).setdefault(run.seed, []).append(run)
    found: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for arm, seeds in held.items():
        for seed, runs in seeds.items():
            if len(runs) == folds[arm, seed]:
                found.setdefault(arm, {})[seed] = [row for run in runs for row in by_run[run.name]]
    return found


def table_of_arms(rows: Rows, results: Results, data: str) -> str:
    """Means over images (standard deviation for Dice), as the paper's tables give them."""
    parameters = {
        fact["run"].split("-")[1]: fact["parameters"] for fact in results.facts if fact["run"].startswith(data)
    }
    lines = []
    for arm in ARMS:
        if arm in rows:
            images = [row for seed in rows[arm].values() for row in seed]
            means = {name: float(np.mean([row[name] for row in images])) for name in MEASURES}
            sd = float(np.std([row["dice"] for row in images]))
            cells = [arm, f"{parameters[arm] / 1e6:.2f}", str(len(rows[arm])), f"{means['dice']:.3f} ± {sd:.3f}"]
            lines.append([*cells, *(f"{means[name]:.3f}" for name in MEASURES[1:]), PAPER[data].get(arm, "–")])
    head = ["arm", "M parameters", "seeds", "Dice", *MEASURES[1:], "paper: Dice / IoU"]
    return f"**{data}**\n\n{markdown(head, lines)}" if lines else ""


def scores(rows: Rows, arm: str) -> dict[int, dict[str, float]]:
    """Dice by seed and patient."""
    return {seed: patient_means(images, "dice") for seed, images in rows[arm].items()}


def contrasts(rows: Rows) -> str:
    """RadiomicNet minus each other arm on ultrasound: the primary ones, then the exploratory ones with Holm."""
    if "radiomicnet" not in rows:
        return ""
    own = scores(rows, "radiomicnet")
    primary = {arm: contrast(own, scores(rows, arm)) for arm in PRIMARY if arm in rows}
    borrowed = pooled_sd(primary.values())
    rest = [arm for arm in ARMS if arm in rows and arm not in (*PRIMARY, "radiomicnet")]
    others = {arm: contrast(own, scores(rows, arm), seed_sd=borrowed) for arm in rest}
    decided = dict(zip(others, holm([c.p for c in others.values()]), strict=True)) if others else {}
    lines = [contrast_line(f"radiomicnet − {arm}", c, "primary", PAPER_DIFFERENCE[arm]) for arm, c in primary.items()]
    lines += [
        contrast_line(
            f"radiomicnet − {arm}", c, "exploratory", PAPER_DIFFERENCE.get(arm, "–"), significant=decided[arm]
        )
        for arm, c in others.items()
    ]
    head = ["Dice", "", "seeds", "difference", "95 % interval", "90 % interval", "detectable", "p", "reads", "paper"]
    return f"**contrasts on ultrasound**\n\n{markdown(head, lines)}"


def polyp_contrasts(rows: Rows) -> str:
    """RadiomicNet minus each peer on one division of the polyps; nothing is known of seeds there."""
    if "radiomicnet" not in rows:
        return ""
    own = scores(rows, "radiomicnet")
    found = {arm: contrast(own, scores(rows, arm)) for arm in rows if arm != "radiomicnet"}
    decided = holm([c.p for c in found.values()])
    lines = [
        contrast_line(f"radiomicnet − {arm}", c, "exploratory", "–", significant=significant)
        for (arm, c), significant in zip(found.items(), decided, strict=True)
    ]
    head = ["Dice", "", "seeds", "difference", "95 % interval", "90 % interval", "detectable", "p", "reads", "paper"]
    note = "clusters are near-duplicate groups, not patients; one division, one seed, whose variance no interval holds"
    return f"**contrasts on polyps** ({note})\n\n{markdown(head, lines)}"


def calibration(rows: Rows) -> str:
    """ECE without and with the consistency loss, each before and after temperature scaling."""
    if not {"radiomicnet", "no_consistency"} <= set(rows):
        return ""
    seeds = sorted(set(rows["radiomicnet"]) & set(rows["no_consistency"]))
    names = {"neither": ("no_consistency", "raw"), "consistency loss": ("radiomicnet", "raw"),
             "temperature": ("no_consistency", "scaled"), "both": ("radiomicnet", "scaled")}  # fmt: skip
    held = {name: {s: patient_histograms(rows[arm][s], kind) for s in seeds} for name, (arm, kind) in names.items()}
    pooled = {name: [np.sum(list(h[s].values()), axis=0) for s in seeds] for name, h in held.items()}
    value = {name: float(np.mean([expected_calibration_error(each) for each in h])) for name, h in pooled.items()}
    paper = {"neither": ".142", "consistency loss": ".118"}
    lines = [[name, f"{value[name]:.4f}", paper.get(name, "–")] for name in names]
    pairs = [
        ("consistency loss", "neither"),
        ("temperature", "neither"),
        ("both", "neither"),
        ("consistency loss", "temperature"),
        ("both", "temperature"),
    ]
    found = [(a, b, ece_contrast(held[a], held[b])) for a, b in pairs]
    decided = holm([c.p for *_, c in found])
    below = [
        [f"{a} − {b}", f"{c.estimate:+.4f}", span(c.interval()), f"{c.detectable:.4f}", chance(c.p),
         "undecided" if not significant else "lower" if c.estimate < 0 else "higher"]
        for (a, b, c), significant in zip(found, decided, strict=True)
    ]  # fmt: skip
    alone = ", whose variance no interval holds" if len(seeds) == 1 else ""
    note = f"{len(seeds)} seed(s){alone}, all folds, 15 equal bins of the lesion's probability, all pixels pooled"
    head = ["difference in ECE", "estimate", "95 % interval", "detectable", "p", "reads (Holm)"]
    above = markdown(["ECE", "ours", "paper"], lines)
    return f"**calibration on ultrasound** ({note})\n\n{above}\n\n{markdown(head, below)}"


def rates(results: Results) -> str:
    """The trials and what they chose."""
    lines = []
    for arm in sorted({arm.rate_of for arm in ARMS.values()} - {None}):
        held = [f"{results.scores[run.name]:.3f}" if run.name in results.scores else "–" for run in trials(arm)]
        rate = best_rate(arm, results.scores)
        lines.append([arm, *held, "–" if rate is None else f"{rate:g}"])
    head = ["Dice on validation patients", *(f"{run.rate:g}" for run in trials("unet")), "chosen"]
    return f"**learning rates** (fold 0, seed 0)\n\n{markdown(head, lines)}"


def pooled_sd(found: Iterable[Contrast]) -> float | None:
    """Standard deviation over seeds pooled over contrasts."""
    held = [c.seed_sd for c in found if c.seed_sd is not None]
    return float(np.sqrt(np.mean(np.square(held)))) if held else None


def contrast_line(name: str, c: Contrast, kind: str, paper: str, *, significant: bool | None = None) -> list[str]:
    """One row of a table of contrasts."""
    cells = [name, kind, str(c.seeds), f"{c.estimate:+.3f}", span(c.interval()), span(c.interval(0.90))]
    return [*cells, f"{c.detectable:.3f}", chance(c.p), c.reads(significant=significant), paper]


def chance(p: float) -> str:
    """A p value as text.

    >>> chance(0.0004), chance(0.0421)
    ('< 0.001', '0.042')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def span(interval: tuple[float, float]) -> str:
    """An interval as text."""
    digits = 3 if max(map(abs, interval)) >= 0.02 else 4
    return f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}"


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
