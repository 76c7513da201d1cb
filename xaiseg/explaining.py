"""One image explained for a person: a picture, the raw maps and a manifest that says how they were made.

:func:`explain` gives the maps to a program, :func:`explain_image` writes them into a folder.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg import __version__
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers import base
from xaiseg.explainers.base import Attribution, Cost, Explainer, Session, get_explainer
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.detection import explain_objects, readings
from xaiseg.explainers.detection_targets import SIDES, ObjectTarget
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.targets import Region, SpatialTarget
from xaiseg.explaining_open import Shown, open_session, open_targets
from xaiseg.explaining_params import parse_params, settled
from xaiseg.subject import Detector, Segmenter

if TYPE_CHECKING:
    from torch import Tensor

    from xaiseg.modelfile import ModelFile

#: What is tried when the user names no method; what the model does not allow is listed in the manifest with the reason.
DEFAULT_METHODS: Final = ("hirescam", "integrated-gradients", "occlusion")


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
        """Forwards, backwards, seconds."""
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
            file, a mapping, or a list of them. Masks are looked for beside the working directory. Of a detector what
            :func:`xaiseg.explainers.detection_spec.parse_objects` reads: "pred", a class, "box 0", "x,y",
            "x0,y0,x1,y1,class", "tp", "fp", "fn", a mapping, or a list of them.
        params: parameters of the explainer, or None for its defaults. The layer "best" of a class activation map is the
            one that :func:`xaiseg.faithfulness.layers.rank_layers` puts first.
        reference: a mask file or (H, W) class indices, of a detector a file of boxes or (N, 5) boxes and class indices,
            for targets that need one.
        seed: for methods that sample.
        device: where a model.yaml's model computes.

    Raises:
        UsageError: an unknown method or target, or nothing to explain in this image.
        DataError: the image cannot be used.
        SubjectError: the model does not offer what the method needs.
    """
    get_explainer(method)
    session, _ = open_session(model, image, seed=seed, device=device, detectors=True)
    targets = open_targets(session, target, reference, image=image)
    return _explanation(session, method, targets, params)


def _explanation(session: Session, method: str, targets: tuple[Shown, ...], params: Any = None) -> Explanation:
    chosen = get_explainer(method)
    params, note = settled(session, chosen, targets, params)
    if not isinstance(session, DetectionSession):
        regions = [target for target in targets if isinstance(target, SpatialTarget)]
        asked, found = targets, base.explain(session, method, regions, params=params)
    else:
        asked, found = explain_objects(session, method, _objects(targets), params=params)
    return Explanation(chosen, asked, replace(found, notes=(*found.notes, note)) if note else found)


def explain_image(
    model: Path,
    image: Path,
    *,
    methods: Sequence[str] = (),
    target: str | Sequence[str] = "pred",
    reference: Path | None = None,
    out: Path = Path("explanation"),
    seed: int = 0,
    device: str = "cpu",
    settings: Sequence[str] = (),
) -> list[Path]:
    """Explains the prediction of one image: the logic of ``xaiseg explain``.

    Args:
        model: a model.yaml.
        image: an image file.
        methods: names of explainers; empty = those of :data:`DEFAULT_METHODS` that the model allows.
        target: one or several of what :func:`explain` takes.
        reference: a mask file, of a detector a file of boxes, for targets that need one.
        out: folder for explanation.png, one .npy a method (and target, where there are several), and manifest.json.
        seed: for methods that sample.
        device: where the model computes.
        settings: parameters of the methods, as :func:`xaiseg.explaining_params.parse_params` reads them.

    Returns:
        The written files, the picture first.

    Raises:
        UsageError: an unknown method, target or parameter, or nothing to explain in this image.
        DataError: the image cannot be used.
        SubjectError: the model does not offer what a named method needs.
    """
    for name in methods:
        get_explainer(name)
    params = parse_params(settings, methods or DEFAULT_METHODS)
    if out.exists() and not out.is_dir():
        raise UsageError("this is a file, not a folder", where="--out", got=out)
    session, described = open_session(model, image, seed=seed, device=device, detectors=True)
    targets = open_targets(session, target, reference, image=image)
    found, skipped = _explained(session, targets, methods, params)
    facts = {**_sources(described, image), **_asked(session, targets, target), "seed": seed, "device": device}
    return _write(out, session.image.cpu().numpy(), found, {**facts, "not_run": skipped})


def _sources(described: ModelFile | None, image: Path) -> dict[str, Any]:
    from xaiseg.data.hashing import file_sha256
    from xaiseg.loading import weights_sha256

    facts: dict[str, Any] = {"image": {"name": image.name, "sha256": file_sha256(image)}}
    if described is None:
        return facts
    digests = {"model_file_sha256": described.sha256, "weights_sha256": weights_sha256(described)}
    return {"model": {"name": described.name, **digests}, **facts}


