"""One image explained for a person: a picture, the raw maps and a manifest that says how they were made.

:func:`explain` gives the maps to a program, :func:`explain_image` writes them into a folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers import base
from xaiseg.explainers.base import Attribution, Cost, Explainer, Session, get_explainer
from xaiseg.explainers.detection import explain_objects, readings
from xaiseg.explainers.detection_targets import ObjectTarget
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.tap import evaluation_mode
from xaiseg.explainers.targets import SpatialTarget
from xaiseg.explaining_open import Shown, open_asked, open_session, open_targets
from xaiseg.explaining_params import parse_params, settled
from xaiseg.subject import Detector, Segmenter

if TYPE_CHECKING:
    from torch import Tensor

#: What is tried when the user names no method; what the model does not allow is listed in the manifest with the reason.
DEFAULT_METHODS: Final = ("hirescam", "integrated-gradients", "occlusion")
#: Seconds from which on an estimate of the cost is told before the work begins.
LONG_S: Final = 10.0


@dataclass(frozen=True)
class Explanation:
    """Maps of one method for T targets of one image.

    Attributes:
        method: the explainer.
        targets: what was explained. Of a detector, as the method saw it: methods that need a gradient read candidates
            before suppression, whose unit is another.
        attribution: the maps with everything that belongs to them.
    """

    method: Explainer
    targets: tuple[Shown, ...]
    attribution: Attribution

    @property
    def values(self) -> np.ndarray:
        """(T, H, W) float32, raw and signed."""
        return self.attribution.values

    @property
    def stderr(self) -> np.ndarray | None:
        """(T, H, W) float32 standard error of a sampled method, or None."""
        return self.attribution.stderr

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""
        return self.attribution.notes

    @property
    def cost(self) -> Cost:
        """Forwards, backwards, seconds of all targets together, the choice of a layer by ``layer=best`` among them."""
        return self.attribution.cost

    def unit(self, index: int = 0) -> str:
        """Unit of the map of a target."""
        return self.method.unit.replace("logit", self.targets[index].unit)


def explain(
    model: str | Path | Segmenter | Detector,
    image: str | Path | np.ndarray | Tensor,
    *,
    method: str = "hirescam",
    target: object = "pred",
    params: Any = None,
    reference: str | Path | np.ndarray | None = None,
    dataset_mean: str | Path | np.ndarray | Tensor | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Explanation:
    """Explains one image by one method.

    Args:
        model: a model.yaml, or a segmenter that is loaded already (or made by :func:`xaiseg.adapters.wrap_module`), or
            a detector.
        image: a file, or an array (H, W), (H, W, C) or (C, H, W): integers of 8 or 16 bits, which span the declared
            range, or floats within it.
        method: name of an explainer.
        target: what :func:`xaiseg.explainers.target_spec.parse_targets` reads: "pred", a class, "all", "x,y", a mask
            file, a mask (H, W) of True and False, a mapping, or a list of them. Mask files are looked for beside the
            working directory. What is asked twice has two maps. Of a detector what
            :func:`xaiseg.explainers.detection_spec.parse_objects` reads: "pred", a class, "box 0", "x,y",
            "x0,y0,x1,y1,class", "tp", "fp", "fn", a mapping, or a list of them.
        params: parameters of the explainer, or None for its defaults. The layer "best" of a class activation map is the
            one that :func:`xaiseg.faithfulness.layers.rank_layers` puts first.
        reference: a mask file or (H, W) class indices, of a detector a file of boxes or (N, 5) boxes and class indices,
            for targets that need one.
        dataset_mean: what the baseline "dataset-mean" shows: an image as ``image``, or one value a channel (C, 1, 1).
        seed: for methods that sample.
        device: where a model.yaml's model computes.

    Raises:
        UsageError: an unknown method or target, or nothing to explain in this image.
        DataError: the image cannot be used.
        SubjectError: the model does not offer what the method needs.
    """
    get_explainer(method)
    with torch.inference_mode(False):  # within it no gradient can be had, whoever called
        opened = open_session(model, image, seed=seed, device=device, detectors=True, dataset_mean=dataset_mean)
        session, described = opened
        targets = open_targets(session, target, reference, image=image, described=described)
        return _explanation(session, method, targets, params)


def _explanation(session: Session, method: str, targets: tuple[Shown, ...], params: Any = None) -> Explanation:
    chosen = get_explainer(method)
    began, forwards, backwards = time.perf_counter(), session.forwards, session.backwards
    params, note = settled(session, chosen, targets, params)
    ranking = Cost(session.forwards - forwards, session.backwards - backwards, time.perf_counter() - began)
    if not isinstance(session, DetectionSession):
        regions = [target for target in targets if isinstance(target, SpatialTarget)]
        asked, found = targets, base.explain(session, method, regions, params=params)
    else:
        asked, found = explain_objects(session, method, _objects(targets), params=params)
    if note:
        own = found.cost
        cost = replace(
            own,
            forwards=own.forwards + ranking.forwards,
            backwards=own.backwards + ranking.backwards,
            seconds=own.seconds + ranking.seconds,
        )
        told = f"{note}; this took {ranking.forwards:,} forwards, which are in the cost"
        found = replace(found, notes=(*found.notes, told), cost=cost)
    return Explanation(chosen, asked, found)


def explain_image(
    model: Path,
    image: Path,
    *,
    methods: Sequence[str] = (),
    target: str | Sequence[str] = "pred",
    reference: Path | None = None,
    dataset_mean: Path | None = None,
    out: Path = Path("explanation"),
    seed: int = 0,
    device: str = "cpu",
    settings: Sequence[str] = (),
    tell: Callable[[str], None] | None = None,
) -> list[Path]:
    """Explains the prediction of one image: the logic of ``xaiseg explain``.

    Args:
        model: a model.yaml.
        image: an image file.
        methods: names of explainers; empty = those of :data:`DEFAULT_METHODS` that the model allows.
        target: one or several of what :func:`explain` takes; what is asked twice is computed once.
        reference: a mask file, of a detector a file of boxes, for targets that need one.
        dataset_mean: an image file, what the baseline "dataset-mean" shows.
        out: folder for explanation.png, one .npy a method (and target, where there are several), and manifest.json.
        seed: for methods that sample.
        device: where the model computes.
        settings: parameters of the methods, as :func:`xaiseg.explaining_params.parse_params` reads them.
        tell: is told the cost to expect where that is more than :data:`LONG_S`.

    Returns:
        The written files, the pictures first.

    Raises:
        UsageError: an unknown method, target or parameter, a folder that cannot be written, or nothing to explain in
            this image.
        DataError: the image cannot be used.
        SubjectError: the model does not offer what a named method needs.
    """
    from xaiseg.explaining_manifest import asked_facts, made_folder, sources, write

    for name in methods:
        get_explainer(name)
    params = parse_params(settings, methods or DEFAULT_METHODS)
    with made_folder(out):
        session, described = open_session(
            model, image, seed=seed, device=device, detectors=True, dataset_mean=dataset_mean
        )
        began = time.perf_counter()
        absent: dict[str, str] = {}
        asked = open_asked(session, target, reference, image=image, described=described, absent=absent)
        if tell:
            for reason in absent.values():
                tell(f"left out: {reason}")
        pace = (time.perf_counter() - began) / max(session.forwards, 1)
        chosen, skipped = _chosen(session, tuple(asked), methods)
        # The first pass is slow, so where it makes the run look long a batch is timed.
        long = tell is not None and _expected(chosen, params, pace, len(asked))
        if tell and long and (expected := _expected(chosen, params, _pace_s(session), len(asked))):
            tell(expected)
        found = [_explanation(session, each.name, tuple(asked), params.get(each.name)) for each in chosen]
        given = {"asked": target} if len(asked) > 1 else {}
        facts = {**sources(described, image), **given, **asked_facts(session, asked), "seed": seed, "device": device}
        return write(out, session, found, {**facts, "not_run": skipped | absent})


def _pace_s(session: Session) -> float:
    """Seconds that an image takes in a batch like those to come."""
    images, began = [session.image] * session.budget.batch_size, time.perf_counter()
    with torch.inference_mode(), evaluation_mode(session.subject.module):
        session.subject.predict(images, batch_size=len(images))
    return (time.perf_counter() - began) / len(images)


def _expected(methods: Sequence[Explainer], params: Mapping[str, Any], pace_s: float, targets: int) -> str:
    """The most that the methods cost, in words, or "" where that is soon over.

    Args:
        methods: what will run.
        params: method -> its parameters, where they are not its defaults.
        pace_s: seconds of one forward pass; a pass back is taken to cost twice as much.
        targets: how many; masks serve all of them, gradients do not.
    """
    most, seconds = {}, 0.0
    for each in methods:
        most[each.name] = each.forwards(params.get(each.name))
        seconds += pace_s * most[each.name] * (3 * targets if "gradients" in each.needs else 1)
    if seconds < LONG_S:
        return ""
    listed = ", ".join(f"{name} {count:,}" for name, count in most.items())
    time_s = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"at most {listed} forward passes; at {pace_s:.2g} s each about {time_s}"


def _chosen(
    session: Session, targets: tuple[Shown, ...], methods: Sequence[str]
) -> tuple[list[Explainer], dict[str, str]]:
    """The methods that run, and the reasons of those of the default choice that cannot."""
    chosen = [get_explainer(name) for name in dict.fromkeys(methods or DEFAULT_METHODS)]
    skipped: dict[str, str] = {}
    if not methods:
        reasons = {method.name: _hindrance(session, method, targets) for method in chosen}
        skipped = {name: reason for name, reason in reasons.items() if reason}
        chosen = [method for method in chosen if method.name not in skipped]
    if not chosen:
        raise UsageError(
            "no method can explain this model", where=session.subject.info.name, got="; ".join(skipped.values())
        )
    for method in chosen:  # refuses the last method before the first has run
        if isinstance(session, DetectionSession):
            readings(session, method, _objects(targets))
        elif reason := method.missing(session.subject):
            raise SubjectError(reason, where=session.subject.info.name)
    return chosen, skipped


def _hindrance(session: Session, method: Explainer, targets: Sequence[Shown]) -> str:
    """Why a method cannot run, "" when it can."""
    if not isinstance(session, DetectionSession):
        return method.missing(session.subject)
    try:
        readings(session, method, _objects(targets))
    except (SubjectError, UsageError) as error:
        return str(error)
    return ""


def _objects(targets: Sequence[Shown]) -> list[ObjectTarget]:
    return [target for target in targets if isinstance(target, ObjectTarget)]
