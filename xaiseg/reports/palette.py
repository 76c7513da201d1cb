"""Colours and verdict marks. A verdict is always a shape, a word and a colour together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from xaiseg.judge import Verdict

#: Names that drawings and style sheet use; text colours keep 4.5:1 and marks 3:1 against `paper` and `soft`.
LIGHT: Final[Mapping[str, str]] = {
    "paper": "#ffffff",
    "soft": "#f3f6f8",
    "ink": "#16202b",
    "muted": "#4f5c69",
    "line": "#d3dbe2",
    "accent": "#0b5fa5",
    "second": "#a3480c",
    "shade": "#f7e4e0",
    "pass": "#166b3f",
    "fail": "#a61b1b",
    "open": "#7a4f00",
    "idle": "#4f5c69",
}
DARK: Final[Mapping[str, str]] = {
    "paper": "#11171d",
    "soft": "#1b242d",
    "ink": "#e8edf2",
    "muted": "#a9b6c2",
    "line": "#3a4754",
    "accent": "#7fc1ff",
    "second": "#f2a66a",
    "shade": "#4a2a2a",
    "pass": "#62d69d",
    "fail": "#ff948b",
    "open": "#e8b552",
    "idle": "#a9b6c2",
}
#: Colours that carry text, and colours that carry shapes alone.
TEXT_COLOURS: Final = ("ink", "muted", "accent", "second", "pass", "fail", "open", "idle")

Shape = Literal["circle", "square", "diamond", "ring", "triangle", "dash"]


@dataclass(frozen=True)
class Look:
    """How a verdict looks.

    Attributes:
        word: what stands beside a requirement.
        shape: its mark.
        colour: a name of :data:`LIGHT`.
    """

    word: str
    shape: Shape
    colour: str


LOOKS: Final[Mapping[Verdict, Look]] = {
    Verdict.PASS: Look("met", "circle", "pass"),
    Verdict.FAIL: Look("not met", "square", "fail"),
    Verdict.ERROR: Look("crashed", "triangle", "fail"),
    Verdict.INSUFFICIENT: Look("cannot tell", "diamond", "open"),
    Verdict.NOT_RUN: Look("not run", "ring", "open"),
    Verdict.NOT_APPLICABLE: Look("does not apply", "dash", "idle"),
    Verdict.MEASURED: Look("measured", "dash", "idle"),
}


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours after WCAG 2.2, 1 to 21.

    >>> round(contrast("#000000", "#ffffff"), 1)
    21.0
    """
    light, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
