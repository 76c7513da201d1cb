"""Evidence becomes pictures: the image, the outlines upon it, and the maps on one scale for all cases."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import numpy as np
from markupsafe import Markup, escape

from xaiseg.detection.matching import reaches
from xaiseg.reports import svg
from xaiseg.reports.gallery_boxes import box_marks
from xaiseg.reports.numbers import number

if TYPE_CHECKING:
    from xaiseg.run import EvidenceItem

#: Long sides of pictures; the largest at which all of them fit the budget is taken.
_SIDES: Final = (448, 320, 224, 160)
_SHOWN: Final = 4
_SHOWN_MAPS: Final = 3
#: All pictures together, so that the page stays well below 8 MB.
_BUDGET_BYTES: Final = 4_500_000
#: Outlines stand on pictures of any brightness, so each has a dark halo.
_REFERENCE: Final = "#ffd34d"
_PREDICTION: Final = "#56c2ff"
#: Diverging, safe for colour-blind readers, grey in the middle: what lowers the score, nothing, what raises it.
_STOPS: Final = ((33, 84, 160), (122, 164, 214), (221, 221, 221), (233, 158, 88), (166, 73, 10))


@dataclass(frozen=True)
class Panel:
    """One picture of a case, with its title above."""

    title: str
    picture: Markup


@dataclass(frozen=True)
class CasePage:
    """One case of the gallery.

    Attributes:
        case: id.
        facts: cluster, strata and score in one line.
        what: what went wrong.
        panels: image, outlines, maps.
    """

    case: str
    facts: str
    what: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Gallery:
    """The worst cases beside cases drawn at random.

    Attributes:
        title: "Worst by Dice".
        why: how both groups were chosen.
        worst, random: the cases.
        scales: what full colour means, by map; empty where no maps are shown.
    """

    title: str
    why: str
    worst: tuple[CasePage, ...]
    random: tuple[CasePage, ...]
    scales: tuple[tuple[str, str], ...] = ()

    @property
    def rows(self) -> tuple[tuple[CasePage | None, CasePage | None], ...]:
        """A worst case beside a random one, row by row."""
        return tuple(zip_longest(self.worst, self.random))


def galleries(
    items: Sequence[EvidenceItem],
    *,
    words: Mapping[str, tuple[str, str]],
    scores: Mapping[str, str],
    seed: int,
    threshold: float = 0.0,
) -> tuple[Gallery, ...]:
    """One gallery for each check that ranks cases; maps are shown where the ranking is about maps.

    Args:
        items: evidence of the chosen cases.
        words: case -> (facts, what went wrong).
        scores: check -> name of the score that its worst cases were chosen by.
        seed: seed of the run, printed.
        threshold: of a detector; detections below it are drawn dotted.
    """
    whole = [item for item in items if "image" in item.arrays]  # the others hold windows alone
    for side in _SIDES:
        found = _at_size(whole, words, scores, seed, side, threshold)
        if sum(map(_weight, found)) <= _BUDGET_BYTES:
            break
    return found


def _weight(gallery: Gallery) -> int:
    """Characters of all pictures of a gallery."""
    return sum(len(panel.picture) for page in gallery.worst + gallery.random for panel in page.panels)


def _at_size(
    items: Sequence[EvidenceItem],
    words: Mapping[str, tuple[str, str]],
    scores: Mapping[str, str],
    seed: int,
    side: int,
    threshold: float,
) -> tuple[Gallery, ...]:
    ranked = {kind for item in items for kind in item.kind if kind.startswith("worst:") and "#" not in kind}
    kinds = sorted(ranked, reverse=True)
    limits = map_limits(items)
    scales = tuple((name, f"±{number(limit, _places(limit))}") for name, limit in limits.items())
    found = []
    for kind in kinds or ["worst:"]:
        check = kind.removeprefix("worst:")
        maps = limits if limits and not check.startswith("performance.") else {}
        shown = _SHOWN_MAPS if maps else _SHOWN
        worst = sorted((i for i in items if kind in i.kind), key=lambda i: (i.scores.get(check, math.inf), i.case))
        drawn = sorted((i for i in items if "random" in i.kind), key=lambda i: (bool(maps) and not _has_map(i), i.draw))
        name = scores.get(check, check)
        why = f"Chosen by the lowest {name}" if name else "No check ranks the cases"
        among = " among the explained ones" if maps else ""
        why += f", beside cases drawn at random{among} (seed {seed}) to judge the worst against the usual."
        pages = [
            tuple(_page(i, words.get(i.case, ("", "")), maps, side, threshold) for i in chosen[:shown])
            for chosen in (worst, drawn)
        ]
        if any(pages):
            title = f"Worst by {name}" if name else "Cases"
            found.append(Gallery(title, why, pages[0], pages[1], scales if maps else ()))
    return tuple(found)


def _has_map(item: EvidenceItem) -> bool:
    return any(name.startswith("map:") for name in item.arrays)


def map_limits(items: Sequence[EvidenceItem]) -> dict[str, float]:
    """One symmetric scale a map for all cases: the 99th percentile of the absolute values."""
    names = dict.fromkeys(name for item in items for name in item.arrays if name.startswith("map:"))
    limits = {}
    for name in names:
        values = np.concatenate([np.abs(i.arrays[name].astype(np.float32)).ravel() for i in items if name in i.arrays])
        values = values[np.isfinite(values)]
        limits[name.removeprefix("map:")] = float(np.percentile(values, 99)) if values.size else 0.0
    return limits


def colours(values: np.ndarray, limit: float) -> np.ndarray:
    """(h, w) signed values -> (h, w, 3) uint8 on the diverging scale; not finite = grey.

    >>> colours(np.array([[0.0, 9.0]]), 1.0)[0].tolist()
    [[221, 221, 221], [166, 73, 10]]
    """
    share = np.clip(np.nan_to_num(values.astype(np.float64) / (limit or 1.0), nan=0.0), -1.0, 1.0)
    stops = np.linspace(-1.0, 1.0, len(_STOPS))
    channels = [np.interp(share, stops, [colour[c] for colour in _STOPS]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def data_uri(pixels: np.ndarray, *, long_side: int = _SIDES[0], quality: int = 82) -> str:
    """Pixels as a JPEG data URI, re-encoded so that nothing but pixels comes along.

    Args:
        pixels: (h, w) or (h, w, 3) uint8.
        long_side: larger pictures are reduced to it.
        quality: of the JPEG.
    """
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if max(picture.size) > long_side:
        picture.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def legend(*, maps: bool) -> Markup:
    """How the outlines look, and with maps the colour bar."""
    parts = []
    for x, colour, dash, name in ((0, _REFERENCE, "5 3", "reference"), (120, _PREDICTION, "", "prediction")):
        parts.append(f'<rect x="{x}" y="1" width="44" height="16" rx="2" fill="#343b43"/>')
        parts.append(_outline([(x + 5, 9), (x + 39, 9)], colour, dash, 2.0))
        parts.append(svg.text(x + 50, 13.5, name))
    if maps:
        for index in range(48):
            r, g, b = colours(np.array([[index / 23.5 - 1]]), 1.0)[0, 0]
            place = f'x="{340 + 2.5 * index:.1f}" y="3" width="2.7" height="12"'
            parts.append(f'<rect {place} fill="#{r:02x}{g:02x}{b:02x}"/>')
        parts += [svg.text(334, 13.5, "lowers the score", anchor="end"), svg.text(466, 13.5, "raises the score")]
    alt = "Legend: dashed yellow is the reference, solid blue the prediction"
    return svg.svg(680, 18, alt + ("; maps run from blue, lowers, to orange, raises." if maps else "."), parts)


def _places(value: float) -> int:
    return max(0, 1 - math.floor(math.log10(value))) if value > 0 else 1


def _page(
    item: EvidenceItem, words: tuple[str, str], limits: Mapping[str, float], side: int, threshold: float
) -> CasePage:
    arrays = item.arrays
    if "boxes:prediction" in arrays:
        return _box_page(item, words, side, threshold)
    height, width = arrays["image"].shape[:2]
    uri = data_uri(arrays["image"], long_side=side)
    reference, prediction = arrays.get("reference"), arrays.get("prediction")
    outlines = [*_outlines(reference, _REFERENCE, "5 3"), *_outlines(prediction, _PREDICTION, "")]
    seen = _seen(reference, prediction)
    panels = [
        Panel("image", _framed(uri, (height, width), (), f"{item.case}: the image")),
        Panel("outlines", _framed(uri, (height, width), outlines, f"{item.case}: {seen}")),
    ]
    for name, limit in limits.items():
        values = arrays.get(f"map:{name}")
        if values is not None:
            picture = data_uri(colours(_smooth(values, (height, width), side), limit), long_side=side, quality=74)
            edge = _outlines(prediction, "#16202b", "")
            panels.append(Panel(name, _framed(picture, (height, width), edge, f"{item.case}: map of {name}")))
    return CasePage(item.case, words[0], words[1], tuple(panels))


def _box_page(item: EvidenceItem, words: tuple[str, str], side: int, threshold: float) -> CasePage:
    """The picture of a detector's case with its boxes upon it."""
    reference, detections = item.arrays["boxes:reference"], item.arrays["boxes:prediction"]
    shape = item.arrays["image"].shape[:2]
    shown = detections[reaches(detections[:, 5], threshold)]
    marks = box_marks(reference, shown, threshold, thick=max(shape) / 260)
    alt = f"{item.case}: {len(reference)} reference boxes, {len(shown)} detections at the threshold"
    uri = data_uri(item.arrays["image"], long_side=side)
    return CasePage(item.case, words[0], words[1], (Panel("", _framed(uri, (shape[0], shape[1]), marks, alt)),))


