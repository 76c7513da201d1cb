"""The class activation maps beside pytorch-grad-cam's, on the shipped U-Net, one layer, one region, one thread.

The peer gets the network itself, without the way in and out that ours takes. Where it has a batch setting it gets the
fastest of BATCHES; ours keeps its default. Wall time on a busy machine is noisy, so each row gives the ratio of
processor time too.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.image import scale_cam_image

from benchmarks.rows import Row, side_by_side
from xaiseg.data.phantoms import PhantomSpec, phantom_case
from xaiseg.explainers.base import Session, explain, get_explainer
from xaiseg.explainers.targets import Region, predicted_region
from xaiseg.loading import load_subject
from xaiseg.modelfile import read_model_file
from xaiseg.subject import Segmenter

MODEL = Path(__file__).resolve().parents[1] / "examples" / "clinical" / "unet-compact.yaml"
SIDE, SEED = 128, 0
#: The automatic choice, after a ReLU as the papers assume: 96 channels on 16 x 16 cells.
LAYER = "encoder.3.5"
#: 16 channels on 128 x 128 cells.
WIDE = "decoder.2.5"
BATCHES = (4, 8, 16, 32, 64)
#: Ours -> the peer's; it has no Seg-XRes-CAM.
ONE_PASS = {
    "gradcam": "GradCAM",
    "hirescam": "HiResCAM",
    "seg-xres-cam": "",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "eigencam": "EigenCAM",
    "seg-eigencam": "SegEigenCAM",
    "eigengradcam": "EigenGradCAM",
}
#: A principal component has no sign; the peer leaves it to chance in these.
SIGNLESS = ("eigencam", "eigengradcam")


@dataclasses.dataclass(frozen=True)
class Scene:
    """One model, image and region for both sides."""

    subject: Segmenter
    image: torch.Tensor  # (1, SIDE, SIDE)
    region: Region

    def ours(self, methods: tuple[str, ...], layer: str, **params: Any) -> dict[str, np.ndarray]:
        """Maps (SIDE, SIDE) of one session that knows nothing yet."""
        session = Session(self.subject, self.image, seed=SEED)
        kinds = {method: partial(get_explainer(method).params, layer=layer, **params) for method in methods}
        return {name: explain(session, name, [self.region], params=kind()).values[0] for name, kind in kinds.items()}

    def peer(self, name: str, layer: str, batch: int | None = None) -> np.ndarray:
        """(SIDE, SIDE) in [0, 1]."""
        network, mask = self.subject.module, torch.from_numpy(self.region.mask)
        assert network is not None
        with (
            contextlib.redirect_stderr(io.StringIO()),  # its progress bars
            getattr(pytorch_grad_cam, name)(network, [network.get_submodule(layer)]) as cam,
        ):
            if batch is not None:
                cam.batch_size = batch
            return cam(self.image[None], targets=[lambda logits: logits[0][mask].mean()])[0]

    def difference(self, method: str, name: str, layer: str, **params: Any) -> float:
        """The largest one, of values in [0, 1], once our raw map of the layer went through the peer's own scaling."""
        bare = copy.copy(self.subject)
        bare.to_image_grid = lambda maps, _: maps  # type: ignore[method-assign] - the peer clips before it resizes
        entry = get_explainer(method)
        found = entry.function(
            Session(bare, self.image, seed=SEED), [self.region], params=entry.params(layer=layer, **params)
        )
        expected = self.peer(name, layer)
        signs = (1, -1) if method in SIGNLESS else (1,)
        scaled = [
            scale_cam_image(scale_cam_image((sign * found.values).clip(min=0), (SIDE, SIDE)))[0] for sign in signs
        ]
        return min(float(np.abs(each - expected).max()) for each in scaled)


