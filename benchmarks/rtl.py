"""``python -m benchmarks.rtl [--windows N]``: the shipped networks' convolutions through the units in Verilog.

Ranges come from 16 validation phantoms, windows from 2 test phantoms, 128 x 128 px; seed 0 throughout.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from benchmarks.ladder import CALIBRATION, batches, loaded
from xaiseg.hardware.cosimulation import STRATA, Cosimulated, cosimulate
from xaiseg.hardware.deployed import deploy
from xaiseg.hardware.folding import fold
from xaiseg.hardware.graph import trace
from xaiseg.hardware.quantise import quantise
from xaiseg.hardware.radiomic_core import OUTSIDE, RadiomicCore
from xaiseg.hardware.unit import EXACT
from xaiseg.zoo.radiomicnet import radiomicnet_compact
from xaiseg.zoo.unet_compact import UNetCompact

CASES = 2


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rtl", description=__doc__)
    parser.add_argument("--windows", type=int, default=200, help="output values a convolution")
    windows = parser.parse_args().windows
    torch.set_num_threads(1)
    unet = loaded(UNetCompact(1, 1), "unet-compact-phantom")
    core = RadiomicCore(loaded(radiomicnet_compact(1, 1), "radiomicnet-compact-phantom")).eval()
    seen, given = (torch.cat(list(batches(*each))) for each in (("validation", CALIBRATION), ("test", CASES)))
    _network("unet-compact", unet, (), (seen,), (given,), windows)
    _network("radiomicnet-compact", core, OUTSIDE, core.arguments(seen), core.arguments(given), windows)


def _network(
    name: str,
    network: nn.Module,
    outside: tuple[str, ...],
    calibration: tuple[Tensor, ...],
    arguments: tuple[Tensor, ...],
    windows: int,
) -> None:
    integers = quantise(fold(trace(network, outside=outside)), [calibration], split="validation")
    for arithmetic in EXACT:
        layers = cosimulate(deploy(integers, arithmetic=arithmetic), arguments, windows=windows)
        print(f"{name}, {arithmetic}: {len(layers)} convolutions, seed 0")
        for layer in layers if arithmetic == EXACT[0] else ():
            print(f"  {layer.path:22} {layer.unit.terms:5} terms  {_figures((layer,))}")
        print(f"  {'all':22} {'':11}  {_figures(layers)}", flush=True)
        print("  windows: " + ", ".join(f"{sum(layer.strata[kind] for layer in layers)} {kind}" for kind in STRATA))


def _figures(layers: Iterable[Cosimulated]) -> str:
    held = list(layers)
    digits, clocks = sum(layer.digits for layer in held), sum(layer.clocks for layer in held)
    differ = [
        sum(getattr(layer, f"{name}_differ") for layer in held) for name in ("digits", "values", "clocks", "ended")
    ]
    ended, seconds = sum(layer.ended for layer in held), sum(layer.seconds for layer in held)
    return f"{digits:6} digits {clocks:6} clocks {ended:5} END  differ {differ}  {seconds:5.2f} s"


if __name__ == "__main__":
    main()