def _seen(reference: np.ndarray | None, prediction: np.ndarray | None) -> str:
    parts = []
    for mask, name in ((reference, "reference"), (prediction, "prediction")):
        if mask is None:
            parts.append(f"no {name}")
        else:
            share = 100 * float(((mask > 0) & (mask < 255)).mean())
            parts.append(f"{name} covers {number(share, 1)} % of the image" if share else f"empty {name}")
    return "; ".join(parts)


def _framed(uri: str, shape: tuple[int, int], outlines: Sequence[str], alt: str) -> Markup:
    height, width = shape
    image = f'<image href="{uri}" x="0" y="0" width="{width}" height="{height}" preserveAspectRatio="none"/>'
    head = f'<svg viewBox="0 0 {width} {height}" role="img"><title>{escape(alt)}</title>'
    return Markup(f"{head}{image}{''.join(outlines)}</svg>")


def _outlines(mask: np.ndarray | None, colour: str, dash: str) -> list[str]:
    """The borders of every class of a mask as paths, simplified to a third of a pixel."""
    if mask is None:
        return []
    from skimage.measure import approximate_polygon, find_contours

    parts = []
    thick = max(mask.shape) / 190
    for value in (v for v in np.unique(mask) if 0 < v < 255):
        padded = np.pad(mask == value, 1).astype(np.float32)
        for ring in find_contours(padded, 0.5):
            points = approximate_polygon(ring, 0.3) - 0.5
            parts.append(_outline([(x, y) for y, x in points], colour, dash, thick))
    return parts


def _outline(points: Sequence[tuple[float, float]], colour: str, dash: str, thick: float) -> str:
    d = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    more = f' stroke-dasharray="{" ".join(f"{float(p) * thick / 2:.1f}" for p in dash.split())}"' if dash else ""
    halo = f'<path d="{d}" fill="none" stroke="#0b1016" stroke-opacity=".6" stroke-width="{1.9 * thick:.2f}"/>'
    halo = "" if colour.startswith("#16") else halo
    return f'{halo}<path d="{d}" fill="none" stroke="{colour}" stroke-width="{thick:.2f}"{more}/>'


def _smooth(values: np.ndarray, shape: tuple[int, int], side: int) -> np.ndarray:
    """A coarse map at the picture's proportions, bilinear."""
    from PIL import Image

    scale = min(1.0, side / max(shape))
    size = (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
    picture = Image.fromarray(np.nan_to_num(values.astype(np.float32)))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
