"""``python -m benchmarks.claims --ultrasound DIR --polyps DIR [--int8 FILE] [--limit N] | --report``

Does the trainings that are still missing from benchmarks/claims/results.parquet, one after the other, on one thread;
a stopped one goes on. ``--report`` prints the tables of docs/zoo/radiomicnet.md from that file alone.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import torch

from benchmarks.claims import store
from benchmarks.claims.measure import run_one
from benchmarks.claims.plan import pending, total
from benchmarks.claims.report import report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("--ultrasound", type=Path, help="folder of BUS-BRA: images/, masks/, meta.csv")
    parser.add_argument("--polyps", type=Path, help="folder of Kvasir-SEG")
    parser.add_argument("--int8", type=Path, help="tf2_mobilenet_v2_1.0_224_ptq.tflite; without it that arm waits")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"), help="checkpoints and weights")
    parser.add_argument("--limit", type=int, help="stop after this many trainings")
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    if given.report:
        print(report(store.load()))
        return
    torch.set_num_threads(1)
    folders = {name: path for name, path in (("ultrasound", given.ultrasound), ("polyps", given.polyps)) if path}
    done = 0
    while given.limit is None or done < given.limit:
        results = store.load()
        waiting = (
            run for run in pending(results.scores) if run.data in folders and (run.arm != "imagenet_int8" or given.int8)
        )
        run = next(waiting, None)
        if run is None:
            break
        start, out = time.monotonic(), given.out / run.name
        print(f"[{len(results.scores) + 1}/{total()}] {run.name}", flush=True)
        facts, rows = run_one(run, folders, out, int8=given.int8, log=lambda line: print("  " + line, flush=True))
        facts |= {
            "seconds": round(time.monotonic() - start, 1),
            "torch": torch.__version__,
            "day": time.strftime("%Y-%m-%d"),
        }
        store.add(facts, rows)
        (out / "weights.safetensors").unlink()
        shutil.rmtree(out)
        done += 1
    print(f"{len(store.load().scores)} of {total()} trainings are done; --report prints what they say")


if __name__ == "__main__":
    main()
