"""D-RISE beside bare forwards and beside vision-explanation-methods, on the seal detector of the examples.

The peer pins matplotlib below 3.7, so it has to be installed beside the project without its requirements:
``pip install --no-deps vision-explanation-methods==0.1.1``. Its own loop runs then as it is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from benchmarks.rows import Row, meets, side_by_side
from xaiseg.data.scenes import SceneSpec, scene_case
from xaiseg.explainers.bank import Responses
from xaiseg.explainers.base import Budget
from xaiseg.explainers.detection import explain_objects
from xaiseg.explainers.detection_spec import ObjectScene, parse_objects
from xaiseg.explainers.detection_targets import ObjectTarget
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.masks import Design
from xaiseg.explainers.rise import RiseParams, averaged
from xaiseg.explainers.stopping import painted
from xaiseg.loading import load_subject
from xaiseg.modelfile import read_model_file
from xaiseg.subject import Detector

MODEL = Path(__file__).resolve().parents[1] / "examples" / "wildlife" / "model.yaml"
SIDE, BATCH, MASKS, OBJECTS, GRID = 320, 8, 64, 4, 16
#: Masks of the fusing alone; D-RISE takes 5,000, and the peer keeps each in three channels of pixels.
FUSED = 256
PEER = "vision-explanation-methods"
DESIGN = Design("bernoulli", GRID, 0.5, 4)


def rows(*, long: bool = False) -> Iterator[Row]:
    held = read_model_file(MODEL)
    subject = load_subject(replace(held, input=held.input.model_copy(update={"size": (SIDE, SIDE)})))
    assert isinstance(subject, Detector)
    runs = 7 if long else 3
    image = tile()
    yield overhead(subject, image, runs)
    yield fusing(subject, image, runs)
    yield wall(subject, image, runs)
    yield memory(5000 if long else 320)


def tile() -> torch.Tensor:
    """(3, 320, 320): a generated tile with seals, in [0, 1]."""
    for index in range(100):
        case = scene_case(SceneSpec(size=(SIDE, SIDE)), index)
        if len(case.boxes) >= 2:
            return torch.from_numpy(np.moveaxis(case.image, -1, 0).astype(np.float32) / 255)
    raise AssertionError("no tile has two seals")


def opened(subject: Detector, image: torch.Tensor) -> tuple[DetectionSession, tuple[ObjectTarget, ...]]:
    """A fresh session and its best detections."""
    session = DetectionSession(subject, image, budget=Budget(BATCH))
    return session, parse_objects([f"box {place}" for place in range(OBJECTS)], ObjectScene(session))


def overhead(subject: Detector, image: torch.Tensor, runs: int) -> Row:
    """Painting, composing, scoring and fusing beside the forwards of the same masked images."""
    session, _ = opened(subject, image)
    masked = list(session.bank(DESIGN, "mean").images(0, MASKS))
    params = RiseParams(MASKS, sampling="bernoulli", grid=GRID, agreement=2)

    def ours() -> None:
        fresh, targets = opened(subject, image)
        explain_objects(fresh, "rise", targets, params=params)

    def bare() -> None:
        subject.predict([image], batch_size=BATCH)
        for start in range(0, MASKS, BATCH):
            subject.predict(masked[start : start + BATCH], batch_size=BATCH)

    settings = f"{MASKS} masks of {GRID} x {GRID} cells, {OBJECTS} objects, {SIDE} px, batches of {BATCH}, 1 thread"
    return side_by_side(
        "D-RISE: all objects beside bare forwards", ours, bare, peer_version=f"torch {version('torch')}",
        settings=settings, goal="<= 1.15", same_result="the same masked images", runs=runs,
    )  # fmt: skip


def fusing(subject: Detector, image: torch.Tensor, runs: int) -> Row:
    """Maps from masks and scores that exist: in cells here, in pixels there."""
    from vision_explanation_methods.explanations.drise import MaskAffinityRecord, saliency_fusion

    session, targets = opened(subject, image)
    bank = session.bank(DESIGN, "mean")
    rows, groups = DESIGN.rows(bank.cells, session.seed, 0, FUSED)
    scores = np.random.default_rng(0).random((FUSED, len(targets)))  # their values cost the same whatever they are
    responses = Responses(rows, groups, scores)
    pixels = bank.cells.masks(responses.rows, responses.groups, image.device)
    records = [
        MaskAffinityRecord(mask.repeat(3, 1, 1), [torch.from_numpy(row).float()])
        for mask, row in zip(pixels, scores, strict=True)
    ]

    def ours() -> np.ndarray:
        return painted(bank, averaged(responses, DESIGN.keep))[0]

    def theirs() -> np.ndarray:
        return np.stack([each["detection"][0].numpy() for each in saliency_fusion(records, "cpu")[0]])

    # The peer stretches each map to 0 ... 1.
    found = ours()
    low, high = (edge(found, axis=(1, 2), keepdims=True) for edge in (np.min, np.max))
    gap = np.abs((found - low) / (high - low) - theirs()).max()
    return side_by_side(
        "D-RISE: fusing maps", ours, theirs, peer_version=f"{PEER} {version(PEER)}",
        settings=f"{FUSED} masks that exist, {OBJECTS} objects, {SIDE} px, 1 thread; ours with standard errors",
        goal=">= 20", same_result=f"largest difference {gap:.1e} of maps stretched to 0 ... 1", runs=runs, inverse=True,
    )  # fmt: skip


def wall(subject: Detector, image: torch.Tensor, runs: int) -> Row:
    """The whole of D-RISE with the same number of masks."""
    from vision_explanation_methods.explanations.common import DetectionRecord, GeneralObjectDetectionModelWrapper
    from vision_explanation_methods.explanations.drise import DRISE_saliency

    def record(found) -> DetectionRecord:
        return DetectionRecord(found.xyxy, found.scores, found.class_scores)

    class Wrapped(GeneralObjectDetectionModelWrapper):
        def predict(self, x: torch.Tensor) -> list[DetectionRecord]:
            return [record(each) for each in subject.predict(list(x), batch_size=BATCH)]

    session, targets = opened(subject, image)
    mine = record(session.detections).get_by_index(
        session.detections.scores.argsort(descending=True)[:OBJECTS].tolist()
    )
    params = RiseParams(MASKS, sampling="bernoulli", grid=GRID, agreement=2)

    def ours() -> np.ndarray:
        fresh, asked = opened(subject, image)
        return explain_objects(fresh, "rise", asked, params=params)[1].values

    def theirs() -> list:
        torch.manual_seed(0)
        return DRISE_saliency(Wrapped(), image[None], [mine], MASKS, (GRID, GRID))

    return side_by_side(
        f"D-RISE: wall time at {SIDE} px", ours, theirs, peer_version=f"{PEER} {version(PEER)}",
        settings=f"{MASKS} masks of {GRID} x {GRID} cells, {len(targets)} objects, batches of {BATCH} (the peer: 1)",
        goal=">= 1.0", same_result="masks of their own", runs=runs, inverse=True,
    )  # fmt: skip


MEASURE = """
import json, sys
import torch
from xaiseg.explainers.base import Budget
from xaiseg.explainers.detection import explain_objects
from xaiseg.explainers.detection_spec import ObjectScene, parse_objects
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.rise import RiseParams
from xaiseg.subject import Boxes, Detector, SubjectInfo

