"""One image explained for a person: a picture, the raw maps and a manifest that says how they were made."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from xaiseg import __version__
from xaiseg.errors import UsageError
from xaiseg.explainers.base import Attribution, Explainer, Session, explain, get_explainer
from xaiseg.explainers.targets import Region, named_region
from xaiseg.subject import Segmenter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from xaiseg.modelfile import ModelFile

#: What is tried when the user names no method; what the model does not allow is listed in the manifest with the reason.
DEFAULT_METHODS: Final = ("hirescam", "integrated-gradients", "occlusion")

#: This percentile of a map's absolute values takes the end of the colour scale; a few outliers would pale the rest.
SCALE_PERCENTILE: Final = 99.0


@dataclass(frozen=True)
class ExplainedMap:
    """One map of one method.

    Attributes:
        method: the explainer.
        params: its parameters.
        attribution: values (1, H, W), cost and notes.
    """

    method: Explainer
    params: Any
    attribution: Attribution

    @property
    def values(self) -> np.ndarray:
        """(H, W) float32, raw and signed."""
        return np.asarray(self.attribution.values[0])

    @property
    def scale(self) -> float:
        """The absolute value that is drawn at the end of the colour scale; 1 for a blank map."""
        return float(np.percentile(np.abs(self.values), SCALE_PERCENTILE)) or float(np.abs(self.values).max()) or 1.0

    @property
    def file(self) -> str:
        """Name of the map's file."""
        return re.sub(r"[^\w.-]+", "-", self.method.name) + ".npy"


def explain_image(
    model: Path,
    image: Path,
    *,
    methods: Sequence[str] = (),
    target: str = "pred",
    out: Path = Path("explanation"),
    seed: int = 0,
    device: str = "cpu",
) -> list[Path]:
    """Explains the prediction of one image: the logic of ``xaiseg explain``.

    Args:
        model: a model.yaml of a segmentation model.
        image: an image file.
        methods: names of explainers; empty = those of :data:`DEFAULT_METHODS` that the model allows.
        target: "pred" (the largest predicted foreground class) or the name of a class.
        out: folder for explanation.png, one .npy a method, and manifest.json.
        seed: for methods that sample.
        device: where the model computes.

    Returns:
        The written files, the picture first.

    Raises:
        UsageError: an unknown method or target, or nothing to explain in this image.
        DataError: the image cannot be used.
        SubjectError: the model does not offer what a named method needs.
    """
    for name in methods:
        get_explainer(name)
    if out.exists() and not out.is_dir():
        raise UsageError("this is a file, not a folder", where="--out", got=out)
    described, session = _opened(model, image, seed, device)
    region = named_region(target, session.prediction, session.subject.info.classes)
    maps, skipped = _maps(session, region, methods)
    facts = {
        **_sources(described, image),
        "target": {"asked": target, **_described(session, region)},
        "seed": seed,
        "device": device,
        "not_run": skipped,
    }
    return _write(out, session.image.cpu().numpy(), region, maps, facts)


def _opened(model: Path, image: Path, seed: int, device: str) -> tuple[ModelFile, Session]:
    from xaiseg.data.case import CaseRef
    from xaiseg.data.entry import DataEntry
    from xaiseg.data.readers import load_case
    from xaiseg.loading import load_subject
    from xaiseg.modelfile import read_model_file

    described = read_model_file(model)
    subject = load_subject(described, device=device)
    if not isinstance(subject, Segmenter) or getattr(subject, "by_case", False):
        raise UsageError(
            "only a segmentation model that can be run can be explained", where=model, got=type(subject).__name__
        )
    test = described.data.get("test")
    # Stored values must mean here what they mean in the audit.
    entry = DataEntry(images=str(image.parent), window=test.window if test else None)
    case = load_case(entry, CaseRef(image.stem, str(image)), described.image_spec())
    return described, Session(subject, case.image, seed=seed)


def _sources(described: ModelFile, image: Path) -> dict[str, Any]:
    from xaiseg.data.hashing import file_sha256
    from xaiseg.loading import weights_sha256

    return {
        "model": {
            "name": described.name,
            "model_file_sha256": described.sha256,
            "weights_sha256": weights_sha256(described),
        },
        "image": {"name": image.name, "sha256": file_sha256(image)},
    }


