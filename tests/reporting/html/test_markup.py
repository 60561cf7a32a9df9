from __future__ import annotations

import base64
import gzip
import html
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.reporting.html.markup import (
    DASH,
    Html,
    compress_text,
    dig,
    embed_json,
    fragment,
    number,
    plain_text,
    tag,
)


@given(st.text())
def test_text_comes_out_of_an_element_as_it_went_in(text: str) -> None:
    markup = tag("b", text)
    inner = markup.removeprefix("<b>").removesuffix("</b>")
    assert "<" not in inner and html.unescape(inner) == plain_text(text)


def test_markup_is_not_escaped_twice() -> None:
    assert fragment(tag("b", "&"), Html("<i></i>")) == "<b>&amp;</b><i></i>"


def test_an_attribute_cannot_be_left_by_its_value() -> None:
    assert tag("a", title='"><img src=x onerror=alert(1)>') == (
        '<a title="&quot;&gt;&lt;img src=x onerror=alert(1)&gt;"></a>'
    )


def test_attributes_that_are_false_are_left_out_and_true_ones_have_no_value() -> None:
    assert tag("input", type="checkbox", checked=True, hidden=False, id=None) == '<input type="checkbox" checked>'


def test_nothing_and_lists_are_taken_as_children() -> None:
    assert tag("ul", None, [tag("li", 1), [tag("li", 2)]]) == "<ul><li>1</li><li>2</li></ul>"


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--", "]]>", "\u2028\u2029", "\ud800", "&lt;"]
)
def test_json_cannot_end_its_script(text: str) -> None:
    embedded = embed_json({text: [text]})
    assert not set(embedded) & set("<>&\u2028\u2029")
    assert json.loads(embedded) == {text: [text]}


def test_json_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        embed_json(float("nan"))


def test_a_file_name_that_is_no_text_can_be_written() -> None:
    assert plain_text("a\udcff").encode("utf-8") == b"a?"


@pytest.mark.parametrize("nothing", [None, float("nan"), float("inf"), "", True])
def test_what_is_no_number_is_a_dash(nothing: object) -> None:
    assert number(nothing) == DASH


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.005, 2, "0.01"), (-0.004, 2, "0.00"), (1234567, 0, "1\u202f234\u202f567"), (-2.5, 1, "−2.5"), (3, 0, "3")],
)
def test_numbers_are_rounded_and_grouped(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_digging_stops_where_there_is_nothing() -> None:
    assert dig({"a": {"b": 0}}, "a", "b") == 0
    assert dig({"a": 3}, "a", "b") is None
    assert dig(None, "a") is None


def test_compressed_text_is_the_data_and_the_same_every_time() -> None:
    text = compress_text(b"volume")
    assert gzip.decompress(base64.b64decode(text)) == b"volume" and text == compress_text(b"volume")
