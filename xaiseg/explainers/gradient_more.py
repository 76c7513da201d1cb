"""Gradients that are averaged over samples, or passed back by other rules.

SmoothGrad: D. Smilkov et al., arXiv:1706.03825. GradientSHAP (expected gradients): S. M. Lundberg, S.-I. Lee, NeurIPS
2017; G. Erion et al., Nature Machine Intelligence 2021. DeepLift, rescale rule: A. Shrikumar et al., ICML 2017. Guided
backpropagation: J. T. Springenberg et al., arXiv:1412.6806; it fails the sanity check of J. Adebayo et al., NeurIPS
2018.

The sampled two are computed here, because captum gives no standard error; the others are captum's, behind a check that
it can see every operation that it means to change.
"""

from __future__ import annotations

import warnings
from collections import Counter
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
from xaiseg.explainers.replacement import DESCRIPTION, Replacement
from xaiseg.explainers.tap import evaluation_mode
from xaiseg.explainers.targets import Target
from xaiseg.seeds import generator

#: What autograd calls operations that bend: DeepLift has to see each of them as a module.
_BENDS: Final = frozenset(
    {"Relu", "LeakyRelu", "PreluKernel", "Elu", "Celu", "Sigmoid", "Tanh", "Softplus", "Softmax", "LogSoftmax", "Gelu"}
    | {"Silu", "Mish", "Hardswish", "Hardtanh", "Hardsigmoid", "Hardshrink", "Softshrink", "MaxPool2DWithIndices"}
    | {"AdaptiveMaxPool2D", "Amax", "Maximum", "Clamp", "ClampMin", "ClampMax", "Abs"}
)


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
        SubjectError: an operation that bends is no module that the rule knows, or a module is executed twice.
    """
    from captum.attr import DeepLift
    from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR

    start, found = session.baseline(params.baseline), []
    for target in targets:
        _all_seen(session, target, "deeplift", tuple(SUPPORTED_NON_LINEAR), _BENDS)
        with _hooked(session, target, "deeplift") as model:
            attributed = DeepLift(model).attribute(_leaf(session), baselines=start[None])
        found.append(summed(attributed[0]))
    changes = _changes(session, targets, start)
    errors = np.array([completeness_error(each, change) for each, change in zip(found, changes, strict=True)])
    notes = [f"compared with {DESCRIPTION[params.baseline]}"]
    notes += [f"completeness error {error:.1%}" for error in errors]
    return Attribution(np.stack(found), completeness=errors, notes=tuple(notes))


@explainer(
    "guided-backprop", needs=NEEDS | {"activations"}, unit="logit per unit of brightness, guided", params=NoParams,
    forwards=lambda params: 2,
)  # fmt: skip
def guided_backprop(session: Session, targets: Sequence[Target], *, params: NoParams) -> Attribution:
    """The gradient with every negative one dropped at each ReLU on the way back.

    Raises:
        SubjectError: a ReLU is no module, or there is none.
    """
    from captum.attr import GuidedBackprop

    found = []
    for target in targets:
        if not _all_seen(session, target, "guided-backprop", (nn.ReLU,), frozenset({"Relu"})):
            raise SubjectError("the network has no ReLU module, so this would be the plain gradient",
                               where="guided-backprop", then="Use saliency")  # fmt: skip
        with _hooked(session, target, "guided-backprop") as model:
            attributed = GuidedBackprop(model).attribute(_leaf(session))
        found.append(summed(attributed[0]))
    notes = ("fails the model randomisation sanity check: it draws edges of the image whatever the weights are",)
    return Attribution(np.stack(found), notes=notes)


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
    except (RuntimeError, AssertionError) as error:
        raise SubjectError(
            f"captum cannot pass through this network: {str(error).splitlines()[0]}",
            where=method,
            then="A module that is executed more than once is the usual reason; use integrated-gradients",
        ) from error
    finally:
        for part, held in zip(parts, before, strict=True):
            for name in {"input", "output"} - held:
                part.__dict__.pop(name, None)


def _all_seen(
    session: Session, target: Target, method: str, known: tuple[type[nn.Module], ...], bends: frozenset[str]
) -> int:
    """Checks on the autograd graph that every operation that bends was made by a module of a known kind.

    Returns:
        The number of executions of such modules.

    Raises:
        SubjectError: operations that the method would not see, and which.
    """
    module = session.subject.module
    made: list[Any] = []

    def hook(_: nn.Module, __: object, output: object) -> None:
        made.append(getattr(output, "grad_fn", None))

    parts = [part for part in module.modules() if isinstance(part, known)] if module is not None else []
    handles = [part.register_forward_hook(hook) for part in parts]
    try:
        with evaluation_mode(module), torch.enable_grad():
            value = scored(session, target)(_leaf(session))
    finally:
        for handle in handles:
            handle.remove()
    hidden = Counter(name for node, name in _nodes(value) if name in bends and node not in made)
    if hidden:
        listed = ", ".join(f"{name} ({count} times)" for name, count in sorted(hidden.items()))
        raise SubjectError(
            f"{method} cannot see operations of the network or of the target that are no modules that it knows",
            where=session.subject.info.name,
            got=listed,
            allowed=", ".join(sorted(kind.__name__ for kind in known)) + " as modules, and a target of logits",
            then="Use integrated-gradients or gradientshap, which need no modules",
        )
    return len(made)


def _nodes(value: Tensor) -> Iterator[tuple[Any, str]]:
    """The operations behind a value, and their names without autograd's ending."""
    seen: set[Any] = set()
    waiting: list[Any] = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node, type(node).__name__.rstrip("0123456789").removesuffix("Backward")
            waiting.extend(following for following, _ in node.next_functions)
