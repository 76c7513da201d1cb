"""``python -m benchmarks.hardware_cost [--long]``: the cost model beside published figures, and of our U-Net.

Nothing is timed but the row of the processor. The units are those of the shipped compact U-Net in 8 bits, with ranges
of 16 validation phantoms. ``--long`` (minutes) runs two-stage units, too, and chooses prune and skip on 4 further
validation phantoms.
"""

from __future__ import annotations

import argparse
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from xaiseg.data.phantoms import PhantomSpec, Split, phantom_case
from xaiseg.hardware.cost_rows import graph_shapes, measured_cost, module_shapes, network_costs
from xaiseg.hardware.costs import Cost, total
from xaiseg.hardware.deployed import Deployed, deploy
from xaiseg.hardware.designs import ZYNQ_7020
from xaiseg.hardware.folding import fold
from xaiseg.hardware.graph import trace
from xaiseg.hardware.grouped import grouped_cost, grouped_unit
from xaiseg.hardware.grouped_network import grouped_stopping_cost, run_grouped
from xaiseg.hardware.published import NOT_PUBLISHED, reproductions
from xaiseg.hardware.quantise import quantise
from xaiseg.hardware.stopping_network import LayerStops, run_stopping, stopping_cost
from xaiseg.hardware.termination import Policy
from xaiseg.hardware.thresholds import choose_thresholds
from xaiseg.zoo.unet_compact import UNetCompact

WEIGHTS = Path(__file__).resolve().parents[1] / "xaiseg" / "zoo" / "weights" / "unet-compact-phantom.safetensors"
SIDE, CALIBRATION, FITTED, TESTED = 128, 16, 4, 8
#: Rounds over input channels leave no sign to stop at, so these units add all channels at once. Nobody has published
#: what they would draw or whether they would fit.
WHOLE = replace(ZYNQ_7020, name="16 blocks that add all input channels at once", inputs=None, power_w={})
WEIGHTS_TRIED = (None, 9, 10, 11, 12)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hardware_cost", description=__doc__)
    parser.add_argument("--long", action="store_true", help="two-stage units, and a choice of prune and skip")
    long = parser.parse_args().long
    torch.set_num_threads(1)
    print(f"{'figure':47} {'ours':>13} {'published':>13}  unit")
    for row in reproductions():
        beside = "" if row.published is None else f"{row.published:13.10g}"
        print(f"{row.name:47} {row.ours:13.10g} {beside:>13}  {row.unit:6} {row.note}")
    print("not published, and not filled in:", *(f"  {line}" for line in NOT_PUBLISHED), sep="\n")
    print("operations of U-Nets, from the shapes of their layers")
    for name, ops in unet_operations().items():
        print(f"  {name:40} {ops / 1e9:8.2f} GOP")
    network = _shipped()
    deployed = _deployed(network)
    print(f"unet-compact, {SIDE} x {SIDE} px, 8 bits")
    for cost in shipped_costs(network, deployed):
        print(_line(cost))
    _stopping(deployed)
    if long:
        _grouped(deployed)
        _thresholds(deployed)


def unet_operations() -> dict[str, float]:
    """Arithmetic operations of U-Nets of five levels, two for each multiply-add."""
    found = {}
    for base, side in ((64, 256), (64, 512), (32, 256), (64, 128)):
        with torch.device("meta"):
            network, x = UNetCompact(1, 2, tuple(base * 2**level for level in range(5))), torch.zeros(1, 1, side, side)
        found[f"{side} x {side}, {base} channels, padded"] = _operations(network, x)
    with torch.device("meta"):
        network, x = ValidUNet(), torch.zeros(1, 1, 572, 572)
    found["572 x 572, 64 channels, not padded"] = _operations(network, x)
    return found


class ValidUNet(nn.Module):
    """The U-Net of 2015: 3 x 3 convolutions without padding, skips cropped, 572 pixels in and 388 out."""

    def __init__(self) -> None:
        super().__init__()
        widths = (64, 128, 256, 512, 1024)
        self.encoder = nn.ModuleList(_double(a, b) for a, b in zip((1, *widths[:-1]), widths, strict=True))
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in steps)
        self.decoder = nn.ModuleList(_double(a, b) for a, b in steps)
        self.head = nn.Conv2d(64, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for block in self.encoder:
            x = block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, skips[-2::-1], strict=True):
            x = up(x)
            cut = (skip.shape[2] - x.shape[2]) // 2
            x = block(torch.cat((skip[:, :, cut : cut + x.shape[2], cut : cut + x.shape[3]], x), 1))
        return self.head(x)


def _double(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3), nn.ReLU(), nn.Conv2d(after, after, 3), nn.ReLU())


def _operations(network: nn.Module, x: Tensor) -> float:
    return 2.0 * sum(shape.macs for shape in module_shapes(network, x))


def _shipped() -> nn.Module:
    network = UNetCompact(1, 1)
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


def shipped_costs(network: nn.Module, deployed: Deployed) -> list[Cost]:
    """The shipped compact U-Net, by design."""
    workload, x = f"unet-compact {SIDE} x {SIDE}", torch.zeros(1, 1, SIDE, SIDE)
    costs = list(network_costs(deployed, (x,), workload=workload).image.values())
    shapes = graph_shapes(deployed.network.folded, x)
    costs.append(total([grouped_cost(shape, grouped_unit(shape.terms), workload=workload) for shape in shapes]))

    def forward() -> Tensor:
        with torch.inference_mode():
            return network(x)

    processor = platform.processor() or platform.machine()
    macs = sum(shape.macs for shape in shapes)
    return [*costs, measured_cost(forward, macs=macs, workload=workload, technology=f"{processor}, one thread")]


