"""Drawing by hand: small SVG pieces as text, safe to embed, readable without style sheet.

WeasyPrint ignores a page's CSS inside SVG, so every colour and font stands on the element itself; the classes beside
them let the style sheet repaint for dark screens. Texts are escaped here, so callers pass them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from xaiseg.reports.palette import LIGHT

#: Decimals beyond which a tick is written with its exponent.
_PLAIN: Final = 5
FONT: Final = "Source Sans 3, Segoe UI, Roboto, DejaVu Sans, sans-serif"


@dataclass(frozen=True)
class Axis:
    """A linear scale.

    Attributes:
        low, high: values at the ends.
        start, stop: their places in px.
    """

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Place of a value; values beyond the ends stay at the ends.

        >>> Axis(0, 1, 10, 110)(0.5), Axis(0, 1, 10, 110)(7.0)
        (60.0, 110.0)
        """
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + min(1.0, max(0.0, share)) * (self.stop - self.start)

    def holds(self, value: float) -> bool:
        """Whether the value lies between the ends."""
        return self.low <= value <= self.high

    def ticks(self, count: int = 5) -> list[float]:
        """About ``count`` round values between the ends.

        >>> Axis(0.0, 1.0, 0, 1).ticks(5)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
        """
        step, places = self._step(count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, places + 1) for index in range(first, last + 1)]

    def labels(self, count: int = 5) -> list[tuple[float, str]]:
        """The ticks with as many decimals as their step has, so that no two read alike.

        >>> [words for _, words in Axis(-0.006, 0.011, 0, 1).labels(4)]
        ['−0.005', '0', '0.005', '0.010']
        """
        places = self._step(count)[1]
        return [(tick, _tick(tick, places)) for tick in self.ticks(count)]

    def _step(self, count: int) -> tuple[float, int]:
        """The distance of two ticks, and its decimals."""
        raw = (self.high - self.low) / max(count, 1)
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
        return step, max(0, -math.floor(math.log10(step) + 1e-9))


def _tick(value: float, places: int) -> str:
    if value == 0:
        return "0"
    digits = math.floor(math.log10(abs(value)) + 1e-9) + places
    if places <= _PLAIN or not 0 <= digits <= 2:
        return f"{value:.{places}f}".replace("-", "−")
    figures, _, exponent = f"{value:.{digits}e}".partition("e")
    return f"{figures}e{int(exponent)}".replace("-", "−")


def svg(width: float, height: float, title: str, parts: Iterable[str], *, style: str = "") -> Markup:
    """A picture with its alternative text.

    Args:
        width: px of the view box.
        height: px of the view box.
        title: what it shows, for those who do not see it.
        parts: pieces made by the functions of this module.
        style: "fixed" keeps its size in px; otherwise it fills its container.
    """
    size = f'width="{width:g}" height="{height:g}" ' if style == "fixed" else ""
    return Markup(
        f'<svg {size}viewBox="0 0 {width:g} {height:g}" role="img" font-family="{FONT}" font-size="12">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def line(
    x1: float, y1: float, x2: float, y2: float, *, colour: str = "ink", width: float = 1, dash: str = "", cap: str = ""
) -> str:
    """A straight line."""
    more = (f' stroke-dasharray="{dash}"' if dash else "") + (f' stroke-linecap="{cap}"' if cap else "")
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {_stroke(colour, width)}{more}/>'


def rect(x: float, y: float, width: float, height: float, *, colour: str, opacity: float = 1, radius: float = 0) -> str:
    """A filled rectangle."""
    more = (f' opacity="{opacity:g}"' if opacity < 1 else "") + (f' rx="{radius:g}"' if radius else "")
    size = f'width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} {_fill(colour)}{more}/>'


def circle(x: float, y: float, radius: float, *, colour: str, opacity: float = 1, hollow: bool = False) -> str:
    """A filled or hollow circle."""
    paint = _fill(colour)
    if hollow:
        paint = f'fill="{LIGHT["paper"]}" stroke="{LIGHT[colour]}" stroke-width="1.4" class="f-paper s-{colour}"'
    more = f' opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" {paint}{more}/>'


def path(points: Sequence[tuple[float, float]], *, colour: str = "ink", width: float = 1.4) -> str:
    """An open line through points."""
    joined = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{joined}" fill="none" {_stroke(colour, width)}/>'


def text(
    x: float, y: float, words: str, *, size: float = 12, anchor: str = "start", bold: bool = False, colour: str = "ink"
) -> str:
    """One line of text; ``y`` is its base line."""
    more = (f' text-anchor="{anchor}"' if anchor != "start" else "") + (' font-weight="600"' if bold else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" {_fill(colour)}{more}>{escape(words)}</text>'


def fitted(words: str, width: float, *, size: float = 12) -> str:
    """The words, cut with an ellipsis where they would be wider than ``width`` px.

    >>> fitted("short", 100), fitted("a very long label indeed", 60)
    ('short', 'a very lo…')
    """
    room = max(1, int(width / (0.5 * size)))
    return words if len(words) <= room else words[: room - 1].rstrip() + "…"


def fitted_name(words: str, width: float, *, size: float = 12) -> str:
    """The same for names of files, cut in the middle: what tells them apart is often their end.

    >>> fitted_name("survey_75m_flight3_0042", 100)
    'survey_…ht3_0042'
    """
    room = max(3, int(width / (0.5 * size)))
    if len(words) <= room:
        return words
    return words[: (room - 1) // 2] + "…" + words[len(words) - room // 2 :]


def shade(x1: float, x2: float, y: float, height: float) -> str:
    """The bad side of a bound."""
    return rect(min(x1, x2), y, abs(x2 - x1), height, colour="shade")


def bar(axis: Axis, y: float, lower: float | None, upper: float | None, *, colour: str, width: float = 5) -> str:
    """An interval; an open end runs to the end of the axis, an end beyond it is cut."""
    left, right = (axis.low if lower is None else lower), (axis.high if upper is None else upper)
    x1, x2 = axis(left), max(axis(right), axis(left) + 0.5)
    return rect(x1, y - width / 2, x2 - x1, width, colour=colour, opacity=0.42, radius=width / 2)


def ruler(axis: Axis, y: float, labels: Sequence[tuple[float, str]], title: str) -> str:
    """A horizontal axis with ticks and its title below."""
    parts = [line(axis.start, y, axis.stop, y)]
    for value, words in labels:
        parts.append(line(axis(value), y, axis(value), y + 4))
        parts.append(text(axis(value), y + 16, words, size=11, anchor="middle"))
    middle = (axis.start + axis.stop) / 2
    return "".join(parts) + text(middle, y + 33, title, anchor="middle", colour="muted")


def _fill(colour: str) -> str:
    return f'fill="{LIGHT[colour]}" class="f-{colour}"'


def _stroke(colour: str, width: float) -> str:
    return f'stroke="{LIGHT[colour]}" stroke-width="{width:g}" class="s-{colour}"'
