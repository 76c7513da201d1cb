"""The mask bank beside bare forwards, and its methods beside captum and lime, on the breast model of the examples."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from benchmarks.rows import Row, side_by_side
from xaiseg.explainers.base import Budget, Session, explain
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.lime import LimeParams
from xaiseg.explainers.masks import Design
from xaiseg.explainers.shapley import KernelShapParams
from xaiseg.explainers.superpixels import grid_segments
from xaiseg.explainers.targets import Region
from xaiseg.loading import load_subject
from xaiseg.modelfile import read_model_file
from xaiseg.subject import Segmenter

MODEL = Path(__file__).resolve().parents[1] / "examples" / "clinical" / "busbra" / "model.yaml"
SIDE, BATCH, MASKS, SEGMENTS, TARGETS = 128, 8, 160, 32, 4


def rows(*, long: bool = False) -> list[Row]:
    subject = load_subject(read_model_file(MODEL))
    assert isinstance(subject, Segmenter)
    image = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    runs = 7 if long else 3
    return [overhead(subject, image, runs), kernelshap(subject, image, runs), lime(subject, image, runs)]


def targets() -> list[Region]:
    """Quarters of the image: T targets that differ."""
    halves = np.arange(SIDE) >= SIDE // 2
    return [Region(1, (halves[:, None] == down) & (halves == across)) for down in (0, 1) for across in (0, 1)]


def overhead(subject: Segmenter, image: torch.Tensor, runs: int) -> Row:
    """Painting masks, composing images and scoring targets, beside the same number of images through predict."""
    regions, images = targets(), [image] * BATCH

    def ours() -> None:
        session = Session(subject, image, budget=Budget(BATCH))
        session.bank(Design("sobol"), "mean").responses(regions, MASKS)

    def bare() -> None:
        for _ in range(MASKS // BATCH):
            subject.predict(images, batch_size=BATCH)

    settings = f"{MASKS} Sobol masks of 8 x 8 cells at 4 positions, {TARGETS} targets, {SIDE} px, batches of {BATCH}"
    return side_by_side(
        "bank: masked forwards beside bare ones", ours, bare, peer_version=f"torch {version('torch')}",
        settings=settings, goal="<= 1.10", same_result="the same number of images", runs=runs,
    )  # fmt: skip


def kernelshap(subject: Segmenter, image: torch.Tensor, runs: int) -> Row:
    """All targets at once beside captum, one target after another, on the same masks."""
    from captum.attr import KernelShap

    regions, segments = targets(), grid_segments((SIDE, SIDE), SEGMENTS)
    params = KernelShapParams(MASKS, "given", segments, agreement=2)
    masks = Session(subject, image).bank(Design("shapley", segments=segments), "mean")
    shown = torch.from_numpy(masks.design.rows(masks.cells, 0, 0, MASKS)[0])[:, None].long()

    def ours() -> np.ndarray:
        return explain(Session(subject, image, budget=Budget(BATCH)), "kernelshap", regions, params=params).values

    def theirs() -> np.ndarray:
        return np.stack([_captum(KernelShap, subject, image, each, segments, shown) for each in regions])

    difference = float(np.abs(ours() - theirs()).max() / np.abs(ours()).max())
    settings = f"{MASKS} masks of {segments.count} segments, {TARGETS} targets, {SIDE} px, batches of {BATCH}"
    return side_by_side(
        f"kernelshap: {TARGETS} targets", ours, theirs, peer_version=f"captum {version('captum')}", settings=settings,
        goal=f">= {0.9 * TARGETS}", same_result=f"largest difference {difference:.1e} of the largest value", runs=runs,
        inverse=True,
    )  # fmt: skip


def _captum(method, subject, image, region, segments: Segments, shown) -> np.ndarray:
    def score(batch: torch.Tensor) -> torch.Tensor:
        return region.score(torch.stack(subject.predict(list(batch), batch_size=BATCH)))

    explainer = method(score)

    def generate(_, **options):
        yield torch.ones(1, segments.count, dtype=torch.long)
        yield torch.zeros(1, segments.count, dtype=torch.long)
        yield from shown

    explainer.perturb_func = generate
    found = explainer.attribute(
        image[None], baselines=float(image.mean()), feature_mask=torch.from_numpy(segments.labels)[None, None],
        n_samples=len(shown) + 2, perturbations_per_eval=BATCH,
    )  # fmt: skip
    return found[0, 0].numpy()


def lime(subject: Segmenter, image: torch.Tensor, runs: int) -> Row:
    """All targets at once beside lime_image in its multi-label mode, on the same masks."""
    from lime.lime_image import LimeImageExplainer

    regions, segments = targets(), grid_segments((SIDE, SIDE), SEGMENTS)
    params = LimeParams(MASKS, cut="given", segments=segments)
    bank = Session(subject, image).bank(Design("bernoulli", segments=segments), "mean")
    shown = np.concatenate([np.ones((1, segments.count)), bank.design.rows(bank.cells, 0, 0, MASKS)[0]]).astype(int)
    picture, mean = np.repeat(image.numpy()[0][:, :, None], 3, axis=2), float(image.mean())

    def ours() -> np.ndarray:
        return explain(Session(subject, image, budget=Budget(BATCH)), "lime", regions, params=params).values

    def scores(pictures: np.ndarray) -> np.ndarray:
        batch = list(torch.from_numpy(pictures[..., 0].astype(np.float32))[:, None])
        logits = torch.stack(subject.predict(batch, batch_size=BATCH))
        return torch.stack([region.score(logits) for region in regions], dim=1).numpy()

    def theirs() -> np.ndarray:
        explainer = LimeImageExplainer(random_state=0)
        explainer.random_state = _Fixed(shown)
        found = explainer.explain_instance(
            picture, scores, labels=tuple(range(TARGETS)), top_labels=None, hide_color=mean, num_samples=MASKS + 1,
            batch_size=BATCH, segmentation_fn=lambda _: segments.labels, random_seed=0,
        )  # fmt: skip
        values = [np.array([dict(found.local_exp[t])[k] for k in range(segments.count)]) for t in range(TARGETS)]
        return np.stack(values)[:, segments.labels]

    difference = float(np.abs(ours() - theirs()).max() / np.abs(ours()).max())
    settings = f"{MASKS} masks of {segments.count} segments, {TARGETS} labels, {SIDE} px, batches of {BATCH}"
    return side_by_side(
        f"lime: {TARGETS} labels", ours, theirs, peer_version=f"lime {version('lime')}", settings=settings,
        goal=">= 1.0", same_result=f"largest difference {difference:.1e} of the largest value", runs=runs, inverse=True,
    )  # fmt: skip


class _Fixed:
    """A random state that draws the same masks as ours."""

    def __init__(self, shown: np.ndarray) -> None:
        self.shown = shown

    def randint(self, *_):
        return self.shown.reshape(-1).copy()