def _deployed(network: nn.Module) -> Deployed:
    images, _ = _phantoms("validation", range(CALIBRATION))
    return deploy(quantise(fold(trace(network)), [(images,)], split="validation"))


def _phantoms(split: Split, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """(N, 1, side, side) images in [0, 1] and masks."""
    cases = [phantom_case(PhantomSpec(split=split, size=(SIDE, SIDE)), index)[:2] for index in indices]
    images, masks = (torch.as_tensor(np.stack(part))[:, None] for part in zip(*cases, strict=True))
    return images.float() / 255, masks > 0


def _stopping(deployed: Deployed) -> None:
    images, masks = _phantoms("test", range(TESTED))
    expected = deployed(images)
    print(f"early termination on {TESTED} test phantoms; Dice with all digits {_dice(expected, masks):.4f}")
    costs = network_costs(deployed, (images[:1],), workload="one image", accelerator=WHOLE, designs=("mma",))
    print(_line(costs.image["mma"]))
    for name, policy in (("END", Policy(head=False)), ("END and head", Policy())):
        answer, rows = run_stopping(deployed, (images,), policy, accelerator=WHOLE)
        flips = int(((answer > 0) != (expected > 0)).sum())
        print(f"  {name}: {_saved(rows)}, pixels that change {flips}")
        print(_line(stopping_cost(costs, rows)))


def _grouped(deployed: Deployed) -> None:
    images, _ = _phantoms("test", range(TESTED))
    expected = deployed(images)
    shapes = graph_shapes(deployed.network.folded, images[:1])
    print(f"one two-stage unit on the same {TESTED} phantoms")
    for name, policy in (
        ("all digits", Policy(end=False, head=False)),
        ("END", Policy(head=False)),
        ("END and head", Policy()),
    ):
        answers, rows = zip(*(run_grouped(deployed.network, (image[None],), policy) for image in images), strict=True)
        flips = int(((torch.cat(answers) > 0) != (expected > 0)).sum())
        cycles = sum(row.cycles for image in rows for row in image)
        full = sum(row.windows * row.unit.cycles for image in rows for row in image)
        print(f"  {name}: cycles saved {1 - cycles / full:.2%}, pixels that change {flips}")
        costs = [grouped_stopping_cost(shapes, image, workload="one image") for image in rows]
        print(
            f"    mean of an image {np.mean([c.cycles for c in costs]) / 1e6:.2f} M cycles, "
            f"{np.mean([c.joules for c in costs]) * 1e3:.3f} mJ of the unit alone"
        )


def _thresholds(deployed: Deployed) -> None:
    images, masks = _phantoms("validation", range(CALIBRATION, CALIBRATION + FITTED))
    batches = [((image[None],), mask[None]) for image, mask in zip(images, masks, strict=True)]
    given = {"score": _dice, "allowed_loss": 0.02, "weights": WEIGHTS_TRIED}
    found = choose_thresholds(deployed, batches, split="validation", **given)
    print(f"prune and skip on {found.images} validation phantoms, Dice may fall by 0.02")
    for trial in found.trials:
        chosen = "  <- chosen" if trial == found.chosen else ""
        print(f"  prune {trial.policy.prune}, skip {trial.policy.skip}: {trial.saved:.2%}, {trial.score:.4f}{chosen}")
    images, masks = _phantoms("test", range(TESTED))
    answer, rows = run_stopping(deployed, (images,), found.chosen.policy, accelerator=WHOLE)
    print(f"  on {TESTED} test phantoms: {_saved(rows)}, Dice {_dice(answer, masks):.4f}")


def _dice(answer: Tensor, masks: Tensor) -> float:
    """Mean over the images; without a lesion in either, 1."""
    found = answer > 0
    both, either = (part.flatten(1).sum(1) for part in (found & masks, found.long() + masks.long()))
    return float(torch.where(either > 0, 2 * both / either, 1.0).mean())


def _saved(rows: Sequence[LayerStops]) -> str:
    rules: Counter[str] = Counter()
    for row in rows:
        rules.update(row.rules)
    units = 1 - sum(row.cycles for row in rows) / sum(row.cycles_full for row in rows)
    groups = 1 - sum(row.lockstep for row in rows) / sum(row.lockstep_full for row in rows)
    shares = ", ".join(f"{rule} {count / rules.total():.1%}" for rule, count in rules.most_common())
    return f"units' cycles saved {units:.2%}, time saved {groups:.2%}; windows stopped by {shares}"


def _line(cost: Cost) -> str:
    parts = [
        f"{cost.design:12} {cost.technology:20} {cost.boundary:6}",
        "" if cost.cycles is None else f"{cost.cycles / 1e6:.2f} M cycles",
        "" if cost.seconds is None else f"{cost.seconds * 1e3:.2f} ms ({cost.timing})",
        "no energy" if cost.joules is None else f"{cost.joules * 1e3:.3g} mJ",
        "" if cost.gops is None else f"{cost.gops:.2f} GOPS",
        "" if cost.gops_per_watt is None else f"{cost.gops_per_watt:.3g} GOPS/W",
        cost.source,
    ]
    return "  " + ", ".join(part for part in parts if part)


if __name__ == "__main__":
    main()
