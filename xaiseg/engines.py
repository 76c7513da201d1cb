"""Engines run the same shard function: one after the other, or in a pool of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from xaiseg.errors import UsageError, did_you_mean
from xaiseg.measure import Kit, measure_once, measure_shard
from xaiseg.run import ONCE, RunDirectory

Shard = int | str
#: Runs the shards that are still open and yields each when it is written.
Engine = Callable[[Path, Sequence[Shard], int], Iterator[Shard]]


def run_shards(run: RunDirectory, *, engine: str, workers: int | None = None) -> Iterator[Shard]:
    """Measures every shard that is not done yet.

    Args:
        run: a planned run.
        engine: "serial" or "processes"; both write the same tables.
        workers: processes of the pool; None = one a core, never more than open shards.

    Yields:
        Each shard when its tables are on disk.

    Raises:
        UsageError: unknown engine, or a worker died.
    """
    if engine not in ENGINES:
        raise UsageError(f"'{engine}' is not an engine", where="--engine", then=did_you_mean(engine, ENGINES))
    todo = open_shards(run)
    count = min(workers or os.cpu_count() or 1, max(1, len(todo)))
    yield from ENGINES[engine](run.path, todo, count)


def open_shards(run: RunDirectory) -> list[Shard]:
    """Shards whose costs are not on disk yet."""
    shards: list[Shard] = [ONCE, *range(run.plan()["shards"])]
    return [shard for shard in shards if not run.is_done(shard)]


def _work(kit: Kit, shard: Shard) -> None:
    if isinstance(shard, str):
        measure_once(kit)
    else:
        measure_shard(kit, shard)


def _serial(path: Path, todo: Sequence[Shard], workers: int) -> Iterator[Shard]:
    kit = Kit.open(path) if todo else None
    for shard in todo:
        assert kit is not None
        _work(kit, shard)
        yield shard


_KIT: Kit | None = None  # one a worker process


def _start_worker(path: str) -> None:
    """Opens the kit once and makes the worker end when its parent dies, so that a kill leaves nothing running."""
    global _KIT
    # Ctrl-C reaches every process of a terminal; the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _KIT = Kit.open(path)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _work_here(shard: Shard) -> Shard:
    assert _KIT is not None
    _work(_KIT, shard)
    return shard


def _processes(path: Path, todo: Sequence[Shard], workers: int) -> Iterator[Shard]:
    if workers < 2 or len(todo) < 2:
        yield from _serial(path, todo, workers)
        return
    # Spawn behaves alike on Linux, macOS and Windows and is the only start method that is safe with CUDA.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(str(path),))
    pending: set[Future[Shard]] = set()
    try:
        pending = {pool.submit(_work_here, shard) for shard in todo}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise UsageError(
            "a worker process died (out of memory, or the model crashed it)",
            where=path,
            then="Run the same command with --engine serial or fewer --workers: it goes on where it stopped",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


ENGINES: Final[dict[str, Engine]] = {"serial": _serial, "processes": _processes}
