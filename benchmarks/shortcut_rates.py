"""How often the audit flags a detector that was taught the planted shortcut, and clears one that was not.

    OMP_NUM_THREADS=1 python -m benchmarks.shortcut_rates --out OUT [--world neutral] [--workers 2]
    python -m benchmarks.shortcut_rates --show [--world neutral]
    python -m benchmarks.shortcut_rates --show --rows benchmarks/shortcut_rates_first.json --seeds 101 129

For each seed ``detector-compact`` is trained on generated seals whose ice tells where they are, with correlation 1,
0.9, 0.75 and 0.5 (no shortcut), and audited in its own world, where the shortcut looks like skill, with the options and
the bound that protocol ``ecology`` has for ``shortcut.background``. Flagged = the requirement fails, cleared = it is
met; anything else counts as neither.

There are two worlds. On ``ice`` (seeds 201 to 229) most seals lie on floes and most floes carry a seal, so that any ice
tells where seals are, whatever its colour, and a detector without the shortcut may learn that. In the ``neutral`` one
(seeds 331 to 359, correlation 0.5 alone) seals and what looks like them lie anywhere, so that no ground tells anything;
what still goes with a seal is its shadow and, beside one in five, a block of ice.

Rows are kept in ``benchmarks/shortcut_rates.json``; stopped, the same command goes on with what is missing.
``shortcut_rates_first.json`` holds the rows of the protocol before (1.2.0: another metric and bound, 240 tiles, 4
epochs), from which the present one was chosen.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Final

from scipy import stats

from xaiseg.protocol import Protocol, load_protocol, protocol_from_document, protocol_yaml
from xaiseg.training import train_zoo

ROWS: Final = Path(__file__).with_name("shortcut_rates.json")
CHECK: Final = "shortcut.background"
CORRELATIONS: Final = (0.5, 0.75, 1.0, 0.9)
CLEAN: Final = 0.5
EPOCHS: Final = 8


@dataclass(frozen=True)
class World:
    """Options of ``scenes`` beside the shortcut, and seeds (first, last) and correlations that were set beforehand."""

    options: str
    seeds: tuple[int, int]
    correlations: tuple[float, ...]


WORLDS: Final = {
    "ice": World("", (201, 229), CORRELATIONS),
    "neutral": World(",placement=anywhere,spare_floes=3", (331, 359), (CLEAN,)),
}


@dataclass(frozen=True)
class Row:
    """One training and its audit.

    Attributes:
        seed: of tiles, first weights and order.
        correlation: of the colour of the ice with the seals; 0.5 = no shortcut.
        validation: what the training says of its own world.
        drop: the metric of the requirement, a share of the confidence in found objects; None = nothing found.
        lower: end of its 90 % interval.
        upper: the other.
        objects: how many the metric rests on.
        flights: clusters.
        bound: of the requirement.
        verdict: of the requirement.
        world: key of :data:`WORLDS`.
    """

    seed: int
    correlation: float
    validation: str
    drop: float | None
    lower: float | None
    upper: float | None
    objects: int
    flights: int
    bound: float
    verdict: str
    world: str = "ice"

    @property
    def called(self) -> str:
        """flagged, cleared or neither."""
        return {"FAIL": "flagged", "PASS": "cleared"}.get(self.verdict, "neither")

    @property
    def is_right(self) -> bool:
        """Whether the audit says what is so."""
        return self.called == ("cleared" if self.correlation == CLEAN else "flagged")


def protocol() -> Protocol:
    """The one check and the one requirement of ``ecology``, which decides here."""
    document = dict(load_protocol("ecology").resolved)
    own = [{**held, "severity": "gate"} for held in document["requires"] if held["check"] == CHECK]
    checks = {CHECK: document["checks"][CHECK]}
    document.update(protocol="shortcut-background", checks=checks, requires=own)
    return protocol_from_document({"resolved": document, "source": "benchmarks.shortcut_rates"})


def one(seed: int, correlation: float, world: str, out: Path) -> Row:
    """Trains and audits; a training that was stopped goes on."""
    folder = folder_of(out, seed, correlation, world)
    train_zoo(
        "detector-compact", f"scenes:shortcut={correlation:g}{WORLDS[world].options}", out=folder, recipe="brief",
        epochs=EPOCHS, seed=seed, threads=1, log=lambda line: None,
    )  # fmt: skip
    report = folder / "report"
    shutil.rmtree(report, ignore_errors=True)
    rules = folder / "protocol.yaml"
    rules.write_text(protocol_yaml(protocol()), encoding="utf-8")
    command = [sys.executable, "-m", "xaiseg", "audit", str(folder / "model.yaml"), "--protocol", str(rules),
               "--out", str(report), "--engine", "serial", "--no-pdf", "--quiet"]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1, 3, 4):
        raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr}")
    row = _row(seed, correlation, world, folder)
    shutil.rmtree(report)
    return row


def folder_of(out: Path, seed: int, correlation: float, world: str) -> Path:
    """Where a training stands."""
    return out / f"{seed}-{correlation:g}{'' if world == 'ice' else '-' + world}"


def _row(seed: int, correlation: float, world: str, folder: Path) -> Row:
    audit = json.loads((folder / "report" / "audit.json").read_text(encoding="utf-8"))
    (finding,) = audit["findings"]
    trained = (folder / "training.log").read_text(encoding="utf-8").splitlines()[-1].rpartition("grid: ")[2]
    held = next((each for each in audit["estimates"] if each["id"] == finding["estimate_id"]), None)
    found = held["interval"] if held else {"value": None, "lower": None, "upper": None, "n": 0, "n_clusters": 0}
    numbers = [None if found[name] is None else round(found[name], 4) for name in ("value", "lower", "upper")]
    return Row(
        seed, correlation, trained, *numbers, found["n"], found["n_clusters"],
        finding["requirement"]["bound"], finding["verdict"], world,
    )  # fmt: skip


def read_rows(path: Path = ROWS) -> list[Row]:
    """The rows that are there."""
    if not path.is_file():
        return []
    return [Row(**held) for held in json.loads(path.read_text(encoding="utf-8"))]


def write_rows(rows: Sequence[Row], path: Path = ROWS) -> None:
    """By seed, correlation and world, a line each."""
    ordered = sorted(rows, key=lambda row: (row.seed, row.correlation, row.world))
    lines = ",\n".join(json.dumps(asdict(row)) for row in ordered)
    path.with_suffix(".tmp").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    path.with_suffix(".tmp").replace(path)


def table(rows: Sequence[Row]) -> list[str]:
    """A line a correlation: what the audit said, and the share that is right with its exact 90 % interval."""
    lines = [
        f"{'correlation':>11} trained flagged cleared neither  right, 90 % interval (Clopper-Pearson)  confidence lost"
    ]
    for correlation in sorted({row.correlation for row in rows}, reverse=True):
        own = [row for row in rows if row.correlation == correlation]
        counts: Mapping[str, int] = {
            name: sum(row.called == name for row in own) for name in ("flagged", "cleared", "neither")
        }
        right = sum(row.is_right for row in own)
        ends = stats.binomtest(right, len(own)).proportion_ci(0.90)
        values = sorted(row.drop for row in own if row.drop is not None)
        lines.append(
            f"{correlation:11g} {len(own):7d} {counts['flagged']:7d} {counts['cleared']:7d} {counts['neither']:7d}  "
            f"{right} of {len(own)}: {right / len(own):.2f} ({ends.low:.3f} to {ends.high:.3f})".ljust(82)
            + (f"{values[0]:.2f} to {values[-1]:.2f}, median {median(values):.2f}" if values else "nothing found")
        )
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a folder a training")
    parser.add_argument("--rows", type=Path, default=ROWS, help="where the rows are kept")
    parser.add_argument("--world", choices=WORLDS, default="ice", help="where the seals lie")
    parser.add_argument("--seeds", type=int, nargs=2, help="the first and the last; those of the world unless given")
    parser.add_argument("--correlations", type=float, nargs="+", help="those of the world unless given")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print the table of the rows that are there")
    args = parser.parse_args(argv)
    world = WORLDS[args.world]
    correlations = args.correlations or world.correlations
    if not set(correlations) <= set(world.correlations):
        parser.error(f"correlations of the world {args.world}: {', '.join(f'{one:g}' for one in world.correlations)}")
    first, last = args.seeds or world.seeds
    rows, seeds = read_rows(args.rows), range(first, last + 1)
    if not args.show:
        if args.out is None:
            parser.error("--out is needed, or --show")
        there = {(row.seed, row.correlation, row.world) for row in rows}
        wanted = ((seed, each, args.world) for seed in seeds for each in correlations)
        missing = [each for each in wanted if each not in there]
        with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(one, *each, args.out) for each in missing]):
                rows.append(done.result())
                write_rows(rows, args.rows)
                print(rows[-1], flush=True)
    print("\n".join(table([row for row in rows if row.seed in seeds and row.world == args.world])))


if __name__ == "__main__":
    main()