def rows(*, long: bool = False) -> Iterator[Row]:
    scene, runs = _scene(), 15 if long else 7
    yield from _one_pass(scene, runs)
    for method, name in (("scorecam", "ScoreCAM"), ("ablationcam", "AblationCAM")):
        yield _by_forwards(scene, runs, method, name)
    yield _timed(
        "CAMs: Eigen-CAM on 128 x 128 cells",
        partial(scene.ours, ("eigencam",), WIDE),
        partial(scene.peer, "EigenCAM", WIDE),
        settings=f"layer {WIDE}, 16 channels",
        goal=">= 20",
        inverse=True,
        same_result=f"{scene.difference('eigencam', 'EigenCAM', WIDE):.1e} up to the sign",
        runs=3,  # the peer takes half a minute each
    )


def _scene() -> Scene:
    subject = load_subject(read_model_file(MODEL))
    assert isinstance(subject, Segmenter)
    values = phantom_case(PhantomSpec(size=(SIDE, SIDE)), SEED)[0].astype(np.float32) / 255
    image = torch.from_numpy(values)[None]
    region = predicted_region(Session(subject, image).prediction, subject.info.classes)
    assert region is not None  # this phantom has a lesion that the network finds
    return Scene(subject, image, region)


def _one_pass(scene: Scene, runs: int) -> Iterator[Row]:
    theirs = {method: name for method, name in ONE_PASS.items() if name}
    gaps = {method: scene.difference(method, name, LAYER) for method, name in theirs.items()}
    common: dict[str, Any] = {
        "settings": f"layer {LAYER}, 96 channels on 16 x 16 cells",
        "same_result": ", ".join(f"{method} {gap:.1e}" for method, gap in gaps.items()),
        "runs": runs,
    }
    ours = partial(scene.ours, tuple(ONE_PASS), LAYER)
    yield _timed(
        f"CAMs: all {len(ONE_PASS)} one-pass maps beside one Grad-CAM",
        ours,
        partial(scene.peer, "GradCAM", LAYER),
        goal="<= 1.5",
        **common,
    )
    yield _timed(
        f"CAMs: all {len(ONE_PASS)} one-pass maps beside {len(theirs)} one after another",
        ours,
        lambda: [scene.peer(name, LAYER) for name in theirs.values()],
        goal=">= 5",
        inverse=True,
        **common,
    )


def _by_forwards(scene: Scene, runs: int, method: str, name: str) -> Row:
    """Score-CAM or Ablation-CAM with the published weights, a forward a channel, and the peer at its best batch."""
    taken = {batch: min(_cpu(partial(scene.peer, name, LAYER, batch)) for _ in range(2)) for batch in BATCHES}
    best = min(taken, key=lambda batch: taken[batch])
    return _timed(
        f"CAMs: {name.replace('CAM', '-CAM')}",
        partial(scene.ours, (method,), LAYER, reference=True),
        partial(scene.peer, name, LAYER, best),
        settings=f"layer {LAYER}, 96 channels; batches: ours 8, peer {best}, its fastest of {BATCHES}",
        goal="<= 1.10" if method == "scorecam" else "<= 0.80",
        same_result=f"{scene.difference(method, name, LAYER, reference=True):.1e}",
        runs=runs,
    )


def _timed(
    bench: str, ours: Callable[[], object], peer: Callable[[], object], *, inverse: bool = False, **row: Any
) -> Row:
    """A row with the ratio of processor time beside that of wall time."""
    spent: tuple[list[float], list[float]] = ([], [])
    row["settings"] += f", {SIDE} px phantom {SEED}, 1 thread"
    row["same_result"] = "largest difference after its own clipping and scaling, range 0 to 1: " + row["same_result"]
    found = side_by_side(
        bench,
        lambda: spent[0].append(_cpu(ours)),
        lambda: spent[1].append(_cpu(peer)),
        peer_version=f"grad-cam {version('grad-cam')}",
        inverse=inverse,
        **row,
    )
    a, b = (statistics.median(each[1:]) for each in spent)  # the first is the warm-up
    return dataclasses.replace(
        found, settings=f"{found.settings}; ratio of processor time {b / a if inverse else a / b:.2f}"
    )


def _cpu(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began
