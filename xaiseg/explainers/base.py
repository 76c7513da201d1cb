"""What an explainer is, the registry of explainers, and the session that they share for one image.

A new explainer of the package is a function in a module of :data:`BUILTIN`; a third party registers through the entry
point group ``xaiseg.explainers``.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from xaiseg.errors import SubjectError, UsageError, did_you_mean
from xaiseg.explainers.bank import MaskBank
from xaiseg.explainers.masks import Design
from xaiseg.explainers.replacement import Replacement, replacement
from xaiseg.explainers.tap import Tap, evaluation_mode, open_tap
from xaiseg.explainers.targets import Target
from xaiseg.parameters import frozen_with_defaults, load_entry_points
from xaiseg.subject import OFFERS, Prediction, Segmenter


@dataclass(frozen=True)
class Cost:
    """What a map cost.

    Attributes:
        forwards: passes forward, counted in images.
        backwards: passes back, counted in images.
        seconds: of the clock.
        peak_mb: most memory that tensors on the CUDA device took meanwhile, MB, the model and the image among them.
            None on a CPU, where the operating system counts a peak of the whole process since it began, which says
            nothing of one map.
    """

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    peak_mb: float | None = None


@dataclass(frozen=True)
class Attribution:
    """Maps for T targets of one image, in the image's own pixels.

    Attributes:
        values: (T, H, W) float32, raw and signed: positive where the image speaks for the target.
        stderr: (T, H, W) float32 standard error of sampled methods, or None for exact ones.
        completeness: (T,) |sum of the map - what it should sum to|, relative; or None where no sum is promised.
        cost: filled by :func:`explain`.
        notes: sentences that a reader of the map must know: the layer, the replacement, a shortfall.
        method: name of the explainer; filled by :func:`explain`, as are the next two.
        params: an instance of its parameters.
        seed: of the session.
    """

    values: np.ndarray
    stderr: np.ndarray | None = None
    completeness: np.ndarray | None = None
    cost: Cost = field(default_factory=Cost)
    notes: tuple[str, ...] = ()
    method: str = ""
    params: Any = None
    seed: int = 0


@dataclass(frozen=True)
class Budget:
    """What one image may cost at a time: ``batch_size`` images a forward pass."""

    batch_size: int = 8


class Session:
    """One image under explanation; owns what explainers and metrics share, and counts what they spend.

    Args:
        subject: the audited model.
        image: (C, H, W) float32 in the subject's declared range.
        seed: for explainers that sample.
        budget: images a pass.
        prediction: the prediction that targets were frozen from, where it is known already. A session on a randomised
            copy of the model gets the prediction of the model itself.
        dataset_mean: (C, H, W) or (C, 1, 1), what the baseline "dataset-mean" shows.
    """

    def __init__(
        self,
        subject: Segmenter,
        image: Tensor | np.ndarray,
        *,
        seed: int = 0,
        budget: Budget | None = None,
        prediction: Prediction | None = None,
        dataset_mean: Tensor | np.ndarray | None = None,
    ) -> None:
        self.subject = subject
        self.image = torch.as_tensor(image, dtype=torch.float32).to(subject.device)
        self.seed = seed
        self.budget = budget or Budget()
        self.forwards = 0
        self.backwards = 0
        self._prediction = prediction
        self._logits: Tensor | None = None
        self._taps: dict[tuple[object, ...], Tap] = {}
        self._dataset_mean = dataset_mean
        self._fills: dict[Replacement, Tensor] = {}
        self._banks: dict[tuple[object, ...], MaskBank] = {}

    @property
    def logits(self) -> Tensor:
        """(K, H, W) of the unperturbed image; one forward, once."""
        if self._logits is None:
            self._logits = self._predict([self.image])[0]
        return self._logits

    @property
    def prediction(self) -> Prediction:
        """The prediction of the unperturbed image."""
        if self._prediction is None:
            self._prediction = self.subject.decide(self.logits)
        return self._prediction

    def score(self, target: Target) -> float:
        """S of the unperturbed image."""
        return float(target.score(self.logits[None])[0])

    def scores(self, images: Iterable[Tensor], targets: Sequence[Target]) -> np.ndarray:
        """S of perturbed images (C, H, W), in one batched stream that never holds more than one batch.

        Returns:
            (N, T) float64.

        Raises:
            SubjectError: a score is not finite.
        """
        stream = iter(images)
        found: list[np.ndarray] = []
        while chunk := list(islice(stream, self.budget.batch_size)):
            found.append(self._scored(chunk, targets).cpu().double().numpy())
        scores = np.concatenate(found) if found else np.zeros((0, len(targets)))
        for image, target in np.argwhere(~np.isfinite(scores))[:1]:
            where = f"target {targets[target].name}"
            got = f"{scores[image, target]} for perturbed image {image + 1} of {len(scores)}"
            raise SubjectError("the score of a perturbed image is not finite", where=where, got=got)
        return scores

    def predictions(self, images: Iterable[Tensor]) -> Iterator[Prediction]:
        """What the model decides on perturbed images (C, H, W), batch by batch."""
        stream = iter(images)
        while chunk := list(islice(stream, self.budget.batch_size)):
            yield from (self.subject.decide(logits) for logits in self._predict(chunk))

    def baseline(self, kind: Replacement) -> Tensor:
        """What hidden pixels show, (C, H, W); made once."""
        if kind not in self._fills:
            self._fills[kind] = replacement(self.image, kind, seed=self.seed, dataset_mean=self._dataset_mean)
        return self._fills[kind]

    def bank(self, design: Design, baseline: Replacement) -> MaskBank:
        """The masked forwards of this design and baseline, which all methods of the session share."""
        key = (design, baseline)
        if key not in self._banks:
            self._banks[key] = MaskBank(self, design, self.baseline(baseline))
        return self._banks[key]

    @property
    def banks(self) -> tuple[MaskBank, ...]:
        """The banks that methods and metrics have opened, in that order."""
        return tuple(self._banks.values())

    def differentiable(self, batch: Tensor) -> Tensor:
        """Logits (B, K, H, W) of a batch (B, C, H, W), with a graph; the caller counts its backward passes."""
        self.forwards += len(batch)
        return self.subject.forward(batch)

    def tap(
        self,
        targets: Sequence[Target],
        layer: str | None = None,
        *,
        token_grid: tuple[int, int] | None = None,
        gradients: bool = True,
    ) -> Tap:
        """Activations and gradients at one layer for these targets; computed once, shared by all CAM methods.

        With ``gradients=False`` any tap at that layer will do, and a new one runs no backward pass.
        """
        place = (layer, token_grid)
        if not gradients and (known := [tap for key, tap in self._taps.items() if key[:2] == place]):
            return known[0]
        key = (*place, *targets) if gradients else place
        if key not in self._taps:
            module = self.subject.module
            if module is None:
                raise SubjectError("this subject shows no network", where="activations", got=self.subject.info.name)
            leaf = self.image[None].clone().requires_grad_(True)
            scores = [target.score for target in targets]
            self._taps[key] = open_tap(
                module, lambda: self.differentiable(leaf), scores, layer, token_grid=token_grid, gradients=gradients
            )
            self.backwards += len(targets) if gradients else 0
        return self._taps[key]

    def _scored(self, images: list[Tensor], targets: Sequence[Target]) -> Tensor:
        """S of one batch of images: (B, T)."""
        logits = torch.stack(self._predict(images))
        return torch.stack([target.score(logits) for target in targets], dim=1)

    def _predict(self, images: list[Tensor]) -> list[Tensor]:
        self.forwards += len(images)
        with torch.inference_mode(), evaluation_mode(self.subject.module):
            return self.subject.predict(images, batch_size=self.budget.batch_size)


@dataclass(frozen=True)
class NoParams:
    """For an explainer without parameters."""


#: ``function(session, targets, *, params) -> Attribution``.
ExplainerFunction = Callable[..., Attribution]


@dataclass(frozen=True)
class Explainer:
    """A registered explainer.

    Attributes:
        name: e.g. "hirescam".
        needs: subset of :data:`~xaiseg.subject.OFFERS` that the subject must offer.
        params: frozen dataclass whose fields have defaults.
        unit: unit of the raw map, for the colour bar.
        function: ``(session, targets, *, params) -> Attribution``.
        cost: params -> most forwards for one target; None = not declared, see :meth:`forwards`.
    """

    name: str
    needs: frozenset[str]
    params: type
    unit: str
    function: ExplainerFunction
    cost: Callable[[Any], int] | None = None

    def forwards(self, params: Any = None) -> int:
        """The most forwards that a map of one target takes, the image's own among them.

        Where none are declared: a method that runs forwards for the channels of a layer is taken to meet
        :data:`CHANNELS` of them, since the layer is found only later; any other passes once.

        Args:
            params: an instance of its parameters, or None for its defaults.

        >>> get_explainer("occlusion").forwards(), get_explainer("hirescam").forwards()
        (65, 1)
        """
        if self.cost is not None:
            return self.cost(self.params() if params is None else params)
        return CHANNELS + FEW_MORE if {"scores", "activations"} <= self.needs else 1

    def missing(self, subject: Segmenter) -> str:
        """Why this subject cannot be explained by it, as a clause; "" when it can."""
        lacking = sorted(self.needs - subject.info.offers)
        return f"{self.name} needs {' and '.join(lacking)}, which this model does not offer" if lacking else ""


REGISTRY: dict[str, Explainer] = {}

#: Channels that a method meets which runs a forward for each and does not say how many; more than a decoder has.
CHANNELS: Final = 512
#: Its other forwards: the image, the baseline, the layer's record, and two channels to check a replay by.
FEW_MORE: Final = 8

#: Modules of the package that register explainers.
BUILTIN: Final = (
    "cam",
    "cam_eigen",
    "cam_masks",
    "detection_odam",
    "gradient",
    "gradient_more",
    "occlusion",
    "rise",
    "shapley",
    "owen",
    "lime",
    "sobol",
)


def explainer(
    name: str,
    *,
    needs: Iterable[str],
    unit: str,
    params: type = NoParams,
    forwards: Callable[[Any], int] | None = None,
) -> Callable[[ExplainerFunction], ExplainerFunction]:
    """Registers an explainer function; ``forwards`` says, from its parameters, the most forwards for one target.

    Raises:
        ValueError: the name is taken, a need is unknown, or the parameters are no frozen dataclass with defaults.
    """

    def register(function: ExplainerFunction) -> ExplainerFunction:
        wanted = frozenset(needs)
        taken = name in REGISTRY and REGISTRY[name].function.__module__ != function.__module__
        problems = [
            (taken, "the name is taken"),
            (bool(wanted - OFFERS), f"unknown needs {sorted(wanted - OFFERS)}; allowed: {sorted(OFFERS)}"),
            (not frozen_with_defaults(params), "params must be a frozen dataclass whose fields have defaults"),
        ]
        for wrong, message in problems:
            if wrong:
                raise ValueError(f"explainer {name!r} ({function.__module__}.{function.__qualname__}): {message}")
        REGISTRY[name] = Explainer(name, wanted, params, unit, function, forwards)
        return function

    return register


def load_explainers() -> dict[str, Explainer]:
    """Imports the package's explainers and those of third parties (entry point group ``xaiseg.explainers``)."""
    for module in BUILTIN:
        import_module(f"xaiseg.explainers.{module}")
    load_entry_points("xaiseg.explainers")
    return REGISTRY


