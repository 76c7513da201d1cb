"""The measure stage against a bare loop of the forwards and backwards that it recorded, same batch and threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import torch

from benchmarks.rows import Row, meets, seconds
from xaiseg import pipeline
from xaiseg.measure import Kit, measure_once, measure_shard
from xaiseg.plan import Options
from xaiseg.protocol import load_protocol
from xaiseg.run import COSTS

MODEL = Path("examples/clinical/unet-compact.yaml")
FORWARD_ONLY = Path(__file__).with_name("forward-only.yaml")
CASES = 208


def rows(*, long: bool) -> Iterator[Row]:
    yield _row("measure stage, forward-only protocol", str(FORWARD_ONLY), "<= 1.5", 7 if long else 3)
    # One pass takes about seven minutes; its shards are thirteen runs in turn, and the median is over them.
    yield _row("measure stage, clinical protocol", "clinical", "<= 1.25", 3 if long else 1)


def _row(bench: str, protocol: str, goal: str, passes: int) -> Row:
    with TemporaryDirectory() as folder:
        resolved = load_protocol(protocol)
        out = Path(folder) / "run"
        run = pipeline.draft(pipeline.open_model(MODEL), resolved, Options(out=out, limit=CASES)).write()
        started = time.perf_counter()
        kit = Kit.open(run.path)
        opening = time.perf_counter() - started
        measure_once(kit)
        shards = range(kit.plan["shards"])
        pairs = [pair for _ in range(passes) for pair in _pass(kit, shards)]
        costs = run.table("costs")
        settings = (
            f"{len(run.cases())} phantom cases, {costs['forwards'].sum()} forwards and {costs['backwards'].sum()} "
            f"backwards, batch {kit.plan['batch']}, {kit.plan['threads']} thread, shard by shard in turn; apart: "
            f"opening the kit {opening:.1f} s, {_seconds_of_conclusion(run, resolved)}"
        )
    ratio = statistics.median(ours / peer for ours, peer in pairs)
    return Row(
        bench=bench,
        command="make bench",
        ours=round(sum(ours for ours, _ in pairs) / passes, 2),
        peer=round(sum(peer for _, peer in pairs) / passes, 2),
        peer_version=f"a bare loop in torch {torch.__version__}",
        settings=settings,
        unit="s a pass over all shards; ratio = median over shards of ours / peer",
        ratio=round(ratio, 3),
        goal=goal,
        holds=meets(ratio, goal),
        same_result="the peer does the same numbers of forwards and backwards and keeps nothing",
        runs=len(pairs),
    )


def _pass(kit: Kit, shards: Iterable[int]) -> Iterator[tuple[float, float]]:
    """Seconds of each shard, and of the bare loop over what it recorded; in turn, so that drift hits both alike."""
    for shard in shards:
        ours = seconds(lambda shard=shard: measure_shard(kit, shard))
        costs = pq.read_table(kit.run.table_path(COSTS, shard)).to_pandas()
        yield ours, seconds(bare_loop(kit, int(costs["forwards"].sum()), int(costs["backwards"].sum())))


def _seconds_of_conclusion(run, resolved) -> str:
    started = time.perf_counter()
    pipeline.conclude(run, resolved, pdf=False)
    return f"estimate, judge and render without PDF {time.perf_counter() - started:.1f} s"


def bare_loop(kit: Kit, forwards: int, backwards: int):
    """The forwards and backwards alone, on one prepared batch of the network's own size."""
    module, batch = kit.subject.module, kit.plan["batch"]
    case = kit.load_test(next(iter(kit.refs)))
    captured: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0].detach().clone()))
    kit.subject.predict([torch.as_tensor(case.image)] * batch, batch_size=batch)
    hook.remove()
    prepared = captured[0]

    def loop() -> None:
        with torch.inference_mode():
            for _ in range(max(0, forwards - backwards) // batch):
                module(prepared)
        for _ in range(backwards // batch):
            inputs = prepared.clone().requires_grad_(True)
            torch.autograd.grad(module(inputs).sum(), inputs)

    return loop
