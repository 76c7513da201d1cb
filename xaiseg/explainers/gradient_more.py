"""Gradients that are averaged over samples, or passed back by other rules.

SmoothGrad: D. Smilkov et al., arXiv:1706.03825. GradientSHAP (expected gradients): S. M. Lundberg, S.-I. Lee, NeurIPS
2017; G. Erion et al., Nature Machine Intelligence 2021. DeepLift, rescale rule: A. Shrikumar et al., ICML 2017. Guided
backpropagation: J. T. Springenberg et al., arXiv:1412.6806; it fails the sanity check of J. Adebayo et al., NeurIPS
2018.

The sampled two are computed here, because captum gives no standard error, and so is guided backpropagation, because
captum's knows no ReLU6. DeepLift is captum's. The last two stand behind a check that they see every operation that they
mean to change.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Attribution, NoParams, Session, explainer
from xaiseg.explainers.gradient import NEEDS, completeness_error, score_of, scored, summed
from xaiseg.explainers.gradient_graph import RECTIFY, record, refuse
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.tap import evaluation_mode
from xaiseg.explainers.targets import Target
from xaiseg.seeds import generator

#: Modules at which guided backpropagation drops negative gradients; the second is the first with a ceiling.
GUIDED: Final = (nn.ReLU, nn.ReLU6)
FAILS: Final = "fails the model randomisation sanity check: it draws edges of the image whatever the weights are"
#: A completeness error of DeepLift above this is said loudly.
LARGE_ERROR: Final = 0.05
INSTEAD: Final = "Use integrated-gradients or gradientshap, which need no modules"


@dataclass(frozen=True)
class SmoothGradParams:
    """Parameters of SmoothGrad.

    Attributes:
        samples: noisy copies of the image.
        noise: standard deviation of the noise, as a share of the image's own range.
    """

    samples: int = 25
    noise: float = 0.15

    def __post_init__(self) -> None:
        _check_samples(self.samples, self.noise)


@dataclass(frozen=True)
class GradientShapParams:
    """Parameters of GradientSHAP.

    Attributes:
        samples: points drawn uniformly from the path between baseline and image.
        baseline: where the path starts.
        noise: standard deviation of noise on the image, as a share of its own range; 0 = none.
    """

    samples: int = 32
    baseline: Replacement = "mean"
    noise: float = 0.0

    def __post_init__(self) -> None:
        _check_samples(self.samples, self.noise)


@dataclass(frozen=True)
class DeepLiftParams:
    """Parameters of DeepLift.

    Attributes:
        baseline: the image that activations are compared with.
    """

    baseline: Replacement = "mean"


def _check_samples(samples: int, noise: float) -> None:
    if samples < 2:
        raise UsageError("a standard error needs two samples", where="samples", got=samples, allowed="2 or more")
    if noise < 0:
        raise UsageError("a standard deviation is not negative", where="noise", got=noise, allowed="0 or more")


@explainer(
    "smoothgrad", needs=NEEDS, unit="logit per unit of brightness", params=SmoothGradParams,
    forwards=lambda params: params.samples,
)  # fmt: skip
def smoothgrad(session: Session, targets: Sequence[Target], *, params: SmoothGradParams) -> Attribution:
    """The mean gradient over noisy copies of the image; the same copies for all targets."""
    random = generator(session.seed, "smoothgrad")
    scale = params.noise * float(session.image.max() - session.image.min())

    def copies() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(params.samples):
            noise = torch.from_numpy(random.standard_normal(session.image.shape, dtype=np.float32))
            yield session.image + scale * noise.to(session.image.device), torch.ones(1, device=session.image.device)

    values, errors = _sampled(session, targets, copies())
    note = f"{params.samples} copies with noise of {params.noise:.0%} of the image's range"
    return Attribution(values, stderr=errors, notes=(note,))


@explainer(
    "gradientshap", needs=NEEDS, unit="logit per pixel", params=GradientShapParams,
    forwards=lambda params: params.samples + 2,
)  # fmt: skip
def gradientshap(session: Session, targets: Sequence[Target], *, params: GradientShapParams) -> Attribution:
    """The mean over random points of the path from the baseline of gradient x (image - baseline).

    Integrated gradients with random points: the mean is the same, and the spread of the points gives its error.
    """
    random = generator(session.seed, "gradientshap")
    start = session.baseline(params.baseline)
    scale = params.noise * float(session.image.max() - session.image.min())

    def points() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(params.samples):
            noise = torch.from_numpy(random.standard_normal(session.image.shape, dtype=np.float32))
            step = session.image + scale * noise.to(session.image.device) - start
            yield start + float(random.uniform()) * step, step

    values, errors = _sampled(session, targets, points())
    changes = _changes(session, targets, start)
    found = np.array([completeness_error(each, change) for each, change in zip(values, changes, strict=True)])
    notes = [f"the path starts at {DESCRIPTION[params.baseline]}"]
    notes += [f"{params.samples} samples, completeness error {error:.1%}" for error in found]
    return Attribution(values, stderr=errors, completeness=found, notes=tuple(notes))


@explainer(
    "deeplift", needs=NEEDS | {"activations"}, unit="logit per pixel", params=DeepLiftParams, forwards=lambda params: 6
)
def deeplift(session: Session, targets: Sequence[Target], *, params: DeepLiftParams) -> Attribution:
    """DeepLift by the rescale rule: how far each pixel carries the score from that of the baseline.

    Raises:
        SubjectError: an operation that bends is no module that the rule knows, activations are multiplied with each
            other, or a module is executed twice.
    """
    from captum.attr import DeepLift

    start, found = session.baseline(params.baseline), []
    for target in targets:
        _check_deeplift(session, target)
        with _hooked(session, target, "deeplift") as model:
            attributed = DeepLift(model).attribute(_leaf(session), baselines=start[None])
        found.append(summed(attributed[0]))
    changes = _changes(session, targets, start)
    errors = np.array([completeness_error(each, change) for each, change in zip(found, changes, strict=True)])
    notes = [f"compared with {DESCRIPTION[params.baseline]}"]
    loud = ": the map does not sum to the change of the score, so its sizes mean little; use integrated-gradients"
    notes += [f"completeness error {error:.1%}{loud if error > LARGE_ERROR else ''}" for error in errors]
    return Attribution(np.stack(found), completeness=errors, notes=tuple(notes))


def _check_deeplift(session: Session, target: Target) -> None:
    """Refuses what the rescale rule, as captum hooks it, does not pass through."""
    from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR

    recorded = record(session, target)
    # captum looks for these very types: a subclass is passed as in a plain gradient.
    hidden = [
        (bends, each.path) for each in recorded.operations if (bends := each.bends)
        and each.kind not in SUPPORTED_NON_LINEAR
    ]  # fmt: skip
    allowed = ", ".join(sorted(kind.__name__ for kind in SUPPORTED_NON_LINEAR)) + " as modules, and a target of logits"
    refuse("deeplift", session, hidden, allowed, INSTEAD)
    twice = sorted(
        path for path, kind in recorded.kinds.items()
        if kind in SUPPORTED_NON_LINEAR and recorded.executions.get(path, 0) > 1
    )  # fmt: skip
    if twice:
        raise SubjectError(
            "deeplift cannot pass through a module that is executed more than once",
            where=session.subject.info.name,
            got=", ".join(f"{path} ({recorded.executions[path]} times)" for path in twice[:3])
            + ", ..." * (len(twice) > 3),
            allowed="a module of its own for each execution",
            then=INSTEAD,
        )


@explainer(
    "guided-backprop", needs=NEEDS | {"activations"}, unit="logit per unit of brightness, guided", params=NoParams,
    forwards=lambda params: 2,
)  # fmt: skip
def guided_backprop(session: Session, targets: Sequence[Target], *, params: NoParams) -> Attribution:
    """The gradient with every negative one dropped at each ReLU or ReLU6 on the way back.

    Raises:
        SubjectError: a ReLU is no module, another activation rectifies, or there is no ReLU.
    """
    found, notes = list[np.ndarray](), [FAILS]
    for target in targets:
        guided, plain = _check_guided(session, target)
        with evaluation_mode(session.subject.module), torch.enable_grad(), _guiding(session, guided):
            leaf = _leaf(session)
            (slope,) = torch.autograd.grad(scored(session, target)(leaf).sum(), leaf)
        session.backwards += 1
        found.append(summed(slope[0]))
        notes.append(f"guided at {_listed(guided)}" + (f"; passed as in a plain gradient: {plain}" if plain else ""))
    return Attribution(np.stack(found), notes=tuple(dict.fromkeys(notes)))


def _check_guided(session: Session, target: Target) -> tuple[list[str], str]:
    """Paths of the modules to guide, and other operations that bend, in words; refuses other rectifiers."""
    recorded = record(session, target)
    guided = sorted({each.path for each in recorded.operations if each.kind is not None and
                     issubclass(each.kind, GUIDED)})  # fmt: skip
    hidden = [
        (each.name, each.path) for each in recorded.operations if each.name in RECTIFY and each.path not in guided
    ]
    allowed = "ReLU and ReLU6 as modules, and a target of logits"
    refuse("guided-backprop", session, hidden, allowed, "Use saliency, smoothgrad or integrated-gradients")
    if not guided:
        raise SubjectError(
            "the network has no ReLU module on the way to the target, so this would be the plain gradient",
            where="guided-backprop",
            got=session.subject.info.name,
            allowed="a network with ReLU or ReLU6 modules",
            then="Use saliency",
        )
    others = sorted({bends for each in recorded.operations if (bends := each.bends) and each.path not in guided})
    return guided, ", ".join(others)


def _listed(paths: Sequence[str]) -> str:
    shown = ", ".join(path or "the network itself" for path in paths[:4])
    count = f"{len(paths)} module" + ("s" if len(paths) > 1 else "")
    return f"{count}: {shown}" + (", ..." if len(paths) > 4 else "")


@contextmanager
def _guiding(session: Session, paths: Sequence[str]) -> Iterator[None]:
    """Lets only positive gradients leave these modules on the way back."""

    def hook(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        # A copy, since a module that works in place would overwrite the tensor that the gradient belongs to.
        passed = inputs[0].clone()
        passed.register_hook(lambda slope: slope.clamp(min=0))
        return (passed, *inputs[1:])

    module = session.subject.module
    handles = [module.get_submodule(path).register_forward_pre_hook(hook) for path in paths] if module else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _changes(session: Session, targets: Sequence[Target], start: Tensor) -> list[float]:
    """S(image) - S(baseline) of each target."""
    first = session.scores([start], targets)[0]
    return [session.score(target) - float(score) for target, score in zip(targets, first, strict=True)]


def _sampled(
    session: Session, targets: Sequence[Target], draws: Iterable[tuple[Tensor, Tensor]]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of gradient x factor over drawn images and factors (C, H, W): (T, H, W) float32 each."""
    shape = (len(targets), *session.image.shape[1:])
    total, squares = (torch.zeros(shape, dtype=torch.float64, device=session.image.device) for _ in range(2))
    stream, count = iter(draws), 0
    while chunk := list(islice(stream, session.budget.batch_size)):
        count += len(chunk)
        factors = torch.stack([factor.expand_as(image) for image, factor in chunk])
        for index, slopes in enumerate(_slopes(session, torch.stack([image for image, _ in chunk]), targets)):
            maps = (slopes * factors).sum(dim=1).double()
            total[index] += maps.sum(dim=0)
            squares[index] += (maps**2).sum(dim=0)
    mean = total / count
    variance = (squares / count - mean**2).clamp(min=0) * count / (count - 1)
    return mean.float().cpu().numpy(), (variance / count).sqrt().float().cpu().numpy()