class Stub(Detector):
    info = SubjectInfo("stub", ("seal",), 3, offers=frozenset({"scores"}))

    def predict(self, images, *, batch_size=8):
        score = torch.stack(list(images))[:, :, ::16, ::16].mean(dim=(1, 2, 3))
        box, label = torch.tensor([[100.0, 100.0, 200.0, 180.0]]), torch.zeros(1, dtype=torch.int64)
        return [Boxes(box, each[None], label) for each in score]

def peak():
    # Not getrusage: its peak is inherited from the process that started this one.
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

torch.set_num_threads(1)
session = DetectionSession(Stub(), torch.rand(3, 800, 1066), budget=Budget(8))
targets = parse_objects("box 0", ObjectScene(session))
bare = peak()
params = RiseParams(int(sys.argv[1]), sampling="bernoulli", grid=16, agreement=2)
explain_objects(session, "rise", targets, params=params)
print(json.dumps(peak() - bare))
"""


def memory(masks: int) -> Row:
    """Peak memory beyond one bare forward, in a process of its own, with a detector that takes none."""
    done = subprocess.run([sys.executable, "-c", MEASURE, str(masks)], check=True, capture_output=True, text=True)
    ours = float(json.loads(done.stdout))
    peer = masks * 3 * 800 * 1066 * 4 / 2**20
    return Row(
        bench="D-RISE: memory at 800 x 1066",
        command="make bench",
        ours=round(ours, 1),
        peer=round(peer, 1),
        peer_version=f"{PEER} {version(PEER)}",
        settings=f"{masks} masks of {GRID} x {GRID} cells, a stub detector, batches of {BATCH}",
        unit="MB beyond one bare forward; ratio = ours; the peer's: 3 x H x W float32 a mask, computed, not measured",
        ratio=round(ours, 1),
        goal="<= 1024",
        holds=meets(ours, "<= 1024"),
        same_result="",
        runs=1,
    )
