"""The picture of an explanation: the image with the outlined region, and the maps beside it, a row a target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from xaiseg.explainers.detection_targets import DetectedObject
from xaiseg.explaining import Explanation
from xaiseg.explaining_open import Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: This percentile of a map's absolute values takes the end of the colour scale; a few outliers would pale the rest.
SCALE_PERCENTILE: Final = 99.0


def colour_scale(explanation: Explanation, index: int) -> float:
    """The absolute value that is drawn at the end of the colour scale; 1 where all maps that share it are blank.

    Maps of one method for targets of one kind and unit share a scale, so that they can be compared; the border of a
    class and its region, say, differ by too much.
    """
    kinds = [(type(target), target.unit) for target in explanation.targets]
    alike = [each for kind, each in zip(kinds, explanation.values, strict=True) if kind == kinds[index]]
    values = np.abs(np.stack(alike))
    return float(np.percentile(values, SCALE_PERCENTILE)) or float(values.max()) or 1.0


def draw(path: Path, image: np.ndarray, found: Sequence[Explanation]) -> None:
    """Draws the image with the outlined region, and the maps beside it on one diverging, symmetric scale.

    Methods have different units, so each map is drawn as a share of its method's own largest values (their 99th
    percentile); the title says what 1 stands for. Red speaks for the target, blue against it; where the image shows
    through, the map is silent.

    Args:
        path: a PNG file.
        image: (C, H, W) in any range.
        found: maps of one method or more, all for the same targets.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    targets = found[0].targets
    height, width = image.shape[1:]
    side, rows, columns = 3.2, len(targets), len(found) + 1
    size = (side * columns * width / height + 1.2, (side + 0.5) * rows + 0.4)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    picture = _picture(image)
    for index, target in enumerate(targets):
        shown = getattr(target, "object", None)
        more = f"\n{shown.caption}" if isinstance(shown, DetectedObject) else ""
        _panel(axes[index, 0], picture, target, f"image, {target.name} outlined{more}")
        for axis, each in zip(axes[index, 1:], found, strict=True):
            end = colour_scale(each, index)
            blank = not each.values[index].any()
            scale = "zero everywhere: nothing moves the score" if blank else f"1 = {end:.3g} {each.unit(index)}"
            _panel(axis, picture, target, f"{each.method.name}\n{scale}")
            scaled = np.clip(each.values[index] / end, -1.0, 1.0)
            axis.imshow(scaled, cmap="RdBu_r", vmin=-1, vmax=1, alpha=0.1 + 0.8 * np.abs(scaled))
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), "RdBu_r"), ax=axes.ravel().tolist(), shrink=0.8, pad=0.01)
    bar.set_label("share of the map's scale\n(against the target  –  for the target)")
    figure.savefig(path, metadata={"Software": None})


def _picture(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) in [0, 1], stretched to the image's own range."""
    low, high = float(image.min()), float(image.max())
    shown = (image[:3] if image.shape[0] >= 3 else image[:1].repeat(3, axis=0)) - low
    return np.asarray(np.moveaxis(shown, 0, -1) / max(high - low, 1e-12))


def _panel(axis: Axes, picture: np.ndarray, target: Shown, title: str) -> None:
    axis.imshow(picture)
    box = getattr(target, "xyxy", None)
    if box is not None:
        _box(axis, box)
    elif not target.mask.all():
        # Black under yellow: the outline shows on dark, bright, red and blue alike.
        axis.contour(target.mask, levels=[0.5], colors="black", linewidths=2.0)
        axis.contour(target.mask, levels=[0.5], colors="#ffd400", linewidths=1.0)
    axis.set_title(title, fontsize=8)
    axis.set_axis_off()


def _box(axis: Axes, xyxy: tuple[float, float, float, float]) -> None:
    """The box of an object, in the colours of an outline; pixel centres lie at whole numbers of the axis."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = xyxy
    for colour, width in (("black", 2.0), ("#ffd400", 1.0)):
        corner = (left - 0.5, top - 0.5)
        axis.add_patch(Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width))
