from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from tests.reports.fake_run import SCRIPT
from xaiseg.estimate import Estimate
from xaiseg.reports.html import MOST_BYTES, report_html
from xaiseg.reports.page import page_context

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Tags with their attributes, and the texts, of a page; refuses tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_is_one_small_file(html):
    assert len(html.encode()) < MOST_BYTES / 4


def test_asks_the_network_for_nothing(page, html):
    for _, attributes in page.tags:
        for name in ("src", "href", "data", "srcset", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"{name}={value[:60]}"
    assert all(url.startswith("data:") for url in re.findall(r"url\((.{0,12})", html))
    assert "@import" not in html


def test_policy_is_strict_and_no_script_is_there(page):
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:")
    assert "script-src" not in policy
    assert not page.all("script")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_hostile_names_are_shown_as_they_are(page, html):
    assert SCRIPT not in html
    assert any(SCRIPT in words for _, words in page.texts)
    assert any(SCRIPT in words for tag, words in page.texts if tag == "title"), "alternative texts name the case"


def test_has_language_one_heading_and_landmarks(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("footer")) == len(page.all("nav")) == 1
    first = next(attributes for name, attributes in page.tags if name == "a")
    assert first == {"class": "skip", "href": "#main"}


def test_headings_descend_one_step_at_a_time(page):
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch("h[1-6]", name)]
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_tables_have_scopes_and_captions(page):
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert not [a for _, a in page.tags if "rowspan" in a or "colspan" in a]


def test_every_picture_has_an_alternative_text(html):
    pictures = re.findall(r"<svg[^>]*>(.{0,30})", html)
    assert len(pictures) > 20
    assert all(rest.startswith("<title>") and not rest.startswith("<title></title>") for rest in pictures)
    assert html.count("<svg") == html.count('role="img"')


def test_links_find_their_place_and_ids_are_unique(page):
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)


def test_every_estimate_is_listed_with_its_id(page, material):
    told = {words for tag, words in page.texts if tag == "code"}
    assert {item.id.removeprefix(f"{item.check}/") for item in material.estimates.values()} <= told


def test_prints_no_nan_no_path_and_no_promise(page, html):
    words = " ".join(text for tag, text in page.texts if tag != "style")
    assert not re.search(r"\b(nan|None|inf)\b", words)
    assert "/home/somebody" not in html
    assert "compliant" not in words.lower()


def test_values_on_page_1_are_never_a_rounded_zero(context):
    shown = [text for row in context["gates"] + context["others"] for text in (row.value, row.spread)]
    assert any(shown)
    assert not [text for text in shown if re.search(r"(?<![\d.<>−] )(?<![\d.])0\.0+(?!\d)", text)]


def test_page_1_names_use_limits_and_caveats(page, context):
    words = " ".join(text for _, text in page.texts)
    for item in (*context["protocol"]["use"], *context["protocol"]["not_for"], *context["protocol"]["cannot_tell"]):
        assert item in words
    for caveat in context["overall"].caveats:
        assert caveat[1:] in words


def test_print_has_an_appendix_of_all_numbers_and_drops_what_print_engines_do_not_know(context):
    paper = report_html(context, paper="tagged")
    assert "<details" not in paper
    appendix = paper.index('id="numbers"')
    assert appendix > paper.index('id="sign-off"')
    with_numbers = [section for section in context["sections"] if section.details]
    assert len(with_numbers) > 3
    for section in with_numbers:
        assert f'href="#numbers-{section.anchor}"' in paper[:appendix]
        assert f'id="numbers-{section.anchor}"' in paper[appendix:]
        assert all(f'<tr id="{row.anchor}">' in paper[appendix:] for row in section.details)
    assert 'id="numbers"' not in report_html(context)
    assert "@media screen" not in paper
    assert "Untagged" in report_html(context, paper="untagged")


def test_a_note_stands_once_and_a_reason_wherever_it_is_not_that_of_the_row_above(material):
    words = [("", "per image"), ("", "per image"), ("too few", "per image"), ("too few", "per image"),
             ("", "per object"), ("", ""), ("too few", "per object"), ("", "per image")]  # fmt: skip
    made = [
        Estimate(f"data.integrity/m{n}", "data.integrity", f"m{n}", "mean", 0.5, None, reason=reason, note=note)
        for n, (reason, note) in enumerate(words)
    ]
    section = next(
        item
        for item in page_context(dataclasses.replace(material, estimates={item.id: item for item in made}))["sections"]
        if item.check == "data.integrity"
    )
    told = [row.remark for row in section.details]
    assert told == ["per image", "", "too few", "", "per object", "", "too few", "per image"]


def test_a_model_name_cannot_leave_the_style_sheet(context):
    hostile = {**context, "plan": {**context["plan"], "model": {**context["model"], "name": '"}</style><b>{x:"'}}}
    assert "</style><b>" not in report_html(hostile)


def test_paper_prints_of_hundreds_of_details_those_that_page_1_links_to(context):
    section = next(item for item in context["sections"] if item.lines and item.lines[0].anchor)
    linked = section.lines[0].anchor
    more = [dataclasses.replace(section.details[0], anchor=f"more{n}") for n in range(201)]
    kept = next(row for row in section.details if row.anchor == linked)
    many = dataclasses.replace(section, details=(*more, kept))
    made = {**context, "sections": [many]}
    paper, screen = report_html(made, paper="tagged"), report_html(made)
    assert f'<tr id="{linked}">' in paper
    assert '<tr id="more7">' not in paper
    assert "all of them stand in report.html and audit.json" in paper
    assert '<tr id="more7">' in screen
    assert "all of them stand" not in screen
