"""The measure stage against a bare loop of the forwards and backwards that it recorded, same batch and threads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.rows import Row, side_by_side
from xaiseg import pipeline
from xaiseg.engines import open_shards
from xaiseg.measure import Kit, measure_once, measure_shard
from xaiseg.plan import Options
from xaiseg.protocol import load_protocol

MODEL = Path("examples/clinical/model.yaml")
FORWARD_ONLY = Path(__file__).with_name("forward-only.yaml")
CASES = 208


def rows(*, long: bool) -> Iterator[Row]:
    runs = 7 if long else 3
    yield _row("measure stage, forward-only protocol", str(FORWARD_ONLY), "<= 1.5", runs)
    yield _row("measure stage, clinical protocol", "clinical", "<= 1.25", runs)


def _row(bench: str, protocol: str, goal: str, runs: int) -> Row:
    with TemporaryDirectory() as folder:
        resolved = load_protocol(protocol)
        opened = pipeline.open_model(MODEL)
        out = Path(folder) / "run"
        run = pipeline.draft(opened, resolved, Options(out=out, limit=CASES)).write()
        started = time.perf_counter()
        kit = Kit.open(run.path)
        opening = time.perf_counter() - started
        shards = [shard for shard in open_shards(run) if isinstance(shard, int)]

        def ours() -> None:
            measure_once(kit)
            for shard in shards:
                measure_shard(kit, shard)

        ours()
        costs = run.table("costs")
        forwards, backwards = int(costs["forwards"].sum()), int(costs["backwards"].sum())
        peer = bare_loop(kit, forwards, backwards)
        concluding = _seconds_of_conclusion(run, resolved)
        cases = len(run.cases())
        settings = (
            f"{cases} phantom cases, {forwards} forwards and {backwards} backwards, batch {kit.plan['batch']}, "
            f"{kit.plan['threads']} thread, opening the kit {opening:.1f} s, {concluding}"
        )
        version = f"torch {torch.__version__}"
        same = "the peer does the same forwards and backwards and keeps nothing"
        return side_by_side(
            bench, ours, peer, peer_version=version, settings=settings, goal=goal, same_result=same, runs=runs
        )


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
