"""``python -m benchmarks [NAME ...] [--long]`` runs the benches, prints each row and writes results.json."""

from __future__ import annotations

import sys

import torch

from benchmarks import bank, measure_stage, metrics, radiomics, road
from benchmarks.rows import Row, save

BENCHES = {
    "measure": measure_stage.rows,
    "metrics": metrics.rows,
    "radiomics": radiomics.rows,
    "bank": bank.rows,
    "road": road.rows,
}


def main(arguments: list[str]) -> None:
    names = [argument for argument in arguments if not argument.startswith("--")] or list(BENCHES)
    long = "--long" in arguments
    torch.set_num_threads(1)  # over-subscription costs a factor of ten on two cores
    rows: list[Row] = []
    for name in names:
        for row in BENCHES[name](long=long):
            state = "holds" if row.holds else "MISSED"
            print(f"{row.bench}: ratio {row.ratio}, goal {row.goal}: {state}", flush=True)
            print(f"    ours {row.ours} s, peer {row.peer} s ({row.peer_version}), median of {row.runs}", flush=True)
            print(f"    {row.settings}; same result: {row.same_result}", flush=True)
            rows.append(row)
    save(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
