"""Detections as pictures: windows at native scale around what was found, false, missed and nearly detected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from markupsafe import Markup, escape

from xaiseg.detection.matching import iou, reaches
from xaiseg.reports import svg
from xaiseg.reports.numbers import number

if TYPE_CHECKING:
    from xaiseg.run import EvidenceItem

#: Boxes stand on pictures of any brightness, so each has a dark halo.
BOXES: Final[Mapping[str, str]] = {"reference": "#ffd34d", "prediction": "#56c2ff", "ignored": "#b9c2cc"}
#: Windows shown of each kind.
SHOWN: Final = 4
#: Kind -> heading and how the windows were chosen.
KINDS: Final[Mapping[str, tuple[str, str]]] = {
    "missed": ("Missed", "animals that nothing fits at any score, or only what another animal took; the largest first"),
    "near": ("Nearly detected", "animals with a fitting detection just below the threshold; the highest score first"),
    "false": ("Detected where there is none", "detections on no animal; the highest score first"),
    "second": (
        "A second or badly fitting box",
        "detections that another box of the animal beats, of another class or a bad fit; the highest score first",
    ),
    "found": ("Found", "animals found at the threshold; the highest score first"),
}


@dataclass(frozen=True)
class Window:
    """One window with its line of text."""

    case: str
    picture: Markup
    words: str


@dataclass(frozen=True)
class WindowRow:
    """The windows of one kind."""

    title: str
    why: str
    windows: tuple[Window, ...]


def window_rows(items: Sequence[EvidenceItem], threshold: float) -> tuple[WindowRow, ...]:
    """Windows of each kind, at most one an image; kinds without any are left out.

    Args:
        items: evidence of the chosen cases.
        threshold: the frozen operating threshold; detections below it are drawn dotted.
    """
    rows = []
    for kind, (title, why) in KINDS.items():
        held = [(item, name) for item in items for name in item.kind if name.endswith(f"#{kind}")]
        held = [(item, name) for item, name in held if f"window:{kind}" in item.arrays]
        held.sort(key=lambda pair: (pair[0].scores[pair[1].removeprefix("worst:")], pair[0].case))
        windows = tuple(_window(item, kind, threshold) for item, _ in held[:SHOWN])
        if windows:
            rows.append(WindowRow(title, why, windows))
    return tuple(rows)


def _window(item: EvidenceItem, kind: str, threshold: float) -> Window:
    from xaiseg.reports.gallery import data_uri

    arrays = item.arrays
    pixels, scale = arrays[f"window:{kind}"], float(arrays[f"scale:{kind}"][0])
    height, width = pixels.shape[:2]
    target = arrays[f"object:{kind}"]
    detections = arrays[f"near-prediction:{kind}"]
    # What lies around the object is drawn thin; far below the threshold it would only clutter.
    shown = detections[reaches(detections[:, 5], threshold) | (_overlap(detections[:, :4], target) >= 0.5)][:40]
    size = math.sqrt(max(0.0, float((target[2] - target[0]) * (target[3] - target[1])))) / scale
    score = -item.scores[next(name for name in item.scores if name.endswith(f"#{kind}"))]
    words = f"score {number(score, 2)}" if kind != "missed" else f"{number(size, 0)} px"
    alt = f"{item.case}: {KINDS[kind][0].lower()}, {words}"
    parts = [
        f'<image href="{data_uri(pixels)}" x="0" y="0" width="{width}" height="{height}"/>',
        *box_marks(arrays[f"near-reference:{kind}"], shown, threshold, thick=1.3),
    ]
    head = f'<svg viewBox="0 0 {width} {height}" role="img"><title>{escape(alt)}</title>'
    reduced = f", reduced to {100 * scale:.0f} %" if scale < 1 else ""
    return Window(item.case, Markup(f"{head}{''.join(parts)}</svg>"), words + reduced)


def _overlap(boxes: np.ndarray, target: np.ndarray) -> np.ndarray:
    return iou(boxes.astype(np.float64), target[None].astype(np.float64))[:, 0] if len(boxes) else np.zeros(0)


def box_marks(reference: np.ndarray, detections: np.ndarray, threshold: float, *, thick: float) -> list[str]:
    """Boxes as SVG: the reference dashed, detections solid, those below the threshold dotted.

    Args:
        reference: (N, 5) corners in pixels of the picture and class; 255 = ignored.
        detections: (M, 6) corners, class, score.
        threshold: the operating threshold.
        thick: width of the lines in pixels of the picture.
    """
    parts = []
    for x0, y0, x1, y1, _, score in detections.tolist():
        dash = "" if reaches(np.array(score), threshold) else f"{0.8 * thick:.2f} {1.6 * thick:.2f}"
        parts.append(_box((x0, y0, x1, y1), BOXES["prediction"], dash, thick))
    for x0, y0, x1, y1, label in reference.tolist():
        dash = f"{3.2 * thick:.2f} {2 * thick:.2f}"
        parts.append(_box((x0, y0, x1, y1), BOXES["ignored" if label == 255 else "reference"], dash, thick))
    return parts


def _box(corners: tuple[float, float, float, float], colour: str, dash: str, thick: float) -> str:
    x0, y0, x1, y1 = corners
    place = f'x="{x0:.1f}" y="{y0:.1f}" width="{max(x1 - x0, 0):.1f}" height="{max(y1 - y0, 0):.1f}" fill="none"'
    more = f' stroke-dasharray="{dash}"' if dash else ""
    halo = f'<rect {place} stroke="#0b1016" stroke-opacity=".55" stroke-width="{1.9 * thick:.2f}"/>'
    return f'{halo}<rect {place} stroke="{colour}" stroke-width="{thick:.2f}"{more}/>'


def box_legend() -> Markup:
    """How the boxes look."""
    parts = []
    rows = (
        ("reference", "6 4", "reference"),
        ("prediction", "", "detection"),
        ("prediction", "1.5 3", "below threshold"),
    )
    for index, (colour, dash, name) in enumerate(rows):
        x = 150 * index
        more = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<rect x="{x}" y="1" width="44" height="16" rx="2" fill="#343b43"/>')
        line = f'<rect x="{x + 6}" y="4.5" width="32" height="9" fill="none" stroke="{BOXES[colour]}"'
        parts.append(f'{line} stroke-width="2"{more}/>')
        parts.append(svg.text(x + 50, 13.5, name))
    return svg.svg(680, 18, "Legend: dashed yellow is the reference, solid blue a detection, dotted blue one below the "
                   "threshold.", parts)  # fmt: skip
