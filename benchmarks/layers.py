"""Which layer to read a class activation map from: deletion scores of each grid's last layer, over generated phantoms.

python -m benchmarks.layers [--images 8]
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from xaiseg.data.phantoms import PhantomSpec, phantom_case
from xaiseg.explainers.base import Session
from xaiseg.explainers.targets import predicted_region
from xaiseg.faithfulness.layers import RankedLayer, rank_layers
from xaiseg.loading import load_subject
from xaiseg.modelfile import read_model_file
from xaiseg.subject import Segmenter

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "clinical"
METHODS = ("hirescam", "gradcam")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    images = parser.parse_args().images
    torch.set_num_threads(1)
    print("| model | layer | grid | method | context only | all pixels | best on |\n|" + " --- |" * 7)
    for file in ("model.yaml", "unet-compact.yaml"):
        subject = load_subject(read_model_file(EXAMPLES / file))
        assert isinstance(subject, Segmenter)
        for method in METHODS:
            _print(subject, method, images)


def _print(subject: Segmenter, method: str, images: int) -> None:
    found: dict[tuple[str, int, int], list[RankedLayer]] = defaultdict(list)
    first: dict[str, int] = defaultdict(int)
    for seed in range(images):
        pixels = phantom_case(PhantomSpec(), seed)[0].astype(np.float32) / 255
        session = Session(subject, torch.from_numpy(pixels)[None], seed=seed)
        region = predicted_region(session.prediction, subject.info.classes)
        if region is None:
            continue
        ranked = rank_layers(session, region, method=method)
        first[ranked[0].layer] += 1
        for each in ranked:
            found[each.layer, each.rows, each.columns].append(each)
    for (layer, rows, columns), each in sorted(found.items(), key=lambda item: item[0][1]):
        context, every = (float(np.nanmean([getattr(one, name) for one in each])) for name in ("context", "every"))
        print(
            f"| {subject.info.name} | `{layer}` | {rows} x {columns} | {method} | {context:.3f} | {every:.3f} | "
            f"{first[layer]} of {len(each)} |"
        )


if __name__ == "__main__":
    main()
