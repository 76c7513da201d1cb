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
#: ... unless more than this share of the sum of absolute values would then lie above the end: of a small object the
#: few pixels are no outliers but the map.
MOST_CUT: Final = 0.05
#: Rows (targets) of one picture; more go on in the next.
PAGE_ROWS: Final = 6
#: Height of a map, and the width that very wide images get at most, inches.
PANEL_IN: Final = 3.2
WIDEST_IN: Final = 8.0
#: Most pixels along a side of a picture.
MOST_PX: Final = 6000
DPI: Final = 150


def colour_scale(explanation: Explanation, index: int) -> float:
    """The absolute value that is drawn at the end of the colour scale; 1 where all maps that share it are blank.

    It is the 99th percentile, or where that would cut off more than 5 % of the sum of absolute values (what lies above
    the end, of every pixel), the smallest value that cuts off no more. Maps of one method for targets of one kind and
    unit share a scale, so that they can be compared; the border of a class and its region, say, differ by too much.
    """
    kinds = [(type(target), target.unit) for target in explanation.targets]
    alike = [each for kind, each in zip(kinds, explanation.values, strict=True) if kind == kinds[index]]
    values = np.abs(np.stack(alike)).astype(np.float64)
    return max(float(np.percentile(values, SCALE_PERCENTILE)), _uncut(values)) or float(values.max()) or 1.0


def _uncut(values: np.ndarray) -> float:
    """The smallest of the values above which no more than :data:`MOST_CUT` of their sum lies."""
    falling = np.sort(values.ravel())[::-1]
    # With the k-th largest at the end of the scale, the k - 1 larger ones lose what they exceed it by.
    cut = np.concatenate(([0.0], np.cumsum(falling)[:-1])) - np.arange(falling.size) * falling
    return float(falling[np.flatnonzero(cut <= MOST_CUT * falling.sum())[-1]])


def beyond_scale(values: np.ndarray, end: float) -> float:
    """The share of pixels whose colour is that of the end of the scale although their value is larger.

    >>> beyond_scale(np.array([0.5, -2.0, 1.0, 0.0]), 1.0)
    0.25
    """
    return float((np.abs(values) > end).mean())


def draw(path: Path, image: np.ndarray, found: Sequence[Explanation]) -> list[Path]:
    """Draws the image with the outlined region, and the maps beside it on one diverging, symmetric scale.

    Methods have different units, so each map is drawn as a share of its method's own scale (see :func:`colour_scale`);
    the title says what 1 stands for, and how much of the map lies beyond. Red speaks for the target, blue against it;
    where the image shows through, the map is silent.

    Args:
        path: a PNG file; of more than :data:`PAGE_ROWS` targets the first, with the others beside it: "name-2.png".
        image: (C, H, W) in any range.
        found: maps of one method or more, all for the same targets.

    Returns:
        The written files.
    """
    pages = range(0, len(found[0].targets), PAGE_ROWS)
    paths = [path if not first else path.with_stem(f"{path.stem}-{number}") for number, first in enumerate(pages, 1)]
    for first, page in zip(pages, paths, strict=True):
        _draw_page(page, image, found, range(first, min(first + PAGE_ROWS, len(found[0].targets))))
    return paths


def _draw_page(path: Path, image: np.ndarray, found: Sequence[Explanation], chosen: range) -> None:
    """One picture of some of the targets."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    targets = found[0].targets
    height, width = image.shape[1:]
    rows, columns = len(chosen), len(found) + 1
    across = min(PANEL_IN * width / height, WIDEST_IN)
    size = (across * columns + 1.2, (across * height / width + 0.5) * rows + 0.4)
    figure = Figure(figsize=size, dpi=min(DPI, MOST_PX / max(size)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    picture, names = _picture(image), names_of(targets)
    for row, index in enumerate(chosen):
        target = targets[index]
        shown = getattr(target, "object", None)
        more = f"\n{shown.caption}" if isinstance(shown, DetectedObject) else ""
        _panel(axes[row, 0], picture, target, f"image, {names[index]} outlined{more}")
        for axis, each in zip(axes[row, 1:], found, strict=True):
            values, end = each.values[index], colour_scale(each, index)
            _panel(axis, picture, target, f"{each.method.name}\n{_scale_words(values, end, each.unit(index))}")
            scaled = np.clip(values / end, -1.0, 1.0)
            axis.imshow(scaled, cmap="RdBu_r", vmin=-1, vmax=1, alpha=0.1 + 0.8 * np.abs(scaled))
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), "RdBu_r"), ax=axes.ravel().tolist(), shrink=0.8, pad=0.01)
    bar.set_label("share of the map's scale\n(against the target  –  for the target)")
    figure.savefig(path, metadata={"Software": None})


def _scale_words(values: np.ndarray, end: float, unit: str) -> str:
    """What 1 stands for, and what lies beyond.

    >>> _scale_words(np.array([0.5, -2.0, 1.0, 0.0]), 1.0, "logit").splitlines()
    ['1 = 1 logit', '25 % beyond, up to 2']
    """
    if not values.any():
        return "zero everywhere: nothing moves the score"
    share = beyond_scale(values, end)
    beyond = f"\n{100 * share:.2g} % beyond, up to {np.abs(values).max():.3g}"
    return f"1 = {end:.3g} {unit}" + (beyond if share else "")


def names_of(targets: Sequence[Shown]) -> list[str]:
    """Names of targets for titles, each once.

    >>> from xaiseg.explainers.targets import Region
    >>> names_of([Region(1, np.ones((1, 1), dtype=bool), label="cyst")] * 2)
    ['cyst', 'cyst (2)']
    """
    names = [target.name for target in targets]
    return [f"{name} ({count})" if (count := names[: place + 1].count(name)) > 1 else name
            for place, name in enumerate(names)]  # fmt: skip


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
