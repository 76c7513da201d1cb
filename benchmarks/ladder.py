"""``python -m benchmarks.ladder [--cases N]``: the shipped networks from floats to digit-serial units, rung by rung.

Ranges come from validation phantoms, figures from test phantoms; seed 0 of both sets, no figure is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xaiseg.data.phantoms import PhantomSpec, Split, phantom_case
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.folding import fold
from xaiseg.hardware.graph import trace
from xaiseg.hardware.ladder import RUNGS, climb
from xaiseg.hardware.observers import Observer
from xaiseg.hardware.quantise import Scheme, quantise
from xaiseg.hardware.radiomic_core import OUTSIDE, RadiomicCore
from xaiseg.hardware.sampled import sampled_windows
from xaiseg.zoo.radiomicnet import radiomicnet_compact
from xaiseg.zoo.unet_compact import UNetCompact

WEIGHTS = Path(__file__).resolve().parents[1] / "xaiseg" / "zoo" / "weights"
SIDE, CALIBRATION, BATCH, WINDOWS = 128, 16, 8, 64
OBSERVERS: tuple[Observer, ...] = ("mse", "max", "percentile")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ladder", description=__doc__)
    parser.add_argument("--cases", type=int, default=64, help="test phantoms")
    cases = parser.parse_args().cases
    torch.set_num_threads(1)
    unet = loaded(UNetCompact(1, 1), "unet-compact-phantom")
    _table("unet-compact", unet, (), cases)
    core = RadiomicCore(loaded(radiomicnet_compact(1, 1), "radiomicnet-compact-phantom")).eval()
    _table("radiomicnet-compact", core, OUTSIDE, cases)


def _table(name: str, network: nn.Module, outside: tuple[str, ...], cases: int) -> None:
    folded = fold(trace(network, outside=outside))
    print(f"{name}: {len(folded.convolutions)} convolutions in integers")
    for line in folded.graph.remains():
        print(f"  {line}")
    with torch.inference_mode():
        positive = sum(int((network(*_arguments(network, x)) > 0).sum()) for x in batches("test", cases))
    print(f"  lesion in floating point: {positive / (cases * SIDE**2):.2%} of all pixels")
    for observer in OBSERVERS:
        calibration = [_arguments(network, x) for x in batches("validation", CALIBRATION)]
        integers = quantise(folded, calibration, split="validation", scheme=Scheme(observer=observer))
        sums = {rung: np.zeros(3) for rung in RUNGS if rung != "F"}
        for x in batches("test", cases):
            for rung in climb(network, integers, _arguments(network, x)):
                held = sums[rung.name]
                held[0] = max(held[0], rung.largest)
                held[1:] += len(x) / cases * np.array([rung.flips, rung.flips_from_float])
        for rung, (largest, flips, from_float) in sums.items():
            print(
                f"  {observer:10} {rung} {RUNGS[rung]:45} largest {largest:8.3g}  flips {flips:.4%}  "
                f"from float {from_float:.4%}"
            )
        first = next(batches("test", BATCH))
        samples = sampled_windows(deploy(integers), _arguments(network, first), count=WINDOWS)
        different = sum(sample.different for sample in samples)
        print(f"  {observer:10} windows through the recurrence: {WINDOWS * len(samples)}, different: {different}")


def _arguments(network: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    return network.arguments(x) if isinstance(network, RadiomicCore) else (x,)


def batches(split: Split, count: int) -> Iterator[Tensor]:
    """Phantoms (B, 1, SIDE, SIDE) of a split, in [0, 1]."""
    spec = PhantomSpec(split=split, size=(SIDE, SIDE))
    for first in range(0, count, BATCH):
        cases = (phantom_case(spec, index)[0] for index in range(first, min(first + BATCH, count)))
        yield torch.stack([torch.as_tensor(image.astype(np.float32) / 255)[None] for image in cases])


def loaded(network: nn.Module, name: str) -> nn.Module:
    """The network with its shipped weights, in evaluation mode."""
    network.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"))
    return network.eval()


if __name__ == "__main__":
    main()
