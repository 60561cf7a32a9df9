from __future__ import annotations

import base64
import gzip
import html
import json
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

from detseg3d.reporting.html import rendering
from detseg3d.reporting.html.rendering import compress, render
from tests.reporting.html.factory import Page

TEMPLATES = Path(str(files("detseg3d.reporting.html"))) / "templates"


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_a_text_is_the_same_after_it_was_escaped_and_read(text: str) -> None:
    reason = [{"system": "", "text": text, "cases": ["a"]}]
    page = str(render("problems", reasons=reason))
    _, rest = page.split('<span class="reason">')
    inner, _ = rest.split("</span></li>")
    assert "<" not in inner and html.unescape(inner) == text


def test_a_value_cannot_end_its_attribute() -> None:
    attack = '"><img src=x onerror=alert(1)>'
    row = {"case_id": attack, "in_viewer": True, "cells": []}
    page = Page(render("cases", rows=[row], systems=[], titles=[]))
    assert page.find("img") == [] and page.find("a")[0]["attributes"]["data-show-case"] == attack


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--", "]]>", "\u2028\u2029", "\ud800", "&lt;"]
)
def test_json_cannot_end_its_script(text: str) -> None:
    template = rendering._environment().from_string("{{ data|tojson }}")
    embedded = template.render(data={text: [text]})
    assert not set(embedded) & set("<>&\u2028\u2029")
    assert json.loads(embedded) == {text: [text]}


def test_json_refuses_a_value_that_is_not_a_number() -> None:
    template = rendering._environment().from_string("{{ data|tojson }}")
    with pytest.raises(ValueError, match="JSON compliant"):
        template.render(data=float("nan"))


def test_a_variable_that_is_not_given_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("problems")


def test_only_scripts_styles_and_an_escaped_text_of_css_are_not_escaped_as_html() -> None:
    safe = {
        (template.name, line.strip())
        for template in TEMPLATES.iterdir()
        for line in template.read_text(encoding="utf-8").splitlines()
        if "|safe" in line or "autoescape" in line
    }
    assert safe == {
        ("report.html", "{{ style|safe }}"),
        ("report.html", "{{ script|safe }}"),
        ("patient.html", "{{ style|safe }}"),
        ("patient.html", '@page { @bottom-left { content: "{{ margin_text|safe }}"; } }'),
    }


def test_compressed_data_can_be_read_again_and_are_the_same_every_time() -> None:
    text = compress(b"volume")
    assert gzip.decompress(base64.b64decode(text)) == b"volume" and text == compress(b"volume")
