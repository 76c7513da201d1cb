"""``python -m benchmarks.zoo_cost [NAME ...]`` prints what the models of the zoo cost at 128 x 128 px on one thread.

Forward: float32 without gradients, as in an audit. Step: forward and backward in bfloat16 autocast and channels_last,
as in a training. Both for batches of 16, in milliseconds of processor time an image, the median of seven
after a warm-up.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xaiseg import zoo

SIDE = 128
BATCH = 16
RUNS = 7


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    print("| name | parameters | MMACs | forward, ms | step, ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in names or zoo.list_models():
        torch.manual_seed(0)
        network = zoo.build(name, 1, 1).to(memory_format=torch.channels_last)
        size = sum(parameter.numel() for parameter in network.parameters())
        print(f"| {name} | {size:,} | {macs(network) / 1e6:.0f} | {forward_ms(network):.1f} | {step_ms(network):.1f} |")


def macs(network: nn.Module) -> float:
    """Multiply-accumulates an image, of convolutions and matrix products."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(torch.zeros(1, 1, SIDE, SIDE))
    return counter.get_total_flops() / 2


def forward_ms(network: nn.Module) -> float:
    network.eval()
    images = _images()

    def run() -> None:
        with torch.inference_mode():
            network(images)

    return _median_ms(run)


def step_ms(network: nn.Module) -> float:
    network.train()
    images = _images()
    masks = (torch.rand(BATCH, 1, SIDE, SIDE) > 0.5).float()

    def run() -> None:
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(images)
        F.binary_cross_entropy_with_logits(logits.float(), masks).backward()

    return _median_ms(run)


def _images() -> Tensor:
    return torch.rand(BATCH, 1, SIDE, SIDE).contiguous(memory_format=torch.channels_last)


def _median_ms(run: Callable[[], None]) -> float:
    run()
    spent = []
    for _ in range(RUNS):
        # Time of the process, not of the wall: one thread, and others may use the machine.
        started = time.process_time()
        run()
        spent.append(time.process_time() - started)
    return statistics.median(spent) * 1000 / BATCH


if __name__ == "__main__":
    main(sys.argv[1:])