def _slopes(session: Session, batch: Tensor, targets: Sequence[Target]) -> Iterator[Tensor]:
    """Gradients (B, C, H, W) of each target by a batch, from one forward pass."""
    with evaluation_mode(session.subject.module), torch.enable_grad():
        leaf = batch.requires_grad_(True)
        logits = session.differentiable(leaf)
        for index, target in enumerate(targets):
            value = score_of(session, target, logits)
            more = index + 1 < len(targets)
            (slope,) = torch.autograd.grad(value.sum(), leaf, retain_graph=more, allow_unused=True)
            session.backwards += len(batch)
            yield torch.zeros_like(batch) if slope is None else slope.detach().float()


def _leaf(session: Session) -> Tensor:
    return session.image[None].clone().requires_grad_(True)


class _Scored(nn.Module):
    """The network with the score behind it, as a module whose parts captum can hook."""

    def __init__(self, session: Session, target: Target) -> None:
        super().__init__()
        self.network = session.subject.module
        self._score = scored(session, target)

    def forward(self, batch: Tensor) -> Tensor:
        return self._score(batch)


@contextmanager
def _hooked(session: Session, target: Target, method: str) -> Iterator[_Scored]:
    """A module for captum; what captum leaves behind after an exception is removed, and its errors are worded."""
    model = _Scored(session, target)
    parts = list(model.modules())
    before = [{name for name in ("input", "output") if name in part.__dict__} for part in parts]
    try:
        with evaluation_mode(session.subject.module), torch.enable_grad(), warnings.catch_warnings():
            # It says that it sets hooks and removes them, which is what is wanted.
            warnings.filterwarnings("ignore", message=r"\s*Setting (forward, )?backward hooks")
            yield model
        session.backwards += 1
    except (RuntimeError, AssertionError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise SubjectError(
            "the rules for going back cannot be carried through this network",
            where=method,
            got=f"{session.subject.info.name}, {type(error).__name__} of captum: {str(error).splitlines()[:1]}",
            allowed="modules that take and give one tensor, and whose answer to an image does not depend on its batch",
            then=INSTEAD,
        ) from error
    finally:
        for part, held in zip(parts, before, strict=True):
            for name in {"input", "output"} - held:
                part.__dict__.pop(name, None)