def _maps(session: Session, region: Region, methods: Sequence[str]) -> tuple[list[ExplainedMap], dict[str, str]]:
    """Maps of all methods, and the reasons of those of the default choice that cannot run."""
    chosen = [get_explainer(name) for name in dict.fromkeys(methods or DEFAULT_METHODS)]
    skipped: dict[str, str] = {}
    if not methods:
        reasons = {method.name: method.missing(session.subject) for method in chosen}
        skipped = {name: reason for name, reason in reasons.items() if reason}
        chosen = [method for method in chosen if method.name not in skipped]
    if not chosen:
        raise UsageError(
            "no method can explain this model", where=session.subject.info.name, got="; ".join(skipped.values())
        )
    found = []
    for method in chosen:
        params = method.params()
        found.append(ExplainedMap(method, params, explain(session, method.name, [region], params=params)))
    return found, skipped


def _described(session: Session, region: Region) -> dict[str, Any]:
    return {
        "class": region.name,
        "region": "where the model predicts this class, frozen",
        "region_pixels": int(region.mask.sum()),
        "score": "mean logit over the region",
        "mean_logit": session.score(region),
        "mean_probability": session.score(region.as_probability()),
    }


def _write(
    out: Path, image: np.ndarray, region: Region, maps: Sequence[ExplainedMap], facts: dict[str, Any]
) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    picture = out / "explanation.png"
    draw(picture, image, region, maps)
    paths = [picture]
    for each in maps:
        np.save(out / each.file, each.values)
        paths.append(out / each.file)
    manifest = {
        "schema": "xaiseg-explanation/1",
        **facts,
        "shape": list(image.shape),
        "picture": picture.name,
        "maps": [_entry(each) for each in maps],
        "software": {
            "xaiseg": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "captum", "numpy")},
        },
    }
    written = out / "manifest.json"
    written.write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return [*paths, written]


def _entry(each: ExplainedMap) -> dict[str, Any]:
    errors = each.attribution.completeness
    return {
        "method": each.method.name,
        "file": each.file,
        "unit": each.method.unit,
        "parameters": asdict(each.params),
        "minimum": float(each.values.min()),
        "maximum": float(each.values.max()),
        "end_of_colour_scale": each.scale,
        "completeness_error": None if errors is None else float(errors[0]),
        "notes": list(each.attribution.notes),
        "cost": asdict(each.attribution.cost),
    }


def draw(path: Path, image: np.ndarray, region: Region, maps: Sequence[ExplainedMap]) -> None:
    """Draws the image with the outlined region, and the maps beside it on one diverging, symmetric scale.

    Methods have different units, so each map is drawn as a share of its own largest values (their 99th percentile);
    the title says what 1 stands for. Red speaks for the class, blue against it; where the image shows through, the map
    is silent.

    Args:
        path: a PNG file.
        image: (C, H, W) in any range.
        region: the explained region.
        maps: at least one map (H, W).
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    height, width = region.mask.shape
    side = 3.2
    figure = Figure(figsize=(side * (len(maps) + 1) * width / height + 1.2, side + 0.9), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(maps) + 1, squeeze=False)[0]
    picture = _picture(image)
    _panel(axes[0], picture, region, f"image, {region.name} outlined")
    for axis, each in zip(axes[1:], maps, strict=True):
        _panel(axis, picture, region, f"{each.method.name}\n1 = {each.scale:.3g} {each.method.unit}")
        shown = np.clip(each.values / each.scale, -1.0, 1.0)
        axis.imshow(shown, cmap="RdBu_r", vmin=-1, vmax=1, alpha=0.1 + 0.8 * np.abs(shown))
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), "RdBu_r"), ax=list(axes), shrink=0.8, pad=0.01)
    bar.set_label("share of the map's scale\n(against the class  –  for the class)")
    figure.savefig(path, metadata={"Software": None})


def _picture(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) in [0, 1], stretched to the image's own range."""
    low, high = float(image.min()), float(image.max())
    shown = (image[:3] if image.shape[0] >= 3 else image[:1].repeat(3, axis=0)) - low
    return np.asarray(np.moveaxis(shown, 0, -1) / max(high - low, 1e-12))


def _panel(axis: Axes, picture: np.ndarray, region: Region, title: str) -> None:
    axis.imshow(picture)
    if not region.mask.all():
        # Black under yellow: the outline shows on dark, bright, red and blue alike.
        axis.contour(region.mask, levels=[0.5], colors="black", linewidths=2.0)
        axis.contour(region.mask, levels=[0.5], colors="#ffd400", linewidths=1.0)
    axis.set_title(title, fontsize=8)
    axis.set_axis_off()
