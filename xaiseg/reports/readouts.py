"""Drawings of the section on what the architecture itself says: bars of features, and maps in rows of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup

from xaiseg.reports import svg
from xaiseg.reports.gallery import colours, data_uri
from xaiseg.reports.numbers import number

WIDTH: Final = 680
_LABEL: Final = 172
_ROW: Final = 23
_GAP: Final = 8
#: From what holds back to what lets pass.
_STOPS: Final = ((247, 249, 251), (126, 172, 214), (8, 48, 92))


@dataclass(frozen=True)
class Bar:
    """A share in per cent with the ends of its interval, where there is one."""

    value: float
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True)
class Tile:
    """One map.

    Attributes:
        title: above it.
        values: (h, w).
        low, high: ends of its scale, printed below.
        signed: drawn on the diverging scale of post-hoc maps.
        silent: pale, and marked "no effect".
    """

    title: str
    values: np.ndarray
    low: float
    high: float
    signed: bool = False
    silent: bool = False


@dataclass(frozen=True)
class MapRow:
    """One case.

    Attributes:
        case: id.
        image: (h, w) or (h, w, 3) uint8, or None when no picture was kept.
        prediction: (h, w) labels on the image's grid, or None.
        tiles: its maps.
    """

    case: str
    image: np.ndarray | None
    prediction: np.ndarray | None
    tiles: tuple[Tile, ...]


def feature_bars(
    features: Sequence[tuple[str, str]], heads: Mapping[str, str], bars: Mapping[str, Mapping[str, Bar]], *, grey: bool
) -> Markup:
    """Horizontal bars, one row a feature and one column a way of weighing, all on one scale.

    Args:
        features: (plain name, id) from top to bottom.
        heads: way -> heading of its column.
        bars: way -> feature id -> share; a way that is not there was not measured.
        grey: draw without colour, because nothing hangs on it.
    """
    colour = "idle" if grey else "accent"
    every = [bar.upper if bar.upper is not None else bar.value for held in bars.values() for bar in held.values()]
    most = min(100.0, max([1.0, *every]))
    width = (WIDTH - _LABEL) / len(heads)
    height = 26 + _ROW * len(features)
    parts = [svg.text(0, 15, "feature", size=13, colour="muted")]
    for row, (name, _) in enumerate(features):
        parts.append(svg.text(0, 26 + _ROW * (row + 0.5) + 4.5, svg.fitted(name, _LABEL - 6, size=13), size=13))
    for column, (way, head) in enumerate(heads.items()):
        left = _LABEL + column * width
        axis = svg.Axis(0.0, most, left, left + width - 48)
        parts.append(svg.text(left, 15, head, size=13, bold=True))
        if way not in bars:
            parts.append(svg.text(left, 26 + _ROW * 0.5 + 4.5, "not measured", size=13, colour="muted"))
            continue
        parts.append(svg.line(left, 22, left, height, colour="line"))
        for row, (_, key) in enumerate(features):
            if key in bars[way]:
                parts += _bar(bars[way][key], axis, 26 + _ROW * (row + 0.5), colour)
    alt = _said(features, heads, bars)
    return svg.svg(WIDTH, height + 4, f"{alt} Drawn in grey: nothing hangs on them." if grey else alt, parts)


def _bar(bar: Bar, axis: svg.Axis, y: float, colour: str) -> list[str]:
    end = axis(bar.value)
    parts = [svg.rect(axis.start, y - 6, max(end - axis.start, 1.0), 12, colour=colour, opacity=0.55)]
    reach = end
    if bar.lower is not None and bar.upper is not None:
        reach = max(end, axis(bar.upper))
        parts.append(svg.line(axis(bar.lower), y, axis(bar.upper), y, colour="ink", width=1.2))
    parts.append(svg.text(reach + 5, y + 4.5, f"{number(bar.value, 0 if bar.value >= 10 else 1)} %", size=12))
    return parts


def _said(features: Sequence[tuple[str, str]], heads: Mapping[str, str], bars: Mapping[str, Mapping[str, Bar]]) -> str:
    words = []
    for way, held in bars.items():
        best = sorted(features, key=lambda pair: -(held[pair[1]].value if pair[1] in held else 0.0))[:3]
        named = ", ".join(f"{name} {number(held[key].value, 1)} %" for name, key in best if key in held)
        words.append(f"{heads[way]}: {named}")
    return f"Largest shares of the features by {'; by '.join(words)}." if words else "No feature was weighed."


def map_rows(rows: Sequence[MapRow]) -> Markup:
    """Cases below one another: the image with the predicted outline, then its maps, each on its own scale."""
    columns = 1 + max(len(row.tiles) for row in rows)
    width = (WIDTH - _GAP * (columns - 1)) / columns
    parts: list[str] = []
    y = 0.0
    for row in rows:
        shape = row.image.shape[:2] if row.image is not None else row.tiles[0].values.shape
        height = width * min(1.6, max(0.5, shape[0] / shape[1]))
        outline = _outline(row.prediction, width, height)
        parts.append(svg.text(0, y + 14, svg.fitted(row.case, width, size=12), size=12, bold=True))
        if row.image is None:
            parts.append(svg.text(0, y + 20 + height / 2, "no picture kept", size=12, colour="muted"))
        else:
            parts.append(_picture(row.image, 0, y + 20, width, height))
            parts.append(_placed(outline, 0, y + 20, "#56c2ff"))
        for index, tile in enumerate(row.tiles, start=1):
            parts += _tile(tile, index * (width + _GAP), y, width, height, outline)
        y += height + 46
    titles = ", ".join(tile.title for tile in rows[0].tiles)
    alt = f"Maps of {len(rows)} cases: {titles}. Cases: {', '.join(row.case for row in rows)}."
    return svg.svg(WIDTH, y, alt, parts)


def _tile(tile: Tile, x: float, y: float, width: float, height: float, outline: str) -> list[str]:
    limit = float(np.percentile(np.abs(tile.values), 99)) or 1.0
    pixels = colours(tile.values, limit) if tile.signed else _shades(tile)
    title = f"{tile.title}: no effect" if tile.silent else tile.title
    span = f"±{number(limit, _places(limit))}" if tile.signed else _span(tile.low, tile.high)
    dim = ' opacity="0.3"' if tile.silent else ""
    return [
        svg.text(x, y + 14, svg.fitted(title, width, size=12), size=12, colour="idle" if tile.silent else "ink"),
        f"<g{dim}>{_picture(pixels, x, y + 20, width, height)}</g>",
        _placed(outline, x, y + 20, "#16202b"),
        svg.text(x, y + height + 33, span, size=11, colour="muted"),
    ]


def _shades(tile: Tile) -> np.ndarray:
    """(h, w) -> (h, w, 3) uint8 from white, the lowest value, to dark blue."""
    share = (tile.values - tile.low) / ((tile.high - tile.low) or 1.0)
    stops = np.linspace(0.0, 1.0, len(_STOPS))
    channels = [np.interp(share, stops, [stop[c] for stop in _STOPS]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _span(low: float, high: float) -> str:
    places = _places(high - low) if high > low else 2
    return f"{number(low, places)} to {number(high, places)}"


def _places(value: float) -> int:
    return int(min(6, max(0, 1 - np.floor(np.log10(0.999 * value))))) if value > 0 else 2


def _picture(pixels: np.ndarray, x: float, y: float, width: float, height: float) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<image href="{data_uri(pixels, long_side=224)}" {place} preserveAspectRatio="none"/>'


def _outline(mask: np.ndarray | None, width: float, height: float) -> str:
    """Borders of the predicted foreground as the data of a path, in px of a tile; "" without any."""
    if mask is None or not ((mask > 0) & (mask < 255)).any():
        return ""
    from skimage.measure import approximate_polygon, find_contours

    padded = np.pad((mask > 0) & (mask < 255), 1).astype(np.float32)
    down, across = height / mask.shape[0], width / mask.shape[1]
    rings = [approximate_polygon(ring, 0.5) - 0.5 for ring in find_contours(padded, 0.5)]
    return " ".join("M" + " L".join(f"{c * across:.1f} {r * down:.1f}" for r, c in ring) for ring in rings)


def _placed(outline: str, x: float, y: float, colour: str) -> str:
    if not outline:
        return ""
    return (
        f'<path d="{outline}" transform="translate({x:.1f} {y:.1f})" fill="none" stroke="{colour}" stroke-width="1.3"/>'
    )


@dataclass(frozen=True)
class PictureTile:
    """A picture with words below it.

    Attributes:
        title: above it.
        pixels: (h, w) or (h, w, 3) uint8.
        outline: (h, w), not 0 inside, or None.
        box: (x0, y0, x1, y1) as shares of width and height, or None.
        below: up to two lines.
    """

    title: str
    pixels: np.ndarray
    outline: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None
    below: tuple[str, ...] = ()


def picture_rows(rows: Sequence[tuple[str, Sequence[PictureTile]]], alt: str, *, abreast: int = 1) -> Markup:
    """Rows of pictures of one width, each row under its heading.

    Args:
        rows: (heading, tiles).
        alt: what the picture shows, for those who do not see it.
        abreast: how many of the rows stand side by side.
    """
    each = max(len(tiles) for _, tiles in rows)
    columns = max(_FEWEST_COLUMNS, each * abreast)
    between = 2 * _GAP * (abreast - 1)  # what keeps neighbours apart beyond the gap of their pictures
    width = (WIDTH - _GAP * (columns - 1) - between) / columns
    span = WIDTH if abreast == 1 else each * (width + _GAP) + 2 * _GAP
    parts: list[str] = []
    y = 0.0
    for start in range(0, len(rows), abreast):
        depths = []
        for place, (heading, tiles) in enumerate(rows[start : start + abreast]):
            x = place * span
            parts.append(svg.text(x, y + 14, svg.fitted_name(heading, span - _GAP, size=13), size=13, bold=True))
            heights = [_height(tile, width) for tile in tiles]
            for index, (tile, height) in enumerate(zip(tiles, heights, strict=True)):
                parts += _picture_tile(tile, x + index * (width + _GAP), y + 20, width, height)
            depths.append(max(heights) + 40 + 14 * max(len(tile.below) for tile in tiles) + 12)
        y += max(depths)
    return svg.svg(WIDTH, y, alt, parts)


def _height(tile: PictureTile, width: float) -> float:
    height, across = tile.pixels.shape[:2]
    return width * min(1.6, max(0.5, int(height) / int(across)))


def _picture_tile(tile: PictureTile, x: float, y: float, width: float, height: float) -> list[str]:
    parts = [
        svg.text(x, y + 12, svg.fitted_name(tile.title, width, size=12), size=12),
        _picture(tile.pixels, x, y + 18, width, height),
        _placed(_outline(tile.outline, width, height), x, y + 18, "#56c2ff"),
    ]
    if tile.box is not None:
        x0, y0, x1, y1 = tile.box
        place = f'x="{x + x0 * width:.1f}" y="{y + 18 + y0 * height:.1f}"'
        size = f'width="{(x1 - x0) * width:.1f}" height="{(y1 - y0) * height:.1f}"'
        parts += [f'<rect {place} {size} fill="none" stroke="{c}" stroke-width="{w}"/>' for c, w in _BOX]
    for line, words in enumerate(tile.below):
        parts.append(
            svg.text(x, y + height + 32 + 14 * line, svg.fitted(words, width, size=11), size=11, colour="muted")
        )
    return parts


#: Fewer pictures a row do not become larger: they are coarse.
_FEWEST_COLUMNS: Final = 5
#: A box shows on any picture: yellow on black.
_BOX: Final = (("#0b1016", 3.6), ("#ffd34d", 1.8))