def get_explainer(name: str) -> Explainer:
    """The explainer with this name.

    Raises:
        UsageError: unknown name, with a hint.

    >>> get_explainer("occlusion").unit
    'logit'
    """
    known = load_explainers()
    if name not in known:
        raise UsageError("no explainer has this name", where="method", got=name, then=did_you_mean(name, known))
    return known[name]


def explain(session: Session, method: str, targets: Sequence[Target], *, params: Any = None) -> Attribution:
    """Explains one image by one method.

    Args:
        session: the image and the model.
        method: a registered name.
        targets: at least one target.
        params: an instance of the explainer's parameters, or None for its defaults.

    Raises:
        UsageError: unknown method, no target, or parameters of another explainer.
        SubjectError: the subject lacks what the method needs, or the map is not finite.
    """
    entry = get_explainer(method)
    chosen = entry.params() if params is None else params
    if not targets:
        raise UsageError("nothing is to be explained", where=method, got="no target", allowed="1 target or more")
    if not isinstance(chosen, entry.params):
        kind = f"{entry.params.__module__}.{entry.params.__name__}"
        got = f"{type(chosen).__name__} {chosen}"
        raise UsageError(f"these are no parameters of {method}", where="params", got=got, allowed=f"{kind}(...)")
    if reason := entry.missing(session.subject):
        raise SubjectError(reason, where=session.subject.info.name)
    forwards, backwards, began = session.forwards, session.backwards, time.perf_counter()
    device = session.image.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    found = entry.function(session, targets, params=chosen)
    peak_mb = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
    seconds = time.perf_counter() - began
    cost = Cost(session.forwards - forwards, session.backwards - backwards, seconds, peak_mb)
    checked = _checked(found, method, (len(targets), *session.image.shape[1:]), cost)
    return dataclasses.replace(checked, method=method, params=chosen, seed=session.seed)


def _checked(found: Attribution, method: str, shape: tuple[int, ...], cost: Cost) -> Attribution:
    if found.values.shape != shape:
        raise SubjectError("the map has another size", where=method, got=found.values.shape, allowed=shape)
    if not np.isfinite(found.values).all():
        raise SubjectError("the map is not finite", where=method, got="NaN or infinity")
    notes = found.notes
    if not found.values.any():
        notes = (*notes, "the map is zero everywhere: by this method nothing in the image moves the score")
    return dataclasses.replace(found, values=found.values.astype(np.float32, copy=False), cost=cost, notes=notes)
