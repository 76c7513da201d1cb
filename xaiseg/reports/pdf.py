"""report.pdf from the same HTML: tagged by WeasyPrint where Pango is present, else untagged by PlutoPrint."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from xaiseg.reports.html import report_html

PANGO: Final = (
    "the PDF is untagged because WeasyPrint found no Pango (Debian: apt install libpango-1.0-0 libpangoft2-1.0-0 "
    "libharfbuzz-subset0; macOS: brew install pango)"
)


def report_pdf(context: Mapping[str, Any]) -> tuple[bytes | None, tuple[str, ...]]:
    """The report as PDF.

    Args:
        context: what :func:`xaiseg.reports.page.page_context` returns.

    Returns:
        The file, or None when no engine made one; and warnings. It never raises: a lost PDF must not lose an audit.
    """
    warnings: list[str] = []
    engines: tuple[Callable[[Mapping[str, Any]], tuple[bytes, list[str]]], ...] = (tagged_pdf, untagged_pdf)
    for engine in engines:
        try:
            data, said = engine(context)
        except (ImportError, OSError) as error:
            # WeasyPrint raises OSError when the library Pango is missing.
            warnings.append(PANGO if engine is tagged_pdf else f"no PDF was written: {error}")
        except Exception as error:  # noqa: BLE001 - a warning by design, see above
            warnings.append(f"{engine.__name__.replace('_', ' ')} failed: {type(error).__name__}: {error}")
        else:
            return data, (*warnings, *said)
    return None, tuple(warnings)


def tagged_pdf(context: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """A pdf/ua-1 file by WeasyPrint, and what it complained about.

    Raises:
        ImportError: WeasyPrint is not installed.
        OSError: Pango is missing.
    """
    from weasyprint import HTML
    from weasyprint.urls import URLFetcher

    identifier = hashlib.sha256(f"{context['plan']['key']}{context['protocol']['sha256']}".encode()).digest()[:16]
    with _log("weasyprint") as said:
        page = HTML(
            string=report_html(context, paper="tagged"),
            base_url=None,
            url_fetcher=URLFetcher(allowed_protocols=["data"], allow_redirects=False),
        )
        data = page.write_pdf(pdf_variant="pdf/ua-1", pdf_identifier=identifier)
    assert isinstance(data, bytes)
    return data, [f"WeasyPrint: {line}" for line in dict.fromkeys(said)]


def untagged_pdf(context: Mapping[str, Any]) -> tuple[bytes, list[str]]:
    """A PDF by PlutoPrint, stamped as untagged.

    Raises:
        ImportError: PlutoPrint has no wheel for this platform.
    """
    import plutoprint

    class Refusing(plutoprint.ResourceFetcher):
        """Fetches nothing but what lies in the page."""

        def fetch_url(self, url: str) -> Any:
            if not url.startswith("data:"):
                raise ValueError(f"the report asks for nothing outside itself: {url[:80]}")
            return plutoprint.default_resource_fetcher.fetch_url(url)

    book = plutoprint.Book(plutoprint.PAGE_SIZE_A4)
    book.custom_resource_fetcher = Refusing()
    # An address of its own, so that links within the page find their way.
    book.load_html(report_html(context, paper="untagged"), base_url="report:/report.html")
    created = context["plan"]["created"]
    for name, value in (
        (plutoprint.PDF_METADATA_CREATION_DATE, created),
        (plutoprint.PDF_METADATA_MODIFICATION_DATE, created),
    ):
        book.set_metadata(name, value)
    buffer = io.BytesIO()
    book.write_to_pdf_stream(buffer)
    return buffer.getvalue(), []


@contextlib.contextmanager
def _log(name: str) -> Iterator[list[str]]:
    """Collects the warnings of a library's logger, so that they neither vanish nor clutter the terminal."""
    lines: list[str] = []

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger, keeper = logging.getLogger(name), Keeper(logging.WARNING)
    held = (logger.handlers[:], logger.propagate)
    logger.handlers, logger.propagate = [keeper], False
    try:
        yield lines
    finally:
        logger.handlers, logger.propagate = held
