"""report.html: one file that opens offline, asks for nothing, runs no script and shows hostile names as they are."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Literal

from markupsafe import Markup

from xaiseg.reports.palette import DARK, LIGHT
from xaiseg.reports.words import capital, uncapital

if TYPE_CHECKING:
    from jinja2 import Environment

#: A report above this size is no page any more.
MOST_BYTES: Final = 8_000_000
WEIGHTS: Final = (400, 600, 700)
UNTAGGED: Final = "Untagged PDF: use report.html with assistive technology."

Paper = Literal["", "tagged", "untagged"]


def report_html(context: Mapping[str, Any], *, paper: Paper = "") -> str:
    """The report as HTML.

    Args:
        context: what :func:`xaiseg.reports.page.page_context` returns.
        paper: "" for screens; "tagged" and "untagged" for the two PDF engines, with everything unfolded.
    """
    plan, protocol = context["plan"], context["protocol"]
    footer = f"xaiseg audit · {plan['model']['name']} · protocol {protocol['name']} {protocol['version']} "
    footer += f"(sha256 {protocol['sha256'][:12]})"
    environment = _environment()
    fonts = font_faces(as_truetype=paper == "untagged")
    css = environment.get_template("report.css.j2").render(
        light=LIGHT, dark=DARK, fonts=fonts, footer=_css_text(footer), paper=paper
    )
    return environment.get_template("report.html.j2").render(
        **context, css=Markup(css), paper=paper, stamp=UNTAGGED if paper == "untagged" else ""
    )


@lru_cache(maxsize=2)
def font_faces(*, as_truetype: bool = False) -> tuple[tuple[int, str], ...]:
    """(weight, data URI) of the fonts that the package ships.

    Args:
        as_truetype: unpack WOFF2, for engines that do not read it; without the unpacker there are no fonts.
    """
    folder = resources.files("xaiseg.reports") / "fonts"
    faces = []
    for weight in WEIGHTS:
        data = (folder / f"source-sans-3-latin-{weight}-normal.woff2").read_bytes()
        kind = "woff2"
        if as_truetype:
            unpacked = _truetype(data)
            if unpacked is None:
                return ()
            data, kind = unpacked, "ttf"
        faces.append((weight, f"data:font/{kind};base64,{base64.b64encode(data).decode('ascii')}"))
    return tuple(faces)


def _truetype(woff2: bytes) -> bytes | None:
    import io

    try:
        from fontTools.ttLib import TTFont  # type: ignore[import-untyped]

        font = TTFont(io.BytesIO(woff2))
    except ImportError:  # fontTools or its Brotli; the page then falls back on a font of the system
        return None
    font.flavor = None
    buffer = io.BytesIO()
    font.save(buffer)
    return buffer.getvalue()


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("xaiseg.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"capital": capital, "uncapital": uncapital, "stop": lambda text: f"{text.rstrip('.')}."}
    return environment


def _css_text(text: str) -> Markup:
    """Text for a CSS string: whatever could end it is replaced."""
    return Markup(re.sub(r"[^\w .,:;()·+-]", "_", text))
