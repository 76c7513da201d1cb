"""What an explanation leaves in its folder: pictures, raw maps, and the manifest that says how they were made."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from xaiseg import __version__
from xaiseg.errors import SubjectError, UsageError
from xaiseg.explainers.base import Session
from xaiseg.explainers.cells import Segments
from xaiseg.explainers.detection_targets import SIDES, ObjectTarget
from xaiseg.explainers.detections import DetectionSession
from xaiseg.explainers.targets import Region, SpatialTarget
from xaiseg.explaining_open import Shown
from xaiseg.explaining_picture import beyond_scale, colour_scale, draw

if TYPE_CHECKING:
    from xaiseg.explainers.targets import Target
    from xaiseg.explaining import Explanation
    from xaiseg.modelfile import ModelFile


@contextmanager
def made_folder(out: Path) -> Iterator[None]:
    """Makes the folder before anything is computed, and takes it away again where nothing came of it.

    Raises:
        UsageError: it is a file, or cannot be made or written into.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    _make(out)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # something lies in one, which is kept
            for folder in made:
                folder.rmdir()
        raise


def _make(out: Path) -> None:
    """Makes the folder.

    Raises:
        UsageError: it is a file, or cannot be made or written into.
    """
    if out.exists() and not out.is_dir():
        raise UsageError("this is a file, not a folder", where="--out", got=out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".xaiseg-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        what = f"the folder cannot be written: {error.strerror}"
        raise UsageError(what, where="--out", got=out, then="Name a folder of your own") from error


def sources(described: ModelFile | None, image: Path) -> dict[str, Any]:
    """Model, weights and image by their digests."""
    from xaiseg.data.hashing import file_sha256
    from xaiseg.loading import weights_sha256

    facts: dict[str, Any] = {"image": {"name": image.name, "sha256": file_sha256(image)}}
    if described is None:
        return facts
    digests = {"model_file_sha256": described.sha256, "weights_sha256": weights_sha256(described)}
    return {"model": {"name": described.name, **digests}, **facts}


def asked_facts(session: Session, asked: Mapping[Shown, Sequence[object]]) -> dict[str, Any]:
    """The targets and the words that asked for each."""
    described = [
        {"name": name, "asked": words[0] if len(words) == 1 else list(words), **_described(session, each)}
        for name, (each, words) in zip(slugs(list(asked)), asked.items(), strict=True)
    ]
    return {"targets": described} if len(described) > 1 else {"target": described[0]}


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


def write(out: Path, session: Session, found: Sequence[Explanation], facts: Mapping[str, Any]) -> list[Path]:
    """Writes pictures, maps and manifest into a folder that :func:`made_folder` made.

    Returns:
        The written files, the pictures first and the manifest last.
    """
    _clear(out)
    image = session.image.cpu().numpy()
    pictures = draw(out / "explanation.png", image, found)
    paths, entries = list(pictures), []
    for each in found:
        names = slugs(each.targets)
        for index, name in enumerate(names):
            stem = re.sub(r"[^\w.+-]+", "-", each.method.name) + (f".{name}" if len(names) > 1 else "")
            files = {"file": (f"{stem}.npy", each.values), "stderr_file": (f"{stem}.stderr.npy", each.stderr)}
            kept = {key: file for key, (file, values) in files.items() if values is not None}
            for file, values in files.values():
                if values is not None:
                    np.save(out / file, values[index])
                    paths.append(out / file)
            entries.append({**_entry(session, each, index), **kept, **({"target": name} if len(names) > 1 else {})})
    manifest = {
        "schema": "xaiseg-explanation/1",
        **facts,
        "shape": list(image.shape),
        "pictures": [path.name for path in pictures],
        "maps": entries,
        # A method's passes serve all of its targets, so they stand here once and not beside each map.
        "costs": {each.method.name: {"targets": len(each.targets), **asdict(each.cost)} for each in found},
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
    """Takes away what an earlier manifest names, so that nothing of another image stays beside the new one."""
    try:
        held = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        names = [each[key] for each in held["maps"] for key in ("file", "stderr_file") if key in each]
        names += held.get("pictures", [])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # there is no manifest, or it is not one of ours: then nothing is ours to take away
    for name in names:
        if Path(name).name == name and name.endswith((".npy", ".png")):
            (out / name).unlink(missing_ok=True)


def _entry(session: Session, each: Explanation, index: int) -> dict[str, Any]:
    values, errors, end = each.values[index], each.attribution.completeness, colour_scale(each, index)
    target = cast("Target", each.targets[index])  # a session scores the targets that it made, whatever their kind
    bare, note = _bare(session, each.attribution.params, target)
    return {
        "method": each.method.name,
        "unit": each.unit(index),
        "score": each.targets[index].meaning,
        "score_of_image": session.score(target),
        "score_of_baseline": bare,
        "parameters": _parameters(each.attribution.params),
        "minimum": float(values.min()),
        "maximum": float(values.max()),
        "end_of_colour_scale": end,
        "share_beyond_colour_scale": beyond_scale(values, end),
        "completeness_error": None if errors is None else float(errors[index]),
        "notes": [*_own_notes(each, index), *note],
    }


def _own_notes(each: Explanation, index: int) -> list[str]:
    """The notes but those that begin with the name of another target."""
    own = each.targets[index].name
    others = {target.name for target in each.targets} - {own}
    return [note for note in each.notes if not any(note.startswith(f"{name}: ") for name in others)]


def _bare(session: Session, params: Any, target: Target) -> tuple[float | None, list[str]]:
    """S where everything is hidden, None for a method that hides nothing; and a note where it has no value."""
    kind = getattr(params, "baseline", None)
    if kind is None:
        return None, []
    try:
        return float(session.scores([session.baseline(kind)], [target])[0, 0]), []
    except SubjectError as error:
        return None, [f"the baseline has no score: {error}"]


def _parameters(params: Any) -> dict[str, Any]:
    """Parameters as JSON can hold them; segments of the caller's are named by their digest."""
    held = {field.name: getattr(params, field.name) for field in fields(params)}
    return {name: value.digest if isinstance(value, Segments) else value for name, value in held.items()}
