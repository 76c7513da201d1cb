"""``python -m benchmarks [NAME ...] [--long] [--data DIR] [--models DIR]`` runs the benches and writes results.json.

DIR hold the real data sets and models that docs/explainers/perturbation.md names; ``converged`` alone needs them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch

from benchmarks import bank, cams, converged, drise, measure_stage, metrics, msdf, radiomics, road
from benchmarks.rows import Row, save


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all of them by default")
    parser.add_argument("--long", action="store_true", help="more runs, and the benches that take hours")
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--models", type=Path, metavar="DIR")
    given = parser.parse_args()
    benches: dict[str, Callable[..., Iterable[Row]]] = {
        "measure": measure_stage.rows,
        "metrics": metrics.rows,
        "radiomics": radiomics.rows,
        "bank": bank.rows,
        "cams": cams.rows,
        "drise": drise.rows,
        "msdf": msdf.rows,
        "road": road.rows,
        "converged": partial(converged.rows, data=given.data, models=given.models),
    }
    if unknown := sorted(set(given.names) - set(benches)):
        parser.error(f"no bench is named {', '.join(unknown)}; there are {', '.join(benches)}")
    torch.set_num_threads(1)  # over-subscription costs a factor of ten on two cores
    for name in given.names or benches:
        for row in benches[name](long=given.long):
            state = "holds" if row.holds else "MISSED"
            print(f"{row.bench}: ratio {row.ratio}, goal {row.goal}: {state}", flush=True)
            print(
                f"    ours {row.ours}, peer {row.peer} ({row.peer_version}), median of {row.runs}; {row.unit}",
                flush=True,
            )
            print(f"    {row.settings}; same result: {row.same_result}", flush=True)
            save([row])  # at once: what comes next may take hours


if __name__ == "__main__":
    main()