def _explained(
    session: Session, targets: tuple[Shown, ...], methods: Sequence[str], params: Mapping[str, Any]
) -> tuple[list[Explanation], dict[str, str]]:
    """Maps of all methods, and the reasons of those of the default choice that cannot run."""
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
    if isinstance(session, DetectionSession):
        for method in chosen:
            readings(session, method, _objects(targets))  # refuses the last method before the first has run
    return [_explanation(session, each.name, targets, params.get(each.name)) for each in chosen], skipped


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


def _asked(session: Session, targets: Sequence[Shown], asked: object) -> dict[str, Any]:
    described = [
        {"name": name, **_described(session, each)} for name, each in zip(slugs(targets), targets, strict=True)
    ]
    if len(targets) > 1:
        return {"asked": asked, "targets": described}
    text = asked[0] if isinstance(asked, Sequence) and not isinstance(asked, str) else asked
    return {"target": {"asked": text, **described[0]}}


def _described(session: Session, target: Shown) -> dict[str, Any]:
    if isinstance(session, DetectionSession) and isinstance(target, ObjectTarget):
        return _described_object(session, target)
    assert isinstance(target, SpatialTarget)  # of a segmenter
    facts = {
        "class": session.subject.info.classes[target.class_index],
        "region": "frozen before anything is perturbed",
        "region_pixels": int(target.mask.sum()),
        "score": target.meaning,
        "unit": target.unit,
        "value": session.score(target),
    }
    if isinstance(target, Region):
        facts["mean_logit"] = session.score(Region(target.class_index, target.mask))
        facts["mean_probability"] = session.score(target.as_probability())
    return facts


def _described_object(session: DetectionSession, target: ObjectTarget) -> dict[str, Any]:
    """An object; what each method made of the question stands beside its map."""
    return {
        "class": session.subject.info.classes[target.class_index],
        "question": target.question,
        **target.object.facts,
        "value": None if target.question in SIDES else session.score(target),
    }


def slugs(targets: Sequence[Shown]) -> list[str]:
    """Names of targets for files, each once.

    >>> mask = np.ones((1, 1), dtype=bool)
    >>> slugs([Region(1, mask, label="cyst at 3,4"), Region(1, mask, label="cyst"), Region(1, mask, label="cyst")])
    ['cyst-at-3-4', 'cyst', 'cyst-2']
    """
    found: list[str] = []
    for target in targets:
        plain = re.sub(r"[^\w]+", "-", target.name).strip("-") or "target"
        name, number = plain, 1
        while name in found:
            number += 1
            name = f"{plain}-{number}"
        found.append(name)
    return found


def _write(out: Path, image: np.ndarray, found: Sequence[Explanation], facts: Mapping[str, Any]) -> list[Path]:
    from xaiseg.explaining_picture import draw

    out.mkdir(parents=True, exist_ok=True)
    _clear(out)
    picture = out / "explanation.png"
    draw(picture, image, found)
    paths, entries = [picture], []
    for each in found:
        names = slugs(each.targets)
        for index, name in enumerate(names):
            stem = _safe(each.method.name) + (f".{name}" if len(names) > 1 else "")
            files = {"file": (f"{stem}.npy", each.values), "stderr_file": (f"{stem}.stderr.npy", each.stderr)}
            kept = {key: file for key, (file, values) in files.items() if values is not None}
            for file, values in files.values():
                if values is not None:
                    np.save(out / file, values[index])
                    paths.append(out / file)
            entries.append({**_entry(each, index), **kept, **({"target": name} if len(names) > 1 else {})})
    manifest = {
        "schema": "xaiseg-explanation/1",
        **facts,
        "shape": list(image.shape),
        "picture": picture.name,
        "maps": entries,
        "software": {
            "xaiseg": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "captum", "numpy")},
        },
    }
    written = out / "manifest.json"
    written.write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return [*paths, written]


def _clear(out: Path) -> None:
    """Takes away the maps that an earlier manifest names, so that none of another image stays beside the new one."""
    try:
        maps = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["maps"]
        names = [each[key] for each in maps for key in ("file", "stderr_file") if key in each]
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is no manifest, or it is not one of ours: then nothing is ours to take away
    for name in names:
        if Path(name).name == name and name.endswith(".npy"):
            (out / name).unlink(missing_ok=True)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name)


def _entry(each: Explanation, index: int) -> dict[str, Any]:
    from xaiseg.explaining_picture import colour_scale

    values, errors = each.values[index], each.attribution.completeness
    return {
        "method": each.method.name,
        "unit": each.unit(index),
        "score": each.targets[index].meaning,
        "parameters": _parameters(each.attribution.params),
        "minimum": float(values.min()),
        "maximum": float(values.max()),
        "end_of_colour_scale": colour_scale(each, index),
        "completeness_error": None if errors is None else float(errors[index]),
        "notes": list(each.notes),
        "cost": asdict(each.cost),
    }


def _parameters(params: Any) -> dict[str, Any]:
    """Parameters as JSON can hold them; segments of the caller's are named by their digest."""
    held = {field.name: getattr(params, field.name) for field in fields(params)}
    return {name: value.digest if isinstance(value, Segments) else value for name, value in held.items()}
