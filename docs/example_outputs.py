"""Writes the section "Example output" of each page below docs/checks/ from a run of the shipped audit.

make audit
.venv/bin/python docs/example_outputs.py runs/demo
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from xaiseg.estimate import Estimate
from xaiseg.run import RunDirectory

PAGES = Path(__file__).with_name("checks")
#: Check -> metrics (or metric/target) that its page shows.
SHOWN = {
    "data.integrity": ("failed_images", "overlap_train_test", "near_duplicates", "empty_references"),
    "provenance": ("provenance_complete",),
    "performance.segmentation": (
        "dice", "nsd", "hd95", "missed_lesions", "lesion_f1", "false_component_images", "area_bias",
        "patients_dice_below_0.5",
    ),
    "subgroups.declared": ("dice_gap",),
    "subgroups.coverage": ("clusters", "thin_levels"),
    "calibration.pixels": ("ece_image", "ece_region_image", "ece_region_pooled", "region_signed_gap", "brier"),
    "explanation": (
        "excess_object_deletion", "excess_context_deletion", "randomisation_similarity",
        "randomisation_similarity_plain",
    ),
    "explanation.intrinsic": ("features_off_change", "features_off_dice_drop", "rank_agreement", "flattened_change"),
    "robustness.degradation": ("dice_drop",),
}  # fmt: skip


def main(path: str) -> None:
    run = RunDirectory.existing(path)
    estimates, plan = run.estimates(), run.plan()
    test = plan["data"]["test"]
    source = f"seed {plan['seed']}, {plan['created'][:10]}, {test['n_cases']} images of {test['n_clusters']} patients"
    for check, metrics in SHOWN.items():
        chosen = [one for one in estimates if one.check == check and one.metric in metrics]
        if not check.startswith("subgroups."):
            chosen = [one for one in chosen if not one.stratum and not one.target.startswith("baseline:")]
        said = f"From `make audit` ({source}):\n\n" + "\n".join(map(line, chosen))
        page = PAGES / f"{check}.md"
        before, _, rest = page.read_text(encoding="utf-8").partition("## Example output\n\n")
        after = re.search(r"\n\n## .*", rest, flags=re.S)
        page.write_text(before + "## Example output\n\n" + said + (after[0] if after else "\n"), encoding="utf-8")


def line(one: Estimate) -> str:
    """One estimate as an indented line of text."""
    name = one.id.removeprefix(one.check + "/")
    interval = one.interval
    shown = (
        ""
        if interval is None or interval.lower is None
        else f"  90 % interval {interval.lower:.3f} to {interval.upper:.3f}"
    )
    floor = "" if one.floor is None else f"  null floor {one.floor:.3f}"
    value = "not measured: " + one.reason if one.value is None else f"{one.value:.4g}"
    return f"    {name:<48}{value:>8}{shown}{floor}"


if __name__ == "__main__":
    main(sys.argv[1])
