"""What the planted shortcut does: to the tiles, and to a detector that was taught it.

    python -m benchmarks.floes [MODEL.yaml ...]

Without models: tiles drawn a second, and the share of seals on bright floes at several correlations. For each model:
AP50 on its own test entry, and AP50 and recall by what a seal lies on, on the default test tiles, where the ice says
nothing.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from xaiseg.data.readers import load_case, open_dataset
from xaiseg.data.scenes import SceneSpec, Shortcut, World, scene_case, scene_list
from xaiseg.detection.matching import match
from xaiseg.fitting_boxes import average_precision_of, pools_of
from xaiseg.loading import load_subject, read_model_file
from xaiseg.modelfile import ModelFile
from xaiseg.subject import Boxes, Detector


def tiles_a_second(world: World, count: int = 100) -> float:
    """The median of five runs."""
    spec, rates = SceneSpec(world=world), []
    for _ in range(5):
        start = time.perf_counter()
        for index in range(count):
            scene_case(spec, index)
        rates.append(count / (time.perf_counter() - start))
    return float(np.median(rates))


def share_on_bright(correlation: float, count: int = 400) -> tuple[float, int]:
    """Share of the seals of the first training tiles that lie on bright floes, and their number."""
    spec = SceneSpec("train", shortcut=Shortcut(correlation=correlation))
    grounds = [ground for index in range(count) for ground in scene_case(spec, index).grounds]
    return grounds.count("bright floe") / len(grounds), len(grounds)


def by_ground(subject: Detector) -> tuple[float, dict[str, tuple[int, int]]]:
    """AP50 on the default test tiles, and seals found and seals there by ground, at the subject's threshold."""
    spec, found, truths = SceneSpec(), [], []
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for index in range(len(scene_list(spec))):
        scene = scene_case(spec, index)
        (boxes,) = subject.predict([torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255])
        found.append(boxes)
        truths.append(scene.boxes)
        real = scene.boxes[:, 4] == 0
        kept = boxes.scores >= subject.info.threshold.value
        table = match(boxes.xyxy[kept].numpy(), boxes.scores[kept].numpy(), scene.boxes[real, :4],
                      scene.boxes[~real, :4])  # fmt: skip
        for ground, finder in zip(np.array(scene.grounds)[real], table.finder, strict=True):
            counts[str(ground)][0] += int(finder >= 0)
            counts[str(ground)][1] += 1
    ap50 = average_precision_of(pools_of(found, truths, 1))
    return ap50, {ground: (hits, all_of) for ground, (hits, all_of) in sorted(counts.items())}


def own_ap50(model: ModelFile, subject: Detector) -> float:
    """AP50 on the test entry of model.yaml."""
    found: list[Boxes] = []
    truths, entry, spec = [], model.data["test"], model.image_spec()
    for ref in open_dataset("test", entry, root=model.data_root, spec=spec).cases:
        case = load_case(entry, ref, spec)
        assert case.boxes is not None
        found += subject.predict([torch.from_numpy(case.image)])
        truths.append(case.boxes)
    return average_precision_of(pools_of(found, truths, 1))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, help="model.yaml of detectors of seals")
    torch.set_num_threads(1)
    args = parser.parse_args(argv)
    if not args.models:
        print(f"tiles a second: seals {tiles_a_second('seals'):.0f}, cetaceans {tiles_a_second('cetaceans'):.0f}")
        for correlation in (1.0, 0.9, 0.75, 0.5):
            share, count = share_on_bright(correlation)
            print(f"correlation {correlation:g}: {share:.1%} of {count} seals on bright floes")
    for path in args.models:
        model = read_model_file(path)
        subject = load_subject(model)
        assert isinstance(subject, Detector)
        ap50, counts = by_ground(subject)
        print(
            f"{path}: AP50 {own_ap50(model, subject):.3f} on its own test entry, {ap50:.3f} on the default test tiles"
        )
        for ground, (hits, count) in counts.items():
            print(f"  {ground}: {hits} of {count} seals found, {hits / count:.1%}")


if __name__ == "__main__":
    main()
