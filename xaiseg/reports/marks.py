"""The marks of verdicts: a shape for each, so that nobody depends on colour."""

from __future__ import annotations

from markupsafe import Markup

from xaiseg.reports.palette import LIGHT, Look
from xaiseg.reports.svg import svg


def mark(look: Look, size: float = 14) -> Markup:
    """The mark of a verdict with its word as alternative text."""
    return svg(size, size, look.word, [mark_shape(look, size / 2, size / 2, size)], style="fixed")


def mark_shape(look: Look, x: float, y: float, size: float) -> str:
    """The bare shape of a verdict, centred at (x, y)."""
    # Drawn in a box of 18 x 18 around the origin.
    body = _SHAPES[look.shape].format(
        fill=f'fill="{LIGHT[look.colour]}" class="f-{look.colour}"',
        edge=f'fill="none" stroke="{LIGHT[look.colour]}" class="s-{look.colour}"',
        sign=f'fill="none" stroke="{LIGHT["paper"]}" stroke-width="2" class="s-paper"',
    )
    return f'<g transform="translate({x:.1f} {y:.1f}) scale({size / 18:.3f})">{body}</g>'


_SHAPES = {
    "circle": '<circle r="8.4" {fill}/><path d="M-3.8 .3 l2.8 2.9 l5-5.9" {sign}/>',
    "square": '<rect x="-7.8" y="-7.8" width="15.6" height="15.6" rx="2.2" {fill}/>'
    '<path d="M-3.4 -3.4 l6.8 6.8 m0 -6.8 l-6.8 6.8" {sign}/>',
    "triangle": '<path d="M0 -8.4 L9 7.6 L-9 7.6 Z" {fill}/><path d="M0 -2.6 v4.8 m0 1.6 v1.4" {sign}/>',
    "diamond": '<path d="M0 -7.7 L7.7 0 L0 7.7 L-7.7 0 Z" stroke-width="2.3" {edge}/>',
    "ring": '<circle r="7.2" stroke-width="2" stroke-dasharray="2.6 2.6" {edge}/>',
    "dash": '<path d="M-6 0 h12" stroke-width="2.4" {edge}/>',
}
